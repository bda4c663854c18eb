//! A job that a healer fences is started again, whatever the store does next: the fence itself said
//! who it was.

mod support;

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use async_trait::async_trait;
use support::{MemoryLog, config, feed_as, io};
use tapeflow_dataflow::{JobError, Metrics, Stop, run};
use tapeflow_protocol::{
    CasOutcome, EpochWrites, Head, HistoryEntry, Reject, Store, StoreError, repair::Healer,
};
use tapeflow_schemas::{
    AssetClass, RowKey, RowState, SessionId, Stamp, StoredRow, StoredView, Symbol, View,
    WindowSize, WindowStart,
};
use tapeflow_sinks::memory::MemoryStore;

struct Fencing {
    inner: Arc<MemoryStore>,
    healed: AtomicBool,
    /// The head has been read since.
    told: AtomicBool,
}

#[async_trait]
impl Store for Fencing {
    fn describe(&self) -> String {
        "fencing".into()
    }

    async fn head(&self) -> Result<Option<Head>, StoreError> {
        if self.healed.load(SeqCst) && self.told.swap(true, SeqCst) {
            return Err(StoreError::Unavailable("no quorum".into()));
        }
        self.inner.head().await
    }

    async fn compare_and_set(&self, expected: Option<&Head>, proposed: &Head) -> CasOutcome {
        let binds = expected
            .is_some_and(|before| proposed.last_binding().epoch > before.last_binding().epoch);
        if binds && !self.healed.load(SeqCst) {
            Healer::begin(&*self.inner, || 0).await.expect("taken over");
            self.healed.store(true, SeqCst);
        }
        self.inner.compare_and_set(expected, proposed).await
    }

    async fn read_rows(&self, keys: &[RowKey]) -> Result<Vec<Option<RowState>>, StoreError> {
        self.inner.read_rows(keys).await
    }

    async fn write(&self, writes: &EpochWrites) -> Result<(), StoreError> {
        self.inner.write(writes).await
    }

    async fn write_history(
        &self,
        entries: &[HistoryEntry],
        flush_stamp: Stamp,
    ) -> Result<(), StoreError> {
        self.inner.write_history(entries, flush_stamp).await
    }

    async fn symbols(&self) -> Result<Vec<(Symbol, AssetClass)>, StoreError> {
        self.inner.symbols().await
    }

    async fn rows(
        &self,
        symbol: &Symbol,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<StoredRow>, StoreError> {
        self.inner.rows(symbol, size, range).await
    }

    async fn views(
        &self,
        view: View,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<StoredView>, StoreError> {
        self.inner.views(view, size, range).await
    }

    async fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>, StoreError> {
        self.inner.history(limit).await
    }

    async fn rejects(&self, limit: usize) -> Result<Vec<Reject>, StoreError> {
        self.inner.rejects(limit).await
    }
}

#[test]
fn a_job_that_a_healer_has_fenced_is_started_again_though_the_store_goes_silent() {
    let (log, inner) = (MemoryLog::new(1), Arc::new(MemoryStore::new()));
    feed_as(&log, SessionId([1; 16]), 1, 50);
    let store = Arc::new(Fencing {
        inner,
        healed: AtomicBool::new(false),
        told: AtomicBool::new(false),
    });
    let metrics = Arc::new(Metrics::default());
    let fault = run(
        config(1, 8),
        Arc::new(log),
        store,
        Stop::default(),
        Arc::new(()),
        metrics,
        io().handle(),
    )
    .expect_err("fenced");
    assert!(
        !matches!(fault, JobError::Fenced(_)),
        "exit code 3 tells the supervisor not to start it again: {fault}"
    );
}
