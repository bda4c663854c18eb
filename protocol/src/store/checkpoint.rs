//! The checkpoint and the history of epochs, as the coordinator and a repairer use them.

use async_trait::async_trait;
use tapeflow_schemas::WriteTimestamp;

use super::{HistoryEntry, StoreError};
use crate::checkpoint::Checkpoint;

/// How one compare-and-set of the checkpoint ended.
#[derive(Debug)]
pub enum CasOutcome {
    /// Applied: the checkpoint is the proposed one.
    Won,
    /// Not applied: the checkpoint was not the expected one. The caller reads it to learn what it
    /// is. (After an unknown outcome of the same proposal, `Lost` may also mean that the first
    /// attempt was applied.)
    Lost,
    /// Applied, or not, or still to be applied. The caller reads the checkpoint at SERIAL before
    /// it does anything else.
    Unknown(String),
    /// The store or its driver refuses the proposal for a reason that lasts, such as its length.
    /// The caller reads the checkpoint all the same, and does not send the proposal again.
    Refused(String),
}

/// Where a job keeps its checkpoint and the history of its epochs.
///
/// [`CheckpointStore::compare_and_set`] is linearizable, and [`CheckpointStore::checkpoint`] is a
/// linearizable read.
#[async_trait]
pub trait CheckpointStore: Send + Sync + 'static {
    /// The store's address, as a person would write it, without credentials.
    fn describe(&self) -> String;

    /// The datacenter whose quorum answers; `None` where a store has none. A job keeps to one: a
    /// quorum of another one may not have what this one acknowledged.
    fn datacenter(&self) -> Option<String> {
        None
    }

    /// Reads the job's checkpoint. `None` if no job has run on this store.
    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError>;

    /// Replaces the checkpoint `expected` (`None`: there is none yet) by `proposed`. The condition
    /// compares job, generation, version and owner.
    async fn compare_and_set(
        &self,
        expected: Option<&Checkpoint>,
        proposed: &Checkpoint,
    ) -> CasOutcome;

    /// Writes history entries at quorum. Each entry is written at its own write timestamp, or at
    /// `recovery_timestamp` (that of the writing generation) if that is greater. A replayed epoch
    /// can have other counts than before, because records are gone by now: the later counts win.
    async fn write_history(
        &self,
        entries: &[HistoryEntry],
        recovery_timestamp: WriteTimestamp,
    ) -> Result<(), StoreError>;
}
