//! How long a restart takes: real Kafka, real Cassandra, the real binary in release form, and a
//! topic of as many messages as one likes.
//!
//! ```text
//!  records ──fill──▶ topic ──▶ the job, to the end of it: seconds, CPU, memory
//!  records ─feed─▶ topic ─▶ the job ─ kill -9, start again ─▶ time to take over, to a fresh
//!                                                             bar and to a commit; memory
//! ```
//!
//! A job keeps no checkpoint but its bars and replays only what was bound and not committed, so
//! neither time nor memory may depend on how long the topic is. At the end all bars must hold
//! exactly the trades that were sent.

mod check;
use tapeflow_stack::servers as dev_stack;
mod feed;
mod job;
mod preload;
mod records;
mod report;
mod restart;
mod run;
mod servers;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

/// Measures how long a job takes from kill -9 to the first fresh bar, behind topics of any length,
/// and how much memory it takes.
#[derive(Parser, Debug)]
pub(crate) struct Settings {
    /// How many messages the topic holds; several numbers are several topics, one after the other
    /// on the same servers
    #[arg(long, value_delimiter = ',', default_value = "1000000", value_name = "N,...", value_parser = clap::value_parser!(u64).range(1..))]
    messages: Vec<u64>,
    /// How many symbols trade; several numbers are several topics for each number of messages
    #[arg(long, value_delimiter = ',', default_value = "50", value_name = "N,...", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    symbols: Vec<u32>,
    /// How often the job is killed while it keeps up with a live feed
    #[arg(long, default_value_t = 5)]
    kills: u32,
    /// How often another job is killed on its way through the topic, where each epoch is as large
    /// as an epoch gets
    #[arg(long, default_value_t = 3)]
    kills_behind: u32,
    /// How many late trades are sent, one at a time, while the job keeps up; the delay of fresh
    /// bars and of commits is measured as often without one
    #[arg(long, default_value_t = 5)]
    late: u32,
    /// Worker threads of the job
    #[arg(long, default_value_t = 2)]
    workers: u16,
    /// Messages a second of the live feed
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Up to how many messages all bars are recomputed by `tapeflow verify`; beyond it their sums
    /// are compared
    #[arg(long, default_value_t = 2_000_000, value_name = "N")]
    verify_up_to: u64,
    /// Where the report goes as well, again after each topic
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The job's binary; without it, it is built
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// The servers' directory under target/stack; two runs with one name take turns
    #[arg(long, default_value = "restart", value_name = "NAME")]
    stack: String,
    /// The first of a thousand ports
    #[arg(long, default_value_t = 25_000, value_parser = clap::value_parser!(u16).range(1_024..=31_000))]
    ports: u16,
}

fn main() -> ExitCode {
    let settings = Settings::parse();
    if let dev_stack::Wanted::Skip(reason) | dev_stack::Wanted::Fail(reason) = dev_stack::wanted() {
        eprintln!("cannot run here: {reason}");
        return ExitCode::from(2);
    }
    match run::run(&settings) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(reason) => {
            eprintln!("failed: {reason}");
            ExitCode::from(2)
        }
    }
}
