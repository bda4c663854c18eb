//! Which replays a topic holds, so that nothing needs to be searched for them, and what recordings
//! they are of, so that one that has grown is recognised.
//!
//! Before a replay appends, it must know what of it the topic holds already. The records say so, but
//! to find that there are none, all of them must be read. So a second topic of one partition, named
//! like the first with [`SUFFIX`], has an entry for each session, the newest one in force:
//!
//! - *as of these offsets, these are the last sequences of the session*. Only what was appended
//!   after them is searched: nothing much after a crash, nothing at all for a finished replay.
//! - The same entry has the [`RecordingNote`] of the session. The index is compacted, so it keeps
//!   the newest entry of every session for good.
//! - An entry under [`LOG`] says from which offsets on every session has an entry. A session
//!   without one is searched below them, which is usually nowhere.
//!
//! An entry is written before the first record of a session, and its offsets are read after the
//! sequences are durable. So a crash at any point leaves an entry that is true. A writer that can
//! neither find nor make the topic searches all records, and recognises no recording that has
//! grown; one that finds it and cannot write to it fails, because its session would have no entry.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use backon::{BlockingRetryable, ConstantBuilder};
use futures::executor::block_on;
use rdkafka::{
    Message, Offset as KafkaOffset, TopicPartitionList,
    admin::{AdminOptions, NewTopic, TopicReplication},
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use serde::{Deserialize, Serialize};
use tapeflow_schemas::{Offset, SessionId};

use super::{
    BulkRecord, BulkWriter, errors,
    settings::{AdminClient, KafkaConfig},
    topic_id,
    writer::{Requests, TIMEOUT, consumer},
};
use crate::{
    append::AppendError,
    recording::{KnownRecording, RecordingNote},
};

/// Ends the name of the index of a topic.
pub(super) const SUFFIX: &str = "-sessions";
/// The key of the entry about the whole log.
const LOG: &str = "log";
/// The time between two attempts while brokers hear of a topic.
const RETRY: Duration = Duration::from_millis(100);
/// How long to wait for the id of the topic.
const ID_PATIENCE: Duration = Duration::from_secs(3);
/// What a replay does without an index, for a warning.
const WITHOUT: &str = ": this replay searches every record, and a grown recording counts as new";
/// The most copies of the index.
const MAX_COPIES: usize = 3;

/// What is known as of some offsets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The id of the topic: offsets and sequences mean nothing in another one.
    pub(super) topic_id: Option<String>,
    /// The last sequence of the session in each partition; empty in the entry of the log.
    pub(super) last: Vec<u64>,
    /// The offset in each partition that the next record had.
    pub(super) from: Vec<Offset>,
    /// The recording of the session, if it is a replay's.
    pub(super) recording: Option<RecordingNote>,
}

/// What an entry says about a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    What,
    /// It is about another topic of that name.
    Nothing,
    /// It may be about this log.
    Unknown,
}

impl Entry {
    /// Whether the entry is about the topic of that id, with at least those offsets.
    fn says(&self, topic_id: Option<&str>, ends: &[Offset]) -> Says {
        let fits = self.from.len() <= ends.len()
            && self.from.iter().zip(ends).all(|(from, end)| from <= end);
        match (self.topic_id.as_deref(), topic_id) {
            (Some(then), Some(now)) if then != now => Says::Nothing,
            (then, now) if then == now && fits => Says::What,
            _ => Says::Unknown,
        }
    }
}

/// The index of a topic.
pub(super) struct SessionIndex {
    config: KafkaConfig,
    topic_id: Option<String>,
    /// Made a moment ago: it has no entry, and brokers may not know it yet.
    is_new: AtomicBool,
}

/// Whether there is an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Before,
    New,
    None,
}

/// Where records of a session may be that its entry does not count.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// At these offsets and after them; before them it has these last sequences.
    From(Vec<Offset>, Vec<u64>),
    /// Before these offsets.
    Below(Vec<Offset>),
    /// Anywhere.
    Everywhere,
}

/// What the index says about one session.
pub(super) struct Noted {
    /// Where to search for its records.
    pub(super) search: Search,
    /// The recording of the session, if one is noted.
    pub(super) recording: Option<RecordingNote>,
}

impl SessionIndex {
    /// The index of a topic, made if there is none; `None` if it cannot be made.
    pub(super) fn open(
        config: &KafkaConfig,
        requests: &BaseConsumer<Requests>,
    ) -> Result<Option<Self>, AppendError> {
        let index = KafkaConfig {
            topic: format!("{}{SUFFIX}", config.topic),
            ..config.clone()
        };
        // Without an index more is searched, and nothing goes wrong: a broker may not allow another
        // topic, or not know how to make one.
        let found = find_or_make(&index, requests).unwrap_or_else(|error| {
            tracing::warn!(%error, topic = index.topic, "no index of sessions{WITHOUT}");
            Found::None
        });
        if found == Found::None {
            return Ok(None);
        }
        // `init` has made the topic a moment ago, and a broker may not know it yet. Without an id
        // more is searched and nothing goes wrong.
        let deadline = Instant::now() + ID_PATIENCE;
        let topic_id = (|| topic_id::read(requests, &config.topic, ID_PATIENCE))
            .retry(
                ConstantBuilder::default()
                    .with_delay(RETRY)
                    .without_max_times(),
            )
            .when(|_| Instant::now() < deadline)
            .call();
        Ok(Some(Self {
            config: index,
            topic_id: topic_id.unwrap_or_default(),
            is_new: AtomicBool::new(found == Found::New),
        }))
    }

    /// What is noted of a session in a log that ends at `ends`.
    pub(super) fn noted(&self, session: SessionId, ends: &[Offset]) -> Result<Noted, AppendError> {
        let session = session.to_string();
        let (mut own, mut log) = (None, None);
        self.each_entry(|key, entry| {
            if key == session {
                own = Some(entry);
            } else if key == LOG {
                log = Some(entry);
            }
        })?;
        let topic_id = self.topic_id.as_deref();
        let recording = own
            .as_ref()
            .filter(|entry| entry.says(topic_id, ends) != Says::Nothing)
            .and_then(|entry| entry.recording.clone());
        let search = where_to_search(own, log, topic_id, ends);
        Ok(Noted { search, recording })
    }

    /// The recordings of this beginning that were replayed into the topic. A log that was rolled
    /// back may not hold them, but what their sessions stand for has not changed.
    pub(super) fn recordings(&self, beginning: &str) -> Result<Vec<KnownRecording>, AppendError> {
        let mut known = BTreeMap::new();
        self.each_entry(|key, entry| {
            let is_here = entry.says(self.topic_id.as_deref(), &[]) != Says::Nothing;
            let Ok(session) = key.parse::<SessionId>() else {
                return;
            };
            match entry.recording {
                Some(note) if is_here && note.beginning == beginning => {
                    known.insert(session, note);
                }
                _ => {
                    known.remove(&session);
                }
            }
        })?;
        let known = known.into_iter();
        Ok(known
            .map(|(session, note)| KnownRecording { session, note })
            .collect())
    }

    /// Writes that every session has an entry from these offsets on.
    pub(super) fn begin(&self, from: &[Offset]) -> Result<(), AppendError> {
        self.put(LOG, &[], from, None)
    }

    /// Writes what a session has as of these offsets.
    pub(super) fn note(
        &self,
        session: SessionId,
        last: &[u64],
        from: &[Offset],
        recording: Option<&RecordingNote>,
    ) -> Result<(), AppendError> {
        self.put(&session.to_string(), last, from, recording)
    }

    fn put(
        &self,
        key: &str,
        last: &[u64],
        from: &[Offset],
        recording: Option<&RecordingNote>,
    ) -> Result<(), AppendError> {
        let entry = Entry {
            topic_id: self.topic_id.clone(),
            last: last.to_vec(),
            from: from.to_vec(),
            recording: recording.cloned(),
        };
        let payload = serde_json::to_vec(&entry).map_err(|error| AppendError(error.to_string()))?;
        let writer = BulkWriter::new(&self.config, Duration::ZERO)?;
        writer.append(BulkRecord {
            partition: 0,
            key,
            timestamp_ms: 0,
            payload: &payload,
        })?;
        writer.flush()?;
        self.is_new.store(false, Ordering::Release);
        Ok(())
    }

    /// Passes all entries to `each`, with their keys. Of two entries under a key the later counts.
    fn each_entry(&self, mut each: impl FnMut(&str, Entry)) -> Result<(), AppendError> {
        if self.is_new.load(Ordering::Acquire) {
            return Ok(());
        }
        let failed = |error: &KafkaError| AppendError::from(errors::request(&self.config, error));
        let consumer = consumer(&self.config)?;
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(&self.config.topic, 0, KafkaOffset::Beginning)
            .and_then(|()| consumer.assign(&from))
            .map_err(|error| failed(&error))?;
        loop {
            match consumer.poll(TIMEOUT) {
                Some(Ok(message)) => {
                    let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
                    let entry = message.payload().and_then(entry_of);
                    // What is no entry of ours says nothing.
                    if let (Some(key), Some(entry)) = (key, entry) {
                        each(key, entry);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error)) => return Err(failed(&error)),
                None => {
                    return Err(AppendError(format!(
                        "kafka at {} sends nothing of topic {:?}; see --brokers",
                        self.config.brokers, self.config.topic
                    )));
                }
            }
        }
    }
}

/// Where to search for a session with that entry, in a log with that entry of its own.
fn where_to_search(
    entry: Option<Entry>,
    log: Option<Entry>,
    topic_id: Option<&str>,
    ends: &[Offset],
) -> Search {
    let heard = |entry: Option<Entry>| {
        let entry = entry?;
        let says = entry.says(topic_id, ends);
        Some((says, entry)).filter(|(says, _)| *says != Says::Nothing)
    };
    match (heard(entry), heard(log)) {
        (Some((Says::What, entry)), _) if entry.last.len() == entry.from.len() => {
            Search::From(entry.from, entry.last)
        }
        (None, Some((Says::What, log))) => Search::Below(log.from),
        _ => Search::Everywhere,
    }
}

/// An entry of a payload; `None` if it is none of ours.
fn entry_of(payload: &[u8]) -> Option<Entry> {
    serde_json::from_slice(payload).ok()
}

/// What must hold of the payload of any entry.
///
/// # Panics
/// If a search would begin after the end of the log, or in a partition that it has not.
#[cfg(feature = "fuzz")]
pub fn check_entry(payload: &[u8]) {
    let Some(entry) = entry_of(payload) else {
        return;
    };
    let again = serde_json::to_vec(&entry).expect("it was JSON");
    assert_eq!(entry_of(&again).as_ref(), Some(&entry));
    let ends = [7, 0, 1 << 40];
    let within = |from: &[Offset]| {
        assert!(from.len() <= ends.len());
        assert!(from.iter().zip(&ends).all(|(from, end)| from <= end));
    };
    for topic_id in [None, Some("a")] {
        let entries = [(Some(entry.clone()), None), (None, Some(entry.clone()))];
        for (session, log) in entries {
            match where_to_search(session, log, topic_id, &ends) {
                Search::From(from, last) => {
                    within(&from);
                    assert_eq!(from.len(), last.len());
                }
                Search::Below(from) => within(&from),
                Search::Everywhere => {}
            }
        }
    }
}

/// Makes the index of a topic that has just been made, for `init`. Blocks.
pub(super) fn make(config: &KafkaConfig, partitions: u32) -> Result<(), AppendError> {
    let requests = consumer(config)?;
    if let Some(index) = SessionIndex::open(config, &requests)? {
        index.begin(&vec![0; partitions as usize])?;
    }
    Ok(())
}

fn find_or_make(
    config: &KafkaConfig,
    requests: &BaseConsumer<Requests>,
) -> Result<Found, AppendError> {
    let failed = |error: &KafkaError| AppendError::from(errors::request(config, error));
    let metadata = requests
        .fetch_metadata(Some(&config.topic), TIMEOUT)
        .map_err(|error| failed(&error))?;
    let exists = metadata.topics().iter().any(|topic| {
        topic.name() == config.topic && topic.error().is_none() && !topic.partitions().is_empty()
    });
    if exists {
        return Ok(Found::Before);
    }
    let copies = i32::try_from(metadata.brokers().len().clamp(1, MAX_COPIES)).unwrap_or(1);
    let new = NewTopic::new(&config.topic, 1, TopicReplication::Fixed(copies))
        .set("cleanup.policy", "compact");
    let admin: AdminClient = config.admin()?;
    let options = AdminOptions::new()
        .operation_timeout(Some(TIMEOUT))
        .request_timeout(Some(TIMEOUT));
    let made = block_on(admin.create_topics([&new], &options)).map_err(|error| failed(&error))?;
    match made.into_iter().next() {
        Some(Ok(_)) => Ok(Found::New),
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(Found::Before),
        other => {
            let reason = other.map_or_else(String::new, |made| match made {
                Ok(topic) => topic,
                Err((_, code)) => code.to_string(),
            });
            tracing::warn!(
                topic = config.topic,
                reason,
                "the index of sessions cannot be made{WITHOUT}"
            );
            Ok(Found::None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_another_topic_or_of_a_log_that_was_longer_says_nothing() {
        let entry = Entry {
            topic_id: Some("a".into()),
            last: vec![4, 0],
            from: vec![10, 3],
            recording: None,
        };
        let says = |topic_id, ends: &[Offset]| entry.says(topic_id, ends);
        assert_eq!(says(Some("a"), &[10, 3]), Says::What);
        assert_eq!(says(Some("a"), &[12, 9]), Says::What);
        assert_eq!(
            says(Some("a"), &[10, 3, 0]),
            Says::What,
            "a partition was added"
        );
        assert_eq!(says(Some("b"), &[12, 9]), Says::Nothing);
        assert_eq!(
            says(None, &[12, 9]),
            Says::Unknown,
            "a broker that told no id"
        );
        assert_eq!(says(Some("a"), &[9, 3]), Says::Unknown, "rolled back");
        assert_eq!(says(Some("a"), &[12]), Says::Unknown);
    }
}
