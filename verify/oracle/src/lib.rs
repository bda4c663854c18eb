//! An independent recomputation of every bar, and of every list made of bars, from the log alone.
//!
//! It is the judge of the job, so it shares nothing with it but the vocabulary (types, bounds,
//! windows): records are read by apache-avro, and repeats, conditions, sums and prices are decided
//! by code of its own, written to be plain rather than fast.
//!
//! ```text
//!  bytes ──read──▶ record ──repeats──▶ trades ──conditions──▶ fold, per (symbol, window, epoch) ──▶ bar as of an epoch ──views──▶ list
//! ```
//!
//! A bar of the store names an epoch: it must equal [`Oracle::bar_as_of`] that epoch, and a list
//! [`Oracle::list_as_of`]. The caller says with each record which epoch's binding contains it, and
//! may call everything up to the last commit epoch 0: memory grows with bars times epochs told
//! apart.

mod conditions;
mod fold;
mod read;
mod repeats;
mod views;

use std::{collections::BTreeMap, sync::Arc};

use fold::{Fold, Print};
pub use fold::{OracleBar, OracleSums};
use read::{Entry, Readers, Record, Size};
use repeats::Repeats;
use tapeflow_schemas::{
    AssetClass, Baskets, EventTime, Offset, Partition, Symbol, WindowSize, WindowStart,
    decimal::{MAX_NOTIONAL_E16, MAX_PRICE_E8, MAX_SIZE_E8},
};
pub use views::{OracleEntry, OracleView};

/// The recomputation. Feed it with [`Oracle::record`], then ask.
pub struct Oracle {
    sizes: Vec<WindowSize>,
    readers: Readers,
    partitions: Vec<Place>,
    bars: BTreeMap<Arc<str>, BTreeMap<(WindowSize, WindowStart), Epochs>>,
    /// The symbols that have a bar in a window, of windows that have lists.
    windows: BTreeMap<(WindowSize, WindowStart), Vec<Arc<str>>>,
    counts: BTreeMap<u64, OracleCounts>,
    dead_letters: Vec<OracleDeadLetter>,
    keep: Option<Keep>,
}

/// Which bars are kept: by symbol, size and start.
type Keep = Box<dyn Fn(&str, WindowSize, WindowStart) -> bool + Send>;

/// What each epoch added to a bar, ascending by epoch.
type Epochs = Vec<(u64, Fold)>;

/// Which bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OracleKey<'a> {
    /// The symbol.
    pub symbol: &'a str,
    /// The window's size.
    pub size: WindowSize,
    /// The window's first millisecond.
    pub start: WindowStart,
}

/// What became of the records. `records` and `duplicates` count records of the log; the others
/// count trades, except that a record refused as a whole counts once.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct OracleCounts {
    /// Records read.
    pub records: u64,
    /// Trades accepted.
    pub accepted: u64,
    /// Trades and records refused, by reason.
    pub dead_letters: BTreeMap<String, u64>,
    /// Records dropped as repeats.
    pub duplicates: u64,
    /// Entries with a size of zero.
    pub price_updates: u64,
    /// Sequences that sessions skipped.
    pub gaps: u64,
}

impl OracleCounts {
    fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.accepted += other.accepted;
        for (reason, count) in &other.dead_letters {
            *self.dead_letters.entry(reason.clone()).or_default() += count;
        }
        self.duplicates += other.duplicates;
        self.price_updates += other.price_updates;
        self.gaps += other.gaps;
    }

    /// Refused for whatever reason.
    #[must_use]
    pub fn dead_letters_in_all(&self) -> u64 {
        self.dead_letters.values().sum()
    }
}

/// A trade or a record that was refused, by its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OracleDeadLetter {
    /// The partition.
    pub partition: Partition,
    /// The offset.
    pub offset: Offset,
    /// The index of the trade in its record; 0 if the whole record was refused.
    pub index: u32,
    /// The reason.
    pub reason: String,
}

/// How far a partition has been read, and what was heard there.
#[derive(Debug, Default)]
struct Place {
    last: Option<Offset>,
    repeats: Repeats,
}

impl Oracle {
    /// An oracle for windows of these sizes, and a log of so many partitions, from their beginning.
    #[must_use]
    pub fn new(sizes: Vec<WindowSize>, partitions: u32) -> Self {
        let partitions = (0..partitions).map(|_| Place::default()).collect();
        let (bars, windows, counts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self {
            sizes,
            readers: Readers::new(),
            partitions,
            bars,
            windows,
            counts,
            dead_letters: Vec::new(),
            keep: None,
        }
    }

    /// The same, keeping only the bars that are wanted, by symbol, size and start. All records are
    /// read and counted all the same; a list needs all bars of its window.
    #[must_use]
    pub fn keeping(
        self,
        wanted: impl Fn(&str, WindowSize, WindowStart) -> bool + Send + 'static,
    ) -> Self {
        Self {
            keep: Some(Box::new(wanted)),
            ..self
        }
    }

    /// Takes the next record of a partition. `epoch` is the one whose binding contains it;
    /// `timestamp_ms` is the log's own.
    ///
    /// # Panics
    /// If the partition is not one of the log, or its offset is not above the last one:
    /// the caller reads in order.
    pub fn record(
        &mut self,
        epoch: u64,
        partition: Partition,
        offset: Offset,
        timestamp_ms: i64,
        payload: Option<&[u8]>,
    ) {
        let place = usize::try_from(partition)
            .ok()
            .and_then(|at| self.partitions.get_mut(at))
            .expect("a partition of the log");
        assert!(
            place.last.is_none_or(|last| last < offset),
            "partition {partition}: offset {offset} comes after {:?}",
            place.last
        );
        place.last = Some(offset);
        let counts = self.counts.entry(epoch).or_default();
        counts.records += 1;
        let record = match self.readers.read(payload.unwrap_or_default()) {
            Ok(record) => record,
            Err(error) => return self.dead_letter(epoch, (partition, offset, 0), error.word()),
        };
        if let Record::Batch {
            session, sequence, ..
        }
        | Record::InvalidFrame {
            session, sequence, ..
        } = record
        {
            match place.repeats.hear(session, sequence) {
                Some(skipped) => counts.gaps += skipped,
                None => {
                    counts.duplicates += 1;
                    return;
                }
            }
        }
        let (taken_ms, trades) = match record {
            Record::Batch {
                taken_ms, trades, ..
            } => (taken_ms, trades),
            Record::Legacy { trades } => (timestamp_ms, trades),
            Record::InvalidFrame { reason, .. } => {
                return self.dead_letter(epoch, (partition, offset, 0), &reason);
            }
        };
        for (index, entry) in (0..).zip(trades) {
            match admit(&entry, taken_ms) {
                Verdict::Trade {
                    time,
                    price_e8,
                    size_e8,
                } => {
                    let print = Print {
                        event_ms: time.ms(),
                        partition,
                        offset,
                        index,
                        price_e8,
                        size_e8,
                        codes: &entry.codes,
                    };
                    self.accept(epoch, &entry.symbol, time, print);
                }
                Verdict::PriceUpdate => self.counts.entry(epoch).or_default().price_updates += 1,
                Verdict::Refused(reason) => {
                    self.dead_letter(epoch, (partition, offset, index), reason)
                }
            }
        }
    }

    fn accept(&mut self, epoch: u64, symbol: &str, time: EventTime, print: Print<'_>) {
        self.counts.entry(epoch).or_default().accepted += 1;
        let wanted = self
            .sizes
            .iter()
            .map(|size| (*size, size.start_of(time, AssetClass::of(symbol))));
        let wanted: Vec<_> = wanted
            .filter(|(size, start)| {
                self.keep
                    .as_ref()
                    .is_none_or(|keep| keep(symbol, *size, *start))
            })
            .collect();
        if wanted.is_empty() {
            return;
        }
        let name = self
            .bars
            .get_key_value(symbol)
            .map_or_else(|| symbol.into(), |(name, _)| Arc::clone(name));
        let windows = self.bars.entry(Arc::clone(&name)).or_default();
        for window in wanted {
            // Most bars are of one epoch: room for one, where a list that grows by itself would
            // begin with four.
            let epochs = windows
                .entry(window)
                .or_insert_with(|| Vec::with_capacity(1));
            if epochs.is_empty() && window.0.ms() >= views::SHORTEST_MS {
                self.windows
                    .entry(window)
                    .or_default()
                    .push(Arc::clone(&name));
            }
            let at = epochs.partition_point(|(earlier, _)| *earlier < epoch);
            if epochs.get(at).is_none_or(|(found, _)| *found != epoch) {
                epochs.insert(at, (epoch, Fold::default()));
            }
            epochs[at].1.add(print);
        }
    }

    fn dead_letter(
        &mut self,
        epoch: u64,
        (partition, offset, index): (Partition, Offset, u32),
        reason: &str,
    ) {
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

    /// What a bar must say that contains the epochs up to and with `epoch`; `None` if these have no
    /// trade in it.
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

    /// Every bar there is, by symbol, size and start, as of all that was fed.
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

    /// What a list must say that contains the epochs up to and with `epoch`; `None` if their trades
    /// call for none.
    #[must_use]
    pub fn list_as_of(
        &self,
        view: OracleView,
        size: WindowSize,
        start: WindowStart,
        epoch: u64,
        baskets: &Baskets,
    ) -> Option<Vec<OracleEntry>> {
        let symbols = self.windows.get(&(size, start))?;
        let bar = |symbol: &Arc<str>| self.bar_as_of(symbol, size, start, epoch);
        let mut bars: Vec<(&str, OracleBar)> = symbols
            .iter()
            .filter_map(|symbol| Some((&**symbol, bar(symbol)?)))
            .collect();
        bars.sort_by_key(|(symbol, _)| *symbol);
        views::list(view, &bars, baskets)
    }

    /// The windows that have a bar of some symbol, as of all that was fed, of the sizes that have
    /// lists: one minute and more.
    pub fn windows(&self) -> impl Iterator<Item = (WindowSize, WindowStart)> {
        self.windows.keys().copied()
    }

    /// What became of the records.
    #[must_use]
    pub fn counts(&self) -> OracleCounts {
        let mut sum = OracleCounts::default();
        for counts in self.counts.values() {
            sum.add(counts);
        }
        sum
    }

    /// What became of one epoch's records.
    #[must_use]
    pub fn counts_of(&self, epoch: u64) -> OracleCounts {
        self.counts.get(&epoch).cloned().unwrap_or_default()
    }

    /// What was refused, in the order it was fed.
    #[must_use]
    pub fn dead_letters(&self) -> &[OracleDeadLetter] {
        &self.dead_letters
    }
}

fn as_of(epochs: &[(u64, Fold)], epoch: u64) -> Option<OracleBar> {
    let mut within = epochs
        .iter()
        .take_while(|(of, _)| *of <= epoch)
        .map(|(_, fold)| fold);
    let mut sum = within.next()?.clone();
    within.for_each(|fold| sum.merge(fold));
    Some(sum.bar())
}

/// What an entry is.
enum Verdict {
    Trade {
        time: EventTime,
        price_e8: i64,
        size_e8: i128,
    },
    PriceUpdate,
    Refused(&'static str),
}

/// The rules of admission, in their order.
fn admit(entry: &Entry, taken_ms: i64) -> Verdict {
    if Symbol::check(&entry.symbol).is_err() {
        return Verdict::Refused("symbol");
    }
    if entry.size == Size::Nothing {
        return Verdict::PriceUpdate;
    }
    let Some(price_e8) = entry
        .price_e8
        .and_then(|price| i64::try_from(price).ok())
        .filter(|price| (1..=MAX_PRICE_E8).contains(price))
    else {
        return Verdict::Refused("price");
    };
    let size_e8 = match entry.size {
        Size::Units(size_e8) if (1..=MAX_SIZE_E8).contains(&size_e8) => size_e8,
        Size::Units(_) | Size::NotANumber | Size::Nothing => return Verdict::Refused("size"),
    };
    let Some(time) = EventTime::from_ms(entry.event_ms) else {
        return Verdict::Refused("event_time");
    };
    if i128::from(price_e8)
        .checked_mul(size_e8)
        .is_none_or(|notional| notional > MAX_NOTIONAL_E16)
    {
        return Verdict::Refused("notional");
    }
    if time.is_far_future(taken_ms) {
        return Verdict::Refused("future");
    }
    Verdict::Trade {
        time,
        price_e8,
        size_e8,
    }
}
