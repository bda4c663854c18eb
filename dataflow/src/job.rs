//! Running the job: what it needs to know, how its pieces are put together, and how it ends.
//!
//! Each worker thread lives in `work`. Process 0's worker 0 is the coordinator as well; its
//! compare-and-sets run on tokio (`lead`), so that no step waits for one.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use tapeflow_log::{Log, LogError};
use tapeflow_protocol::{
    Checkpoint, EpochWrites, Store,
    decide::Opening,
    repair,
    workflow::{self, WorkflowError},
};
use tapeflow_schemas::{Baskets, WindowSize, view::TOP};
use timely::{
    CommunicationConfig, WorkerConfig,
    communication::{
        Hooks,
        allocator::{
            AllocatorBuilder, ProcessBuilder,
            zero_copy::initialize::{CommsGuard, initialize_networking_from_sockets},
        },
    },
};
use tokio::runtime::Handle;

use crate::{
    clock::{Clock, SystemClock},
    cluster::{
        handshake as cluster,
        handshake::{ClusterConfig, ClusterError},
        heartbeat,
        heartbeat::{Liveness, Lost},
    },
    metrics::{Metrics, store_calls::WatchedStore},
    operators::combine::ALLOWED_LATENESS_MS,
    store_io::StoreIo,
    topic_watch as watch,
    worker::work,
};

/// The exit code of a process that another generation has fenced off: nothing to start again.
pub const EXIT_FENCED: u8 = 3;
/// The rules that decide values. Whoever changes one of them changes this number, and with it every
/// job's `fingerprint`.
const RULES: u32 = 1;
/// How long the processes of a job wait for each other at the start.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(20);

/// What one process of the job needs to know. All processes get the same, but for `process`.
#[derive(Clone, Debug)]
pub struct JobConfig {
    /// The job's name.
    pub job: String,
    /// Worker threads in this process.
    pub workers: usize,
    /// Processes in the job.
    pub processes: usize,
    /// This process, from 0.
    pub process: usize,
    /// `host:port` of each process's cluster listener; empty if there is one process.
    pub hosts: Vec<String>,
    /// The window sizes, ascending, without repeats, at most 16.
    pub sizes: Vec<WindowSize>,
    /// The user's baskets.
    pub baskets: Baskets,
    /// How often an epoch is cut.
    pub epoch: Duration,
    /// How many bars a worker keeps in memory beyond those it is writing; for each thousand of
    /// them, a window of the views as well. The same in all processes.
    pub resident_bars: usize,
    /// End once everything that was in the log at the start is committed.
    pub until_end: bool,
    /// Go on without offsets that the log had lost before they were committed, instead of refusing.
    /// The same in all processes.
    pub accept_loss: bool,
}

impl JobConfig {
    /// The rules and settings that decide values, as the checkpoint keeps them.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let sizes: Vec<String> = self.sizes.iter().map(ToString::to_string).collect();
        format!(
            "rules {RULES}; sizes {}; allowed lateness {ALLOWED_LATENESS_MS} ms; views {TOP}; baskets {}",
            sizes.join(","),
            self.baskets.fingerprint()
        )
    }
}

/// The window sizes that a checkpoint's `fingerprint` names; `None` if this binary cannot read it.
#[must_use]
pub fn sizes_of(fingerprint: &str) -> Option<Vec<WindowSize>> {
    let sizes = fingerprint
        .split("; ")
        .find_map(|part| part.strip_prefix("sizes "))?;
    sizes.split(',').map(|size| size.parse().ok()).collect()
}

/// The baskets that a checkpoint's `fingerprint` names, as [`Baskets::digest`] has them; `None` if this binary
/// cannot read it.
#[must_use]
pub fn baskets_of(fingerprint: &str) -> Option<&str> {
    fingerprint
        .split("; ")
        .find_map(|part| part.strip_prefix("baskets "))
}

/// Why the job ended without having been asked to.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Found before anything was written: another job's store, another log, changed `fingerprint`, a
    /// newer format, offsets that are gone. The text says what to do.
    #[error("{0}")]
    Refused(String),
    /// Another generation of this job has taken over; this one must stop, and has.
    #[error("fenced: {0}")]
    Fenced(String),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store failed for good, or the cluster between processes could not be made.
    #[error("{0}")]
    Failed(String),
}

/// The first failure of a process, which ends all its workers.
#[derive(Clone, Default)]
pub(crate) struct Failure(Arc<(AtomicBool, Mutex<Option<JobError>>)>);

impl Failure {
    pub(crate) fn set(&self, error: JobError) {
        let mut first = self
            .0
            .1
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        first.get_or_insert(error);
        self.0.0.store(true, Ordering::Release);
    }

    pub(crate) fn happened(&self) -> bool {
        self.0.0.load(Ordering::Acquire)
    }

    fn is_fenced(&self) -> bool {
        matches!(
            *self
                .0
                .1
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
            Some(JobError::Fenced(_))
        )
    }

    /// The fence was a repairer's, who gives the job back in a moment: this process and its peers are
    /// to be started again, and wait for that.
    fn was_repaired(&self) {
        if let Some(error) = &mut *self
            .0
            .1
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
        {
            *error = JobError::Failed(repaired(&error.to_string()));
        }
    }

    pub(crate) fn take(&self) -> Option<JobError> {
        self.0
            .1
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take()
    }
}

/// A request to end, shared with whoever may make it: a signal handler, a timer, the end of a feed.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicU8>);

/// How a job is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    /// Not at all.
    No,
    /// Read to the end the log has when it hears of it, commit, end.
    AtEnd,
    /// Read no further, commit what was read, end.
    Now,
}

impl Stop {
    /// Asks the job to read no further, commit what it has read, and end. What is left in the log
    /// is read by the next run.
    pub fn request(&self) {
        self.0.fetch_max(2, Ordering::AcqRel);
    }

    /// Asks the job to commit everything that is in the log now, and end.
    pub fn request_at_end(&self) {
        self.0.fetch_max(1, Ordering::AcqRel);
    }

    pub(crate) fn ending(&self) -> Ending {
        match self.0.load(Ordering::Acquire) {
            0 => Ending::No,
            1 => Ending::AtEnd,
            _ => Ending::Now,
        }
    }
}

/// Sees what the job does, from its own threads: a terminal, a test. It must return at once.
pub trait Observer: Send + Sync + 'static {
    /// These writes of one epoch are acknowledged. They may not be committed yet.
    fn acknowledged(&self, _epoch: u64, _writes: &EpochWrites) {}

    /// The size of windows whose bars process 0's observer is to hear of from all processes. Asked
    /// once, in each process.
    fn shared_size(&self) -> Option<WindowSize> {
        None
    }
}

/// Sees nothing.
impl Observer for () {}

/// What a run came to, in this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// The last epoch committed, as far as this process has heard.
    pub committed: u64,
    /// Log records read by this process's workers, replayed ones included.
    pub records: u64,
    /// Bars acknowledged by the store.
    pub bars_written: u64,
}

/// What every worker of this process shares.
pub(crate) struct Shared {
    pub(crate) config: JobConfig,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stop: Stop,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) failure: Failure,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) runtime: Handle,
    pub(crate) io: StoreIo,
    pub(crate) liveness: Liveness,
    /// The checkpoint taken over; taken by the coordinator's worker.
    pub(crate) checkpoint: Mutex<Option<Checkpoint>>,
}

/// Runs this process's part of the job until it is asked to stop, has reached the end it was given,
/// or fails. Blocks. `metrics` is counted into. The store is called on `runtime`, of several
/// threads: the one in which it was connected, for a client whose connections live in another is
/// woken across threads at each call.
///
/// # Errors
/// [`JobError`], see there.
pub fn run(
    config: JobConfig,
    log: Arc<dyn Log>,
    store: Arc<dyn Store>,
    stop: Stop,
    observer: Arc<dyn Observer>,
    metrics: Arc<Metrics>,
    runtime: &Handle,
) -> Result<Summary, JobError> {
    let failure = Failure::default();
    let store = WatchedStore::over(store, &metrics);
    let opening = opening(&config, &*log, random_owner())?;
    // Refused at once, and not after waiting for the others.
    if runtime
        .block_on(unless_asked(
            &stop,
            workflow::may_take_over(&*store, &opening),
        ))
        .transpose()
        .map_err(failed)?
        .is_none()
    {
        return Ok(Summary::default());
    }
    let liveness = Liveness::new(config.workers);
    metrics.watch_turns(&liveness);
    let Some((builders, cluster)) = connect(&config, &opening, &liveness, &stop)? else {
        return Ok(Summary::default());
    };
    // Only a job whose processes have all met takes over from another generation.
    let checkpoint = if config.process == 0 {
        let taken = runtime
            .block_on(unless_asked(
                &stop,
                workflow::take_over(&*store, &opening, || SystemClock.wall_us()),
            ))
            .transpose()
            .map_err(failed)?;
        let Some(checkpoint) = taken else {
            return Ok(Summary::default());
        };
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
    // A job that ends with the log has a fixed end; what is added to the log later is not its own.
    let watched = checkpoint.as_ref().filter(|_| !config.until_end);
    let _watch = watched
        .map(|checkpoint| {
            watch::start(
                Arc::clone(&log),
                checkpoint.source.clone(),
                checkpoint.committed.cuts.len(),
                failure.clone(),
            )
        })
        .transpose()
        .map_err(|error| JobError::Failed(format!("cannot watch the log: {error}")))?;
    let io = StoreIo::new(runtime.clone(), Arc::clone(&store), failure.clone());
    let shared = Arc::new(Shared {
        config,
        log,
        store,
        clock: Arc::new(SystemClock),
        stop,
        observer,
        failure: failure.clone(),
        metrics: Arc::clone(&metrics),
        runtime: runtime.clone(),
        io,
        liveness,
        checkpoint: Mutex::new(checkpoint),
    });
    let (liveness_at_end, fenced_in) = (shared.liveness.clone(), Arc::clone(&shared.store));
    let guards = timely::execute::execute_from(
        builders,
        Box::new(()),
        WorkerConfig::default(),
        move |worker| work(worker, &shared),
    )
    .map_err(JobError::Failed)?;
    let results = guards.join();
    if failure.happened() {
        if failure.is_fenced() && runtime.block_on(repair::has_fenced(&*fenced_in)) {
            failure.was_repaired();
        }
        if failure.is_fenced() && cluster.is_some() {
            // The others leave for the same reason, and are not started again either.
            liveness_at_end.fence();
            std::thread::sleep(2 * heartbeat::BEAT);
        }
        // Its threads end when the other processes close their connections, which they do when they
        // hear of our end: nobody waits for that.
        std::mem::forget(cluster);
    } else {
        drop(cluster);
    }
    if let Some(error) = failure.take() {
        return Err(error);
    }
    if let Some(reason) = results.into_iter().find_map(Result::err) {
        return Err(JobError::Failed(format!("a worker stopped: {reason}")));
    }
    Ok(Summary {
        committed: metrics.epoch_committed.get(),
        records: metrics.records.get(),
        bars_written: metrics.bars_written.get(),
    })
}

/// Whether [`run`] would refuse this job, its log and its store from the start; nothing is written.
/// For whoever must not begin anything else before.
///
/// # Errors
/// [`JobError`], as [`run`] would give it.
pub fn may_run(
    config: &JobConfig,
    log: &dyn Log,
    store: &dyn Store,
    runtime: &Handle,
) -> Result<(), JobError> {
    runtime
        .block_on(workflow::may_take_over(
            store,
            &opening(config, log, random_owner())?,
        ))
        .map_err(failed)
}

/// How workers reach each other, and what keeps the connections to other processes up.
type Way = (Vec<AllocatorBuilder>, Option<CommsGuard>);

/// The workers' way to each other: within this process, and to the other ones; none if the end was
/// asked for meanwhile.
fn connect(
    config: &JobConfig,
    opening: &Opening,
    liveness: &Liveness,
    stop: &Stop,
) -> Result<Option<Way>, JobError> {
    if config.processes == 1 {
        let (builders, _) = CommunicationConfig::Process(config.workers)
            .try_build()
            .map_err(JobError::Failed)?;
        return Ok(Some((builders, None)));
    }
    leave_on_panic();
    let settings = ClusterConfig {
        job: config.job.clone(),
        settings: settings_of(config, opening),
        process: config.process,
        hosts: config.hosts.clone(),
        nonce: opening.owner.clone(),
        patience: CLUSTER_PATIENCE,
    };
    let cluster =
        cluster::connect(&settings, || stop.ending() != Ending::No).map_err(of_cluster)?;
    let Some(cluster) = cluster else {
        return Ok(None);
    };
    tracing::info!(processes = config.processes, "all processes have met");
    let leave = |lost: Lost| {
        leave(
            &format!("{lost}: a job lives and dies as a whole"),
            lost.code(),
        )
    };
    let broken =
        |error: std::io::Error| JobError::Failed(format!("cannot set the cluster up: {error}"));
    heartbeat::watch(cluster.heartbeat, liveness.clone(), leave).map_err(broken)?;
    let hooks = Hooks::default();
    let within =
        ProcessBuilder::new_typed_vector(config.workers, hooks.refill.clone(), hooks.spill.clone());
    let (builders, guard) = initialize_networking_from_sockets(
        within,
        cluster.data,
        config.process,
        config.workers,
        hooks,
    )
    .map_err(broken)?;
    Ok(Some((
        builders.into_iter().map(AllocatorBuilder::Tcp).collect(),
        Some(guard),
    )))
}

/// What all processes must agree on, in words: whatever makes one of them read, keep or write other
/// things than the others.
fn settings_of(config: &JobConfig, opening: &Opening) -> String {
    let source = &opening.source;
    let id = source.topic_id.as_deref().unwrap_or("none");
    let losses = if config.accept_loss {
        "accepted"
    } else {
        "refused"
    };
    format!(
        "{} workers, {} resident bars, losses {losses}, topic {} (id {id}) of cluster {}; {}",
        config.workers, config.resident_bars, source.topic, source.cluster, opening.fingerprint
    )
}

fn of_cluster(error: ClusterError) -> JobError {
    match error {
        // Nothing that starting again mends.
        ClusterError::Refused { .. } => JobError::Refused(format!(
            "{error}; start all processes with the same settings"
        )),
        ClusterError::Anew { .. }
        | ClusterError::Listen { .. }
        | ClusterError::Late { .. }
        | ClusterError::Broken(_) => JobError::Failed(error.to_string()),
    }
}

/// Leaves at once: nothing that is not durable counts, and whoever starts the job starts all its
/// processes again.
fn leave(reason: &str, code: u8) {
    tracing::error!(reason, "leaving; start all processes of the job again");
    std::process::exit(code.into());
}

/// A job of several processes lives and dies as a whole: timely has no error tolerance, and a
/// process that outlives a panicking thread would keep the others waiting for ever.
fn leave_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // The threads that carry the cluster's data panic when a connection breaks: no error of this
        // process.
        if std::thread::current()
            .name()
            .is_some_and(|name| name.starts_with("timely:send") || name.starts_with("timely:recv"))
        {
            // The heartbeat knows more: whether it was fenced, say. It speaks first if it has heard.
            std::thread::sleep(2 * heartbeat::BEAT);
            leave("a connection to another process broke", 1);
        }
        before(info);
        std::process::abort();
    }));
}

/// What the job is, as a take-over says it.
pub(crate) fn opening(
    config: &JobConfig,
    log: &dyn Log,
    owner: String,
) -> Result<Opening, JobError> {
    let earliest = (0..log.partitions()?)
        .map(|partition| log.bounds(partition).map(|bounds| bounds.start))
        .collect::<Result<_, _>>()?;
    Ok(Opening {
        job: config.job.clone(),
        fingerprint: config.fingerprint(),
        source: log.identity()?,
        earliest,
        owner,
    })
}

/// Waits for an answer, or for the request to end: then the answer does not matter any more.
async fn unless_asked<T>(stop: &Stop, answer: impl Future<Output = T>) -> Option<T> {
    let asked = async {
        while stop.ending() != Ending::Now {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        biased;
        answer = answer => Some(answer),
        () = asked => None,
    }
}

fn repaired(error: &str) -> String {
    format!(
        "{error}; that is verify --repair: start this again, and it goes on when the repair is done"
    )
}

pub(crate) fn failed(error: WorkflowError) -> JobError {
    match error {
        WorkflowError::Refused(refusal) => JobError::Refused(refusal.to_string()),
        // Who says so is known here, whether or not the store goes on answering.
        WorkflowError::Fenced { ref owner, .. } if repair::is_repairer(owner) => {
            JobError::Failed(repaired(&error.to_string()))
        }
        WorkflowError::Fenced { .. } => JobError::Fenced(error.to_string()),
        WorkflowError::Store(reason) => JobError::Failed(reason),
    }
}

/// 128 random bits: the standard library's hash keys are drawn from the system's randomness.
fn random_owner() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!(
        "{:016x}{:016x}",
        RandomState::new().hash_one(std::process::id()),
        RandomState::new().hash_one(SystemClock.wall_us())
    )
}
