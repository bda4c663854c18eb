//! Records of the client's queue by the hundred.
//!
//! The safe interface hands them over one at a time, each in an event and a counted pointer of its
//! own, which costs about as much as all that the job does with a trade afterwards
//! (`bench/results/throughput.md`). librdkafka also fills an array in one call
//! (`rd_kafka_consume_batch_queue`). Its other events (log lines, brokers that are down) are served
//! by the same call, to the callbacks of the client.

// Its only reason is above.
#![allow(unsafe_code)]

use rdkafka::{
    bindings as native,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{IsError, KafkaError},
};
use tapeflow_schemas::{Offset, Partition};

use super::native::Owned;

/// Records taken in one call.
const AT_ONCE: usize = 512;

/// One record, for the length of a call.
pub(super) struct Record<'a> {
    pub(super) partition: Partition,
    pub(super) offset: Offset,
    /// 0 if there is none.
    pub(super) timestamp_ms: i64,
    pub(super) payload: Option<&'a [u8]>,
}

/// A consumer whose queue is read by batches.
pub(super) struct BatchConsumer<C: ConsumerContext> {
    // Declared first, freed first: a queue does not outlive its client.
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

    /// Hands over what is there, at most about `limit` records and errors, in offset order within a
    /// partition; never waits. Returns how many there were. `each` may stop it by an error; what it
    /// was not shown of the batch is lost to this consumer then.
    pub(super) fn poll<E>(
        &mut self,
        limit: usize,
        mut each: impl FnMut(Result<Record<'_>, KafkaError>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut count = 0;
        while count < limit {
            let room = self.messages.len().min(limit - count);
            // SAFETY: the queue is live, and there is room for so many pointers. Those it fills in
            // are ours to destroy.
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

/// Messages that are not destroyed yet.
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
        // SAFETY: librdkafka filled the pointer in, and it is destroyed once, after this borrow.
        let message = unsafe { &*self.0 };
        if message.err.is_error() {
            return Err(KafkaError::MessageConsumption(message.err.into()));
        }
        let partition = Partition::try_from(message.partition)
            .map_err(|_| KafkaError::AdminOpCreation("a record of no partition".into()))?;
        // SAFETY: the payload, where there is one, has so many bytes and lives as long as the
        // message.
        let payload = (!message.payload.is_null()).then(|| unsafe {
            std::slice::from_raw_parts(message.payload.cast::<u8>(), message.len)
        });
        let mut kind = native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is live, and the kind is written to.
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
        // SAFETY: each message is held by one of these, once.
        unsafe { native::rd_kafka_message_destroy(self.0) }
    }
}
