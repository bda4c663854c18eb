//! The commands, the global flags, and the examples that end each command's `--help`.

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::{
    bench::BenchArgs,
    expire::ExpireArgs,
    feed::{IngestArgs, SimulateArgs},
    help,
    job::{DataflowArgs, InitArgs},
    read::{BarsArgs, DeadLettersArgs, StatusArgs, ViewsArgs},
    run::RunArgs,
    values,
    verify::VerifyArgs,
};

/// Exact VWAP and volume bars per symbol from live trades: nothing lost, nothing counted twice
///
/// Without a command, tapeflow runs `tapeflow run` with its defaults: a simulated feed through the
/// whole pipeline in one process, stored in ./tapeflow-data. A flag can also be given as the
/// environment variable shown beside it.
#[derive(Parser, Debug)]
#[command(name = "tapeflow", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// One line for each exit code.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed while running, or verify found differences
  2  the command line, a file, a server or a store is not usable; nothing was written
  3  another generation of the job has taken over
  4  verify found no difference, and compared less than --min-compared

Examples:
  tapeflow
  tapeflow bars --symbol AAPL --last 10";

/// Global flags.
#[derive(Args, Debug)]
#[command(next_help_heading = "Output")]
pub(crate) struct Output {
    /// Form of the log lines on standard error: text, or JSON objects
    #[arg(
        long,
        global = true,
        env = "TAPEFLOW_LOG_FORMAT",
        default_value = "text",
        value_enum
    )]
    pub(crate) log_format: LogFormat,
    /// Which log lines: error, warn, info, debug, or a filter such as tapeflow_dataflow=debug
    /// [default: tapeflow=info, without the lines of drivers; for run on a terminal
    /// tapeflow=error, and its view shows the last warning]
    #[arg(
        long,
        global = true,
        env = "TAPEFLOW_LOG_LEVEL",
        value_name = "FILTER",
        value_parser = values::log_filter
    )]
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
    /// Run the whole pipeline in one process: feed, embedded log, job, embedded store, live page
    #[command(after_help = "\
Examples:
  tapeflow run
  tapeflow run --token-file token --symbols AAPL,MSFT --store sqlite:live.db")]
    #[command(mut_arg("http", |arg| arg.help(help::RUN_HTTP)))]
    #[command(mut_arg("symbols", |arg| arg.help(help::RUN_SYMBOLS)))]
    Run(RunArgs),
    /// Create the topic and the keyspace, or bring them up to date; safe to repeat
    #[command(after_help = "\
Examples:
  tapeflow init --store cassandra://127.0.0.1/market
  tapeflow init --store cassandra://db-1,db-2/market --brokers kafka-1:9092 --partitions 12")]
    #[command(mut_arg("store", |arg| arg.help(help::INIT_STORE)))]
    Init(InitArgs),
    /// Publish a feed, Finnhub or a recording, to Kafka
    #[command(after_help = "\
Examples:
  tapeflow ingest --token-file token --symbols AAPL,BINANCE:BTCUSDT
  gunzip -c day.jsonl.gz | tapeflow ingest --replay - --until-end")]
    #[command(mut_arg("until_end", |arg| arg.help(help::INGEST_UNTIL_END)))]
    #[command(mut_arg("http", |arg| arg.help(help::INGEST_HTTP)))]
    Ingest(IngestArgs),
    /// Make bars from the log: one process of the job
    #[command(after_help = "\
Examples:
  tapeflow dataflow --store cassandra://127.0.0.1/market --supervise
  tapeflow dataflow --store cassandra://db/market --processes 2 --process 0 \\
    --hosts a:2101,b:2101 --cluster-secret-file secret")]
    #[command(mut_arg("store", |arg| arg.help(help::DATAFLOW_STORE)))]
    #[command(mut_arg("http", |arg| arg.help(help::DATAFLOW_HTTP)))]
    Dataflow(DataflowArgs),
    /// Print bars
    #[command(after_help = "\
Examples:
  tapeflow bars --symbol AAPL --last 10 --tz America/New_York
  tapeflow bars --size 1d --from 2026-01-01 --format csv > days.csv")]
    #[command(mut_arg("store", |arg| arg.help(help::READER_STORE)))]
    #[command(mut_arg("from", |arg| arg.help(help::BARS_FROM)))]
    Bars(BarsArgs),
    /// Print views: the most active symbols, the movers, your baskets, the market
    #[command(after_help = "\
Examples:
  tapeflow views
  tapeflow views --view movers --size 1d --format csv")]
    #[command(mut_arg("store", |arg| arg.help(help::READER_STORE)))]
    #[command(mut_arg("from", |arg| arg.help(help::VIEWS_FROM)))]
    Views(ViewsArgs),
    /// Recompute every bar and view from the log with independent code, and print each difference
    #[command(after_help = "\
Examples:
  tapeflow verify
  tapeflow verify --store cassandra://127.0.0.1/market --since 1h --every 10m")]
    #[command(mut_arg("log", |arg| arg.help(help::LOG_OF_STORE)))]
    #[command(mut_arg("baskets", |arg| arg.help(help::VERIFY_BASKETS)))]
    Verify(VerifyArgs),
    /// Print the job's progress: generation, epochs, offsets, lag
    #[command(after_help = "\
Examples:
  tapeflow status
  tapeflow status --store cassandra://127.0.0.1/market --brokers 127.0.0.1:9092")]
    #[command(mut_arg("log", |arg| arg.help(help::LOG_OF_STORE)))]
    Status(StatusArgs),
    /// Remove bars that are beyond their horizon, as a running job does by itself
    #[command(after_help = "\
Examples:
  tapeflow expire
  tapeflow expire --store cassandra://127.0.0.1/market --all")]
    Expire(ExpireArgs),
    /// Print dead letters: place in the log, reason, detail
    #[command(after_help = "\
Examples:
  tapeflow dead-letters
  tapeflow dead-letters --limit 20 --format json")]
    #[command(mut_arg("store", |arg| arg.help(help::READER_STORE)))]
    DeadLetters(DeadLettersArgs),
    /// Run the simulated Finnhub server by itself, or write a recording of it
    #[command(after_help = "\
Examples:
  tapeflow simulate --market-symbols 50 --rate 2000
  tapeflow simulate --out day.jsonl --trades 1000000")]
    Simulate(SimulateArgs),
    /// Measure this machine: feed generated trades through a job and check every bar
    #[command(after_help = "\
Examples:
  tapeflow bench --embedded
  tapeflow bench --brokers 127.0.0.1:9092 --cassandra 127.0.0.1:9042 --per-message 20")]
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
    /// Print the flags of all commands as Markdown
    #[command(hide = true)]
    Reference,
}
