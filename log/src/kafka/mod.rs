//! A Kafka topic as the log. Only this folder names the client library.
//!
//! Settings of all clients are in [`settings`], error texts in `errors`.

pub mod admin;
mod batch;
mod bulk;
mod client_errors;
mod errors;
mod log_throttle;
mod native;
pub mod reader;
pub mod settings;
mod tail;
pub mod topic;
mod topic_id;
pub mod writer;

pub use bulk::{BulkRecord, BulkWriter};
pub use reader::KafkaLog;
pub use settings::KafkaConfig;
pub use topic::TopicFinding;
pub use writer::KafkaWriter;
