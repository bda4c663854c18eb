//! The bar state: a keyed operator that owns the bars of its symbols and adds each epoch's partials
//! to them.
//!
//! It processes an epoch only when its input frontier has passed it, so that all partials of a bar
//! are combined. Earlier, the partial of a slower source could find the bar already at a later
//! epoch. Epochs are processed strictly in order.
//!
//! A bar that is not in memory is read back from the store, requested as soon as its first partial
//! arrives. The bar's cell names the epoch up to which it is complete, and partials of these epochs
//! are not added again. A bar that cannot exist yet is not read.
//!
//! Changes leave twice: as absolute bars for the store, once per epoch, each with its epoch and
//! write timestamp; and as pairs of old and new values, for the views. Memory is a cache, and the
//! store is the state: a bar may leave memory once its last write is acknowledged, whether its
//! window is open or not. The views are not affected.

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    sync::Arc,
};

use hashbrown::hash_map::Entry;
use tapeflow_protocol::{DeadLetter, DirectoryEntry, EpochWrites, failpoint};
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
    epoch_timestamps::SharedEpochTimestamps,
    failure::{Failure, JobError},
    hash::{Map, Set},
    metrics::Metrics,
    operators::{
        acknowledged::Acknowledged,
        exchange::{ExchangeItem, SymbolPartials},
    },
    store_io::{BarReader, StoreIo},
    views::changes::{BarValues, Change, Window},
};

/// The most bars of one batch to the sink, which is one write to the store.
const BARS_PER_WRITE: usize = 256;
/// Emptied tables kept for reuse.
const SPARE_TABLES: usize = 2;
/// Directory entries remembered as written. Beyond so many they are forgotten and written again,
/// which is harmless.
const DIRECTORY_CACHE: usize = 100_000;

/// The output of the operator.
#[derive(Clone)]
pub(crate) enum StateOutput {
    /// For the sink.
    Writes(EpochWrites),
    /// For the views: all changes of one time. Shared, because it stays on this worker.
    Changes(Rc<Vec<Change>>),
}

pub(crate) struct StateSettings {
    pub(crate) sizes: Vec<WindowSize>,
    pub(crate) resident_bars: usize,
    pub(crate) io: StoreIo,
    pub(crate) timestamps: SharedEpochTimestamps,
    pub(crate) acknowledged: Acknowledged,
    pub(crate) failure: Failure,
    pub(crate) metrics: Arc<Metrics>,
}

/// Builds the operator. The activator wakes it after a new write timestamp or acknowledgement.
pub(crate) fn build<'scope>(
    items: StreamVec<'scope, u64, ExchangeItem>,
    settings: StateSettings,
) -> (StreamVec<'scope, u64, StateOutput>, Activator) {
    let scope = items.scope();
    let mut activator = None;
    let slot = &mut activator;
    let outputs = items.unary_frontier::<CapacityContainerBuilder<Vec<StateOutput>>, _, _, _>(
        Exchange::new(ExchangeItem::route),
        "bar state",
        |_capability, info| {
            *slot = Some(scope.activator_for(Rc::clone(&info.address)));
            let wake = scope.worker().sync_activator_for(info.address.to_vec());
            let mut bars = ResidentBars::new(settings, wake);
            move |(input, frontier), output| {
                input.for_each_stamp(|capability, data| {
                    if let Some(capability) = capability.retain_least(0) {
                        for items in data {
                            bars.receive(&capability, std::mem::take(items));
                        }
                    }
                });
                bars.receive_from_store();
                while let Some((capability, outputs)) =
                    bars.take_next(|time| !frontier.less_equal(time))
                {
                    failpoint::reach("fold-emit");
                    output
                        .session(&capability)
                        .give_iterator(outputs.into_iter());
                }
                bars.evict();
            }
        },
    );
    (outputs, activator.expect("the constructor has run"))
}

/// What has arrived for a time that is not processed yet.
struct Pending {
    capability: Capability<u64>,
    /// By the epoch of the partials. There is one epoch, except in the replay, where all of (c, b]
    /// enters at time b.
    partials: BTreeMap<Epoch, Map<BarKey, Totals>>,
    dead_letters: Vec<DeadLetter>,
}

struct Resident {
    totals: Totals,
    /// The epoch of its last write, or of the cell that was read back; 0 if there is neither.
    epoch: Epoch,
    /// The time of its last change. Identifies the first partial of a time.
    changed_at: u64,
    acknowledged: bool,
    /// Whether it is in the eviction queue. It is there at most once, so the queue is no longer
    /// than the map.
    queued: bool,
}

struct ResidentBars {
    settings: StateSettings,
    reader: BarReader,
    pending: BTreeMap<u64, Pending>,
    /// Whether anything has changed since the oldest time was last found to wait for bars.
    recheck: bool,
    /// The capability of a time that failed, held until the process ends. Without it, the frontier
    /// would pass the time, and the coordinator would commit it.
    failed: Option<Capability<u64>>,
    /// Boxed, so that a growing table moves pointers instead of bars.
    resident: Map<BarKey, Box<Resident>>,
    /// Emptied tables of partials, for reuse: otherwise each epoch would grow new tables.
    spare: Vec<Map<BarKey, Totals>>,
    /// Keys requested from the store and not answered.
    requested: Set<BarKey>,
    /// Bars read for keys that are not resident. Only this operator writes these bars, so a reply
    /// stays valid until the key becomes resident, which consumes the reply.
    replies: Map<BarKey, Option<BarState>>,
    /// Eviction candidates, least recently acknowledged first.
    queue: VecDeque<BarKey>,
    /// By size: the latest start of the evicted bars. Bars up to it may exist.
    evicted_up_to: Vec<Option<WindowStart>>,
    directory: Set<DirectoryEntry>,
}

impl ResidentBars {
    fn new(settings: StateSettings, wake: timely::scheduling::SyncActivator) -> Self {
        Self {
            reader: settings.io.reader(wake),
            evicted_up_to: vec![None; settings.sizes.len()],
            settings,
            pending: BTreeMap::new(),
            recheck: true,
            failed: None,
            resident: Map::default(),
            spare: Vec::new(),
            requested: Set::default(),
            replies: Map::default(),
            queue: VecDeque::new(),
            directory: Set::default(),
        }
    }

    /// Stores what has arrived and requests the bars it needs.
    fn receive(&mut self, capability: &Capability<u64>, items: Vec<ExchangeItem>) {
        self.recheck = true;
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
                ExchangeItem::DeadLetter(dead_letter) => pending.dead_letters.push(*dead_letter),
                ExchangeItem::SymbolPartials(SymbolPartials { symbol, partials }) => {
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
        self.request(wanted);
    }

    fn request(&mut self, mut keys: Vec<BarKey>) {
        keys.retain(|key| self.requested.insert(key.clone()));
        if !keys.is_empty() {
            self.settings.metrics.bars_read.add(keys.len() as u64);
            self.reader.request(keys);
        }
    }

    /// Whether the bar must be read from the store and has been neither read nor requested.
    fn must_read(&self, key: &BarKey) -> bool {
        !self.resident.contains_key(key)
            && !self.replies.contains_key(key)
            && !self.requested.contains(key)
            && self.may_exist(key)
    }

    /// Whether the bar may exist. It cannot if no record before the take-over falls into its window,
    /// which starts after the largest watermark then, and if this generation has not evicted a bar
    /// of this size with the same or a later start.
    fn may_exist(&self, key: &BarKey) -> bool {
        let timestamps = self.settings.timestamps.borrow();
        let taken_over = timestamps.checkpoint.as_ref().is_none_or(|checkpoint| {
            checkpoint
                .watermark_ms()
                .is_some_and(|watermark| key.start <= watermark)
        });
        let size = self
            .settings
            .sizes
            .iter()
            .position(|size| *size == key.size)
            .expect("a key has a size of the job");
        taken_over || self.evicted_up_to[size].is_some_and(|line| key.start <= line)
    }

    /// Takes what came back from the store: requested bars, and acknowledgements from the sink.
    fn receive_from_store(&mut self) {
        for (key, bar) in self.reader.replies() {
            self.recheck = true;
            if self.requested.remove(&key) && !self.resident.contains_key(&key) {
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

    /// Processes the oldest time if it is complete and all its bars are in memory; `None` if not.
    fn take_next(
        &mut self,
        complete: impl Fn(&u64) -> bool,
    ) -> Option<(Capability<u64>, Vec<StateOutput>)> {
        let (&time, pending) = self
            .pending
            .first_key_value()
            .filter(|_| self.failed.is_none())?;
        let write_timestamp = self.settings.timestamps.borrow().write_timestamp_of(time)?;
        if !complete(&time) {
            return None;
        }
        // A check of all keys is useful only once something has changed.
        if !std::mem::take(&mut self.recheck) {
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
            self.request(missing);
        }
        let (_, pending) = self.pending.first_key_value()?;
        if pending
            .partials
            .values()
            .flat_map(Map::keys)
            .any(|key| self.requested.contains(key))
        {
            return None;
        }
        self.recheck = true;
        let pending = self.pending.remove(&time)?;
        match self.add(time, write_timestamp, pending.partials) {
            Ok(mut outputs) => {
                if !pending.dead_letters.is_empty() {
                    outputs.push(StateOutput::Writes(EpochWrites {
                        dead_letters: pending.dead_letters,
                        ..EpochWrites::default()
                    }));
                }
                Some((pending.capability, outputs))
            }
            Err(error) => {
                self.settings.failure.set(error);
                self.failed = Some(pending.capability);
                None
            }
        }
    }

    /// Adds all partials of a time to their bars. Each touched bar is written, even if nothing was
    /// added to it: its earlier write may have reached only one replica.
    fn add(
        &mut self,
        time: u64,
        write_timestamp: WriteTimestamp,
        partials: BTreeMap<Epoch, Map<BarKey, Totals>>,
    ) -> Result<Vec<StateOutput>, JobError> {
        let replaying = self.settings.timestamps.borrow().is_replay(time);
        // A bar of a later epoch was written by another generation, which has fenced this one. The
        // limit is the time and not the current b: a bar with an epoch in between could already
        // contain this partial.
        let newest = if replaying { time } else { time - 1 };
        // The touched bars, with their values before this time, for the views.
        let mut touched: Vec<(BarKey, Option<BarValues>)> = Vec::new();
        for (epoch, mut partials) in partials {
            for (key, totals) in partials.drain() {
                let resident = match self.resident.entry(key) {
                    Entry::Occupied(held) => {
                        if held.get().changed_at != time {
                            touched.push((
                                held.key().clone(),
                                Some(BarValues::of(&held.get().totals)),
                            ));
                        }
                        held.into_mut()
                    }
                    Entry::Vacant(free) => {
                        let found = self.replies.remove(free.key()).flatten();
                        touched.push((
                            free.key().clone(),
                            found.map(|bar| BarValues::of(&bar.totals)),
                        ));
                        let bar = found.unwrap_or(BarState {
                            epoch: 0,
                            totals: Totals::default(),
                        });
                        free.insert(Box::new(Resident {
                            totals: bar.totals,
                            epoch: bar.epoch,
                            changed_at: 0,
                            acknowledged: false,
                            queued: false,
                        }))
                    }
                };
                if resident.changed_at != time {
                    resident.changed_at = time;
                    if resident.epoch > newest {
                        let key = touched
                            .last()
                            .map(|(key, _)| key.to_string())
                            .unwrap_or_default();
                        return Err(JobError::Fenced(format!(
                            "bar {key} has epoch {}, which is later than epoch {time} of this \
                             process",
                            resident.epoch
                        )));
                    }
                }
                if epoch > resident.epoch {
                    resident.totals.merge(&totals);
                }
            }
            if self.spare.len() < SPARE_TABLES {
                self.spare.push(partials);
            }
        }
        let (mut writes, mut changes) = (vec![EpochWrites::default()], Vec::new());
        for (key, before) in touched {
            let resident = self.resident.get_mut(&key).expect("it was touched above");
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
                    after: BarValues::of(&state.totals),
                });
            }
            if writes
                .last()
                .is_some_and(|last| last.bars.len() >= BARS_PER_WRITE)
            {
                writes.push(EpochWrites::default());
            }
            let batch = writes.last_mut().expect("there is always one");
            // After a crash between the two writes, a replayed bar exists without its directory
            // entry. A second write of an entry is harmless.
            if before.is_none() || replaying {
                let entry = DirectoryEntry {
                    symbol: key.symbol.clone(),
                    size: key.size,
                    bucket: key.size.bucket(key.start),
                };
                if self.directory.len() >= DIRECTORY_CACHE {
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
        let mut outputs: Vec<StateOutput> = writes.into_iter().map(StateOutput::Writes).collect();
        if !changes.is_empty() {
            outputs.push(StateOutput::Changes(Rc::new(changes)));
        }
        Ok(outputs)
    }

    /// Evicts bars down to the limit. Only bars whose last write is acknowledged are evicted, so
    /// that a later read finds them.
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
                // Written again since it was queued. Its next acknowledgement queues it again.
                resident.queued = false;
                continue;
            }
            let size = self
                .settings
                .sizes
                .iter()
                .position(|size| *size == key.size)
                .expect("a key has a size of the job");
            self.evicted_up_to[size] = self.evicted_up_to[size].max(Some(key.start));
            self.resident.remove(&key);
            self.recheck = true;
            self.settings.metrics.bars_evicted.add(1);
        }
    }
}
