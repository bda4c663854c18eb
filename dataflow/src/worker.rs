//! One worker's life: it builds the same two dataflows as all others, and turns the same loop: hear
//! the coordinator, read, step.
//!
//! A turn never waits, so that a thread may turn one worker for ever, or a simulation many by turns
//! ([`crate::stepped`]).

use std::{cell::RefCell, collections::VecDeque, rc::Rc, sync::Arc, time::Duration};

use tapeflow_protocol::{Checkpoint, EpochWrites, failpoint, workflow};
use tapeflow_schemas::{BarKey, BarState, BarWrite, Epoch, WindowSize};
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
        messages::{Shown, ToCoordinator, ToWorker},
    },
    job::{Ending, JobError, Observer, Shared},
    operators::{
        bar_state as state,
        bar_state::{EpochTimestamps, Folded, StateSettings},
        sink::{self, Showing, SinkSettings},
        source::{self, Mailbox, SourceSettings},
    },
    views::{self, Change, windows::WindowSettings},
};

/// One knob for memory: for each so many resident bars a window of the views is kept as well. The
/// default of 12,000 keeps the open windows of five sizes and those before them.
const RESIDENT_ROWS_PER_WINDOW: usize = 1_000;
/// How long a worker with nothing to do waits before it asks the log again; what other threads have
/// for it wakes it at once. A turn costs some 40 us, most of it the system's: at 5 ms a worker of a
/// quiet market takes less than a hundredth of a core, and a trade waits for its epoch anyway.
const IDLE_PARK: Duration = Duration::from_millis(5);

/// One worker's life, from its first dataflow to its last.
pub(crate) fn work(worker: &mut Worker, shared: &Arc<Shared>) {
    let mut work = Work::new(worker, shared);
    while work.goes_on(shared) {
        shared.liveness.turn(worker.index() % shared.config.workers);
        if !work.turn(worker, shared) {
            worker.step_or_park(Some(IDLE_PARK));
        }
    }
    // Before anything that lets another process come to its end: none may be gone before this one
    // knows why.
    shared.liveness.end();
    work.close();
    while run_out(worker, shared) {
        worker.step_or_park(Some(IDLE_PARK));
    }
}

/// The ways into the control dataflow: to the coordinator, from it, and to whoever looks on at process
/// 0.
type Said = (
    InputHandleVec<u64, ToCoordinator>,
    InputHandleVec<u64, ToWorker>,
    InputHandleVec<u64, Shown>,
);

/// What a worker holds besides its dataflows.
pub(crate) struct Work {
    mailbox: Mailbox,
    board: Rc<RefCell<EpochTimestamps>>,
    /// Into the control dataflow; none once it is closed.
    said: Option<Said>,
    /// Bars to be shown to process 0.
    showing: Showing,
    to_coordinator: Rc<RefCell<VecDeque<ToCoordinator>>>,
    from_coordinator: Rc<RefCell<VecDeque<ToWorker>>>,
    acknowledged: ProbeHandle<u64>,
    source: Activator,
    /// Operators that look at the board.
    waiting: [Activator; 3],
    lead: Option<Driver>,
    /// The ending that the coordinator has been told of.
    told: Ending,
    finished: bool,
}

impl Work {
    /// Builds the worker's dataflows. The first worker of the process that has the checkpoint leads.
    pub(crate) fn new(worker: &mut Worker, shared: &Arc<Shared>) -> Self {
        let mailbox = Mailbox::default();
        let board = Rc::new(RefCell::new(EpochTimestamps::default()));
        let (mut up, mut down, mut show) = (
            InputHandleVec::<u64, ToCoordinator>::new(),
            InputHandleVec::<u64, ToWorker>::new(),
            InputHandleVec::<u64, Shown>::new(),
        );
        let size = shared.observer.shared_size();
        let to_coordinator: Rc<RefCell<VecDeque<ToCoordinator>>> = Rc::default();
        let from_coordinator: Rc<RefCell<VecDeque<ToWorker>>> = Rc::default();
        worker.dataflow_named("control", |scope| {
            let (arrived, told) = (Rc::clone(&to_coordinator), Rc::clone(&from_coordinator));
            scope
                .input_from(&mut up)
                .exchange(|_| 0)
                .inspect(move |message: &ToCoordinator| {
                    arrived.borrow_mut().push_back(message.clone())
                });
            scope
                .input_from(&mut down)
                .broadcast()
                .inspect(move |message: &ToWorker| told.borrow_mut().push_back(message.clone()));
            let observer = Arc::clone(&shared.observer);
            scope
                .input_from(&mut show)
                .exchange(|_| 0)
                .inspect_core(move |event| {
                    if let (Some(size), Ok((_, bars))) = (size, event) {
                        seen(&*observer, size, bars);
                    }
                });
        });
        let acknowledged = ProbeHandle::new();
        let showing = Showing::default();
        let shown = size
            .filter(|_| shared.config.process > 0)
            .map(|size| (size, Rc::clone(&showing)));
        let (source, waiting) = trades(worker, shared, &mailbox, &board, &acknowledged, shown);
        let taken = if worker.index() == 0 {
            shared
                .checkpoint
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .take()
        } else {
            None
        };
        let lead = taken.map(|checkpoint| Driver::new(checkpoint, shared, worker.peers()));
        Self {
            mailbox,
            board,
            said: Some((up, down, show)),
            showing,
            to_coordinator,
            from_coordinator,
            acknowledged,
            source,
            waiting,
            lead,
            told: Ending::No,
            finished: false,
        }
    }

    /// Whether there is another turn: nothing has failed, and the coordinator has not said its last
    /// word.
    pub(crate) fn goes_on(&self, shared: &Shared) -> bool {
        !self.finished && !shared.failure.happened()
    }

    /// One turn; whether another is worth having at once. Never waits.
    pub(crate) fn turn(&mut self, worker: &mut Worker, shared: &Arc<Shared>) -> bool {
        let Some((up, down, show)) = &mut self.said else {
            return false;
        };
        let ending = shared.stop.ending();
        if ending > self.told {
            self.told = ending;
            self.mailbox
                .outbox
                .borrow_mut()
                .push(if ending == Ending::Now {
                    ToCoordinator::DrainRequested
                } else {
                    ToCoordinator::EndRequested
                });
        }
        send_all(up, self.mailbox.outbox.borrow_mut().drain(..));
        let mut busy = false;
        if let Some(lead) = &mut self.lead {
            let mut said = Vec::new();
            busy |= lead.turn(&self.to_coordinator, &self.acknowledged, shared, &mut said);
            send_all(down, said.into_iter());
        }
        for message in self.from_coordinator.borrow_mut().drain(..) {
            busy = true;
            self.finished |= note(&message, &self.board, shared);
            self.waiting.iter().for_each(Activator::activate);
            self.mailbox.inbox.borrow_mut().push_back(message);
        }
        self.source.activate();
        worker.step();
        send_all(show, self.showing.borrow_mut().drain(..));
        self.mailbox.unacknowledged.observe(
            acknowledged(&self.acknowledged),
            || shared.clock.wall_us(),
            &shared.metrics,
        );
        busy | *self.mailbox.busy.borrow()
    }

    /// Says no more: from here on the dataflows run out.
    pub(crate) fn close(&mut self) {
        self.said = None;
        self.source.activate();
    }
}

/// Builds the dataflow of trades. The source's activator, and those of all operators that look at
/// the board.
fn trades(
    worker: &mut Worker,
    shared: &Arc<Shared>,
    mailbox: &Mailbox,
    board: &Rc<RefCell<EpochTimestamps>>,
    probe: &ProbeHandle<u64>,
    shown: Option<(WindowSize, Showing)>,
) -> (Activator, [Activator; 3]) {
    let (index, peers) = (worker.index(), worker.peers());
    worker.dataflow_named("trades", |scope| {
        let settings = SourceSettings {
            log: Arc::clone(&shared.log),
            sizes: shared.config.sizes.clone(),
            until_end: shared.config.until_end,
            accept_loss: shared.config.accept_loss,
            failure: shared.failure.clone(),
            metrics: Arc::clone(&shared.metrics),
        };
        let (items, source) = source::build(scope, settings, mailbox);
        let acknowledged = state::Acknowledged::default();
        let settings = StateSettings {
            sizes: shared.config.sizes.clone(),
            resident_bars: shared.config.resident_bars,
            io: shared.io.clone(),
            board: Rc::clone(board),
            acknowledged: Rc::clone(&acknowledged),
            failure: shared.failure.clone(),
            metrics: Arc::clone(&shared.metrics),
        };
        let (folded, keeper) = state::build(items, settings);
        let (writes, changes) = folded.ok_err::<Vec<EpochWrites>, _, Vec<Rc<Vec<Change>>>, _, _>(
            |folded| match folded {
                Folded::Writes(writes) => Ok(writes),
                Folded::Changes(changes) => Err(changes),
            },
        );
        let settings = WindowSettings {
            io: shared.io.clone(),
            board: Rc::clone(board),
            failure: shared.failure.clone(),
            metrics: Arc::clone(&shared.metrics),
            windows_kept: shared.config.resident_bars / RESIDENT_ROWS_PER_WINDOW,
            index,
            peers,
        };
        let (bars, windows) = views::windows::build(changes, settings);
        let (lists, list_writer) =
            views::lists::build(views::build(bars, &shared.config.baskets), Rc::clone(board));
        let settings = SinkSettings {
            io: shared.io.clone(),
            acknowledged,
            keeper: keeper.clone(),
            observer: Arc::clone(&shared.observer),
            metrics: Arc::clone(&shared.metrics),
            shown,
        };
        sink::build(writes.concat(lists), settings).probe_with(probe);
        (source, [keeper, windows, list_writer])
    })
}

/// The last epoch of which everything is acknowledged on all workers: the probe stands at the first
/// of which something is not.
pub(crate) fn acknowledged(probe: &ProbeHandle<u64>) -> Epoch {
    probe.with_frontier(|frontier| {
        frontier
            .first()
            .map_or(u64::MAX, |first| first.saturating_sub(1))
    })
}

/// Bars of other processes, as the observer of this one hears of its own.
fn seen(observer: &dyn Observer, size: WindowSize, bars: &[Shown]) {
    for bars in bars.chunk_by(|a, b| a.epoch == b.epoch) {
        let write = |bar: &Shown| BarWrite {
            key: BarKey {
                symbol: bar.symbol.clone(),
                size,
                start: bar.start,
            },
            state: BarState {
                epoch: bar.epoch,
                totals: bar.totals,
            },
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

/// Sends messages of the control dataflow. Its times mean nothing, but an exchange hands over what
/// it holds only when the time moves on.
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
/// is not durable and must not become so.
pub(crate) fn run_out(worker: &mut Worker, shared: &Shared) -> bool {
    if shared.failure.happened() {
        worker
            .installed_dataflows()
            .into_iter()
            .for_each(|id| worker.drop_dataflow(id));
    }
    worker.has_dataflows()
}

/// Whether this process looks at the same store as the coordinator: a process that writes elsewhere
/// would let the job commit what is not there.
fn is_our_checkpoint(checkpoint: &Checkpoint, shared: &Shared) -> Result<(), JobError> {
    let found = shared
        .runtime
        .block_on(workflow::until_answered("reading the checkpoint", || {
            shared.store.checkpoint()
        }))
        .map_err(JobError::Failed)?;
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

/// Takes down what the coordinator says for those who need it later. Returns whether it was the last
/// word.
fn note(message: &ToWorker, board: &RefCell<EpochTimestamps>, shared: &Shared) -> bool {
    let mut board = board.borrow_mut();
    match message {
        ToWorker::Start(checkpoint) => {
            if shared.config.process > 0
                && let Err(error) = is_our_checkpoint(checkpoint, shared)
            {
                // Nothing is read or written before the checkpoint is on the board.
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
            board.start = Some(Rc::new((**checkpoint).clone()));
        }
        ToWorker::Bound {
            epoch,
            write_timestamp,
        } => {
            board.write_timestamps.insert(*epoch, *write_timestamp);
            shared.metrics.epoch_bound.set(*epoch);
        }
        ToWorker::Committed(epoch) => {
            failpoint::reach("committed-heard");
            board.write_timestamps.retain(|bound, _| bound > epoch);
            shared.metrics.epoch_committed.set(*epoch);
            shared.metrics.progressed(shared.clock.now());
        }
        // Nobody has found anything in the log; if nothing is under way either, everything is
        // committed.
        ToWorker::Reopen(_)
            if shared.metrics.epoch_bound.get() == shared.metrics.epoch_committed.get() =>
        {
            shared.metrics.progressed(shared.clock.now())
        }
        // Sealed is only what comes after the replay, once all of the job has ended it.
        ToWorker::Seal(_) => shared.metrics.goes_on(),
        ToWorker::Finish => return true,
        ToWorker::Reopen(_) | ToWorker::StopReading | ToWorker::ReadToEnd => {}
    }
    false
}
