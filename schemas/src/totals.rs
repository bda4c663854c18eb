//! What a window of a symbol adds up to: exact integers that do not depend on the order of their
//! trades.
//!
//! The sums form a group, the extremes a semilattice; merging partials in any order and grouping
//! gives the same [`Totals`], which is what lets many workers share a symbol's trades and lets a
//! crash regroup them. Open and close are decided by (event time, position), never by arrival.

use serde::{Deserialize, Serialize};

use crate::{
    Conditions, EventTime, Position, Price, Trade,
    conditions::Last,
    decimal::{MAX_NOTIONAL_E16, MAX_PRICE_E8, MAX_SIZE_E8, divide_half_even},
};

/// Which trades a volume, a notional and a VWAP are made of. VWAP is not standardized, so every
/// reader names its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Every trade with a size above zero.
    All,
    /// Every trade whose size the consolidated tape counts: the default.
    Sip,
    /// Only trades that also form prices, so that low <= VWAP <= high always.
    Strict,
}

impl Policy {
    /// All policies, in the order their sums stand in a bar.
    pub const EVERY: [Self; 3] = [Self::All, Self::Sip, Self::Strict];

    /// Its name on the command line and in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Sip => "sip",
            Self::Strict => "strict",
        }
    }
}

/// The additive part, once per policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sums {
    /// Units traded, in 1e-8.
    pub volume_e8: i128,
    /// Price times size, summed, in 1e-16.
    pub notional_e16: i128,
    /// Trades counted.
    pub trades: u64,
}

/// The most trades of one bar. A bar of one day would need 115,000 trades of its symbol in each
/// second. So many of the largest trades fit in a sum, and leave room for another 7e9.
pub const MAX_BAR_TRADES: u64 = 10_000_000_000;

impl Sums {
    /// Whether admitted trades can have this sum: not below zero, at most [`MAX_BAR_TRADES`] trades,
    /// and no more than the largest of that many.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        let trades = i128::from(self.trades);
        self.trades <= MAX_BAR_TRADES
            && (0..=trades * MAX_SIZE_E8).contains(&self.volume_e8)
            && (0..=trades * MAX_NOTIONAL_E16).contains(&self.notional_e16)
    }

    fn add(&mut self, other: &Self) {
        const BELIEF: &str =
            "admission and the state cell bound a sum to 1e10 of the largest trades";
        self.volume_e8 = self.volume_e8.checked_add(other.volume_e8).expect(BELIEF);
        self.notional_e16 = self
            .notional_e16
            .checked_add(other.notional_e16)
            .expect(BELIEF);
        self.trades = self.trades.checked_add(other.trades).expect(BELIEF);
    }

    /// The sum of both; `None` if it overflows.
    #[must_use]
    pub fn checked_add(&self, other: &Self) -> Option<Self> {
        Some(Self {
            volume_e8: self.volume_e8.checked_add(other.volume_e8)?,
            notional_e16: self.notional_e16.checked_add(other.notional_e16)?,
            trades: self.trades.checked_add(other.trades)?,
        })
    }

    /// Volume-weighted average price in 1e-8, rounded half-even; `None` without volume.
    #[must_use]
    pub fn vwap_e8(&self) -> Option<i128> {
        divide_half_even(self.notional_e16, self.volume_e8)
    }
}

/// One price and the trade it came from: what open and close are decided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark {
    /// Event time in milliseconds since 1970 UTC: the first criterion.
    pub event_ms: i64,
    /// The place in the log: the second, so that no two marks are equal.
    pub position: Position,
    /// The price there.
    pub price: Price,
}

/// Everything known of one (symbol, window).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// The sums, in the order of [`Policy::EVERY`].
    pub sums: [Sums; 3],
    /// Trades that moved high and low. Zero: the window has no price.
    pub priced: u64,
    /// Trades that came after their window had closed; a label, not a value.
    pub revision: u64,
    /// Highest price of the price-forming trades.
    pub high: Option<Price>,
    /// Lowest price of the price-forming trades.
    pub low: Option<Price>,
    /// The earliest trade that may set open: unconditional, or of the class that counts if it is
    /// first.
    pub first: Option<Mark>,
    /// The latest unconditional trade.
    pub last: Option<Mark>,
    /// Trades that set open and close only if nothing else qualifies and they are alone.
    pub sole_trades: u64,
    /// The sum of their prices in 1e-8: the price itself where there is one such trade. A sum,
    /// because a sum can be merged.
    pub sole_price_e8: i128,
    /// The event time of the earliest trade of all, in milliseconds since 1970 UTC.
    pub first_trade_ms: Option<i64>,
    /// The event time of the latest one.
    pub last_trade_ms: Option<i64>,
}

impl Totals {
    /// The totals of a single trade at its place in the log; `late` if it came after its window had
    /// closed.
    #[must_use]
    pub fn of(trade: &Trade, position: Position, late: bool) -> Self {
        let mut totals = Self::default();
        totals.add_trade(trade, position, late);
        totals
    }

    /// Adds one trade. This is the path of a trade: no allocation, no branch on order.
    pub fn add_trade(&mut self, trade: &Trade, position: Position, late: bool) {
        let effect = Conditions::effect(trade.conditions);
        let one = Sums {
            volume_e8: trade.size.e8(),
            notional_e16: trade.notional().0,
            trades: 1,
        };
        self.sums[0].add(&one);
        if effect.volume {
            self.sums[1].add(&one);
        }
        if effect.volume && effect.high_low {
            self.sums[2].add(&one);
        }
        self.revision += u64::from(late);
        let event_ms = trade.event_time.ms();
        self.first_trade_ms = min_some(self.first_trade_ms, Some(event_ms));
        self.last_trade_ms = self.last_trade_ms.max(Some(event_ms));
        if effect.high_low {
            self.priced += 1;
            self.high = self.high.max(Some(trade.price));
            self.low = min_some(self.low, Some(trade.price));
        }
        let mark = Mark {
            event_ms,
            position,
            price: trade.price,
        };
        match effect.last {
            Last::Always => {
                self.first = min_some(self.first, Some(mark));
                self.last = self.last.max(Some(mark));
            }
            Last::IfFirst => self.first = min_some(self.first, Some(mark)),
            Last::IfSole => {
                self.sole_trades += 1;
                self.sole_price_e8 += i128::from(trade.price.e8());
            }
            Last::Never => {}
        }
    }

    /// Whether admitted trades can have these totals, as far as each value shows by itself. Adding
    /// an epoch to possible totals never overflows.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        let is_time = |ms: &i64| EventTime::from_ms(*ms).is_some();
        let mark = |mark: &Mark| is_time(&mark.event_ms) && mark.position.offset >= 0;
        self.sums.iter().all(Sums::is_possible)
            && [self.priced, self.revision, self.sole_trades]
                .iter()
                .all(|count| *count <= MAX_BAR_TRADES)
            && (0..=i128::from(self.sole_trades) * i128::from(MAX_PRICE_E8))
                .contains(&self.sole_price_e8)
            && self.first.iter().chain(&self.last).all(mark)
            && self
                .first_trade_ms
                .iter()
                .chain(&self.last_trade_ms)
                .all(is_time)
    }

    /// Merges another partial of the same window: commutative and associative.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.sums.iter_mut().zip(&other.sums) {
            mine.add(theirs);
        }
        self.priced += other.priced;
        self.revision += other.revision;
        self.high = self.high.max(other.high);
        self.low = min_some(self.low, other.low);
        self.first = min_some(self.first, other.first);
        self.last = self.last.max(other.last);
        self.sole_trades += other.sole_trades;
        self.sole_price_e8 += other.sole_price_e8;
        self.first_trade_ms = min_some(self.first_trade_ms, other.first_trade_ms);
        self.last_trade_ms = self.last_trade_ms.max(other.last_trade_ms);
    }

    /// The sums of a policy.
    #[must_use]
    pub fn of_policy(&self, policy: Policy) -> &Sums {
        match policy {
            Policy::All => &self.sums[0],
            Policy::Sip => &self.sums[1],
            Policy::Strict => &self.sums[2],
        }
    }

    /// The first price of the window; `None` if no trade could set it.
    #[must_use]
    pub fn open(&self) -> Option<Price> {
        self.first.map(|mark| mark.price).or_else(|| self.sole())
    }

    /// The last price: the last unconditional trade's; without one, that of the first trade that
    /// counts if it is first; without one, the sole one's.
    #[must_use]
    pub fn close(&self) -> Option<Price> {
        self.last
            .or(self.first)
            .map(|mark| mark.price)
            .or_else(|| self.sole())
    }

    fn sole(&self) -> Option<Price> {
        (self.sole_trades == 1)
            .then(|| {
                i64::try_from(self.sole_price_e8)
                    .ok()
                    .and_then(|e8| Price::from_e8(e8).ok())
            })
            .flatten()
    }
}

/// The smaller of two, where `None` is no value at all (unlike `Option`'s own order, in which it is
/// the smallest).
fn min_some<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use crate::{Size, decimal::format_fixed};
    use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

    use super::*;

    type Print = (Trade, Position);

    fn print(event_ms: i64, offset: i64, price: &str, size: &str, codes: &[u8]) -> Print {
        let conditions = codes
            .iter()
            .fold(Conditions::NONE, |set, code| set.with(*code));
        let price = Price::parse(price).expect("a price").value;
        let size = Size::parse(size).expect("a size").value;
        let time = EventTime::from_ms(event_ms).expect("a time");
        (
            Trade::new(time, price, size, conditions).expect("a trade"),
            Position {
                partition: 0,
                offset,
                index: 0,
            },
        )
    }

    fn totals_of(prints: &[Print]) -> Totals {
        let mut totals = Totals::default();
        for (trade, position) in prints {
            totals.add_trade(trade, *position, false);
        }
        totals
    }

    /// Prints of a lively window: few distinct times and prices, so that ties are common, and every
    /// code of the table.
    fn random_prints(random: &mut StdRng) -> Vec<Print> {
        let count = random.random_range(1..40);
        let one = |offset| {
            let codes: Vec<u8> = (0..random.random_range(0..3))
                .map(|_| random.random_range(1..=43))
                .collect();
            let (price, size) = (
                format!(
                    "{}.{:08}",
                    random.random_range(1..4),
                    random.random_range(0..3)
                ),
                format!("0.{:08}", random.random_range(1..1_000_000)),
            );
            let (trade, mut position) =
                print(random.random_range(0..8), offset, &price, &size, &codes);
            position.partition = random.random_range(0..3);
            (trade, position)
        };
        (0..count).map(one).collect()
    }

    /// Merges partials pairwise, in a random order, until one is left.
    fn merge_randomly(mut partials: Vec<Totals>, random: &mut StdRng) -> Totals {
        while partials.len() > 1 {
            let other = partials.swap_remove(random.random_range(0..partials.len()));
            let at = random.random_range(0..partials.len());
            partials[at].merge(&other);
        }
        partials.pop().unwrap_or_default()
    }

    /// Open and close by reading the market rules aloud over the whole window in order; no part of
    /// it merges.
    fn open_and_close(prints: &[Print]) -> (Option<Price>, Option<Price>) {
        let mut ordered = prints.to_vec();
        ordered.sort_by_key(|(trade, position)| (trade.event_time, *position));
        let of = |classes: &[Last]| -> Vec<Price> {
            ordered
                .iter()
                .filter(|(trade, _)| classes.contains(&trade.conditions.effect().last))
                .map(|(trade, _)| trade.price)
                .collect()
        };
        let (unconditional, first, sole) = (
            of(&[Last::Always]),
            of(&[Last::Always, Last::IfFirst]),
            of(&[Last::IfSole]),
        );
        let alone = if let [price] = sole[..] {
            Some(price)
        } else {
            None
        };
        let open = first.first().copied().or(alone);
        let close = unconditional.last().or(first.first()).copied().or(alone);
        (open, close)
    }

    fn for_each_seed(check: impl Fn(&mut StdRng, &[Print])) {
        for seed in 0..500 {
            println!("seed {seed}");
            let mut random = StdRng::seed_from_u64(seed);
            let prints = random_prints(&mut random);
            check(&mut random, &prints);
        }
    }

    #[test]
    fn any_grouping_and_order_of_merges_gives_the_same_totals() {
        for_each_seed(|random, prints| {
            let want = totals_of(prints);
            let mut shuffled = prints.to_vec();
            shuffled.shuffle(random);
            assert_eq!(totals_of(&shuffled), want, "order");
            let partials = shuffled
                .chunks(random.random_range(1..=shuffled.len()))
                .map(totals_of)
                .collect();
            assert_eq!(merge_randomly(partials, random), want, "grouping");
            let mut merged = Totals::default();
            merged.merge(&want);
            merged.merge(&Totals::default());
            assert_eq!(merged, want, "nothing is neutral");
        });
    }

    #[test]
    fn open_and_close_are_those_of_the_ordered_window() {
        for_each_seed(|_, prints| {
            let totals = totals_of(prints);
            assert_eq!((totals.open(), totals.close()), open_and_close(prints));
        });
    }

    #[test]
    fn sums_and_extremes_are_those_of_the_trades_that_count() {
        for_each_seed(|_, prints| {
            let totals = totals_of(prints);
            let counted = |policy| -> Vec<&Trade> {
                let counts = |trade: &&Trade| {
                    let effect = trade.conditions.effect();
                    match policy {
                        Policy::All => true,
                        Policy::Sip => effect.volume,
                        Policy::Strict => effect.volume && effect.high_low,
                    }
                };
                prints
                    .iter()
                    .map(|(trade, _)| trade)
                    .filter(counts)
                    .collect()
            };
            for policy in Policy::EVERY {
                let trades = counted(policy);
                let want = Sums {
                    volume_e8: trades.iter().map(|trade| trade.size.e8()).sum(),
                    notional_e16: trades
                        .iter()
                        .map(|trade| trade.size.e8() * i128::from(trade.price.e8()))
                        .sum(),
                    trades: u64::try_from(trades.len()).expect("few"),
                };
                assert_eq!(totals.of_policy(policy), &want, "{}", policy.name());
            }
            let priced: Vec<Price> = prints
                .iter()
                .filter(|(trade, _)| trade.conditions.effect().high_low)
                .map(|(trade, _)| trade.price)
                .collect();
            assert_eq!(
                (totals.high, totals.low),
                (priced.iter().max().copied(), priced.iter().min().copied())
            );
            assert_eq!(totals.priced, u64::try_from(priced.len()).expect("few"));
        });
    }

    #[test]
    fn a_strict_vwap_lies_between_low_and_high() {
        let mut seen = std::cell::Cell::new(0);
        for_each_seed(|_, prints| {
            let totals = totals_of(prints);
            if let Some(vwap) = totals.of_policy(Policy::Strict).vwap_e8() {
                let (low, high) = (
                    totals.low.expect("a strict trade is priced"),
                    totals.high.expect("a strict trade is priced"),
                );
                assert!(
                    i128::from(low.e8()) <= vwap && vwap <= i128::from(high.e8()),
                    "{low} {vwap} {high}"
                );
                seen.set(seen.get() + 1);
            }
        });
        assert!(*seen.get_mut() > 250, "most windows have a strict trade");
    }

    /// Prints one millisecond apart, each given by its codes, at prices 1, 2, 3...; what open and
    /// close must be.
    fn check(classes: &[&[u8]], open: Option<i64>, close: Option<i64>) {
        let prints: Vec<Print> = (1..)
            .zip(classes)
            .map(|(n, codes)| print(n, 100 - n, &n.to_string(), "1", codes))
            .collect();
        let whole = |price: Option<Price>| price.map(|price| price.e8() / 100_000_000);
        let totals = totals_of(&prints);
        assert_eq!(
            (whole(totals.open()), whole(totals.close())),
            (open, close),
            "{classes:?}"
        );
    }

    #[test]
    fn unconditional_trades_set_open_and_close() {
        check(&[&[1], &[], &[8]], Some(1), Some(3));
        check(&[&[41]], Some(1), Some(1));
        check(&[&[39], &[12], &[16]], Some(1), Some(1));
        check(&[], None, None);
    }

    #[test]
    fn a_trade_that_counts_if_it_is_first_sets_open_but_close_only_alone() {
        check(&[&[15], &[1], &[18]], Some(1), Some(2));
        check(&[&[1], &[15]], Some(1), Some(1));
        check(&[&[15], &[18]], Some(1), Some(1));
        check(&[&[9], &[18], &[12]], Some(2), Some(2));
    }

    #[test]
    fn a_trade_that_counts_if_it_is_sole_sets_both_only_if_nothing_else_qualifies() {
        for code in [9, 21, 30, 32] {
            check(&[&[code]], Some(1), Some(1));
            check(&[&[12], &[code], &[16]], Some(2), Some(2));
            check(&[&[code], &[code]], None, None);
            check(&[&[code], &[1]], Some(2), Some(2));
            check(&[&[1], &[code]], Some(1), Some(1));
        }
    }

    #[test]
    fn odd_lots_have_volume_and_no_price() {
        let totals = totals_of(&[
            print(1, 1, "10", "3", &[12]),
            print(2, 2, "11", "4", &[1, 12]),
        ]);
        assert_eq!(
            (
                totals.open(),
                totals.high,
                totals.low,
                totals.close(),
                totals.priced
            ),
            (None, None, None, None, 0)
        );
        assert_eq!(totals.of_policy(Policy::Sip).volume_e8, 700_000_000);
        assert_eq!(totals.of_policy(Policy::Strict), &Sums::default());
        assert_eq!(totals.of_policy(Policy::Strict).vwap_e8(), None);
    }

    #[test]
    fn ties_in_event_time_are_decided_by_position() {
        let prints = [
            print(5, 8, "3", "1", &[]),
            print(5, 7, "2", "1", &[]),
            print(5, 9, "1", "1", &[]),
        ];
        let totals = totals_of(&prints);
        assert_eq!(
            (totals.open().map(Price::e8), totals.close().map(Price::e8)),
            (Some(200_000_000), Some(100_000_000))
        );
    }

    #[test]
    fn the_totals_of_admitted_trades_are_possible_and_so_are_the_largest() {
        for_each_seed(|_, prints| assert!(totals_of(prints).is_possible()));
        let sums = Sums {
            volume_e8: i128::from(MAX_BAR_TRADES) * MAX_SIZE_E8,
            notional_e16: i128::from(MAX_BAR_TRADES) * MAX_NOTIONAL_E16,
            trades: MAX_BAR_TRADES,
        };
        let largest = Totals {
            sums: [sums; 3],
            ..Totals::default()
        };
        assert!(largest.is_possible());
        let mut with_an_epoch = largest;
        for _ in 0..1_000 {
            with_an_epoch.merge(&Totals {
                sums: [Sums {
                    volume_e8: MAX_SIZE_E8,
                    notional_e16: MAX_NOTIONAL_E16,
                    trades: 1,
                }; 3],
                ..Totals::default()
            });
        }
        assert!(!with_an_epoch.is_possible());
    }

    #[test]
    fn late_trades_are_counted_and_change_no_value() {
        let (trade, position) = print(1, 1, "10", "3", &[]);
        let (late, early) = (
            Totals::of(&trade, position, true),
            Totals::of(&trade, position, false),
        );
        assert_eq!((late.revision, early.revision), (1, 0));
        assert_eq!(
            Totals {
                revision: 0,
                ..late
            },
            early
        );
    }

    #[test]
    fn the_golden_tsla_window_has_its_known_vwap() {
        // Known of the real frame are its sums: 7 prints, volume 107, notional 13064.56. These are
        // prints that make them.
        let prints = [
            ("122.06", "1"),
            ("122.09", "10"),
            ("122.1", "5"),
            ("122.1", "25"),
            ("122.1", "50"),
            ("122.1", "6"),
            ("122.1", "10"),
        ];
        let prints: Vec<Print> = (1..)
            .zip(prints)
            .map(|(n, (price, size))| print(n, n, price, size, &[]))
            .collect();
        let totals = totals_of(&prints);
        for policy in Policy::EVERY {
            let sums = totals.of_policy(policy);
            assert_eq!(
                (sums.trades, sums.volume_e8, sums.notional_e16),
                (7, 10_700_000_000, 130_645_600_000_000_000_000),
                "{}",
                policy.name()
            );
            assert_eq!(
                sums.vwap_e8().map(|vwap| format_fixed(vwap, 8)).as_deref(),
                Some("122.09869159"),
                "122.098691588785..., half-even"
            );
        }
    }
}
