//! The bar state: a keyed operator that owns the bars of its symbols and adds each epoch's partials
//! to them.
//!
//! It processes an epoch only when its input frontier has passed it, so that all partials of a bar
//! are combined. Earlier, the partial of a slower source could find the bar already at a later
//! epoch. Epochs are processed strictly in order.
//!
//! An epoch may have any number of rows: one record can have a window for each of its trades. So an
//! epoch waits in the encoded form in which it came, and is processed in pieces. A row's hash says
//! to which piece it belongs, so a piece has all partials of its rows. A piece waits until the store
//! has acknowledged most of what was written before it, and then its bars may leave memory. What is
//! written is the same as in one piece: a bar's content does not depend on other bars.
//!
//! A bar that is not in memory is read back from the store: requested as soon as its first partial
//! arrives if not many are, else with its piece. The bar's cell names the epoch up to which it is
//! complete, and partials of these epochs are not added again. A bar that cannot exist yet is not
//! read.
//!
//! Bars shorter than a minute have no row and no place in the table: they stay encoded in their
//! minute, and an epoch decodes those that it touches.
//!
//! Changes leave twice: as absolute bars for the store, once per epoch, each with its epoch and
//! write timestamp; and as pairs of old and new values, for the views. Memory is a cache, and the
//! store is the state: a bar may leave memory once its last write is acknowledged, whether its
//! window is open or not. The views are not affected.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::BuildHasher,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use hashbrown::hash_map::Entry;
use tapeflow_protocol::{DeadLetter, DirectoryEntry, EpochWrites, FeedGap, failpoint};
use tapeflow_schemas::{
    BarKey, BarRow, BarState, BarWrite, CellError, Epoch, PackedBars, PartialRow, Symbol, Totals,
    WindowSize, WindowStart, WriteTimestamp,
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
    hash::{HashState, Map, Set},
    limits::Limits,
    metrics::Metrics,
    operators::{
        acknowledged::Acknowledged,
        exchange::{ExchangeItem, SymbolPartials},
        replayed_steps::ReplayedSteps,
    },
    store_io::{StoreIo, StoreReader},
    views::changes::{BarValues, Change, Window},
};

/// What a resident bar takes, about, beside its packed bars: its box, its key in the table and in
/// the eviction queue, and the slack of both. The symbol's text is shared by all its bars.
pub const RESIDENT_BAR_BYTES: usize =
    size_of::<Resident>() + 16 + 2 * (size_of::<BarKey>() + size_of::<usize>()) * 3 / 2;
/// Between two warnings that open windows do not fit into memory.
const WARN_EVERY: Duration = Duration::from_secs(60);

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
    /// How many bars without packed ones may stay in memory; a packed one counts by its bytes.
    pub(crate) resident_bars: usize,
    pub(crate) limits: Limits,
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
                bars.evict();
                while let Some((capability, outputs)) =
                    bars.take_next(|time| !frontier.less_equal(time))
                {
                    failpoint::reach("fold-emit");
                    output
                        .session(&capability)
                        .give_iterator(outputs.into_iter());
                    bars.evict();
                }
            }
        },
    );
    (outputs, activator.expect("the constructor has run"))
}

/// What has arrived for a time that is not processed yet.
struct Pending {
    capability: Capability<u64>,
    /// Of one epoch, except in the replay, where all of (c, b] enters at time b.
    partials: Vec<SymbolPartials>,
    /// The number of their rows.
    rows: usize,
    /// The first piece that is not processed.
    next_piece: u64,
    dead_letters: Vec<DeadLetter>,
    feed_gaps: BTreeSet<FeedGap>,
}

/// Some rows of a time: those whose hash is `number` modulo `of`. The hash has a random seed, so
/// that a feed cannot choose rows that are all in one piece.
struct Piece {
    number: u64,
    of: u64,
    hash: HashState,
}

impl Piece {
    fn contains(&self, symbol: &Symbol, row: &PartialRow<'_>) -> bool {
        self.of == 1 || self.hash.hash_one((symbol, row.size, row.start)) % self.of == self.number
    }
}

struct Resident {
    totals: Totals,
    packed: PackedBars,
    /// The epoch of its last write, or of the cell that was read back; 0 if there is neither.
    epoch: Epoch,
    /// The time of its last change. Identifies the first partial of a time.
    changed_at: u64,
    acknowledged: bool,
    /// Whether it is in the eviction queue. It is there at most once, so the queue is no longer
    /// than the map.
    queued: bool,
}

/// A bar that a time has touched, as it was before.
struct Touched {
    key: BarKey,
    before: Option<BarState>,
}

struct ResidentBars {
    settings: StateSettings,
    reader: StoreReader<BarKey>,
    pending: BTreeMap<u64, Pending>,
    /// Whether anything has changed since the oldest time was last found to wait for bars.
    recheck: bool,
    /// The capability of a time that failed, held until the process ends. Without it, the frontier
    /// would pass the time, and the coordinator would commit it.
    failed: Option<Capability<u64>>,
    /// Decides to which piece a row belongs.
    pieces: HashState,
    /// Boxed, so that a growing table moves pointers instead of bars.
    resident: Map<BarKey, Box<Resident>>,
    /// Bars that are written and not acknowledged, each write once.
    unacknowledged: usize,
    /// Space for adding to packed bars.
    scratch: Vec<u8>,
    /// The bytes of all packed bars in memory.
    packed_bytes: usize,
    /// Keys requested from the store and not answered.
    requested: Set<BarKey>,
    /// Of these, the one that the oldest time waits for, and that is probably answered last.
    waits_for: Option<BarKey>,
    /// Bars read for keys that are not resident. Only this operator writes these bars, so a reply
    /// stays valid until the key becomes resident, which consumes the reply.
    replies: Map<BarKey, Option<BarRow>>,
    /// Eviction candidates, least recently acknowledged first.
    queue: VecDeque<BarKey>,
    /// By size: the latest start of the evicted bars. Bars up to it may exist.
    evicted_up_to: Vec<Option<WindowStart>>,
    directory: Set<DirectoryEntry>,
    /// By size: the latest start that has been seen.
    newest: Vec<WindowStart>,
    warnings: Warnings,
}

/// Bars of open windows that were read back, since the last warning.
struct Warnings {
    read_back: u64,
    last: Option<Instant>,
}

impl ResidentBars {
    fn new(settings: StateSettings, wake: timely::scheduling::SyncActivator) -> Self {
        let newest = vec![WindowStart::MIN; settings.sizes.len()];
        Self {
            reader: settings.io.reader(wake),
            evicted_up_to: vec![None; settings.sizes.len()],
            settings,
            pending: BTreeMap::new(),
            recheck: true,
            failed: None,
            pieces: HashState::default(),
            resident: Map::default(),
            unacknowledged: 0,
            scratch: Vec::new(),
            packed_bytes: 0,
            requested: Set::default(),
            waits_for: None,
            replies: Map::default(),
            queue: VecDeque::new(),
            directory: Set::default(),
            newest,
            warnings: Warnings {
                read_back: 0,
                last: None,
            },
        }
    }

    /// Stores what has arrived and requests the bars it needs, if not many are under way.
    fn receive(&mut self, capability: &Capability<u64>, items: Vec<ExchangeItem>) {
        self.recheck = true;
        let mut wanted = Vec::new();
        for item in items {
            if let ExchangeItem::SymbolPartials(partials) = &item
                && let Err(error) = self.look_at(partials, &mut wanted)
            {
                let reason = format!("partial sums of {}: {error}", partials.symbol);
                self.settings.failure.set(JobError::Failed(reason));
                self.failed.get_or_insert_with(|| capability.clone());
                return;
            }
            let pending = self
                .pending
                .entry(*capability.time())
                .or_insert_with(|| Pending {
                    capability: capability.clone(),
                    partials: Vec::new(),
                    rows: 0,
                    next_piece: 0,
                    dead_letters: Vec::new(),
                    feed_gaps: BTreeSet::new(),
                });
            match item {
                ExchangeItem::DeadLetter(dead_letter) => pending.dead_letters.push(*dead_letter),
                ExchangeItem::FeedGap(gap) => drop(pending.feed_gaps.insert(*gap)),
                ExchangeItem::SymbolPartials(partials) => {
                    pending.rows += partials.rows.len();
                    pending.partials.push(partials);
                }
            }
        }
        self.request(wanted);
    }

    /// Notes the newest windows of partials, and which of their bars to request now.
    fn look_at(
        &mut self,
        partials: &SymbolPartials,
        wanted: &mut Vec<BarKey>,
    ) -> Result<(), CellError> {
        for row in partials.rows.iter() {
            let row = row?;
            let size = self.settings.sizes.get(usize::from(row.size));
            let size = *size.ok_or(CellError::Damaged)?;
            let newest = &mut self.newest[usize::from(row.size)];
            *newest = row.start.max(*newest);
            let ahead = self.requested.len() + self.replies.len() + wanted.len();
            if ahead < self.settings.limits.rows_at_once {
                let key = BarKey {
                    symbol: partials.symbol.clone(),
                    size,
                    start: row.start,
                };
                if self.must_read(&key) {
                    wanted.push(key);
                }
            }
        }
        Ok(())
    }

    fn request(&mut self, mut keys: Vec<BarKey>) {
        keys.retain(|key| self.requested.insert(key.clone()));
        if !keys.is_empty() {
            self.count_open(&keys);
            self.settings.metrics.bars_read.add(keys.len() as u64);
            self.reader.request(keys);
        }
    }

    /// Counts bars of the newest windows that were evicted and are needed again, and warns that
    /// memory is too small for the open windows. Not the first reads after a start.
    fn count_open(&mut self, keys: &[BarKey]) {
        let open = keys.iter().filter(|key| {
            let size = self.size_index(key.size);
            self.evicted_up_to[size].is_some_and(|line| key.start <= line)
                && key.start >= self.newest[size]
        });
        let open = open.count() as u64;
        self.settings.metrics.open_bars_read.add(open);
        self.warnings.read_back += open;
        if self.warnings.read_back > self.settings.resident_bars as u64
            && self
                .warnings
                .last
                .is_none_or(|last| last.elapsed() >= WARN_EVERY)
        {
            tracing::warn!(
                bars = self.warnings.read_back,
                resident_bars = self.settings.resident_bars,
                "bars of open windows were evicted and read back: the open windows do not fit into \
                 --bar-memory; raise it"
            );
            self.warnings = Warnings {
                read_back: 0,
                last: Some(Instant::now()),
            };
        }
    }

    fn size_index(&self, size: WindowSize) -> usize {
        self.settings
            .sizes
            .iter()
            .position(|other| *other == size)
            .expect("a key has a size of the job")
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
        let size = self.size_index(key.size);
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
        for (key, epoch) in acknowledged.bars.drain(..) {
            self.unacknowledged -= 1;
            if let Some(resident) = self
                .resident
                .get_mut(&key)
                .filter(|resident| resident.epoch == epoch)
            {
                resident.acknowledged = true;
                if !resident.queued {
                    resident.queued = true;
                    self.queue.push_back(key);
                }
            }
        }
    }

    /// Processes the next piece of the oldest time if the time is complete, all bars of the piece are
    /// in memory, and the sink has room; `None` if not.
    fn take_next(
        &mut self,
        complete: impl Fn(&u64) -> bool,
    ) -> Option<(Capability<u64>, Vec<StateOutput>)> {
        let (&time, pending) = self
            .pending
            .first_key_value()
            .filter(|_| self.failed.is_none())?;
        let write_timestamp = self.settings.timestamps.borrow().write_timestamp_of(time)?;
        if !complete(&time) || self.unacknowledged >= self.settings.limits.bars_unacknowledged {
            return None;
        }
        let all = pending.rows.div_ceil(self.settings.limits.rows_at_once);
        let of = u64::try_from(all).unwrap_or(u64::MAX).max(1);
        let number = pending.next_piece;
        let hash = self.pieces.clone();
        let piece = Piece { number, of, hash };
        // A check of all keys is useful only once something has changed, and the key that is
        // answered last is answered.
        if self
            .waits_for
            .as_ref()
            .is_some_and(|key| self.requested.contains(key))
            || !std::mem::take(&mut self.recheck)
        {
            return None;
        }
        let mut pending = self.pending.remove(&time)?;
        let keys = self.keys_of(&pending.partials, &piece);
        let missing: Vec<BarKey> = keys
            .iter()
            .filter(|key| self.must_read(key))
            .cloned()
            .collect();
        self.request(missing);
        // Requests are sent in the order of their keys.
        self.waits_for = keys
            .into_iter()
            .filter(|key| self.requested.contains(key))
            .max();
        if self.waits_for.is_some() {
            self.pending.insert(time, pending);
            return None;
        }
        self.recheck = true;
        let mut outputs = match self.add(time, write_timestamp, &mut pending.partials, &piece) {
            Ok(outputs) => outputs,
            Err(error) => {
                self.settings.failure.set(error);
                self.failed = Some(pending.capability);
                return None;
            }
        };
        if piece.number + 1 < piece.of {
            pending.next_piece += 1;
            let capability = pending.capability.clone();
            self.pending.insert(time, pending);
            return Some((capability, outputs));
        }
        if !(pending.dead_letters.is_empty() && pending.feed_gaps.is_empty()) {
            outputs.push(StateOutput::Writes(EpochWrites {
                dead_letters: pending.dead_letters,
                feed_gaps: pending.feed_gaps.into_iter().collect(),
                ..EpochWrites::default()
            }));
        }
        Some((pending.capability, outputs))
    }

    /// The keys of a piece that are not resident, each of them once for each of its partials.
    fn keys_of(&self, partials: &[SymbolPartials], piece: &Piece) -> Vec<BarKey> {
        let mut keys = Vec::new();
        for SymbolPartials { symbol, rows, .. } in partials {
            let mut key = BarKey {
                symbol: symbol.clone(),
                size: self.settings.sizes[0],
                start: 0,
            };
            // Whether they are well encoded was looked at when they arrived.
            for row in rows.iter().flatten() {
                if piece.contains(symbol, &row) {
                    (key.size, key.start) = (self.settings.sizes[usize::from(row.size)], row.start);
                    if !self.resident.contains_key(&key) {
                        keys.push(key.clone());
                    }
                }
            }
        }
        keys
    }

    /// Adds all partials of a piece to their bars. Each touched bar is written, even if nothing was
    /// added to it: its earlier write may have reached only one replica.
    fn add(
        &mut self,
        time: u64,
        write_timestamp: WriteTimestamp,
        partials: &mut [SymbolPartials],
        piece: &Piece,
    ) -> Result<Vec<StateOutput>, JobError> {
        let replaying = self.settings.timestamps.borrow().is_replay(time);
        // A bar of a later epoch was written by another generation, which has fenced this one. The
        // limit is the time and not the current b: a bar with an epoch in between could already
        // contain this partial.
        let newest = if replaying { time } else { time - 1 };
        let mut touched: Vec<Touched> = Vec::new();
        let mut steps = ReplayedSteps::default();
        if replaying {
            partials.sort_by_key(|partials| partials.epoch);
        }
        for SymbolPartials {
            symbol,
            epoch,
            rows,
        } in &*partials
        {
            let damaged = |error: CellError| {
                JobError::Failed(format!(
                    "partial sums of {symbol} in epoch {epoch}: {error}"
                ))
            };
            for row in rows.iter() {
                let row = row.map_err(damaged)?;
                if !piece.contains(symbol, &row) {
                    continue;
                }
                let (totals, packed) = row.decode().map_err(damaged)?;
                let key = BarKey {
                    symbol: symbol.clone(),
                    size: self.settings.sizes[usize::from(row.size)],
                    start: row.start,
                };
                if replaying {
                    steps.add(&key, *epoch, &totals);
                }
                let resident = match self.resident.entry(key) {
                    Entry::Occupied(held) => {
                        if held.get().changed_at != time {
                            touched.push(Touched {
                                key: held.key().clone(),
                                before: Some(BarState {
                                    epoch: held.get().epoch,
                                    totals: held.get().totals,
                                }),
                            });
                        }
                        held.into_mut()
                    }
                    Entry::Vacant(free) => {
                        let found = self.replies.remove(free.key()).flatten();
                        touched.push(Touched {
                            key: free.key().clone(),
                            before: found.as_ref().map(|row| row.state),
                        });
                        let row = found.unwrap_or_else(|| {
                            let (epoch, totals) = (0, Totals::default());
                            BarState { epoch, totals }.into_row()
                        });
                        self.packed_bytes += row.packed.capacity();
                        free.insert(Box::new(Resident {
                            totals: row.state.totals,
                            packed: row.packed,
                            epoch: row.state.epoch,
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
                            .map(|touched| touched.key.to_string())
                            .unwrap_or_default();
                        return Err(JobError::Fenced(format!(
                            "bar {key} has epoch {}, which is later than epoch {time} of this \
                             process",
                            resident.epoch
                        )));
                    }
                }
                if *epoch > resident.epoch {
                    resident.totals.merge(&totals);
                    if !packed.is_empty() {
                        self.packed_bytes -= resident.packed.capacity();
                        resident
                            .packed
                            .merge_encoded(row.start, packed, &mut self.scratch)
                            .map_err(damaged)?;
                        self.packed_bytes += resident.packed.capacity();
                    }
                }
            }
        }
        Ok(self.emit(touched, time, write_timestamp, replaying.then_some(steps)))
    }

    /// Makes what leaves for the sink and the views. `steps`: of a replay.
    fn emit(
        &mut self,
        touched: Vec<Touched>,
        time: u64,
        write_timestamp: WriteTimestamp,
        mut steps: Option<ReplayedSteps>,
    ) -> Vec<StateOutput> {
        self.unacknowledged += touched.len();
        let (mut writes, mut changes) = (vec![EpochWrites::default()], Vec::new());
        for Touched { key, before } in touched {
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
                    before: before.as_ref().map(|bar| BarValues::of(&bar.totals)),
                    after: BarValues::of(&state.totals),
                    replayed: steps
                        .as_mut()
                        .map(|steps| steps.take(&key, before.as_ref())),
                });
            }
            if writes
                .last()
                .is_some_and(|last| last.bars.len() >= self.settings.limits.bars_per_write)
            {
                writes.push(EpochWrites::default());
            }
            let batch = writes.last_mut().expect("there is always one");
            // After a crash between the two writes, a replayed bar exists without its directory
            // entry. A second write of an entry is harmless.
            if before.is_none() || steps.is_some() {
                let entry = DirectoryEntry::of(&key);
                if self.directory.len() >= self.settings.limits.directory_entries {
                    self.directory.clear();
                }
                if self.directory.insert(entry.clone()) {
                    batch.directory.push(entry);
                }
            }
            batch.bars.push(BarWrite {
                packed: resident.packed.clone(),
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
        outputs
    }

    fn is_over_limit(&self) -> bool {
        let packed = self.packed_bytes / RESIDENT_BAR_BYTES;
        self.resident.len() + packed > self.settings.resident_bars
    }

    /// Evicts bars down to the limit. Only bars whose last write is acknowledged are evicted, so
    /// that a later read finds them.
    fn evict(&mut self) {
        let mut tries = self.queue.len();
        while self.is_over_limit() && tries > 0 {
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
            let size = self.size_index(key.size);
            self.evicted_up_to[size] = self.evicted_up_to[size].max(Some(key.start));
            if let Some(evicted) = self.resident.remove(&key) {
                self.packed_bytes -= evicted.packed.capacity();
            }
            self.recheck = true;
            self.settings.metrics.bars_evicted.add(1);
        }
    }
}

#[cfg(test)]
mod tests;
