//! The log's contract, as the dataflow reads it: a partitioned, append-only sequence of bytes with
//! stable offsets.

use std::ops::Range;

use tapeflow_protocol::SourceIdentity;
use tapeflow_schemas::{Offset, Partition};

/// One record of the log, borrowed from the reader for the length of a call.
#[derive(Clone, Copy, Debug)]
pub struct LogRecord<'a> {
    /// Its partition.
    pub partition: Partition,
    /// Its offset.
    pub offset: Offset,
    /// When it was appended, in milliseconds since 1970 UTC, by the log's own account.
    pub timestamp_ms: i64,
    /// Its bytes; `None` for a record without any.
    pub payload: Option<&'a [u8]>,
}

/// Why a log could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Out of reach for now; the same call may succeed later.
    #[error("log does not answer: {0}")]
    Unavailable(String),
    /// Nothing that waiting mends: no such topic, refused credentials, an offset that is gone.
    #[error("{0}")]
    Broken(String),
}

/// A log: Kafka's topic, or the embedded one.
pub trait Log: Send + Sync + 'static {
    /// The log as a person would name it, without credentials.
    fn describe(&self) -> String;

    /// Which log this is; a checkpoint of another one is refused.
    fn identity(&self) -> Result<SourceIdentity, LogError>;

    /// The number of partitions.
    fn partitions(&self) -> Result<u32, LogError>;

    /// The offsets a partition holds now, half-open: the first kept, and the one the next record
    /// will get.
    fn bounds(&self, partition: Partition) -> Result<Range<Offset>, LogError>;

    /// Commits offsets to the log's consumer group, so that tools can display the job's lag. Recovery
    /// never reads them: it uses the checkpoint. A log without groups does nothing.
    ///
    /// # Errors
    /// [`LogError`]; the job ignores it and continues.
    fn commit_group_offsets(&self, committed: &[(Partition, Offset)]) -> Result<(), LogError> {
        let _ = committed;
        Ok(())
    }

    /// A reader of some partitions, each from an offset on. It belongs to the thread that asked for
    /// it.
    fn reader(&self, from: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError>;
}

/// A position in some partitions of a log.
pub trait LogReader {
    /// Hands over the records that are there now, at most about `limit`, in offset order within a
    /// partition; never waits. Returns how many there were. Transient trouble is retried inside and
    /// is no error.
    fn poll(
        &mut self,
        limit: usize,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<usize, LogError>;

    /// Stops (or goes on) handing over records of a partition, without losing its place.
    fn set_paused(&mut self, partition: Partition, paused: bool) -> Result<(), LogError>;
}
