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
//! * Every table can be read with any SQLite tool. Exact decimals are text.

mod log;
mod log_writer;
mod reader;
mod tables;
mod writer;

pub use log::{SqliteLog, SqliteLogReader};
pub use log_writer::SqliteLogWriter;

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::AtomicI64},
    time::Duration,
};

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
    /// Dropped first: it finishes the queued writes.
    writer: Option<Writer>,
    idle_readers: Mutex<Vec<Connection>>,
    room_to_read: Semaphore,
    /// The next offset of each partition, as committed by this process: polling an idle log costs
    /// no query. Set when a log is opened for appending.
    tails: OnceLock<Arc<[AtomicI64]>>,
    /// Dropped last: the lock is held as long as this process may write.
    _lock: Option<File>,
}

impl Database {
    /// Opens a file.
    ///
    /// # Errors
    /// [`StoreError::Broken`] if another process writes it, if it is not a tapeflow store or one
    /// of a newer version, or (for a reader) if there is none. The text says what to do.
    pub fn open(path: &Path, access: Access) -> Result<Self, StoreError> {
        let path = resolve(path)?;
        let (writer, lock) = match access {
            Access::Job => {
                let lock = lock(&path)?;
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
            writer,
            idle_readers: Mutex::new(vec![first_reader]),
            room_to_read: Semaphore::new(READERS),
            tails: OnceLock::new(),
            _lock: lock,
        })))
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
        let idle = self
            .0
            .idle_readers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let connection = idle.map_or_else(|| open_reader(&self.0.path), Ok)?;
        let result = connection
            .unchecked_transaction()
            .map_err(sqlite_error)
            .and_then(|snapshot| read(&snapshot));
        self.0
            .idle_readers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
        result.map_err(|error| self.named(error))
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Database").field(&self.describe()).finish()
    }
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

/// Takes the lock of the only process that writes. The kernel releases it when the process ends,
/// however it ends.
fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&name)
        .map_err(|error| broken(path, &format!("its lock file: {error}")))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // For the message only: a holder that has not written its number yet stays unnamed.
            let _ = (&file).take(20).read_to_string(&mut holder);
            let holder = if holder.trim().is_empty() {
                "another process".into()
            } else {
                format!("process {}", holder.trim())
            };
            return Err(broken(
                path,
                &format!(
                    "{holder} is writing it; several processes on one sqlite store are refused: \
                     stop that one, or name another file with --store"
                ),
            ));
        }
        Err(TryLockError::Error(error)) => {
            return Err(broken(path, &format!("its lock file: {error}")));
        }
    }
    let sign = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    sign.map_err(|error| broken(path, &format!("its lock file: {error}")))?;
    Ok(file)
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
