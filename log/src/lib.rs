//! The log: a partitioned, append-only sequence of records with stable offsets.
//!
//! ```text
//!                 ┌────────────── kafka: a topic ──────────────┐
//!  ingest ──▶ Publish (append)                        (read) Log ──▶ dataflow, verify
//!                 └───── sqlite: a table of one file ──────────┘
//! ```

pub mod append;
pub mod kafka;
pub mod read;
pub mod sqlite;

pub use append::{OutRecord, Publish, PublishError};
pub use read::{Log, LogError, LogReader, LogRecord};
