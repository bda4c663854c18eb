//! The wall clock of this machine: the only place where the console reads it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 UTC; 0 if the clock is set before 1970.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

/// A past moment in seconds since 1970 UTC.
pub(crate) fn unix_seconds(past: Instant) -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .saturating_sub(past.elapsed())
        .as_secs_f64()
}
