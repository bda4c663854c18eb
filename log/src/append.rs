//! The log as ingest appends to it.

use async_trait::async_trait;
use tapeflow_schemas::{Partition, SessionId};

use crate::{
    read::LogError,
    recording::{KnownRecording, RecordingNote},
};

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

/// What a log has of a producer's last session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastSession {
    /// The session.
    pub session: SessionId,
    /// Its last sequence in each partition; 0 where none is known.
    pub last: Vec<u64>,
    /// Up to when every record that it made is in the log, in milliseconds since 1970 UTC.
    pub until_ms: i64,
}

/// An append that failed for good. Errors that may pass are retried inside.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AppendError(pub String);

impl From<LogError> for AppendError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Unavailable(reason) | LogError::Broken(reason) => Self(reason),
            error @ LogError::Unreadable { .. } => Self(error.to_string()),
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

    /// What the log has of the last session of a producer ([`SessionId::of_producer`]), as far as it
    /// can be found; `None` if there is none.
    async fn last_session(&mut self, producer: &str) -> Result<Option<LastSession>, AppendError>;

    /// The noted recordings of this beginning ([`RecordingNote::beginning`]). A log that keeps no
    /// notes has none.
    async fn recordings(&mut self, beginning: &str) -> Result<Vec<KnownRecording>, AppendError> {
        let _ = beginning;
        Ok(Vec::new())
    }

    /// Notes, durably, which recording a session is of. The caller has asked for the session's
    /// [`LogWriter::last_sequences`], and appends none of the recording's further frames before.
    async fn note_recording(
        &mut self,
        session: SessionId,
        note: &RecordingNote,
    ) -> Result<(), AppendError> {
        let _ = (session, note);
        Ok(())
    }

    /// Notes what a session has appended by now, all of it durable, so that
    /// [`LogWriter::last_sequences`] need not search for it. A log that keeps sequences does nothing.
    async fn note_sequences(&mut self, session: SessionId) -> Result<(), AppendError> {
        let _ = session;
        Ok(())
    }

    /// Queues records; waits while the bounded queue is full. They are durable after the next
    /// [`LogWriter::flush`].
    async fn append(&mut self, records: Vec<NewRecord>) -> Result<(), AppendError>;

    /// Waits until every queued record is durable.
    async fn flush(&mut self) -> Result<(), AppendError>;
}
