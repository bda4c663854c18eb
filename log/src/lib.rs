//! The log: partitions of records with stable offsets, appended to by ingest and read by the job.
//!
//! ```text
//!            ┌─────────── kafka: a topic ───────────┐
//!  ingest ──▶ LogWriter                           Log ──▶ dataflow, verify
//!            └── sqlite: a table in one file ───────┘
//! ```
//!
//! - A **record** is a few bytes: the trades of one symbol in one frame, or an invalid frame.
//! - A **partition** is an ordered sequence of records. All records of a symbol share a partition.
//! - An **offset** is the place of a record in its partition. It is never used twice.
//! - A **sequence** is the place of a record in its session and partition, without gaps. A writer
//!   that did not get an answer sends the record again, and the reader counts each sequence once.
//!
//! A Kafka setting is changed in [`kafka::settings`].
//!
//! ```
//! use tapeflow_log::sqlite::{Access, Database, SqliteLog, SqliteLogWriter};
//! use tapeflow_log::{Log, LogWriter, NewRecord};
//!
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let folder = tempfile::tempdir()?;
//! let file = Database::open(&folder.path().join("log.db"), Access::Job)?;
//! let log = SqliteLog::create_if_absent(&file, 2).await?;
//! let mut writer = SqliteLogWriter::new(log.clone());
//! let record = NewRecord {
//!     partition: 1,
//!     key: "AAPL".into(),
//!     timestamp_ms: 1_700_000_000_000,
//!     payload: b"trades".to_vec(),
//!     session: None,
//! };
//! writer.append(vec![record]).await?;
//! writer.flush().await?;
//! let mut reader = Log::reader(&log, &[(0, 0), (1, 0)])?;
//! let mut payloads = Vec::new();
//! reader.poll(10, &mut |record| payloads.extend(record.payload.map(<[u8]>::to_vec)))?;
//! assert_eq!(payloads, [b"trades"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod append;
pub mod kafka;
pub mod outage;
pub mod read;
pub mod recording;
pub mod sqlite;

pub use append::{AppendError, LastSession, LogWriter, NewRecord};
pub use outage::{Outage, OutageState};
pub use read::{Log, LogError, LogReader, LogRecord};
pub use recording::{KnownRecording, RecordingNote};
