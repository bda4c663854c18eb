//! The head, watched: how far the job has come, and under which generation.

use std::{
    thread,
    time::{Duration, Instant},
};

use tapeflow_sinks::{Store, cassandra::CassandraStore};
use tokio::runtime::Handle;

/// How long servers may be out of reach before a question to them is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the job stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) generation: u64,
    pub(crate) bound: u64,
    pub(crate) committed: u64,
}

/// A connection of the watch's own.
pub(crate) struct Watch {
    pub(crate) runtime: Handle,
    pub(crate) store: CassandraStore,
    last: Standing,
}

impl Watch {
    pub(crate) fn new(runtime: Handle, store: CassandraStore) -> Self {
        Self { runtime, store, last: Standing::default() }
    }

    /// Where it stands, if the store answers.
    ///
    /// # Errors
    /// The head went back.
    pub(crate) fn glance(&mut self) -> Result<Option<Standing>, String> {
        let Ok(head) = self.runtime.block_on(self.store.head()) else { return Ok(None) };
        let now = head.map_or(Standing::default(), |head| Standing {
            generation: head.generation,
            bound: head.last_binding().epoch,
            committed: head.committed.epoch,
        });
        let was = std::mem::replace(&mut self.last, now);
        if now.generation < was.generation || now.bound < was.bound || now.committed < was.committed {
            return Err(format!("the head went back from {was:?} to {now:?}"));
        }
        Ok(Some(now))
    }

    /// Where it stands.
    ///
    /// # Errors
    /// The head went back, or the store does not answer for long.
    pub(crate) fn standing(&mut self) -> Result<Standing, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(standing) = self.glance()? {
                return Ok(standing);
            }
            if Instant::now() > deadline {
                return Err(format!("the head cannot be read for {} s", PATIENCE.as_secs()));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}
