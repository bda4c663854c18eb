//! A Kafka topic as the log. Only this folder names the client library.
//!
//! Settings of all clients are in [`settings`], error texts in `errors`.

pub mod admin;
mod assigned;
mod batch;
mod bulk;
mod client_errors;
mod errors;
mod jumps;
mod leader_changes;
mod log_throttle;
mod native;
mod one_partition;
mod operator_settings;
pub mod reader;
mod session_index;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub use session_index::check_entry;
pub mod settings;
mod tail;
pub mod topic;
mod topic_id;
mod unreadable;
pub mod writer;

pub use bulk::{BulkRecord, BulkWriter};
pub use reader::KafkaLog;
pub use settings::KafkaConfig;
pub use topic::TopicFinding;
pub use writer::KafkaWriter;
