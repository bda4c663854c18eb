//! The columns that `tapeflow bars` prints, and their form: those of every bar, then those that
//! were asked for.

use std::io::Write;

use tapeflow_console::{
    cumulative,
    format::{
        bar::COLUMNS,
        text::{csv_line, json_line},
    },
};

use crate::args::read::Format;

/// Widths of the table's columns. They are fixed, because lines are printed as they are read.
const WIDTHS: [usize; COLUMNS.len()] =
    [16, 7, 25, 12, 12, 12, 12, 16, 20, 8, 16, 24, 24, 7, 5, 8, 8];
/// Widths of the columns of cumulative values.
const CUMULATIVE_WIDTHS: [usize; 3] = [17, 21, 16];
/// The name and the width of the column of the trading session, which only size `session` fills.
const SESSION: (&str, usize) = ("session", 7);
/// Columns of names, which are aligned to the left.
const NAMES: [&str; 6] = [
    "symbol",
    "size",
    "start",
    "first_trade",
    "last_trade",
    SESSION.0,
];

/// The columns and the form of the output.
pub(super) struct Columns {
    format: Format,
    names: Vec<&'static str>,
    widths: Vec<usize>,
}

impl Columns {
    /// The columns of every bar; with `session` that of the trading session, and with `cumulative`
    /// the cumulative values.
    pub(super) fn new(format: Format, session: bool, cumulative: bool) -> Self {
        let mut columns = Self {
            format,
            names: COLUMNS.to_vec(),
            widths: WIDTHS.to_vec(),
        };
        if session {
            columns.names.push(SESSION.0);
            columns.widths.push(SESSION.1);
        }
        if cumulative {
            columns.names.extend(cumulative::COLUMNS);
            columns.widths.extend(CUMULATIVE_WIDTHS);
        }
        columns
    }

    pub(super) fn heading(&self, out: &mut impl Write) -> std::io::Result<()> {
        match self.format {
            Format::Csv => writeln!(out, "{}", self.names.join(",")),
            Format::Table => self.table_line(out, &self.names),
            Format::Json => Ok(()),
        }
    }

    /// One value for each column.
    pub(super) fn line(&self, out: &mut impl Write, values: &[String]) -> std::io::Result<()> {
        match self.format {
            Format::Csv => csv_line(out, values),
            Format::Table => self.table_line(out, values),
            Format::Json => json_line(out, &self.names, values),
        }
    }

    fn table_line(&self, out: &mut impl Write, values: &[impl AsRef<str>]) -> std::io::Result<()> {
        let mut text = String::new();
        for ((name, width), value) in self.names.iter().zip(&self.widths).zip(values) {
            let value = value.as_ref();
            text.push_str(&if NAMES.contains(name) {
                format!("{value:<width$} ")
            } else {
                format!("{value:>width$} ")
            });
        }
        writeln!(out, "{}", text.trim_end())
    }
}
