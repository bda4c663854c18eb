//! Wraps the store and counts the calls that it did not answer. The job retries all of them.

use std::sync::Arc;

use async_trait::async_trait;
use tapeflow_protocol::{
    CasOutcome, Checkpoint, CheckpointStore, EpochStore, EpochWrites, HistoryEntry, JobStore,
    StoreError, SymbolDirectory,
};
use tapeflow_schemas::{AssetClass, BarKey, BarState, Symbol, WriteTimestamp};

use crate::metrics::Metrics;

/// A store whose unanswered calls are counted.
pub(crate) struct WatchedStore {
    store: Arc<dyn JobStore>,
    metrics: Arc<Metrics>,
}

impl WatchedStore {
    pub(crate) fn over(store: Arc<dyn JobStore>, metrics: &Arc<Metrics>) -> Arc<dyn JobStore> {
        Arc::new(Self {
            store,
            metrics: Arc::clone(metrics),
        })
    }

    fn count<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        if matches!(answer, Err(StoreError::Unavailable(_))) {
            self.metrics.count_retry();
        }
        answer
    }
}

#[async_trait]
impl CheckpointStore for WatchedStore {
    fn describe(&self) -> String {
        self.store.describe()
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.count(self.store.checkpoint().await)
    }

    async fn compare_and_set(
        &self,
        expected: Option<&Checkpoint>,
        proposed: &Checkpoint,
    ) -> CasOutcome {
        let outcome = self.store.compare_and_set(expected, proposed).await;
        if matches!(outcome, CasOutcome::Unknown(_)) {
            self.metrics.count_retry();
        }
        outcome
    }

    async fn write_history(
        &self,
        entries: &[HistoryEntry],
        recovery_timestamp: WriteTimestamp,
    ) -> Result<(), StoreError> {
        self.count(self.store.write_history(entries, recovery_timestamp).await)
    }
}

#[async_trait]
impl EpochStore for WatchedStore {
    async fn read_bars(&self, keys: &[BarKey]) -> Result<Vec<Option<BarState>>, StoreError> {
        self.count(self.store.read_bars(keys).await)
    }

    async fn write(&self, writes: &EpochWrites) -> Result<(), StoreError> {
        self.count(self.store.write(writes).await)
    }
}

#[async_trait]
impl SymbolDirectory for WatchedStore {
    async fn symbols(&self) -> Result<Vec<(Symbol, AssetClass)>, StoreError> {
        self.count(self.store.symbols().await)
    }
}

#[cfg(test)]
mod tests {
    use tapeflow_sinks::memory::{Call, Fault, MemoryStore};

    use super::*;

    #[tokio::test]
    async fn every_unanswered_call_is_counted_and_no_other() {
        let (memory, metrics) = (MemoryStore::new(), Arc::new(Metrics::default()));
        let store = WatchedStore::over(Arc::new(memory.clone()), &metrics);
        memory.arm(Call::Read, [Fault::NotApplied; 2]);
        memory.arm(Call::Write, [Fault::NotApplied; 2]);
        assert!(store.checkpoint().await.is_err() && store.read_bars(&[]).await.is_err());
        assert!(
            store.write(&EpochWrites::default()).await.is_err()
                && store.write_history(&[], 1).await.is_err()
        );
        assert_eq!(
            metrics.store_retries.get(),
            4,
            "calls of the coordinator count like those for bars"
        );
        assert!(metrics.retry_age().is_some());
        assert!(
            store.checkpoint().await.is_ok() && store.write(&EpochWrites::default()).await.is_ok()
        );
        assert_eq!(metrics.store_retries.get(), 4);
    }
}
