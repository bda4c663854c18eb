//! The log as its readers see it: partitions of bytes with stable offsets.

use std::ops::Range;

use tapeflow_protocol::{SourceIdentity, StoreError};
use tapeflow_schemas::{Offset, Partition};

/// One record of the log, borrowed from the reader for the length of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRecord<'a> {
    /// Its partition.
    pub partition: Partition,
    /// Its offset.
    pub offset: Offset,
    /// When it was appended, in milliseconds since 1970 UTC, as the log noted it.
    pub timestamp_ms: i64,
    /// Its bytes; `None` for a record without a value.
    pub payload: Option<&'a [u8]>,
}

/// Why a request to a log failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log does not answer now. The same call may succeed later.
    #[error("log does not answer: {0}")]
    Unavailable(String),
    /// Waiting does not help: no such topic, refused credentials, a deleted offset.
    #[error("{0}")]
    Broken(String),
}

impl From<StoreError> for LogError {
    /// The embedded log is a table of an SQLite file, whose errors are a store's.
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(reason) => Self::Unavailable(reason),
            StoreError::Broken(reason) => Self::Broken(reason),
        }
    }
}

/// A log: a Kafka topic or the embedded log.
pub trait Log: Send + Sync + 'static {
    /// The log's name for people, without credentials.
    fn describe(&self) -> String;

    /// Which log this is. A job refuses a checkpoint of another log.
    fn identity(&self) -> Result<SourceIdentity, LogError>;

    /// The number of partitions.
    fn partitions(&self) -> Result<u32, LogError>;

    /// The offsets that a partition holds now, half-open: from the first that is kept to the one
    /// that the next record will get.
    fn bounds(&self, partition: Partition) -> Result<Range<Offset>, LogError>;

    /// Commits offsets to the log's consumer group, so that tools can display the job's lag.
    /// Recovery never reads them: it uses the checkpoint. A log without groups does nothing.
    ///
    /// # Errors
    /// [`LogError`]; the job ignores it and continues.
    fn commit_group_offsets(&self, committed: &[(Partition, Offset)]) -> Result<(), LogError> {
        let _ = committed;
        Ok(())
    }

    /// A reader of some partitions, each from an offset. It stays on the thread that created it.
    fn reader(&self, from: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError>;
}

/// A position in some partitions of a log.
pub trait LogReader {
    /// Passes the records that are available to `each`, about `limit` at most, in offset order
    /// within a partition, and returns their number. Never waits. Retries errors that may pass.
    fn poll(
        &mut self,
        limit: usize,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<usize, LogError>;

    /// Pauses or resumes a partition, without losing its position.
    fn set_paused(&mut self, partition: Partition, paused: bool) -> Result<(), LogError>;
}
