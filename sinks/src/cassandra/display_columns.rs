//! A row as its columns hold it: the state cell, and beside it what readers want, by the policy
//! `sip`. And a list's ranks, which are only that.

use scylla::{DeserializeRow, SerializeRow, value::CqlTimestamp};
use tapeflow_protocol::{Audited, audit::Mismatches};
use tapeflow_schemas::{
    BarWrite, Epoch, Policy, Price, View, ViewEntry, ViewState, ViewWrite,
    decimal::{SCALE, format_fixed},
    view::TOP,
};

/// The values of one write, in the order of [`super::rows`]'s statement. None is ever null: a null
/// would be a tombstone at the write timestamp.
#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub(super) struct Columns<'a> {
    symbol: &'a str,
    size: &'a str,
    bucket: CqlTimestamp,
    start: CqlTimestamp,
    epoch: i64,
    open: f64,
    high: f64,
    low: f64,
    close: f64,
    vwap: f64,
    volume: f64,
    notional: f64,
    volume_exact: String,
    notional_exact: String,
    vwap_exact: String,
    trades: i64,
    priced: i64,
    revision: i64,
    state: Vec<u8>,
    write_timestamp: i64,
}

impl<'a> Columns<'a> {
    /// The columns of a row whose size is spelt `size`.
    pub(super) fn of(row: &'a BarWrite, size: &'a str) -> Self {
        let totals = &row.state.totals;
        let sums = totals.of_policy(Policy::Sip);
        let volume_exact = format_fixed(sums.volume_e8, SCALE);
        let notional_exact = format_fixed(sums.notional_e16, 2 * SCALE);
        let vwap_e8 = sums.vwap_e8();
        let vwap_exact = vwap_e8.map_or_else(String::new, |e8| format_fixed(e8, SCALE));
        Self {
            symbol: row.key.symbol.as_str(),
            size,
            bucket: CqlTimestamp(row.key.size.bucket(row.key.start)),
            start: CqlTimestamp(row.key.start),
            epoch: bigint(row.state.epoch),
            open: price(totals.open()),
            high: price(totals.high),
            low: price(totals.low),
            close: price(totals.close()),
            vwap: vwap_e8.map_or(f64::NAN, |e8| nearest(e8, SCALE, &vwap_exact)),
            volume: nearest(sums.volume_e8, SCALE, &volume_exact),
            notional: nearest(sums.notional_e16, 2 * SCALE, &notional_exact),
            volume_exact,
            notional_exact,
            vwap_exact,
            trades: bigint(sums.trades),
            priced: bigint(totals.priced),
            revision: bigint(totals.revision),
            state: row.state.to_cell(),
            write_timestamp: row.write_timestamp,
        }
    }
}

/// What readers are shown of a row.
#[derive(DeserializeRow)]
pub(super) struct Shown {
    pub(super) start: CqlTimestamp,
    pub(super) state: Option<Vec<u8>>,
    epoch: Option<i64>,
    open: Option<f64>,
    high: Option<f64>,
    low: Option<f64>,
    close: Option<f64>,
    vwap: Option<f64>,
    volume: Option<f64>,
    notional: Option<f64>,
    volume_exact: Option<String>,
    notional_exact: Option<String>,
    vwap_exact: Option<String>,
    trades: Option<i64>,
    priced: Option<i64>,
    revision: Option<i64>,
}

impl Shown {
    /// The columns, as a statement names them.
    pub(super) const COLUMNS: &str = "start, state, epoch, open, high, low, close, vwap, volume, notional, volume_exact, notional_exact, vwap_exact, \
         trades, priced, revision";

    /// What differs from the columns of the cell.
    pub(super) fn mismatches(&self, wanted: &Columns<'_>) -> Vec<String> {
        let mut mismatches = Mismatches::default();
        for (column, shown, wanted) in [
            ("open", self.open, wanted.open),
            ("high", self.high, wanted.high),
            ("low", self.low, wanted.low),
            ("close", self.close, wanted.close),
            ("vwap", self.vwap, wanted.vwap),
            ("volume", self.volume, wanted.volume),
            ("notional", self.notional, wanted.notional),
        ] {
            mismatches.hold_double(column, shown, Some(wanted));
        }
        for (column, shown, wanted) in [
            ("volume_exact", &self.volume_exact, &wanted.volume_exact),
            (
                "notional_exact",
                &self.notional_exact,
                &wanted.notional_exact,
            ),
            ("vwap_exact", &self.vwap_exact, &wanted.vwap_exact),
        ] {
            mismatches.hold(column, shown.as_ref(), Some(wanted));
        }
        for (column, shown, wanted) in [
            ("epoch", self.epoch, wanted.epoch),
            ("trades", self.trades, wanted.trades),
            ("priced", self.priced, wanted.priced),
            ("revision", self.revision, wanted.revision),
        ] {
            mismatches.hold(column, shown, Some(wanted));
        }
        mismatches.0
    }
}

/// The values of one rank of a list, in the order of [`super::views`]'s statement; as with a row,
/// none is ever null.
#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub(super) struct RankColumns<'a> {
    view_name: &'a str,
    size: &'a str,
    bucket: CqlTimestamp,
    start: CqlTimestamp,
    rank: i32,
    epoch: i64,
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
    write_timestamp: i64,
}

/// What readers are shown of a rank.
#[derive(DeserializeRow)]
pub(super) struct ShownRank {
    pub(super) start: CqlTimestamp,
    pub(super) rank: i32,
    pub(super) epoch: Option<i64>,
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
}

impl ShownRank {
    /// The columns, as a statement names them.
    pub(super) const COLUMNS: &str = "start, rank, epoch, name, symbols, trades, volume, notional, vwap, open, close, change_pct, volume_exact, \
         notional_exact, vwap_exact";

    fn hold(&self, wanted: &RankColumns<'_>, mismatches: &mut Mismatches) {
        let named = |column: &str| format!("{column} of rank {}", self.rank);
        for (column, shown, wanted) in [
            ("volume", self.volume, wanted.volume),
            ("notional", self.notional, wanted.notional),
            ("vwap", self.vwap, wanted.vwap),
            ("open", self.open, wanted.open),
            ("close", self.close, wanted.close),
            ("change_pct", self.change_pct, wanted.change_pct),
        ] {
            mismatches.hold_double(&named(column), shown, Some(wanted));
        }
        for (column, shown, wanted) in [
            ("name", &self.name, wanted.name),
            ("volume_exact", &self.volume_exact, &wanted.volume_exact),
            (
                "notional_exact",
                &self.notional_exact,
                &wanted.notional_exact,
            ),
            ("vwap_exact", &self.vwap_exact, &wanted.vwap_exact),
        ] {
            mismatches.hold(&named(column), shown.as_deref(), Some(wanted));
        }
        for (column, shown, wanted) in [
            ("epoch", self.epoch, wanted.epoch),
            ("symbols", self.symbols, wanted.symbols),
            ("trades", self.trades, wanted.trades),
        ] {
            mismatches.hold(&named(column), shown, Some(wanted));
        }
    }
}

/// The latest epoch that ranks are of; 0 if none says one.
pub(super) fn latest(shown: &[ShownRank]) -> Epoch {
    shown
        .iter()
        .filter_map(|rank| u64::try_from(rank.epoch?).ok())
        .max()
        .unwrap_or(0)
}

/// A list that was read before its ranks, and what those and the epoch beside its cell show
/// otherwise. Ranks of a later epoch belong to a later list, and say nothing of this one; those of
/// an earlier one are on their way still, unless the list's epoch is committed.
pub(super) fn held_against(
    list: ViewWrite,
    epoch: Option<i64>,
    shown: &[ShownRank],
    committed: Epoch,
) -> Audited<ViewState> {
    let (start, latest) = (list.key.start, latest(shown));
    let ahead = Some(latest).filter(|latest| *latest > list.state.epoch);
    let is_on_its_way = list.state.epoch > committed && latest < list.state.epoch;
    let mut mismatches = Mismatches::default();
    mismatches.hold("epoch", epoch, Some(bigint(list.state.epoch)));
    if ahead.is_none() && !is_on_its_way {
        hold_ranks(&list, shown, &mut mismatches);
    }
    Audited {
        start,
        state: Some(list.state),
        mismatches: mismatches.0,
        ahead,
    }
}

fn hold_ranks(list: &ViewWrite, shown: &[ShownRank], mismatches: &mut Mismatches) {
    let size = list.key.size.to_string();
    let wanted = RankColumns::of(list, &size);
    for wanted in &wanted {
        match shown.iter().find(|rank| rank.rank == wanted.rank) {
            Some(shown) => shown.hold(wanted, mismatches),
            None => mismatches
                .0
                .push(format!("rank {} is not there", wanted.rank)),
        }
    }
    for extra in shown
        .iter()
        .filter(|rank| wanted.iter().all(|wanted| wanted.rank != rank.rank))
    {
        mismatches.0.push(format!(
            "rank {} is there, its list has {}",
            extra.rank,
            wanted.len()
        ));
    }
}

/// What stands at a rank that a list no longer has.
static BLANK: ViewEntry = ViewEntry {
    name: String::new(),
    symbols: 0,
    trades: 0,
    volume: 0,
    notional: 0,
    open: None,
    close: None,
};

impl<'a> RankColumns<'a> {
    /// The ranks of a list whose size is spelt `size`, from 1: all that an earlier write of the
    /// list may have had.
    pub(super) fn of(write: &'a ViewWrite, size: &'a str) -> Vec<Self> {
        let entries = &write.state.entries;
        let ranks = match write.key.view {
            View::Active | View::Movers => entries.len().max(TOP),
            // A window's baskets and classes become more and never fewer.
            View::Baskets | View::Market => entries.len(),
        };
        let all = (1..)
            .zip(entries.iter().chain(std::iter::repeat(&BLANK)))
            .take(ranks);
        all.map(|(rank, entry)| Self::of_rank(write, size, rank, entry))
            .collect()
    }

    fn of_rank(write: &'a ViewWrite, size: &'a str, rank: i32, entry: &'a ViewEntry) -> Self {
        let key = write.key;
        let (volume_scale, notional_scale) = (key.view.volume_scale(), key.view.notional_scale());
        let volume_exact = format_fixed(entry.volume, volume_scale);
        let notional_exact = format_fixed(entry.notional, notional_scale);
        let vwap_e8 = entry.vwap_e8();
        let vwap_exact = vwap_e8.map_or_else(String::new, |e8| format_fixed(e8, SCALE));
        Self {
            view_name: key.view.name(),
            size,
            bucket: CqlTimestamp(key.size.bucket(key.start)),
            start: CqlTimestamp(key.start),
            rank,
            epoch: bigint(write.state.epoch),
            name: &entry.name,
            symbols: bigint(entry.symbols),
            trades: bigint(entry.trades),
            volume: nearest(entry.volume, volume_scale, &volume_exact),
            notional: nearest(entry.notional, notional_scale, &notional_exact),
            vwap: vwap_e8.map_or(f64::NAN, |e8| nearest(e8, SCALE, &vwap_exact)),
            open: price(entry.open),
            close: price(entry.close),
            // A hundredth of a percent has two decimal places as a percentage.
            change_pct: entry.change_bp().map_or(f64::NAN, |change| {
                nearest(change, 2, &format_fixed(change, 2))
            }),
            volume_exact,
            notional_exact,
            vwap_exact,
            write_timestamp: write.write_timestamp,
        }
    }
}

/// A count as a mirror shows it. The exact one is in the state cell; no count ever gets near the
/// limit.
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

/// The double nearest to `units` of `10^-places`, whose text is `text`.
fn nearest(units: i128, places: u32, text: &str) -> f64 {
    if is_exact(units) {
        quotient(units, places)
    } else {
        parse(text)
    }
}

/// Whether a double holds the integer exactly. Powers of ten up to 10^22 are exact too, so that the
/// quotient is rounded once.
fn is_exact(units: i128) -> bool {
    units.unsigned_abs() <= 1 << f64::MANTISSA_DIGITS
}

fn quotient(units: i128, places: u32) -> f64 {
    // Exact, by the check before; there is no `From` for it.
    let (units, one) = (units as f64, 10u128.pow(places) as f64);
    units / one
}

fn parse(text: &str) -> f64 {
    text.parse().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::{Symbol, WindowSize};

    use super::*;
    use tapeflow_schemas::{BarKey, BarState, Sums, Totals, ViewKey, ViewState};

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
            write_timestamp: 9,
        }
    }

    fn list(view: View, entries: Vec<ViewEntry>) -> ViewWrite {
        let key = ViewKey {
            view,
            size: "1m".parse().expect("a size"),
            start: 1_680_286_500_000,
        };
        ViewWrite {
            key,
            state: ViewState { epoch: 7, entries },
            write_timestamp: 9,
        }
    }

    #[test]
    fn mirrors_show_what_the_cell_holds() {
        // Seven prints of a real TSLA frame: volume 107, notional 13064.56.
        let sip = Sums {
            volume_e8: 10_700_000_000,
            notional_e16: 130_645_600_000_000_000_000,
            trades: 7,
        };
        let high = Price::from_e8(12_210_000_000).ok();
        let row = write(Totals {
            sums: [Sums::default(), sip, Sums::default()],
            high,
            ..Totals::default()
        });
        let columns = Columns::of(&row, "1m");
        assert_eq!(
            (
                columns.volume_exact.as_str(),
                columns.notional_exact.as_str(),
                columns.vwap_exact.as_str()
            ),
            ("107", "13064.56", "122.09869159")
        );
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
        assert_eq!(columns.bucket.0, row.key.size.bucket(row.key.start));
        assert_eq!(BarState::from_cell(&columns.state), Ok(row.state));
    }

    #[test]
    fn a_window_without_volume_has_no_vwap_and_no_null() {
        let row = write(Totals::default());
        let columns = Columns::of(&row, "1m");
        assert!(columns.vwap.is_nan());
        assert_eq!(
            (
                columns.vwap_exact.as_str(),
                columns.volume,
                columns.volume_exact.as_str()
            ),
            ("", 0.0, "0")
        );
    }

    #[test]
    fn a_basket_of_weights_has_the_decimals_of_its_weights() {
        let entry = ViewEntry {
            name: "tech".into(),
            symbols: 2,
            trades: 3,
            volume: 1_500_000_000_001,
            notional: 150_000_000_000_100_000_000,
            ..BLANK.clone()
        };
        let list = list(View::Baskets, vec![entry]);
        let [columns] = &RankColumns::of(&list, "1m")[..] else {
            panic!("one rank")
        };
        assert_eq!(
            (columns.rank, columns.name, columns.symbols, columns.trades),
            (1, "tech", 2, 3)
        );
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
    fn ranks_that_a_list_no_longer_has_are_blanked() {
        let price = |e8| Price::from_e8(e8).ok();
        let entry = ViewEntry {
            name: "TSLA".into(),
            symbols: 1,
            open: price(12_206_000_000),
            close: price(12_209_000_000),
            ..BLANK.clone()
        };
        for (view, entries, want) in [
            (View::Movers, 1, TOP),
            (View::Active, 0, TOP),
            (View::Active, TOP, TOP),
            (View::Market, 2, 2),
            (View::Baskets, 0, 0),
        ] {
            let list = list(view, vec![entry.clone(); entries]);
            let ranks = RankColumns::of(&list, "1m");
            assert_eq!(
                ranks.iter().map(|rank| rank.rank).collect::<Vec<_>>(),
                (1..).take(want).collect::<Vec<_>>(),
                "{view}"
            );
            let (kept, blank) = ranks.split_at(entries);
            assert!(
                kept.iter()
                    .all(|rank| rank.name == "TSLA"
                        && (rank.close, rank.change_pct) == (122.09, 0.02)),
                "{view}"
            );
            let zero = |rank: &RankColumns<'_>| {
                (rank.symbols, rank.trades, rank.volume, rank.notional) == (0, 0, 0.0, 0.0)
            };
            let none = |rank: &RankColumns<'_>| {
                [rank.vwap, rank.open, rank.close, rank.change_pct]
                    .iter()
                    .all(|double| double.is_nan())
            };
            assert!(
                blank.iter().all(|rank| rank.name.is_empty()
                    && rank.vwap_exact.is_empty()
                    && zero(rank)
                    && none(rank)),
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
                assert_eq!(
                    nearest(units, places, &text).to_bits(),
                    text.parse::<f64>().expect("a decimal").to_bits(),
                    "{text}"
                );
            }
        }
    }
}
