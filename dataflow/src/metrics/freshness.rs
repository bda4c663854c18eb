//! Freshness: the time from the append of a record to the log until the store has acknowledged its
//! bars.
//!
//! Not every record is measured. Of each epoch a source keeps at most [`MAX_SAMPLES`] append times,
//! evenly spread over its records; each sample stands for as many records as were skipped. Samples
//! wait here until the epoch is acknowledged on all workers.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, time::Instant};

use tapeflow_schemas::Epoch;

use crate::metrics::Metrics;

/// The most samples of one epoch and source.
const MAX_SAMPLES: usize = 64;

/// The append times of some records of one epoch.
#[derive(Clone, Debug)]
pub(crate) struct Samples {
    /// One in so many records is a sample.
    every: u64,
    /// The records to skip before the next sample.
    skip: u64,
    appended_ms: Vec<i64>,
}

impl Default for Samples {
    fn default() -> Self {
        Self {
            every: 1,
            skip: 0,
            appended_ms: Vec::new(),
        }
    }
}

impl Samples {
    /// Takes the append time of the next record.
    pub(crate) fn record(&mut self, appended_ms: i64) {
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        if self.appended_ms.len() == MAX_SAMPLES {
            let mut odd = true;
            self.appended_ms.retain(|_| {
                odd = !odd;
                !odd
            });
            self.every *= 2;
        }
        self.appended_ms.push(appended_ms);
        self.skip = self.every - 1;
    }
}

/// The samples of epochs that are not acknowledged yet, oldest first. Shared by a source and its
/// worker's loop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unacknowledged(Rc<RefCell<VecDeque<(Epoch, Samples)>>>);

impl Unacknowledged {
    /// Adds the samples of a sealed epoch.
    pub(crate) fn push(&self, epoch: Epoch, samples: Samples) {
        if !samples.appended_ms.is_empty() {
            self.0.borrow_mut().push_back((epoch, samples));
        }
    }

    /// Observes the samples of the epochs up to `acknowledged`, which the store has acknowledged.
    /// `now_us` is the wall clock; it is read only if there are samples.
    pub(crate) fn observe(
        &self,
        acknowledged: Epoch,
        now_us: impl FnOnce() -> i64,
        metrics: &Metrics,
    ) {
        let mut waiting = self.0.borrow_mut();
        if waiting
            .front()
            .is_none_or(|(epoch, _)| *epoch > acknowledged)
        {
            return;
        }
        let (now_ms, now) = (now_us() / 1_000, Instant::now());
        while let Some((_, samples)) = waiting.pop_front_if(|(epoch, _)| *epoch <= acknowledged) {
            for appended_ms in samples.appended_ms {
                let fresh_ms = u64::try_from(now_ms.saturating_sub(appended_ms)).unwrap_or(0);
                metrics.freshness.observe(fresh_ms, samples.every);
                metrics
                    .recent_freshness
                    .observe(fresh_ms, samples.every, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_bounded_evenly_spread_and_represent_all_records() {
        for records in [1i64, 64, 65, 1_000, 100_000] {
            let mut samples = Samples::default();
            (0..records).for_each(|at| samples.record(at));
            let every = i64::try_from(samples.every).expect("small");
            assert!(
                samples.appended_ms.len() <= MAX_SAMPLES,
                "{records}: {}",
                samples.appended_ms.len()
            );
            assert!(
                samples
                    .appended_ms
                    .iter()
                    .zip(0..)
                    .all(|(at, n)| *at == n * every),
                "{records}: {:?}",
                samples.appended_ms
            );
            let represented = samples.appended_ms.len() as i64 * every;
            assert!(
                (records..records + every).contains(&represented),
                "{records}: {represented}"
            );
        }
    }

    #[test]
    fn an_epoch_is_observed_once_when_it_is_acknowledged() {
        let (waiting, metrics) = (Unacknowledged::default(), Metrics::default());
        let sampled = |ms| {
            let mut samples = Samples::default();
            samples.record(ms);
            samples
        };
        waiting.push(7, sampled(1_000));
        waiting.push(8, sampled(2_000));
        waiting.push(9, Samples::default());
        waiting.observe(
            6,
            || panic!("the clock is read without an acknowledged epoch"),
            &metrics,
        );
        waiting.observe(7, || 1_250_000, &metrics);
        waiting.observe(7, || panic!("an epoch is observed twice"), &metrics);
        assert_eq!(
            (
                metrics.freshness.snapshot().count(),
                metrics.freshness.snapshot().max_ms
            ),
            (1, 250)
        );
        waiting.observe(9, || 1_999_000, &metrics);
        assert_eq!(
            (
                metrics.freshness.snapshot().count(),
                metrics.freshness.snapshot().sum_ms
            ),
            (2, 250),
            "a clock that goes back gives the age 0"
        );
    }
}
