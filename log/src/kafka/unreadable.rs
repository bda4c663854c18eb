//! Batches whose records cannot be read.
//!
//! librdkafka unpacks a batch as a whole. It refuses one that is damaged, and one of zstd that
//! unpacks beyond `receive.message.max.bytes`: ten kilobytes can hold more than 100 MB. The error
//! names the first offset of the batch and not the last one. An operator who gives the batch up
//! must give up all of it and nothing else, so its end is found by trying: from every offset inside
//! it the same error comes.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use rdkafka::error::RDKafkaErrorCode;
use tapeflow_schemas::{Offset, Partition};

use super::{
    batch::RecordError,
    one_partition::OnePartition,
    settings::{KafkaConfig, PROBE, READER},
};
use crate::read::LogError;

/// librdkafka's default of `receive.message.max.bytes`.
const DEFAULT_LIMIT: &str = "100000000";
/// How long one look at an offset may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The wait between two polls that return nothing.
const POLL_PAUSE: Duration = Duration::from_millis(1);

/// Whether an error says that a batch is there and cannot be read.
pub(super) fn is_unreadable(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::BadCompression | Code::BadMessage | Code::NotImplemented | Code::MessageSizeTooLarge
    )
}

/// The error about such a batch.
pub(super) fn error(config: &KafkaConfig, error: &RecordError) -> LogError {
    let (topic, code) = (&config.topic, error.code);
    let client = config.client(&READER);
    let limit = client
        .get("receive.message.max.bytes")
        .unwrap_or(DEFAULT_LIMIT);
    let reason = format!(
        "topic {topic}: {code}: {}; if it unpacks beyond receive.message.max.bytes, which is \
         {limit}, raise that in --kafka-config-file",
        error.text
    );
    match error.place {
        Some((partition, offset)) => LogError::Unreadable {
            partition,
            offset,
            reason,
        },
        None => LogError::Broken(reason),
    }
}

/// The offsets of the batch that begins at `offset`, if it cannot be read; `None` if it can, or if
/// the log has no record there.
pub(super) fn batch_at(
    config: &KafkaConfig,
    partition: Partition,
    offset: Offset,
    bounds: &Range<Offset>,
) -> Result<Option<Range<Offset>>, LogError> {
    if !bounds.contains(&offset) {
        return Ok(None);
    }
    let mut probe = Probe::new(config, partition)?;
    match probe.look(offset)? {
        None => return Ok(None),
        Some(begin) if begin == offset => {}
        Some(begin) => {
            return Err(LogError::Broken(format!(
                "partition {partition}: the batch that cannot be read begins at offset {begin}, \
                 not at {offset}"
            )));
        }
    }
    // Offsets up to `inside` are in the batch, and `outside` is not. At most twice 63 looks.
    let (mut inside, mut outside, mut step) = (offset, bounds.end, 1);
    while outside - inside > 1 {
        let at = (inside + step)
            .min(inside + (outside - inside) / 2)
            .max(inside + 1);
        if probe.look(at)? == Some(offset) {
            inside = at;
            step = step.saturating_mul(2);
        } else {
            outside = at;
        }
    }
    Ok(Some(offset..outside))
}

struct Probe<'a> {
    consumer: OnePartition<'a>,
    partition: Partition,
}

impl<'a> Probe<'a> {
    fn new(config: &'a KafkaConfig, partition: Partition) -> Result<Self, LogError> {
        Ok(Self {
            consumer: OnePartition::new(config, &PROBE)?,
            partition,
        })
    }

    /// What comes first when the partition is read from an offset: `None` for a record, a marker or
    /// the end; otherwise the first offset of a batch that cannot be read.
    fn look(&mut self, at: Offset) -> Result<Option<Offset>, LogError> {
        let (config, partition) = (self.consumer.config(), self.partition);
        self.consumer.start(partition, at)?;
        let begun = Instant::now();
        loop {
            let (mut found, mut other) = (None, false);
            self.consumer.poll_one(|record| match record {
                Err(error) if is_unreadable(error.code) => {
                    found = error.place.map(|(_, offset)| offset);
                    Ok(())
                }
                Err(error) if error.code == RDKafkaErrorCode::PartitionEOF => {
                    other = true;
                    Ok(())
                }
                Err(error) if error.code == RDKafkaErrorCode::AutoOffsetReset => {
                    Err(LogError::Broken(format!(
                        "partition {partition}: offset {at} is gone from the log ({})",
                        error.text
                    )))
                }
                // The client retries.
                Err(_) => Ok(()),
                Ok(_) => {
                    other = true;
                    Ok(())
                }
            })?;
            if found.is_some() {
                return Ok(found);
            }
            if other
                || self
                    .consumer
                    .position()
                    .is_some_and(|position| position > at)
            {
                return Ok(None);
            }
            if begun.elapsed() > PATIENCE {
                return Err(LogError::Unavailable(format!(
                    "kafka at {} sends nothing of topic {} partition {partition} from offset {at}",
                    config.brokers, config.topic
                )));
            }
            std::thread::sleep(POLL_PAUSE);
        }
    }
}
