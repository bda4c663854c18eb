//! The checker sees every durable binding, every write at the moment it is sent, every commit and
//! every read. It compares each with the invariants of the protocol and with the independent
//! recomputation. The first breach ends a seed.

use std::collections::{BTreeMap, BTreeSet};

use futures::FutureExt;
use tapeflow_oracle::{OracleBar, OracleEntry, OracleView};
use tapeflow_protocol::{
    Binding, CasOutcome, Checkpoint, CheckpointStore, Counts, EpochStore, EpochWrites,
    HistoryEntry, LostRange, repair::is_repairing,
};
use tapeflow_schemas::{
    BarKey, BarState, Baskets, Horizons, Offset, PackedBar, PackedBars, Policy, Price, View,
    ViewEntry, ViewKey, ViewState, WindowSize, WriteTimestamp,
};
use tapeflow_sinks::memory::MemoryStore;

use tapeflow_protocol::DirectoryEntry;

use crate::{
    checked::Checked,
    expiring::may_have_left,
    partition_log::PartitionLog,
    recomputation::{Place, Recomputation},
    replica::Replica,
    world::{QUORUM, World},
};

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
    pub(crate) recomputation: Recomputation,
    pub(crate) sizes: Vec<WindowSize>,
    pub(crate) horizons: Horizons,
    /// Minutes that were written without packed bars, by key and write timestamp.
    pub(crate) expired: BTreeMap<(BarKey, WriteTimestamp), PackedBars>,
    baskets: Baskets,
    /// The checkpoint, and all writes as they are sent: it knows the invariants that a store can
    /// see (I1 to I4).
    pub(crate) observed: MemoryStore,
    /// By partition, the offset below which the oracle has the log.
    next: Vec<Offset>,
    /// By partition: the last loss that a binding names.
    lost: Vec<Option<LostRange>>,
    /// Where losses have their dead letters.
    lost_at: BTreeSet<Place>,
    /// The numbers of the generations that may give up offsets.
    pub(crate) may_lose: BTreeSet<u64>,
    pub(crate) history: BTreeMap<u64, (WriteTimestamp, HistoryEntry)>,
    /// Bars and views by name, with the latest epoch that a reader has seen of them.
    read: BTreeMap<String, u64>,
    /// The breaches, oldest first.
    pub(crate) breaches: Vec<String>,
    /// Numbers of comparisons.
    pub(crate) checked: Checked,
    /// Everything sent, read and decided, hashed: two runs of a seed agree in it.
    pub(crate) digest: u64,
}

impl Checker {
    pub(crate) fn new(
        sizes: Vec<WindowSize>,
        horizons: Horizons,
        baskets: Baskets,
        most_partitions: u32,
    ) -> Self {
        Self {
            recomputation: Recomputation::new(sizes.clone(), horizons.clone(), most_partitions),
            sizes,
            horizons,
            expired: BTreeMap::new(),
            baskets,
            observed: MemoryStore::new(),
            next: vec![0; most_partitions as usize],
            lost: vec![None; most_partitions as usize],
            lost_at: BTreeSet::new(),
            may_lose: BTreeSet::new(),
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
        let (epoch, have) = (state.epoch, recomputed(state));
        let want = self.recomputation.bar_as_of(key, epoch);
        if !want.contains(&Some(have)) {
            return Some(format!(
                "bar {key} of epoch {epoch}: {have:?}, recomputed {want:?}"
            ));
        }
        let (symbol, whole) = (key.symbol.as_str(), self.recomputation.whole());
        let late = whole.late_as_of(symbol, key.size, key.start, epoch);
        (self.recomputation.is_certain() && late != state.totals.revision).then(|| {
            format!(
                "bar {key} of epoch {epoch}: {} late trades, recomputed {late}",
                state.totals.revision
            )
        })
    }

    fn view(&self, key: &ViewKey, state: &ViewState) -> Option<String> {
        if self.recomputation.is_uncertain_view(key) {
            return None;
        }
        let want = self.view_as_of(key, state.epoch);
        let have = entries(&state.entries);
        if want.as_ref() != Some(&have) {
            return Some(format!(
                "{key} of epoch {}: {have:?}, recomputed {want:?}",
                state.epoch
            ));
        }
        if key.view != View::Movers {
            return None;
        }
        let reserve = entries(&state.reserve.entries);
        let whole = self.recomputation.whole();
        let all = whole.movers_as_of(key.size, key.start, state.epoch);
        let ranks = have.len()..have.len() + reserve.len();
        let right = all.get(ranks.clone()) == Some(&reserve[..])
            && (!state.reserve.complete || ranks.end == all.len());
        (!right).then(|| {
            format!(
                "{key} of epoch {}: {:?} in reserve, of all {all:?}",
                state.epoch, state.reserve
            )
        })
    }

    fn view_as_of(&self, key: &ViewKey, epoch: u64) -> Option<Vec<OracleEntry>> {
        let (_, of) = VIEWS.iter().find(|(view, _)| *view == key.view)?;
        self.recomputation
            .whole()
            .view_as_of(*of, key.size, key.start, epoch, &self.baskets)
    }

    /// A generation sends writes. They are compared now, because the network decides whether and
    /// where they arrive.
    pub(crate) fn sent(&mut self, writes: &EpochWrites) {
        for bar in &writes.bars {
            self.checked.writes += 1;
            self.checked.late += bar.state.totals.revision;
            self.note(bar.state.epoch, bar.write_timestamp.cast_unsigned());
            let packed = bar.packed.iter(bar.key.start).map(|packed| {
                let packed = packed.expect("the job encodes them well");
                let key = BarKey {
                    symbol: bar.key.symbol.clone(),
                    size: packed.size,
                    start: packed.start,
                };
                let (epoch, totals) = (bar.state.epoch, packed.totals);
                (key, BarState { epoch, totals })
            });
            for (key, state) in std::iter::once((bar.key.clone(), bar.state)).chain(packed) {
                if let Some(error) = self.bar(&key, &state) {
                    self.breach(format!(
                        "sent at write timestamp {}: {error}",
                        bar.write_timestamp
                    ));
                }
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
        // The late trades of a bar are compared above. In an epoch that has lost records, a replay
        // may find fewer of them than the run before, because less is known of the event times.
        // Bars that can leave are compared above too: of two writes of one epoch, the later may have
        // been read back without them.
        let mut writes = writes.clone();
        for bar in &mut writes.bars {
            let leave: Vec<WindowSize> = self.horizons.sizes().collect();
            let without = bar.packed.without(&leave);
            bar.packed = without.expect("the job encodes them well");
            bar.state.totals.revision = 0;
            let packed = bar.packed.iter(bar.key.start);
            let mut packed: Vec<PackedBar> = packed
                .map(|packed| packed.expect("the job encodes them well"))
                .collect();
            for packed in &mut packed {
                packed.totals.revision = 0;
            }
            bar.packed = PackedBars::of(bar.key.start, &mut packed);
        }
        let _ = self.observed.write(&writes).now_or_never();
        self.hear_observed();
    }

    /// Takes the first breach that the observing store has found, unless a loss allows it.
    fn hear_observed(&mut self) {
        let found = self.observed.violations();
        let mut found = found.into_iter();
        let breach = found.find(|breach| !self.recomputation.excuses(breach));
        self.breaches.extend(breach);
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
        // Its only copy may have been of lost records.
        let is_uncertain = match cell {
            Cell::Row(key) => self.recomputation.is_uncertain_bar(key),
            Cell::View(key) => self.recomputation.is_uncertain_view(key),
        };
        let name = name(cell);
        if repaired && !is_uncertain && epoch.unwrap_or(0) < floor {
            self.breach(format!(
                "a reader saw {name} go back from epoch {floor} to {epoch:?}"
            ));
        }
        let latest = self.read.entry(name).or_default();
        *latest = epoch.unwrap_or(0).max(*latest);
    }

    /// An entry of the history arrives. Of two entries of an epoch the one with the greater write
    /// timestamp stays, and only a loss makes them differ.
    pub(crate) fn write_history(&mut self, entry: HistoryEntry, recovery: WriteTimestamp) {
        let write_timestamp = entry.write_timestamp.max(recovery);
        let held = self.history.get(&entry.epoch);
        if let Some((at, other)) = held.filter(|(_, other)| !entry.is_still(other))
            && (*at == write_timestamp || !self.recomputation.is_uncertain_epoch(entry.epoch))
        {
            self.breaches.push(format!(
                "the history of an epoch changed: {other:?} became {entry:?}"
            ));
        }
        if held.is_none_or(|(at, _)| *at <= write_timestamp) {
            self.history.insert(entry.epoch, (write_timestamp, entry));
        }
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
        let whole = self.recomputation.whole();
        let bars = whole.bars().filter_map(|(key, _)| {
            let symbol = tapeflow_schemas::Symbol::new(key.symbol).ok()?;
            Some(BarKey {
                symbol,
                size: key.size,
                start: key.start,
            })
        });
        (bars.collect(), whole.windows().collect())
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
        first_trade_ms: totals.first_trade_ms,
        last_trade_ms: totals.last_trade_ms,
    }
}

/// The entries of a view in the types of the oracle.
fn entries(entries: &[ViewEntry]) -> Vec<OracleEntry> {
    let entry = |entry: &ViewEntry| OracleEntry {
        quote: entry.quote,
        name: entry.name.clone(),
        symbols: entry.symbols,
        trades: entry.trades,
        volume: entry.volume,
        notional: entry.notional,
        open: entry.open.map(Price::e8),
        close: entry.close.map(Price::e8),
    };
    entries.iter().map(entry).collect()
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
        self.checker.hear_observed();
        let (bound, committed) = before.as_ref().map_or((0, 0), |checkpoint| {
            (checkpoint.last_binding().epoch, checkpoint.committed.epoch)
        });
        if before.is_none() {
            // A new job begins at the first offset that is kept.
            for (next, cut) in self.checker.next.iter_mut().zip(&proposed.committed.cuts) {
                *next = cut.next;
            }
        }
        let generation = before.map_or(0, |checkpoint| checkpoint.generation);
        if proposed.generation > generation {
            self.checker.checked.generations += 1;
            self.find_losses();
        }
        for binding in proposed
            .bound
            .iter()
            .chain([&proposed.committed])
            .filter(|binding| binding.epoch > bound)
        {
            self.checker.checked.bound += 1;
            self.inspect_binding(binding, &proposed.owner);
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

    /// The records of an epoch, and what it gives up.
    fn inspect_binding(&mut self, binding: &Binding, owner: &str) {
        let number = u64::from_str_radix(owner, 16).unwrap_or(0);
        let log = match &self.rollback {
            // It has read the log as it was, and its message was under way.
            Some(rollback) if number <= rollback.last_number => &rollback.before,
            Some(_) => {
                self.checker
                    .breach(format!("generation {number} binds on another log"));
                return;
            }
            None => &self.log,
        };
        for (partition, cut) in (0u32..).zip(&binding.cuts) {
            let (at, epoch) = (partition as usize, binding.epoch);
            let before = std::mem::replace(&mut self.checker.lost[at], cut.lost);
            if let Some(lost) = cut.lost.and_then(|lost| lost.beyond(before)) {
                self.checker.checked.lost += 1;
                self.checker.lost_at.insert((partition, lost.from));
                if !self.checker.may_lose.contains(&number) {
                    self.checker.breach(format!(
                        "epoch {epoch} gives up {lost} of partition {partition}, and no one \
                         allowed it"
                    ));
                }
                if lost.to > log[at].bounds().start {
                    self.checker.breach(format!(
                        "epoch {epoch} gives up {lost} of partition {partition}, which are there"
                    ));
                }
            }
            self.checker
                .give_to_epoch(&log[at], epoch, partition, cut.next, cut.lost);
        }
    }

    /// Whether offsets of a partition are gone that are not committed and that no binding gives up.
    pub(crate) fn is_anything_gone(&self) -> bool {
        let Some(checkpoint) = self.checker.checkpoint() else {
            return false;
        };
        let partitions = self.log.iter().enumerate();
        partitions.into_iter().any(|(at, log)| {
            let committed = checkpoint.committed.cuts.get(at).map_or(0, |cut| cut.next);
            let given_up = self.checker.lost[at].filter(|lost| lost.from <= committed);
            let known = given_up.map_or(committed, |lost| lost.to.max(committed));
            log.bounds().start > known
        })
    }

    /// Whether a repairer owns the job.
    pub(crate) fn is_repairing(&self) -> bool {
        let checkpoint = self.checker.checkpoint();
        checkpoint.is_some_and(|checkpoint| is_repairing(&checkpoint.owner))
    }

    /// Finds bound records that a replay may not find.
    pub(crate) fn find_losses(&mut self) {
        let Some(checkpoint) = self.checker.checkpoint() else {
            return;
        };
        let gone = (0u32..).zip(&checkpoint.committed.cuts);
        let gone = gone.flat_map(|(partition, cut)| {
            let start = self.log[partition as usize].bounds().start;
            (cut.next..start).map(move |offset| (partition, offset))
        });
        let checker = &mut self.checker;
        checker.checked.uncertain += checker.recomputation.lose(gone);
    }

    /// The history of an epoch is written before its commit, and says what the recomputation says
    /// (I6).
    fn inspect_history(&mut self, epoch: u64) {
        let recomputation = &self.checker.recomputation;
        let want = recomputation.whole().counts_of(epoch);
        let error = match self.checker.history.get(&epoch) {
            // Lost records are not counted, and what they would have taught the duplicate filter
            // decides about gaps.
            Some((_, entry)) if recomputation.is_uncertain_epoch(epoch) => {
                let least = want.records - recomputation.uncertain_records(epoch);
                let have = entry.counts.records;
                (!(least..=want.records).contains(&have)).then(|| {
                    format!("I6: history of epoch {epoch} says {have} records of {want:?}")
                })
            }
            None => Some(format!("epoch {epoch} is committed, and has no history")),
            Some((_, entry)) => {
                let Counts {
                    records,
                    accepted,
                    dead_letters,
                    duplicates,
                    price_updates,
                    gaps,
                    late,
                } = entry.counts;
                let have = (
                    records,
                    accepted,
                    dead_letters,
                    duplicates,
                    price_updates,
                    gaps,
                    late,
                );
                let want = (
                    want.records,
                    want.accepted,
                    want.dead_letters_total(),
                    want.duplicates,
                    want.price_updates,
                    want.gaps,
                    want.late,
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
        let expiry = self.expiry();
        let mut found = Vec::new();
        for key in bars {
            let want = self.checker.recomputation.bar_as_of(&key, committed);
            if want.contains(&None) || may_have_left(expiry.as_ref(), &key) {
                continue;
            }
            let holds = |replica: &&crate::replica::Replica| {
                replica.bar(&key).is_some_and(|state| {
                    state.epoch > committed || want.contains(&Some(recomputed(&state)))
                })
            };
            let copies = self.replicas.iter().filter(holds).count();
            let in_directory = self
                .replicas
                .iter()
                .filter(|replica| replica.directory.contains(&DirectoryEntry::of(&key)));
            if copies < QUORUM || in_directory.count() < QUORUM {
                found.push(format!(
                    "I5: epoch {committed} is committed, and bar {key} is on {copies} replica(s)"
                ));
            }
        }
        for (size, start) in windows {
            for (view, _) in VIEWS {
                let key = ViewKey { view, size, start };
                let Some(want) = self
                    .checker
                    .view_as_of(&key, committed)
                    .filter(|_| !self.checker.recomputation.is_uncertain_view(&key))
                else {
                    continue;
                };
                let holds = |replica: &&crate::replica::Replica| {
                    replica.views.get(&key).is_some_and(|(_, state)| {
                        state.epoch > committed || entries(&state.entries) == want
                    })
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
        let (mut bars, _) = self.checker.cells();
        let expiry = self.expiry();
        bars.retain(|key| !may_have_left(expiry.as_ref(), key));
        let too_late = self.checker.recomputation.whole().counts();
        self.checker.checked.too_late += too_late.dead_letters.get("too_late").unwrap_or(&0);
        let recomputation = &self.checker.recomputation;
        let is_certain = |key: &BarKey| !recomputation.is_uncertain_bar(key);
        bars.retain(is_certain);
        let mut stored: Vec<BarKey> = self
            .replicas
            .iter()
            .flat_map(Replica::keys)
            .filter(|key| is_certain(key) && !may_have_left(expiry.as_ref(), key))
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
        // Those of uncertain records may have been written before the loss.
        let is_certain = |partition, offset, index| {
            index == u32::MAX || !recomputation.is_uncertain((partition, offset))
        };
        places.retain(|place| is_certain(place.partition, place.offset, place.index));
        let want = recomputation.whole().dead_letters();
        let mut wanted: Vec<_> = want
            .iter()
            .map(|dead_letter| (dead_letter.partition, dead_letter.offset, dead_letter.index))
            .filter(|(partition, offset, index)| is_certain(*partition, *offset, *index))
            .collect();
        let lost_at = self.checker.lost_at.iter();
        wanted.extend(lost_at.map(|(partition, offset)| (*partition, *offset, u32::MAX)));
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
    /// epochs and those that the epoch has lost.
    fn give_to_epoch(
        &mut self,
        log: &PartitionLog,
        epoch: u64,
        partition: u32,
        below: Offset,
        lost: Option<LostRange>,
    ) {
        let end = log.bounds().end;
        if below > end {
            self.breach(format!(
                "epoch {epoch} ends at {below} in partition {partition}, which ends at {end}"
            ));
            return;
        }
        let from = std::mem::replace(&mut self.next[partition as usize], below);
        for offset in from..below {
            if lost.is_some_and(|lost| lost.contains(offset)) {
                continue;
            }
            if let Some(record) = log.record(offset) {
                self.recomputation
                    .give(epoch, (partition, offset), record.clone());
            }
        }
    }
}
