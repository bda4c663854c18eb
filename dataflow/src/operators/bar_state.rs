//! The keeper of rows: a keyed operator that owns the rows of its symbols.
//!
//! It takes an epoch only when its input frontier has passed it, all partials of a key combined;
//! taken earlier, the partial of a slower source would find its key already resident since a later
//! epoch. Epochs are taken strictly in order. A key that is not resident is read back from the
//! store, asked for as soon as its first partial arrives; what the row already contains (by the
//! epoch in its cell) is not added again. A key that cannot have a row yet is not read.
//!
//! What changed leaves twice: as absolute rows for the store, once per epoch, each marked with its
//! epoch and stamp; and as changes, the row before and the row after, for the views. A resident row
//! may be put out of memory once its last write is acknowledged, whether its window is still open
//! or not: memory is a cache, the store is the state, and the views see nothing of it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    sync::Arc,
};

use hashbrown::hash_map::Entry;
use tapeflow_protocol::{DirectoryEntry, EpochWrites, Head, failpoint};
use tapeflow_schemas::{Epoch, RowKey, RowState, RowWrite, Stamp, Totals, WindowSize, WindowStart};
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
    operators::exchange::{Item, Parcel},
    store_io::{RowReader, StoreIo},
    views::{Change, Standing, Window},
};

/// Rows that travel to the sink, and to the store, together.
const ROWS_PER_WRITE: usize = 256;
/// Emptied tables kept.
const TABLES_SPARED: usize = 2;
/// Directory entries remembered as written; beyond, they are forgotten and written again, which
/// changes nothing.
const DIRECTORY_REMEMBERED: usize = 100_000;

/// What this worker has been told of epochs, shared with its loop, which hears of it from the
/// leader.
#[derive(Default)]
pub(crate) struct EpochBoard {
    /// The head this generation took over; set once, before anything arrives.
    pub(crate) start: Option<Rc<Head>>,
    /// Stamps of the epochs bound since.
    pub(crate) stamps: BTreeMap<Epoch, Stamp>,
}

impl EpochBoard {
    /// The stamp that what belongs to a time is written at; `None` until the leader's word has
    /// reached this worker.
    pub(crate) fn stamp_of(&self, time: u64) -> Option<Stamp> {
        let head = self.start.as_ref()?;
        if time == head.last_binding().epoch {
            Some(head.flush_stamp)
        } else {
            self.stamps.get(&time).copied()
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

/// Acknowledged rows on their way back from the sink on the same worker: by a queue and not by a
/// feedback edge, which would make the store's latency serial.
pub(crate) type Acknowledged = Rc<RefCell<VecDeque<EpochWrites>>>;

/// What the keeper needs to know from the start.
pub(crate) struct StateSettings {
    pub(crate) sizes: Vec<WindowSize>,
    pub(crate) resident_rows: usize,
    pub(crate) io: StoreIo,
    pub(crate) board: Rc<RefCell<EpochBoard>>,
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
    partials: BTreeMap<Epoch, Map<RowKey, Totals>>,
    rejects: Vec<tapeflow_protocol::Reject>,
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
    reader: RowReader,
    pending: BTreeMap<u64, Pending>,
    /// Whether partials, rows or evictions have come since the oldest time was last found to wait
    /// for rows.
    look_again: bool,
    /// The capability of a time that could not be folded, held to the end: were it dropped, others
    /// would take the time for written.
    failed: Option<Capability<u64>>,
    /// Boxed, so that a growing table moves pointers and not rows.
    resident: Map<RowKey, Box<Resident>>,
    /// Emptied tables of partials, to be filled again: each epoch would otherwise grow its own from
    /// nothing.
    spare: Vec<Map<RowKey, Totals>>,
    /// Keys asked for and not answered.
    asked: Set<RowKey>,
    /// Rows read for keys that are not resident. No row of such a key can be written by anyone but
    /// this keeper, so a reply stays good until the key becomes resident; it is used once, then.
    replies: Map<RowKey, Option<RowState>>,
    /// Eviction candidates, least recently acknowledged first.
    queue: VecDeque<RowKey>,
    /// By size, the latest start among the evicted: rows up to it may exist.
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

    /// Keeps what has arrived, and asks the store for the rows it will need.
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
                    rejects: Vec::new(),
                });
            match item {
                Item::Reject(reject) => pending.rejects.push(*reject),
                Item::Parcel(Parcel { symbol, partials }) => {
                    for partial in partials {
                        let key = RowKey {
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

    fn ask(&mut self, mut keys: Vec<RowKey>) {
        keys.retain(|key| self.asked.insert(key.clone()));
        if !keys.is_empty() {
            self.settings.metrics.rows_read.add(keys.len() as u64);
            self.reader.request(keys);
        }
    }

    /// Whether the key's row must come from the store and has neither come nor been asked for.
    fn must_read(&self, key: &RowKey) -> bool {
        !self.resident.contains_key(key)
            && !self.replies.contains_key(key)
            && !self.asked.contains(key)
            && self.may_exist(key)
    }

    /// Whether the key may have a row. It cannot if its window starts after the largest event time
    /// of any partition as of the last binding this generation took over (no record so far falls
    /// into it), and this generation has put no row that young out of memory.
    fn may_exist(&self, key: &RowKey) -> bool {
        let board = self.settings.board.borrow();
        let taken_over = board
            .start
            .as_ref()
            .is_none_or(|head| head.max_event_ms().is_some_and(|max| key.start <= max));
        let size = self
            .settings
            .sizes
            .iter()
            .position(|size| *size == key.size)
            .expect("keys are made of the job's sizes");
        taken_over || self.evicted_up_to[size].is_some_and(|line| key.start <= line)
    }

    /// Hears what came back from the store: rows asked for, and acknowledgements by way of the
    /// sink.
    fn hear(&mut self) {
        for (key, row) in self.reader.replies() {
            self.look_again = true;
            if self.asked.remove(&key) && !self.resident.contains_key(&key) {
                self.replies.insert(key, row);
            }
        }
        let mut acknowledged = self.settings.acknowledged.borrow_mut();
        for write in acknowledged.drain(..).flat_map(|writes| writes.rows) {
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

    /// Takes the oldest time that is complete and whose rows are all at hand; `None` if there is
    /// none.
    fn take_next(
        &mut self,
        complete: impl Fn(&u64) -> bool,
    ) -> Option<(Capability<u64>, Vec<Folded>)> {
        let (&time, pending) = self
            .pending
            .first_key_value()
            .filter(|_| self.failed.is_none())?;
        let stamp = self.settings.board.borrow().stamp_of(time)?;
        if !complete(&time) {
            return None;
        }
        // Looking through all keys again is of use only once something has changed.
        if !std::mem::take(&mut self.look_again) {
            return None;
        }
        let missing: Vec<RowKey> = pending
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
        match self.fold(time, stamp, pending.partials) {
            Ok(mut folded) => {
                if !pending.rejects.is_empty() {
                    folded.push(Folded::Writes(EpochWrites {
                        rejects: pending.rejects,
                        ..EpochWrites::default()
                    }));
                }
                Some((pending.capability, folded))
            }
            Err(fault) => {
                self.settings.failure.set(fault);
                self.failed = Some(pending.capability);
                None
            }
        }
    }

    /// Folds all partials of a time into their rows, and makes each touched row a write: also one
    /// to which nothing was added, for its old write may stand on one replica only.
    fn fold(
        &mut self,
        time: u64,
        stamp: Stamp,
        partials: BTreeMap<Epoch, Map<RowKey, Totals>>,
    ) -> Result<Vec<Folded>, JobError> {
        let replaying = self
            .settings
            .board
            .borrow()
            .start
            .as_ref()
            .is_some_and(|head| head.last_binding().epoch == time);
        // A row newer than what this process knows to be bound means that another generation
        // writes: this one is a zombie. The limit is its own time, not the current b, which would
        // let a row pass that already contains this partial.
        let newest = if replaying { time } else { time - 1 };
        // The rows touched, with what the views knew of them before.
        let mut touched: Vec<(RowKey, Option<Standing>)> = Vec::new();
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
                            found.map(|row| Standing::of(&row.totals)),
                        ));
                        let row = found.unwrap_or(RowState {
                            epoch: 0,
                            totals: Totals::default(),
                        });
                        free.insert(Box::new(Resident {
                            totals: row.totals,
                            epoch: row.epoch,
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
                            "row {key} is of epoch {}, this process is at {time}",
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
            let state = RowState {
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
                .is_some_and(|last| last.rows.len() >= ROWS_PER_WRITE)
            {
                writes.push(EpochWrites::default());
            }
            let batch = writes.last_mut().expect("there is one from the start");
            // A replayed row may exist without its directory entry only if a crash came between;
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
            batch.rows.push(RowWrite { key, state, stamp });
        }
        writes.retain(|batch| !batch.is_empty());
        let mut folded: Vec<Folded> = writes.into_iter().map(Folded::Writes).collect();
        if !changes.is_empty() {
            folded.push(Folded::Changes(Rc::new(changes)));
        }
        Ok(folded)
    }

    /// Puts rows out of memory down to the limit: only such whose last write is acknowledged, so
    /// that reading one back finds it.
    fn evict(&mut self) {
        let mut tries = self.queue.len();
        while self.resident.len() > self.settings.resident_rows && tries > 0 {
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
            self.settings.metrics.rows_evicted.add(1);
        }
    }
}
