//! The store in memory: what tests and simulations run on, and what watches the protocol from the
//! store's side.
//!
//! It keeps every write that ever arrived, and holds each against the invariants on arrival: a
//! breach is recorded as a *violation*, not raised, so that a broken protocol runs on and shows
//! where it leads. Faults are armed beforehand and used up one call each; nothing here is random
//! and nothing waits, unless a [`Hold`] says so.

mod views;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tapeflow_protocol::{
    Binding, CasOutcome, DirectoryEntry, EpochWrites, Head, HistoryEntry, Reject, Store, StoreError,
};
use tapeflow_schemas::{
    AssetClass, Epoch, Position, RowKey, RowState, RowWrite, Stamp, StoredRow, StoredView, Symbol,
    View, ViewKey, ViewState, ViewWrite, WindowSize, WindowStart,
};
use tokio::sync::watch;

/// A store in memory; clones share it.
#[derive(Clone, Default)]
pub struct MemoryStore {
    held: Arc<Mutex<Held>>,
    gates: Arc<Gates>,
}

/// The calls that can be held up or made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`Store::compare_and_set`].
    CompareAndSet,
    /// [`Store::write`] and [`Store::write_history`].
    Write,
    /// [`Store::head`] and [`Store::read_rows`].
    Read,
}

/// What happens to the next call of a kind, instead of what should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is applied, and the answer is lost: unknown, or unavailable.
    AppliedUnanswered,
    /// It is not applied, and the answer is the same.
    NotApplied,
    /// It is not applied yet, and the answer is the same; [`MemoryStore::deliver`] applies it, as a
    /// message that was under way.
    UnderWay,
}

/// One thing the store accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// A head that won.
    Head(Head),
    /// A directory entry.
    Directory(DirectoryEntry),
    /// A row, stale ones included: the store took them, and they lost.
    Row(RowWrite),
    /// A list of a view, stale ones included.
    View(ViewWrite),
    /// A dead letter.
    Reject(Reject),
    /// A history entry.
    History(HistoryEntry),
}

/// Keeps calls of a kind waiting until it is dropped.
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

/// A call whose caller has been told nothing, still to arrive.
enum UnderWay {
    CompareAndSet(Box<(Option<Head>, Head)>),
    Write(EpochWrites),
    History(Vec<HistoryEntry>, Stamp),
}

#[derive(Default)]
struct Held {
    head: Option<Head>,
    /// All that ever arrived for a row, by stamp; the last one is what it says.
    rows: BTreeMap<RowKey, BTreeMap<Stamp, RowState>>,
    /// The same for lists.
    views: BTreeMap<ViewKey, BTreeMap<Stamp, ViewState>>,
    directory: BTreeSet<DirectoryEntry>,
    rejects: BTreeMap<Position, Reject>,
    history: BTreeMap<Epoch, (Stamp, HistoryEntry)>,
    /// Every binding ever seen in a head.
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

    /// Arms faults: each is used up by the next call of that kind, in this order, after those armed
    /// before.
    pub fn arm(&self, call: Call, faults: impl IntoIterator<Item = Fault>) {
        let mut held = self.held();
        match held.faults.iter_mut().find(|(of, _)| *of == call) {
            Some((_, queue)) => queue.extend(faults),
            None => held.faults.push((call, faults.into_iter().collect())),
        }
    }

    /// Keeps all calls of a kind waiting, before they do anything, until the answer is dropped.
    #[must_use]
    pub fn hold(&self, call: Call) -> Hold {
        let gate = Arc::clone(self.gates.of(call));
        gate.send_modify(|holds| *holds += 1);
        Hold(gate)
    }

    /// Lets the oldest call that is [`Fault::UnderWay`] arrive. Whether there was one.
    pub fn deliver(&self) -> bool {
        let mut held = self.held();
        match held.under_way.pop_front() {
            Some(UnderWay::CompareAndSet(heads)) => {
                held.compare_and_set(heads.0.as_ref(), &heads.1);
            }
            Some(UnderWay::Write(writes)) => held.write(&writes),
            Some(UnderWay::History(entries, stamp)) => held.write_history(&entries, stamp),
            None => return false,
        }
        true
    }

    /// All rows, by key, with the stamp each was last written at.
    #[must_use]
    pub fn all_rows(&self) -> Vec<(RowKey, Stamp, RowState)> {
        let held = self.held();
        let last = |(key, writes): (&RowKey, &BTreeMap<Stamp, RowState>)| {
            writes
                .last_key_value()
                .map(|(stamp, state)| (key.clone(), *stamp, *state))
        };
        held.rows.iter().filter_map(last).collect()
    }

    /// Everything the store accepted, in the order it did.
    #[must_use]
    pub fn accepted(&self) -> Vec<Accepted> {
        self.held().accepted.clone()
    }

    /// What arrived that the invariants forbid, in the order it did; empty as long as the protocol
    /// holds.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.held().violations.clone()
    }

    /// The tests' own panics must not hide what the store holds.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call that changes something and answers `Ok` or nothing.
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

    /// Whether it was applied.
    fn compare_and_set(&mut self, expected: Option<&Head>, proposed: &Head) -> bool {
        let condition = |head: &Head| {
            (
                head.job.clone(),
                head.generation,
                head.version,
                head.owner.clone(),
            )
        };
        if self.head.as_ref().map(condition) != expected.map(condition) {
            return false;
        }
        self.inspect_head(proposed);
        self.head = Some(proposed.clone());
        self.accepted.push(Accepted::Head(proposed.clone()));
        true
    }

    fn write(&mut self, writes: &EpochWrites) {
        for entry in &writes.directory {
            self.directory.insert(entry.clone());
            self.accepted.push(Accepted::Directory(entry.clone()));
        }
        for row in &writes.rows {
            self.inspect_row(row);
            // Of two contents at one stamp the first stays; that there were two is a violation.
            self.rows
                .entry(row.key.clone())
                .or_default()
                .entry(row.stamp)
                .or_insert(row.state);
            self.accepted.push(Accepted::Row(row.clone()));
        }
        for view in &writes.views {
            self.write_view(view);
            self.accepted.push(Accepted::View(view.clone()));
        }
        for reject in &writes.rejects {
            self.rejects.insert(reject.position(), reject.clone());
            self.accepted.push(Accepted::Reject(reject.clone()));
        }
    }

    fn write_history(&mut self, entries: &[HistoryEntry], flush_stamp: Stamp) {
        for entry in entries {
            let stamp = entry.stamp.max(flush_stamp);
            match self.history.get(&entry.epoch) {
                // A topic may have gained partitions since; those it had are cut where they were.
                Some((held, other)) if *held == stamp && !entry.is_still(other) => {
                    self.violations.push(format!(
                        "history: two contents at stamp {stamp}: {other:?} and {entry:?}"
                    ));
                }
                Some((held, _)) if *held > stamp => {}
                _ => drop(self.history.insert(entry.epoch, (stamp, entry.clone()))),
            }
            self.accepted.push(Accepted::History(entry.clone()));
        }
    }

    /// I1: generation, version, b, c and stamps only grow, a binding never changes, c <= b.
    fn inspect_head(&mut self, new: &Head) {
        let mut found = Vec::new();
        if let Some(old) = &self.head {
            let grows = [
                ("version", new.version > old.version),
                ("generation", new.generation >= old.generation),
                ("c", new.committed.epoch >= old.committed.epoch),
                ("b", new.last_binding().epoch >= old.last_binding().epoch),
                ("flush stamp", new.flush_stamp >= old.flush_stamp),
                ("last stamp", new.last_stamp >= old.last_stamp),
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
                || after.stamp <= before.stamp
                || after.stamp > new.last_stamp
            {
                found.push(format!("I1: {after:?} follows {before:?}"));
            }
        }
        for binding in std::iter::once(&new.committed).chain(&new.bound) {
            let known = self
                .bindings
                .entry(binding.epoch)
                .or_insert_with(|| binding.clone());
            // A topic may have gained partitions since; those it had are cut where they were.
            if known.stamp != binding.stamp || !binding.cuts.starts_with(&known.cuts) {
                found.push(format!(
                    "I1: a binding changed: {known:?} became {binding:?}"
                ));
            }
            known.clone_from(binding);
        }
        self.violations.append(&mut found);
    }

    /// I2, as far as the store can see it: an epoch has one fold of a row, and is bound before it
    /// is written. I3: the order of stamps is the order of epochs. I4: one content at one (row,
    /// stamp).
    fn inspect_row(&mut self, row: &RowWrite) {
        if let Some(head) = &self.head
            && row.state.epoch > head.last_binding().epoch
        {
            self.violations.push(format!(
                "I2: {} is written as of epoch {}, which is not bound",
                row.key, row.state.epoch
            ));
        }
        for (stamp, state) in self.rows.get(&row.key).into_iter().flatten() {
            let fault = breach(
                (*stamp, state.epoch),
                (row.stamp, row.state.epoch),
                state.totals == row.state.totals,
            );
            if let Some(fault) = fault {
                self.violations.push(format!(
                    "{fault}: {}, at {stamp} {state:?}, at {} {:?}",
                    row.key, row.stamp, row.state
                ));
            }
        }
    }
}

/// What is wrong with two writes, each of a stamp and an epoch, to one row or one list, if anything
/// is.
fn breach(one: (Stamp, Epoch), other: (Stamp, Epoch), equal: bool) -> Option<&'static str> {
    if one.0 == other.0 {
        (one.1 != other.1 || !equal).then_some("I4: two contents at one stamp")
    } else if one.1 == other.1 {
        (!equal).then_some("I2: two folds of one epoch")
    } else {
        ((one.0 < other.0) != (one.1 < other.1))
            .then_some("I3: stamps and epochs in different order")
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn describe(&self) -> String {
        "memory".into()
    }

    async fn head(&self) -> Result<Option<Head>, StoreError> {
        self.read(|held| held.head.clone()).await
    }

    async fn compare_and_set(&self, expected: Option<&Head>, proposed: &Head) -> CasOutcome {
        self.gates.pass(Call::CompareAndSet).await;
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

    async fn read_rows(&self, keys: &[RowKey]) -> Result<Vec<Option<RowState>>, StoreError> {
        let last = |held: &Held, key| {
            held.rows
                .get(key)
                .and_then(BTreeMap::last_key_value)
                .map(|(_, state)| *state)
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

    async fn write_history(
        &self,
        entries: &[HistoryEntry],
        flush_stamp: Stamp,
    ) -> Result<(), StoreError> {
        self.change(
            |held| held.write_history(entries, flush_stamp),
            || UnderWay::History(entries.to_vec(), flush_stamp),
        )
        .await
    }

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

    async fn rows(
        &self,
        symbol: &Symbol,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<StoredRow>, StoreError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let key = |start| RowKey {
            symbol: symbol.clone(),
            size,
            start,
        };
        let held = self.held();
        let listed = |key: &RowKey| {
            held.directory.contains(&DirectoryEntry {
                symbol: key.symbol.clone(),
                size,
                bucket: size.bucket(key.start),
            })
        };
        let row = |(key, writes): (&RowKey, &BTreeMap<Stamp, RowState>)| {
            writes.last_key_value().map(|(_, state)| StoredRow {
                start: key.start,
                state: *state,
            })
        };
        // As on Cassandra, only the directory leads to rows: a test that forgets an entry finds out
        // here.
        Ok(held
            .rows
            .range(key(range.start)..key(range.end))
            .filter(|(key, _)| listed(key))
            .filter_map(row)
            .collect())
    }

    async fn views(
        &self,
        view: View,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<StoredView>, StoreError> {
        Ok(self.held().views(view, size, range))
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

    async fn rejects(&self, limit: usize) -> Result<Vec<Reject>, StoreError> {
        Ok(self.held().rejects.values().take(limit).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use tapeflow_protocol::{Cut, SourceIdentity, checkpoint::HEAD_FORMAT};
    use tapeflow_schemas::Totals;

    fn head(version: u64) -> Head {
        let binding = |epoch: u64| Binding {
            epoch,
            stamp: i64::try_from(epoch).expect("small"),
            cuts: vec![Cut::default()],
        };
        Head {
            format: HEAD_FORMAT,
            job: "tapeflow".into(),
            generation: 1,
            version,
            owner: "0".repeat(32),
            logic: "1".into(),
            source: SourceIdentity {
                cluster: "c".into(),
                topic: "t".into(),
                topic_id: None,
            },
            flush_stamp: 0,
            last_stamp: 9,
            committed: binding(0),
            bound: (1..=5).map(binding).collect(),
        }
    }

    fn row(epoch: u64, stamp: Stamp, priced: u64) -> EpochWrites {
        let key = RowKey {
            symbol: Symbol::new("AAPL").expect("a symbol"),
            size: WindowSize::DEFAULTS[0],
            start: 0,
        };
        let state = RowState {
            epoch,
            totals: Totals {
                priced,
                ..Totals::default()
            },
        };
        EpochWrites {
            rows: vec![RowWrite { key, state, stamp }],
            ..EpochWrites::default()
        }
    }

    fn stamps(store: &MemoryStore) -> Vec<Stamp> {
        store
            .all_rows()
            .into_iter()
            .map(|(_, stamp, _)| stamp)
            .collect()
    }

    #[tokio::test]
    async fn an_unknown_compare_and_set_is_applied_or_not_or_later() {
        let store = MemoryStore::new();
        store.arm(
            Call::CompareAndSet,
            [
                Fault::NotApplied,
                Fault::AppliedUnanswered,
                Fault::UnderWay,
                Fault::UnderWay,
            ],
        );
        assert!(matches!(
            store.compare_and_set(None, &head(1)).await,
            CasOutcome::Unknown(_)
        ));
        assert_eq!(store.head().await.expect("answers"), None);
        assert!(matches!(
            store.compare_and_set(None, &head(1)).await,
            CasOutcome::Unknown(_)
        ));
        assert_eq!(store.head().await.expect("answers"), Some(head(1)));
        for _ in 0..2 {
            assert!(matches!(
                store.compare_and_set(Some(&head(1)), &head(2)).await,
                CasOutcome::Unknown(_)
            ));
        }
        assert_eq!(store.head().await.expect("answers"), Some(head(1)));
        assert!(store.deliver());
        assert_eq!(store.head().await.expect("answers"), Some(head(2)));
        assert!(
            matches!(
                store.compare_and_set(Some(&head(2)), &head(3)).await,
                CasOutcome::Won
            ),
            "the plan is used up"
        );
        assert!(store.deliver());
        assert_eq!(
            store.head().await.expect("answers"),
            Some(head(3)),
            "what arrives too late loses"
        );
        assert!(!store.deliver());
        let won: Vec<_> = [1, 2, 3]
            .map(|version| Accepted::Head(head(version)))
            .into();
        assert_eq!((store.accepted(), store.violations()), (won, vec![]));
    }

    #[tokio::test]
    async fn writes_and_reads_fail_as_armed() {
        let store = MemoryStore::new();
        store.arm(
            Call::Write,
            [Fault::NotApplied, Fault::UnderWay, Fault::AppliedUnanswered],
        );
        let unavailable = |result| matches!(result, Err(StoreError::Unavailable(_)));
        assert!(unavailable(store.write(&row(1, 1, 1)).await) && stamps(&store).is_empty());
        assert!(unavailable(store.write(&row(1, 1, 1)).await) && stamps(&store).is_empty());
        assert!(unavailable(store.write(&row(2, 2, 2)).await));
        assert_eq!(stamps(&store), [2]);
        assert!(store.deliver(), "a write of an older epoch, late");
        assert_eq!(stamps(&store), [2]);
        assert_eq!(store.accepted().len(), 2);
        store.arm(Call::Read, [Fault::NotApplied]);
        assert!(matches!(
            store.head().await,
            Err(StoreError::Unavailable(_))
        ));
        assert!(store.head().await.is_ok());
        assert_eq!(store.violations(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn held_calls_wait_until_the_last_hold_is_dropped() {
        let store = MemoryStore::new();
        let (one, two) = (store.hold(Call::Write), store.hold(Call::Write));
        let writes = row(1, 1, 1);
        let mut write = store.write(&writes);
        assert!((&mut write).now_or_never().is_none());
        assert!(
            store.head().now_or_never().is_some(),
            "other calls are not held"
        );
        drop(one);
        assert!((&mut write).now_or_never().is_none() && stamps(&store).is_empty());
        drop(two);
        write.await.expect("written");
        assert_eq!(stamps(&store), [1]);
    }

    /// Writes rows (epoch, stamp, content) under a head with b = 5; what the last one must be
    /// recorded as.
    async fn check(rows: &[(u64, Stamp, u64)], breach: Option<&str>) {
        let store = MemoryStore::new();
        assert!(matches!(
            store.compare_and_set(None, &head(1)).await,
            CasOutcome::Won
        ));
        for (epoch, stamp, content) in rows {
            assert_eq!(store.violations(), Vec::<String>::new(), "{rows:?}");
            store
                .write(&row(*epoch, *stamp, *content))
                .await
                .expect("written");
        }
        let found = store.violations();
        assert_eq!(
            found.len(),
            usize::from(breach.is_some()),
            "{rows:?}: {found:?}"
        );
        assert!(
            found
                .iter()
                .all(|text| breach.is_some_and(|breach| text.starts_with(breach))),
            "{rows:?}: {found:?}"
        );
    }

    #[tokio::test]
    async fn breaches_by_rows_are_recorded() {
        check(&[(1, 1, 1), (2, 2, 2), (1, 1, 1), (2, 7, 2)], None).await;
        check(&[(1, 1, 1), (1, 1, 2)], Some("I4")).await;
        check(&[(1, 1, 1), (2, 1, 1)], Some("I4")).await;
        check(&[(2, 1, 1), (1, 2, 1)], Some("I3")).await;
        check(&[(1, 2, 1), (2, 1, 1)], Some("I3")).await;
        check(&[(1, 1, 1), (1, 2, 2)], Some("I2")).await;
        check(&[(6, 6, 1)], Some("I2")).await;
    }

    #[tokio::test]
    async fn breaches_by_heads_are_recorded() {
        type Change = fn(&mut Head);
        let changes: [(Option<&str>, Change); 9] = [
            (None, |_| {}),
            (None, |head| head.committed = head.bound.remove(0)),
            (None, |head| {
                head.bound
                    .iter_mut()
                    .chain([&mut head.committed])
                    .for_each(|binding| binding.cuts.push(Cut::default()))
            }),
            (Some("I1: generation"), |head| head.generation = 0),
            (Some("I1: b went back"), |head| drop(head.bound.pop())),
            (Some("I1: last stamp"), |head| head.last_stamp = 8),
            (Some("I1: a binding changed"), |head| {
                head.bound[4].cuts[0].next = 7
            }),
            (Some("I1: a binding changed"), |head| {
                head.committed.cuts.clear()
            }),
            (Some("I1: Binding { epoch: 6"), |head| {
                head.bound.push(Binding {
                    epoch: 6,
                    stamp: 5,
                    cuts: vec![Cut::default()],
                })
            }),
        ];
        for (at, (breach, change)) in changes.into_iter().enumerate() {
            let store = MemoryStore::new();
            assert!(matches!(
                store.compare_and_set(None, &head(1)).await,
                CasOutcome::Won
            ));
            let mut next = head(2);
            change(&mut next);
            assert!(matches!(
                store.compare_and_set(Some(&head(1)), &next).await,
                CasOutcome::Won
            ));
            let found = store.violations();
            assert_eq!(
                found.len(),
                usize::from(breach.is_some()),
                "change {at}: {found:?}"
            );
            assert!(
                found
                    .iter()
                    .all(|text| breach.is_some_and(|breach| text.starts_with(breach))),
                "change {at}: {found:?}"
            );
        }
    }
}
