//! The shell blocks of README and docs, and how to run them as they are written.
//!
//! The words after the three backticks say what a block needs:
//!
//! | info string | needs | is run by |
//! |---|---|---|
//! | `sh` | nothing | `documents::shell_blocks_that_need_nothing_run_in_order` |
//! | `sh servers` | the stack of `deploy/dev` | the target `servers` |
//! | `sh build` | a fresh clone | `.ci/run` |
//! | `sh token` | a live Finnhub token | a person |
//! | `sh cluster` | Kubernetes, Docker or servers of your own | a person |
//!
//! The blocks of one document run one after the other in one shell, with `-eu` and `pipefail`, in a
//! scratch folder that has the repository's files as links and `tapeflow` on its path.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::Write as _,
    fs,
    os::unix::fs::symlink,
    process::{Command, Stdio},
};

use crate::binary::{self, root};

/// Info strings of blocks that are no shell commands.
const NOT_SHELL: [&str; 8] = [
    "text", "sql", "json", "yaml", "toml", "rust", "python", "csv",
];

/// Entries of the root that a scratch folder does not have: git's, and what commands make.
const NOT_LINKED: [&str; 4] = [".git", "target", "tapeflow-data", "try"];

/// Seconds that all blocks of a document may take.
const LIMIT_S: &str = "300";

/// What a block needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// The binary and the repository's files.
    Nothing,
    /// Real Kafka and Cassandra from `deploy/dev/stack`.
    Servers,
    /// A fresh clone and a compiler.
    Build,
    /// A live Finnhub token.
    Token,
    /// Kubernetes, Docker or servers of one's own.
    Cluster,
}

/// A shell block.
#[derive(Debug)]
pub struct Block {
    document: String,
    /// The line of the opening fence, from 1.
    line: usize,
    /// What it needs.
    pub needs: Needs,
    /// Its lines.
    pub text: String,
}

impl Block {
    /// `file:line` of the opening fence.
    pub fn place(&self) -> String {
        format!("{}:{}", self.document, self.line)
    }
}

/// A file by its path from the root.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// README and the pages in docs, by their path from the root.
pub fn documents() -> Vec<String> {
    let pages = fs::read_dir(root().join("docs")).expect("docs");
    let mut documents: Vec<String> = pages
        .map(|page| {
            page.expect("a page")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .filter(|page| page.ends_with(".md"))
        .map(|page| format!("docs/{page}"))
        .collect();
    documents.push("README.md".to_owned());
    documents.sort();
    documents
}

/// The shell blocks of a document, in order.
///
/// # Errors
/// Each block whose info string is unknown, and a fence that is not closed.
pub fn of(document: &str) -> Result<Vec<Block>, Vec<String>> {
    let (mut blocks, mut errors) = (Vec::new(), Vec::new());
    let text = read(document);
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let Some(info) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        let mut body = String::new();
        let mut is_closed = false;
        for (_, line) in lines.by_ref() {
            if line.trim_start().starts_with("```") {
                is_closed = true;
                break;
            }
            body.push_str(line);
            body.push('\n');
        }
        if !is_closed {
            errors.push(format!("{document}:{}: the fence is not closed", at + 1));
        }
        let needs = match info.trim() {
            "sh" => Needs::Nothing,
            "sh servers" => Needs::Servers,
            "sh build" => Needs::Build,
            "sh token" => Needs::Token,
            "sh cluster" => Needs::Cluster,
            other if NOT_SHELL.contains(&other) => continue,
            other => {
                errors.push(format!(
                    "{document}:{}: unknown info string {other:?}: give sh, with servers, build, \
                     token or cluster if it needs that, or one of {}",
                    at + 1,
                    NOT_SHELL.join(", ")
                ));
                continue;
            }
        };
        blocks.push(Block {
            document: document.to_owned(),
            line: at + 1,
            needs,
            text: body,
        });
    }
    if errors.is_empty() {
        Ok(blocks)
    } else {
        Err(errors)
    }
}

/// Runs the blocks of a document that need `needs`. `environment` is added to this process's own,
/// which loses all settings of ours. Each text on the left of `replacements` becomes the one on its
/// right: the address of a server.
///
/// # Errors
/// What the shell said, if a command failed.
pub fn run(
    document: &str,
    needs: Needs,
    environment: &BTreeMap<OsString, OsString>,
    replacements: &[(&str, String)],
) -> Result<(), String> {
    let blocks = of(document).map_err(|errors| errors.join("\n"))?;
    // What a block left in the background would keep our pipe open.
    let mut script =
        "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n".to_owned();
    let mut is_empty = true;
    for block in blocks.iter().filter(|block| block.needs == needs) {
        is_empty = false;
        let _ = writeln!(script, "echo '=== {}' >&2\n{}", block.place(), block.text);
    }
    if is_empty {
        return Ok(());
    }
    for (address, ours) in replacements {
        script = script.replace(address, ours);
    }
    let scratch =
        Scratch::new().map_err(|error| format!("cannot make a scratch folder: {error}"))?;
    let mut shell = Command::new("timeout");
    shell
        .args(["--kill-after=10", LIMIT_S, "bash", "-c", &script])
        .current_dir(scratch.folder.path())
        .stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TAPEFLOW_") {
            shell.env_remove(name);
        }
    }
    let output = shell
        .env("PATH", scratch.path())
        .envs(environment)
        .output()
        .map_err(|error| format!("timeout does not start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{document}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// A folder that looks like a clone of the repository.
struct Scratch {
    folder: tempfile::TempDir,
    /// The folder with the binary, outside of the clone.
    binaries: tempfile::TempDir,
}

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let (folder, binaries) = (tempfile::tempdir()?, tempfile::tempdir()?);
        for entry in fs::read_dir(root())? {
            let name = entry?.file_name();
            if !NOT_LINKED.iter().any(|other| name == *other) {
                symlink(root().join(&name), folder.path().join(&name))?;
            }
        }
        symlink(binary::path(), binaries.path().join("tapeflow"))?;
        Ok(Self { folder, binaries })
    }

    /// The search path, with the binary first.
    fn path(&self) -> OsString {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders =
            std::iter::once(self.binaries.path().to_path_buf()).chain(std::env::split_paths(&path));
        std::env::join_paths(folders).expect("the path's own folders")
    }
}
