//! The write timestamps of epochs, as this worker knows them from the coordinator.
//!
//! Operators read them; the worker's loop updates them when a message of the coordinator arrives.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use tapeflow_protocol::Checkpoint;
use tapeflow_schemas::{Epoch, WriteTimestamp};

/// Shared by the operators of one worker and its loop.
pub(crate) type SharedEpochTimestamps = Rc<RefCell<EpochTimestamps>>;

/// The checkpoint of the take-over, and the write timestamps of the epochs bound since.
#[derive(Default)]
pub(crate) struct EpochTimestamps {
    /// The checkpoint that this generation took over. Set once, before any data arrives.
    pub(crate) checkpoint: Option<Rc<Checkpoint>>,
    /// Epochs bound by this generation and not committed yet.
    pub(crate) bound: BTreeMap<Epoch, WriteTimestamp>,
}

impl EpochTimestamps {
    /// The timestamp at which data of a time is written. `None` until the coordinator's message has
    /// reached this worker.
    ///
    /// The replay enters at the last epoch bound before the take-over, and is written at the
    /// recovery timestamp.
    pub(crate) fn write_timestamp_of(&self, time: u64) -> Option<WriteTimestamp> {
        let checkpoint = self.checkpoint.as_ref()?;
        if time == checkpoint.last_binding().epoch {
            Some(checkpoint.recovery_timestamp)
        } else {
            self.bound.get(&time).copied()
        }
    }

    /// Whether data of a time comes from the replay.
    pub(crate) fn is_replay(&self, time: u64) -> bool {
        self.checkpoint
            .as_ref()
            .is_some_and(|checkpoint| checkpoint.last_binding().epoch == time)
    }
}
