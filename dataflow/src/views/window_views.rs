//! The views of one window, and how they follow the changes of its bars. Pure.
//!
//! No bar is kept here: a view follows from what it was and from the changed bars. Three cases need
//! the window's bars, and the caller reads them ([`super::recount`]): a ranking whose reserve is
//! used up, a stored view that says too little (a saturated sum, a view that a repair wrote), and a
//! replay without some of its records.

use differential_dataflow::difference::Semigroup;
use tapeflow_schemas::{
    AssetClass, Baskets, Epoch, QuoteCurrency, View, ViewEntry, ViewState,
    view::{Reserve, TOP},
};

use super::{
    active::Active,
    ranking::{Bar, Rank, Ranking},
    sums::{Sum, SumOf},
    window_change::WindowChange,
};

/// The stored views of a window, in the order of [`View::EVERY`].
pub(super) type Stored = [Option<ViewState>; View::EVERY.len()];

/// The views of one window as of the last change.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WindowViews {
    active: Active,
    movers: Ranking,
    /// Ordered by what they are of. A vector, for the reason of [`Active`].
    sums: Vec<(SumOf, Sum)>,
    /// By [`View::EVERY`]: the epoch up to which the view contains the records. Only the replay
    /// meets changes that a view already contains.
    contains: [Epoch; View::EVERY.len()],
    /// By [`View::EVERY`]: whether the store has the view.
    exists: [bool; View::EVERY.len()],
}

/// The result of changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// The views that must be written.
    Changed(Vec<View>),
    /// The window's bars must be read to know its views.
    Unknown,
}

fn place(view: View) -> usize {
    View::EVERY
        .iter()
        .position(|other| *other == view)
        .expect("every view is in EVERY")
}

impl WindowViews {
    /// The views of a window without bars, of whose movers `most_ranked` are kept.
    pub(super) fn empty(most_ranked: usize) -> Self {
        Self {
            active: Active::default(),
            movers: Ranking::empty(Rank::Movers, most_ranked),
            sums: Vec::new(),
            contains: [0; View::EVERY.len()],
            exists: [false; View::EVERY.len()],
        }
    }

    /// These views as the store has them. `None` if it does not say enough to go on from.
    pub(super) fn stored(self, stored: &Stored, baskets: &Baskets) -> Option<Self> {
        let mut views = self;
        for (view, state) in View::EVERY.into_iter().zip(stored) {
            let Some(state) = state else { continue };
            views.exists[place(view)] = true;
            views.contains[place(view)] = state.epoch;
            match view {
                View::Active => views.active = Active::stored(state)?,
                View::Movers => {
                    let Reserve { entries, complete } = &state.reserve;
                    let ranks = state.entries.iter().chain(entries);
                    views.movers = views.movers.stored(ranks, *complete)?;
                }
                View::Baskets | View::Market => {
                    for entry in &state.entries {
                        let of = of_entry(view, entry, baskets)?;
                        let sum = Sum::shown_by(entry, of)?;
                        match views.place_of(of) {
                            Ok(at) => views.sums[at].1 = sum,
                            Err(at) => views.sums.insert(at, (of, sum)),
                        }
                    }
                }
            }
        }
        views.movers.is_known().then_some(views)
    }

    /// Applies the changes of one time. `all`: every view is to be written, as in the replay.
    pub(super) fn apply(&mut self, changes: &[WindowChange], all: bool) -> Applied {
        let bars: Vec<&Bar> = changes.iter().flat_map(|change| &change.bars).collect();
        let mut changed = [all; View::EVERY.len()];
        changed[place(View::Active)] |= self.active.apply(&bars);
        changed[place(View::Movers)] |= self.movers.apply(&bars);
        if !self.movers.is_known() {
            return Applied::Unknown;
        }
        for ((of, epoch), sum) in changes.iter().flat_map(|change| &change.sums) {
            let at = place(of.view());
            if *epoch > self.contains[at] {
                changed[at] = true;
                self.add(*of, sum);
            }
        }
        let changed = View::EVERY
            .into_iter()
            .filter(|view| changed[place(*view)] || !self.exists[place(*view)])
            .filter(|view| *view != View::Baskets || self.has_baskets())
            .collect();
        Applied::Changed(changed)
    }

    /// Counts bars in, each of which is not here yet, as of the time of the views.
    pub(super) fn count_in(&mut self, bars: &[&Bar], sums: impl Iterator<Item = (SumOf, Sum)>) {
        self.active.apply(bars);
        self.movers.apply(bars);
        for (of, sum) in sums {
            self.add(of, &sum);
        }
    }

    /// All views that have content.
    pub(super) fn all(&self) -> Vec<View> {
        View::EVERY
            .into_iter()
            .filter(|view| *view != View::Baskets || self.has_baskets())
            .collect()
    }

    /// The content of a view, which is about to be written.
    pub(super) fn write(&mut self, view: View, epoch: Epoch, baskets: &Baskets) -> ViewState {
        let at = place(view);
        (self.exists[at], self.contains[at]) = (true, epoch);
        match view {
            View::Active => ViewState::new(epoch, self.active.entries()),
            View::Movers => {
                let mut ranks = self.movers.entries();
                ViewState {
                    epoch,
                    entries: ranks.by_ref().take(TOP).collect(),
                    reserve: Reserve {
                        entries: ranks.collect(),
                        complete: self.movers.is_complete(),
                    },
                }
            }
            View::Baskets | View::Market => {
                let of_view = self.sums.iter().filter(|(of, _)| of.view() == view);
                let mut entries: Vec<ViewEntry> = of_view
                    .map(|(of, sum)| {
                        let (quote, name) = line_of(*of, baskets);
                        sum.entry(*of, quote, name)
                    })
                    .collect();
                entries.sort_unstable_by(|a, b| (a.quote, &a.name).cmp(&(b.quote, &b.name)));
                ViewState::new(epoch, entries)
            }
        }
    }

    /// The number of bars and sums in memory.
    pub(super) fn len(&self) -> usize {
        self.active.len() + self.movers.len() + self.sums.len()
    }

    fn add(&mut self, of: SumOf, sum: &Sum) {
        match self.place_of(of) {
            Ok(at) => self.sums[at].1.plus_equals(sum),
            Err(at) => {
                self.sums.reserve_exact(1);
                self.sums.insert(at, (of, *sum));
            }
        }
    }

    /// Where a sum is, or where it belongs.
    fn place_of(&self, of: SumOf) -> Result<usize, usize> {
        self.sums.binary_search_by_key(&of, |(of, _)| *of)
    }

    fn has_baskets(&self) -> bool {
        self.sums.iter().any(|(of, _)| of.view() == View::Baskets)
    }
}

/// What the entry of a view is a sum of; `None` if the job writes no such entry.
fn of_entry(view: View, entry: &ViewEntry, baskets: &Baskets) -> Option<SumOf> {
    if view == View::Market {
        return AssetClass::EVERY
            .into_iter()
            .find(|class| class.name() == entry.name)
            .map(|class| SumOf::Market(entry.quote, class));
    }
    (0..)
        .zip(baskets.iter())
        .find(|(_, (basket, members))| {
            *basket == entry.name && Baskets::quote_of(members) == entry.quote
        })
        .map(|(place, _)| SumOf::Basket(place))
}

/// The quote currency and the name in the entry of a sum.
fn line_of(of: SumOf, baskets: &Baskets) -> (QuoteCurrency, &str) {
    match of {
        SumOf::Market(quote, class) => (quote, class.name()),
        SumOf::Basket(place) => {
            let (name, members) = baskets
                .iter()
                .nth(place as usize)
                .expect("all workers have the same baskets");
            (Baskets::quote_of(members), name)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
    use tapeflow_schemas::{Price, Symbol, ViewEntry, WindowSize};

    use super::*;
    use crate::views::{
        changes::{Added, BarValues, Change, Window},
        window_change::{Weights, collect},
    };

    type Table = BTreeMap<Symbol, BarValues>;
    /// The bars that an epoch changes, with what it adds to them.
    type Step = BTreeMap<Symbol, (BarValues, Added)>;

    /// Ranks that are kept: few, so that the reserve runs out.
    const MOST: usize = 12;
    const WINDOW: Window = Window {
        size: WindowSize::DEFAULTS[1],
        start: 60_000,
    };

    fn baskets() -> Baskets {
        Baskets::parse(
            "dollars,S1,1\ndollars,OANDA:S2_USD,0.5\nmore,OANDA:S2_USD,100\n\
             coins,BINANCE:S0USDT,0.0001\ncoins,BINANCE:S4USDT,1\nunknown,BENCH:S3,2\n",
        )
        .expect("baskets")
    }

    /// Symbols of three classes, quoted in dollars, in Tether and in an unknown currency.
    fn symbol(number: u32) -> Symbol {
        let text = match number % 4 {
            0 => format!("BINANCE:S{number}USDT"),
            1 => format!("S{number}"),
            2 => format!("OANDA:S{number}_USD"),
            _ => format!("BENCH:S{number}"),
        };
        Symbol::new(&text).expect("a symbol")
    }

    fn price(e8: i64) -> Option<Price> {
        Price::from_e8(e8).ok()
    }

    /// Changes some bars of a table. With `calm`, most symbols stop to move.
    fn step(table: &mut Table, symbols: u32, calm: bool, random: &mut StdRng) -> Step {
        let mut step = Step::new();
        for _ in 0..random.random_range(0..12) {
            let symbol = symbol(random.random_range(0..symbols));
            if step.contains_key(&symbol) {
                continue;
            }
            let before = table.get(&symbol).copied();
            let held = before.unwrap_or(BarValues {
                trades: 0,
                volume_e8: 0,
                notional_e16: 0,
                open: price(random.random_range(0..100)),
                close: None,
            });
            let after = BarValues {
                trades: held.trades + random.random_range(0..3),
                volume_e8: held.volume_e8 + random.random_range(0..3),
                notional_e16: held.notional_e16 + random.random_range(0..4),
                open: held.open,
                close: if calm {
                    held.open
                } else {
                    price(random.random_range(0..100))
                },
            };
            table.insert(symbol.clone(), after);
            step.insert(symbol, (after, after.since(before.as_ref())));
        }
        step
    }

    fn change(symbol: &Symbol, before: Option<BarValues>, after: BarValues) -> Change {
        Change {
            symbol: symbol.clone(),
            window: WINDOW,
            before,
            after,
            replayed: None,
        }
    }

    /// The changes of two workers.
    fn collected(changes: Vec<Change>, time: Epoch) -> Vec<WindowChange> {
        let weights = Weights::of(&baskets());
        let (one, other): (Vec<_>, Vec<_>) = changes
            .into_iter()
            .partition(|change| change.symbol.as_str().len() % 2 == 0);
        [one, other]
            .iter()
            .flat_map(|changes| collect(changes, time, &weights))
            .collect()
    }

    /// The views of a table from all its bars.
    fn counted(table: &Table) -> WindowViews {
        let weights = Weights::of(&baskets());
        let mut views = WindowViews::empty(MOST);
        let bars: Vec<Bar> = table.clone().into_iter().collect();
        let sums = bars.iter().flat_map(|(symbol, values)| {
            let added = values.since(None);
            let of_symbol = weights.of_symbol(symbol);
            of_symbol.map(move |(of, weight)| (of, Sum::of(&added, of, weight)))
        });
        views.count_in(&bars.iter().collect::<Vec<_>>(), sums);
        views
    }

    /// The lines of the views of a table, computed from scratch and in another way.
    fn lines(table: &Table) -> BTreeMap<View, Vec<ViewEntry>> {
        let entry = |(symbol, values): (&Symbol, &BarValues)| ViewEntry {
            quote: symbol.quote(),
            name: symbol.to_string(),
            symbols: 1,
            trades: values.trades,
            volume: Some(values.volume_e8),
            notional: Some(values.notional_e16),
            open: values.open,
            close: values.close,
        };
        let mut active = Vec::new();
        for quote in ["USD", "USDT"] {
            let mut ranked: Vec<ViewEntry> = table.iter().map(entry).collect();
            ranked.retain(|entry| entry.quote.name() == quote);
            ranked.sort_by_key(|entry| std::cmp::Reverse(entry.notional));
            active.extend(ranked.into_iter().take(10));
        }
        let mut movers: Vec<(i64, i64, ViewEntry)> = table
            .iter()
            .filter_map(|(symbol, values)| {
                let (open, close) = (values.open?.e8(), values.close?.e8());
                (open != close).then(|| ((close - open).abs(), open, entry((symbol, values))))
            })
            .collect();
        movers.sort_by(|(a, b, _), (c, d, _)| (c * b).cmp(&(a * d)));
        movers.truncate(10);
        let mut sums: BTreeMap<(View, QuoteCurrency, String), ViewEntry> = BTreeMap::new();
        for (symbol, values) in table {
            let quote = symbol.quote();
            let class = (View::Market, symbol.class().name().to_owned(), 1);
            let all = baskets();
            let of = all.iter().filter_map(|(name, members)| {
                Some((View::Baskets, name.to_owned(), members.get(symbol)?.e4()))
            });
            for (view, name, weight) in of.chain([class]) {
                let in_basket = view == View::Baskets;
                let sum = sums
                    .entry((view, quote, name.clone()))
                    .or_insert_with(|| ViewEntry {
                        quote,
                        name,
                        symbols: 0,
                        trades: 0,
                        volume: in_basket.then_some(0),
                        notional: (in_basket || quote.name() != "unknown").then_some(0),
                        open: None,
                        close: None,
                    });
                sum.symbols += 1;
                sum.trades += values.trades;
                sum.volume = sum.volume.map(|sum| sum + values.volume_e8 * weight);
                sum.notional = sum.notional.map(|sum| sum + values.notional_e16 * weight);
            }
        }
        let mut lines = BTreeMap::from([
            (View::Active, active),
            (
                View::Movers,
                movers.into_iter().map(|(_, _, entry)| entry).collect(),
            ),
        ]);
        for ((view, ..), entry) in sums {
            lines.entry(view).or_default().push(entry);
        }
        lines
    }

    /// What the store has, by view and epoch of the write.
    type Written = BTreeMap<View, BTreeMap<Epoch, ViewState>>;

    fn check(store: &Written, table: &Table, what: &str) {
        for (view, want) in lines(table) {
            let found = store
                .get(&view)
                .and_then(BTreeMap::last_key_value)
                .map(|(_, state)| &state.entries);
            assert_eq!(found, Some(&want), "{what}: {view}");
        }
    }

    fn apply(views: &mut WindowViews, changes: &[WindowChange], all: bool, table: &Table) -> u32 {
        match views.apply(changes, all) {
            Applied::Changed(_) => 0,
            Applied::Unknown => {
                *views = counted(table);
                1
            }
        }
    }

    /// Epochs change the bars of a window, and each changed view is written. After each epoch the
    /// store has the views of the bars. Then the job crashes: each view has reached the store up to
    /// some epoch of (c, b], and a replay of (c, b] from the stored views makes those of b.
    #[test]
    fn views_follow_their_bars_also_in_a_replay_from_any_mix_of_stored_epochs() {
        let mut recounts = 0;
        for seed in 0..90 {
            let random = &mut StdRng::seed_from_u64(seed);
            let symbols = [6, 25, 120][seed as usize % 3];
            let all = baskets();
            let (mut table, mut views, mut store) =
                (Table::new(), WindowViews::empty(MOST), Written::new());
            let mut steps: Vec<(Table, Step)> = vec![(Table::new(), Step::new())];
            for epoch in 1..60 {
                let before = table.clone();
                let changed = step(&mut table, symbols, epoch % 30 > 20, random);
                let changes: Vec<Change> = changed
                    .iter()
                    .map(|(symbol, (after, _))| change(symbol, before.get(symbol).copied(), *after))
                    .collect();
                steps.push((table.clone(), changed));
                if changes.is_empty() {
                    continue;
                }
                let write = match views.apply(&collected(changes, epoch), false) {
                    Applied::Changed(write) => write,
                    Applied::Unknown => {
                        recounts += 1;
                        views = counted(&table);
                        views.all()
                    }
                };
                for view in write {
                    let state = views.write(view, epoch, &all);
                    store.entry(view).or_default().insert(epoch, state);
                }
                check(&store, &table, &format!("seed {seed}, epoch {epoch}"));
            }
            for _ in 0..20 {
                let committed = random.random_range(1..55);
                let bound = random.random_range(committed..60);
                recounts += replayed(&store, &steps, (committed, bound), random);
            }
        }
        assert!(recounts > 10, "the reserve ran out {recounts} times");
    }

    /// Replays (c, b] over a mix of stored views. Returns the number of recounts.
    fn replayed(
        store: &Written,
        steps: &[(Table, Step)],
        (committed, bound): (u64, u64),
        random: &mut StdRng,
    ) -> u32 {
        let at = |epoch: u64| usize::try_from(epoch).expect("small");
        let epochs: Vec<u64> = (committed..=bound).collect();
        let stored: Stored = View::EVERY.map(|view| {
            let reached = *epochs.choose(random).expect("c at least");
            let written = store.get(&view)?.range(..=reached).next_back();
            written.map(|(_, state)| state.clone())
        });
        let table = &steps[at(bound)].0;
        let mut added: BTreeMap<&Symbol, Vec<(Epoch, Added)>> = BTreeMap::new();
        for epoch in committed + 1..=bound {
            for (symbol, (_, step)) in &steps[at(epoch)].1 {
                added.entry(symbol).or_default().push((epoch, *step));
            }
        }
        if added.is_empty() {
            return 0;
        }
        let changes: Vec<Change> = added
            .into_iter()
            .map(|(symbol, added)| Change {
                replayed: Some(added),
                ..change(symbol, None, table[symbol])
            })
            .collect();
        let all = baskets();
        let (mut views, mut recounts) = match WindowViews::empty(MOST).stored(&stored, &all) {
            Some(views) => (views, 0),
            None => panic!("the job wrote these views"),
        };
        recounts += apply(&mut views, &collected(changes, bound), true, table);
        let written: Written = views
            .all()
            .into_iter()
            .map(|view| {
                let state = views.write(view, bound, &all);
                (view, BTreeMap::from([(bound, state)]))
            })
            .collect();
        check(
            &written,
            table,
            &format!("replay of ({committed}, {bound}]"),
        );
        recounts
    }

    #[test]
    fn views_that_say_too_little_are_made_from_the_bars() {
        let all = baskets();
        let table: Table = (0..30)
            .map(|n| {
                let values = BarValues {
                    trades: 1,
                    volume_e8: 1,
                    notional_e16: n,
                    open: price(100),
                    close: price(101 + n as i64),
                };
                (Symbol::new(&format!("S{n}")).expect("a symbol"), values)
            })
            .collect();
        let mut views = counted(&table);
        let stored: Stored = View::EVERY.map(|view| Some(views.write(view, 3, &all)));
        let as_stored = WindowViews::empty(MOST)
            .stored(&stored, &all)
            .expect("they say enough");
        assert_eq!(as_stored, views);

        // A repair knows no reserve, but ten ranks are enough to go on from.
        let mut repaired = stored.clone();
        repaired[1] = repaired[1]
            .clone()
            .map(|state| ViewState::new(3, state.entries));
        assert!(WindowViews::empty(MOST).stored(&repaired, &all).is_some());
        // Nine are not, unless they are all.
        let mut short = stored.clone();
        short[1] = short[1]
            .clone()
            .map(|state| ViewState::new(3, state.entries[..9].to_vec()));
        assert_eq!(WindowViews::empty(MOST).stored(&short, &all), None);

        type Damage = fn(&mut ViewEntry);
        let broken: [(&str, View, Damage); 6] = [
            ("a saturated sum", View::Market, |entry| {
                entry.notional = Some(i128::MAX);
            }),
            ("a sum that is missing", View::Market, |entry| {
                entry.notional = None;
            }),
            ("a sum that no market has", View::Market, |entry| {
                entry.volume = Some(1);
            }),
            ("an unknown class", View::Market, |entry| {
                entry.name = "bonds".into();
            }),
            ("a damaged symbol", View::Movers, |entry| {
                entry.name = String::new();
            }),
            ("a symbol of another currency", View::Active, |entry| {
                entry.quote = QuoteCurrency::UNKNOWN;
            }),
        ];
        for (broken, view, damage) in broken {
            let mut stored = stored.clone();
            let state = stored[place(view)].as_mut().expect("a view");
            damage(&mut state.entries[0]);
            assert_eq!(
                WindowViews::empty(MOST).stored(&stored, &all),
                None,
                "{broken}"
            );
        }
    }
}
