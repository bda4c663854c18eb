//! An independent recomputation of every bar, view and feed gap from the log alone.
//!
//! It checks the job, so it must not repeat the job's mistakes: it shares only vocabulary with the
//! job (types, bounds, windows). It decodes records with apache-avro, and has its own rules for
//! duplicates, admission, sale conditions, sums, prices and views. The code is plain, not fast.
//!
//! ```text
//!  bytes ──decode──▶ record ──duplicates──▶ entries ──admission──▶ trades
//!                                                                    │ conditions
//!                    view ◀──views── bar as of an epoch ◀──── accumulator, one per
//!                                                             symbol, window and epoch
//! ```
//!
//! - *Epoch*: a number that the caller gives with each record. Several epochs of the job may share
//!   one number. Memory grows with bars times epochs.
//! - *As of an epoch*: containing all records with this epoch or a lower one. A stored bar that
//!   names an epoch must equal [`Oracle::bar_as_of`] it, and a view [`Oracle::view_as_of`] it.
//!
//! ```
//! use tapeflow_oracle::Oracle;
//! use tapeflow_schemas::WindowSize;
//!
//! let minute: WindowSize = "1m".parse().expect("a size");
//! let mut oracle = Oracle::new(vec![minute], 1);
//! oracle.record(0, 0, 17, 1_700_000_000_000, Some(b"not Avro"));
//! assert_eq!(oracle.counts().dead_letters["malformed"], 1);
//! assert_eq!(oracle.bar_as_of("AAPL", minute, 0, 0), None);
//! ```

mod accumulator;
mod admission;
mod conditions;
mod counts;
mod decode;
mod duplicates;
mod gaps;
mod sessions;
mod views;

use std::{collections::BTreeMap, sync::Arc};

use accumulator::{AcceptedTrade, Accumulator};
pub use accumulator::{OracleBar, OracleSums};
use admission::{Admission, admit};
pub use counts::{OracleCounts, OracleDeadLetter};
use decode::{DECODER, Record};
use duplicates::{Decision, DuplicateFilter};
pub use gaps::OracleGap;
use gaps::{FeedReport, Gaps};
use tapeflow_schemas::{
    AssetClass, Baskets, EventTime, Offset, Partition, WindowSize, WindowStart,
};
pub use views::{OracleEntry, OracleView};

/// The recomputation: [`Oracle::record`] takes the log, the other methods return results.
pub struct Oracle {
    sizes: Vec<WindowSize>,
    horizons: BTreeMap<WindowSize, i64>,
    partitions: Vec<PartitionState>,
    bars: BTreeMap<Arc<str>, BTreeMap<(WindowSize, WindowStart), Epochs>>,
    /// The symbols that have a bar in a window, for windows that have views.
    windows: BTreeMap<(WindowSize, WindowStart), Vec<Arc<str>>>,
    counts: BTreeMap<u64, OracleCounts>,
    dead_letters: Vec<OracleDeadLetter>,
    gaps: Gaps,
    keep: Option<Keep>,
}

/// The most invalid trades of one record that are dead letters of their own.
const LISTED: usize = 10;
/// Milliseconds after its end in which a window is still open: later trades are late for it.
const ALLOWED_LATENESS_MS: i64 = 5_000;
/// The bytes of a reason that are kept.
const REASON_BYTES: usize = 64;

/// Whether to keep a bar, by symbol, size and start.
type Keep = Box<dyn Fn(&str, WindowSize, WindowStart) -> bool + Send>;

/// What each epoch adds to a bar, ascending by epoch.
type Epochs = Vec<(u64, Accumulator)>;

/// The identity of a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OracleKey<'a> {
    /// The symbol.
    pub symbol: &'a str,
    /// The size of the window.
    pub size: WindowSize,
    /// The first millisecond of the window.
    pub start: WindowStart,
}

/// How far a partition was read, its duplicate filter, and the largest event time of its trades.
#[derive(Debug, Default)]
struct PartitionState {
    last: Option<Offset>,
    newest_ms: Option<i64>,
    duplicates: DuplicateFilter,
}

impl Oracle {
    /// An oracle for windows of these sizes and a log with this many partitions.
    #[must_use]
    pub fn new(sizes: Vec<WindowSize>, partitions: u32) -> Self {
        Self {
            sizes,
            horizons: BTreeMap::new(),
            partitions: (0..partitions).map(|_| PartitionState::default()).collect(),
            bars: BTreeMap::new(),
            windows: BTreeMap::new(),
            counts: BTreeMap::new(),
            dead_letters: Vec::new(),
            gaps: Gaps::default(),
            keep: None,
        }
    }

    /// With horizons: a trade is not in a window of these sizes that ended so many milliseconds or
    /// more before the newest trade of its partition. If that leaves it no window, it is a dead
    /// letter.
    #[must_use]
    pub fn with_horizons(self, horizons: impl IntoIterator<Item = (WindowSize, i64)>) -> Self {
        Self {
            horizons: horizons.into_iter().collect(),
            ..self
        }
    }

    /// Keeps only the bars for which `keep` returns true, which saves memory. All records are read
    /// and counted. A view needs all bars of its window.
    #[must_use]
    pub fn keeping(
        self,
        keep: impl Fn(&str, WindowSize, WindowStart) -> bool + Send + 'static,
    ) -> Self {
        Self {
            keep: Some(Box::new(keep)),
            ..self
        }
    }

    /// Adds the next record of a partition. `timestamp_ms` is the log's own, zero or less if it has
    /// none; it decides which trades are in the future.
    ///
    /// # Panics
    /// If the log has no such partition, or if `offset` is not above the last one of the partition:
    /// the caller must read in order.
    pub fn record(
        &mut self,
        epoch: u64,
        partition: Partition,
        offset: Offset,
        timestamp_ms: i64,
        payload: Option<&[u8]>,
    ) {
        let state = usize::try_from(partition)
            .ok()
            .and_then(|at| self.partitions.get_mut(at))
            .expect("a partition of the log");
        assert!(
            state.last.is_none_or(|last| last < offset),
            "partition {partition}: offset {offset} comes after {:?}",
            state.last
        );
        state.last = Some(offset);
        let counts = self.counts.entry(epoch).or_default();
        counts.records += 1;
        let record = match DECODER.decode(payload.unwrap_or_default()) {
            Ok(record) => record,
            Err(error) => return self.dead_letter(epoch, (partition, offset, 0), error.reason()),
        };
        if let Record::Batch {
            session, sequence, ..
        }
        | Record::InvalidFrame {
            session, sequence, ..
        }
        | Record::FeedState(FeedReport {
            session, sequence, ..
        }) = record
        {
            match state.duplicates.add(session, sequence, offset) {
                Decision::Counts(skipped) => counts.gaps = counts.gaps.saturating_add(skipped),
                Decision::Duplicate => {
                    counts.duplicates += 1;
                    return;
                }
                Decision::NotBelieved => {
                    return self.dead_letter(epoch, (partition, offset, 0), "sequence");
                }
            }
        }
        // A record can claim any time for itself; the log's timestamp, where there is one, is a
        // limit.
        let known = |taken_ms: i64| {
            if timestamp_ms > 0 {
                taken_ms.min(timestamp_ms)
            } else {
                taken_ms
            }
        };
        let (known_ms, entries) = match record {
            Record::Batch {
                taken_ms, entries, ..
            } => (known(taken_ms), entries),
            Record::Legacy { entries } => (timestamp_ms, entries),
            Record::FeedState(report) => {
                let known_ms = known(report.taken_ms);
                return self.gaps.add(epoch, report, known_ms);
            }
            Record::InvalidFrame { reason, .. } => {
                return self.dead_letter(epoch, (partition, offset, 0), &reason);
            }
        };
        let mut invalid = Vec::new();
        for (index, entry) in (0..).zip(entries) {
            match admit(&entry, known_ms) {
                Admission::Trade {
                    time,
                    price_e8,
                    size_e8,
                } => {
                    let trade = AcceptedTrade {
                        event_ms: time.ms(),
                        partition,
                        offset,
                        index,
                        price_e8,
                        size_e8,
                        codes: &entry.codes,
                        late: false,
                    };
                    if !self.add_trade(epoch, &entry.symbol, time, trade) {
                        invalid.push((index, "too_late"));
                    }
                }
                Admission::PriceUpdate => {
                    self.counts.entry(epoch).or_default().price_updates += 1;
                }
                Admission::DeadLetter(reason) => invalid.push((index, reason)),
            }
        }
        self.invalid_trades(epoch, (partition, offset), &invalid);
    }

    /// Counts the invalid trades of a record, and lists the first of them. One more dead letter
    /// stands for the rest.
    fn invalid_trades(
        &mut self,
        epoch: u64,
        (partition, offset): (Partition, Offset),
        invalid: &[(u32, &'static str)],
    ) {
        let dead_letters = &mut self.counts.entry(epoch).or_default().dead_letters;
        for (_, reason) in invalid {
            *dead_letters.entry((*reason).to_owned()).or_default() += 1;
        }
        let (listed, rest) = invalid.split_at(invalid.len().min(LISTED));
        let rest = rest.first().map(|(index, _)| (*index, "more"));
        self.dead_letters
            .extend(
                listed
                    .iter()
                    .copied()
                    .chain(rest)
                    .map(|(index, reason)| OracleDeadLetter {
                        partition,
                        offset,
                        index,
                        reason: reason.to_owned(),
                    }),
            );
    }

    /// Adds a trade to its windows. Returns false if all of them are beyond their horizon.
    fn add_trade(
        &mut self,
        epoch: u64,
        symbol: &str,
        time: EventTime,
        trade: AcceptedTrade<'_>,
    ) -> bool {
        let class = AssetClass::of(symbol);
        let partition = usize::try_from(trade.partition).expect("a partition of the log");
        let newest_ms = &mut self.partitions[partition].newest_ms;
        let before_ms = newest_ms.replace(time.ms().max(newest_ms.unwrap_or(i64::MIN)));
        // A window ends after each of its trades, so most trades cannot be late for any. But a
        // closing print comes after its session.
        let newest_ms = before_ms.filter(|newest| time.ms() + ALLOWED_LATENESS_MS < *newest);
        let is_late = |size: WindowSize, start: WindowStart| {
            let newest_ms = if size.is_session() {
                before_ms
            } else {
                newest_ms
            };
            newest_ms
                .is_some_and(|newest| size.end_of(start, class) + ALLOWED_LATENESS_MS <= newest)
        };
        let windows: Vec<(WindowSize, WindowStart)> = self
            .sizes
            .iter()
            .filter_map(|size| Some((*size, sessions::window_of(*size, time, trade.codes, class)?)))
            .collect();
        let (beyond, windows): (Vec<_>, Vec<_>) = windows.into_iter().partition(|(size, start)| {
            let age = before_ms.map(|newest| newest - size.end_of(*start, class));
            let horizon = self.horizons.get(size);
            age.zip(horizon)
                .is_some_and(|(age, horizon)| age >= *horizon)
        });
        if windows.is_empty() && !beyond.is_empty() {
            return false;
        }
        let counts = self.counts.entry(epoch).or_default();
        counts.accepted += 1;
        let late = windows.iter().any(|(size, start)| is_late(*size, *start));
        counts.late += u64::from(late);
        let kept: Vec<(WindowSize, WindowStart)> = windows
            .into_iter()
            .filter(|(size, start)| {
                self.keep
                    .as_ref()
                    .is_none_or(|keep| keep(symbol, *size, *start))
            })
            .collect();
        if kept.is_empty() {
            return true;
        }
        let name = self
            .bars
            .get_key_value(symbol)
            .map_or_else(|| symbol.into(), |(name, _)| Arc::clone(name));
        let windows = self.bars.entry(Arc::clone(&name)).or_default();
        for window in kept {
            // Most bars have one epoch. A vector that grows by itself would start with room for
            // four.
            let epochs = windows
                .entry(window)
                .or_insert_with(|| Vec::with_capacity(1));
            if epochs.is_empty() && views::has_views(window.0) {
                self.windows
                    .entry(window)
                    .or_default()
                    .push(Arc::clone(&name));
            }
            let at = epochs.partition_point(|(earlier, _)| *earlier < epoch);
            if epochs.get(at).is_none_or(|(found, _)| *found != epoch) {
                epochs.insert(at, (epoch, Accumulator::default()));
            }
            epochs[at].1.add(AcceptedTrade {
                late: is_late(window.0, window.1),
                ..trade
            });
        }
        true
    }

    fn dead_letter(
        &mut self,
        epoch: u64,
        (partition, offset, index): (Partition, Offset, u32),
        reason: &str,
    ) {
        let reason = &reason[..reason.floor_char_boundary(REASON_BYTES)];
        *self
            .counts
            .entry(epoch)
            .or_default()
            .dead_letters
            .entry(reason.to_owned())
            .or_default() += 1;
        self.dead_letters.push(OracleDeadLetter {
            partition,
            offset,
            index,
            reason: reason.to_owned(),
        });
    }

    /// The bar as of an epoch; `None` if it has no trade.
    #[must_use]
    pub fn bar_as_of(
        &self,
        symbol: &str,
        size: WindowSize,
        start: WindowStart,
        epoch: u64,
    ) -> Option<OracleBar> {
        as_of(self.bars.get(symbol)?.get(&(size, start))?, epoch)
    }

    /// How many trades of a bar came after its window had closed, as of an epoch. Right only if
    /// each partition was read from its first record.
    #[must_use]
    pub fn late_as_of(
        &self,
        symbol: &str,
        size: WindowSize,
        start: WindowStart,
        epoch: u64,
    ) -> u64 {
        let epochs = self
            .bars
            .get(symbol)
            .and_then(|bars| bars.get(&(size, start)));
        epochs
            .into_iter()
            .flatten()
            .filter(|(of, _)| *of <= epoch)
            .map(|(_, accumulator)| accumulator.late)
            .sum()
    }

    /// The symbols that have a bar, ascending.
    pub fn symbols(&self) -> impl Iterator<Item = &str> {
        self.bars.keys().map(|symbol| &**symbol)
    }

    /// The windows in which a symbol has a bar as of an epoch, by size and start.
    pub fn windows_of(
        &self,
        symbol: &str,
        epoch: u64,
    ) -> impl Iterator<Item = (WindowSize, WindowStart)> {
        let windows = self.bars.get(symbol).into_iter().flatten();
        windows
            .filter(move |(_, epochs)| epochs.first().is_some_and(|(of, _)| *of <= epoch))
            .map(|(window, _)| *window)
    }

    /// All bars with all records, by symbol, size and start.
    pub fn bars(&self) -> impl Iterator<Item = (OracleKey<'_>, OracleBar)> {
        let windows = self
            .bars
            .iter()
            .flat_map(|(symbol, windows)| windows.iter().map(move |window| (symbol, window)));
        windows.filter_map(|(symbol, ((size, start), epochs))| {
            Some((
                OracleKey {
                    symbol,
                    size: *size,
                    start: *start,
                },
                as_of(epochs, u64::MAX)?,
            ))
        })
    }

    /// The entries of a view as of an epoch, best rank first; `None` if no bar makes the view.
    #[must_use]
    pub fn view_as_of(
        &self,
        view: OracleView,
        size: WindowSize,
        start: WindowStart,
        epoch: u64,
        baskets: &Baskets,
    ) -> Option<Vec<OracleEntry>> {
        views::entries(view, &self.bars_of_window(size, start, epoch), baskets)
    }

    /// All symbols of a window that moved, as of an epoch, best rank first. The view `movers` has
    /// the first of them, and a store may have more in reserve.
    #[must_use]
    pub fn movers_as_of(
        &self,
        size: WindowSize,
        start: WindowStart,
        epoch: u64,
    ) -> Vec<OracleEntry> {
        views::all_movers(&self.bars_of_window(size, start, epoch))
    }

    /// The bars of a window as of an epoch, by symbol.
    fn bars_of_window(
        &self,
        size: WindowSize,
        start: WindowStart,
        epoch: u64,
    ) -> Vec<(&str, OracleBar)> {
        let bar = |symbol: &Arc<str>| self.bar_as_of(symbol, size, start, epoch);
        let mut bars: Vec<(&str, OracleBar)> = self
            .windows
            .get(&(size, start))
            .into_iter()
            .flatten()
            .filter_map(|symbol| Some((&**symbol, bar(symbol)?)))
            .collect();
        bars.sort_by_key(|(symbol, _)| *symbol);
        bars
    }

    /// The windows that have a bar of any symbol, with all records, of the sizes that have views:
    /// one minute and more.
    pub fn windows(&self) -> impl Iterator<Item = (WindowSize, WindowStart)> {
        self.windows.keys().copied()
    }

    /// The times in which trades may be missing, as of an epoch, ascending.
    pub fn gaps_as_of(&self, epoch: u64) -> impl Iterator<Item = &OracleGap> {
        self.gaps.as_of(epoch)
    }

    /// What became of all records.
    #[must_use]
    pub fn counts(&self) -> OracleCounts {
        let mut sum = OracleCounts::default();
        for counts in self.counts.values() {
            sum.add(counts);
        }
        sum
    }

    /// What became of the records of one epoch.
    #[must_use]
    pub fn counts_of(&self, epoch: u64) -> OracleCounts {
        self.counts.get(&epoch).cloned().unwrap_or_default()
    }

    /// The dead letters, in the order of the calls to [`Oracle::record`].
    #[must_use]
    pub fn dead_letters(&self) -> &[OracleDeadLetter] {
        &self.dead_letters
    }
}

fn as_of(epochs: &[(u64, Accumulator)], epoch: u64) -> Option<OracleBar> {
    let mut included = epochs
        .iter()
        .take_while(|(of, _)| *of <= epoch)
        .map(|(_, accumulator)| accumulator);
    let mut sum = included.next()?.clone();
    included.for_each(|accumulator| sum.merge(accumulator));
    Some(sum.bar())
}
