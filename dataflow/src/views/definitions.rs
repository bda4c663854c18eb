//! The definition of each view, over the collection of bars.

use std::{collections::HashMap, hash::BuildHasher, rc::Rc};

use differential_dataflow::{
    VecCollection,
    operators::{CountTotal, arrange::arrangement::arrange_core},
    trace::implementations::{ValBatcher, ValBuilder, ValSpine},
};
use tapeflow_schemas::{Baskets, Symbol, View, ViewEntry};
use timely::dataflow::channels::pact::Pipeline;

use super::{
    changes::Window,
    ranking::{Bar, Order, by_move, by_notional, moved, top_of},
    sums::Sum,
};

/// The shards of a window's bars on each worker. When a bar changes, only its shard is ranked
/// again.
const SHARDS: u64 = 32;

/// The bars of the loaded windows.
pub(crate) type Bars<'scope> = VecCollection<'scope, u64, (Window, Bar)>;
/// The content of each view of each window.
pub(crate) type Views<'scope> = VecCollection<'scope, u64, ((View, Window), Vec<ViewEntry>)>;
/// By window and shard: the best bars.
type BestOfShards = ValSpine<(Window, u64), Vec<Bar>, u64, isize>;

/// Computes all views of the bars.
pub(crate) fn build<'scope>(bars: Bars<'scope>, baskets: &Baskets) -> Views<'scope> {
    let hash = foldhash::fast::FixedState::with_seed(0);
    // All bars of a symbol are on one worker. They are ranked there first, so that only the best of
    // each shard travel to another worker.
    let shards = bars.clone().map(move |(window, (symbol, values))| {
        (
            (window, hash.hash_one(symbol.as_str()) % SHARDS),
            (symbol, values),
        )
    });
    let shards = arrange_core::<
        _,
        _,
        ValBatcher<(Window, u64), Bar, u64, isize>,
        ValSpine<_, _, _, _>,
    >(shards.inner, Pipeline, "bars by window", ValBatcher::new);
    let top = |view: View, order: Order, included: fn(&Bar) -> bool| {
        shards
            .clone()
            .reduce_abelian::<_, ValBuilder<_, _, _, _>, BestOfShards, _, _>(
                "best of a shard",
                move |_key, bars, best| {
                    let bars = bars.iter().map(|(bar, _)| *bar);
                    best.push((top_of(bars.filter(|bar| included(bar)).collect(), order), 1));
                },
                |out, key, updates| {
                    out.clear();
                    let updates = updates.drain(..);
                    out.extend(updates.map(|(best, time, diff)| ((*key, best), time, diff)));
                },
            )
            .as_collection(|(window, _shard), best| (*window, best.clone()))
            .reduce_named(view.name(), move |_window, shards, content| {
                let best = top_of(
                    shards.iter().flat_map(|(best, _)| best.iter()).collect(),
                    order,
                );
                content.push((best.iter().map(entry).collect(), 1));
            })
            .map(move |(window, content)| ((view, window), content))
    };
    let active = top(View::Active, by_notional, |_| true);
    let movers = top(View::Movers, by_move, moved);
    let market = bars.clone().explode(|(window, (symbol, values))| {
        Some((
            (window, symbol.class().name().to_owned()),
            Sum::of(&values, 1),
        ))
    });
    // The baskets never change, so a map lookup replaces a differential join and its trace.
    let weights = Rc::new(weights(baskets));
    let members = bars.explode(move |(window, (symbol, values))| {
        let weights = Rc::clone(&weights);
        let count = weights.get(&symbol).map_or(0, Vec::len);
        (0..count).map(move |n| {
            let (basket, weight_e4) = &weights[&symbol][n];
            ((window, basket.clone()), Sum::of(&values, *weight_e4))
        })
    });
    active
        .concat(movers)
        .concat(summed(View::Market, market))
        .concat(summed(View::Baskets, members))
}

fn entry((symbol, values): &Bar) -> ViewEntry {
    ViewEntry {
        name: symbol.to_string(),
        symbols: 1,
        trades: values.trades,
        volume: values.volume_e8,
        notional: values.notional_e16,
        open: values.open,
        close: values.close,
    }
}

/// By symbol: the baskets that contain it, with its weight in each.
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

/// Collects the sums of each window into a view, sorted by name.
fn summed<'scope>(
    view: View,
    sums: VecCollection<'scope, u64, (Window, String), Sum>,
) -> Views<'scope> {
    sums.consolidate_stream()
        .count_total()
        .map(|((window, name), sum)| (window, sum.entry(name)))
        .reduce_named(view.name(), |_window, entries, content| {
            content.push((
                entries.iter().map(|(entry, _)| (*entry).clone()).collect(),
                1,
            ))
        })
        .map(move |(window, content)| ((view, window), content))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use differential_dataflow::{difference::Semigroup, input::Input};
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use tapeflow_schemas::{Price, WindowSize};

    use super::*;
    use crate::views::changes::BarValues;

    fn price(e8: i64) -> Option<Price> {
        Price::from_e8(e8).ok()
    }

    type ViewUpdate = (((View, Window), Vec<ViewEntry>), u64, isize);
    type Table = std::collections::BTreeMap<(Window, Symbol), BarValues>;

    /// The views of a table of bars, computed from scratch.
    fn from_scratch(table: &Table, baskets: &Baskets) -> Vec<((View, Window), Vec<ViewEntry>)> {
        let mut views = std::collections::BTreeMap::new();
        let windows: std::collections::BTreeSet<Window> =
            table.keys().map(|(window, _)| *window).collect();
        for window in windows {
            let bars: Vec<Bar> = table
                .iter()
                .filter(|((of, _), _)| *of == window)
                .map(|((_, symbol), bar)| (symbol.clone(), *bar))
                .collect();
            let top = |bars: Vec<&Bar>, order| top_of(bars, order).iter().map(entry).collect();
            views.insert(
                (View::Active, window),
                top(bars.iter().collect(), by_notional),
            );
            views.insert(
                (View::Movers, window),
                top(bars.iter().filter(|bar| moved(bar)).collect(), by_move),
            );
            let mut sums: std::collections::BTreeMap<(View, String), Sum> =
                std::collections::BTreeMap::new();
            for (symbol, values) in &bars {
                let class = (View::Market, symbol.class().name().to_owned(), 1);
                let of = baskets.iter().filter_map(|(name, members)| {
                    Some((View::Baskets, name.to_owned(), members.get(symbol)?.e4()))
                });
                for (view, name, weight) in of.chain([class]) {
                    let sum = Sum::of(values, weight);
                    sums.entry((view, name))
                        .and_modify(|held| held.plus_equals(&sum))
                        .or_insert(sum);
                }
            }
            for ((view, name), sum) in sums {
                views
                    .entry((view, window))
                    .or_insert_with(Vec::new)
                    .push(sum.entry(name));
            }
        }
        views.into_iter().collect()
    }

    /// Bars are added, changed and removed on several workers. After each time the views equal
    /// those computed from scratch from the bars of the time.
    #[test]
    fn views_follow_bars_that_are_added_changed_and_removed() {
        let baskets =
            Baskets::parse("a,S1,1\na,S2,0.5\nb,S2,100\nb,BINANCE:S3,0.0001\n").expect("baskets");
        for seed in 0..12 {
            let workers = 1 + seed as usize % 3;
            let updates_seen: Arc<Mutex<Vec<ViewUpdate>>> = Arc::default();
            let tables: Arc<Mutex<Vec<Table>>> = Arc::default();
            let (seen_by_all, tables_by_time, of) = (
                Arc::clone(&updates_seen),
                Arc::clone(&tables),
                baskets.clone(),
            );
            timely::execute(timely::Config::process(workers), move |worker| {
                let seen = Arc::clone(&seen_by_all);
                let mut input = worker.dataflow(|scope| {
                    let (input, bars) = scope.new_collection();
                    build(bars, &of)
                        .inspect(move |update| seen.lock().expect("updates").push(update.clone()));
                    input
                });
                // Every worker generates the same changes and inserts those of its own symbols.
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
                        let values = BarValues {
                            trades: random.random_range(0..3),
                            volume_e8: random.random_range(0..3),
                            notional_e16: random.random_range(0..4),
                            open: price(random.random_range(0..4)),
                            close: price(random.random_range(0..4)),
                        };
                        let old = if random.random_bool(0.2) {
                            table.remove(&(window, symbol.clone()))
                        } else {
                            table.insert((window, symbol.clone()), values)
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
                        tables_by_time.lock().expect("tables").push(table.clone());
                    }
                }
            })
            .expect("runs");
            let mut updates = std::mem::take(&mut *updates_seen.lock().expect("updates"));
            for (time, table) in (0u64..).zip(tables.lock().expect("tables").iter()) {
                updates.sort_by_key(|update| update.1);
                let mut views: std::collections::BTreeMap<_, isize> =
                    std::collections::BTreeMap::new();
                for (content, _, diff) in updates.iter().filter(|update| update.1 <= time) {
                    *views.entry(content.clone()).or_default() += diff;
                }
                views.retain(|_, count| *count != 0);
                assert!(
                    views.values().all(|count| *count == 1),
                    "seed {seed}, time {time}"
                );
                let have: Vec<_> = views.into_keys().collect();
                assert_eq!(
                    have,
                    from_scratch(table, &baskets),
                    "seed {seed}, time {time}"
                );
            }
        }
    }
}
