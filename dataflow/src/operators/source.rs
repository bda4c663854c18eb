//! The source operator: one per worker, which reads the worker's share of the partitions.
//!
//! It combines what it reads in an open map. When the coordinator asks, it *seals*: it sets the map
//! aside, reports its cuts, and opens a new map. A sealed map leaves **only after its binding has
//! been broadcast**. Until then nothing of the epoch is visible, and a crash discards it
//! completely. At most one map is sealed and one is open, and the size of the open one is bounded,
//! so that a slow store stops the reading.
//!
//! At the start the source reads from the committed cuts. Records below the bound cuts are
//! *replayed* ([`crate::operators::replay`]): combined epoch by epoch and released together at time
//! b. If offsets are gone by then, the job ends, unless the operator accepts the loss; the next
//! binding makes the loss durable ([`tapeflow_protocol::resume`]). If offsets go while the job
//! runs, it always ends, because the decision belongs to the next start.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, sync::Arc};

use tapeflow_log::{Log, LogError, LogReader};
use tapeflow_protocol::{
    Checkpoint, Counts, LostRange, failpoint,
    resume::{Unreadable, resume},
};
use tapeflow_schemas::{Epoch, Offset, Partition, WindowSize, codec::Entry};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{
        Scope, StreamVec,
        operators::{Capability, generic::operator::source},
    },
    scheduling::Activator,
};

use crate::{
    coordinator::messages::{ToCoordinator, ToWorker},
    failure::{Failure, JobError},
    metrics::{Metrics, freshness::Unacknowledged},
    operators::{
        combine::Combiner,
        exchange::ExchangeItem,
        partition::{Intake, PartitionState, lost_dead_letter},
        replay::Replay,
    },
};

/// The most records of one poll. Between polls the worker does everything else.
const RECORDS_PER_POLL: usize = 1_024;
/// A poll with so many records or more is followed by another at once. Fewer records mean that the
/// log has no more for now; after a short wait one poll finds several.
const POLL_AGAIN: usize = 32;
/// The most windows in the open maps of a job together; with more, its sources stop reading until
/// the next seal. With [`WINDOWS_AHEAD`](crate::coordinator::decisions::WINDOWS_AHEAD) it bounds
/// the memory of a job, about 2 kB per window between the log and an acknowledged bar, and the
/// length of a replay.
const OPEN_WINDOWS: usize = 8_192;
/// The limit while windows hold [`MANY_TRADES`], as when a backlog is read. Larger epochs save
/// writes, because a window whose trades lie in two epochs is written twice.
const OPEN_WINDOWS_IN_BACKLOG: usize = 16_384;
/// The average number of trades per window from which larger epochs are worth their memory.
const MANY_TRADES: usize = 16;
/// The windows that each open map may hold however many workers there are. It is also the limit
/// until the first seal, so that the first bars of a backlog appear soon.
const OPEN_WINDOWS_AT_LEAST: usize = 1_024;
/// The most dead letters of an open map, with the same effect.
const OPEN_DEAD_LETTERS: usize = 4_096;

/// The messages to and from a source: queues shared with its worker's loop.
#[derive(Clone, Default)]
pub(crate) struct Mailbox {
    pub(crate) inbox: Rc<RefCell<VecDeque<ToWorker>>>,
    pub(crate) outbox: Rc<RefCell<Vec<ToCoordinator>>>,
    /// Whether the last step received or sent a message, or read so many records that there are
    /// probably more.
    pub(crate) busy: Rc<RefCell<bool>>,
    /// Freshness samples of epochs that are sealed and not acknowledged.
    pub(crate) unacknowledged: Unacknowledged,
}

pub(crate) struct SourceSettings {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) sizes: Vec<WindowSize>,
    pub(crate) until_end: bool,
    /// Continue without the offsets that are gone.
    pub(crate) accept_loss: bool,
    pub(crate) failure: Failure,
    pub(crate) metrics: Arc<Metrics>,
}

/// Builds the operator. It never activates itself: the worker's loop does, with the activator.
pub(crate) fn build<'scope>(
    scope: Scope<'scope, u64>,
    settings: SourceSettings,
    mailbox: &Mailbox,
) -> (StreamVec<'scope, u64, ExchangeItem>, Activator) {
    let mailbox = mailbox.clone();
    let (index, peers) = (scope.index(), scope.peers());
    let mut activator = None;
    let slot = &mut activator;
    let stream = source::<_, CapacityContainerBuilder<Vec<ExchangeItem>>, _, _>(
        scope,
        "source",
        |capability, info| {
            *slot = Some(scope.activator_for(info.address));
            let mut state = State::Waiting(capability);
            move |output| {
                let sent = mailbox.outbox.borrow().len();
                let mut busy = false;
                loop {
                    let Some(message) = mailbox.inbox.borrow_mut().pop_front() else {
                        break;
                    };
                    busy = true;
                    let before = std::mem::replace(&mut state, State::Done);
                    state = before.apply(
                        message,
                        &settings,
                        (index, peers),
                        &mailbox,
                        |items, capability| {
                            output.session(capability).give_iterator(items.into_iter());
                        },
                    );
                }
                if let State::Running(running) = &mut state {
                    match running.step(&settings, &mailbox, |items, capability| {
                        output.session(capability).give_iterator(items.into_iter())
                    }) {
                        Ok(read) => busy |= read,
                        // The capability is kept. Without it, the frontier would pass the epoch
                        // that is sealed here, and the coordinator would commit it unwritten.
                        Err(error) => settings.failure.set(error),
                    }
                }
                *mailbox.busy.borrow_mut() = busy || mailbox.outbox.borrow().len() != sent;
            }
        },
    );
    (stream, activator.expect("the constructor has run"))
}

enum State {
    /// Before the coordinator has sent the checkpoint.
    Waiting(Capability<u64>),
    Running(Box<Running>),
    /// Finished, without a capability. A failure never leads to this state.
    Done,
}

struct Running {
    capability: Capability<u64>,
    /// The number of workers of the job.
    peers: usize,
    reader: Box<dyn LogReader>,
    partitions: Vec<PartitionState>,
    /// For each partition of the log, its index in `partitions`.
    index_of: Vec<Option<usize>>,
    entries: Vec<Entry>,
    replay: Option<Replay>,
    open: Intake,
    sealed: Option<Sealed>,
    /// A seal requested while the replay still runs.
    seal_when_replayed: Option<Epoch>,
    ends: Vec<Offset>,
    stopped: bool,
    /// The number of offsets given up that no binding records yet.
    lost: u64,
    /// Whether the coordinator has been sent that the open map is full.
    full_sent: bool,
    /// Whether no record has been sealed yet.
    first: bool,
}

struct Sealed {
    epoch: Epoch,
    items: Vec<ExchangeItem>,
    /// The number of offsets that its binding gives up.
    lost: u64,
}

impl State {
    /// Applies a message of the coordinator. After a failure the capability is still held.
    fn apply(
        self,
        message: ToWorker,
        settings: &SourceSettings,
        share: (usize, usize),
        mailbox: &Mailbox,
        mut release: impl FnMut(Vec<ExchangeItem>, &Capability<u64>),
    ) -> Self {
        let mut running = match (self, message) {
            (Self::Waiting(capability), ToWorker::Start(checkpoint)) => {
                return match Running::start(
                    capability.clone(),
                    &checkpoint,
                    settings,
                    share,
                    mailbox,
                ) {
                    Ok(running) => Self::Running(Box::new(running)),
                    Err(error) => {
                        settings.failure.set(error);
                        Self::Waiting(capability)
                    }
                };
            }
            (Self::Waiting(_) | Self::Running(_), ToWorker::Finish) => return Self::Done,
            (Self::Running(running), message) => (running, message),
            (other, _) => return other,
        };
        match running.1 {
            ToWorker::Seal(epoch) => running.0.seal(epoch, mailbox, &settings.metrics),
            ToWorker::Bound { epoch, .. } => {
                let sealed = running
                    .0
                    .sealed
                    .take()
                    .filter(|sealed| sealed.epoch == epoch)
                    .expect("only a sealed epoch is bound");
                failpoint::reach("release-before");
                release(sealed.items, &running.0.capability);
                failpoint::reach("release-after");
                running.0.capability.downgrade(&(epoch + 1));
                settings.metrics.lost.add(sealed.lost);
            }
            ToWorker::Reopen(epoch) => {
                let sealed = running
                    .0
                    .sealed
                    .take()
                    .filter(|sealed| sealed.epoch == epoch)
                    .expect("only a sealed epoch is reopened");
                assert!(
                    sealed.items.is_empty(),
                    "an epoch is reopened only if no worker read or lost a record"
                );
            }
            ToWorker::StopReading => running.0.stopped = true,
            ToWorker::ReadToEnd => {
                let ends = running
                    .0
                    .partitions
                    .iter()
                    .map(|p| settings.log.bounds(p.partition).map(|bounds| bounds.end));
                match ends.collect::<Result<_, LogError>>() {
                    Ok(ends) => running.0.ends = ends,
                    Err(error) => settings.failure.set(error.into()),
                }
            }
            ToWorker::Start(_) | ToWorker::Committed(_) | ToWorker::Finish => {}
        }
        Self::Running(running.0)
    }
}

impl Running {
    fn start(
        mut capability: Capability<u64>,
        checkpoint: &Checkpoint,
        settings: &SourceSettings,
        (index, peers): (usize, usize),
        mailbox: &Mailbox,
    ) -> Result<Self, JobError> {
        let mine: Vec<usize> = (0..checkpoint.committed.cuts.len())
            .filter(|partition| partition % peers == index)
            .collect();
        let (mut partitions, mut ends) = (Vec::new(), Vec::new());
        let mut open = Intake::new(Combiner::new(&settings.sizes));
        let mut lost = 0;
        for at in &mine {
            let number = Partition::try_from(*at).expect("partitions are counted in 32 bits");
            let bounds = settings.log.bounds(number)?;
            if settings.until_end {
                ends.push(bounds.end);
            }
            let resumed = resume(checkpoint, number, &bounds, settings.accept_loss)
                .map_err(|error| refused(&error, checkpoint, settings))?;
            if let Some(given_up) = resumed.given_up {
                tracing::warn!(
                    partition = number,
                    from = given_up.from,
                    to = given_up.to - 1,
                    "offsets {given_up} of partition {number} are gone from the log before they \
                     were committed, and given up (--accept-loss)"
                );
                open.dead_letters.push(lost_dead_letter(number, given_up));
                lost += given_up.offsets();
            }
            let mut partition = PartitionState::from_cut(number, &checkpoint.committed.cuts[*at]);
            (partition.next, partition.lost) = (resumed.next, resumed.lost);
            partitions.push(partition);
        }
        let mut index_of = vec![None; checkpoint.committed.cuts.len()];
        mine.iter()
            .enumerate()
            .for_each(|(at, partition)| index_of[*partition] = Some(at));
        let replay = Replay::new(checkpoint, &mut partitions, || {
            Combiner::new(&settings.sizes)
        });
        let from: Vec<(Partition, Offset)> =
            partitions.iter().map(|p| (p.partition, p.next)).collect();
        let mut reader = settings.log.reader(&from)?;
        if replay.as_ref().is_some_and(|replay| !replay.is_complete()) {
            // Partitions without a replay wait for the others, like those whose replay ends early.
            let last = checkpoint.last_binding();
            for partition in partitions
                .iter()
                .filter(|p| p.next >= last.cuts[p.partition as usize].next)
            {
                reader.set_paused(partition.partition, true)?;
            }
        }
        capability.downgrade(&(checkpoint.last_binding().epoch + u64::from(replay.is_none())));
        if replay.is_none() {
            mailbox.outbox.borrow_mut().push(ToCoordinator::Replayed {
                counts: Vec::new(),
                lost: lost > 0,
            });
        }
        Ok(Self {
            capability,
            peers,
            reader,
            partitions,
            index_of,
            entries: Vec::new(),
            replay,
            open,
            sealed: None,
            seal_when_replayed: None,
            ends,
            stopped: false,
            lost,
            full_sent: false,
            first: true,
        })
    }

    /// One step: reads available records, and ends the replay once it is complete. Returns whether
    /// the next step should follow at once.
    fn step(
        &mut self,
        settings: &SourceSettings,
        mailbox: &Mailbox,
        release: impl FnOnce(Vec<ExchangeItem>, &Capability<u64>),
    ) -> Result<bool, JobError> {
        let full = self.open.combiner.len() >= self.limit(settings.sizes.len())
            || self.open.dead_letters.len() >= OPEN_DEAD_LETTERS;
        if full && !std::mem::replace(&mut self.full_sent, true) {
            mailbox.outbox.borrow_mut().push(ToCoordinator::Full);
        }
        let mut read = 0;
        if self.replay.is_some() || !(self.stopped || full) {
            read = self.read().map_err(|error| self.failed(error, settings))?;
            settings.metrics.records.add(read as u64);
        }
        if self.replay.as_ref().is_some_and(Replay::is_complete) {
            self.finish_replay(mailbox, &settings.metrics, release)?;
            return Ok(true);
        }
        Ok(read >= POLL_AGAIN)
    }

    /// The current limit of windows in the open map.
    fn limit(&self, sizes: usize) -> usize {
        let trades = usize::try_from(self.open.counts.accepted)
            .unwrap_or(usize::MAX)
            .saturating_mul(sizes);
        let all = if trades / MANY_TRADES >= self.open.combiner.len() {
            OPEN_WINDOWS_IN_BACKLOG
        } else {
            OPEN_WINDOWS
        };
        if self.first {
            OPEN_WINDOWS_AT_LEAST
        } else {
            (all / self.peers).max(OPEN_WINDOWS_AT_LEAST)
        }
    }

    fn read(&mut self) -> Result<usize, LogError> {
        let Self {
            reader,
            partitions,
            index_of,
            entries,
            replay,
            open,
            ..
        } = self;
        let mut reached = Vec::new();
        let read = reader.poll(RECORDS_PER_POLL, &mut |record| {
            let state = index_of[record.partition as usize]
                .map(|at| &mut partitions[at])
                .expect("the reader returns only our partitions");
            // A client may return a record again, for example after a pause. It must count once.
            if record.offset < state.next {
                return;
            }
            let was = state.next;
            let bound = replay
                .as_mut()
                .and_then(|replay| replay.intake_of(record.partition, record.offset));
            state.take(record, entries, bound.unwrap_or(open));
            if replay
                .as_mut()
                .is_some_and(|replay| replay.advanced(state, was))
            {
                reached.push(record.partition);
            }
        })?;
        // Newer records wait until every partition has been replayed, so the open map stays small.
        for partition in reached {
            if self
                .replay
                .as_ref()
                .is_some_and(|replay| !replay.is_complete())
            {
                self.reader.set_paused(partition, true)?;
            }
        }
        Ok(read)
    }

    fn finish_replay(
        &mut self,
        mailbox: &Mailbox,
        metrics: &Metrics,
        release: impl FnOnce(Vec<ExchangeItem>, &Capability<u64>),
    ) -> Result<(), JobError> {
        let (replay, time) = (
            self.replay.take().expect("called only while replaying"),
            *self.capability.time(),
        );
        let (items, counts) = replay.finish(metrics, |samples| {
            mailbox.unacknowledged.push(time, samples)
        });
        failpoint::reach("replay-release");
        release(items, &self.capability);
        let next = self.capability.time() + 1;
        self.capability.downgrade(&next);
        mailbox.outbox.borrow_mut().push(ToCoordinator::Replayed {
            counts,
            lost: self.lost > 0,
        });
        for partition in &self.partitions {
            self.reader.set_paused(partition.partition, false)?;
        }
        if let Some(epoch) = self.seal_when_replayed.take() {
            self.seal(epoch, mailbox, metrics);
        }
        Ok(())
    }

    fn seal(&mut self, epoch: Epoch, mailbox: &Mailbox, metrics: &Metrics) {
        if self.replay.is_some() {
            self.seal_when_replayed = Some(epoch);
            return;
        }
        assert!(
            self.sealed.is_none(),
            "an epoch is sealed only after the one before is bound"
        );
        let windows = self.open.combiner.len() as u64;
        self.first &= windows == 0;
        let mut items = self.open.combiner.seal(epoch);
        metrics.count_dead_letters(self.open.dead_letters.iter());
        items.extend(
            self.open
                .dead_letters
                .drain(..)
                .map(|dead_letter| ExchangeItem::DeadLetter(Box::new(dead_letter))),
        );
        self.full_sent = false;
        let counts: Counts = std::mem::take(&mut self.open.counts);
        metrics.count(&counts);
        mailbox
            .unacknowledged
            .push(epoch, std::mem::take(&mut self.open.samples));
        let at_end = !self.ends.is_empty()
            && self
                .partitions
                .iter()
                .zip(&self.ends)
                .all(|(p, end)| p.next >= *end);
        let cuts = self
            .partitions
            .iter()
            .map(|p| (p.partition, p.to_cut()))
            .collect();
        self.sealed = Some(Sealed {
            epoch,
            items,
            lost: std::mem::take(&mut self.lost),
        });
        mailbox.outbox.borrow_mut().push(ToCoordinator::Sealed {
            epoch,
            cuts,
            counts,
            windows,
            at_end: at_end || self.partitions.is_empty(),
        });
    }

    /// Turns an error of the log into a failure of the job. If offsets have gone, it names them;
    /// not every log does.
    fn failed(&self, error: LogError, settings: &SourceSettings) -> JobError {
        let LogError::Broken(reason) = &error else {
            return error.into();
        };
        let mut gone = Vec::new();
        for partition in &self.partitions {
            let Ok(bounds) = settings.log.bounds(partition.partition) else {
                break;
            };
            let range = LostRange {
                from: partition.next,
                to: bounds.start,
            };
            if range.from < range.to {
                gone.push(format!(
                    "partition {}: offsets {range} are gone from the log before they were read",
                    partition.partition
                ));
            }
        }
        if gone.is_empty() {
            error.into()
        } else {
            JobError::Failed(format!("{}; {LOSS_HINT} ({reason})", gone.join("; ")))
        }
    }
}

/// What the operator can do about offsets that are gone.
const LOSS_HINT: &str = "rebuild into a new store with --store, or start with --accept-loss to \
                         go on without them: their trades will be missing from the bars for good";

/// Why the job does not start. It names the lost offsets of all partitions, not only of this
/// worker's, because `--accept-loss` accepts all of them.
fn refused(error: &Unreadable, checkpoint: &Checkpoint, settings: &SourceSettings) -> JobError {
    if matches!(error, Unreadable::Truncated { .. }) {
        return JobError::Refused(error.to_string());
    }
    let gone: Vec<String> = (0u32..)
        .zip(&checkpoint.committed.cuts)
        .filter_map(|(partition, _)| {
            resume(
                checkpoint,
                partition,
                &settings.log.bounds(partition).ok()?,
                false,
            )
            .err()
        })
        .map(|error| error.to_string())
        .collect();
    JobError::Refused(format!(
        "{}; {LOSS_HINT}",
        if gone.is_empty() {
            error.to_string()
        } else {
            gone.join("; ")
        }
    ))
}
