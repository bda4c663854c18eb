//! The embedded log: partitions of records with offsets that are dense and never used twice.
//!
//! A partition's next offset stands in a row of its own and moves in the transaction that appends,
//! so neither a crash nor a record that is gone ever gives an offset out again. The last sequence
//! of each (session, partition) moves with it: a sender that was not answered may send the same
//! records again, and they are appended once.

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
use crate::append::OutRecord;

/// The name of the one topic of an embedded log.
const TOPIC: &str = "trades";

/// One record of the log, borrowed from the reader for the length of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqliteRecord<'a> {
    /// Its partition.
    pub partition: Partition,
    /// Its offset.
    pub offset: Offset,
    /// When it was taken in, in milliseconds since 1970 UTC.
    pub timestamp_ms: i64,
    /// Its bytes.
    pub payload: &'a [u8],
}

/// The log in an open file; clones share it.
#[derive(Clone, Debug)]
pub struct SqliteLog {
    database: Database,
    identity: SourceIdentity,
    partitions: u32,
    tails: Option<Arc<[AtomicI64]>>,
}

impl SqliteLog {
    /// Opens the log in a file that was opened for a job, and makes it with so many partitions if
    /// there is none. One that is there keeps its own number: [`SqliteLog::partitions`] tells.
    ///
    /// # Errors
    /// [`StoreError`], see there; zero partitions are [`StoreError::Broken`].
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

    /// Opens the log that is in a file.
    ///
    /// # Errors
    /// [`StoreError::Broken`] if there is none.
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
        // Whoever appends does so through a log that was opened before, so the first to set the
        // tails has read them in time.
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

    /// The file as it is named on the command line.
    #[must_use]
    pub fn describe(&self) -> String {
        self.database.describe()
    }

    /// Which log this is: its random ids are drawn when it is made.
    #[must_use]
    pub fn identity(&self) -> &SourceIdentity {
        &self.identity
    }

    /// The number of partitions.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// The offsets a partition holds now, half-open: the first kept, and the one the next record
    /// will get. Blocks for a query.
    ///
    /// # Errors
    /// [`StoreError`], see there.
    pub fn bounds(&self, partition: Partition) -> Result<Range<Offset>, StoreError> {
        self.database
            .read_now(|connection| bounds(connection, partition))
    }

    /// Appends all of the records, or none, in order; answers when they are on disk. Tells the
    /// offset of each, `None` for one whose session had sent its sequence (or a later one) before.
    /// After [`StoreError::Unavailable`] the same call may be repeated if every record has a
    /// session; they may or may not be there already.
    ///
    /// # Errors
    /// [`StoreError`], see there.
    pub async fn append(&self, records: Vec<OutRecord>) -> Result<Vec<Option<Offset>>, StoreError> {
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

    /// The last sequence of `session` that each partition holds; 0 where there is none.
    ///
    /// # Errors
    /// [`StoreError`], see there.
    pub async fn last_sequences(&self, session: SessionId) -> Result<Vec<u64>, StoreError> {
        let partitions = self.partitions;
        let read = move |connection: &Connection| {
            (0..partitions)
                .map(|partition| last_sequence(connection, session, partition))
                .collect()
        };
        self.database.read_after_writes(read).await
    }

    /// A reader of some partitions, each from an offset on, with a connection of its own.
    ///
    /// # Errors
    /// [`StoreError`], see there.
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
            turn: 0,
        })
    }
}

/// A position in some partitions of the log, for one thread.
pub struct SqliteLogReader {
    connection: Connection,
    database: Database,
    tails: Option<Arc<[AtomicI64]>>,
    places: Vec<Place>,
    /// Which place comes first: another one each time, so that a busy partition does not starve the
    /// rest.
    turn: usize,
}

struct Place {
    partition: Partition,
    next: Offset,
    paused: bool,
}

impl SqliteLogReader {
    /// Hands over the records that are there now, at most `limit`, in offset order within a
    /// partition; never waits. Returns how many there were. Where this process appends, finding
    /// nothing new costs a comparison a partition and no query.
    ///
    /// # Errors
    /// [`StoreError`]; what was handed over before is not handed over again. An offset
    /// that is gone is [`StoreError::Broken`].
    pub fn poll(
        &mut self,
        limit: usize,
        each: &mut dyn FnMut(SqliteRecord<'_>),
    ) -> Result<usize, StoreError> {
        let tails = self.tails.as_deref();
        let behind = |place: &Place| {
            let tail = tails.and_then(|tails| tails.get(usize::try_from(place.partition).ok()?));
            !place.paused && tail.is_none_or(|tail| place.next < tail.load(Ordering::Acquire))
        };
        let count = self.places.len();
        let ready: Vec<usize> = (0..count)
            .map(|n| (n + self.turn) % count)
            .filter(|at| behind(&self.places[*at]))
            .collect();
        if ready.is_empty() || limit == 0 {
            return Ok(0);
        }
        self.turn = (self.turn + 1) % count;
        // An equal share each; what one leaves over goes to those after it.
        let (mut left, mut waiting, mut handed) = (limit, ready.len(), 0);
        for at in ready {
            let share = left.div_ceil(waiting);
            waiting -= 1;
            let taken = self.places[at]
                .advance(&self.connection, share, each)
                .map_err(|error| self.database.named(error))?;
            left -= taken;
            handed += taken;
            if left == 0 {
                break;
            }
        }
        Ok(handed)
    }

    /// Stops (or goes on) handing over records of a partition, without losing its place. A
    /// partition that is not read is left alone.
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
        each: &mut dyn FnMut(SqliteRecord<'_>),
    ) -> Result<usize, StoreError> {
        const SELECT: &str = "SELECT \"offset\", timestamp_ms, payload FROM log WHERE partition = ?1 AND \"offset\" >= ?2 ORDER BY \"offset\" LIMIT ?3";
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
            each(SqliteRecord {
                partition: self.partition,
                offset,
                timestamp_ms: row.get(1).map_err(sqlite_error)?,
                payload,
            });
            self.next = offset + 1;
            taken += 1;
        }
        Ok(taken)
    }
}

fn create(connection: &Connection, partitions: u32) -> Result<(), StoreError> {
    const META: &str = "INSERT INTO log_meta (only_one, cluster, topic, topic_id, partitions)
        VALUES (1, lower(hex(randomblob(16))), ?1, lower(hex(randomblob(16))), ?2) ON CONFLICT (only_one) DO NOTHING";
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
            "it holds no log: run the job that makes one first, or name another file".into(),
        )
    })
}

fn bounds(connection: &Connection, partition: Partition) -> Result<Range<Offset>, StoreError> {
    let mut select = connection
        .prepare_cached("SELECT first_offset, next_offset FROM log_partitions WHERE partition = ?1")
        .map_err(sqlite_error)?;
    let found = select
        .query_row([partition], |row| Ok(row.get(0)?..row.get(1)?))
        .optional()
        .map_err(sqlite_error)?;
    found.ok_or_else(|| StoreError::Broken(format!("the log has no partition {partition}")))
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
    records: &[OutRecord],
) -> Result<Vec<Option<Offset>>, StoreError> {
    let mut next: BTreeMap<Partition, Offset> = BTreeMap::new();
    let mut sequences: BTreeMap<(SessionId, Partition), u64> = BTreeMap::new();
    let mut insert = connection
        .prepare_cached("INSERT INTO log (partition, \"offset\", timestamp_ms, key, payload) VALUES (?1, ?2, ?3, ?4, ?5)")
        .map_err(sqlite_error)?;
    let mut offsets = Vec::with_capacity(records.len());
    for record in records {
        if let Some((session, sequence)) = record.session {
            let key = (session, record.partition);
            let last = match sequences.get(&key) {
                Some(last) => *last,
                None => last_sequence(connection, session, record.partition)?,
            };
            if sequence <= last {
                offsets.push(None);
                continue;
            }
            sequences.insert(key, sequence);
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
    const REMEMBER: &str = "INSERT INTO log_sessions (session, partition, sequence) VALUES (?1, ?2, ?3) ON CONFLICT (session, partition) DO UPDATE SET sequence = excluded.sequence";
    let mut remember = connection.prepare_cached(REMEMBER).map_err(sqlite_error)?;
    for ((session, partition), sequence) in sequences {
        remember
            .execute(params![
                session.to_string(),
                partition,
                integer("a sequence", sequence)?
            ])
            .map_err(sqlite_error)?;
    }
    Ok(offsets)
}
