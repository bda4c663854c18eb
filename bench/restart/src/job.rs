//! The job: its binary, and *lives*, one process each.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    process::{self, Memory},
    servers::Servers,
    tape::now_ms,
};

const LOOK: Duration = Duration::from_millis(50);

/// The binary, and where its processes' logs go.
pub(crate) struct Binary {
    path: PathBuf,
    logs: PathBuf,
    workers: u16,
}

/// Builds the binary in release form, and copies it: others may build another one at the same place while this run goes on.
///
/// # Errors
/// It does not build.
pub(crate) fn build(root: &Path, to: &Path) -> Result<PathBuf, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--package", "tapeflow", "--locked", "--message-format", "json"]);
    let output = command.current_dir(root).stderr(Stdio::inherit()).output().map_err(|fault| format!("cargo does not start: {fault}"))?;
    if !output.status.success() {
        return Err(format!("the binary does not build: {}", output.status));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages.lines().rev().find_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next());
    let built = executable.ok_or("cargo does not say where the binary is")?;
    let path = to.join("tapeflow");
    fs::copy(built, &path).map_err(|fault| format!("cannot copy {built}: {fault}"))?;
    Ok(path)
}

impl Binary {
    pub(crate) fn new(path: PathBuf, logs: PathBuf, workers: u16) -> Self {
        Self { path, logs, workers }
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
    pub(crate) fn start(&self, servers: &Servers, topic: &str, keyspace: &str, further: &[&str], called: &str) -> Result<Life, String> {
        let log = self.logs.join(format!("{keyspace}-{called}.log"));
        let failed = |fault: std::io::Error| format!("{}: {fault}", log.display());
        let file = File::create(&log).map_err(failed)?;
        let (brokers, store, workers) = (servers.brokers(), servers.store(keyspace), self.workers.to_string());
        let mut command = self.command(&["dataflow", "--brokers", &brokers, "--topic", topic, "--store", &store, "--workers", &workers]);
        command.args(further).stdout(file.try_clone().map_err(failed)?).stderr(file);
        let (begun, begun_ms) = (Instant::now(), now_ms());
        let child = command.spawn().map_err(|fault| format!("the binary does not start: {fault}"))?;
        Ok(Life { child, begun, begun_ms, log, memory: Memory::default(), cpu: Duration::ZERO, status: None })
    }
}

/// A process of the job; killed when dropped.
pub(crate) struct Life {
    child: Child,
    /// When it was started.
    pub(crate) begun: Instant,
    /// The same by the clock that event times are told by.
    pub(crate) begun_ms: i64,
    log: PathBuf,
    /// When it was looked at last.
    pub(crate) memory: Memory,
    /// Spent by then.
    pub(crate) cpu: Duration,
    status: Option<ExitStatus>,
}

impl Life {
    /// Looks at what it uses; whether it lives.
    ///
    /// # Errors
    /// Its exit code cannot be had.
    pub(crate) fn look(&mut self) -> Result<bool, String> {
        if self.status.is_some() {
            return Ok(false);
        }
        let pid = self.child.id();
        if let Some(memory) = process::memory(pid) {
            self.memory = memory;
        }
        // Before its exit code is asked for: with that the times go.
        if let Some((cpu, _)) = process::cpu(pid) {
            self.cpu = cpu;
        }
        if process::cpu(pid).is_none_or(|(_, ended)| ended) {
            self.status = self.child.try_wait().map_err(|fault| fault.to_string())?;
        }
        Ok(self.status.is_none())
    }

    /// Looks, and demands that it lives.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn must_live(&mut self) -> Result<(), String> {
        if self.look()? { Ok(()) } else { Err(self.ended_wrongly()) }
    }

    fn ended_wrongly(&self) -> String {
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        let how = self.status.map_or("in an unknown way".into(), |status| status.to_string());
        format!("the job ended with {how}; {}: {}", self.log.display(), said.lines().last().unwrap_or_default())
    }

    /// kill -9.
    ///
    /// # Errors
    /// It had ended before, or does not.
    pub(crate) fn kill(mut self) -> Result<(), String> {
        self.must_live()?;
        self.child.kill().map_err(|fault| fault.to_string())?;
        self.status = Some(self.child.wait().map_err(|fault| fault.to_string())?);
        Ok(())
    }

    /// Asks it to end.
    pub(crate) fn ask_to_end(&self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
            && self.status.is_none()
        {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Waits until it ends by itself, and looks on meanwhile; how long it has lived then.
    ///
    /// # Errors
    /// It ends with another code than 0, or not in time.
    pub(crate) fn end(&mut self, patience: Duration, mut meanwhile: impl FnMut(&Self)) -> Result<Duration, String> {
        let deadline = Instant::now() + patience;
        while self.look()? {
            if Instant::now() > deadline {
                return Err(format!("the job should have ended within {} s; {}", patience.as_secs(), self.log.display()));
            }
            meanwhile(self);
            thread::sleep(LOOK);
        }
        let lived = self.begun.elapsed();
        if self.status.is_some_and(|status| status.success()) { Ok(lived) } else { Err(self.ended_wrongly()) }
    }

    /// What it has logged, each line with the seconds since its start where it bears a time.
    pub(crate) fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let line = |line: &str| {
            let (time, rest) = line.split_once(' ').unwrap_or(("", line));
            match tapeflow_schemas::window::parse_utc(time) {
                Ok(ms) => format!("  {:+} ms {}\n", ms - self.begun_ms, rest.trim_start()),
                Err(_) => format!("  {line}\n"),
            }
        };
        text.lines().map(line).collect()
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
