//! The counters of one process, shared by its workers. Their names and meanings are in
//! [`tapeflow_schemas::metric`].

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

use tapeflow_log::{Outage, OutageState};
use tapeflow_protocol::{Checkpoint, Counts};
use tapeflow_schemas::trading_session::Calendar;

pub use self::histogram::{Histogram, HistogramSnapshot, Recent};
use self::store_calls::StoreCall;
use crate::{cluster::liveness::Liveness, operators::combine::OutsideSessions};

/// The most reasons of dead letters that are counted separately. A record may carry its own reason,
/// so producers could create any number of them.
const REASONS: usize = 64;
/// The reason under which further ones are counted.
const OTHER_REASON: &str = "other";

/// The end of an outage of the store this long is worth a line of the log.
const LONG_OUTAGE: Duration = Duration::from_secs(1);

/// A counter that never decreases.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The current count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that may increase and decrease.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The current value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Log records read, including replayed ones.
    pub records: Counter,
    /// Trades added to bars, including replayed ones.
    pub accepted: Counter,
    /// Accepted trades that were late for at least one window.
    pub late: Counter,
    /// Accepted trades at times without a trading session.
    pub outside_sessions: Counter,
    /// Accepted trades of years that the calendar of trading sessions does not cover.
    pub in_unknown_years: Counter,
    /// Accepted trades that came beyond the horizon of at least one window size.
    pub beyond_horizon: Counter,
    /// Entries of size 0, which only update the price.
    pub price_updates: Counter,
    /// Records dropped as duplicates.
    pub duplicates: Counter,
    /// Sequences that sessions skipped.
    pub gaps: Counter,
    /// Sequences that a producer's session before had appended and that the log does not have.
    pub lost_sequences: Counter,
    /// Offsets that bindings of this run gave up because they were gone from the log before they
    /// were committed.
    pub lost: Counter,
    /// Bars acknowledged by the store.
    pub bars_written: Counter,
    /// Bars read back because they were not in memory.
    pub bars_read: Counter,
    /// Bars of the newest windows among them that had been removed from memory.
    pub open_bars_read: Counter,
    /// Bars removed from memory.
    pub bars_evicted: Counter,
    /// Views acknowledged by the store.
    pub views_written: Counter,
    /// Views read because their window was not in memory.
    pub views_read: Counter,
    /// Windows whose views were made from all their bars, because the views did not say enough.
    pub view_recounts: Counter,
    /// Bars read for that.
    pub view_bars_read: Counter,
    /// Calls to the store that got no answer and were retried.
    pub store_retries: Counter,
    /// The generation of the job; 0 before the take-over.
    pub generation: Gauge,
    /// The last epoch bound, *b*.
    pub epoch_bound: Gauge,
    /// The last epoch committed, *c*.
    pub epoch_committed: Gauge,
    /// Milliseconds from the append of a record to the log until the store acknowledges its bars;
    /// of the records that this process read.
    pub freshness: Histogram,
    /// The same histogram over the last one to two minutes.
    pub recent_freshness: Recent,
    dead_letters: Mutex<BTreeMap<String, u64>>,
    checkpoint: Mutex<Option<Arc<Checkpoint>>>,
    ready: AtomicBool,
    progress: Mutex<Option<Instant>>,
    retried: Mutex<Option<Instant>>,
    answered: Mutex<Option<Instant>>,
    /// One for each [`StoreCall`]: on a full disk reads succeed and writes fail.
    store_outages: [OutageState; StoreCall::ALL.len()],
    liveness: OnceLock<Liveness>,
}

impl Metrics {
    /// Dead letters of this process, by reason.
    #[must_use]
    pub fn dead_letters(&self) -> BTreeMap<String, u64> {
        locked(&self.dead_letters).clone()
    }

    /// The last checkpoint that the coordinator knows; `None` in other processes and before the
    /// take-over.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Arc<Checkpoint>> {
        locked(&self.checkpoint).clone()
    }

    /// Whether all workers of the job have finished the replay and process new records.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// The time since the job last committed, or found everything committed; `None` if it never
    /// has.
    #[must_use]
    pub fn progress_age(&self) -> Option<Duration> {
        locked(&self.progress).map(|at| at.elapsed())
    }

    /// The time since a call to the store was last retried; `None` if none was.
    #[must_use]
    pub fn retry_age(&self) -> Option<Duration> {
        locked(&self.retried).map(|at| at.elapsed())
    }

    /// The time since the store last answered a read or write of bars; `None` if it never has.
    /// While nothing is committed this is the sign of a long load that goes on: only so many epochs
    /// are bound ahead, so a job that is stuck runs out of such calls.
    #[must_use]
    pub fn answer_age(&self) -> Option<Duration> {
        locked(&self.answered).map(|at| at.elapsed())
    }

    /// The time since the slowest worker began its last step; `None` before all have begun one, and
    /// while one waits for the store at the start.
    #[must_use]
    pub fn step_age(&self) -> Option<Duration> {
        self.liveness.get().and_then(Liveness::age)
    }

    pub(crate) fn watch_liveness(&self, liveness: &Liveness) {
        let _ = self.liveness.set(liveness.clone());
    }

    /// Since when the store does not answer, and why: of the kind of call that fails longest.
    #[must_use]
    pub fn store_outage(&self) -> Option<Outage> {
        let outages = self.store_outages.iter().filter_map(OutageState::now);
        outages.min_by_key(|outage| outage.since)
    }

    pub(crate) fn unanswered(&self, call: StoreCall, reason: &str) {
        self.store_retries.add(1);
        *locked(&self.retried) = Some(Instant::now());
        self.store_outages[call as usize].failed(reason);
    }

    pub(crate) fn answered(&self, call: StoreCall) {
        // Calls of the coordinator are no sign of life: they would hide that the workers are stuck.
        if matches!(
            call,
            StoreCall::ReadBars | StoreCall::ReadViews | StoreCall::Write
        ) {
            *locked(&self.answered) = Some(Instant::now());
        }
        let Some(lasted) = self.store_outages[call as usize].answered() else {
            return;
        };
        if lasted >= LONG_OUTAGE && self.store_outage().is_none() {
            tracing::info!(after_s = lasted.as_secs(), "store answers again");
        }
    }

    pub(crate) fn set_ready(&self) {
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

    /// Adds the counts of a range of records. The records themselves are counted when they are
    /// read.
    pub(crate) fn count(&self, counts: &Counts) {
        self.accepted.add(counts.accepted);
        self.late.add(counts.late);
        self.price_updates.add(counts.price_updates);
        self.duplicates.add(counts.duplicates);
        self.gaps.add(counts.gaps);
    }

    /// Adds counted trades that came beyond the horizon of a window size.
    pub(crate) fn count_beyond_horizon(&self, trades: u64) {
        if trades > 0 && self.beyond_horizon.get() == 0 {
            tracing::warn!(
                trades,
                "trades came beyond the horizon of a window size (--horizon): they are not in its \
                 bars, and in those of the other sizes"
            );
        }
        self.beyond_horizon.add(trades);
    }

    /// Adds trades that belong to no trading session. Trades of an unknown year mean that this
    /// version is too old for the feed, or that the feed's times are wrong.
    pub(crate) fn count_outside_sessions(&self, trades: OutsideSessions) {
        self.outside_sessions.add(trades.closed);
        if trades.unknown_year > 0 && self.in_unknown_years.get() == 0 {
            let years = Calendar::us_equities().years();
            tracing::warn!(
                trades = trades.unknown_year,
                first_year = years.start(),
                last_year = years.end(),
                "trades of years that the calendar of trading sessions does not cover are in no \
                 session bar; install a version with a newer calendar"
            );
        }
        self.in_unknown_years.add(trades.unknown_year);
    }

    /// Adds the number of records and trades that became dead letters, by reason.
    pub(crate) fn count_dead_letters(&self, counts: BTreeMap<String, u64>) {
        let mut by_reason = locked(&self.dead_letters);
        for (reason, count) in counts {
            let known = by_reason.contains_key(&reason) || by_reason.len() < REASONS;
            *by_reason
                .entry(if known {
                    reason
                } else {
                    OTHER_REASON.to_owned()
                })
                .or_default() += count;
        }
    }
}

/// Locks even if a holder has panicked: no update leaves a counter in an invalid state.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letters_are_counted_by_reason_and_too_many_reasons_as_one() {
        let metrics = Metrics::default();
        let few = BTreeMap::from([("json".to_owned(), 2), ("price".to_owned(), 1)]);
        metrics.count_dead_letters(few.clone());
        assert_eq!(metrics.dead_letters(), few);
        metrics.count_dead_letters((0..1_000).map(|n| (format!("r{n}"), 1)).collect());
        let found = metrics.dead_letters();
        assert_eq!(
            (found.len(), found.values().sum::<u64>()),
            (REASONS + 1, 1_003)
        );
        assert_eq!(found[OTHER_REASON], 1_000 - (REASONS as u64 - 2));
    }
}
