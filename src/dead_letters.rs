//! `tapeflow dead-letters`: dead letters by their place in the log.

use std::io::{BufWriter, Write};

use tapeflow_protocol::DeadLetter;

use crate::{
    args::read::{DeadLettersSettings, Format},
    exit::{Exit, output_failed},
    stores,
};
use tapeflow_console::format::text;

/// Columns of csv and of the table.
const COLUMNS: [&str; 5] = ["partition", "offset", "index", "reason", "detail"];
/// At most this many dead letters are read to say how many there are.
const COUNTED: usize = 100_000;
/// Characters of a reason that are printed. Those of tapeflow itself are shorter.
const REASON_CHARS: usize = 64;

pub(crate) fn run(settings: DeadLettersSettings) -> Result<(), Exit> {
    let read = settings.limit.max(COUNTED);
    let mut dead_letters = crate::small_runtime()?.block_on(async {
        let store = stores::reader(&settings.store).await?;
        // Says what to do where no job has run.
        stores::checkpoint(&*store).await?;
        stores::answered(store.dead_letters(read).await)
    })?;
    let of_all = Total {
        count: dead_letters.len(),
        is_all: dead_letters.len() < read,
    };
    dead_letters.truncate(settings.limit);
    let mut out = BufWriter::new(std::io::stdout().lock());
    print(&mut out, &dead_letters, of_all, settings.format)
        .and_then(|()| out.flush())
        .map_err(|error| output_failed(&error))
}

/// How many dead letters there are, or at least are.
struct Total {
    count: usize,
    is_all: bool,
}

fn print(
    out: &mut impl Write,
    dead_letters: &[DeadLetter],
    of_all: Total,
    format: Format,
) -> std::io::Result<()> {
    let line = |letter: &DeadLetter| {
        let DeadLetter {
            partition,
            offset,
            index,
            reason,
            detail,
            ..
        } = letter;
        let (partition, offset, index) =
            (partition.to_string(), offset.to_string(), index.to_string());
        vec![
            partition,
            offset,
            index,
            short(&printable(reason)),
            printable(detail),
        ]
    };
    match format {
        Format::Table if dead_letters.is_empty() => {
            writeln!(
                out,
                "no dead letters: every record was counted or was a duplicate"
            )
        }
        Format::Table => {
            let mut table = vec![COLUMNS.map(str::to_owned).to_vec()];
            table.extend(dead_letters.iter().map(line));
            text::table(out, &table, &["reason", "detail"])?;
            let Total { count, is_all } = of_all;
            let more = if is_all { "" } else { " or more" };
            let noun = if count == 1 {
                "dead letter"
            } else {
                "dead letters"
            };
            writeln!(out, "\n{} of {count}{more} {noun}", dead_letters.len())?;
            if dead_letters.len() < count {
                writeln!(out, "--limit prints more of them")?;
            }
            Ok(())
        }
        Format::Csv => {
            text::csv_line(out, &COLUMNS)?;
            dead_letters
                .iter()
                .try_for_each(|letter| text::csv_line(out, &line(letter)))
        }
        Format::Json => dead_letters.iter().try_for_each(|letter| {
            let DeadLetter {
                partition,
                offset,
                index,
                reason,
                detail,
                payload,
            } = letter;
            let text = String::from_utf8_lossy(payload);
            let line = serde_json::json!({
                "partition": partition, "offset": offset, "index": index,
                "reason": reason, "detail": detail, "payload": text,
            });
            writeln!(out, "{}", escaped(&line.to_string()))
        }),
    }
}

/// A dead letter quotes foreign bytes: no character of them that a terminal obeys reaches one.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if is_obeyed(c) { '\u{fffd}' } else { c })
        .collect()
}

/// A producer may write a reason of its own, of any length.
fn short(reason: &str) -> String {
    match reason.char_indices().nth(REASON_CHARS) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason.to_owned(),
    }
}

/// JSON keeps every character: those that a terminal obeys as an escape.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if is_obeyed(c) {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            text.push(c);
        }
    }
    text
}

/// Control characters, and those that turn the direction of the text around them.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_format_prints_what_a_terminal_obeys_and_a_reason_is_bounded() {
        let letter = DeadLetter {
            partition: 0,
            offset: 1,
            index: 2,
            reason: "\u{1b}[31m".to_owned() + &"r".repeat(100_000),
            detail: "a\u{9b}2Jb\u{202e}c".into(),
            payload: b"\x1b[2J\xc2\x9b2J".to_vec(),
        };
        for format in [Format::Table, Format::Csv, Format::Json] {
            let (mut out, count) = (Vec::new(), 1);
            let total = Total {
                count,
                is_all: true,
            };
            print(&mut out, std::slice::from_ref(&letter), total, format).expect("written");
            let text = String::from_utf8(out).expect("text");
            let obeyed = text.chars().find(|c| is_obeyed(*c) && *c != '\n');
            assert_eq!(obeyed, None, "{format:?}");
            if format == Format::Json {
                let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                assert_eq!(read["detail"], letter.detail, "nothing is lost");
                assert_eq!(read["payload"], "\u{1b}[2J\u{9b}2J");
            } else {
                assert!(text.len() < 1_000, "{format:?}: {} bytes", text.len());
            }
        }
    }

    fn printed(count: usize, of: usize) -> String {
        let letter = |offset| DeadLetter {
            partition: 0,
            offset,
            index: 0,
            reason: "price".into(),
            detail: "price is\u{1b}[0m 0".into(),
            payload: Vec::new(),
        };
        let letters: Vec<_> = (0..).take(count).map(letter).collect();
        let mut out = Vec::new();
        print(
            &mut out,
            &letters,
            Total {
                count: of,
                is_all: true,
            },
            Format::Table,
        )
        .expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_table_has_a_heading_and_says_how_many_there_are() {
        let text = printed(3, 370);
        assert!(
            text.starts_with("partition  offset  index  reason  detail\n"),
            "{text}"
        );
        assert!(text.contains("\n3 of 370 dead letters\n"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(printed(1, 1).ends_with("\n1 of 1 dead letter\n"));
        assert!(printed(0, 0).starts_with("no dead letters"));
    }
}
