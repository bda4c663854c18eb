//! What relates the bars of one window to each other: lists, made from the bars whenever they are
//! asked for.
//!
//! Nothing is carried from one list to the next, so a late trade needs no thought here: the bars
//! are what they are, and the list is made anew.

use tapeflow_schemas::{AssetClass, Baskets};

use crate::fold::OracleBar;

/// Lines of the lists that rank symbols.
const LINES: usize = 10;
/// Windows shorter than a minute have no lists.
pub(crate) const SHORTEST_MS: i64 = 60_000;

/// Which list. All are made of the trades whose size the tape counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OracleView {
    /// Symbols by notional, the greatest first.
    Active,
    /// Symbols by how far close is from open as a share of open, the farthest first; only such that
    /// moved.
    Movers,
    /// The user's baskets by name.
    Baskets,
    /// Asset classes by name.
    Market,
}

/// One line of a list. Volume is in 1e-8 and notional in 1e-16; a basket's are in 1e-12 and 1e-20,
/// for weights have four places. Prices are in 1e-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OracleEntry {
    /// The symbol, the basket or the class.
    pub name: String,
    /// Symbols that have a bar in the window.
    pub symbols: u64,
    /// Trades counted.
    pub trades: u64,
    /// Units traded.
    pub volume: i128,
    /// Price times size, summed.
    pub notional: i128,
    /// The first price of a symbol.
    pub open: Option<i64>,
    /// The last price of a symbol.
    pub close: Option<i64>,
}

/// The list that these bars of a window make, given by symbol, ascending; `None` if none of them
/// calls for one.
pub(crate) fn list(
    view: OracleView,
    bars: &[(&str, OracleBar)],
    baskets: &Baskets,
) -> Option<Vec<OracleEntry>> {
    if bars.is_empty() {
        return None;
    }
    match view {
        OracleView::Active => Some(active(bars)),
        OracleView::Movers => Some(movers(bars)),
        OracleView::Market => Some(market(bars)),
        OracleView::Baskets => Some(of_baskets(bars, baskets)).filter(|list| !list.is_empty()),
    }
}

fn active(bars: &[(&str, OracleBar)]) -> Vec<OracleEntry> {
    let mut ranked: Vec<_> = bars.iter().collect();
    // A stable sort of what comes by name: equal ones stay by name.
    ranked.sort_by_key(|(_, bar)| std::cmp::Reverse(bar.sip.notional_e16));
    ranked
        .into_iter()
        .take(LINES)
        .map(|(symbol, bar)| of_symbol(symbol, bar))
        .collect()
}

fn movers(bars: &[(&str, OracleBar)]) -> Vec<OracleEntry> {
    let mut ranked = Vec::new();
    for (symbol, bar) in bars {
        if let (Some(open), Some(close)) = (bar.open, bar.close)
            && open != close
        {
            ranked.push((
                i128::from((close - open).abs()),
                i128::from(open),
                of_symbol(symbol, bar),
            ));
        }
    }
    // a/b against c/d is a*d against c*b. Likewise stable.
    ranked.sort_by(|(a, b, _), (c, d, _)| (c * b).cmp(&(a * d)));
    ranked
        .into_iter()
        .take(LINES)
        .map(|(_, _, entry)| entry)
        .collect()
}

fn market(bars: &[(&str, OracleBar)]) -> Vec<OracleEntry> {
    let mut classes = [AssetClass::Crypto, AssetClass::Forex, AssetClass::Stock];
    classes.sort_by_key(|class| class.name());
    let sum = |class: AssetClass| {
        sum_of(
            class.name(),
            bars.iter()
                .filter(|(symbol, _)| AssetClass::of(symbol) == class)
                .map(|(_, bar)| (1, bar)),
        )
    };
    classes.into_iter().filter_map(sum).collect()
}

fn of_baskets(bars: &[(&str, OracleBar)], baskets: &Baskets) -> Vec<OracleEntry> {
    let baskets = baskets.iter().filter_map(|(name, members)| {
        let weighed = bars
            .iter()
            .filter_map(|(symbol, bar)| Some((members.get(*symbol)?.e4(), bar)));
        sum_of(name, weighed)
    });
    baskets.collect()
}

/// Weighted bars added up; `None` without any. Trades are counted, not weighed.
fn sum_of<'a>(
    name: &str,
    bars: impl Iterator<Item = (i128, &'a OracleBar)>,
) -> Option<OracleEntry> {
    // All is above zero, so the largest number of 128 bits stands for whatever is beyond it.
    let mut sum = OracleEntry {
        name: name.to_owned(),
        symbols: 0,
        trades: 0,
        volume: 0,
        notional: 0,
        open: None,
        close: None,
    };
    for (weight, bar) in bars {
        sum.symbols += 1;
        sum.trades += bar.sip.trades;
        sum.volume = sum
            .volume
            .saturating_add(weight.saturating_mul(bar.sip.volume_e8));
        sum.notional = sum
            .notional
            .saturating_add(weight.saturating_mul(bar.sip.notional_e16));
    }
    (sum.symbols > 0).then_some(sum)
}

fn of_symbol(symbol: &str, bar: &OracleBar) -> OracleEntry {
    OracleEntry {
        name: symbol.to_owned(),
        symbols: 1,
        trades: bar.sip.trades,
        volume: bar.sip.volume_e8,
        notional: bar.sip.notional_e16,
        open: bar.open,
        close: bar.close,
    }
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::decimal::MAX_PRICE_E8;

    use super::*;
    use crate::OracleSums;

    /// Bars of (symbol, notional, open, close) by symbol; volume is twice and trades thrice the
    /// notional, so that none is taken for another.
    fn bars<'a>(of: &[(&'a str, i128, Option<i64>, Option<i64>)]) -> Vec<(&'a str, OracleBar)> {
        let bar = |&(symbol, notional_e16, open, close)| {
            let sums = OracleSums {
                volume_e8: 2 * notional_e16,
                notional_e16,
                trades: 3 * u64::try_from(notional_e16).expect("not below zero"),
            };
            let all = OracleSums {
                volume_e8: 999,
                notional_e16: 999,
                trades: 999,
            };
            (
                symbol,
                OracleBar {
                    all,
                    sip: sums,
                    open,
                    close,
                    ..OracleBar::default()
                },
            )
        };
        let mut bars: Vec<_> = of.iter().map(bar).collect();
        bars.sort_by_key(|(symbol, _)| *symbol);
        bars
    }

    fn names(view: OracleView, bars: &[(&str, OracleBar)]) -> Option<String> {
        let list = list(view, bars, &Baskets::default())?;
        Some(
            list.iter()
                .map(|entry| entry.name.as_str())
                .collect::<Vec<_>>()
                .join(" "),
        )
    }

    fn sums(list: Option<Vec<OracleEntry>>) -> Vec<(String, u64, u64, i128, i128)> {
        let list = list.expect("a list");
        assert!(
            list.iter()
                .all(|entry| entry.open.is_none() && entry.close.is_none()),
            "a sum has no price"
        );
        list.into_iter()
            .map(|entry| {
                (
                    entry.name,
                    entry.symbols,
                    entry.trades,
                    entry.volume,
                    entry.notional,
                )
            })
            .collect()
    }

    #[test]
    fn the_active_are_ranked_by_notional_and_equal_ones_by_the_bytes_of_their_names() {
        let of = bars(&[
            ("B", 5, None, None),
            ("b", 5, None, None),
            ("A", 7, None, None),
            ("Z", 7, None, None),
            ("NOTHING", 0, None, None),
        ]);
        assert_eq!(
            names(OracleView::Active, &of).as_deref(),
            Some("A Z B b NOTHING")
        );
        assert_eq!(names(OracleView::Active, &[]), None);
        let list = list(
            OracleView::Active,
            &bars(&[("A", 7, Some(3), Some(4))]),
            &Baskets::default(),
        )
        .expect("a list");
        assert_eq!(
            list,
            [OracleEntry {
                name: "A".into(),
                symbols: 1,
                trades: 21,
                volume: 14,
                notional: 7,
                open: Some(3),
                close: Some(4)
            }]
        );
    }

    #[test]
    fn ten_are_listed_and_the_eleventh_is_not_though_it_equals_the_tenth() {
        let symbols: Vec<String> = (0..12).map(|n| format!("S{n:02}")).collect();
        let of: Vec<_> = symbols
            .iter()
            .map(|symbol| (symbol.as_str(), 5, Some(100), Some(110)))
            .collect();
        let first_ten = symbols[..10].join(" ");
        assert_eq!(
            names(OracleView::Active, &bars(&of)),
            Some(first_ten.clone())
        );
        assert_eq!(names(OracleView::Movers, &bars(&of)), Some(first_ten));
    }

    #[test]
    fn movers_are_ranked_by_their_share_of_open_in_either_direction() {
        let of = bars(&[
            // 10 % down, 10 % up: equal, so by name.
            ("UP", 1, Some(200), Some(220)),
            ("DOWN", 1, Some(1_000), Some(900)),
            // Half down, and three times up.
            ("HALF", 1, Some(2), Some(1)),
            ("THREE", 1, Some(1), Some(4)),
            ("STILL", 1, Some(5), Some(5)),
            ("ONLY OPEN", 1, Some(5), None),
            ("NO PRICE", 1, None, None),
        ]);
        assert_eq!(
            names(OracleView::Movers, &of).as_deref(),
            Some("THREE HALF DOWN UP")
        );
        assert_eq!(
            names(OracleView::Movers, &bars(&[("STILL", 1, Some(5), Some(5))])).as_deref(),
            Some(""),
            "a list without lines is one"
        );
    }

    #[test]
    fn shares_that_doubles_cannot_tell_apart_are_told_apart() {
        // 1/(m-1) is the greater, by one part in 1e34.
        let m = MAX_PRICE_E8;
        let of = bars(&[
            ("A", 1, Some(m), Some(m - 1)),
            ("B", 1, Some(m - 1), Some(m - 2)),
            ("C", 1, Some(1), Some(m)),
        ]);
        assert_eq!(names(OracleView::Movers, &of).as_deref(), Some("C B A"));
    }

    #[test]
    fn the_market_is_summed_by_class() {
        let of = bars(&[
            ("AAPL", 5, Some(1), Some(2)),
            ("MSFT", 7, None, None),
            ("BINANCE:BTCUSDT", 11, None, None),
            ("OANDA:EUR_USD", 0, None, None),
            ("IC MARKETS:1", 13, None, None),
        ]);
        let want = [
            ("crypto".into(), 1, 33, 22, 11),
            ("forex".into(), 2, 39, 26, 13),
            ("stock".into(), 2, 36, 24, 12),
        ];
        assert_eq!(
            sums(list(OracleView::Market, &of, &Baskets::default())),
            want
        );
        assert_eq!(
            sums(list(OracleView::Market, &of[..1], &Baskets::default())),
            [("stock".into(), 1, 15, 10, 5)]
        );
    }

    #[test]
    fn baskets_weigh_sums_and_only_those_with_a_member_in_the_window_are_listed() {
        let baskets = Baskets::parse(
            "tech,AAPL,0.5\ntech,MSFT,2\ntech,GONE,1\ncoins,BINANCE:BTCUSDT,100\nabsent,NONE,1\n",
        )
        .expect("baskets");
        let of = bars(&[
            ("AAPL", 5, None, None),
            ("MSFT", 7, None, None),
            ("OTHER", 1_000, None, None),
        ]);
        // 0.5 * 10 + 2 * 14 = 33, 0.5 * 5 + 2 * 7 = 16.5, in units of 1e-4.
        assert_eq!(
            sums(list(OracleView::Baskets, &of, &baskets)),
            [("tech".into(), 2, 36, 330_000, 165_000)]
        );
        assert_eq!(
            list(
                OracleView::Baskets,
                &bars(&[("OTHER", 1, None, None)]),
                &baskets
            ),
            None,
            "no member, no list"
        );
        let zero = list(
            OracleView::Baskets,
            &bars(&[("BINANCE:BTCUSDT", 0, None, None)]),
            &baskets,
        );
        assert_eq!(
            sums(zero),
            [("coins".into(), 1, 0, 0, 0)],
            "a bar counts, whatever is in it"
        );
    }
}
