//! Dead letters by their position in the log.
//!
//! They spread over many partitions of the table, so a directory of blocks lists those that exist.
//! A block is entered before its first dead letter, and only once per process.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use futures::TryStreamExt;
use scylla::{client::session::Session, statement::prepared::PreparedStatement};
use tapeflow_protocol::{DeadLetter, StoreError};
use tapeflow_schemas::{Offset, Partition};

use super::{
    errors::{broken, of_execution, of_pager, of_row},
    session::{Cluster, row_limit},
};

/// Offsets of a partition whose dead letters share a partition of the table: at most 16 MB, if
/// every record is a dead letter.
const BLOCK_OFFSETS: i64 = 4_096;

/// The statements on tables `dead_letters` and `dead_letter_blocks`.
pub(super) struct DeadLetters {
    insert: PreparedStatement,
    add_block: PreparedStatement,
    blocks: PreparedStatement,
    select: PreparedStatement,
    /// The block that was last entered in the directory, by partition.
    known: Mutex<HashMap<Partition, i64>>,
}

impl DeadLetters {
    pub(super) async fn prepare(cluster: &Cluster, keyspace: &str) -> Result<Self, StoreError> {
        let columns = "offset, trade_index, reason, detail, payload";
        Ok(Self {
            insert: cluster
                .prepare(format!(
                    "INSERT INTO {keyspace}.dead_letters (partition, block, {columns}) \
                     VALUES (?, ?, ?, ?, ?, ?, ?)"
                ))
                .await?,
            add_block: cluster
                .prepare(format!(
                    "INSERT INTO {keyspace}.dead_letter_blocks (only_one, partition, block) \
                     VALUES (1, ?, ?)"
                ))
                .await?,
            blocks: cluster
                .prepare(format!(
                    "SELECT partition, block FROM {keyspace}.dead_letter_blocks WHERE only_one = 1"
                ))
                .await?,
            select: cluster
                .prepare(format!(
                    "SELECT {columns} FROM {keyspace}.dead_letters \
                     WHERE partition = ? AND block = ? LIMIT ?"
                ))
                .await?,
            known: Mutex::default(),
        })
    }

    /// Enters the blocks of the dead letters in the directory.
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
