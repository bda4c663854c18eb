//! Where the log ends, asked now and then on a thread of its own: a log that is out of reach takes
//! seconds to say nothing.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

use tapeflow_log::Log;
use tapeflow_schemas::{Offset, Partition};

use super::{Job, Told};

/// Between two looks at all partitions.
const EVERY: Duration = Duration::from_secs(1);
/// Each partition is a question of its own: with many of them looks are rarer.
const A_PARTITION: Duration = Duration::from_millis(20);

/// What the log told so long ago says nothing of now; with many partitions it takes a few rounds.
const STALE: Duration = Duration::from_secs(30);
/// Likewise.
const STALE_ROUNDS: u32 = 3;

/// The offset that the next record of each partition will get, and when the log told it.
#[derive(Debug, Default)]
pub(crate) struct Ends(Mutex<Vec<Option<(Offset, Instant)>>>);

impl Ends {
    /// The end of a partition; none if the log has not told lately.
    pub(crate) fn of(&self, partition: usize) -> Option<Offset> {
        let told = self.told();
        let (end, at) = told.get(partition).copied().flatten()?;
        (at.elapsed() <= STALE.max(round(told.len()) * STALE_ROUNDS)).then_some(end)
    }

    /// How long ago the log last told the end of the partition that it has been silent of for
    /// longest, since `began` if it never has; none without partitions.
    pub(crate) fn age(&self, partitions: usize, began: Instant) -> Option<Duration> {
        let told = self.told();
        (0..partitions)
            .map(|partition| {
                told.get(partition)
                    .copied()
                    .flatten()
                    .map_or(began, |(_, at)| at)
                    .elapsed()
            })
            .max()
    }

    fn set(&self, partition: usize, end: Offset) {
        let mut ends = self.told();
        if ends.len() <= partition {
            ends.resize(partition + 1, None);
        }
        ends[partition] = Some((end, Instant::now()));
    }

    fn told(&self) -> MutexGuard<'_, Vec<Option<(Offset, Instant)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks until nobody wants to know any more.
pub(super) fn follow(told: Arc<Told>, log: Arc<dyn Log>) {
    let told: Weak<Told> = Arc::downgrade(&told);
    let spawned = thread::Builder::new()
        .name("log ends".into())
        .spawn(move || {
            loop {
                let Some(partitions) = told.upgrade().map(|told| partitions(&told)) else {
                    return;
                };
                for partition in 0..partitions {
                    let (Ok(number), Some(told)) = (Partition::try_from(partition), told.upgrade())
                    else {
                        return;
                    };
                    if let (Ok(bounds), Some(job)) = (log.bounds(number), &told.job) {
                        job.ends.set(partition, bounds.end);
                    }
                }
                thread::sleep(round(partitions));
            }
        });
    if let Err(error) = spawned {
        tracing::warn!(%error, "the log's ends cannot be followed: lag is not told");
    }
}

/// Between two looks at so many partitions.
fn round(partitions: usize) -> Duration {
    EVERY.max(A_PARTITION.saturating_mul(u32::try_from(partitions).unwrap_or(u32::MAX)))
}

/// Partitions that the job has taken up.
fn partitions(told: &Told) -> usize {
    told.job.as_ref().map_or(0, Job::partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_silent_of_one_partition_is_silent() {
        let (ends, now) = (Ends::default(), Instant::now());
        let began = now.checked_sub(Duration::from_secs(100)).unwrap_or(now);
        assert_eq!(ends.age(0, began), None, "nothing to tell of");
        ends.set(0, 7);
        assert_eq!((ends.of(0), ends.of(1)), (Some(7), None));
        assert!(
            ends.age(1, began).is_some_and(|age| age < STALE),
            "told just now"
        );
        assert!(
            ends.age(2, began).is_some_and(|age| age >= now - began),
            "never told of the other"
        );
        ends.told()[0] = Some((7, began));
        assert_eq!(ends.of(0), None, "what it told then says nothing of now");
    }
}
