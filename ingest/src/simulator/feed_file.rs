//! A recording of the simulated market: JSON lines, the same for the same settings.

use std::io::{self, Write};

use super::{
    faults::FrameFaults,
    generate::{Clock, Generator, GeneratorConfig, Popularity},
    market,
};

/// Settings of a recording.
#[derive(Clone, Copy, Debug)]
pub struct FeedFile {
    /// The same seed gives the same file.
    pub seed: u64,
    /// The entries of all trade frames together, with price updates of currency pairs.
    pub trades: u64,
    /// The number of symbols.
    pub symbols: usize,
    /// The symbols' shares of the trades.
    pub popularity: Popularity,
    /// The time of the first trade, in milliseconds since 1970 UTC.
    pub start_ms: i64,
    /// Trades in one second of event time.
    pub trades_per_second: u32,
    /// Injected faults.
    pub faults: FrameFaults,
}

impl Default for FeedFile {
    /// A hundred thousand trades of 2,000 symbols from 2024-01-02 14:30 UTC, when New York opened
    /// for the first time in that year.
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

/// Counts of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedSummary {
    /// Frames, one a line.
    pub frames: u64,
    /// Trades; a frame sent twice counts once.
    pub trades: u64,
    /// Entries of size zero, which are no trades.
    pub price_updates: u64,
}

/// Writes a recording.
///
/// # Errors
/// The error of `out`; invalid input if the faults are not shares.
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
    let (mut frames, mut entries) = (0, 0);
    let mut text = String::with_capacity(80 * 1024);
    while entries < feed.trades {
        entries += generator.next_frame(feed.start_ms, feed.trades - entries, &mut text);
        frames += 1;
        text.push('\n');
        if text.len() > 64 * 1024 {
            out.write_all(text.as_bytes())?;
            text.clear();
        }
    }
    out.write_all(text.as_bytes())?;
    out.flush()?;
    let price_updates = generator.price_updates();
    Ok(FeedSummary {
        frames,
        trades: entries - price_updates,
        price_updates,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_has_exactly_as_many_trades_as_its_settings() {
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
                trades: 12_345 - summary.price_updates,
                price_updates: u64::try_from(text.matches("\"v\":0}").count()).expect("small"),
            }
        );
        assert!(summary.price_updates > 0);
        assert_eq!(text.matches("\"t\":").count(), 12_345);
    }
}
