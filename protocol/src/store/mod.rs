//! What a store must do, split by caller. `tests/` of the sinks runs one contract suite on every
//! store.
//!
//! | trait | caller | calls |
//! |---|---|---|
//! | [`CheckpointStore`] | coordinator, repairer | the checkpoint, and the history of epochs |
//! | [`EpochStore`] | dataflow | read bars and views, write an epoch |
//! | [`BarReader`] | `bars`, `views`, live page, tests | symbols, bars, views, feed gaps, history, dead letters |
//! | [`AuditStore`] | `verify` | bars and views with their mismatches, unlisted bars |
//! | [`ExpiryStore`] | `expire`, `run` | remove bars that are beyond their horizon |
//!
//! What always holds:
//! * A call is one attempt. A store does not retry a call as a whole, and hides no outcome: the
//!   caller retries writes, and the workflow resolves an unknown compare-and-set.
//! * No method has a default body. A wrapper that forgets a method does not compile, so it cannot
//!   report "no differences" by accident.

mod audit;
mod bars;
mod checkpoint;
mod counts;
mod dead_letter;
mod directory_entry;
mod epoch_writes;
mod expiry_store;
pub mod feed_gap;
mod history_entry;
mod reader;

pub use audit::AuditStore;
pub use bars::EpochStore;
pub use checkpoint::{CasOutcome, CheckpointStore};
pub use counts::Counts;
pub use dead_letter::{
    DeadLetter, LISTED_DEAD_LETTERS, MAX_DEAD_LETTER_BYTES, MAX_DETAIL_BYTES, MAX_REASON_BYTES,
};
pub use directory_entry::DirectoryEntry;
pub use epoch_writes::EpochWrites;
pub use expiry_store::{ExpiryProgress, ExpiryStore};
pub use feed_gap::FeedGap;
pub use history_entry::HistoryEntry;
pub use reader::{BarReader, SymbolDirectory};

/// Why a store could not do what a caller asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store is out of reach, overloaded or timed out. The same call may succeed later. A write
    /// may or may not have been applied.
    #[error("store does not answer: {0}")]
    Unavailable(String),
    /// An error that no retry corrects: a missing keyspace, wrong tables, refused credentials, a
    /// damaged cell.
    #[error("{0}")]
    Broken(String),
}

/// What a running job needs of a store.
pub trait JobStore: CheckpointStore + EpochStore {}

impl<S: CheckpointStore + EpochStore + ?Sized> JobStore for S {}

/// A store that serves every caller.
pub trait Store: JobStore + BarReader + AuditStore + ExpiryStore {}

impl<S: JobStore + BarReader + AuditStore + ExpiryStore + ?Sized> Store for S {}
