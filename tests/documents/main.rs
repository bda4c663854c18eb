//! README and docs: their shell blocks run as they are written, their flags exist, their links lead
//! somewhere, and their lines are at most 100 columns wide.
//!
//! The blocks marked `sh servers` need real Kafka and Cassandra; the target `servers` runs them.

mod links;

use std::{collections::BTreeMap, process::Command};

use tapeflow_support::blocks::{self, Block, Needs};

/// The commands of blocks marked `sh build`. `.ci/run` builds and tests a fresh clone.
const BUILD_COMMANDS: [&str; 4] = [
    "cargo run --release",
    "cargo test --workspace",
    "cargo build --release",
    "export PATH=\"$PWD/target/release:$PATH\"",
];

/// Columns of a line of Markdown, tables and single long words apart.
const COLUMNS: usize = 100;

fn none(what: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{what}:\n  {}", faults.join("\n  "));
}

/// The blocks of README and docs.
fn all_blocks() -> Vec<Block> {
    let blocks: Vec<Block> = blocks::documents()
        .iter()
        .flat_map(|document| {
            blocks::of(document).unwrap_or_else(|faults| panic!("{}", faults.join("\n")))
        })
        .collect();
    assert!(blocks.len() > 20, "the documents have shell blocks");
    blocks
}

#[test]
fn every_shell_block_says_what_it_needs() {
    let faults: Vec<String> = blocks::documents()
        .iter()
        .filter_map(|document| blocks::of(document).err())
        .flatten()
        .collect();
    none("blocks", &faults);
}

#[test]
fn every_shell_block_is_bash() {
    let faults: Vec<String> = all_blocks()
        .iter()
        .filter_map(|block| {
            let checked = Command::new("bash")
                .args(["-n", "-c", &block.text])
                .output()
                .expect("bash starts");
            let text = String::from_utf8_lossy(&checked.stderr).into_owned();
            (!checked.status.success()).then(|| format!("{}: {text}", block.place()))
        })
        .collect();
    none("not bash", &faults);
}

#[test]
fn shell_blocks_that_need_nothing_run_in_order() {
    let faults: Vec<String> = blocks::documents()
        .iter()
        .filter_map(|document| {
            // Tests run side by side: a fixed port may be taken.
            let environment = BTreeMap::from([("TAPEFLOW_HTTP".into(), "off".into())]);
            blocks::run(document, Needs::Nothing, &environment, &[]).err()
        })
        .collect();
    none("failed", &faults);
}

#[test]
fn build_blocks_hold_the_commands_of_a_fresh_clone() {
    let blocks = all_blocks();
    let commands = blocks
        .iter()
        .filter(|block| block.needs == Needs::Build)
        .flat_map(|block| block.text.lines().map(move |line| (block.place(), line)));
    let faults: Vec<String> = commands
        .filter(|(_, line)| !BUILD_COMMANDS.contains(line))
        .map(|(place, line)| format!("{place}: {line}"))
        .collect();
    none("not a command that CI runs", &faults);
}

/// The flags that `tapeflow COMMAND --help` lists.
fn help(command: Option<&str>) -> Option<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_tapeflow"))
        .args(command)
        .arg("--help")
        .output()
        .expect("the binary starts");
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What is wrong with a command line of ours: an unknown command or flag.
fn misuse(line: &str) -> Option<String> {
    let mut words = line
        .split_whitespace()
        .skip_while(|word| *word != "tapeflow");
    words.next()?;
    let words: Vec<&str> = words
        .take_while(|word| !matches!(*word, "|" | "&" | "&&" | ">" | ";"))
        .collect();
    let command = words
        .first()
        .copied()
        .filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()));
    let Some(help) = help(command) else {
        return Some(format!("no command {}", command.unwrap_or_default()));
    };
    let unknown = words
        .iter()
        .filter_map(|word| word.split('=').next().filter(|flag| flag.starts_with("--")))
        .find(|flag| {
            !help
                .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
                .any(|word| word == *flag)
        });
    unknown.map(|flag| format!("{} has no {flag}", command.unwrap_or("tapeflow")))
}

#[test]
fn commands_that_no_test_runs_have_the_flags_they_are_given() {
    let mut faults = Vec::new();
    for block in all_blocks() {
        let text = block.text.replace("\\\n", " ");
        for line in text.lines().filter(|line| line.contains("tapeflow ")) {
            let is_ours = line.split_whitespace().next() == Some("tapeflow");
            if let Some(fault) = is_ours.then(|| misuse(line)).flatten() {
                faults.push(format!("{}: {fault}", block.place()));
            }
        }
    }
    for document in blocks::documents() {
        for (at, code) in links::inline_code(&blocks::read(&document)) {
            // A path, or a word such as `tapeflow_lag_records`, is no command.
            if let Some(fault) = code
                .starts_with("tapeflow ")
                .then(|| misuse(&code))
                .flatten()
            {
                faults.push(format!("{document}:{at}: {fault}"));
            }
        }
    }
    none("command lines", &faults);
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    none("broken links", &links::broken());
}

#[test]
fn lines_of_markdown_are_at_most_100_columns_wide() {
    let mut faults = Vec::new();
    for document in links::markdown_files() {
        for (at, line) in blocks::read(&document).lines().enumerate() {
            let is_table = line.trim_start().starts_with('|');
            let is_one_word = line.trim().split(' ').count() == 1;
            if line.chars().count() > COLUMNS && !is_table && !is_one_word {
                faults.push(format!("{document}:{}", at + 1));
            }
        }
    }
    none("too wide", &faults);
}
