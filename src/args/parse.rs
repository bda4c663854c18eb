//! Reads the command line and the environment into a [`Cli`].
//!
//! clap stops at the first value that it cannot read, and at the first two flags that exclude each
//! other. Here one message reports all of them and every other error: each round leaves out the
//! flag that it failed on and reads the rest again, and what remains is checked across flags.

use std::{error::Error as _, ffi::OsString, fmt::Write as _};

use clap::{
    Arg, ArgAction, CommandFactory, FromArgMatches,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{Cli, Command, values};
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
                    // That a flag is missing is no error if it was left out here, and neither is
                    // that another one needs it.
                    let is_new = |line: &&str| {
                        !left_out
                            .iter()
                            .any(|flag| names(line, &format!("--{flag}")))
                    };
                    lines.extend(error.to_string().lines().filter(is_new).map(str::to_owned));
                }
                return Err(Exit::Input(lines.join("\n")));
            }
            Err(error) => match unreadable_value(&error).or_else(|| conflict(&error)) {
                Some((flag, reason)) if !left_out.contains(&flag) => {
                    lines.push(format!("--{flag}: {reason}"));
                    left_out.push(flag);
                }
                _ if lines.is_empty() => refuse(&error, &arguments),
                _ => {
                    // A flag may require one that was left out.
                    if error.kind() != ErrorKind::MissingRequiredArgument {
                        lines.push(first_line(&error));
                    }
                    return Err(Exit::Input(lines.join("\n")));
                }
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
        Command::Expire(args) => args.check().map(drop),
        Command::DeadLetters(args) => args.check().map(drop),
        Command::Simulate(args) => args.check().map(drop),
        Command::Bench(args) => args.check().map(drop),
        Command::Completions { .. } | Command::Man { .. } | Command::Reference => Ok(()),
    }
}

/// The command line's definition, with these flags cut off from their environment variables.
fn command_without(left_out: &[String]) -> clap::Command {
    let cut_off = |arg: Arg| {
        // clap itself reads only true and false from the variable of a switch.
        let arg = match arg.get_action() {
            ArgAction::SetTrue => arg.value_parser(values::switch),
            _ => arg,
        };
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

/// The text of a flag's error.
fn text_of(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    }
}

/// The name of a flag in an error: `name` of `--name <VALUE>`.
fn flag_of(text: &str) -> Option<String> {
    let name = text.strip_prefix("--")?.split([' ', '=', '[']).next()?;
    Some(name.to_owned())
}

/// A flag that another one excludes, and that one.
fn conflict(error: &clap::Error) -> Option<(String, String)> {
    if error.kind() != ErrorKind::ArgumentConflict {
        return None;
    }
    let flag = flag_of(&text_of(error, ContextKind::InvalidArg)?)?;
    let other = flag_of(&text_of(error, ContextKind::PriorArg)?)?;
    (flag != other).then(|| (flag, format!("cannot be used with --{other}")))
}

/// What an error says, without its usage and tips.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

/// The flag whose value was not readable, and why. The value itself is not part of the reason
/// unless the flag's own parser quotes it: a mistyped address may hold a password.
fn unreadable_value(error: &clap::Error) -> Option<(String, String)> {
    let flag = flag_of(&text_of(error, ContextKind::InvalidArg)?)?;
    match error.kind() {
        ErrorKind::ValueValidation => {
            let reason = error
                .source()
                .map_or_else(|| "not valid".into(), ToString::to_string);
            Some((flag, reason))
        }
        ErrorKind::InvalidValue => {
            let value = text_of(error, ContextKind::InvalidValue);
            let value = value.filter(|value| !value.is_empty())?;
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

/// Whether a text names this flag, and not only one that begins like it.
fn names(text: &str, flag: &str) -> bool {
    text.match_indices(flag).any(|(at, _)| {
        let after = text[at + flag.len()..].chars().next();
        !after.is_some_and(|next| next.is_ascii_alphanumeric() || next == '-')
    })
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
        if names(text, &flag) && !given(&flag) && std::env::var_os(variable).is_some() {
            let _ = writeln!(
                notes,
                "note: {flag} has its value from the environment variable {}",
                variable.to_string_lossy()
            );
        }
    }
    notes
}
