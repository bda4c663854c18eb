//! How fresh bars are: from the append of a record to the log until the store has acknowledged what
//! came of it.
//!
//! Not every record is timed: of each epoch a source keeps at most [`KEPT`] times of append, evenly
//! spread over its records, and each stands for as many records as it was one of. They wait here
//! until the epoch is acknowledged on all workers.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, time::Instant};

use tapeflow_schemas::Epoch;

use crate::metrics::Metrics;

/// Times of append kept of one epoch and source.
const KEPT: usize = 64;

/// Times of append of some of the records of one stretch of the log.
#[derive(Clone, Debug)]
pub(crate) struct Samples {
    /// One in so many records is kept.
    every: u64,
    /// Records to pass over before the next one is kept.
    pass: u64,
    appended_ms: Vec<i64>,
}

impl Default for Samples {
    fn default() -> Self {
        Self {
            every: 1,
            pass: 0,
            appended_ms: Vec::new(),
        }
    }
}

impl Samples {
    /// Hears of a record.
    pub(crate) fn hear(&mut self, appended_ms: i64) {
        if self.pass > 0 {
            self.pass -= 1;
            return;
        }
        if self.appended_ms.len() == KEPT {
            let mut odd = true;
            self.appended_ms.retain(|_| {
                odd = !odd;
                !odd
            });
            self.every *= 2;
        }
        self.appended_ms.push(appended_ms);
        self.pass = self.every - 1;
    }
}

/// The samples of epochs that are not acknowledged yet, oldest first; shared between a source and
/// its worker's loop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unacknowledged(Rc<RefCell<VecDeque<(Epoch, Samples)>>>);

impl Unacknowledged {
    /// An epoch was sealed.
    pub(crate) fn push(&self, epoch: Epoch, samples: Samples) {
        if !samples.appended_ms.is_empty() {
            self.0.borrow_mut().push_back((epoch, samples));
        }
    }

    /// Everything of the epochs up to `acknowledged` is with the store, at `now_us` by the wall
    /// clock.
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
    fn samples_are_few_spread_evenly_and_stand_for_all_records() {
        for records in [1i64, 64, 65, 1_000, 100_000] {
            let mut samples = Samples::default();
            (0..records).for_each(|at| samples.hear(at));
            let every = i64::try_from(samples.every).expect("small");
            assert!(
                samples.appended_ms.len() <= KEPT,
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
            let stood_for = samples.appended_ms.len() as i64 * every;
            assert!(
                (records..records + every).contains(&stood_for),
                "{records}: {stood_for}"
            );
        }
    }

    #[test]
    fn an_epoch_is_observed_once_when_it_is_acknowledged() {
        let (waiting, metrics) = (Unacknowledged::default(), Metrics::default());
        let sampled = |ms| {
            let mut samples = Samples::default();
            samples.hear(ms);
            samples
        };
        waiting.push(7, sampled(1_000));
        waiting.push(8, sampled(2_000));
        waiting.push(9, Samples::default());
        waiting.observe(
            6,
            || panic!("nothing is acknowledged: no clock is read"),
            &metrics,
        );
        waiting.observe(7, || 1_250_000, &metrics);
        waiting.observe(7, || panic!("observed once"), &metrics);
        assert_eq!(
            (
                metrics.freshness.look().count(),
                metrics.freshness.look().max_ms
            ),
            (1, 250)
        );
        waiting.observe(9, || 1_999_000, &metrics);
        assert_eq!(
            (
                metrics.freshness.look().count(),
                metrics.freshness.look().sum_ms
            ),
            (2, 250),
            "a clock that goes back makes no negative age"
        );
    }
}
