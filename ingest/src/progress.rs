//! How far a run has come, for whoever wants to look: a terminal, a test.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::counts::Counts;

/// Where the connection to the feed stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connection {
    /// There is none to speak of: a recording, or not begun.
    #[default]
    None,
    /// Being made.
    Connecting,
    /// Open.
    Open,
    /// Lost; the next attempt waits.
    Waiting,
    /// Closed for good.
    Closed,
}

/// One look at a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The counts so far.
    pub counts: Counts,
    /// The feed's connection.
    pub connection: Connection,
    /// How many times it was opened.
    pub connections: u64,
    /// When the last frame was taken in, in milliseconds since 1970 UTC.
    pub last_frame_ms: Option<i64>,
}

/// A view of a run, shared between the run and its watchers.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Mutex<Snapshot>>);

impl Progress {
    /// How the run stands now.
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
