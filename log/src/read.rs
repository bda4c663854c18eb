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
    /// Records are there and cannot be read: a batch that is damaged, or larger than a limit.
    #[error("partition {partition}: the batch at offset {offset} cannot be read: {reason}")]
    Unreadable {
        /// The partition.
        partition: Partition,
        /// The first offset of the batch.
        offset: Offset,
        /// Why, and which setting may help.
        reason: String,
    },
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

    /// The [`Log::bounds`] of some partitions. A log that answers over a network is asked for all of
    /// them at once, and has one time limit for the answer.
    ///
    /// # Errors
    /// [`LogError`] if one of them has no answer.
    fn bounds_of(&self, partitions: &[Partition]) -> Result<Vec<Range<Offset>>, LogError> {
        partitions
            .iter()
            .map(|partition| self.bounds(*partition))
            .collect()
    }

    /// The offsets of the batch that begins at an offset, if its records cannot be read
    /// ([`LogError::Unreadable`]); `None` if they can. A log without batches can read them all.
    ///
    /// # Errors
    /// [`LogError`] if there is no answer.
    fn unreadable_batch(
        &self,
        partition: Partition,
        offset: Offset,
    ) -> Result<Option<Range<Offset>>, LogError> {
        let _ = (partition, offset);
        Ok(None)
    }

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

    /// Leaves out offsets that the caller has given up, before the reader comes to them. That their
    /// records cannot be read is no error then. A reader that can read them may pass them all the
    /// same.
    fn leave_out(&mut self, partition: Partition, offsets: Range<Offset>) {
        let _ = (partition, offsets);
    }

    /// Passes to `each` the position of partitions: every record below it was passed by
    /// [`LogReader::poll`], and the offsets since the last one have no record. A reader whose
    /// positions always follow the last record passes none.
    fn positions(&mut self, each: &mut dyn FnMut(Partition, Offset)) {
        let _ = each;
    }

    /// Whether every offset that brought no record so far is proven to have none. While it is not,
    /// the caller binds nothing. Never waits.
    ///
    /// # Errors
    /// [`LogError`] if one has a record that did not come, or if there is no proof.
    fn is_proven(&mut self) -> Result<bool, LogError> {
        Ok(true)
    }
}
