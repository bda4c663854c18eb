//! The embedded log as ingest appends to it.

use async_trait::async_trait;
use tapeflow_protocol::StoreError;
use tapeflow_schemas::SessionId;

use crate::{
    append::{OutRecord, Publish, PublishError},
    sqlite::SqliteLog,
};

/// Records taken before they are appended without waiting for the flush.
const RECORDS_AT_ONCE: usize = 4_096;

/// Appends to the log in an SQLite file.
pub struct SqlitePublisher {
    log: SqliteLog,
    waiting: Vec<OutRecord>,
}

impl SqlitePublisher {
    /// Appends to an open log.
    #[must_use]
    pub fn new(log: SqliteLog) -> Self {
        Self {
            log,
            waiting: Vec::new(),
        }
    }

    /// Every record bears its session and sequence, so an append whose answer was lost may be
    /// repeated.
    async fn append(&mut self) -> Result<(), PublishError> {
        let records = std::mem::take(&mut self.waiting);
        loop {
            match self.log.append(records.clone()).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Broken(reason)) => return Err(PublishError(reason)),
                Err(StoreError::Unavailable(reason)) => {
                    tracing::warn!(reason, "the embedded log does not answer; trying again");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

#[async_trait]
impl Publish for SqlitePublisher {
    fn partitions(&self) -> u32 {
        self.log.partitions()
    }

    async fn last_sequences(&mut self, session: SessionId) -> Result<Vec<u64>, PublishError> {
        self.log
            .last_sequences(session)
            .await
            .map_err(|error| PublishError(error.to_string()))
    }

    async fn publish(&mut self, records: Vec<OutRecord>) -> Result<(), PublishError> {
        self.waiting.extend(records);
        if self.waiting.len() >= RECORDS_AT_ONCE {
            self.append().await
        } else {
            Ok(())
        }
    }

    async fn flush(&mut self) -> Result<(), PublishError> {
        if self.waiting.is_empty() {
            Ok(())
        } else {
            self.append().await
        }
    }
}
