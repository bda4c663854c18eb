//! Bars in SQLite: an upsert in which the greater write timestamp wins, and reads of the state
//! cell. There are no display columns.
//!
//! The table is ordered by size, start and symbol. The bars of one symbol are far apart in it, so a
//! range is read start by start, within the buckets that the directory lists.

use std::{collections::BTreeMap, ops::Range};

use rusqlite::{Connection, OptionalExtension, params};
use tapeflow_log::sqlite::sqlite_error;
use tapeflow_protocol::{DirectoryEntry, StoreError, Unlisted};
use tapeflow_schemas::{
    BarKey, BarRow, BarWrite, StoredBar, Symbol, WindowSize, WindowStart, window::BUCKET_MS,
};

/// A bar as its columns, made on the caller's thread: the writer's thread only runs SQLite.
pub(super) struct BarColumns {
    key: BarKey,
    write_timestamp: i64,
    cell: Vec<u8>,
}

impl BarColumns {
    pub(super) fn of(bar: &BarWrite) -> Self {
        Self {
            key: bar.key.clone(),
            write_timestamp: bar.write_timestamp,
            cell: bar.to_cell(),
        }
    }

    /// The approximate size of a bar in the writer's queue, for the queue's bound.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.cell.len()
    }

    /// Writes the bar unless the table has it at a greater write timestamp. Its directory entry is
    /// there before.
    pub(super) fn write(&self, connection: &Connection) -> Result<(), StoreError> {
        const UPSERT: &str = "
            INSERT INTO bars (seconds, start, symbol_id, write_timestamp, state)
            VALUES (?1, ?2, (SELECT id FROM symbols WHERE symbol = ?3), ?4, ?5)
            ON CONFLICT (seconds, start, symbol_id) DO UPDATE SET
                write_timestamp = excluded.write_timestamp, state = excluded.state
            WHERE excluded.write_timestamp > bars.write_timestamp";
        const SELECT: &str = "SELECT write_timestamp, state FROM bars
            WHERE seconds = ?1 AND start = ?2
                AND symbol_id = (SELECT id FROM symbols WHERE symbol = ?3)";
        let (symbol, seconds, start) = (
            self.key.symbol.as_str(),
            seconds(self.key.size),
            self.key.start,
        );
        let mut upsert = connection.prepare_cached(UPSERT).map_err(sqlite_error)?;
        let columns = params![seconds, start, symbol, self.write_timestamp, self.cell];
        if upsert.execute(columns).map_err(sqlite_error)? == 1 {
            return Ok(());
        }
        // Nothing was written: the write is stale, or a repeat. A second content at the same write
        // timestamp is neither (I4), and must not pass for a repeat.
        let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
        let found: (i64, Vec<u8>) = select
            .query_row(params![seconds, start, symbol], |row| {
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

/// The size as the table has it. A trading session has no length of its own: its nominal one is
/// that of a day, and a day and a session may share a start.
pub(super) fn seconds(size: WindowSize) -> i64 {
    if size.is_session() {
        0
    } else {
        size.ms() / 1_000
    }
}

/// Writes a directory entry.
pub(super) fn write_entry(
    connection: &Connection,
    entry: &DirectoryEntry,
) -> Result<(), StoreError> {
    const SYMBOL: &str = "INSERT INTO symbols (symbol, class) VALUES (?1, ?2)
        ON CONFLICT DO NOTHING";
    const BUCKET: &str = "INSERT INTO symbol_buckets (symbol_id, bucket)
        VALUES ((SELECT id FROM symbols WHERE symbol = ?1), ?2) ON CONFLICT DO NOTHING";
    let symbol = entry.symbol.as_str();
    let mut insert = connection.prepare_cached(SYMBOL).map_err(sqlite_error)?;
    insert
        .execute(params![symbol, entry.symbol.class().name()])
        .map_err(sqlite_error)?;
    let mut insert = connection.prepare_cached(BUCKET).map_err(sqlite_error)?;
    insert
        .execute(params![symbol, entry.bucket])
        .map(drop)
        .map_err(sqlite_error)
}

/// Reads the rows of bars in the order of the keys.
pub(super) fn read(
    connection: &Connection,
    keys: &[BarKey],
) -> Result<Vec<Option<BarRow>>, StoreError> {
    let mut rows = Rows::new(connection)?;
    let mut ids = BTreeMap::new();
    let mut read = |key: &BarKey| {
        let id = match ids.get(&key.symbol) {
            Some(id) => *id,
            None => *ids
                .entry(key.symbol.clone())
                .or_insert(id_of(connection, &key.symbol)?),
        };
        id.map_or(Ok(None), |id| rows.read(id, key))
    };
    keys.iter().map(&mut read).collect()
}

/// The number of a symbol; `None` if the directory does not list it.
fn id_of(connection: &Connection, symbol: &Symbol) -> Result<Option<i64>, StoreError> {
    connection
        .prepare_cached("SELECT id FROM symbols WHERE symbol = ?1")
        .and_then(|mut select| {
            select
                .query_row([symbol.as_str()], |row| row.get(0))
                .optional()
        })
        .map_err(sqlite_error)
}

/// The statement that reads one row.
struct Rows<'c>(rusqlite::CachedStatement<'c>);

impl<'c> Rows<'c> {
    fn new(connection: &'c Connection) -> Result<Self, StoreError> {
        const SELECT: &str = "SELECT state FROM bars
            WHERE seconds = ?1 AND start = ?2 AND symbol_id = ?3";
        Ok(Self(
            connection.prepare_cached(SELECT).map_err(sqlite_error)?,
        ))
    }

    fn read(&mut self, id: i64, key: &BarKey) -> Result<Option<BarRow>, StoreError> {
        let row = self
            .0
            .query_row(params![seconds(key.size), key.start, id], |row| {
                Ok(decode(row.get_ref(0)?.as_blob()?, key))
            })
            .optional();
        row.map_err(sqlite_error)?.transpose()
    }
}

/// Reads the bars of one symbol and size with starts in `range`, ascending.
pub(super) fn range(
    connection: &Connection,
    symbol: &Symbol,
    size: WindowSize,
    range: &Range<WindowStart>,
) -> Result<Vec<StoredBar>, StoreError> {
    const NEXT: &str = "SELECT start FROM bars WHERE seconds = ?1 AND start >= ?2 AND start < ?3
        ORDER BY start LIMIT 1";
    let Some(id) = id_of(connection, symbol)? else {
        return Ok(Vec::new());
    };
    let (mut rows, mut bars) = (Rows::new(connection)?, Vec::new());
    let mut next = connection.prepare_cached(NEXT).map_err(sqlite_error)?;
    let (row_size, first) = size.row_of(range.start);
    for bucket in buckets(connection, id, range)? {
        let mut from = first.max(bucket);
        let to = range.end.min(bucket.saturating_add(BUCKET_MS));
        while from < to {
            let start: Option<i64> = next
                .query_row(params![seconds(row_size), from, to], |row| row.get(0))
                .optional()
                .map_err(sqlite_error)?;
            let Some(start) = start else { break };
            let key = BarKey {
                symbol: symbol.clone(),
                size: row_size,
                start,
            };
            if let Some(row) = rows.read(id, &key)? {
                let found = row.bars_of(start, size);
                bars.extend(found.map_err(|error| damaged(&key, &error))?);
            }
            from = start + 1;
        }
    }
    bars.retain(|bar| range.contains(&bar.start));
    Ok(bars)
}

/// The buckets of a symbol that overlap the range, ascending.
fn buckets(
    connection: &Connection,
    id: i64,
    range: &Range<WindowStart>,
) -> Result<Vec<i64>, StoreError> {
    let first = range.start.saturating_sub(BUCKET_MS);
    let mut select = connection
        .prepare_cached(
            "SELECT bucket FROM symbol_buckets
            WHERE symbol_id = ?1 AND bucket > ?2 AND bucket < ?3 ORDER BY bucket",
        )
        .map_err(sqlite_error)?;
    let found = select
        .query_map(params![id, first, range.end], |row| row.get(0))
        .map_err(sqlite_error)?;
    found.collect::<rusqlite::Result<_>>().map_err(sqlite_error)
}

/// Buckets with bars that the directory does not list.
pub(super) fn unlisted(connection: &Connection) -> Result<Vec<Unlisted>, StoreError> {
    let select = format!(
        "SELECT coalesce(symbol, 'symbol_id ' || symbol_id), bucket FROM
            (SELECT DISTINCT symbol_id,
                start - ((start % {BUCKET_MS}) + {BUCKET_MS}) % {BUCKET_MS} AS bucket FROM bars)
            LEFT JOIN symbols ON id = symbol_id
        WHERE symbol IS NULL OR (symbol_id, bucket) NOT IN
            (SELECT symbol_id, bucket FROM symbol_buckets)
        ORDER BY 1, 2"
    );
    let mut select = connection.prepare_cached(&select).map_err(sqlite_error)?;
    let found = select.query_map([], |row| {
        Ok(Unlisted {
            symbol: row.get(0)?,
            bucket: row.get(1)?,
        })
    });
    found
        .map_err(sqlite_error)?
        .map(|unlisted| unlisted.map_err(sqlite_error))
        .collect()
}

fn decode(cell: &[u8], key: &BarKey) -> Result<BarRow, StoreError> {
    BarRow::from_cell(cell, key.start).map_err(|error| damaged(key, &error))
}

fn damaged(key: &BarKey, error: &tapeflow_schemas::CellError) -> StoreError {
    StoreError::Broken(format!("bar {key}: {error}"))
}
