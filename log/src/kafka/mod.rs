//! Kafka's topic as a log. Nothing else knows Kafka.

pub mod admin;
mod batch;
mod client_errors;
mod log_throttle;
mod native;
pub mod reader;
mod tail;
pub mod topic;
mod topic_id;
pub mod writer;

pub use reader::{KafkaLog, KafkaLogConfig};
pub use topic::TopicFinding;
pub use writer::{KafkaConfig, KafkaPublisher};
