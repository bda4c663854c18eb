//! Views: rankings and sums over the bars of one window.
//!
//! A view is made from scratch each time, so a late trade needs no special case.

use std::collections::BTreeMap;

use tapeflow_schemas::{AssetClass, Baskets, QuoteCurrency, WindowSize};

use crate::accumulator::OracleBar;

/// Entries of a ranking of symbols.
const MAX_RANKS: usize = 10;
/// Windows shorter than a minute have no views.
const SHORTEST_MS: i64 = 60_000;

/// Whether windows of a size have views. Trading sessions have none.
pub(crate) fn has_views(size: WindowSize) -> bool {
    size.ms() >= SHORTEST_MS && !size.is_session()
}

/// The views. All use policy `sip`: the trades whose size the consolidated tape counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OracleView {
    /// In each known quote currency, symbols by notional, the greatest first; at most ten.
    Active,
    /// Symbols by the absolute change from open to close as a share of open, the greatest first; at
    /// most ten, and only those that changed.
    Movers,
    /// The user's baskets, by quote currency and name.
    Baskets,
    /// Asset classes, by quote currency and name. Without volume, and in an unknown currency
    /// without notional.
    Market,
}

/// One entry of a view. Volume is in 1e-8 and notional in 1e-16; those of a basket are in 1e-12 and
/// 1e-20, because weights have four decimals. Prices are in 1e-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OracleEntry {
    /// The currency of prices and notional.
    pub quote: QuoteCurrency,
    /// The symbol, the basket or the asset class.
    pub name: String,
    /// Symbols that have a bar in the window.
    pub symbols: u64,
    /// Trades counted.
    pub trades: u64,
    /// Units traded, if they add up.
    pub volume: Option<i128>,
    /// Price times size, summed, if it is in one currency.
    pub notional: Option<i128>,
    /// The first price of a symbol.
    pub open: Option<i64>,
    /// The last price of a symbol.
    pub close: Option<i64>,
}

/// The entries of a view over the bars of a window, which are ascending by symbol. `None` if no bar
/// makes the view.
pub(crate) fn entries(
    view: OracleView,
    bars: &[(&str, OracleBar)],
    baskets: &Baskets,
) -> Option<Vec<OracleEntry>> {
    if bars.is_empty() {
        return None;
    }
    match view {
        OracleView::Active => Some(active(bars)),
        OracleView::Movers => {
            let mut ranked = all_movers(bars);
            ranked.truncate(MAX_RANKS);
            Some(ranked)
        }
        OracleView::Market => Some(market(bars)),
        OracleView::Baskets => {
            Some(of_baskets(bars, baskets)).filter(|entries| !entries.is_empty())
        }
    }
}

fn active(bars: &[(&str, OracleBar)]) -> Vec<OracleEntry> {
    let mut ranked: Vec<OracleEntry> = bars
        .iter()
        .map(|(symbol, bar)| of_symbol(symbol, bar))
        .filter(|entry| entry.quote != QuoteCurrency::UNKNOWN)
        .collect();
    // The sort is stable, so equal symbols stay ordered by name.
    ranked.sort_by_key(|entry| (entry.quote, std::cmp::Reverse(entry.notional)));
    let mut listed: BTreeMap<QuoteCurrency, usize> = BTreeMap::new();
    ranked.retain(|entry| {
        let count = listed.entry(entry.quote).or_default();
        *count += 1;
        *count <= MAX_RANKS
    });
    ranked
}

/// Every symbol that moved, the greatest move first.
pub(crate) fn all_movers(bars: &[(&str, OracleBar)]) -> Vec<OracleEntry> {
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
    // a/b > c/d is a*d > c*b. The sort is stable.
    ranked.sort_by(|(a, b, _), (c, d, _)| (c * b).cmp(&(a * d)));
    ranked.into_iter().map(|(_, _, entry)| entry).collect()
}

fn market(bars: &[(&str, OracleBar)]) -> Vec<OracleEntry> {
    let mut groups: BTreeMap<(QuoteCurrency, &str), Vec<&OracleBar>> = BTreeMap::new();
    for (symbol, bar) in bars {
        let group = (QuoteCurrency::of(symbol), AssetClass::of(symbol).name());
        groups.entry(group).or_default().push(bar);
    }
    let sum = |((quote, class), bars): ((QuoteCurrency, &str), Vec<&OracleBar>)| {
        let sum = sum_of(quote, class, bars.into_iter().map(|bar| (1, bar)))?;
        Some(OracleEntry {
            volume: None,
            notional: sum.notional.filter(|_| quote != QuoteCurrency::UNKNOWN),
            ..sum
        })
    };
    groups.into_iter().filter_map(sum).collect()
}

fn of_baskets(bars: &[(&str, OracleBar)], baskets: &Baskets) -> Vec<OracleEntry> {
    let mut sums: Vec<OracleEntry> = baskets
        .iter()
        .filter_map(|(name, members)| {
            let mut weighted = bars
                .iter()
                .filter_map(|(symbol, bar)| Some((symbol, members.get(*symbol)?.e4(), bar)))
                .peekable();
            // All members have one quote currency.
            let (symbol, ..) = weighted.peek()?;
            let quote = QuoteCurrency::of(symbol);
            sum_of(quote, name, weighted.map(|(_, weight, bar)| (weight, bar)))
        })
        .collect();
    sums.sort_by(|a, b| (a.quote, &a.name).cmp(&(b.quote, &b.name)));
    sums
}

/// The weighted sum of bars; `None` without bars. Trades are not weighted.
fn sum_of<'a>(
    quote: QuoteCurrency,
    name: &str,
    bars: impl Iterator<Item = (i128, &'a OracleBar)>,
) -> Option<OracleEntry> {
    // All terms are positive, so a sum that does not fit saturates at the largest 128-bit number.
    let (mut symbols, mut trades, mut volume, mut notional) = (0, 0, 0i128, 0i128);
    for (weight, bar) in bars {
        symbols += 1;
        trades += bar.sip.trades;
        volume = volume.saturating_add(weight.saturating_mul(bar.sip.volume_e8));
        notional = notional.saturating_add(weight.saturating_mul(bar.sip.notional_e16));
    }
    (symbols > 0).then(|| OracleEntry {
        quote,
        name: name.to_owned(),
        symbols,
        trades,
        volume: Some(volume),
        notional: Some(notional),
        open: None,
        close: None,
    })
}

fn of_symbol(symbol: &str, bar: &OracleBar) -> OracleEntry {
    OracleEntry {
        quote: QuoteCurrency::of(symbol),
        name: symbol.to_owned(),
        symbols: 1,
        trades: bar.sip.trades,
        volume: Some(bar.sip.volume_e8),
        notional: Some(bar.sip.notional_e16),
        open: bar.open,
        close: bar.close,
    }
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::decimal::MAX_PRICE_E8;

    use super::*;
    use crate::OracleSums;

    /// Bars of (symbol, notional, open, close) by symbol. Volume is twice the notional and trades
    /// are three times the notional, so that a confusion is noticed.
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
        let entries = entries(view, bars, &Baskets::default())?;
        Some(
            entries
                .iter()
                .map(|entry| entry.name.as_str())
                .collect::<Vec<_>>()
                .join(" "),
        )
    }

    type Sums = (String, u64, u64, Option<i128>, Option<i128>);

    fn sums(entries: Option<Vec<OracleEntry>>) -> Vec<Sums> {
        let entries = entries.expect("a view");
        assert!(
            entries
                .iter()
                .all(|entry| entry.open.is_none() && entry.close.is_none()),
            "a sum has no price"
        );
        entries
            .into_iter()
            .map(|entry| {
                (
                    format!("{} {}", entry.quote, entry.name),
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
        let found = entries(
            OracleView::Active,
            &bars(&[("A", 7, Some(3), Some(4))]),
            &Baskets::default(),
        )
        .expect("a view");
        assert_eq!(
            found,
            [OracleEntry {
                quote: QuoteCurrency::USD,
                name: "A".into(),
                symbols: 1,
                trades: 21,
                volume: Some(14),
                notional: Some(7),
                open: Some(3),
                close: Some(4)
            }]
        );
    }

    #[test]
    fn the_active_are_ranked_within_their_quote_currency() {
        let of = bars(&[
            ("AAPL", 5, None, None),
            ("OANDA:USD_JPY", 800, None, None),
            ("BINANCE:BTCUSDT", 11, None, None),
            ("IC MARKETS:1", 900, None, None),
            ("OANDA:EUR_USD", 7, None, None),
            ("OANDA:EUR_JPY", 801, None, None),
        ]);
        assert_eq!(
            names(OracleView::Active, &of).as_deref(),
            Some("OANDA:EUR_JPY OANDA:USD_JPY OANDA:EUR_USD AAPL BINANCE:BTCUSDT")
        );
        let many: Vec<String> = (10..22)
            .flat_map(|n| [format!("S{n}"), format!("BINANCE:C{n}USDT")])
            .collect();
        let of: Vec<_> = many
            .iter()
            .map(|symbol| (symbol.as_str(), 5, None, None))
            .collect();
        let ranked = names(OracleView::Active, &bars(&of)).expect("a view");
        let ranked: Vec<&str> = ranked.split(' ').collect();
        assert_eq!(
            (ranked.len(), ranked[9], ranked[10]),
            (20, "S19", "BINANCE:C10USDT")
        );
        assert_eq!(
            names(
                OracleView::Active,
                &bars(&[("IC MARKETS:1", 1, None, None)])
            )
            .as_deref(),
            Some(""),
            "a view without entries is a view"
        );
    }

    #[test]
    fn ten_are_ranked_and_the_eleventh_is_not_though_it_equals_the_tenth() {
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
            // 10 % down and 10 % up are equal, so the order is by name.
            ("UP", 1, Some(200), Some(220)),
            ("DOWN", 1, Some(1_000), Some(900)),
            // Down by a half, and up by three times.
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
            "a view without entries is a view"
        );
    }

    #[test]
    fn shares_that_are_equal_as_doubles_are_ranked_exactly() {
        // 1/(m-1) is greater than 1/m by one part in 1e34.
        let m = MAX_PRICE_E8;
        let of = bars(&[
            ("A", 1, Some(m), Some(m - 1)),
            ("B", 1, Some(m - 1), Some(m - 2)),
            ("C", 1, Some(1), Some(m)),
        ]);
        assert_eq!(names(OracleView::Movers, &of).as_deref(), Some("C B A"));
    }

    #[test]
    fn the_market_is_summed_by_quote_currency_and_class_and_without_volume() {
        let of = bars(&[
            ("AAPL", 5, Some(1), Some(2)),
            ("MSFT", 7, None, None),
            ("BINANCE:BTCUSDT", 11, None, None),
            ("OANDA:EUR_USD", 0, None, None),
            ("OANDA:USD_JPY", 900, None, None),
            ("IC MARKETS:1", 13, None, None),
            ("IC MARKETS:2", 17, None, None),
        ]);
        let want = [
            ("JPY forex".into(), 1, 2_700, None, Some(900)),
            ("USD forex".into(), 1, 0, None, Some(0)),
            ("USD stock".into(), 2, 36, None, Some(12)),
            ("USDT crypto".into(), 1, 33, None, Some(11)),
            ("unknown forex".into(), 2, 90, None, None),
        ];
        assert_eq!(
            sums(entries(OracleView::Market, &of, &Baskets::default())),
            want
        );
        assert_eq!(
            sums(entries(OracleView::Market, &of[..1], &Baskets::default())),
            [("USD stock".into(), 1, 15, None, Some(5))]
        );
    }

    #[test]
    fn baskets_are_weighted_sums_and_only_those_with_a_member_in_the_window_are_in_the_view() {
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
            sums(entries(OracleView::Baskets, &of, &baskets)),
            [("USD tech".into(), 2, 36, Some(330_000), Some(165_000))]
        );
        assert_eq!(
            entries(
                OracleView::Baskets,
                &bars(&[("OTHER", 1, None, None)]),
                &baskets
            ),
            None,
            "no member, no view"
        );
        let zero = entries(
            OracleView::Baskets,
            &bars(&[("BINANCE:BTCUSDT", 0, None, None)]),
            &baskets,
        );
        assert_eq!(
            sums(zero),
            [("USDT coins".into(), 1, 0, Some(0), Some(0))],
            "a bar counts, whatever it contains"
        );
    }
}
