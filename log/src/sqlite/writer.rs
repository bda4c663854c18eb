//! The writer thread: commits all waiting requests in one transaction, and answers each caller when
//! it is on disk.
//!
//! A commit costs a disk sync and a row costs microseconds, so a group of a hundred requests pays
//! for one sync. The queue is bounded by bytes: further callers wait. A request that fails is
//! rolled back alone. A failed commit fails all requests of the group.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::Connection;
use tapeflow_protocol::StoreError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::{debug, info, warn};

use super::sqlite_error;

/// Bound of the requests that wait or run, in KiB. A larger request runs alone.
const ROOM_KIB: u32 = 16 << 10;
/// How often, and with which pause, the end tries to get the file for itself while others read it.
const END_ATTEMPTS: u32 = 10;
const END_RETRY: Duration = Duration::from_millis(50);

/// The handle of the thread. Dropping it finishes the queued requests and ends the thread.
pub(super) struct Writer {
    /// None after the end.
    queue: Mutex<Option<mpsc::UnboundedSender<Box<dyn Request>>>>,
    room: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(connection: Connection) -> io::Result<Self> {
        // The room bounds the queue: each request holds at least one KiB of it.
        let (queue, requests) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("sqlite-writer".into())
            .spawn(move || {
                run(&connection, requests);
                // A read of another process is short; each attempt waits for none.
                let _ = connection.busy_timeout(Duration::ZERO);
                make_whole(&connection);
            })?;
        Ok(Self {
            queue: Mutex::new(Some(queue)),
            room: Arc::new(Semaphore::new(
                usize::try_from(ROOM_KIB).unwrap_or(usize::MAX),
            )),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Queues work and waits until it is on disk. Queued work is done even if the caller stops
    /// waiting. `committed` runs on the writer's thread after the commit.
    pub(super) async fn submit<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
        committed: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, StoreError> {
        let gone = || StoreError::Broken("the writer thread has ended".into());
        let kib = u32::try_from(bytes / 1_024)
            .unwrap_or(ROOM_KIB)
            .clamp(1, ROOM_KIB);
        let room = Arc::clone(&self.room)
            .acquire_many_owned(kib)
            .await
            .map_err(|_| gone())?;
        let (answer, answered) = oneshot::channel();
        let task = Task {
            stage: Stage::Waiting(work),
            committed,
            answer,
            _room: room,
        };
        self.send(Box::new(task)).ok_or_else(gone)?;
        answered.await.map_err(|_| gone())?
    }

    /// None after the end.
    fn send(&self, request: Box<dyn Request>) -> Option<()> {
        lock(&self.queue).as_ref()?.send(request).ok()
    }

    /// Finishes the queued requests, makes the file whole and ends the thread. Later requests fail.
    pub(super) fn close(&self) {
        drop(lock(&self.queue).take());
        if let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            warn!("the sqlite writer thread panicked");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

/// Each change is one assignment, so a poisoned lock still guards a valid value.
fn lock<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The request of one caller, for any type of answer.
trait Request: Send {
    /// Runs inside the transaction; returns whether it succeeded.
    fn apply(&mut self, connection: &Connection) -> bool;

    /// Answers the caller, after the transaction was committed or lost.
    fn answer(self: Box<Self>, lost: Option<&str>);
}

enum Stage<T, F> {
    Waiting(F),
    Done(Result<T, StoreError>),
    /// Only while `apply` runs.
    Running,
}

struct Task<T, F, C> {
    stage: Stage<T, F>,
    committed: C,
    answer: oneshot::Sender<Result<T, StoreError>>,
    _room: OwnedSemaphorePermit,
}

impl<T: Send, F: FnOnce(&Connection) -> Result<T, StoreError> + Send, C: FnOnce(&T) + Send> Request
    for Task<T, F, C>
{
    fn apply(&mut self, connection: &Connection) -> bool {
        let Stage::Waiting(work) = std::mem::replace(&mut self.stage, Stage::Running) else {
            return false;
        };
        let result = work(connection);
        let succeeded = result.is_ok();
        self.stage = Stage::Done(result);
        succeeded
    }

    fn answer(self: Box<Self>, lost: Option<&str>) {
        let result = match (self.stage, lost) {
            (Stage::Done(Err(error)), _) => Err(error),
            (Stage::Done(Ok(value)), None) => {
                (self.committed)(&value);
                Ok(value)
            }
            (_, lost) => Err(StoreError::Unavailable(
                lost.unwrap_or("the transaction ended before this request ran")
                    .into(),
            )),
        };
        // A caller that stopped waiting is not an error.
        let _ = self.answer.send(result);
    }
}

/// Moves the write-ahead log into the file and removes it, so that the file alone is the store and
/// a reader leaves nothing beside it. Another process that reads at this moment prevents that, and
/// then nothing is lost: the next job reads the write-ahead log.
fn make_whole(connection: &Connection) {
    for attempt in 1..=END_ATTEMPTS {
        let whole = connection.pragma_update_and_check(None, "journal_mode", "delete", |row| {
            row.get::<_, String>(0)
        });
        match whole {
            Ok(_) => return,
            Err(_) if attempt < END_ATTEMPTS => std::thread::sleep(END_RETRY),
            Err(error) => {
                info!(%error, "another process reads the sqlite file, so -wal stays beside it");
            }
        }
    }
}

fn run(connection: &Connection, mut requests: mpsc::UnboundedReceiver<Box<dyn Request>>) {
    while let Some(first) = requests.blocking_recv() {
        let mut group = vec![first];
        while let Ok(more) = requests.try_recv() {
            group.push(more);
        }
        let lost = transact(connection, &mut group)
            .err()
            .map(|error| error.to_string());
        if let Some(reason) = &lost {
            // The callers that retry say so, at most every ten seconds.
            debug!(
                reason,
                requests = group.len(),
                "sqlite transaction failed; its requests are answered with the error"
            );
            if !connection.is_autocommit() {
                // If this fails too, the next BEGIN fails and its callers get the error.
                let _ = connection.execute_batch("ROLLBACK");
            }
        }
        for request in group {
            request.answer(lost.as_deref());
        }
    }
}

/// One transaction of all requests. A request that fails is rolled back alone.
fn transact(connection: &Connection, group: &mut [Box<dyn Request>]) -> Result<(), StoreError> {
    let run = |sql: &str| {
        connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute([]))
            .map(drop)
            .map_err(sqlite_error)
    };
    run("BEGIN IMMEDIATE")?;
    for request in group {
        run("SAVEPOINT request")?;
        if !request.apply(connection) {
            // On errors such as a full disk SQLite has rolled back the whole transaction.
            if connection.is_autocommit() {
                return Err(StoreError::Unavailable(
                    "SQLite rolled the transaction back".into(),
                ));
            }
            run("ROLLBACK TO request")?;
        }
        run("RELEASE request")?;
    }
    run("COMMIT")
}
