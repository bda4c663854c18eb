//! The world outside the job: time, network, replicas and log. All future events are in one queue,
//! ordered by time. Every choice comes from one seeded random source, so a seed is a history.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tapeflow_schemas::{Baskets, Horizons, WindowSize};

use crate::{checker::Checker, partition_log::PartitionLog, replica::Replica};

/// A future event.
type Act = Box<dyn FnOnce(&mut World) + Send>;

/// Copies of every bar.
pub(crate) const REPLICAS: usize = 3;
/// Copies that make a quorum.
pub(crate) const QUORUM: usize = 2;

/// How unreliable the network of a seed is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NetworkProfile {
    /// Messages that never arrive.
    pub(crate) lost: f64,
    /// Messages that arrive twice.
    pub(crate) twice: f64,
    /// Messages that take up to seconds, and overtake or are overtaken.
    pub(crate) slow: f64,
    /// Compare-and-sets whose answer is lost.
    pub(crate) unknown: f64,
    /// Whether a read repairs the replicas that it has read, before it answers.
    pub(crate) repair: bool,
}

/// A rollback of the log.
pub(crate) struct Rollback {
    /// The log before it, which the generations up to this number have read.
    pub(crate) before: Vec<PartitionLog>,
    pub(crate) last_number: u64,
}

/// The world.
pub(crate) struct World {
    pub(crate) now_us: u64,
    pub(crate) random: StdRng,
    pub(crate) network_profile: NetworkProfile,
    pub(crate) replicas: [Replica; REPLICAS],
    /// Replicas that receive nothing.
    pub(crate) down: [bool; REPLICAS],
    pub(crate) log: Vec<PartitionLog>,
    /// Bound records were taken out of the log. Every later start must be refused.
    pub(crate) rollback: Option<Rollback>,
    pub(crate) checker: Checker,
    queue: BTreeMap<(u64, u64), Act>,
    queued: u64,
}

/// The world, shared by everything in it, on one thread.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<World>>);

impl Shared {
    /// A panic elsewhere must not hide what the world holds.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    /// A world at its beginning.
    pub(crate) fn begin(
        seed: u64,
        network_profile: NetworkProfile,
        partitions: usize,
        sizes: Vec<WindowSize>,
        horizons: Horizons,
        baskets: Baskets,
        most_partitions: u32,
    ) -> Shared {
        Shared(Arc::new(Mutex::new(Self {
            now_us: 0,
            random: StdRng::seed_from_u64(seed),
            network_profile,
            replicas: Default::default(),
            down: [false; REPLICAS],
            log: vec![PartitionLog::default(); partitions],
            rollback: None,
            checker: Checker::new(sizes, horizons, baskets, most_partitions),
            queue: BTreeMap::new(),
            queued: 0,
        })))
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.random.random_bool(probability)
    }

    /// Schedules an event. Events that are due at the same time happen in the order of scheduling.
    pub(crate) fn after(&mut self, delay_us: u64, act: impl FnOnce(&mut Self) + Send + 'static) {
        self.queued += 1;
        self.queue
            .insert((self.now_us + delay_us, self.queued), Box::new(act));
    }

    /// How long a message takes.
    pub(crate) fn latency_us(&mut self) -> u64 {
        if self.chance(self.network_profile.slow) {
            let most = if self.chance(0.1) {
                20_000_000
            } else {
                600_000
            };
            self.random.random_range(1_000..most)
        } else {
            self.random.random_range(100..3_000)
        }
    }

    /// Sends a message, which the network may lose or double.
    pub(crate) fn message(&mut self, act: impl FnOnce(&mut Self) + Clone + Send + 'static) {
        if self.chance(self.network_profile.lost) {
            return;
        }
        if self.chance(self.network_profile.twice) {
            let delay_us = self.latency_us();
            self.after(delay_us, act.clone());
        }
        let delay_us = self.latency_us();
        self.after(delay_us, act);
    }

    /// Advances the time and runs the events that are due.
    pub(crate) fn advance(&mut self, by_us: u64) {
        let until_us = self.now_us + by_us;
        while let Some(next) = self
            .queue
            .first_entry()
            .filter(|next| next.key().0 <= until_us)
        {
            let ((at_us, _), act) = next.remove_entry();
            self.now_us = at_us;
            act(self);
        }
        self.now_us = until_us;
    }
}
