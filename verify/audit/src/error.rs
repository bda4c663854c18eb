//! Why an audit or a repair ends without a result.

use tapeflow_log::LogError;
use tapeflow_protocol::{StoreError, workflow::WorkflowError};
use tapeflow_schemas::{Offset, Partition};

/// An error of an audit or a repair. Differences are not errors: see [`crate::Findings`].
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The store has no checkpoint.
    #[error("no job has run on {store}: nothing to verify yet")]
    NoJob {
        /// The store, without credentials.
        store: String,
    },
    /// The checkpoint cannot be read.
    #[error("cannot read the checkpoint of {store}")]
    Checkpoint {
        /// The store, without credentials.
        store: String,
        /// What the store answered.
        #[source]
        source: StoreError,
    },
    /// The fingerprint in the checkpoint names rules that this version does not know.
    #[error("this version does not know the store's rules: {fingerprint}")]
    UnknownRules {
        /// The fingerprint.
        fingerprint: String,
    },
    /// The views of baskets can be recomputed only with the baskets of the job. Both sides are
    /// [`tapeflow_schemas::Baskets::digest`]; `none` means no baskets.
    #[error("the job uses the baskets {job}, not {given}")]
    OtherBaskets {
        /// The baskets of the job.
        job: String,
        /// The baskets that the audit was given.
        given: String,
    },
    /// The offset ranges of the partitions cannot be read.
    #[error("cannot read the offset ranges of the log's partitions")]
    Bounds {
        /// What the log answered.
        #[source]
        source: LogError,
    },
    /// The log failed while it was read.
    #[error(transparent)]
    Log(LogError),
    /// The log returned no records before the last bound offset was reached.
    #[error("the log returned no records for {seconds} s before the last bound offset: check it")]
    LogSilent {
        /// How long the audit waited.
        seconds: u64,
    },
    /// The topic has gained partitions since the audit began.
    #[error("the log gained partitions during the audit: run verify again")]
    PartitionsAdded,
    /// Retention removed records while the audit read them. The range is half-open.
    #[error(
        "offsets {from} to {} of partition {partition} were removed from the log during the audit: \
         run verify again",
        to - 1
    )]
    RecordsRemoved {
        /// The partition.
        partition: Partition,
        /// The first offset that is missing.
        from: Offset,
        /// The offset after the last one that is missing.
        to: Offset,
    },
    /// The store failed while it was read.
    #[error(transparent)]
    Store(StoreError),
    /// The store cannot read a range, although each window in it that has trades can be read.
    #[error("{what} cannot be read: {reason}")]
    Unreadable {
        /// The bars or views.
        what: String,
        /// What the store answered.
        reason: String,
    },
    /// The caller cancelled the audit.
    #[error("stopped before the end")]
    Stopped,
    /// Records were removed from the log, or given up, between the audit and the repair. Bars
    /// written without them would lack trades.
    #[error(
        "records were removed from the log, or given up, after the audit: nothing was repaired; \
         run verify again"
    )]
    RecordsRemovedBeforeRepair,
    /// Another generation took the job over during the repair.
    #[error(
        "generation {by} (owner {owner}) took the job over while generation {generation} repaired \
         it: what was written is correct, but generation {by} may overwrite it with a bar it read \
         before: run verify again"
    )]
    RepairTakenOver {
        /// The generation of the repair.
        generation: u64,
        /// The generation that took over.
        by: u64,
        /// The owner of that generation.
        owner: String,
    },
    /// The repair could not take the job over, or could not write.
    #[error(transparent)]
    Repair(#[from] WorkflowError),
}
