//! `tapeflow completions` and `tapeflow man`: the command line as shells and `man` read it, made
//! from the same definitions as `--help`.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{
    args::Cli,
    exit::{Exit, output_failed},
};

/// Prints a completion script.
pub(crate) fn completions(shell: Shell) -> Result<(), Exit> {
    print(&completion_script(shell))
}

/// Prints the man page of the program, or of one command; with `folder`, writes all of them there.
pub(crate) fn man(command: &[String], folder: Option<&Path>) -> Result<(), Exit> {
    match folder {
        None => print(&man_page(command)?),
        Some(folder) => std::fs::create_dir_all(folder)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
            .map_err(|error| {
                Exit::Input(format!(
                    "--folder: cannot write to {}: {error}",
                    folder.display()
                ))
            }),
    }
}

fn completion_script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tapeflow", &mut script);
    script
}

fn man_page(command: &[String]) -> Result<Vec<u8>, Exit> {
    let mut root = Cli::command();
    // Propagates global flags to the commands.
    root.build();
    let mut named = &root;
    for name in command {
        named = named.find_subcommand(name).ok_or_else(|| {
            Exit::Input(format!("no command {name:?}; `tapeflow --help` lists them"))
        })?;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(named.clone())
        .render(&mut page)
        .map_err(|error| output_failed(&error))?;
    Ok(page)
}

fn print(text: &[u8]) -> Result<(), Exit> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text)
        .and_then(|()| out.flush())
        .map_err(|error| output_failed(&error))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use clap::ValueEnum;

    use super::*;

    /// Every command by the words that call it, the program itself first.
    fn commands() -> Vec<(Vec<String>, clap::Command)> {
        fn add(path: &[String], of: &clap::Command, to: &mut Vec<(Vec<String>, clap::Command)>) {
            to.push((path.to_vec(), of.clone()));
            for command in of.get_subcommands() {
                if command.get_name() != "help" && !command.is_hide_set() {
                    add(
                        &[path, &[command.get_name().to_owned()]].concat(),
                        command,
                        to,
                    );
                }
            }
        }
        let mut root = Cli::command();
        root.build();
        let mut found = Vec::new();
        add(&[], &root, &mut found);
        assert!(found.len() > 10, "the program has commands");
        found
    }

    #[test]
    fn every_command_and_flag_is_completed_in_every_shell() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(completion_script(*shell)).expect("UTF-8");
            for (path, command) in commands() {
                for word in &path {
                    assert!(script.contains(word.as_str()), "{shell}: {word}");
                }
                let flags = command.get_arguments().filter(|flag| !flag.is_hide_set());
                for long in flags.filter_map(clap::Arg::get_long) {
                    assert!(script.contains(long), "{shell}: {path:?} --{long}");
                }
            }
        }
    }

    #[test]
    fn bash_reads_the_script_it_is_given() {
        let mut bash = Command::new("bash")
            .arg("-n")
            .stdin(Stdio::piped())
            .spawn()
            .expect("bash starts");
        let script = completion_script(Shell::Bash);
        std::io::Write::write_all(&mut bash.stdin.take().expect("piped"), &script)
            .expect("bash reads");
        assert!(bash.wait().expect("bash ends").success());
    }

    #[test]
    fn every_command_has_a_man_page_with_all_its_flags() {
        for (path, command) in commands() {
            let page = String::from_utf8(man_page(&path).expect("a page")).expect("UTF-8");
            assert!(
                page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"),
                "{path:?}"
            );
            let plain = page.replace("\\-", "-");
            let flags = command.get_arguments().filter(|flag| !flag.is_hide_set());
            for long in flags.filter_map(clap::Arg::get_long) {
                assert!(
                    plain.contains(&format!("--{long}")),
                    "{path:?} --{long}:\n{page}"
                );
            }
        }
    }

    #[test]
    fn all_man_pages_go_into_a_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        man(&[], Some(&folder.path().join("man"))).expect("written");
        for (path, _) in commands() {
            let name = [&["tapeflow".to_owned()], &path[..]].concat().join("-");
            let file = folder.path().join(format!("man/{name}.1"));
            assert!(file.is_file(), "{}", file.display());
        }
    }

    #[test]
    fn a_man_page_of_no_command_is_refused_by_its_name() {
        let error = man_page(&["barz".to_owned()]).expect_err("no such command");
        assert!(error.to_string().contains("barz"), "{error}");
    }
}
