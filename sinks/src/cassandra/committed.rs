//! Tells a damaged row from a write under way, if its state cell is missing.
//!
//! Cassandra's read repair copies only the columns that a query selects. A dashboard that reads a
//! bar which one replica has so far leaves it on another one without its cell, and if the first one
//! is down, a quorum shows a row without a cell. Such a bar is absent: its epoch is not committed,
//! and a replay writes it again. A committed epoch has its cells on a quorum, so there a missing
//! cell is damage: taken for absent, the next late trade would overwrite a full bar.

use std::sync::atomic::{AtomicU64, Ordering};

use tapeflow_protocol::{Checkpoint, StoreError};
use tapeflow_schemas::Epoch;

use super::errors::broken;

/// The last committed epoch that this process has seen in the checkpoint.
#[derive(Default)]
pub(super) struct Committed(AtomicU64);

/// The last committed epoch as of the beginning of a read. An epoch that is committed during the
/// read may have had no cell when the row was read.
#[derive(Clone, Copy)]
pub(super) struct CommittedBefore(Epoch);

impl Committed {
    /// Notes a checkpoint that was read, or whose compare-and-set was applied.
    pub(super) fn note(&self, checkpoint: &Checkpoint) {
        self.0
            .fetch_max(checkpoint.committed.epoch, Ordering::Relaxed);
    }

    /// To be called before a read.
    pub(super) fn now(&self) -> CommittedBefore {
        CommittedBefore(self.0.load(Ordering::Relaxed))
    }
}

impl CommittedBefore {
    /// Whether a row without a cell is a write under way, given its column `epoch`.
    pub(super) fn is_under_way(self, epoch: Option<i64>) -> bool {
        epoch
            .and_then(|epoch| u64::try_from(epoch).ok())
            .is_some_and(|epoch| epoch > self.0)
    }

    /// What a row without a cell is, given its column `epoch`: absent, or damaged. A row without an
    /// epoch proves nothing.
    ///
    /// # Errors
    /// [`StoreError::Broken`] if its epoch is committed.
    pub(super) fn absent_or_damaged(
        self,
        epoch: Option<i64>,
        name: impl std::fmt::Display,
    ) -> Result<(), StoreError> {
        if epoch.is_some() && !self.is_under_way(epoch) {
            Err(broken(format!("{name}: state cell is missing")))
        } else {
            Ok(())
        }
    }
}
