//! The history of epochs, by the hour of their write timestamps.
//!
//! A directory of hours lists the partitions that exist. An hour is entered before its first entry,
//! and only once per process.
//!
//! Entries expire. Their age is that of the write by the clock of the server, not that of the write
//! timestamp.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};
use scylla::{
    SerializeRow, client::session::Session, statement::prepared::PreparedStatement,
    value::CqlTimestamp,
};
use tapeflow_protocol::{Counts, HistoryEntry, StoreError};
use tapeflow_schemas::WriteTimestamp;

use super::{
    display_columns::bigint,
    errors::{broken, of_execution, of_pager, of_row},
    session::{Cluster, row_limit},
};

const HOUR_US: i64 = 3_600_000_000;
const HOUR_MS: i64 = 3_600_000;
/// When the entry of an hour in the directory is written again.
const ENTER_AGAIN: Duration = Duration::from_secs(3_600);
/// How much longer than its entries an hour stays in the directory, in seconds.
const EXTRA_TTL: i32 = 2 * 3_600;

/// The statements on tables `history` and `history_hours`.
pub(super) struct History {
    insert: PreparedStatement,
    add_hour: PreparedStatement,
    hours: PreparedStatement,
    select: PreparedStatement,
    /// The hour that was last entered in the directory, and when.
    known: Mutex<Option<(CqlTimestamp, Instant)>>,
    /// The TTL of every write, in seconds; 0 is none.
    ttl: i32,
}

#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct EntryColumns<'a> {
    job: &'a str,
    hour: CqlTimestamp,
    epoch: i64,
    write_timestamp: i64,
    cuts: String,
    records: i64,
    accepted: i64,
    dead_letters: i64,
    duplicates: i64,
    price_updates: i64,
    gaps: i64,
    late: i64,
    using_timestamp: i64,
    using_ttl: i32,
}

type EntryRow = (i64, i64, String, i64, i64, i64, i64, i64, i64, i64);

impl History {
    pub(super) async fn prepare(
        cluster: &Cluster,
        keyspace: &str,
        keep: Option<Duration>,
    ) -> Result<Self, StoreError> {
        let columns = "epoch, write_timestamp, cuts, records, accepted, dead_letters, duplicates, \
             price_updates, gaps, late";
        Ok(Self {
            insert: cluster
                .prepare(format!(
                    "INSERT INTO {keyspace}.history (job, hour, {columns}) \
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?"
                ))
                .await?,
            add_hour: cluster
                .prepare(format!(
                    "INSERT INTO {keyspace}.history_hours (job, hour) VALUES (?, ?) USING TTL ?"
                ))
                .await?,
            hours: cluster
                .prepare(format!(
                    "SELECT hour FROM {keyspace}.history_hours WHERE job = ?"
                ))
                .await?,
            select: cluster
                .prepare(format!(
                    "SELECT {columns} FROM {keyspace}.history WHERE job = ? AND hour = ? LIMIT ?"
                ))
                .await?,
            known: Mutex::default(),
            ttl: keep.map_or(0, |keep| i32::try_from(keep.as_secs()).unwrap_or(i32::MAX)),
        })
    }

    /// Writes entries, and their hours first.
    pub(super) async fn write(
        &self,
        session: &Session,
        job: &str,
        entries: &[HistoryEntry],
        recovery_timestamp: WriteTimestamp,
        in_flight: usize,
    ) -> Result<(), StoreError> {
        let mut hours: Vec<CqlTimestamp> = entries
            .iter()
            .map(|entry| hour(entry.write_timestamp))
            .collect();
        hours.dedup();
        for hour in hours {
            // The entry must not expire before those of the hour, which may go on for longer than
            // an hour: write timestamps stand still while the clock is behind the last one.
            let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.is_none_or(|(known, at)| known != hour || at.elapsed() > ENTER_AGAIN) {
                let ttl = match self.ttl {
                    0 => 0,
                    ttl => ttl.saturating_add(EXTRA_TTL),
                };
                let sent = session
                    .execute_unpaged(&self.add_hour, (job, hour, ttl))
                    .await;
                sent.map_err(|error| of_execution("writing an hour of the history", &error))?;
                *self.known.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some((hour, Instant::now()));
            }
        }
        stream::iter(entries)
            .map(Ok)
            .try_for_each_concurrent(in_flight, |entry| {
                self.write_one(session, job, entry, recovery_timestamp)
            })
            .await
    }

    async fn write_one(
        &self,
        session: &Session,
        job: &str,
        entry: &HistoryEntry,
        recovery_timestamp: WriteTimestamp,
    ) -> Result<(), StoreError> {
        let doing = || format!("writing the history of epoch {}", entry.epoch);
        let counts = &entry.counts;
        let values = EntryColumns {
            job,
            hour: hour(entry.write_timestamp),
            epoch: bigint(entry.epoch),
            write_timestamp: entry.write_timestamp,
            cuts: serde_json::to_string(&entry.cuts)
                .map_err(|error| broken(format!("{}: {error}", doing())))?,
            records: bigint(counts.records),
            accepted: bigint(counts.accepted),
            dead_letters: bigint(counts.dead_letters),
            duplicates: bigint(counts.duplicates),
            price_updates: bigint(counts.price_updates),
            gaps: bigint(counts.gaps),
            late: bigint(counts.late),
            using_timestamp: entry.write_timestamp.max(recovery_timestamp),
            using_ttl: self.ttl,
        };
        session
            .execute_unpaged(&self.insert, values)
            .await
            .map(drop)
            .map_err(|error| of_execution(&doing(), &error))
    }

    /// The newest entries, at most `limit`, newest first.
    pub(super) async fn read(
        &self,
        session: &Session,
        job: &str,
        limit: usize,
    ) -> Result<Vec<HistoryEntry>, StoreError> {
        const DOING: &str = "reading history";
        let damaged = |error: &dyn std::fmt::Display| broken(format!("{DOING}: {error}"));
        let mut all = Vec::new();
        if limit == 0 {
            return Ok(all);
        }
        let pager = session
            .execute_iter(self.hours.clone(), (job,))
            .await
            .map_err(|error| of_pager(DOING, &error))?;
        let mut hours = pager
            .rows_stream::<(CqlTimestamp,)>()
            .map_err(|error| damaged(&error))?;
        while let Some((hour,)) = hours
            .try_next()
            .await
            .map_err(|error| of_row(DOING, &error))?
        {
            let pager = session
                .execute_iter(
                    self.select.clone(),
                    (job, hour, row_limit(limit - all.len())),
                )
                .await
                .map_err(|error| of_pager(DOING, &error))?;
            let mut found = pager
                .rows_stream::<EntryRow>()
                .map_err(|error| damaged(&error))?;
            while let Some(row) = found
                .try_next()
                .await
                .map_err(|error| of_row(DOING, &error))?
            {
                all.push(entry(row).map_err(|reason| damaged(&reason))?);
            }
            if all.len() >= limit {
                break;
            }
        }
        Ok(all)
    }
}

fn entry(
    (
        epoch,
        write_timestamp,
        cuts,
        records,
        accepted,
        dead_letters,
        duplicates,
        price_updates,
        gaps,
        late,
    ): EntryRow,
) -> Result<HistoryEntry, String> {
    let count = |value: i64| {
        u64::try_from(value).map_err(|_| format!("epoch {epoch} has a count of {value}"))
    };
    Ok(HistoryEntry {
        epoch: count(epoch)?,
        write_timestamp,
        cuts: serde_json::from_str(&cuts)
            .map_err(|error| format!("cuts of epoch {epoch}: {error}"))?,
        counts: Counts {
            records: count(records)?,
            accepted: count(accepted)?,
            dead_letters: count(dead_letters)?,
            duplicates: count(duplicates)?,
            price_updates: count(price_updates)?,
            gaps: count(gaps)?,
            late: count(late)?,
        },
    })
}

/// The hour of a write timestamp.
fn hour(write_timestamp: WriteTimestamp) -> CqlTimestamp {
    CqlTimestamp(write_timestamp.div_euclid(HOUR_US) * HOUR_MS)
}
