//! `tapeflow`: the commands, each a thin front of a crate. This file parses, sets the log up, hands
//! over, and tells how it ended.

mod args;
mod bars;
mod bench;
mod dataflow;
mod dead_letters;
mod end;
mod feed;
mod ingest;
mod init;
mod logs;
mod run;
mod secret;
mod shell;
mod signals;
mod simulate;
mod status;
mod stores;
mod supervise;
mod top;
mod verify;

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use args::{
    Cli, Command,
    commands::{DeadLettersCommand, LogFormat, Output},
    run::RunArgs,
};
use clap::Parser;
use end::End;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let command = cli
        .command
        .unwrap_or_else(|| Command::Run(RunArgs::default()));
    start_log(&cli.output, matches!(command, Command::Run(_)));
    match obey(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(end) => {
            if !matches!(end, End::OutputClosed) {
                let _ = writeln!(std::io::stderr(), "tapeflow: {end}");
            }
            end.code()
        }
    }
}

fn obey(command: Command) -> Result<(), End> {
    match command {
        Command::Run(args) => run::run(args.check()?),
        Command::Init(args) => init::run(args.check()?),
        Command::Ingest(args) => ingest::run(args.check()?),
        Command::Dataflow(args) => dataflow::run(args.check()?),
        Command::Bars(args) => bars::run(args.check()?),
        Command::Top(args) => top::run(args.check()?),
        Command::Verify(args) => verify::run(args.check()?),
        Command::Status(args) => status::run(args.check()?),
        Command::DeadLetters(DeadLettersCommand::List(args)) => dead_letters::run(args.check()?),
        Command::Simulate(args) => simulate::run(args.check()?),
        Command::Bench(args) => bench::run(args.check()?),
        Command::Completions { shell } => shell::completions(shell),
        Command::Man { command, folder } => shell::man(&command, folder.as_deref()),
    }
}

/// Log lines go to standard error, so that output can be piped. On a terminal `run` paints over the
/// screen: only warnings then.
fn start_log(output: &Output, paints: bool) {
    // The driver tells of every connection it makes.
    let default = if paints && std::io::stdout().is_terminal() {
        "error"
    } else {
        "info,scylla=warn"
    };
    let wanted = output.log_level.as_deref().unwrap_or(default);
    let filter = EnvFilter::try_new(wanted).unwrap_or_else(|_| EnvFilter::new(default));
    let colours = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours);
    match output.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

/// The threads that wait for stores, sockets and signals. A store's client lives in the runtime
/// that it was connected in.
fn small_runtime() -> Result<tokio::runtime::Runtime, End> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("tapeflow-io")
        .enable_all()
        .build()
        .map_err(|error| End::Failed(format!("cannot start the I/O threads: {error}")))
}
