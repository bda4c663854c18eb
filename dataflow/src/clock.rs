//! What the job knows of time. Only write timestamps and the lengths of waits come from here: what a record
//! is worth never depends on a clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tapeflow_protocol::failpoint;

/// Where a generation of the job looks for the time.
pub trait Clock: Send + Sync + 'static {
    /// A moment that only goes forward: for how long ago something was.
    fn now(&self) -> Instant;

    /// Microseconds since 1970 UTC by this machine's clock, which may be wrong and may go back:
    /// only write timestamps are made of it, and those never go back.
    fn wall_us(&self) -> i64;
}

/// The clocks of the machine.
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
