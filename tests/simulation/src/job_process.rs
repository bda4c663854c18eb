//! One generation's job process: its take-over, its workers, and a runtime of its own for store
//! calls. Dropping it is a crash: it gets no more answers, and the messages that it has sent still
//! arrive.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use tapeflow_dataflow::{
    JobConfig, JobError, Stop, Summary,
    clock::Clock,
    stepped::{self, Environment, Stepped},
};
use tapeflow_protocol::{Checkpoint, JobStore, workflow};
use tokio::runtime::Runtime;

use crate::{
    allocators::allocators, feed::BEGIN_MS, log::SimulatedLog, store::SimulatedStore, world::Shared,
};

/// A generation's clock: the world's time plus the error of its machine.
pub(crate) struct SimulatedClock {
    world: Shared,
    begin: Instant,
    off_us: AtomicI64,
}

impl Clock for SimulatedClock {
    fn now(&self) -> Instant {
        self.begin + Duration::from_micros(self.world.world().now_us)
    }

    fn wall_us(&self) -> i64 {
        BEGIN_MS * 1_000
            + self.world.world().now_us.cast_signed()
            + self.off_us.load(Ordering::Relaxed)
    }
}

/// The outcome of the take-over, once there is one.
type Taken = Arc<Mutex<Option<Result<Checkpoint, workflow::WorkflowError>>>>;

/// A generation.
pub(crate) struct JobProcess {
    pub(crate) number: u64,
    /// Before the runtime: its workers are dropped first.
    stepped: Option<Stepped>,
    runtime: Runtime,
    config: JobConfig,
    log: Arc<SimulatedLog>,
    store: Arc<dyn JobStore>,
    clock: Arc<SimulatedClock>,
    stop: Stop,
    asked: bool,
    taken: Taken,
    /// The generation in the checkpoint, once it is taken over.
    pub(crate) generation: Option<u64>,
    /// Does nothing before this time.
    pub(crate) paused_until_us: u64,
    /// The time that its runtime has reached.
    reached_us: u64,
    hash_seed: u64,
}

impl JobProcess {
    /// Starts a process, which then tries to take the job over.
    pub(crate) fn start(
        world: &Shared,
        number: u64,
        config: JobConfig,
        breaks: f64,
        off_us: i64,
        hash_seed: u64,
    ) -> Result<Self, JobError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|error| JobError::Failed(format!("cannot make a runtime: {error}")))?;
        let log = Arc::new(SimulatedLog {
            world: world.clone(),
            breaks,
        });
        let store: Arc<dyn JobStore> = Arc::new(SimulatedStore {
            world: world.clone(),
        });
        let clock = Arc::new(SimulatedClock {
            world: world.clone(),
            begin: Instant::now(),
            off_us: AtomicI64::new(off_us),
        });
        let opening = stepped::opening(&config, &*log, format!("{number:032x}"))?;
        let taken = Taken::default();
        let (outcome, asked, by) = (Arc::clone(&taken), Arc::clone(&store), Arc::clone(&clock));
        runtime.spawn(async move {
            let ended = workflow::take_over(&*asked, &opening, || by.wall_us()).await;
            *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
        });
        let reached_us = world.world().now_us;
        let (stepped, stop, generation) = (None, Stop::default(), None);
        Ok(Self {
            number,
            stepped,
            runtime,
            config,
            log,
            store,
            clock,
            stop,
            asked: false,
            taken,
            generation,
            paused_until_us: 0,
            reached_us,
            hash_seed,
        })
    }

    /// Whether a request to end is pending.
    pub(crate) fn stop_requested(&self) -> bool {
        self.asked
    }

    /// Requests its end.
    pub(crate) fn request_stop(&mut self) {
        self.asked = true;
        self.stop.request();
    }

    pub(crate) fn workers(&self) -> usize {
        self.config.workers
    }

    /// Sets the clock of the generation's machine.
    pub(crate) fn set_clock(&self, off_us: i64) {
        self.clock.off_us.store(off_us, Ordering::Relaxed);
    }

    /// Advances the runtime to the current time and runs its tasks for a while.
    pub(crate) fn breathe(&mut self, now_us: u64, rounds: u32) {
        let by = Duration::from_micros(now_us - self.reached_us);
        self.reached_us = now_us;
        self.runtime.block_on(async {
            if !by.is_zero() {
                tokio::time::advance(by).await;
            }
            for _ in 0..rounds {
                tokio::task::yield_now().await;
            }
        });
    }

    /// Steps a worker, if there are any yet. Returns how the job process ended, if it has.
    pub(crate) fn turn(&mut self, worker: usize) -> Option<Result<Summary, JobError>> {
        let Some(stepped) = &mut self.stepped else {
            let taken = self
                .taken
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()?;
            return match taken {
                Ok(checkpoint) => {
                    self.generation = Some(checkpoint.generation);
                    let environment = Environment {
                        config: self.config.clone(),
                        log: Arc::clone(&self.log) as _,
                        store: Arc::clone(&self.store),
                        clock: Arc::clone(&self.clock) as _,
                        stop: self.stop.clone(),
                        observer: Arc::new(()),
                        runtime: self.runtime.handle().clone(),
                        hash_seed: self.hash_seed,
                    };
                    self.stepped = Some(Stepped::new(
                        environment,
                        checkpoint,
                        allocators(self.config.workers),
                    ));
                    None
                }
                Err(error) => Some(Err(JobError::Failed(error.to_string()))),
            };
        };
        stepped.step(worker);
        stepped.ended()
    }
}
