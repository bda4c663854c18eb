//! Bars: written whole at their write timestamp, read back from their one cell.

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
    display_columns::{BarColumns, FoundBar},
    errors::{broken, of_execution, of_pager, of_row},
    retry::retry,
    session::Cluster,
};

/// The most bars of one partition in one statement. More would save little, and all bars of a
/// statement fail together.
const MAX_BATCH: usize = 32;
/// The most bars of several partitions in one statement. Most bars of an epoch are alone in their
/// partition, and a statement costs driver, kernel and server far more than a bar
/// (`bench/results/throughput.md`). A server warns, in its log and in ours, about a batch across 10
/// partitions or of 5,120 bytes (`unlogged_batch_across_partitions_warn_threshold`,
/// `batch_size_warn_threshold`). It counts 730 bytes for a bar, and 800 with the longest sums.
const MAX_ACROSS: usize = 6;
/// The most bars that one statement reads. All are in one partition, and the answer stays below
/// 50 kB.
const MAX_READ: usize = 64;

/// The statements on table `bars`.
pub(super) struct Bars {
    insert: PreparedStatement,
    /// Unlogged batches of two and more inserts; the first one has two.
    batches: Vec<Batch>,
    select: PreparedStatement,
    range: PreparedStatement,
    audit: PreparedStatement,
    partitions: PreparedStatement,
}

impl Bars {
    pub(super) async fn prepare(cluster: &Cluster, keyspace: &str) -> Result<Self, StoreError> {
        let insert = cluster
            .prepare(format!(
                "INSERT INTO {keyspace}.bars (symbol, size, bucket, start, epoch, open, high, low, \
                 close, vwap, volume, notional, volume_exact, notional_exact, vwap_exact, trades, \
                 priced, revision, state) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
            ))
            .await?;
        let batch = |bars: usize| {
            let mut batch = Batch::new_with_statements(
                BatchType::Unlogged,
                vec![BatchStatement::PreparedStatement(insert.clone()); bars],
            );
            batch.set_is_idempotent(true);
            batch
        };
        let of_partition = "WHERE symbol = ? AND size = ? AND bucket = ?";
        let in_range = "AND start >= ? AND start < ? ORDER BY start ASC";
        Ok(Self {
            batches: (2..=MAX_BATCH).map(batch).collect(),
            select: cluster
                .prepare(format!(
                    "SELECT start, state FROM {keyspace}.bars {of_partition} AND start IN ?"
                ))
                .await?,
            range: cluster
                .prepare(format!(
                    "SELECT start, state FROM {keyspace}.bars {of_partition} {in_range}"
                ))
                .await?,
            audit: cluster
                .prepare(format!(
                    "SELECT {} FROM {keyspace}.bars {of_partition} {in_range}",
                    FoundBar::COLUMNS
                ))
                .await?,
            partitions: cluster
                .prepare(format!(
                    "SELECT DISTINCT symbol, size, bucket FROM {keyspace}.bars"
                ))
                .await?,
            insert,
        })
    }

    /// Writes one batch of [`batches`]. Cassandra may apply a batch in one partition before another;
    /// that is harmless, because each bar is complete in itself.
    pub(super) async fn write(
        &self,
        session: &Session,
        bars: &[&BarWrite],
    ) -> Result<(), StoreError> {
        let Some(first) = bars.first() else {
            return Ok(());
        };
        let sent = match bars {
            [bar] => {
                session
                    .execute_unpaged(&self.insert, BarColumns::of(bar, &bar.key.size.to_string()))
                    .await
            }
            bars => {
                let sizes: Vec<String> = bars.iter().map(|bar| bar.key.size.to_string()).collect();
                let values: Vec<_> = bars
                    .iter()
                    .zip(&sizes)
                    .map(|(bar, size)| BarColumns::of(bar, size))
                    .collect();
                session.batch(&self.batches[bars.len() - 2], &values).await
            }
        };
        sent.map(drop)
            .map_err(|error| of_execution(&format!("writing bar {}", first.key), &error))
    }

    /// Reads bars in the order of the keys. One statement reads bars of one partition.
    pub(super) async fn read(
        &self,
        session: &Session,
        keys: &[BarKey],
        in_flight: usize,
    ) -> Result<Vec<Option<BarState>>, StoreError> {
        let mut found = vec![None; keys.len()];
        let mut answers = stream::iter(grouped(keys))
            .map(|group| self.read_with_retries(session, keys, group))
            .buffer_unordered(in_flight);
        while let Some(bars) = answers.try_next().await? {
            bars.into_iter().for_each(|(at, bar)| found[at] = bar);
        }
        Ok(found)
    }

    async fn read_with_retries(
        &self,
        session: &Session,
        keys: &[BarKey],
        group: Vec<usize>,
    ) -> Result<Vec<(usize, Option<BarState>)>, StoreError> {
        retry(|| self.read_group(session, keys, &group)).await
    }

    /// Reads the bars at these indexes of `keys`, all in one partition.
    async fn read_group(
        &self,
        session: &Session,
        keys: &[BarKey],
        group: &[usize],
    ) -> Result<Vec<(usize, Option<BarState>)>, StoreError> {
        let Some(first) = group.first().map(|at| &keys[*at]) else {
            return Ok(Vec::new());
        };
        let doing = || format!("reading {} bar(s) from {first} on", group.len());
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
        let bar = |at: &usize| {
            Ok((
                *at,
                cells
                    .get(&keys[*at].start)
                    .map(|cell| decode(&keys[*at], cell))
                    .transpose()?,
            ))
        };
        group.iter().map(bar).collect()
    }

    /// The bars of one partition with starts in the range, ascending.
    pub(super) async fn range(
        &self,
        session: &Session,
        symbol: &Symbol,
        size: WindowSize,
        bucket: i64,
        range: &Range<WindowStart>,
    ) -> Result<Vec<StoredBar>, StoreError> {
        let doing = format!("reading bars of {symbol} {size}");
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
        let mut bars = Vec::new();
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
                bars.push(StoredBar {
                    start,
                    state: decode(&key, &cell)?,
                });
            }
        }
        Ok(bars)
    }

    /// The same bars, each with the display columns that differ from its cell. All columns of a bar
    /// are written at one write timestamp, so a quorum read never mixes two writes.
    pub(super) async fn audit(
        &self,
        session: &Session,
        symbol: &Symbol,
        size: WindowSize,
        bucket: i64,
        range: &Range<WindowStart>,
    ) -> Result<Vec<Audited<BarState>>, StoreError> {
        let doing = format!("reading bars of {symbol} {size}");
        let size_text = size.to_string();
        let values = (
            symbol.as_str(),
            size_text.as_str(),
            CqlTimestamp(bucket),
            CqlTimestamp(range.start),
            CqlTimestamp(range.end),
        );
        let pager = session
            .execute_iter(self.audit.clone(), values)
            .await
            .map_err(|error| of_pager(&doing, &error))?;
        let mut rows = pager
            .rows_stream::<FoundBar>()
            .map_err(|error| broken(format!("{doing}: {error}")))?;
        let mut bars = Vec::new();
        while let Some(found) = rows
            .try_next()
            .await
            .map_err(|error| of_row(&doing, &error))?
        {
            let Some(cell) = &found.state else {
                bars.push(Audited::without_cell(found.start.0));
                continue;
            };
            let key = BarKey {
                symbol: symbol.clone(),
                size,
                start: found.start.0,
            };
            let bar = BarWrite {
                state: decode(&key, cell)?,
                key,
                write_timestamp: 0,
            };
            let mismatches = found.mismatches(&BarColumns::of(&bar, &size_text));
            bars.push(Audited::new(bar.key.start, bar.state, mismatches));
        }
        Ok(bars)
    }

    /// All partitions of the table. This reads the partition keys of every node, so only an audit
    /// uses it.
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
    BarState::from_cell(cell).map_err(|error| broken(format!("bar {key}: {error}")))
}

/// The indexes of keys, grouped by partition into groups that fit one statement.
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

/// Bars by the statement that writes them: the bars of one partition together, and bars of small
/// partitions with each other.
pub(super) fn batches<'a>(bars: &'a [BarWrite]) -> Vec<Vec<&'a BarWrite>> {
    let mut sorted: Vec<&BarWrite> = bars.iter().collect();
    // Stable: two writes of one bar keep their order. No job sends two at once.
    sorted.sort_by(|a, b| a.key.cmp(&b.key));
    let same = |a: &&'a BarWrite, b: &&'a BarWrite| is_same_partition(&a.key, &b.key);
    let mut batches: Vec<Vec<&BarWrite>> = Vec::new();
    let mut small: Vec<&BarWrite> = Vec::new();
    for group in sorted
        .chunk_by(same)
        .flat_map(|group| group.chunks(MAX_BATCH))
    {
        if group.len() >= MAX_ACROSS {
            batches.push(group.to_vec());
            continue;
        }
        if small.len() + group.len() > MAX_ACROSS {
            batches.push(std::mem::take(&mut small));
        }
        small.extend(group);
    }
    if !small.is_empty() {
        batches.push(small);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use tapeflow_schemas::Totals;

    #[test]
    fn bars_are_grouped_by_partition_and_no_statement_is_too_large() {
        let bar = |symbol: &str, size: &str, start: i64| BarWrite {
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
        let mut bars: Vec<_> = (0..70)
            .map(|n| bar("A", "1s", 1_000 * ((n * 31) % 70)))
            .collect();
        bars.extend([
            bar("A", "1m", 0),
            bar("B", "1s", 0),
            bar("A", "1s", 10_000_000),
        ]);
        let groups = batches(&bars);
        let sizes: Vec<_> = groups.iter().map(Vec::len).collect();
        assert_eq!(sizes, [MAX_BATCH, MAX_BATCH, MAX_ACROSS, 9 - MAX_ACROSS]);
        for group in &groups {
            let partition = |bar: &BarWrite| {
                (
                    bar.key.symbol.clone(),
                    bar.key.size,
                    bar.key.size.bucket(bar.key.start),
                )
            };
            assert!(
                group.len() <= MAX_ACROSS
                    || group
                        .iter()
                        .all(|bar| partition(bar) == partition(group[0]))
            );
        }
        let keys: Vec<BarKey> = bars.iter().rev().map(|bar| bar.key.clone()).collect();
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
        bars.sort_by(|a, b| a.key.cmp(&b.key));
        assert_eq!(all, bars);
    }
}
