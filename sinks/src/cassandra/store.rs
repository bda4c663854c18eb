//! Connects, checks the keyspace, and passes each call of the store's traits to its table.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use scylla::client::session::Session;
use tapeflow_protocol::{
    AuditStore, Audited, BarReader, CasOutcome, Checkpoint, CheckpointStore, DeadLetter,
    EpochStore, EpochWrites, Expired, Expiry, ExpiryMarks, ExpiryStore, FeedGap, HistoryEntry,
    StoreError, SymbolDirectory, Unlisted,
    store::{ExpiryProgress, feed_gap},
};
use tapeflow_schemas::{
    AssetClass, BarKey, BarRow, BarState, BarWrite, Epoch, StoredBar, StoredView, Symbol, View,
    ViewKey, ViewState, ViewWrite, WindowSize, WindowStart, WriteTimestamp, window::BUCKET_MS,
};

use super::{
    bars::{Bars, batches},
    checkpoint::CheckpointRow,
    committed::Committed,
    config::CassandraConfig,
    dead_letters::DeadLetters,
    directory::Directory,
    errors::broken,
    expiry::Leaving,
    feed_gaps::FeedGaps,
    findings::{self, Finding},
    history::History,
    migrations::{self, MIGRATIONS},
    retry::retry,
    session,
    views::Views,
};

/// Symbols whose bars leave at once. Few, because a job writes meanwhile.
const SYMBOLS_AT_ONCE: usize = 4;

/// A keyspace of a Cassandra cluster, as a store.
pub struct CassandraStore {
    session: Session,
    datacenter: String,
    config: CassandraConfig,
    findings: Vec<Finding>,
    checkpoint: CheckpointRow,
    bars: Bars,
    views: Views,
    directory: Directory,
    history: History,
    dead_letters: DeadLetters,
    feed_gaps: FeedGaps,
    leaving: Leaving,
    committed: Arc<Committed>,
}

/// What one statement writes.
enum Statement<'a> {
    Bars(Vec<&'a BarWrite>),
    ViewCell(&'a ViewWrite),
    ViewRanks(&'a ViewWrite),
    DeadLetter(&'a DeadLetter),
    /// A gap, in one of its buckets.
    FeedGap(i64, &'a FeedGap),
}

impl CassandraStore {
    /// Connects to a keyspace that `tapeflow init` created. It writes nothing.
    ///
    /// # Errors
    /// [`StoreError::Broken`], with what to do, if the keyspace or tables are missing or of another
    /// version, or the credentials are refused. [`StoreError::Unavailable`] if the cluster does not
    /// answer.
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
        let committed = Arc::new(Committed::default());
        Ok(Self {
            findings: findings::examine(&cluster, keyspace).await?,
            checkpoint: CheckpointRow::prepare(&cluster, keyspace, config.cas_timeout).await?,
            bars: Bars::prepare(&cluster, keyspace, Arc::clone(&committed)).await?,
            views: Views::prepare(&cluster, keyspace, Arc::clone(&committed)).await?,
            directory: Directory::prepare(&cluster, keyspace).await?,
            history: History::prepare(&cluster, keyspace, config.keep_history).await?,
            dead_letters: DeadLetters::prepare(&cluster, keyspace).await?,
            feed_gaps: FeedGaps::prepare(&cluster, keyspace).await?,
            leaving: Leaving::prepare(&cluster, keyspace).await?,
            session: cluster.session,
            datacenter: cluster.datacenter,
            config,
            committed,
        })
    }

    /// The requirements of the guarantee that the cluster did not meet when the store connected.
    /// The caller reports them.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    async fn send(&self, statement: &Statement<'_>) -> Result<(), StoreError> {
        match statement {
            Statement::Bars(bars) => self.bars.write(&self.session, bars).await,
            Statement::ViewCell(write) => self.views.write_cell(&self.session, write).await,
            Statement::ViewRanks(write) => self.views.write_ranks(&self.session, write).await,
            Statement::DeadLetter(dead_letter) => {
                self.dead_letters.write(&self.session, dead_letter).await
            }
            Statement::FeedGap(bucket, gap) => {
                self.feed_gaps.write(&self.session, *bucket, gap).await
            }
        }
    }
}

#[async_trait]
impl CheckpointStore for CassandraStore {
    fn describe(&self) -> String {
        self.config.address()
    }

    fn datacenter(&self) -> Option<String> {
        Some(self.datacenter.clone())
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        let found = self.checkpoint.read(&self.session).await?;
        found
            .iter()
            .for_each(|checkpoint| self.committed.note(checkpoint));
        Ok(found)
    }

    async fn compare_and_set(
        &self,
        expected: Option<&Checkpoint>,
        proposed: &Checkpoint,
    ) -> CasOutcome {
        let outcome = self
            .checkpoint
            .compare_and_set(&self.session, expected, proposed)
            .await;
        if matches!(outcome, CasOutcome::Won) {
            self.committed.note(proposed);
        }
        outcome
    }

    async fn write_history(
        &self,
        entries: &[HistoryEntry],
        recovery_timestamp: WriteTimestamp,
    ) -> Result<(), StoreError> {
        self.history
            .write(
                &self.session,
                &self.config.job,
                entries,
                recovery_timestamp,
                self.config.writes_in_flight.max(1),
            )
            .await
    }
}

#[async_trait]
impl EpochStore for CassandraStore {
    async fn read_bars(&self, keys: &[BarKey]) -> Result<Vec<Option<BarRow>>, StoreError> {
        self.bars
            .read(&self.session, keys, self.config.reads_in_flight.max(1))
            .await
    }

    async fn read_views(&self, keys: &[ViewKey]) -> Result<Vec<Option<ViewState>>, StoreError> {
        stream::iter(keys.to_vec())
            .map(|key| self.views.read_with_retries(&self.session, key))
            .buffered(self.config.reads_in_flight.max(1))
            .try_collect()
            .await
    }

    async fn write(&self, writes: &EpochWrites) -> Result<(), StoreError> {
        let in_flight = self.config.writes_in_flight.max(1);
        self.directory
            .write(&self.session, &writes.directory, in_flight)
            .await?;
        self.dead_letters
            .write_blocks(&self.session, &writes.dead_letters, in_flight)
            .await?;
        let bars = batches(&writes.bars).into_iter().map(Statement::Bars);
        let views = writes
            .views
            .iter()
            .flat_map(|write| [Statement::ViewCell(write), Statement::ViewRanks(write)]);
        let gaps = writes.feed_gaps.iter().flat_map(|gap| {
            gap.buckets()
                .map(move |bucket| Statement::FeedGap(bucket, gap))
        });
        let statements: Vec<_> = bars
            .chain(views)
            .chain(gaps)
            .chain(writes.dead_letters.iter().map(Statement::DeadLetter))
            .collect();
        stream::iter(&statements)
            .map(Ok)
            .try_for_each_concurrent(in_flight, |statement| retry(|| self.send(statement)))
            .await
    }
}

#[async_trait]
impl SymbolDirectory for CassandraStore {
    async fn symbols(&self) -> Result<Vec<(Symbol, AssetClass)>, StoreError> {
        self.directory.symbols(&self.session).await
    }
}

#[async_trait]
impl BarReader for CassandraStore {
    async fn bars(
        &self,
        symbol: &Symbol,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<StoredBar>, StoreError> {
        let buckets = within(
            self.directory.buckets(&self.session, symbol).await?,
            size,
            &range,
        );
        let parts: Vec<Vec<StoredBar>> = stream::iter(buckets)
            .map(|bucket| self.bars.range(&self.session, symbol, size, bucket, &range))
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

    async fn feed_gaps(&self, range: Range<i64>) -> Result<Vec<FeedGap>, StoreError> {
        let found = self.feed_gaps.read(
            &self.session,
            FeedGap::buckets_for(&range),
            self.config.reads_in_flight.clamp(1, 8),
        );
        Ok(feed_gap::settle(found.await?, &range))
    }

    async fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>, StoreError> {
        // A reader does not know the job's name; the keyspace has it.
        let job = self.checkpoint.job(&self.session).await?;
        self.history
            .read(
                &self.session,
                job.as_deref().unwrap_or(&self.config.job),
                limit,
            )
            .await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        self.dead_letters.read(&self.session, limit).await
    }
}

#[async_trait]
impl AuditStore for CassandraStore {
    async fn audit_bars(
        &self,
        symbol: &Symbol,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<Audited<BarState>>, StoreError> {
        let buckets = within(
            self.directory.buckets(&self.session, symbol).await?,
            size,
            &range,
        );
        let parts: Vec<Vec<_>> = stream::iter(buckets)
            .map(|bucket| self.bars.audit(&self.session, symbol, size, bucket, &range))
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

    async fn audit_feed_gaps(&self) -> Result<BTreeMap<FeedGap, usize>, StoreError> {
        let in_flight = self.config.reads_in_flight.clamp(1, 8);
        self.feed_gaps.audit(&self.session, in_flight).await
    }

    async fn unlisted(&self) -> Result<Vec<Unlisted>, StoreError> {
        // The partitions first: a job writes the directory entry before the bar, so the reverse
        // order would find a bar that was written in between.
        let mut partitions = self.bars.partitions(&self.session).await?;
        self.directory
            .retain_unlisted(&self.session, &mut partitions)
            .await?;
        Ok(partitions.into_iter().collect())
    }
}

#[async_trait]
impl ExpiryStore for CassandraStore {
    async fn expired_up_to(&self) -> Result<ExpiryMarks, StoreError> {
        self.leaving.up_to(&self.session).await
    }

    async fn expire(
        &self,
        expiry: &Expiry,
        progress: ExpiryProgress<'_>,
    ) -> Result<Expired, StoreError> {
        let mut all = Expired::default();
        let Some(watermark) = expiry.watermark() else {
            return Ok(all);
        };
        self.leaving.begin(&self.session, watermark).await?;
        let symbols = self.directory.symbols(&self.session).await?;
        let mut parts = stream::iter(symbols)
            .map(async |(symbol, _)| {
                let buckets = self.directory.buckets(&self.session, &symbol).await?;
                self.leaving
                    .bars_of(&self.session, &symbol, &buckets, expiry)
                    .await
            })
            .buffer_unordered(SYMBOLS_AT_ONCE);
        while let Some(part) = parts.try_next().await? {
            all += part;
            if !progress(all) {
                return Ok(all);
            }
        }
        drop(parts);
        for size in expiry.row_sizes() {
            for view in View::EVERY {
                let buckets = self
                    .views
                    .audited_buckets(&self.session, view, size)
                    .await?;
                all.views += self
                    .leaving
                    .views(&self.session, view, size, &buckets, expiry)
                    .await?;
                if !progress(all) {
                    return Ok(all);
                }
            }
        }
        self.leaving.end(&self.session, watermark).await?;
        Ok(all)
    }
}

/// The buckets that have rows of windows of a size that start in the range.
fn within(mut buckets: Vec<i64>, size: WindowSize, range: &Range<WindowStart>) -> Vec<i64> {
    let (_, start) = size.row_of(range.start);
    buckets.retain(|bucket| bucket.saturating_add(BUCKET_MS) > start && *bucket < range.end);
    buckets
}
