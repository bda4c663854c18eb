//! How long an epoch lasts.
//!
//! A record waits for its epoch to end, and an end costs a compare-and-set and a write of each
//! touched row. So an epoch lasts its interval where there is much to write, and ends early where
//! there is little:
//!
//! * not before a record waits for it, and not while an earlier epoch is being bound or written;
//! * not before a fifth of the interval;
//! * not before three times as long as the last epoch took to be bound and written: a store works at
//!   most a quarter of the time for epochs that could have been longer.
//!
//! A quiet market is then late by the store's answer and not by half an interval on average. A
//! clock decides here, and no value: any division of records into epochs gives the same bars.

use std::time::{Duration, Instant};

use tapeflow_schemas::Epoch;

/// The shortest epoch is this part of the interval.
const SHORTEST: u32 = 5;
/// An early end waits this many times as long as the last epoch took.
const REST: u32 = 3;

/// When the next epoch ends.
#[derive(Debug)]
pub(super) struct Pacing {
    interval: Duration,
    /// It ends now if there is room.
    at_the_latest: Instant,
    /// It does not end early before this.
    at_the_earliest: Instant,
    /// Whether a source has read a record for it.
    has_records: bool,
    /// The last epoch that had records, and when it was sealed, until its bars are acknowledged.
    under_way: Option<(Epoch, Instant)>,
}

impl Pacing {
    pub(super) fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            at_the_latest: now + interval,
            at_the_earliest: now + interval / SHORTEST,
            has_records: false,
            under_way: None,
        }
    }

    /// The epoch is to end as soon as there is room.
    pub(super) fn end_now(&mut self, now: Instant) {
        self.at_the_latest = now;
    }

    /// A source has read the first record of the epoch.
    pub(super) fn record_waits(&mut self) {
        self.has_records = true;
    }

    /// Whether the epoch ends, if there is room for another.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.at_the_latest
            || (self.has_records && self.under_way.is_none() && now >= self.at_the_earliest)
    }

    /// The seal of `epoch` begins.
    pub(super) fn seals(&mut self, epoch: Epoch, now: Instant) {
        self.at_the_latest = now + self.interval;
        self.at_the_earliest = now + self.interval / SHORTEST;
        self.has_records = false;
        self.under_way = Some((epoch, now));
    }

    /// The seal found no records: nothing is bound or written.
    pub(super) fn is_empty(&mut self) {
        self.under_way = None;
    }

    /// A quorum has every bar of the epochs up to this one.
    pub(super) fn acknowledged(&mut self, acknowledged: Epoch, now: Instant) {
        if let Some((epoch, sealed)) = self.under_way
            && epoch <= acknowledged
        {
            let rest = now.saturating_duration_since(sealed).saturating_mul(REST);
            self.at_the_earliest = self.at_the_earliest.max(sealed + rest);
            self.under_way = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(250);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn an_epoch_with_little_in_it_ends_early_and_one_without_records_does_not() {
        let begun = Instant::now();
        let mut pacing = Pacing::new(INTERVAL, begun);
        assert!(!pacing.is_due(begun + ms(200)), "no record waits");
        assert!(pacing.is_due(begun + ms(250)));
        pacing.seals(1, begun + ms(250));
        pacing.is_empty();
        pacing.record_waits();
        assert!(!pacing.is_due(begun + ms(299)), "a fifth has not passed");
        assert!(pacing.is_due(begun + ms(300)));
    }

    #[test]
    fn a_slow_store_makes_epochs_as_long_as_the_interval() {
        let begun = Instant::now();
        for (took, ends_after) in [(5, 50), (30, 90), (60, 180), (200, 250), (400, 250)] {
            let mut pacing = Pacing::new(INTERVAL, begun);
            pacing.seals(1, begun);
            pacing.record_waits();
            let ends = (0..1_000)
                .find(|after| {
                    let now = begun + ms(*after);
                    if *after >= took {
                        pacing.acknowledged(1, now);
                    }
                    pacing.is_due(now)
                })
                .expect("it ends");
            assert_eq!(ends, ends_after, "an epoch that took {took} ms");
        }
    }
}
