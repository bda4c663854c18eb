//! What a session has already appended. Each partition is read backwards in growing chunks, until
//! a record of the session is found or the partition begins.

use std::{
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
    codec::{self, Entry, Header},
};
use tracing::{debug, warn};

use super::{
    errors,
    settings::KafkaConfig,
    writer::{Requests, TIMEOUT, consumer},
};
use crate::append::AppendError;

/// The first chunk is small: a run that resumes usually finds its records at the end.
const FIRST_CHUNK: i64 = 256;
const LONGEST_CHUNK: i64 = 65_536;
const GROWTH: i64 = 4;

/// The last sequence of `session` in each partition; 0 where there is none. Blocks.
pub(super) fn last_sequences(
    config: &KafkaConfig,
    partitions: u32,
    session: SessionId,
) -> Result<Vec<u64>, AppendError> {
    let consumer = consumer(config)?;
    let mut tail = Tail {
        config,
        consumer,
        session,
        entries: Vec::new(),
    };
    (0..partitions)
        .map(|partition| tail.last_sequence(i32::try_from(partition).unwrap_or(i32::MAX)))
        .collect()
}

struct Tail<'a> {
    config: &'a KafkaConfig,
    consumer: BaseConsumer<Requests>,
    session: SessionId,
    entries: Vec<Entry>,
}

impl Tail<'_> {
    fn last_sequence(&mut self, partition: i32) -> Result<u64, AppendError> {
        let (begin, mut end) = self
            .consumer
            .fetch_watermarks(&self.config.topic, partition, TIMEOUT)
            .map_err(|error| errors::request(self.config, &error))?;
        let mut chunk = FIRST_CHUNK;
        while end > begin {
            let range = begin.max(end.saturating_sub(chunk))..end;
            end = range.start;
            chunk = (chunk * GROWTH).min(LONGEST_CHUNK);
            if let Some(sequence) = self.last_within(partition, range)? {
                debug!(partition, sequence, session = %self.session, "session resumes");
                return Ok(sequence);
            }
        }
        Ok(0)
    }

    /// The session's largest sequence among the records of a range.
    fn last_within(
        &mut self,
        partition: i32,
        range: Range<i64>,
    ) -> Result<Option<u64>, AppendError> {
        let mut list = TopicPartitionList::new();
        let assigned = list
            .add_partition_offset(
                &self.config.topic,
                partition,
                KafkaOffset::Offset(range.start),
            )
            .and_then(|()| self.consumer.assign(&list));
        assigned.map_err(|error| errors::request(self.config, &error))?;
        let (mut last, mut received) = (None, Instant::now());
        loop {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    received = Instant::now();
                    // An offset beyond the range: it ended in a gap, such as a transaction marker.
                    if message.offset() < range.end {
                        let sequence = message.payload().and_then(|payload| {
                            sequence_of(payload, self.session, &mut self.entries)
                        });
                        last = last.max(sequence);
                    }
                    if message.offset() + 1 >= range.end {
                        return Ok(last);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(last),
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

fn sequence_of(payload: &[u8], wanted: SessionId, entries: &mut Vec<Entry>) -> Option<u64> {
    match codec::decode(payload, entries) {
        Ok(
            Header::Batch {
                session, sequence, ..
            }
            | Header::InvalidFrame {
                session, sequence, ..
            },
        ) => (session == wanted).then_some(sequence),
        Ok(Header::Legacy) | Err(_) => None,
    }
}
