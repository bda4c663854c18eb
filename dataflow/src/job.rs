//! Runs one process of a job, from the take-over to the end.
//!
//! Each worker thread runs `worker::work`. Worker 0 of process 0 is also the coordinator. Its calls
//! to the store run on tokio (`coordinator::driver`), so that no step waits for them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tapeflow_log::Log;
use tapeflow_protocol::{
    Checkpoint, CheckpointStore, JobStore,
    decide::Opening,
    repair,
    workflow::{self, WorkflowError},
};
use tapeflow_schemas::Partition;
use timely::WorkerConfig;
use tokio::runtime::Handle;

use crate::{
    clock::{Clock, SystemClock, warn_if_ahead},
    cluster::{
        connect::{Connections, Process, connect_workers},
        heartbeat,
        liveness::Liveness,
    },
    config::JobConfig,
    failure::{Failure, JobError},
    metrics::{Metrics, store_calls::WatchedStore},
    observer::Observer,
    shared::{Shared, Summary},
    shutdown::{Stop, StopRequest},
    store_io::StoreIo,
    topic_watch,
    worker::work,
};

/// Runs this process's part of the job until a stop is requested, the end is reached, or it fails.
/// Blocks.
///
/// `metrics` receives the counts. `runtime` must be the multi-threaded runtime in which the store
/// was connected: a client whose connections live in another runtime needs a thread switch for each
/// call.
///
/// # Errors
/// [`JobError`]
pub fn run(
    config: JobConfig,
    log: Arc<dyn Log>,
    store: Arc<dyn JobStore>,
    stop: Stop,
    observer: Arc<dyn Observer>,
    metrics: Arc<Metrics>,
    runtime: &Handle,
) -> Result<Summary, JobError> {
    config.check()?;
    let failure = Failure::default();
    let store = WatchedStore::over(store, &metrics);
    let opening = opening(&config, &*log, random_owner())?;
    // Refuse at once, before waiting for the other processes.
    let may_take_over = workflow::may_take_over(&*store, &opening);
    if unless_stopped(runtime, &stop, may_take_over)?.is_none() {
        return Ok(Summary::default());
    }
    let liveness = Liveness::new(config.workers);
    metrics.watch_liveness(&liveness);
    // The take-over waits for a repair, or for a silent store, as long as it takes. The other
    // processes must not leave this one for it.
    let wait = liveness.wait();
    let process = Process {
        liveness: &liveness,
        stop: &stop,
        store: &store,
        runtime,
    };
    let Some(Connections { builders, guard }) = connect_workers(&config, &opening, &process)?
    else {
        return Ok(Summary::default());
    };
    // The take-over comes after the processes have connected: an incomplete job must not fence a
    // running one.
    let checkpoint = if config.process == 0 {
        let take_over = workflow::take_over(&*store, &opening, || SystemClock.wall_us());
        let Some(checkpoint) = unless_stopped(runtime, &stop, take_over)? else {
            return Ok(Summary::default());
        };
        warn_if_ahead(checkpoint.recovery_timestamp, SystemClock.wall_us());
        tracing::info!(
            generation = checkpoint.generation,
            committed = checkpoint.committed.epoch,
            bound = checkpoint.last_binding().epoch,
            "job taken over"
        );
        Some(checkpoint)
    } else {
        None
    };
    drop(wait);
    let _watch = watch_topic(&config, &log, checkpoint.as_ref(), &failure)?;
    let io = StoreIo::new(
        runtime.clone(),
        Arc::clone(&store),
        &config.limits,
        failure.clone(),
    );
    let shared = Arc::new(Shared {
        config,
        log,
        store: Arc::clone(&store),
        clock: Arc::new(SystemClock),
        stop,
        observer,
        failure: failure.clone(),
        metrics: Arc::clone(&metrics),
        runtime: runtime.clone(),
        io,
        liveness: liveness.clone(),
        checkpoint: Mutex::new(checkpoint),
    });
    let workers = timely::execute::execute_from(
        builders,
        Box::new(()),
        WorkerConfig::default(),
        move |worker| work(worker, &shared),
    )
    .map_err(JobError::Failed)?;
    let results = workers.join();
    if failure.happened() {
        if failure.is_fenced() && runtime.block_on(repair::has_fenced(&*store)) {
            failure.fenced_by_repair();
        }
        if failure.is_fenced() && guard.is_some() {
            // The other processes are fenced too and must exit with the same code.
            liveness.set_fenced();
            std::thread::sleep(2 * heartbeat::INTERVAL);
        }
        // Dropping the guard would wait for its threads. They end when the other processes close
        // their connections, which those do after this process has exited.
        std::mem::forget(guard);
    } else {
        drop(guard);
    }
    if let Some(error) = failure.take() {
        return Err(error);
    }
    if let Some(reason) = results.into_iter().find_map(Result::err) {
        return Err(JobError::Failed(format!("a worker panicked: {reason}")));
    }
    Ok(Summary::of(&metrics))
}

/// Checks whether [`run`] would refuse this job, log and store. Writes nothing.
///
/// # Errors
/// The [`JobError`] that [`run`] would return.
pub fn may_run(
    config: &JobConfig,
    log: &dyn Log,
    store: &dyn CheckpointStore,
    runtime: &Handle,
) -> Result<(), JobError> {
    config.check()?;
    let opening = opening(config, log, random_owner())?;
    Ok(runtime.block_on(workflow::may_take_over(store, &opening))?)
}

/// The description of the job for a take-over.
pub(crate) fn opening(
    config: &JobConfig,
    log: &dyn Log,
    owner: String,
) -> Result<Opening, JobError> {
    let partitions: Vec<Partition> = (0..log.partitions()?).collect();
    let bounds = log.bounds_of(&partitions)?;
    let earliest = bounds.into_iter().map(|bounds| bounds.start).collect();
    Ok(Opening {
        job: config.job.clone(),
        fingerprint: config.fingerprint(),
        source: log.identity()?,
        earliest,
        owner,
    })
}

/// Starts the watch of the topic in process 0. A job with `until_end` has a fixed end, so later
/// changes of the topic do not concern it.
fn watch_topic(
    config: &JobConfig,
    log: &Arc<dyn Log>,
    checkpoint: Option<&Checkpoint>,
    failure: &Failure,
) -> Result<Option<topic_watch::Watch>, JobError> {
    let Some(checkpoint) = checkpoint.filter(|_| !config.until_end) else {
        return Ok(None);
    };
    topic_watch::start(
        Arc::clone(log),
        checkpoint.source.clone(),
        checkpoint.committed.cuts.len(),
        failure.clone(),
    )
    .map(Some)
    .map_err(|error| JobError::Failed(format!("cannot start the thread log-watch: {error}")))
}

/// Waits for an answer; `None` if a stop is requested first.
fn unless_stopped<T>(
    runtime: &Handle,
    stop: &Stop,
    answer: impl Future<Output = Result<T, WorkflowError>>,
) -> Result<Option<T>, JobError> {
    let stopped = async {
        while stop.requested() != StopRequest::Now {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    runtime.block_on(async {
        tokio::select! {
            biased;
            answer = answer => Ok(Some(answer?)),
            () = stopped => Ok(None),
        }
    })
}

/// 128 random bits. The standard library seeds `RandomState` from the system's randomness.
fn random_owner() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!(
        "{:016x}{:016x}",
        RandomState::new().hash_one(std::process::id()),
        RandomState::new().hash_one(SystemClock.wall_us())
    )
}
