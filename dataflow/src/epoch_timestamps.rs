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

#[cfg(test)]
mod tests {
    use tapeflow_protocol::{
        SourceIdentity,
        decide::{self, Opening},
    };

    use super::*;

    /// A bar of an epoch may be at its binding's write timestamp already, with what a replay that
    /// has fewer records would write differently. So a replay writes above all of them.
    #[test]
    fn a_replay_is_written_at_the_recovery_timestamp_and_not_at_that_of_a_binding() {
        let opening = |owner: &str| Opening {
            job: "j".into(),
            fingerprint: "f".into(),
            source: SourceIdentity {
                cluster: "c".into(),
                topic: "t".into(),
                topic_id: None,
            },
            earliest: vec![0],
            owner: owner.into(),
        };
        let first = decide::take_over(None, &opening("one"), 1_000).expect("a fresh store");
        let cuts = first.committed.cuts.clone();
        let bound = decide::bind(&first, cuts, 0, 2_000);
        let taken = decide::take_over(Some(&bound), &opening("two"), 3_000).expect("the same job");
        let (binding, recovery) = (taken.last_binding().clone(), taken.recovery_timestamp);
        assert!(recovery > binding.write_timestamp);
        let timestamps = EpochTimestamps {
            checkpoint: Some(Rc::new(taken)),
            bound: BTreeMap::from([(binding.epoch + 1, recovery + 5)]),
        };
        assert!(timestamps.is_replay(binding.epoch));
        assert_eq!(timestamps.write_timestamp_of(binding.epoch), Some(recovery));
        assert_eq!(
            timestamps.write_timestamp_of(binding.epoch + 1),
            Some(recovery + 5)
        );
        assert_eq!(timestamps.write_timestamp_of(binding.epoch + 2), None);
    }
}
