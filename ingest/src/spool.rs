//! The spool: a bounded write-ahead log on the disk of ingest, in front of the log.
//!
//! ```text
//!  pipeline ─▶ SpoolWriter ─▶ DIR/*.segment ─▶ forwarder ─▶ LogWriter
//!                                  ▲                           │
//!                                  └── acknowledged: remove ◀──┘
//! ```
//!
//! A record is written to a **segment** before the log gets it, and stays there until the log has
//! acknowledged it. While the log is away, the feed is read on and the segments grow to their
//! bound. After a kill the next run first sends what is left, in order and under its own session
//! and sequences; so the job drops what the log had already.
//!
//! What always holds:
//! * The log gets the records of the spool in the order in which they were appended to it.
//! * The files take at most the configured size, apart from one entry that is larger.
//! * A full spool makes the pipeline wait, and so the feed; nothing is dropped here.
//! * A spool that cannot be used as it is ([`SpoolError`]) is left as it was, and nothing is sent.
//!
//! It does not keep what was received and not admitted yet: the frames in memory, a few
//! milliseconds of them. A recording needs no spool, because it can be replayed.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

mod directory;
mod format;
mod forward;
mod state;
mod writer;

#[cfg(feature = "fuzz")]
pub use format::check as check_bytes;
pub use state::{SpoolNow, SpoolState};
pub use writer::{Remaining, Spool, SpoolWriter};

/// When what was written to the spool is made durable. A killed process loses nothing with any of
/// them; they differ in what a power failure or a crash of the system may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// When the system likes to.
    Never,
    /// Before the log gets it.
    Always,
    /// This long after it was written, at the latest.
    Every(Duration),
}

/// Settings of a spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolConfig {
    /// The directory, which is made if there is none.
    pub directory: PathBuf,
    /// Bound of its files.
    pub size_bytes: u64,
    /// When it is made durable.
    pub fsync: Fsync,
}

/// The log that a spool's records are meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its name, such as topic and cluster.
    pub log: String,
    /// What a log has that was deleted and made again under its name; `None` if it is not known.
    pub id: Option<String>,
    /// Its partitions, which decided the partition of each record.
    pub partitions: u32,
}

impl Owner {
    /// Whether both are the same log, as far as is known.
    fn is_log_of(&self, other: &Self) -> bool {
        let differ = self.id.as_ref().zip(other.id.as_ref());
        self.log == other.log && differ.is_none_or(|(one, other)| one == other)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "{} with the id {id}", self.log),
            None => write!(f, "{}", self.log),
        }
    }
}

/// Why a spool cannot be used. It is left as it was, and nothing of it was sent.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say what each is")]
pub enum SpoolError {
    #[error("{path}: {error}")]
    Io { path: String, error: io::Error },
    #[error("{} is no directory: name one that is, or that does not exist yet", .0.display())]
    NoDirectory(PathBuf),
    #[error(
        "{} is on a network file system ({kind}), whose locks and writes may not hold: \
         name a directory on a local disk",
        path.display()
    )]
    Network { path: PathBuf, kind: &'static str },
    #[error(
        "{} contains {name:?}, which is no file of a spool: name a directory that nothing else \
         uses",
        path.display()
    )]
    Foreign { path: PathBuf, name: String },
    #[error(
        "{holder} uses {}: stop it, or give each ingest a directory of its own",
        path.display()
    )]
    Held { path: PathBuf, holder: String },
    #[error(
        "{} cannot be locked ({error}): name a directory on a local disk",
        path.display()
    )]
    Lock { path: PathBuf, error: io::Error },
    #[error(
        "{} is damaged at byte {offset}. Restore the file, or move the directory away and begin \
         with an empty one: what is in it and not in the log is lost then",
        path.display()
    )]
    Damaged { path: PathBuf, offset: u64 },
    #[error(
        "{} is missing, and there are segments before and after it. Restore the file, or move the \
         directory away and begin with an empty one: what is in it and not in the log is lost then",
        .0.display()
    )]
    Missing(PathBuf),
    #[error(
        "{} holds {records} records for {found}, and this is {wanted}: name the log that they are \
         for, or another directory",
        path.display()
    )]
    OtherLog {
        path: PathBuf,
        records: u64,
        found: String,
        wanted: String,
    },
    #[error(
        "{} holds {records} records for a log of {found} partitions, and this one has {wanted}: \
         name the log that they are for, or another directory",
        path.display()
    )]
    FewerPartitions {
        path: PathBuf,
        records: u64,
        found: u32,
        wanted: u32,
    },
    #[error(
        "the disk of {} is full: {free_bytes} bytes are free, and the spool may grow by \
         {needed_bytes}. Free some, or give a smaller --spool-size",
        path.display()
    )]
    DiskFull {
        path: PathBuf,
        free_bytes: u64,
        needed_bytes: u64,
    },
}

impl SpoolError {
    fn io(path: &Path, error: io::Error) -> Self {
        Self::Io {
            path: path.display().to_string(),
            error,
        }
    }
}
