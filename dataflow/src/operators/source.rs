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
//! runs, it always ends, because the decision belongs to the next start. A batch that cannot be
//! read ends it too, unless the operator named it: then its offsets are lost as well.
//!
//! Offsets without a record, such as transaction markers, are passed like records. A cut is made
//! only once the log has proven that they have none.

use std::{cell::RefCell, collections::VecDeque, ops::Range, rc::Rc, sync::Arc};

use tapeflow_log::{Log, LogError, LogReader};
use tapeflow_protocol::{
    Checkpoint, Counts, LostRange, failpoint,
    resume::{Unreadable, join, lost_ahead, resume},
};
use tapeflow_schemas::{Epoch, Horizons, Offset, Partition, WindowSize, codec::Entry};
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
    limits::Limits,
    metrics::{Metrics, freshness::Unacknowledged},
    operators::{
        combine::Combiner,
        exchange::ExchangeItem,
        last_record,
        partition::{Intake, PartitionState, lost_dead_letter},
        replay::Replay,
    },
};

/// A poll with so many records or more is followed by another at once. Fewer records mean that the
/// log has no more for now; after a short wait one poll finds several.
const POLL_AGAIN: usize = 32;
/// Space for the decoded entries of a record that is kept beyond an epoch. Ingest writes no more
/// trades into one.
const ENTRIES_KEPT: usize = 1_024;

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

/// Records that are read between two looks at the open map. Ingest writes at most 1,000 trades into
/// one.
const RECORDS_AT_ONCE: usize = 128;

pub(crate) struct SourceSettings {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) sizes: Vec<WindowSize>,
    pub(crate) horizons: Horizons,
    pub(crate) until_end: bool,
    /// Continue without the offsets that are gone.
    pub(crate) accept_loss: bool,
    /// Leave out these batches if they cannot be read.
    pub(crate) skip_batches: Vec<(Partition, Offset)>,
    pub(crate) limits: Limits,
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
    /// By index: what lies ahead and is left out.
    left_out: Vec<VecDeque<LeftOut>>,
    /// For each partition of the log, its index in `partitions`.
    index_of: Vec<Option<usize>>,
    entries: Vec<Entry>,
    replay: Option<Replay>,
    open: Intake,
    sealed: Option<Sealed>,
    /// A seal requested while the log has not proven that passed offsets have no record. Nothing is
    /// read meanwhile.
    seal_when_proven: Option<Epoch>,
    ends: Vec<Offset>,
    stopped: bool,
    /// The number of offsets given up that no binding records yet.
    lost: u64,
    /// Whether the coordinator has been sent that the open map is full.
    full_sent: bool,
    /// Whether the coordinator has been sent that the open map has a record.
    record_sent: bool,
    /// Whether no record has been sealed yet.
    first: bool,
}

/// Offsets that are not read although the log has them.
struct LeftOut {
    range: LostRange,
    /// Whether no binding says so yet.
    is_new: bool,
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
            ToWorker::Seal(epoch) => {
                if let Err(error) = running.0.seal(epoch, mailbox, &settings.metrics) {
                    settings.failure.set(running.0.failed(error, settings));
                }
            }
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
                let mine: Vec<Partition> =
                    running.0.partitions.iter().map(|p| p.partition).collect();
                match settings.log.bounds_of(&mine) {
                    Ok(bounds) => running.0.ends = bounds.iter().map(|bounds| bounds.end).collect(),
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
        let numbers: Vec<Partition> = mine
            .iter()
            .map(|at| Partition::try_from(*at).expect("partitions are counted in 32 bits"))
            .collect();
        let all_bounds = settings.log.bounds_of(&numbers)?;
        let (mut partitions, mut ends, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
        let combiner = || Combiner::new(&settings.sizes, &settings.horizons, &settings.limits);
        let mut open = Intake::new(combiner());
        let mut lost = 0;
        for ((at, number), bounds) in mine.iter().zip(numbers.iter().copied()).zip(&all_bounds) {
            if settings.until_end {
                ends.push(bounds.end);
            }
            let resumed = resume(checkpoint, number, bounds, settings.accept_loss)
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
            let known = lost_ahead(checkpoint, number, resumed.next);
            let skipped = skipped_batch(checkpoint, number, settings)?;
            if skipped.is_some() && resumed.given_up.is_some() {
                // A cut names one loss.
                return Err(JobError::Refused(format!(
                    "partition {number}: a start gives up either the offsets that are gone or a \
                     batch: start with --accept-loss alone first"
                )));
            }
            let ahead = known.into_iter().map(|range| (range, false));
            let ahead = ahead.chain(skipped.map(|range| (range, true)));
            left_out.push(
                ahead
                    .map(|(range, is_new)| LeftOut { range, is_new })
                    .collect::<VecDeque<_>>(),
            );
            partitions.push(partition);
        }
        let cuts = numbers.iter().zip(&all_bounds).map(|(number, bounds)| {
            let cut = &checkpoint.last_binding().cuts[*number as usize];
            (*number, cut, bounds)
        });
        last_record::compare(&*settings.log, cuts)?;
        let mut index_of = vec![None; checkpoint.committed.cuts.len()];
        mine.iter()
            .enumerate()
            .for_each(|(at, partition)| index_of[*partition] = Some(at));
        let replay = Replay::new(checkpoint, &mut partitions, combiner);
        let from: Vec<(Partition, Offset)> =
            partitions.iter().map(|p| (p.partition, p.next)).collect();
        let mut reader = settings.log.reader(&from)?;
        for (partition, ahead) in partitions.iter().zip(&left_out) {
            for LeftOut { range, .. } in ahead {
                reader.leave_out(partition.partition, range.from..range.to);
            }
        }
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
            left_out,
            index_of,
            entries: Vec::new(),
            replay,
            open,
            sealed: None,
            seal_when_proven: None,
            ends,
            stopped: false,
            lost,
            full_sent: false,
            record_sent: false,
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
        let full = self.open.combiner.len() >= self.limit(settings)
            || self.open.dead_letters.len() + self.open.feed_gaps.len()
                >= settings.limits.open_dead_letters
            || self.open.dead_letters.room_for_records() == 0;
        if full && !std::mem::replace(&mut self.full_sent, true) {
            mailbox.outbox.borrow_mut().push(ToCoordinator::Full);
        }
        let differs = |running: &Self| running.replay.as_ref().and_then(Replay::differs);
        let replayed = self.replay.as_ref().is_some_and(Replay::is_complete);
        let mut read = 0;
        if self.seal_when_proven.is_none()
            && !(replayed || differs(self).is_some())
            && (self.replay.is_some() || !(self.stopped || full))
        {
            read = self
                .read_some(settings)
                .map_err(|error| self.failed(error, settings))?;
            settings.metrics.records.add(read as u64);
            let has_records = self.replay.is_none() && self.open.counts.records > 0;
            if has_records && !std::mem::replace(&mut self.record_sent, true) {
                mailbox.outbox.borrow_mut().push(ToCoordinator::RecordWaits);
            }
        }
        let is_waiting = self.seal_when_proven.is_some() || differs(self).is_some();
        if is_waiting || self.replay.as_ref().is_some_and(Replay::is_complete) {
            let proven = self.reader.is_proven();
            if !proven.map_err(|error| self.failed(error, settings))? {
                return Ok(false);
            }
            if let Some(partition) = differs(self) {
                return Err(JobError::Failed(format!(
                    "partition {partition}: its replay does not arrive at the state of its \
                     binding: the log has other records than those that were bound; rebuild into a \
                     new store with --store"
                )));
            }
            if self.replay.is_some() {
                let finished = self.finish_replay(mailbox, &settings.metrics, release);
                finished.map_err(|error| self.failed(error, settings))?;
            } else if let Some(epoch) = self.seal_when_proven.take() {
                self.seal_now(epoch, mailbox, &settings.metrics);
            }
            return Ok(true);
        }
        Ok(read >= POLL_AGAIN)
    }

    /// The current limit of windows in the open map.
    fn limit(&self, settings: &SourceSettings) -> usize {
        let limits = &settings.limits;
        if self.first {
            limits.open_windows_at_least
        } else {
            (limits.open_windows / self.peers).max(limits.open_windows_at_least)
        }
    }

    /// Reads as many records as a poll may. Not in a replay it looks in between whether the open map
    /// is full: a record may have a window for each of its trades.
    fn read_some(&mut self, settings: &SourceSettings) -> Result<usize, LogError> {
        let most = settings.limits.records_per_poll;
        if self.replay.is_some() {
            return self.read(most);
        }
        let mut all = 0;
        while all < most {
            let wanted = RECORDS_AT_ONCE.min(most - all);
            let read = self.read(wanted)?;
            all += read;
            if read < wanted || self.open.combiner.len() >= self.limit(settings) {
                break;
            }
        }
        Ok(all)
    }

    fn read(&mut self, records: usize) -> Result<usize, LogError> {
        let Self {
            reader,
            partitions,
            left_out,
            index_of,
            entries,
            replay,
            open,
            lost,
            ..
        } = self;
        let mut reached = Vec::new();
        // The epochs of a replay were bounded when they were bound.
        let records = match replay {
            Some(_) => records,
            None => records.min(open.dead_letters.room_for_records()),
        };
        let read = reader.poll(records, &mut |record| {
            let at = index_of[record.partition as usize]
                .expect("the reader returns only our partitions");
            let state = &mut partitions[at];
            // A client may return a record again, for example after a pause. It must count once.
            if record.offset < state.next {
                return;
            }
            if record.offset > state.next || !left_out[at].is_empty() {
                let was = state.next;
                pass(state, record.offset, &mut left_out[at], open, lost);
                if replay
                    .as_mut()
                    .is_some_and(|replay| replay.advanced(state, was))
                {
                    reached.push(record.partition);
                }
                if record.offset < state.next {
                    return;
                }
            }
            let was = state.next;
            let bound = replay
                .as_mut()
                .and_then(|replay| replay.intake_of(record.partition, record.offset));
            state.take(record, entries, bound.unwrap_or(open));
            state.last = Some(last_record::identify(record));
            if replay
                .as_mut()
                .is_some_and(|replay| replay.advanced(state, was))
            {
                reached.push(record.partition);
            }
        })?;
        // Offsets without a record may lie before a cut that the replay waits for.
        if self.replay.is_some() && read < POLL_AGAIN {
            reached.extend(self.follow());
        }
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

    /// Passes offsets that have no record, up to the positions of the reader. Returns partitions
    /// that have now reached the cut of the last binding.
    fn follow(&mut self) -> Vec<Partition> {
        let Self {
            reader,
            partitions,
            left_out,
            index_of,
            replay,
            open,
            lost,
            ..
        } = self;
        let mut reached = Vec::new();
        reader.positions(&mut |partition, position| {
            let at = index_of[partition as usize].expect("the reader has only our partitions");
            let state = &mut partitions[at];
            if position <= state.next {
                return;
            }
            let was = state.next;
            pass(state, position, &mut left_out[at], open, lost);
            if replay
                .as_mut()
                .is_some_and(|replay| replay.advanced(state, was))
            {
                reached.push(partition);
            }
        });
        reached
    }

    fn finish_replay(
        &mut self,
        mailbox: &Mailbox,
        metrics: &Metrics,
        release: impl FnOnce(Vec<ExchangeItem>, &Capability<u64>),
    ) -> Result<(), LogError> {
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
        Ok(())
    }

    /// Seals the epoch now, or once everything below the cuts is proven.
    fn seal(&mut self, epoch: Epoch, mailbox: &Mailbox, metrics: &Metrics) -> Result<(), LogError> {
        assert!(
            self.replay.is_none(),
            "the coordinator seals only after all workers have replayed"
        );
        self.follow();
        if self.reader.is_proven()? {
            self.seal_now(epoch, mailbox, metrics);
        } else {
            self.seal_when_proven = Some(epoch);
        }
        Ok(())
    }

    fn seal_now(&mut self, epoch: Epoch, mailbox: &Mailbox, metrics: &Metrics) {
        assert!(
            self.sealed.is_none(),
            "an epoch is sealed only after the one before is bound"
        );
        // A record of a megabyte has up to 50,000.
        self.entries.shrink_to(ENTRIES_KEPT);
        let mut items = self.open.combiner.seal(epoch);
        self.first &= items.is_empty();
        let rows = items.iter().map(ExchangeItem::rows).sum();
        metrics.count_dead_letters(self.open.dead_letters.take_counts());
        metrics.count_outside_sessions(self.open.combiner.take_outside_sessions());
        metrics.count_beyond_horizon(self.open.combiner.take_beyond_horizon());
        items.extend(
            self.open
                .dead_letters
                .take()
                .into_iter()
                .map(|dead_letter| ExchangeItem::DeadLetter(Box::new(dead_letter))),
        );
        items.extend(self.open.take_gaps());
        metrics.lost_sequences.add(self.open.take_lost_sequences());
        self.full_sent = false;
        self.record_sent = false;
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
            rows,
            at_end: at_end || self.partitions.is_empty(),
        });
    }

    /// Turns an error of the log into a failure of the job. If offsets have gone, it names them;
    /// not every log does.
    fn failed(&self, error: LogError, settings: &SourceSettings) -> JobError {
        if let LogError::Unreadable {
            partition, offset, ..
        } = &error
        {
            return JobError::Failed(format!(
                "{error}; or start once with --skip-batch {partition}:{offset} to go on without \
                 it: its trades will be missing from the bars for good"
            ));
        }
        let LogError::Broken(reason) = &error else {
            return error.into();
        };
        let mine: Vec<Partition> = self.partitions.iter().map(|p| p.partition).collect();
        let all_bounds = settings.log.bounds_of(&mine).unwrap_or_default();
        let mut gone = Vec::new();
        for (partition, bounds) in self.partitions.iter().zip(all_bounds) {
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

/// Moves a partition forward to an offset, over offsets without a record and over what is left out.
/// What is left out and in no binding goes into the open map as a dead letter.
fn pass(
    state: &mut PartitionState,
    to: Offset,
    left_out: &mut VecDeque<LeftOut>,
    open: &mut Intake,
    lost: &mut u64,
) {
    state.next = state.next.max(to);
    while let Some(LeftOut { range, is_new }) = left_out
        .front()
        .filter(|out| out.range.from < to || out.range.contains(to))
    {
        if *is_new {
            state.lost = Some(join(state.lost, *range));
            open.dead_letters
                .push(lost_dead_letter(state.partition, *range));
            *lost += range.offsets();
        }
        // Whole, or a binding would end inside it.
        state.next = state.next.max(range.to);
        left_out.pop_front();
    }
}

/// The offsets of the batch that the operator gives up in a partition, if it cannot be read.
fn skipped_batch(
    checkpoint: &Checkpoint,
    partition: Partition,
    settings: &SourceSettings,
) -> Result<Option<LostRange>, JobError> {
    let Some((_, offset)) = settings
        .skip_batches
        .iter()
        .find(|(named, _)| *named == partition)
    else {
        return Ok(None);
    };
    // A restart by a supervisor has the flag again.
    let is_bound = *offset < checkpoint.last_binding().cuts[partition as usize].next;
    let batch = if is_bound {
        None
    } else {
        settings.log.unreadable_batch(partition, *offset)?
    };
    let Some(batch) = batch else {
        tracing::warn!(
            partition,
            offset,
            is_bound,
            "--skip-batch leaves nothing out: the batch can be read, or was passed before"
        );
        return Ok(None);
    };
    let range = LostRange {
        from: batch.start,
        to: batch.end,
    };
    tracing::warn!(
        partition,
        from = range.from,
        to = range.to - 1,
        "offsets {range} of partition {partition} cannot be read, and are given up (--skip-batch)"
    );
    Ok(Some(range))
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
    let all: Vec<Partition> = (0u32..)
        .zip(&checkpoint.committed.cuts)
        .map(|(partition, _)| partition)
        .collect();
    let all_bounds: Vec<Range<Offset>> = settings.log.bounds_of(&all).unwrap_or_default();
    let gone: Vec<String> = all
        .iter()
        .zip(&all_bounds)
        .filter_map(|(partition, bounds)| resume(checkpoint, *partition, bounds, false).err())
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
