//! Reads the command line and the environment into a [`Cli`].
//!
//! clap stops at the first value that it cannot read. Here every such value is reported in one
//! message: each round takes the value it failed on out of clap's hands and reads the rest again.

use std::{error::Error as _, ffi::OsString, fmt::Write as _};

use clap::{
    Arg, ArgAction, Command, CommandFactory, FromArgMatches,
    builder::OsStringValueParser,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{Cli, errors::Errors};
use crate::exit::Exit;

/// The command that runs if none is named.
const DEFAULT_COMMAND: &str = "run";

/// Reads the arguments of this process. `--help`, `--version` and usage errors print and exit.
pub(crate) fn parse(mut arguments: Vec<OsString>) -> Result<Cli, Exit> {
    let (mut errors, mut unreadable) = (Errors::default(), Vec::<String>::new());
    loop {
        match command_without(&unreadable).try_get_matches_from(&arguments) {
            Ok(matches) if matches.subcommand_name().is_none() => {
                arguments.push(DEFAULT_COMMAND.into());
            }
            Ok(_) if !errors.is_empty() => return errors.settle(|| None),
            Ok(matches) => {
                return Cli::from_arg_matches(&matches)
                    .map_err(|error| Exit::Input(error.to_string()));
            }
            Err(error) => match unreadable_value(&error) {
                Some((flag, reason)) if !unreadable.contains(&flag) => {
                    errors.add(format!("--{flag}: {reason}"));
                    unreadable.push(flag);
                }
                _ => refuse(&error, &arguments),
            },
        }
    }
}

/// The command line's definition, in which these flags take any text.
fn command_without(unreadable: &[String]) -> Command {
    let relax = |arg: Arg| {
        let named = arg
            .get_long()
            .is_some_and(|long| unreadable.iter().any(|name| name == long));
        match arg.get_action() {
            _ if !named => arg,
            // A switch has a value only in its environment variable.
            ArgAction::SetTrue => arg.env(None::<&'static str>),
            _ => arg.value_parser(OsStringValueParser::new()),
        }
    };
    Cli::command()
        .mut_args(relax)
        .mut_subcommands(|command| command.mut_args(relax))
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
            .flat_map(Command::get_arguments),
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
