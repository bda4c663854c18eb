//! What the page and the terminal remember: the newest window of each of the busiest symbols, and
//! the closes of the windows before it. Bounded, whatever the number of symbols.
//!
//! Each change of a line gives it the next version, so a reader that has seen everything up to a
//! version asks for what came after: nothing is kept for it meanwhile, and one that asks rarely
//! only sees fewer of the changes.

use std::collections::{HashMap, VecDeque};

use tapeflow_protocol::EpochWrites;
use tapeflow_schemas::{Policy, Price, StoredBar, Symbol, Totals, WindowSize, WindowStart};

/// Symbols kept after a clearing; at twice as many the less busy ones are dropped.
pub(super) const SYMBOLS_KEPT: usize = 10_000;
/// Windows whose closes are kept for a sparkline, beside the newest.
pub(super) const CLOSES_KEPT: usize = 60;

/// The newest window of one symbol, under the default policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(super) start: WindowStart,
    /// The last price that counts as one: the close of the window, or of the newest one before it
    /// that has a close.
    pub(crate) last: Option<Price>,
    /// In 1e-8, rounded half-even.
    pub(crate) vwap_e8: Option<i128>,
    /// In 1e-8.
    pub(crate) volume_e8: i128,
    /// Trades of the window.
    pub(crate) trades: u64,
    /// Event time of the newest trade that formed a price; the window's start if none did.
    pub(crate) event_ms: i64,
    /// When its last bar was acknowledged, by this machine's clock; none if it was read from the
    /// store.
    pub(crate) acknowledged_ms: Option<i64>,
}

impl Line {
    fn new(start: WindowStart, totals: &Totals, acknowledged_ms: Option<i64>) -> Self {
        let sums = totals.of_policy(Policy::Sip);
        let event_ms = totals
            .last
            .or(totals.first)
            .map_or(start, |mark| mark.event_ms);
        Self {
            start,
            last: totals.close(),
            vwap_e8: sums.vwap_e8(),
            volume_e8: sums.volume_e8,
            trades: sums.trades,
            event_ms,
            acknowledged_ms,
        }
    }
}

/// A line as a reader gets it.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) symbol: Symbol,
    pub(super) line: Line,
    pub(super) closes: Closes,
}

/// What a reader cannot know of the windows before the newest from the lines it has seen.
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
    /// Of the newest window itself.
    close: Option<Price>,
    /// Of the windows before the newest, oldest first; windows without a price are left out.
    closes: VecDeque<(WindowStart, Price)>,
    /// Trades in all windows seen: what makes a symbol busy.
    seen: u64,
    /// Who has not seen this version needs all closes: more than one window was added since, or an
    /// older one changed.
    closes_since: u64,
    /// The version in which the newest window began: who has not seen it needs the close of the one
    /// before.
    moved: u64,
    /// The window before the newest.
    before: WindowStart,
}

impl Kept {
    /// The newest window, or what it says now.
    fn show(&mut self, line: Line) {
        (self.line, self.close) = (line, line.last);
        self.carry();
    }

    /// A window of odd lots alone has no price: the last one stays in sight.
    fn carry(&mut self) {
        self.line.last = self
            .close
            .or_else(|| self.closes.back().map(|(_, close)| *close));
    }

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

    /// What a reader lacks that has seen version `since`.
    fn closes_after(&self, since: u64) -> Closes {
        if self.closes_since > since {
            return Closes::All(self.closes.iter().map(|(_, close)| *close).collect());
        }
        match self.closes.back() {
            Some((start, close)) if self.moved > since && *start == self.before => {
                Closes::Previous(*close)
            }
            _ => Closes::Known,
        }
    }
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Board {
    size: WindowSize,
    places: HashMap<Symbol, usize>,
    kept: Vec<Kept>,
    /// Of each of `kept`, when it changed last. Apart from them, so that a look at all is quick.
    versions: Vec<u64>,
    version: u64,
    /// How often symbols were dropped: whoever follows begins again then.
    clearings: u64,
    /// Dead letters acknowledged in this run.
    dead_letters: u64,
}

impl Board {
    /// Of the sizes of a job the one that is worth watching: the smallest from a minute on, or the
    /// largest of all.
    pub(super) fn new(sizes: &[WindowSize]) -> Self {
        let watched = sizes
            .iter()
            .filter(|size| size.ms() >= 60_000)
            .min()
            .or(sizes.iter().max());
        let size = watched.copied().unwrap_or(WindowSize::DEFAULTS[1]);
        Self {
            size,
            places: HashMap::new(),
            kept: Vec::new(),
            versions: Vec::new(),
            version: 0,
            clearings: 0,
            dead_letters: 0,
        }
    }

    /// The size of the windows shown.
    pub(crate) fn size(&self) -> WindowSize {
        self.size
    }

    /// How many symbols it holds.
    pub(crate) fn symbols(&self) -> usize {
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

    /// Dead letters acknowledged in this run.
    pub(crate) fn dead_letters(&self) -> u64 {
        self.dead_letters
    }

    /// The end of the newest window of a symbol, if it is here.
    pub(super) fn end_of(&self, symbol: &Symbol) -> Option<i64> {
        self.places.get(symbol).map(|place| {
            self.size
                .end_of(self.kept[*place].line.start, symbol.class())
        })
    }

    /// The busiest symbols first, at most `count`; ties by name.
    pub(crate) fn busiest(&self, count: usize) -> Vec<(Symbol, Line)> {
        let mut all: Vec<&Kept> = self.kept.iter().collect();
        let busier =
            |a: &&Kept, b: &&Kept| b.seen.cmp(&a.seen).then_with(|| a.symbol.cmp(&b.symbol));
        if all.len() > count {
            all.select_nth_unstable_by(count, busier);
            all.truncate(count);
        }
        all.sort_unstable_by(busier);
        all.into_iter()
            .map(|kept| (kept.symbol.clone(), kept.line))
            .collect()
    }

    /// Takes in what one epoch has written and the store has acknowledged at `now_ms`.
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
        self.clear();
    }

    /// Takes in bars read from the store, ascending. What the job has told since is newer.
    pub(super) fn seed(&mut self, symbol: &Symbol, bars: &[StoredBar]) {
        for bar in bars {
            let known = self.places.get(symbol).map(|place| &self.kept[*place]);
            if known.is_none_or(|kept| {
                bar.start != kept.line.start
                    && kept.closes.iter().all(|(start, _)| *start != bar.start)
            }) {
                self.put(symbol, bar.start, &bar.state.totals, None);
            }
        }
        self.clear();
    }

    fn put(&mut self, symbol: &Symbol, start: WindowStart, totals: &Totals, now_ms: Option<i64>) {
        let line = Line::new(start, totals, now_ms);
        self.version += 1;
        let Some(place) = self.places.get(symbol).copied() else {
            self.places.insert(symbol.clone(), self.kept.len());
            let (seen, since) = (line.trades, self.version);
            self.kept.push(Kept {
                symbol: symbol.clone(),
                line,
                close: line.last,
                closes: VecDeque::new(),
                seen,
                closes_since: since,
                moved: since,
                before: start,
            });
            self.versions.push(self.version);
            return;
        };
        let kept = &mut self.kept[place];
        if start < kept.line.start {
            // A late trade, or a bar read from the store: of older windows only the close is shown.
            if !kept.note(start, line.last) {
                return;
            }
            kept.carry();
            if now_ms.is_none() {
                kept.seen = kept.seen.saturating_add(line.trades);
            }
            kept.closes_since = self.version;
        } else if start == kept.line.start {
            kept.seen = kept
                .seen
                .saturating_add(line.trades.saturating_sub(kept.line.trades));
            kept.show(line);
        } else {
            kept.note(kept.line.start, kept.close);
            kept.seen = kept.seen.saturating_add(line.trades);
            // Who saw anything of the window before this one lacks its close alone.
            kept.closes_since = kept.closes_since.max(kept.moved);
            (kept.moved, kept.before) = (self.version, kept.line.start);
            kept.show(line);
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
        self.places = kept
            .iter()
            .enumerate()
            .map(|(place, (kept, _))| (kept.symbol.clone(), place))
            .collect();
        (self.kept, self.versions) = kept.into_iter().unzip();
        self.clearings += 1;
    }

    /// What changed after version `seen`, at most `count` lines, those that changed first; and the
    /// version that a reader has then come to. It tells what a reader lacks that has been told
    /// everything up to `base`, however it goes on from there, in one look or in pieces: a line
    /// that changes while a reader is on its way moves out of what it has passed, and may not have
    /// been told at all.
    pub(super) fn since(&self, base: u64, seen: u64, count: usize) -> (Vec<Change>, u64) {
        let mut changed: Vec<(u64, usize)> = self
            .versions
            .iter()
            .enumerate()
            .filter(|(_, version)| **version > seen)
            .map(|(place, version)| (*version, place))
            .collect();
        if changed.len() > count {
            changed.select_nth_unstable(count);
            changed.truncate(count);
        }
        let seen = changed
            .iter()
            .map(|(version, _)| *version)
            .max()
            .unwrap_or(self.version);
        let change = |(_, place): &(u64, usize)| {
            let kept = &self.kept[*place];
            Change {
                symbol: kept.symbol.clone(),
                line: kept.line,
                closes: kept.closes_after(base),
            }
        };
        (changed.iter().map(change).collect(), seen)
    }
}

#[cfg(test)]
mod tests;
