//! The store itself: connects, checks, and hands each call of the contract to the table it
//! concerns.

use std::ops::Range;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use scylla::client::session::Session;
use tapeflow_protocol::{
    Audited, CasOutcome, EpochWrites, Head, HistoryEntry, Reject, Store, StoreError, Unlisted,
};
use tapeflow_schemas::{
    AssetClass, Epoch, RowKey, RowState, RowWrite, Stamp, StoredRow, StoredView, Symbol, View,
    ViewState, ViewWrite, WindowSize, WindowStart, window::WINDOWS_PER_BUCKET,
};

use super::{
    config::CassandraConfig,
    directory::Directory,
    faults::broken,
    findings::{self, Finding},
    head::HeadRow,
    insist::insist,
    migrations::{self, MIGRATIONS},
    records::{History, Rejects},
    rows::{Rows, parcels},
    session,
    views::Views,
};

/// A keyspace of a Cassandra cluster, as a [`Store`].
pub struct CassandraStore {
    session: Session,
    config: CassandraConfig,
    findings: Vec<Finding>,
    head: HeadRow,
    rows: Rows,
    views: Views,
    directory: Directory,
    history: History,
    rejects: Rejects,
}

/// What one statement of an epoch's writes carries.
enum Parcel<'a> {
    Rows(Vec<&'a RowWrite>),
    List(&'a ViewWrite),
    Ranks(&'a ViewWrite),
    Reject(&'a Reject),
}

impl CassandraStore {
    /// Connects to a keyspace that `tapeflow init` has made. Nothing is written.
    ///
    /// # Errors
    /// [`StoreError::Broken`] with what to do if the keyspace or tables are missing or of
    /// another version, or credentials are refused; [`StoreError::Unavailable`] if the cluster does
    /// not answer.
    pub async fn connect(config: CassandraConfig) -> Result<Self, StoreError> {
        let cluster = session::open(&config).await?;
        let keyspace = config.keyspace.as_str();
        let init = || format!("run `tapeflow init --store {}`", config.address());
        if cluster.replication(keyspace).await?.is_none() {
            return Err(broken(format!(
                "there is no keyspace {keyspace}: {}",
                init()
            )));
        }
        let recorded = cluster.recorded(keyspace).await?.unwrap_or_default();
        if let Some(next) = migrations::outstanding(keyspace, MIGRATIONS, &recorded)?.first() {
            return Err(broken(format!(
                "keyspace {keyspace} lacks migration {}: {}",
                next.name,
                init()
            )));
        }
        Ok(Self {
            findings: findings::examine(&cluster, keyspace).await?,
            head: HeadRow::prepare(&cluster, keyspace, config.cas_timeout).await?,
            rows: Rows::prepare(&cluster, keyspace).await?,
            views: Views::prepare(&cluster, keyspace).await?,
            directory: Directory::prepare(&cluster, keyspace).await?,
            history: History::prepare(&cluster, keyspace).await?,
            rejects: Rejects::prepare(&cluster, keyspace).await?,
            session: cluster.session,
            config,
        })
    }

    /// In what this cluster is less than the guarantee needs, as of connecting; empty if in
    /// nothing. For the caller to say.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    async fn send(&self, parcel: &Parcel<'_>) -> Result<(), StoreError> {
        match parcel {
            Parcel::Rows(rows) => self.rows.write(&self.session, rows).await,
            Parcel::List(write) => self.views.write_list(&self.session, write).await,
            Parcel::Ranks(write) => self.views.write_ranks(&self.session, write).await,
            Parcel::Reject(reject) => self.rejects.write(&self.session, reject).await,
        }
    }
}

#[async_trait]
impl Store for CassandraStore {
    fn describe(&self) -> String {
        self.config.address()
    }

    async fn head(&self) -> Result<Option<Head>, StoreError> {
        self.head.read(&self.session).await
    }

    async fn compare_and_set(&self, expected: Option<&Head>, proposed: &Head) -> CasOutcome {
        self.head
            .compare_and_set(&self.session, expected, proposed)
            .await
    }

    async fn read_rows(&self, keys: &[RowKey]) -> Result<Vec<Option<RowState>>, StoreError> {
        self.rows
            .read(&self.session, keys, self.config.reads_in_flight.max(1))
            .await
    }

    async fn write(&self, writes: &EpochWrites) -> Result<(), StoreError> {
        let in_flight = self.config.writes_in_flight.max(1);
        self.directory
            .write(&self.session, &writes.directory, in_flight)
            .await?;
        self.rejects
            .write_blocks(&self.session, &writes.rejects, in_flight)
            .await?;
        let rows = parcels(&writes.rows).into_iter().map(Parcel::Rows);
        let lists = writes
            .views
            .iter()
            .flat_map(|write| [Parcel::List(write), Parcel::Ranks(write)]);
        let parcels: Vec<_> = rows
            .chain(lists)
            .chain(writes.rejects.iter().map(Parcel::Reject))
            .collect();
        stream::iter(&parcels)
            .map(Ok)
            .try_for_each_concurrent(in_flight, |parcel| insist(|| self.send(parcel)))
            .await
    }

    async fn write_history(
        &self,
        entries: &[HistoryEntry],
        flush_stamp: Stamp,
    ) -> Result<(), StoreError> {
        self.history
            .write(
                &self.session,
                &self.config.job,
                entries,
                flush_stamp,
                self.config.writes_in_flight.max(1),
            )
            .await
    }

    async fn symbols(&self) -> Result<Vec<(Symbol, AssetClass)>, StoreError> {
        self.directory.symbols(&self.session).await
    }

    async fn rows(
        &self,
        symbol: &Symbol,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<StoredRow>, StoreError> {
        let buckets = within(
            self.directory.buckets(&self.session, symbol, size).await?,
            size,
            &range,
        );
        let parts: Vec<Vec<StoredRow>> = stream::iter(buckets)
            .map(|bucket| self.rows.range(&self.session, symbol, size, bucket, &range))
            .buffered(self.config.reads_in_flight.clamp(1, 8))
            .try_collect()
            .await?;
        Ok(parts.into_iter().flatten().collect())
    }

    async fn views(
        &self,
        view: View,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<StoredView>, StoreError> {
        let buckets = within(
            self.views.buckets(&self.session, view, size).await?,
            size,
            &range,
        );
        let parts: Vec<Vec<StoredView>> = stream::iter(buckets)
            .map(|bucket| self.views.range(&self.session, view, size, bucket, &range))
            .buffered(self.config.reads_in_flight.clamp(1, 8))
            .try_collect()
            .await?;
        Ok(parts.into_iter().flatten().collect())
    }

    async fn audit_rows(
        &self,
        symbol: &Symbol,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<Audited<RowState>>, StoreError> {
        let buckets = within(
            self.directory.buckets(&self.session, symbol, size).await?,
            size,
            &range,
        );
        let parts: Vec<Vec<_>> = stream::iter(buckets)
            .map(|bucket| self.rows.audit(&self.session, symbol, size, bucket, &range))
            .buffered(self.config.reads_in_flight.clamp(1, 8))
            .try_collect()
            .await?;
        Ok(parts.into_iter().flatten().collect())
    }

    async fn audit_views(
        &self,
        view: View,
        size: WindowSize,
        range: Range<WindowStart>,
        committed: Epoch,
    ) -> Result<Vec<Audited<ViewState>>, StoreError> {
        let buckets = within(
            self.views
                .audited_buckets(&self.session, view, size)
                .await?,
            size,
            &range,
        );
        let parts: Vec<Vec<_>> = stream::iter(buckets)
            .map(|bucket| {
                self.views
                    .audit(&self.session, view, size, bucket, &range, committed)
            })
            .buffered(self.config.reads_in_flight.clamp(1, 8))
            .try_collect()
            .await?;
        Ok(parts.into_iter().flatten().collect())
    }

    async fn unlisted(&self) -> Result<Vec<Unlisted>, StoreError> {
        // In this order: a job enters a partition in the directory before it writes there.
        let mut partitions = self.rows.partitions(&self.session).await?;
        self.directory
            .retain_unlisted(&self.session, &mut partitions)
            .await?;
        Ok(partitions.into_iter().collect())
    }

    async fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>, StoreError> {
        // A reader need not know the job's name: the keyspace does.
        let job = self.head.job(&self.session).await?;
        self.history
            .read(
                &self.session,
                job.as_deref().unwrap_or(&self.config.job),
                limit,
            )
            .await
    }

    async fn rejects(&self, limit: usize) -> Result<Vec<Reject>, StoreError> {
        self.rejects.read(&self.session, limit).await
    }
}

/// The buckets of which windows may start in the range.
fn within(mut buckets: Vec<i64>, size: WindowSize, range: &Range<WindowStart>) -> Vec<i64> {
    buckets.retain(|bucket| {
        bucket.saturating_add(size.ms() * WINDOWS_PER_BUCKET) > range.start && *bucket < range.end
    });
    buckets
}
