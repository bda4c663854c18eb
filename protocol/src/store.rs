//! The store's contract: what every store does, and what the one contract suite checks on all of
//! them.
//!
//! A call is one attempt. Retrying is the caller's: the sink retries writes for ever, the workflow
//! resolves an unknown compare-and-set. So no store retries, speculates or swallows anything.

use async_trait::async_trait;
use tapeflow_schemas::{
    AssetClass, BarKey, BarState, BarWrite, Epoch, Offset, Partition, Position, StoredBar,
    StoredView, Symbol, View, ViewState, ViewWrite, WindowSize, WindowStart, WriteTimestamp,
};

use crate::{
    audit::{Audited, Unlisted},
    checkpoint::Checkpoint,
};

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Out of reach, overloaded or timed out: the same call may succeed later. A write may or may
    /// not have been applied.
    #[error("store does not answer: {0}")]
    Unavailable(String),
    /// Something that no retry mends: a missing keyspace, wrong tables, refused credentials, a
    /// damaged cell.
    #[error("{0}")]
    Broken(String),
}

/// How one compare-and-set of the checkpoint ended.
#[derive(Debug)]
pub enum CasOutcome {
    /// Applied: the checkpoint is what was proposed.
    Won,
    /// Not applied: the checkpoint was not the expected one. Read it to see what it is. (After an unknown
    /// outcome of the same proposal this may also mean that the first try was applied.)
    Lost,
    /// It may or may not have been applied, now or later: read the checkpoint at SERIAL before anything
    /// else.
    Unknown(String),
}

/// What one epoch writes beside its bars, and before it is committed.
#[derive(Clone, Debug, Default)]
pub struct EpochWrites {
    /// Directory entries: written and acknowledged before the bars, so that no bar exists that the
    /// directory does not lead to.
    pub directory: Vec<DirectoryEntry>,
    /// The bars.
    pub bars: Vec<BarWrite>,
    /// The lists of views.
    pub views: Vec<ViewWrite>,
    /// The dead letters.
    pub dead_letters: Vec<DeadLetter>,
}

impl EpochWrites {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.directory.is_empty()
            && self.bars.is_empty()
            && self.views.is_empty()
            && self.dead_letters.is_empty()
    }
}

/// That a symbol has bars of a size in a bucket. Writing it again changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryEntry {
    /// The symbol.
    pub symbol: Symbol,
    /// The window size.
    pub size: WindowSize,
    /// The bucket ([`WindowSize::bucket`]).
    pub bucket: i64,
}

/// A dead letter: one record, or one trade of a record, that could not be counted, and why. Its
/// place is its identity.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeadLetter {
    /// The partition of the record.
    pub partition: Partition,
    /// The offset of the record.
    pub offset: Offset,
    /// The index of the trade in the record; 0 if the record as a whole was refused.
    pub index: u32,
    /// The reason, one short word of a fixed list: a metric's label.
    pub reason: String,
    /// The reason for a person, with what was found.
    pub detail: String,
    /// The record's bytes, at most [`MAX_DEAD_LETTER_BYTES`] of them.
    pub payload: Vec<u8>,
}

/// How much of a refused record is kept.
pub const MAX_DEAD_LETTER_BYTES: usize = 4_096;

impl DeadLetter {
    /// The place.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            partition: self.partition,
            offset: self.offset,
            index: self.index,
        }
    }
}

/// What became of the records between two bindings. `records` counts log records; the others count
/// trades, except that a record that is refused or dropped as a whole counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Log records read.
    pub records: u64,
    /// Trades accepted: the trades of policy `all`, summed over the windows of any one size.
    pub accepted: u64,
    /// Trades or records refused: dead letters.
    pub dead_letters: u64,
    /// Records dropped because their session had sent their sequence before.
    pub duplicates: u64,
    /// Price updates: entries with a size of zero, which are no trades.
    pub price_updates: u64,
    /// Sequences a session skipped: records lost before the log.
    pub gaps: u64,
    /// Trades that came after one of their windows had closed.
    pub late: u64,
}

impl Counts {
    /// Adds what another stretch of the log came to.
    pub fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.accepted += other.accepted;
        self.dead_letters += other.dead_letters;
        self.duplicates += other.duplicates;
        self.price_updates += other.price_updates;
        self.gaps += other.gaps;
        self.late += other.late;
    }
}

/// One committed epoch, kept so that "the prefix its epoch names" can be audited.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HistoryEntry {
    /// The epoch.
    pub epoch: Epoch,
    /// Its write timestamp.
    pub write_timestamp: WriteTimestamp,
    /// Where it ends, by partition.
    pub cuts: Vec<Offset>,
    /// What its records came to.
    pub counts: Counts,
}

impl HistoryEntry {
    /// Whether it says what `before` said. A topic may have gained partitions since; those it had
    /// are cut where they were.
    #[must_use]
    pub fn is_still(&self, before: &Self) -> bool {
        let cuts = before.cuts.len().min(self.cuts.len());
        (before.epoch, before.write_timestamp, before.counts)
            == (self.epoch, self.write_timestamp, self.counts)
            && before.cuts[..cuts] == self.cuts[..cuts]
    }
}

/// Where bars go, and where a job's checkpoint lives.
///
/// What holds for every store:
/// * Of two writes to a bar or a list the one with the greater write timestamp wins, in whatever order they
///   arrive; equal write timestamps come with equal content, and writing it twice changes nothing. The same
///   for directory entries and dead letters, which are identified by their key.
/// * When `write` returns `Ok`, a quorum has everything in it.
/// * [`Store::compare_and_set`] is linearizable, and [`Store::checkpoint`] reads linearizably.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The store as a person would name it, without credentials.
    fn describe(&self) -> String;

    /// Reads the job's checkpoint, linearizably. `None` if no job has run here.
    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError>;

    /// Replaces the checkpoint `expected` (`None`: there is none yet) by `proposed`; conditional on job,
    /// generation, version and owner.
    async fn compare_and_set(
        &self,
        expected: Option<&Checkpoint>,
        proposed: &Checkpoint,
    ) -> CasOutcome;

    /// Reads bars at quorum, in the order of the keys; `None` where there is no bar.
    async fn read_bars(&self, keys: &[BarKey]) -> Result<Vec<Option<BarState>>, StoreError>;

    /// Writes at quorum: the directory entries first, then bars, lists and dead letters. One attempt;
    /// all of it may be repeated.
    async fn write(&self, writes: &EpochWrites) -> Result<(), StoreError>;

    /// Writes history entries at quorum, each at its own write timestamp, or at the recovery timestamp of the
    /// generation that writes it, if that is greater: an epoch that is replayed without records
    /// that are gone by now comes to other counts than before, and the later ones must win.
    async fn write_history(
        &self,
        entries: &[HistoryEntry],
        recovery_timestamp: WriteTimestamp,
    ) -> Result<(), StoreError>;

    /// All symbols that have bars, ascending.
    async fn symbols(&self) -> Result<Vec<(Symbol, AssetClass)>, StoreError>;

    /// A symbol's bars of a size with starts in the half-open range `from..to`, ascending.
    async fn bars(
        &self,
        symbol: &Symbol,
        size: WindowSize,
        range: std::ops::Range<WindowStart>,
    ) -> Result<Vec<StoredBar>, StoreError>;

    /// A view's lists of a size with starts in the half-open range `from..to`, ascending.
    async fn views(
        &self,
        view: View,
        size: WindowSize,
        range: std::ops::Range<WindowStart>,
    ) -> Result<Vec<StoredView>, StoreError>;

    /// [`Store::bars`], each with what the columns beside its cell say otherwise. A store without
    /// such columns has nothing to add.
    async fn audit_bars(
        &self,
        symbol: &Symbol,
        size: WindowSize,
        range: std::ops::Range<WindowStart>,
    ) -> Result<Vec<Audited<BarState>>, StoreError> {
        Ok(self
            .bars(symbol, size, range)
            .await?
            .into_iter()
            .map(Audited::from)
            .collect())
    }

    /// The same for [`Store::views`] and the lines beside each list; also lines that stand there
    /// without a list. Those of epochs above `committed`, as read before, may not all be written
    /// yet.
    async fn audit_views(
        &self,
        view: View,
        size: WindowSize,
        range: std::ops::Range<WindowStart>,
        committed: Epoch,
    ) -> Result<Vec<Audited<ViewState>>, StoreError> {
        let _ = committed;
        Ok(self
            .views(view, size, range)
            .await?
            .into_iter()
            .map(Audited::from)
            .collect())
    }

    /// Bars that the directory does not lead to, and [`Store::bars`] does not find therefore. A job
    /// enters what it writes in the directory first. A store whose bars are found without a
    /// directory has none.
    async fn unlisted(&self) -> Result<Vec<Unlisted>, StoreError> {
        Ok(Vec::new())
    }

    /// The newest history entries, at most `limit`, newest first.
    async fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>, StoreError>;

    /// Dead letters by position, at most `limit`.
    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError>;
}
