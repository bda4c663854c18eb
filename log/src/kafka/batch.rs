//! Reads the records of the client's queue in batches.
//!
//! The safe interface returns one record a call, each in an event and a counted pointer of its own.
//! That costs about as much CPU as all other work of the job on a trade
//! (`bench/results/throughput.md`). `rd_kafka_consume_batch_queue` of librdkafka fills an array in
//! one call. The same call passes other events, such as log lines, to the callbacks of the client.

// Only for that call and what it returns.
#![allow(unsafe_code)]

use rdkafka::{
    bindings as native,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{IsError, KafkaError},
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

    /// Passes the available records and errors to `each`, about `limit` at most, in offset order
    /// within a partition, and returns their number. Never waits. An error of `each` ends the call;
    /// this consumer does not read the rest of that batch again.
    pub(super) fn poll<E>(
        &mut self,
        limit: usize,
        mut each: impl FnMut(Result<Record<'_>, KafkaError>) -> Result<(), E>,
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
    fn read(&self) -> Result<Record<'_>, KafkaError> {
        // SAFETY: librdkafka returned the pointer, and it is destroyed once, after this borrow.
        let message = unsafe { &*self.0 };
        if message.err.is_error() {
            return Err(KafkaError::MessageConsumption(message.err.into()));
        }
        let partition = Partition::try_from(message.partition)
            .map_err(|_| KafkaError::AdminOpCreation("a record without a partition".into()))?;
        // SAFETY: a payload that is not null has `len` bytes and lives as long as the message.
        let payload = (!message.payload.is_null()).then(|| unsafe {
            std::slice::from_raw_parts(message.payload.cast::<u8>(), message.len)
        });
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
