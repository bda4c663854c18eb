//! A histogram of milliseconds: fine enough for percentiles, of fixed size, and counted into
//! without a lock.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Steps within each doubling: a bucket is at most an eighth wide.
const STEPS: usize = 8;
/// Below this every millisecond has a bucket of its own.
const EXACT: u64 = STEPS as u64;
/// Doublings above that: up to 2^27 ms, a day and a half. What is longer falls into the last
/// bucket.
const DOUBLINGS: usize = 24;
const BUCKETS: usize = STEPS * (DOUBLINGS + 1);

/// Counts of observations by size.
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

/// One look at a histogram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    counts: Vec<u64>,
    /// The sum of all observations.
    pub sum_ms: u64,
    /// The largest.
    pub max_ms: u64,
}

impl Histogram {
    /// Counts an observation `times` times.
    pub(crate) fn observe(&self, ms: u64, times: u64) {
        self.buckets[bucket_of(ms)].fetch_add(times, Ordering::Relaxed);
        self.sum_ms
            .fetch_add(ms.saturating_mul(times), Ordering::Relaxed);
        self.max_ms.fetch_max(ms, Ordering::Relaxed);
    }

    /// What was observed so far.
    #[must_use]
    pub fn look(&self) -> Observed {
        Observed {
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

/// What was observed in the last minute, and in up to one before it: a day of good service does not
/// hide a bad minute, and the other way round.
#[derive(Debug)]
pub struct Recent(Mutex<Minutes>);

#[derive(Debug)]
struct Minutes {
    began: Instant,
    this: Histogram,
    last: Histogram,
}

impl Minutes {
    const LONG: Duration = Duration::from_secs(60);

    fn turn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.began);
        if passed >= Self::LONG {
            self.last = std::mem::take(&mut self.this);
            if passed >= Self::LONG * 2 {
                self.last = Histogram::default();
            }
            self.began = now;
        }
    }
}

impl Default for Recent {
    fn default() -> Self {
        Self(Mutex::new(Minutes {
            began: Instant::now(),
            this: Histogram::default(),
            last: Histogram::default(),
        }))
    }
}

impl Recent {
    /// Counts an observation `times` times.
    pub(crate) fn observe(&self, ms: u64, times: u64, now: Instant) {
        let mut minutes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        minutes.turn(now);
        minutes.this.observe(ms, times);
    }

    /// What was observed in the last one to two minutes.
    #[must_use]
    pub fn look(&self, now: Instant) -> Observed {
        let mut minutes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        minutes.turn(now);
        let (this, last) = (minutes.this.look(), minutes.last.look());
        Observed {
            counts: this
                .counts
                .iter()
                .zip(&last.counts)
                .map(|(this, last)| this + last)
                .collect(),
            sum_ms: this.sum_ms + last.sum_ms,
            max_ms: this.max_ms.max(last.max_ms),
        }
    }
}

impl Observed {
    /// How many observations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How many were not above `ms`, as far as buckets tell: those of a bucket that reaches beyond
    /// it are left out.
    #[must_use]
    pub fn up_to(&self, ms: u64) -> u64 {
        self.counts
            .iter()
            .enumerate()
            .take_while(|(bucket, _)| largest_of(*bucket) <= ms)
            .map(|(_, count)| count)
            .sum()
    }

    /// The size that a share (0 to 1) of the observations do not exceed, up to an eighth too large;
    /// none without observations.
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
        let mut seen = 0;
        let at = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(largest_of(at).min(self.max_ms))
    }
}

/// The bucket of a size.
fn bucket_of(ms: u64) -> usize {
    if ms < EXACT {
        return usize::try_from(ms).unwrap_or(0);
    }
    let doubling = ms.ilog2() - EXACT.ilog2();
    let step = (ms >> doubling) - EXACT;
    (STEPS * (doubling as usize + 1) + usize::try_from(step).unwrap_or(0)).min(BUCKETS - 1)
}

/// The largest size that falls into a bucket.
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
    fn each_size_falls_into_the_bucket_that_ends_at_most_an_eighth_above_it() {
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
    fn what_is_two_minutes_old_is_forgotten() {
        let recent = Recent::default();
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let seen = |seconds| {
            (
                recent.look(at(seconds)).count(),
                recent.look(at(seconds)).max_ms,
            )
        };
        recent.observe(900, 2, at(1));
        recent.observe(100, 1, at(59));
        assert_eq!(seen(59), (3, 900));
        recent.observe(200, 1, at(61));
        assert_eq!(seen(100), (4, 900), "the minute before still counts");
        assert_eq!(seen(122), (1, 200));
        assert_eq!(seen(400), (0, 0), "nothing was observed for long");
    }

    #[test]
    fn quantiles_are_those_of_the_observations() {
        let histogram = Histogram::default();
        assert_eq!(histogram.look().quantile_ms(0.5), None);
        (1..=100).for_each(|ms| histogram.observe(ms * 10, 3));
        let seen = histogram.look();
        assert_eq!(
            (seen.count(), seen.sum_ms, seen.max_ms),
            (300, 151_500, 1_000)
        );
        for (share, exact) in [(0.5, 500), (0.9, 900), (0.99, 990), (1.0, 1_000)] {
            let found = seen.quantile_ms(share).expect("observed");
            assert!(
                (exact..=exact + exact / 8).contains(&found),
                "{share}: {found}"
            );
        }
        assert_eq!(seen.up_to(u64::MAX), 300);
        assert_eq!(seen.up_to(9), 0);
    }
}
