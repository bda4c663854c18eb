//! Reads the partitions that the job assigned to itself.
//!
//! The brokers pass offsets over that have no record for us: transaction markers, and the records
//! of transactions that were given up. The reader therefore follows two things: the last record,
//! and the position of the client, which moves over markers as well. Offsets that brought no
//! record are a *jump*. A jump is examined before anything is bound that depends on it
//! ([`jumps`](super::jumps)).

use std::{ops::Range, sync::Arc, time::Duration};

use rdkafka::{
    Offset as KafkaOffset, TopicPartitionList, consumer::Consumer, error::RDKafkaErrorCode,
};
use tapeflow_schemas::{Offset, Partition};

use super::{
    batch::{BatchConsumer, Record, RecordError},
    client_errors::ClientErrors,
    jumps::{Jump, Jumps},
    reader::number,
    settings::KafkaConfig,
    unreadable,
};
use crate::read::{LogError, LogReader, LogRecord};

pub(super) struct AssignedReader {
    consumer: BatchConsumer<ClientErrors>,
    config: KafkaConfig,
    /// By partition; `None` for one that this reader does not read.
    places: Vec<Option<Place>>,
    jumps: Jumps,
}

/// Where a partition is read.
struct Place {
    /// Every record below it was passed on, or left out.
    next: Offset,
    /// Offsets that the caller has given up, ascending.
    left_out: Vec<Range<Offset>>,
    /// The client also moves its position to the offset after that of an error. Up to here it
    /// proves nothing.
    untrusted: Offset,
}

impl Place {
    /// Moves forward to an offset. What lies between and is not left out is a jump.
    fn pass(&mut self, partition: Partition, to: Offset, jumps: &mut Vec<Jump>) {
        let mut from = self.next;
        for range in self.left_out.iter().filter(|range| range.start < to) {
            if from < range.start {
                jumps.push(Jump {
                    partition,
                    offsets: from..range.start,
                });
            }
            from = from.max(range.end);
        }
        if from < to {
            jumps.push(Jump {
                partition,
                offsets: from..to,
            });
        }
        self.next = self.next.max(to);
    }

    /// The range that is left out and contains an offset.
    fn left_out_at(&self, offset: Offset) -> Option<&Range<Offset>> {
        self.left_out.iter().find(|range| range.contains(&offset))
    }
}

impl AssignedReader {
    /// `consumer` has the partitions of `from` assigned.
    pub(super) fn new(
        consumer: BatchConsumer<ClientErrors>,
        config: KafkaConfig,
        from: &[(Partition, Offset)],
    ) -> Self {
        let mut places = Vec::new();
        for (partition, next) in from {
            let at = *partition as usize;
            if places.len() <= at {
                places.resize_with(at + 1, || None);
            }
            places[at] = Some(Place {
                next: *next,
                left_out: Vec::new(),
                untrusted: 0,
            });
        }
        Self {
            consumer,
            jumps: Jumps::new(config.clone()),
            config,
            places,
        }
    }

    /// Continues partitions behind batches that are left out.
    fn seek(&self, to: &[(Partition, Offset)]) -> Result<(), LogError> {
        for (partition, offset) in to {
            self.consumer
                .consumer()
                .seek(
                    &self.config.topic,
                    number(*partition)?,
                    KafkaOffset::Offset(*offset),
                    // Does not wait for the client.
                    Duration::ZERO,
                )
                .map_err(|error| {
                    LogError::Broken(format!(
                        "partition {partition} cannot be continued at offset {offset}: {error}"
                    ))
                })?;
        }
        Ok(())
    }
}

fn place_of(places: &mut [Option<Place>], partition: Partition) -> Option<&mut Place> {
    places.get_mut(partition as usize)?.as_mut()
}

impl LogReader for AssignedReader {
    fn poll(
        &mut self,
        limit: usize,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<usize, LogError> {
        if !self.jumps.has_room()? {
            return Ok(0);
        }
        let errors = Arc::clone(self.consumer.consumer().context());
        let (config, places) = (&self.config, &mut self.places);
        let (mut jumps, mut seeks) = (Vec::new(), Vec::new());
        let read = self.consumer.poll(limit, |record| match record {
            Ok(Record {
                partition,
                offset,
                timestamp_ms,
                payload,
            }) => {
                let Some(place) = place_of(places, partition) else {
                    return Ok(());
                };
                // A client may return a record again.
                if offset < place.next {
                    return Ok(());
                }
                if offset > place.next {
                    place.pass(partition, offset, &mut jumps);
                }
                place.next = offset + 1;
                if place.left_out.is_empty() || place.left_out_at(offset).is_none() {
                    each(LogRecord {
                        partition,
                        offset,
                        timestamp_ms,
                        payload,
                    });
                }
                Ok(())
            }
            Err(error) => {
                let place = error.place.and_then(|(partition, offset)| {
                    Some((partition, offset, place_of(places, partition)?))
                });
                if let Some((partition, offset, place)) = place {
                    place.untrusted = place.untrusted.max(offset + 1);
                    if unreadable::is_unreadable(error.code)
                        && let Some(end) = place.left_out_at(offset).map(|range| range.end)
                    {
                        place.pass(partition, end, &mut jumps);
                        seeks.push((partition, end));
                        return Ok(());
                    }
                }
                ends_reading(config, &errors, &error)
            }
        })?;
        self.seek(&seeks)?;
        for jump in jumps {
            self.jumps.examine(jump)?;
        }
        Ok(read)
    }

    fn set_paused(&mut self, partition: Partition, paused: bool) -> Result<(), LogError> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.config.topic, number(partition)?);
        let done = if paused {
            self.consumer.consumer().pause(&list)
        } else {
            self.consumer.consumer().resume(&list)
        };
        done.map_err(|error| {
            LogError::Broken(format!(
                "cannot pause or resume partition {partition}: {error}"
            ))
        })
    }

    fn leave_out(&mut self, partition: Partition, offsets: Range<Offset>) {
        if let Some(place) = place_of(&mut self.places, partition) {
            place.left_out.push(offsets);
            place.left_out.sort_by_key(|range| range.start);
        }
    }

    fn positions(&mut self, each: &mut dyn FnMut(Partition, Offset)) {
        let ours = (0..)
            .zip(&self.places)
            .filter(|(_, place)| place.is_some())
            .map(|(partition, _)| partition);
        let mut jumps = Vec::new();
        for (partition, position) in self.consumer.positions(&self.config.topic, ours) {
            if let Some(place) = place_of(&mut self.places, partition)
                && position > place.next.max(place.untrusted)
            {
                place.pass(partition, position, &mut jumps);
            }
        }
        for (partition, place) in (0..).zip(&self.places) {
            if let Some(place) = place {
                each(partition, place.next);
            }
        }
        for jump in jumps {
            // An error comes again in `is_proven`.
            let _ = self.jumps.examine(jump);
        }
    }

    fn is_proven(&mut self) -> Result<bool, LogError> {
        self.jumps.are_proven()
    }
}

/// Fails for errors that end the reading. librdkafka retries the others by itself.
fn ends_reading(
    config: &KafkaConfig,
    errors: &ClientErrors,
    error: &RecordError,
) -> Result<(), LogError> {
    use RDKafkaErrorCode as Code;
    let (topic, code) = (&config.topic, error.code);
    match code {
        Code::OffsetOutOfRange | Code::AutoOffsetReset => Err(LogError::Broken(format!(
            "topic {topic}: the next offset to read is gone from the log ({})",
            error.text
        ))),
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
            Err(LogError::Broken(format!("topic {topic} is gone")))
        }
        // Reading it again does not help, and skipping it would lose it silently.
        code if unreadable::is_unreadable(code) => Err(unreadable::error(config, error)),
        Code::TopicAuthorizationFailed | Code::Fatal => Err(LogError::Broken(format!(
            "topic {topic}: {code}: {}",
            error.text
        ))),
        _ => {
            tracing::warn!(
                %code,
                text = error.text,
                reason = ?errors.reason(),
                "kafka error; the client retries"
            );
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "one range is meant")]
    fn what_brought_no_record_and_is_not_left_out_is_a_jump() {
        let mut place = Place {
            next: 3,
            left_out: vec![5..8, 20..22],
            untrusted: 0,
        };
        let mut jumps = Vec::new();
        let mut pass = |to| {
            jumps.clear();
            place.pass(0, to, &mut jumps);
            let found: Vec<_> = jumps.iter().map(|jump| jump.offsets.clone()).collect();
            (found, place.next)
        };
        assert_eq!(pass(3), (vec![], 3));
        assert_eq!(pass(4), (vec![3..4], 4));
        assert_eq!(pass(10), (vec![4..5, 8..10], 10));
        assert_eq!(pass(21), (vec![10..20], 21));
        assert_eq!(pass(22), (vec![], 22));
        assert_eq!(pass(9), (vec![], 22), "it never goes back");
    }
}
