//! A run: servers up, and for each topic fill, catch up, kill and start again, and check.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rand::Rng;
use tapeflow_protocol::CheckpointStore;
use tapeflow_schemas::{AssetClass, BarKey, EventTime, Symbol, WindowSize};
use tapeflow_sinks::cassandra::CassandraStore;
use tapeflow_throughput::{Error, job_process::JobProcess, now_ms};
use tokio::runtime::Runtime;

use crate::{
    Settings, check,
    feed::Feed,
    job::{self, Binary},
    preload::{self, SPAN_MS},
    records::Records,
    report::{CatchUp, Outcome, Report, Waits},
    restart::{self, Progress, Restart},
    servers::{Servers, said},
};

const PARTITIONS: u32 = 4;
/// Between a kill and the next start.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a job runs before it is killed, in milliseconds: while it keeps up, and on its way.
const LIVES_MS: std::ops::Range<u64> = 2_000..6_000;
const LIVES_BEHIND_MS: std::ops::Range<u64> = 0..1_500;
/// So many messages have trades of all symbols.
const LEFT: u64 = 1_000;
/// A slower restart is printed with the log of the process.
const SLOW: Duration = Duration::from_secs(3);
/// How long a job may take to the end: this, and that for each message.
const PATIENCE: Duration = Duration::from_secs(600);
const PATIENCE_A_MESSAGE: Duration = Duration::from_micros(100);
const INIT_PATIENCE: Duration = Duration::from_secs(60);
/// How often progress is printed.
const PROGRESS: Duration = Duration::from_secs(10);

/// Runs it all, and prints the report; whether bars came to what they must.
///
/// # Errors
/// It could not be measured.
pub(crate) fn run(settings: &Settings) -> Result<bool, String> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package
        .ancestors()
        .nth(2)
        .ok_or("the package lies two folders below the root")?;
    let binary = prepare(settings, root)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    eprintln!("starting Kafka and Cassandra");
    let servers = Servers::start(root, &settings.stack, settings.ports)?;
    let mut report = Report {
        command: command_line(),
        rate: settings.rate,
        workers: settings.workers,
        outcomes: Vec::new(),
    };
    let mut is_right = true;
    let topics = settings.messages.iter().flat_map(|messages| {
        settings
            .symbols
            .iter()
            .map(move |symbols| (messages, symbols))
    });
    for (messages, symbols) in topics {
        let stage = Stage {
            settings,
            binary: &binary,
            servers: &servers,
            runtime: &runtime,
            messages: *messages,
            symbols: *symbols,
            topic: format!("restart_{messages}_{symbols}"),
        };
        let (outcome, right) = stage.topic()?;
        report.outcomes.push(outcome);
        is_right &= right;
        if let Some(path) = &settings.report {
            fs::write(path, report.markdown())
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
    }
    println!("{}", report.markdown());
    Ok(is_right)
}

/// The binary, and a folder for its logs.
fn prepare(settings: &Settings, root: &Path) -> Result<Binary, String> {
    let logs = root
        .join("target/stack")
        .join(format!("{}-logs", settings.stack));
    let failed = |error: std::io::Error| format!("{}: {error}", logs.display());
    if logs.exists() {
        fs::remove_dir_all(&logs).map_err(failed)?;
    }
    fs::create_dir_all(&logs).map_err(failed)?;
    let path: PathBuf = match &settings.binary {
        Some(path) => path
            .canonicalize()
            .map_err(|error| format!("--binary: {}: {error}", path.display()))?,
        None => job::build(root, &logs)?,
    };
    Ok(Binary::new(path, logs, settings.workers))
}

/// The command that ran this, as one would type it.
fn command_line() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    format!(
        "cargo run --release -p tapeflow-restart -- {}",
        arguments.join(" ")
    )
}

/// One topic.
struct Stage<'a> {
    settings: &'a Settings,
    binary: &'a Binary,
    servers: &'a Servers,
    runtime: &'a Runtime,
    /// How many it holds before the feed begins.
    messages: u64,
    /// How many symbols trade in it.
    symbols: u32,
    /// Its name, and that of its keyspace.
    topic: String,
}

impl Stage<'_> {
    fn topic(&self) -> Result<(Outcome, bool), String> {
        let messages = self.messages;
        self.init(&self.topic)?;
        let mut records = Records::new(PARTITIONS, self.symbols as usize)?;
        let preload =
            preload::preload(&self.servers.brokers(), &self.topic, &mut records, messages)?;
        let topic_bytes = self.servers.bytes_of(&self.topic);
        let catch_up = self.catch_up()?;
        let behind = self.behind(&records)?;
        let (restarts, waits, records) = self.keep_up(records)?;
        let (result, right) = match self.compare(&records, messages <= self.settings.verify_up_to) {
            Ok(result) => (result, true),
            Err(error) => (format!("FAULT: {error}"), false),
        };
        eprintln!("{result}");
        Ok((
            Outcome {
                messages,
                symbols: self.symbols,
                preload,
                topic_bytes,
                catch_up,
                restarts,
                waits,
                behind,
                result,
            },
            right,
        ))
    }

    /// Makes the topic, and a keyspace: servers that say they have started may not listen yet.
    fn init(&self, keyspace: &str) -> Result<(), String> {
        let (brokers, store, partitions) = (
            self.servers.brokers(),
            self.servers.store(keyspace),
            PARTITIONS.to_string(),
        );
        let arguments = [
            "init",
            "--brokers",
            &brokers,
            "--topic",
            &self.topic,
            "--store",
            &store,
            "--partitions",
            &partitions,
            "--replication",
            "1",
        ];
        let deadline = Instant::now() + INIT_PATIENCE;
        loop {
            match said(&mut self.binary.command(&arguments)) {
                Err(_) if Instant::now() < deadline => thread::sleep(PAUSE),
                done => return done.map(drop),
            }
        }
    }

    fn connect(&self, keyspace: &str) -> Result<CassandraStore, String> {
        self.runtime.block_on(self.servers.connect(keyspace))
    }

    /// A job that begins at the first message and ends at the last.
    fn catch_up(&self) -> Result<CatchUp, String> {
        let messages = self.messages;
        let store = self.connect(&self.topic)?;
        let mut job_process = self.binary.start(
            self.servers,
            &self.topic,
            &self.topic,
            &["--until-end"],
            "catch-up",
        )?;
        let patience = PATIENCE + PATIENCE_A_MESSAGE * u32::try_from(messages).unwrap_or(u32::MAX);
        let mut told = Instant::now();
        let took = job_process.end(patience, |job_process| {
            if told.elapsed() > PROGRESS {
                told = Instant::now();
                let checkpoint = self.runtime.block_on(store.checkpoint()).ok().flatten();
                let committed: i64 = checkpoint.map_or(0, |checkpoint| {
                    checkpoint.committed.cuts.iter().map(|cut| cut.next).sum()
                });
                eprintln!(
                    "catch-up: {committed} of {messages} committed after {:.0} s, CPU {:.0} s, {} \
                     MB, at most {} MB",
                    job_process.begun.elapsed().as_secs_f64(),
                    job_process.cpu.total().as_secs_f64(),
                    job_process.memory.now_kb / 1_024,
                    job_process.memory.peak_kb / 1_024
                );
            }
            Ok(())
        });
        let took = took.map_err(failed)?;
        let done = CatchUp {
            took,
            cpu: job_process.cpu.total(),
            peak_kb: job_process.memory.peak_kb,
        };
        eprintln!("catch-up: {messages} messages, {done:?}");
        Ok(done)
    }

    /// Another job over the same topic, killed on its way again and again.
    fn behind(&self, records: &Records) -> Result<Vec<Restart>, String> {
        let kills = self.settings.kills_behind;
        if kills == 0 {
            return Ok(Vec::new());
        }
        let keyspace = format!("{}_behind", self.topic);
        self.init(&keyspace)?;
        let store = self.connect(&keyspace)?;
        let mut job_process =
            self.binary
                .start(self.servers, &self.topic, &keyspace, &[], "first")?;
        // Partitions are read at a pace of their own: one of them may have been read to its end.
        let (watched, mut restarts) = (records.of_each_partition(), Vec::new());
        for number in 1..=kills {
            self.runtime
                .block_on(restart::goes_on(&store, &mut job_process, None))?;
            thread::sleep(Duration::from_millis(
                rand::rng().random_range(LIVES_BEHIND_MS),
            ));
            let mut stood = self.kill(&store, job_process)?;
            let Some(reached_ms) = stood.watermark_ms.filter(|_| self.is_behind(&store)) else {
                eprintln!("behind: the job came to the end of the topic before kill {number}");
                break;
            };
            let keys = || hours(&watched, reached_ms, reached_ms + SPAN_MS);
            stood.seen = self.runtime.block_on(restart::seen(&store, &keys()))?;
            job_process = self.binary.start(
                self.servers,
                &self.topic,
                &keyspace,
                &[],
                &format!("{number}"),
            )?;
            let restart = self.runtime.block_on(restart::measure(
                &store,
                &mut job_process,
                stood,
                false,
                keys,
            ))?;
            self.tell("behind", &restart, &job_process);
            restarts.push(restart);
        }
        Ok(restarts)
    }

    /// Whether there is something left that is not bound yet.
    fn is_behind(&self, store: &CassandraStore) -> bool {
        let checkpoint = self.runtime.block_on(store.checkpoint()).ok().flatten();
        let bound: i64 = checkpoint.map_or(0, |checkpoint| {
            checkpoint
                .last_binding()
                .cuts
                .iter()
                .map(|cut| cut.next)
                .sum()
        });
        u64::try_from(bound).is_ok_and(|bound| bound + LEFT < self.messages)
    }

    /// The job of the catch-up, killed again and again while it keeps up with a feed.
    fn keep_up(&self, records: Records) -> Result<(Vec<Restart>, Waits, Records), String> {
        let (store, hot) = (self.connect(&self.topic)?, records.hot()?);
        let feed = Feed::start(
            &self.servers.brokers(),
            &self.topic,
            records,
            self.settings.rate,
        )?;
        let before = self.runtime.block_on(restart::read_progress(&store))?;
        let mut job_process =
            self.binary
                .start(self.servers, &self.topic, &self.topic, &[], "live")?;
        self.runtime
            .block_on(restart::goes_on(&store, &mut job_process, Some(before)))?;
        let mut waits = Waits::default();
        for _ in 0..self.settings.late {
            let wait = |first: &dyn Fn()| {
                thread::sleep(PAUSE);
                self.runtime
                    .block_on(restart::wait(&store, || minutes(&hot), first))
            };
            waits.without.push(wait(&|| {})?);
            waits.with.push(wait(&|| feed.send_late())?);
        }
        eprintln!("a late trade: {waits:?}");
        let mut restarts: Vec<Restart> = Vec::new();
        for number in 1..=self.settings.kills {
            thread::sleep(Duration::from_millis(rand::rng().random_range(LIVES_MS)));
            job_process.must_live().map_err(failed)?;
            if let Some(last) = restarts.last_mut() {
                last.peak_kb = job_process.memory.peak_kb;
            }
            let mut stood = self.kill(&store, job_process)?;
            stood.seen = self
                .runtime
                .block_on(restart::seen(&store, &minutes(&hot)))?;
            job_process = self.binary.start(
                self.servers,
                &self.topic,
                &self.topic,
                &[],
                &format!("{number}"),
            )?;
            let restart = self.runtime.block_on(restart::measure(
                &store,
                &mut job_process,
                stood,
                true,
                || minutes(&hot),
            ))?;
            self.tell("restart", &restart, &job_process);
            restarts.push(restart);
        }
        let records = feed.end()?;
        job_process.ask_to_end();
        job_process.end(PATIENCE, |_| Ok(())).map_err(failed)?;
        if let Some(last) = restarts.last_mut() {
            last.peak_kb = job_process.memory.peak_kb;
        }
        Ok((restarts, waits, records))
    }

    /// kill -9, and where the job stood then.
    fn kill(&self, store: &CassandraStore, job_process: JobProcess) -> Result<Progress, String> {
        job_process.kill().map_err(failed)?;
        let killed = Instant::now();
        let stood = self.runtime.block_on(restart::read_progress(store))?;
        thread::sleep(PAUSE.saturating_sub(killed.elapsed()));
        Ok(stood)
    }

    fn tell(&self, what: &str, restart: &Restart, job_process: &JobProcess) {
        eprintln!("{what} behind {}: {restart:?}", self.topic);
        if restart.fresh > SLOW {
            eprintln!(
                "{what}: the log of the process, from its start:\n{}",
                job_process.said()
            );
        }
    }

    /// Runs the job to the end of the topic, and holds bars against what was sent.
    fn compare(&self, records: &Records, verify: bool) -> Result<String, String> {
        self.binary
            .start(
                self.servers,
                &self.topic,
                &self.topic,
                &["--until-end"],
                "end",
            )?
            .end(PATIENCE, |_| Ok(()))
            .map_err(failed)?;
        let result = self
            .runtime
            .block_on(check::check(&self.connect(&self.topic)?, records.written()))?;
        if !verify {
            return Ok(result);
        }
        let (brokers, store) = (self.servers.brokers(), self.servers.store(&self.topic));
        let verified = said(&mut self.binary.command(&[
            "verify",
            "--brokers",
            &brokers,
            "--topic",
            &self.topic,
            "--store",
            &store,
        ]))?;
        Ok(format!(
            "{result}; `tapeflow verify`: {}",
            verified.lines().last().unwrap_or_default()
        ))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: Error) -> String {
    error.to_string()
}

/// The bars of a symbol's current minute and the one before.
fn minutes(symbol: &Symbol) -> Vec<BarKey> {
    let now = now_ms();
    bars(
        std::slice::from_ref(symbol),
        WindowSize::DEFAULTS[1],
        &[now - 60_000, now],
    )
}

/// The bars of symbols' hours that hold these times.
fn hours(symbols: &[Symbol], from_ms: i64, to_ms: i64) -> Vec<BarKey> {
    bars(symbols, WindowSize::DEFAULTS[3], &[from_ms, to_ms])
}

fn bars(symbols: &[Symbol], size: WindowSize, times: &[i64]) -> Vec<BarKey> {
    let mut starts: Vec<_> = times
        .iter()
        .filter_map(|time| Some(size.start_of(EventTime::from_ms(*time)?, AssetClass::Stock)))
        .collect();
    starts.dedup();
    let keys = |symbol: &Symbol| {
        starts
            .iter()
            .map(|start| BarKey {
                symbol: symbol.clone(),
                size,
                start: *start,
            })
            .collect::<Vec<_>>()
    };
    symbols.iter().flat_map(keys).collect()
}
