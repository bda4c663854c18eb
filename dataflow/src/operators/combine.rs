//! The combiner: adds up trades per symbol and window before they are exchanged between workers.
//!
//! This is the hot path. A record's symbol is looked up once. A trade is compared with the windows
//! of the symbol's last trade, and added in place. Memory is allocated per new symbol and per new
//! window, never per trade. How a single trade changes a window's totals is in
//! [`tapeflow_schemas::Totals::add_trade`].
//!
//! An epoch ends between two records, and one record can have a window for each of its trades. So
//! the number of windows that are kept ready to add to has a bound of its own: beyond it all of
//! them are encoded, which takes an eighth of the memory, and further trades open them anew.

use tapeflow_schemas::{
    AssetClass, Epoch, Horizons, PackedBar, PartialRows, Position, Stretch, Symbol, Totals, Trade,
    WindowSize, WindowStart, trading_session::Hours,
};

use crate::{
    hash::Map,
    limits::Limits,
    operators::exchange::{ExchangeItem, SymbolPartials},
    watermark::late_up_to,
};

/// The most rows of an item, which is encoded and sent as a whole.
const ROWS_OF_AN_ITEM: usize = 1_024;

/// The open totals, per symbol and window.
pub(crate) struct Combiner {
    sizes: Vec<WindowSize>,
    /// The horizon of each size, in milliseconds; so long that it is never reached where there is
    /// none.
    horizons: Vec<i64>,
    /// Counted trades that came beyond the horizon of a size, until they are taken.
    beyond_horizon: u64,
    /// The index of the size `session`, if the job has it: that of the last size.
    session: Option<usize>,
    /// Trades without a trading session, until they are taken.
    outside_sessions: OutsideSessions,
    /// The most symbols that stay interned after a seal.
    interned_symbols: usize,
    /// The most windows that are not encoded.
    windows_in_full: usize,
    ids: Map<Name, u32>,
    symbols: Vec<SymbolSlot>,
    /// For each symbol and size, the window of the last trade: `symbol * sizes + size`.
    recent: Vec<Recent>,
    index: Map<(u32, u8, WindowStart), u32>,
    slots: Vec<Slot>,
    /// Windows that are encoded, of an epoch that is not known yet.
    encoded: Vec<SymbolPartials>,
    /// Their number.
    encoded_windows: usize,
    /// Space for encoding.
    rows: PartialRows,
}

/// A symbol that a map finds by its bytes, without a check for UTF-8 on each record.
#[derive(PartialEq, Eq)]
struct Name(Symbol);

impl std::borrow::Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        self.0.as_str().as_bytes()
    }
}

impl std::hash::Hash for Name {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.as_str().as_bytes().hash(state);
    }
}

struct SymbolSlot {
    symbol: Symbol,
    class: AssetClass,
}

#[derive(Clone, Copy)]
struct Recent {
    start: WindowStart,
    end: i64,
    slot: u32,
}

/// Trades that belong to no trading session. They are in the windows of all other sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutsideSessions {
    /// Trades at night, on weekends and on holidays.
    pub(crate) closed: u64,
    /// Trades of years that the calendar does not cover.
    pub(crate) unknown_year: u64,
}

/// The session of a trade.
enum InSession {
    Window(Recent),
    /// Its window is beyond the horizon.
    Beyond,
    /// It belongs to none.
    Outside,
}

/// What became of a trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// It is in its windows. Whether it was late for one of them.
    Counted { late: bool },
    /// It came beyond the horizon of all of them, and is in none.
    TooLate,
}

/// No window: an empty range, which contains no trade.
const NONE: Recent = Recent {
    start: 0,
    end: 0,
    slot: 0,
};

struct Slot {
    symbol: u32,
    size: u8,
    start: WindowStart,
    totals: Totals,
}

/// The id of a symbol in a combiner, valid until the next seal.
#[derive(Clone, Copy)]
pub(crate) struct Interned(u32);

impl Combiner {
    pub(crate) fn new(sizes: &[WindowSize], horizons: &Horizons, limits: &Limits) -> Self {
        let session = sizes.iter().position(|size| size.is_session());
        assert!(
            session.is_none_or(|at| at + 1 == sizes.len()),
            "sizes ascend, and a session is the largest"
        );
        Self {
            sizes: sizes.to_vec(),
            // Half the range, so that a watermark less a horizon never overflows.
            horizons: sizes
                .iter()
                .map(|size| horizons.of(*size).unwrap_or(i64::MAX / 2))
                .collect(),
            beyond_horizon: 0,
            session,
            outside_sessions: OutsideSessions::default(),
            interned_symbols: limits.interned_symbols,
            windows_in_full: limits.windows_in_full,
            ids: Map::default(),
            symbols: Vec::new(),
            recent: Vec::new(),
            index: Map::default(),
            slots: Vec::new(),
            encoded: Vec::new(),
            encoded_windows: 0,
            rows: PartialRows::default(),
        }
    }

    /// The number of open windows. One that was encoded and opened anew counts twice.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() + self.encoded_windows
    }

    /// Looks up a symbol by its bytes, for the trades of one record. `None` if it is invalid.
    pub(crate) fn intern(&mut self, bytes: &[u8]) -> Option<Interned> {
        if let Some(id) = self.ids.get(bytes) {
            return Some(Interned(*id));
        }
        let symbol = Symbol::new(std::str::from_utf8(bytes).ok()?).ok()?;
        let id = u32::try_from(self.symbols.len()).ok()?;
        self.symbols.push(SymbolSlot {
            class: symbol.class(),
            symbol: symbol.clone(),
        });
        self.recent
            .resize(self.recent.len() + self.sizes.len(), NONE);
        self.ids.insert(Name(symbol), id);
        Some(Interned(id))
    }

    /// Adds one trade to its window of every size, but for windows that are beyond their horizon.
    /// `watermark_ms` is the watermark of its partition before this trade.
    pub(crate) fn add(
        &mut self,
        symbol: Interned,
        trade: &Trade,
        position: Position,
        watermark_ms: Option<i64>,
    ) -> Added {
        // Between two trades: a packed window is always in the map together with its minute.
        if self.slots.len() >= self.windows_in_full {
            self.encode();
        }
        let event_ms = trade.event_time.ms();
        let late_up_to = late_up_to(watermark_ms);
        let base = symbol.0 as usize * self.sizes.len();
        let (mut any_late, mut any_beyond, mut any_counted) = (false, false, false);
        for at in 0..self.session.unwrap_or(self.sizes.len()) {
            let recent = self.recent[base + at];
            let window = if recent.start <= event_ms && event_ms < recent.end {
                recent
            } else {
                let (size, class) = (self.sizes[at], self.symbols[symbol.0 as usize].class);
                let start = size.start_of(trade.event_time, class);
                let end = size.end_of(start, class);
                if self.is_beyond(at, end, watermark_ms) {
                    any_beyond = true;
                    continue;
                }
                self.open(symbol, at, (start, end))
            };
            // A horizon is longer than the allowed lateness.
            if window.end <= late_up_to && self.is_beyond(at, window.end, watermark_ms) {
                any_beyond = true;
                continue;
            }
            any_counted = true;
            any_late |= self.add_to(window, trade, position, late_up_to);
        }
        if let Some(at) = self.session {
            match self.session_of(symbol, at, trade, watermark_ms) {
                InSession::Window(window) => {
                    any_counted = true;
                    any_late |= self.add_to(window, trade, position, late_up_to);
                }
                InSession::Beyond => any_beyond = true,
                InSession::Outside => {}
            }
        }
        if any_beyond && !any_counted {
            return Added::TooLate;
        }
        self.beyond_horizon += u64::from(any_beyond);
        Added::Counted { late: any_late }
    }

    /// Whether a window of a size that ends at `end_ms` is beyond its horizon.
    fn is_beyond(&self, at: usize, end_ms: i64, watermark_ms: Option<i64>) -> bool {
        watermark_ms.is_some_and(|watermark| end_ms <= watermark - self.horizons[at])
    }

    /// Adds a trade to a window. Returns whether it was late for it.
    #[inline]
    fn add_to(
        &mut self,
        window: Recent,
        trade: &Trade,
        position: Position,
        late_up_to: i64,
    ) -> bool {
        let late = window.end <= late_up_to;
        self.slots[window.slot as usize]
            .totals
            .add_trade(trade, position, late);
        late
    }

    /// The window of the trade's session. The sale conditions decide too, so the last window is
    /// right only for trades that they do not move. A trade of no session is counted.
    fn session_of(
        &mut self,
        symbol: Interned,
        at: usize,
        trade: &Trade,
        watermark_ms: Option<i64>,
    ) -> InSession {
        let recent = self.recent[symbol.0 as usize * self.sizes.len() + at];
        let event_ms = trade.event_time.ms();
        if recent.start <= event_ms && event_ms < recent.end && !trade.conditions.may_move_session()
        {
            return if self.is_beyond(at, recent.end, watermark_ms) {
                InSession::Beyond
            } else {
                InSession::Window(recent)
            };
        }
        let class = self.symbols[symbol.0 as usize].class;
        let stretch = Stretch::of_trade(trade.event_time, trade.conditions, class);
        match stretch.hours {
            Hours::Open(_) if self.is_beyond(at, stretch.end, watermark_ms) => InSession::Beyond,
            // Nearly all trades before and after regular hours are Form T.
            Hours::Open(_) if (stretch.start, stretch.end) == (recent.start, recent.end) => {
                InSession::Window(recent)
            }
            Hours::Open(_) => {
                InSession::Window(self.open(symbol, at, (stretch.start, stretch.end)))
            }
            Hours::Closed => {
                self.outside_sessions.closed += 1;
                InSession::Outside
            }
            Hours::Unknown => {
                self.outside_sessions.unknown_year += 1;
                InSession::Outside
            }
        }
    }

    /// Takes the number of counted trades that came beyond the horizon of a size since the last
    /// call.
    pub(crate) fn take_beyond_horizon(&mut self) -> u64 {
        std::mem::take(&mut self.beyond_horizon)
    }

    /// Takes the number of trades without a session since the last call.
    pub(crate) fn take_outside_sessions(&mut self) -> OutsideSessions {
        std::mem::take(&mut self.outside_sessions)
    }

    /// Finds or opens a window of a size, and remembers it as the symbol's last window.
    fn open(&mut self, symbol: Interned, at: usize, (start, end): (WindowStart, i64)) -> Recent {
        let size_index = u8::try_from(at).expect("a job has at most 16 sizes");
        let slots = &mut self.slots;
        let slot = *self
            .index
            .entry((symbol.0, size_index, start))
            .or_insert_with(|| {
                slots.push(Slot {
                    symbol: symbol.0,
                    size: size_index,
                    start,
                    totals: Totals::default(),
                });
                u32::try_from(slots.len() - 1).expect("open windows are bounded far below 2^32")
            });
        let found = Recent { start, end, slot };
        self.recent[symbol.0 as usize * self.sizes.len() + at] = found;
        found
    }

    /// Empties the combiner into exchange items, of `epoch`.
    pub(crate) fn seal(&mut self, epoch: Epoch) -> Vec<ExchangeItem> {
        let was_full = self.encoded_windows > 0;
        self.encode();
        self.encoded_windows = 0;
        if was_full {
            // Records with so many windows are rare, and what they took is not kept.
            (self.slots, self.index) = (Vec::new(), Map::default());
        }
        if was_full || self.symbols.len() > self.interned_symbols {
            (self.ids, self.symbols) = (Map::default(), Vec::new());
            self.recent = Vec::new();
        }
        std::mem::take(&mut self.encoded)
            .into_iter()
            .map(|partials| ExchangeItem::SymbolPartials(SymbolPartials { epoch, ..partials }))
            .collect()
    }

    /// Encodes all windows. The packed ones go into the row of their minute: a trade that is in one
    /// of them is in its minute as well.
    fn encode(&mut self) {
        let sizes = &self.sizes;
        // Not the slots are sorted, which are large.
        let mut order: Vec<_> = (0u32..)
            .zip(&self.slots)
            .map(|(at, slot)| {
                let size = sizes[usize::from(slot.size)];
                (slot.symbol, size.row_of(slot.start), size.is_packed(), at)
            })
            .collect();
        order.sort_unstable();
        let mut packed = Vec::new();
        for of_symbol in order.chunk_by(|a, b| a.0 == b.0) {
            let symbol = &self.symbols[of_symbol[0].0 as usize].symbol;
            let mut take = |rows: &mut PartialRows| {
                self.encoded.push(SymbolPartials {
                    symbol: symbol.clone(),
                    // Until it is known.
                    epoch: 0,
                    rows: rows.take(),
                });
            };
            for of_row in of_symbol.chunk_by(|a, b| a.1 == b.1) {
                let slot = |at: u32| &self.slots[at as usize];
                let (whole, shorter) = of_row.split_first().expect("a chunk is not empty");
                debug_assert!(!whole.2, "a job of packed sizes has the minute");
                packed.extend(shorter.iter().map(|(.., at)| PackedBar {
                    size: sizes[usize::from(slot(*at).size)],
                    start: slot(*at).start,
                    totals: slot(*at).totals,
                }));
                let whole = slot(whole.3);
                self.rows
                    .push((whole.size, whole.start), &whole.totals, &mut packed);
                packed.clear();
                if self.rows.len() >= ROWS_OF_AN_ITEM {
                    take(&mut self.rows);
                }
            }
            if !self.rows.is_empty() {
                take(&mut self.rows);
            }
        }
        self.encoded_windows += self.slots.len();
        self.slots.clear();
        self.index.clear();
        self.recent.fill(NONE);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tapeflow_schemas::{
        Conditions, EventTime, PackedBars, Price, Size,
        window::{format_utc, parse_utc},
    };

    use super::*;

    fn trade(ms: i64, price: &str, size: &str) -> Trade {
        Trade::new(
            EventTime::from_ms(ms).expect("time"),
            Price::parse(price).expect("price").value,
            Size::parse(size).expect("size").value,
            Conditions::NONE,
        )
        .expect("notional")
    }

    fn at(offset: i64) -> Position {
        Position {
            partition: 0,
            offset,
            index: 0,
        }
    }

    /// A row: size, start, trades, and the packed bars with their trades.
    type Row = (u8, WindowStart, u64, Vec<(WindowStart, u64)>);

    /// The rows of all items, each added up.
    fn added_up(items: &[ExchangeItem]) -> Vec<Row> {
        let mut rows: BTreeMap<(u8, WindowStart), (Totals, PackedBars)> = BTreeMap::new();
        for item in items {
            let ExchangeItem::SymbolPartials(partials) = item else {
                continue;
            };
            for row in partials.rows.iter() {
                let row = row.expect("well encoded");
                let (totals, packed) = row.decode().expect("well encoded");
                let sum = rows.entry((row.size, row.start)).or_default();
                sum.0.merge(&totals);
                sum.1
                    .merge_encoded(row.start, packed, &mut Vec::new())
                    .expect("well encoded");
            }
        }
        let packed = |start: WindowStart, packed: &PackedBars| {
            let bars = packed.iter(start).map(|bar| bar.expect("well encoded"));
            bars.map(|bar| (bar.start, bar.totals.sums[0].trades))
                .collect()
        };
        rows.into_iter()
            .map(|((size, start), (totals, bars))| {
                (size, start, totals.sums[0].trades, packed(start, &bars))
            })
            .collect()
    }

    /// A record with a window for each of its trades, which come back to each window.
    #[test]
    fn windows_beyond_the_bound_are_encoded_and_add_up_to_the_same() {
        let sizes: Vec<WindowSize> = WindowSize::DEFAULTS.to_vec();
        let sealed = |windows_in_full: usize| {
            let limits = Limits {
                windows_in_full,
                ..Limits::default()
            };
            let mut combiner = Combiner::new(&sizes, &Horizons::NONE, &limits);
            let mut most = 0;
            for offset in 0..3_000 {
                let id = combiner.intern(b"AAPL").expect("symbol");
                combiner.add(
                    id,
                    &trade(offset % 1_000 * 61_000, "2", "1"),
                    at(offset),
                    None,
                );
                most = most.max(combiner.slots.len());
            }
            (most, added_up(&combiner.seal(1)))
        };
        let (most, whole) = sealed(usize::MAX);
        assert!(most > 2_000, "{most} windows");
        for bound in [1, 7, 500] {
            let (most, parts) = sealed(bound);
            assert!(most < bound + sizes.len(), "{most} windows");
            assert!(parts == whole, "with {bound} windows");
        }
    }

    #[test]
    fn trades_are_added_to_their_window_of_every_size_whatever_their_order() {
        let sizes: Vec<WindowSize> = ["1s", "1m", "1d"]
            .iter()
            .map(|s| s.parse().expect("size"))
            .collect();
        let times = [5_000, 65_000, 5_500, 59_999, 60_000, 5_100];
        let mut combiner = Combiner::new(&sizes, &Horizons::NONE, &Limits::default());
        for (offset, ms) in (0..).zip(times) {
            let id = combiner.intern(b"BINANCE:BTCUSDT").expect("symbol");
            let added = combiner.add(id, &trade(ms, "2", "1"), at(offset), Some(60_000));
            assert!(added == Added::Counted { late: false } || ms < 55_000);
        }
        let items = combiner.seal(7);
        let [ExchangeItem::SymbolPartials(symbol_partials)] = &items[..] else {
            panic!("one symbol, one item")
        };
        assert_eq!(symbol_partials.epoch, 7);
        assert_eq!(
            added_up(&items),
            [
                (1, 0, 4, vec![(5_000, 3), (59_000, 1)]),
                (1, 60_000, 2, vec![(60_000, 1), (65_000, 1)]),
                (2, 0, 6, vec![])
            ]
        );
        assert_eq!(combiner.len(), 0);
        assert!(combiner.seal(8).is_empty(), "sealing empties");
    }

    /// Adds trades of one stock, and returns the windows of its sessions with their trades, and the
    /// trades without one.
    fn sessions(sizes: &[&str], trades: &[(&str, &[u8])]) -> (Vec<(String, u64)>, u64) {
        let sizes: Vec<WindowSize> = sizes.iter().map(|s| s.parse().expect("size")).collect();
        let mut combiner = Combiner::new(&sizes, &Horizons::NONE, &Limits::default());
        for (offset, (time, codes)) in (0..).zip(trades) {
            let id = combiner.intern(b"AAPL").expect("symbol");
            let mut trade = trade(parse_utc(time).expect("a time"), "2", "1");
            trade.conditions = codes
                .iter()
                .fold(Conditions::NONE, |set, code| set.with(*code));
            combiner.add(id, &trade, at(offset), None);
        }
        let outside = combiner.take_outside_sessions();
        let items = combiner.seal(1);
        let mut found: Vec<(String, u64)> = added_up(&items)
            .into_iter()
            .filter(|(size, ..)| sizes[usize::from(*size)].is_session())
            .map(|(_, start, trades, _)| (format_utc(start), trades))
            .collect();
        found.sort();
        (found, outside.closed + outside.unknown_year)
    }

    #[test]
    fn sale_conditions_choose_the_session_whatever_the_last_trade_was() {
        let trades: [(&str, &[u8]); 11] = [
            ("2023-03-13T13:29:59.999Z", &[24]),
            ("2023-03-13T13:30:00Z", &[]),
            ("2023-03-13T13:30:00Z", &[24, 12]),
            ("2023-03-13T13:30:01Z", &[1]),
            ("2023-03-13T20:00:00Z", &[24]),
            ("2023-03-13T20:00:01Z", &[36]),
            ("2023-03-13T20:00:01Z", &[12]),
            ("2023-03-14T00:00:01Z", &[35]),
            ("2023-03-14T00:00:01Z", &[]),
            ("2023-03-12T15:00:00Z", &[]),
            ("2050-03-14T15:00:00Z", &[]),
        ];
        let mut shuffled = trades;
        shuffled.reverse();
        let mut turned = trades;
        turned.rotate_left(5);
        let counts = [
            ("2023-03-13T08:00:00Z".to_owned(), 2),
            ("2023-03-13T13:30:00Z".to_owned(), 4),
            ("2023-03-13T20:00:00Z".to_owned(), 2),
        ];
        for order in [trades, shuffled, turned] {
            for sizes in [&["session"][..], &["1s", "1m", "1d", "session"]] {
                assert_eq!(sessions(sizes, &order), (counts.to_vec(), 3));
            }
        }
    }

    /// The window may be the symbol's last one, another one that is open, or one to be opened.
    #[test]
    fn a_trade_beyond_a_horizon_is_in_the_other_sizes_and_beyond_all_in_none() {
        let sizes: Vec<WindowSize> = ["1s", "1m", "session"]
            .iter()
            .map(|s| s.parse().expect("size"))
            .collect();
        let day = 86_400_000;
        let horizons = "1s=1d,1m=2d,session=3d".parse().expect("horizons");
        let mut combiner = Combiner::new(&sizes, &horizons, &Limits::default());
        let id = combiner.intern(b"BINANCE:BTCUSDT").expect("symbol");
        let mut add =
            |ms, watermark| combiner.add(id, &trade(ms, "2", "1"), at(0), Some(watermark));
        let (late, on_time) = (
            Added::Counted { late: true },
            Added::Counted { late: false },
        );
        assert_eq!(add(500, 500), on_time);
        assert_eq!(add(600, 1_000 + day - 1), late, "the last window, in time");
        assert_eq!(
            add(700, 1_000 + day),
            late,
            "the second has gone, the minute has not"
        );
        assert_eq!(add(5_000, 7 * day), Added::TooLate);
        assert_eq!(
            add(61_000, 120_000 + 2 * day),
            late,
            "only the session takes it"
        );
        assert_eq!(add(800, 4 * day - 1), late, "the session is the UTC day");
        assert_eq!(add(900, 4 * day), Added::TooLate);
        assert_eq!(
            added_up(&combiner.seal(1)),
            [(1, 0, 3, vec![(0, 2)]), (2, 0, 5, vec![])]
        );
        assert_eq!(combiner.take_beyond_horizon(), 3);
    }

    #[test]
    fn a_trade_is_late_once_its_window_and_the_allowed_lateness_have_passed() {
        let sizes = ["1m".parse().expect("size")];
        let mut combiner = Combiner::new(&sizes, &Horizons::NONE, &Limits::default());
        let id = combiner.intern(b"AAPL").expect("symbol");
        let mut late = |offset, ms, watermark| {
            let added = combiner.add(id, &trade(ms, "1", "1"), at(offset), watermark);
            added == Added::Counted { late: true }
        };
        assert!(!late(0, 1_000, None));
        assert!(!late(1, 1_500, Some(64_999)));
        assert!(late(2, 1_500, Some(65_000)));
        let items = combiner.seal(1);
        let [ExchangeItem::SymbolPartials(symbol_partials)] = &items[..] else {
            panic!("one item")
        };
        let row = symbol_partials.rows.iter().next().expect("one row");
        let (totals, _) = row.expect("well encoded").decode().expect("well encoded");
        assert_eq!((totals.sums[0].trades, totals.revision), (3, 1));
    }
}
