//! Wraps the store, counts the calls that it did not answer, and says since when and why. The job
//! retries all of them. An answer about bars is a sign of life.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tapeflow_protocol::{
    CasOutcome, Checkpoint, CheckpointStore, EpochStore, EpochWrites, HistoryEntry, JobStore,
    StoreError, SymbolDirectory,
};
use tapeflow_schemas::{AssetClass, BarKey, BarRow, Symbol, ViewKey, ViewState, WriteTimestamp};

use crate::metrics::Metrics;

/// The kinds of calls.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StoreCall {
    Checkpoint,
    CompareAndSet,
    WriteHistory,
    ReadBars,
    ReadViews,
    Write,
    Symbols,
}

impl StoreCall {
    pub(crate) const ALL: [Self; 7] = [
        Self::Checkpoint,
        Self::CompareAndSet,
        Self::WriteHistory,
        Self::ReadBars,
        Self::ReadViews,
        Self::Write,
        Self::Symbols,
    ];
}

/// A store whose unanswered calls are counted.
pub(crate) struct WatchedStore {
    store: Arc<dyn JobStore>,
    metrics: Arc<Metrics>,
    /// The proposal whose outcome is unknown. A checkpoint that equals it is its answer: an idle
    /// job may propose nothing more for hours.
    unknown: Mutex<Option<Checkpoint>>,
}

impl WatchedStore {
    pub(crate) fn over(store: Arc<dyn JobStore>, metrics: &Arc<Metrics>) -> Arc<dyn JobStore> {
        Arc::new(Self {
            store,
            metrics: Arc::clone(metrics),
            unknown: Mutex::default(),
        })
    }

    /// A proposal is replaced in one assignment, so a poisoned lock still guards a valid one.
    fn unknown(&self) -> MutexGuard<'_, Option<Checkpoint>> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count<T>(&self, call: StoreCall, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        match &answer {
            Err(StoreError::Unavailable(reason)) => self.metrics.unanswered(call, reason),
            Ok(_) | Err(StoreError::Broken(_)) => self.metrics.answered(call),
        }
        answer
    }
}

#[async_trait]
impl CheckpointStore for WatchedStore {
    fn describe(&self) -> String {
        self.store.describe()
    }

    fn datacenter(&self) -> Option<String> {
        self.store.datacenter()
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        let found = self.count(StoreCall::Checkpoint, self.store.checkpoint().await)?;
        let mut unknown = self.unknown();
        if found.is_some() && found == *unknown {
            *unknown = None;
            self.metrics.answered(StoreCall::CompareAndSet);
        }
        Ok(found)
    }

    async fn compare_and_set(
        &self,
        expected: Option<&Checkpoint>,
        proposed: &Checkpoint,
    ) -> CasOutcome {
        let outcome = self.store.compare_and_set(expected, proposed).await;
        match &outcome {
            CasOutcome::Unknown(reason) => {
                *self.unknown() = Some(proposed.clone());
                self.metrics.unanswered(StoreCall::CompareAndSet, reason);
            }
            CasOutcome::Won | CasOutcome::Lost | CasOutcome::Refused(_) => {
                *self.unknown() = None;
                self.metrics.answered(StoreCall::CompareAndSet);
            }
        }
        outcome
    }

    async fn write_history(
        &self,
        entries: &[HistoryEntry],
        recovery_timestamp: WriteTimestamp,
    ) -> Result<(), StoreError> {
        self.count(
            StoreCall::WriteHistory,
            self.store.write_history(entries, recovery_timestamp).await,
        )
    }
}

#[async_trait]
impl EpochStore for WatchedStore {
    async fn read_bars(&self, keys: &[BarKey]) -> Result<Vec<Option<BarRow>>, StoreError> {
        self.count(StoreCall::ReadBars, self.store.read_bars(keys).await)
    }

    async fn read_views(&self, keys: &[ViewKey]) -> Result<Vec<Option<ViewState>>, StoreError> {
        self.count(StoreCall::ReadViews, self.store.read_views(keys).await)
    }

    async fn write(&self, writes: &EpochWrites) -> Result<(), StoreError> {
        self.count(StoreCall::Write, self.store.write(writes).await)
    }
}

#[async_trait]
impl SymbolDirectory for WatchedStore {
    async fn symbols(&self) -> Result<Vec<(Symbol, AssetClass)>, StoreError> {
        self.count(StoreCall::Symbols, self.store.symbols().await)
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
        assert!(metrics.store_outage().is_some());
        assert!(
            store.checkpoint().await.is_ok() && store.write(&EpochWrites::default()).await.is_ok()
        );
        assert_eq!(metrics.store_retries.get(), 4);
    }

    #[tokio::test]
    async fn only_answers_about_bars_are_signs_of_life() {
        let (memory, metrics) = (MemoryStore::new(), Arc::new(Metrics::default()));
        let store = WatchedStore::over(Arc::new(memory.clone()), &metrics);
        memory.arm(Call::Read, [Fault::NotApplied; 1]);
        memory.arm(Call::Write, [Fault::NotApplied; 1]);
        assert!(store.read_bars(&[]).await.is_err());
        assert!(store.write(&EpochWrites::default()).await.is_err());
        assert!(store.checkpoint().await.is_ok() && store.symbols().await.is_ok());
        assert!(store.write_history(&[], 1).await.is_ok());
        assert!(metrics.answer_age().is_none());
        assert!(store.read_bars(&[]).await.is_ok());
        assert!(metrics.answer_age().is_some());
    }

    #[tokio::test]
    async fn an_outage_ends_when_the_same_kind_of_call_is_answered() {
        let (memory, metrics) = (MemoryStore::new(), Arc::new(Metrics::default()));
        let store = WatchedStore::over(Arc::new(memory.clone()), &metrics);
        memory.arm(Call::Write, [Fault::NotApplied; 2]);
        assert!(store.write(&EpochWrites::default()).await.is_err());
        let since = metrics.store_outage().expect("an outage").since;
        assert!(store.write_history(&[], 1).await.is_err());
        assert!(store.checkpoint().await.is_ok() && store.write_history(&[], 1).await.is_ok());
        assert_eq!(
            metrics.store_outage().map(|outage| outage.since),
            Some(since),
            "reads and other writes succeed, bars still fail"
        );
        assert!(store.write(&EpochWrites::default()).await.is_ok());
        assert_eq!(metrics.store_outage(), None);
    }
}
