//! Rows: written whole at their write timestamp, read back by their one cell.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
};

use futures::{StreamExt, TryStreamExt, stream};
use scylla::{
    client::session::Session,
    statement::{
        batch::{Batch, BatchStatement, BatchType},
        prepared::PreparedStatement,
    },
    value::CqlTimestamp,
};
use tapeflow_protocol::{Audited, StoreError, Unlisted};
use tapeflow_schemas::{BarKey, BarState, BarWrite, StoredBar, Symbol, WindowSize, WindowStart};

use super::{
    display_columns::{Columns, Shown},
    errors::{broken, of_execution, of_pager, of_row},
    retry::retry,
    session::Cluster,
};

/// Rows of one partition that go into one statement: more save little, and all of them fail
/// together.
const MAX_BATCH: usize = 32;
/// Rows of several partitions that go into one statement. Most rows of an epoch are alone in their
/// partition, and a statement costs driver, kernel and server far more than a row
/// (`bench/results/throughput.md`). A server warns, in its log and in ours, of every batch of
/// several partitions from 10 partitions or 5,120 bytes on
/// (`unlogged_batch_across_partitions_warn_threshold`, `batch_size_warn_threshold`); a row is 730
/// bytes as it counts them, and 800 with the longest sums.
const MAX_ACROSS: usize = 6;
/// Rows of one partition asked for in one statement: each is found by its place in the partition,
/// and the answer stays below 50 kB.
const MAX_READ: usize = 64;

/// The statements on table `bars`.
pub(super) struct Rows {
    insert: PreparedStatement,
    /// Unlogged batches of two and more inserts; the first has two.
    batches: Vec<Batch>,
    select: PreparedStatement,
    range: PreparedStatement,
    shown: PreparedStatement,
    partitions: PreparedStatement,
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
            let mut batch = Batch::new_with_statements(
                BatchType::Unlogged,
                vec![BatchStatement::PreparedStatement(insert.clone()); rows],
            );
            batch.set_is_idempotent(true);
            batch
        };
        let of_partition = "WHERE symbol = ? AND size = ? AND bucket = ?";
        Ok(Self {
            batches: (2..=MAX_BATCH).map(batch).collect(),
            select: cluster.prepare(format!("SELECT start, state FROM {keyspace}.bars {of_partition} AND start IN ?")).await?,
            range: cluster
                .prepare(format!("SELECT start, state FROM {keyspace}.bars {of_partition} AND start >= ? AND start < ? ORDER BY start ASC"))
                .await?,
            shown: cluster
                .prepare(format!("SELECT {} FROM {keyspace}.bars {of_partition} AND start >= ? AND start < ? ORDER BY start ASC", Shown::COLUMNS))
                .await?,
            partitions: cluster.prepare(format!("SELECT DISTINCT symbol, size, bucket FROM {keyspace}.bars")).await?,
            insert,
        })
    }

    /// Writes rows that go into one statement, as [`parcels`] hands them out. Each row is whole for
    /// itself: that a batch is not applied at once in all of its partitions does not matter.
    pub(super) async fn write(
        &self,
        session: &Session,
        rows: &[&BarWrite],
    ) -> Result<(), StoreError> {
        let Some(first) = rows.first() else {
            return Ok(());
        };
        let sent = match rows {
            [row] => {
                session
                    .execute_unpaged(&self.insert, Columns::of(row, &row.key.size.to_string()))
                    .await
            }
            rows => {
                let sizes: Vec<String> = rows.iter().map(|row| row.key.size.to_string()).collect();
                let values: Vec<_> = rows
                    .iter()
                    .zip(&sizes)
                    .map(|(row, size)| Columns::of(row, size))
                    .collect();
                session.batch(&self.batches[rows.len() - 2], &values).await
            }
        };
        sent.map(drop)
            .map_err(|error| of_execution(&format!("writing row {}", first.key), &error))
    }

    /// Reads rows, in the order of the keys; those that stand in one partition together.
    pub(super) async fn read(
        &self,
        session: &Session,
        keys: &[BarKey],
        in_flight: usize,
    ) -> Result<Vec<Option<BarState>>, StoreError> {
        let mut found = vec![None; keys.len()];
        let mut answers = stream::iter(grouped(keys))
            .map(|group| self.read_insistently(session, keys, group))
            .buffer_unordered(in_flight);
        while let Some(rows) = answers.try_next().await? {
            rows.into_iter().for_each(|(at, row)| found[at] = row);
        }
        Ok(found)
    }

    async fn read_insistently(
        &self,
        session: &Session,
        keys: &[BarKey],
        group: Vec<usize>,
    ) -> Result<Vec<(usize, Option<BarState>)>, StoreError> {
        retry(|| self.read_group(session, keys, &group)).await
    }

    /// Reads the rows of these places of `keys`, all in one partition.
    async fn read_group(
        &self,
        session: &Session,
        keys: &[BarKey],
        group: &[usize],
    ) -> Result<Vec<(usize, Option<BarState>)>, StoreError> {
        let Some(first) = group.first().map(|at| &keys[*at]) else {
            return Ok(Vec::new());
        };
        let doing = || format!("reading {} row(s) from {first} on", group.len());
        let size = first.size.to_string();
        let starts: Vec<_> = group
            .iter()
            .map(|at| CqlTimestamp(keys[*at].start))
            .collect();
        let values = (
            first.symbol.as_str(),
            size.as_str(),
            CqlTimestamp(first.size.bucket(first.start)),
            starts,
        );
        let answer = session
            .execute_unpaged(&self.select, values)
            .await
            .map_err(|error| of_execution(&doing(), &error))?;
        let rows = answer
            .into_rows_result()
            .map_err(|error| broken(format!("{}: {error}", doing())))?;
        let rows = rows
            .rows::<(CqlTimestamp, Option<&[u8]>)>()
            .map_err(|error| broken(format!("{}: {error}", doing())))?;
        let mut cells = HashMap::new();
        for row in rows {
            let (CqlTimestamp(start), cell) =
                row.map_err(|error| broken(format!("{}: {error}", doing())))?;
            cells.extend(cell.map(|cell| (start, cell)));
        }
        let row = |at: &usize| {
            Ok((
                *at,
                cells
                    .get(&keys[*at].start)
                    .map(|cell| decode(&keys[*at], cell))
                    .transpose()?,
            ))
        };
        group.iter().map(row).collect()
    }

    /// The rows of one partition with starts in the range, ascending.
    pub(super) async fn range(
        &self,
        session: &Session,
        symbol: &Symbol,
        size: WindowSize,
        bucket: i64,
        range: &Range<WindowStart>,
    ) -> Result<Vec<StoredBar>, StoreError> {
        let doing = format!("reading rows of {symbol} {size}");
        let values = (
            symbol.as_str(),
            size.to_string(),
            CqlTimestamp(bucket),
            CqlTimestamp(range.start),
            CqlTimestamp(range.end),
        );
        let pager = session
            .execute_iter(self.range.clone(), values)
            .await
            .map_err(|error| of_pager(&doing, &error))?;
        let mut found = pager
            .rows_stream::<(CqlTimestamp, Option<Vec<u8>>)>()
            .map_err(|error| broken(format!("{doing}: {error}")))?;
        let mut rows = Vec::new();
        while let Some((CqlTimestamp(start), cell)) = found
            .try_next()
            .await
            .map_err(|error| of_row(&doing, &error))?
        {
            if let Some(cell) = cell {
                let key = BarKey {
                    symbol: symbol.clone(),
                    size,
                    start,
                };
                rows.push(StoredBar {
                    start,
                    state: decode(&key, &cell)?,
                });
            }
        }
        Ok(rows)
    }

    /// The same, each with what its columns show otherwise. A row is written whole at one write timestamp, so
    /// what is read of it is of one write.
    pub(super) async fn audit(
        &self,
        session: &Session,
        symbol: &Symbol,
        size: WindowSize,
        bucket: i64,
        range: &Range<WindowStart>,
    ) -> Result<Vec<Audited<BarState>>, StoreError> {
        let doing = format!("reading rows of {symbol} {size}");
        let spelt = size.to_string();
        let values = (
            symbol.as_str(),
            spelt.as_str(),
            CqlTimestamp(bucket),
            CqlTimestamp(range.start),
            CqlTimestamp(range.end),
        );
        let pager = session
            .execute_iter(self.shown.clone(), values)
            .await
            .map_err(|error| of_pager(&doing, &error))?;
        let mut found = pager
            .rows_stream::<Shown>()
            .map_err(|error| broken(format!("{doing}: {error}")))?;
        let mut rows = Vec::new();
        while let Some(shown) = found
            .try_next()
            .await
            .map_err(|error| of_row(&doing, &error))?
        {
            let Some(cell) = &shown.state else {
                rows.push(Audited::without_cell(shown.start.0));
                continue;
            };
            let key = BarKey {
                symbol: symbol.clone(),
                size,
                start: shown.start.0,
            };
            let row = BarWrite {
                state: decode(&key, cell)?,
                key,
                write_timestamp: 0,
            };
            let mismatches = shown.mismatches(&Columns::of(&row, &spelt));
            rows.push(Audited::new(row.key.start, row.state, mismatches));
        }
        Ok(rows)
    }

    /// All partitions, by asking every node for all it has: for an auditor.
    pub(super) async fn partitions(
        &self,
        session: &Session,
    ) -> Result<BTreeSet<Unlisted>, StoreError> {
        const DOING: &str = "reading the partitions of bars";
        let pager = session
            .execute_iter(self.partitions.clone(), ())
            .await
            .map_err(|error| of_pager(DOING, &error))?;
        let found = pager
            .rows_stream::<(String, String, CqlTimestamp)>()
            .map_err(|error| broken(format!("{DOING}: {error}")))?;
        let partition = |(symbol, size, bucket): (_, _, CqlTimestamp)| Unlisted {
            symbol,
            size,
            bucket: Some(bucket.0),
        };
        found
            .map_ok(partition)
            .try_collect()
            .await
            .map_err(|error| of_row(DOING, &error))
    }
}

fn decode(key: &BarKey, cell: &[u8]) -> Result<BarState, StoreError> {
    BarState::from_cell(cell).map_err(|error| broken(format!("row {key}: {error}")))
}

/// The places of keys by the partition they stand in, each group small enough for one statement.
fn grouped(keys: &[BarKey]) -> Vec<Vec<usize>> {
    let mut sorted: Vec<usize> = (0..keys.len()).collect();
    sorted.sort_by(|a, b| keys[*a].cmp(&keys[*b]));
    let same = |a: &usize, b: &usize| is_same_partition(&keys[*a], &keys[*b]);
    sorted
        .chunk_by(same)
        .flat_map(|group| group.chunks(MAX_READ))
        .map(<[_]>::to_vec)
        .collect()
}

fn is_same_partition(a: &BarKey, b: &BarKey) -> bool {
    a.symbol == b.symbol && a.size == b.size && a.size.bucket(a.start) == b.size.bucket(b.start)
}

/// Rows by the statement they go into: those of one partition together, and what is left of small
/// partitions with its like.
pub(super) fn parcels<'a>(rows: &'a [BarWrite]) -> Vec<Vec<&'a BarWrite>> {
    let mut sorted: Vec<&BarWrite> = rows.iter().collect();
    // Stable: two writes of one row, which no job sends at once, keep their order.
    sorted.sort_by(|a, b| a.key.cmp(&b.key));
    let same = |a: &&'a BarWrite, b: &&'a BarWrite| is_same_partition(&a.key, &b.key);
    let mut parcels: Vec<Vec<&BarWrite>> = Vec::new();
    let mut small: Vec<&BarWrite> = Vec::new();
    for group in sorted
        .chunk_by(same)
        .flat_map(|group| group.chunks(MAX_BATCH))
    {
        if group.len() >= MAX_ACROSS {
            parcels.push(group.to_vec());
            continue;
        }
        if small.len() + group.len() > MAX_ACROSS {
            parcels.push(std::mem::take(&mut small));
        }
        small.extend(group);
    }
    if !small.is_empty() {
        parcels.push(small);
    }
    parcels
}

#[cfg(test)]
mod tests {
    use super::*;
    use tapeflow_schemas::Totals;

    #[test]
    fn rows_are_grouped_by_partition_and_no_statement_is_too_large() {
        let row = |symbol: &str, size: &str, start: i64| BarWrite {
            key: BarKey {
                symbol: Symbol::new(symbol).expect("a symbol"),
                size: size.parse().expect("a size"),
                start,
            },
            state: BarState {
                epoch: 1,
                totals: Totals::default(),
            },
            write_timestamp: 1,
        };
        let mut rows: Vec<_> = (0..70)
            .map(|n| row("A", "1s", 1_000 * ((n * 31) % 70)))
            .collect();
        rows.extend([
            row("A", "1m", 0),
            row("B", "1s", 0),
            row("A", "1s", 10_000_000),
        ]);
        let groups = parcels(&rows);
        let sizes: Vec<_> = groups.iter().map(Vec::len).collect();
        assert_eq!(sizes, [MAX_BATCH, MAX_BATCH, MAX_ACROSS, 9 - MAX_ACROSS]);
        for group in &groups {
            let partition = |row: &BarWrite| {
                (
                    row.key.symbol.clone(),
                    row.key.size,
                    row.key.size.bucket(row.key.start),
                )
            };
            assert!(
                group.len() <= MAX_ACROSS
                    || group
                        .iter()
                        .all(|row| partition(row) == partition(group[0]))
            );
        }
        let keys: Vec<BarKey> = rows.iter().rev().map(|row| row.key.clone()).collect();
        let reads = grouped(&keys);
        assert_eq!(
            reads.iter().map(Vec::len).collect::<Vec<_>>(),
            [MAX_READ, 6, 1, 1, 1]
        );
        assert!(reads.iter().all(|group| {
            group
                .iter()
                .all(|at| is_same_partition(&keys[*at], &keys[group[0]]))
        }));
        let mut all: Vec<_> = groups.concat().into_iter().cloned().collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        assert_eq!(all, rows);
    }
}
