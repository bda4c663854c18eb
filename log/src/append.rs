//! The log's contract, as ingest appends to it.

use async_trait::async_trait;
use tapeflow_schemas::{Partition, SessionId};

/// One record to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutRecord {
    /// The partition: [`tapeflow_schemas::partition_for`] of the symbol.
    pub partition: Partition,
    /// The key: the symbol.
    pub key: String,
    /// When it was taken in, in milliseconds since 1970 UTC.
    pub timestamp_ms: i64,
    /// The Avro bytes.
    pub payload: Vec<u8>,
    /// The session of the sender and the sequence of the record in (session, partition), from 1. A
    /// log that keeps sequences does not append a record that it already holds.
    pub session: Option<(SessionId, u64)>,
}

/// Why an append failed for good. Transient trouble is waited out inside.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PublishError(pub String);

/// Where records go: Kafka's topic, or the embedded log. In order within a partition, each once.
#[async_trait]
pub trait Publish: Send {
    /// The number of partitions.
    fn partitions(&self) -> u32;

    /// The last sequence of `session` that each partition holds; 0 where there is none.
    async fn last_sequences(&mut self, session: SessionId) -> Result<Vec<u64>, PublishError>;

    /// Takes records for appending; waits while a bounded queue is full. They are durable after the
    /// next [`Publish::flush`].
    async fn publish(&mut self, records: Vec<OutRecord>) -> Result<(), PublishError>;

    /// Waits until everything taken is durable.
    async fn flush(&mut self) -> Result<(), PublishError>;
}
