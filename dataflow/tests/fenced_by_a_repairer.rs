//! A job that a repairer fences is started again, whatever the store does next: the fence itself said
//! who it was.

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use async_trait::async_trait;
use support::{MemoryLog, config, feed_as, io};
use tapeflow_dataflow::{JobError, Metrics, Stop, run};
use tapeflow_protocol::{
    CasOutcome, Checkpoint, CheckpointStore, EpochStore, EpochWrites, HistoryEntry, StoreError,
    SymbolDirectory, repair::Repairer,
};
use tapeflow_schemas::{AssetClass, BarKey, BarState, SessionId, Symbol, WriteTimestamp};
use tapeflow_sinks::memory::MemoryStore;

struct Fencing {
    inner: Arc<MemoryStore>,
    repaired: AtomicBool,
    /// The checkpoint has been read since.
    told: AtomicBool,
}

#[async_trait]
impl CheckpointStore for Fencing {
    fn describe(&self) -> String {
        "fencing".into()
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        if self.repaired.load(SeqCst) && self.told.swap(true, SeqCst) {
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
    async fn read_bars(&self, keys: &[BarKey]) -> Result<Vec<Option<BarState>>, StoreError> {
        self.inner.read_bars(keys).await
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
fn a_job_that_a_repairer_has_fenced_is_started_again_though_the_store_goes_silent() {
    let (log, inner) = (MemoryLog::new(1), Arc::new(MemoryStore::new()));
    feed_as(&log, SessionId([1; 16]), 1, 50);
    let store = Arc::new(Fencing {
        inner,
        repaired: AtomicBool::new(false),
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
