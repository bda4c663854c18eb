//! A worker: builds its two dataflows and runs its loop. Each step exchanges messages with the
//! coordinator, reads from the log, and steps timely.
//!
//! A step never blocks. So a thread can run one worker, or a simulation can step several in turn
//! ([`crate::stepped`]).

use std::{cell::RefCell, collections::VecDeque, rc::Rc, sync::Arc, time::Duration};

use tapeflow_protocol::{Checkpoint, EpochWrites, failpoint, workflow};
use tapeflow_schemas::{BarKey, BarState, BarWrite, Epoch, PackedBars, WindowSize};
use timely::{
    dataflow::{
        InputHandleVec, ProbeHandle,
        operators::{Concat, Exchange, Input, Inspect, Probe, core::OkErr, vec::Broadcast},
    },
    scheduling::Activator,
    worker::Worker,
};

use crate::{
    coordinator::{
        driver::Driver,
        messages::{LiveBar, ToCoordinator, ToWorker},
    },
    epoch_timestamps::{EpochTimestamps, SharedEpochTimestamps},
    failure::JobError,
    observer::Observer,
    operators::{
        acknowledged::{Acknowledged, acknowledged_epoch},
        bar_state::{self, StateOutput, StateSettings},
        sink::{self, LiveBars, SinkSettings},
        source::{self, Mailbox, SourceSettings},
    },
    shared::Shared,
    shutdown::StopRequest,
    views::{
        changes::Change,
        view_state::{self, ViewSettings},
    },
};

/// One setting controls memory: for so many resident bars a worker keeps one rank or sum of views,
/// about 150 bytes. A window of a large market has 61 and its baskets.
const RESIDENT_BARS_PER_RANK: usize = 4;
/// How long an idle worker waits before it asks the log again. Other threads wake it at once. A
/// step costs about 40 us, mostly in the kernel. At 5 ms a worker of a quiet market needs less than
/// 1 % of a core, and a trade waits for its epoch anyway.
const IDLE_PARK: Duration = Duration::from_millis(5);

/// Runs a worker on this thread from its first dataflow to its last.
pub(crate) fn work(worker: &mut Worker, shared: &Arc<Shared>) {
    let mut worker_loop = WorkerLoop::new(worker, shared);
    while worker_loop.continues(shared) {
        shared.liveness.step(worker.index() % shared.config.workers);
        if !worker_loop.step(worker, shared) {
            worker.step_or_park(Some(IDLE_PARK));
        }
    }
    // Before the dataflows run out, which lets other processes end: this process must know by then
    // that a closed connection is no failure.
    shared.liveness.set_ending();
    worker_loop.close();
    while run_out(worker, shared) {
        worker.step_or_park(Some(IDLE_PARK));
    }
}

/// The inputs of the control dataflow.
struct ControlInputs {
    to_coordinator: InputHandleVec<u64, ToCoordinator>,
    to_workers: InputHandleVec<u64, ToWorker>,
    live_bars: InputHandleVec<u64, LiveBar>,
}

/// The state of a worker outside its dataflows.
pub(crate) struct WorkerLoop {
    mailbox: Mailbox,
    timestamps: SharedEpochTimestamps,
    /// `None` once the control dataflow is closed.
    inputs: Option<ControlInputs>,
    /// Bars for the observer of process 0.
    live_bars: LiveBars,
    /// Messages that have arrived for the coordinator.
    for_coordinator: Rc<RefCell<VecDeque<ToCoordinator>>>,
    /// Messages that have arrived from the coordinator.
    from_coordinator: Rc<RefCell<VecDeque<ToWorker>>>,
    acknowledged: ProbeHandle<u64>,
    /// What it said last.
    acknowledged_epoch: Epoch,
    source: Activator,
    /// Operators that wait for epoch timestamps or acknowledgements.
    waiting: [Activator; 2],
    /// In one worker of the job.
    coordinator: Option<Driver>,
    /// The stop request that the coordinator has been sent.
    sent_request: StopRequest,
    finished: bool,
}

impl WorkerLoop {
    /// Builds the worker's dataflows. The first worker of the process that holds the checkpoint
    /// becomes the coordinator.
    pub(crate) fn new(worker: &mut Worker, shared: &Arc<Shared>) -> Self {
        let mailbox = Mailbox::default();
        let timestamps = SharedEpochTimestamps::default();
        let mut inputs = ControlInputs {
            to_coordinator: InputHandleVec::new(),
            to_workers: InputHandleVec::new(),
            live_bars: InputHandleVec::new(),
        };
        let size = shared.observer.shared_size();
        let for_coordinator: Rc<RefCell<VecDeque<ToCoordinator>>> = Rc::default();
        let from_coordinator: Rc<RefCell<VecDeque<ToWorker>>> = Rc::default();
        worker.dataflow_named("control", |scope| {
            let arrived = Rc::clone(&for_coordinator);
            scope
                .input_from(&mut inputs.to_coordinator)
                .exchange(|_| 0)
                .inspect(move |message: &ToCoordinator| {
                    arrived.borrow_mut().push_back(message.clone())
                });
            let arrived = Rc::clone(&from_coordinator);
            scope
                .input_from(&mut inputs.to_workers)
                .broadcast()
                .inspect(move |message: &ToWorker| arrived.borrow_mut().push_back(message.clone()));
            let observer = Arc::clone(&shared.observer);
            scope
                .input_from(&mut inputs.live_bars)
                .exchange(|_| 0)
                .inspect_core(move |event| {
                    if let (Some(size), Ok((_, bars))) = (size, event) {
                        observe_live_bars(&*observer, size, bars);
                    }
                });
        });
        let acknowledged = ProbeHandle::new();
        let live_bars = LiveBars::default();
        let to_process_0 = size
            .filter(|_| shared.config.process > 0)
            .map(|size| (size, Rc::clone(&live_bars)));
        let (source, waiting) = build_trades(
            worker,
            shared,
            &mailbox,
            &timestamps,
            &acknowledged,
            to_process_0,
        );
        let checkpoint = if worker.index() == 0 {
            shared
                .checkpoint
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .take()
        } else {
            None
        };
        let coordinator =
            checkpoint.map(|checkpoint| Driver::new(checkpoint, shared, worker.peers()));
        Self {
            mailbox,
            timestamps,
            inputs: Some(inputs),
            live_bars,
            for_coordinator,
            from_coordinator,
            acknowledged,
            acknowledged_epoch: 0,
            source,
            waiting,
            coordinator,
            sent_request: StopRequest::None,
            finished: false,
        }
    }

    /// Whether there is another step: nothing has failed, and the coordinator has not ended the
    /// job.
    pub(crate) fn continues(&self, shared: &Shared) -> bool {
        !self.finished && !shared.failure.happened()
    }

    /// One step. Returns whether the next one should follow at once. Never blocks.
    pub(crate) fn step(&mut self, worker: &mut Worker, shared: &Arc<Shared>) -> bool {
        let Some(inputs) = &mut self.inputs else {
            return false;
        };
        let requested = shared.stop.requested();
        if requested > self.sent_request {
            self.sent_request = requested;
            let message = if requested == StopRequest::Now {
                ToCoordinator::DrainRequested
            } else {
                ToCoordinator::EndRequested
            };
            self.mailbox.outbox.borrow_mut().push(message);
        }
        send_all(
            &mut inputs.to_coordinator,
            self.mailbox.outbox.borrow_mut().drain(..),
        );
        let mut busy = false;
        if let Some(coordinator) = &mut self.coordinator {
            let mut outgoing = Vec::new();
            busy |= coordinator.step(
                &self.for_coordinator,
                &self.acknowledged,
                shared,
                &mut outgoing,
            );
            send_all(&mut inputs.to_workers, outgoing.into_iter());
        }
        for message in self.from_coordinator.borrow_mut().drain(..) {
            busy = true;
            self.finished |= apply(&message, &self.timestamps, shared);
            self.waiting.iter().for_each(Activator::activate);
            self.mailbox.inbox.borrow_mut().push_back(message);
        }
        self.source.activate();
        worker.step();
        send_all(&mut inputs.live_bars, self.live_bars.borrow_mut().drain(..));
        let acknowledged = acknowledged_epoch(&self.acknowledged);
        if std::mem::replace(&mut self.acknowledged_epoch, acknowledged) != acknowledged {
            self.waiting.iter().for_each(Activator::activate);
        }
        self.mailbox.unacknowledged.observe(
            acknowledged,
            || shared.clock.wall_us(),
            &shared.metrics,
        );
        busy | *self.mailbox.busy.borrow()
    }

    /// Closes the control dataflow. From here on the dataflows run out.
    pub(crate) fn close(&mut self) {
        self.inputs = None;
        self.source.activate();
    }
}

/// Builds the dataflow of trades. Returns the activator of the source, and those of the operators
/// that wait for epoch timestamps.
fn build_trades(
    worker: &mut Worker,
    shared: &Arc<Shared>,
    mailbox: &Mailbox,
    timestamps: &SharedEpochTimestamps,
    probe: &ProbeHandle<u64>,
    live_bars: Option<(WindowSize, LiveBars)>,
) -> (Activator, [Activator; 2]) {
    worker.dataflow_named("trades", |scope| {
        let settings = SourceSettings {
            log: Arc::clone(&shared.log),
            sizes: shared.config.sizes.clone(),
            horizons: shared.config.horizons.clone(),
            until_end: shared.config.until_end,
            accept_loss: shared.config.accept_loss,
            skip_batches: shared.config.skip_batches.clone(),
            limits: shared.config.limits,
            failure: shared.failure.clone(),
            metrics: Arc::clone(&shared.metrics),
        };
        let (items, source) = source::build(scope, settings, mailbox);
        let acknowledged = Acknowledged::default();
        let settings = StateSettings {
            sizes: shared.config.sizes.clone(),
            resident_bars: shared.config.resident_bars,
            limits: shared.config.limits,
            io: shared.io.clone(),
            timestamps: Rc::clone(timestamps),
            acknowledged: Rc::clone(&acknowledged),
            failure: shared.failure.clone(),
            metrics: Arc::clone(&shared.metrics),
        };
        let (outputs, bar_state) = bar_state::build(items, settings);
        let (writes, changes) = outputs.ok_err::<Vec<EpochWrites>, _, Vec<Rc<Vec<Change>>>, _, _>(
            |output| match output {
                StateOutput::Writes(writes) => Ok(writes),
                StateOutput::Changes(changes) => Err(changes),
            },
        );
        let settings = ViewSettings {
            baskets: Rc::new(shared.config.baskets.clone()),
            limits: shared.config.limits,
            io: shared.io.clone(),
            timestamps: Rc::clone(timestamps),
            failure: shared.failure.clone(),
            metrics: Arc::clone(&shared.metrics),
            acknowledged_up_to: probe.clone(),
            acknowledged: Rc::clone(&acknowledged),
            most_ranked: shared.config.most_ranked,
            ranks_kept: shared.config.resident_bars / RESIDENT_BARS_PER_RANK,
        };
        let (view_writes, view_state) = view_state::build(changes, settings);
        let settings = SinkSettings {
            io: shared.io.clone(),
            acknowledged,
            waiting: [bar_state.clone(), view_state.clone()],
            observer: Arc::clone(&shared.observer),
            metrics: Arc::clone(&shared.metrics),
            live_bars,
        };
        sink::build(writes.concat(view_writes), settings).probe_with(probe);
        (source, [bar_state, view_state])
    })
}

/// Passes bars of other processes to the observer, in the form in which it gets the bars of its own
/// process.
fn observe_live_bars(observer: &dyn Observer, size: WindowSize, bars: &[LiveBar]) {
    for bars in bars.chunk_by(|a, b| a.epoch == b.epoch) {
        let write = |bar: &LiveBar| BarWrite {
            key: BarKey {
                symbol: bar.symbol.clone(),
                size,
                start: bar.start,
            },
            state: BarState {
                epoch: bar.epoch,
                totals: bar.totals,
            },
            packed: PackedBars::default(),
            write_timestamp: bar.write_timestamp,
        };
        observer.acknowledged(
            bars[0].epoch,
            &EpochWrites {
                bars: bars.iter().map(write).collect(),
                ..EpochWrites::default()
            },
        );
    }
}

/// Sends messages into the control dataflow. Its times have no meaning, but an exchange flushes its
/// buffer only when the time advances.
fn send_all<M: Clone + 'static>(
    input: &mut InputHandleVec<u64, M>,
    messages: impl Iterator<Item = M>,
) {
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

/// Whether the worker's dataflows still run out. After a failure they are dropped: what they hold
/// is not durable and must not become durable.
pub(crate) fn run_out(worker: &mut Worker, shared: &Shared) -> bool {
    if shared.failure.happened() {
        worker
            .installed_dataflows()
            .into_iter()
            .for_each(|id| worker.drop_dataflow(id));
    }
    worker.has_dataflows()
}

/// Checks that this process uses the same store as the coordinator. A process that writes elsewhere
/// would let the job commit bars that its store does not have.
fn check_same_store(checkpoint: &Checkpoint, shared: &Shared) -> Result<(), JobError> {
    // The store may be silent for longer than a step may take.
    let _wait = shared.liveness.wait();
    let found = shared
        .runtime
        .block_on(workflow::until_answered("reading the checkpoint", || {
            shared.store.checkpoint()
        }))
        .map_err(JobError::Failed)?;
    let (mine, theirs) = (shared.store.datacenter(), &checkpoint.datacenter);
    if mine.is_some() && mine != *theirs {
        return Err(JobError::Refused(format!(
            "process 0 writes to datacenter {}, this one to {}; see --cassandra-datacenter",
            theirs.as_deref().unwrap_or("unknown"),
            mine.unwrap_or_default()
        )));
    }
    match found {
        Some(found)
            if found.generation == checkpoint.generation && found.owner == checkpoint.owner =>
        {
            Ok(())
        }
        Some(found) if found.job == checkpoint.job && found.generation > checkpoint.generation => {
            Err(JobError::Fenced(format!(
                "generation {} (owner {}) has taken the job over",
                found.generation, found.owner
            )))
        }
        _ => Err(JobError::Refused(format!(
            "{} is not the store that process 0 writes to; see --store",
            shared.store.describe()
        ))),
    }
}

/// Updates the epoch timestamps and the metrics from a message of the coordinator. Returns whether
/// it was the last message.
fn apply(message: &ToWorker, timestamps: &RefCell<EpochTimestamps>, shared: &Shared) -> bool {
    let mut timestamps = timestamps.borrow_mut();
    match message {
        ToWorker::Start(checkpoint) => {
            if shared.config.process > 0
                && let Err(error) = check_same_store(checkpoint, shared)
            {
                // Without the checkpoint this worker reads and writes nothing.
                shared.failure.set(error);
                return false;
            }
            shared.metrics.generation.set(checkpoint.generation);
            shared
                .metrics
                .epoch_bound
                .set(checkpoint.last_binding().epoch);
            shared
                .metrics
                .epoch_committed
                .set(checkpoint.committed.epoch);
            timestamps.checkpoint = Some(Rc::new((**checkpoint).clone()));
        }
        ToWorker::Bound {
            epoch,
            write_timestamp,
        } => {
            timestamps.bound.insert(*epoch, *write_timestamp);
            shared.metrics.epoch_bound.set(*epoch);
        }
        ToWorker::Committed(epoch) => {
            failpoint::reach("committed-heard");
            timestamps.bound.retain(|bound, _| bound > epoch);
            shared.metrics.epoch_committed.set(*epoch);
            shared.metrics.progressed(shared.clock.now());
        }
        // No worker found a record. If nothing is under way either, everything is committed.
        ToWorker::Reopen(_)
            if shared.metrics.epoch_bound.get() == shared.metrics.epoch_committed.get() =>
        {
            shared.metrics.progressed(shared.clock.now())
        }
        // The coordinator seals only after all workers have replayed.
        ToWorker::Seal(_) => shared.metrics.set_ready(),
        ToWorker::Finish => return true,
        ToWorker::Reopen(_) | ToWorker::StopReading | ToWorker::ReadToEnd => {}
    }
    false
}
