//! What the job counts about itself: one set per process, shared by its workers. Names and meanings
//! stand in [`tapeflow_schemas::metric`].

pub(crate) mod freshness;
mod histogram;
pub(crate) mod store_calls;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tapeflow_protocol::{Checkpoint, Counts, DeadLetter};

pub use self::histogram::{Histogram, Observed, Recent};
use crate::cluster::heartbeat::Liveness;

/// Reasons of dead letters counted apart; a record brings its own word along, and whoever writes
/// the log could bring any number of them.
const REASONS: usize = 64;
/// Where further ones are counted.
const OTHER_REASON: &str = "other";

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of one process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Log records read, replayed ones included.
    pub records: Counter,
    /// Trades counted into bars, replayed ones included.
    pub accepted: Counter,
    /// Of those, late ones.
    pub late: Counter,
    /// Entries of size zero.
    pub price_updates: Counter,
    /// Records dropped as repeats.
    pub duplicates: Counter,
    /// Sequences that sessions skipped.
    pub gaps: Counter,
    /// Offsets that bindings of this run gave up, because the log had lost them before they were
    /// committed.
    pub lost: Counter,
    /// Bars acknowledged by the store.
    pub bars_written: Counter,
    /// Bars read back because their key was not resident.
    pub bars_read: Counter,
    /// Bars put out of memory.
    pub bars_evicted: Counter,
    /// Lists of views acknowledged by the store.
    pub lists_written: Counter,
    /// Bars asked for because a view's window was not in memory.
    pub view_bars_read: Counter,
    /// Calls of the store that were tried again.
    pub store_retries: Counter,
    /// The generation of the job; 0 before it has begun.
    pub generation: Gauge,
    /// The last epoch bound, *b*.
    pub epoch_bound: Gauge,
    /// The last epoch committed, *c*.
    pub epoch_committed: Gauge,
    /// Append to the log until acknowledged by the store, in milliseconds; of the records this
    /// process read.
    pub freshness: Histogram,
    /// The same of the last one to two minutes.
    pub recent_freshness: Recent,
    dead_letters: Mutex<BTreeMap<String, u64>>,
    checkpoint: Mutex<Option<Arc<Checkpoint>>>,
    ready: AtomicBool,
    progress: Mutex<Option<Instant>>,
    retried: Mutex<Option<Instant>>,
    liveness: OnceLock<Liveness>,
}

impl Metrics {
    /// Dead letters of this process, by reason.
    #[must_use]
    pub fn dead_letters(&self) -> BTreeMap<String, u64> {
        locked(&self.dead_letters).clone()
    }

    /// The checkpoint as the coordinator last knew it; none in other processes, and before the job has begun.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Arc<Checkpoint>> {
        locked(&self.checkpoint).clone()
    }

    /// Whether all of the job has replayed what was bound, and goes on.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// How long ago the job last committed, or found that everything is; none if it never has.
    #[must_use]
    pub fn progress_age(&self) -> Option<Duration> {
        locked(&self.progress).map(|at| at.elapsed())
    }

    /// How long ago a call of the store was last tried again; none if none ever was.
    #[must_use]
    pub fn retry_age(&self) -> Option<Duration> {
        locked(&self.retried).map(|at| at.elapsed())
    }

    /// How long ago the slowest worker began a turn; none before the workers have begun.
    #[must_use]
    pub fn turn_age(&self) -> Option<Duration> {
        self.liveness.get().and_then(Liveness::age)
    }

    pub(crate) fn watch_turns(&self, liveness: &Liveness) {
        let _ = self.liveness.set(liveness.clone());
    }

    pub(crate) fn retries(&self) {
        self.store_retries.add(1);
        *locked(&self.retried) = Some(Instant::now());
    }

    pub(crate) fn goes_on(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    pub(crate) fn progressed(&self, now: Instant) {
        *locked(&self.progress) = Some(now);
    }

    pub(crate) fn set_checkpoint(&self, checkpoint: &Checkpoint) {
        *locked(&self.checkpoint) = Some(Arc::new(checkpoint.clone()));
        self.generation.set(checkpoint.generation);
        self.epoch_bound.set(checkpoint.last_binding().epoch);
        self.epoch_committed.set(checkpoint.committed.epoch);
    }

    /// Adds what a stretch of the log came to. Records are counted as they are read.
    pub(crate) fn count(&self, counts: &Counts) {
        self.accepted.add(counts.accepted);
        self.late.add(counts.late);
        self.price_updates.add(counts.price_updates);
        self.duplicates.add(counts.duplicates);
        self.gaps.add(counts.gaps);
    }

    pub(crate) fn count_dead_letters<'a>(
        &self,
        dead_letters: impl Iterator<Item = &'a DeadLetter>,
    ) {
        let mut by_reason = locked(&self.dead_letters);
        for dead_letter in dead_letters {
            let known = by_reason.contains_key(&dead_letter.reason) || by_reason.len() < REASONS;
            *by_reason
                .entry(if known {
                    dead_letter.reason.clone()
                } else {
                    OTHER_REASON.to_owned()
                })
                .or_default() += 1;
        }
    }
}

/// A count is whole whatever its holder died of.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letters_are_counted_by_reason_and_a_flood_of_reasons_is_one() {
        let metrics = Metrics::default();
        let dead_letter = |reason: String| DeadLetter {
            partition: 0,
            offset: 0,
            index: 0,
            reason,
            detail: String::new(),
            payload: Vec::new(),
        };
        let few = [
            dead_letter("json".into()),
            dead_letter("price".into()),
            dead_letter("json".into()),
        ];
        metrics.count_dead_letters(few.iter());
        assert_eq!(
            metrics.dead_letters(),
            BTreeMap::from([("json".into(), 2), ("price".into(), 1)])
        );
        let many: Vec<DeadLetter> = (0..1_000).map(|n| dead_letter(format!("r{n}"))).collect();
        metrics.count_dead_letters(many.iter());
        let found = metrics.dead_letters();
        assert_eq!(
            (found.len(), found.values().sum::<u64>()),
            (REASONS + 1, 1_003)
        );
        assert_eq!(found[OTHER_REASON], 1_000 - (REASONS as u64 - 2));
    }
}
