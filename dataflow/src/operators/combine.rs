//! The combiner: adds up trades per symbol and window before they are exchanged between workers.
//!
//! This is the hot path. A record's symbol is looked up once. A trade is compared with the windows
//! of the symbol's last trade, and added in place. Memory is allocated per new symbol and per new
//! window, never per trade. How a single trade changes a window's totals is in
//! [`tapeflow_schemas::Totals::add_trade`].

use tapeflow_schemas::{
    AssetClass, Epoch, Position, Symbol, Totals, Trade, WindowSize, WindowStart,
};

use crate::{
    hash::Map,
    operators::exchange::{ExchangeItem, Partial, SymbolPartials},
    watermark::late_up_to,
};

/// The most symbols that stay interned after a seal. With more, all are forgotten, which bounds
/// memory if a feed sends ever new names.
const INTERNED_SYMBOLS_KEPT: usize = 200_000;

/// The open totals, per symbol and window.
pub(crate) struct Combiner {
    sizes: Vec<WindowSize>,
    ids: Map<Name, u32>,
    symbols: Vec<SymbolSlot>,
    /// For each symbol and size, the window of the last trade: `symbol * sizes + size`.
    recent: Vec<Recent>,
    index: Map<(u32, u8, WindowStart), u32>,
    slots: Vec<Slot>,
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
    pub(crate) fn new(sizes: &[WindowSize]) -> Self {
        Self {
            sizes: sizes.to_vec(),
            ids: Map::default(),
            symbols: Vec::new(),
            recent: Vec::new(),
            index: Map::default(),
            slots: Vec::new(),
        }
    }

    /// The number of open windows.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
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

    /// Adds one trade to its window of every size. `watermark_ms` is the watermark of its partition
    /// before this trade. Returns whether the trade was late for any window.
    pub(crate) fn add(
        &mut self,
        symbol: Interned,
        trade: &Trade,
        position: Position,
        watermark_ms: Option<i64>,
    ) -> bool {
        let event_ms = trade.event_time.ms();
        let late_up_to = late_up_to(watermark_ms);
        let base = symbol.0 as usize * self.sizes.len();
        let mut any_late = false;
        for at in 0..self.sizes.len() {
            let recent = self.recent[base + at];
            let window = if recent.start <= event_ms && event_ms < recent.end {
                recent
            } else {
                self.open(symbol, at, trade)
            };
            let late = window.end <= late_up_to;
            any_late |= late;
            self.slots[window.slot as usize]
                .totals
                .add_trade(trade, position, late);
        }
        any_late
    }

    /// Finds or opens the window of a size that contains a trade, and remembers it as the symbol's
    /// last window.
    fn open(&mut self, symbol: Interned, at: usize, trade: &Trade) -> Recent {
        let (size, class) = (self.sizes[at], self.symbols[symbol.0 as usize].class);
        let start = size.start_of(trade.event_time, class);
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
        let found = Recent {
            start,
            end: size.end_of(start, class),
            slot,
        };
        self.recent[symbol.0 as usize * self.sizes.len() + at] = found;
        found
    }

    /// Empties the combiner into one exchange item per symbol. Every partial gets `epoch`.
    pub(crate) fn seal(&mut self, epoch: Epoch) -> Vec<ExchangeItem> {
        self.slots.sort_unstable_by_key(|slot| slot.symbol);
        let mut items = Vec::new();
        for slots in self.slots.chunk_by(|a, b| a.symbol == b.symbol) {
            let partials = slots
                .iter()
                .map(|slot| Partial {
                    epoch,
                    size: slot.size,
                    start: slot.start,
                    totals: slot.totals,
                })
                .collect();
            items.push(ExchangeItem::SymbolPartials(SymbolPartials {
                symbol: self.symbols[slots[0].symbol as usize].symbol.clone(),
                partials,
            }));
        }
        self.slots.clear();
        self.index.clear();
        self.recent.fill(NONE);
        if self.symbols.len() > INTERNED_SYMBOLS_KEPT {
            self.ids.clear();
            self.symbols.clear();
            self.recent.clear();
        }
        items
    }
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::{Conditions, EventTime, Price, Size};

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

    #[test]
    fn trades_are_added_to_their_window_of_every_size_whatever_their_order() {
        let sizes: Vec<WindowSize> = ["1s", "1m", "1d"]
            .iter()
            .map(|s| s.parse().expect("size"))
            .collect();
        let times = [5_000, 65_000, 5_500, 59_999, 60_000, 5_100];
        let mut combiner = Combiner::new(&sizes);
        for (offset, ms) in (0..).zip(times) {
            let id = combiner.intern(b"BINANCE:BTCUSDT").expect("symbol");
            assert!(
                !combiner.add(id, &trade(ms, "2", "1"), at(offset), Some(60_000)) || ms < 55_000
            );
        }
        let items = combiner.seal(7);
        let [ExchangeItem::SymbolPartials(symbol_partials)] = &items[..] else {
            panic!("one symbol, one item")
        };
        let mut found: Vec<_> = symbol_partials
            .partials
            .iter()
            .map(|p| (p.size, p.start, p.totals.sums[0].trades, p.epoch))
            .collect();
        found.sort_unstable();
        assert_eq!(
            found,
            [
                (0, 5_000, 3, 7),
                (0, 59_000, 1, 7),
                (0, 60_000, 1, 7),
                (0, 65_000, 1, 7),
                (1, 0, 4, 7),
                (1, 60_000, 2, 7),
                (2, 0, 6, 7)
            ]
        );
        assert_eq!(combiner.len(), 0);
        assert!(combiner.seal(8).is_empty(), "sealing empties");
    }

    #[test]
    fn a_trade_is_late_once_its_window_and_the_allowed_lateness_have_passed() {
        let mut combiner = Combiner::new(&["1s".parse().expect("size")]);
        let id = combiner.intern(b"AAPL").expect("symbol");
        assert!(!combiner.add(id, &trade(1_000, "1", "1"), at(0), None));
        assert!(!combiner.add(id, &trade(1_500, "1", "1"), at(1), Some(6_999)));
        assert!(combiner.add(id, &trade(1_500, "1", "1"), at(2), Some(7_000)));
        let items = combiner.seal(1);
        let [ExchangeItem::SymbolPartials(symbol_partials)] = &items[..] else {
            panic!("one item")
        };
        assert_eq!(
            (
                symbol_partials.partials[0].totals.sums[0].trades,
                symbol_partials.partials[0].totals.revision
            ),
            (3, 1)
        );
    }
}
