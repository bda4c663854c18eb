//! The embedded log: partitions of records with offsets that are dense and never used twice.
//!
//! The next offset of a partition has a row of its own, which the appending transaction updates.
//! Therefore neither a crash nor the deletion of records makes an offset appear twice. The same
//! transaction updates the last sequence of each (session, partition): a writer that got no answer
//! may append the same records again, and they are in the log once.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use rusqlite::{Connection, OptionalExtension, params};
use tapeflow_protocol::{SourceIdentity, StoreError};
use tapeflow_schemas::{Offset, Partition, SessionId};

use super::{Database, integer, open_reader, sqlite_error, whole};
use crate::{
    append::{LastSession, NewRecord},
    read::LogRecord,
};

/// The name of an embedded log's only topic.
const TOPIC: &str = "trades";

/// The log in an open file; clones share it.
#[derive(Clone, Debug)]
pub struct SqliteLog {
    database: Database,
    identity: SourceIdentity,
    partitions: u32,
    tails: Option<Arc<[AtomicI64]>>,
}

impl SqliteLog {
    /// Opens the log in a file that was opened for a job. Creates it with `partitions` if there is
    /// none; an existing log keeps its own number ([`SqliteLog::partitions`]).
    ///
    /// # Errors
    /// [`StoreError`]; zero partitions are [`StoreError::Broken`].
    pub async fn create_if_absent(
        database: &Database,
        partitions: u32,
    ) -> Result<Self, StoreError> {
        if partitions == 0 {
            return Err(StoreError::Broken(
                "a log needs at least one partition".into(),
            ));
        }
        database
            .write(0, move |connection| create(connection, partitions))
            .await?;
        Self::open(database)
    }

    /// Opens the log of a file.
    ///
    /// # Errors
    /// [`StoreError::Broken`] if the file holds none.
    pub fn open(database: &Database) -> Result<Self, StoreError> {
        let (identity, partitions, next) = database.read_now(|connection| {
            let (identity, partitions) = describe(connection)?;
            let next = (0..partitions)
                .map(|partition| {
                    bounds(connection, partition).map(|bounds| AtomicI64::new(bounds.end))
                })
                .collect::<Result<Arc<[_]>, _>>()?;
            Ok((identity, partitions, next))
        })?;
        // Appends go through an open log, so the first one to set the tails has read them before
        // any append of this process.
        let tails = database
            .writer()
            .is_ok()
            .then(|| Arc::clone(database.0.tails.get_or_init(|| next)));
        Ok(Self {
            database: database.clone(),
            identity,
            partitions,
            tails,
        })
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    /// The file as it is named on the command line.
    #[must_use]
    pub fn describe(&self) -> String {
        self.database.describe()
    }

    /// Which log this is. Its ids are random, drawn when the log is created.
    #[must_use]
    pub fn identity(&self) -> &SourceIdentity {
        &self.identity
    }

    /// The number of partitions.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// The offsets that a partition holds now, half-open: from the first that is kept to the one
    /// that the next record will get. Blocks for a query.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn bounds(&self, partition: Partition) -> Result<Range<Offset>, StoreError> {
        self.database
            .read_now(|connection| bounds(connection, partition))
    }

    /// Appends all of the records or none, in order, and returns when they are on disk. Returns the
    /// offset of each; `None` for a record whose sequence, or a later one, its session had appended
    /// before. After [`StoreError::Unavailable`] the records may or may not be in the log. If each
    /// has a session, the same call may be repeated.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Option<Offset>>, StoreError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = records
            .iter()
            .map(|record| record.payload.len() + record.key.len() + 64)
            .sum();
        let partitions: Vec<Partition> = records.iter().map(|record| record.partition).collect();
        let tails = self.tails.clone();
        let committed = move |offsets: &Vec<Option<Offset>>| {
            for (partition, offset) in partitions.iter().zip(offsets) {
                let tail = tails
                    .as_deref()
                    .and_then(|tails| tails.get(usize::try_from(*partition).ok()?));
                if let (Some(tail), Some(offset)) = (tail, offset) {
                    tail.fetch_max(offset + 1, Ordering::Release);
                }
            }
        };
        self.database
            .write_then(
                bytes,
                move |connection| append(connection, &records),
                committed,
            )
            .await
    }

    /// The last sequence of `session` in each partition; 0 where there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn last_sequences(&self, session: SessionId) -> Result<Vec<u64>, StoreError> {
        let partitions = self.partitions;
        let read = move |connection: &Connection| {
            (0..partitions)
                .map(|partition| last_sequence(connection, session, partition))
                .collect()
        };
        self.database.read_after_writes(read).await
    }

    /// The last session of a producer. An append is one transaction, so everything up to its newest
    /// record is in the log.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn last_session(&self, producer: &str) -> Result<Option<LastSession>, StoreError> {
        // The sessions of a producer begin alike, so they are a range of the key.
        let range = [u64::MIN, u64::MAX].map(|n| SessionId::of_producer(producer, n).to_string());
        let read = move |connection: &Connection| last_session(connection, &range);
        let Some((session, until_ms)) = self.database.read_after_writes(read).await? else {
            return Ok(None);
        };
        Ok(Some(LastSession {
            session,
            last: self.last_sequences(session).await?,
            until_ms,
        }))
    }

    /// A reader of some partitions, each from an offset, with a connection of its own.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn reader(&self, from: &[(Partition, Offset)]) -> Result<SqliteLogReader, StoreError> {
        let places = from
            .iter()
            .map(|(partition, next)| Place {
                partition: *partition,
                next: *next,
                paused: false,
            })
            .collect();
        Ok(SqliteLogReader {
            connection: open_reader(&self.database.0.path)?,
            database: self.database.clone(),
            tails: self.tails.clone(),
            places,
            first: 0,
        })
    }
}

/// A position in some partitions of the log, for one thread.
pub struct SqliteLogReader {
    connection: Connection,
    database: Database,
    tails: Option<Arc<[AtomicI64]>>,
    places: Vec<Place>,
    /// The place that is read first: another one each time, so that a busy partition does not
    /// starve the others.
    first: usize,
}

struct Place {
    partition: Partition,
    next: Offset,
    paused: bool,
}

impl SqliteLogReader {
    /// Passes the records that are available to `each`, at most `limit`, in offset order within a
    /// partition, and returns their number. Never waits. In the process that appends, a poll that
    /// finds nothing costs a comparison for each partition and no query.
    ///
    /// # Errors
    /// [`StoreError`]; records passed before the error are not passed again. A deleted offset is
    /// [`StoreError::Broken`].
    pub fn poll(
        &mut self,
        limit: usize,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<usize, StoreError> {
        let tails = self.tails.as_deref();
        let behind = |place: &Place| {
            let tail = tails.and_then(|tails| tails.get(usize::try_from(place.partition).ok()?));
            !place.paused && tail.is_none_or(|tail| place.next < tail.load(Ordering::Acquire))
        };
        let count = self.places.len();
        let ready: Vec<usize> = (0..count)
            .map(|n| (n + self.first) % count)
            .filter(|at| behind(&self.places[*at]))
            .collect();
        if ready.is_empty() || limit == 0 {
            return Ok(0);
        }
        self.first = (self.first + 1) % count;
        // Each partition gets an equal share; what one does not use goes to those after it.
        let (mut left, mut waiting, mut total) = (limit, ready.len(), 0);
        for at in ready {
            let share = left.div_ceil(waiting);
            waiting -= 1;
            let taken = self.places[at]
                .advance(&self.connection, share, each)
                .map_err(|error| self.database.named(error))?;
            left -= taken;
            total += taken;
            if left == 0 {
                break;
            }
        }
        Ok(total)
    }

    /// Pauses or resumes a partition, without losing its position. Ignores a partition that this
    /// reader does not read.
    pub fn set_paused(&mut self, partition: Partition, paused: bool) {
        for place in self
            .places
            .iter_mut()
            .filter(|place| place.partition == partition)
        {
            place.paused = paused;
        }
    }
}

impl Place {
    fn advance(
        &mut self,
        connection: &Connection,
        limit: usize,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<usize, StoreError> {
        const SELECT: &str = "SELECT \"offset\", timestamp_ms, payload FROM log
            WHERE partition = ?1 AND \"offset\" >= ?2 ORDER BY \"offset\" LIMIT ?3";
        let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut rows = select
            .query(params![self.partition, self.next, limit])
            .map_err(sqlite_error)?;
        let mut taken = 0;
        while let Some(row) = rows.next().map_err(sqlite_error)? {
            let offset: Offset = row.get(0).map_err(sqlite_error)?;
            if offset != self.next {
                return Err(StoreError::Broken(format!(
                    "partition {}: offsets {} to {} are gone",
                    self.partition,
                    self.next,
                    offset - 1
                )));
            }
            let payload = row
                .get_ref(2)
                .map_err(sqlite_error)?
                .as_blob()
                .map_err(|error| {
                    StoreError::Broken(format!(
                        "partition {} offset {offset}: {error}",
                        self.partition
                    ))
                })?;
            each(LogRecord {
                partition: self.partition,
                offset,
                timestamp_ms: row.get(1).map_err(sqlite_error)?,
                payload: Some(payload),
            });
            self.next = offset + 1;
            taken += 1;
        }
        Ok(taken)
    }
}

fn create(connection: &Connection, partitions: u32) -> Result<(), StoreError> {
    const META: &str = "INSERT INTO log_meta (only_one, cluster, topic, topic_id, partitions)
        VALUES (1, lower(hex(randomblob(16))), ?1, lower(hex(randomblob(16))), ?2)
        ON CONFLICT (only_one) DO NOTHING";
    if connection
        .execute(META, params![TOPIC, partitions])
        .map_err(sqlite_error)?
        == 0
    {
        return Ok(());
    }
    let mut insert = connection
        .prepare(
            "INSERT INTO log_partitions (partition, first_offset, next_offset) VALUES (?1, 0, 0)",
        )
        .map_err(sqlite_error)?;
    (0..partitions)
        .try_for_each(|partition| insert.execute([partition]).map(drop).map_err(sqlite_error))
}

fn describe(connection: &Connection) -> Result<(SourceIdentity, u32), StoreError> {
    let found = connection
        .query_row(
            "SELECT cluster, topic, topic_id, partitions FROM log_meta",
            [],
            |row| {
                Ok((
                    SourceIdentity {
                        cluster: row.get(0)?,
                        topic: row.get(1)?,
                        topic_id: Some(row.get(2)?),
                    },
                    row.get(3)?,
                ))
            },
        )
        .optional();
    found.map_err(sqlite_error)?.ok_or_else(|| {
        StoreError::Broken(
            "it holds no log: run the job that creates one first, or name another file".into(),
        )
    })
}

pub(super) fn bounds(
    connection: &Connection,
    partition: Partition,
) -> Result<Range<Offset>, StoreError> {
    let mut select = connection
        .prepare_cached("SELECT first_offset, next_offset FROM log_partitions WHERE partition = ?1")
        .map_err(sqlite_error)?;
    let found = select
        .query_row([partition], |row| Ok(row.get(0)?..row.get(1)?))
        .optional()
        .map_err(sqlite_error)?;
    found.ok_or_else(|| StoreError::Broken(format!("the log has no partition {partition}")))
}

/// Moves the first offset that a partition keeps.
pub(super) fn advance_first(
    connection: &Connection,
    partition: Partition,
    first: Offset,
) -> Result<(), StoreError> {
    connection
        .prepare_cached("UPDATE log_partitions SET first_offset = ?2 WHERE partition = ?1")
        .and_then(|mut update| update.execute(params![partition, first]))
        .map(drop)
        .map_err(sqlite_error)
}

/// The session in a range of sessions that has the newest record, and the timestamp of this record.
fn last_session(
    connection: &Connection,
    range: &[String; 2],
) -> Result<Option<(SessionId, i64)>, StoreError> {
    const SELECT: &str = "SELECT session, last_ms FROM log_sessions
        WHERE session BETWEEN ?1 AND ?2 ORDER BY last_ms DESC LIMIT 1";
    let mut select = connection.prepare_cached(SELECT).map_err(sqlite_error)?;
    let found: Option<(String, i64)> = select
        .query_row(params![range[0], range[1]], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()
        .map_err(sqlite_error)?;
    found
        .map(|(session, last_ms)| {
            let session = session.parse().map_err(|error| {
                StoreError::Broken(format!("table log_sessions has {session:?}: {error}"))
            })?;
            Ok((session, last_ms))
        })
        .transpose()
}

fn last_sequence(
    connection: &Connection,
    session: SessionId,
    partition: Partition,
) -> Result<u64, StoreError> {
    let mut select = connection
        .prepare_cached("SELECT sequence FROM log_sessions WHERE session = ?1 AND partition = ?2")
        .map_err(sqlite_error)?;
    let found = select
        .query_row(params![session.to_string(), partition], |row| row.get(0))
        .optional()
        .map_err(sqlite_error)?;
    found.map_or(Ok(0), |sequence| whole("a sequence", sequence))
}

fn append(
    connection: &Connection,
    records: &[NewRecord],
) -> Result<Vec<Option<Offset>>, StoreError> {
    let mut next: BTreeMap<Partition, Offset> = BTreeMap::new();
    let mut sequences: BTreeMap<(SessionId, Partition), (u64, i64)> = BTreeMap::new();
    let mut insert = connection
        .prepare_cached(
            "INSERT INTO log (partition, \"offset\", timestamp_ms, key, payload)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )
        .map_err(sqlite_error)?;
    let mut offsets = Vec::with_capacity(records.len());
    for record in records {
        if let Some((session, sequence)) = record.session {
            let key = (session, record.partition);
            let last = match sequences.get(&key) {
                Some((last, _)) => *last,
                None => last_sequence(connection, session, record.partition)?,
            };
            if sequence <= last {
                offsets.push(None);
                continue;
            }
            sequences.insert(key, (sequence, record.timestamp_ms));
        }
        let offset = match next.get(&record.partition) {
            Some(offset) => *offset,
            None => bounds(connection, record.partition)?.end,
        };
        insert
            .execute(params![
                record.partition,
                offset,
                record.timestamp_ms,
                record.key,
                record.payload
            ])
            .map_err(sqlite_error)?;
        next.insert(record.partition, offset + 1);
        offsets.push(Some(offset));
    }
    let mut advance = connection
        .prepare_cached("UPDATE log_partitions SET next_offset = ?2 WHERE partition = ?1")
        .map_err(sqlite_error)?;
    for (partition, offset) in next {
        advance
            .execute(params![partition, offset])
            .map_err(sqlite_error)?;
    }
    const SET_SEQUENCE: &str = "INSERT INTO log_sessions (session, partition, sequence, last_ms)
        VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT (session, partition) DO UPDATE
        SET sequence = excluded.sequence, last_ms = excluded.last_ms";
    let mut set_sequence = connection
        .prepare_cached(SET_SEQUENCE)
        .map_err(sqlite_error)?;
    for ((session, partition), (sequence, last_ms)) in sequences {
        set_sequence
            .execute(params![
                session.to_string(),
                partition,
                integer("a sequence", sequence)?,
                last_ms
            ])
            .map_err(sqlite_error)?;
    }
    Ok(offsets)
}
