//! One job process of a process of the job: started, looked at, ended; killed when dropped.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Error, now_ms,
    process::{self, Cpu, Memory},
};

/// How often a process is looked at: memory may grow in between unseen.
const LOOK: Duration = Duration::from_millis(10);

/// A process of the job.
#[derive(Debug)]
pub struct JobProcess {
    child: Child,
    /// When it was started.
    pub begun: Instant,
    /// The same moment on the clock of event times.
    pub begun_ms: i64,
    log: PathBuf,
    /// When it was looked at last.
    pub memory: Memory,
    /// Spent by then; all of it once it has ended.
    pub cpu: Cpu,
    status: Option<ExitStatus>,
}

impl JobProcess {
    /// Starts a process; what it says goes into that file.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(mut command: Command, log: PathBuf) -> Result<Self, Error> {
        let failed = |error: std::io::Error| Error::Failed(format!("{}: {error}", log.display()));
        let file = File::create(&log).map_err(failed)?;
        command
            .stdout(file.try_clone().map_err(failed)?)
            .stderr(file);
        let (begun, begun_ms) = (Instant::now(), now_ms());
        let child = command
            .spawn()
            .map_err(|error| Error::Failed(format!("the job's process does not start: {error}")))?;
        Ok(Self {
            child,
            begun,
            begun_ms,
            log,
            memory: Memory::default(),
            cpu: Cpu::default(),
            status: None,
        })
    }

    /// Where it says what it does.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Looks at what it uses; whether it job processes.
    ///
    /// # Errors
    /// Its exit code cannot be had.
    pub fn look(&mut self) -> Result<bool, Error> {
        if self.status.is_some() {
            return Ok(false);
        }
        let pid = self.child.id();
        if let Some(memory) = process::memory(pid) {
            self.memory = memory;
        }
        // Before its exit code is asked for: with that the times go.
        let seen = process::cpu(pid);
        if let Some((cpu, _)) = seen {
            self.cpu = cpu;
        }
        if seen.is_none_or(|(_, ended)| ended) {
            self.status = self
                .child
                .try_wait()
                .map_err(|error| Error::Failed(error.to_string()))?;
        }
        Ok(self.status.is_none())
    }

    /// Looks, and demands that it job processes.
    ///
    /// # Errors
    /// It has ended.
    pub fn must_live(&mut self) -> Result<(), Error> {
        if self.look()? {
            Ok(())
        } else {
            Err(self.ended_wrongly())
        }
    }

    /// Demands that it has ended with code 0.
    ///
    /// # Errors
    /// It has not.
    pub fn must_have_ended_well(&self) -> Result<(), Error> {
        if self.status.is_some_and(|status| status.success()) {
            Ok(())
        } else {
            Err(self.ended_wrongly())
        }
    }

    fn ended_wrongly(&self) -> Error {
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        let how = self
            .status
            .map_or("in an unknown way".into(), |status| status.to_string());
        Error::Failed(format!(
            "the job ended with {how}: {}",
            said.lines().last().unwrap_or_default()
        ))
    }

    /// kill -9.
    ///
    /// # Errors
    /// It had ended before, or does not.
    pub fn kill(mut self) -> Result<(), Error> {
        self.must_live()?;
        let failed = |error: std::io::Error| Error::Failed(error.to_string());
        self.child.kill().map_err(failed)?;
        self.status = Some(self.child.wait().map_err(failed)?);
        Ok(())
    }

    /// Asks it to end.
    pub fn ask_to_end(&self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
            && self.status.is_none()
        {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Waits until it ends by itself, and looks on meanwhile; how long it has lived then.
    ///
    /// # Errors
    /// It ends with another code than 0, or not in time, or `meanwhile` fails.
    pub fn end(
        &mut self,
        patience: Duration,
        mut meanwhile: impl FnMut(&Self) -> Result<(), Error>,
    ) -> Result<Duration, Error> {
        let deadline = Instant::now() + patience;
        while self.look()? {
            if Instant::now() > deadline {
                return Err(Error::Failed(format!(
                    "the job should have ended within {} s; {}",
                    patience.as_secs(),
                    self.log.display()
                )));
            }
            meanwhile(self)?;
            thread::sleep(LOOK);
        }
        let lived = self.begun.elapsed();
        self.must_have_ended_well()?;
        Ok(lived)
    }

    /// What it has logged, each line with the seconds since its start where it bears a time.
    #[must_use]
    pub fn said(&self) -> String {
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

impl Drop for JobProcess {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
