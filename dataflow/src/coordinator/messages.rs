//! What the coordinator and the sources say to each other, through a second, small dataflow beside the
//! one that carries trades; and what workers of other processes show to process 0.

use serde::{Deserialize, Serialize};
use tapeflow_protocol::{Checkpoint, Counts, Cut};
use tapeflow_schemas::{Epoch, Partition, Symbol, Totals, WindowStart, WriteTimestamp};

/// From a worker to the coordinator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ToCoordinator {
    /// The worker has replayed its part of all bound epochs; what each came to, and whether it had
    /// to give offsets up that no binding says are lost.
    Replayed {
        counts: Vec<(Epoch, Counts)>,
        lost: bool,
    },
    /// The worker has sealed the epoch: nothing read later belongs to it.
    Sealed {
        epoch: Epoch,
        cuts: Vec<(Partition, Cut)>,
        counts: Counts,
        /// How many windows it touches.
        windows: u64,
        /// Every partition of the worker has passed the end it was given.
        at_end: bool,
    },
    /// The worker's open map is full: it reads no further before the next seal.
    Full,
    /// The worker's process was asked to drain.
    DrainRequested,
    /// The worker's process was asked to end once all that is in the log now is committed.
    EndRequested,
}

/// From the coordinator to every worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ToWorker {
    /// The job is ours: the checkpoint it starts from. Comes first.
    Start(Box<Checkpoint>),
    /// Seal this epoch, and say where it ends.
    Seal(Epoch),
    /// This epoch is bound: its partials may leave, its bars are written at this write timestamp.
    Bound {
        epoch: Epoch,
        write_timestamp: WriteTimestamp,
    },
    /// Nobody had anything for this epoch: its number will be used again.
    Reopen(Epoch),
    /// All epochs up to this one are committed.
    Committed(Epoch),
    /// Note where the log ends now, and tell when it is reached.
    ReadToEnd,
    /// Read no further.
    StopReading,
    /// Everything is committed: end.
    Finish,
}

/// A bar that the store has acknowledged, for whoever looks on at process 0. Nothing depends on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Shown {
    pub(crate) epoch: Epoch,
    pub(crate) write_timestamp: WriteTimestamp,
    pub(crate) symbol: Symbol,
    pub(crate) start: WindowStart,
    pub(crate) totals: Totals,
}
