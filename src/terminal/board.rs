//! What the view remembers: the newest window of the busiest symbols, and a few sums. Bounded, whatever the number of symbols.

use std::collections::{HashMap, VecDeque};

use tapeflow_schemas::{Price, Symbol, WindowSize, WindowStart};
use tapeflow_sinks::{EpochWrites, Policy, RowWrite, Totals};

/// Symbols kept after a clearing; at twice as many the less busy half is dropped. More than any screen shows.
const SYMBOLS_KEPT: usize = 512;
/// Rates are averages over this long.
const RATE_OVER_MS: u64 = 3_000;
/// A shorter time says nothing about a second.
const RATE_OVER_AT_LEAST_MS: u64 = 250;

/// The newest window of one symbol, under the default policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    start: WindowStart,
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
    /// When its last row was acknowledged, by this machine's clock: what tells a live symbol from a silent one in a recording of years ago.
    pub(super) updated_ms: i64,
    /// Trades in all windows seen: what makes a symbol busy.
    pub(super) seen: u64,
}

impl Line {
    fn new(start: WindowStart, totals: &Totals, seen: u64, updated_ms: i64) -> Self {
        let sums = totals.of_policy(Policy::Sip);
        let event_ms = totals.last.or(totals.first).map_or(start, |mark| mark.event_ms);
        Self { start, last: totals.close(), vwap_e8: sums.vwap_e8(), volume_e8: sums.volume_e8, trades: sums.trades, event_ms, updated_ms, seen }
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Board {
    size: WindowSize,
    lines: HashMap<Symbol, Line>,
    /// Dead letters acknowledged in this run.
    pub(super) rejects: u64,
}

impl Board {
    /// Of the sizes of a job the one that is worth watching: the smallest from a minute on, or the largest of all.
    pub(super) fn new(sizes: &[WindowSize]) -> Self {
        let watched = sizes.iter().filter(|size| size.ms() >= 60_000).min().or(sizes.iter().max());
        Self { size: watched.copied().unwrap_or(WindowSize::DEFAULTS[1]), lines: HashMap::new(), rejects: 0 }
    }

    /// The size of the windows shown.
    pub(super) fn size(&self) -> WindowSize {
        self.size
    }

    /// How many symbols it holds.
    pub(super) fn symbols(&self) -> usize {
        self.lines.len()
    }

    /// Takes in what one epoch has written and the store has acknowledged at `now_ms`.
    pub(super) fn take(&mut self, writes: &EpochWrites, now_ms: i64) {
        self.rejects = self.rejects.saturating_add(u64::try_from(writes.rejects.len()).unwrap_or(u64::MAX));
        let size = self.size;
        writes.rows.iter().filter(|row| row.key.size == size).for_each(|row| self.take_row(row, now_ms));
        if self.lines.len() > 2 * SYMBOLS_KEPT {
            let mut busiest: Vec<(Symbol, Line)> = self.lines.drain().collect();
            busiest.sort_unstable_by_key(|(_, line)| std::cmp::Reverse(line.seen));
            busiest.truncate(SYMBOLS_KEPT);
            self.lines.extend(busiest);
        }
    }

    fn take_row(&mut self, row: &RowWrite, now_ms: i64) {
        let totals = &row.state.totals;
        let trades = totals.of_policy(Policy::Sip).trades;
        let Some(known) = self.lines.get_mut(&row.key.symbol) else {
            self.lines.insert(row.key.symbol.clone(), Line::new(row.key.start, totals, trades, now_ms));
            return;
        };
        // An older window than the one shown has had a late trade: its row is exact, the view does not show it.
        if row.key.start >= known.start {
            let before = if row.key.start == known.start { known.trades } else { 0 };
            *known = Line::new(row.key.start, totals, known.seen.saturating_add(trades.saturating_sub(before)), now_ms);
        }
    }

    /// The busiest symbols first, at most `count`; ties by name.
    pub(super) fn busiest(&self, count: usize) -> Vec<(Symbol, Line)> {
        let mut lines: Vec<_> = self.lines.iter().collect();
        lines.sort_unstable_by(|(a_name, a), (b_name, b)| b.seen.cmp(&a.seen).then_with(|| a_name.cmp(b_name)));
        lines.into_iter().take(count).map(|(symbol, line)| (symbol.clone(), *line)).collect()
    }
}

/// Averages the growth of counts over the last seconds.
#[derive(Debug, Default)]
pub(super) struct Rates(VecDeque<(u64, [u64; 2])>);

impl Rates {
    /// Notes the counts at a time, in milliseconds since the view began, and returns how much each grew in a second.
    pub(super) fn per_second(&mut self, now_ms: u64, counts: [u64; 2]) -> [u64; 2] {
        if self.0.is_empty() {
            // Everything begins at nothing.
            self.0.push_back((0, [0, 0]));
        }
        self.0.push_back((now_ms, counts));
        while self.0.len() > 2 && self.0.get(1).is_some_and(|(at, _)| now_ms.saturating_sub(*at) >= RATE_OVER_MS) {
            self.0.pop_front();
        }
        let (then_ms, then) = self.0.front().copied().unwrap_or((now_ms, counts));
        let elapsed_ms = now_ms.saturating_sub(then_ms).max(RATE_OVER_AT_LEAST_MS);
        std::array::from_fn(|at| counts[at].saturating_sub(then[at]).saturating_mul(1_000) / elapsed_ms)
    }
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::{Conditions, EventTime, Position, Size, Trade};
    use tapeflow_sinks::{RowKey, RowState};

    use super::*;

    /// A row of `trades` trades of size 1, at the price 100 and one more for each.
    fn row(symbol: &str, size: &str, start: WindowStart, trades: u32) -> RowWrite {
        let mut totals = Totals::default();
        for index in 0..trades {
            let price = Price::parse(&(100 + index).to_string()).expect("price").value;
            let time = EventTime::from_ms(start + i64::from(index)).expect("time");
            let trade = Trade::new(time, price, Size::parse("1").expect("size").value, Conditions::NONE).expect("trade");
            totals.add_trade(&trade, Position { partition: 0, offset: 0, index }, false);
        }
        let key = RowKey { symbol: Symbol::new(symbol).expect("symbol"), size: size.parse().expect("size"), start };
        RowWrite { key, state: RowState { epoch: 1, totals }, stamp: 1 }
    }

    fn board(rows: Vec<RowWrite>) -> Board {
        let mut board = Board::new(&WindowSize::DEFAULTS);
        rows.into_iter().for_each(|row| board.take(&EpochWrites { rows: vec![row], ..EpochWrites::default() }, 7));
        board
    }

    #[test]
    fn the_newest_minute_of_the_busiest_symbols_is_shown() {
        let shown = board(vec![
            row("A", "1m", 0, 3),
            row("A", "1m", 0, 5),
            row("A", "1m", 60_000, 1),
            row("A", "1m", 0, 9),
            row("A", "1s", 61_000, 70),
            row("B", "1m", 0, 4),
        ]);
        let lines = shown.busiest(10);
        let names: Vec<&str> = lines.iter().map(|(symbol, _)| symbol.as_str()).collect();
        assert_eq!(names, ["A", "B"]);
        let a = &lines[0].1;
        assert_eq!(
            (a.trades, a.seen, a.event_ms),
            (1, 6, 60_000),
            "five trades in the first minute, one in the second; neither the late row nor seconds"
        );
        assert_eq!(lines[1].1.vwap_e8, Some(10_150_000_000));
    }

    #[test]
    fn a_flood_of_symbols_keeps_the_busy_ones_and_bounded_memory() {
        let mut rows = vec![row("BUSY", "1m", 0, 50)];
        rows.extend((0..5_000).map(|n| row(&format!("S{n}"), "1m", 0, 1)));
        let board = board(rows);
        assert!(board.symbols() <= 2 * SYMBOLS_KEPT, "{}", board.symbols());
        assert_eq!(board.busiest(1)[0].0.as_str(), "BUSY");
    }

    #[test]
    fn the_size_watched_is_the_smallest_from_a_minute_on_or_the_largest() {
        let watched = |sizes: &[&str]| Board::new(&sizes.iter().map(|size| size.parse().expect("size")).collect::<Vec<_>>()).size().to_string();
        assert_eq!(watched(&["1s", "5m", "1d"]), "5m");
        assert_eq!(watched(&["1s", "10s"]), "10s");
    }

    #[test]
    fn rates_are_of_the_last_seconds_and_not_of_the_whole_run() {
        let mut rates = Rates::default();
        assert_eq!(rates.per_second(0, [0, 0]), [0, 0]);
        assert_eq!(rates.per_second(500, [50, 7]), [100, 14]);
        for second in 1..100 {
            rates.per_second(second * 1_000, [50, 7]);
        }
        assert_eq!(rates.per_second(100_000, [350, 10]), [100, 1]);
    }
}
