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

/// What a process of a generation runs on.
pub struct Environment {
    /// Must be that of a job of one process, with this process's workers.
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

impl Environment {
    fn shared(self, checkpoint: Option<Checkpoint>) -> Shared {
        let failure = Failure::default();
        Shared {
            io: StoreIo::new(
                self.runtime.clone(),
                Arc::clone(&self.store),
                &self.config.limits,
                failure.clone(),
            ),
            liveness: Liveness::new(self.config.workers),
            config: self.config,
            log: self.log,
            store: self.store,
            clock: self.clock,
            stop: self.stop,
            observer: self.observer,
            failure,
            metrics: Arc::new(Metrics::default()),
            runtime: self.runtime,
            checkpoint: Mutex::new(checkpoint),
        }
    }
}

/// The description of the job for [`tapeflow_protocol::workflow::take_over`].
///
/// # Errors
/// [`JobError`], if the log does not answer.
pub fn opening(config: &JobConfig, log: &dyn Log, owner: String) -> Result<Opening, JobError> {
    job::opening(config, log, owner)
}

/// A generation that has taken over, and the workers of all its processes. Dropping it is a crash:
/// the state of the workers is lost.
pub struct Stepped {
    processes: Vec<Arc<Shared>>,
    /// Each with the number of its process.
    workers: Vec<(usize, Worker, WorkerLoop)>,
}

impl Stepped {
    /// Builds the workers of each process, one for each allocator. `checkpoint` is the result of
    /// the take-over.
    ///
    /// The processes differ in what they run on, so that one can fail while others go on. Their
    /// workers are connected as if they were of one process.
    #[must_use]
    pub fn new(
        processes: Vec<Environment>,
        checkpoint: Checkpoint,
        allocators: Vec<Allocator>,
    ) -> Self {
        let (mut checkpoint, mut allocators) = (Some(checkpoint), allocators.into_iter());
        let mut stepped = Self {
            processes: Vec::new(),
            workers: Vec::new(),
        };
        for (process, environment) in processes.into_iter().enumerate() {
            hash::fix_seed(environment.hash_seed);
            let workers = environment.config.workers;
            // The coordinator is in the first process.
            let shared = Arc::new(environment.shared(checkpoint.take()));
            for allocator in allocators.by_ref().take(workers) {
                let mut worker = Worker::new(WorkerConfig::default(), allocator, None);
                let worker_loop = WorkerLoop::new(&mut worker, &shared);
                stepped.workers.push((process, worker, worker_loop));
            }
            stepped.processes.push(shared);
        }
        stepped
    }

    /// The number of the process of a worker.
    #[must_use]
    pub fn process_of(&self, index: usize) -> usize {
        self.workers[index].0
    }

    /// Runs one step of one worker. Returns whether anything happened.
    pub fn step(&mut self, index: usize) -> bool {
        let (process, worker, worker_loop) = &mut self.workers[index];
        let shared = &self.processes[*process];
        if worker_loop.continues(shared) {
            return worker_loop.step(worker, shared);
        }
        worker_loop.close();
        run_out(worker, shared) && worker.step()
    }

    /// Why a process has failed, once. A failure is not known to the other processes.
    pub fn failure(&mut self, process: usize) -> Option<JobError> {
        self.processes[process].failure.take()
    }

    /// The result of a job that has not failed; `None` while a worker has something left to do.
    #[must_use]
    pub fn ended(&self) -> Option<Summary> {
        let done = self.workers.iter().all(|(process, worker, worker_loop)| {
            !worker_loop.continues(&self.processes[*process]) && !worker.has_dataflows()
        });
        done.then(|| Summary::of(&self.processes[0].metrics))
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        for (_, worker, _) in &mut self.workers {
            worker
                .installed_dataflows()
                .into_iter()
                .for_each(|id| worker.drop_dataflow(id));
        }
    }
}
