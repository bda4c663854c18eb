//! What the page remembers: the newest window of each of the busiest symbols, and the closes of the windows before it.
//!
//! Each change of a line gives it the next version, and a reader remembers which version of each line it has been told: nothing is kept for it
//! meanwhile, and one that asks rarely only sees fewer of the changes.

use std::collections::{HashMap, VecDeque};

use tapeflow_schemas::{Price, Symbol, WindowSize, WindowStart};
use tapeflow_sinks::{EpochWrites, Policy, Totals, store::StoredRow};

/// Symbols kept after a clearing; at twice as many the less busy ones are dropped.
pub(super) const SYMBOLS_KEPT: usize = 10_000;
/// Windows whose closes are kept for a sparkline, beside the newest.
pub(super) const CLOSES_KEPT: usize = 60;

/// The newest window of one symbol, under the default policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) start: WindowStart,
    /// The last price that counts as one.
    pub(super) last: Option<Price>,
    /// In 1e-8, rounded half-even.
    pub(super) vwap_e8: Option<i128>,
    /// In 1e-8.
    pub(super) volume_e8: i128,
    /// Trades of the window.
    pub(super) trades: u64,
    /// Event time of the newest trade that formed a price; the window's start if none did.
    pub(super) event_ms: i64,
    /// When its last row was acknowledged, by this machine's clock; none if it was read from the store.
    pub(super) acknowledged_ms: Option<i64>,
}

impl Line {
    fn new(start: WindowStart, totals: &Totals, acknowledged_ms: Option<i64>) -> Self {
        let sums = totals.of_policy(Policy::Sip);
        let event_ms = totals.last.or(totals.first).map_or(start, |mark| mark.event_ms);
        Self { start, last: totals.close(), vwap_e8: sums.vwap_e8(), volume_e8: sums.volume_e8, trades: sums.trades, event_ms, acknowledged_ms }
    }
}

/// A line as a reader gets it.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) symbol: Symbol,
    pub(super) line: Line,
    pub(super) closes: Closes,
}

/// What a reader cannot know of the windows before the newest from the lines it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Closes {
    /// It knows all.
    Known,
    /// One window has begun: this is the close of the one before.
    Previous(Price),
    /// It is to forget what it has; oldest first.
    All(Vec<Price>),
}

/// A symbol on the board.
#[derive(Debug)]
struct Kept {
    symbol: Symbol,
    line: Line,
    /// Of the windows before the newest, oldest first; windows without a price are left out.
    closes: VecDeque<(WindowStart, Price)>,
    /// Trades in all windows seen: what makes a symbol busy.
    seen: u64,
    /// Who has not been told this version needs all closes: more than one window was added since, or an older one changed.
    closes_since: u64,
    /// The version in which the newest window began: who has not been told it needs the close of the one before.
    moved: u64,
    /// The window before the newest.
    before: WindowStart,
}

impl Kept {
    /// Notes the close of a window before the newest; whether that says something new.
    fn note(&mut self, start: WindowStart, close: Option<Price>) -> bool {
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

    /// What a reader lacks that was last told version `since` of this line.
    fn closes_after(&self, since: u64) -> Closes {
        if self.closes_since > since {
            return Closes::All(self.closes.iter().map(|(_, close)| *close).collect());
        }
        match self.closes.back() {
            Some((start, close)) if self.moved > since && *start == self.before => Closes::Previous(*close),
            _ => Closes::Known,
        }
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Board {
    size: WindowSize,
    places: HashMap<Symbol, usize>,
    kept: Vec<Kept>,
    /// Of each of `kept`, when it changed last. Apart from them, so that a look at all is quick.
    versions: Vec<u64>,
    version: u64,
    /// How often symbols were dropped: whoever follows begins again then.
    clearings: u64,
    newest_ms: Option<i64>,
}

impl Board {
    /// Of the sizes of a job the one that is worth watching: the smallest from a minute on, or the largest of all.
    pub(super) fn new(sizes: &[WindowSize]) -> Self {
        let watched = sizes.iter().filter(|size| size.ms() >= 60_000).min().or(sizes.iter().max());
        let size = watched.copied().unwrap_or(WindowSize::DEFAULTS[1]);
        Self { size, places: HashMap::new(), kept: Vec::new(), versions: Vec::new(), version: 0, clearings: 0, newest_ms: None }
    }

    /// The size of the windows shown.
    pub(super) fn size(&self) -> WindowSize {
        self.size
    }

    /// How many symbols it holds.
    pub(super) fn symbols(&self) -> usize {
        self.kept.len()
    }

    /// The version of the last change.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// How often symbols were dropped.
    pub(super) fn clearings(&self) -> u64 {
        self.clearings
    }

    /// The newest event time seen, of a symbol if it is here, else of all.
    pub(super) fn newest_ms(&self, symbol: &Symbol) -> Option<i64> {
        self.places.get(symbol).map(|place| self.kept[*place].line.event_ms).or(self.newest_ms)
    }

    /// Takes in what one epoch has written and the store has acknowledged at `now_ms`.
    pub(super) fn take(&mut self, writes: &EpochWrites, now_ms: i64) {
        let size = self.size;
        for row in writes.rows.iter().filter(|row| row.key.size == size) {
            self.put(&row.key.symbol, row.key.start, &row.state.totals, Some(now_ms));
        }
        self.clear();
    }

    /// Takes in rows read from the store, ascending. What the job has told since is newer.
    pub(super) fn seed(&mut self, symbol: &Symbol, rows: &[StoredRow]) {
        for row in rows {
            let known = self.places.get(symbol).map(|place| &self.kept[*place]);
            if known.is_none_or(|kept| row.start != kept.line.start && kept.closes.iter().all(|(start, _)| *start != row.start)) {
                self.put(symbol, row.start, &row.state.totals, None);
            }
        }
        self.clear();
    }

    fn put(&mut self, symbol: &Symbol, start: WindowStart, totals: &Totals, now_ms: Option<i64>) {
        let line = Line::new(start, totals, now_ms);
        self.newest_ms = self.newest_ms.max(Some(line.event_ms));
        self.version += 1;
        let Some(place) = self.places.get(symbol).copied() else {
            self.places.insert(symbol.clone(), self.kept.len());
            let (seen, since) = (line.trades, self.version);
            self.kept.push(Kept { symbol: symbol.clone(), line, closes: VecDeque::new(), seen, closes_since: since, moved: since, before: start });
            self.versions.push(self.version);
            return;
        };
        let kept = &mut self.kept[place];
        if start < kept.line.start {
            // A late trade, or a row read from the store: of older windows only the close is shown.
            if !kept.note(start, line.last) {
                return;
            }
            if now_ms.is_none() {
                kept.seen = kept.seen.saturating_add(line.trades);
            }
            kept.closes_since = self.version;
        } else if start == kept.line.start {
            kept.seen = kept.seen.saturating_add(line.trades.saturating_sub(kept.line.trades));
            kept.line = line;
        } else {
            kept.note(kept.line.start, kept.line.last);
            kept.seen = kept.seen.saturating_add(line.trades);
            // Who was told anything of the window before this one lacks its close alone.
            kept.closes_since = kept.closes_since.max(kept.moved);
            (kept.moved, kept.before) = (self.version, kept.line.start);
            kept.line = line;
        }
        self.versions[place] = self.version;
    }

    fn clear(&mut self) {
        if self.kept.len() <= 2 * SYMBOLS_KEPT {
            return;
        }
        let mut kept: Vec<(Kept, u64)> = self.kept.drain(..).zip(self.versions.drain(..)).collect();
        kept.sort_unstable_by_key(|(kept, _)| std::cmp::Reverse(kept.seen));
        kept.truncate(SYMBOLS_KEPT);
        self.places = kept.iter().enumerate().map(|(place, (kept, _))| (kept.symbol.clone(), place)).collect();
        (self.kept, self.versions) = kept.into_iter().unzip();
        self.clearings += 1;
    }

    /// The next lines, at most `count`, that are newer than what the reader was told; it is told them now. `None` beyond the last line: the next look
    /// begins with the first.
    pub(super) fn next(&self, told: &mut Told, count: usize) -> Option<Vec<Change>> {
        let mut changes = Vec::new();
        told.versions.resize(self.kept.len(), 0);
        while let (Some(kept), Some(version)) = (self.kept.get(told.next), self.versions.get(told.next)) {
            let known = &mut told.versions[told.next];
            if *known < *version {
                if changes.len() == count {
                    return Some(changes);
                }
                changes.push(Change { symbol: kept.symbol.clone(), line: kept.line, closes: kept.closes_after(*known) });
                *known = *version;
            }
            told.next += 1;
        }
        if changes.is_empty() {
            told.next = 0;
            return None;
        }
        Some(changes)
    }
}

/// What a reader was told: the version of each line. Good until the next clearing.
#[derive(Debug, Default)]
pub(super) struct Told {
    versions: Vec<u64>,
    /// Where its look goes on.
    next: usize,
}

#[cfg(test)]
mod tests;
