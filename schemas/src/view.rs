//! Views: what relates the bars of one window to each other, such as the most active symbols. They
//! are kept and written like bars.
//!
//! A view of a window is **one cell with its label**, and is written whole. A reader therefore never
//! sees a symbol twice because it read two ranks at different epochs, and a view that grows shorter
//! leaves no entry behind.

use std::{collections::BTreeMap, fmt::Display};

use xxhash_rust::xxh3::xxh3_64;

use crate::{
    Price, WindowSize, WindowStart,
    bar::CellError,
    basket::WEIGHT_SCALE,
    decimal::SCALE,
    epoch::{Epoch, WriteTimestamp},
    quote_currency::QuoteCurrency,
};

/// The number of entries of `movers`, and of `active` in each quote currency.
pub const TOP: usize = 10;
/// The most symbols that the cell of `movers` ranks: the [`TOP`] entries and a [`Reserve`]. A symbol
/// that falls out of the ranking uses up one rank of the reserve, so only after so many falls do the
/// window's bars have to be read.
pub const MOST_RANKED: usize = 50;
/// The smallest window size that has views, in milliseconds: one minute. Views of one second would
/// cost as much as bars and change too fast to be read.
pub const SMALLEST_VIEW_MS: i64 = 60_000;

/// Whether windows of a size have views: those of a minute and more. Trading sessions have none,
/// because sessions of stocks and UTC days of crypto do not share a start.
#[must_use]
pub fn has_views(size: WindowSize) -> bool {
    size.ms() >= SMALLEST_VIEW_MS && !size.is_session()
}

/// Which view. All are made of the policy `sip`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum View {
    /// In each known quote currency the [`TOP`] symbols by notional; equal ones by name. Notionals
    /// of different currencies do not compare.
    Active,
    /// The [`TOP`] symbols by how far close is from open, as a share of open, whatever the
    /// direction; equal ones by name. Symbols that did not move, or have no price, are not listed.
    Movers,
    /// Each of the user's baskets of which a member has a bar in the window, by quote currency and
    /// name.
    Baskets,
    /// Everything that traded, by quote currency and asset class: crypto, forex, stock. It has no
    /// volume and so no VWAP, because units of different symbols do not add up.
    Market,
}

impl View {
    /// All views.
    pub const EVERY: [Self; 4] = [Self::Active, Self::Movers, Self::Baskets, Self::Market];

    /// Its name on the command line and in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Movers => "movers",
            Self::Baskets => "baskets",
            Self::Market => "market",
        }
    }

    /// Whether an entry's rank is that within its quote currency. `movers` compares shares, which
    /// have no currency.
    #[must_use]
    pub fn ranks_within_quote(self) -> bool {
        self != Self::Movers
    }

    /// Entries with their ranks, which begin at 1: in each quote currency, or in all together.
    pub fn ranked(self, entries: &[ViewEntry]) -> impl Iterator<Item = (u32, &ViewEntry)> {
        let mut ranks: BTreeMap<Option<QuoteCurrency>, u32> = BTreeMap::new();
        entries.iter().map(move |entry| {
            let within = self.ranks_within_quote().then_some(entry.quote);
            let rank = ranks.entry(within).or_default();
            *rank += 1;
            (*rank, entry)
        })
    }

    /// How a message names a rank: `3`, or `3 of USD` where ranks are within a quote currency.
    #[must_use]
    pub fn rank_name(self, rank: impl Display, quote: impl Display) -> String {
        if self.ranks_within_quote() {
            format!("{rank} of {quote}")
        } else {
            rank.to_string()
        }
    }

    /// Decimal places of [`ViewEntry::volume`]: a basket's has those of its weights on top.
    #[must_use]
    pub fn volume_scale(self) -> u32 {
        if self == Self::Baskets {
            SCALE + WEIGHT_SCALE
        } else {
            SCALE
        }
    }

    /// Decimal places of [`ViewEntry::notional`].
    #[must_use]
    pub fn notional_scale(self) -> u32 {
        SCALE + self.volume_scale()
    }
}

impl std::fmt::Display for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The key of a view: which view, of the windows of one size that start together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ViewKey {
    /// The view.
    pub view: View,
    /// The windows' size.
    pub size: WindowSize,
    /// The windows' first millisecond.
    pub start: WindowStart,
}

impl std::fmt::Display for ViewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "view {} {} {}",
            self.view,
            self.size,
            crate::window::format_utc(self.start)
        )
    }
}

/// One entry of a view.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct ViewEntry {
    /// What its prices and its notional are counted in.
    pub quote: QuoteCurrency,
    /// The symbol, the basket, or the asset class; at most 64 bytes.
    pub name: String,
    /// Symbols in it that have a bar in the window: one, but for baskets and the market.
    pub symbols: u64,
    /// Trades counted.
    pub trades: u64,
    /// Units traded, in units of [`View::volume_scale`] decimal places; none for the market.
    pub volume: Option<i128>,
    /// Price times size, summed, in units of [`View::notional_scale`] decimal places; none for what
    /// the market has in an unknown currency.
    pub notional: Option<i128>,
    /// The first price; none for baskets and the market.
    pub open: Option<Price>,
    /// The last price; none for baskets and the market.
    pub close: Option<Price>,
}

impl ViewEntry {
    /// Volume-weighted average price in 1e-8, rounded half-even; `None` without volume or notional.
    #[must_use]
    pub fn vwap_e8(&self) -> Option<i128> {
        // Weights scale both alike.
        crate::decimal::divide_half_even(self.notional?, self.volume?)
    }

    /// The distance of close from open as a percentage of open, in 1e-8 percent, rounded half-even;
    /// `None` without prices.
    #[must_use]
    pub fn change_pct_e8(&self) -> Option<i128> {
        /// 100 percent in 1e-8 percent.
        const WHOLE_E8: i128 = 100 * 100_000_000;
        let (open, close) = (i128::from(self.open?.e8()), i128::from(self.close?.e8()));
        crate::decimal::divide_half_even((close - open) * WHOLE_E8, open)
    }
}

/// The content of a view, computed from all accepted records of epochs up to `epoch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewState {
    /// The last epoch whose records it contains.
    pub epoch: Epoch,
    /// Its lines, first rank first.
    pub entries: Vec<ViewEntry>,
    /// What the job knows of the ranks after the last line. Readers do not show it.
    pub reserve: Reserve,
}

/// The symbols that follow the last line of a ranking.
///
/// With it, a ranking follows from its cell and the bars that changed. Without it, every ranked
/// symbol that falls would make the job read the window's bars of all symbols. How many symbols are
/// in reserve depends on the changes so far; that they are the next ranks does not.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Reserve {
    /// The next ranks, in order. Only `movers` has any: no symbol ever falls in `active`.
    pub entries: Vec<ViewEntry>,
    /// Whether all other symbols of the window are excluded from the ranking. If not, there may be
    /// more, all of them ranked later.
    pub complete: bool,
}

impl ViewState {
    /// A view of which nothing is known after its last line.
    #[must_use]
    pub fn new(epoch: Epoch, entries: Vec<ViewEntry>) -> Self {
        Self {
            epoch,
            entries,
            reserve: Reserve::default(),
        }
    }
}

/// A view on its way to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewWrite {
    /// Its key.
    pub key: ViewKey,
    /// Its content.
    pub state: ViewState,
    /// The binding's write timestamp, in microseconds, as of a bar's write.
    pub write_timestamp: WriteTimestamp,
}

/// A view as readers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredView {
    /// Its window.
    pub start: WindowStart,
    /// Its content.
    pub state: ViewState,
}

/// The format byte of the cells this binary writes. Bars have 1.
const FORMAT: u8 = 103;
/// What stands for no volume or no notional in a cell.
const NO_SUM: i128 = i128::MIN;

impl ViewState {
    /// The state cell: format byte, epoch, entries, entries in reserve, whether these are all, and
    /// an XXH3 checksum over what stands before it. Numbers are little-endian.
    #[must_use]
    pub fn to_cell(&self) -> Vec<u8> {
        let count = self.entries.len() + self.reserve.entries.len();
        let mut cell = Vec::with_capacity(32 + 96 * count);
        cell.push(FORMAT);
        cell.extend(self.epoch.to_le_bytes());
        write_entries(&self.entries, &mut cell);
        write_entries(&self.reserve.entries, &mut cell);
        cell.push(u8::from(self.reserve.complete));
        cell.extend(xxh3_64(&cell).to_le_bytes());
        cell
    }

    /// Reads a state cell back.
    ///
    /// # Errors
    /// [`CellError`], see there.
    pub fn from_cell(cell: &[u8]) -> Result<Self, CellError> {
        let (body, sum) = cell.split_last_chunk::<8>().ok_or(CellError::Damaged)?;
        match body.first() {
            Some(&FORMAT) => {}
            Some(&other) => return Err(CellError::Format(other)),
            None => return Err(CellError::Damaged),
        }
        if xxh3_64(body).to_le_bytes() != *sum {
            return Err(CellError::Damaged);
        }
        let mut rest = &body[1..];
        read(&mut rest)
            .filter(|_| rest.is_empty())
            .ok_or(CellError::Damaged)
    }
}

fn write_entries(entries: &[ViewEntry], cell: &mut Vec<u8>) {
    let count = u32::try_from(entries.len()).expect("views are short");
    cell.extend(count.to_le_bytes());
    for entry in entries {
        write_text(entry.quote.name(), cell);
        write_text(&entry.name, cell);
        cell.extend(entry.symbols.to_le_bytes());
        cell.extend(entry.trades.to_le_bytes());
        for sum in [entry.volume, entry.notional] {
            cell.extend(sum.unwrap_or(NO_SUM).to_le_bytes());
        }
        for price in [entry.open, entry.close] {
            // Zero is no price.
            cell.extend(price.map_or(0, Price::e8).to_le_bytes());
        }
    }
}

fn write_text(text: &str, cell: &mut Vec<u8>) {
    let length = u16::try_from(text.len()).expect("names are short");
    cell.extend(length.to_le_bytes());
    cell.extend(text.as_bytes());
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*bytes)
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let length = usize::from(u16::from_le_bytes(take(rest)?));
    let (text, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    std::str::from_utf8(text).ok()
}

/// A sum, which is not below zero, or none.
fn sum(rest: &mut &[u8]) -> Option<Option<i128>> {
    match i128::from_le_bytes(take(rest)?) {
        NO_SUM => Some(None),
        sum => (sum >= 0).then_some(Some(sum)),
    }
}

fn price(rest: &mut &[u8]) -> Option<Option<Price>> {
    match i64::from_le_bytes(take(rest)?) {
        0 => Some(None),
        e8 => Price::from_e8(e8).ok().map(Some),
    }
}

fn read(rest: &mut &[u8]) -> Option<ViewState> {
    let epoch = u64::from_le_bytes(take(rest)?);
    let entries = read_entries(rest)?;
    let reserve = Reserve {
        entries: read_entries(rest)?,
        complete: match take(rest)? {
            [0] => false,
            [1] => true,
            _ => return None,
        },
    };
    Some(ViewState {
        epoch,
        entries,
        reserve,
    })
}

fn read_entries(rest: &mut &[u8]) -> Option<Vec<ViewEntry>> {
    let count = u32::from_le_bytes(take(rest)?);
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(ViewEntry {
            quote: QuoteCurrency::from_name(text(rest)?)?,
            name: text(rest)?.to_owned(),
            symbols: u64::from_le_bytes(take(rest)?),
            trades: u64::from_le_bytes(take(rest)?),
            volume: sum(rest)?,
            notional: sum(rest)?,
            open: price(rest)?,
            close: price(rest)?,
        });
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> ViewState {
        let entry = |name: &str, volume: i128, open: Option<i64>| ViewEntry {
            quote: QuoteCurrency::of(name),
            name: name.into(),
            symbols: 1,
            trades: u64::MAX,
            volume: Some(volume),
            notional: Some(i128::MAX),
            open: open.map(|e8| Price::from_e8(e8).expect("a price")),
            close: Some(Price::from_e8(7).expect("a price")),
        };
        ViewState {
            epoch: 42,
            entries: vec![
                entry("AAPL", 1, Some(3)),
                entry("IC MARKETS:1 é", i128::MAX, None),
                ViewEntry {
                    volume: None,
                    notional: None,
                    ..entry("crypto", 0, None)
                },
            ],
            reserve: Reserve {
                entries: vec![entry("MSFT", 5, Some(4))],
                complete: true,
            },
        }
    }

    #[test]
    fn cells_give_back_what_was_written() {
        let empty = ViewState::new(1, Vec::new());
        for state in [state(), empty] {
            assert_eq!(ViewState::from_cell(&state.to_cell()), Ok(state));
        }
    }

    #[test]
    fn a_cell_with_any_byte_changed_or_missing_is_refused() {
        let cell = state().to_cell();
        for at in 0..cell.len() {
            let mut damaged = cell.clone();
            damaged[at] ^= 1;
            assert!(ViewState::from_cell(&damaged).is_err(), "byte {at}");
            assert!(ViewState::from_cell(&cell[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_cell_of_sums_below_zero_is_refused() {
        let mut state = state();
        state.entries[1].notional = Some(-1);
        assert_eq!(
            ViewState::from_cell(&state.to_cell()),
            Err(CellError::Damaged)
        );
    }

    #[test]
    fn a_bar_is_no_view() {
        let bar = crate::bar::BarState {
            epoch: 1,
            totals: crate::totals::Totals::default(),
        };
        assert_eq!(
            ViewState::from_cell(&bar.into_row().to_cell(0)),
            Err(CellError::Format(2))
        );
        assert_eq!(
            crate::bar::BarRow::from_cell(&state().to_cell(), 0),
            Err(CellError::Format(FORMAT))
        );
    }

    #[test]
    fn vwap_and_change_are_rounded_half_even() {
        let price = |e8| Some(Price::from_e8(e8).expect("a price"));
        let entry = ViewEntry {
            quote: QuoteCurrency::USD,
            name: "X".into(),
            symbols: 1,
            trades: 1,
            volume: Some(2),
            notional: Some(5),
            open: price(200),
            close: price(199),
        };
        assert_eq!(
            (entry.vwap_e8(), entry.change_pct_e8()),
            (Some(2), Some(-50_000_000)),
            "half a percent down"
        );
        let third = ViewEntry {
            open: price(300),
            close: price(301),
            ..entry.clone()
        };
        assert_eq!(third.change_pct_e8(), Some(33_333_333));
        for (volume, notional) in [(Some(0), Some(5)), (None, Some(5)), (Some(2), None)] {
            let entry = ViewEntry {
                volume,
                notional,
                ..entry.clone()
            };
            assert_eq!(entry.vwap_e8(), None, "{entry:?}");
        }
    }

    #[test]
    fn ranks_begin_again_with_each_quote_currency_but_in_movers() {
        let entries: Vec<ViewEntry> = ["OANDA:USD_JPY", "AAPL", "MSFT", "IC MARKETS:1"]
            .iter()
            .map(|name| ViewEntry {
                quote: QuoteCurrency::of(name),
                ..state().entries[0].clone()
            })
            .collect();
        let ranks = |view: View| {
            view.ranked(&entries)
                .map(|(rank, _)| rank)
                .collect::<Vec<_>>()
        };
        assert_eq!(ranks(View::Active), [1, 1, 2, 1]);
        assert_eq!(ranks(View::Market), [1, 1, 2, 1]);
        assert_eq!(ranks(View::Movers), [1, 2, 3, 4]);
    }
}
