//! Retention of the embedded log: its oldest records are removed.
//!
//! Only committed records are removed, and never the last committed one of a partition, by which a
//! later start knows that this is still the log of its bars. SQLite uses the room of what was
//! removed again, so that the file stops growing. It does not get smaller.

use rusqlite::{Connection, params};
use tapeflow_protocol::StoreError;
use tapeflow_schemas::{Offset, Partition};

use super::{
    SqliteLog,
    log::{advance_first, bounds},
    sqlite_error,
};

/// Records of one partition that one call removes at most, so that no append waits for long.
const TRIMMED_AT_ONCE: u16 = 2_048;

/// Which records may be removed, by the time of their append in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// Records from before this time may be removed.
    pub before_ms: i64,
    /// The present. A record that claims to be from later has the time of a wrong clock, and does
    /// not protect those after it.
    pub now_ms: i64,
}

impl Age {
    fn is_young(self, timestamp_ms: i64) -> bool {
        (self.before_ms..=self.now_ms).contains(&timestamp_ms)
    }
}

impl SqliteLog {
    /// Removes the oldest records of each partition: those that are old enough, and only below the
    /// committed offsets, one per partition. Returns how many it removed, and whether more may be
    /// removed in another call.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was removed then.
    pub async fn trim(&self, committed: Vec<Offset>, age: Age) -> Result<(u64, bool), StoreError> {
        let trim = move |connection: &Connection| {
            let (mut removed, mut more) = (0, false);
            for (partition, next) in (0..).zip(&committed) {
                let count = trim_partition(connection, partition, next - 1, age)?;
                removed += count;
                more |= count == u64::from(TRIMMED_AT_ONCE);
            }
            Ok((removed, more))
        };
        self.database().write(0, trim).await
    }
}

/// Removes records below `end`.
fn trim_partition(
    connection: &Connection,
    partition: Partition,
    end: Offset,
    age: Age,
) -> Result<u64, StoreError> {
    const SELECT: &str = "SELECT \"offset\", timestamp_ms FROM log
        WHERE partition = ?1 AND \"offset\" >= ?2 AND \"offset\" < ?3
        ORDER BY \"offset\" LIMIT ?4";
    const DELETE: &str = "DELETE FROM log
        WHERE partition = ?1 AND \"offset\" >= ?2 AND \"offset\" < ?3";
    let first = bounds(connection, partition)?.start;
    let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
    let mut rows = select
        .query(params![partition, first, end, TRIMMED_AT_ONCE])
        .map_err(sqlite_error)?;
    let mut until = first;
    while let Some(row) = rows.next().map_err(sqlite_error)? {
        if age.is_young(row.get(1).map_err(sqlite_error)?) {
            break;
        }
        until = row.get::<_, Offset>(0).map_err(sqlite_error)? + 1;
    }
    if until == first {
        return Ok(0);
    }
    let mut delete = connection.prepare_cached(DELETE).map_err(sqlite_error)?;
    let removed = delete
        .execute(params![partition, first, until])
        .map_err(sqlite_error)?;
    advance_first(connection, partition, until)?;
    Ok(removed as u64)
}
