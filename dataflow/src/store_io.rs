//! Asynchronous calls to the store, for operators, which must never block.
//!
//! A request becomes a tokio task. Its reply comes back through a channel and wakes the operator.
//! Reads and writes are retried until the store answers. The amount in flight is bounded: an
//! operator requests at most the bars of the epochs in (c, b], and semaphores limit the concurrent
//! calls.

use std::sync::{
    Arc,
    mpsc::{Receiver, Sender, channel},
};

use tapeflow_protocol::{EpochWrites, JobStore, StoreError, failpoint, workflow::until_answered};
use tapeflow_schemas::{BarKey, BarRow, Symbol, ViewKey, ViewState};
use timely::scheduling::SyncActivator;
use tokio::{runtime::Handle, sync::Semaphore};

use crate::{
    failure::{Failure, JobError},
    limits::Limits,
};

/// Access to the store, shared by the workers of a process.
#[derive(Clone)]
pub(crate) struct StoreIo {
    runtime: Handle,
    store: Arc<dyn JobStore>,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    keys_per_read: usize,
    failure: Failure,
}

impl StoreIo {
    pub(crate) fn new(
        runtime: Handle,
        store: Arc<dyn JobStore>,
        limits: &Limits,
        failure: Failure,
    ) -> Self {
        Self {
            runtime,
            store,
            reads: Arc::new(Semaphore::new(limits.calls_at_once)),
            writes: Arc::new(Semaphore::new(limits.calls_at_once)),
            keys_per_read: limits.keys_per_read,
            failure,
        }
    }

    pub(crate) fn reader<K: StoreKey>(&self, wake: SyncActivator) -> StoreReader<K> {
        let (send, replies) = channel();
        StoreReader {
            io: self.clone(),
            wake,
            send,
            replies,
        }
    }

    /// Reads all symbols of the directory; the receiver gets one answer.
    pub(crate) fn symbols(&self, wake: SyncActivator) -> Receiver<Vec<Symbol>> {
        let (send, answer) = channel();
        let io = self.clone();
        self.runtime.spawn(async move {
            let Ok(_permit) = io.reads.acquire().await else {
                return;
            };
            match until_answered("reading the directory", || io.store.symbols()).await {
                Ok(symbols) => {
                    let _ = send.send(symbols.into_iter().map(|(symbol, _)| symbol).collect());
                }
                Err(reason) => io.failure.set(JobError::Failed(reason)),
            }
            let _ = wake.activate();
        });
        answer
    }

    pub(crate) fn writer<T: Send + 'static>(&self, wake: SyncActivator) -> StoreWriter<T> {
        let (send, done) = channel();
        StoreWriter {
            io: self.clone(),
            wake,
            send,
            done,
        }
    }
}

/// What an operator can read from the store by its key.
pub(crate) trait StoreKey: Ord + Send + Sync + Sized + 'static {
    type Value: Send + 'static;

    /// What a call does, for the log.
    const READING: &'static str;

    /// Reads values in the order of the keys; `None` where there is none.
    fn read(
        store: &dyn JobStore,
        keys: &[Self],
    ) -> impl Future<Output = Result<Vec<Option<Self::Value>>, StoreError>> + Send;
}

impl StoreKey for BarKey {
    type Value = BarRow;
    const READING: &'static str = "reading bars";

    async fn read(store: &dyn JobStore, keys: &[Self]) -> Result<Vec<Option<BarRow>>, StoreError> {
        store.read_bars(keys).await
    }
}

impl StoreKey for ViewKey {
    type Value = ViewState;
    const READING: &'static str = "reading views";

    async fn read(
        store: &dyn JobStore,
        keys: &[Self],
    ) -> Result<Vec<Option<ViewState>>, StoreError> {
        store.read_views(keys).await
    }
}

/// A key and what the store has for it.
pub(crate) type Found<K> = (K, Option<<K as StoreKey>::Value>);

/// The reads of one operator.
pub(crate) struct StoreReader<K: StoreKey> {
    io: StoreIo,
    wake: SyncActivator,
    send: Sender<Vec<Found<K>>>,
    replies: Receiver<Vec<Found<K>>>,
}

impl<K: StoreKey> StoreReader<K> {
    /// Requests values. Each key gets one reply.
    pub(crate) fn request(&self, mut keys: Vec<K>) {
        // Sorted, so that bars of one partition of the store share a call.
        keys.sort_unstable();
        let mut keys = keys.into_iter().peekable();
        while keys.peek().is_some() {
            let chunk: Vec<K> = keys.by_ref().take(self.io.keys_per_read).collect();
            let (io, send, wake) = (self.io.clone(), self.send.clone(), self.wake.clone());
            self.io.runtime.spawn(async move {
                let Ok(_permit) = io.reads.acquire().await else {
                    return;
                };
                match until_answered(K::READING, || K::read(&*io.store, &chunk)).await {
                    Ok(found) => {
                        // The receiver is gone if the job is ending.
                        let _ = send.send(chunk.into_iter().zip(found).collect());
                    }
                    Err(reason) => io.failure.set(JobError::Failed(reason)),
                }
                let _ = wake.activate();
            });
        }
    }

    /// The replies that have arrived.
    pub(crate) fn replies(&self) -> impl Iterator<Item = Found<K>> + '_ {
        self.replies.try_iter().flatten()
    }
}

/// The writes of one operator. `T` comes back with the acknowledgement.
pub(crate) struct StoreWriter<T> {
    io: StoreIo,
    wake: SyncActivator,
    send: Sender<(T, EpochWrites)>,
    done: Receiver<(T, EpochWrites)>,
}

impl<T: Send + 'static> StoreWriter<T> {
    /// Writes, with retries, until a quorum has acknowledged everything.
    pub(crate) fn write(&self, token: T, writes: EpochWrites) {
        let (io, send, wake) = (self.io.clone(), self.send.clone(), self.wake.clone());
        self.io.runtime.spawn(async move {
            let Ok(_permit) = io.writes.acquire().await else {
                return;
            };
            failpoint::reach(if writes.views.is_empty() {
                "bars-before"
            } else {
                "views-before"
            });
            match until_answered("writing bars", || io.store.write(&writes)).await {
                Ok(()) => {
                    failpoint::reach("write-acknowledged");
                    let _ = send.send((token, writes));
                }
                Err(reason) => io.failure.set(JobError::Failed(reason)),
            }
            let _ = wake.activate();
        });
    }

    /// The writes acknowledged since the last call.
    pub(crate) fn acknowledged(&self) -> impl Iterator<Item = (T, EpochWrites)> + '_ {
        self.done.try_iter()
    }
}
