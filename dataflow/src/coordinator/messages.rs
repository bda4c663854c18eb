//! The messages between coordinator and workers. They travel through a second, small dataflow
//! beside the one that carries trades.

use serde::{Deserialize, Serialize};
use tapeflow_protocol::{Checkpoint, Counts, Cut};
use tapeflow_schemas::{Epoch, Partition, Symbol, Totals, WindowStart, WriteTimestamp};

/// From a worker to the coordinator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ToCoordinator {
    /// The worker has replayed its part of all bound epochs.
    Replayed {
        /// The counts of each replayed epoch.
        counts: Vec<(Epoch, Counts)>,
        /// Whether the worker gave up offsets that no binding records as lost.
        lost: bool,
    },
    /// The worker has sealed the epoch: records that it reads later belong to a later epoch.
    Sealed {
        epoch: Epoch,
        cuts: Vec<(Partition, Cut)>,
        counts: Counts,
        /// The number of rows of bars that the epoch writes for what this worker has read.
        rows: u64,
        /// Whether every partition of the worker has passed its requested end.
        at_end: bool,
    },
    /// The worker has read the first record since its last seal.
    RecordWaits,
    /// The worker's open map is full: it reads no further before the next seal.
    Full,
    /// The worker's process was asked to stop reading and end.
    DrainRequested,
    /// The worker's process was asked to end once everything that is in the log now is committed.
    EndRequested,
}

/// From the coordinator to every worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ToWorker {
    /// The first message: the checkpoint that the job starts from.
    Start(Box<Checkpoint>),
    /// Seal this epoch and report its cuts.
    Seal(Epoch),
    /// This epoch is bound: its partials may leave the source, and its bars are written at this
    /// write timestamp.
    Bound {
        epoch: Epoch,
        write_timestamp: WriteTimestamp,
    },
    /// No worker read a record for this epoch: its number is used again.
    Reopen(Epoch),
    /// All epochs up to this one are committed.
    Committed(Epoch),
    /// Remember where the log ends now, and report in `Sealed` when it is reached.
    ReadToEnd,
    /// Read no further.
    StopReading,
    /// Everything is committed: end.
    Finish,
}

/// A bar that the store has acknowledged, sent to the observer of process 0 for display.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LiveBar {
    pub(crate) epoch: Epoch,
    pub(crate) write_timestamp: WriteTimestamp,
    pub(crate) symbol: Symbol,
    pub(crate) start: WindowStart,
    pub(crate) totals: Totals,
}
