//! Whether a file is a recording at all, as its first lines show. A picture or a table of prices
//! would otherwise become a dead letter for each of its lines and end with success.
//!
//! A single frame among the first lines makes a file a recording, and so does an empty file: bad
//! lines among frames are dead letters, and a day may have no trades. But if all times of the first
//! trades are in seconds, so are those of the rest, and each would be a dead letter.

use std::{
    fs::File,
    io::{self, BufRead, Read},
    path::Path,
};

use flate2::read::MultiGzDecoder;

use crate::{admission::looks_like_seconds, frame::Frame};

/// How many lines that are not empty are looked at, and how many bytes.
const LINES: usize = 100;
const BYTES: usize = 64 * 1024;
/// Characters of a line that an error quotes.
const QUOTED: usize = 40;
/// The first bytes of a gzip file (RFC 1952).
pub(crate) const GZIP: [u8; 2] = [0x1f, 0x8b];
/// What some editors put before the first line of a text in UTF-8. It is no part of the line.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// The first bytes of archives that are not read.
const ARCHIVES: [(&[u8], &str); 5] = [
    (b"PK\x03\x04", "a zip archive"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"\xfd7zXZ\0", "compressed with xz"),
    (b"BZh", "compressed with bzip2"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
];

/// Why a file is no recording.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRecording {
    /// It is an archive, or compressed with something else than gzip.
    #[error("it is {0}: unpack it, or compress it with gzip")]
    Archive(&'static str),
    /// It has bytes that no text has.
    #[error("it is binary, not text")]
    Binary,
    /// It is gzip, but damaged from the start.
    #[error("it cannot be decompressed: {0}")]
    Damaged(String),
    /// No line is JSON.
    #[error("line {line} is not JSON but {begins:?}")]
    NotJson {
        /// The first line that is not empty, from 1.
        line: u64,
        /// Its beginning.
        begins: String,
    },
    /// There is JSON, but no frame: a frame is an object with a type.
    #[error("line {line} has no \"type\", as a frame has: {begins:?}")]
    NoType {
        /// The first line that is not empty, from 1.
        line: u64,
        /// Its beginning.
        begins: String,
    },
    /// The times of its trades are seconds, and a frame has milliseconds.
    #[error("the times of its trades look like seconds, not milliseconds: \"t\":{0}")]
    Seconds(String),
}

/// Checks the beginning of a file; decompresses gzip.
///
/// # Errors
/// The file cannot be read. The inner error says why it is no recording.
pub fn check_file(path: &Path) -> io::Result<Result<(), NoRecording>> {
    let mut beginning = Vec::with_capacity(BYTES);
    let read = File::open(path)?.take(BYTES as u64 + 1);
    io::BufReader::new(read).read_to_end(&mut beginning)?;
    Ok(check_beginning(&beginning, beginning.len() <= BYTES))
}

/// Checks what standard input holds so far, and takes nothing from it. Waits for its first bytes.
///
/// # Errors
/// As [`check_file`].
pub fn check_standard_input() -> io::Result<Result<(), NoRecording>> {
    let mut input = io::stdin().lock();
    Ok(check_beginning(input.fill_buf()?, false))
}

/// Checks frames as they were read from a recording.
///
/// # Errors
/// Why they come from no recording.
pub fn check_frames(frames: &[Frame]) -> Result<(), NoRecording> {
    let lines = frames.iter().take(LINES);
    let lines: Vec<_> = lines.map(|frame| (frame.line, &*frame.bytes)).collect();
    check_lines(&lines)
}

/// Checks the first bytes of a file, which may be all of it.
fn check_beginning(beginning: &[u8], is_whole: bool) -> Result<(), NoRecording> {
    if !beginning.starts_with(&GZIP) {
        return check_text(beginning, is_whole);
    }
    let mut text = Vec::new();
    let mut decoder = MultiGzDecoder::new(beginning).take(BYTES as u64 + 1);
    let read = decoder.read_to_end(&mut text);
    match read {
        Ok(_) => check_text(&text, is_whole && text.len() <= BYTES),
        // What was cut off, or is damaged further on, is noticed when it is read.
        Err(_) if !text.is_empty() => check_text(&text, false),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        Err(error) => Err(NoRecording::Damaged(error.to_string())),
    }
}

fn check_text(text: &[u8], is_whole: bool) -> Result<(), NoRecording> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let mut lines: Vec<(u64, &[u8])> = (1..).zip(text.split(|byte| *byte == b'\n')).collect();
    // The last line may be cut off. Alone it tells only how it begins.
    if !is_whole && let Some((number, last)) = lines.pop() {
        let begins_as_frame = last
            .trim_ascii_start()
            .first()
            .is_none_or(|byte| *byte == b'{');
        if lines.is_empty() && !begins_as_frame {
            lines.push((number, last));
        }
    }
    lines.retain(|(_, line)| !line.trim_ascii().is_empty());
    lines.truncate(LINES);
    check_lines(&lines)
}

/// Checks lines that are not empty, each with its number.
fn check_lines(lines: &[(u64, &[u8])]) -> Result<(), NoRecording> {
    let Some((number, first)) = lines.first() else {
        return Ok(());
    };
    let values = || {
        lines
            .iter()
            .filter_map(|(_, line)| serde_json::from_slice::<serde_json::Value>(line).ok())
    };
    if values().any(|value| value["type"].is_string()) {
        return check_times(values());
    }
    if let Some((_, what)) = ARCHIVES.iter().find(|(magic, _)| first.starts_with(magic)) {
        return Err(NoRecording::Archive(what));
    }
    let is_text = |line: &[u8]| !line.contains(&0) && std::str::from_utf8(line).is_ok();
    if lines.iter().any(|(_, line)| !is_text(line)) {
        return Err(NoRecording::Binary);
    }
    let begins: String = String::from_utf8_lossy(first)
        .chars()
        .take(QUOTED)
        .collect();
    let line = *number;
    Err(if values().next().is_some() {
        NoRecording::NoType { line, begins }
    } else {
        NoRecording::NotJson { line, begins }
    })
}

/// Refuses frames whose trades all have times in seconds, with or without decimal places.
fn check_times(frames: impl Iterator<Item = serde_json::Value>) -> Result<(), NoRecording> {
    let mut first = None;
    for frame in frames {
        for trade in frame["data"].as_array().into_iter().flatten() {
            let time = &trade["t"];
            #[expect(clippy::cast_possible_truncation, reason = "whole seconds are enough")]
            let seconds = time.as_f64().map(|time| time as i64);
            if !seconds.is_some_and(looks_like_seconds) {
                return Ok(());
            }
            first.get_or_insert_with(|| time.to_string());
        }
    }
    first.map_or(Ok(()), |time| Err(NoRecording::Seconds(time)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const FRAME: &str = r#"{"data":[],"type":"trade"}"#;

    fn check(text: impl AsRef<[u8]>) -> Result<(), NoRecording> {
        check_beginning(text.as_ref(), true)
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text).expect("written");
        gzip.finish().expect("finished")
    }

    #[test]
    fn a_frame_among_the_first_lines_makes_a_recording() {
        for text in [
            "",
            "\n \n",
            FRAME,
            r#"{"type":"ping"}"#,
            &format!("bad\n\n{FRAME}\n"),
            &format!("\u{feff}{FRAME}"),
            &format!("{}{FRAME}", "bad\n".repeat(LINES - 1)),
        ] {
            assert_eq!(check(text), Ok(()), "{text:?}");
            assert_eq!(check(gzip(text.as_bytes())), Ok(()), "{text:?} in gzip");
        }
        let late = format!("{}{FRAME}", "bad\n".repeat(LINES));
        assert!(check(late).is_err(), "so many lines are looked at");
    }

    #[test]
    fn what_is_no_recording_is_called_by_what_it_is() {
        let line = |begins: &str, line| NoRecording::NotJson {
            line,
            begins: begins.into(),
        };
        for (content, want) in [
            (
                b"PK\x03\x04\x14\0".to_vec(),
                NoRecording::Archive("a zip archive"),
            ),
            (b"\x89PNG\r\n\x1a\n\0\0".to_vec(), NoRecording::Binary),
            (gzip(b"day.jsonl\0\0\0ustar"), NoRecording::Binary),
            (b"\n1,AAPL,3\n2,AAPL,4\n".to_vec(), line("1,AAPL,3", 2)),
            (b"[\n".to_vec(), line("[", 1)),
            (
                b"{\"price\":1}\n".to_vec(),
                NoRecording::NoType {
                    line: 1,
                    begins: "{\"price\":1}".into(),
                },
            ),
        ] {
            assert_eq!(check(&content), Err(want), "{content:?}");
        }
        let damaged = [&GZIP[..], &[9; 40]].concat();
        assert!(matches!(check(damaged), Err(NoRecording::Damaged(_))));
    }

    #[test]
    fn times_in_seconds_are_refused_unless_a_time_is_in_milliseconds() {
        let frame = |times: &[&str]| {
            let trade = |time: &&str| format!(r#"{{"p":1,"s":"A","t":{time},"v":1}}"#);
            let trades: Vec<_> = times.iter().map(trade).collect();
            format!(r#"{{"data":[{}],"type":"trade"}}"#, trades.join(",")) + "\n"
        };
        let ping = "{\"type\":\"ping\"}\n".to_owned();
        for first in ["1680286538", "1680286538.064", "946684800", "7258118399"] {
            let seconds = ping.clone() + &frame(&[first, "1680286539"]) + &frame(&["1680286540"]);
            let refused = check(&seconds).expect_err("seconds");
            assert_eq!(refused, NoRecording::Seconds(first.into()));
            assert!(
                refused.to_string().contains("look like seconds"),
                "{refused}"
            );
            assert_eq!(check(seconds + &frame(&["1680286538064"])), Ok(()));
        }
        for other in [
            "1680286538064",
            "1",
            "946684799",
            "7258118400",
            "null",
            "\"x\"",
        ] {
            assert_eq!(check(frame(&[other])), Ok(()), "{other}");
        }
    }

    #[test]
    fn a_line_that_is_cut_off_is_not_held_against_the_file() {
        let cut = |text: &str| check_beginning(text.as_bytes(), false);
        assert_eq!(cut(r#"{"data":[{"p":1,"#), Ok(()));
        assert_eq!(cut(""), Ok(()));
        assert!(cut("time,price,size").is_err());
        assert!(cut("time,price\n1,").is_err());
        let packed = gzip(FRAME.as_bytes());
        for length in [2, 10, 15] {
            assert_eq!(
                check_beginning(&packed[..length], false),
                Ok(()),
                "{length}"
            );
        }
    }

    #[test]
    fn a_long_file_is_read_in_part() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("long");
        std::fs::write(&path, "x".repeat(10 * BYTES)).expect("written");
        let error = check_file(&path).expect("read").expect_err("no recording");
        assert!(error.to_string().len() < 200, "{error}");
        std::fs::write(&path, format!("{}\n{FRAME}\n", "{".repeat(2 * BYTES))).expect("written");
        assert_eq!(
            check_file(&path).expect("read"),
            Ok(()),
            "the first line is cut off"
        );
    }
}
