//! The kill loop: real Kafka, real Cassandra, the real binary, and a feed whose every trade carries
//! an id. Processes and servers are killed, paused and restarted at random times and at named
//! places of the protocol, while readers look for a bar that goes back or is no prefix; at the end
//! each trade must be there exactly once.
//!
//! ```text
//!  feed ─▶ Kafka ─proxy─▶ the job, one to three processes ─proxy─▶ Cassandra ◀─ readers: every bar
//!         ▲  ▲       ▲          ▲       └─proxy─┘             ▲        ▲
//!  ingest ┘  └───────┴──────────┴─── cycle: the next fault ───┴────────┴─▶ watch: has it committed?
//! ```
//!
//! `README.md` beside this says how to run it and how to read its report.

mod cluster;
mod cycle;
mod fault_schedule;
mod ledger;
use tapeflow_stack::servers as dev_stack;
mod checker;
mod dead_letters;
mod fault;
mod feed;
mod feed_profile;
mod ingest;
mod job;
mod links;
mod network;
mod owner;
mod poison;
mod proxy;
mod reader;
mod recording;
mod report;
mod run;
mod topic_faults;
mod topics;
mod watch;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

/// Kills, pauses and restarts everything of a job on real servers, and looks for a bar that is
/// wrong.
#[derive(Parser, Debug)]
pub(crate) struct Settings {
    /// Nodes of Kafka and of Cassandra: 1 or 3; with 3 they are killed as well
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
    nodes: u8,
    /// Cycles; without this and --seconds, 25
    #[arg(long)]
    cycles: Option<u32>,
    /// Begin no cycle after so many seconds
    #[arg(long)]
    seconds: Option<u64>,
    /// Decides what is done, and what the trades are
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the report goes; without it, to standard output
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The job's binary, with the feature `failpoints`; without it, it is built
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Trades a second
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Symbols
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..=99))]
    symbols: u16,
    /// Readers
    #[arg(long, default_value_t = 2)]
    readers: u16,
    /// Only faults with one of these words in their name
    #[arg(long, value_delimiter = ',', value_name = "WORD,...")]
    only: Vec<String>,
    /// The servers' directory under target/stack; two runs with one name take turns
    #[arg(long, default_value = "chaos", value_name = "NAME")]
    stack: String,
    /// The first of a thousand ports
    #[arg(long, default_value_t = 26_000, value_parser = clap::value_parser!(u16).range(1_024..=31_000))]
    ports: u16,
}

fn main() -> ExitCode {
    let settings = Settings::parse();
    if let dev_stack::Wanted::Skip(reason) | dev_stack::Wanted::Fail(reason) = dev_stack::wanted() {
        eprintln!("cannot run here: {reason}");
        return ExitCode::from(2);
    }
    match run::run(settings) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(reason) => {
            eprintln!("cannot run: {reason}");
            ExitCode::from(2)
        }
    }
}
