//! Recorded frames: a file of JSON lines, each a frame exactly as Finnhub sent it, plain or
//! compressed with gzip. `-` is standard input.
//!
//! The session of a replay is a hash of the lines and of the partition count, so the same recording
//! resumes where an earlier run stopped and a finished one adds nothing, compressed or not. The
//! file is read twice, once for the hash and once for the frames, and never held in memory. What
//! can be read only once is first copied to a temporary file. A file that changes in between is
//! noticed before the run is called complete.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};
use tapeflow_schemas::SessionId;

use crate::frame::{Frame, MAX_FRAME_BYTES};

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

/// A file of recorded frames, identified by its content.
#[derive(Clone, Debug)]
pub struct Recording {
    path: PathBuf,
    /// The copy of what can be read only once; it has no name, and disappears with this handle.
    copy: Option<Arc<File>>,
    /// Bytes of all lines, decompressed.
    length: u64,
    content: [u8; 32],
}

/// The first bytes of a gzip file (RFC 1952); no frame begins with them.
const GZIP: [u8; 2] = [0x1f, 0x8b];
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
    /// Opens a recording, and reads it once for its hash.
    ///
    /// # Errors
    /// [`ReplayError::Unreadable`].
    pub fn open(path: &Path) -> Result<Self, ReplayError> {
        let unreadable = |source| ReplayError::Unreadable {
            path: path.display().to_string(),
            source,
        };
        let copy = if is_standard_input(path) {
            Some(copied(io::stdin().lock()))
        } else {
            let file = File::open(path).map_err(unreadable)?;
            let is_file = file.metadata().map_err(unreadable)?.is_file();
            (!is_file).then(|| copied(file))
        };
        let mut recording = Self {
            path: path.to_owned(),
            copy: copy.transpose().map_err(unreadable)?.map(Arc::new),
            length: 0,
            content: [0; 32],
        };
        let mut file = recording.lines().map_err(unreadable)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = match file.read(&mut buffer) {
                Ok(0) => {
                    recording.content = hash.finalize().into();
                    return Ok(recording);
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(error)),
            };
            hash.update(&buffer[..read]);
            recording.length += u64::try_from(read).unwrap_or(0);
        }
    }

    /// All lines from the first, decompressed.
    fn lines(&self) -> io::Result<Box<dyn Read + Send>> {
        match &self.copy {
            None => lines_of(File::open(&self.path)?),
            Some(copy) => {
                let mut copy = copy.try_clone()?;
                copy.rewind()?;
                lines_of(copy)
            }
        }
    }

    /// The session of a replay into this many partitions. Sequences are counted per partition, so
    /// another partition count is another session.
    #[must_use]
    pub fn session(&self, partitions: u32) -> SessionId {
        let digest = Sha256::new()
            .chain_update(self.content)
            .chain_update(partitions.to_be_bytes())
            .finalize();
        let mut session = [0; 16];
        session.copy_from_slice(&digest[..16]);
        SessionId(session)
    }

    /// Passes all frames to `each` in batches, until `each` returns false. Returns whether the end
    /// was reached. Lines are counted from 1; empty lines are counted and skipped.
    ///
    /// # Errors
    /// [`ReplayError`]; [`ReplayError::Changed`] at the end only.
    pub fn read(&self, mut each: impl FnMut(Vec<Frame>) -> bool) -> Result<bool, ReplayError> {
        let name = || self.path.display().to_string();
        let unreadable = |source| ReplayError::Unreadable {
            path: name(),
            source,
        };
        let file = self.lines().map_err(unreadable)?;
        // Lines appended after the hash belong to another session.
        let hashed = Hashed {
            inner: file.take(self.length),
            hash: Sha256::new(),
        };
        let mut lines = Lines {
            reader: BufReader::with_capacity(BUFFER_BYTES, hashed),
            line: 0,
        };
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(frame) = lines.next().map_err(unreadable)? {
            bytes += frame.bytes.len();
            batch.push(frame);
            if bytes >= BATCH_BYTES {
                bytes = 0;
                if !each(std::mem::take(&mut batch)) {
                    return Ok(false);
                }
            }
        }
        if !batch.is_empty() && !each(batch) {
            return Ok(false);
        }
        let content: [u8; 32] = lines.reader.into_inner().hash.finalize().into();
        if content == self.content {
            Ok(true)
        } else {
            Err(ReplayError::Changed { path: name() })
        }
    }
}

struct Hashed<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.hash.update(&into[..read]);
        Ok(read)
    }
}

struct Lines<R> {
    reader: BufReader<R>,
    line: u64,
}

impl<R: Read> Lines<R> {
    /// The next line that is not empty. Of one above [`MAX_FRAME_BYTES`] only the beginning is
    /// kept, which is above it too, so that admission refuses it by name and memory stays bounded.
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
            }
            self.line += 1;
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn recording(content: &[u8]) -> (tempfile::NamedTempFile, Recording) {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(content).expect("written");
        let recording = Recording::open(file.path()).expect("readable");
        (file, recording)
    }

    fn frames(recording: &Recording) -> Vec<(u64, Vec<u8>)> {
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
        assert_eq!(packed.session(4), plain.session(4));
    }

    #[test]
    fn what_can_be_read_only_once_is_read_from_a_copy() {
        let copy = copied(&b"one\ntwo\n"[..]).expect("copied");
        let (_file, same) = recording(b"one\ntwo\n");
        let once = Recording {
            copy: Some(Arc::new(copy)),
            path: "-".into(),
            ..same
        };
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
    fn a_session_is_known_by_content_and_partitions() {
        let (_file, first) = recording(b"a\n");
        let (_file, same) = recording(b"a\n");
        let (_file, other) = recording(b"b\n");
        assert_eq!(first.session(4), same.session(4));
        assert_ne!(first.session(4), first.session(8));
        assert_ne!(first.session(4), other.session(4));
    }

    #[test]
    fn a_file_that_changes_is_noticed_and_one_that_grows_is_read_as_it_was() {
        let (mut file, recording) = recording(b"a\nb\n");
        file.write_all(b"c\n").expect("written");
        assert_eq!(frames(&recording).len(), 2);
        std::fs::write(file.path(), b"a\nx\n").expect("written");
        let error = recording.read(|_| true).expect_err("changed").to_string();
        assert!(error.contains("changed during its replay"), "{error}");
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let error = Recording::open(Path::new("no/such/recording.jsonl"))
            .expect_err("missing")
            .to_string();
        assert!(
            error.starts_with("cannot read no/such/recording.jsonl: "),
            "{error}"
        );
        let error = Recording::open(Path::new("."))
            .expect_err("a directory")
            .to_string();
        assert!(error.starts_with("cannot read .: "), "{error}");
    }
}
