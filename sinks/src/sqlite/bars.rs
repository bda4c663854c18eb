//! Bars in SQLite: an upsert in which the greater write timestamp wins, and reads of the state
//! cell. [`audit`] compares the display columns with the cell.

use std::ops::Range;

use rusqlite::{Connection, OptionalExtension, Row, params};
use tapeflow_log::sqlite::{integer, sqlite_error};
use tapeflow_protocol::{Audited, StoreError, Unlisted, audit::Mismatches};
use tapeflow_schemas::{
    BarKey, BarState, BarWrite, Policy, Price, StoredBar, Symbol, WindowSize, WindowStart,
    decimal::{SCALE, format_fixed},
};

/// A bar as its columns, made on the caller's thread: the writer's thread only runs SQLite.
pub(super) struct BarColumns {
    key: BarKey,
    epoch: i64,
    write_timestamp: i64,
    prices: [Option<String>; 4],
    vwap: Option<String>,
    volume: String,
    notional: String,
    trades: i64,
    cell: Vec<u8>,
}

/// The approximate size of a bar in the writer's queue, for the queue's bound.
pub(super) const BAR_BYTES: usize = 1_024;

impl BarColumns {
    pub(super) fn of(bar: &BarWrite) -> Result<Self, StoreError> {
        let totals = &bar.state.totals;
        let sums = totals.of_policy(Policy::Sip);
        Ok(Self {
            key: bar.key.clone(),
            epoch: integer("an epoch", bar.state.epoch)?,
            write_timestamp: bar.write_timestamp,
            // As text: the column's type makes the nearest double of it.
            prices: [totals.open(), totals.high, totals.low, totals.close()]
                .map(|price| price.as_ref().map(Price::to_string)),
            vwap: sums.vwap_e8().map(|e8| format_fixed(e8, SCALE)),
            volume: format_fixed(sums.volume_e8, SCALE),
            notional: format_fixed(sums.notional_e16, 2 * SCALE),
            trades: integer("a count of trades", sums.trades)?,
            cell: bar.state.to_cell(),
        })
    }

    /// The display columns of `found`, a row of [`audit`]'s statement, that differ from these.
    fn mismatches(&self, found: &Row<'_>) -> rusqlite::Result<Vec<String>> {
        let mut mismatches = Mismatches::default();
        mismatches.compare("epoch", found.get("epoch")?, Some(self.epoch));
        for (column, price) in ["open", "high", "low", "close"]
            .into_iter()
            .zip(&self.prices)
        {
            compare_decimal(
                &mut mismatches,
                column,
                found.get(column)?,
                price.as_deref(),
            );
        }
        for (column, text) in [
            ("vwap", self.vwap.as_ref()),
            ("volume", Some(&self.volume)),
            ("notional", Some(&self.notional)),
        ] {
            mismatches.compare(
                column,
                found.get::<_, Option<String>>(column)?.as_ref(),
                text,
            );
        }
        mismatches.compare("trades", found.get("trades")?, Some(self.trades));
        Ok(mismatches.0)
    }

    /// Writes the bar unless the table has it at a greater write timestamp.
    pub(super) fn write(&self, connection: &Connection) -> Result<(), StoreError> {
        const UPSERT: &str = "
            INSERT INTO bars (symbol, size, start, epoch, write_timestamp,
                open, high, low, close, vwap, volume, notional, trades, state)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
            ON CONFLICT (symbol, size, start) DO UPDATE SET
                epoch = excluded.epoch, write_timestamp = excluded.write_timestamp,
                open = excluded.open, high = excluded.high, low = excluded.low,
                close = excluded.close, vwap = excluded.vwap, volume = excluded.volume,
                notional = excluded.notional, trades = excluded.trades, state = excluded.state
            WHERE excluded.write_timestamp > bars.write_timestamp";
        const SELECT: &str = "SELECT write_timestamp, state FROM bars
            WHERE symbol = ?1 AND size = ?2 AND start = ?3";
        let (symbol, size, start) = (
            self.key.symbol.as_str(),
            self.key.size.to_string(),
            self.key.start,
        );
        let [open, high, low, close] = &self.prices;
        let mut upsert = connection.prepare_cached(UPSERT).map_err(sqlite_error)?;
        let columns = params![
            symbol,
            size,
            start,
            self.epoch,
            self.write_timestamp,
            open,
            high,
            low,
            close,
            self.vwap,
            self.volume,
            self.notional,
            self.trades,
            self.cell,
        ];
        if upsert.execute(columns).map_err(sqlite_error)? == 1 {
            return Ok(());
        }
        // Nothing was written: the write is stale, or a repeat. A second content at the same write
        // timestamp is neither (I4), and must not pass for a repeat.
        let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
        let found: (i64, Vec<u8>) = select
            .query_row(params![symbol, size, start], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .map_err(sqlite_error)?;
        if found.0 == self.write_timestamp && found.1 != self.cell {
            return Err(StoreError::Broken(format!(
                "bar {} was written twice at write timestamp {} with different content",
                self.key, self.write_timestamp
            )));
        }
        Ok(())
    }
}

/// Reads bars in the order of the keys.
pub(super) fn read(
    connection: &Connection,
    keys: &[BarKey],
) -> Result<Vec<Option<BarState>>, StoreError> {
    let mut select = connection
        .prepare_cached("SELECT state FROM bars WHERE symbol = ?1 AND size = ?2 AND start = ?3")
        .map_err(sqlite_error)?;
    let mut read = |key: &BarKey| {
        let cell = select
            .query_row(
                params![key.symbol.as_str(), key.size.to_string(), key.start],
                |row| Ok(decode(row.get_ref(0)?.as_blob()?, key)),
            )
            .optional();
        cell.map_err(sqlite_error)?.transpose()
    };
    keys.iter().map(&mut read).collect()
}

/// Reads the bars of one symbol and size with starts in `range`, ascending.
pub(super) fn range(
    connection: &Connection,
    symbol: &Symbol,
    size: WindowSize,
    range: &Range<WindowStart>,
) -> Result<Vec<StoredBar>, StoreError> {
    const SELECT: &str = "SELECT start, state FROM bars
        WHERE symbol = ?1 AND size = ?2 AND start >= ?3 AND start < ?4 ORDER BY start";
    let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
    let found = select.query_map(
        params![symbol.as_str(), size.to_string(), range.start, range.end],
        |row| {
            let key = BarKey {
                symbol: symbol.clone(),
                size,
                start: row.get(0)?,
            };
            Ok(
                decode(row.get_ref(1)?.as_blob()?, &key).map(|state| StoredBar {
                    start: key.start,
                    state,
                }),
            )
        },
    );
    found
        .map_err(sqlite_error)?
        .map(|bar| bar.map_err(sqlite_error)?)
        .collect()
}

/// Reads the same bars as [`range`], each with the display columns that differ from its cell.
pub(super) fn audit(
    connection: &Connection,
    symbol: &Symbol,
    size: WindowSize,
    range: &Range<WindowStart>,
) -> Result<Vec<Audited<BarState>>, StoreError> {
    const SELECT: &str = "
        SELECT start, state, epoch, open, high, low, close, vwap, volume, notional, trades FROM bars
        WHERE symbol = ?1 AND size = ?2 AND start >= ?3 AND start < ?4 ORDER BY start";
    let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
    let mut rows = select
        .query(params![
            symbol.as_str(),
            size.to_string(),
            range.start,
            range.end
        ])
        .map_err(sqlite_error)?;
    let mut audited = Vec::new();
    while let Some(row) = rows.next().map_err(sqlite_error)? {
        let key = BarKey {
            symbol: symbol.clone(),
            size,
            start: row.get(0).map_err(sqlite_error)?,
        };
        let cell = row.get_ref(1).map_err(sqlite_error)?;
        let cell = cell.as_blob().map_err(|error| sqlite_error(error.into()))?;
        let bar = BarWrite {
            state: decode(cell, &key)?,
            key,
            write_timestamp: 0,
        };
        let mismatches = BarColumns::of(&bar)?
            .mismatches(row)
            .map_err(sqlite_error)?;
        audited.push(Audited::new(bar.key.start, bar.state, mismatches));
    }
    Ok(audited)
}

/// Bars of symbols that the directory does not list.
pub(super) fn unlisted(connection: &Connection) -> Result<Vec<Unlisted>, StoreError> {
    const SELECT: &str =
        "SELECT DISTINCT symbol, size FROM bars WHERE symbol NOT IN (SELECT symbol FROM symbols)";
    let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
    let found = select.query_map([], |row| {
        Ok(Unlisted {
            symbol: row.get(0)?,
            size: row.get(1)?,
            bucket: None,
        })
    });
    found
        .map_err(sqlite_error)?
        .map(|unlisted| unlisted.map_err(sqlite_error))
        .collect()
}

/// Compares a REAL column with the text it was written as. SQLite converts the text to a double
/// and may miss the nearest one by its last bit, so that much of a difference is accepted.
pub(super) fn compare_decimal(
    mismatches: &mut Mismatches,
    column: &str,
    found: Option<f64>,
    text: Option<&str>,
) {
    let expected = text.and_then(|text| text.parse::<f64>().ok());
    let is_near = found
        .zip(expected)
        .is_some_and(|(found, expected)| (found - expected).abs() <= expected.abs() * f64::EPSILON);
    if !is_near {
        mismatches.compare_double(column, found, expected);
    }
}

fn decode(cell: &[u8], key: &BarKey) -> Result<BarState, StoreError> {
    BarState::from_cell(cell).map_err(|error| StoreError::Broken(format!("bar {key}: {error}")))
}
