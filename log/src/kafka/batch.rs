//! Reads the records of the client's queue in batches.
//!
//! The safe interface returns one record a call, each in an event and a counted pointer of its own.
//! That costs about as much CPU as all other work of the job on a trade
//! (`bench/results/throughput.md`). `rd_kafka_consume_batch_queue` of librdkafka fills an array in
//! one call. The same call passes other events, such as log lines, to the callbacks of the client.

// Only for that call and what it returns.
#![allow(unsafe_code)]

use rdkafka::{
    TopicPartitionList, bindings as native,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{IsError, KafkaError, RDKafkaErrorCode},
};
use tapeflow_schemas::{Offset, Partition};

use super::native::Owned;

/// Records of one call.
const AT_ONCE: usize = 512;

/// One record, borrowed for the length of a call.
pub(super) struct Record<'a> {
    pub(super) partition: Partition,
    pub(super) offset: Offset,
    /// Milliseconds since 1970 UTC; 0 if the record has none.
    pub(super) timestamp_ms: i64,
    pub(super) payload: Option<&'a [u8]>,
}

/// An error that came instead of a record.
pub(super) struct RecordError {
    pub(super) code: RDKafkaErrorCode,
    /// The partition and the offset that it is about, if it is about one.
    pub(super) place: Option<(Partition, Offset)>,
    /// In librdkafka's words.
    pub(super) text: String,
}

/// A consumer whose queue is read in batches.
pub(super) struct BatchConsumer<C: ConsumerContext> {
    // Declared first and so freed first: a queue must not outlive its client.
    queue: Owned<native::rd_kafka_queue_t>,
    consumer: BaseConsumer<C>,
    messages: Vec<*mut native::rd_kafka_message_t>,
}

impl<C: ConsumerContext> BatchConsumer<C> {
    pub(super) fn new(consumer: BaseConsumer<C>) -> Result<Self, KafkaError> {
        let handle = consumer.client().native_ptr();
        // SAFETY: the client is live, and is dropped after the queue.
        let queue = Owned::new(
            unsafe { native::rd_kafka_queue_get_consumer(handle) },
            native::rd_kafka_queue_destroy,
        )?;
        Ok(Self {
            queue,
            consumer,
            messages: vec![std::ptr::null_mut(); AT_ONCE],
        })
    }

    pub(super) fn consumer(&self) -> &BaseConsumer<C> {
        &self.consumer
    }

    /// The positions of partitions of a topic, as the client knows them: after the last record or
    /// transaction marker that [`BatchConsumer::poll`] took, or after an error. Asks no broker.
    pub(super) fn positions(
        &self,
        topic: &str,
        partitions: impl Iterator<Item = Partition>,
    ) -> Vec<(Partition, Offset)> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(topic, i32::try_from(partition).unwrap_or(i32::MAX));
        }
        // SAFETY: client and list are live, and the call writes the offsets of the list.
        let failed =
            unsafe { native::rd_kafka_position(self.consumer.client().native_ptr(), list.ptr()) };
        if failed.is_error() {
            return Vec::new();
        }
        let known = list.elements();
        let known = known.iter().filter_map(|element| {
            let partition = Partition::try_from(element.partition()).ok()?;
            // Before the first record it is a negative number that stands for no position.
            let offset = element.offset().to_raw().filter(|offset| *offset >= 0)?;
            Some((partition, offset))
        });
        known.collect()
    }

    /// Passes the available records and errors to `each`, about `limit` at most, in offset order
    /// within a partition, and returns their number. Never waits. An error of `each` ends the call;
    /// this consumer does not read the rest of that batch again.
    pub(super) fn poll<E>(
        &mut self,
        limit: usize,
        mut each: impl FnMut(Result<Record<'_>, RecordError>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut count = 0;
        while count < limit {
            let room = self.messages.len().min(limit - count);
            // SAFETY: the queue is live, and the array has room for this many pointers. We destroy
            // the messages it returns.
            let taken = unsafe {
                native::rd_kafka_consume_batch_queue(
                    self.queue.pointer(),
                    0,
                    self.messages.as_mut_ptr(),
                    room,
                )
            };
            let Ok(taken) = usize::try_from(taken) else {
                break;
            };
            let mut left = Taken {
                messages: &self.messages[..taken.min(room)],
            };
            while let Some(message) = left.next() {
                each(message.read())?;
            }
            count += taken;
            if taken < room {
                break;
            }
        }
        Ok(count)
    }
}

/// Messages of a batch that are not destroyed yet.
struct Taken<'a> {
    messages: &'a [*mut native::rd_kafka_message_t],
}

impl Taken<'_> {
    fn next(&mut self) -> Option<Message> {
        let (first, rest) = self.messages.split_first()?;
        self.messages = rest;
        Some(Message(*first))
    }
}

impl Drop for Taken<'_> {
    /// After an error or a panic in the middle.
    fn drop(&mut self) {
        while self.next().is_some() {}
    }
}

/// One message, destroyed when dropped.
struct Message(*mut native::rd_kafka_message_t);

impl Message {
    fn read(&self) -> Result<Record<'_>, RecordError> {
        // SAFETY: librdkafka returned the pointer, and it is destroyed once, after this borrow.
        let message = unsafe { &*self.0 };
        // SAFETY: a payload that is not null has `len` bytes and lives as long as the message.
        let payload = (!message.payload.is_null()).then(|| unsafe {
            std::slice::from_raw_parts(message.payload.cast::<u8>(), message.len)
        });
        let partition = Partition::try_from(message.partition).ok();
        let code = RDKafkaErrorCode::from(message.err);
        let Some(partition) = partition.filter(|_| !message.err.is_error()) else {
            // The payload of an error is its text.
            return Err(RecordError {
                code,
                place: partition.map(|partition| (partition, message.offset)),
                text: payload.map_or_else(
                    || code.to_string(),
                    |text| String::from_utf8_lossy(text).into_owned(),
                ),
            });
        };
        let mut kind = native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is live, and the call writes the kind.
        let timestamp_ms =
            unsafe { native::rd_kafka_message_timestamp(self.0, &raw mut kind) }.max(0);
        Ok(Record {
            partition,
            offset: message.offset,
            timestamp_ms,
            payload,
        })
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: each message belongs to exactly one of these.
        unsafe { native::rd_kafka_message_destroy(self.0) }
    }
}
