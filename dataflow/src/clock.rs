//! The job's clock. It provides write timestamps and the lengths of waits. The value of a bar never
//! depends on it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tapeflow_protocol::failpoint;

/// A source of time; a simulation provides its own.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic time, for intervals.
    fn now(&self) -> Instant;

    /// Microseconds since 1970 UTC by the wall clock, which may be wrong and may go back. Only
    /// write timestamps are derived from it, and the protocol keeps those monotonic.
    fn wall_us(&self) -> i64;
}

/// The clock of the machine.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall_us(&self) -> i64 {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
            });
        now.saturating_add(failpoint::clock_offset_us())
    }
}
