//! The source operator: one a worker, reading its share of the partitions.
//!
//! It combines what it reads in an open map. Asked by the coordinator it seals: the map is set aside,
//! the cut is told, and a new map opens. A sealed map leaves **only after its binding has been
//! broadcast**; until then nothing of the epoch is visible to anyone, and a crash forgets it whole.
//! At most one map is sealed and one open, and the open one is bounded: a slow store stops the
//! reading, nothing else.
//!
//! At the start it reads from the committed cuts. What lies below the bound ones is *replay*:
//! combined epoch by epoch, and released at once at time b. Offsets that are gone by then end the
//! job, unless the operator accepts the loss, which the next binding makes durable
//! ([`tapeflow_protocol::resume`]). Offsets that go while the job runs always end it: the next start
//! is the place to decide.

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
    job::{Failure, JobError},
    metrics::{Metrics, freshness::Unacknowledged},
    operators::{
        combine::Combiner,
        exchange::Item,
        partition::{Intake, PartitionState, lost_dead_letter},
        replay::Replay,
    },
};

/// Records asked of the log in one go, between which the worker looks after everything else.
const RECORDS_PER_POLL: usize = 1_024;
/// Records in one go from which on it asks again at once. Fewer mean that the log has no more for
/// now, and a moment's wait finds several together.
const WORTH_ANOTHER: usize = 32;
/// Windows the open maps of a job may hold together before its sources stop reading until the next
/// seal. With what may be ahead ([`crate::coordinator::decisions::WINDOWS_AHEAD`]) it bounds what a job holds, some
/// 2 kB a window on its way from the log to an acknowledged bar, and what a restart replays.
const OPEN_WINDOWS: usize = 8_192;
/// The same while windows hold [`MANY_TRADES`]: a backlog is read in epochs as large as this, and a
/// window whose trades lie in two epochs is written twice.
const OPEN_WINDOWS_OF_MANY: usize = 16_384;
/// So many trades a window, on average, make larger epochs worth their memory.
const MANY_TRADES: usize = 16;
/// Windows each open map may hold at least, however many workers there are, and at most until the
/// first seal: the first bars of a backlog are to be seen at once.
const OPEN_WINDOWS_AT_LEAST: usize = 1_024;
/// Dead letters an open map may hold, likewise.
const OPEN_DEAD_LETTERS: usize = 4_096;

/// What a source is told, and what it answers: queues shared with its worker's loop.
#[derive(Clone, Default)]
pub(crate) struct Mailbox {
    pub(crate) inbox: Rc<RefCell<VecDeque<ToWorker>>>,
    pub(crate) outbox: Rc<RefCell<Vec<ToCoordinator>>>,
    /// Whether the last turn was told something, had something to say, or read so much that there
    /// is likely more.
    pub(crate) busy: Rc<RefCell<bool>>,
    /// When records of what is sealed and not acknowledged were appended.
    pub(crate) unacknowledged: Unacknowledged,
}

/// What a source needs to know from the start.
pub(crate) struct SourceSettings {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) sizes: Vec<WindowSize>,
    pub(crate) until_end: bool,
    /// Go on without the offsets that are gone.
    pub(crate) accept_loss: bool,
    pub(crate) failure: Failure,
    pub(crate) metrics: Arc<Metrics>,
}

/// Builds the operator. The activator wakes it; it never wakes itself.
pub(crate) fn build<'scope>(
    scope: Scope<'scope, u64>,
    settings: SourceSettings,
    mailbox: &Mailbox,
) -> (StreamVec<'scope, u64, Item>, Activator) {
    let mailbox = mailbox.clone();
    let (index, peers) = (scope.index(), scope.peers());
    let mut activator = None;
    let slot = &mut activator;
    let stream = source::<_, CapacityContainerBuilder<Vec<Item>>, _, _>(
        scope,
        "source",
        |capability, info| {
            *slot = Some(scope.activator_for(info.address));
            let mut state = State::Waiting(capability);
            move |output| {
                let said = mailbox.outbox.borrow().len();
                let mut busy = false;
                loop {
                    let Some(message) = mailbox.inbox.borrow_mut().pop_front() else {
                        break;
                    };
                    busy = true;
                    let before = std::mem::replace(&mut state, State::Done);
                    state = before.obey(
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
                    match running.turn(&settings, &mailbox, |items, capability| {
                        output.session(capability).give_iterator(items.into_iter())
                    }) {
                        Ok(read) => busy |= read,
                        // The capability stays held: were it dropped, others would take what is
                        // sealed here for written, and commit it.
                        Err(error) => settings.failure.set(error),
                    }
                }
                *mailbox.busy.borrow_mut() = busy || mailbox.outbox.borrow().len() != said;
            }
        },
    );
    (stream, activator.expect("the constructor has run"))
}

enum State {
    /// Before the coordinator has told the checkpoint.
    Waiting(Capability<u64>),
    Running(Box<Running>),
    /// Finished: no capability is held. A failure never leads here.
    Done,
}

struct Running {
    capability: Capability<u64>,
    /// Workers of the job.
    peers: usize,
    reader: Box<dyn LogReader>,
    partitions: Vec<PartitionState>,
    /// For each partition of the log, where in `partitions` it is.
    place: Vec<Option<usize>>,
    entries: Vec<Entry>,
    replay: Option<Replay>,
    open: Intake,
    sealed: Option<Sealed>,
    /// A seal asked for while the replay still runs.
    seal_when_replayed: Option<Epoch>,
    ends: Vec<Offset>,
    stopped: bool,
    /// Offsets given up that no binding says yet.
    lost: u64,
    /// Whether the coordinator knows that the open map is full.
    full_told: bool,
    /// Whether nothing that was read has been sealed yet.
    first: bool,
}

struct Sealed {
    epoch: Epoch,
    items: Vec<Item>,
    /// Offsets that its binding gives up.
    lost: u64,
}

impl State {
    /// Does what the coordinator says. A failure is told, and changes nothing about what is held.
    fn obey(
        self,
        message: ToWorker,
        settings: &SourceSettings,
        share: (usize, usize),
        mailbox: &Mailbox,
        mut release: impl FnMut(Vec<Item>, &Capability<u64>),
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
                    "an epoch is reopened only if nobody read, or lost, anything"
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
                    "offsets {given_up} of partition {number} are gone from the log before they were committed, and given up (--accept-loss)"
                );
                open.dead_letters.push(lost_dead_letter(number, given_up));
                lost += given_up.offsets();
            }
            let mut partition = PartitionState::from_cut(number, &checkpoint.committed.cuts[*at]);
            (partition.next, partition.lost) = (resumed.next, resumed.lost);
            partitions.push(partition);
        }
        let mut place = vec![None; checkpoint.committed.cuts.len()];
        mine.iter()
            .enumerate()
            .for_each(|(at, partition)| place[*partition] = Some(at));
        let replay = Replay::new(checkpoint, &mut partitions, || {
            Combiner::new(&settings.sizes)
        });
        let from: Vec<(Partition, Offset)> =
            partitions.iter().map(|p| (p.partition, p.next)).collect();
        let mut reader = settings.log.reader(&from)?;
        if replay.as_ref().is_some_and(|replay| !replay.is_complete()) {
            // These have nothing to replay: what they have waits, as with those that have replayed
            // before the others.
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
            place,
            entries: Vec::new(),
            replay,
            open,
            sealed: None,
            seal_when_replayed: None,
            ends,
            stopped: false,
            lost,
            full_told: false,
            first: true,
        })
    }

    /// One turn: reads what is there, and ends the replay once it is complete. Returns whether
    /// there may be more at once.
    fn turn(
        &mut self,
        settings: &SourceSettings,
        mailbox: &Mailbox,
        release: impl FnOnce(Vec<Item>, &Capability<u64>),
    ) -> Result<bool, JobError> {
        let full = self.open.combiner.len() >= self.limit(settings.sizes.len())
            || self.open.dead_letters.len() >= OPEN_DEAD_LETTERS;
        if full && !std::mem::replace(&mut self.full_told, true) {
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
        Ok(read >= WORTH_ANOTHER)
    }

    /// How many windows the open map may hold now.
    fn limit(&self, sizes: usize) -> usize {
        let trades = usize::try_from(self.open.counts.accepted)
            .unwrap_or(usize::MAX)
            .saturating_mul(sizes);
        let all = if trades / MANY_TRADES >= self.open.combiner.len() {
            OPEN_WINDOWS_OF_MANY
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
            place,
            entries,
            replay,
            open,
            ..
        } = self;
        let mut reached = Vec::new();
        let read = reader.poll(RECORDS_PER_POLL, &mut |record| {
            let state = place[record.partition as usize]
                .map(|at| &mut partitions[at])
                .expect("the reader hands over our partitions only");
            // A client that hands a record over again (after a pause, say) must not count it twice.
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
        // What lies beyond waits until every partition has been replayed: the open map stays small.
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
        release: impl FnOnce(Vec<Item>, &Capability<u64>),
    ) -> Result<(), JobError> {
        let (replay, time) = (
            self.replay.take().expect("asked only while replaying"),
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
                .map(|dead_letter| Item::DeadLetter(Box::new(dead_letter))),
        );
        self.full_told = false;
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

    /// An error of the log as a failure of the job; if offsets have gone under the reader, with
    /// their names, which not every log tells.
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

/// What is left to do about offsets that are gone.
const LOSS_HINT: &str = "rebuild into a new store with --store, or start with --accept-loss to go on without them: their trades will be missing \
    from the bars for good";

/// Why the job does not start. If offsets are gone, those of all partitions are named, not only of
/// this worker's: whoever accepts the loss accepts all of it.
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
