//! How a job is asked to end.
//!
//! There are two levels, and the second may follow the first: a job that reads to the end of the
//! log can still be told to stop reading. A cancellation token has one level only, so this is a
//! small atomic of our own.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

/// A request to end, shared by everything that may make it: a signal handler, a timer, the end of a
/// feed.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicU8>);

/// The strongest request made so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StopRequest {
    None,
    /// Read up to the offset where the log ends when the request arrives, commit, end.
    AtEnd,
    /// Stop reading, commit what was read, end.
    Now,
}

impl Stop {
    /// Asks the job to stop reading, commit what it has read, and end. The next run reads the rest.
    pub fn request(&self) {
        self.0.fetch_max(2, Ordering::AcqRel);
    }

    /// Asks the job to commit everything that is in the log now, and end.
    pub fn request_at_end(&self) {
        self.0.fetch_max(1, Ordering::AcqRel);
    }

    pub(crate) fn requested(&self) -> StopRequest {
        match self.0.load(Ordering::Acquire) {
            0 => StopRequest::None,
            1 => StopRequest::AtEnd,
            _ => StopRequest::Now,
        }
    }
}
