//! The table of live bars: the newest bar of each of the busiest symbols, and the closes of the
//! windows before it. Its size is bounded for any number of symbols.
//!
//! Each change of a bar gets the next version of the table. A reader that has read everything up to
//! a version asks for the changes after it. The table keeps nothing per reader, and a slow reader
//! only misses intermediate values.

use std::collections::{HashMap, VecDeque};

use tapeflow_protocol::EpochWrites;
use tapeflow_schemas::{Policy, Price, StoredBar, Symbol, Totals, WindowSize, WindowStart};

/// Symbols kept after an eviction. At twice as many, the least busy ones are evicted.
pub(super) const SYMBOLS_KEPT: usize = 10_000;
/// Closes kept per symbol for the sparkline, besides that of the newest window.
pub(super) const CLOSES_KEPT: usize = 60;

/// The newest bar of one symbol, under the default policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LiveBar {
    pub(super) start: WindowStart,
    /// The close of the window itself; none if no trade of it formed a price.
    pub(crate) close: Option<Price>,
    /// The close of the window; without one, the newest close before it.
    pub(crate) last: Option<Price>,
    /// In units of 1e-8, rounded half-even.
    pub(crate) vwap_e8: Option<i128>,
    /// In units of 1e-8.
    pub(crate) volume_e8: i128,
    pub(crate) trades: u64,
    /// The event time of the newest trade that formed a price; the start of the window if none did.
    pub(crate) event_ms: i64,
    /// When the store acknowledged the bar, by this machine's clock; none for a bar that was read
    /// from the store.
    pub(crate) acknowledged_ms: Option<i64>,
}

impl LiveBar {
    fn new(start: WindowStart, totals: &Totals, acknowledged_ms: Option<i64>) -> Self {
        let sums = totals.of_policy(Policy::Sip);
        let event_ms = totals
            .last
            .or(totals.first)
            .map_or(start, |mark| mark.event_ms);
        Self {
            start,
            close: totals.close(),
            last: totals.close(),
            vwap_e8: sums.vwap_e8(),
            volume_e8: sums.volume_e8,
            trades: sums.trades,
            event_ms,
            acknowledged_ms,
        }
    }
}

/// A changed bar for a reader.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) symbol: Symbol,
    pub(super) bar: LiveBar,
    pub(super) closes: Closes,
}

/// The closes before the newest window that a reader does not have yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Closes {
    /// The reader has all of them.
    Known,
    /// A new window has begun; this is the close of the window before it.
    Previous(Price),
    /// All closes, oldest first. They replace those that the reader has.
    All(Vec<Price>),
}

/// A symbol of the table.
#[derive(Debug)]
struct Entry {
    symbol: Symbol,
    bar: LiveBar,
    /// The closes of the windows before the newest, oldest first. Windows without one are left out.
    closes: VecDeque<(WindowStart, Price)>,
    /// Trades in all windows so far: the measure of how busy the symbol is.
    trades: u64,
    /// A reader that has not read this version needs all closes: since then more than one window
    /// was added, or an older one changed.
    closes_version: u64,
    /// The version in which the newest window began. A reader that has not read it needs the close
    /// of the window before.
    window_version: u64,
    /// The start of the window before the newest.
    previous: WindowStart,
}

impl Entry {
    /// Replaces the newest bar.
    fn set_bar(&mut self, bar: LiveBar) {
        self.bar = bar;
        self.carry_close();
    }

    /// A window with odd lots only has no close: it shows the newest close before it.
    fn carry_close(&mut self) {
        self.bar.last = self
            .bar
            .close
            .or_else(|| self.closes.back().map(|(_, close)| *close));
    }

    /// Records the close of a window before the newest. Returns whether a close changed.
    fn record_close(&mut self, start: WindowStart, close: Option<Price>) -> bool {
        let Some(close) = close else { return false };
        let at = self.closes.partition_point(|(other, _)| *other < start);
        if let Some((_, known)) = self.closes.get_mut(at).filter(|(other, _)| *other == start) {
            return std::mem::replace(known, close) != close;
        }
        if at == 0 && self.closes.len() >= CLOSES_KEPT {
            return false;
        }
        self.closes.insert(at, (start, close));
        if self.closes.len() > CLOSES_KEPT {
            self.closes.pop_front();
        }
        true
    }

    /// The closes for a reader that has read everything up to `version`.
    fn closes_after(&self, version: u64) -> Closes {
        if self.closes_version > version {
            return Closes::All(self.closes.iter().map(|(_, close)| *close).collect());
        }
        match self.closes.back() {
            Some((start, close)) if self.window_version > version && *start == self.previous => {
                Closes::Previous(*close)
            }
            _ => Closes::Known,
        }
    }
}

/// The newest bar of each symbol.
#[derive(Debug)]
pub(crate) struct BarTable {
    size: WindowSize,
    /// The index of each symbol in `entries`.
    index: HashMap<Symbol, usize>,
    entries: Vec<Entry>,
    /// The version of the last change of each entry. In a vector of its own, so that a scan over
    /// all of them is fast.
    versions: Vec<u64>,
    version: u64,
    evictions: u64,
    dead_letters: u64,
}

impl BarTable {
    /// An empty table of one size of the job: the smallest of at least a minute, else the largest.
    pub(super) fn new(sizes: &[WindowSize]) -> Self {
        let best = sizes
            .iter()
            .filter(|size| size.ms() >= 60_000 && !size.is_session())
            .min()
            .or(sizes.iter().max());
        let size = best.copied().unwrap_or(WindowSize::DEFAULTS[1]);
        Self {
            size,
            index: HashMap::new(),
            entries: Vec::new(),
            versions: Vec::new(),
            version: 0,
            evictions: 0,
            dead_letters: 0,
        }
    }

    pub(crate) fn size(&self) -> WindowSize {
        self.size
    }

    pub(crate) fn symbols(&self) -> usize {
        self.entries.len()
    }

    /// The version of the last change.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// How often symbols were evicted. Readers start again after each.
    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Dead letters that the store has acknowledged since the start of the process.
    pub(crate) fn dead_letters(&self) -> u64 {
        self.dead_letters
    }

    /// The end of the newest window of a symbol; none if the table does not have the symbol.
    pub(super) fn end_of(&self, symbol: &Symbol) -> Option<i64> {
        self.index.get(symbol).map(|at| {
            self.size
                .end_of(self.entries[*at].bar.start, symbol.class())
        })
    }

    /// The busiest symbols first, at most `count`; ties by name.
    pub(crate) fn busiest(&self, count: usize) -> Vec<(Symbol, LiveBar)> {
        let mut all: Vec<&Entry> = self.entries.iter().collect();
        let busier = |a: &&Entry, b: &&Entry| {
            b.trades
                .cmp(&a.trades)
                .then_with(|| a.symbol.cmp(&b.symbol))
        };
        if all.len() > count {
            all.select_nth_unstable_by(count, busier);
            all.truncate(count);
        }
        all.sort_unstable_by(busier);
        all.into_iter()
            .map(|entry| (entry.symbol.clone(), entry.bar))
            .collect()
    }

    /// Takes the writes of one epoch, acknowledged by the store at `now_ms`.
    pub(super) fn take(&mut self, writes: &EpochWrites, now_ms: i64) {
        self.dead_letters = self
            .dead_letters
            .saturating_add(u64::try_from(writes.dead_letters.len()).unwrap_or(u64::MAX));
        let size = self.size;
        for bar in writes.bars.iter().filter(|bar| bar.key.size == size) {
            self.put(
                &bar.key.symbol,
                bar.key.start,
                &bar.state.totals,
                Some(now_ms),
            );
        }
        self.evict();
    }

    /// Takes bars read from the store, ascending. Bars that the job has written since are newer and
    /// stay.
    pub(super) fn preload(&mut self, symbol: &Symbol, bars: &[StoredBar]) {
        for bar in bars {
            let known = self.index.get(symbol).map(|at| &self.entries[*at]);
            if known.is_none_or(|entry| {
                bar.start != entry.bar.start
                    && entry.closes.iter().all(|(start, _)| *start != bar.start)
            }) {
                self.put(symbol, bar.start, &bar.state.totals, None);
            }
        }
        self.evict();
    }

    fn put(&mut self, symbol: &Symbol, start: WindowStart, totals: &Totals, now_ms: Option<i64>) {
        let bar = LiveBar::new(start, totals, now_ms);
        self.version += 1;
        let version = self.version;
        let Some(at) = self.index.get(symbol).copied() else {
            self.index.insert(symbol.clone(), self.entries.len());
            self.entries.push(Entry {
                symbol: symbol.clone(),
                bar,
                closes: VecDeque::new(),
                trades: bar.trades,
                closes_version: version,
                window_version: version,
                previous: start,
            });
            self.versions.push(version);
            return;
        };
        let entry = &mut self.entries[at];
        if start < entry.bar.start {
            // A late trade, or a bar read from the store: older windows only show their close.
            if !entry.record_close(start, bar.last) {
                return;
            }
            entry.carry_close();
            if now_ms.is_none() {
                entry.trades = entry.trades.saturating_add(bar.trades);
            }
            entry.closes_version = version;
        } else if start == entry.bar.start {
            let more = bar.trades.saturating_sub(entry.bar.trades);
            entry.trades = entry.trades.saturating_add(more);
            entry.set_bar(bar);
        } else {
            entry.record_close(entry.bar.start, entry.bar.close);
            entry.trades = entry.trades.saturating_add(bar.trades);
            // A reader of any version of the previous window needs only the close of that window.
            entry.closes_version = entry.closes_version.max(entry.window_version);
            (entry.window_version, entry.previous) = (version, entry.bar.start);
            entry.set_bar(bar);
        }
        self.versions[at] = version;
    }

    fn evict(&mut self) {
        if self.entries.len() <= 2 * SYMBOLS_KEPT {
            return;
        }
        let versions = self.versions.drain(..);
        let mut all: Vec<(Entry, u64)> = self.entries.drain(..).zip(versions).collect();
        all.sort_unstable_by_key(|(entry, _)| std::cmp::Reverse(entry.trades));
        all.truncate(SYMBOLS_KEPT);
        self.index = all
            .iter()
            .enumerate()
            .map(|(at, (entry, _))| (entry.symbol.clone(), at))
            .collect();
        (self.entries, self.versions) = all.into_iter().unzip();
        self.evictions += 1;
    }

    /// The bars that changed after version `read`, at most `count`, oldest changes first, and the
    /// version that the reader has then read.
    ///
    /// `base` is the version up to which the reader has everything; `read` is ahead of it while the
    /// reader reads in pieces. Closes are relative to `base`, not to `read`:
    ///
    /// 1. A reader at `base` 0 reads a piece up to version 5.
    /// 2. A bar whose closes changed in version 4 changes in version 20 before the reader gets it.
    /// 3. The reader reads on after version 5. Relative to 5, it would have all closes.
    pub(super) fn since(&self, base: u64, read: u64, count: usize) -> (Vec<Change>, u64) {
        let mut changed: Vec<(u64, usize)> = self
            .versions
            .iter()
            .enumerate()
            .filter(|(_, version)| **version > read)
            .map(|(at, version)| (*version, at))
            .collect();
        if changed.len() > count {
            changed.select_nth_unstable(count);
            changed.truncate(count);
        }
        let read = changed
            .iter()
            .map(|(version, _)| *version)
            .max()
            .unwrap_or(self.version);
        let change = |(_, at): &(u64, usize)| {
            let entry = &self.entries[*at];
            Change {
                symbol: entry.symbol.clone(),
                bar: entry.bar,
                closes: entry.closes_after(base),
            }
        };
        (changed.iter().map(change).collect(), read)
    }
}

#[cfg(test)]
mod tests;
