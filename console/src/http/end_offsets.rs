//! The end offsets of the log, read about once a second on a thread of their own: a log that is out
//! of reach blocks each read for seconds.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tapeflow_log::Log;
use tapeflow_schemas::{Offset, Partition};

use super::state::ServerState;

/// The shortest time between two rounds over all partitions.
const ROUND: Duration = Duration::from_secs(1);
/// Each partition is one request: with many partitions, rounds are this much longer for each.
const ROUND_PER_PARTITION: Duration = Duration::from_millis(20);

/// An end offset this old is no longer shown.
const STALE: Duration = Duration::from_secs(30);
/// With many partitions an end offset stays valid for this many rounds.
const STALE_ROUNDS: u32 = 3;

/// The end offset of each partition, and when it was read. The end offset is the offset that the
/// next record gets.
#[derive(Debug, Default)]
pub(crate) struct EndOffsets {
    read: Mutex<Vec<Option<(Offset, Instant)>>>,
    /// Whether a thread reads them.
    polled: AtomicBool,
}

impl EndOffsets {
    /// The end offset of a partition; none if it was never read or is stale.
    pub(crate) fn of(&self, partition: usize) -> Option<Offset> {
        let ends = self.lock();
        let (end, at) = ends.get(partition).copied().flatten()?;
        (at.elapsed() <= STALE.max(round(ends.len()) * STALE_ROUNDS)).then_some(end)
    }

    /// The age of the oldest end offset of `partitions` partitions; none without partitions.
    /// `started` counts for a partition that was never read.
    pub(crate) fn age(&self, partitions: usize, started: Instant) -> Option<Duration> {
        let ends = self.lock();
        (0..partitions)
            .map(|partition| {
                ends.get(partition)
                    .copied()
                    .flatten()
                    .map_or(started, |(_, at)| at)
                    .elapsed()
            })
            .max()
    }

    /// How long the log has not said where it ends; none while each end offset is fresh enough to
    /// show, and in a process that asks for none.
    pub(crate) fn silence(&self, partitions: usize, started: Instant) -> Option<Duration> {
        if !self.polled.load(Ordering::Relaxed) {
            return None;
        }
        let limit = STALE.max(round(partitions) * STALE_ROUNDS);
        self.age(partitions, started).filter(|age| *age > limit)
    }

    fn set(&self, partition: usize, end: Offset) {
        let mut ends = self.lock();
        if ends.len() <= partition {
            ends.resize(partition + 1, None);
        }
        ends[partition] = Some((end, Instant::now()));
    }

    /// Each entry is replaced in one assignment, so a poisoned lock still guards valid entries.
    fn lock(&self) -> MutexGuard<'_, Vec<Option<(Offset, Instant)>>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread that reads end offsets. It ends when the state is dropped.
pub(crate) fn poll(state: &Arc<ServerState>, log: Arc<dyn Log>) {
    if let Some(job) = &state.job {
        job.end_offsets.polled.store(true, Ordering::Relaxed);
    }
    let state: Weak<ServerState> = Arc::downgrade(state);
    let spawned = thread::Builder::new()
        .name("end offsets".into())
        .spawn(move || {
            loop {
                let Some(partitions) = state.upgrade().map(|state| state.partitions()) else {
                    return;
                };
                for partition in 0..partitions {
                    let (Ok(number), Some(state)) =
                        (Partition::try_from(partition), state.upgrade())
                    else {
                        return;
                    };
                    if let (Ok(bounds), Some(job)) = (log.bounds(number), &state.job) {
                        job.end_offsets.set(partition, bounds.end);
                    }
                }
                thread::sleep(round(partitions));
            }
        });
    if let Err(error) = spawned {
        tracing::warn!(
            %error,
            "cannot start the thread that reads end offsets; lag is not reported"
        );
    }
}

/// The time between two rounds over so many partitions.
fn round(partitions: usize) -> Duration {
    ROUND.max(ROUND_PER_PARTITION.saturating_mul(u32::try_from(partitions).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_partition_decides_the_age_and_a_stale_end_offset_is_not_shown() {
        let (ends, now) = (EndOffsets::default(), Instant::now());
        let started = now.checked_sub(Duration::from_secs(100)).unwrap_or(now);
        assert_eq!(ends.age(0, started), None, "there are no partitions");
        ends.set(0, 7);
        assert_eq!((ends.of(0), ends.of(1)), (Some(7), None));
        assert!(
            ends.age(1, started).is_some_and(|age| age < STALE),
            "just read"
        );
        assert!(
            ends.age(2, started).is_some_and(|age| age >= now - started),
            "the other partition was never read"
        );
        ends.lock()[0] = Some((7, started));
        assert_eq!(ends.of(0), None, "stale");
        assert_eq!(ends.silence(1, started), None, "no thread asks the log");
        ends.polled.store(true, Ordering::Relaxed);
        assert!(ends.silence(1, started) >= Some(Duration::from_secs(100)));
        ends.set(0, 8);
        assert_eq!(ends.silence(1, started), None, "it answers again");
    }
}
