//! The sums of the views `market` and `baskets`.

use differential_dataflow::difference::{IsZero, Multiply, Semigroup};
use serde::{Deserialize, Serialize};
use tapeflow_schemas::ViewEntry;

use super::changes::BarValues;

/// A sum of products that cannot overflow: a bar's sum times a weight may need more than 128 bits.
/// High and low halves are added separately. 2^40 bars fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

    fn times(self, times: i128) -> Self {
        Self {
            high: self.high * times,
            low: self.low * times,
        }
    }

    /// The sum, saturated at `i128::MAX`.
    fn value(self) -> i128 {
        self.high
            .checked_mul(1 << 64)
            .and_then(|high| high.checked_add(self.low))
            .unwrap_or(i128::MAX)
    }
}

/// The sum of bars. It is a difference type, so that a change costs an addition instead of a pass
/// over the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Sum {
    symbols: i64,
    trades: i64,
    volume: Wide,
    notional: Wide,
}

impl Sum {
    pub(super) fn of(values: &BarValues, weight: i128) -> Self {
        let trades = i64::try_from(values.trades).expect("fewer than 2^63 trades");
        Self {
            symbols: 1,
            trades,
            volume: Wide::product(values.volume_e8, weight),
            notional: Wide::product(values.notional_e16, weight),
        }
    }

    pub(super) fn entry(&self, name: String) -> ViewEntry {
        let count = |count: i64| {
            u64::try_from(count).expect("bars are retracted only after they were added")
        };
        ViewEntry {
            name,
            symbols: count(self.symbols),
            trades: count(self.trades),
            volume: self.volume.value(),
            notional: self.notional.value(),
            open: None,
            close: None,
        }
    }
}

impl IsZero for Sum {
    fn is_zero(&self) -> bool {
        // Each bar counts one symbol, so without bars everything is 0.
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

impl Multiply<isize> for Sum {
    type Output = Self;

    fn multiply(self, times: &isize) -> Self {
        let (short, long) = (*times as i64, *times as i128);
        Self {
            symbols: self.symbols * short,
            trades: self.trades * short,
            volume: self.volume.times(long),
            notional: self.notional.times(long),
        }
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
                sum.add(Wide::product(7, 3).times(-1));
            }
            assert_eq!(
                sum.value(),
                terms.iter().map(|(value, weight)| value * weight).sum()
            );
        }
        let mut sum = Wide::product(i128::MAX, 1_000_000);
        sum.add(sum);
        assert_eq!(sum.value(), i128::MAX);
        sum.add(Wide::product(i128::MAX, 1_000_000).times(-2));
        assert_eq!(sum, Wide::ZERO, "a retraction after saturation is exact");
    }
}
