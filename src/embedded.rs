//! The embedded log as ingest appends to it.

use async_trait::async_trait;
use tapeflow_ingest::{OutRecord, Publish, PublishError};
use tapeflow_schemas::{
    SessionId,
    codec::{self, Entry, Header},
};
use tapeflow_sinks::{
    StoreError,
    sqlite::{AppendRecord, SqliteLog},
};

/// Records taken before they are appended without waiting for the flush.
const RECORDS_AT_ONCE: usize = 4_096;

/// Appends to the log in an SQLite file.
pub(crate) struct EmbeddedPublisher {
    log: SqliteLog,
    waiting: Vec<AppendRecord>,
    entries: Vec<Entry>,
}

impl EmbeddedPublisher {
    pub(crate) fn new(log: SqliteLog) -> Self {
        Self {
            log,
            waiting: Vec::new(),
            entries: Vec::new(),
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
impl Publish for EmbeddedPublisher {
    fn partitions(&self) -> u32 {
        self.log.partitions()
    }

    async fn last_sequences(&mut self, session: SessionId) -> Result<Vec<u64>, PublishError> {
        self.log
            .last_sequences(session)
            .await
            .map_err(|fault| PublishError(fault.to_string()))
    }

    async fn publish(&mut self, records: Vec<OutRecord>) -> Result<(), PublishError> {
        for record in records {
            let session = match codec::decode(&record.payload, &mut self.entries) {
                Ok(
                    Header::Batch {
                        session, sequence, ..
                    }
                    | Header::RejectedFrame {
                        session, sequence, ..
                    },
                ) => Some((session, sequence)),
                Ok(Header::Legacy) | Err(_) => None,
            };
            self.waiting.push(AppendRecord {
                partition: record.partition,
                key: record.key,
                timestamp_ms: record.timestamp_ms,
                payload: record.payload,
                session,
            });
        }
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
