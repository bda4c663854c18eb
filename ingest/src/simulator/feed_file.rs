//! A recording of the simulated market: JSON lines, as many trades as asked for, always the same
//! for the same request.

use std::io::{self, Write};

use super::{
    faults::FrameFaults,
    generate::{Clock, Generator, GeneratorConfig, Popularity},
    market,
};

/// What to record.
#[derive(Clone, Copy, Debug)]
pub struct FeedFile {
    /// The same seed gives the same file.
    pub seed: u64,
    /// How many entries the trade frames hold together, price updates of currency pairs included.
    pub trades: u64,
    /// How many symbols.
    pub symbols: usize,
    /// Their shares.
    pub popularity: Popularity,
    /// The time of the first trade, in milliseconds since 1970 UTC.
    pub start_ms: i64,
    /// How many trades happen in a second of the file's own time.
    pub trades_per_second: u32,
    /// What is wrong with it.
    pub faults: FrameFaults,
}

impl Default for FeedFile {
    /// A hundred thousand trades of 2,000 symbols, from 2024-01-02 14:30 UTC, the year's first
    /// opening, on.
    fn default() -> Self {
        Self {
            seed: 1,
            trades: 100_000,
            symbols: 2_000,
            popularity: Popularity::Zipf(1.0),
            start_ms: 1_704_205_800_000,
            trades_per_second: 1_000,
            faults: FrameFaults::default(),
        }
    }
}

/// What was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedSummary {
    /// Lines.
    pub frames: u64,
    /// Entries of trade frames; a frame sent twice counts once.
    pub trades: u64,
}

/// Writes a recording.
///
/// # Errors
/// What `out` answers; invalid input if the faults are not shares.
pub fn write_feed(out: &mut dyn Write, feed: &FeedFile) -> io::Result<FeedSummary> {
    feed.faults.check()?;
    let clock = Clock::Tape {
        start_ms: feed.start_ms,
        trades_per_second: feed.trades_per_second,
    };
    let mut generator = Generator::new(GeneratorConfig {
        seed: feed.seed,
        symbols: market::symbols(feed.symbols.max(1)),
        popularity: feed.popularity,
        clock,
        faults: feed.faults,
    });
    let mut summary = FeedSummary {
        frames: 0,
        trades: 0,
    };
    let mut text = String::with_capacity(80 * 1024);
    while summary.trades < feed.trades {
        summary.trades +=
            generator.next_frame(feed.start_ms, feed.trades - summary.trades, &mut text);
        summary.frames += 1;
        text.push('\n');
        if text.len() > 64 * 1024 {
            out.write_all(text.as_bytes())?;
            text.clear();
        }
    }
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_holds_exactly_the_trades_asked_for() {
        let mut file = Vec::new();
        let summary = write_feed(
            &mut file,
            &FeedFile {
                trades: 12_345,
                symbols: 50,
                ..FeedFile::default()
            },
        )
        .expect("written");
        let text = String::from_utf8(file).expect("text");
        assert_eq!(
            summary,
            FeedSummary {
                frames: u64::try_from(text.lines().count()).expect("small"),
                trades: 12_345
            }
        );
        assert_eq!(text.matches("\"t\":").count(), 12_345);
    }
}
