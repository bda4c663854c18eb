//! The embedded form: one SQLite file holds the log, the bars and the checkpoint. One process at a
//! time writes it.
//!
//! ```text
//!  SqliteLog::append ──┐                                      ┌─▶ SqliteLogReader (one a thread)
//!  SqliteStore::write ─┼─▶ queue ─▶ one writer thread ─▶ file ┤
//!  compare_and_set ────┘  bounded   one transaction a group   └─▶ a few reading connections
//! ```
//!
//! What always holds:
//! * One thread does all writes. It groups the waiting requests into one transaction, and answers
//!   each caller when that transaction is on disk (write-ahead log, `synchronous=FULL`). An
//!   answered write survives kill -9 and a power cut.
//! * The process that writes holds the lock on `PATH.lock`; a second one is refused. Readers, in
//!   any process, need no lock.
//! * After a clean end the file is whole: no write-ahead log, index of it or lock stands beside it,
//!   unless another process was reading at that moment.
//! * Every table can be read with any SQLite tool. Exact decimals are text.

mod lock;
mod log;
mod log_writer;
mod reader;
mod recordings;
mod shape;
mod tables;
mod trim;
mod writer;

pub use log::{SqliteLog, SqliteLogReader};
pub use log_writer::SqliteLogWriter;
pub use trim::Age;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use lock::WriteLock;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tapeflow_protocol::StoreError;
use tokio::sync::Semaphore;
use writer::Writer;

/// How long a connection waits for another one's lock. Only recovery after a crash and the last
/// checkpoint of SQLite hold one for long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Reads that run at once; further ones wait.
const READERS: usize = 4;

/// What a process may do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read and write: the job, ingest, or both in one process. Creates the file and its tables if
    /// they are absent.
    Job,
    /// Read only, beside a job or without one.
    Reader,
}

/// An open file; clones share it. When the last clone is dropped, it closes after all queued writes
/// are on disk.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    path: PathBuf,
    /// Dropped first: the writer makes the file whole only if no other connection is open.
    idle_readers: Mutex<Vec<Connection>>,
    /// Dropped next: it finishes the queued writes.
    writer: Option<Writer>,
    room_to_read: Semaphore,
    /// The next offset of each partition, as committed by this process: polling an idle log costs
    /// no query. Set when a log is opened for appending.
    tails: OnceLock<Arc<[AtomicI64]>>,
    /// Set by [`Database::close`].
    closed: AtomicBool,
    /// Dropped last: the lock is held as long as this process may write.
    lock: Mutex<Option<WriteLock>>,
}

impl Database {
    /// Opens a file.
    ///
    /// # Errors
    /// [`StoreError::Broken`] if another process writes it, if it is not a tapeflow store or one
    /// of another version, or (for a reader) if there is none. The text says what to do.
    pub fn open(path: &Path, access: Access) -> Result<Self, StoreError> {
        let path = resolve(path)?;
        let (writer, lock) = match access {
            Access::Job => {
                let lock = WriteLock::take(&path)?;
                let mut connection = connect(
                    &path,
                    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
                )?;
                tables::prepare(&mut connection, &path)?;
                (
                    Some(Writer::start(connection).map_err(|error| broken(&path, &error))?),
                    Some(lock),
                )
            }
            Access::Reader => {
                if !path.is_file() {
                    return Err(broken(
                        &path,
                        &"there is no such file: start the job that creates it first, \
                          or name another one with --store",
                    ));
                }
                (None, None)
            }
        };
        let first_reader = open_reader(&path)?;
        tables::check(&first_reader, &path)?;
        Ok(Self(Arc::new(Inner {
            path,
            idle_readers: Mutex::new(vec![first_reader]),
            writer,
            room_to_read: Semaphore::new(READERS),
            tails: OnceLock::new(),
            closed: AtomicBool::new(false),
            lock: Mutex::new(lock),
        })))
    }

    /// Finishes all queued writes and closes the file for all handles; later calls fail. Without
    /// it, a thread that still holds a handle keeps the file open until the process is gone, and
    /// then the write-ahead log and the lock stay beside it.
    pub fn close(&self) {
        {
            let mut idle = locked(&self.0.idle_readers);
            self.0.closed.store(true, Ordering::Release);
            idle.clear();
        }
        if let Some(writer) = &self.0.writer {
            writer.close();
        }
        drop(locked(&self.0.lock).take());
    }

    /// The file as it is named on the command line.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("sqlite:{}", self.0.path.display())
    }

    /// The writer thread.
    ///
    /// # Errors
    /// [`StoreError::Broken`] if the file was opened for reading.
    fn writer(&self) -> Result<&Writer, StoreError> {
        self.0.writer.as_ref().ok_or_else(|| {
            self.named(StoreError::Broken(
                "opened for reading, not for writing".into(),
            ))
        })
    }

    /// Adds the name of the file to an error.
    fn named(&self, error: StoreError) -> StoreError {
        let name = self.describe();
        match error {
            StoreError::Unavailable(text) => StoreError::Unavailable(format!("{name}: {text}")),
            StoreError::Broken(text) => StoreError::Broken(format!("{name}: {text}")),
        }
    }

    /// Runs `work`, of about `bytes`, in the writer's next transaction, and returns when that is on
    /// disk. The work is done even if the caller stops waiting.
    pub async fn write<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.write_then(bytes, work, |_| {}).await
    }

    /// Like [`Database::write`]; `committed` gets the result on the writer's thread, before the
    /// caller does.
    async fn write_then<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
        committed: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, StoreError> {
        self.writer()?
            .submit(bytes, work, committed)
            .await
            .map_err(|error| self.named(error))
    }

    /// Reads one snapshot of the file on a thread for blocking work. The snapshot has all writes
    /// that were answered before.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _room = self
            .0
            .room_to_read
            .acquire()
            .await
            .map_err(|error| StoreError::Broken(error.to_string()))?;
        let database = self.clone();
        tokio::task::spawn_blocking(move || database.read_now(read))
            .await
            .map_err(|error| StoreError::Unavailable(error.to_string()))?
    }

    /// Like [`Database::read`], but after all writes that this process has queued: a write whose
    /// caller stopped waiting is applied before this reads.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read_after_writes<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if self.0.writer.is_some() {
            self.write(0, read).await
        } else {
            self.read(read).await
        }
    }

    /// Like [`Database::read`], on this thread.
    fn read_now<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.0.closed.load(Ordering::Acquire) {
            return Err(self.named(StoreError::Broken("closed: the process is ending".into())));
        }
        let idle = locked(&self.0.idle_readers).pop();
        let connection = idle.map_or_else(|| open_reader(&self.0.path), Ok)?;
        let result = connection
            .unchecked_transaction()
            .map_err(sqlite_error)
            .and_then(|snapshot| read(&snapshot));
        let mut idle = locked(&self.0.idle_readers);
        if !self.0.closed.load(Ordering::Acquire) {
            idle.push(connection);
        }
        drop(idle);
        result.map_err(|error| self.named(error))
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Database").field(&self.describe()).finish()
    }
}

/// Each change is one step, so a poisoned lock still guards a valid value.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The canonical path of a file: two paths to one file must not be two locks.
fn resolve(path: &Path) -> Result<PathBuf, StoreError> {
    if let Ok(known) = path.canonicalize() {
        return Ok(known);
    }
    let name = path
        .file_name()
        .ok_or_else(|| broken(path, &"not the name of a file"))?;
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let directory = directory.canonicalize().map_err(|error| {
        let text = format!(
            "its directory cannot be opened ({error}): \
                 create it first, or name another one with --store"
        );
        broken(path, &text)
    })?;
    Ok(directory.join(name))
}

fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let open = || {
        let connection =
            Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(connection)
    };
    open().map_err(|error: rusqlite::Error| broken(path, &error))
}

fn broken(path: &Path, what: &dyn std::fmt::Display) -> StoreError {
    StoreError::Broken(format!("sqlite:{}: {what}", path.display()))
}

/// An SQLite error as a store's: unavailable if waiting may help.
pub fn sqlite_error(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::OutOfMemory
            | ErrorCode::OperationInterrupted
            | ErrorCode::FileLockingProtocolFailed,
        ) => StoreError::Unavailable(error.to_string()),
        _ => StoreError::Broken(error.to_string()),
    }
}

/// An integer as SQLite stores it: signed, of 64 bits.
pub fn integer(what: &str, value: impl TryInto<i64>) -> Result<i64, StoreError> {
    value
        .try_into()
        .map_err(|_| StoreError::Broken(format!("{what} does not fit SQLite's integers")))
}

/// The integer of a column as the type it was written from.
pub fn whole<T: TryFrom<i64>>(what: &str, value: i64) -> Result<T, StoreError> {
    T::try_from(value).map_err(|_| {
        StoreError::Broken(format!(
            "{what} is {value}: the table was changed by something else"
        ))
    })
}
