//! Where the log ends, asked now and then on a thread of its own: a log that is out of reach takes seconds to say nothing.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
    time::Duration,
};

use tapeflow_dataflow::Log;
use tapeflow_schemas::{Offset, Partition};

use super::Told;

/// Between two looks at all partitions.
const EVERY: Duration = Duration::from_secs(1);
/// Each partition is a question of its own: with many of them looks are rarer.
const A_PARTITION: Duration = Duration::from_millis(20);

/// The offset that the next record of each partition will get, as far as the log has told.
#[derive(Debug, Default)]
pub(crate) struct Ends(Mutex<Vec<Option<Offset>>>);

impl Ends {
    /// The end of a partition; none if the log has not told.
    pub(crate) fn of(&self, partition: usize) -> Option<Offset> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(partition).copied().flatten()
    }

    fn set(&self, partition: usize, end: Offset) {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.len() <= partition {
            ends.resize(partition + 1, None);
        }
        ends[partition] = Some(end);
    }
}

/// Asks until nobody wants to know any more.
pub(super) fn follow(told: Arc<Told>, log: Arc<dyn Log>) {
    let told: Weak<Told> = Arc::downgrade(&told);
    let spawned = thread::Builder::new().name("log ends".into()).spawn(move || {
        loop {
            let Some(partitions) = told.upgrade().map(|told| partitions(&told)) else { return };
            for partition in 0..partitions {
                let (Ok(number), Some(told)) = (Partition::try_from(partition), told.upgrade()) else { return };
                if let (Ok(bounds), Some(job)) = (log.bounds(number), &told.job) {
                    job.ends.set(partition, bounds.end);
                }
            }
            let many = A_PARTITION.saturating_mul(u32::try_from(partitions).unwrap_or(u32::MAX));
            thread::sleep(EVERY.max(many));
        }
    });
    if let Err(fault) = spawned {
        tracing::warn!(%fault, "the log's ends cannot be followed: lag is not told");
    }
}

/// Partitions that the job has taken up.
fn partitions(told: &Told) -> usize {
    told.job.as_ref().and_then(|job| job.metrics.head()).map_or(0, |head| head.committed.cuts.len())
}
