//! Rows: written whole at their stamp, read back by their one cell.

use std::ops::Range;

use futures::{StreamExt, TryStreamExt, stream};
use scylla::{
    client::session::Session,
    statement::{
        batch::{Batch, BatchStatement, BatchType},
        prepared::PreparedStatement,
    },
    value::CqlTimestamp,
};
use tapeflow_schemas::{Symbol, WindowSize, WindowStart};

use super::{
    faults::{broken, of_execution, of_pager, of_row},
    mirrors::Columns,
    session::Cluster,
};
use crate::{
    row::{RowKey, RowState, RowWrite},
    store::{StoreError, StoredRow},
};

/// Rows of one partition that go into one statement: more save little, and all of them fail together.
const MAX_BATCH: usize = 32;

/// The statements on table `bars`.
pub(super) struct Rows {
    insert: PreparedStatement,
    /// Unlogged batches of two and more inserts; the first has two.
    batches: Vec<Batch>,
    select: PreparedStatement,
    range: PreparedStatement,
}

impl Rows {
    pub(super) async fn prepare(cluster: &Cluster, keyspace: &str) -> Result<Self, StoreError> {
        let insert = cluster
            .prepare(format!(
                "INSERT INTO {keyspace}.bars (symbol, size, bucket, start, epoch, open, high, low, close, vwap, volume, notional, \
                 volume_exact, notional_exact, vwap_exact, trades, priced, revision, state) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
            ))
            .await?;
        let batch = |rows: usize| {
            let mut batch = Batch::new_with_statements(BatchType::Unlogged, vec![BatchStatement::PreparedStatement(insert.clone()); rows]);
            batch.set_is_idempotent(true);
            batch
        };
        let of_partition = "WHERE symbol = ? AND size = ? AND bucket = ?";
        Ok(Self {
            batches: (2..=MAX_BATCH).map(batch).collect(),
            select: cluster.prepare(format!("SELECT state FROM {keyspace}.bars {of_partition} AND start = ?")).await?,
            range: cluster
                .prepare(format!("SELECT start, state FROM {keyspace}.bars {of_partition} AND start >= ? AND start < ? ORDER BY start ASC"))
                .await?,
            insert,
        })
    }

    /// Writes rows of one partition, at most as many as [`partitions`] hands out.
    pub(super) async fn write(&self, session: &Session, rows: &[&RowWrite]) -> Result<(), StoreError> {
        let Some(first) = rows.first() else { return Ok(()) };
        let size = first.key.size.to_string();
        let sent = match rows {
            [row] => session.execute_unpaged(&self.insert, Columns::of(row, &size)).await,
            rows => {
                let values: Vec<_> = rows.iter().map(|row| Columns::of(row, &size)).collect();
                session.batch(&self.batches[rows.len() - 2], &values).await
            }
        };
        sent.map(drop).map_err(|error| of_execution(&format!("writing row {}", first.key), &error))
    }

    /// Reads rows, in the order of the keys.
    pub(super) async fn read(&self, session: &Session, keys: &[RowKey], in_flight: usize) -> Result<Vec<Option<RowState>>, StoreError> {
        stream::iter(0..keys.len()).map(|n| self.read_one(session, &keys[n])).buffered(in_flight).try_collect().await
    }

    async fn read_one(&self, session: &Session, key: &RowKey) -> Result<Option<RowState>, StoreError> {
        let doing = || format!("reading row {key}");
        let size = key.size.to_string();
        let values = (key.symbol.as_str(), size.as_str(), CqlTimestamp(key.size.bucket(key.start)), CqlTimestamp(key.start));
        let answer = session.execute_unpaged(&self.select, values).await.map_err(|error| of_execution(&doing(), &error))?;
        let rows = answer.into_rows_result().map_err(|error| broken(format!("{}: {error}", doing())))?;
        let row = rows.maybe_first_row::<(Option<&[u8]>,)>().map_err(|error| broken(format!("{}: {error}", doing())))?;
        row.and_then(|(cell,)| cell).map(|cell| decode(key, cell)).transpose()
    }

    /// The rows of one partition with starts in the range, ascending.
    pub(super) async fn range(
        &self,
        session: &Session,
        symbol: &Symbol,
        size: WindowSize,
        bucket: i64,
        range: &Range<WindowStart>,
    ) -> Result<Vec<StoredRow>, StoreError> {
        let doing = format!("reading rows of {symbol} {size}");
        let values = (symbol.as_str(), size.to_string(), CqlTimestamp(bucket), CqlTimestamp(range.start), CqlTimestamp(range.end));
        let pager = session.execute_iter(self.range.clone(), values).await.map_err(|error| of_pager(&doing, &error))?;
        let mut found = pager.rows_stream::<(CqlTimestamp, Option<Vec<u8>>)>().map_err(|error| broken(format!("{doing}: {error}")))?;
        let mut rows = Vec::new();
        while let Some((CqlTimestamp(start), cell)) = found.try_next().await.map_err(|error| of_row(&doing, &error))? {
            if let Some(cell) = cell {
                let key = RowKey { symbol: symbol.clone(), size, start };
                rows.push(StoredRow { start, state: decode(&key, &cell)? });
            }
        }
        Ok(rows)
    }
}

fn decode(key: &RowKey, cell: &[u8]) -> Result<RowState, StoreError> {
    RowState::from_cell(cell).map_err(|fault| broken(format!("row {key}: {fault}")))
}

/// Rows by the partition they stand in, each group small enough for one statement.
pub(super) fn partitions<'a>(rows: &'a [RowWrite]) -> Vec<Vec<&'a RowWrite>> {
    let mut sorted: Vec<&RowWrite> = rows.iter().collect();
    // Stable: two writes of one row, which no job sends at once, keep their order.
    sorted.sort_by(|a, b| a.key.cmp(&b.key));
    let same = |a: &&'a RowWrite, b: &&'a RowWrite| {
        let bucket = |row: &RowWrite| row.key.size.bucket(row.key.start);
        a.key.symbol == b.key.symbol && a.key.size == b.key.size && bucket(a) == bucket(b)
    };
    sorted.chunk_by(same).flat_map(|group| group.chunks(MAX_BATCH)).map(<[_]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::totals::Totals;

    #[test]
    fn rows_are_grouped_by_partition_and_no_group_is_too_large() {
        let row = |symbol: &str, size: &str, start: i64| RowWrite {
            key: RowKey { symbol: Symbol::new(symbol).expect("a symbol"), size: size.parse().expect("a size"), start },
            state: RowState { epoch: 1, totals: Totals::default() },
            stamp: 1,
        };
        let mut rows: Vec<_> = (0..70).map(|n| row("A", "1s", 1_000 * ((n * 31) % 70))).collect();
        rows.extend([row("A", "1m", 0), row("B", "1s", 0), row("A", "1s", 10_000_000)]);
        let groups = partitions(&rows);
        let sizes: Vec<_> = groups.iter().map(Vec::len).collect();
        assert_eq!(sizes, [MAX_BATCH, MAX_BATCH, 6, 1, 1, 1]);
        for group in &groups {
            let partition = |row: &RowWrite| (row.key.symbol.clone(), row.key.size, row.key.size.bucket(row.key.start));
            assert!(group.iter().all(|row| partition(row) == partition(group[0])));
        }
        let mut all: Vec<_> = groups.concat().into_iter().cloned().collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        assert_eq!(all, rows);
    }
}
