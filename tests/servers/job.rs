//! The binary's commands, and a job of several processes made of them.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

pub(crate) use crate::binary::tapeflow;
use crate::{CQL_PORT, KAFKA_PORT};

/// How long any one command may take before the test gives up on it.
const PATIENCE: Duration = Duration::from_secs(600);

/// `--brokers`.
pub(crate) fn brokers() -> String {
    format!("127.0.0.1:{KAFKA_PORT}")
}

/// `--store`, of a keyspace.
pub(crate) fn store(keyspace: &str) -> String {
    format!("cassandra://127.0.0.1:{CQL_PORT}/{keyspace}")
}

/// Runs a command to its end, and tells what it said if it failed.
pub(crate) fn succeed(arguments: &[&str]) -> Result<String, String> {
    let output = tapeflow(arguments)
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(told(arguments, &output))
    }
}

/// What a command said, for a person.
pub(crate) fn told(arguments: &[&str], output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "tapeflow {}: {}\n{}{}",
        arguments.join(" "),
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    )
}

/// A topic filled from a file, and keyspaces for it.
pub(crate) struct Feed {
    pub(crate) topic: String,
}

impl Feed {
    /// Makes the topic with four partitions and fills it.
    pub(crate) fn publish(topic: &str, keyspace: &str, file: &Path) -> Result<Self, String> {
        let feed = Self {
            topic: topic.to_owned(),
        };
        feed.init(keyspace)?;
        feed.ingest(file)?;
        Ok(feed)
    }

    /// `tapeflow init`.
    pub(crate) fn init(&self, keyspace: &str) -> Result<String, String> {
        succeed(&[
            "init",
            "--brokers",
            &brokers(),
            "--topic",
            &self.topic,
            "--store",
            &store(keyspace),
            "--partitions",
            "4",
            "--replication",
            "1",
        ])
    }

    /// `tapeflow ingest --replay`.
    pub(crate) fn ingest(&self, file: &Path) -> Result<String, String> {
        let file = file.to_str().ok_or("a path in UTF-8")?;
        succeed(&[
            "ingest",
            "--brokers",
            &brokers(),
            "--topic",
            &self.topic,
            "--replay",
            file,
            "--until-end",
        ])
    }

    /// `tapeflow ingest --replay` in the background, so many times as fast as it happened.
    pub(crate) fn ingest_paced(&self, file: &Path, speed: &str) -> Result<Child, String> {
        let file = file.to_str().ok_or("a path in UTF-8")?;
        let arguments = [
            "ingest",
            "--brokers",
            &brokers(),
            "--topic",
            &self.topic,
            "--replay",
            file,
            "--until-end",
            "--speed",
            speed,
        ];
        tapeflow(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())
    }

    /// `tapeflow verify`, which must find no difference.
    pub(crate) fn verify(&self, keyspace: &str) -> Result<String, String> {
        succeed(&[
            "verify",
            "--brokers",
            &brokers(),
            "--topic",
            &self.topic,
            "--store",
            &store(keyspace),
        ])
    }
}

/// The processes of a job, killed when dropped.
pub(crate) struct Job {
    pub(crate) processes: Vec<Child>,
    logs: Vec<PathBuf>,
}

/// A free range of cluster ports for each job: a port of a killed process may linger.
static NEXT_PORT: AtomicU16 = AtomicU16::new(23_000);

/// When a job ends by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// Once what is in the topic at the start is committed.
    WithTheLog,
    /// When it is killed.
    Never,
}

impl Job {
    /// Starts `tapeflow dataflow` in so many processes of so many workers.
    pub(crate) fn start(
        feed: &Feed,
        keyspace: &str,
        workers: usize,
        processes: usize,
        ends: Ends,
    ) -> Result<Self, String> {
        Self::start_with(
            feed,
            keyspace,
            workers,
            processes,
            if ends == Ends::WithTheLog {
                &["--until-end"]
            } else {
                &[]
            },
        )
    }

    /// Starts processes that are started again when they end; they end when they are asked to.
    pub(crate) fn start_supervised(
        feed: &Feed,
        keyspace: &str,
        workers: usize,
        processes: usize,
    ) -> Result<Self, String> {
        Self::start_with(feed, keyspace, workers, processes, &["--supervise"])
    }

    /// Starts it with further flags.
    pub(crate) fn start_with(
        feed: &Feed,
        keyspace: &str,
        workers: usize,
        processes: usize,
        further: &[&str],
    ) -> Result<Self, String> {
        let first = NEXT_PORT.fetch_add(
            u16::try_from(processes).map_err(|error| error.to_string())?,
            Ordering::Relaxed,
        );
        let hosts: Vec<String> = (first..)
            .take(processes)
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        Self::start_at(feed, keyspace, workers, &vec![hosts; processes], further)
    }

    /// Starts a process for each list of addresses: where it believes all of them to be.
    pub(crate) fn start_at(
        feed: &Feed,
        keyspace: &str,
        workers: usize,
        hosts_of: &[Vec<String>],
        further: &[&str],
    ) -> Result<Self, String> {
        let processes = hosts_of.len();
        let first = hosts_of[0][0].replace(':', "-");
        let mut job = Self {
            processes: Vec::new(),
            logs: Vec::new(),
        };
        for (process, hosts) in hosts_of.iter().enumerate() {
            let log = Path::new(env!("CARGO_TARGET_TMPDIR"))
                .join(format!("{keyspace}-{first}-{process}.log"));
            let file = File::create(&log).map_err(|error| error.to_string())?;
            let (workers, all, this) = (
                workers.to_string(),
                processes.to_string(),
                process.to_string(),
            );
            let (brokers, store, hosts) = (brokers(), store(keyspace), hosts.join(","));
            let mut arguments = vec![
                "dataflow",
                "--brokers",
                &brokers,
                "--topic",
                &feed.topic,
                "--store",
                &store,
                "--workers",
                &workers,
            ];
            arguments.extend(further);
            if processes > 1 {
                arguments.extend(["--processes", &all, "--process", &this, "--hosts", &hosts]);
            }
            // Memory for a few bars: nearly every bar is evicted and read back.
            arguments.extend(["--bar-memory", "4KiB"]);
            let child = tapeflow(&arguments)
                .stdout(file.try_clone().map_err(|error| error.to_string())?)
                .stderr(file)
                .spawn();
            job.processes
                .push(child.map_err(|error| error.to_string())?);
            job.logs.push(log);
        }
        Ok(job)
    }

    /// Starts one process of a job of several, by its number and their count.
    pub(crate) fn start_part(
        feed: &Feed,
        keyspace: &str,
        (process, processes): (usize, usize),
        bar_memory: &str,
    ) -> Result<Self, String> {
        let hosts: Vec<String> = (22_900..)
            .take(processes)
            .map(|port: u16| format!("127.0.0.1:{port}"))
            .collect();
        let log =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("part-{keyspace}-{process}.log"));
        let file = File::create(&log).map_err(|error| error.to_string())?;
        let (brokers, store, hosts) = (brokers(), store(keyspace), hosts.join(","));
        let (process, processes) = (process.to_string(), processes.to_string());
        let arguments = [
            "dataflow",
            "--brokers",
            &brokers,
            "--topic",
            &feed.topic,
            "--store",
            &store,
            "--hosts",
            &hosts,
        ];
        let mut command = tapeflow(&arguments);
        command.args([
            "--process",
            &process,
            "--processes",
            &processes,
            "--bar-memory",
            bar_memory,
        ]);
        let child = command
            .stdout(file.try_clone().map_err(|error| error.to_string())?)
            .stderr(file)
            .spawn();
        Ok(Self {
            processes: vec![child.map_err(|error| error.to_string())?],
            logs: vec![log],
        })
    }

    /// Waits until all processes have ended, and demands that they ended well.
    pub(crate) fn finish(mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        for at in 0..self.processes.len() {
            let status = wait(&mut self.processes[at], deadline)?
                .ok_or_else(|| format!("process {at} does not end: {}", self.log(at)))?;
            if !status.success() {
                return Err(format!(
                    "process {at} ended with {status}: {}",
                    self.log(at)
                ));
            }
        }
        Ok(())
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, at: usize) {
        let _ = self.processes[at].kill();
        let _ = self.processes[at].wait();
    }

    /// Waits for the others to notice that one is gone and to leave by themselves, all of them
    /// within `patience`.
    pub(crate) fn left_by_themselves(&mut self, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        for at in 0..self.processes.len() {
            if wait(&mut self.processes[at], deadline)?.is_none() {
                return Err(format!(
                    "process {at} stays although another is gone: {}",
                    self.log(at)
                ));
            }
        }
        Ok(())
    }

    /// Waits for a process to end by itself.
    pub(crate) fn ended(
        &mut self,
        at: usize,
        patience: Duration,
    ) -> Result<std::process::ExitStatus, String> {
        wait(&mut self.processes[at], Instant::now() + patience)?
            .ok_or_else(|| format!("process {at} stays: {}", self.log(at)))
    }

    pub(crate) fn log(&self, at: usize) -> String {
        std::fs::read_to_string(&self.logs[at]).unwrap_or_default()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn wait(
    process: &mut Child,
    deadline: Instant,
) -> Result<Option<std::process::ExitStatus>, String> {
    loop {
        match process.try_wait().map_err(|error| error.to_string())? {
            Some(status) => return Ok(Some(status)),
            None if Instant::now() >= deadline => return Ok(None),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
