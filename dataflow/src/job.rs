//! Running the job: what it needs to know, how its pieces are put together, and how it ends.
//!
//! Each worker thread builds the same two dataflows and turns the same loop: hear the leader, read, step. Process 0's worker 0 is the leader
//! as well; its compare-and-sets run on tokio, so that no step waits for one.

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, Ordering},
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tapeflow_schemas::{Baskets, WindowSize};
use tapeflow_sinks::{
    Epoch, EpochWrites, Head, Store,
    decide::Opening,
    failpoint,
    view::TOP,
    workflow::{self, WorkflowError},
};
use timely::{
    CommunicationConfig, WorkerConfig,
    communication::{
        Hooks,
        allocator::{
            AllocatorBuilder, ProcessBuilder,
            zero_copy::initialize::{CommsGuard, initialize_networking_from_sockets},
        },
    },
    dataflow::{
        InputHandleVec, ProbeHandle,
        operators::{Concat, Exchange, Input, Inspect, Probe, core::OkErr, vec::Broadcast},
    },
    worker::Worker,
};

use crate::{
    combine::GRACE_MS,
    control::{Down, Up},
    leader::{Act, Leader},
    log::{Log, LogFault},
    mesh::{
        self, MeshConfig, MeshFault,
        pulse::{self, Lost, Turning},
    },
    metrics::Metrics,
    sink::{self, SinkSettings},
    source::{self, Mailbox, SourceSettings},
    state::{self, EpochBoard, Folded, StateSettings},
    store_io::StoreIo,
    views::{self, Change, windows::WindowSettings},
    watch,
};

/// The exit code of a process that another generation has fenced off: nothing to start again.
pub const EXIT_FENCED: u8 = 3;
/// The rules that decide values. Whoever changes one of them changes this number, and with it every job's `logic`.
const RULES: u32 = 1;
/// How long the processes of a job wait for each other at the start.
const MESH_PATIENCE: Duration = Duration::from_secs(20);
/// One knob for memory: for each so many resident rows a window of the views is kept as well. The default of 12,000 keeps the open windows of
/// five sizes and those before them.
const RESIDENT_ROWS_PER_WINDOW: usize = 1_000;
/// How often committed offsets are mirrored for lag tools.
const MIRROR_EVERY: Duration = Duration::from_secs(1);
/// How long a worker with nothing to do waits before it asks the log again.
const IDLE_PARK: Duration = Duration::from_millis(2);

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
    /// `host:port` of each process's mesh listener; empty if there is one process.
    pub hosts: Vec<String>,
    /// The window sizes, ascending, without repeats, at most 16.
    pub sizes: Vec<WindowSize>,
    /// The user's baskets.
    pub baskets: Baskets,
    /// How often an epoch is cut.
    pub epoch: Duration,
    /// How many rows a worker keeps in memory beyond those it is writing; for each thousand of them, a window of the views as well. The same in
    /// all processes.
    pub resident_rows: usize,
    /// End once everything that was in the log at the start is committed.
    pub until_end: bool,
}

impl JobConfig {
    /// The rules and settings that decide values, as the head keeps them.
    #[must_use]
    pub fn logic(&self) -> String {
        let sizes: Vec<String> = self.sizes.iter().map(ToString::to_string).collect();
        format!("rules {RULES}; sizes {}; grace {GRACE_MS} ms; views {TOP}; baskets {}", sizes.join(","), self.baskets.digest())
    }
}

/// The window sizes that a head's `logic` names; `None` if this binary cannot read it.
#[must_use]
pub fn sizes_of(logic: &str) -> Option<Vec<WindowSize>> {
    let sizes = logic.split("; ").find_map(|part| part.strip_prefix("sizes "))?;
    sizes.split(',').map(|size| size.parse().ok()).collect()
}

/// The baskets that a head's `logic` names, as [`Baskets::digest`] has them; `None` if this binary cannot read it.
#[must_use]
pub fn baskets_of(logic: &str) -> Option<&str> {
    logic.split("; ").find_map(|part| part.strip_prefix("baskets "))
}

/// Why the job ended without having been asked to.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Found before anything was written: another job's store, another log, changed `logic`, a newer format, offsets that are gone. The
    /// text says what to do.
    #[error("{0}")]
    Refused(String),
    /// Another generation of this job has taken over; this one must stop, and has.
    #[error("fenced: {0}")]
    Fenced(String),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogFault),
    /// The store failed for good, or the mesh between processes could not be made.
    #[error("{0}")]
    Failed(String),
}

/// The first failure of a process, which ends all its workers.
#[derive(Clone, Default)]
pub(crate) struct Failure(Arc<(AtomicBool, Mutex<Option<JobError>>)>);

impl Failure {
    pub(crate) fn set(&self, fault: JobError) {
        let mut first = self.0.1.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        first.get_or_insert(fault);
        self.0.0.store(true, Ordering::Release);
    }

    fn happened(&self) -> bool {
        self.0.0.load(Ordering::Acquire)
    }

    fn is_fenced(&self) -> bool {
        matches!(*self.0.1.lock().unwrap_or_else(std::sync::PoisonError::into_inner), Some(JobError::Fenced(_)))
    }

    fn take(&self) -> Option<JobError> {
        self.0.1.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
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
    /// Asks the job to read no further, commit what it has read, and end. What is left in the log is read by the next run.
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
    /// Rows acknowledged by the store.
    pub rows_written: u64,
}

/// What every worker of this process shares.
struct Shared {
    config: JobConfig,
    log: Arc<dyn Log>,
    store: Arc<dyn Store>,
    stop: Stop,
    observer: Arc<dyn Observer>,
    failure: Failure,
    metrics: Arc<Metrics>,
    runtime: tokio::runtime::Handle,
    io: StoreIo,
    turning: Turning,
    /// The head taken over; taken by the leader's worker.
    head: Mutex<Option<Head>>,
}

/// Runs this process's part of the job until it is asked to stop, has reached the end it was given, or fails. Blocks. `metrics` is counted into.
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
) -> Result<Summary, JobError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("tapeflow-io")
        .enable_all()
        .build()
        .map_err(|fault| JobError::Failed(format!("cannot start the I/O threads: {fault}")))?;
    let failure = Failure::default();
    let opening = opening(&config, &*log)?;
    // Refused at once, and not after waiting for the others.
    if runtime.block_on(unless_asked(&stop, workflow::may_take_over(&*store, &opening))).transpose().map_err(failed)?.is_none() {
        return Ok(Summary::default());
    }
    let turning = Turning::new(config.workers);
    let Some((builders, mesh)) = connect(&config, &opening, &turning, &stop)? else {
        return Ok(Summary::default());
    };
    // Only a job whose processes have all met takes over from another generation.
    let head = if config.process == 0 {
        let taken = runtime.block_on(unless_asked(&stop, workflow::take_over(&*store, &opening, now_us))).transpose().map_err(failed)?;
        let Some(head) = taken else { return Ok(Summary::default()) };
        tracing::info!(generation = head.generation, committed = head.committed.epoch, bound = head.last_binding().epoch, "job taken over");
        Some(head)
    } else {
        None
    };
    // A job that ends with the log has a fixed end; what is added to the log later is not its own.
    let watched = head.as_ref().filter(|_| !config.until_end);
    let _watch = watched
        .map(|head| watch::start(Arc::clone(&log), head.source.clone(), head.committed.cuts.len(), failure.clone()))
        .transpose()
        .map_err(|fault| JobError::Failed(format!("cannot watch the log: {fault}")))?;
    let io = StoreIo::new(runtime.handle().clone(), Arc::clone(&store), failure.clone());
    let shared = Arc::new(Shared {
        config,
        log,
        store,
        stop,
        observer,
        failure: failure.clone(),
        metrics: Arc::clone(&metrics),
        runtime: runtime.handle().clone(),
        io,
        turning,
        head: Mutex::new(head),
    });
    let turning_at_end = shared.turning.clone();
    let guards = timely::execute::execute_from(builders, Box::new(()), WorkerConfig::default(), move |worker| work(worker, &shared))
        .map_err(JobError::Failed)?;
    let results = guards.join();
    if failure.happened() {
        if failure.is_fenced() && mesh.is_some() {
            // The others leave for the same reason, and are not started again either.
            turning_at_end.fence();
            std::thread::sleep(2 * pulse::BEAT);
        }
        // Its threads end when the other processes close their connections, which they do when they hear of our end: nobody waits for that.
        std::mem::forget(mesh);
    } else {
        drop(mesh);
    }
    runtime.shutdown_background();
    if let Some(fault) = failure.take() {
        return Err(fault);
    }
    if let Some(reason) = results.into_iter().find_map(Result::err) {
        return Err(JobError::Failed(format!("a worker stopped: {reason}")));
    }
    Ok(Summary { committed: metrics.epoch_committed.get(), records: metrics.records.get(), rows_written: metrics.rows_written.get() })
}

/// Whether [`run`] would refuse this job, its log and its store from the start; nothing is written. For whoever must not begin anything else before.
///
/// # Errors
/// [`JobError`], as [`run`] would give it.
pub fn may_run(config: &JobConfig, log: &dyn Log, store: &dyn Store, runtime: &tokio::runtime::Handle) -> Result<(), JobError> {
    runtime.block_on(workflow::may_take_over(store, &opening(config, log)?)).map_err(failed)
}

/// How workers reach each other, and what keeps the connections to other processes up.
type Way = (Vec<AllocatorBuilder>, Option<CommsGuard>);

/// The workers' way to each other: within this process, and to the other ones; none if the end was asked for meanwhile.
fn connect(config: &JobConfig, opening: &Opening, turning: &Turning, stop: &Stop) -> Result<Option<Way>, JobError> {
    if config.processes == 1 {
        let (builders, _) = CommunicationConfig::Process(config.workers).try_build().map_err(JobError::Failed)?;
        return Ok(Some((builders, None)));
    }
    leave_on_panic();
    let settings = MeshConfig {
        job: config.job.clone(),
        settings: settings_of(config, opening),
        process: config.process,
        hosts: config.hosts.clone(),
        nonce: opening.owner.clone(),
        patience: MESH_PATIENCE,
    };
    let mesh = mesh::connect(&settings, || stop.ending() != Ending::No).map_err(of_mesh)?;
    let Some(mesh) = mesh else { return Ok(None) };
    tracing::info!(processes = config.processes, "all processes have met");
    let leave = |lost: Lost| leave(&format!("{lost}: a job lives and dies as a whole"), lost.code());
    let broken = |fault: std::io::Error| JobError::Failed(format!("cannot set the mesh up: {fault}"));
    pulse::watch(mesh.pulse, turning.clone(), leave).map_err(broken)?;
    let hooks = Hooks::default();
    let within = ProcessBuilder::new_typed_vector(config.workers, hooks.refill.clone(), hooks.spill.clone());
    let (builders, guard) = initialize_networking_from_sockets(within, mesh.data, config.process, config.workers, hooks).map_err(broken)?;
    Ok(Some((builders.into_iter().map(AllocatorBuilder::Tcp).collect(), Some(guard))))
}

/// What all processes must agree on, in words: whatever makes one of them read, keep or write other things than the others.
fn settings_of(config: &JobConfig, opening: &Opening) -> String {
    let source = &opening.source;
    let id = source.topic_id.as_deref().unwrap_or("none");
    format!(
        "{} workers, {} resident rows, topic {} (id {id}) of cluster {}; {}",
        config.workers, config.resident_rows, source.topic, source.cluster, opening.logic
    )
}

fn of_mesh(fault: MeshFault) -> JobError {
    match fault {
        // Nothing that starting again mends.
        MeshFault::Refused { .. } => JobError::Refused(format!("{fault}; start all processes with the same settings")),
        MeshFault::Anew { .. } | MeshFault::Listen { .. } | MeshFault::Late { .. } | MeshFault::Broken(_) => JobError::Failed(fault.to_string()),
    }
}

/// Leaves at once: nothing that is not durable counts, and whoever starts the job starts all its processes again.
fn leave(reason: &str, code: u8) {
    tracing::error!(reason, "leaving; start all processes of the job again");
    std::process::exit(code.into());
}

/// A job of several processes lives and dies as a whole: timely has no fault tolerance, and a process that outlives a panicking thread
/// would keep the others waiting for ever.
fn leave_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // The threads that carry the mesh's data panic when a connection breaks: no fault of this process.
        if std::thread::current().name().is_some_and(|name| name.starts_with("timely:send") || name.starts_with("timely:recv")) {
            // The pulse knows more: whether it was fenced, say. It speaks first if it has heard.
            std::thread::sleep(2 * pulse::BEAT);
            leave("a connection to another process broke", 1);
        }
        before(info);
        std::process::abort();
    }));
}

/// What the job is, as a take-over says it.
fn opening(config: &JobConfig, log: &dyn Log) -> Result<Opening, JobError> {
    let earliest = (0..log.partitions()?).map(|partition| log.bounds(partition).map(|bounds| bounds.start)).collect::<Result<_, _>>()?;
    Ok(Opening { job: config.job.clone(), logic: config.logic(), source: log.identity()?, earliest, owner: random_owner() })
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

fn failed(fault: WorkflowError) -> JobError {
    match fault {
        WorkflowError::Refused(refusal) => JobError::Refused(refusal.to_string()),
        WorkflowError::Fenced { .. } => JobError::Fenced(fault.to_string()),
        WorkflowError::Store(reason) => JobError::Failed(reason),
    }
}

/// 128 random bits: the standard library's hash keys are drawn from the system's randomness.
fn random_owner() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{:016x}{:016x}", RandomState::new().hash_one(std::process::id()), RandomState::new().hash_one(now_us()))
}

/// Microseconds since 1970 UTC by this machine's clock: only stamps are made of it, and those never go back.
fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// One worker's life.
fn work(worker: &mut Worker, shared: &Arc<Shared>) {
    let mailbox = Mailbox::default();
    let board = Rc::new(RefCell::new(EpochBoard::default()));
    let (mut up, mut down) = (InputHandleVec::<u64, Up>::new(), InputHandleVec::<u64, Down>::new());
    let to_leader: Rc<RefCell<VecDeque<Up>>> = Rc::default();
    let from_leader: Rc<RefCell<VecDeque<Down>>> = Rc::default();
    worker.dataflow_named("control", |scope| {
        let (arrived, told) = (Rc::clone(&to_leader), Rc::clone(&from_leader));
        scope.input_from(&mut up).exchange(|_| 0).inspect(move |message: &Up| arrived.borrow_mut().push_back(message.clone()));
        scope.input_from(&mut down).broadcast().inspect(move |message: &Down| told.borrow_mut().push_back(message.clone()));
    });
    let probe = ProbeHandle::new();
    let (index, peers) = (worker.index(), worker.peers());
    let (source, waiting) = worker.dataflow_named("trades", |scope| {
        let settings = SourceSettings {
            log: Arc::clone(&shared.log),
            sizes: shared.config.sizes.clone(),
            workers: shared.config.workers,
            until_end: shared.config.until_end,
            failure: shared.failure.clone(),
            metrics: Arc::clone(&shared.metrics),
        };
        let (items, source) = source::build(scope, settings, &mailbox);
        let acknowledged = state::Acknowledged::default();
        let settings = StateSettings {
            sizes: shared.config.sizes.clone(),
            resident_rows: shared.config.resident_rows,
            io: shared.io.clone(),
            board: Rc::clone(&board),
            acknowledged: Rc::clone(&acknowledged),
            failure: shared.failure.clone(),
            metrics: Arc::clone(&shared.metrics),
        };
        let (folded, keeper) = state::build(items, settings);
        let (writes, changes) = folded.ok_err::<Vec<EpochWrites>, _, Vec<Rc<Vec<Change>>>, _, _>(|folded| match folded {
            Folded::Writes(writes) => Ok(writes),
            Folded::Changes(changes) => Err(changes),
        });
        let settings = WindowSettings {
            io: shared.io.clone(),
            board: Rc::clone(&board),
            failure: shared.failure.clone(),
            metrics: Arc::clone(&shared.metrics),
            windows_kept: shared.config.resident_rows / RESIDENT_ROWS_PER_WINDOW,
            index,
            peers,
        };
        let (rows, windows) = views::windows::build(changes, settings);
        let (lists, list_writer) = views::lists::build(views::build(rows, &shared.config.baskets), Rc::clone(&board));
        let settings = SinkSettings {
            io: shared.io.clone(),
            acknowledged,
            keeper: keeper.clone(),
            observer: Arc::clone(&shared.observer),
            metrics: Arc::clone(&shared.metrics),
        };
        sink::build(writes.concat(lists), settings).probe_with(&probe);
        (source, [keeper, windows, list_writer])
    });
    let taken = if worker.index() == 0 { shared.head.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() } else { None };
    let mut lead = taken.map(|head| Lead::new(head, shared, worker.peers()));
    let mut told = Ending::No;
    let mut finished = false;
    while !finished && !shared.failure.happened() {
        shared.turning.turn(index % shared.config.workers);
        let ending = shared.stop.ending();
        if ending > told {
            told = ending;
            mailbox.outbox.borrow_mut().push(if ending == Ending::Now { Up::DrainRequested } else { Up::EndRequested });
        }
        send_all(&mut up, mailbox.outbox.borrow_mut().drain(..));
        let mut busy = false;
        if let Some(lead) = &mut lead {
            let mut said = Vec::new();
            busy |= lead.turn(&to_leader, &probe, shared, &mut said);
            send_all(&mut down, said.into_iter());
        }
        for message in from_leader.borrow_mut().drain(..) {
            busy = true;
            finished |= note(&message, &board, shared);
            waiting.iter().for_each(timely::scheduling::Activator::activate);
            mailbox.inbox.borrow_mut().push_back(message);
        }
        source.activate();
        worker.step();
        busy |= *mailbox.busy.borrow();
        if !busy {
            worker.step_or_park(Some(IDLE_PARK));
        }
    }
    end(worker, shared, (up, down), &source);
}

/// Sends messages of the control dataflow. Its times mean nothing, but an exchange hands over what it holds only when the time moves on.
fn send_all<M: Clone + 'static>(input: &mut InputHandleVec<u64, M>, messages: impl Iterator<Item = M>) {
    let mut any = false;
    for message in messages {
        input.send(message);
        any = true;
    }
    if any {
        let next = *input.time() + 1;
        input.advance_to(next);
    }
}

/// Lets the dataflows run out, or drops them after a failure: what they hold is not durable and must not become so.
fn end(worker: &mut Worker, shared: &Shared, inputs: (InputHandleVec<u64, Up>, InputHandleVec<u64, Down>), source: &timely::scheduling::Activator) {
    // Before anything that lets another process come to its end: none may be gone before this one knows why.
    shared.turning.end();
    drop(inputs);
    source.activate();
    while worker.has_dataflows() {
        if shared.failure.happened() {
            worker.installed_dataflows().into_iter().for_each(|id| worker.drop_dataflow(id));
            return;
        }
        worker.step_or_park(Some(IDLE_PARK));
    }
}

/// Whether this process looks at the same store as the leader: a process that writes elsewhere would let the job commit what is not there.
fn is_our_head(head: &Head, shared: &Shared) -> Result<(), JobError> {
    let found = shared.runtime.block_on(workflow::until_answered("reading the head", || shared.store.head())).map_err(JobError::Failed)?;
    match found {
        Some(found) if found.generation == head.generation && found.owner == head.owner => Ok(()),
        Some(found) if found.job == head.job && found.generation > head.generation => {
            Err(JobError::Fenced(format!("generation {} (owner {}) has taken the job over", found.generation, found.owner)))
        }
        _ => Err(JobError::Refused(format!("{} is not the store that process 0 writes to; see --store", shared.store.describe()))),
    }
}

/// Takes down what the leader says for those who need it later. Returns whether it was the last word.
fn note(message: &Down, board: &RefCell<EpochBoard>, shared: &Shared) -> bool {
    let mut board = board.borrow_mut();
    match message {
        Down::Start(head) => {
            if shared.config.process > 0
                && let Err(fault) = is_our_head(head, shared)
            {
                // Nothing is read or written before the head is on the board.
                shared.failure.set(fault);
                return false;
            }
            board.start = Some(Rc::new((**head).clone()));
        }
        Down::Bound { epoch, stamp } => {
            board.stamps.insert(*epoch, *stamp);
            shared.metrics.epoch_bound.set(*epoch);
        }
        Down::Committed(epoch) => {
            failpoint::reach("committed-heard");
            board.stamps.retain(|bound, _| bound > epoch);
            shared.metrics.epoch_committed.set(*epoch);
        }
        Down::Finish => return true,
        Down::Seal(_) | Down::Reopen(_) | Down::StopReading | Down::ReadToEnd => {}
    }
    false
}

/// The leader together with its hands: the proposal under way.
struct Lead {
    leader: Leader,
    start: Option<Act>,
    ended: Receiver<Result<Head, WorkflowError>>,
    ends: std::sync::mpsc::Sender<Result<Head, WorkflowError>>,
    mirror: Mirror,
}

/// Mirrors committed offsets to the log's own place for them: now and then, and one call at a time.
#[derive(Default)]
struct Mirror {
    under_way: Arc<AtomicBool>,
    last: Option<Instant>,
    /// The epoch it was last called for.
    epoch: Epoch,
}

impl Mirror {
    fn offer(&mut self, head: &Head, shared: &Shared, now: Instant) {
        let early = self.last.is_some_and(|last| now.duration_since(last) < MIRROR_EVERY);
        if head.committed.epoch == self.epoch || early || self.under_way.swap(true, Ordering::AcqRel) {
            return;
        }
        (self.last, self.epoch) = (Some(now), head.committed.epoch);
        let committed: Vec<_> = (0u32..).zip(&head.committed.cuts).map(|(partition, cut)| (partition, cut.next)).collect();
        let (log, under_way) = (Arc::clone(&shared.log), Arc::clone(&self.under_way));
        shared.runtime.spawn_blocking(move || {
            if let Err(fault) = log.mirror(&committed) {
                tracing::debug!(%fault, "committed offsets are not mirrored; only tools that show lag miss them");
            }
            under_way.store(false, Ordering::Release);
        });
    }
}

impl Lead {
    fn new(head: Head, shared: &Shared, peers: usize) -> Self {
        let (ends, ended) = channel();
        shared.metrics.epoch_bound.set(head.last_binding().epoch);
        shared.metrics.epoch_committed.set(head.committed.epoch);
        let (leader, start) = Leader::new(head, peers, shared.config.epoch, shared.config.until_end, Instant::now());
        Self { leader, start: Some(start), ended, ends, mirror: Mirror::default() }
    }

    /// One turn of the leader; returns whether anything happened.
    fn turn(&mut self, arrived: &RefCell<VecDeque<Up>>, probe: &ProbeHandle<u64>, shared: &Arc<Shared>, said: &mut Vec<Down>) -> bool {
        let now = Instant::now();
        let mut acts: Vec<Act> = self.start.take().into_iter().collect();
        for message in arrived.borrow_mut().drain(..) {
            self.leader.hear(message, &mut acts, now);
        }
        if let Ok(ended) = self.ended.try_recv() {
            match ended {
                Ok(head) => {
                    self.leader.proposal_ended(head, &mut acts, now);
                }
                Err(fault) => {
                    shared.failure.set(failed(fault));
                    return true;
                }
            }
        }
        self.mirror.offer(self.leader.head(), shared, now);
        if !self.leader.finished() {
            // The probe stands at the first epoch that is not acknowledged everywhere.
            let acknowledged = probe.with_frontier(|frontier| frontier.first().map_or(u64::MAX, |first| first.saturating_sub(1)));
            self.leader.turn(acknowledged, now_us(), now, &mut acts);
        }
        let busy = !acts.is_empty();
        for act in acts {
            match act {
                Act::Say(message) => said.push(message),
                Act::Propose { proposed, history } => {
                    let (head, shared, ends, thread) = (self.leader.head().clone(), Arc::clone(shared), self.ends.clone(), std::thread::current());
                    shared.runtime.clone().spawn(async move {
                        let ended = workflow::advance(&*shared.store, &head, *proposed, &history).await;
                        let _ = ends.send(ended);
                        thread.unpark();
                    });
                }
            }
        }
        busy
    }
}
