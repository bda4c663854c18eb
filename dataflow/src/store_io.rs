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

use tapeflow_protocol::{EpochWrites, JobStore, failpoint, workflow::until_answered};
use tapeflow_schemas::{BarKey, BarState, Symbol};
use timely::scheduling::SyncActivator;
use tokio::{runtime::Handle, sync::Semaphore};

use crate::failure::{Failure, JobError};

/// The most bars of one read call.
const BARS_PER_READ: usize = 512;
/// Concurrent read calls per process. A store spreads each call over its own connections; more
/// calls only overload it.
const CONCURRENT_READS: usize = 4;
/// Concurrent write calls per process.
const CONCURRENT_WRITES: usize = 4;

/// Access to the store, shared by the workers of a process.
#[derive(Clone)]
pub(crate) struct StoreIo {
    runtime: Handle,
    store: Arc<dyn JobStore>,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    failure: Failure,
}

impl StoreIo {
    pub(crate) fn new(runtime: Handle, store: Arc<dyn JobStore>, failure: Failure) -> Self {
        Self {
            runtime,
            store,
            reads: Arc::new(Semaphore::new(CONCURRENT_READS)),
            writes: Arc::new(Semaphore::new(CONCURRENT_WRITES)),
            failure,
        }
    }

    pub(crate) fn reader(&self, wake: SyncActivator) -> BarReader {
        let (send, replies) = channel();
        BarReader {
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

/// The reads of one operator.
pub(crate) struct BarReader {
    io: StoreIo,
    wake: SyncActivator,
    send: Sender<Vec<(BarKey, Option<BarState>)>>,
    replies: Receiver<Vec<(BarKey, Option<BarState>)>>,
}

impl BarReader {
    /// Requests bars. Each key gets one reply.
    pub(crate) fn request(&self, mut keys: Vec<BarKey>) {
        // Sorted, so that bars of one partition of the store share a call.
        keys.sort_unstable();
        let mut keys = keys.into_iter().peekable();
        while keys.peek().is_some() {
            let chunk: Vec<BarKey> = keys.by_ref().take(BARS_PER_READ).collect();
            let (io, send, wake) = (self.io.clone(), self.send.clone(), self.wake.clone());
            self.io.runtime.spawn(async move {
                let Ok(_permit) = io.reads.acquire().await else {
                    return;
                };
                match until_answered("reading bars", || io.store.read_bars(&chunk)).await {
                    Ok(bars) => {
                        // The receiver is gone if the job is ending.
                        let _ = send.send(chunk.into_iter().zip(bars).collect());
                    }
                    Err(reason) => io.failure.set(JobError::Failed(reason)),
                }
                let _ = wake.activate();
            });
        }
    }

    /// The replies that have arrived.
    pub(crate) fn replies(&self) -> impl Iterator<Item = (BarKey, Option<BarState>)> + '_ {
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
