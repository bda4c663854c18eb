//! Views in SQLite: an upsert of the state cell in which the greater write timestamp wins, and in
//! the same transaction the entries that other tools read.

use std::{collections::BTreeMap, ops::Range};

use rusqlite::{Connection, OptionalExtension, Row, params};
use tapeflow_log::sqlite::{integer, sqlite_error};
use tapeflow_protocol::{Audited, StoreError, audit::Mismatches};
use tapeflow_schemas::{
    Price, StoredView, View, ViewEntry, ViewKey, ViewState, ViewWrite, WindowSize, WindowStart,
    decimal::{SCALE, format_fixed},
};

/// A view's window as its columns, made on the caller's thread.
pub(super) struct ViewColumns {
    key: ViewKey,
    epoch: i64,
    write_timestamp: i64,
    cell: Vec<u8>,
    entries: Vec<EntryColumns>,
}

/// One entry of it.
struct EntryColumns {
    quote: &'static str,
    rank: u32,
    name: String,
    symbols: i64,
    trades: i64,
    volume: Option<String>,
    notional: Option<String>,
    vwap: Option<String>,
    open: Option<String>,
    close: Option<String>,
    change_pct: Option<String>,
}

impl ViewColumns {
    pub(super) fn of(write: &ViewWrite) -> Result<Self, StoreError> {
        Ok(Self {
            key: write.key,
            epoch: integer("an epoch", write.state.epoch)?,
            write_timestamp: write.write_timestamp,
            cell: write.state.to_cell(),
            entries: write
                .key
                .view
                .ranked(&write.state.entries)
                .map(|(rank, entry)| EntryColumns::of(write.key.view, rank, entry))
                .collect::<Result<_, _>>()?,
        })
    }

    /// The approximate size in the writer's queue, for the queue's bound.
    pub(super) fn bytes(&self) -> usize {
        256 + self.cell.len() + 256 * self.entries.len()
    }

    /// Writes the cell and replaces the entries, unless the table has the window at a greater write
    /// timestamp.
    pub(super) fn write(&self, connection: &Connection) -> Result<(), StoreError> {
        const UPSERT: &str = "
            INSERT INTO views (view_name, size, start, epoch, write_timestamp, state)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6)
            ON CONFLICT (view_name, size, start) DO UPDATE SET epoch = excluded.epoch,
                write_timestamp = excluded.write_timestamp, state = excluded.state
            WHERE excluded.write_timestamp > views.write_timestamp";
        const DELETE: &str =
            "DELETE FROM view_entries WHERE view_name = ?1 AND size = ?2 AND start = ?3";
        const SELECT: &str = "SELECT write_timestamp, state FROM views
            WHERE view_name = ?1 AND size = ?2 AND start = ?3";
        let (view, size, start) = (
            self.key.view.name(),
            self.key.size.to_string(),
            self.key.start,
        );
        let mut upsert = connection.prepare_cached(UPSERT).map_err(sqlite_error)?;
        let columns = params![
            view,
            size,
            start,
            self.epoch,
            self.write_timestamp,
            self.cell
        ];
        if upsert.execute(columns).map_err(sqlite_error)? == 1 {
            let mut delete = connection.prepare_cached(DELETE).map_err(sqlite_error)?;
            delete
                .execute(params![view, size, start])
                .map_err(sqlite_error)?;
            return self
                .entries
                .iter()
                .try_for_each(|entry| entry.insert(connection, &self.key, &size));
        }
        // Nothing was written: the write is stale, or a repeat. As with bars, a second content at
        // the same write timestamp (I4) must not pass for a repeat.
        let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
        let found: (i64, Vec<u8>) = select
            .query_row(params![view, size, start], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .map_err(sqlite_error)?;
        if found.0 == self.write_timestamp && found.1 != self.cell {
            return Err(StoreError::Broken(format!(
                "{} was written twice at write timestamp {} with different content",
                self.key, self.write_timestamp
            )));
        }
        Ok(())
    }
}

impl EntryColumns {
    fn of(view: View, rank: u32, entry: &ViewEntry) -> Result<Self, StoreError> {
        let decimal = |units: Option<i128>, places| units.map(|units| format_fixed(units, places));
        Ok(Self {
            quote: entry.quote.name(),
            rank,
            name: entry.name.clone(),
            symbols: integer("a count of symbols", entry.symbols)?,
            trades: integer("a count of trades", entry.trades)?,
            volume: decimal(entry.volume, view.volume_scale()),
            notional: decimal(entry.notional, view.notional_scale()),
            vwap: decimal(entry.vwap_e8(), SCALE),
            // As text: the column's type makes the nearest double of it.
            open: entry.open.as_ref().map(Price::to_string),
            close: entry.close.as_ref().map(Price::to_string),
            change_pct: decimal(entry.change_pct_e8(), SCALE),
        })
    }

    /// Collects the columns of `found`, a row of [`audit`]'s statement, that differ from these.
    fn compare(
        &self,
        view: View,
        found: &Row<'_>,
        mismatches: &mut Mismatches,
    ) -> rusqlite::Result<()> {
        let rank = view.rank_name(self.rank, self.quote);
        let named = |column: &str| format!("{column} of rank {rank}");
        for (column, text) in [
            ("name", Some(&self.name)),
            ("volume", self.volume.as_ref()),
            ("notional", self.notional.as_ref()),
            ("vwap", self.vwap.as_ref()),
            ("change_pct_exact", self.change_pct.as_ref()),
        ] {
            let found: Option<String> = found.get(column)?;
            mismatches.compare(&named(column), found.as_ref(), text);
        }
        for (column, count) in [("symbols", self.symbols), ("trades", self.trades)] {
            mismatches.compare(&named(column), found.get(column)?, Some(count));
        }
        for (column, text) in [
            ("open", &self.open),
            ("close", &self.close),
            ("change_pct", &self.change_pct),
        ] {
            compare_decimal(
                mismatches,
                &named(column),
                found.get(column)?,
                text.as_deref(),
            );
        }
        Ok(())
    }

    fn insert(&self, connection: &Connection, key: &ViewKey, size: &str) -> Result<(), StoreError> {
        const INSERT: &str = "
            INSERT INTO view_entries (view_name, size, start, quote, rank, name, symbols, trades,
                volume, notional, vwap, open, close, change_pct, change_pct_exact)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?14)";
        let mut insert = connection.prepare_cached(INSERT).map_err(sqlite_error)?;
        let columns = params![
            key.view.name(),
            size,
            key.start,
            self.quote,
            self.rank,
            self.name,
            self.symbols,
            self.trades,
            self.volume,
            self.notional,
            self.vwap,
            self.open,
            self.close,
            self.change_pct,
        ];
        insert.execute(columns).map(drop).map_err(sqlite_error)
    }
}

/// Reads views in the order of the keys.
pub(super) fn read(
    connection: &Connection,
    keys: &[ViewKey],
) -> Result<Vec<Option<ViewState>>, StoreError> {
    const SELECT: &str =
        "SELECT state FROM views WHERE view_name = ?1 AND size = ?2 AND start = ?3";
    let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
    let mut read = |key: &ViewKey| {
        let cell = select
            .query_row(
                params![key.view.name(), key.size.to_string(), key.start],
                |row| Ok(decode(row.get_ref(0)?.as_blob()?, key)),
            )
            .optional();
        cell.map_err(sqlite_error)?.transpose()
    };
    keys.iter().map(&mut read).collect()
}

/// Reads the windows of one view and size with starts in `range`, ascending.
pub(super) fn range(
    connection: &Connection,
    view: View,
    size: WindowSize,
    range: &Range<WindowStart>,
) -> Result<Vec<StoredView>, StoreError> {
    const SELECT: &str = "SELECT start, state FROM views
        WHERE view_name = ?1 AND size = ?2 AND start >= ?3 AND start < ?4 ORDER BY start";
    let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
    let found = select.query_map(
        params![view.name(), size.to_string(), range.start, range.end],
        |row| {
            let key = ViewKey {
                view,
                size,
                start: row.get(0)?,
            };
            Ok(
                decode(row.get_ref(1)?.as_blob()?, &key).map(|state| StoredView {
                    start: key.start,
                    state,
                }),
            )
        },
    );
    found
        .map_err(sqlite_error)?
        .map(|view| view.map_err(sqlite_error)?)
        .collect()
}

/// Reads the same windows as [`range`], each with the entries that differ from its cell, and
/// entries without a cell. Both are written in one transaction, and the caller reads both in one.
pub(super) fn audit(
    connection: &Connection,
    view: View,
    size: WindowSize,
    starts: &Range<WindowStart>,
) -> Result<Vec<Audited<ViewState>>, StoreError> {
    const EPOCH: &str = "SELECT epoch FROM views WHERE view_name = ?1 AND size = ?2 AND start = ?3";
    let mut audited = Vec::new();
    for StoredView { start, state } in range(connection, view, size, starts)? {
        let write = ViewWrite {
            key: ViewKey { view, size, start },
            state,
            write_timestamp: 0,
        };
        let mut mismatches = Mismatches::default();
        let mut select = connection.prepare_cached(EPOCH).map_err(sqlite_error)?;
        let epoch: i64 = select
            .query_row(params![view.name(), size.to_string(), start], |row| {
                row.get(0)
            })
            .map_err(sqlite_error)?;
        mismatches.compare("epoch", u64::try_from(epoch).ok(), Some(write.state.epoch));
        compare_entries(connection, &write, &mut mismatches)?;
        audited.push(Audited::new(start, write.state, mismatches.0));
    }
    audited.extend(without_cell(connection, view, size, starts)?);
    Ok(audited)
}

/// Compares the entries of a window with those that its cell implies.
fn compare_entries(
    connection: &Connection,
    write: &ViewWrite,
    mismatches: &mut Mismatches,
) -> Result<(), StoreError> {
    const SELECT: &str = "
        SELECT quote, rank, name, symbols, trades, volume, notional, vwap, open, close,
            change_pct, change_pct_exact
        FROM view_entries WHERE view_name = ?1 AND size = ?2 AND start = ?3 ORDER BY quote, rank";
    let ViewKey { view, size, start } = write.key;
    let entries = ViewColumns::of(write)?.entries;
    let expected: BTreeMap<(&str, i64), &EntryColumns> = entries
        .iter()
        .map(|entry| ((entry.quote, entry.rank.into()), entry))
        .collect();
    let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
    let mut rows = select
        .query(params![view.name(), size.to_string(), start])
        .map_err(sqlite_error)?;
    let mut count = 0;
    while let Some(row) = rows.next().map_err(sqlite_error)? {
        count += 1;
        let quote: String = row.get(0).map_err(sqlite_error)?;
        let rank: i64 = row.get(1).map_err(sqlite_error)?;
        match expected.get(&(quote.as_str(), rank)) {
            Some(entry) => entry.compare(view, row, mismatches).map_err(sqlite_error)?,
            None => mismatches.extra_rank(view.rank_name(rank, quote), expected.len()),
        }
    }
    if count < expected.len() {
        mismatches.0.push(format!(
            "{count} rank(s) found, its view has {}",
            expected.len()
        ));
    }
    Ok(())
}

/// Windows that have entries and no cell.
fn without_cell(
    connection: &Connection,
    view: View,
    size: WindowSize,
    range: &Range<WindowStart>,
) -> Result<Vec<Audited<ViewState>>, StoreError> {
    const SELECT: &str = "
        SELECT start FROM view_entries
        WHERE view_name = ?1 AND size = ?2 AND start >= ?3 AND start < ?4
        EXCEPT SELECT start FROM views WHERE view_name = ?1 AND size = ?2";
    let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
    let found = select.query_map(
        params![view.name(), size.to_string(), range.start, range.end],
        |row| Ok(Audited::entries_without_cell(row.get(0)?, 0)),
    );
    found
        .map_err(sqlite_error)?
        .map(|window| window.map_err(sqlite_error))
        .collect()
}

/// Compares a REAL column with the text it was written as. SQLite converts the text to a double
/// and may miss the nearest one by its last bit, so that much of a difference is accepted.
fn compare_decimal(
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

fn decode(cell: &[u8], key: &ViewKey) -> Result<ViewState, StoreError> {
    ViewState::from_cell(cell).map_err(|error| StoreError::Broken(format!("{key}: {error}")))
}
