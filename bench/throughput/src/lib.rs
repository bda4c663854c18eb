//! How fast the job is: `tapeflow bench`, and what other measurements share with it.
//!
//! ```text
//!  feed ─preload─▶ log ─▶ the job, a process of its own ─▶ bars ─▶ every bar is recomputed
//!  (seeded)     Kafka or    seconds, CPU, memory,                  by `verify`, which is
//!                SQLite     first commit, freshness                independent code
//!                                     └────────────────────── report ◀────────────────────┘
//! ```
//!
//! The job is the binary itself, started as a user would start it, so that its CPU time and its
//! memory are its own and its start counts.

pub mod backlog;
pub mod bar;
pub mod check;
pub mod job_process;
pub mod preload;
pub mod process;
pub mod rate;
pub mod report;
pub mod target;
pub mod topic;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use tapeflow_schemas::decimal::grouped;

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for cannot be done; nothing was begun.
    #[error("{0}")]
    Refused(String),
    /// Something failed under way.
    #[error("{0}")]
    Failed(String),
    /// A person wants it to end.
    #[error("interrupted: nothing was measured")]
    Interrupted,
}

impl Error {
    /// Names what was being done.
    #[must_use]
    pub fn while_doing(self, what: &str) -> Self {
        match self {
            Self::Refused(reason) => Self::Refused(format!("{what}: {reason}")),
            Self::Failed(reason) => Self::Failed(format!("{what}: {reason}")),
            Self::Interrupted => Self::Interrupted,
        }
    }
}

impl From<tapeflow_log::LogError> for Error {
    fn from(error: tapeflow_log::LogError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<tapeflow_feed::FeedError> for Error {
    fn from(error: tapeflow_feed::FeedError) -> Self {
        match error {
            tapeflow_feed::FeedError::Shape(reason) => Self::Refused(reason),
            tapeflow_feed::FeedError::Value(reason) => Self::Failed(reason),
        }
    }
}

/// Milliseconds since 1970 UTC, by this machine's clock.
#[must_use]
pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(0))
}

/// Sixteen hexadecimal digits drawn at random, for unique names.
#[must_use]
pub fn tag() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// So many in a second.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
pub fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(1e-9)
}
