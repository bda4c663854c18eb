//! `tapeflow reference`, hidden: prints the commands, flags, environment variables, defaults and
//! exit codes as Markdown. `tests/reference.rs` makes `docs/reference.md` of it.

use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory};

use crate::{
    args::Cli,
    exit::{Exit, say},
};

pub(crate) fn run() -> Result<(), Exit> {
    say(render().trim_end())
}

fn render() -> String {
    let mut root = Cli::command();
    root.build();
    let mut text = String::from("## Commands\n");
    for command in root
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
    {
        if command.get_name() != "help" {
            command_section(&mut text, command);
        }
    }
    text.push_str("\n## Flags of every command\n\n");
    flags(
        &mut text,
        root.get_arguments().filter(|arg| arg.is_global_set()),
    );
    let after = root
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let codes = after.lines().skip(1).take_while(|line| !line.is_empty());
    text.push_str("\n## Exit codes\n\n| code | meaning |\n|---|---|\n");
    for (code, meaning) in codes.filter_map(|line| line.trim().split_once("  ")) {
        let _ = writeln!(text, "| {code} | {meaning} |");
    }
    text
}

fn command_section(text: &mut String, command: &Command) {
    let about = command
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default();
    let _ = writeln!(
        text,
        "\n### `tapeflow {}`\n\n{about}.\n",
        command.get_name()
    );
    flags(
        text,
        command
            .get_arguments()
            .filter(|arg| !arg.is_global_set() && !arg.is_hide_set()),
    );
    let after = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let examples: Vec<_> = after.lines().skip(1).map(str::trim).collect();
    let _ = writeln!(text, "\n```text\n{}\n```", examples.join("\n"));
}

fn flags<'a>(text: &mut String, args: impl Iterator<Item = &'a Arg>) {
    text.push_str("| flag | variable | default | meaning |\n|---|---|---|---|\n");
    for arg in args {
        let Some(long) = arg
            .get_long()
            .filter(|long| !matches!(*long, "help" | "version"))
        else {
            continue;
        };
        let value = if arg.get_action().takes_values() {
            let possible: Vec<_> = arg
                .get_possible_values()
                .iter()
                .map(|value| value.get_name().to_owned())
                .collect();
            let name = arg
                .get_value_names()
                .and_then(<[_]>::first)
                .map(ToString::to_string);
            match possible.is_empty() {
                true => format!(" {}", name.unwrap_or_default()),
                false => format!(" {}", possible.join("\\|")),
            }
        } else {
            String::new()
        };
        let variable = arg
            .get_env()
            .map(|name| format!("`{}`", name.to_string_lossy()));
        let defaults = arg
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy());
        let default = defaults
            .map(|value| format!("`{value}`"))
            .collect::<Vec<_>>()
            .join(" ");
        let default = if arg.get_action().takes_values() {
            default
        } else {
            String::new()
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(
            text,
            "| `--{long}{}` | {} | {default} | {} |",
            value.replace('|', "\\|").replace("\\\\|", "\\|"),
            variable.unwrap_or_default(),
            help.replace('|', "\\|")
        );
    }
}
