//! The job's clock. It provides write timestamps and the lengths of waits. The value of a bar never
//! depends on it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

/// The largest step of the wall clock that is taken over. Time servers correct a clock by much
/// less, once it was right.
const MAX_STEP: Duration = Duration::from_secs(3_600);
/// How often a refused step is logged.
const LOG_EVERY: Duration = Duration::from_secs(600);

/// The wall clock without its large steps forward. Write timestamps only grow: after one reading of
/// a clock that was a year ahead, they would stay a year ahead for good, and everything that is
/// written by hand with the right time would have no effect.
#[derive(Default)]
pub(crate) struct SteadyClock {
    last: Option<(Instant, i64)>,
    logged: Option<Instant>,
}

impl SteadyClock {
    /// The time for a write timestamp, given a reading of the wall clock at `now`. After a step
    /// forward of more than an hour the time goes on as if the clock had not stepped.
    pub(crate) fn time_us(&mut self, now: Instant, wall_us: i64) -> i64 {
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        let time_us = match self.last {
            Some((before, time_us)) => {
                let expected =
                    time_us.saturating_add(micros(now.saturating_duration_since(before)));
                let step_us = wall_us.saturating_sub(expected);
                if step_us > micros(MAX_STEP) {
                    self.log(now, step_us / 1_000_000);
                    expected
                } else {
                    wall_us
                }
            }
            None => wall_us,
        };
        self.last = Some((now, time_us));
        time_us
    }

    fn log(&mut self, now: Instant, seconds: i64) {
        if self
            .logged
            .is_none_or(|logged| now.saturating_duration_since(logged) >= LOG_EVERY)
        {
            self.logged = Some(now);
            tracing::error!(
                seconds,
                "the clock of this machine has stepped forward; write timestamps do not follow it: \
                 check the clock, and restart the job if it is right now"
            );
        }
    }
}

/// Warns if the write timestamps of a job are far ahead of the clock: an earlier generation had a
/// wrong clock, or this one has.
pub(crate) fn warn_if_ahead(last_write_timestamp: i64, wall_us: i64) {
    let ahead_us = last_write_timestamp.saturating_sub(wall_us);
    if u64::try_from(ahead_us).is_ok_and(|ahead| Duration::from_micros(ahead) > MAX_STEP) {
        tracing::error!(
            seconds = ahead_us / 1_000_000,
            "the job's write timestamps are ahead of the clock of this machine: this clock is \
             wrong, or that of an earlier run was; bars stay exact, and what is written by hand \
             needs a later timestamp"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;

    #[test]
    fn a_step_forward_of_more_than_an_hour_is_refused_and_a_smaller_one_and_one_back_are_not() {
        let mut clock = SteadyClock::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let year = 365 * 24 * HOUR_US;
        let mut time = |seconds, wall_us| clock.time_us(at(seconds), wall_us);
        assert_eq!(time(0, year), year, "the first reading");
        assert_eq!(time(10, 2 * year), year + 10_000_000, "a year ahead");
        assert_eq!(time(20, 2 * year + 10_000_000), year + 20_000_000, "still");
        assert_eq!(time(30, year + 30_000_000), year + 30_000_000, "corrected");
        assert_eq!(
            time(40, year + HOUR_US),
            year + HOUR_US,
            "a step of an hour"
        );
        assert_eq!(time(50, year - HOUR_US), year - HOUR_US, "a step back");
    }
}
