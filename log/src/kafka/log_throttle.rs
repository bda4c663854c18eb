//! The errors and log lines of the Kafka client, at most one in ten seconds.
//!
//! While a broker is away, librdkafka reports every attempt of every connection, most of them
//! twice.

use rdkafka::{config::RDKafkaLogLevel, error::KafkaError};
use tapeflow_protocol::log_throttle::LogThrottle;
use tracing::{debug, warn};

/// All clients of this process share one limit, because they share the brokers.
static THROTTLE: LogThrottle = LogThrottle::new();

/// Logs an error that the client retries by itself.
pub(super) fn error(error: &KafkaError, reason: &str) {
    if let Some(left_out) = THROTTLE.allow() {
        warn!(%error, reason, left_out, "kafka error; the client retries");
    }
}

/// Logs a line of the library's own log.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning => {
            if let Some(left_out) = THROTTLE.allow() {
                warn!(facility, message, left_out, "kafka client");
            }
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            debug!(facility, message, "kafka client")
        }
    }
}
