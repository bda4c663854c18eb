//! The sums of the views `market` and `baskets`.

use differential_dataflow::difference::{IsZero, Semigroup};
use serde::{Deserialize, Serialize};
use tapeflow_schemas::{AssetClass, QuoteCurrency, View, ViewEntry};

use super::changes::Added;

/// What a sum is of: one line of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum SumOf {
    /// The symbols of a quote currency and asset class, in `market`.
    Market(QuoteCurrency, AssetClass),
    /// A basket, in `baskets`: its place among the user's baskets, which are ordered by name and
    /// the same on all workers.
    Basket(u32),
}

impl SumOf {
    pub(super) fn view(self) -> View {
        match self {
            Self::Market(..) => View::Market,
            Self::Basket(_) => View::Baskets,
        }
    }

    /// Units of different symbols add up only by the weights of a basket.
    fn has_volume(self) -> bool {
        matches!(self, Self::Basket(_))
    }

    /// An unknown currency may be several. In a basket it is that of one symbol.
    fn has_notional(self) -> bool {
        match self {
            Self::Market(quote, _) => quote.is_known(),
            Self::Basket(_) => true,
        }
    }
}

/// A sum of products that cannot overflow: a bar's sum times a weight may need more than 128 bits.
/// High and low halves are added separately. 2^40 bars fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Wide {
    high: i128,
    low: i128,
}

impl Wide {
    const ZERO: Self = Self { high: 0, low: 0 };

    /// `value` times `weight`. The weight must be below 2^20.
    fn product(value: i128, weight: i128) -> Self {
        Self {
            high: (value >> 64) * weight,
            low: (value & i128::from(u64::MAX)) * weight,
        }
    }

    fn add(&mut self, other: Self) {
        self.high += other.high;
        self.low += other.low;
    }

    /// The sum, saturated at `i128::MAX`.
    fn value(self) -> i128 {
        self.high
            .checked_mul(1 << 64)
            .and_then(|high| high.checked_add(self.low))
            .unwrap_or(i128::MAX)
    }
}

/// A sum over bars. It is a difference in the sense of differential dataflow: a worker consolidates
/// the differences of an epoch before they travel, and a change costs an addition instead of a pass
/// over the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sum {
    symbols: i64,
    trades: i64,
    volume: Wide,
    notional: Wide,
}

impl Sum {
    /// What an epoch added to a bar, times the weight of its symbol. What the sum does not have
    /// stays zero.
    pub(super) fn of(added: &Added, of: SumOf, weight: i128) -> Self {
        let product = |is_summed: bool, value: i128| {
            if is_summed {
                Wide::product(value, weight)
            } else {
                Wide::ZERO
            }
        };
        Self {
            symbols: i64::from(added.new_bar),
            trades: i64::try_from(added.trades).expect("fewer than 2^63 trades"),
            volume: product(of.has_volume(), added.volume_e8),
            notional: product(of.has_notional(), added.notional_e16),
        }
    }

    /// The sum that an entry shows; `None` if the entry is saturated or no entry of such a sum.
    pub(super) fn shown_by(entry: &ViewEntry, of: SumOf) -> Option<Self> {
        let shown = |has_it: bool, value: Option<i128>| match value {
            None => (!has_it).then_some(Wide::ZERO),
            Some(i128::MAX) => None,
            Some(value) => has_it.then(|| Wide::product(value, 1)),
        };
        Some(Self {
            symbols: entry.symbols.try_into().ok()?,
            trades: entry.trades.try_into().ok()?,
            volume: shown(of.has_volume(), entry.volume)?,
            notional: shown(of.has_notional(), entry.notional)?,
        })
    }

    pub(super) fn entry(&self, of: SumOf, quote: QuoteCurrency, name: &str) -> ViewEntry {
        let count = |count: i64| u64::try_from(count).expect("bars are only added");
        ViewEntry {
            quote,
            name: name.to_owned(),
            symbols: count(self.symbols),
            trades: count(self.trades),
            volume: of.has_volume().then(|| self.volume.value()),
            notional: of.has_notional().then(|| self.notional.value()),
            open: None,
            close: None,
        }
    }
}

impl IsZero for Sum {
    fn is_zero(&self) -> bool {
        *self
            == Self {
                symbols: 0,
                trades: 0,
                volume: Wide::ZERO,
                notional: Wide::ZERO,
            }
    }
}

impl Semigroup for Sum {
    fn plus_equals(&mut self, other: &Self) {
        self.symbols += other.symbols;
        self.trades += other.trades;
        self.volume.add(other.volume);
        self.notional.add(other.notional);
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn weighted_sums_are_exact_and_saturate() {
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..1_000 {
            let terms: Vec<(i128, i128)> = (0..20)
                .map(|_| {
                    (
                        random.random_range(0..1i128 << 100),
                        random.random_range(1..=tapeflow_schemas::basket::MAX_WEIGHT_E4),
                    )
                })
                .collect();
            let mut sum = Wide::ZERO;
            for (value, weight) in &terms {
                sum.add(Wide::product(*value, *weight));
                sum.add(Wide::product(7, 3));
                sum.add(Wide::product(-7, 3));
            }
            assert_eq!(
                sum.value(),
                terms.iter().map(|(value, weight)| value * weight).sum()
            );
        }
        let mut sum = Wide::product(i128::MAX, 1_000_000);
        sum.add(sum);
        assert_eq!(sum.value(), i128::MAX);
    }
}
