//! The traits of a store on SQLite: each call becomes work for the database's one writer or one of
//! its readers.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};
use tapeflow_log::sqlite::{Database, integer, sqlite_error, whole};
use tapeflow_protocol::{
    AuditStore, Audited, BarReader, CasOutcome, Checkpoint, CheckpointStore, Counts, DeadLetter,
    EpochStore, EpochWrites, Expired, Expiry, ExpiryMarks, ExpiryStore, FeedGap, HistoryEntry,
    StoreError, SymbolDirectory, Unlisted,
    store::{ExpiryProgress, feed_gap},
};
use tapeflow_schemas::{
    AssetClass, BarKey, BarRow, BarState, Epoch, StoredBar, StoredView, Symbol, View, ViewKey,
    ViewState, WindowSize, WindowStart, WriteTimestamp,
};

use super::{bars, expiry, feed_gaps, views};

/// The store in one SQLite file. Clones share the file.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    database: Database,
    keep_history_us: Option<i64>,
}

/// History entries that one write removes at most. An epoch adds one, so an old file gets short
/// within minutes, and no write waits for that.
const REMOVED_HISTORY: usize = 64;

impl SqliteStore {
    /// The store in an open file.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self {
            database,
            keep_history_us: None,
        }
    }

    /// Removes history entries that are so much older than the newest one when it writes others.
    /// `None` keeps all.
    #[must_use]
    pub fn keeping_history(self, keep: Option<Duration>) -> Self {
        Self {
            keep_history_us: keep.map(|keep| i64::try_from(keep.as_micros()).unwrap_or(i64::MAX)),
            ..self
        }
    }
}

#[async_trait]
impl CheckpointStore for SqliteStore {
    fn describe(&self) -> String {
        self.database.describe()
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.database.read_after_writes(read_checkpoint).await
    }

    async fn compare_and_set(
        &self,
        expected: Option<&Checkpoint>,
        proposed: &Checkpoint,
    ) -> CasOutcome {
        let text = match proposed.to_text() {
            Ok(text) => text,
            Err(error) => return CasOutcome::Refused(error.to_string()),
        };
        let bytes = text.len();
        let condition = expected.map(|checkpoint| {
            (
                checkpoint.job.clone(),
                checkpoint.generation,
                checkpoint.version,
                checkpoint.owner.clone(),
            )
        });
        let (job, generation, version, owner) = (
            proposed.job.clone(),
            proposed.generation,
            proposed.version,
            proposed.owner.clone(),
        );
        let work = move |connection: &Connection| {
            let (generation, version) = (
                integer("a generation", generation)?,
                integer("a version", version)?,
            );
            let changed = match condition {
                None => {
                    const CREATE: &str = "
                        INSERT INTO checkpoint
                            (only_one, job, generation, version, owner, checkpoint)
                        VALUES (1, ?1, ?2, ?3, ?4, ?5) ON CONFLICT (only_one) DO NOTHING";
                    connection.prepare_cached(CREATE).and_then(|mut create| {
                        create.execute(params![job, generation, version, owner, text])
                    })
                }
                Some((old_job, old_generation, old_version, old_owner)) => {
                    const REPLACE: &str = "
                        UPDATE checkpoint
                        SET job = ?1, generation = ?2, version = ?3, owner = ?4, checkpoint = ?5
                        WHERE job = ?6 AND generation = ?7 AND version = ?8 AND owner = ?9";
                    let (old_generation, old_version) = (
                        integer("a generation", old_generation)?,
                        integer("a version", old_version)?,
                    );
                    let parameters = params![
                        job,
                        generation,
                        version,
                        owner,
                        text,
                        old_job,
                        old_generation,
                        old_version,
                        old_owner
                    ];
                    connection
                        .prepare_cached(REPLACE)
                        .and_then(|mut replace| replace.execute(parameters))
                }
            };
            Ok(changed.map_err(sqlite_error)? == 1)
        };
        match self.database.write(bytes, work).await {
            Ok(true) => CasOutcome::Won,
            Ok(false) => CasOutcome::Lost,
            Err(StoreError::Broken(reason)) => CasOutcome::Refused(reason),
            // After a crash, a commit that failed may still be found whole in the write-ahead log.
            Err(error) => CasOutcome::Unknown(error.to_string()),
        }
    }

    async fn write_history(
        &self,
        entries: &[HistoryEntry],
        _: WriteTimestamp,
    ) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        let entries = entries.to_vec();
        let newest = entries.iter().map(|entry| entry.write_timestamp).max();
        let before = newest
            .zip(self.keep_history_us)
            .map(|(newest, keep)| newest.saturating_sub(keep));
        self.database
            .write(entries.len() * 512, move |connection| {
                entries
                    .iter()
                    .try_for_each(|entry| write_history_entry(connection, entry))?;
                before.map_or(Ok(()), |before| remove_history(connection, before))
            })
            .await
    }
}

#[async_trait]
impl EpochStore for SqliteStore {
    async fn read_bars(&self, keys: &[BarKey]) -> Result<Vec<Option<BarRow>>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let keys = keys.to_vec();
        self.database
            .read(move |connection| bars::read(connection, &keys))
            .await
    }

    async fn read_views(&self, keys: &[ViewKey]) -> Result<Vec<Option<ViewState>>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let keys = keys.to_vec();
        self.database
            .read(move |connection| views::read(connection, &keys))
            .await
    }

    async fn write(&self, writes: &EpochWrites) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        let bars: Vec<_> = writes.bars.iter().map(bars::BarColumns::of).collect();
        let views = writes
            .views
            .iter()
            .map(views::ViewColumns::of)
            .collect::<Result<Vec<_>, _>>()?;
        let (directory, dead_letters) = (writes.directory.clone(), writes.dead_letters.clone());
        let feed_gaps = writes.feed_gaps.clone();
        let bytes = bars.iter().map(bars::BarColumns::bytes).sum::<usize>()
            + views.iter().map(views::ViewColumns::bytes).sum::<usize>()
            + (directory.len() + feed_gaps.len()) * 128
            + dead_letters
                .iter()
                .map(|dead_letter| 256 + dead_letter.payload.len())
                .sum::<usize>();
        let work = move |connection: &Connection| {
            directory
                .iter()
                .try_for_each(|entry| bars::write_entry(connection, entry))?;
            bars.iter().try_for_each(|bar| bar.write(connection))?;
            views.iter().try_for_each(|view| view.write(connection))?;
            feed_gaps
                .iter()
                .try_for_each(|gap| feed_gaps::write(connection, gap))?;
            dead_letters
                .iter()
                .try_for_each(|dead_letter| write_dead_letter(connection, dead_letter))
        };
        self.database.write(bytes, work).await
    }
}

#[async_trait]
impl SymbolDirectory for SqliteStore {
    async fn symbols(&self) -> Result<Vec<(Symbol, AssetClass)>, StoreError> {
        let read = |connection: &Connection| {
            let mut select = connection
                .prepare_cached("SELECT symbol FROM symbols ORDER BY symbol")
                .map_err(sqlite_error)?;
            let names = select
                .query_map([], |row| row.get::<_, String>(0))
                .map_err(sqlite_error)?;
            names
                .map(|name| symbol(&name.map_err(sqlite_error)?))
                .collect()
        };
        self.database.read(read).await
    }
}

#[async_trait]
impl BarReader for SqliteStore {
    async fn bars(
        &self,
        symbol: &Symbol,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<StoredBar>, StoreError> {
        let symbol = symbol.clone();
        self.database
            .read(move |connection| bars::range(connection, &symbol, size, &range))
            .await
    }

    async fn views(
        &self,
        view: View,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<StoredView>, StoreError> {
        self.database
            .read(move |connection| views::range(connection, view, size, &range))
            .await
    }

    async fn feed_gaps(&self, range: Range<i64>) -> Result<Vec<FeedGap>, StoreError> {
        let buckets = FeedGap::buckets_for(&range);
        let read = move |connection: &Connection| feed_gaps::read(connection, &buckets);
        Ok(feed_gap::settle(self.database.read(read).await?, &range))
    }

    async fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>, StoreError> {
        const SELECT: &str = "
            SELECT epoch, write_timestamp, cuts, records, accepted, dead_letters, duplicates,
                price_updates, gaps, late
            FROM history ORDER BY epoch DESC LIMIT ?1";
        let read = move |connection: &Connection| {
            let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
            let mut found = select.query([at_most(limit)]).map_err(sqlite_error)?;
            let mut entries = Vec::new();
            while let Some(row) = found.next().map_err(sqlite_error)? {
                entries.push(history_entry(row)?);
            }
            Ok(entries)
        };
        self.database.read(read).await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        const SELECT: &str = "
            SELECT partition, \"offset\", trade_index, reason, detail, payload FROM dead_letters
            ORDER BY partition, \"offset\", trade_index LIMIT ?1";
        let read = move |connection: &Connection| {
            let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
            let mut found = select.query([at_most(limit)]).map_err(sqlite_error)?;
            let mut dead_letters = Vec::new();
            while let Some(row) = found.next().map_err(sqlite_error)? {
                dead_letters.push(dead_letter(row)?);
            }
            Ok(dead_letters)
        };
        self.database.read(read).await
    }
}

#[async_trait]
impl AuditStore for SqliteStore {
    async fn audit_bars(
        &self,
        symbol: &Symbol,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<Audited<BarState>>, StoreError> {
        let bars = self.bars(symbol, size, range).await?;
        Ok(bars.into_iter().map(Audited::from).collect())
    }

    async fn audit_views(
        &self,
        view: View,
        size: WindowSize,
        range: Range<WindowStart>,
        _: Epoch,
    ) -> Result<Vec<Audited<ViewState>>, StoreError> {
        self.database
            .read(move |connection| views::audit(connection, view, size, &range))
            .await
    }

    async fn audit_feed_gaps(&self) -> Result<BTreeMap<FeedGap, usize>, StoreError> {
        let found = self.database.read(feed_gaps::all).await?;
        Ok(found.into_iter().map(|gap| (gap, usize::MAX)).collect())
    }

    async fn unlisted(&self) -> Result<Vec<Unlisted>, StoreError> {
        self.database.read(bars::unlisted).await
    }
}

#[async_trait]
impl ExpiryStore for SqliteStore {
    async fn expired_up_to(&self) -> Result<ExpiryMarks, StoreError> {
        expiry::up_to(&self.database).await
    }

    async fn expire(
        &self,
        expiry: &Expiry,
        progress: ExpiryProgress<'_>,
    ) -> Result<Expired, StoreError> {
        expiry::expire(&self.database, expiry, progress).await
    }
}

fn read_checkpoint(connection: &Connection) -> Result<Option<Checkpoint>, StoreError> {
    let text: Option<String> = connection
        .prepare_cached("SELECT checkpoint FROM checkpoint")
        .and_then(|mut select| select.query_row([], |row| row.get(0)).optional())
        .map_err(sqlite_error)?;
    text.map(|text| Checkpoint::from_text(&text))
        .transpose()
        .map_err(|error| StoreError::Broken(error.to_string()))
}

fn write_dead_letter(connection: &Connection, dead_letter: &DeadLetter) -> Result<(), StoreError> {
    const INSERT: &str = "
        INSERT INTO dead_letters (partition, \"offset\", trade_index, reason, detail, payload)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING";
    let mut insert = connection.prepare_cached(INSERT).map_err(sqlite_error)?;
    insert
        .execute(params![
            dead_letter.partition,
            dead_letter.offset,
            dead_letter.index,
            dead_letter.reason,
            dead_letter.detail,
            dead_letter.payload
        ])
        .map(drop)
        .map_err(sqlite_error)
}

fn write_history_entry(connection: &Connection, entry: &HistoryEntry) -> Result<(), StoreError> {
    const INSERT: &str = "
        INSERT OR REPLACE INTO history (epoch, write_timestamp, cuts, records, accepted,
            dead_letters, duplicates, price_updates, gaps, late)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let cuts = serde_json::to_string(&entry.cuts).map_err(|error| {
        StoreError::Broken(format!(
            "the cuts of epoch {} cannot be written as JSON: {error}",
            entry.epoch
        ))
    })?;
    let counts = &entry.counts;
    let numbers = [
        counts.records,
        counts.accepted,
        counts.dead_letters,
        counts.duplicates,
        counts.price_updates,
        counts.gaps,
        counts.late,
    ];
    let mut columns = [0; 7];
    for (column, number) in columns.iter_mut().zip(numbers) {
        *column = integer("a count", number)?;
    }
    let [
        records,
        accepted,
        dead_letters,
        duplicates,
        price_updates,
        gaps,
        late,
    ] = columns;
    let mut insert = connection.prepare_cached(INSERT).map_err(sqlite_error)?;
    let epoch = integer("an epoch", entry.epoch)?;
    insert
        .execute(params![
            epoch,
            entry.write_timestamp,
            cuts,
            records,
            accepted,
            dead_letters,
            duplicates,
            price_updates,
            gaps,
            late
        ])
        .map(drop)
        .map_err(sqlite_error)
}

/// Removes the oldest entries with a write timestamp below this one. They stay contiguous.
fn remove_history(connection: &Connection, before: WriteTimestamp) -> Result<(), StoreError> {
    const DELETE: &str = "
        DELETE FROM history WHERE write_timestamp < ?1 AND epoch IN
            (SELECT epoch FROM history ORDER BY epoch LIMIT ?2)";
    let mut delete = connection.prepare_cached(DELETE).map_err(sqlite_error)?;
    delete
        .execute(params![before, at_most(REMOVED_HISTORY)])
        .map(drop)
        .map_err(sqlite_error)
}

fn history_entry(row: &Row<'_>) -> Result<HistoryEntry, StoreError> {
    let count = |column: usize| whole("a count", row.get(column).map_err(sqlite_error)?);
    let cuts: String = row.get(2).map_err(sqlite_error)?;
    Ok(HistoryEntry {
        epoch: whole("an epoch", row.get(0).map_err(sqlite_error)?)?,
        write_timestamp: row.get(1).map_err(sqlite_error)?,
        cuts: serde_json::from_str(&cuts)
            .map_err(|error| StoreError::Broken(format!("cuts {cuts:?}: {error}")))?,
        counts: Counts {
            records: count(3)?,
            accepted: count(4)?,
            dead_letters: count(5)?,
            duplicates: count(6)?,
            price_updates: count(7)?,
            gaps: count(8)?,
            late: count(9)?,
        },
    })
}

fn dead_letter(row: &Row<'_>) -> Result<DeadLetter, StoreError> {
    let read = || {
        Ok(DeadLetter {
            partition: row.get(0)?,
            offset: row.get(1)?,
            index: row.get(2)?,
            reason: row.get(3)?,
            detail: row.get(4)?,
            payload: row.get(5)?,
        })
    };
    read().map_err(sqlite_error)
}

fn symbol(name: &str) -> Result<(Symbol, AssetClass), StoreError> {
    let symbol = Symbol::new(name)
        .map_err(|error| StoreError::Broken(format!("table symbols has {name:?}: {error}")))?;
    let class = symbol.class();
    Ok((symbol, class))
}

/// A limit for SQLite, where a negative number would mean "no limit".
fn at_most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
