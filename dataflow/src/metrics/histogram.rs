//! A histogram of milliseconds with a fixed size, updated without a lock.
//!
//! `hdrhistogram` is not used: the Prometheus buckets need counts at exact bucket bounds, workers
//! need atomic updates, and a snapshot of this array is cheaper than the merge of its recorders.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Buckets within each doubling: a bucket is at most an eighth of its value wide.
const STEPS: usize = 8;
/// Below this value, every millisecond has its own bucket.
const EXACT: u64 = STEPS as u64;
/// Doublings above that, up to 2^27 ms (37 hours). The last bucket has no upper bound.
const DOUBLINGS: usize = 24;
const BUCKETS: usize = STEPS * (DOUBLINGS + 1);

/// The counts of observations by value.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_ms: AtomicU64,
    max_ms: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            sum_ms: AtomicU64::new(0),
            max_ms: AtomicU64::new(0),
        }
    }
}

/// The content of a histogram at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramSnapshot {
    counts: Vec<u64>,
    /// The sum of all observations, in milliseconds.
    pub sum_ms: u64,
    /// The largest observation, in milliseconds.
    pub max_ms: u64,
}

impl Histogram {
    /// Adds an observation `times` times.
    pub(crate) fn observe(&self, ms: u64, times: u64) {
        self.buckets[bucket_of(ms)].fetch_add(times, Ordering::Relaxed);
        self.sum_ms
            .fetch_add(ms.saturating_mul(times), Ordering::Relaxed);
        self.max_ms.fetch_max(ms, Ordering::Relaxed);
    }

    /// The observations so far.
    #[must_use]
    pub fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            counts: self
                .buckets
                .iter()
                .map(|bucket| bucket.load(Ordering::Relaxed))
                .collect(),
            sum_ms: self.sum_ms.load(Ordering::Relaxed),
            max_ms: self.max_ms.load(Ordering::Relaxed),
        }
    }
}

/// The observations of the last one to two minutes, so that a display shows the current state and
/// not the average since the start.
#[derive(Debug)]
pub struct Recent(Mutex<Minutes>);

#[derive(Debug)]
struct Minutes {
    started: Instant,
    current: Histogram,
    previous: Histogram,
}

impl Minutes {
    const LENGTH: Duration = Duration::from_secs(60);

    fn rotate(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.started);
        if passed >= Self::LENGTH {
            self.previous = std::mem::take(&mut self.current);
            if passed >= Self::LENGTH * 2 {
                self.previous = Histogram::default();
            }
            self.started = now;
        }
    }
}

impl Default for Recent {
    fn default() -> Self {
        Self(Mutex::new(Minutes {
            started: Instant::now(),
            current: Histogram::default(),
            previous: Histogram::default(),
        }))
    }
}

impl Recent {
    /// Adds an observation `times` times.
    pub(crate) fn observe(&self, ms: u64, times: u64, now: Instant) {
        let mut minutes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        minutes.rotate(now);
        minutes.current.observe(ms, times);
    }

    /// The observations of the last one to two minutes.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> HistogramSnapshot {
        let mut minutes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        minutes.rotate(now);
        let (current, previous) = (minutes.current.snapshot(), minutes.previous.snapshot());
        HistogramSnapshot {
            counts: current
                .counts
                .iter()
                .zip(&previous.counts)
                .map(|(current, previous)| current + previous)
                .collect(),
            sum_ms: current.sum_ms + previous.sum_ms,
            max_ms: current.max_ms.max(previous.max_ms),
        }
    }
}

impl HistogramSnapshot {
    /// The number of observations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The number of observations of at most `ms`. A bucket that also contains larger values is not
    /// included, so the result is exact only at bucket bounds.
    #[must_use]
    pub fn up_to(&self, ms: u64) -> u64 {
        self.counts
            .iter()
            .enumerate()
            .take_while(|(bucket, _)| largest_of(*bucket) <= ms)
            .map(|(_, count)| count)
            .sum()
    }

    /// The value that a share (0 to 1) of the observations do not exceed, at most an eighth too
    /// large. `None` without observations.
    #[must_use]
    pub fn quantile_ms(&self, share: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank, from 1 to count"
        )]
        let rank = ((count as f64 * share).ceil() as u64).clamp(1, count);
        let mut counted = 0;
        let at = self.counts.iter().position(|count| {
            counted += count;
            counted >= rank
        })?;
        Some(largest_of(at).min(self.max_ms))
    }
}

/// The bucket of a value.
fn bucket_of(ms: u64) -> usize {
    if ms < EXACT {
        return usize::try_from(ms).unwrap_or(0);
    }
    let doubling = ms.ilog2() - EXACT.ilog2();
    let step = (ms >> doubling) - EXACT;
    (STEPS * (doubling as usize + 1) + usize::try_from(step).unwrap_or(0)).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn largest_of(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    if bucket == BUCKETS - 1 {
        return u64::MAX;
    }
    let (doubling, step) = (bucket / STEPS - 1, (bucket % STEPS) as u64);
    ((EXACT + step + 1) << doubling) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_in_a_bucket_that_ends_at_most_an_eighth_above_it() {
        let mut before = 0;
        for ms in (0..100_000u64).chain((1..27).map(|power| 1 << power)) {
            let (bucket, largest) = (bucket_of(ms), largest_of(bucket_of(ms)));
            assert!(
                largest >= ms && largest - ms <= ms / 8,
                "{ms}: bucket {bucket} ends at {largest}"
            );
            if ms > 0 && bucket_of(ms - 1) != bucket {
                assert_eq!(largest_of(bucket - 1), ms - 1, "buckets meet at {ms}");
            }
            before = before.max(bucket);
        }
        assert!(before < BUCKETS - 1);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn observations_older_than_two_minutes_are_dropped() {
        let recent = Recent::default();
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let observed = |seconds| {
            (
                recent.snapshot(at(seconds)).count(),
                recent.snapshot(at(seconds)).max_ms,
            )
        };
        recent.observe(900, 2, at(1));
        recent.observe(100, 1, at(59));
        assert_eq!(observed(59), (3, 900));
        recent.observe(200, 1, at(61));
        assert_eq!(observed(100), (4, 900), "the previous minute still counts");
        assert_eq!(observed(122), (1, 200));
        assert_eq!(observed(400), (0, 0), "no observation for minutes");
    }

    #[test]
    fn quantiles_match_the_observations() {
        let histogram = Histogram::default();
        assert_eq!(histogram.snapshot().quantile_ms(0.5), None);
        (1..=100).for_each(|ms| histogram.observe(ms * 10, 3));
        let snapshot = histogram.snapshot();
        assert_eq!(
            (snapshot.count(), snapshot.sum_ms, snapshot.max_ms),
            (300, 151_500, 1_000)
        );
        for (share, exact) in [(0.5, 500), (0.9, 900), (0.99, 990), (1.0, 1_000)] {
            let found = snapshot.quantile_ms(share).expect("observed");
            assert!(
                (exact..=exact + exact / 8).contains(&found),
                "{share}: {found}"
            );
        }
        assert_eq!(snapshot.up_to(u64::MAX), 300);
        assert_eq!(snapshot.up_to(9), 0);
    }
}
