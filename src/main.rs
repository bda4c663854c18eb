//! `tapeflow`: the command line. This file parses the arguments, starts the log, runs the command
//! and turns its result into an exit code. Each command has a file of its own.

mod args;
mod bars;
mod bench;
mod dataflow;
mod dead_letters;
mod exit;
mod expire;
mod feed;
mod history;
mod ingest;
mod init;
mod log_lines;
mod logs;
mod nearest;
mod reference;
mod retention;
mod run;
mod secret;
mod shell;
mod signals;
mod simulate;
mod status;
mod stores;
mod suggest;
mod supervise;
mod unfinished;
mod unlisted;
mod verify;
mod views;

use std::{ffi::OsString, io::Write, process::ExitCode, sync::Arc};

use args::{Command, parse};
use exit::Exit;
use tapeflow_console::terminal::Warnings;

fn main() -> ExitCode {
    secret::keep_out_of_core_dumps();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let ended = parse::parse(arguments.clone()).and_then(|cli| {
        let command = cli
            .command
            .ok_or_else(|| Exit::Input("no command".into()))?;
        let warnings = log_lines::start(&cli.output, matches!(command, Command::Run(_)));
        execute(command, warnings)
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

fn execute(command: Command, warnings: Arc<Warnings>) -> Result<(), Exit> {
    match command {
        Command::Run(args) => run::run(args.check()?, warnings),
        Command::Init(args) => init::run(args.check()?),
        Command::Ingest(args) => ingest::run(args.check()?),
        Command::Dataflow(args) => dataflow::run(args.check()?),
        Command::Bars(args) => bars::run(args.check()?),
        Command::Views(args) => views::run(args.check()?),
        Command::Verify(args) => verify::run(args.check()?),
        Command::Status(args) => status::run(args.check()?),
        Command::Expire(args) => expire::run(args.check()?),
        Command::DeadLetters(args) => dead_letters::run(args.check()?),
        Command::Simulate(args) => simulate::run(args.check()?),
        Command::Bench(args) => bench::run(args.check()?),
        Command::Completions { shell } => shell::completions(shell),
        Command::Man { command, folder } => shell::man(&command, folder.as_deref()),
        Command::Reference => reference::run(),
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
