//! What the bar state tells the views: which bars an epoch has changed, from which values to which.

use serde::{Deserialize, Serialize};
use tapeflow_schemas::{
    BarKey, Epoch, Policy, Price, Sums, Symbol, Totals, WindowSize, WindowStart, view::has_views,
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
    /// The values before the epoch; `None` if there was no bar. In the replay, the values that were
    /// read back, which may contain replayed epochs.
    pub(crate) before: Option<BarValues>,
    pub(crate) after: BarValues,
    /// In the replay: what each of its epochs added, ascending. A stored view may already contain
    /// the first of them.
    pub(crate) replayed: Option<Vec<(Epoch, Added)>>,
}

/// What an epoch added to the sums of a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Added {
    /// Whether the bar is new in this epoch.
    pub(super) new_bar: bool,
    pub(super) trades: u64,
    pub(super) volume_e8: i128,
    pub(super) notional_e16: i128,
}

impl Added {
    /// The sums of the epoch's trades, under the policy `sip`.
    pub(crate) fn of(sums: &Sums, new_bar: bool) -> Self {
        Self {
            new_bar,
            trades: sums.trades,
            volume_e8: sums.volume_e8,
            notional_e16: sums.notional_e16,
        }
    }
}

impl Change {
    /// What was added, by epoch. `time` is the epoch of the change outside the replay.
    pub(super) fn added(&self, time: Epoch) -> impl Iterator<Item = (Epoch, Added)> + '_ {
        let now = self
            .replayed
            .is_none()
            .then(|| (time, self.after.since(self.before.as_ref())));
        now.into_iter()
            .chain(self.replayed.iter().flatten().copied())
    }
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

impl BarValues {
    /// What was added since `before`. Sums only grow.
    pub(super) fn since(&self, before: Option<&Self>) -> Added {
        Added {
            new_bar: before.is_none(),
            trades: self.trades - before.map_or(0, |before| before.trades),
            volume_e8: self.volume_e8 - before.map_or(0, |before| before.volume_e8),
            notional_e16: self.notional_e16 - before.map_or(0, |before| before.notional_e16),
        }
    }
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
