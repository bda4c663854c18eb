//! Text values as CSV and as JSON.

use std::{borrow::Cow, io::Write};

use serde_json::Value;
use tapeflow_schemas::WindowSize;

/// Writes a line of CSV.
///
/// # Errors
/// The error of `out`.
pub fn csv_line(out: &mut impl Write, values: &[impl AsRef<str>]) -> std::io::Result<()> {
    writeln!(
        out,
        "{}",
        values
            .iter()
            .map(|value| csv_field(value.as_ref()))
            .collect::<Vec<_>>()
            .join(",")
    )
}

/// A CSV field, quoted where RFC 4180 requires it. A spreadsheet would run a text that begins like
/// a formula, so an apostrophe goes before it; numbers stay as they are.
#[must_use]
pub fn csv_field(text: &str) -> Cow<'_, str> {
    if is_formula(text) {
        return Cow::Owned(csv_field(&format!("'{text}")).into_owned());
    }
    if text.contains([',', '"', '\n', '\r']) {
        Cow::Owned(format!("\"{}\"", text.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(text)
    }
}

/// Whether a spreadsheet may take a text for a formula
/// (<https://owasp.org/www-community/attacks/CSV_Injection>).
fn is_formula(text: &str) -> bool {
    match text.chars().next() {
        Some('=' | '@' | '\t' | '\r' | '\n' | '＝' | '＋' | '－' | '＠') => true,
        Some('+' | '-') => text[1..].chars().any(|c| !(c.is_ascii_digit() || c == '.')),
        _ => false,
    }
}

/// Writes a JSON object on a line of its own.
///
/// # Errors
/// The error of `out`.
pub fn json_line(out: &mut impl Write, columns: &[&str], values: &[String]) -> std::io::Result<()> {
    writeln!(out, "{}", json(columns, values))
}

/// A JSON object of one value per column; an empty text is null. Counts are numbers. Decimals are
/// strings, because most readers turn a JSON number into a double.
#[must_use]
pub fn json(columns: &[&str], values: &[String]) -> Value {
    let value = |(name, text): (&&str, &String)| {
        let value = match *name {
            "rank" | "symbols" | "trades" | "epoch" | "revision" => {
                text.parse::<u64>().map_or(Value::Null, Into::into)
            }
            "final" | "complete" => (text == "true").into(),
            _ if text.is_empty() => Value::Null,
            _ => text.as_str().into(),
        };
        ((*name).to_owned(), value)
    };
    Value::Object(columns.iter().zip(values).map(value).collect())
}

/// A count and its noun: `1 record`, `2 records`.
#[must_use]
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Aligned columns: the columns in `left` to the left, the others to the right.
///
/// # Errors
/// The output failed.
pub fn table(out: &mut impl Write, lines: &[Vec<String>], left: &[&str]) -> std::io::Result<()> {
    let Some(heading) = lines.first() else {
        return Ok(());
    };
    let width = |at: usize| {
        lines
            .iter()
            .filter_map(|line| line.get(at))
            .map(|text| text.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..heading.len())
        .map(|at| width(at).unwrap_or(0))
        .collect();
    for line in lines {
        let cells: Vec<String> = line
            .iter()
            .zip(heading)
            .zip(&widths)
            .map(|((text, name), width)| {
                if left.contains(&name.as_str()) {
                    format!("{text:<width$}")
                } else {
                    format!("{text:>width$}")
                }
            })
            .collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// Window sizes as a flag takes them: `1s,1m,1h`.
#[must_use]
pub fn sizes(sizes: &[WindowSize]) -> String {
    sizes
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_with_a_comma_is_quoted() {
        assert_eq!(csv_field("a,b\"c"), "\"a,b\"\"c\"");
        assert_eq!(csv_field("IC MARKETS:1"), "IC MARKETS:1");
    }

    #[test]
    fn a_field_that_a_spreadsheet_would_run_is_defused() {
        for (text, field) in [
            ("=1+1", "'=1+1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("-1+cmd|' /C calc'!A0", "'-1+cmd|' /C calc'!A0"),
            ("+A1", "'+A1"),
            ("\t=1", "'\t=1"),
            ("=\"a\",b", "\"'=\"\"a\"\",b\""),
            ("-5", "-5"),
            ("-0.25", "-0.25"),
            ("AAPL", "AAPL"),
            ("", ""),
        ] {
            assert_eq!(csv_field(text), field, "{text:?}");
        }
    }

    #[test]
    fn a_count_agrees_with_its_noun() {
        let records = |count: u64| counted(count, "record", "records");
        assert_eq!(
            [0, 1, 2].map(records),
            ["0 records", "1 record", "2 records"]
        );
    }

    #[test]
    fn json_has_numbers_for_counts_and_strings_for_decimals() {
        let mut out = Vec::new();
        let values = ["1", "A", "0.5", "", "true"].map(str::to_owned);
        json_line(
            &mut out,
            &["rank", "name", "vwap", "open", "final"],
            &values,
        )
        .expect("written");
        let read: Value = serde_json::from_slice(&out).expect("JSON");
        let wanted = serde_json::json!({
            "rank": 1, "name": "A", "vwap": "0.5", "open": null, "final": true
        });
        assert_eq!(read, wanted);
    }
}
