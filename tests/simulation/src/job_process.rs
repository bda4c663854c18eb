//! One generation: its take-over, its processes, and for each of them workers and a runtime for
//! store calls. Dropping it is a crash: it gets no more answers, and the messages that it has sent
//! still arrive.
//!
//! A process that dies or fails takes the others along, but not at once: until they notice, they go
//! on without it.

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
    allocators::allocators,
    feed::BEGIN_MS,
    log::{Breaks, SimulatedLog},
    runtime::{advance, paused_runtime},
    store::SimulatedStore,
    world::Shared,
};

/// A generation's clock: the world's time plus the error of its machine.
pub(crate) struct SimulatedClock {
    world: Shared,
    begin: Instant,
    off_us: AtomicI64,
}

impl SimulatedClock {
    pub(crate) fn new(world: &Shared, off_us: i64) -> Self {
        Self {
            world: world.clone(),
            begin: Instant::now(),
            off_us: AtomicI64::new(off_us),
        }
    }
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

/// How a generation ended.
pub(crate) enum Ended {
    Crashed,
    Finished(Result<Summary, JobError>),
}

/// What a generation gets from its seed.
pub(crate) struct Start {
    pub(crate) number: u64,
    /// Of one process.
    pub(crate) config: JobConfig,
    pub(crate) processes: usize,
    pub(crate) breaks: Breaks,
    pub(crate) off_us: i64,
    pub(crate) hash_seed: u64,
    /// How long processes go on after one of them is gone.
    pub(crate) notice_us: u64,
}

/// A generation.
pub(crate) struct JobProcess {
    pub(crate) number: u64,
    /// Before the runtimes: its workers are dropped first.
    stepped: Option<Stepped>,
    /// By process; `None` once it is dead.
    runtimes: Vec<Option<Runtime>>,
    start: Start,
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
    /// When the last process notices that another one is gone, and how the first one ended.
    leaving: Option<(u64, Ended)>,
    /// The time that its runtimes have reached.
    reached_us: u64,
}

impl JobProcess {
    /// Starts a generation, which then tries to take the job over.
    pub(crate) fn start(world: &Shared, start: Start) -> Result<Self, JobError> {
        let runtimes: Vec<_> = (0..start.processes)
            .map(|_| Some(paused_runtime()))
            .collect();
        let log = Arc::new(SimulatedLog {
            world: world.clone(),
            breaks: start.breaks,
        });
        let store: Arc<dyn JobStore> = Arc::new(SimulatedStore {
            world: world.clone(),
        });
        let clock = Arc::new(SimulatedClock::new(world, start.off_us));
        let opening = stepped::opening(&start.config, &*log, format!("{:032x}", start.number))?;
        let taken = Taken::default();
        let (outcome, asked, by) = (Arc::clone(&taken), Arc::clone(&store), Arc::clone(&clock));
        if let Some(runtime) = &runtimes[0] {
            runtime.spawn(async move {
                let ended = workflow::take_over(&*asked, &opening, || by.wall_us()).await;
                *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
            });
        }
        let reached_us = world.world().now_us;
        Ok(Self {
            number: start.number,
            stepped: None,
            runtimes,
            start,
            log,
            store,
            clock,
            stop: Stop::default(),
            asked: false,
            taken,
            generation: None,
            paused_until_us: 0,
            leaving: None,
            reached_us,
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
        self.start.config.workers * self.start.processes
    }

    pub(crate) fn processes(&self) -> usize {
        self.start.processes
    }

    /// Sets the clocks of the generation's machines.
    pub(crate) fn set_clock(&self, off_us: i64) {
        self.clock.off_us.store(off_us, Ordering::Relaxed);
    }

    /// Advances the runtimes to the current time and runs their tasks for a while.
    pub(crate) fn breathe(&mut self, now_us: u64, rounds: u32) {
        for runtime in self.runtimes.iter().flatten() {
            advance(runtime, now_us - self.reached_us, rounds);
        }
        self.reached_us = now_us;
    }

    /// Kills one process. Returns whether the others go on for now.
    pub(crate) fn kill(&mut self, process: usize) -> bool {
        if self.stepped.is_none() || self.leaving.is_some() || self.start.processes == 1 {
            return false;
        }
        self.runtimes[process] = None;
        self.leave(Ended::Crashed);
        true
    }

    fn leave(&mut self, ended: Ended) {
        if self.leaving.is_none() {
            self.leaving = Some((self.reached_us + self.start.notice_us, ended));
        }
    }

    /// Steps a worker, if there are any yet. Returns how the generation ended, if it has.
    pub(crate) fn turn(&mut self, worker: usize) -> Option<Ended> {
        if let Some((_, ended)) = self
            .leaving
            .take_if(|(until_us, _)| *until_us <= self.reached_us)
        {
            return Some(ended);
        }
        let Some(stepped) = &mut self.stepped else {
            let taken = self
                .taken
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()?;
            return match taken {
                Ok(checkpoint) => {
                    self.generation = Some(checkpoint.generation);
                    let processes = self.environments();
                    let allocators = allocators(self.workers());
                    self.stepped = Some(Stepped::new(processes, checkpoint, allocators));
                    None
                }
                Err(error) => Some(Ended::Finished(Err(error.into()))),
            };
        };
        let process = stepped.process_of(worker);
        self.runtimes[process].as_ref()?;
        stepped.step(worker);
        match stepped.failure(process) {
            Some(error) if self.start.processes == 1 => return Some(Ended::Finished(Err(error))),
            Some(error) => self.leave(Ended::Finished(Err(error))),
            None => {}
        }
        let stepped = self.stepped.as_ref().filter(|_| self.leaving.is_none())?;
        stepped.ended().map(|summary| Ended::Finished(Ok(summary)))
    }

    /// What each process runs on.
    fn environments(&self) -> Vec<Environment> {
        let runtimes = self.runtimes.iter().flatten();
        runtimes
            .map(|runtime| Environment {
                config: self.start.config.clone(),
                log: Arc::clone(&self.log) as _,
                store: Arc::clone(&self.store),
                clock: Arc::clone(&self.clock) as _,
                stop: self.stop.clone(),
                observer: Arc::new(()),
                runtime: runtime.handle().clone(),
                hash_seed: self.start.hash_seed,
            })
            .collect()
    }
}
