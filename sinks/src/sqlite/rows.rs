//! Rows in SQLite: the upsert in which the greater stamp wins, and reading the state cell back.

use rusqlite::{Connection, OptionalExtension, params};
use tapeflow_log::sqlite::{fault, integer};
use tapeflow_protocol::{Audited, StoreError, Unlisted, audit::Strays};
use tapeflow_schemas::{
    Policy, Price, RowKey, RowState, RowWrite, StoredRow, Symbol, WindowSize, WindowStart,
    decimal::{SCALE, format_fixed},
};

/// A row as its columns hold it, made on the caller's thread: the writer's does nothing but SQLite.
pub(super) struct Columns {
    key: RowKey,
    epoch: i64,
    stamp: i64,
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
    pub(super) fn of(row: &RowWrite) -> Result<Self, StoreError> {
        let totals = &row.state.totals;
        let sums = totals.of_policy(Policy::Sip);
        Ok(Self {
            key: row.key.clone(),
            epoch: integer("an epoch", row.state.epoch)?,
            stamp: row.stamp,
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
    fn strays(&self, shown: &rusqlite::Row<'_>) -> rusqlite::Result<Vec<String>> {
        let mut strays = Strays::default();
        strays.hold("epoch", shown.get("epoch")?, Some(self.epoch));
        for (column, price) in ["open", "high", "low", "close"]
            .into_iter()
            .zip(&self.prices)
        {
            hold_price(&mut strays, column, shown.get(column)?, price.as_deref());
        }
        for (column, text) in [
            ("vwap", self.vwap.as_ref()),
            ("volume", Some(&self.volume)),
            ("notional", Some(&self.notional)),
        ] {
            strays.hold(
                column,
                shown.get::<_, Option<String>>(column)?.as_ref(),
                text,
            );
        }
        strays.hold("trades", shown.get("trades")?, Some(self.trades));
        Ok(strays.0)
    }

    /// Writes the row unless the table has it at a greater stamp.
    pub(super) fn write(&self, connection: &Connection) -> Result<(), StoreError> {
        const UPSERT: &str = "
            INSERT INTO bars (symbol, size, start, epoch, stamp, open, high, low, close, vwap, volume, notional, trades, state)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
            ON CONFLICT (symbol, size, start) DO UPDATE SET
                epoch = excluded.epoch, stamp = excluded.stamp, open = excluded.open, high = excluded.high, low = excluded.low,
                close = excluded.close, vwap = excluded.vwap, volume = excluded.volume, notional = excluded.notional,
                trades = excluded.trades, state = excluded.state
            WHERE excluded.stamp > bars.stamp";
        let (symbol, size, start) = (
            self.key.symbol.as_str(),
            self.key.size.to_string(),
            self.key.start,
        );
        let [open, high, low, close] = &self.prices;
        let mut upsert = connection.prepare_cached(UPSERT).map_err(fault)?;
        let columns = params![
            symbol,
            size,
            start,
            self.epoch,
            self.stamp,
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
        if upsert.execute(columns).map_err(fault)? == 1 {
            return Ok(());
        }
        // Stale, or a repeat; a second content at one stamp is neither (I4), and must not pass for
        // a repeat.
        let mut select = connection
            .prepare_cached(
                "SELECT stamp, state FROM bars WHERE symbol = ?1 AND size = ?2 AND start = ?3",
            )
            .map_err(fault)?;
        let found: (i64, Vec<u8>) = select
            .query_row(params![symbol, size, start], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .map_err(fault)?;
        if found.0 == self.stamp && found.1 != self.cell {
            return Err(StoreError::Broken(format!(
                "row {} was written twice at stamp {} with different content",
                self.key, self.stamp
            )));
        }
        Ok(())
    }
}

/// Reads rows in the order of the keys.
pub(super) fn read_rows(
    connection: &Connection,
    keys: &[RowKey],
) -> Result<Vec<Option<RowState>>, StoreError> {
    let mut select = connection
        .prepare_cached("SELECT state FROM bars WHERE symbol = ?1 AND size = ?2 AND start = ?3")
        .map_err(fault)?;
    let mut read = |key: &RowKey| {
        let cell = select
            .query_row(
                params![key.symbol.as_str(), key.size.to_string(), key.start],
                |row| Ok(state(row.get_ref(0)?.as_blob()?, key)),
            )
            .optional();
        cell.map_err(fault)?.transpose()
    };
    keys.iter().map(&mut read).collect()
}

/// Reads the rows of one symbol and size with starts in `range`, ascending.
pub(super) fn rows(
    connection: &Connection,
    symbol: &Symbol,
    size: WindowSize,
    range: &std::ops::Range<WindowStart>,
) -> Result<Vec<StoredRow>, StoreError> {
    const SELECT: &str = "SELECT start, state FROM bars WHERE symbol = ?1 AND size = ?2 AND start >= ?3 AND start < ?4 ORDER BY start";
    let mut select = connection.prepare_cached(SELECT).map_err(fault)?;
    let found = select.query_map(
        params![symbol.as_str(), size.to_string(), range.start, range.end],
        |row| {
            let key = RowKey {
                symbol: symbol.clone(),
                size,
                start: row.get(0)?,
            };
            Ok(
                state(row.get_ref(1)?.as_blob()?, &key).map(|state| StoredRow {
                    start: key.start,
                    state,
                }),
            )
        },
    );
    found
        .map_err(fault)?
        .map(|row| row.map_err(fault)?)
        .collect()
}

/// The same, each with what the columns beside the cell show otherwise.
pub(super) fn audit(
    connection: &Connection,
    symbol: &Symbol,
    size: WindowSize,
    range: &std::ops::Range<WindowStart>,
) -> Result<Vec<Audited<RowState>>, StoreError> {
    const SELECT: &str = "
        SELECT start, state, epoch, open, high, low, close, vwap, volume, notional, trades FROM bars
        WHERE symbol = ?1 AND size = ?2 AND start >= ?3 AND start < ?4 ORDER BY start";
    let mut select = connection.prepare_cached(SELECT).map_err(fault)?;
    let mut found = select
        .query(params![
            symbol.as_str(),
            size.to_string(),
            range.start,
            range.end
        ])
        .map_err(fault)?;
    let mut rows = Vec::new();
    while let Some(shown) = found.next().map_err(fault)? {
        let key = RowKey {
            symbol: symbol.clone(),
            size,
            start: shown.get(0).map_err(fault)?,
        };
        let state = state(
            shown
                .get_ref(1)
                .map_err(fault)?
                .as_blob()
                .map_err(|error| fault(error.into()))?,
            &key,
        )?;
        let row = RowWrite {
            key,
            state,
            stamp: 0,
        };
        let strays = Columns::of(&row)?.strays(shown).map_err(fault)?;
        rows.push(Audited::new(row.key.start, row.state, strays));
    }
    Ok(rows)
}

/// Rows of symbols that the directory does not have.
pub(super) fn unlisted(connection: &Connection) -> Result<Vec<Unlisted>, StoreError> {
    const SELECT: &str =
        "SELECT DISTINCT symbol, size FROM bars WHERE symbol NOT IN (SELECT symbol FROM symbols)";
    let mut select = connection.prepare_cached(SELECT).map_err(fault)?;
    let found = select.query_map([], |row| {
        Ok(Unlisted {
            symbol: row.get(0)?,
            size: row.get(1)?,
            bucket: None,
        })
    });
    found
        .map_err(fault)?
        .map(|unlisted| unlisted.map_err(fault))
        .collect()
}

/// Holds a price against the text it was written as. SQLite made a double of the text, and may have
/// missed the nearest one by its last bit.
pub(super) fn hold_price(
    strays: &mut Strays,
    column: &str,
    shown: Option<f64>,
    text: Option<&str>,
) {
    let wanted = text.and_then(|text| text.parse::<f64>().ok());
    let is_near = shown
        .zip(wanted)
        .is_some_and(|(shown, wanted)| (shown - wanted).abs() <= wanted.abs() * f64::EPSILON);
    if !is_near {
        strays.hold_double(column, shown, wanted);
    }
}

fn state(cell: &[u8], key: &RowKey) -> Result<RowState, StoreError> {
    RowState::from_cell(cell).map_err(|damage| StoreError::Broken(format!("row {key}: {damage}")))
}
