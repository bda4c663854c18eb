//! The job: its binary, and *job runs*. A job run is a set of processes that start and end
//! together.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{cluster::Cluster, proxy::Proxy};

const LOOK: Duration = Duration::from_millis(20);

/// The binary under test, and where its processes' logs go.
pub(crate) struct Binary {
    path: PathBuf,
    logs: PathBuf,
    job_runs: u32,
}

/// How many there are, and how they are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) processes: u16,
    /// In each process.
    pub(crate) workers: u16,
    /// Whether each has a supervisor that starts it again.
    pub(crate) supervised: bool,
    /// The bars that fit into `--bar-memory`, for each worker.
    pub(crate) resident_bars: u32,
    /// `--epoch`.
    pub(crate) epoch_ms: u32,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = if self.supervised {
            "supervised"
        } else {
            "plain"
        };
        write!(
            f,
            "{} x {} workers, {how}, {} bars, {} ms",
            self.processes, self.workers, self.resident_bars, self.epoch_ms
        )
    }
}

/// Where one process ends itself.
pub(crate) struct FailpointTrigger {
    pub(crate) process: usize,
    pub(crate) failpoint: String,
}

/// How far the clocks of processes are off, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Skew {
    /// Of this one, or of all.
    pub(crate) process: Option<usize>,
    pub(crate) seconds: i64,
}

/// What is started.
pub(crate) struct Orders<'a> {
    pub(crate) shape: Shape,
    /// Its topic and its keyspace, which bear the same name.
    pub(crate) name: &'a str,
    pub(crate) trap: Option<&'a FailpointTrigger>,
    pub(crate) skew: Option<Skew>,
    /// Further arguments.
    pub(crate) further: &'a [&'a str],
}

impl<'a> Orders<'a> {
    /// Processes of a job without faults.
    pub(crate) fn new(shape: Shape, name: &'a str) -> Self {
        Self {
            shape,
            name,
            trap: None,
            skew: None,
            further: &[],
        }
    }
}

/// Builds the binary with failpoints, and copies it: others may build another one at the same place
/// while this run continues.
///
/// Along with a test of the whole workspace, so that dependencies have the features that they have
/// in the build of the tests: alone, nearly all of them would be built again.
pub(crate) fn build(root: &Path, to: &Path) -> Result<PathBuf, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--workspace",
        "--bin",
        "tapeflow",
        "--test",
        "kill_loop",
        "--features",
        "tapeflow/failpoints",
    ]);
    command.args(["--locked", "--message-format", "json"]);
    let output = command
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|fault| format!("cargo does not start: {fault}"))?;
    if !output.status.success() {
        return Err(format!("the binary does not build: {}", output.status));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut of_job = messages
        .lines()
        .filter(|line| line.contains("\"name\":\"tapeflow\""));
    let executable =
        of_job.find_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next());
    let built = executable.ok_or("cargo does not say where the binary is")?;
    let path = to.join("tapeflow");
    fs::copy(built, &path).map_err(|fault| format!("cannot copy {built}: {fault}"))?;
    Ok(path)
}

impl Binary {
    pub(crate) fn new(path: PathBuf, logs: PathBuf) -> Self {
        Self {
            path,
            logs,
            job_runs: 0,
        }
    }

    /// A command without settings from the environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(arguments).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TAPEFLOW_")) {
            command.env_remove(name);
        }
        command
    }

    /// Where the logs are.
    pub(crate) fn logs(&self) -> &Path {
        &self.logs
    }

    /// Starts a job run.
    pub(crate) fn start(
        &mut self,
        cluster: &mut Cluster,
        orders: &Orders<'_>,
    ) -> Result<JobRun, String> {
        self.job_runs += 1;
        let Orders {
            shape,
            name,
            trap,
            skew,
            further,
        } = *orders;
        let meeting = cluster.cluster(shape.processes)?;
        let mut job_run = JobRun {
            number: self.job_runs,
            shape,
            places: Vec::new(),
            _proxies: meeting.proxies,
        };
        for process in 0..usize::from(shape.processes) {
            let mut arguments: Vec<String> = vec!["dataflow".into()];
            let mut flag =
                |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
            flag("brokers", cluster.job_brokers());
            flag("topic", name.into());
            flag("store", cluster.job_store(name));
            flag("workers", shape.workers.to_string());
            // About half a kilobyte for a bar.
            let bar_memory = u64::from(shape.resident_bars) * 512 * u64::from(shape.workers);
            flag("bar-memory", bar_memory.to_string());
            flag("epoch", format!("{}ms", shape.epoch_ms));
            if shape.processes > 1 {
                flag("processes", shape.processes.to_string());
                flag("process", process.to_string());
                let host = |at: usize| {
                    if at == process {
                        &meeting.near[at]
                    } else {
                        &meeting.far[at]
                    }
                };
                flag(
                    "hosts",
                    (0..meeting.near.len())
                        .map(|at| host(at).as_str())
                        .collect::<Vec<_>>()
                        .join(","),
                );
            }
            if shape.supervised {
                arguments.push("--supervise".into());
            }
            arguments.extend(further.iter().map(|argument| (*argument).to_owned()));
            let failpoint = trap
                .filter(|trap| trap.process == process)
                .map(|trap| trap.failpoint.clone());
            let clock = skew
                .filter(|skew| skew.process.is_none_or(|at| at == process))
                .map(|skew| skew.seconds);
            let log = self
                .logs
                .join(format!("job run-{:04}-{process}.log", self.job_runs));
            let mut place = Place {
                arguments,
                failpoint,
                clock,
                log,
                child: None,
                ended: None,
            };
            place.start(self)?;
            job_run.places.push(place);
        }
        Ok(job_run)
    }
}

/// One process, or a supervisor with its process.
struct Place {
    arguments: Vec<String>,
    failpoint: Option<String>,
    /// Seconds that its clock is off.
    clock: Option<i64>,
    log: PathBuf,
    child: Option<Child>,
    ended: Option<ExitStatus>,
}

impl Place {
    fn start(&mut self, binary: &Binary) -> Result<(), String> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(|fault| format!("{}: {fault}", self.log.display()))?;
        let mut command = binary.command(
            &self
                .arguments
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
        );
        if let Some(failpoint) = &self.failpoint {
            command.env("TAPEFLOW_FAILPOINT", failpoint);
        }
        if let Some(seconds) = self.clock {
            command.env("TAPEFLOW_CLOCK_OFFSET_S", seconds.to_string());
        }
        command
            .stdout(log.try_clone().map_err(|fault| fault.to_string())?)
            .stderr(log);
        self.child = Some(
            command
                .spawn()
                .map_err(|fault| format!("the binary does not start: {fault}"))?,
        );
        self.ended = None;
        Ok(())
    }

    fn pid(&self) -> Option<u32> {
        self.child
            .as_ref()
            .filter(|_| self.ended.is_none())
            .map(Child::id)
    }
}

/// Processes that were started together; killed when dropped.
pub(crate) struct JobRun {
    pub(crate) number: u32,
    pub(crate) shape: Shape,
    places: Vec<Place>,
    /// Between the processes.
    _proxies: Vec<Proxy>,
}

impl JobRun {
    /// How many processes there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The process that does the work at a place: the child of its supervisor, if it has one; none
    /// between two of those.
    pub(crate) fn worker(&self, at: usize) -> Option<u32> {
        let pid = self.places[at].pid()?;
        if !self.shape.supervised {
            return Some(pid);
        }
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// kill -9 of the process that does the work; whether there was one.
    pub(crate) fn kill_worker(&self, at: usize) -> bool {
        self.worker(at).is_some_and(|pid| send(pid, Signal::KILL))
    }

    /// Stops the process that does the work, without its noticing; whether there was one.
    pub(crate) fn pause(&self, at: usize) -> Option<u32> {
        self.worker(at).filter(|pid| send(*pid, Signal::STOP))
    }

    /// kill -9 of a supervisor, and waits until its process has died with it.
    pub(crate) fn kill_supervisor(&mut self, at: usize) -> Result<(), String> {
        let worker = self.worker(at);
        self.kill_place(at);
        let deadline = Instant::now() + Duration::from_secs(10);
        while worker.is_some_and(is_alive) {
            if Instant::now() > deadline {
                return Err(format!(
                    "job run {}: process {at} outlives its supervisor",
                    self.number
                ));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Starts a place again in the same job run.
    pub(crate) fn start_again(&mut self, at: usize, binary: &Binary) -> Result<(), String> {
        self.places[at].start(binary)
    }

    fn kill_place(&mut self, at: usize) {
        let place = &mut self.places[at];
        if let Some(child) = &mut place.child
            && place.ended.is_none()
        {
            let _ = child.kill();
            place.ended = child.wait().ok();
        }
    }

    /// kill -9 of everything.
    pub(crate) fn kill_all(&mut self) {
        let workers: Vec<u32> = (0..self.places.len())
            .filter_map(|at| self.worker(at))
            .collect();
        (0..self.places.len()).for_each(|at| self.kill_place(at));
        // A supervisor's process dies with it; this one may be stopped, or just being started.
        if self.shape.supervised {
            for pid in workers.into_iter().filter(|pid| is_alive(*pid)) {
                send(pid, Signal::KILL);
            }
        }
    }

    /// Asks all to end, and waits.
    pub(crate) fn ask_to_end(&mut self, patience: Duration) -> Result<(), String> {
        for pid in self.places.iter().filter_map(Place::pid) {
            send(pid, Signal::TERM);
        }
        self.all_ended(patience)
    }

    /// Waits until all have ended.
    pub(crate) fn all_ended(&mut self, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        loop {
            self.check_ends()?;
            let left: Vec<usize> = (0..self.places.len())
                .filter(|at| self.places[*at].ended.is_none())
                .collect();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "job run {}: process {left:?} still runs; it should have ended within {} s",
                    self.number,
                    patience.as_secs()
                ));
            }
            thread::sleep(LOOK);
        }
    }

    /// Records which processes have ended. A wrong ending is an error.
    pub(crate) fn check_ends(&mut self) -> Result<(), String> {
        let mut wrong = Vec::new();
        for (at, place) in self
            .places
            .iter_mut()
            .enumerate()
            .filter(|(_, place)| place.ended.is_none())
        {
            let Some(child) = &mut place.child else {
                continue;
            };
            place.ended = child.try_wait().map_err(|fault| fault.to_string())?;
            let Some(status) = place.ended else { continue };
            let trapped =
                place.failpoint.is_some() && status.signal() == Some(Signal::ABORT.as_raw());
            let panicked =
                fs::read_to_string(&place.log).is_ok_and(|log| log.contains("panicked at"));
            if panicked || (status.signal().is_some() && !trapped) {
                wrong.push(format!(
                    "job run {}: process {at} ended with {status}; see {}",
                    self.number,
                    place.log.display()
                ));
            }
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.join("\n"))
        }
    }

    /// Whether any has ended.
    pub(crate) fn any_ended(&self) -> bool {
        self.places.iter().any(|place| place.ended.is_some())
    }

    /// Whether a place has ended, and ended itself at its failpoint.
    pub(crate) fn trapped(&self, at: usize) -> bool {
        self.places[at]
            .ended
            .is_some_and(|status| status.signal() == Some(Signal::ABORT.as_raw()))
    }

    /// How those ended that have.
    pub(crate) fn codes(&self) -> Vec<Option<i32>> {
        self.places
            .iter()
            .filter_map(|place| place.ended.map(|status| status.code()))
            .collect()
    }

    /// The output of all processes.
    pub(crate) fn output(&self) -> String {
        self.places
            .iter()
            .filter_map(|place| fs::read_to_string(&place.log).ok())
            .collect()
    }

    /// Adds how they ended.
    pub(crate) fn count_ends(&self, ends: &mut BTreeMap<String, u64>) {
        for status in self.places.iter().filter_map(|place| place.ended) {
            *ends.entry(status.to_string()).or_default() += 1;
        }
    }
}

impl Drop for JobRun {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// Wakes a process that was stopped.
pub(crate) fn wake(pid: u32) {
    send(pid, Signal::CONT);
}

fn send(pid: u32, signal: Signal) -> bool {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// Whether a process exists and is not a zombie that waits for its parent.
fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| !rest.starts_with(" Z"))
    })
}
