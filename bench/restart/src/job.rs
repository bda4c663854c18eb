//! The job: its binary, and *job processes*, one process each.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tapeflow_throughput::job_process::JobProcess;

use crate::servers::Servers;

/// The binary, and where its processes' logs go.
pub(crate) struct Binary {
    path: PathBuf,
    logs: PathBuf,
    workers: u16,
}

/// Builds the binary in release form, and copies it: others may build another one at the same place
/// while this run goes on.
///
/// # Errors
/// It does not build.
pub(crate) fn build(root: &Path, to: &Path) -> Result<PathBuf, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--release",
        "--package",
        "tapeflow",
        "--locked",
        "--message-format",
        "json",
    ]);
    let output = command
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo does not start: {error}"))?;
    if !output.status.success() {
        return Err(format!("the binary does not build: {}", output.status));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages
        .lines()
        .rev()
        .find_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next());
    let built = executable.ok_or("cargo does not say where the binary is")?;
    let path = to.join("tapeflow");
    fs::copy(built, &path).map_err(|error| format!("cannot copy {built}: {error}"))?;
    Ok(path)
}

impl Binary {
    pub(crate) fn new(path: PathBuf, logs: PathBuf, workers: u16) -> Self {
        Self {
            path,
            logs,
            workers,
        }
    }

    /// A command under no foreign settings.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(arguments).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TAPEFLOW_")) {
            command.env_remove(name);
        }
        command
    }

    /// Starts a process of the job over a topic and a keyspace. `called` names its log.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start(
        &self,
        servers: &Servers,
        topic: &str,
        keyspace: &str,
        further: &[&str],
        called: &str,
    ) -> Result<JobProcess, String> {
        let log = self.logs.join(format!("{keyspace}-{called}.log"));
        let (brokers, store, workers) = (
            servers.brokers(),
            servers.store(keyspace),
            self.workers.to_string(),
        );
        let mut command = self.command(&[
            "dataflow",
            "--brokers",
            &brokers,
            "--topic",
            topic,
            "--store",
            &store,
            "--workers",
            &workers,
        ]);
        command.args(further);
        JobProcess::start(command, log).map_err(|error| error.to_string())
    }
}
