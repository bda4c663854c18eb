//! Bars and views that leave the file. The table of bars is ordered by size and start, so what
//! became old since the last time lies side by side: it is gone through once, some rows at a time,
//! and the job's writes come in between.

use std::{ops::Range, sync::Arc};

use rusqlite::{Connection, OptionalExtension, params};
use tapeflow_log::sqlite::{Database, sqlite_error};
use tapeflow_protocol::{Expired, Expiry, ExpiryMarks, StoreError, store::ExpiryProgress};
use tapeflow_schemas::{BarRow, View, WindowSize, WindowStart};

use super::bars::seconds;

/// Rows that one step looks at. The job's writes wait for a step, which takes a few milliseconds.
const ROWS: u32 = 512;
/// Windows of a view that one step deletes. Each has some tens of entries.
const VIEWS: u32 = 32;

/// A row's key: its start and its symbol's number.
type Place = (WindowStart, i64);

pub(super) async fn up_to(database: &Database) -> Result<ExpiryMarks, StoreError> {
    let read = |connection: &Connection| {
        let marks = |row: &rusqlite::Row<'_>| {
            Ok(ExpiryMarks {
                begun: row.get(0)?,
                done: row.get(1)?,
            })
        };
        connection
            .prepare_cached("SELECT begun_ms, done_ms FROM expired")
            .and_then(|mut select| select.query_row([], marks).optional())
            .map(Option::unwrap_or_default)
            .map_err(sqlite_error)
    };
    database.read_after_writes(read).await
}

pub(super) async fn expire(
    database: &Database,
    expiry: &Expiry,
    progress: ExpiryProgress<'_>,
) -> Result<Expired, StoreError> {
    let shared = Arc::new(expiry.clone());
    let mut all = Expired::default();
    let Some(watermark) = expiry.watermark() else {
        return Ok(all);
    };
    database
        .write(0, move |connection| keep_mark(connection, watermark, None))
        .await?;
    for range in expiry.minutes() {
        let mut next = Some((range.start, i64::MIN));
        while let Some(from) = next {
            let (expiry, end) = (Arc::clone(&shared), range.end);
            let step = move |connection: &Connection| minutes(connection, &expiry, from, end);
            let (rewritten, until) = database.write(0, step).await?;
            all += rewritten;
            next = until;
            if !progress(all) {
                return Ok(all);
            }
        }
    }
    for size in expiry.row_sizes() {
        let range = expiry.rows(size);
        loop {
            let range = range.clone();
            let step = move |connection: &Connection| rows(connection, size, &range);
            let deleted = database.write(0, step).await?;
            all.bars += deleted;
            if !progress(all) {
                return Ok(all);
            }
            if deleted < u64::from(ROWS) {
                break;
            }
        }
        for view in View::EVERY {
            loop {
                let range = range.clone();
                let step = move |connection: &Connection| views(connection, view, size, &range);
                let deleted = database.write(0, step).await?;
                all.views += deleted;
                if !progress(all) {
                    return Ok(all);
                }
                if deleted < u64::from(VIEWS) {
                    break;
                }
            }
        }
    }
    let done = Some(watermark);
    database
        .write(0, move |connection| keep_mark(connection, watermark, done))
        .await?;
    Ok(all)
}

/// Writes some minutes without what may leave them. Returns how many, and where the next step
/// begins.
fn minutes(
    connection: &Connection,
    expiry: &Expiry,
    from: Place,
    end: WindowStart,
) -> Result<(Expired, Option<Place>), StoreError> {
    const SELECT: &str = "SELECT start, symbol_id, write_timestamp, state FROM bars
        WHERE seconds = ?1 AND (start, symbol_id) > (?2, ?3) AND start < ?4
        ORDER BY start, symbol_id LIMIT ?5";
    const UPDATE: &str = "UPDATE bars SET write_timestamp = ?4, state = ?5
        WHERE seconds = ?1 AND start = ?2 AND symbol_id = ?3";
    let minute = seconds(WindowSize::MINUTE);
    let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
    let mut update = connection.prepare_cached(UPDATE).map_err(sqlite_error)?;
    let mut found = select
        .query(params![minute, from.0, from.1, end, ROWS])
        .map_err(sqlite_error)?;
    let (mut seen, mut last, mut written, mut unreadable) = (0, from, Vec::new(), 0);
    while let Some(row) = found.next().map_err(sqlite_error)? {
        last = (
            row.get(0).map_err(sqlite_error)?,
            row.get(1).map_err(sqlite_error)?,
        );
        seen += 1;
        let at = row.get(2).map_err(sqlite_error)?;
        let cell = row.get_ref(3).map_err(sqlite_error)?.as_blob();
        let cell = cell.map_err(|error| StoreError::Broken(error.to_string()))?;
        let without =
            BarRow::from_cell(cell, last.0).and_then(|bar| expiry.minute_without(last.0, &bar, at));
        match without {
            Ok(Some((bar, at))) => written.push((last, at, bar.to_cell(last.0))),
            Ok(None) => {}
            // An audit reports it, and a repair needs what is there.
            Err(_) => unreadable += 1,
        }
    }
    drop(found);
    for ((start, id), at, cell) in &written {
        update
            .execute(params![minute, start, id, at, cell])
            .map_err(sqlite_error)?;
    }
    let expired = Expired {
        minutes: written.len() as u64,
        unreadable,
        ..Expired::default()
    };
    Ok((expired, (seen == ROWS).then_some(last)))
}

/// Deletes some bars. Returns how many.
fn rows(
    connection: &Connection,
    size: WindowSize,
    range: &Range<WindowStart>,
) -> Result<u64, StoreError> {
    const DELETE: &str = "DELETE FROM bars WHERE (seconds, start, symbol_id) IN
        (SELECT seconds, start, symbol_id FROM bars
            WHERE seconds = ?1 AND start >= ?2 AND start < ?3 ORDER BY start LIMIT ?4)";
    connection
        .prepare_cached(DELETE)
        .and_then(|mut delete| delete.execute(params![seconds(size), range.start, range.end, ROWS]))
        .map(|deleted| deleted as u64)
        .map_err(sqlite_error)
}

/// Deletes some windows of a view with their entries. Returns how many.
fn views(
    connection: &Connection,
    view: View,
    size: WindowSize,
    range: &Range<WindowStart>,
) -> Result<u64, StoreError> {
    const SELECT: &str = "SELECT start FROM views
        WHERE view_name = ?1 AND size = ?2 AND start >= ?3 AND start < ?4 ORDER BY start LIMIT ?5";
    let (name, size) = (view.name(), size.to_string());
    let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
    let found: Vec<WindowStart> = select
        .query_map(params![name, size, range.start, range.end, VIEWS], |row| {
            row.get(0)
        })
        .and_then(Iterator::collect)
        .map_err(sqlite_error)?;
    let Some(last) = found.last() else {
        return Ok(0);
    };
    for table in ["view_entries", "views"] {
        connection
            .prepare_cached(&format!(
                "DELETE FROM {table} WHERE view_name = ?1 AND size = ?2 AND start >= ?3 AND start <= ?4"
            ))
            .and_then(|mut delete| delete.execute(params![name, size, range.start, last]))
            .map_err(sqlite_error)?;
    }
    Ok(found.len() as u64)
}

/// Moves the marks forward.
fn keep_mark(connection: &Connection, begun: i64, done: Option<i64>) -> Result<(), StoreError> {
    const INSERT: &str = "INSERT INTO expired (only_one, begun_ms, done_ms) VALUES (1, ?1, ?2)
        ON CONFLICT (only_one) DO UPDATE SET
            begun_ms = max(begun_ms, excluded.begun_ms),
            done_ms = coalesce(max(done_ms, excluded.done_ms), done_ms, excluded.done_ms)";
    connection
        .prepare_cached(INSERT)
        .and_then(|mut insert| insert.execute(params![begun, done]))
        .map(drop)
        .map_err(sqlite_error)
}
