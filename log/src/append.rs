//! The log as ingest appends to it.

use async_trait::async_trait;
use tapeflow_schemas::{Partition, SessionId};

use crate::read::LogError;

/// One record to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    /// The partition: [`tapeflow_schemas::partition_for`] of the symbol.
    pub partition: Partition,
    /// The symbol, as the record's key; empty for a record without one.
    pub key: String,
    /// When it was taken in, in milliseconds since 1970 UTC.
    pub timestamp_ms: i64,
    /// The Avro bytes.
    pub payload: Vec<u8>,
    /// The session of the writer, and the sequence of the record in (session, partition), from 1.
    /// A log that keeps sequences does not append a record that it already holds.
    pub session: Option<(SessionId, u64)>,
}

/// An append that failed for good. Errors that may pass are retried inside.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AppendError(pub String);

impl From<LogError> for AppendError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Unavailable(reason) | LogError::Broken(reason) => Self(reason),
        }
    }
}

/// A log to append to: each record once, and in order within its partition.
#[async_trait]
pub trait LogWriter: Send {
    /// The number of partitions.
    fn partitions(&self) -> u32;

    /// The last sequence of `session` in each partition; 0 where there is none.
    async fn last_sequences(&mut self, session: SessionId) -> Result<Vec<u64>, AppendError>;

    /// Queues records; waits while the bounded queue is full. They are durable after the next
    /// [`LogWriter::flush`].
    async fn append(&mut self, records: Vec<NewRecord>) -> Result<(), AppendError>;

    /// Waits until every queued record is durable.
    async fn flush(&mut self) -> Result<(), AppendError>;
}
