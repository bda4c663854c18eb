//! What one bar costs in each layout of its table: CPU time of the client and of Cassandra, bytes
//! on disk, and reads; the same for SQLite.
//!
//! ```text
//!  recorded trades ─▶ bars ─┬▶ a layout in Cassandra ─▶ flush ─▶ read back ┐
//!  (same in all layouts)    └▶ a layout in SQLite ───▶ checkpoint ─▶ read ─┴▶ us and bytes a bar
//! ```
//!
//! Layouts take turns: a round measures each once, and every round begins with another one. The
//! first round warms up and is not counted.

mod cassandra;
mod cell;
mod cost;
mod feed;
mod report;
mod run;
mod servers;
mod sqlite;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use tapeflow_stack::servers::{Wanted, wanted};

/// Measures what one bar costs in each layout of its table, in Cassandra and in SQLite.
#[derive(Parser, Debug)]
pub(crate) struct Settings {
    /// How many rounds are counted, after one that is not
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How many Cassandra nodes run, each with a replica of all rows: 1, 3, or one after the other
    #[arg(long, value_delimiter = ',', default_value = "1", value_name = "N,...", value_parser = clap::value_parser!(u8).range(1..=3))]
    nodes: Vec<u8>,
    /// How many bars each layout of Cassandra is given, about
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(600..=1_000_000))]
    bars: u32,
    /// How many epochs each layout of SQLite is given, of 400 trades and five sizes
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    epochs: u32,
    /// Measure one of the two
    #[arg(long, value_enum)]
    only: Option<Store>,
    /// Where the report goes as well
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The servers' directory under target/stack
    #[arg(long, default_value = "storebench", value_name = "NAME")]
    stack: String,
    /// The first of a thousand ports
    #[arg(long, default_value_t = 27_000, value_parser = clap::value_parser!(u16).range(1_024..=31_000))]
    ports: u16,
}

/// A store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Store {
    /// Real nodes, started by deploy/dev/stack
    Cassandra,
    /// A file in the system's temporary folder
    Sqlite,
}

fn main() -> ExitCode {
    let settings = Settings::parse();
    if settings.only != Some(Store::Sqlite)
        && let Wanted::Skip(reason) | Wanted::Fail(reason) = wanted()
    {
        eprintln!("cannot run here: {reason}");
        return ExitCode::from(2);
    }
    match run::run(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("failed: {reason}");
            ExitCode::from(2)
        }
    }
}
