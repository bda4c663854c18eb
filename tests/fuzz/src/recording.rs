//! A recording: lines of a file, plain or compressed.

use std::{cell::RefCell, collections::BTreeSet, fs, io::Write, path::Path};

use flate2::{Compression, write::GzEncoder};
use tapeflow_ingest::{
    Frame,
    first_lines::{check_file, check_frames},
    replay::Recording,
};
use tempfile::TempPath;

thread_local! {
    /// The file that holds the input: made once, written anew for each.
    static FILE: RefCell<TempPath> = RefCell::new(
        tempfile::NamedTempFile::new().expect("a file").into_temp_path(),
    );
}

/// The bytes of a file.
pub(crate) fn check(bytes: &[u8]) {
    FILE.with_borrow(|path| {
        fs::write(path, bytes).expect("written");
        let is_recording = check_file(path).expect("it can be read").is_ok();
        // A damaged gzip file cannot be read to its end.
        let Ok(plain) = read(path) else {
            assert!(bytes.starts_with(&[0x1f, 0x8b]));
            return;
        };
        if bytes.starts_with(&[0x1f, 0x8b]) {
            return;
        }
        let (whole, half) = halves(bytes);
        assert_eq!(plain.1, lines(whole), "the lines that are not blank");
        // Half a frame tells what the file is, too.
        assert!(half || check_frames(&plain.1).is_ok() == is_recording);
        // The compressor costs more than all the rest.
        if !bytes.len().is_multiple_of(8) {
            return;
        }
        fs::write(path, gzip(bytes)).expect("written");
        assert_eq!(read(path).expect("our own gzip"), plain);
        assert_eq!(check_file(path).expect("read").is_ok(), is_recording);
    });
}

/// The hash of a file and its frames.
fn read(path: &Path) -> Result<([u8; 32], Vec<Frame>), tapeflow_ingest::replay::ReplayError> {
    let recording = Recording::open(path, 4)?.hashed(BTreeSet::new())?;
    let mut frames = Vec::new();
    let is_end = recording.read(|batch| {
        frames.extend(batch);
        true
    })?;
    assert!(is_end, "no reader stopped it");
    Ok((recording.prefixes().content, frames))
}

/// The bytes that are read, and whether those after them are half a frame.
fn halves(bytes: &[u8]) -> (&[u8], bool) {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let last = bytes.rsplit(|byte| *byte == b'\n').next().unwrap_or(bytes);
    let ends_early = |line: &[u8]| {
        serde_json::from_slice::<serde::de::IgnoredAny>(line).is_err_and(|error| error.is_eof())
    };
    let half = last.starts_with(b"{") && (ends_early(last) || ends_early(&[last, b"0"].concat()));
    (
        &bytes[..bytes.len() - if half { last.len() } else { 0 }],
        half,
    )
}

/// The frames, by the simplest code.
fn lines(bytes: &[u8]) -> Vec<Frame> {
    let frame = |(line, text): (u64, &[u8])| {
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let is_blank = text.iter().all(u8::is_ascii_whitespace);
        (!is_blank).then(|| Frame {
            line,
            bytes: text.to_vec(),
            taken_ms: None,
        })
    };
    (1..)
        .zip(bytes.split(|byte| *byte == b'\n'))
        .filter_map(frame)
        .collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).expect("into memory");
    gzip.finish().expect("into memory")
}
