//! The job over a full log, from the start of its process to its end.

use std::{
    ffi::OsString,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tapeflow_feed::Shape;
use tapeflow_protocol::{Checkpoint, Store};
use tokio::runtime::Handle;

use crate::{
    Error,
    bar::Bar,
    job_process::JobProcess,
    process::{self, Cpu},
    target::{Program, Target},
};

/// How often the processes are looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How long a job may take to the end: this, and that for each trade.
const PATIENCE: Duration = Duration::from_secs(600);
const PATIENCE_A_TRADE: Duration = Duration::from_micros(500);
/// How long a job may take to tell of itself.
const PATIENCE_FOR_STATUS: Duration = Duration::from_secs(5);

/// What is run over what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The feed.
    pub shape: Shape,
    /// Partitions of the log.
    pub partitions: u32,
    /// Processes of the job.
    pub processes: usize,
    /// Workers in each.
    pub workers: usize,
    /// Further settings of the job.
    pub settings: Vec<OsString>,
    /// Where its processes say what they do.
    pub logs: PathBuf,
}

/// The figures of all processes of the job.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// From the start of the first to the end of the last.
    pub took: Duration,
    /// From the start to the first commit.
    pub start_up: Option<Duration>,
    /// CPU time.
    pub cpu: Cpu,
    /// The most memory each used, added up.
    pub peak_kb: u64,
    /// Bars written, each as often as it was.
    pub bars: u64,
    /// CPU time of everything else on this machine meanwhile: servers, this program, others.
    pub elsewhere: Duration,
}

/// The processes of a job.
pub(crate) struct Lives {
    job_processes: Vec<JobProcess>,
    pub(crate) begun: Instant,
    busy: Option<Duration>,
    /// Where the first one tells of itself.
    told_at: Option<String>,
}

impl Lives {
    /// Starts a job that ends with its log.
    pub(crate) fn until_end(program: &Program, plan: &Plan) -> Result<Self, Error> {
        Self::start(program, plan, None)
    }

    /// Starts a job that does not end and reports its progress.
    pub(crate) fn telling(program: &Program, plan: &Plan) -> Result<Self, Error> {
        Self::start(program, plan, Some(hosts(1)?))
    }

    fn start(program: &Program, plan: &Plan, told_at: Option<String>) -> Result<Self, Error> {
        let hosts = hosts(plan.processes)?;
        let (busy, begun) = (process::machine(), Instant::now());
        let start = |number: usize| {
            let mut command = program.command("dataflow");
            match &told_at {
                Some(address) if number == 0 => command.args(["--http", address]),
                Some(_) => &mut command,
                None => command.arg("--until-end"),
            };
            command.args(&plan.settings).args([
                "--log-format",
                "json",
                "--log-level",
                "info,scylla=warn",
            ]);
            command.args(["--workers", &plan.workers.to_string()]);
            if plan.processes > 1 {
                let (processes, process) = (plan.processes.to_string(), number.to_string());
                command.args([
                    "--processes",
                    &processes,
                    "--process",
                    &process,
                    "--hosts",
                    &hosts,
                ]);
            }
            JobProcess::start(command, plan.logs.join(format!("job-{number}.log")))
        };
        Ok(Self {
            job_processes: (0..plan.processes).map(start).collect::<Result<_, _>>()?,
            begun,
            busy,
            told_at,
        })
    }

    /// Looks at all; whether any job processes. One that has ended badly ends the measurement.
    pub(crate) fn look(&mut self) -> Result<bool, Error> {
        let mut any = false;
        for job_process in &mut self.job_processes {
            let job_processes = job_process.look()?;
            if !job_processes {
                job_process.must_have_ended_well()?;
            }
            any |= job_processes;
        }
        Ok(any)
    }

    /// Looks, and demands that all live.
    pub(crate) fn must_live(&mut self) -> Result<(), Error> {
        self.job_processes
            .iter_mut()
            .try_for_each(JobProcess::must_live)
    }

    /// Asks all to end.
    pub(crate) fn ask_to_end(&self) {
        self.job_processes.iter().for_each(JobProcess::ask_to_end);
    }

    /// What the job says of its own freshness; none if it does not.
    pub(crate) fn own_freshness(&self) -> Option<Value> {
        let address = self.told_at.as_deref()?;
        let mut connection = TcpStream::connect(address).ok()?;
        connection
            .set_read_timeout(Some(PATIENCE_FOR_STATUS))
            .ok()?;
        write!(
            connection,
            "GET /status HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).ok()?;
        let mut status: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        Some(status.get_mut("job")?.get_mut("freshness_s")?.take())
    }

    /// How long ago the first was started.
    pub(crate) fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// The memory they use now, in kilobytes.
    pub(crate) fn memory_kb(&self) -> u64 {
        self.job_processes
            .iter()
            .map(|job_process| job_process.memory.now_kb)
            .sum()
    }

    /// Their figures. All have ended.
    pub(crate) fn spent(&self, start_up: Option<Duration>) -> Result<Spent, Error> {
        let took = self.age();
        let cpu = self
            .job_processes
            .iter()
            .fold(Cpu::default(), |sum, job_process| sum + job_process.cpu);
        let busy = process::machine()
            .zip(self.busy)
            .map_or(Duration::ZERO, |(now, before)| now.saturating_sub(before));
        let bars = self
            .job_processes
            .iter()
            .map(bars_written)
            .sum::<Result<_, _>>()?;
        let peak_kb = self
            .job_processes
            .iter()
            .map(|job_process| job_process.memory.peak_kb)
            .sum();
        Ok(Spent {
            took,
            start_up,
            cpu,
            peak_kb,
            bars,
            elsewhere: busy.saturating_sub(cpu.total()),
        })
    }
}

/// Runs the job to the end of what the log holds.
///
/// # Errors
/// It failed, or a person wants it to end.
pub fn backlog(
    program: &Program,
    target: &Target,
    plan: &Plan,
    runtime: &Handle,
    asked: &AtomicBool,
) -> Result<Spent, Error> {
    let mut outside = Outside::new(target, runtime)?;
    let mut job_processes = Lives::until_end(program, plan)?;
    let deadline = Instant::now()
        + PATIENCE
        + PATIENCE_A_TRADE * u32::try_from(plan.shape.trades).unwrap_or(u32::MAX);
    let (messages, mut bar, mut start_up) = (
        plan.shape.messages(),
        Bar::new("running", plan.shape.messages()),
        None,
    );
    while job_processes.look()? {
        if asked.load(Ordering::Acquire) {
            return Err(Error::Interrupted);
        }
        if Instant::now() > deadline {
            return Err(Error::Failed("the job does not end".into()));
        }
        if start_up.is_none() || bar.is_due() {
            let committed = outside
                .checkpoint()
                .map_or(0, |checkpoint| committed(&checkpoint));
            if committed > 0 && start_up.is_none() {
                start_up = Some(job_processes.age());
            }
            if bar.is_due() {
                bar.show(
                    committed.min(messages),
                    &format!(", {} MB", job_processes.memory_kb() / 1_024),
                );
            }
        }
        thread::sleep(LOOK);
    }
    job_processes.spent(start_up)
}

/// The store as anyone may see it.
pub(crate) struct Outside<'a> {
    target: &'a Target,
    pub(crate) runtime: &'a Handle,
    store: Option<Arc<dyn Store>>,
}

impl<'a> Outside<'a> {
    pub(crate) fn new(target: &'a Target, runtime: &'a Handle) -> Result<Self, Error> {
        Ok(Self {
            target,
            runtime,
            store: target.look(runtime)?,
        })
    }

    /// The store, once it is there.
    pub(crate) fn store(&mut self) -> Option<Arc<dyn Store>> {
        if self.store.is_none() {
            self.store = self.target.look(self.runtime).ok().flatten();
        }
        self.store.clone()
    }

    /// The checkpoint, if there is one and the store answers.
    pub(crate) fn checkpoint(&mut self) -> Option<Checkpoint> {
        let store = self.store()?;
        self.runtime.block_on(store.checkpoint()).ok().flatten()
    }
}

/// How many records are committed.
pub(crate) fn committed(checkpoint: &Checkpoint) -> u64 {
    checkpoint
        .committed
        .cuts
        .iter()
        .map(|cut| u64::try_from(cut.next).unwrap_or(0))
        .sum()
}

/// Addresses of this machine without a listener.
fn hosts(processes: usize) -> Result<String, Error> {
    let failed = |error: std::io::Error| Error::Failed(format!("no port is free: {error}"));
    let listeners: Vec<TcpListener> = (0..processes)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    let address = |listener: &TcpListener| {
        listener
            .local_addr()
            .map(|address| address.to_string())
            .map_err(failed)
    };
    Ok(listeners
        .iter()
        .map(address)
        .collect::<Result<Vec<_>, _>>()?
        .join(","))
}

/// What a process said at its end that it had written.
fn bars_written(job_process: &JobProcess) -> Result<u64, Error> {
    let said = fs::read_to_string(job_process.log()).unwrap_or_default();
    bars_said(&said).ok_or_else(|| {
        Error::Failed(format!(
            "{} does not end with what the job wrote",
            job_process.log().display()
        ))
    })
}

fn bars_said(log: &str) -> Option<u64> {
    let last = log.lines().rev().find(|line| line.contains("job ended"))?;
    serde_json::from_str::<Value>(last).ok()?["fields"]["bars"].as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bars_are_those_the_last_job_process_told() {
        let log = "{\"fields\":{\"message\":\"job \
        begins\"}}\n{\"level\":\"INFO\",\"fields\":{\"message\":\"job ended, all is committed\",\"bars\":17}}\n";
        assert_eq!(bars_said(log), Some(17));
        assert_eq!(bars_said("thread panicked"), None);
    }

    #[test]
    fn processes_get_addresses_of_their_own() {
        let hosts = hosts(3).expect("ports");
        let mut each: Vec<&str> = hosts.split(',').collect();
        each.dedup();
        assert_eq!(each.len(), 3);
    }
}
