//! A store that fails after a number of calls, as in a crash of the process.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tapeflow_protocol::{
    CasOutcome, Checkpoint, CheckpointStore, EpochStore, EpochWrites, HistoryEntry, StoreError,
    SymbolDirectory,
};
use tapeflow_schemas::{AssetClass, BarKey, BarRow, Symbol, ViewKey, ViewState, WriteTimestamp};
use tapeflow_sinks::memory::MemoryStore;

/// After a number of calls, all further ones fail. The last call is a write that is applied in
/// part, or a compare-and-set that may be applied.
pub struct CrashingStore {
    pub inner: Arc<MemoryStore>,
    calls_left: AtomicI64,
    random: Mutex<StdRng>,
}

impl CrashingStore {
    pub fn new(inner: Arc<MemoryStore>, calls: i64, seed: u64) -> Self {
        Self {
            inner,
            calls_left: AtomicI64::new(calls),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
        }
    }

    /// Positive: the call succeeds. 0: it is the last call. Negative: it fails.
    fn left(&self) -> i64 {
        self.calls_left.fetch_sub(1, Ordering::SeqCst) - 1
    }

    /// Waits a while, or not. A delayed read would see what later epochs wrote, if the job wrote
    /// these too early.
    async fn delay(&self) {
        let delay_ms = if self.chance() {
            0
        } else {
            self.random.lock().expect("random").random_range(0..30)
        };
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }

    fn chance(&self) -> bool {
        self.random.lock().expect("random").random_bool(0.5)
    }

    fn gone<T>() -> Result<T, StoreError> {
        Err(StoreError::Broken("crash".into()))
    }
}

#[async_trait]
impl CheckpointStore for CrashingStore {
    fn describe(&self) -> String {
        "crashing".into()
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        if self.left() < 0 {
            Self::gone()
        } else {
            self.inner.checkpoint().await
        }
    }

    async fn compare_and_set(
        &self,
        expected: Option<&Checkpoint>,
        proposed: &Checkpoint,
    ) -> CasOutcome {
        match self.left() {
            1.. => self.inner.compare_and_set(expected, proposed).await,
            0 => {
                if self.chance() {
                    let _ = self.inner.compare_and_set(expected, proposed).await;
                }
                CasOutcome::Unknown("crash".into())
            }
            _ => CasOutcome::Unknown("crash".into()),
        }
    }

    async fn write_history(
        &self,
        entries: &[HistoryEntry],
        recovery_timestamp: WriteTimestamp,
    ) -> Result<(), StoreError> {
        if self.left() < 0 {
            Self::gone()
        } else {
            self.inner.write_history(entries, recovery_timestamp).await
        }
    }
}

#[async_trait]
impl EpochStore for CrashingStore {
    async fn read_bars(&self, keys: &[BarKey]) -> Result<Vec<Option<BarRow>>, StoreError> {
        self.delay().await;
        if self.left() < 0 {
            Self::gone()
        } else {
            self.inner.read_bars(keys).await
        }
    }

    async fn read_views(&self, keys: &[ViewKey]) -> Result<Vec<Option<ViewState>>, StoreError> {
        self.delay().await;
        if self.left() < 0 {
            Self::gone()
        } else {
            self.inner.read_views(keys).await
        }
    }

    async fn write(&self, writes: &EpochWrites) -> Result<(), StoreError> {
        // A delayed acknowledgement would be overtaken by a commit, if the job committed too early.
        let delay_ms = if self.chance() {
            0
        } else {
            self.random.lock().expect("random").random_range(0..30)
        };
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        match self.left() {
            1.. => self.inner.write(writes).await,
            0 => {
                let part = EpochWrites {
                    directory: writes
                        .directory
                        .iter()
                        .filter(|_| self.chance())
                        .cloned()
                        .collect(),
                    bars: writes
                        .bars
                        .iter()
                        .filter(|_| self.chance())
                        .cloned()
                        .collect(),
                    views: writes
                        .views
                        .iter()
                        .filter(|_| self.chance())
                        .cloned()
                        .collect(),
                    feed_gaps: writes
                        .feed_gaps
                        .iter()
                        .filter(|_| self.chance())
                        .cloned()
                        .collect(),
                    dead_letters: writes
                        .dead_letters
                        .iter()
                        .filter(|_| self.chance())
                        .cloned()
                        .collect(),
                };
                let _ = self.inner.write(&part).await;
                Self::gone()
            }
            _ => Self::gone(),
        }
    }
}

#[async_trait]
impl SymbolDirectory for CrashingStore {
    async fn symbols(&self) -> Result<Vec<(Symbol, AssetClass)>, StoreError> {
        self.inner.symbols().await
    }
}
