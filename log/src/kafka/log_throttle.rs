//! A rate limit for the errors and log lines of the Kafka client.
//!
//! While a broker is away, librdkafka reports every attempt of every connection, most of them
//! twice. One line in ten seconds is enough; it says how many lines were left out before it.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{config::RDKafkaLogLevel, error::KafkaError};
use tracing::{debug, warn};

/// At most one line in this time.
const EVERY: Duration = Duration::from_secs(10);

/// All clients of this process share one limit, because they share the brokers.
static THROTTLE: Mutex<Throttle> = Mutex::new(Throttle {
    logged: None,
    left_out: 0,
});

/// Logs an error that the client retries by itself.
pub(super) fn error(error: &KafkaError, reason: &str) {
    if let Some(left_out) = allow() {
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
            if let Some(left_out) = allow() {
                warn!(facility, message, left_out, "kafka client");
            }
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            debug!(facility, message, "kafka client")
        }
    }
}

fn allow() -> Option<u64> {
    THROTTLE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .allow(Instant::now())
}

/// Allows one line in [`EVERY`].
struct Throttle {
    logged: Option<Instant>,
    left_out: u64,
}

impl Throttle {
    /// `None` if a line must not be logged now; otherwise how many were left out since the last.
    fn allow(&mut self, now: Instant) -> Option<u64> {
        if self
            .logged
            .is_some_and(|logged| now.duration_since(logged) < EVERY)
        {
            self.left_out += 1;
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_ten_seconds_is_logged_with_the_number_of_lines_left_out() {
        let begun = Instant::now();
        let mut throttle = Throttle {
            logged: None,
            left_out: 0,
        };
        let logged: Vec<_> = (0..=205)
            .filter_map(|n| throttle.allow(begun + Duration::from_millis(100) * n))
            .collect();
        assert_eq!(logged, [0, 99, 99]);
    }
}
