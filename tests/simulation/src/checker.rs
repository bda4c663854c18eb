//! The checker sees every durable binding, every write at the moment it is sent, every commit and
//! every read. It compares each with the invariants of the protocol and with the independent
//! recomputation. The first breach ends a seed.

use std::collections::BTreeMap;

use futures::FutureExt;
use tapeflow_oracle::{Oracle, OracleBar, OracleEntry, OracleView};
use tapeflow_protocol::{
    CasOutcome, Checkpoint, CheckpointStore, Counts, EpochStore, EpochWrites, HistoryEntry,
};
use tapeflow_schemas::{
    BarKey, BarState, Baskets, Offset, Policy, Price, View, ViewKey, ViewState, WindowSize,
};
use tapeflow_sinks::memory::MemoryStore;

use crate::world::{LogRecord, QUORUM, World};

/// The views, and what the recomputation calls them.
pub(crate) const VIEWS: [(View, OracleView); 4] = [
    (View::Active, OracleView::Active),
    (View::Movers, OracleView::Movers),
    (View::Baskets, OracleView::Baskets),
    (View::Market, OracleView::Market),
];

/// What a cell was read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cell<'a> {
    Row(&'a BarKey),
    View(&'a ViewKey),
}

/// Compares what a seed does with the recomputation, and counts the comparisons.
pub(crate) struct Checker {
    oracle: Oracle,
    pub(crate) sizes: Vec<WindowSize>,
    baskets: Baskets,
    /// The checkpoint, and all writes as they are sent: it knows the invariants that a store can
    /// see (I1 to I4).
    pub(crate) observed: MemoryStore,
    /// By partition, the offset below which the oracle has the log.
    next: Vec<Offset>,
    pub(crate) history: BTreeMap<u64, HistoryEntry>,
    /// Bars and views by name, with the latest epoch that a reader has seen of them.
    read: BTreeMap<String, u64>,
    /// The breaches, oldest first.
    pub(crate) breaches: Vec<String>,
    /// Numbers of comparisons.
    pub(crate) checked: Checked,
    /// Everything sent, read and decided, hashed: two runs of a seed agree in it.
    pub(crate) digest: u64,
}

/// Numbers of comparisons of one seed or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Bars and views sent, each compared with the recomputation as of its epoch.
    pub writes: u64,
    /// Bars and views read, each compared with the recomputation as of its epoch.
    pub reads: u64,
    /// Epochs bound.
    pub bound: u64,
    /// Epochs committed; every bar of each is compared with the replicas.
    pub committed: u64,
    /// Generations that took over.
    pub generations: u64,
}

impl Checked {
    /// Adds the numbers of another seed.
    pub fn add(&mut self, other: &Self) {
        self.writes += other.writes;
        self.reads += other.reads;
        self.bound += other.bound;
        self.committed += other.committed;
        self.generations += other.generations;
    }
}

impl Checker {
    pub(crate) fn new(sizes: Vec<WindowSize>, baskets: Baskets, most_partitions: u32) -> Self {
        Self {
            oracle: Oracle::new(sizes.clone(), most_partitions),
            sizes,
            baskets,
            observed: MemoryStore::new(),
            next: vec![0; most_partitions as usize],
            history: BTreeMap::new(),
            read: BTreeMap::new(),
            breaches: Vec::new(),
            checked: Checked::default(),
            digest: 0,
        }
    }

    pub(crate) fn breach(&mut self, what: String) {
        self.breaches.push(what);
    }

    /// Adds an event to the hash of the seed.
    pub(crate) fn note(&mut self, what: u64, more: u64) {
        for part in [what, more] {
            self.digest = (self.digest ^ part)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .rotate_left(29);
        }
    }

    pub(crate) fn checkpoint(&self) -> Option<Checkpoint> {
        self.observed
            .checkpoint()
            .now_or_never()
            .and_then(Result::ok)
            .flatten()
    }

    /// A bar or a view must be the recomputation as of its own epoch.
    fn bar(&self, key: &BarKey, state: &BarState) -> Option<String> {
        let want = self
            .oracle
            .bar_as_of(key.symbol.as_str(), key.size, key.start, state.epoch);
        let have = recomputed(state);
        (want.as_ref() != Some(&have)).then(|| {
            format!(
                "bar {key} of epoch {}: {have:?}, recomputed {want:?}",
                state.epoch
            )
        })
    }

    fn view(&self, key: &ViewKey, state: &ViewState) -> Option<String> {
        let want = self.view_as_of(key, state.epoch);
        let have = entries(state);
        (want.as_ref() != Some(&have)).then(|| {
            format!(
                "{key} of epoch {}: {have:?}, recomputed {want:?}",
                state.epoch
            )
        })
    }

    fn view_as_of(&self, key: &ViewKey, epoch: u64) -> Option<Vec<OracleEntry>> {
        let (_, of) = VIEWS.iter().find(|(view, _)| *view == key.view)?;
        self.oracle
            .view_as_of(*of, key.size, key.start, epoch, &self.baskets)
    }

    /// A generation sends writes. They are compared now, because the network decides whether and
    /// where they arrive.
    pub(crate) fn sent(&mut self, writes: &EpochWrites) {
        for bar in &writes.bars {
            self.checked.writes += 1;
            self.note(bar.state.epoch, bar.write_timestamp.cast_unsigned());
            if let Some(error) = self.bar(&bar.key, &bar.state) {
                self.breach(format!(
                    "sent at write timestamp {}: {error}",
                    bar.write_timestamp
                ));
            }
        }
        for view in &writes.views {
            self.checked.writes += 1;
            self.note(view.state.epoch, view.write_timestamp.cast_unsigned());
            if let Some(error) = self.view(&view.key, &view.state) {
                self.breach(format!(
                    "sent at write timestamp {}: {error}",
                    view.write_timestamp
                ));
            }
        }
        let _ = self.observed.write(writes).now_or_never();
        self.breaches
            .extend(self.observed.violations().into_iter().take(1));
    }

    /// A reader, who began when it had seen `floor` of the cell, sees an epoch of it, or nothing.
    pub(crate) fn reader_saw(
        &mut self,
        cell: Cell<'_>,
        floor: u64,
        error: Option<String>,
        epoch: Option<u64>,
        repaired: bool,
    ) {
        self.checked.reads += 1;
        self.note(2, epoch.unwrap_or(0));
        if let Some(error) = error {
            self.breach(format!("read: {error}"));
        }
        let name = name(cell);
        if repaired && epoch.unwrap_or(0) < floor {
            self.breach(format!(
                "a reader saw {name} go back from epoch {floor} to {epoch:?}"
            ));
        }
        let latest = self.read.entry(name).or_default();
        *latest = epoch.unwrap_or(0).max(*latest);
    }

    /// The latest epoch any reader has seen of a cell.
    pub(crate) fn floor(&self, cell: Cell<'_>) -> u64 {
        self.read.get(&name(cell)).copied().unwrap_or(0)
    }

    /// The error in a bar that was read.
    pub(crate) fn wrong_bar(&self, key: &BarKey, state: &BarState) -> Option<String> {
        self.bar(key, state)
    }

    /// The error in a view that was read.
    pub(crate) fn wrong_view(&self, key: &ViewKey, state: &ViewState) -> Option<String> {
        self.view(key, state)
    }

    /// All bars and views that can be read, as of the last bound epoch.
    pub(crate) fn cells(&self) -> (Vec<BarKey>, Vec<(WindowSize, i64)>) {
        let bars = self.oracle.bars().filter_map(|(key, _)| {
            let symbol = tapeflow_schemas::Symbol::new(key.symbol).ok()?;
            Some(BarKey {
                symbol,
                size: key.size,
                start: key.start,
            })
        });
        (bars.collect(), self.oracle.windows().collect())
    }
}

fn name(cell: Cell<'_>) -> String {
    match cell {
        Cell::Row(key) => key.to_string(),
        Cell::View(key) => key.to_string(),
    }
}

/// A bar in the types of the oracle.
fn recomputed(state: &BarState) -> OracleBar {
    let totals = &state.totals;
    let sums = |policy| {
        let sums = totals.of_policy(policy);
        tapeflow_oracle::OracleSums {
            volume_e8: sums.volume_e8,
            notional_e16: sums.notional_e16,
            trades: sums.trades,
        }
    };
    let e8 = |price: Option<Price>| price.map(Price::e8);
    OracleBar {
        all: sums(Policy::All),
        sip: sums(Policy::Sip),
        strict: sums(Policy::Strict),
        priced: totals.priced,
        open: e8(totals.open()),
        high: e8(totals.high),
        low: e8(totals.low),
        close: e8(totals.close()),
    }
}

/// A view in the types of the oracle.
fn entries(state: &ViewState) -> Vec<OracleEntry> {
    let entry = |entry: &tapeflow_schemas::ViewEntry| OracleEntry {
        name: entry.name.clone(),
        symbols: entry.symbols,
        trades: entry.trades,
        volume: entry.volume,
        notional: entry.notional,
        open: entry.open.map(Price::e8),
        close: entry.close.map(Price::e8),
    };
    state.entries.iter().map(entry).collect()
}

/// Comparisons that need more of the world: the checkpoint with the log, commits with the replicas.
impl World {
    /// A compare-and-set arrives.
    pub(crate) fn compare_and_set(
        &mut self,
        expected: Option<&Checkpoint>,
        proposed: &Checkpoint,
    ) -> bool {
        let before = self.checker.checkpoint();
        let outcome = self
            .checker
            .observed
            .compare_and_set(expected, proposed)
            .now_or_never();
        if !matches!(outcome, Some(CasOutcome::Won)) {
            return false;
        }
        self.checker.note(
            proposed.version,
            proposed.last_write_timestamp.cast_unsigned(),
        );
        self.checker
            .breaches
            .extend(self.checker.observed.violations().into_iter().take(1));
        let (bound, committed) = before.as_ref().map_or((0, 0), |checkpoint| {
            (checkpoint.last_binding().epoch, checkpoint.committed.epoch)
        });
        let generation = before.map_or(0, |checkpoint| checkpoint.generation);
        self.checker.checked.generations += u64::from(proposed.generation > generation);
        for binding in proposed
            .bound
            .iter()
            .chain([&proposed.committed])
            .filter(|binding| binding.epoch > bound)
        {
            self.checker.checked.bound += 1;
            for (partition, cut) in (0u32..).zip(&binding.cuts) {
                self.checker.give_to_oracle(
                    &self.log[partition as usize],
                    binding.epoch,
                    partition,
                    cut.next,
                );
            }
        }
        for epoch in committed + 1..=proposed.committed.epoch {
            self.checker.checked.committed += 1;
            self.inspect_history(epoch);
        }
        if proposed.committed.epoch > committed {
            self.inspect_commit(proposed.committed.epoch);
        }
        true
    }

    /// The history of an epoch is written before its commit, and says what the recomputation says
    /// (I6).
    fn inspect_history(&mut self, epoch: u64) {
        let want = self.checker.oracle.counts_of(epoch);
        let error = match self.checker.history.get(&epoch) {
            None => Some(format!("epoch {epoch} is committed, and has no history")),
            Some(entry) => {
                let Counts {
                    records,
                    accepted,
                    dead_letters,
                    duplicates,
                    price_updates,
                    gaps,
                    ..
                } = entry.counts;
                let have = (
                    records,
                    accepted,
                    dead_letters,
                    duplicates,
                    price_updates,
                    gaps,
                );
                let want = (
                    want.records,
                    want.accepted,
                    want.dead_letters_total(),
                    want.duplicates,
                    want.price_updates,
                    want.gaps,
                );
                (have != want).then(|| {
                    format!("I6: history of epoch {epoch} says {have:?}, recomputed {want:?}")
                })
            }
        };
        self.checker.breaches.extend(error);
    }

    /// I5: every bar and every view of the epochs up to c is on a quorum.
    fn inspect_commit(&mut self, committed: u64) {
        let (bars, windows) = self.checker.cells();
        let mut found = Vec::new();
        for key in bars {
            let Some(want) =
                self.checker
                    .oracle
                    .bar_as_of(key.symbol.as_str(), key.size, key.start, committed)
            else {
                continue;
            };
            let holds = |replica: &&crate::replica::Replica| {
                replica
                    .bars
                    .get(&key)
                    .is_some_and(|(_, state)| state.epoch > committed || recomputed(state) == want)
            };
            let copies = self.replicas.iter().filter(holds).count();
            let in_directory = self.replicas.iter().filter(|replica| {
                replica.directory.iter().any(|entry| {
                    entry.symbol == key.symbol
                        && entry.size == key.size
                        && entry.bucket == key.size.bucket(key.start)
                })
            });
            if copies < QUORUM || in_directory.count() < QUORUM {
                found.push(format!(
                    "I5: epoch {committed} is committed, and bar {key} is on {copies} replica(s)"
                ));
            }
        }
        for (size, start) in windows {
            for (view, _) in VIEWS {
                let key = ViewKey { view, size, start };
                let Some(want) = self.checker.view_as_of(&key, committed) else {
                    continue;
                };
                let holds = |replica: &&crate::replica::Replica| {
                    replica
                        .views
                        .get(&key)
                        .is_some_and(|(_, state)| state.epoch > committed || entries(state) == want)
                };
                let copies = self.replicas.iter().filter(holds).count();
                if copies < QUORUM {
                    found.push(format!(
                        "I5: epoch {committed} is committed, and {key} is on {copies} replica(s)"
                    ));
                }
            }
        }
        self.checker.breaches.append(&mut found);
    }

    /// At the end, when everything is committed: the stored bars, views and dead letters are
    /// exactly the expected ones.
    pub(crate) fn inspect_end(&mut self) {
        let (bars, _) = self.checker.cells();
        let mut stored: Vec<&BarKey> = self
            .replicas
            .iter()
            .flat_map(|replica| replica.bars.keys())
            .collect();
        stored.sort_unstable();
        stored.dedup();
        let mut found = Vec::new();
        if stored.len() != bars.len() {
            found.push(format!(
                "{} bars are stored, {} recomputed",
                stored.len(),
                bars.len()
            ));
        }
        let mut places: Vec<_> = self
            .replicas
            .iter()
            .flat_map(|replica| replica.dead_letters.keys().copied())
            .collect();
        places.sort_unstable();
        places.dedup();
        let want = self.checker.oracle.dead_letters();
        let mut wanted: Vec<_> = want
            .iter()
            .map(|dead_letter| (dead_letter.partition, dead_letter.offset, dead_letter.index))
            .collect();
        wanted.sort_unstable();
        if places
            .iter()
            .map(|place| (place.partition, place.offset, place.index))
            .collect::<Vec<_>>()
            != wanted
        {
            found.push(format!("dead letters at {places:?}, recomputed {wanted:?}"));
        }
        for place in &places {
            let copies = self
                .replicas
                .iter()
                .filter(|replica| replica.dead_letters.contains_key(place))
                .count();
            if copies < QUORUM {
                found.push(format!(
                    "the dead letter at {place:?} is on {copies} replica(s)"
                ));
            }
        }
        self.checker.breaches.append(&mut found);
    }
}

impl Checker {
    /// Gives the records of a partition below an offset to an epoch, except those of earlier
    /// epochs.
    fn give_to_oracle(&mut self, log: &[LogRecord], epoch: u64, partition: u32, below: Offset) {
        let next = &mut self.next[partition as usize];
        while *next < below {
            let at = usize::try_from(*next).expect("offsets are small");
            let Some((timestamp_ms, payload)) = log.get(at) else {
                self.breaches.push(format!(
                    "epoch {epoch} ends at {below} in partition {partition}, which ends at {}",
                    log.len()
                ));
                return;
            };
            self.oracle
                .record(epoch, partition, *next, *timestamp_ms, Some(payload));
            *next += 1;
        }
    }
}
