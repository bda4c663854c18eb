//! Rows in SQLite: the upsert in which the greater write timestamp wins, and reading the state cell back.

use rusqlite::{Connection, OptionalExtension, params};
use tapeflow_log::sqlite::{integer, sqlite_error};
use tapeflow_protocol::{Audited, StoreError, Unlisted, audit::Mismatches};
use tapeflow_schemas::{
    BarKey, BarState, BarWrite, Policy, Price, StoredBar, Symbol, WindowSize, WindowStart,
    decimal::{SCALE, format_fixed},
};

/// A row as its columns hold it, made on the caller's thread: the writer's does nothing but SQLite.
pub(super) struct Columns {
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

/// What a row takes up, roughly: for the writer's bound.
pub(super) const ROW_BYTES: usize = 1_024;

impl Columns {
    pub(super) fn of(row: &BarWrite) -> Result<Self, StoreError> {
        let totals = &row.state.totals;
        let sums = totals.of_policy(Policy::Sip);
        Ok(Self {
            key: row.key.clone(),
            epoch: integer("an epoch", row.state.epoch)?,
            write_timestamp: row.write_timestamp,
            // As text: the column's type makes the nearest double of it.
            prices: [totals.open(), totals.high, totals.low, totals.close()]
                .map(|price| price.as_ref().map(Price::to_string)),
            vwap: sums.vwap_e8().map(|e8| format_fixed(e8, SCALE)),
            volume: format_fixed(sums.volume_e8, SCALE),
            notional: format_fixed(sums.notional_e16, 2 * SCALE),
            trades: integer("a count of trades", sums.trades)?,
            cell: row.state.to_cell(),
        })
    }

    /// What differs from them in a row of [`audit`]'s statement.
    fn mismatches(&self, shown: &rusqlite::Row<'_>) -> rusqlite::Result<Vec<String>> {
        let mut mismatches = Mismatches::default();
        mismatches.hold("epoch", shown.get("epoch")?, Some(self.epoch));
        for (column, price) in ["open", "high", "low", "close"]
            .into_iter()
            .zip(&self.prices)
        {
            hold_price(
                &mut mismatches,
                column,
                shown.get(column)?,
                price.as_deref(),
            );
        }
        for (column, text) in [
            ("vwap", self.vwap.as_ref()),
            ("volume", Some(&self.volume)),
            ("notional", Some(&self.notional)),
        ] {
            mismatches.hold(
                column,
                shown.get::<_, Option<String>>(column)?.as_ref(),
                text,
            );
        }
        mismatches.hold("trades", shown.get("trades")?, Some(self.trades));
        Ok(mismatches.0)
    }

    /// Writes the row unless the table has it at a greater write timestamp.
    pub(super) fn write(&self, connection: &Connection) -> Result<(), StoreError> {
        const UPSERT: &str = "
            INSERT INTO bars (symbol, size, start, epoch, write_timestamp, open, high, low, close, vwap, volume, notional, trades, state)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
            ON CONFLICT (symbol, size, start) DO UPDATE SET
                epoch = excluded.epoch, write_timestamp = excluded.write_timestamp, open = excluded.open, high = excluded.high, low = excluded.low,
                close = excluded.close, vwap = excluded.vwap, volume = excluded.volume, notional = excluded.notional,
                trades = excluded.trades, state = excluded.state
            WHERE excluded.write_timestamp > bars.write_timestamp";
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
        // Stale, or a repeat; a second content at one write timestamp is neither (I4), and must not pass for
        // a repeat.
        let mut select = connection
            .prepare_cached(
                "SELECT write_timestamp, state FROM bars WHERE symbol = ?1 AND size = ?2 AND start = ?3",
            )
            .map_err(sqlite_error)?;
        let found: (i64, Vec<u8>) = select
            .query_row(params![symbol, size, start], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .map_err(sqlite_error)?;
        if found.0 == self.write_timestamp && found.1 != self.cell {
            return Err(StoreError::Broken(format!(
                "row {} was written twice at write timestamp {} with different content",
                self.key, self.write_timestamp
            )));
        }
        Ok(())
    }
}

/// Reads rows in the order of the keys.
pub(super) fn read_bars(
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
                |row| Ok(state(row.get_ref(0)?.as_blob()?, key)),
            )
            .optional();
        cell.map_err(sqlite_error)?.transpose()
    };
    keys.iter().map(&mut read).collect()
}

/// Reads the rows of one symbol and size with starts in `range`, ascending.
pub(super) fn rows(
    connection: &Connection,
    symbol: &Symbol,
    size: WindowSize,
    range: &std::ops::Range<WindowStart>,
) -> Result<Vec<StoredBar>, StoreError> {
    const SELECT: &str = "SELECT start, state FROM bars WHERE symbol = ?1 AND size = ?2 AND start >= ?3 AND start < ?4 ORDER BY start";
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
                state(row.get_ref(1)?.as_blob()?, &key).map(|state| StoredBar {
                    start: key.start,
                    state,
                }),
            )
        },
    );
    found
        .map_err(sqlite_error)?
        .map(|row| row.map_err(sqlite_error)?)
        .collect()
}

/// The same, each with what the columns beside the cell show otherwise.
pub(super) fn audit(
    connection: &Connection,
    symbol: &Symbol,
    size: WindowSize,
    range: &std::ops::Range<WindowStart>,
) -> Result<Vec<Audited<BarState>>, StoreError> {
    const SELECT: &str = "
        SELECT start, state, epoch, open, high, low, close, vwap, volume, notional, trades FROM bars
        WHERE symbol = ?1 AND size = ?2 AND start >= ?3 AND start < ?4 ORDER BY start";
    let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
    let mut found = select
        .query(params![
            symbol.as_str(),
            size.to_string(),
            range.start,
            range.end
        ])
        .map_err(sqlite_error)?;
    let mut rows = Vec::new();
    while let Some(shown) = found.next().map_err(sqlite_error)? {
        let key = BarKey {
            symbol: symbol.clone(),
            size,
            start: shown.get(0).map_err(sqlite_error)?,
        };
        let state = state(
            shown
                .get_ref(1)
                .map_err(sqlite_error)?
                .as_blob()
                .map_err(|error| sqlite_error(error.into()))?,
            &key,
        )?;
        let row = BarWrite {
            key,
            state,
            write_timestamp: 0,
        };
        let mismatches = Columns::of(&row)?.mismatches(shown).map_err(sqlite_error)?;
        rows.push(Audited::new(row.key.start, row.state, mismatches));
    }
    Ok(rows)
}

/// Rows of symbols that the directory does not have.
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

/// Holds a price against the text it was written as. SQLite made a double of the text, and may have
/// missed the nearest one by its last bit.
pub(super) fn hold_price(
    mismatches: &mut Mismatches,
    column: &str,
    shown: Option<f64>,
    text: Option<&str>,
) {
    let wanted = text.and_then(|text| text.parse::<f64>().ok());
    let is_near = shown
        .zip(wanted)
        .is_some_and(|(shown, wanted)| (shown - wanted).abs() <= wanted.abs() * f64::EPSILON);
    if !is_near {
        mismatches.hold_double(column, shown, wanted);
    }
}

fn state(cell: &[u8], key: &BarKey) -> Result<BarState, StoreError> {
    BarState::from_cell(cell).map_err(|damage| StoreError::Broken(format!("row {key}: {damage}")))
}
