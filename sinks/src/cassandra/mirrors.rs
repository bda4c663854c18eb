//! A row as its columns hold it: the state cell, and beside it what readers want, by the policy `sip`.

use scylla::{SerializeRow, value::CqlTimestamp};
use tapeflow_schemas::{
    Price,
    decimal::{SCALE, format_fixed},
};

use crate::{row::RowWrite, totals::Policy};

/// The values of one write, in the order of [`super::rows`]'s statement. None is ever null: a null would be a tombstone at the stamp.
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
    stamp: i64,
}

impl<'a> Columns<'a> {
    /// The columns of a row whose size is spelt `size`.
    pub(super) fn of(row: &'a RowWrite, size: &'a str) -> Self {
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
            stamp: row.stamp,
        }
    }
}

/// A count as a mirror shows it. The exact one is in the state cell; no count ever gets near the limit.
pub(super) fn bigint(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn price(price: Option<Price>) -> f64 {
    price.map_or(f64::NAN, |price| {
        let e8 = i128::from(price.e8());
        if is_exact(e8) { quotient(e8, SCALE) } else { parse(&price.to_string()) }
    })
}

/// The double nearest to `units` of `10^-places`, whose text is `text`.
fn nearest(units: i128, places: u32, text: &str) -> f64 {
    if is_exact(units) { quotient(units, places) } else { parse(text) }
}

/// Whether a double holds the integer exactly. Powers of ten up to 10^22 are exact too, so that the quotient is rounded once.
fn is_exact(units: i128) -> bool {
    units.unsigned_abs() <= 1 << f64::MANTISSA_DIGITS
}

fn quotient(units: i128, places: u32) -> f64 {
    // Exact, by the check before; there is no `From` for it.
    let (units, one) = (units as f64, 10u64.pow(places) as f64);
    units / one
}

fn parse(text: &str) -> f64 {
    text.parse().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::{Symbol, WindowSize};

    use super::*;
    use crate::{
        row::{RowKey, RowState},
        totals::{Sums, Totals},
    };

    fn write(totals: Totals) -> RowWrite {
        let size: WindowSize = "1m".parse().expect("a size");
        let key = RowKey { symbol: Symbol::new("TSLA").expect("a symbol"), size, start: 1_680_286_500_000 };
        RowWrite { key, state: RowState { epoch: 7, totals }, stamp: 9 }
    }

    #[test]
    fn mirrors_show_what_the_cell_holds() {
        // Seven prints of a real TSLA frame: volume 107, notional 13064.56.
        let sip = Sums { volume_e8: 10_700_000_000, notional_e16: 130_645_600_000_000_000_000, trades: 7 };
        let high = Price::from_e8(12_210_000_000).ok();
        let row = write(Totals { sums: [Sums::default(), sip, Sums::default()], high, ..Totals::default() });
        let columns = Columns::of(&row, "1m");
        assert_eq!(
            (columns.volume_exact.as_str(), columns.notional_exact.as_str(), columns.vwap_exact.as_str()),
            ("107", "13064.56", "122.09869159")
        );
        assert_eq!((columns.volume, columns.notional, columns.vwap, columns.high, columns.trades), (107.0, 13_064.56, 122.098_691_59, 122.1, 7));
        assert!(columns.low.is_nan() && columns.open.is_nan());
        assert_eq!(columns.bucket.0, row.key.size.bucket(row.key.start));
        assert_eq!(RowState::from_cell(&columns.state), Ok(row.state));
    }

    #[test]
    fn a_window_without_volume_has_no_vwap_and_no_null() {
        let row = write(Totals::default());
        let columns = Columns::of(&row, "1m");
        assert!(columns.vwap.is_nan());
        assert_eq!((columns.vwap_exact.as_str(), columns.volume, columns.volume_exact.as_str()), ("", 0.0, "0"));
    }

    #[test]
    fn doubles_are_the_nearest_ones_whatever_the_magnitude() {
        let limit = 1i128 << 53;
        for units in [0, 1, -1, 3, 10, 13_064_560_000, limit - 1, limit, limit + 1, -limit - 3, 10 * limit + 7, i128::MAX, i128::MIN + 1] {
            for places in [SCALE, 2 * SCALE] {
                let text = format_fixed(units, places);
                assert_eq!(nearest(units, places, &text).to_bits(), text.parse::<f64>().expect("a decimal").to_bits(), "{text}");
            }
        }
    }
}
