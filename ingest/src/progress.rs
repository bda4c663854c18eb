//! The progress of a run, for the terminal, the status page and tests.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tapeflow_log::{Outage, OutageState};

use crate::{counts::Counts, spool::SpoolState};

/// What a feed is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FeedKind {
    /// Finnhub's live trades.
    #[default]
    Finnhub,
    /// A recording.
    Recording,
    /// A simulated market: its trades are invented.
    Simulated,
}

impl FeedKind {
    /// The word for people and for `/status`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Finnhub => "finnhub",
            Self::Recording => "recording",
            Self::Simulated => "simulated",
        }
    }
}

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
pub struct Progress {
    now: Arc<Mutex<Snapshot>>,
    kind: FeedKind,
    connection: OutageState,
    /// Since when the log has not acknowledged an append.
    appending: Arc<Mutex<Option<Instant>>>,
    spool: Option<SpoolState>,
}

impl Progress {
    /// Of a run that has not begun.
    #[must_use]
    pub fn new(kind: FeedKind) -> Self {
        Self {
            kind,
            ..Self::default()
        }
    }

    /// The same, with the spool in front of its log.
    #[must_use]
    pub fn with_spool(mut self, spool: SpoolState) -> Self {
        self.spool = Some(spool);
        self
    }

    /// The spool in front of its log, if there is one.
    #[must_use]
    pub fn spool(&self) -> Option<&SpoolState> {
        self.spool.as_ref()
    }

    /// What the feed is.
    #[must_use]
    pub fn kind(&self) -> FeedKind {
        self.kind
    }

    /// Why the feed is not connected, and since when; `None` while it is, and for a recording.
    #[must_use]
    pub fn outage(&self) -> Option<Outage> {
        self.connection.now()
    }

    /// How long the append under way has waited for the log; `None` if none is.
    #[must_use]
    pub fn appending(&self) -> Option<Duration> {
        locked(&self.appending).map(|since| since.elapsed())
    }

    /// The progress now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.lock().clone()
    }

    /// The connection is lost, or was not made, for this reason. It names no secret.
    pub(crate) fn set_waiting(&self, reason: &str) {
        self.connection.failed(reason);
        self.set_connection(Connection::Waiting);
    }

    pub(crate) fn set_appending(&self, is: bool) {
        *locked(&self.appending) = is.then(Instant::now);
    }

    pub(crate) fn set_connection(&self, connection: Connection) {
        match connection {
            Connection::None | Connection::Open => drop(self.connection.answered()),
            Connection::Closed => self.connection.failed("the feed is closed"),
            Connection::Connecting if self.connection.now().is_none() => {
                self.connection.failed("connecting")
            }
            // The reason of the last attempt stays until the next one has ended.
            Connection::Connecting | Connection::Waiting => {}
        }
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
        locked(&self.now)
    }
}

/// Values are replaced in one assignment, so a poisoned lock still guards valid ones.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
