//! The history of epochs, by the UTC day of their write timestamps.
//!
//! A directory of days lists the partitions that exist. A day is entered before its first entry, and
//! only once per process.

use std::sync::{Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt, stream};
use scylla::{
    SerializeRow, client::session::Session, statement::prepared::PreparedStatement, value::CqlDate,
};
use tapeflow_protocol::{Counts, HistoryEntry, StoreError};
use tapeflow_schemas::WriteTimestamp;

use super::{
    display_columns::bigint,
    errors::{broken, of_execution, of_pager, of_row},
    session::{Cluster, row_limit},
};

const DAY_US: i64 = 86_400_000_000;
/// The day 1970-01-01 as CQL counts dates.
const DAY_ZERO: i64 = 1 << 31;

/// The statements on tables `history` and `history_days`.
pub(super) struct History {
    insert: PreparedStatement,
    add_day: PreparedStatement,
    days: PreparedStatement,
    select: PreparedStatement,
    /// The day that was last entered in the directory.
    known: Mutex<Option<CqlDate>>,
}

#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct EntryColumns<'a> {
    job: &'a str,
    day: CqlDate,
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
}

type EntryRow = (i64, i64, String, i64, i64, i64, i64, i64, i64, i64);

impl History {
    pub(super) async fn prepare(cluster: &Cluster, keyspace: &str) -> Result<Self, StoreError> {
        let columns = "epoch, write_timestamp, cuts, records, accepted, dead_letters, duplicates, \
             price_updates, gaps, late";
        Ok(Self {
            insert: cluster
                .prepare(format!(
                    "INSERT INTO {keyspace}.history (job, day, {columns}) \
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
                ))
                .await?,
            add_day: cluster
                .prepare(format!(
                    "INSERT INTO {keyspace}.history_days (job, day) VALUES (?, ?)"
                ))
                .await?,
            days: cluster
                .prepare(format!(
                    "SELECT day FROM {keyspace}.history_days WHERE job = ?"
                ))
                .await?,
            select: cluster
                .prepare(format!(
                    "SELECT {columns} FROM {keyspace}.history WHERE job = ? AND day = ? LIMIT ?"
                ))
                .await?,
            known: Mutex::default(),
        })
    }

    /// Writes entries, and their days first.
    pub(super) async fn write(
        &self,
        session: &Session,
        job: &str,
        entries: &[HistoryEntry],
        recovery_timestamp: WriteTimestamp,
        in_flight: usize,
    ) -> Result<(), StoreError> {
        let mut days: Vec<CqlDate> = entries
            .iter()
            .map(|entry| day(entry.write_timestamp))
            .collect();
        days.dedup();
        for day in days {
            if *self.known.lock().unwrap_or_else(PoisonError::into_inner) != Some(day) {
                let sent = session.execute_unpaged(&self.add_day, (job, day)).await;
                sent.map_err(|error| of_execution("writing a day of the history", &error))?;
                *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(day);
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
            day: day(entry.write_timestamp),
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
            .execute_iter(self.days.clone(), (job,))
            .await
            .map_err(|error| of_pager(DOING, &error))?;
        let mut days = pager
            .rows_stream::<(CqlDate,)>()
            .map_err(|error| damaged(&error))?;
        while let Some((day,)) = days
            .try_next()
            .await
            .map_err(|error| of_row(DOING, &error))?
        {
            let pager = session
                .execute_iter(
                    self.select.clone(),
                    (job, day, row_limit(limit - all.len())),
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

/// The UTC day of a write timestamp.
fn day(write_timestamp: WriteTimestamp) -> CqlDate {
    // In range: the largest write timestamp is day 106,751,991.
    CqlDate(u32::try_from(write_timestamp.div_euclid(DAY_US) + DAY_ZERO).unwrap_or(u32::MAX))
}
