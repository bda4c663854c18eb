//! Between the operators, which must never wait, and the store, which makes them: requests go to
//! tokio tasks, replies come back through a channel and wake the operator that asked.
//!
//! Reads and writes are repeated until the store answers. What bounds them: an operator has no more
//! in flight than the bars of the epochs between c and b, and the semaphores let only so many calls
//! through at once.

use std::sync::{
    Arc,
    mpsc::{Receiver, Sender, channel},
};

use tapeflow_protocol::{EpochWrites, Store, failpoint, workflow::until_answered};
use tapeflow_schemas::{BarKey, BarState, Symbol};
use timely::scheduling::SyncActivator;
use tokio::{runtime::Handle, sync::Semaphore};

use crate::job::{Failure, JobError};

/// Bars asked for in one call.
const ROWS_PER_READ: usize = 512;
/// Read calls under way at once, per process. A store spreads each over its own connections; more
/// at once only overload it.
const READS_AT_ONCE: usize = 4;
/// Write calls under way at once, per process.
const WRITES_AT_ONCE: usize = 4;

/// The way to the store, shared by a process's workers.
#[derive(Clone)]
pub(crate) struct StoreIo {
    runtime: Handle,
    store: Arc<dyn Store>,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    failure: Failure,
}

impl StoreIo {
    pub(crate) fn new(runtime: Handle, store: Arc<dyn Store>, failure: Failure) -> Self {
        let (reads, writes) = (
            Arc::new(Semaphore::new(READS_AT_ONCE)),
            Arc::new(Semaphore::new(WRITES_AT_ONCE)),
        );
        Self {
            runtime,
            store,
            reads,
            writes,
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

    /// Asks for all symbols of the directory, once.
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

    pub(crate) fn writer<T: Send + 'static>(&self, wake: SyncActivator) -> RowWriter<T> {
        let (send, done) = channel();
        RowWriter {
            io: self.clone(),
            wake,
            send,
            done,
        }
    }
}

/// One operator's reads.
pub(crate) struct BarReader {
    io: StoreIo,
    wake: SyncActivator,
    send: Sender<Vec<(BarKey, Option<BarState>)>>,
    replies: Receiver<Vec<(BarKey, Option<BarState>)>>,
}

impl BarReader {
    /// Asks for bars. Each key is answered once.
    pub(crate) fn request(&self, mut keys: Vec<BarKey>) {
        // Bars that stand in one partition of the store come with one call.
        keys.sort_unstable();
        let mut keys = keys.into_iter().peekable();
        while keys.peek().is_some() {
            let chunk: Vec<BarKey> = keys.by_ref().take(ROWS_PER_READ).collect();
            let (io, send, wake) = (self.io.clone(), self.send.clone(), self.wake.clone());
            self.io.runtime.spawn(async move {
                let Ok(_permit) = io.reads.acquire().await else {
                    return;
                };
                match until_answered("reading bars", || io.store.read_bars(&chunk)).await {
                    Ok(bars) => {
                        // A receiver that is gone belongs to a job that is ending.
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

/// One operator's writes. `T` comes back with the acknowledgement.
pub(crate) struct RowWriter<T> {
    io: StoreIo,
    wake: SyncActivator,
    send: Sender<(T, EpochWrites)>,
    done: Receiver<(T, EpochWrites)>,
}

impl<T: Send + 'static> RowWriter<T> {
    /// Writes until a quorum has it all.
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

    /// What has been acknowledged.
    pub(crate) fn acknowledged(&self) -> impl Iterator<Item = (T, EpochWrites)> + '_ {
        self.done.try_iter()
    }
}
