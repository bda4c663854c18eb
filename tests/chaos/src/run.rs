//! A run: start the servers, the feed and the readers; run cycles; compare at the end.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::StdRng};
use tapeflow_log::kafka::KafkaConfig;
use tokio::{runtime::Runtime, task::JoinHandle};

use crate::{
    Settings,
    checker::{FinalComparison, Topic},
    cluster::{Cluster, MAIN, output_of},
    cycle::Stage,
    fault_schedule::FaultSchedule,
    feed::{self, Fed, FeedSettings},
    ingest::Ingest,
    job::{self, Binary},
    ledger::Ledger,
    reader::{Observed, Readers},
    recording::Recording,
    report::Outcome,
    watch::Watch,
};

/// How long the last processes may take to the end of the topic.
const LAST_PATIENCE: Duration = Duration::from_secs(600);
/// The symbols of the recording.
const RECORDED: usize = 6;
/// The default number of cycles.
const CYCLES: u32 = 25;

/// Runs it all; whether nothing was found that must not be.
///
/// # Errors
/// It could not begin.
pub(crate) fn run(settings: Settings) -> Result<bool, String> {
    let begun = Instant::now();
    let binary = prepare(&settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|fault| fault.to_string())?;
    eprintln!("starting {} node(s) of each server", settings.nodes);
    let cluster = Cluster::start(
        &settings.stack,
        settings.nodes,
        settings.ports,
        runtime.handle().clone(),
    )?;
    init(&binary, &cluster, MAIN)?;
    let world = World::begin(&settings, &runtime, &cluster)?;
    let watch = Watch::new(
        runtime.handle().clone(),
        runtime.block_on(cluster.connect(MAIN))?,
    );
    let fault_schedule = FaultSchedule::new(settings.seed, settings.nodes, settings.only.clone());
    let random = StdRng::seed_from_u64(settings.seed ^ 0x5eed);
    let recording = Recording::new(
        binary.logs().join("recording.jsonl"),
        Arc::clone(&world.ledger),
        settings.seed,
    );
    let ingest = Ingest::new(recording, &cluster, MAIN, settings.seed)?;
    let mut stage = Stage {
        cluster,
        binary,
        watch,
        fault_schedule,
        random,
        ledger: Arc::clone(&world.ledger),
        ingest,
        preparing: None,
        damaged: 0,
        was_ahead: false,
        ends: BTreeMap::new(),
        job_run: None,
    };
    if stage.fault_schedule.has_topic_faults() {
        stage.prepare_small()?;
    }
    let mut outcome = Outcome {
        command: command_line(),
        nodes: settings.nodes,
        seed: settings.seed,
        ..Outcome::default()
    };
    cycles(&settings, &mut stage, &world, &mut outcome, begun);
    if let Err(fault) = checker(&runtime, &mut stage, world, &mut outcome) {
        outcome.faults.push(fault);
    }
    outcome.took = begun.elapsed();
    outcome.ends = std::mem::take(&mut stage.ends);
    let text = outcome.markdown();
    println!("{text}");
    if let Some(path) = &settings.report {
        fs::write(path, &text)
            .map_err(|fault| format!("cannot write {}: {fault}", path.display()))?;
    }
    if !outcome.faults.is_empty() {
        eprintln!(
            "the logs of all processes are in {}",
            stage.binary.logs().display()
        );
    }
    Ok(outcome.faults.is_empty())
}

/// The binary, and a folder for its logs.
fn prepare(settings: &Settings) -> Result<Binary, String> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package
        .ancestors()
        .nth(2)
        .ok_or("the package lies two folders below the root")?;
    let logs = root
        .join("target/stack")
        .join(format!("{}-logs", settings.stack));
    let failed = |fault: std::io::Error| format!("{}: {fault}", logs.display());
    if logs.exists() {
        fs::remove_dir_all(&logs).map_err(failed)?;
    }
    fs::create_dir_all(&logs).map_err(failed)?;
    let path = match &settings.binary {
        Some(path) => path
            .canonicalize()
            .map_err(|fault| format!("--binary: {}: {fault}", path.display()))?,
        None => job::build(root, &logs)?,
    };
    Ok(Binary::new(path, logs))
}

/// `tapeflow init` of a topic and a keyspace of one name: nodes that have just started may not know
/// of each other yet.
pub(crate) fn init(binary: &Binary, cluster: &Cluster, name: &str) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match output_of(&mut init_command(binary, cluster, name)) {
            Ok(_) => return Ok(()),
            Err(fault) if Instant::now() > deadline => return Err(fault),
            Err(_) => std::thread::sleep(Duration::from_secs(1)),
        }
    }
}

pub(crate) fn init_command(binary: &Binary, cluster: &Cluster, name: &str) -> Command {
    let (brokers, store, copies) = (
        cluster.brokers(),
        cluster.store(name),
        cluster.nodes.to_string(),
    );
    binary.command(&[
        "init",
        "--brokers",
        &brokers,
        "--topic",
        name,
        "--store",
        &store,
        "--replication",
        &copies,
    ])
}

/// The command that ran this, as one would type it.
fn command_line() -> String {
    let quoted = |argument: String| {
        if argument.contains(' ') {
            format!("'{argument}'")
        } else {
            argument
        }
    };
    let arguments: Vec<String> = std::env::args().skip(1).map(quoted).collect();
    format!("cargo run -p tapeflow-chaos -- {}", arguments.join(" "))
}

/// The feed and the readers.
struct World {
    ledger: Arc<Ledger>,
    readers: Readers,
    feed: JoinHandle<Result<Fed, String>>,
    reading: Vec<JoinHandle<()>>,
    stop_feed: Arc<AtomicBool>,
}

impl World {
    fn begin(settings: &Settings, runtime: &Runtime, cluster: &Cluster) -> Result<Self, String> {
        let ledger = Arc::new(Ledger::new('C', usize::from(settings.symbols), RECORDED));
        let kafka = KafkaConfig::new(cluster.brokers(), MAIN);
        let stop_feed = Arc::new(AtomicBool::new(false));
        let feed = runtime.spawn(feed::run(
            FeedSettings {
                kafka,
                seed: settings.seed,
                rate: settings.rate,
            },
            Arc::clone(&ledger),
            Arc::clone(&stop_feed),
        ));
        let observed: Arc<Mutex<Observed>> = Arc::default();
        let readers = Readers {
            ledger: Arc::clone(&ledger),
            observed,
            stop: Arc::new(AtomicBool::new(false)),
        };
        let mut reading = Vec::new();
        for number in 0..u64::from(settings.readers) {
            let store = runtime.block_on(cluster.connect(MAIN))?;
            reading.push(
                runtime.spawn(
                    readers
                        .clone()
                        .run(store, settings.seed.wrapping_add(number + 1)),
                ),
            );
        }
        Ok(Self {
            ledger,
            readers,
            feed,
            reading,
            stop_feed,
        })
    }
}

/// Cycle after cycle, until there were enough or something was found.
fn cycles(
    settings: &Settings,
    stage: &mut Stage,
    world: &World,
    outcome: &mut Outcome,
    begun: Instant,
) {
    let wanted = settings.cycles.or(if settings.seconds.is_none() {
        Some(CYCLES)
    } else {
        None
    });
    let first = Instant::now();
    let mut number = 0;
    while wanted.is_none_or(|wanted| number < wanted)
        && settings
            .seconds
            .is_none_or(|seconds| first.elapsed() < Duration::from_secs(seconds))
    {
        number += 1;
        match stage.cycle() {
            Ok(cycle) => {
                let of = wanted.map_or(String::new(), |wanted| format!(" of {wanted}"));
                let (how, after) = match (cycle.started, cycle.by_itself) {
                    (Some(after), _) => ("from the start", after),
                    (None, after) => ("by itself", after.unwrap_or_default()),
                };
                let missed = if cycle.missed { ", not reached" } else { "" };
                let job_run = stage.job_run.as_ref().map_or(String::new(), |job_run| {
                    format!("job run {}, {}", job_run.number, job_run.shape)
                });
                let (total, took) = (begun.elapsed().as_secs(), after.as_secs_f64());
                eprintln!(
                    "{total:>5} s  cycle {number}{of}: {:?}{missed}; committed {took:.1} s {how}; \
                     {job_run}",
                    cycle.fault
                );
                outcome.cycles.push(cycle);
            }
            Err(fault) => {
                eprintln!("FAULT in cycle {number}: {fault}");
                outcome.faults.push(format!("cycle {number}: {fault}"));
            }
        }
        if world.feed.is_finished() {
            outcome.faults.push("the feed has ended".into());
        }
        if !outcome.faults.is_empty() || !world.readers.observed().faults.is_empty() {
            return;
        }
    }
}

/// Runs the job to the end of the topic, then compares the final bars and everything that readers
/// saw.
fn checker(
    runtime: &Runtime,
    stage: &mut Stage,
    world: World,
    outcome: &mut Outcome,
) -> Result<(), String> {
    eprintln!("no more faults: reading to the end of the topic, then comparing");
    let World {
        ledger,
        readers,
        feed,
        reading,
        stop_feed,
    } = world;
    stage.cluster.up()?;
    stop_feed.store(true, Ordering::Release);
    outcome.fed = runtime
        .block_on(feed)
        .map_err(|fault| fault.to_string())??;
    let finished = stage.finish(LAST_PATIENCE);
    (outcome.recorded, outcome.replays) = (stage.ingest.recording.recorded, stage.ingest.replays);
    // Readers look on until there is nothing more to be written.
    readers.stop.store(true, Ordering::Release);
    for reader in reading {
        runtime
            .block_on(reader)
            .map_err(|fault| fault.to_string())?;
    }
    {
        let mut observed = readers.observed();
        outcome.reads = observed.counts;
        outcome.faults.append(&mut observed.faults);
    }
    outcome.faults.extend(panics(stage.binary.logs()));
    let progress = stage.watch.progress()?;
    (outcome.generations, outcome.epochs) = (progress.generation, progress.committed);
    finished?;
    let topic = Topic::read(stage.cluster.brokers(), MAIN, &ledger)?;
    let mut verdict = FinalComparison::default();
    let store = &stage.watch.store;
    let checked = runtime.block_on(async {
        verdict.bars(store, &ledger, &topic).await?;
        verdict.dead_letters(store, &ledger, &topic).await?;
        let observed = std::mem::take(&mut *readers.observed());
        verdict.audit(store, &observed, &ledger, &topic).await
    });
    outcome.faults.append(&mut verdict.faults);
    (outcome.topic, outcome.verdict) = (Some(topic), verdict);
    let verified = output_of(&mut stage.binary.command(&[
        "verify",
        "--brokers",
        &stage.cluster.brokers(),
        "--topic",
        MAIN,
        "--store",
        &stage.cluster.store(MAIN),
    ]));
    outcome.verify = verified
        .as_ref()
        .unwrap_or_else(|said| said)
        .lines()
        .last()
        .unwrap_or_default()
        .to_owned();
    checked?;
    verified.map(drop)
}

/// Logs that contain a panic, also where a supervisor restarted the process.
fn panics(logs: &Path) -> Vec<String> {
    let files = fs::read_dir(logs)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let logs =
        files.filter(|path: &PathBuf| path.extension().is_some_and(|extension| extension == "log"));
    let panicked = logs.filter_map(|path| {
        let text = fs::read_to_string(&path).ok()?;
        let line = text.lines().find(|line| line.contains("panicked at"))?;
        Some(format!("{}: {line}", path.display()))
    });
    panicked.collect()
}
