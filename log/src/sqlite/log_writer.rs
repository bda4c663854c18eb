//! The embedded log as ingest appends to it.

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use backon::{ConstantBuilder, Retryable};
use tapeflow_protocol::{StoreError, log_throttle::UNANSWERED};
use tapeflow_schemas::SessionId;

use crate::{
    append::{AppendError, LastSession, LogWriter, NewRecord},
    outage::OutageState,
    recording::{KnownRecording, RecordingNote},
    sqlite::SqliteLog,
};

/// Queued records that are appended without waiting for a flush.
const MAX_QUEUED: usize = 4_096;
/// The time between two attempts while the file is busy or the disk is full.
const RETRY: Duration = Duration::from_millis(100);

/// Appends to the log in an SQLite file.
pub struct SqliteLogWriter {
    log: SqliteLog,
    queued: Vec<NewRecord>,
    outage: OutageState,
}

impl SqliteLogWriter {
    /// Appends to an open log.
    #[must_use]
    pub fn new(log: SqliteLog) -> Self {
        Self {
            log,
            queued: Vec::new(),
            outage: OutageState::default(),
        }
    }

    /// Whether appends fail now, for those who show it.
    #[must_use]
    pub fn outage(&self) -> OutageState {
        self.outage.clone()
    }

    /// Appends the queue in one transaction. Every record has its session and sequence, so an
    /// append whose answer was lost may be repeated.
    async fn append_queued(&mut self) -> Result<(), AppendError> {
        let records = std::mem::take(&mut self.queued);
        self.retried(|| self.log.append(records.clone()))
            .await
            .map(drop)
    }

    /// Repeats a write while the file is busy or the disk is full.
    async fn retried<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        write: impl FnMut() -> F,
    ) -> Result<T, AppendError> {
        let written = write
            .retry(
                ConstantBuilder::default()
                    .with_delay(RETRY)
                    .without_max_times(),
            )
            .when(|error| matches!(error, StoreError::Unavailable(_)))
            .notify(|error, _| {
                self.outage.failed(&error.to_string());
                if let Some(left_out) = UNANSWERED.allow() {
                    tracing::warn!(%error, left_out, "embedded log is unavailable; retrying");
                }
            })
            .await;
        self.outage.answered();
        written.map_err(|error| AppendError(error.to_string()))
    }
}

#[async_trait]
impl LogWriter for SqliteLogWriter {
    fn partitions(&self) -> u32 {
        self.log.partitions()
    }

    async fn last_sequences(&mut self, session: SessionId) -> Result<Vec<u64>, AppendError> {
        self.log
            .last_sequences(session)
            .await
            .map_err(|error| AppendError(error.to_string()))
    }

    async fn last_session(&mut self, producer: &str) -> Result<Option<LastSession>, AppendError> {
        self.log
            .last_session(producer)
            .await
            .map_err(|error| AppendError(error.to_string()))
    }

    async fn recordings(&mut self, beginning: &str) -> Result<Vec<KnownRecording>, AppendError> {
        self.log
            .recordings(beginning.to_owned())
            .await
            .map_err(|error| AppendError(error.to_string()))
    }

    async fn note_recording(
        &mut self,
        session: SessionId,
        note: &RecordingNote,
    ) -> Result<(), AppendError> {
        self.retried(|| self.log.note_recording(session, note.clone()))
            .await
    }

    async fn append(&mut self, records: Vec<NewRecord>) -> Result<(), AppendError> {
        self.queued.extend(records);
        if self.queued.len() >= MAX_QUEUED {
            self.append_queued().await
        } else {
            Ok(())
        }
    }

    async fn flush(&mut self) -> Result<(), AppendError> {
        if self.queued.is_empty() {
            Ok(())
        } else {
            self.append_queued().await
        }
    }
}
