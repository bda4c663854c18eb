//! What all workers of a process share, and what a run reports at its end.

use std::sync::{Arc, Mutex};

use tapeflow_log::Log;
use tapeflow_protocol::{Checkpoint, JobStore};
use tokio::runtime::Handle;

use crate::{
    clock::Clock, cluster::liveness::Liveness, config::JobConfig, failure::Failure,
    metrics::Metrics, observer::Observer, shutdown::Stop, store_io::StoreIo,
};

/// Shared by all workers of this process.
pub(crate) struct Shared {
    pub(crate) config: JobConfig,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) store: Arc<dyn JobStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stop: Stop,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) failure: Failure,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) runtime: Handle,
    pub(crate) io: StoreIo,
    pub(crate) liveness: Liveness,
    /// The checkpoint after the take-over, in process 0. Its first worker takes it and becomes the
    /// coordinator.
    pub(crate) checkpoint: Mutex<Option<Checkpoint>>,
}

/// The totals of a run, in this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// The last committed epoch that this process knows of.
    pub committed: u64,
    /// Log records that this process's workers read, including replayed ones.
    pub records: u64,
    /// Bars that the store acknowledged.
    pub bars_written: u64,
}

impl Summary {
    pub(crate) fn of(metrics: &Metrics) -> Self {
        Self {
            committed: metrics.epoch_committed.get(),
            records: metrics.records.get(),
            bars_written: metrics.bars_written.get(),
        }
    }
}
