//! The job turned by hand: several workers on one thread, in whatever order the caller chooses,
//! with the caller's clock, log and store. For simulations: the operators, the coordinator and the
//! workflow are those of [`crate::run`], and nothing runs unless the caller lets it.

use std::sync::{Arc, Mutex};

use tapeflow_log::Log;
use tapeflow_protocol::{Checkpoint, JobStore, decide::Opening};
use timely::{WorkerConfig, communication::allocator::Allocator, worker::Worker};

use crate::{
    clock::Clock,
    cluster::heartbeat::Liveness,
    hash,
    job::{self, Failure, JobConfig, JobError, Observer, Shared, Stop, Summary},
    metrics::Metrics,
    store_io::StoreIo,
    worker::{Work, run_out},
};

/// What a generation runs on.
pub struct Stage {
    /// What it is to do; one process.
    pub config: JobConfig,
    /// Its log.
    pub log: Arc<dyn Log>,
    /// Its store.
    pub store: Arc<dyn JobStore>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// How it is asked to end.
    pub stop: Stop,
    /// Who sees its acknowledgements.
    pub observer: Arc<dyn Observer>,
    /// Where calls of the store run. Nothing here waits for them.
    pub runtime: tokio::runtime::Handle,
    /// Decides in which order maps made on this thread are walked from here on.
    pub hash_seed: u64,
}

/// What a generation says of itself when it takes over ([`tapeflow_protocol::workflow::take_over`]).
///
/// # Errors
/// [`JobError`], if the log does not answer.
pub fn opening(config: &JobConfig, log: &dyn Log, owner: String) -> Result<Opening, JobError> {
    job::opening(config, log, owner)
}

/// A generation that has taken over, and its workers.
pub struct Stepped {
    shared: Arc<Shared>,
    workers: Vec<(Worker, Work)>,
}

impl Stepped {
    /// Builds the workers, one for each allocator. `checkpoint` is what the take-over made of the checkpoint.
    #[must_use]
    pub fn new(stage: Stage, checkpoint: Checkpoint, allocators: Vec<Allocator>) -> Self {
        hash::fix(stage.hash_seed);
        let (failure, workers, metrics) = (
            Failure::default(),
            stage.config.workers,
            Arc::new(Metrics::default()),
        );
        let shared = Arc::new(Shared {
            config: stage.config,
            log: stage.log,
            io: StoreIo::new(
                stage.runtime.clone(),
                Arc::clone(&stage.store),
                failure.clone(),
            ),
            store: stage.store,
            clock: stage.clock,
            stop: stage.stop,
            observer: stage.observer,
            failure,
            metrics,
            runtime: stage.runtime,
            liveness: Liveness::new(workers),
            checkpoint: Mutex::new(Some(checkpoint)),
        });
        let worker = |allocator| {
            let mut worker = Worker::new(WorkerConfig::default(), allocator, None);
            let work = Work::new(&mut worker, &shared);
            (worker, work)
        };
        let workers = allocators.into_iter().map(worker).collect();
        Self { shared, workers }
    }

    /// Turns one worker once; whether anything happened.
    pub fn turn(&mut self, index: usize) -> bool {
        let (worker, work) = &mut self.workers[index];
        if work.goes_on(&self.shared) {
            return work.turn(worker, &self.shared);
        }
        work.close();
        run_out(worker, &self.shared) && worker.step()
    }

    /// How it ended; `None` as long as a worker has something left to do.
    pub fn ended(&mut self) -> Option<Result<Summary, JobError>> {
        if let Some(error) = self.shared.failure.take() {
            return Some(Err(error));
        }
        let metrics = &self.shared.metrics;
        let done = self
            .workers
            .iter()
            .all(|(worker, work)| !work.goes_on(&self.shared) && !worker.has_dataflows());
        done.then(|| {
            Ok(Summary {
                committed: metrics.epoch_committed.get(),
                records: metrics.records.get(),
                bars_written: metrics.bars_written.get(),
            })
        })
    }
}

impl Drop for Stepped {
    /// A crash: what the workers hold is gone.
    fn drop(&mut self) {
        for (worker, _) in &mut self.workers {
            worker
                .installed_dataflows()
                .into_iter()
                .for_each(|id| worker.drop_dataflow(id));
        }
    }
}
