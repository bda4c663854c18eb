//! Views: each window is written whole at its write timestamp, as one cell, and its ranks beside it
//! for dashboards.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use futures::TryStreamExt;
use scylla::{
    client::session::Session,
    statement::{
        batch::{Batch, BatchStatement, BatchType},
        prepared::PreparedStatement,
    },
    value::CqlTimestamp,
};
use tapeflow_protocol::{Audited, StoreError};
use tapeflow_schemas::{
    Epoch, QuoteCurrency, StoredView, View, ViewKey, ViewState, ViewWrite, WindowSize, WindowStart,
    window,
};

use super::{
    committed::Committed,
    display_columns::{ALL, FoundRank, RankColumns, audit_ranks, bigint, latest},
    errors::{broken, of_execution, of_pager, of_row},
    retry::retry,
    session::Cluster,
};

/// The statements on tables `views` and `view_entries`.
pub(super) struct Views {
    insert: PreparedStatement,
    insert_rank: PreparedStatement,
    buckets: PreparedStatement,
    rank_buckets: PreparedStatement,
    select: PreparedStatement,
    range: PreparedStatement,
    audit: PreparedStatement,
    ranks: PreparedStatement,
    committed: Arc<Committed>,
}

impl Views {
    pub(super) async fn prepare(
        cluster: &Cluster,
        keyspace: &str,
        committed: Arc<Committed>,
    ) -> Result<Self, StoreError> {
        let in_range =
            "WHERE view_name = ? AND size = ? AND bucket = ? AND start >= ? AND start < ?";
        Ok(Self {
            insert: cluster
                .prepare(format!(
                    "INSERT INTO {keyspace}.views (view_name, size, bucket, start, epoch, state) \
                     VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
                ))
                .await?,
            insert_rank: cluster
                .prepare(format!(
                    "INSERT INTO {keyspace}.view_entries (view_name, size, bucket, ranked_in, \
                     start, rank, epoch, quote, name, symbols, trades, volume, notional, vwap, \
                     open, close, change_pct, volume_exact, notional_exact, vwap_exact, change_pct_exact) \
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
                     USING TIMESTAMP ?"
                ))
                .await?,
            // No directory lists these partitions, because there are few: four views times four
            // sizes, and a bucket covers two weeks.
            buckets: cluster
                .prepare(format!(
                    "SELECT DISTINCT view_name, size, bucket FROM {keyspace}.views"
                ))
                .await?,
            rank_buckets: cluster
                .prepare(format!(
                    "SELECT DISTINCT view_name, size, bucket FROM {keyspace}.view_entries"
                ))
                .await?,
            select: cluster
                .prepare(format!(
                    "SELECT epoch, state FROM {keyspace}.views \
                     WHERE view_name = ? AND size = ? AND bucket = ? AND start = ?"
                ))
                .await?,
            range: cluster
                .prepare(format!(
                    "SELECT start, epoch, state FROM {keyspace}.views {in_range} ORDER BY start ASC"
                ))
                .await?,
            audit: cluster
                .prepare(format!(
                    "SELECT start, epoch, state FROM {keyspace}.views {in_range}"
                ))
                .await?,
            ranks: cluster
                .prepare(format!(
                    "SELECT {} FROM {keyspace}.view_entries WHERE view_name = ? AND size = ? \
                     AND bucket = ? AND ranked_in IN ? AND start >= ? AND start < ?",
                    FoundRank::COLUMNS
                ))
                .await?,
            committed,
        })
    }

    /// Writes a window's cell.
    pub(super) async fn write_cell(
        &self,
        session: &Session,
        write: &ViewWrite,
    ) -> Result<(), StoreError> {
        let ViewKey { view, size, start } = write.key;
        let place = (
            view.name(),
            size.to_string(),
            CqlTimestamp(window::bucket(start)),
            CqlTimestamp(start),
        );
        let values = (
            place.0,
            place.1,
            place.2,
            place.3,
            bigint(write.state.epoch),
            write.state.to_cell(),
            write.write_timestamp,
        );
        let sent = session.execute_unpaged(&self.insert, values).await;
        sent.map(drop)
            .map_err(|error| of_execution(&format!("writing {}", write.key), &error))
    }

    /// Reads a window's cell back.
    pub(super) async fn read_with_retries(
        &self,
        session: &Session,
        key: ViewKey,
    ) -> Result<Option<ViewState>, StoreError> {
        retry(|| self.read(session, &key)).await
    }

    async fn read(
        &self,
        session: &Session,
        key: &ViewKey,
    ) -> Result<Option<ViewState>, StoreError> {
        let doing = format!("reading {key}");
        let noted = self.committed.now();
        let place = (
            key.view.name(),
            key.size.to_string(),
            CqlTimestamp(window::bucket(key.start)),
            CqlTimestamp(key.start),
        );
        let found = session
            .execute_unpaged(&self.select, place)
            .await
            .map_err(|error| of_execution(&doing, &error))?
            .into_rows_result()
            .map_err(|error| broken(format!("{doing}: {error}")))?
            .maybe_first_row::<(Option<i64>, Option<Vec<u8>>)>()
            .map_err(|error| broken(format!("{doing}: {error}")))?;
        match found {
            Some((_, Some(cell))) => decode(key, &cell).map(Some),
            Some((epoch, None)) => noted.absent_or_damaged(epoch, key).map(|()| None),
            None => Ok(None),
        }
    }

    /// Writes a window's ranks in one statement. They are in one partition, so no replica has only
    /// some of them.
    pub(super) async fn write_ranks(
        &self,
        session: &Session,
        write: &ViewWrite,
    ) -> Result<(), StoreError> {
        let size = write.key.size.to_string();
        let ranks = RankColumns::of(write, &size);
        if ranks.is_empty() {
            return Ok(());
        }
        let statements =
            vec![BatchStatement::PreparedStatement(self.insert_rank.clone()); ranks.len()];
        let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
        batch.set_is_idempotent(true);
        session
            .batch(&batch, &ranks)
            .await
            .map(drop)
            .map_err(|error| of_execution(&format!("writing the ranks of {}", write.key), &error))
    }

    /// The buckets in which a view has windows of a size, ascending.
    pub(super) async fn buckets(
        &self,
        session: &Session,
        view: View,
        size: WindowSize,
    ) -> Result<Vec<i64>, StoreError> {
        Ok(buckets(session, &self.buckets, view, size)
            .await?
            .into_iter()
            .collect())
    }

    /// The buckets in which a view has cells or ranks of a size, ascending.
    pub(super) async fn audited_buckets(
        &self,
        session: &Session,
        view: View,
        size: WindowSize,
    ) -> Result<Vec<i64>, StoreError> {
        let mut found = buckets(session, &self.buckets, view, size).await?;
        found.extend(buckets(session, &self.rank_buckets, view, size).await?);
        Ok(found.into_iter().collect())
    }

    /// The windows of one partition with starts in the range, ascending.
    pub(super) async fn range(
        &self,
        session: &Session,
        view: View,
        size: WindowSize,
        bucket: i64,
        range: &Range<WindowStart>,
    ) -> Result<Vec<StoredView>, StoreError> {
        let doing = format!("reading view {view} {size}");
        let noted = self.committed.now();
        let values = (
            view.name(),
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
            .rows_stream::<(CqlTimestamp, Option<i64>, Option<Vec<u8>>)>()
            .map_err(|error| broken(format!("{doing}: {error}")))?;
        let mut windows = Vec::new();
        while let Some((CqlTimestamp(start), epoch, cell)) = found
            .try_next()
            .await
            .map_err(|error| of_row(&doing, &error))?
        {
            let key = ViewKey { view, size, start };
            match cell {
                Some(cell) => windows.push(StoredView {
                    start,
                    state: decode(&key, &cell)?,
                }),
                None => noted.absent_or_damaged(epoch, key)?,
            }
        }
        Ok(windows)
    }

    /// The same windows, each with the ranks that differ from its cell; and ranks without a cell.
    pub(super) async fn audit(
        &self,
        session: &Session,
        view: View,
        size: WindowSize,
        bucket: i64,
        range: &Range<WindowStart>,
        committed: Epoch,
    ) -> Result<Vec<Audited<ViewState>>, StoreError> {
        let size_text = size.to_string();
        let noted = self.committed.now();
        let values = (
            view.name(),
            size_text.as_str(),
            CqlTimestamp(bucket),
            CqlTimestamp(range.start),
            CqlTimestamp(range.end),
        );
        let doing = format!("reading view {view} {size}");
        let pager = session
            .execute_iter(self.audit.clone(), values)
            .await
            .map_err(|error| of_pager(&doing, &error))?;
        let cells = pager
            .rows_stream::<(CqlTimestamp, Option<i64>, Option<Vec<u8>>)>()
            .map_err(|error| broken(format!("{doing}: {error}")))?;
        let cells: Vec<_> = cells
            .try_collect()
            .await
            .map_err(|error| of_row(&doing, &error))?;
        let doing = format!("reading the ranks of view {view} {size}");
        let ranked_in: Vec<&str> = QuoteCurrency::every()
            .map(QuoteCurrency::name)
            .chain([ALL])
            .collect();
        let values = (values.0, values.1, values.2, ranked_in, values.3, values.4);
        let pager = session
            .execute_iter(self.ranks.clone(), values)
            .await
            .map_err(|error| of_pager(&doing, &error))?;
        let mut found = pager
            .rows_stream::<FoundRank>()
            .map_err(|error| broken(format!("{doing}: {error}")))?;
        let mut ranks: BTreeMap<WindowStart, Vec<FoundRank>> = BTreeMap::new();
        while let Some(rank) = found
            .try_next()
            .await
            .map_err(|error| of_row(&doing, &error))?
        {
            ranks.entry(rank.start.0).or_default().push(rank);
        }
        let mut audited = Vec::new();
        for (CqlTimestamp(start), epoch, cell) in cells {
            let key = ViewKey { view, size, start };
            let ranks = ranks.remove(&start).unwrap_or_default();
            audited.push(match cell {
                Some(cell) => audit_ranks(
                    ViewWrite {
                        state: decode(&key, &cell)?,
                        key,
                        write_timestamp: 0,
                    },
                    epoch,
                    &ranks,
                    committed,
                ),
                None if noted.is_under_way(epoch) => continue,
                None => Audited::without_cell(start),
            });
        }
        let without_cell =
            |(start, ranks): (_, Vec<_>)| Audited::entries_without_cell(start, latest(&ranks));
        audited.extend(ranks.into_iter().map(without_cell));
        Ok(audited)
    }
}

fn decode(key: &ViewKey, cell: &[u8]) -> Result<ViewState, StoreError> {
    ViewState::from_cell(cell).map_err(|error| broken(format!("{key}: {error}")))
}

/// The buckets of a view and size among all partitions that the statement lists.
async fn buckets(
    session: &Session,
    partitions: &PreparedStatement,
    view: View,
    size: WindowSize,
) -> Result<BTreeSet<i64>, StoreError> {
    let doing = format!("reading the buckets of view {view} {size}");
    let size = size.to_string();
    let pager = session
        .execute_iter(partitions.clone(), ())
        .await
        .map_err(|error| of_pager(&doing, &error))?;
    let mut found = pager
        .rows_stream::<(String, String, CqlTimestamp)>()
        .map_err(|error| broken(format!("{doing}: {error}")))?;
    let mut buckets = BTreeSet::new();
    while let Some((of_view, of_size, CqlTimestamp(bucket))) = found
        .try_next()
        .await
        .map_err(|error| of_row(&doing, &error))?
    {
        if of_view == view.name() && of_size == size {
            buckets.insert(bucket);
        }
    }
    Ok(buckets)
}
