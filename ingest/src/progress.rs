//! The progress of a run, for the terminal, the status page and tests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::counts::Counts;

/// The state of the connection to the feed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connection {
    /// None: a recording, a history, or a run that has not begun.
    #[default]
    None,
    /// Connecting.
    Connecting,
    /// Connected.
    Open,
    /// Dropped; the next attempt waits for its back-off.
    Waiting,
    /// Closed for good.
    Closed,
}

/// The progress of a run at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The counts so far.
    pub counts: Counts,
    /// The state of the feed's connection.
    pub connection: Connection,
    /// How many times the connection was opened.
    pub connections: u64,
    /// When the last frame was taken in, in milliseconds since 1970 UTC.
    pub last_frame_ms: Option<i64>,
}

/// The progress of a run; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Mutex<Snapshot>>);

impl Progress {
    /// The progress now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.lock().clone()
    }

    pub(crate) fn set_connection(&self, connection: Connection) {
        let mut now = self.lock();
        now.connections += u64::from(connection == Connection::Open);
        now.connection = connection;
    }

    pub(crate) fn set_counts(&self, counts: &Counts, taken_ms: Option<i64>) {
        let mut now = self.lock();
        now.counts.clone_from(counts);
        now.last_frame_ms = taken_ms.or(now.last_frame_ms);
    }

    fn lock(&self) -> MutexGuard<'_, Snapshot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
