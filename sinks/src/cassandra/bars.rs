//! Bars: written whole at their write timestamp, read back from their one cell.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap},
    ops::Range,
    sync::Arc,
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
use tapeflow_schemas::{
    BarKey, BarRow, BarState, BarWrite, CellError, StoredBar, Symbol, WindowSize, WindowStart,
    window::{bucket, format_utc},
};

use super::{
    committed::Committed,
    display_columns::{BarColumns, FoundBar},
    errors::{broken, of_execution, of_pager, of_row},
    retry::retry,
    session::Cluster,
};

/// The most bars of one partition in one statement, which is one mutation there. More would save
/// little, and all bars of a statement fail together.
const MAX_BATCH: usize = 32;
/// The most bytes of packed bars in one statement. A commit log entry of the server is at most half
/// a segment, 16 MiB by default; this is far below, and one bar at least is in it.
const MAX_BATCH_BYTES: usize = 64 << 10;
/// The most bytes of several partitions in one statement, as the server counts them. A statement
/// costs driver, kernel and server far more than a bar (`docs/benchmarks.md`), but a server warns,
/// in its log and in ours, about a batch of more than one partition of 5,120 bytes, or across more
/// than 10 partitions (`batch_size_warn_threshold`,
/// `unlogged_batch_across_partitions_warn_threshold`).
const MAX_ACROSS_BYTES: usize = 5_000;
/// The most partitions in one statement.
const MAX_ACROSS: usize = 10;
/// What a bar adds to a batch beside its cell, as the server counts.
const ROW_BYTES: usize = 480;
/// The most bars that one statement reads. All are in one partition. Without packed bars the answer
/// stays below 10 kB, with sixty busy seconds in each below 200 kB.
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
    committed: Arc<Committed>,
}

impl Bars {
    pub(super) async fn prepare(
        cluster: &Cluster,
        keyspace: &str,
        committed: Arc<Committed>,
    ) -> Result<Self, StoreError> {
        let insert = cluster
            .prepare(format!(
                "INSERT INTO {keyspace}.bars (symbol, bucket, size, start, epoch, open, high, low, \
                 close, vwap, volume, notional, trades, revision, state) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
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
        let of_partition = "WHERE symbol = ? AND bucket = ?";
        let in_range = "AND size = ? AND start >= ? AND start < ? ORDER BY size DESC, start ASC";
        Ok(Self {
            batches: (2..=MAX_BATCH).map(batch).collect(),
            select: cluster
                .prepare(format!(
                    "SELECT size, start, epoch, state FROM {keyspace}.bars {of_partition} \
                     AND (size, start) IN ?"
                ))
                .await?,
            range: cluster
                .prepare(format!(
                    "SELECT start, epoch, state FROM {keyspace}.bars {of_partition} {in_range}"
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
                    "SELECT DISTINCT symbol, bucket FROM {keyspace}.bars"
                ))
                .await?,
            insert,
            committed,
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
    ) -> Result<Vec<Option<BarRow>>, StoreError> {
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
    ) -> Result<Vec<(usize, Option<BarRow>)>, StoreError> {
        retry(|| self.read_group(session, keys, &group)).await
    }

    /// Reads the bars at these indexes of `keys`, all in one partition.
    async fn read_group(
        &self,
        session: &Session,
        keys: &[BarKey],
        group: &[usize],
    ) -> Result<Vec<(usize, Option<BarRow>)>, StoreError> {
        let Some(first) = group.first().map(|at| &keys[*at]) else {
            return Ok(Vec::new());
        };
        let doing = || format!("reading {} bar(s) from {first} on", group.len());
        let committed = self.committed.now();
        let sizes: Vec<String> = group.iter().map(|at| keys[*at].size.to_string()).collect();
        let windows: Vec<_> = group
            .iter()
            .zip(&sizes)
            .map(|(at, size)| (size.as_str(), CqlTimestamp(keys[*at].start)))
            .collect();
        let values = (
            first.symbol.as_str(),
            CqlTimestamp(bucket(first.start)),
            windows,
        );
        let answer = session
            .execute_unpaged(&self.select, values)
            .await
            .map_err(|error| of_execution(&doing(), &error))?;
        let rows = answer
            .into_rows_result()
            .map_err(|error| broken(format!("{}: {error}", doing())))?;
        let rows = rows
            .rows::<(&str, CqlTimestamp, Option<i64>, Option<&[u8]>)>()
            .map_err(|error| broken(format!("{}: {error}", doing())))?;
        let mut cells = HashMap::new();
        for row in rows {
            let (size, CqlTimestamp(start), epoch, cell) =
                row.map_err(|error| broken(format!("{}: {error}", doing())))?;
            match cell {
                Some(cell) => drop(cells.insert((size, start), cell)),
                None => {
                    let bar = format_args!("bar {} {size} {}", first.symbol, format_utc(start));
                    committed.absent_or_damaged(epoch, bar)?;
                }
            }
        }
        let bar = |(at, size): (&usize, &String)| {
            let key = &keys[*at];
            let cell = cells.get(&(size.as_str(), key.start));
            Ok((*at, cell.map(|cell| decode(key, cell)).transpose()?))
        };
        group.iter().zip(&sizes).map(bar).collect()
    }

    /// The bars of one bucket with starts in the range, ascending.
    pub(super) async fn range(
        &self,
        session: &Session,
        symbol: &Symbol,
        size: WindowSize,
        bucket: i64,
        range: &Range<WindowStart>,
    ) -> Result<Vec<StoredBar>, StoreError> {
        let doing = format!("reading bars of {symbol} {size}");
        let committed = self.committed.now();
        let (row_size, row_start) = size.row_of(range.start);
        let values = (
            symbol.as_str(),
            CqlTimestamp(bucket),
            row_size.to_string(),
            CqlTimestamp(row_start),
            CqlTimestamp(range.end),
        );
        let pager = session
            .execute_iter(self.range.clone(), values)
            .await
            .map_err(|error| of_pager(&doing, &error))?;
        let mut found = pager
            .rows_stream::<(CqlTimestamp, Option<i64>, Option<Vec<u8>>)>()
            .map_err(|error| broken(format!("{doing}: {error}")))?;
        let mut bars = Vec::new();
        while let Some((CqlTimestamp(start), epoch, cell)) = found
            .try_next()
            .await
            .map_err(|error| of_row(&doing, &error))?
        {
            let key = key_of(symbol, row_size, start);
            match cell {
                Some(cell) => bars.extend(bars_of(&key, size, &decode(&key, &cell)?)?),
                None => committed.absent_or_damaged(epoch, format_args!("bar {key}"))?,
            }
        }
        bars.retain(|bar| range.contains(&bar.start));
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
        if size.is_packed() {
            // The columns are those of the minute, and compared with it.
            let bars = self.range(session, symbol, size, bucket, range).await?;
            return Ok(bars.into_iter().map(Audited::from).collect());
        }
        let doing = format!("reading bars of {symbol} {size}");
        let committed = self.committed.now();
        let size_text = size.to_string();
        let values = (
            symbol.as_str(),
            CqlTimestamp(bucket),
            size_text.as_str(),
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
                if !committed.is_under_way(found.epoch) {
                    bars.push(Audited::without_cell(found.start.0));
                }
                continue;
            };
            let key = key_of(symbol, size, found.start.0);
            let BarRow { state, packed } = decode(&key, cell)?;
            let bar = BarWrite {
                key,
                state,
                packed,
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
            .rows_stream::<(String, CqlTimestamp)>()
            .map_err(|error| broken(format!("{DOING}: {error}")))?;
        let partition = |(symbol, bucket): (_, CqlTimestamp)| Unlisted {
            symbol,
            bucket: bucket.0,
        };
        found
            .map_ok(partition)
            .try_collect()
            .await
            .map_err(|error| of_row(DOING, &error))
    }
}

fn key_of(symbol: &Symbol, size: WindowSize, start: WindowStart) -> BarKey {
    BarKey {
        symbol: symbol.clone(),
        size,
        start,
    }
}

fn decode(key: &BarKey, cell: &[u8]) -> Result<BarRow, StoreError> {
    BarRow::from_cell(cell, key.start).map_err(|error| damaged(key, error))
}

fn bars_of(key: &BarKey, size: WindowSize, row: &BarRow) -> Result<Vec<StoredBar>, StoreError> {
    row.bars_of(key.start, size)
        .map_err(|error| damaged(key, error))
}

fn damaged(key: &BarKey, error: CellError) -> StoreError {
    broken(format!("bar {key}: {error}"))
}

/// The indexes of keys, grouped by partition into groups that fit one statement.
fn grouped(keys: &[BarKey]) -> Vec<Vec<usize>> {
    let mut sorted: Vec<usize> = (0..keys.len()).collect();
    sorted.sort_by(|a, b| by_partition(&keys[*a], &keys[*b]));
    let same = |a: &usize, b: &usize| is_same_partition(&keys[*a], &keys[*b]);
    sorted
        .chunk_by(same)
        .flat_map(|group| group.chunks(MAX_READ))
        .map(<[_]>::to_vec)
        .collect()
}

fn is_same_partition(a: &BarKey, b: &BarKey) -> bool {
    a.symbol == b.symbol && bucket(a.start) == bucket(b.start)
}

/// Bars by the statement that writes them: the bars of one partition together, and small partitions
/// with each other.
pub(super) fn batches(bars: &[BarWrite]) -> Vec<Vec<&BarWrite>> {
    let mut sorted: Vec<&BarWrite> = bars.iter().collect();
    // Stable: two writes of one bar keep their order. No job sends two at once.
    sorted.sort_by(|a, b| by_partition(&a.key, &b.key));
    let mut batches: Vec<Vec<&BarWrite>> = Vec::new();
    let mut across: Vec<&BarWrite> = Vec::new();
    let (mut across_bytes, mut across_partitions) = (0, 0);
    for group in of_one_partition(&sorted) {
        let bytes: usize = group.iter().map(|bar| bytes_of(bar)).sum();
        if 2 * bytes > MAX_ACROSS_BYTES {
            batches.push(group.to_vec());
            continue;
        }
        if across_bytes + bytes > MAX_ACROSS_BYTES || across_partitions == MAX_ACROSS {
            batches.push(std::mem::take(&mut across));
            (across_bytes, across_partitions) = (0, 0);
        }
        across.extend(group);
        across_bytes += bytes;
        across_partitions += 1;
    }
    if !across.is_empty() {
        batches.push(across);
    }
    batches
}

fn by_partition(a: &BarKey, b: &BarKey) -> Ordering {
    (&a.symbol, bucket(a.start), a.size, a.start).cmp(&(
        &b.symbol,
        bucket(b.start),
        b.size,
        b.start,
    ))
}

fn bytes_of(bar: &BarWrite) -> usize {
    // A cell without packed bars has some 60 bytes, and 200 with the longest sums.
    ROW_BYTES + bar.packed.as_bytes().len()
}

/// Sorted bars in groups of one partition and of a size for one statement.
fn of_one_partition<'s, 'a>(sorted: &'s [&'a BarWrite]) -> Vec<&'s [&'a BarWrite]> {
    let mut groups = Vec::new();
    for mut partition in sorted.chunk_by(|a, b| is_same_partition(&a.key, &b.key)) {
        while !partition.is_empty() {
            let mut bytes = 0;
            let fit = partition.iter().take(MAX_BATCH).take_while(|bar| {
                bytes += bytes_of(bar);
                bytes <= MAX_BATCH_BYTES
            });
            let (group, rest) = partition.split_at(fit.count().max(1));
            groups.push(group);
            partition = rest;
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use tapeflow_schemas::{PackedBar, PackedBars, Totals, window::BUCKET_MS};

    fn bar(symbol: &str, size: &str, start: i64) -> BarWrite {
        BarWrite {
            key: BarKey {
                symbol: Symbol::new(symbol).expect("a symbol"),
                size: size.parse().expect("a size"),
                start,
            },
            state: BarState {
                epoch: 1,
                totals: Totals::default(),
            },
            packed: PackedBars::default(),
            write_timestamp: 1,
        }
    }

    #[test]
    fn bars_are_grouped_by_partition_and_no_statement_is_too_large() {
        let mut bars: Vec<_> = (0..70)
            .map(|n| bar("A", "1m", 60_000 * ((n * 31) % 70)))
            .collect();
        bars.extend([bar("A", "1h", 0), bar("B", "1m", 0), bar("B", "1d", 0)]);
        // In the next bucket.
        bars.push(bar("A", "1m", BUCKET_MS));
        bars.extend((0..24).map(|n| bar(&format!("C{n}"), "1m", 0)));
        let groups = batches(&bars);
        let sizes: Vec<_> = groups.iter().map(Vec::len).collect();
        assert_eq!(sizes, [MAX_BATCH, MAX_BATCH, 7, 10, 10, 7]);
        for group in &groups {
            let partitions: BTreeSet<_> = group
                .iter()
                .map(|bar| (bar.key.symbol.clone(), bucket(bar.key.start)))
                .collect();
            let bytes: usize = group.iter().map(|bar| bytes_of(bar)).sum();
            assert!(
                partitions.len() == 1 || bytes <= MAX_ACROSS_BYTES,
                "{bytes}"
            );
            assert!(partitions.len() <= MAX_ACROSS);
        }
        let keys: Vec<BarKey> = bars.iter().rev().map(|bar| bar.key.clone()).collect();
        let reads = grouped(&keys);
        let sizes: Vec<_> = reads.iter().map(Vec::len).take(5).collect();
        assert_eq!(sizes, [MAX_READ, 7, 1, 2, 1]);
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

    #[test]
    fn packed_bars_bound_a_statement_by_their_bytes() {
        let bars: Vec<BarWrite> = (0..40)
            .map(|minute| {
                let start = 60_000 * minute;
                let mut seconds: Vec<PackedBar> = (0..60)
                    .map(|second| PackedBar {
                        size: "1s".parse().expect("a size"),
                        start: start + 1_000 * second,
                        totals: Totals {
                            priced: u64::MAX >> 1,
                            ..Totals::default()
                        },
                    })
                    .collect();
                let mut bar = bar("A", "1m", start);
                bar.packed = PackedBars::of(start, &mut seconds);
                bar
            })
            .collect();
        let groups = batches(&bars);
        assert!(groups.len() > 1);
        for group in &groups {
            let bytes: usize = group.iter().map(|bar| bytes_of(bar)).sum();
            assert!(bytes <= MAX_BATCH_BYTES);
        }
        assert_eq!(groups.concat().len(), bars.len());
    }
}
