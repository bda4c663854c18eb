//! A topic, for appending as fast as the brokers accept.
//!
//! Appends are idempotent and acknowledged by all replicas: every record is in the topic once and
//! in order, or the run fails.

use std::time::Duration;

use tapeflow_feed::Record;
use tapeflow_log::kafka::{BulkRecord, BulkWriter, KafkaConfig};

use crate::Error;

/// A topic to append to.
pub struct Topic(BulkWriter);

impl Topic {
    /// Creates a client. A record waits up to `linger` for others of its batch.
    ///
    /// # Errors
    /// A setting is wrong.
    pub fn new(address: &KafkaConfig, linger: Duration) -> Result<Self, Error> {
        Ok(Self(BulkWriter::new(address, linger)?))
    }

    /// Queues a record; waits while the queue is full.
    ///
    /// # Errors
    /// An append has failed for good, or the brokers accept nothing for long.
    pub fn append(&self, record: &Record<'_>) -> Result<(), Error> {
        let record = BulkRecord {
            partition: record.partition,
            key: record.key,
            timestamp_ms: record.timestamp_ms,
            payload: record.payload,
        };
        Ok(self.0.append(record)?)
    }

    /// Handles delivery reports for up to `time`.
    ///
    /// # Errors
    /// An append has failed for good.
    pub fn hear(&self, time: Duration) -> Result<(), Error> {
        Ok(self.0.poll(time)?)
    }

    /// Waits until every queued record is durable.
    ///
    /// # Errors
    /// An append has failed for good, or they take too long.
    pub fn flush(&self) -> Result<(), Error> {
        Ok(self.0.flush()?)
    }

    /// The number of records in flight.
    #[must_use]
    pub fn on_their_way(&self) -> u64 {
        self.0.in_flight()
    }
}
