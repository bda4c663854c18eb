//! What the client library says unasked: of brokers in trouble, and of itself.
//!
//! While a broker is away the library tells of every attempt of every connection, and of most by
//! two ways. One line in ten seconds says as much; the next one tells how many it stands for.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{config::RDKafkaLogLevel, error::KafkaError};
use tracing::{debug, warn};

/// How often trouble is told, however often the library meets it.
const EVERY: Duration = Duration::from_secs(10);

/// Trouble of all clients of this process together: they share the brokers.
static TROUBLE: Mutex<Hush> = Mutex::new(Hush {
    told: None,
    hushed: 0,
});

/// An error that the library gets over by itself.
pub(super) fn error(error: &KafkaError, reason: &str) {
    if let Some(hushed) = hear() {
        warn!(%error, reason, hushed, "kafka trouble; the client tries again by itself");
    }
}

/// A line of the library's log.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning => {
            if let Some(hushed) = hear() {
                warn!(facility, message, hushed, "kafka client");
            }
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            debug!(facility, message, "kafka client")
        }
    }
}

fn hear() -> Option<u64> {
    TROUBLE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .hear(Instant::now())
}

/// Lets one line through in [`EVERY`].
struct Hush {
    told: Option<Instant>,
    hushed: u64,
}

impl Hush {
    /// Whether to tell now; how many were not told since the last that was.
    fn hear(&mut self, now: Instant) -> Option<u64> {
        if self
            .told
            .is_some_and(|told| now.duration_since(told) < EVERY)
        {
            self.hushed += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.hushed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_at_once_then_every_ten_seconds_with_the_number_of_lines_left_out() {
        let begun = Instant::now();
        let mut hush = Hush {
            told: None,
            hushed: 0,
        };
        let told: Vec<_> = (0..=205)
            .filter_map(|n| hush.hear(begun + Duration::from_millis(100) * n))
            .collect();
        assert_eq!(told, [0, 99, 99]);
    }
}
