//! What the job counts about itself: one set per process, shared by its workers.

use std::sync::atomic::{AtomicU64, Ordering};

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
    /// Offsets that bindings of this run gave up, because the log had lost them before they were committed.
    pub lost: Counter,
    /// Rows acknowledged by the store.
    pub rows_written: Counter,
    /// Rows read back because their key was not resident.
    pub rows_read: Counter,
    /// Rows put out of memory.
    pub rows_evicted: Counter,
    /// Lists of views acknowledged by the store.
    pub lists_written: Counter,
    /// Rows asked for because a view's window was not in memory.
    pub view_rows_read: Counter,
    /// The last epoch bound, *b*.
    pub epoch_bound: Gauge,
    /// The last epoch committed, *c*.
    pub epoch_committed: Gauge,
}
