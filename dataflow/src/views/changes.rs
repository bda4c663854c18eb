//! What the bar state tells the views: which bars an epoch has changed, from which values to which.

use serde::{Deserialize, Serialize};
use tapeflow_schemas::{
    BarKey, Policy, Price, Symbol, Totals, WindowSize, WindowStart, view::SMALLEST_VIEW_MS,
};

/// The windows of all symbols with this size and start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Window {
    pub(crate) size: WindowSize,
    pub(crate) start: WindowStart,
}

/// The values of a bar that the views use: its sums under the policy `sip`, and its first and last
/// price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct BarValues {
    pub(super) trades: u64,
    pub(super) volume_e8: i128,
    pub(super) notional_e16: i128,
    pub(super) open: Option<Price>,
    pub(super) close: Option<Price>,
}

/// A bar that an epoch has changed.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) symbol: Symbol,
    pub(crate) window: Window,
    /// The values before the epoch; `None` if there was no bar.
    pub(crate) before: Option<BarValues>,
    pub(crate) after: BarValues,
}

impl BarValues {
    pub(crate) fn of(totals: &Totals) -> Self {
        let sums = totals.of_policy(Policy::Sip);
        Self {
            trades: sums.trades,
            volume_e8: sums.volume_e8,
            notional_e16: sums.notional_e16,
            open: totals.open(),
            close: totals.close(),
        }
    }
}

/// Whether windows of this size have views.
fn has_views(size: WindowSize) -> bool {
    size.ms() >= SMALLEST_VIEW_MS
}

impl Window {
    /// The window of a bar, if its size has views.
    pub(crate) fn of(key: &BarKey) -> Option<Self> {
        has_views(key.size).then_some(Self {
            size: key.size,
            start: key.start,
        })
    }
}

#[cfg(feature = "bench")]
impl BarValues {
    /// Some bar.
    pub(crate) fn for_bench(trades: u64, price: Option<Price>) -> Self {
        Self {
            trades,
            volume_e8: i128::from(trades),
            notional_e16: i128::from(trades),
            open: price,
            close: price,
        }
    }

    /// The same bar after another trade, at another price.
    pub(crate) fn one_trade_more(self) -> Self {
        let close = self
            .close
            .and_then(|close| Price::from_e8(close.e8() + 1).ok());
        Self {
            trades: self.trades + 1,
            volume_e8: self.volume_e8 + 1,
            notional_e16: self.notional_e16 + 1_000,
            close,
            ..self
        }
    }
}
