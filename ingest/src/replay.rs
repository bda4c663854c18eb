//! Recorded frames: a file of JSON lines, each a frame exactly as Finnhub sent it, plain or
//! compressed with gzip. `-` is standard input.
//!
//! A recording is opened ([`Recording::open`]), which finds its beginning; then hashed
//! ([`Recording::hashed`]), which says how long it is and by which session it is known
//! ([`crate::recognise`]); then read ([`HashedRecording::read`]). Each reads the file anew, and
//! none holds it in memory. What can be read only once is first copied to a temporary file, so
//! standard input is recognised like a file. A file that changes in between is noticed before the
//! run is called complete.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use flate2::bufread::MultiGzDecoder;
use serde::de::IgnoredAny;
use tracing::warn;

use crate::{
    first_lines::{BYTE_ORDER_MARK, GZIP, NoRecording, check_frames},
    frame::{Frame, MAX_FRAME_BYTES},
    prefixes::{ContentHasher, PrefixHasher, Prefixes, beginning, short},
};

/// Why a recording cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// The error of the system.
        source: io::Error,
    },
    /// The content of the file is not the one that was hashed.
    #[error("{path} changed during its replay: replay it again when no process writes to it")]
    Changed {
        /// The file.
        path: String,
    },
}

/// A file of recorded frames.
#[derive(Clone, Debug)]
pub struct Recording {
    path: PathBuf,
    /// The copy of what can be read only once; it has no name, and disappears with this handle.
    copy: Option<Arc<File>>,
    partitions: u32,
    beginning: Option<String>,
}

/// A file of recorded frames, as it was when it was hashed.
#[derive(Clone, Debug)]
pub struct HashedRecording {
    recording: Recording,
    /// Bytes of all lines, decompressed.
    length: u64,
    /// A short hash of all frames up to the end of each full batch: 8 bytes for 128 KiB.
    batches: Vec<u64>,
    prefixes: Prefixes,
}

const BUFFER_BYTES: usize = 256 * 1024;
/// The bytes of frames in one batch.
const BATCH_BYTES: usize = 128 * 1024;

/// Whether a path means standard input.
#[must_use]
pub fn is_standard_input(path: &Path) -> bool {
    path == Path::new("-")
}

/// The lines of a file, decompressed if they are compressed.
fn lines_of(file: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
    // A file of one byte has no frame either.
    Ok(if reader.fill_buf()?.starts_with(&GZIP) {
        Box::new(MultiGzDecoder::new(reader))
    } else {
        Box::new(reader)
    })
}

/// Copies what can be read only once to a temporary file without a name.
fn copied(mut from: impl Read) -> io::Result<File> {
    let mut copy = tempfile::tempfile()?;
    io::copy(&mut from, &mut copy)?;
    copy.flush()?;
    Ok(copy)
}

impl Recording {
    /// Opens a recording for a replay into this many partitions, and reads it as far as its first
    /// trade.
    ///
    /// # Errors
    /// [`ReplayError::Unreadable`].
    pub fn open(path: &Path, partitions: u32) -> Result<Self, ReplayError> {
        let mut recording = Self {
            path: path.to_owned(),
            copy: None,
            partitions,
            beginning: None,
        };
        let unreadable = |source| unreadable(path, source);
        let copy = if is_standard_input(path) {
            Some(copied(io::stdin().lock()))
        } else {
            let file = File::open(path).map_err(unreadable)?;
            let is_file = file.metadata().map_err(unreadable)?.is_file();
            (!is_file).then(|| copied(file))
        };
        recording.copy = copy.transpose().map_err(unreadable)?.map(Arc::new);
        let mut lines = recording.lines(u64::MAX)?;
        while recording.beginning.is_none()
            && let Some(frame) = lines.next().map_err(unreadable)?
        {
            recording.beginning = beginning(partitions, &frame);
        }
        Ok(recording)
    }

    /// By which recordings of the same origin are found ([`beginning`]). A recording without a
    /// trade has none.
    #[must_use]
    pub fn beginning(&self) -> Option<&str> {
        self.beginning.as_deref()
    }

    /// Checks the first frames.
    ///
    /// # Errors
    /// [`ReplayError::Unreadable`]. The inner error says why the file is no recording.
    pub fn check(&self) -> Result<Result<(), NoRecording>, ReplayError> {
        let mut lines = self.lines(u64::MAX)?;
        let (mut frames, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES
            && let Some(frame) = lines
                .next()
                .map_err(|source| unreadable(&self.path, source))?
        {
            bytes += frame.bytes.len();
            frames.push(frame);
        }
        Ok(check_frames(&frames))
    }

    /// Reads the whole recording once for its hashes. `wanted` are the numbers of frames of
    /// prefixes to hash.
    ///
    /// # Errors
    /// [`ReplayError`]; [`ReplayError::Changed`] if it begins otherwise than when it was opened.
    pub fn hashed(self, wanted: BTreeSet<u64>) -> Result<HashedRecording, ReplayError> {
        let mut hasher = PrefixHasher::new(self.partitions, wanted);
        let mut begins = None;
        let (mut batches, mut bytes) = (Vec::new(), 0);
        let mut lines = self.lines(u64::MAX)?;
        while let Some(frame) = lines
            .next()
            .map_err(|source| unreadable(&self.path, source))?
        {
            hasher.take(&frame);
            bytes += frame.bytes.len();
            if bytes >= BATCH_BYTES {
                bytes = 0;
                batches.push(short(&hasher.hash()));
            }
            begins = begins.or_else(|| beginning(self.partitions, &frame));
        }
        if begins != self.beginning {
            return Err(changed(&self.path));
        }
        if let Some(line) = lines.incomplete {
            warn!(
                file = %self.path.display(),
                line,
                "the last line is half a frame: it is left out until it is complete"
            );
        }
        Ok(HashedRecording {
            length: lines.read,
            batches,
            prefixes: hasher.end(),
            recording: self,
        })
    }

    /// The lines within the first `length` bytes, decompressed.
    fn lines(&self, length: u64) -> Result<Lines, ReplayError> {
        let open = || match &self.copy {
            None => lines_of(File::open(&self.path)?),
            Some(copy) => {
                let mut copy = copy.try_clone()?;
                copy.rewind()?;
                lines_of(copy)
            }
        };
        let bytes = open().map_err(|source| unreadable(&self.path, source))?;
        Ok(Lines {
            reader: BufReader::with_capacity(BUFFER_BYTES, bytes.take(length)),
            line: 0,
            read: 0,
            incomplete: None,
        })
    }
}

impl HashedRecording {
    /// The hashes.
    #[must_use]
    pub fn prefixes(&self) -> &Prefixes {
        &self.prefixes
    }

    /// Passes all frames to `each` in batches, until `each` returns false. Returns whether the end
    /// was reached. Lines are counted from 1; empty lines are counted and skipped. Lines appended
    /// after the hash was made are left to the next replay.
    ///
    /// A batch is passed only if all frames up to its end are those that were hashed: the log notes
    /// them as the frames of the session, so others must not be appended.
    ///
    /// # Errors
    /// [`ReplayError`]; [`ReplayError::Changed`] instead of the first batch that differs.
    pub fn read(&self, mut each: impl FnMut(Vec<Frame>) -> bool) -> Result<bool, ReplayError> {
        let path = &self.recording.path;
        let mut lines = self.recording.lines(self.length)?;
        let mut content = ContentHasher::new(self.recording.partitions);
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let mut hashes = self.batches.iter();
        while let Some(frame) = lines.next().map_err(|source| unreadable(path, source))? {
            content.take(&frame);
            bytes += frame.bytes.len();
            batch.push(frame);
            if bytes >= BATCH_BYTES {
                bytes = 0;
                if hashes.next() != Some(&short(&content.hash())) {
                    return Err(changed(path));
                }
                if !each(std::mem::take(&mut batch)) {
                    return Ok(false);
                }
            }
        }
        if content.hash() != self.prefixes.content {
            return Err(changed(path));
        }
        Ok(batch.is_empty() || each(batch))
    }
}

fn unreadable(path: &Path, source: io::Error) -> ReplayError {
    ReplayError::Unreadable {
        path: path.display().to_string(),
        source,
    }
}

fn changed(path: &Path) -> ReplayError {
    ReplayError::Changed {
        path: path.display().to_string(),
    }
}

struct Lines {
    reader: BufReader<io::Take<Box<dyn Read + Send>>>,
    line: u64,
    /// Bytes read so far.
    read: u64,
    /// The last line, if it is half a frame.
    incomplete: Option<u64>,
}

impl Lines {
    /// The next line that is not empty. Of one above [`MAX_FRAME_BYTES`] only the beginning is
    /// kept, which is above it too, so that admission refuses it by name and memory stays bounded.
    /// A last line that is half a frame is left out.
    fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            let mut bytes = Vec::new();
            let mut ended = false;
            while !ended {
                let available = match self.reader.fill_buf() {
                    Ok(available) => available,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                if available.is_empty() {
                    if bytes.is_empty() {
                        return Ok(None);
                    }
                    break;
                }
                let (line, used) = match available.iter().position(|byte| *byte == b'\n') {
                    Some(at) => {
                        ended = true;
                        (&available[..at], at + 1)
                    }
                    None => (available, available.len()),
                };
                let room = (MAX_FRAME_BYTES + 2).saturating_sub(bytes.len());
                bytes.extend_from_slice(&line[..line.len().min(room)]);
                self.reader.consume(used);
                self.read += u64::try_from(used).unwrap_or(0);
            }
            self.line += 1;
            if self.line == 1 && bytes.starts_with(BYTE_ORDER_MARK) {
                bytes.drain(..BYTE_ORDER_MARK.len());
            }
            if !ended && is_half_a_frame(&bytes) {
                self.incomplete = Some(self.line);
                return Ok(None);
            }
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
            if !bytes.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(Frame {
                    line: self.line,
                    bytes,
                    taken_ms: None,
                }));
            }
        }
    }
}

/// Whether a last line without an end is a frame that is being written: the rest may follow. As a
/// frame it would be invalid, and the recording would be another one as soon as the line is whole.
fn is_half_a_frame(line: &[u8]) -> bool {
    let ends_early =
        |line: &[u8]| serde_json::from_slice::<IgnoredAny>(line).is_err_and(|error| error.is_eof());
    line.first() == Some(&b'{')
        && line.len() <= MAX_FRAME_BYTES
        // A number that ends in `.`, `-`, `e` or `e+` is invalid to the parser, and a digit follows.
        && (ends_early(line) || ends_early(&[line, b"0"].concat()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn recording(content: &[u8]) -> (tempfile::NamedTempFile, HashedRecording) {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(content).expect("written");
        let recording = Recording::open(file.path(), 4).expect("readable");
        (file, recording.hashed(BTreeSet::new()).expect("readable"))
    }

    fn content(recording: &HashedRecording) -> [u8; 32] {
        recording.prefixes().content
    }

    fn frames(recording: &HashedRecording) -> Vec<(u64, Vec<u8>)> {
        let mut frames = Vec::new();
        let read = recording.read(|batch| {
            frames.extend(batch.into_iter().map(|frame| (frame.line, frame.bytes)));
            true
        });
        assert!(read.expect("unchanged"), "to the end");
        frames
    }

    #[test]
    fn a_compressed_recording_is_the_recording_that_it_holds() {
        let text = b"one\n\nthree\n";
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text).expect("written");
        let (_plain, plain) = recording(text);
        let (_packed, packed) = recording(&gzip.finish().expect("finished"));
        assert_eq!(frames(&packed), frames(&plain));
        assert_eq!(content(&packed), content(&plain));
    }

    #[test]
    fn what_can_be_read_only_once_is_read_from_a_copy() {
        let copy = copied(&b"one\ntwo\n"[..]).expect("copied");
        let (_file, same) = recording(b"one\ntwo\n");
        let mut once = same;
        once.recording.copy = Some(Arc::new(copy));
        once.recording.path = "-".into();
        assert_eq!(frames(&once).len(), 2);
        assert_eq!(frames(&once).len(), 2, "a second time");
    }

    #[test]
    fn lines_become_frames_with_their_numbers() {
        let (_file, recording) = recording(b"one\r\n\n  \nfour\nfive");
        assert_eq!(
            frames(&recording),
            [
                (1, b"one".to_vec()),
                (4, b"four".to_vec()),
                (5, b"five".to_vec())
            ]
        );
        let (_file, recording) = self::recording(b"");
        assert_eq!(frames(&recording), []);
    }

    #[test]
    fn a_line_without_end_is_kept_in_part_and_the_next_line_is_whole() {
        let mut content = vec![b'x'; 5 << 20];
        content.extend_from_slice(b"\nnext\n");
        let (_file, recording) = recording(&content);
        let frames = frames(&recording);
        assert!(frames[0].1.len() > MAX_FRAME_BYTES && frames[0].1.len() < MAX_FRAME_BYTES + 10);
        assert_eq!(frames[1], (2, b"next".to_vec()));
    }

    #[test]
    fn line_ends_and_empty_lines_do_not_change_the_content() {
        let of = |text: &[u8]| content(&recording(text).1);
        let same = of(b"one\ntwo\n");
        for text in [
            &b"one\r\ntwo\r\n"[..],
            b"one\ntwo",
            b"\none\n \r\n\ntwo\n",
            b"\xef\xbb\xbfone\ntwo\n",
            b"\xef\xbb\xbf\none\ntwo\n",
        ] {
            assert_eq!(of(text), same, "{text:?}");
        }
        assert_ne!(of(b"one\n\xef\xbb\xbftwo\n"), same, "only at the beginning");
        assert_ne!(of(b"onetwo\n"), same);
        assert_ne!(of(b"one\ntwo\nthree\n"), same);
    }

    #[test]
    fn half_a_frame_at_the_end_is_left_out_and_an_invalid_one_is_not() {
        let lines = |text: &[u8]| frames(&recording(text).1).len();
        let frame = r#"{"type":"trade","data":[{"s":"\u00e4","p":-1.5e+3,"t":1,"v":0.25}]}"#;
        for half in (1..frame.len()).map(|at| &frame[..at]) {
            assert_eq!(lines(format!("one\n{half}").as_bytes()), 1, "{half}");
            assert_eq!(lines(format!("one\n{half}\n").as_bytes()), 2, "{half}");
        }
        for whole in [r#"{"type":"ping"}"#, r#"{"type":}"#, "not JSON", "[1"] {
            assert_eq!(lines(format!("one\n{whole}").as_bytes()), 2, "{whole}");
        }
        let large = [b"{\"".to_vec(), vec![b'x'; 2 * MAX_FRAME_BYTES]].concat();
        assert_eq!(lines(&large), 1, "too large, whatever follows");
    }

    #[test]
    fn a_file_that_changes_is_noticed_and_one_that_grows_is_read_as_it_was() {
        let (mut file, recording) = recording(b"a\nb\n");
        file.write_all(b"c\n").expect("written");
        assert_eq!(frames(&recording).len(), 2);
        std::fs::write(file.path(), b"a\nx\n").expect("written");
        let error = recording.read(|_| true).expect_err("changed").to_string();
        assert!(error.contains("changed during its replay"), "{error}");
        let opened = Recording::open(file.path(), 4).expect("readable");
        let trade = br#"{"type":"trade","data":[{"s":"A","p":1,"t":1,"v":1}]}"#;
        std::fs::write(file.path(), trade).expect("written");
        let error = opened
            .hashed(BTreeSet::new())
            .expect_err("another beginning");
        assert!(matches!(error, ReplayError::Changed { .. }), "{error}");
    }

    #[test]
    fn no_frame_of_a_file_that_changes_is_passed_on() {
        // Three batches and a bit; what is written over them has the same length.
        let line = |n: usize, of: u8| [n.to_string().as_bytes(), &[of; 1_000]].concat();
        let text = |of: &dyn Fn(usize) -> u8| -> Vec<u8> {
            let lines = (1_000..1_500).map(|n| [line(n, of(n)), b"\n".to_vec()].concat());
            lines.flatten().collect()
        };
        for changes_at in [1_000, 1_200, 1_499] {
            let (file, recording) = recording(&text(&|_| b'a'));
            let changed = text(&|n| if n < changes_at { b'a' } else { b'b' });
            std::fs::write(file.path(), &changed).expect("written");
            let mut passed = Vec::new();
            let error = recording.read(|batch| {
                passed.extend(batch);
                true
            });
            assert!(matches!(error, Err(ReplayError::Changed { .. })));
            assert!(passed.len() < changes_at - 1_000 + 1);
            assert!(passed.len() + 200 > changes_at - 1_000, "{}", passed.len());
            for (n, frame) in (1_000..).zip(&passed) {
                assert_eq!(frame.bytes, line(n, b'a'));
            }
        }
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let error = Recording::open(Path::new("no/such/recording.jsonl"), 4)
            .expect_err("missing")
            .to_string();
        assert!(
            error.starts_with("cannot read no/such/recording.jsonl: "),
            "{error}"
        );
        let error = Recording::open(Path::new("."), 4)
            .expect_err("a directory")
            .to_string();
        assert!(error.starts_with("cannot read .: "), "{error}");
    }
}
