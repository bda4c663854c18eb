//! The commands, and how the program speaks. Flags are kept as text in each command's `Args` and
//! read by its `check`, so that every error is told at once.

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::{
    bench::BenchArgs,
    feed::{IngestArgs, SimulateArgs},
    job::{DataflowArgs, InitArgs},
    read::{BarsArgs, DeadLettersArgs, StatusArgs, TopArgs},
    run::RunArgs,
    verify::VerifyArgs,
};

/// Live trades become exact, per-symbol VWAP and volume: never lost, never counted twice.
///
/// Without a command, `tapeflow run` with its defaults: a simulated feed through the whole
/// pipeline, in this one process, into ./tapeflow-data. Every flag can also be given as an
/// environment variable, shown beside it.
#[derive(Parser, Debug)]
#[command(name = "tapeflow", version, max_term_width = 120, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) output: Output,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed under way, or verify found differences; 2 the input or a setting is at error, nothing was written; 3 another generation of the job has taken over.";

/// How the program speaks.
#[derive(Args, Debug)]
#[command(next_help_heading = "Output")]
pub(crate) struct Output {
    /// Log lines on standard error: text for people, json for machines
    #[arg(
        long,
        global = true,
        env = "TAPEFLOW_LOG_FORMAT",
        default_value = "text",
        value_enum
    )]
    pub(crate) log_format: LogFormat,
    /// Which log lines: error, warn, info, debug, or a filter such as tapeflow_dataflow=debug
    /// [default: info; error for run on a terminal]
    #[arg(long, global = true, env = "TAPEFLOW_LOG_LEVEL", value_name = "FILTER")]
    pub(crate) log_level: Option<String>,
}

/// The form of log lines.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// The whole pipeline in one process: a feed, an embedded log, the dataflow, an embedded store,
    /// a live view
    Run(RunArgs),
    /// Make the topic and the keyspace, or bring them up to date; harmless when they are
    Init(InitArgs),
    /// Finnhub, or a recording, into Kafka
    Ingest(IngestArgs),
    /// Kafka into bars: one process of the job
    Dataflow(DataflowArgs),
    /// Print bars
    Bars(BarsArgs),
    /// Print lists: the most active symbols, the movers, your baskets, the market
    Top(TopArgs),
    /// Recompute every bar and every list from the log, independently, and print each difference
    Verify(VerifyArgs),
    /// Where the job stands: generation, epochs, offsets
    Status(StatusArgs),
    /// Dead letters
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// The simulated Finnhub server by itself, or a recording of it
    Simulate(SimulateArgs),
    /// How fast this program is on this machine: a made-up feed through a job of its own, every bar
    /// checked
    Bench(BenchArgs),
    /// Print a completion script for a shell
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Print the man page of the program, or of one command
    Man {
        /// The command, such as `dataflow`
        command: Vec<String>,
        /// Write the pages of the program and of all commands into this folder instead
        #[arg(
            long,
            env = "TAPEFLOW_FOLDER",
            value_name = "FOLDER",
            conflicts_with = "command"
        )]
        folder: Option<std::path::PathBuf>,
    },
}

/// What to do with dead letters.
#[derive(Subcommand, Debug)]
pub(crate) enum DeadLettersCommand {
    /// Print dead letters: place, reason, detail
    List(DeadLettersArgs),
}
