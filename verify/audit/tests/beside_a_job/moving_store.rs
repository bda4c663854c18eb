//! A store that plays a recorded history back: each call first lets the job go on a little. Like
//! Cassandra, it writes a view's cell and its entries in two steps, in either order, and reads them
//! in two steps.

use std::{
    collections::BTreeMap,
    ops::Range,
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use async_trait::async_trait;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tapeflow_protocol::{
    AuditStore, Audited, BarReader, CasOutcome, Checkpoint, CheckpointStore, DeadLetter,
    EpochStore, EpochWrites, Expired, Expiry, ExpiryMarks, ExpiryStore, FeedGap, HistoryEntry,
    StoreError, SymbolDirectory, Unlisted, audit::entries_ahead, store::ExpiryProgress,
};
use tapeflow_schemas::{
    AssetClass, BarKey, BarRow, BarState, Epoch, StoredBar, StoredView, Symbol, View, ViewKey,
    ViewState, ViewWrite, WindowSize, WindowStart, WriteTimestamp,
};
use tapeflow_sinks::memory::{Accepted, MemoryStore};

/// The output of a call to a store that never waits. Without tokio's budget, which would make one
/// of many such calls give way to other tasks.
pub(crate) fn now<F: Future>(call: F) -> F::Output {
    match pin!(tokio::task::unconstrained(call)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a call to the memory store waits"),
    }
}

/// How far the job goes on before a call, and between the reading of cells and of entries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// By up to this many writes.
    Steps(usize),
    /// By a few writes, or up to the next binding or commit and a few writes beyond. Between cells
    /// and entries up to the next write of any view.
    Epochs,
    /// Between cells and entries up to the next write of a view that is read; otherwise not at all.
    WithEachView,
}

#[derive(Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "the steps of a short recorded job"
)]
enum Step {
    /// Anything that a store writes in one step.
    Whole(Accepted),
    Cell(ViewWrite),
    Entries(ViewWrite),
}

struct Job {
    left: std::vec::IntoIter<Step>,
    entries: BTreeMap<ViewKey, (WriteTimestamp, ViewState)>,
    random: StdRng,
    put_off: u64,
}

/// The store.
pub(crate) struct MovingStore {
    store: MemoryStore,
    pace: Pace,
    job: Mutex<Job>,
}

impl MovingStore {
    pub(crate) fn new(history: &[Accepted], pace: Pace, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut steps = Vec::new();
        for change in history {
            match change {
                Accepted::View(write) => {
                    let mut both = [Step::Cell(write.clone()), Step::Entries(write.clone())];
                    if random.random_bool(0.5) {
                        both.reverse();
                    }
                    steps.extend(both);
                }
                change => steps.push(Step::Whole(change.clone())),
            }
        }
        Self {
            store: MemoryStore::new(),
            pace,
            job: Mutex::new(Job {
                left: steps.into_iter(),
                entries: BTreeMap::new(),
                random,
                put_off: 0,
            }),
        }
    }

    pub(crate) fn skip_to_the_first_commit(&self) {
        let mut job = self.job();
        while now(self.store.checkpoint())
            .expect("a checkpoint")
            .is_none_or(|checkpoint| checkpoint.committed.epoch == 0)
        {
            self.step(&mut job);
        }
    }

    pub(crate) fn is_at_the_end(&self) -> bool {
        self.job().left.as_slice().is_empty()
    }

    /// How many views were read whose entries were ahead.
    pub(crate) fn put_off(&self) -> u64 {
        self.job().put_off
    }

    fn job(&self) -> MutexGuard<'_, Job> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next write of the job; `None` at the end.
    fn step(&self, job: &mut Job) -> Option<Step> {
        let step = job.left.next()?;
        let store = &self.store;
        match &step {
            Step::Whole(Accepted::Checkpoint(proposed)) => now(async {
                let before = store.checkpoint().await.expect("a checkpoint");
                let outcome = store.compare_and_set(before.as_ref(), proposed).await;
                assert!(matches!(outcome, CasOutcome::Won));
            }),
            Step::Whole(Accepted::History(entry)) => now(async {
                let checkpoint = store.checkpoint().await.expect("a checkpoint");
                let recovery = checkpoint.map_or(0, |checkpoint| checkpoint.recovery_timestamp);
                store
                    .write_history(std::slice::from_ref(entry), recovery)
                    .await
                    .expect("written");
            }),
            Step::Whole(change) => {
                let mut writes = EpochWrites::default();
                match change.clone() {
                    Accepted::Directory(entry) => writes.directory.push(entry),
                    Accepted::Bar(bar) => writes.bars.push(bar),
                    Accepted::DeadLetter(letter) => writes.dead_letters.push(letter),
                    Accepted::FeedGap(gap) => writes.feed_gaps.push(gap),
                    Accepted::View(_) | Accepted::Checkpoint(_) | Accepted::History(_) => {
                        unreachable!("handled above")
                    }
                }
                now(store.write(&writes)).expect("written");
            }
            Step::Cell(write) => {
                let writes = EpochWrites {
                    views: vec![write.clone()],
                    ..EpochWrites::default()
                };
                now(store.write(&writes)).expect("written");
            }
            Step::Entries(write) => {
                let held = job.entries.get(&write.key).map(|(at, _)| *at);
                if held.is_none_or(|held| held < write.write_timestamp) {
                    job.entries
                        .insert(write.key, (write.write_timestamp, write.state.clone()));
                }
            }
        }
        Some(step)
    }

    /// The job goes on before a call.
    fn go_on(&self) {
        let mut job = self.job();
        match self.pace {
            Pace::Steps(most) => {
                for _ in 0..job.random.random_range(0..=most) {
                    self.step(&mut job);
                }
            }
            Pace::Epochs => {
                if job.random.random_bool(0.3) {
                    while !matches!(
                        self.step(&mut job),
                        None | Some(Step::Whole(Accepted::Checkpoint(_)))
                    ) {}
                }
                for _ in 0..job.random.random_range(0..4) {
                    self.step(&mut job);
                }
            }
            // One step, so that the history ends.
            Pace::WithEachView => drop(self.step(&mut job)),
        }
    }

    /// The job goes on between the cells and the entries of these views.
    fn go_on_between(&self, view: View, size: WindowSize, range: &Range<WindowStart>) {
        let mut job = self.job();
        match self.pace {
            Pace::Steps(_) => {
                drop(job);
                return self.go_on();
            }
            Pace::Epochs => {
                while !matches!(
                    self.step(&mut job),
                    None | Some(Step::Cell(_) | Step::Entries(_))
                ) {}
                for _ in 0..job.random.random_range(0..3) {
                    self.step(&mut job);
                }
                return;
            }
            Pace::WithEachView => {}
        }
        // All views together would end the history.
        if range.end.saturating_sub(range.start) > 1 {
            for _ in 0..job.random.random_range(0..4) {
                self.step(&mut job);
            }
            return;
        }
        let key = ViewKey {
            view,
            size,
            start: range.start,
        };
        let is_ahead = |step: &Step| matches!(step, Step::Entries(write) if write.key == key);
        if job.left.as_slice().iter().any(is_ahead) {
            while !self.step(&mut job).is_some_and(|step| is_ahead(&step)) {}
        }
    }
}

#[async_trait]
impl CheckpointStore for MovingStore {
    fn describe(&self) -> String {
        "moving".into()
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.go_on();
        self.store.checkpoint().await
    }

    async fn compare_and_set(&self, _: Option<&Checkpoint>, _: &Checkpoint) -> CasOutcome {
        panic!("an audit writes nothing")
    }

    async fn write_history(&self, _: &[HistoryEntry], _: WriteTimestamp) -> Result<(), StoreError> {
        panic!("an audit writes nothing")
    }
}

#[async_trait]
impl EpochStore for MovingStore {
    async fn read_bars(&self, keys: &[BarKey]) -> Result<Vec<Option<BarRow>>, StoreError> {
        self.store.read_bars(keys).await
    }

    async fn read_views(&self, keys: &[ViewKey]) -> Result<Vec<Option<ViewState>>, StoreError> {
        self.store.read_views(keys).await
    }

    async fn write(&self, _: &EpochWrites) -> Result<(), StoreError> {
        panic!("an audit writes nothing")
    }
}

#[async_trait]
impl SymbolDirectory for MovingStore {
    async fn symbols(&self) -> Result<Vec<(Symbol, AssetClass)>, StoreError> {
        self.go_on();
        self.store.symbols().await
    }
}

#[async_trait]
impl BarReader for MovingStore {
    async fn bars(
        &self,
        symbol: &Symbol,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<StoredBar>, StoreError> {
        self.store.bars(symbol, size, range).await
    }

    async fn views(
        &self,
        view: View,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<StoredView>, StoreError> {
        self.store.views(view, size, range).await
    }

    async fn feed_gaps(&self, range: Range<i64>) -> Result<Vec<FeedGap>, StoreError> {
        self.store.feed_gaps(range).await
    }

    async fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>, StoreError> {
        self.go_on();
        self.store.history(limit).await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        self.store.dead_letters(limit).await
    }
}

#[async_trait]
impl ExpiryStore for MovingStore {
    async fn expired_up_to(&self) -> Result<ExpiryMarks, StoreError> {
        self.store.expired_up_to().await
    }

    async fn expire(
        &self,
        expiry: &Expiry,
        progress: ExpiryProgress<'_>,
    ) -> Result<Expired, StoreError> {
        self.store.expire(expiry, progress).await
    }
}

#[async_trait]
impl AuditStore for MovingStore {
    async fn audit_bars(
        &self,
        symbol: &Symbol,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<Audited<BarState>>, StoreError> {
        self.go_on();
        self.store.audit_bars(symbol, size, range).await
    }

    async fn audit_views(
        &self,
        view: View,
        size: WindowSize,
        range: Range<WindowStart>,
        committed: Epoch,
    ) -> Result<Vec<Audited<ViewState>>, StoreError> {
        self.go_on();
        let cells = self.store.views(view, size, range.clone()).await?;
        self.go_on_between(view, size, &range);
        let mut job = self.job();
        let key = |start| ViewKey { view, size, start };
        let mut entries: BTreeMap<WindowStart, ViewState> = job
            .entries
            .range(key(range.start)..key(range.end))
            .map(|(key, (_, state))| (key.start, state.clone()))
            .collect();
        let mut audited = Vec::new();
        for cell in cells {
            let beside = entries.remove(&cell.start);
            let epochs = beside.iter().map(|entries| entries.epoch);
            let ahead = entries_ahead(cell.state.epoch, epochs, committed);
            let is_on_its_way = cell.state.epoch > committed
                && beside
                    .as_ref()
                    .is_none_or(|entries| entries.epoch < cell.state.epoch);
            let mut found = Audited::from(cell);
            if ahead.is_none() && !is_on_its_way && beside.as_ref() != found.state.as_ref() {
                found.mismatches.push("entries differ".into());
            }
            found.ahead = ahead;
            job.put_off += u64::from(ahead.is_some());
            audited.push(found);
        }
        let alone =
            |(start, state): (_, ViewState)| Audited::entries_without_cell(start, state.epoch);
        job.put_off += entries.len() as u64;
        audited.extend(entries.into_iter().map(alone));
        Ok(audited)
    }

    async fn audit_feed_gaps(&self) -> Result<BTreeMap<FeedGap, usize>, StoreError> {
        self.go_on();
        self.store.audit_feed_gaps().await
    }

    async fn unlisted(&self) -> Result<Vec<Unlisted>, StoreError> {
        self.store.unlisted().await
    }
}
