//! The recording: a file of frames for `tapeflow ingest --replay`, which grows, and whose last line
//! may be half-written.
//!
//! Its trades are of symbols that the feed leaves alone. They are in the [`Ledger`], so readers and
//! the final comparison find one that was left out or counted twice.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::ledger::{Id, Ledger, trade};

/// What stands in the recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// Frames that are whole.
    pub(crate) frames: u64,
    pub(crate) trades: u64,
    /// Records that the frames become: one for each symbol of a frame.
    pub(crate) records: u64,
    pub(crate) growths: u64,
    /// Growths that ended within a line.
    pub(crate) half_lines: u64,
}

/// A line of the file, and what it adds.
struct Line {
    text: Vec<u8>,
    trades: u64,
    records: u64,
}

/// A file that grows.
pub(crate) struct Recording {
    path: PathBuf,
    ledger: Arc<Ledger>,
    random: StdRng,
    /// The last line as far as it is not written.
    rest: Option<Line>,
    pub(crate) recorded: Recorded,
}

impl Recording {
    /// A file without a frame.
    pub(crate) fn new(path: PathBuf, ledger: Arc<Ledger>, seed: u64) -> Self {
        Self {
            path,
            ledger,
            random: StdRng::seed_from_u64(seed ^ 0x7ec0),
            rest: None,
            recorded: Recorded::default(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Completes the last line and appends so many frames; of the last one only a part if
    /// `is_half`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn grow(&mut self, frames: usize, is_half: bool) -> Result<(), String> {
        let mut text = Vec::new();
        if let Some(rest) = self.rest.take() {
            text.extend(&rest.text);
            self.count(&rest);
        }
        for at in 1..=frames {
            let line = self.next_line();
            if is_half && at == frames {
                self.cut(line, &mut text);
            } else {
                text.extend(&line.text);
                self.count(&line);
            }
        }
        self.recorded.growths += u64::from(frames > 0);
        let append = || {
            let mut file = File::options().create(true).append(true).open(&self.path)?;
            file.write_all(&text)
        };
        append().map_err(|error| format!("{}: {error}", self.path.display()))
    }

    /// Whether the last line is whole, with its end.
    pub(crate) fn is_whole(&self) -> bool {
        self.rest.is_none()
    }

    /// Writes the beginning of a line: also the whole frame without the end of its line, which is
    /// taken in as it is.
    fn cut(&mut self, mut line: Line, text: &mut Vec<u8>) {
        let frame = line.text.len() - 1;
        let at = if self.random.random_bool(0.2) {
            frame
        } else {
            self.random.random_range(1..frame)
        };
        text.extend(line.text.drain(..at));
        if at == frame {
            self.count(&line);
            (line.trades, line.records) = (0, 0);
        }
        self.rest = Some(line);
        self.recorded.half_lines += 1;
    }

    fn count(&mut self, line: &Line) {
        self.recorded.frames += u64::from(line.records > 0);
        self.recorded.trades += line.trades;
        self.recorded.records += line.records;
    }

    /// A frame with the next trades of one or two symbols.
    fn next_line(&mut self) -> Line {
        let symbols = self.ledger.recorded();
        let first = self.random.random_range(symbols.clone());
        let second = self.random.random_range(symbols);
        let (mut entries, mut records) = (Vec::new(), 0);
        for symbol in [Some(first), (second != first).then_some(second)]
            .into_iter()
            .flatten()
        {
            let late = self.random.random_bool(0.04);
            let late = late.then(|| self.random.random_range(0..20));
            let count = self.random.random_range(1..=3);
            let (minute, slots) = self.ledger.take(symbol, count, late);
            let name = &self.ledger.symbols[symbol];
            let trades = slots.filter_map(|slot| trade(Id { minute, slot }));
            entries.extend(trades.map(|trade| {
                format!(
                    r#"{{"c":null,"p":{},"s":"{}","t":{},"v":{}}}"#,
                    trade.price,
                    name.as_str(),
                    trade.event_time.ms(),
                    trade.size
                )
            }));
            records += 1;
        }
        let text = format!("{{\"data\":[{}],\"type\":\"trade\"}}\n", entries.join(","));
        Line {
            text: text.into_bytes(),
            trades: u64::try_from(entries.len()).unwrap_or(0),
            records,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Frames of the file, as a replay counts them: a last line without an end counts if it is one.
    fn frames(path: &Path) -> u64 {
        let text = fs::read_to_string(path).expect("a recording");
        let whole = |line: &&str| line.starts_with("{\"data\":[{") && line.ends_with("\"trade\"}");
        let frames = text.lines().filter(whole).count();
        assert!(
            text.lines().count() - frames <= 1,
            "only the last one is half"
        );
        u64::try_from(frames).expect("few")
    }

    #[test]
    fn a_recording_grows_by_whole_frames_and_one_that_may_be_half() {
        let folder = std::env::temp_dir().join(format!("recording-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let ledger = Arc::new(Ledger::new('C', 2, 3));
        let mut recording = Recording::new(folder.join("recording"), Arc::clone(&ledger), 1);
        for growth in 0..40 {
            recording.grow(5, growth % 2 == 1).expect("written");
            assert_eq!(frames(recording.path()), recording.recorded.frames);
        }
        recording.grow(0, false).expect("written");
        let recorded = recording.recorded;
        assert!(recording.is_whole());
        assert_eq!(
            (
                frames(recording.path()),
                recorded.frames,
                recorded.growths,
                recorded.half_lines
            ),
            (200, 200, 40, 20)
        );
        let sent = ledger
            .all()
            .iter()
            .map(|(_, sent)| u64::from(*sent))
            .sum::<u64>();
        assert_eq!(sent, recorded.trades);
        assert!(
            (0..2).all(|symbol| ledger.minutes(symbol) == 0),
            "those of the feed"
        );
        fs::remove_dir_all(&folder).expect("removed");
    }
}
