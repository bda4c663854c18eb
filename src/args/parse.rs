//! Reads the command line and the environment into a [`Cli`].
//!
//! clap stops at the first value that it cannot read. Here one message reports every such value and
//! every other error: each round leaves out the flag that it failed on and reads the rest again,
//! and what remains is checked across flags.

use std::{error::Error as _, ffi::OsString, fmt::Write as _};

use clap::{
    Arg, CommandFactory, FromArgMatches,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{Cli, Command};
use crate::exit::Exit;

/// The command that runs if none is named.
const DEFAULT_COMMAND: &str = "run";

/// Reads the arguments of this process. `--help`, `--version` and usage errors print and exit.
pub(crate) fn parse(mut arguments: Vec<OsString>) -> Result<Cli, Exit> {
    // Flags that are left out, and a line for each.
    let (mut left_out, mut lines) = (Vec::<String>::new(), Vec::new());
    loop {
        let command = command_without(&left_out);
        match command
            .clone()
            .try_get_matches_from(remaining(&command, &arguments, &left_out))
        {
            Ok(matches) if matches.subcommand_name().is_none() => {
                arguments.push(DEFAULT_COMMAND.into());
            }
            Ok(matches) => {
                let cli = Cli::from_arg_matches(&matches)
                    .map_err(|error| Exit::Input(error.to_string()))?;
                if lines.is_empty() {
                    return Ok(cli);
                }
                if let Some(Err(error)) = cli.command.map(check) {
                    // That a flag is missing is no error if it was left out here.
                    let is_new = |line: &&str| {
                        !left_out
                            .iter()
                            .any(|flag| line.starts_with(&format!("--{flag}: ")))
                    };
                    lines.extend(error.to_string().lines().filter(is_new).map(str::to_owned));
                }
                return Err(Exit::Input(lines.join("\n")));
            }
            Err(error) => match unreadable_value(&error) {
                Some((flag, reason)) if !left_out.contains(&flag) => {
                    lines.push(format!("--{flag}: {reason}"));
                    left_out.push(flag);
                }
                // A flag may require one that was left out.
                _ if !lines.is_empty() => return Err(Exit::Input(lines.join("\n"))),
                _ => refuse(&error, &arguments),
            },
        }
    }
}

/// The errors across flags.
fn check(command: Command) -> Result<(), Exit> {
    match command {
        Command::Run(args) => args.check().map(drop),
        Command::Init(args) => args.check().map(drop),
        Command::Ingest(args) => args.check().map(drop),
        Command::Dataflow(args) => args.check().map(drop),
        Command::Bars(args) => args.check().map(drop),
        Command::Views(args) => args.check().map(drop),
        Command::Verify(args) => args.check().map(drop),
        Command::Status(args) => args.check().map(drop),
        Command::DeadLetters(args) => args.check().map(drop),
        Command::Simulate(args) => args.check().map(drop),
        Command::Bench(args) => args.check().map(drop),
        Command::Completions { .. } | Command::Man { .. } | Command::Reference => Ok(()),
    }
}

/// The command line's definition, with these flags cut off from their environment variables.
fn command_without(left_out: &[String]) -> clap::Command {
    let cut_off = |arg: Arg| {
        if arg
            .get_long()
            .is_some_and(|long| left_out.iter().any(|flag| flag == long))
        {
            arg.env(None::<&'static str>)
        } else {
            arg
        }
    };
    Cli::command()
        .mut_args(cut_off)
        .mut_subcommands(|command| command.mut_args(cut_off))
}

/// The arguments without these flags and their values.
fn remaining(
    command: &clap::Command,
    arguments: &[OsString],
    left_out: &[String],
) -> Vec<OsString> {
    let names = |arg: &Arg| -> Vec<String> {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        arg.get_long()
            .into_iter()
            .chain(aliases)
            .map(|name| format!("--{name}"))
            .collect()
    };
    let all = command.get_arguments().chain(
        command
            .get_subcommands()
            .flat_map(clap::Command::get_arguments),
    );
    let dropped: Vec<(String, bool)> = all
        .filter(|arg| {
            arg.get_long()
                .is_some_and(|long| left_out.iter().any(|flag| flag == long))
        })
        .flat_map(|arg| {
            let takes_value = arg.get_action().takes_values();
            names(arg).into_iter().map(move |name| (name, takes_value))
        })
        .collect();
    let mut kept = Vec::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        let (flag, value) = text
            .split_once('=')
            .map_or((&*text, None), |(f, v)| (f, Some(v)));
        match dropped.iter().find(|(name, _)| name == flag) {
            Some((_, true)) if value.is_none() => drop(words.next()),
            Some(_) => {}
            None => kept.push(word.clone()),
        }
    }
    kept
}

/// The flag whose value was not readable, and why. The value itself is not part of the reason
/// unless the flag's own parser quotes it: a mistyped address may hold a password.
fn unreadable_value(error: &clap::Error) -> Option<(String, String)> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let flag = text(ContextKind::InvalidArg)?;
    let flag = flag
        .strip_prefix("--")?
        .split([' ', '=', '['])
        .next()?
        .to_owned();
    match error.kind() {
        ErrorKind::ValueValidation => {
            let reason = error
                .source()
                .map_or_else(|| "not valid".into(), ToString::to_string);
            Some((flag, reason))
        }
        ErrorKind::InvalidValue => {
            let value = text(ContextKind::InvalidValue).filter(|value| !value.is_empty())?;
            let Some(ContextValue::Strings(valid)) = error.get(ContextKind::ValidValue) else {
                return None;
            };
            Some((
                flag,
                format!("{value:?} is not one of {}", valid.join(", ")),
            ))
        }
        _ => None,
    }
}

/// Prints a usage error, or the help that was asked for, and ends the process.
fn refuse(error: &clap::Error, arguments: &[OsString]) -> ! {
    let _ = error.print();
    if error.use_stderr() {
        let notes = environment_notes(&error.to_string(), arguments);
        let _ = std::io::Write::write_all(&mut std::io::stderr(), notes.as_bytes());
    }
    std::process::exit(error.exit_code())
}

/// A line for each flag that `text` names and whose value came from the environment: the person
/// who reads the error may not know that the variable is set.
///
/// clap hands out no `ArgMatches`, and so no value source, together with an error. A flag that has
/// a variable and is not among the arguments has its value from there.
pub(crate) fn environment_notes(text: &str, arguments: &[OsString]) -> String {
    let command = Cli::command();
    let words: Vec<String> = arguments
        .iter()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let name = words
        .iter()
        .find(|word| command.find_subcommand(word).is_some())
        .map_or(DEFAULT_COMMAND, String::as_str);
    let given = |flag: &str| {
        words
            .iter()
            .any(|word| word.split('=').next() == Some(flag))
    };
    let mut notes = String::new();
    let flags = command.get_arguments().chain(
        command
            .find_subcommand(name)
            .into_iter()
            .flat_map(clap::Command::get_arguments),
    );
    for arg in flags {
        let (Some(long), Some(variable)) = (arg.get_long(), arg.get_env()) else {
            continue;
        };
        let flag = format!("--{long}");
        let named = text.match_indices(&flag).any(|(at, _)| {
            let after = text[at + flag.len()..].chars().next();
            !after.is_some_and(|next| next.is_ascii_alphanumeric() || next == '-')
        });
        if named && !given(&flag) && std::env::var_os(variable).is_some() {
            let _ = writeln!(
                notes,
                "note: {flag} has its value from the environment variable {}",
                variable.to_string_lossy()
            );
        }
    }
    notes
}
