//! What a session has already appended, and which session of a producer was the last. The index
//! says where to search ([`session_index`]). There each partition is read backwards in growing
//! chunks, until a record of the session is found.
//!
//! [`session_index`]: super::session_index

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};
use tapeflow_schemas::{
    SessionId,
    codec::{self, Entry},
    trade::record_time_ms,
};
use tracing::{debug, info, warn};

use super::{
    errors, leader_changes,
    session_index::{Noted, Search, SessionIndex},
    settings::KafkaConfig,
    writer::{Requests, TIMEOUT, consumer},
};
use crate::{
    append::{AppendError, LastSession},
    recording::RecordingNote,
};

/// The first chunk is small: a run that resumes usually finds its records at the end.
const FIRST_CHUNK: i64 = 256;
const LONGEST_CHUNK: i64 = 65_536;
const GROWTH: i64 = 4;

/// How many records of each partition are searched for the last session of a producer. Its records
/// are the newest ones unless others append to the topic too, and far more than it does.
const LAST_SESSION_RECORDS: i64 = 1 << 16;
/// What lies between two records that were appended together, in milliseconds of their receipt.
/// Partitions acknowledge them in any order, so the newest record proves nothing of those that were
/// taken in with it. Ingest flushes far more often ([`crate::LogWriter::flush`]).
const TOGETHER_MS: i64 = 1_000;

/// What a search has found.
pub(super) struct Found {
    /// The last sequence of the session in each partition; 0 where there is none.
    pub(super) last: Vec<u64>,
    /// The number of records that were read for it.
    pub(super) searched: u64,
    /// The recording that is noted of the session.
    pub(super) recording: Option<RecordingNote>,
}

/// The index of the topic, made if there is none; `None` if it cannot be made. Blocks.
pub(super) fn index(config: &KafkaConfig) -> Result<Option<SessionIndex>, AppendError> {
    SessionIndex::open(config, &consumer(config)?)
}

/// Finds the last sequences of `session`, and notes the session, so that its records can be found
/// from now on. Blocks.
pub(super) fn last_sequences(
    config: &KafkaConfig,
    partitions: u32,
    index: Option<&SessionIndex>,
    session: SessionId,
) -> Result<Found, AppendError> {
    let mut tail = Tail {
        config,
        consumer: consumer(config)?,
        entries: Vec::new(),
        searched: 0,
    };
    let bounds = tail.bounds(partitions)?;
    let ends: Vec<i64> = bounds.iter().map(|bounds| bounds.end).collect();
    let Noted { search, recording } = match index {
        Some(index) => index.noted(session, &ends)?,
        None => Noted {
            search: Search::Everywhere,
            recording: None,
        },
    };
    let (ranges, mut last): (Vec<Range<i64>>, Vec<u64>) = match &search {
        Search::From(from, last) => {
            let from = from.iter().copied().chain(std::iter::repeat(0));
            let ranges = bounds.iter().zip(from);
            (
                ranges
                    .map(|(bounds, from)| bounds.start.max(from)..bounds.end)
                    .collect(),
                last.clone(),
            )
        }
        Search::Below(below) => {
            let below = below.iter().copied().chain(std::iter::repeat(0));
            let ranges = bounds.iter().zip(below);
            (
                ranges
                    .map(|(bounds, below)| bounds.start..bounds.end.min(below))
                    .collect(),
                Vec::new(),
            )
        }
        Search::Everywhere => (bounds.clone(), Vec::new()),
    };
    last.resize(ranges.len(), 0);
    for (partition, (range, last)) in (0..).zip(ranges.into_iter().zip(&mut last)) {
        *last = (*last).max(tail.last_sequence(partition, session, range)?);
    }
    info!(%session, searched = tail.searched, "records searched for the session");
    if let Some(index) = index {
        if search == Search::Everywhere {
            index.begin(&ends)?;
        }
        index.note(session, &last, &ends, recording.as_ref())?;
    }
    Ok(Found {
        last,
        searched: tail.searched,
        recording,
    })
}

/// Notes the last sequences of a session, which are durable, and its recording. Blocks.
pub(super) fn note_sequences(
    config: &KafkaConfig,
    index: &SessionIndex,
    session: SessionId,
    last: &[u64],
    recording: Option<&RecordingNote>,
) -> Result<(), AppendError> {
    let tail = Tail {
        config,
        consumer: consumer(config)?,
        entries: Vec::new(),
        searched: 0,
    };
    let partitions = u32::try_from(last.len()).unwrap_or(u32::MAX);
    let ends: Vec<i64> = tail
        .bounds(partitions)?
        .iter()
        .map(|bounds| bounds.end)
        .collect();
    index.note(session, last, &ends, recording)
}

/// The last session of a producer, if one of its records is among the newest of any partition.
/// Blocks.
pub(super) fn last_session(
    config: &KafkaConfig,
    partitions: u32,
    producer: &str,
) -> Result<Option<LastSession>, AppendError> {
    let mut tail = Tail {
        config,
        consumer: consumer(config)?,
        entries: Vec::new(),
        searched: 0,
    };
    // By session: its last sequences, and the time of its newest record.
    let mut found: BTreeMap<SessionId, (Vec<u64>, i64)> = BTreeMap::new();
    for (partition, bounds) in (0..).zip(tail.bounds(partitions)?) {
        let at = usize::try_from(partition).unwrap_or_default();
        let begin = bounds.end.saturating_sub(LAST_SESSION_RECORDS);
        tail.backwards(partition, bounds.start.max(begin)..bounds.end, |record| {
            if !record.session.is_of(producer) {
                return false;
            }
            let (last, newest_ms) = found
                .entry(record.session)
                .or_insert_with(|| (vec![0; partitions as usize], i64::MIN));
            last[at] = last[at].max(record.sequence);
            *newest_ms = record.known_ms.max(*newest_ms);
            true
        })?;
    }
    info!(
        producer,
        searched = tail.searched,
        "records searched for the session before"
    );
    let newest = found
        .into_iter()
        .max_by_key(|(_, (_, newest_ms))| *newest_ms);
    Ok(newest.map(|(session, (last, newest_ms))| LastSession {
        session,
        last,
        until_ms: newest_ms.saturating_sub(TOGETHER_MS),
    }))
}

/// A record of a session.
struct SessionRecord {
    session: SessionId,
    sequence: u64,
    /// When it existed, in milliseconds since 1970 UTC.
    known_ms: i64,
}

struct Tail<'a> {
    config: &'a KafkaConfig,
    consumer: BaseConsumer<Requests>,
    entries: Vec<Entry>,
    /// Records read so far.
    searched: u64,
}

impl Tail<'_> {
    fn bounds(&self, partitions: u32) -> Result<Vec<Range<i64>>, AppendError> {
        (0..partitions)
            .map(|partition| {
                let partition = i32::try_from(partition).unwrap_or(i32::MAX);
                let topic = &self.config.topic;
                leader_changes::bounds(&self.consumer, topic, partition, TIMEOUT)
                    .map_err(|error| errors::request(self.config, &error).into())
            })
            .collect()
    }

    /// The last sequence of a session within a range; 0 if there is none.
    fn last_sequence(
        &mut self,
        partition: i32,
        session: SessionId,
        within: Range<i64>,
    ) -> Result<u64, AppendError> {
        let mut last = 0;
        self.backwards(partition, within, |record| {
            let is_wanted = record.session == session;
            if is_wanted {
                last = record.sequence.max(last);
            }
            is_wanted
        })?;
        if last > 0 {
            debug!(partition, sequence = last, %session, "session resumes");
        }
        Ok(last)
    }

    /// Passes the records of a range to `each`, in chunks from the end, until it has returned true
    /// within a chunk.
    fn backwards(
        &mut self,
        partition: i32,
        within: Range<i64>,
        mut each: impl FnMut(&SessionRecord) -> bool,
    ) -> Result<(), AppendError> {
        let (begin, mut end) = (within.start, within.end);
        let mut chunk = FIRST_CHUNK;
        while end > begin {
            let range = begin.max(end.saturating_sub(chunk))..end;
            end = range.start;
            chunk = (chunk * GROWTH).min(LONGEST_CHUNK);
            if self.any_within(partition, range, &mut each)? {
                break;
            }
        }
        Ok(())
    }

    /// Whether `each` has returned true for a record of a range. It gets all of them.
    fn any_within(
        &mut self,
        partition: i32,
        range: Range<i64>,
        each: &mut impl FnMut(&SessionRecord) -> bool,
    ) -> Result<bool, AppendError> {
        let mut list = TopicPartitionList::new();
        let assigned = list
            .add_partition_offset(
                &self.config.topic,
                partition,
                KafkaOffset::Offset(range.start),
            )
            .and_then(|()| self.consumer.assign(&list));
        assigned.map_err(|error| errors::request(self.config, &error))?;
        let (mut any, mut received) = (false, Instant::now());
        loop {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    received = Instant::now();
                    self.searched += 1;
                    // An offset beyond the range: it ended in a gap, such as a transaction marker.
                    if message.offset() < range.end
                        && let Some(record) = message.payload().and_then(|payload| {
                            let timestamp_ms = message.timestamp().to_millis();
                            session_record(payload, timestamp_ms, &mut self.entries)
                        })
                    {
                        any |= each(&record);
                    }
                    if message.offset() + 1 >= range.end {
                        return Ok(any);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(any),
                Some(Err(error)) => {
                    warn!(%error, partition, "kafka error; the client retries")
                }
                None => {}
            }
            if received.elapsed() > TIMEOUT {
                let (topic, brokers) = (&self.config.topic, &self.config.brokers);
                return Err(AppendError(format!(
                    "kafka at {brokers} sends nothing of topic {topic:?} partition {partition} \
                     from offset {}; see --brokers",
                    range.start
                )));
            }
        }
    }
}

fn session_record(
    payload: &[u8],
    timestamp_ms: Option<i64>,
    entries: &mut Vec<Entry>,
) -> Option<SessionRecord> {
    let header = codec::decode(payload, entries).ok()?;
    let (session, sequence) = header.identity()?;
    Some(SessionRecord {
        session,
        sequence,
        known_ms: record_time_ms(header.taken_ms(), timestamp_ms.unwrap_or(0)),
    })
}
