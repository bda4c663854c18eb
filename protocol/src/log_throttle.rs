//! A rate limit for warnings that repeat for as long as a server is away or a disk is full.
//!
//! Each retry would write its line: thousands in ten minutes, which fill the disk that they report.
//! One line in ten seconds is enough; it says how many lines were left out before it.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// At most one line in this time.
pub const EVERY: Duration = Duration::from_secs(10);

/// The limit of all calls that the store, or the embedded log in the same file, did not answer:
/// they fail for the same reason at the same time.
pub static UNANSWERED: LogThrottle = LogThrottle::new();

/// Allows one line in [`EVERY`].
#[derive(Debug)]
pub struct LogThrottle(Mutex<State>);

#[derive(Debug)]
struct State {
    logged: Option<Instant>,
    left_out: u64,
}

impl LogThrottle {
    /// One that allows a line at once.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(State {
            logged: None,
            left_out: 0,
        }))
    }

    /// `None` if a line must not be logged now; otherwise how many were left out since the last.
    pub fn allow(&self) -> Option<u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .allow(Instant::now())
    }
}

impl Default for LogThrottle {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
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
        let mut state = State {
            logged: None,
            left_out: 0,
        };
        let logged: Vec<_> = (0..=205)
            .filter_map(|n| state.allow(begun + Duration::from_millis(100) * n))
            .collect();
        assert_eq!(logged, [0, 99, 99]);
    }
}
