//! The binary's commands on a folder of their own.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Output, Stdio},
};

use tapeflow_ingest::simulator::{FeedFile, write_feed};
use tempfile::TempDir;

pub use crate::binary::tapeflow;

use crate::binary::root;

/// The exit status and the output of a command, for a failure message.
#[must_use]
pub fn told(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs a command that must succeed; its standard output.
pub fn succeed(arguments: &[&str]) -> String {
    let output = tapeflow(arguments).output().expect("the binary starts");
    assert!(
        output.status.success(),
        "tapeflow {}: {}",
        arguments.join(" "),
        told(&output)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Runs a command that must end with `code`; all it said.
pub fn end_with(code: i32, arguments: &[&str]) -> String {
    let output = tapeflow(arguments).output().expect("the binary starts");
    assert_eq!(
        output.status.code(),
        Some(code),
        "tapeflow {}: {}",
        arguments.join(" "),
        told(&output)
    );
    told(&output)
}

/// A file of `tests/golden`.
pub fn golden(name: &str) -> String {
    root()
        .join("tests/golden")
        .join(name)
        .to_str()
        .expect("a path in UTF-8")
        .to_owned()
}

/// A folder for one test, removed at its end.
pub struct Place {
    folder: TempDir,
    /// `--store` of the test.
    pub store: String,
}

impl Place {
    /// A new, empty folder.
    ///
    /// # Panics
    /// If the system gives no folder.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = format!("sqlite:{}", folder.path().join("t.db").display());
        Self { folder, store }
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into the folder; its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).expect("written");
        self.path(name)
            .to_str()
            .expect("a path in UTF-8")
            .to_owned()
    }

    /// Writes a recording of a simulated market into the folder; its path.
    pub fn feed(&self, feed: &FeedFile) -> String {
        let mut out = Vec::new();
        write_feed(&mut out, feed).expect("written");
        self.file("feed.jsonl", std::str::from_utf8(&out).expect("JSON lines"))
    }

    /// `tapeflow run --replay FILE --until-end` with further flags, to its end.
    pub fn replay(&self, file: &str, flags: &[&str]) -> String {
        succeed(
            &[
                &[
                    "run",
                    "--replay",
                    file,
                    "--until-end",
                    "--store",
                    &self.store,
                ],
                flags,
            ]
            .concat(),
        )
    }

    /// The same in the background.
    pub fn replay_begun(&self, file: &str, flags: &[&str]) -> Child {
        let arguments = [
            &[
                "run",
                "--replay",
                file,
                "--until-end",
                "--store",
                &self.store,
            ],
            flags,
        ]
        .concat();
        tapeflow(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts")
    }

    /// `tapeflow bars` of all sizes, as csv.
    pub fn bars(&self) -> String {
        succeed(&[
            "bars",
            "--store",
            &self.store,
            "--size",
            "all",
            "--format",
            "csv",
        ])
    }

    /// `tapeflow verify`, which must find no difference; its last line.
    pub fn verify(&self) -> String {
        succeed(&["verify", "--log", &self.store])
            .lines()
            .last()
            .unwrap_or_default()
            .to_owned()
    }
}

/// The csv without its last four columns, which are labels: epoch, final, revision, complete.
pub fn values(csv: &str) -> Vec<String> {
    csv.lines()
        .map(|line| line.rsplitn(5, ',').last().unwrap_or_default().to_owned())
        .collect()
}
