//! A job that its caller steps: several workers on one thread, in the order that the caller
//! chooses, with the caller's clock, log and store. For simulations.
//!
//! The operators, the coordinator and the workflow are those of [`crate::run`]. Nothing runs
//! between two calls of [`Stepped::step`], except calls to the store on the given runtime.

use std::sync::{Arc, Mutex};

use tapeflow_log::Log;
use tapeflow_protocol::{Checkpoint, JobStore, decide::Opening};
use timely::{WorkerConfig, communication::allocator::Allocator, worker::Worker};

use crate::{
    clock::Clock,
    cluster::liveness::Liveness,
    config::JobConfig,
    failure::{Failure, JobError},
    hash, job,
    metrics::Metrics,
    observer::Observer,
    shared::{Shared, Summary},
    shutdown::Stop,
    store_io::StoreIo,
    worker::{WorkerLoop, run_out},
};

/// What a generation runs on.
pub struct Environment {
    /// Must have one process.
    pub config: JobConfig,
    /// The log it reads.
    pub log: Arc<dyn Log>,
    /// The store it writes.
    pub store: Arc<dyn JobStore>,
    /// The source of time.
    pub clock: Arc<dyn Clock>,
    /// How the caller asks it to end.
    pub stop: Stop,
    /// Is called with acknowledged writes.
    pub observer: Arc<dyn Observer>,
    /// Where calls to the store run. A step never waits for them.
    pub runtime: tokio::runtime::Handle,
    /// The seed of the hash maps of this thread, which decides their iteration order.
    pub hash_seed: u64,
}

/// The description of the job for [`tapeflow_protocol::workflow::take_over`].
///
/// # Errors
/// [`JobError`], if the log does not answer.
pub fn opening(config: &JobConfig, log: &dyn Log, owner: String) -> Result<Opening, JobError> {
    job::opening(config, log, owner)
}

/// A generation that has taken over, and its workers. Dropping it is a crash: the state of the
/// workers is lost.
pub struct Stepped {
    shared: Arc<Shared>,
    workers: Vec<(Worker, WorkerLoop)>,
}

impl Stepped {
    /// Builds the workers, one for each allocator. `checkpoint` is the result of the take-over.
    #[must_use]
    pub fn new(
        environment: Environment,
        checkpoint: Checkpoint,
        allocators: Vec<Allocator>,
    ) -> Self {
        hash::fix_seed(environment.hash_seed);
        let failure = Failure::default();
        let liveness = Liveness::new(environment.config.workers);
        let shared = Arc::new(Shared {
            config: environment.config,
            log: environment.log,
            io: StoreIo::new(
                environment.runtime.clone(),
                Arc::clone(&environment.store),
                failure.clone(),
            ),
            store: environment.store,
            clock: environment.clock,
            stop: environment.stop,
            observer: environment.observer,
            failure,
            metrics: Arc::new(Metrics::default()),
            runtime: environment.runtime,
            liveness,
            checkpoint: Mutex::new(Some(checkpoint)),
        });
        let worker = |allocator| {
            let mut worker = Worker::new(WorkerConfig::default(), allocator, None);
            let worker_loop = WorkerLoop::new(&mut worker, &shared);
            (worker, worker_loop)
        };
        let workers = allocators.into_iter().map(worker).collect();
        Self { shared, workers }
    }

    /// Runs one step of one worker. Returns whether anything happened.
    pub fn step(&mut self, index: usize) -> bool {
        let (worker, worker_loop) = &mut self.workers[index];
        if worker_loop.continues(&self.shared) {
            return worker_loop.step(worker, &self.shared);
        }
        worker_loop.close();
        run_out(worker, &self.shared) && worker.step()
    }

    /// The result; `None` while a worker has something left to do.
    pub fn ended(&mut self) -> Option<Result<Summary, JobError>> {
        if let Some(error) = self.shared.failure.take() {
            return Some(Err(error));
        }
        let done = self.workers.iter().all(|(worker, worker_loop)| {
            !worker_loop.continues(&self.shared) && !worker.has_dataflows()
        });
        done.then(|| Ok(Summary::of(&self.shared.metrics)))
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        for (worker, _) in &mut self.workers {
            worker
                .installed_dataflows()
                .into_iter()
                .for_each(|id| worker.drop_dataflow(id));
        }
    }
}
