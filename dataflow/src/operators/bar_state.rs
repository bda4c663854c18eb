//! The keeper of bars: a keyed operator that owns the bars of its symbols.
//!
//! It takes an epoch only when its input frontier has passed it, all partials of a key combined;
//! taken earlier, the partial of a slower source would find its key already resident since a later
//! epoch. Epochs are taken strictly in order. A key that is not resident is read back from the
//! store, asked for as soon as its first partial arrives; what the bar already contains (by the
//! epoch in its cell) is not added again. A key that cannot have a bar yet is not read.
//!
//! What changed leaves twice: as absolute bars for the store, once per epoch, each marked with its
//! epoch and write timestamp; and as changes, the bar before and the bar after, for the views. A resident bar
//! may be put out of memory once its last write is acknowledged, whether its window is still open
//! or not: memory is a cache, the store is the state, and the views see nothing of it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    sync::Arc,
};

use hashbrown::hash_map::Entry;
use tapeflow_protocol::{Checkpoint, DirectoryEntry, EpochWrites, failpoint};
use tapeflow_schemas::{
    BarKey, BarState, BarWrite, Epoch, Totals, WindowSize, WindowStart, WriteTimestamp,
};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{
        StreamVec,
        channels::pact::Exchange,
        operators::{Capability, generic::operator::Operator},
    },
    scheduling::Activator,
};

use crate::{
    hash::{Map, Set},
    job::{Failure, JobError},
    metrics::Metrics,
    operators::exchange::{Item, SymbolPartials},
    store_io::{BarReader, StoreIo},
    views::{Change, Standing, Window},
};

/// Bars that travel to the sink, and to the store, together.
const ROWS_PER_WRITE: usize = 256;
/// Emptied tables kept.
const TABLES_SPARED: usize = 2;
/// Directory entries remembered as written; beyond, they are forgotten and written again, which
/// changes nothing.
const DIRECTORY_REMEMBERED: usize = 100_000;

/// What this worker has been told of epochs, shared with its loop, which hears of it from the
/// coordinator.
#[derive(Default)]
pub(crate) struct EpochTimestamps {
    /// The checkpoint this generation took over; set once, before anything arrives.
    pub(crate) start: Option<Rc<Checkpoint>>,
    /// Write timestamps of the epochs bound since.
    pub(crate) write_timestamps: BTreeMap<Epoch, WriteTimestamp>,
}

impl EpochTimestamps {
    /// The write timestamp that what belongs to a time is written at; `None` until the coordinator's word has
    /// reached this worker.
    pub(crate) fn write_timestamp_of(&self, time: u64) -> Option<WriteTimestamp> {
        let checkpoint = self.start.as_ref()?;
        if time == checkpoint.last_binding().epoch {
            Some(checkpoint.recovery_timestamp)
        } else {
            self.write_timestamps.get(&time).copied()
        }
    }
}

/// What the keeper makes of an epoch.
#[derive(Clone)]
pub(crate) enum Folded {
    /// For the sink.
    Writes(EpochWrites),
    /// For the views, all of a time together; shared, for it stays on this worker.
    Changes(Rc<Vec<Change>>),
}

/// Acknowledged bars on their way back from the sink on the same worker: by a queue and not by a
/// feedback edge, which would make the store's latency serial.
pub(crate) type Acknowledged = Rc<RefCell<VecDeque<EpochWrites>>>;

/// What the keeper needs to know from the start.
pub(crate) struct StateSettings {
    pub(crate) sizes: Vec<WindowSize>,
    pub(crate) resident_bars: usize,
    pub(crate) io: StoreIo,
    pub(crate) board: Rc<RefCell<EpochTimestamps>>,
    pub(crate) acknowledged: Acknowledged,
    pub(crate) failure: Failure,
    pub(crate) metrics: Arc<Metrics>,
}

/// Builds the operator; the activator wakes it after news on the board or in the queue.
pub(crate) fn build<'scope>(
    items: StreamVec<'scope, u64, Item>,
    settings: StateSettings,
) -> (StreamVec<'scope, u64, Folded>, Activator) {
    let scope = items.scope();
    let mut activator = None;
    let slot = &mut activator;
    let folded = items.unary_frontier::<CapacityContainerBuilder<Vec<Folded>>, _, _, _>(
        Exchange::new(Item::route),
        "state",
        |_capability, info| {
            *slot = Some(scope.activator_for(Rc::clone(&info.address)));
            let wake = scope.worker().sync_activator_for(info.address.to_vec());
            let mut keeper = Keeper::new(settings, wake);
            move |(input, frontier), output| {
                input.for_each_stamp(|capability, data| {
                    if let Some(capability) = capability.retain_least(0) {
                        for items in data {
                            keeper.receive(&capability, std::mem::take(items));
                        }
                    }
                });
                keeper.hear();
                while let Some((capability, folded)) =
                    keeper.take_next(|time| !frontier.less_equal(time))
                {
                    failpoint::reach("fold-emit");
                    output
                        .session(&capability)
                        .give_iterator(folded.into_iter());
                }
                keeper.evict();
            }
        },
    );
    (folded, activator.expect("the constructor has run"))
}

/// What has arrived for one time, and is not yet taken.
struct Pending {
    capability: Capability<u64>,
    /// By the epoch the partials belong to: one, but for the replay, where all of (c, b] enters at
    /// time b.
    partials: BTreeMap<Epoch, Map<BarKey, Totals>>,
    dead_letters: Vec<tapeflow_protocol::DeadLetter>,
}

struct Resident {
    totals: Totals,
    /// The epoch it was last written for, or read back with; 0 if it never was.
    epoch: Epoch,
    /// The time it was last folded at; tells the first partial of a time from the others.
    folded_at: u64,
    acknowledged: bool,
    /// Whether it stands in the eviction queue: once at most, so the queue is no longer than the
    /// map.
    queued: bool,
}

struct Keeper {
    settings: StateSettings,
    reader: BarReader,
    pending: BTreeMap<u64, Pending>,
    /// Whether partials, bars or evictions have come since the oldest time was last found to wait
    /// for bars.
    look_again: bool,
    /// The capability of a time that could not be folded, held to the end: were it dropped, others
    /// would take the time for written.
    failed: Option<Capability<u64>>,
    /// Boxed, so that a growing table moves pointers and not bars.
    resident: Map<BarKey, Box<Resident>>,
    /// Emptied tables of partials, to be filled again: each epoch would otherwise grow its own from
    /// nothing.
    spare: Vec<Map<BarKey, Totals>>,
    /// Keys asked for and not answered.
    asked: Set<BarKey>,
    /// Bars read for keys that are not resident. No bar of such a key can be written by anyone but
    /// this keeper, so a reply stays good until the key becomes resident; it is used once, then.
    replies: Map<BarKey, Option<BarState>>,
    /// Eviction candidates, least recently acknowledged first.
    queue: VecDeque<BarKey>,
    /// By size, the latest start among the evicted: bars up to it may exist.
    evicted_up_to: Vec<Option<WindowStart>>,
    directory: Set<DirectoryEntry>,
}

impl Keeper {
    fn new(settings: StateSettings, wake: timely::scheduling::SyncActivator) -> Self {
        Self {
            reader: settings.io.reader(wake),
            evicted_up_to: vec![None; settings.sizes.len()],
            settings,
            pending: BTreeMap::new(),
            look_again: true,
            failed: None,
            resident: Map::default(),
            spare: Vec::new(),
            asked: Set::default(),
            replies: Map::default(),
            queue: VecDeque::new(),
            directory: Set::default(),
        }
    }

    /// Keeps what has arrived, and asks the store for the bars it will need.
    fn receive(&mut self, capability: &Capability<u64>, items: Vec<Item>) {
        self.look_again = true;
        let mut wanted = Vec::new();
        for item in items {
            let pending = self
                .pending
                .entry(*capability.time())
                .or_insert_with(|| Pending {
                    capability: capability.clone(),
                    partials: BTreeMap::new(),
                    dead_letters: Vec::new(),
                });
            match item {
                Item::DeadLetter(dead_letter) => pending.dead_letters.push(*dead_letter),
                Item::SymbolPartials(SymbolPartials { symbol, partials }) => {
                    for partial in partials {
                        let key = BarKey {
                            symbol: symbol.clone(),
                            size: self.settings.sizes[usize::from(partial.size)],
                            start: partial.start,
                        };
                        match pending
                            .partials
                            .entry(partial.epoch)
                            .or_insert_with(|| self.spare.pop().unwrap_or_default())
                            .entry(key)
                        {
                            Entry::Occupied(mut held) => held.get_mut().merge(&partial.totals),
                            Entry::Vacant(free) => {
                                wanted.push(free.key().clone());
                                free.insert(partial.totals);
                            }
                        }
                    }
                }
            }
        }
        wanted.retain(|key| self.must_read(key));
        self.ask(wanted);
    }

    fn ask(&mut self, mut keys: Vec<BarKey>) {
        keys.retain(|key| self.asked.insert(key.clone()));
        if !keys.is_empty() {
            self.settings.metrics.bars_read.add(keys.len() as u64);
            self.reader.request(keys);
        }
    }

    /// Whether the key's bar must come from the store and has neither come nor been asked for.
    fn must_read(&self, key: &BarKey) -> bool {
        !self.resident.contains_key(key)
            && !self.replies.contains_key(key)
            && !self.asked.contains(key)
            && self.may_exist(key)
    }

    /// Whether the key may have a bar. It cannot if its window starts after the watermark
    /// of any partition as of the last binding this generation took over (no record so far falls
    /// into it), and this generation has put no bar that young out of memory.
    fn may_exist(&self, key: &BarKey) -> bool {
        let board = self.settings.board.borrow();
        let taken_over = board.start.as_ref().is_none_or(|checkpoint| {
            checkpoint
                .watermark_ms()
                .is_some_and(|max| key.start <= max)
        });
        let size = self
            .settings
            .sizes
            .iter()
            .position(|size| *size == key.size)
            .expect("keys are made of the job's sizes");
        taken_over || self.evicted_up_to[size].is_some_and(|line| key.start <= line)
    }

    /// Hears what came back from the store: bars asked for, and acknowledgements by way of the
    /// sink.
    fn hear(&mut self) {
        for (key, bar) in self.reader.replies() {
            self.look_again = true;
            if self.asked.remove(&key) && !self.resident.contains_key(&key) {
                self.replies.insert(key, bar);
            }
        }
        let mut acknowledged = self.settings.acknowledged.borrow_mut();
        for write in acknowledged.drain(..).flat_map(|writes| writes.bars) {
            if let Some(resident) = self
                .resident
                .get_mut(&write.key)
                .filter(|resident| resident.epoch == write.state.epoch)
            {
                resident.acknowledged = true;
                if !resident.queued {
                    resident.queued = true;
                    self.queue.push_back(write.key);
                }
            }
        }
    }

    /// Takes the oldest time that is complete and whose bars are all at hand; `None` if there is
    /// none.
    fn take_next(
        &mut self,
        complete: impl Fn(&u64) -> bool,
    ) -> Option<(Capability<u64>, Vec<Folded>)> {
        let (&time, pending) = self
            .pending
            .first_key_value()
            .filter(|_| self.failed.is_none())?;
        let write_timestamp = self.settings.board.borrow().write_timestamp_of(time)?;
        if !complete(&time) {
            return None;
        }
        // Looking through all keys again is of use only once something has changed.
        if !std::mem::take(&mut self.look_again) {
            return None;
        }
        let missing: Vec<BarKey> = pending
            .partials
            .values()
            .flat_map(Map::keys)
            .filter(|key| self.must_read(key))
            .cloned()
            .collect();
        if !missing.is_empty() {
            self.ask(missing);
        }
        let (_, pending) = self.pending.first_key_value()?;
        if pending
            .partials
            .values()
            .flat_map(Map::keys)
            .any(|key| self.asked.contains(key))
        {
            return None;
        }
        self.look_again = true;
        let pending = self.pending.remove(&time)?;
        match self.fold(time, write_timestamp, pending.partials) {
            Ok(mut folded) => {
                if !pending.dead_letters.is_empty() {
                    folded.push(Folded::Writes(EpochWrites {
                        dead_letters: pending.dead_letters,
                        ..EpochWrites::default()
                    }));
                }
                Some((pending.capability, folded))
            }
            Err(error) => {
                self.settings.failure.set(error);
                self.failed = Some(pending.capability);
                None
            }
        }
    }

    /// Folds all partials of a time into their bars, and makes each touched bar a write: also one
    /// to which nothing was added, for its old write may stand on one replica only.
    fn fold(
        &mut self,
        time: u64,
        write_timestamp: WriteTimestamp,
        partials: BTreeMap<Epoch, Map<BarKey, Totals>>,
    ) -> Result<Vec<Folded>, JobError> {
        let replaying = self
            .settings
            .board
            .borrow()
            .start
            .as_ref()
            .is_some_and(|checkpoint| checkpoint.last_binding().epoch == time);
        // A bar newer than what this process knows to be bound means that another generation
        // writes: this one is a zombie. The limit is its own time, not the current b, which would
        // let a bar pass that already contains this partial.
        let newest = if replaying { time } else { time - 1 };
        // The bars touched, with what the views knew of them before.
        let mut touched: Vec<(BarKey, Option<Standing>)> = Vec::new();
        for (epoch, mut partials) in partials {
            for (key, totals) in partials.drain() {
                let resident = match self.resident.entry(key) {
                    Entry::Occupied(held) => {
                        if held.get().folded_at != time {
                            touched
                                .push((held.key().clone(), Some(Standing::of(&held.get().totals))));
                        }
                        held.into_mut()
                    }
                    Entry::Vacant(free) => {
                        let found = self.replies.remove(free.key()).flatten();
                        touched.push((
                            free.key().clone(),
                            found.map(|bar| Standing::of(&bar.totals)),
                        ));
                        let bar = found.unwrap_or(BarState {
                            epoch: 0,
                            totals: Totals::default(),
                        });
                        free.insert(Box::new(Resident {
                            totals: bar.totals,
                            epoch: bar.epoch,
                            folded_at: 0,
                            acknowledged: false,
                            queued: false,
                        }))
                    }
                };
                if resident.folded_at != time {
                    resident.folded_at = time;
                    if resident.epoch > newest {
                        let key = touched
                            .last()
                            .map(|(key, _)| key.to_string())
                            .unwrap_or_default();
                        return Err(JobError::Fenced(format!(
                            "bar {key} is of epoch {}, this process is at {time}",
                            resident.epoch
                        )));
                    }
                }
                if epoch > resident.epoch {
                    resident.totals.merge(&totals);
                }
            }
            if self.spare.len() < TABLES_SPARED {
                self.spare.push(partials);
            }
        }
        let (mut writes, mut changes) = (vec![EpochWrites::default()], Vec::new());
        for (key, before) in touched {
            let resident = self
                .resident
                .get_mut(&key)
                .expect("it was touched just now");
            resident.epoch = time;
            resident.acknowledged = false;
            let state = BarState {
                epoch: time,
                totals: resident.totals,
            };
            if let Some(window) = Window::of(&key) {
                changes.push(Change {
                    symbol: key.symbol.clone(),
                    window,
                    before,
                    after: Standing::of(&state.totals),
                });
            }
            if writes
                .last()
                .is_some_and(|last| last.bars.len() >= ROWS_PER_WRITE)
            {
                writes.push(EpochWrites::default());
            }
            let batch = writes.last_mut().expect("there is one from the start");
            // A replayed bar may exist without its directory entry only if a crash came between;
            // writing it again is harmless.
            if before.is_none() || replaying {
                let entry = DirectoryEntry {
                    symbol: key.symbol.clone(),
                    size: key.size,
                    bucket: key.size.bucket(key.start),
                };
                if self.directory.len() >= DIRECTORY_REMEMBERED {
                    self.directory.clear();
                }
                if self.directory.insert(entry.clone()) {
                    batch.directory.push(entry);
                }
            }
            batch.bars.push(BarWrite {
                key,
                state,
                write_timestamp,
            });
        }
        writes.retain(|batch| !batch.is_empty());
        let mut folded: Vec<Folded> = writes.into_iter().map(Folded::Writes).collect();
        if !changes.is_empty() {
            folded.push(Folded::Changes(Rc::new(changes)));
        }
        Ok(folded)
    }

    /// Puts bars out of memory down to the limit: only such whose last write is acknowledged, so
    /// that reading one back finds it.
    fn evict(&mut self) {
        let mut tries = self.queue.len();
        while self.resident.len() > self.settings.resident_bars && tries > 0 {
            tries -= 1;
            let Some(key) = self.queue.pop_front() else {
                return;
            };
            let Some(resident) = self.resident.get_mut(&key) else {
                continue;
            };
            if !resident.acknowledged {
                // Written again since it was queued: its next acknowledgement queues it anew.
                resident.queued = false;
                continue;
            }
            let size = self
                .settings
                .sizes
                .iter()
                .position(|size| *size == key.size)
                .expect("keys are made of the job's sizes");
            self.evicted_up_to[size] = self.evicted_up_to[size].max(Some(key.start));
            self.resident.remove(&key);
            self.look_again = true;
            self.settings.metrics.bars_evicted.add(1);
        }
    }
}
