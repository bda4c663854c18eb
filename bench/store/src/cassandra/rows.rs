//! A bar as the values of an insert, in the order of the table's columns.

use scylla::{SerializeRow, value::CqlTimestamp};
use tapeflow_schemas::{
    Policy, Price,
    decimal::{SCALE, format_fixed},
};

use super::Table;
use crate::{cell, feed::Row};

/// As the sink writes a bar today.
#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub(super) struct Wide<'a> {
    symbol: &'a str,
    size: String,
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
    pub(super) state: Vec<u8>,
    write_timestamp: i64,
}

impl<'a> Wide<'a> {
    pub(super) fn of(table: Table, row: &'a Row, write_timestamp: i64) -> Self {
        let totals = &row.state.totals;
        let sums = totals.of_policy(Policy::Sip);
        let volume_exact = format_fixed(sums.volume_e8, SCALE);
        let notional_exact = format_fixed(sums.notional_e16, 2 * SCALE);
        let vwap_exact = sums
            .vwap_e8()
            .map_or_else(String::new, |e8| format_fixed(e8, SCALE));
        Self {
            symbol: &row.symbol,
            size: row.size.to_string(),
            bucket: table.bucket(row),
            start: CqlTimestamp(row.start),
            epoch: bigint(row.state.epoch),
            open: price(totals.open()),
            high: price(totals.high),
            low: price(totals.low),
            close: price(totals.close()),
            vwap: parsed(&vwap_exact),
            volume: parsed(&volume_exact),
            notional: parsed(&notional_exact),
            volume_exact,
            notional_exact,
            vwap_exact,
            trades: bigint(sums.trades),
            priced: bigint(totals.priced),
            revision: bigint(totals.revision),
            state: cell::first_form(&row.state),
            write_timestamp,
        }
    }
}

/// Key, epoch and lean cell.
#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub(super) struct CellRow<'a> {
    symbol: &'a str,
    size: i32,
    bucket: CqlTimestamp,
    start: CqlTimestamp,
    epoch: i64,
    pub(super) state: Vec<u8>,
    write_timestamp: i64,
}

impl<'a> CellRow<'a> {
    pub(super) fn of(table: Table, row: &'a Row, write_timestamp: i64) -> Self {
        Self {
            symbol: &row.symbol,
            size: seconds_of(row),
            bucket: table.bucket(row),
            start: CqlTimestamp(row.start),
            epoch: bigint(row.state.epoch),
            state: row.cell(),
            write_timestamp,
        }
    }
}

/// What dashboards read, without text, and the lean cell.
#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub(super) struct Lean<'a> {
    symbol: &'a str,
    size: i32,
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
    trades: i64,
    revision: i64,
    pub(super) state: Vec<u8>,
    write_timestamp: i64,
}

impl<'a> Lean<'a> {
    pub(super) fn of(table: Table, row: &'a Row, write_timestamp: i64) -> Self {
        let totals = &row.state.totals;
        let sums = totals.of_policy(Policy::Sip);
        Self {
            symbol: &row.symbol,
            size: seconds_of(row),
            bucket: table.bucket(row),
            start: CqlTimestamp(row.start),
            epoch: bigint(row.state.epoch),
            open: price(totals.open()),
            high: price(totals.high),
            low: price(totals.low),
            close: price(totals.close()),
            vwap: sums.vwap_e8().map_or(f64::NAN, |e8| e8 as f64 / 1e8),
            volume: sums.volume_e8 as f64 / 1e8,
            notional: sums.notional_e16 as f64 / 1e16,
            trades: bigint(sums.trades),
            revision: bigint(totals.revision),
            state: row.cell(),
            write_timestamp,
        }
    }
}

/// The size of a row as the lean tables have it.
pub(super) fn seconds_of(row: &Row) -> i32 {
    i32::try_from(row.size.ms() / 1_000).expect("at most a day")
}

fn price(price: Option<Price>) -> f64 {
    price.map_or(f64::NAN, |price| price.e8() as f64 / 1e8)
}

fn parsed(decimal: &str) -> f64 {
    decimal.parse().unwrap_or(f64::NAN)
}

fn bigint(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
