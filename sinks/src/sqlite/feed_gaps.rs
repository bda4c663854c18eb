//! Feed gaps by their beginnings.

use std::ops::Range;

use rusqlite::{Connection, params};
use tapeflow_log::sqlite::sqlite_error;
use tapeflow_protocol::{FeedGap, StoreError, store::feed_gap::MAX_GAP_MS};
use tapeflow_schemas::window::{BUCKET_MS, bucket};

/// Writes a gap; writing it again changes nothing.
pub(super) fn write(connection: &Connection, gap: &FeedGap) -> Result<(), StoreError> {
    const INSERT: &str = "
        INSERT INTO feed_gaps (from_ms, session, to_ms, is_open, producer, cause)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING";
    let mut insert = connection.prepare_cached(INSERT).map_err(sqlite_error)?;
    insert
        .execute(params![
            gap.from_ms,
            gap.session.to_string(),
            gap.to_ms.unwrap_or(gap.from_ms),
            gap.to_ms.is_none(),
            gap.producer,
            gap.cause
        ])
        .map(drop)
        .map_err(sqlite_error)
}

/// All gaps.
pub(super) fn all(connection: &Connection) -> Result<Vec<FeedGap>, StoreError> {
    read(connection, &(i64::MIN..i64::MAX))
}

/// The gaps that touch buckets whose starts lie in a range.
pub(super) fn read(
    connection: &Connection,
    starts: &Range<i64>,
) -> Result<Vec<FeedGap>, StoreError> {
    const SELECT: &str = "
        SELECT from_ms, session, to_ms, is_open, producer, cause FROM feed_gaps
        WHERE from_ms >= ?1 AND from_ms < ?2 AND to_ms >= ?3 ORDER BY from_ms";
    let last = bucket(starts.end.saturating_sub(1));
    let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
    let mut found = select
        .query([
            starts.start.saturating_sub(MAX_GAP_MS),
            last.saturating_add(BUCKET_MS),
            starts.start,
        ])
        .map_err(sqlite_error)?;
    let mut gaps = Vec::new();
    while let Some(row) = found.next().map_err(sqlite_error)? {
        let session: String = row.get(1).map_err(sqlite_error)?;
        let to_ms: i64 = row.get(2).map_err(sqlite_error)?;
        let is_open: bool = row.get(3).map_err(sqlite_error)?;
        gaps.push(FeedGap {
            from_ms: row.get(0).map_err(sqlite_error)?,
            to_ms: (!is_open).then_some(to_ms),
            session: session.parse().map_err(|error| {
                StoreError::Broken(format!("table feed_gaps has session {session:?}: {error}"))
            })?,
            producer: row.get(4).map_err(sqlite_error)?,
            cause: row.get(5).map_err(sqlite_error)?,
        });
    }
    Ok(gaps)
}
