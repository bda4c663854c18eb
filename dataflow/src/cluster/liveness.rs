//! Whether the workers of a process still make progress. The workers write it; the heartbeat and
//! the metrics read it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// The state of this process's workers.
#[derive(Clone, Debug)]
pub(crate) struct Liveness {
    /// The number of steps of each worker.
    steps: Arc<[AtomicU64]>,
    started: Instant,
    /// When each worker last began a step, in milliseconds since `started`; 0 before its first.
    last_step_ms: Arc<[AtomicU64]>,
    /// How many threads wait for the store before their workers can step.
    waiting: Arc<AtomicUsize>,
    ending: Arc<AtomicBool>,
    fenced: Arc<AtomicBool>,
    /// The heartbeat asks the store whether another generation has taken over.
    asking: Arc<AtomicBool>,
}

/// A wait for the store at the start, until it is dropped.
pub(crate) struct Wait(Arc<AtomicUsize>);

impl Drop for Wait {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Liveness {
    pub(crate) fn new(workers: usize) -> Self {
        let zeros = || (0..workers).map(|_| AtomicU64::new(0)).collect();
        Self {
            steps: zeros(),
            started: Instant::now(),
            last_step_ms: zeros(),
            waiting: Arc::default(),
            ending: Arc::default(),
            fenced: Arc::default(),
            asking: Arc::default(),
        }
    }

    /// A worker of this process begins a step.
    pub(crate) fn step(&self, worker: usize) {
        self.steps[worker].fetch_add(1, Ordering::Relaxed);
        self.last_step_ms[worker].store(self.elapsed_ms().max(1), Ordering::Relaxed);
    }

    /// The number of steps of each worker.
    pub(crate) fn steps(&self) -> impl Iterator<Item = u64> + '_ {
        self.steps.iter().map(|steps| steps.load(Ordering::Relaxed))
    }

    /// From here until the returned value is dropped, a worker waits for the store at the start:
    /// for a repair that is at work, or because the store is silent. That takes as long as it
    /// takes. A process that was left for it would come back and wait again.
    pub(crate) fn wait(&self) -> Wait {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Wait(Arc::clone(&self.waiting))
    }

    pub(crate) fn waits(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// The time since the slowest worker began its last step; `None` before all have begun one, and
    /// while one waits for the store at the start.
    pub(crate) fn age(&self) -> Option<Duration> {
        if self.waits() {
            return None;
        }
        let slowest = self
            .last_step_ms
            .iter()
            .map(|last| last.load(Ordering::Relaxed))
            .min()
            .filter(|last| *last > 0)?;
        Some(Duration::from_millis(
            self.elapsed_ms().saturating_sub(slowest),
        ))
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Another generation has taken over. The heartbeat tells the peers.
    pub(crate) fn set_fenced(&self) {
        self.fenced.store(true, Ordering::Release);
    }

    pub(crate) fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Acquire)
    }

    /// The heartbeat asks the store whether another generation has taken over, and then exits. A
    /// connection that breaks meanwhile must not end the process first.
    pub(crate) fn set_asking(&self) {
        self.asking.store(true, Ordering::Release);
    }

    pub(crate) fn is_asking(&self) -> bool {
        self.asking.load(Ordering::Acquire)
    }

    /// The job has finished. From here on a closed connection of a peer is not a failure.
    pub(crate) fn set_ending(&self) {
        self.ending.store(true, Ordering::Release);
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }
}
