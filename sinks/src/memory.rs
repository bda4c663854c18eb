//! The store in memory, for tests and simulations. It also checks the protocol from the store's
//! side.
//!
//! It keeps every write, and checks each against the invariants on arrival. A breach is recorded as
//! a *violation* and not raised, so that a broken protocol runs on and shows its consequences.
//! Faults are armed beforehand; each applies to one call. Nothing here is random, and nothing waits
//! except under a [`Hold`].

mod views;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tapeflow_protocol::{
    AuditStore, Audited, BarReader, Binding, CasOutcome, Checkpoint, CheckpointStore, DeadLetter,
    DirectoryEntry, EpochStore, EpochWrites, Expired, Expiry, ExpiryMarks, ExpiryStore, FeedGap,
    HistoryEntry, StoreError, SymbolDirectory, Unlisted,
    checkpoint::stored::StoredError,
    store::{ExpiryProgress, feed_gap},
};
use tapeflow_schemas::{
    AssetClass, BarKey, BarRow, BarState, BarWrite, Epoch, Position, StoredBar, StoredView, Symbol,
    View, ViewKey, ViewState, ViewWrite, WindowSize, WindowStart, WriteTimestamp,
};
use tokio::sync::watch;

/// A store in memory; clones share it.
#[derive(Clone, Default)]
pub struct MemoryStore {
    held: Arc<Mutex<Held>>,
    gates: Arc<Gates>,
}

/// The kinds of calls that can be delayed or made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`CheckpointStore::compare_and_set`].
    CompareAndSet,
    /// [`EpochStore::write`] and [`CheckpointStore::write_history`].
    Write,
    /// [`CheckpointStore::checkpoint`], [`EpochStore::read_bars`] and [`EpochStore::read_views`].
    Read,
}

/// A fault of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is applied, and the answer is lost: unknown, or unavailable.
    AppliedUnanswered,
    /// It is not applied, and the answer is the same.
    NotApplied,
    /// It is not applied yet, and the answer is the same. [`MemoryStore::deliver`] applies it
    /// later, like a delayed message.
    UnderWay,
}

/// A change that the store accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// A checkpoint whose compare-and-set won.
    Checkpoint(Checkpoint),
    /// A directory entry.
    Directory(DirectoryEntry),
    /// A bar, also one with a stale write timestamp, which has no effect.
    Bar(BarWrite),
    /// A view, also one with a stale write timestamp, which has no effect.
    View(ViewWrite),
    /// A dead letter.
    DeadLetter(DeadLetter),
    /// A feed gap.
    FeedGap(FeedGap),
    /// A history entry.
    History(HistoryEntry),
}

/// Blocks calls of a kind until it is dropped.
#[derive(Debug)]
pub struct Hold(Arc<watch::Sender<usize>>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.send_modify(|holds| *holds -= 1);
    }
}

struct Gates([Arc<watch::Sender<usize>>; 3]);

impl Default for Gates {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Arc::new(watch::Sender::new(0))))
    }
}

impl Gates {
    fn of(&self, call: Call) -> &Arc<watch::Sender<usize>> {
        let [compare_and_set, write, read] = &self.0;
        match call {
            Call::CompareAndSet => compare_and_set,
            Call::Write => write,
            Call::Read => read,
        }
    }

    async fn pass(&self, call: Call) {
        // Cannot fail: the sender lives as long as `self`.
        let _ = self
            .of(call)
            .subscribe()
            .wait_for(|holds| *holds == 0)
            .await;
    }
}

/// A call that is still to be applied. Its caller got no answer.
enum UnderWay {
    CompareAndSet(Box<(Option<Checkpoint>, Checkpoint)>),
    Write(EpochWrites),
    History(Vec<HistoryEntry>, WriteTimestamp),
}

#[derive(Default)]
struct Held {
    checkpoint: Option<Checkpoint>,
    /// All writes of a bar, by write timestamp. The last one is its value.
    bars: BTreeMap<BarKey, BTreeMap<WriteTimestamp, BarRow>>,
    /// All writes of a view, by write timestamp. The last one is its value.
    views: BTreeMap<ViewKey, BTreeMap<WriteTimestamp, ViewState>>,
    directory: BTreeSet<DirectoryEntry>,
    dead_letters: BTreeMap<Position, DeadLetter>,
    feed_gaps: BTreeSet<FeedGap>,
    expired_up_to: ExpiryMarks,
    /// The writes that an expiry made.
    left: BTreeSet<(BarKey, WriteTimestamp)>,
    history: BTreeMap<Epoch, (WriteTimestamp, HistoryEntry)>,
    /// Every binding ever seen in a checkpoint.
    bindings: BTreeMap<Epoch, Binding>,
    accepted: Vec<Accepted>,
    violations: Vec<String>,
    faults: Vec<(Call, VecDeque<Fault>)>,
    under_way: VecDeque<UnderWay>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Arms faults for calls of a kind, one per call, in this order and after those armed before.
    pub fn arm(&self, call: Call, faults: impl IntoIterator<Item = Fault>) {
        let mut held = self.held();
        match held.faults.iter_mut().find(|(of, _)| *of == call) {
            Some((_, queue)) => queue.extend(faults),
            None => held.faults.push((call, faults.into_iter().collect())),
        }
    }

    /// Blocks all calls of a kind, before they have any effect, until the returned value is
    /// dropped.
    #[must_use]
    pub fn hold(&self, call: Call) -> Hold {
        let gate = Arc::clone(self.gates.of(call));
        gate.send_modify(|holds| *holds += 1);
        Hold(gate)
    }

    /// Applies the oldest call that is [`Fault::UnderWay`]. Returns whether there was one.
    pub fn deliver(&self) -> bool {
        let mut held = self.held();
        match held.under_way.pop_front() {
            Some(UnderWay::CompareAndSet(checkpoints)) => {
                held.compare_and_set(checkpoints.0.as_ref(), &checkpoints.1);
            }
            Some(UnderWay::Write(writes)) => held.write(&writes),
            Some(UnderWay::History(entries, write_timestamp)) => {
                held.write_history(&entries, write_timestamp)
            }
            None => return false,
        }
        true
    }

    /// All bars, by key, packed ones too, each with its last write timestamp.
    #[must_use]
    pub fn all_bars(&self) -> Vec<(BarKey, WriteTimestamp, BarState)> {
        let held = self.held();
        let mut all = Vec::new();
        for (key, writes) in &held.bars {
            let Some((write_timestamp, row)) = writes.last_key_value() else {
                continue;
            };
            all.push((key.clone(), *write_timestamp, row.state));
            for bar in row.packed.iter(key.start) {
                let bar = bar.expect("the job encodes them well");
                let key = BarKey {
                    symbol: key.symbol.clone(),
                    size: bar.size,
                    start: bar.start,
                };
                let (epoch, totals) = (row.state.epoch, bar.totals);
                all.push((key, *write_timestamp, BarState { epoch, totals }));
            }
        }
        all.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        all
    }

    /// All accepted changes, in order.
    #[must_use]
    pub fn accepted(&self) -> Vec<Accepted> {
        self.held().accepted.clone()
    }

    /// All violations of the invariants, in order. Empty if the protocol is correct.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.held().violations.clone()
    }

    /// A panic in a test does not make the store unreadable.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call that changes the store. `keep` makes the form in which it is delayed.
    async fn change(
        &self,
        apply: impl FnOnce(&mut Held) + Send,
        keep: impl FnOnce() -> UnderWay + Send,
    ) -> Result<(), StoreError> {
        self.gates.pass(Call::Write).await;
        let mut held = self.held();
        let fault = held.fault(Call::Write);
        match fault {
            None | Some(Fault::AppliedUnanswered) => apply(&mut held),
            Some(Fault::UnderWay) => held.under_way.push_back(keep()),
            Some(Fault::NotApplied) => {}
        }
        fault.map_or(Ok(()), |fault| Err(unanswered(fault)))
    }

    async fn read<T>(&self, read: impl FnOnce(&Held) -> T + Send) -> Result<T, StoreError> {
        self.gates.pass(Call::Read).await;
        let mut held = self.held();
        match held.fault(Call::Read) {
            Some(fault) => Err(unanswered(fault)),
            None => Ok(read(&held)),
        }
    }
}

fn unanswered(fault: Fault) -> StoreError {
    StoreError::Unavailable(format!("armed fault {fault:?}"))
}

impl Held {
    fn fault(&mut self, call: Call) -> Option<Fault> {
        self.faults
            .iter_mut()
            .find(|(of, _)| *of == call)
            .and_then(|(_, queue)| queue.pop_front())
    }

    /// Returns whether it was applied.
    fn compare_and_set(&mut self, expected: Option<&Checkpoint>, proposed: &Checkpoint) -> bool {
        let condition = |checkpoint: &Checkpoint| {
            (
                checkpoint.job.clone(),
                checkpoint.generation,
                checkpoint.version,
                checkpoint.owner.clone(),
            )
        };
        if self.checkpoint.as_ref().map(condition) != expected.map(condition) {
            return false;
        }
        self.inspect_checkpoint(proposed);
        // What a store keeps is a text: the memory of each test checks that it is complete. One
        // that breaches an invariant may be none that is read.
        debug_assert!(
            !self.violations.is_empty()
                || proposed
                    .to_text()
                    .and_then(|text| Checkpoint::from_text(&text))
                    .as_ref()
                    == Ok(proposed),
            "{proposed:?}"
        );
        self.checkpoint = Some(proposed.clone());
        self.accepted.push(Accepted::Checkpoint(proposed.clone()));
        true
    }

    fn write(&mut self, writes: &EpochWrites) {
        for entry in &writes.directory {
            self.directory.insert(entry.clone());
            self.accepted.push(Accepted::Directory(entry.clone()));
        }
        for bar in &writes.bars {
            self.inspect_bar(bar);
            // Of two contents at one write timestamp the first stays. The second is a violation.
            self.bars
                .entry(bar.key.clone())
                .or_default()
                .entry(bar.write_timestamp)
                .or_insert_with(|| bar.row());
            self.accepted.push(Accepted::Bar(bar.clone()));
        }
        for view in &writes.views {
            self.write_view(view);
            self.accepted.push(Accepted::View(view.clone()));
        }
        for dead_letter in &writes.dead_letters {
            self.dead_letters
                .insert(dead_letter.position(), dead_letter.clone());
            self.accepted
                .push(Accepted::DeadLetter(dead_letter.clone()));
        }
        for gap in &writes.feed_gaps {
            self.feed_gaps.insert(gap.clone());
            self.accepted.push(Accepted::FeedGap(gap.clone()));
        }
    }

    fn write_history(&mut self, entries: &[HistoryEntry], recovery_timestamp: WriteTimestamp) {
        for entry in entries {
            let write_timestamp = entry.write_timestamp.max(recovery_timestamp);
            match self.history.get(&entry.epoch) {
                // The topic may have new partitions. The cuts of the old ones must not change.
                Some((held, other)) if *held == write_timestamp && !entry.is_still(other) => {
                    self.violations.push(format!(
                        "history: two contents at write timestamp {write_timestamp}: \
                         {other:?} and {entry:?}"
                    ));
                }
                Some((held, _)) if *held > write_timestamp => {}
                _ => drop(
                    self.history
                        .insert(entry.epoch, (write_timestamp, entry.clone())),
                ),
            }
            self.accepted.push(Accepted::History(entry.clone()));
        }
    }

    /// I1: generation, version, b, c and write timestamps only grow, a binding never changes, and
    /// c <= b.
    fn inspect_checkpoint(&mut self, new: &Checkpoint) {
        let mut found = Vec::new();
        if let Some(old) = &self.checkpoint {
            let grows = [
                ("version", new.version > old.version),
                ("generation", new.generation >= old.generation),
                ("c", new.committed.epoch >= old.committed.epoch),
                ("b", new.last_binding().epoch >= old.last_binding().epoch),
                (
                    "recovery timestamp",
                    new.recovery_timestamp >= old.recovery_timestamp,
                ),
                (
                    "last write timestamp",
                    new.last_write_timestamp >= old.last_write_timestamp,
                ),
            ];
            found.extend(
                grows
                    .iter()
                    .filter(|(_, grew)| !grew)
                    .map(|(what, _)| format!("I1: {what} went back: {old:?} became {new:?}")),
            );
        }
        for (before, after) in std::iter::once(&new.committed)
            .chain(&new.bound)
            .zip(&new.bound)
        {
            if after.epoch != before.epoch + 1
                || after.write_timestamp <= before.write_timestamp
                || after.write_timestamp > new.last_write_timestamp
            {
                found.push(format!("I1: {after:?} follows {before:?}"));
            }
        }
        for binding in std::iter::once(&new.committed).chain(&new.bound) {
            let known = self
                .bindings
                .entry(binding.epoch)
                .or_insert_with(|| binding.clone());
            // The topic may have new partitions. The cuts of the old ones must not change.
            if known.write_timestamp != binding.write_timestamp
                || !binding.cuts.starts_with(&known.cuts)
            {
                found.push(format!(
                    "I1: a binding changed: {known:?} became {binding:?}"
                ));
            }
            known.clone_from(binding);
        }
        self.violations.append(&mut found);
    }

    /// The invariants of a bar's writes, as far as the store can check them:
    ///
    /// - I2: an epoch has one value of a bar, and is bound before the bar is written.
    /// - I3: the order of write timestamps is the order of epochs.
    /// - I4: a bar has one value at one write timestamp.
    ///
    /// And the directory lists a bar before it is written.
    fn inspect_bar(&mut self, bar: &BarWrite) {
        if !self.directory.contains(&DirectoryEntry::of(&bar.key)) {
            self.violations
                .push(format!("{} is written before its directory entry", bar.key));
        }
        if let Some(checkpoint) = &self.checkpoint
            && bar.state.epoch > checkpoint.last_binding().epoch
        {
            self.violations.push(format!(
                "I2: {} is written as of epoch {}, which is not bound",
                bar.key, bar.state.epoch
            ));
        }
        for (write_timestamp, row) in self.bars.get(&bar.key).into_iter().flatten() {
            // An expiry leaves bars out on purpose.
            if self.left.contains(&(bar.key.clone(), *write_timestamp)) {
                continue;
            }
            let fault = breach(
                (*write_timestamp, row.state.epoch),
                (bar.write_timestamp, bar.state.epoch),
                row.state.totals == bar.state.totals && row.packed == bar.packed,
            );
            if let Some(fault) = fault {
                self.violations.push(format!(
                    "{fault}: {}, at {write_timestamp} {row:?}, at {} {:?}",
                    bar.key,
                    bar.write_timestamp,
                    bar.row()
                ));
            }
        }
    }
}

/// The invariant that two writes of one bar or one view violate, if any. Each is given by its write
/// timestamp and epoch; `equal` says whether their values are equal.
fn breach(
    one: (WriteTimestamp, Epoch),
    other: (WriteTimestamp, Epoch),
    equal: bool,
) -> Option<&'static str> {
    if one.0 == other.0 {
        (one.1 != other.1 || !equal).then_some("I4: two contents at one write timestamp")
    } else if one.1 == other.1 {
        (!equal).then_some("I2: two folds of one epoch")
    } else {
        ((one.0 < other.0) != (one.1 < other.1))
            .then_some("I3: write timestamps and epochs in different order")
    }
}

#[async_trait]
impl CheckpointStore for MemoryStore {
    fn describe(&self) -> String {
        "memory".into()
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.read(|held| held.checkpoint.clone()).await
    }

    async fn compare_and_set(
        &self,
        expected: Option<&Checkpoint>,
        proposed: &Checkpoint,
    ) -> CasOutcome {
        self.gates.pass(Call::CompareAndSet).await;
        // One with impossible numbers breaches an invariant, which is recorded.
        if let Err(error @ StoredError::TooLong { .. }) = proposed.to_text() {
            return CasOutcome::Refused(error.to_string());
        }
        let mut held = self.held();
        let fault = held.fault(Call::CompareAndSet);
        match fault {
            None => {
                return if held.compare_and_set(expected, proposed) {
                    CasOutcome::Won
                } else {
                    CasOutcome::Lost
                };
            }
            Some(Fault::AppliedUnanswered) => {
                held.compare_and_set(expected, proposed);
            }
            Some(Fault::UnderWay) => held.under_way.push_back(UnderWay::CompareAndSet(Box::new((
                expected.cloned(),
                proposed.clone(),
            )))),
            Some(Fault::NotApplied) => {}
        }
        CasOutcome::Unknown(format!("armed fault {fault:?}"))
    }

    async fn write_history(
        &self,
        entries: &[HistoryEntry],
        recovery_timestamp: WriteTimestamp,
    ) -> Result<(), StoreError> {
        self.change(
            |held| held.write_history(entries, recovery_timestamp),
            || UnderWay::History(entries.to_vec(), recovery_timestamp),
        )
        .await
    }
}

#[async_trait]
impl EpochStore for MemoryStore {
    async fn read_bars(&self, keys: &[BarKey]) -> Result<Vec<Option<BarRow>>, StoreError> {
        let last = |held: &Held, key| {
            held.bars
                .get(key)
                .and_then(BTreeMap::last_key_value)
                .map(|(_, row)| row.clone())
        };
        self.read(|held| keys.iter().map(|key| last(held, key)).collect())
            .await
    }

    async fn read_views(&self, keys: &[ViewKey]) -> Result<Vec<Option<ViewState>>, StoreError> {
        let last = |held: &Held, key| {
            held.views
                .get(key)
                .and_then(BTreeMap::last_key_value)
                .map(|(_, state)| state.clone())
        };
        self.read(|held| keys.iter().map(|key| last(held, key)).collect())
            .await
    }

    async fn write(&self, writes: &EpochWrites) -> Result<(), StoreError> {
        self.change(
            |held| held.write(writes),
            || UnderWay::Write(writes.clone()),
        )
        .await
    }
}

#[async_trait]
impl SymbolDirectory for MemoryStore {
    async fn symbols(&self) -> Result<Vec<(Symbol, AssetClass)>, StoreError> {
        let held = self.held();
        let mut symbols: Vec<_> = held
            .directory
            .iter()
            .map(|entry| (entry.symbol.clone(), entry.symbol.class()))
            .collect();
        symbols.dedup();
        Ok(symbols)
    }
}

#[async_trait]
impl BarReader for MemoryStore {
    async fn bars(
        &self,
        symbol: &Symbol,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<StoredBar>, StoreError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let key = |(size, start)| BarKey {
            symbol: symbol.clone(),
            size,
            start,
        };
        let held = self.held();
        // As in Cassandra, a bar is found only through the directory. A test that does not write
        // the entry fails here.
        let rows = held
            .bars
            .range(key(size.row_of(range.start))..key((size.row_of(0).0, range.end)))
            .filter(|(key, _)| held.directory.contains(&DirectoryEntry::of(key)))
            .filter_map(|(key, writes)| Some((key.start, writes.last_key_value()?.1)));
        let mut bars = Vec::new();
        for (start, row) in rows {
            let found = row.bars_of(start, size);
            bars.extend(found.map_err(|error| StoreError::Broken(error.to_string()))?);
        }
        bars.retain(|bar| range.contains(&bar.start));
        Ok(bars)
    }

    async fn views(
        &self,
        view: View,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<StoredView>, StoreError> {
        Ok(self.held().views(view, size, range))
    }

    async fn feed_gaps(&self, range: Range<i64>) -> Result<Vec<FeedGap>, StoreError> {
        let buckets = FeedGap::buckets_for(&range);
        let held = self.held();
        let gaps = held
            .feed_gaps
            .iter()
            .filter(|gap| gap.buckets().any(|bucket| buckets.contains(&bucket)));
        Ok(feed_gap::settle(gaps.cloned(), &range))
    }

    async fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>, StoreError> {
        Ok(self
            .held()
            .history
            .values()
            .rev()
            .take(limit)
            .map(|(_, entry)| entry.clone())
            .collect())
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        Ok(self
            .held()
            .dead_letters
            .values()
            .take(limit)
            .cloned()
            .collect())
    }
}

#[async_trait]
impl ExpiryStore for MemoryStore {
    async fn expired_up_to(&self) -> Result<ExpiryMarks, StoreError> {
        Ok(self.held().expired_up_to)
    }

    async fn expire(
        &self,
        expiry: &Expiry,
        progress: ExpiryProgress<'_>,
    ) -> Result<Expired, StoreError> {
        let mut held = self.held();
        let held = &mut *held;
        let mut all = Expired::default();
        held.expired_up_to.begun = held.expired_up_to.begun.max(expiry.watermark());
        let leaves = expiry.minutes();
        for (key, writes) in &mut held.bars {
            if key.size != WindowSize::MINUTE
                || !leaves.iter().any(|range| range.contains(&key.start))
            {
                continue;
            }
            let Some((at, row)) = writes.last_key_value() else {
                continue;
            };
            let without = expiry.minute_without(key.start, row, *at);
            let without = without.map_err(|error| StoreError::Broken(error.to_string()))?;
            if let Some((row, at)) = without {
                if let Some(other) = writes.insert(at, row.clone()).filter(|other| *other != row) {
                    held.violations.push(format!(
                        "I4: {key} has two contents at {at}: {other:?} and {row:?}"
                    ));
                }
                held.left.insert((key.clone(), at));
                all.minutes += 1;
            }
        }
        let has_row = |size: WindowSize| expiry.row_sizes().any(|of| of == size);
        let (bars, views) = (held.bars.len(), held.views.len());
        held.bars
            .retain(|key, _| !has_row(key.size) || !expiry.rows(key.size).contains(&key.start));
        held.views
            .retain(|key, _| !has_row(key.size) || !expiry.rows(key.size).contains(&key.start));
        all.bars += (bars - held.bars.len()) as u64;
        all.views += (views - held.views.len()) as u64;
        if progress(all) {
            held.expired_up_to.done = held.expired_up_to.done.max(expiry.watermark());
        }
        Ok(all)
    }
}

/// Memory has no display columns, so no bar and no view has mismatches.
#[async_trait]
impl AuditStore for MemoryStore {
    async fn audit_bars(
        &self,
        symbol: &Symbol,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<Audited<BarState>>, StoreError> {
        let bars = self.bars(symbol, size, range).await?;
        Ok(bars.into_iter().map(Audited::from).collect())
    }

    async fn audit_views(
        &self,
        view: View,
        size: WindowSize,
        range: Range<WindowStart>,
        _: Epoch,
    ) -> Result<Vec<Audited<ViewState>>, StoreError> {
        let views = self.views(view, size, range).await?;
        Ok(views.into_iter().map(Audited::from).collect())
    }

    async fn audit_feed_gaps(&self) -> Result<BTreeMap<FeedGap, usize>, StoreError> {
        let held = self.held();
        let gaps = held.feed_gaps.iter().cloned();
        Ok(gaps.map(|gap| (gap, usize::MAX)).collect())
    }

    async fn unlisted(&self) -> Result<Vec<Unlisted>, StoreError> {
        let held = self.held();
        let missing: BTreeSet<DirectoryEntry> = held
            .bars
            .keys()
            .map(DirectoryEntry::of)
            .filter(|entry| !held.directory.contains(entry))
            .collect();
        Ok(missing
            .into_iter()
            .map(|entry| Unlisted {
                symbol: entry.symbol.to_string(),
                bucket: entry.bucket,
            })
            .collect())
    }
}

#[cfg(test)]
mod tests;
