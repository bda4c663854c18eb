//! `tapeflow`: the command line. This file parses the arguments, starts the log, runs the command
//! and turns its result into an exit code. Each command has a file of its own.

mod args;
mod bars;
mod bench;
mod dataflow;
mod dead_letters;
mod exit;
mod feed;
mod ingest;
mod init;
mod logs;
mod reference;
mod run;
mod secret;
mod shell;
mod signals;
mod simulate;
mod status;
mod stores;
mod supervise;
mod verify;
mod views;

use std::{
    ffi::OsString,
    io::{IsTerminal, Write},
    process::ExitCode,
};

use args::{
    Command,
    commands::{LogFormat, Output},
    parse,
};
use exit::Exit;
use tracing_subscriber::EnvFilter;

/// Our own log lines. Drivers log each connection that they make or lose; the errors that matter
/// are part of our lines.
const DEFAULT_LOG: &str = "off,tapeflow=info";
/// `run` paints the screen of a terminal, which log lines would disturb.
const PAINTING_LOG: &str = "off,tapeflow=error";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let ended = parse::parse(arguments.clone()).and_then(|cli| {
        let command = cli
            .command
            .ok_or_else(|| Exit::Input("no command".into()))?;
        start_log(&cli.output, matches!(command, Command::Run(_)));
        execute(command)
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            if !matches!(exit, Exit::OutputClosed) {
                let text = format!("tapeflow: {exit}\n");
                let notes = parse::environment_notes(&text, &arguments);
                let _ = std::io::stderr().write_all((text + &notes).as_bytes());
            }
            exit.code()
        }
    }
}

fn execute(command: Command) -> Result<(), Exit> {
    match command {
        Command::Run(args) => run::run(args.check()?),
        Command::Init(args) => init::run(args.check()?),
        Command::Ingest(args) => ingest::run(args.check()?),
        Command::Dataflow(args) => dataflow::run(args.check()?),
        Command::Bars(args) => bars::run(args.check()?),
        Command::Views(args) => views::run(args.check()?),
        Command::Verify(args) => verify::run(args.check()?),
        Command::Status(args) => status::run(args.check()?),
        Command::DeadLetters(args) => dead_letters::run(args.check()?),
        Command::Simulate(args) => simulate::run(args.check()?),
        Command::Bench(args) => bench::run(args.check()?),
        Command::Completions { shell } => shell::completions(shell),
        Command::Man { command, folder } => shell::man(&command, folder.as_deref()),
        Command::Reference => reference::run(),
    }
}

/// Log lines go to standard error, so that the output can be piped.
fn start_log(output: &Output, paints: bool) {
    let paints = paints && std::io::stdout().is_terminal();
    let default = if paints { PAINTING_LOG } else { DEFAULT_LOG };
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

/// The runtime of stores, sockets and signals. A store's client works only in the runtime that it
/// was connected in.
fn small_runtime() -> Result<tokio::runtime::Runtime, Exit> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("tapeflow-io")
        .enable_all()
        .build()
        .map_err(|error| Exit::Failed(format!("cannot start the I/O threads: {error}")))
}
