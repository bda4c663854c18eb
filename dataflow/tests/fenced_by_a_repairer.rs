//! A job that a repairer has fenced must be restarted, even if the store stops answering: the fence
//! itself names its owner.

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use async_trait::async_trait;
use support::{
    feed::feed_as,
    job::{config, io},
    memory_log::MemoryLog,
};
use tapeflow_dataflow::{JobError, Metrics, Stop, run};
use tapeflow_protocol::{
    CasOutcome, Checkpoint, CheckpointStore, EpochStore, EpochWrites, HistoryEntry, StoreError,
    SymbolDirectory, repair::Repairer,
};
use tapeflow_schemas::{
    AssetClass, BarKey, BarRow, SessionId, Symbol, ViewKey, ViewState, WriteTimestamp,
};
use tapeflow_sinks::memory::MemoryStore;

struct Fencing {
    inner: Arc<MemoryStore>,
    repaired: AtomicBool,
    /// The checkpoint has been read since the repair.
    checkpoint_read: AtomicBool,
}

#[async_trait]
impl CheckpointStore for Fencing {
    fn describe(&self) -> String {
        "fencing".into()
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        if self.repaired.load(SeqCst) && self.checkpoint_read.swap(true, SeqCst) {
            return Err(StoreError::Unavailable("no quorum".into()));
        }
        self.inner.checkpoint().await
    }

    async fn compare_and_set(
        &self,
        expected: Option<&Checkpoint>,
        proposed: &Checkpoint,
    ) -> CasOutcome {
        let binds = expected
            .is_some_and(|before| proposed.last_binding().epoch > before.last_binding().epoch);
        if binds && !self.repaired.load(SeqCst) {
            Repairer::begin(&*self.inner, || 0)
                .await
                .expect("taken over");
            self.repaired.store(true, SeqCst);
        }
        self.inner.compare_and_set(expected, proposed).await
    }

    async fn write_history(
        &self,
        entries: &[HistoryEntry],
        recovery_timestamp: WriteTimestamp,
    ) -> Result<(), StoreError> {
        self.inner.write_history(entries, recovery_timestamp).await
    }
}

#[async_trait]
impl EpochStore for Fencing {
    async fn read_bars(&self, keys: &[BarKey]) -> Result<Vec<Option<BarRow>>, StoreError> {
        self.inner.read_bars(keys).await
    }

    async fn read_views(&self, keys: &[ViewKey]) -> Result<Vec<Option<ViewState>>, StoreError> {
        self.inner.read_views(keys).await
    }

    async fn write(&self, writes: &EpochWrites) -> Result<(), StoreError> {
        self.inner.write(writes).await
    }
}

#[async_trait]
impl SymbolDirectory for Fencing {
    async fn symbols(&self) -> Result<Vec<(Symbol, AssetClass)>, StoreError> {
        self.inner.symbols().await
    }
}

#[test]
fn a_job_that_a_repairer_has_fenced_is_restarted_even_if_the_store_is_silent() {
    let (log, inner) = (MemoryLog::new(1), Arc::new(MemoryStore::new()));
    feed_as(&log, SessionId([1; 16]), 1, 50);
    let store = Arc::new(Fencing {
        inner,
        repaired: AtomicBool::new(false),
        checkpoint_read: AtomicBool::new(false),
    });
    let metrics = Arc::new(Metrics::default());
    let error = run(
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
        !matches!(error, JobError::Fenced(_)),
        "exit code 3 tells the supervisor not to restart it: {error}"
    );
}
