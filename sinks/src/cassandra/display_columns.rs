//! Display columns: what dashboards read beside the state cell of a bar, by the policy `sip`, and
//! the ranks of a view. All of them derive from the cell, and an audit compares them with it.

use std::collections::BTreeMap;

use scylla::{DeserializeRow, SerializeRow, value::CqlTimestamp};
use tapeflow_protocol::{
    Audited,
    audit::{Mismatches, entries_ahead},
};
use tapeflow_schemas::{
    BarWrite, Epoch, Policy, Price, View, ViewEntry, ViewState, ViewWrite,
    decimal::{SCALE, format_fixed},
    view::TOP,
    window::bucket,
};

/// The values of one bar, in the order of the statement in [`super::bars`]. None is null: a null
/// would be a tombstone at the write timestamp.
#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub(super) struct BarColumns<'a> {
    symbol: &'a str,
    bucket: CqlTimestamp,
    size: &'a str,
    start: CqlTimestamp,
    epoch: i64,
    open: f64,
    high: f64,
    low: f64,
    close: f64,
    vwap: f64,
    volume: f64,
    notional: f64,
    trades: i64,
    revision: i64,
    state: Vec<u8>,
    write_timestamp: i64,
}

impl<'a> BarColumns<'a> {
    /// The columns of a bar; `size` is the text of its size.
    pub(super) fn of(bar: &'a BarWrite, size: &'a str) -> Self {
        let totals = &bar.state.totals;
        let sums = totals.of_policy(Policy::Sip);
        Self {
            symbol: bar.key.symbol.as_str(),
            bucket: CqlTimestamp(bucket(bar.key.start)),
            size,
            start: CqlTimestamp(bar.key.start),
            epoch: bigint(bar.state.epoch),
            open: price(totals.open()),
            high: price(totals.high),
            low: price(totals.low),
            close: price(totals.close()),
            vwap: sums.vwap_e8().map_or(f64::NAN, |e8| double(e8, SCALE)),
            volume: double(sums.volume_e8, SCALE),
            notional: double(sums.notional_e16, 2 * SCALE),
            trades: bigint(sums.trades),
            revision: bigint(totals.revision),
            state: bar.to_cell(),
            write_timestamp: bar.write_timestamp,
        }
    }
}

/// The columns of a bar as an audit reads them.
#[derive(DeserializeRow)]
pub(super) struct FoundBar {
    pub(super) start: CqlTimestamp,
    pub(super) state: Option<Vec<u8>>,
    pub(super) epoch: Option<i64>,
    open: Option<f64>,
    high: Option<f64>,
    low: Option<f64>,
    close: Option<f64>,
    vwap: Option<f64>,
    volume: Option<f64>,
    notional: Option<f64>,
    trades: Option<i64>,
    revision: Option<i64>,
}

impl FoundBar {
    /// The columns, for a SELECT.
    pub(super) const COLUMNS: &str = "start, state, epoch, open, high, low, close, vwap, volume, \
         notional, trades, revision";

    /// The columns that differ from those that the cell implies.
    pub(super) fn mismatches(&self, expected: &BarColumns<'_>) -> Vec<String> {
        let mut mismatches = Mismatches::default();
        for (column, found, expected) in [
            ("open", self.open, expected.open),
            ("high", self.high, expected.high),
            ("low", self.low, expected.low),
            ("close", self.close, expected.close),
            ("vwap", self.vwap, expected.vwap),
            ("volume", self.volume, expected.volume),
            ("notional", self.notional, expected.notional),
        ] {
            mismatches.compare_double(column, found, Some(expected));
        }
        for (column, found, expected) in [
            ("epoch", self.epoch, expected.epoch),
            ("trades", self.trades, expected.trades),
            ("revision", self.revision, expected.revision),
        ] {
            mismatches.compare(column, found, Some(expected));
        }
        mismatches.0
    }
}

/// The values of one rank of a view, in the order of the statement in [`super::views`]. As with a
/// bar, none is null.
#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub(super) struct RankColumns<'a> {
    view_name: &'a str,
    size: &'a str,
    bucket: CqlTimestamp,
    ranked_in: &'static str,
    start: CqlTimestamp,
    rank: i32,
    epoch: i64,
    quote: &'static str,
    name: &'a str,
    symbols: i64,
    trades: i64,
    volume: f64,
    notional: f64,
    vwap: f64,
    open: f64,
    close: f64,
    change_pct: f64,
    volume_exact: String,
    notional_exact: String,
    vwap_exact: String,
    change_pct_exact: String,
    write_timestamp: i64,
}

/// The columns of a rank as an audit reads them.
#[derive(DeserializeRow)]
pub(super) struct FoundRank {
    ranked_in: String,
    pub(super) start: CqlTimestamp,
    rank: i32,
    epoch: Option<i64>,
    quote: Option<String>,
    name: Option<String>,
    symbols: Option<i64>,
    trades: Option<i64>,
    volume: Option<f64>,
    notional: Option<f64>,
    vwap: Option<f64>,
    open: Option<f64>,
    close: Option<f64>,
    change_pct: Option<f64>,
    volume_exact: Option<String>,
    notional_exact: Option<String>,
    vwap_exact: Option<String>,
    change_pct_exact: Option<String>,
}

impl FoundRank {
    /// The columns, for a SELECT.
    pub(super) const COLUMNS: &str = "ranked_in, start, rank, epoch, quote, name, symbols, trades, \
         volume, notional, vwap, open, close, change_pct, volume_exact, notional_exact, \
         vwap_exact, change_pct_exact";

    /// How a message names it.
    fn rank_name(&self) -> String {
        rank_name(&self.ranked_in, self.rank)
    }

    fn is_at(&self, (ranked_in, rank): (&str, i32)) -> bool {
        self.ranked_in == ranked_in && self.rank == rank
    }

    fn of_epoch(&self) -> Epoch {
        self.epoch
            .and_then(|epoch| u64::try_from(epoch).ok())
            .unwrap_or(0)
    }

    fn compare(&self, expected: &RankColumns<'_>, mismatches: &mut Mismatches) {
        let rank = self.rank_name();
        let named = |column: &str| format!("{column} of rank {rank}");
        for (column, found, expected) in [
            ("volume", self.volume, expected.volume),
            ("notional", self.notional, expected.notional),
            ("vwap", self.vwap, expected.vwap),
            ("open", self.open, expected.open),
            ("close", self.close, expected.close),
            ("change_pct", self.change_pct, expected.change_pct),
        ] {
            mismatches.compare_double(&named(column), found, Some(expected));
        }
        for (column, found, expected) in [
            ("quote", &self.quote, expected.quote),
            ("name", &self.name, expected.name),
            ("volume_exact", &self.volume_exact, &expected.volume_exact),
            (
                "notional_exact",
                &self.notional_exact,
                &expected.notional_exact,
            ),
            ("vwap_exact", &self.vwap_exact, &expected.vwap_exact),
            (
                "change_pct_exact",
                &self.change_pct_exact,
                &expected.change_pct_exact,
            ),
        ] {
            mismatches.compare(&named(column), found.as_deref(), Some(expected));
        }
        for (column, found, expected) in [
            ("epoch", self.epoch, expected.epoch),
            ("symbols", self.symbols, expected.symbols),
            ("trades", self.trades, expected.trades),
        ] {
            mismatches.compare(&named(column), found, Some(expected));
        }
    }
}

/// The latest epoch among ranks; 0 if none has an epoch.
pub(super) fn latest(found: &[FoundRank]) -> Epoch {
    found.iter().map(FoundRank::of_epoch).max().unwrap_or(0)
}

/// Compares a view's window, read before its ranks, with its ranks and its `epoch` column.
///
/// * Ranks of a later epoch, or of two epochs, are not compared ([`entries_ahead`]).
/// * Ranks of an earlier epoch may still be on their way, unless the window's epoch is committed.
pub(super) fn audit_ranks(
    window: ViewWrite,
    epoch: Option<i64>,
    found: &[FoundRank],
    committed: Epoch,
) -> Audited<ViewState> {
    let (start, latest) = (window.key.start, latest(found));
    let epochs = found.iter().map(FoundRank::of_epoch);
    let ahead = entries_ahead(window.state.epoch, epochs, committed);
    let is_on_its_way = window.state.epoch > committed && latest < window.state.epoch;
    let mut mismatches = Mismatches::default();
    mismatches.compare("epoch", epoch, Some(bigint(window.state.epoch)));
    if ahead.is_none() && !is_on_its_way {
        compare_ranks(&window, found, &mut mismatches);
    }
    Audited {
        start,
        state: Some(window.state),
        mismatches: mismatches.0,
        ahead,
    }
}

fn compare_ranks(window: &ViewWrite, found: &[FoundRank], mismatches: &mut Mismatches) {
    let size = window.key.size.to_string();
    let ranks = RankColumns::of(window, &size);
    for expected in &ranks {
        let place = (expected.ranked_in, expected.rank);
        match found.iter().find(|found| found.is_at(place)) {
            Some(found) => found.compare(expected, mismatches),
            None => mismatches.0.push(format!(
                "rank {} is missing",
                rank_name(expected.ranked_in, expected.rank)
            )),
        }
    }
    let is_expected = |found: &&FoundRank| {
        ranks
            .iter()
            .any(|expected| found.is_at((expected.ranked_in, expected.rank)))
    };
    for extra in found.iter().filter(|found| !is_expected(found)) {
        mismatches.extra_rank(extra.rank_name(), ranks.len());
    }
}

/// `ranked_in` of a view whose ranks are not within a quote currency.
pub(super) const ALL: &str = "all";

/// How a message names a rank: `3`, or `3 of USD`.
fn rank_name(ranked_in: &str, rank: i32) -> String {
    if ranked_in == ALL {
        rank.to_string()
    } else {
        format!("{rank} of {ranked_in}")
    }
}

impl<'a> RankColumns<'a> {
    /// The ranks of a window, each from 1; `size` is the text of its size. They include every rank
    /// that an earlier write of the window may have had.
    pub(super) fn of(write: &'a ViewWrite, size: &'a str) -> Vec<Self> {
        let view = write.key.view;
        let mut ranks = Vec::new();
        let mut lengths: BTreeMap<&str, i32> = BTreeMap::new();
        for (rank, entry) in view.ranked(&write.state.entries) {
            let rank = i32::try_from(rank).expect("views are short");
            let ranked_in = if view.ranks_within_quote() {
                entry.quote.name()
            } else {
                ALL
            };
            lengths.insert(ranked_in, rank);
            ranks.push(Self::of_rank(write, size, (ranked_in, rank), Some(entry)));
        }
        match view {
            View::Movers => {
                lengths.entry(ALL).or_default();
            }
            // A currency that has a rank keeps one: the notional of a symbol only grows.
            View::Active => {}
            // The baskets, and the classes and currencies, of a window only grow in number.
            View::Baskets | View::Market => return ranks,
        }
        let top = i32::try_from(TOP).expect("a view is short");
        for (ranked_in, length) in lengths {
            let blank = |rank| Self::of_rank(write, size, (ranked_in, rank), None);
            ranks.extend((length + 1..=top).map(blank));
        }
        ranks
    }

    /// One rank; without an entry, it is one that the view does not have or has no longer.
    fn of_rank(
        write: &'a ViewWrite,
        size: &'a str,
        (ranked_in, rank): (&'static str, i32),
        entry: Option<&'a ViewEntry>,
    ) -> Self {
        let key = write.key;
        let decimal = |units: Option<i128>, places| {
            let text = units.map_or_else(String::new, |units| format_fixed(units, places));
            let double = units.map_or(f64::NAN, |units| nearest(units, places, &text));
            (double, text)
        };
        let (volume, volume_exact) = decimal(
            entry.and_then(|entry| entry.volume),
            key.view.volume_scale(),
        );
        let (notional, notional_exact) = decimal(
            entry.and_then(|entry| entry.notional),
            key.view.notional_scale(),
        );
        let (vwap, vwap_exact) = decimal(entry.and_then(ViewEntry::vwap_e8), SCALE);
        let (change_pct, change_pct_exact) =
            decimal(entry.and_then(ViewEntry::change_pct_e8), SCALE);
        Self {
            view_name: key.view.name(),
            size,
            bucket: CqlTimestamp(bucket(key.start)),
            ranked_in,
            start: CqlTimestamp(key.start),
            rank,
            epoch: bigint(write.state.epoch),
            quote: entry.map_or("", |entry| entry.quote.name()),
            name: entry.map_or("", |entry| &entry.name),
            symbols: bigint(entry.map_or(0, |entry| entry.symbols)),
            trades: bigint(entry.map_or(0, |entry| entry.trades)),
            volume,
            notional,
            vwap,
            open: price(entry.and_then(|entry| entry.open)),
            close: price(entry.and_then(|entry| entry.close)),
            change_pct,
            volume_exact,
            notional_exact,
            vwap_exact,
            change_pct_exact,
            write_timestamp: write.write_timestamp,
        }
    }
}

/// A count as a column. The state cell has the exact one; no count comes near the limit.
pub(super) fn bigint(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn price(price: Option<Price>) -> f64 {
    price.map_or(f64::NAN, |price| {
        let e8 = i128::from(price.e8());
        if is_exact(e8) {
            quotient(e8, SCALE)
        } else {
            parse(&price.to_string())
        }
    })
}

/// The double nearest to `units` of `10^-places`.
fn double(units: i128, places: u32) -> f64 {
    if is_exact(units) {
        quotient(units, places)
    } else {
        parse(&format_fixed(units, places))
    }
}

/// The double nearest to `units` of `10^-places`, whose text is `text`.
fn nearest(units: i128, places: u32, text: &str) -> f64 {
    if is_exact(units) {
        quotient(units, places)
    } else {
        parse(text)
    }
}

/// Whether a double represents the integer exactly. Powers of ten up to 10^22 are exact too, so the
/// quotient is rounded only once.
fn is_exact(units: i128) -> bool {
    units.unsigned_abs() <= 1 << f64::MANTISSA_DIGITS
}

fn quotient(units: i128, places: u32) -> f64 {
    // Exact after `is_exact`; `From` has no such conversion.
    let (units, one) = (units as f64, 10u128.pow(places) as f64);
    units / one
}

fn parse(text: &str) -> f64 {
    text.parse().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::{QuoteCurrency, Symbol, WindowSize};

    use super::*;
    use tapeflow_schemas::{
        BarKey, BarRow, BarState, PackedBars, Sums, Totals, ViewKey, ViewState,
    };

    fn write(totals: Totals) -> BarWrite {
        let size: WindowSize = "1m".parse().expect("a size");
        let key = BarKey {
            symbol: Symbol::new("TSLA").expect("a symbol"),
            size,
            start: 1_680_286_500_000,
        };
        BarWrite {
            key,
            state: BarState { epoch: 7, totals },
            packed: PackedBars::default(),
            write_timestamp: 9,
        }
    }

    fn window(view: View, entries: Vec<ViewEntry>) -> ViewWrite {
        let key = ViewKey {
            view,
            size: "1m".parse().expect("a size"),
            start: 1_680_286_500_000,
        };
        ViewWrite {
            key,
            state: ViewState::new(7, entries),
            write_timestamp: 9,
        }
    }

    fn entry(name: &str, quote: QuoteCurrency) -> ViewEntry {
        ViewEntry {
            quote,
            name: name.into(),
            symbols: 1,
            trades: 0,
            volume: Some(0),
            notional: Some(0),
            open: None,
            close: None,
        }
    }

    #[test]
    fn display_columns_agree_with_the_cell() {
        // Seven prints of a real TSLA frame: volume 107, notional 13064.56.
        let sip = Sums {
            volume_e8: 10_700_000_000,
            notional_e16: 130_645_600_000_000_000_000,
            trades: 7,
        };
        let high = Price::from_e8(12_210_000_000).ok();
        let bar = write(Totals {
            sums: [Sums::default(), sip, Sums::default()],
            high,
            ..Totals::default()
        });
        let columns = BarColumns::of(&bar, "1m");
        assert_eq!(
            (
                columns.volume,
                columns.notional,
                columns.vwap,
                columns.high,
                columns.trades
            ),
            (107.0, 13_064.56, 122.098_691_59, 122.1, 7)
        );
        assert!(columns.low.is_nan() && columns.open.is_nan());
        assert_eq!(columns.bucket.0, bucket(bar.key.start));
        let row = BarRow::from_cell(&columns.state, bar.key.start);
        assert_eq!(row, Ok(bar.state.into_row()));
    }

    #[test]
    fn a_window_without_volume_has_no_vwap_and_no_null() {
        let bar = write(Totals::default());
        let columns = BarColumns::of(&bar, "1m");
        assert!(columns.vwap.is_nan());
        assert_eq!((columns.volume, columns.notional), (0.0, 0.0));
    }

    #[test]
    fn a_basket_of_weights_has_the_decimals_of_its_weights() {
        let entry = ViewEntry {
            symbols: 2,
            trades: 3,
            volume: Some(1_500_000_000_001),
            notional: Some(150_000_000_000_100_000_000),
            ..entry("tech", QuoteCurrency::USD)
        };
        let window = window(View::Baskets, vec![entry]);
        let [columns] = &RankColumns::of(&window, "1m")[..] else {
            panic!("one rank")
        };
        assert_eq!(
            (columns.rank, columns.name, columns.symbols, columns.trades),
            (1, "tech", 2, 3)
        );
        assert_eq!((columns.ranked_in, columns.quote), ("USD", "USD"));
        assert_eq!(
            (
                columns.volume_exact.as_str(),
                columns.notional_exact.as_str()
            ),
            ("1.500000000001", "1.500000000001")
        );
        assert_eq!(
            (
                columns.volume,
                columns.notional,
                columns.vwap,
                columns.vwap_exact.as_str()
            ),
            (1.500_000_000_001, 1.500_000_000_001, 1.0, "1")
        );
        assert!(columns.open.is_nan() && columns.close.is_nan() && columns.change_pct.is_nan());
    }

    #[test]
    fn ranks_that_a_view_no_longer_has_are_blanked() {
        let price = |e8| Price::from_e8(e8).ok();
        let entry = ViewEntry {
            open: price(12_206_000_000),
            close: price(12_209_000_000),
            ..entry("TSLA", QuoteCurrency::USD)
        };
        for (view, entries, want) in [
            (View::Movers, 0, TOP),
            (View::Movers, 1, TOP),
            (View::Active, 1, TOP),
            (View::Active, TOP, TOP),
            (View::Market, 2, 2),
            (View::Baskets, 0, 0),
        ] {
            let window = window(view, vec![entry.clone(); entries]);
            let ranks = RankColumns::of(&window, "1m");
            assert_eq!(
                ranks.iter().map(|rank| rank.rank).collect::<Vec<_>>(),
                (1..).take(want).collect::<Vec<_>>(),
                "{view}"
            );
            let (kept, blank) = ranks.split_at(entries);
            assert!(
                kept.iter().all(|rank| rank.name == "TSLA"
                    && (rank.close, rank.change_pct) == (122.09, 0.024_578_08)),
                "{view}"
            );
            let none = |rank: &RankColumns<'_>| {
                [
                    rank.volume,
                    rank.notional,
                    rank.vwap,
                    rank.open,
                    rank.close,
                    rank.change_pct,
                ]
                .iter()
                .all(|double| double.is_nan())
            };
            let empty = |rank: &RankColumns<'_>| {
                [
                    rank.quote,
                    rank.name,
                    &rank.volume_exact,
                    &rank.notional_exact,
                    &rank.vwap_exact,
                    &rank.change_pct_exact,
                ]
                .iter()
                .all(|text| text.is_empty())
            };
            assert!(
                blank
                    .iter()
                    .all(|rank| (rank.symbols, rank.trades) == (0, 0) && none(rank) && empty(rank)),
                "{view}"
            );
            assert!(
                ranks
                    .iter()
                    .all(|rank| (rank.epoch, rank.write_timestamp) == (7, 9)),
                "{view}"
            );
        }
    }

    #[test]
    fn active_has_ten_ranks_in_each_currency_and_movers_have_ten_in_all() {
        let yen = QuoteCurrency::of("OANDA:USD_JPY");
        let entries = vec![
            entry("OANDA:USD_JPY", yen),
            entry("AAPL", QuoteCurrency::USD),
            entry("MSFT", QuoteCurrency::USD),
        ];
        let places = |view: View| {
            let window = window(view, entries.clone());
            let ranks = RankColumns::of(&window, "1m");
            let mut places: Vec<String> = ranks
                .iter()
                .map(|rank| format!("{} {} {}", rank.ranked_in, rank.rank, rank.name))
                .collect();
            places.sort_by_key(|place| !place.ends_with(char::is_alphabetic));
            (places.len(), places[..3].join(", "))
        };
        assert_eq!(
            places(View::Active),
            (
                2 * TOP,
                "JPY 1 OANDA:USD_JPY, USD 1 AAPL, USD 2 MSFT".into()
            )
        );
        assert_eq!(
            places(View::Movers),
            (TOP, "all 1 OANDA:USD_JPY, all 2 AAPL, all 3 MSFT".into())
        );
    }

    #[test]
    fn a_market_has_no_volume_and_no_vwap_and_no_notional_in_an_unknown_currency() {
        let market = |quote, notional| ViewEntry {
            volume: None,
            notional,
            ..entry("crypto", quote)
        };
        let window = window(
            View::Market,
            vec![
                market(QuoteCurrency::USD, Some(10i128.pow(17))),
                market(QuoteCurrency::UNKNOWN, None),
            ],
        );
        let [dollars, unknown] = &RankColumns::of(&window, "1m")[..] else {
            panic!("two ranks")
        };
        assert_eq!(
            (dollars.notional, dollars.notional_exact.as_str()),
            (10.0, "10")
        );
        assert_eq!((unknown.quote, unknown.rank), ("unknown", 1));
        assert!(unknown.notional.is_nan() && unknown.notional_exact.is_empty());
        for rank in [dollars, unknown] {
            assert!(rank.volume.is_nan() && rank.vwap.is_nan());
            assert!(rank.volume_exact.is_empty() && rank.vwap_exact.is_empty());
        }
    }

    #[test]
    fn doubles_are_the_nearest_ones_whatever_the_magnitude() {
        let limit = 1i128 << 53;
        for units in [
            0,
            1,
            -1,
            3,
            10,
            13_064_560_000,
            limit - 1,
            limit,
            limit + 1,
            -limit - 3,
            10 * limit + 7,
            i128::MAX,
            i128::MIN + 1,
        ] {
            for places in [
                2,
                SCALE,
                2 * SCALE,
                View::Baskets.volume_scale(),
                View::Baskets.notional_scale(),
            ] {
                let text = format_fixed(units, places);
                let want = text.parse::<f64>().expect("a decimal").to_bits();
                assert_eq!(nearest(units, places, &text).to_bits(), want, "{text}");
                assert_eq!(double(units, places).to_bits(), want, "{text}");
            }
        }
    }
}
