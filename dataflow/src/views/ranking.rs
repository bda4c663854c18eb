//! Rankings of symbols, which make the views `active` and `movers`: their orders, and how a ranking
//! follows its bars.

use std::cmp::Ordering;

use tapeflow_schemas::{Symbol, ViewEntry, view::TOP};

use super::changes::BarValues;
use crate::hash::Set;

/// A symbol and the values of its bar.
pub(super) type Bar = (Symbol, BarValues);
/// An order of bars, best first.
type Order = fn(&Bar, &Bar) -> Ordering;

/// The order of `active`: by notional, descending; then by name.
fn by_notional((a_name, a): &Bar, (b_name, b): &Bar) -> Ordering {
    b.notional_e16
        .cmp(&a.notional_e16)
        .then_with(|| a_name.cmp(b_name))
}

/// The order of `movers`: by the change from open to close as a share of open, descending and
/// whatever its direction; then by name. Exact: the fractions are multiplied crosswise.
fn by_move((a_name, a): &Bar, (b_name, b): &Bar) -> Ordering {
    let share = |values: &BarValues| match (values.open, values.close) {
        // Prices are at most 1e17, so products are at most 1e34 and fit into 128 bits.
        (Some(open), Some(close)) => (
            i128::from(close.e8()).abs_diff(i128::from(open.e8())),
            u128::from(open.e8().unsigned_abs()),
        ),
        _ => (0, 1),
    };
    let ((a_move, a_open), (b_move, b_open)) = (share(a), share(b));
    (b_move * a_open)
        .cmp(&(a_move * b_open))
        .then_with(|| a_name.cmp(b_name))
}

fn moved((_, values): &Bar) -> bool {
    values
        .open
        .zip(values.close)
        .is_some_and(|(open, close)| open != close)
}

/// By what symbols are ranked. Those of `active` have one quote currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    Active,
    Movers,
}

impl Rank {
    fn order(self) -> Order {
        match self {
            Self::Active => by_notional,
            Self::Movers => by_move,
        }
    }

    fn includes(self, bar: &Bar) -> bool {
        match self {
            Self::Active => true,
            Self::Movers => moved(bar),
        }
    }
}

/// The first ranks of a window, kept without the bars of the other symbols.
///
/// It is always a prefix of the whole ranking. If it is not the whole of it, every symbol that is
/// not in it ranks after its last one: the *boundary*. A changed bar that ranks before the boundary
/// has a certain rank. One that falls behind it may be followed or preceded by symbols that are not
/// here, so it leaves, and the prefix is shorter by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ranking {
    rank: Rank,
    /// The most ranks that are kept, [`TOP`] at least.
    most: usize,
    bars: Vec<Bar>,
    /// Whether it is the whole ranking.
    complete: bool,
}

impl Ranking {
    /// The ranking of a window without bars. `most` ranks are kept of movers.
    pub(super) fn empty(rank: Rank, most: usize) -> Self {
        Self {
            rank,
            most: match rank {
                // A notional only grows, so no symbol falls and no reserve is needed.
                Rank::Active => TOP,
                Rank::Movers => most.max(TOP),
            },
            bars: Vec::new(),
            complete: true,
        }
    }

    /// This ranking with stored ranks; `None` if one of them is none that the job writes.
    pub(super) fn stored<'a>(
        self,
        entries: impl Iterator<Item = &'a ViewEntry>,
        complete: bool,
    ) -> Option<Self> {
        let bar = |entry: &ViewEntry| {
            let symbol = Symbol::new(&entry.name).ok()?;
            let values = BarValues {
                trades: entry.trades,
                volume_e8: entry.volume?,
                notional_e16: entry.notional?,
                open: entry.open,
                close: entry.close,
            };
            (symbol.quote() == entry.quote).then_some((symbol, values))
        };
        Some(Self {
            bars: entries.map(bar).collect::<Option<_>>()?,
            complete,
            ..self
        })
    }

    /// Applies bars that have changed, each once. Returns whether the ranking is another one now.
    pub(super) fn apply(&mut self, changed: &[&Bar]) -> bool {
        let order = self.rank.order();
        let boundary = self.bars.last().filter(|_| !self.complete).cloned();
        let certain = |bar: &Bar| {
            self.rank.includes(bar)
                && boundary
                    .as_ref()
                    .map_or(self.complete, |last| order(bar, last) != Ordering::Greater)
        };
        let ranked: Set<&Symbol> = self.bars.iter().map(|(symbol, _)| symbol).collect();
        let leave: Set<Symbol> = changed
            .iter()
            .filter(|(symbol, _)| ranked.contains(symbol))
            .map(|(symbol, _)| symbol.clone())
            .collect();
        let enter: Vec<Bar> = changed
            .iter()
            .filter(|bar| certain(bar))
            .map(|bar| (*bar).clone())
            .collect();
        if leave.is_empty() && enter.is_empty() {
            return false;
        }
        drop(ranked);
        let before = self.clone();
        self.bars.retain(|(symbol, _)| !leave.contains(symbol));
        // Exact, because most windows of a large epoch have one bar.
        self.bars.reserve_exact(enter.len());
        self.bars.extend(enter);
        self.bars.sort_unstable_by(order);
        if self.bars.len() > self.most {
            self.bars.truncate(self.most);
            // A window of all symbols began with all of them.
            self.bars.shrink_to(2 * self.most);
            self.complete = false;
        }
        *self != before
    }

    /// Whether the ranks that readers see are known. If not, only the bars of the window tell.
    pub(super) fn is_known(&self) -> bool {
        self.complete || self.bars.len() >= TOP
    }

    /// The number of bars in memory.
    pub(super) fn len(&self) -> usize {
        self.bars.len()
    }

    /// Whether all symbols that are not in it are excluded from it.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// The ranks, in order.
    pub(super) fn entries(&self) -> impl Iterator<Item = ViewEntry> + '_ {
        self.bars.iter().map(entry)
    }
}

fn entry((symbol, values): &Bar) -> ViewEntry {
    ViewEntry {
        quote: symbol.quote(),
        name: symbol.to_string(),
        symbols: 1,
        trades: values.trades,
        volume: Some(values.volume_e8),
        notional: Some(values.notional_e16),
        open: values.open,
        close: values.close,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{Rng, SeedableRng, rngs::StdRng};
    use tapeflow_schemas::Price;

    use super::*;

    fn price(e8: i64) -> Option<Price> {
        Price::from_e8(e8).ok()
    }

    fn bar(name: &str, notional_e16: i128, open: i64, close: i64) -> Bar {
        let values = BarValues {
            trades: 1,
            volume_e8: 1,
            notional_e16,
            open: price(open),
            close: price(close),
        };
        (Symbol::new(name).expect("a symbol"), values)
    }

    fn ranked(bars: &[Bar], order: Order) -> Vec<String> {
        let mut bars = bars.to_vec();
        bars.sort_unstable_by(order);
        bars.iter().map(|(symbol, _)| symbol.to_string()).collect()
    }

    #[test]
    fn the_most_notional_comes_first_and_equal_ones_by_name() {
        assert_eq!(
            ranked(
                &[bar("B", 5, 1, 1), bar("C", 9, 1, 1), bar("A", 5, 1, 1)],
                by_notional
            ),
            ["C", "A", "B"]
        );
    }

    #[test]
    fn moves_are_compared_as_exact_shares_of_open_whatever_their_direction() {
        let max = tapeflow_schemas::decimal::MAX_PRICE_E8;
        let bars = [
            bar("HALF DOWN", 1, 2, 1),
            bar("HALF UP", 1, 4, 6),
            bar("NEARLY HALF", 1, max - 1, max / 2),
            bar("A THIRD", 1, 3, 2),
            bar("TO THE TOP", 1, 1, max),
            bar("NO PRICE", 1, 0, 0),
        ];
        assert_eq!(
            ranked(&bars, by_move),
            [
                "TO THE TOP",
                "HALF DOWN",
                "HALF UP",
                "NEARLY HALF",
                "A THIRD",
                "NO PRICE"
            ]
        );
        assert!(moved(&bars[0]) && !moved(&bars[5]) && !moved(&bar("X", 1, 7, 7)));
    }

    /// The whole ranking, from scratch.
    fn whole(rank: Rank, table: &BTreeMap<Symbol, BarValues>) -> Vec<Bar> {
        let mut bars: Vec<Bar> = table
            .iter()
            .map(|(symbol, values)| (symbol.clone(), *values))
            .filter(|bar| rank.includes(bar))
            .collect();
        bars.sort_unstable_by(rank.order());
        bars
    }

    /// Bars change at random. After each change the ranking is a prefix of the one made from
    /// scratch, says rightly whether it is all of it, and comes back from its entries.
    #[test]
    fn a_ranking_is_a_prefix_of_the_whole_one_whatever_changes() {
        let mut unknown = 0;
        for seed in 0..60 {
            let mut random = StdRng::seed_from_u64(seed);
            let symbols = [8, 30, 200][seed as usize % 3];
            let rank = [Rank::Active, Rank::Movers][seed as usize / 3 % 2];
            let mut table: BTreeMap<Symbol, BarValues> = BTreeMap::new();
            let most = [10, 12, 50][seed as usize / 6 % 3];
            let mut ranking = Ranking::empty(rank, most);
            for step in 0..120 {
                let mut changed: BTreeMap<Symbol, Bar> = BTreeMap::new();
                for _ in 0..random.random_range(1..20) {
                    let symbol =
                        Symbol::new(&format!("S{}", random.random_range(0..symbols))).expect("one");
                    let before = table.get(&symbol).map_or(0, |values| values.notional_e16);
                    let values = BarValues {
                        trades: 1,
                        volume_e8: 1,
                        notional_e16: before + random.random_range(0..5),
                        open: price(100),
                        // Now and then all of them stand still, so that ranks are lost.
                        close: price(if step % 40 > 30 {
                            100
                        } else {
                            random.random_range(90..110)
                        }),
                    };
                    table.insert(symbol.clone(), values);
                    changed.insert(symbol.clone(), (symbol, values));
                }
                let before = ranking.clone();
                let is_another = ranking.apply(&changed.values().collect::<Vec<_>>());
                assert_eq!(is_another, ranking != before, "seed {seed}, step {step}");
                let all = whole(rank, &table);
                if ranking.is_known() {
                    assert!(all.starts_with(&ranking.bars), "seed {seed}, step {step}");
                    assert!(ranking.bars.len() >= TOP.min(all.len()));
                    assert!(
                        !ranking.complete || ranking.bars.len() == all.len(),
                        "seed {seed}, step {step}: it is not complete"
                    );
                } else {
                    assert_eq!(rank, Rank::Movers, "a notional only grows");
                    unknown += 1;
                    ranking = Ranking::empty(rank, most);
                    let bars: Vec<Bar> = table.clone().into_iter().collect();
                    // In chunks, as they are read.
                    for chunk in bars.chunks(7) {
                        ranking.apply(&chunk.iter().collect::<Vec<_>>());
                    }
                    assert!(ranking.is_known() && all.starts_with(&ranking.bars));
                }
                let entries: Vec<ViewEntry> = ranking.entries().collect();
                let stored =
                    Ranking::empty(rank, most).stored(entries.iter(), ranking.is_complete());
                assert_eq!(stored.as_ref(), Some(&ranking));
            }
        }
        assert!(unknown > 5, "the reserve ran out {unknown} times");
    }
}
