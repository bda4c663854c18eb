//! The checkpoint, watched: how far the job has come, and under which generation.

use std::{
    thread,
    time::{Duration, Instant},
};

use tapeflow_protocol::{Checkpoint, CheckpointStore, StoreError};
use tapeflow_sinks::cassandra::CassandraStore;
use tokio::runtime::Handle;

/// How long servers may be out of reach before a question to them is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Asks a store until it answers: on a busy machine servers that are up may take longer than one
/// question bears.
///
/// # Errors
/// It does not answer for long, or says what waiting does not mend.
pub(crate) async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(
    mut ask: impl FnMut() -> F,
) -> Result<T, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Err(StoreError::Unavailable(_)) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(200)).await
            }
            answer => return answer.map_err(|fault| fault.to_string()),
        }
    }
}

/// Where the job stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) generation: u64,
    pub(crate) bound: u64,
    pub(crate) committed: u64,
}

/// A connection of the watch's own.
pub(crate) struct Watch {
    pub(crate) runtime: Handle,
    pub(crate) store: CassandraStore,
    last: Progress,
}

impl Watch {
    pub(crate) fn new(runtime: Handle, store: CassandraStore) -> Self {
        Self {
            runtime,
            store,
            last: Progress::default(),
        }
    }

    /// Where it stands, if the store answers.
    ///
    /// # Errors
    /// The checkpoint went back.
    pub(crate) fn read_progress(&mut self) -> Result<Option<Progress>, String> {
        let Ok(checkpoint) = self.runtime.block_on(self.store.checkpoint()) else {
            return Ok(None);
        };
        self.stands(checkpoint.as_ref()).map(Some)
    }

    /// The checkpoint, if there is one and the store answers.
    fn look(&mut self) -> Result<Option<Checkpoint>, String> {
        let checkpoint = self
            .runtime
            .block_on(self.store.checkpoint())
            .ok()
            .flatten();
        if let Some(checkpoint) = &checkpoint {
            self.stands(Some(checkpoint))?;
        }
        Ok(checkpoint)
    }

    fn stands(&mut self, checkpoint: Option<&Checkpoint>) -> Result<Progress, String> {
        let now = checkpoint.map_or(Progress::default(), |checkpoint| Progress {
            generation: checkpoint.generation,
            bound: checkpoint.last_binding().epoch,
            committed: checkpoint.committed.epoch,
        });
        let was = std::mem::replace(&mut self.last, now);
        if now.generation < was.generation || now.bound < was.bound || now.committed < was.committed
        {
            return Err(format!("the checkpoint went back from {was:?} to {now:?}"));
        }
        Ok(now)
    }

    /// Whether everything below these offsets is committed; not, if the store does not answer.
    ///
    /// # Errors
    /// The checkpoint went back.
    pub(crate) fn has_committed(&mut self, offsets: &[i64]) -> Result<bool, String> {
        let Some(checkpoint) = self.look()? else {
            return Ok(false);
        };
        Ok(offsets
            .iter()
            .zip(&checkpoint.committed.cuts)
            .all(|(offset, cut)| cut.next >= *offset))
    }

    /// The largest write timestamp issued.
    ///
    /// # Errors
    /// The store does not answer for long, or there is no job.
    pub(crate) fn write_timestamp(&self) -> Result<i64, String> {
        let checkpoint = self
            .runtime
            .block_on(patiently(|| self.store.checkpoint()))?;
        checkpoint
            .map(|checkpoint| checkpoint.last_write_timestamp)
            .ok_or_else(|| "there is no checkpoint".into())
    }

    /// Where it stands.
    ///
    /// # Errors
    /// The checkpoint went back, or the store does not answer for long.
    pub(crate) fn progress(&mut self) -> Result<Progress, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(progress) = self.read_progress()? {
                return Ok(progress);
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "the checkpoint cannot be read for {} s",
                    PATIENCE.as_secs()
                ));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}
