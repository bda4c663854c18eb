//! The views, in differential dataflow: what relates the bars of a window to each other.
//!
//! ```text
//!  state ── changes ──▶ windows (loads a window's bars when it is first touched)
//!                          │ bars of loaded windows, as a collection
//!                          ├─▶ active, movers: best of each shard, then best of all      ┐
//!                          ├─▶ market: summed by asset class                             ├─▶ lists ──▶ sink
//!                          └─▶ baskets: the members' bars, weighted, summed by basket    ┘
//! ```
//!
//! Here stand only the definitions, and each is right under late trades because a changed bar comes
//! as its retraction and its new value. That all bars of a window are there before the first of its
//! lists is made is the work of [`windows`]; that a list is written at its epoch's write timestamp, and
//! acknowledged before the epoch is committed, that of [`lists`].

use std::{cmp::Ordering, collections::HashMap, hash::BuildHasher, rc::Rc};

use differential_dataflow::{
    VecCollection,
    difference::{IsZero, Multiply, Semigroup},
    operators::{CountTotal, arrange::arrangement::arrange_core},
    trace::implementations::{ValBatcher, ValBuilder, ValSpine},
};
use serde::{Deserialize, Serialize};
use tapeflow_schemas::{
    BarKey, Baskets, Policy, Price, Symbol, Totals, View, ViewEntry, WindowSize, WindowStart,
    view::{SMALLEST_VIEW_MS, TOP},
};
use timely::dataflow::channels::pact::Pipeline;

pub(crate) mod lists;
pub(crate) mod windows;

/// Shards of a window's bars on each worker: when a bar changes, only its shard is ranked anew.
const SHARDS: u64 = 32;

/// The windows of one size that start together, of all symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Window {
    pub(crate) size: WindowSize,
    pub(crate) start: WindowStart,
}

/// What the views need of a bar: its sums by the policy `sip`, and its first and last price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Standing {
    trades: u64,
    volume_e8: i128,
    notional_e16: i128,
    open: Option<Price>,
    close: Option<Price>,
}

/// A bar that an epoch has changed, as the keeper of bars tells it.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) symbol: Symbol,
    pub(crate) window: Window,
    /// As of the epoch before; `None` if there was no bar.
    pub(crate) before: Option<Standing>,
    pub(crate) after: Standing,
}

/// A symbol's bar, as far as views need it.
type Row = (Symbol, Standing);
/// An order of bars, best first.
type Order = fn(&Row, &Row) -> Ordering;
/// The bars of the loaded windows.
pub(crate) type Rows<'scope> = VecCollection<'scope, u64, (Window, Row)>;
/// The lists made of them.
pub(crate) type Lists<'scope> = VecCollection<'scope, u64, ((View, Window), Vec<ViewEntry>)>;

impl Standing {
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

#[cfg(feature = "bench")]
impl Standing {
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

fn entry((symbol, standing): &Row) -> ViewEntry {
    ViewEntry {
        name: symbol.to_string(),
        symbols: 1,
        trades: standing.trades,
        volume: standing.volume_e8,
        notional: standing.notional_e16,
        open: standing.open,
        close: standing.close,
    }
}

/// Whether windows of this size have views.
pub(crate) fn has_views(size: WindowSize) -> bool {
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

/// The order of `active`: most notional first, equal ones by name.
fn by_notional((a_name, a): &Row, (b_name, b): &Row) -> Ordering {
    b.notional_e16
        .cmp(&a.notional_e16)
        .then_with(|| a_name.cmp(b_name))
}

/// The order of `movers`: farthest from open first, as a share of open, equal ones by name. Exact:
/// fractions are compared crosswise.
fn by_move((a_name, a): &Row, (b_name, b): &Row) -> Ordering {
    let share = |standing: &Standing| match (standing.open, standing.close) {
        // Prices are at most 1e17 and so their products at most 1e34: far from the edge of 128
        // bits.
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

fn moved((_, standing): &Row) -> bool {
    standing
        .open
        .zip(standing.close)
        .is_some_and(|(open, close)| open != close)
}

/// All views of these bars.
pub(crate) fn build<'scope>(bars: Rows<'scope>, baskets: &Baskets) -> Lists<'scope> {
    let hash = foldhash::fast::FixedState::with_seed(0);
    // A symbol's bars are on one worker, where its keeper is: ranked there first, and only the best
    // of each shard travel.
    let shards = bars.clone().map(move |(window, (symbol, standing))| {
        (
            (window, hash.hash_one(symbol.as_str()) % SHARDS),
            (symbol, standing),
        )
    });
    let shards = arrange_core::<
        _,
        _,
        ValBatcher<(Window, u64), Row, u64, isize>,
        ValSpine<_, _, _, _>,
    >(shards.inner, Pipeline, "bars by window", ValBatcher::new);
    let top = |view: View, order: Order, listed: fn(&Row) -> bool| {
        shards
            .clone()
            .reduce_abelian::<_, ValBuilder<_, _, _, _>, ValSpine<(Window, u64), Vec<Row>, u64, isize>, _, _>(
                "best of a shard",
                move |_key, bars, best| best.push((top_of(bars.iter().map(|(bar, _)| *bar).filter(|bar| listed(bar)).collect(), order), 1)),
                |out, key, updates| {
                    out.clear();
                    out.extend(updates.drain(..).map(|(best, time, diff)| ((*key, best), time, diff)));
                },
            )
            .as_collection(|(window, _shard), best| (*window, best.clone()))
            .reduce_named(view.name(), move |_window, shards, list| {
                let best = top_of(shards.iter().flat_map(|(best, _)| best.iter()).collect(), order);
                list.push((best.iter().map(entry).collect(), 1));
            })
            .map(move |(window, list)| ((view, window), list))
    };
    let active = top(View::Active, by_notional, |_| true);
    let movers = top(View::Movers, by_move, moved);
    let market = bars.clone().explode(|(window, (symbol, standing))| {
        Some((
            (window, symbol.class().name().to_owned()),
            Sum::of(&standing, 1),
        ))
    });
    // A join with a list that never changes needs no trace of its own: a look-up.
    let weights = Rc::new(weights(baskets));
    let members = bars.explode(move |(window, (symbol, standing))| {
        let weights = Rc::clone(&weights);
        let count = weights.get(&symbol).map_or(0, Vec::len);
        (0..count).map(move |n| {
            let (basket, weight_e4) = &weights[&symbol][n];
            ((window, basket.clone()), Sum::of(&standing, *weight_e4))
        })
    });
    active
        .concat(movers)
        .concat(summed(View::Market, market))
        .concat(summed(View::Baskets, members))
}

fn top_of(mut bars: Vec<&Row>, order: Order) -> Vec<Row> {
    bars.sort_unstable_by(|a, b| order(a, b));
    bars.truncate(TOP);
    bars.into_iter().cloned().collect()
}

/// The baskets each symbol is a member of, with its weight there.
fn weights(baskets: &Baskets) -> HashMap<Symbol, Vec<(String, i128)>> {
    let mut weights: HashMap<Symbol, Vec<(String, i128)>> = HashMap::new();
    for (name, members) in baskets.iter() {
        for (symbol, weight) in members {
            weights
                .entry(symbol.clone())
                .or_default()
                .push((name.to_owned(), weight.e4()));
        }
    }
    weights
}

/// Sums by name become the list of their window, by name.
fn summed<'scope>(
    view: View,
    sums: VecCollection<'scope, u64, (Window, String), Sum>,
) -> Lists<'scope> {
    sums.consolidate_stream()
        .count_total()
        .map(|((window, name), sum)| (window, sum.entry(name)))
        .reduce_named(view.name(), |_window, entries, list| {
            list.push((
                entries.iter().map(|(entry, _)| (*entry).clone()).collect(),
                1,
            ))
        })
        .map(move |(window, list)| ((view, window), list))
}

/// A sum of products that cannot overflow: weights take what 128 bits leave to the sums of a bar.
/// High and low halves are added apart; 2^40 bars fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Wide {
    high: i128,
    low: i128,
}

impl Wide {
    const ZERO: Self = Self { high: 0, low: 0 };

    /// `value` times `weight`, of which the latter is below 2^20.
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

    /// The sum; the largest number of 128 bits if it is beyond that.
    fn value(self) -> i128 {
        self.high
            .checked_mul(1 << 64)
            .and_then(|high| high.checked_add(self.low))
            .unwrap_or(i128::MAX)
    }
}

/// What bars add up to: the difference type of the sums, so that a change costs an addition and not
/// a walk over the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Sum {
    symbols: i64,
    trades: i64,
    volume: Wide,
    notional: Wide,
}

impl Sum {
    fn of(standing: &Standing, weight: i128) -> Self {
        let trades = i64::try_from(standing.trades).expect("fewer than 2^63 trades");
        Self {
            symbols: 1,
            trades,
            volume: Wide::product(standing.volume_e8, weight),
            notional: Wide::product(standing.notional_e16, weight),
        }
    }

    fn entry(&self, name: String) -> ViewEntry {
        let count = |count: i64| u64::try_from(count).expect("what is there was put there");
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
        // Each bar counts one symbol: without any there is nothing.
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
    use std::sync::{Arc, Mutex};

    use differential_dataflow::input::Input;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn price(e8: i64) -> Option<Price> {
        Price::from_e8(e8).ok()
    }

    fn bar(name: &str, notional_e16: i128, open: i64, close: i64) -> Row {
        let standing = Standing {
            trades: 1,
            volume_e8: 1,
            notional_e16,
            open: price(open),
            close: price(close),
        };
        (Symbol::new(name).expect("a symbol"), standing)
    }

    fn ranked(bars: &[Row], order: Order) -> Vec<String> {
        top_of(bars.iter().collect(), order)
            .iter()
            .map(|(symbol, _)| symbol.to_string())
            .collect()
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

    #[test]
    fn weighted_sums_are_exact_and_end_at_the_largest_number_instead_of_going_round() {
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
        assert_eq!(sum, Wide::ZERO, "and what goes beyond comes back");
    }

    type ListUpdate = (((View, Window), Vec<ViewEntry>), u64, isize);
    type Table = std::collections::BTreeMap<(Window, Symbol), Standing>;

    /// The lists of a table of bars, made all at once.
    fn from_scratch(table: &Table, baskets: &Baskets) -> Vec<((View, Window), Vec<ViewEntry>)> {
        let mut lists = std::collections::BTreeMap::new();
        let windows: std::collections::BTreeSet<Window> =
            table.keys().map(|(window, _)| *window).collect();
        for window in windows {
            let bars: Vec<Row> = table
                .iter()
                .filter(|((of, _), _)| *of == window)
                .map(|((_, symbol), bar)| (symbol.clone(), *bar))
                .collect();
            let top = |bars: Vec<&Row>, order| top_of(bars, order).iter().map(entry).collect();
            lists.insert(
                (View::Active, window),
                top(bars.iter().collect(), by_notional),
            );
            lists.insert(
                (View::Movers, window),
                top(bars.iter().filter(|bar| moved(bar)).collect(), by_move),
            );
            let mut sums: std::collections::BTreeMap<(View, String), Sum> =
                std::collections::BTreeMap::new();
            for (symbol, standing) in &bars {
                let class = (View::Market, symbol.class().name().to_owned(), 1);
                let of = baskets.iter().filter_map(|(name, members)| {
                    Some((View::Baskets, name.to_owned(), members.get(symbol)?.e4()))
                });
                for (view, name, weight) in of.chain([class]) {
                    let sum = Sum::of(standing, weight);
                    sums.entry((view, name))
                        .and_modify(|held| held.plus_equals(&sum))
                        .or_insert(sum);
                }
            }
            for ((view, name), sum) in sums {
                lists
                    .entry((view, window))
                    .or_insert_with(Vec::new)
                    .push(sum.entry(name));
            }
        }
        lists.into_iter().collect()
    }

    /// Bars come, change and go, on several workers; after each time the lists are those that the
    /// bars of the time make from scratch.
    #[test]
    fn lists_follow_bars_that_come_change_and_go() {
        let baskets =
            Baskets::parse("a,S1,1\na,S2,0.5\nb,S2,100\nb,BINANCE:S3,0.0001\n").expect("baskets");
        for seed in 0..12 {
            let workers = 1 + seed as usize % 3;
            let heard: Arc<Mutex<Vec<ListUpdate>>> = Arc::default();
            let tables: Arc<Mutex<Vec<Table>>> = Arc::default();
            let (listened, made, of) = (Arc::clone(&heard), Arc::clone(&tables), baskets.clone());
            timely::execute(timely::Config::process(workers), move |worker| {
                let listened = Arc::clone(&listened);
                let mut input = worker.dataflow(|scope| {
                    let (input, bars) = scope.new_collection();
                    build(bars, &of).inspect(move |update| {
                        listened.lock().expect("heard").push(update.clone())
                    });
                    input
                });
                // Every worker makes the same changes, and enters those of its own symbols.
                let mut random = StdRng::seed_from_u64(seed);
                let mut table = Table::new();
                for time in 1..30u64 {
                    for _ in 0..random.random_range(0..20) {
                        let number = random.random_range(0..25);
                        let symbol = Symbol::new(&if number % 3 == 0 {
                            format!("BINANCE:S{number}")
                        } else {
                            format!("S{number}")
                        })
                        .expect("symbol");
                        let window = Window {
                            size: WindowSize::DEFAULTS[1],
                            start: random.random_range(0..3) * 60_000,
                        };
                        let standing = Standing {
                            trades: random.random_range(0..3),
                            volume_e8: random.random_range(0..3),
                            notional_e16: random.random_range(0..4),
                            open: price(random.random_range(0..4)),
                            close: price(random.random_range(0..4)),
                        };
                        let old = if random.random_bool(0.2) {
                            table.remove(&(window, symbol.clone()))
                        } else {
                            table.insert((window, symbol.clone()), standing)
                        };
                        let new = table.get(&(window, symbol.clone())).copied();
                        if number % worker.peers() == worker.index() {
                            old.into_iter()
                                .for_each(|old| input.remove((window, (symbol.clone(), old))));
                            new.into_iter()
                                .for_each(|new| input.insert((window, (symbol.clone(), new))));
                        }
                    }
                    input.advance_to(time);
                    input.flush();
                    worker.step();
                    if worker.index() == 0 {
                        made.lock().expect("made").push(table.clone());
                    }
                }
            })
            .expect("runs");
            let mut updates = std::mem::take(&mut *heard.lock().expect("heard"));
            for (time, table) in (0u64..).zip(tables.lock().expect("made").iter()) {
                updates.sort_by_key(|update| update.1);
                let mut lists: std::collections::BTreeMap<_, isize> =
                    std::collections::BTreeMap::new();
                for (list, _, diff) in updates.iter().filter(|update| update.1 <= time) {
                    *lists.entry(list.clone()).or_default() += diff;
                }
                lists.retain(|_, count| *count != 0);
                assert!(
                    lists.values().all(|count| *count == 1),
                    "seed {seed}, time {time}"
                );
                let have: Vec<_> = lists.into_keys().collect();
                assert_eq!(
                    have,
                    from_scratch(table, &baskets),
                    "seed {seed}, time {time}"
                );
            }
        }
    }
}
