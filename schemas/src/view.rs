//! Views: what relates the bars of one window to each other, such as the most active symbols. They
//! are kept and written like bars.
//!
//! A view of a window is **one cell with its label**, and is written whole. A reader therefore never
//! sees a symbol twice because it read two ranks at different epochs, and a view that grows shorter
//! leaves no entry behind.

use xxhash_rust::xxh3::xxh3_64;

use crate::{
    Price, WindowSize, WindowStart,
    bar::CellError,
    basket::WEIGHT_SCALE,
    decimal::SCALE,
    epoch::{Epoch, WriteTimestamp},
};

/// The number of entries of `active` and `movers`.
pub const TOP: usize = 10;
/// The smallest window size that has views, in milliseconds: one minute. Views of one second would
/// cost as much as bars and change too fast to be read.
pub const SMALLEST_VIEW_MS: i64 = 60_000;

/// Which view. All are made of the policy `sip`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum View {
    /// The [`TOP`] symbols by notional; equal ones by name.
    Active,
    /// The [`TOP`] symbols by how far close is from open, as a share of open, whatever the
    /// direction; equal ones by name. Symbols that did not move, or have no price, are not listed.
    Movers,
    /// Each of the user's baskets of which a member has a bar in the window, by name.
    Baskets,
    /// Everything that traded, by asset class: crypto, forex, stock.
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
    /// The symbol, the basket, or the asset class; at most 64 bytes.
    pub name: String,
    /// Symbols in it that have a bar in the window: one, but for baskets and the market.
    pub symbols: u64,
    /// Trades counted.
    pub trades: u64,
    /// Units traded, in units of [`View::volume_scale`] decimal places.
    pub volume: i128,
    /// Price times size, summed, in units of [`View::notional_scale`] decimal places.
    pub notional: i128,
    /// The first price; none for baskets and the market.
    pub open: Option<Price>,
    /// The last price; none for baskets and the market.
    pub close: Option<Price>,
}

impl ViewEntry {
    /// Volume-weighted average price in 1e-8, rounded half-even; `None` without volume.
    #[must_use]
    pub fn vwap_e8(&self) -> Option<i128> {
        // Weights scale both alike.
        crate::decimal::divide_half_even(self.notional, self.volume)
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
const FORMAT: u8 = 101;

impl ViewState {
    /// The state cell: format byte, epoch, entries, all little-endian, and an XXH3 checksum over
    /// what stands before it.
    #[must_use]
    pub fn to_cell(&self) -> Vec<u8> {
        let mut cell = Vec::with_capacity(32 + 96 * self.entries.len());
        cell.push(FORMAT);
        cell.extend(self.epoch.to_le_bytes());
        cell.extend(
            u32::try_from(self.entries.len())
                .expect("views are short")
                .to_le_bytes(),
        );
        for entry in &self.entries {
            cell.extend(
                u16::try_from(entry.name.len())
                    .expect("names are short")
                    .to_le_bytes(),
            );
            cell.extend(entry.name.as_bytes());
            cell.extend(entry.symbols.to_le_bytes());
            cell.extend(entry.trades.to_le_bytes());
            cell.extend(entry.volume.to_le_bytes());
            cell.extend(entry.notional.to_le_bytes());
            for price in [entry.open, entry.close] {
                // Zero is no price.
                cell.extend(price.map_or(0, Price::e8).to_le_bytes());
            }
        }
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
        let state = read(&mut rest).ok_or(CellError::Damaged)?;
        if rest.is_empty() {
            Ok(state)
        } else {
            Err(CellError::Damaged)
        }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (checkpoint, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*checkpoint)
}

fn price(rest: &mut &[u8]) -> Option<Option<Price>> {
    match i64::from_le_bytes(take(rest)?) {
        0 => Some(None),
        e8 => Price::from_e8(e8).ok().map(Some),
    }
}

fn read(rest: &mut &[u8]) -> Option<ViewState> {
    let epoch = u64::from_le_bytes(take(rest)?);
    let count = u32::from_le_bytes(take(rest)?);
    let mut entries = Vec::new();
    for _ in 0..count {
        let length = usize::from(u16::from_le_bytes(take(rest)?));
        let (name, tail) = rest.split_at_checked(length)?;
        *rest = tail;
        entries.push(ViewEntry {
            name: std::str::from_utf8(name).ok()?.to_owned(),
            symbols: u64::from_le_bytes(take(rest)?),
            trades: u64::from_le_bytes(take(rest)?),
            volume: i128::from_le_bytes(take(rest)?),
            notional: i128::from_le_bytes(take(rest)?),
            open: price(rest)?,
            close: price(rest)?,
        });
    }
    Some(ViewState { epoch, entries })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> ViewState {
        let entry = |name: &str, volume: i128, open: Option<i64>| ViewEntry {
            name: name.into(),
            symbols: 1,
            trades: u64::MAX,
            volume,
            notional: i128::MAX,
            open: open.map(|e8| Price::from_e8(e8).expect("a price")),
            close: Some(Price::from_e8(7).expect("a price")),
        };
        ViewState {
            epoch: 42,
            entries: vec![
                entry("AAPL", 1, Some(3)),
                entry("IC MARKETS:1 é", i128::MIN, None),
            ],
        }
    }

    #[test]
    fn cells_give_back_what_was_written() {
        let empty = ViewState {
            epoch: 1,
            entries: Vec::new(),
        };
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
    fn a_bar_is_no_view() {
        let bar = crate::bar::BarState {
            epoch: 1,
            totals: crate::totals::Totals::default(),
        };
        assert_eq!(
            ViewState::from_cell(&bar.to_cell()),
            Err(CellError::Format(1))
        );
        assert_eq!(
            crate::bar::BarState::from_cell(&state().to_cell()),
            Err(CellError::Format(FORMAT))
        );
    }

    #[test]
    fn vwap_and_change_are_rounded_half_even() {
        let price = |e8| Some(Price::from_e8(e8).expect("a price"));
        let entry = ViewEntry {
            name: "X".into(),
            symbols: 1,
            trades: 1,
            volume: 2,
            notional: 5,
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
        assert_eq!(
            ViewEntry {
                volume: 0,
                open: None,
                ..entry
            }
            .vwap_e8(),
            None
        );
    }
}
