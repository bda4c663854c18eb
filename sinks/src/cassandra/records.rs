//! What stands beside the rows: dead letters by their place in the log, and the history of epochs
//! by day.
//!
//! Both spread over many partitions of their tables, so each has a small directory of those that
//! exist, written first. An entry of a directory that this process has written before is not
//! written again.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use futures::{StreamExt, TryStreamExt, stream};
use scylla::{
    SerializeRow, client::session::Session, statement::prepared::PreparedStatement, value::CqlDate,
};
use tapeflow_protocol::{Counts, DeadLetter, HistoryEntry, StoreError};
use tapeflow_schemas::{Offset, Partition, WriteTimestamp};

use super::{
    display_columns::bigint,
    errors::{broken, of_execution, of_pager, of_row},
    session::Cluster,
};

/// Offsets of a partition whose dead letters share a partition of the table: 16 MB if every record
/// is refused.
const BLOCK_OFFSETS: i64 = 4_096;
const DAY_US: i64 = 86_400_000_000;
/// The day 1970-01-01 as CQL counts dates.
const DAY_ZERO: i64 = 1 << 31;

/// The statements on tables `dead_letters` and `dead_letter_blocks`.
pub(super) struct DeadLetters {
    insert: PreparedStatement,
    add_block: PreparedStatement,
    blocks: PreparedStatement,
    select: PreparedStatement,
    /// The block last written to the directory, by partition.
    known: Mutex<HashMap<Partition, i64>>,
}

impl DeadLetters {
    pub(super) async fn prepare(cluster: &Cluster, keyspace: &str) -> Result<Self, StoreError> {
        let columns = "offset, trade_index, reason, detail, payload";
        Ok(Self {
            insert: cluster.prepare(format!("INSERT INTO {keyspace}.dead_letters (partition, block, {columns}) VALUES (?, ?, ?, ?, ?, ?, ?)")).await?,
            add_block: cluster.prepare(format!("INSERT INTO {keyspace}.dead_letter_blocks (only_one, partition, block) VALUES (1, ?, ?)")).await?,
            blocks: cluster.prepare(format!("SELECT partition, block FROM {keyspace}.dead_letter_blocks WHERE only_one = 1")).await?,
            select: cluster.prepare(format!("SELECT {columns} FROM {keyspace}.dead_letters WHERE partition = ? AND block = ? LIMIT ?")).await?,
            known: Mutex::default(),
        })
    }

    /// Writes the blocks that the dead letters stand in.
    pub(super) async fn write_blocks(
        &self,
        session: &Session,
        dead_letters: &[DeadLetter],
        in_flight: usize,
    ) -> Result<(), StoreError> {
        let mut blocks: Vec<_> = dead_letters
            .iter()
            .map(|dead_letter| (dead_letter.partition, block(dead_letter.offset)))
            .collect();
        blocks.sort_unstable();
        blocks.dedup();
        {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            blocks.retain(|(partition, block)| known.get(partition) != Some(block));
        }
        let write = async |(partition, block): (Partition, i64)| {
            let sent = session
                .execute_unpaged(&self.add_block, (i64::from(partition), block))
                .await;
            sent.map(drop)
                .map_err(|error| of_execution("writing a block of dead letters", &error))
        };
        for chunk in blocks.chunks(in_flight.max(1)) {
            futures::future::try_join_all(chunk.iter().copied().map(write)).await?;
        }
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(blocks);
        Ok(())
    }

    /// Writes one dead letter.
    pub(super) async fn write(
        &self,
        session: &Session,
        dead_letter: &DeadLetter,
    ) -> Result<(), StoreError> {
        let values = (
            i64::from(dead_letter.partition),
            block(dead_letter.offset),
            dead_letter.offset,
            i64::from(dead_letter.index),
            dead_letter.reason.as_str(),
            dead_letter.detail.as_str(),
            dead_letter.payload.as_slice(),
        );
        let sent = session.execute_unpaged(&self.insert, values).await;
        sent.map(drop).map_err(|error| {
            of_execution(
                &format!("writing the dead letter of {}", dead_letter.position()),
                &error,
            )
        })
    }

    /// Dead letters by position, at most `limit`.
    pub(super) async fn read(
        &self,
        session: &Session,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        const DOING: &str = "reading dead letters";
        let damaged = |error: &dyn std::fmt::Display| broken(format!("{DOING}: {error}"));
        let mut all = Vec::new();
        if limit == 0 {
            return Ok(all);
        }
        let pager = session
            .execute_iter(self.blocks.clone(), ())
            .await
            .map_err(|error| of_pager(DOING, &error))?;
        let mut blocks = pager
            .rows_stream::<(i64, i64)>()
            .map_err(|error| damaged(&error))?;
        while let Some((partition, block)) = blocks
            .try_next()
            .await
            .map_err(|error| of_row(DOING, &error))?
        {
            let values = (partition, block, row_limit(limit - all.len()));
            let pager = session
                .execute_iter(self.select.clone(), values)
                .await
                .map_err(|error| of_pager(DOING, &error))?;
            let mut found = pager
                .rows_stream::<(i64, i64, String, String, Vec<u8>)>()
                .map_err(|error| damaged(&error))?;
            let partition = Partition::try_from(partition).map_err(|error| damaged(&error))?;
            while let Some((offset, index, reason, detail, payload)) = found
                .try_next()
                .await
                .map_err(|error| of_row(DOING, &error))?
            {
                let index = u32::try_from(index).map_err(|error| damaged(&error))?;
                all.push(DeadLetter {
                    partition,
                    offset,
                    index,
                    reason,
                    detail,
                    payload,
                });
            }
            if all.len() >= limit {
                break;
            }
        }
        Ok(all)
    }
}

fn block(offset: Offset) -> i64 {
    offset.div_euclid(BLOCK_OFFSETS)
}

/// CQL counts limits in 32 bits.
fn row_limit(limit: usize) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX)
}

/// The statements on tables `history` and `history_days`.
pub(super) struct History {
    insert: PreparedStatement,
    add_day: PreparedStatement,
    days: PreparedStatement,
    select: PreparedStatement,
    /// The day last written to the directory.
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
    write_write_timestamp: i64,
}

type EntryRow = (i64, i64, String, i64, i64, i64, i64, i64, i64, i64);

impl History {
    pub(super) async fn prepare(cluster: &Cluster, keyspace: &str) -> Result<Self, StoreError> {
        let columns = "epoch, write timestamp, cuts, records, accepted, rejected, duplicates, price_updates, gaps, late";
        Ok(Self {
            insert: cluster
                .prepare(format!(
                    "INSERT INTO {keyspace}.history (job, day, {columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
                ))
                .await?,
            add_day: cluster.prepare(format!("INSERT INTO {keyspace}.history_days (job, day) VALUES (?, ?)")).await?,
            days: cluster.prepare(format!("SELECT day FROM {keyspace}.history_days WHERE job = ?")).await?,
            select: cluster.prepare(format!("SELECT {columns} FROM {keyspace}.history WHERE job = ? AND day = ? LIMIT ?")).await?,
            known: Mutex::default(),
        })
    }

    /// Writes entries, the days they stand in first.
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
            write_write_timestamp: entry.write_timestamp.max(recovery_timestamp),
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
