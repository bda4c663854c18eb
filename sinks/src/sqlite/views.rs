//! Lists of views in SQLite: the upsert in which the greater write timestamp wins, and in the same
//! transaction the lines that other tools read.

use std::ops::Range;

use rusqlite::{Connection, params};
use tapeflow_log::sqlite::{has_views, integer, sqlite_error};
use tapeflow_protocol::{Audited, StoreError, audit::Mismatches};
use tapeflow_schemas::{
    Price, StoredView, View, ViewEntry, ViewKey, ViewState, ViewWrite, WindowSize, WindowStart,
    decimal::{SCALE, format_fixed},
};

use super::rows::hold_price;

/// A list as its columns hold it, made on the caller's thread.
pub(super) struct List {
    key: ViewKey,
    epoch: i64,
    write_timestamp: i64,
    cell: Vec<u8>,
    lines: Vec<Line>,
}

/// One line of it.
struct Line {
    name: String,
    symbols: i64,
    trades: i64,
    volume: String,
    notional: String,
    vwap: Option<String>,
    prices: [Option<String>; 2],
    change_bp: Option<i64>,
}

impl List {
    pub(super) fn of(write: &ViewWrite) -> Result<Self, StoreError> {
        Ok(Self {
            key: write.key,
            epoch: integer("an epoch", write.state.epoch)?,
            write_timestamp: write.write_timestamp,
            cell: write.state.to_cell(),
            lines: write
                .state
                .entries
                .iter()
                .map(|entry| Line::of(write.key.view, entry))
                .collect::<Result<_, _>>()?,
        })
    }

    /// What it takes up, roughly: for the writer's bound.
    pub(super) fn bytes(&self) -> usize {
        256 + self.cell.len() + 256 * self.lines.len()
    }

    /// Writes the list, and its lines in the place of those before, unless the table has it at a
    /// greater write timestamp.
    pub(super) fn write(&self, connection: &Connection) -> Result<(), StoreError> {
        const UPSERT: &str = "
            INSERT INTO views (view_name, size, start, epoch, write_timestamp, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
            ON CONFLICT (view_name, size, start) DO UPDATE SET epoch = excluded.epoch, write_timestamp = excluded.write_timestamp, state = excluded.state
            WHERE excluded.write_timestamp > views.write_timestamp";
        let (view, size, start) = (
            self.key.view.name(),
            self.key.size.to_string(),
            self.key.start,
        );
        let mut upsert = connection.prepare_cached(UPSERT).map_err(sqlite_error)?;
        if upsert
            .execute(params![
                view,
                size,
                start,
                self.epoch,
                self.write_timestamp,
                self.cell
            ])
            .map_err(sqlite_error)?
            == 1
        {
            let mut delete = connection
                .prepare_cached(
                    "DELETE FROM view_entries WHERE view_name = ?1 AND size = ?2 AND start = ?3",
                )
                .map_err(sqlite_error)?;
            delete
                .execute(params![view, size, start])
                .map_err(sqlite_error)?;
            return (1..)
                .zip(&self.lines)
                .try_for_each(|(rank, line)| line.insert(connection, &self.key, &size, rank));
        }
        // Stale, or a repeat, as with rows: a second content at one write timestamp (I4) must not pass for a
        // repeat.
        let mut select = connection
            .prepare_cached(
                "SELECT write_timestamp, state FROM views WHERE view_name = ?1 AND size = ?2 AND start = ?3",
            )
            .map_err(sqlite_error)?;
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

impl Line {
    fn of(view: View, entry: &ViewEntry) -> Result<Self, StoreError> {
        Ok(Self {
            name: entry.name.clone(),
            symbols: integer("a count of symbols", entry.symbols)?,
            trades: integer("a count of trades", entry.trades)?,
            volume: format_fixed(entry.volume, view.volume_scale()),
            notional: format_fixed(entry.notional, view.notional_scale()),
            vwap: entry.vwap_e8().map(|e8| format_fixed(e8, SCALE)),
            // As text: the column's type makes the nearest double of it.
            prices: [entry.open, entry.close].map(|price| price.as_ref().map(Price::to_string)),
            // From the smallest price to the largest is beyond SQLite's integers; that far up, the
            // number no longer matters.
            change_bp: entry
                .change_bp()
                .map(|change| i64::try_from(change).unwrap_or(i64::MAX)),
        })
    }

    fn hold(
        &self,
        rank: i64,
        shown: &rusqlite::Row<'_>,
        mismatches: &mut Mismatches,
    ) -> rusqlite::Result<()> {
        let named = |column: &str| format!("{column} of rank {rank}");
        for (column, text) in [
            ("name", Some(&self.name)),
            ("volume", Some(&self.volume)),
            ("notional", Some(&self.notional)),
            ("vwap", self.vwap.as_ref()),
        ] {
            mismatches.hold(
                &named(column),
                shown.get::<_, Option<String>>(column)?.as_ref(),
                text,
            );
        }
        for (column, count) in [
            ("symbols", Some(self.symbols)),
            ("trades", Some(self.trades)),
            ("change_bp", self.change_bp),
        ] {
            mismatches.hold(&named(column), shown.get(column)?, count);
        }
        for (column, price) in ["open", "close"].into_iter().zip(&self.prices) {
            hold_price(
                mismatches,
                &named(column),
                shown.get(column)?,
                price.as_deref(),
            );
        }
        Ok(())
    }

    fn insert(
        &self,
        connection: &Connection,
        key: &ViewKey,
        size: &str,
        rank: i64,
    ) -> Result<(), StoreError> {
        const INSERT: &str = "
            INSERT INTO view_entries (view_name, size, start, rank, name, symbols, trades, volume, notional, vwap, open, close, change_bp)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
        let [open, close] = &self.prices;
        let mut insert = connection.prepare_cached(INSERT).map_err(sqlite_error)?;
        let columns = params![
            key.view.name(),
            size,
            key.start,
            rank,
            self.name,
            self.symbols,
            self.trades,
            self.volume,
            self.notional,
            self.vwap,
            open,
            close,
            self.change_bp,
        ];
        insert.execute(columns).map(drop).map_err(sqlite_error)
    }
}

/// Reads the lists of one view and size with starts in `range`, ascending.
pub(super) fn views(
    connection: &Connection,
    view: View,
    size: WindowSize,
    range: &Range<WindowStart>,
) -> Result<Vec<StoredView>, StoreError> {
    const SELECT: &str = "SELECT start, state FROM views WHERE view_name = ?1 AND size = ?2 AND start >= ?3 AND start < ?4 ORDER BY start";
    if !has_views(connection)? {
        return Ok(Vec::new());
    }
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
                state(row.get_ref(1)?.as_blob()?, &key).map(|state| StoredView {
                    start: key.start,
                    state,
                }),
            )
        },
    );
    found
        .map_err(sqlite_error)?
        .map(|list| list.map_err(sqlite_error)?)
        .collect()
}

/// The same, each with what the lines beside the cell show otherwise. The lines are written with
/// their list, and a caller reads both in one transaction.
pub(super) fn audit(
    connection: &Connection,
    view: View,
    size: WindowSize,
    range: &Range<WindowStart>,
) -> Result<Vec<Audited<ViewState>>, StoreError> {
    const SELECT: &str = "
        SELECT rank, name, symbols, trades, volume, notional, vwap, open, close, change_bp FROM view_entries
        WHERE view_name = ?1 AND size = ?2 AND start = ?3 ORDER BY rank";
    let mut audited = Vec::new();
    for StoredView { start, state } in views(connection, view, size, range)? {
        let list = ViewWrite {
            key: ViewKey { view, size, start },
            state,
            write_timestamp: 0,
        };
        let lines = List::of(&list)?.lines;
        let mut mismatches = Mismatches::default();
        let mut select = connection
            .prepare_cached(
                "SELECT epoch FROM views WHERE view_name = ?1 AND size = ?2 AND start = ?3",
            )
            .map_err(sqlite_error)?;
        let epoch: i64 = select
            .query_row(params![view.name(), size.to_string(), start], |row| {
                row.get(0)
            })
            .map_err(sqlite_error)?;
        mismatches.hold("epoch", u64::try_from(epoch).ok(), Some(list.state.epoch));
        let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
        let mut shown = select
            .query(params![view.name(), size.to_string(), start])
            .map_err(sqlite_error)?;
        let mut count = 0;
        while let Some(shown) = shown.next().map_err(sqlite_error)? {
            count += 1;
            let rank: i64 = shown.get(0).map_err(sqlite_error)?;
            match usize::try_from(rank)
                .ok()
                .and_then(|rank| lines.get(rank.checked_sub(1)?))
            {
                Some(line) => line
                    .hold(rank, shown, &mut mismatches)
                    .map_err(sqlite_error)?,
                None => mismatches.0.push(format!(
                    "rank {rank} is there, its list has {}",
                    lines.len()
                )),
            }
        }
        if count < lines.len() {
            mismatches.0.push(format!(
                "{count} ranks are there, its list has {}",
                lines.len()
            ));
        }
        audited.push(Audited::new(start, list.state, mismatches.0));
    }
    if has_views(connection)? {
        audited.extend(without_list(connection, view, size, range)?);
    }
    Ok(audited)
}

/// Lines that stand there without a list.
fn without_list(
    connection: &Connection,
    view: View,
    size: WindowSize,
    range: &Range<WindowStart>,
) -> Result<Vec<Audited<ViewState>>, StoreError> {
    const SELECT: &str = "
        SELECT start FROM view_entries WHERE view_name = ?1 AND size = ?2 AND start >= ?3 AND start < ?4
        EXCEPT SELECT start FROM views WHERE view_name = ?1 AND size = ?2";
    let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
    let found = select.query_map(
        params![view.name(), size.to_string(), range.start, range.end],
        |row| {
            Ok(Audited {
                start: row.get(0)?,
                state: None,
                mismatches: Vec::new(),
                ahead: Some(0),
            })
        },
    );
    found
        .map_err(sqlite_error)?
        .map(|lines| lines.map_err(sqlite_error))
        .collect()
}

fn state(cell: &[u8], key: &ViewKey) -> Result<ViewState, StoreError> {
    ViewState::from_cell(cell).map_err(|damage| StoreError::Broken(format!("{key}: {damage}")))
}
