//! One seed: a history of appends, worker steps, crashes, pauses, network faults and take-overs.
//! Each step is drawn from the seed, until the whole feed is committed.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};
use tapeflow_dataflow::{JobConfig, JobError, Summary};
use tapeflow_schemas::{BarKey, Baskets, ViewKey, WindowSize};

use crate::{
    checker::{Cell, Checked, VIEWS},
    feed::Feed,
    job_process::JobProcess,
    log::BROKEN,
    world::{NetworkProfile, Shared, World},
};

/// Steps after which a seed that is not done counts as stuck.
const STEPS_AT_MOST: u32 = 120_000;
/// Generations alive at once.
const LIVES_AT_ONCE: usize = 3;
const HOUR_US: i64 = 3_600_000_000;

/// How a seed ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The first breach; `None` if there is none.
    pub breach: Option<String>,
    /// Numbers of comparisons.
    pub checked: Checked,
    /// Steps taken.
    pub steps: u32,
    /// Crashes, without those of zombies.
    pub crashes: u32,
    /// Generations that ended because they were fenced.
    pub fenced: u32,
    /// Everything that was sent, decided and read, hashed.
    pub digest: u64,
}

/// Runs a seed.
#[must_use]
pub fn play(seed: u64) -> Outcome {
    let mut simulation = Simulation::new(seed);
    let mut steps = 0;
    while !simulation.is_over() && steps < STEPS_AT_MOST {
        steps += 1;
        simulation.step();
    }
    let mut world = simulation.world.world();
    if world.checker.breaches.is_empty() {
        if steps == STEPS_AT_MOST {
            let job_processes: Vec<_> = simulation
                .job_processes
                .iter()
                .map(|job_process| {
                    (
                        job_process.number,
                        job_process.generation,
                        job_process.paused_until_us,
                        job_process.stop_requested(),
                    )
                })
                .collect();
            let checkpoint = world.checker.checkpoint().map(|checkpoint| {
                (
                    checkpoint.generation,
                    checkpoint.committed.epoch,
                    checkpoint.bound.len(),
                )
            });
            let stuck = format!(
                "stuck after {steps} steps at {} us: {} records and {} faults left, checkpoint \
                 (generation, c, bound) {checkpoint:?}, job processes (number, generation, paused \
                 until, stop) {job_processes:?}",
                world.now_us, simulation.left, simulation.faults
            );
            world.checker.breach(stuck);
        } else {
            world.inspect_end();
        }
    }
    let checker = &world.checker;
    Outcome {
        seed,
        breach: checker.breaches.first().cloned(),
        checked: checker.checked,
        steps,
        crashes: simulation.crashes,
        fenced: simulation.fenced,
        digest: checker.digest,
    }
}

struct Simulation {
    world: Shared,
    /// For the choices of the schedule; the world has its own.
    random: StdRng,
    feed: Feed,
    /// Records still to be appended.
    left: u32,
    /// Of those left, when the topic grows.
    grows_at: Option<u32>,
    /// The last one should own the job; those before it are zombies or become zombies.
    job_processes: Vec<JobProcess>,
    started: u64,
    /// Faults still to come. After them the network is healthy.
    faults: u32,
    crashes: u32,
    fenced: u32,
    over: bool,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let sizes: Vec<WindowSize> = ["1s", "1m", "1d"]
            .iter()
            .filter_map(|size| size.parse().ok())
            .collect();
        let baskets = Baskets::parse(
            "tech,AAPL,0.5\ntech,MSFT,0.25\ncoins,BINANCE:BTCUSDT,1\nnone,UNSEEN,1\n",
        )
        .expect("baskets");
        let partitions: u32 = random.random_range(1..4);
        let left = random.random_range(20..120);
        let grows_at = random
            .random_bool(0.2)
            .then(|| random.random_range(0..left));
        let bad = |random: &mut StdRng, most: f64| {
            if random.random_bool(0.5) {
                0.0
            } else {
                random.random_range(0.0..most)
            }
        };
        let network_profile = NetworkProfile {
            lost: bad(&mut random, 0.05),
            twice: bad(&mut random, 0.2),
            slow: bad(&mut random, 0.2),
            unknown: bad(&mut random, 0.3),
            repair: random.random_bool(0.7),
        };
        let feed = Feed::new(&mut random, partitions);
        let faults = random.random_range(0..14);
        let world = World::begin(
            seed ^ 0x5EED,
            network_profile,
            partitions as usize,
            sizes,
            baskets,
            partitions + u32::from(grows_at.is_some()),
        );
        Self {
            world,
            random,
            feed,
            left,
            grows_at,
            job_processes: Vec::new(),
            started: 0,
            faults,
            crashes: 0,
            fenced: 0,
            over: false,
        }
    }

    fn is_over(&self) -> bool {
        self.over || !self.world.world().checker.breaches.is_empty()
    }

    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..10 => self.append(),
            10..12 => self.fault(),
            12..15 => self.look(),
            15..35 => {
                let by_us = [0, 100, 1_000, 5_000, 25_000][self.random.random_range(0..5)];
                self.world.world().advance(by_us);
            }
            35..60 => self.run_store_calls(),
            _ => self.step_worker(),
        }
        // The newest process is started again when it ends; an older one may go on as a zombie.
        if self
            .job_processes
            .last()
            .is_none_or(|job_process| job_process.number != self.started)
        {
            self.start();
        }
        self.end();
    }

    /// Appends the next record to the log.
    fn append(&mut self) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        let mut world = self.world.world();
        if self.grows_at == Some(self.left) {
            world.log.push(Vec::new());
            self.feed.grow(u32::try_from(world.log.len()).expect("few"));
            drop(world);
            // The topic watch of a running job notices and ends the job; the next start reads the
            // new partition.
            if let Some(job_process) = self.job_processes.last_mut() {
                job_process.request_stop();
            }
            return;
        }
        for fed in self.feed.next(&mut self.random) {
            world.log[fed.partition as usize].push((fed.timestamp_ms, fed.payload));
        }
    }

    /// A new generation.
    fn start(&mut self) {
        self.started += 1;
        let random = &mut self.random;
        let config = JobConfig {
            job: "simulated".into(),
            workers: random.random_range(1..4),
            processes: 1,
            process: 0,
            hosts: Vec::new(),
            sizes: self.world.world().checker.sizes.clone(),
            baskets: Baskets::parse(
                "tech,AAPL,0.5\ntech,MSFT,0.25\ncoins,BINANCE:BTCUSDT,1\nnone,UNSEEN,1\n",
            )
            .expect("baskets"),
            epoch: Duration::from_millis(random.random_range(5..120)),
            // Every bar is read back, or none is; a window of the views is kept for every thousand.
            resident_bars: [1, 8, 2_000, 100_000][random.random_range(0..4)],
            until_end: false,
            accept_loss: false,
        };
        let off_us = if random.random_bool(0.3) {
            random.random_range(-HOUR_US..HOUR_US)
        } else {
            0
        };
        let breaks = if self.faults > 0 && random.random_bool(0.1) {
            0.01
        } else {
            0.0
        };
        let hash_seed = random.random();
        match JobProcess::start(&self.world, self.started, config, breaks, off_us, hash_seed) {
            Ok(job_process) => self.job_processes.push(job_process),
            Err(error) => self
                .world
                .world()
                .checker
                .breach(format!("a generation does not start: {error}")),
        }
    }

    /// Injects a error, if any are left.
    fn fault(&mut self) {
        if self.faults == 0 {
            return;
        }
        self.faults -= 1;
        let now_us = self.world.world().now_us;
        match self.random.random_range(0..10) {
            // A crash of the owner, at any point.
            0..4 => {
                if self.job_processes.pop().is_some() {
                    self.crashes += 1;
                }
            }
            // Another starts beside it; the old owner is a zombie from the take-over on.
            4 => {
                if self.job_processes.len() < LIVES_AT_ONCE {
                    self.start();
                }
            }
            // The owner is paused, and others take over.
            5 => {
                let until_us = now_us + self.random.random_range(10_000..3_000_000);
                if let Some(job_process) = self.job_processes.last_mut() {
                    job_process.paused_until_us = until_us;
                }
                if self.job_processes.len() < LIVES_AT_ONCE && self.random.random_bool(0.8) {
                    self.start();
                }
            }
            6 => {
                let off_us = self.random.random_range(-HOUR_US..HOUR_US);
                if let Some(job_process) = self.job_processes.last() {
                    job_process.set_clock(off_us);
                }
            }
            7 => {
                if let Some(job_process) = self.job_processes.last_mut() {
                    job_process.request_stop();
                }
            }
            // One or two replicas receive nothing for a while.
            _ => {
                let both = self.random.random_bool(0.3);
                let first = self.random.random_range(0..3);
                let mut world = self.world.world();
                world.down = [false; 3];
                world.down[first] = true;
                world.down[(first + 1) % 3] = both;
                let back_us = self.random.random_range(10_000..2_000_000);
                world.after(back_us, |world| world.down = [false; 3]);
            }
        }
        if self.faults == 0 {
            self.calm();
        }
    }

    /// No more faults.
    fn calm(&self) {
        let mut world = self.world.world();
        world.down = [false; 3];
        world.network_profile = NetworkProfile {
            lost: 0.0,
            twice: 0.0,
            slow: 0.0,
            unknown: 0.0,
            ..world.network_profile
        };
    }

    /// Steps one worker of one job process.
    fn step_worker(&mut self) {
        let Some(at) = self.awake() else { return };
        let job_process = &mut self.job_processes[at];
        let worker = self.random.random_range(0..job_process.workers());
        let Some(ended) = job_process.turn(worker) else {
            return;
        };
        let job_process = self.job_processes.remove(at);
        self.checker_end(&job_process, ended);
    }

    fn run_store_calls(&mut self) {
        let Some(at) = self.awake() else { return };
        let now_us = self.world.world().now_us;
        self.job_processes[at].breathe(now_us, self.random.random_range(1..6));
    }

    fn awake(&mut self) -> Option<usize> {
        if self.job_processes.is_empty() {
            return None;
        }
        // The one that should own the job gets most of the steps.
        let at = if self.random.random_bool(0.6) {
            self.job_processes.len() - 1
        } else {
            self.random.random_range(0..self.job_processes.len())
        };
        (self.job_processes[at].paused_until_us <= self.world.world().now_us).then_some(at)
    }

    /// The breach, if a job process may not end as it did.
    fn checker_end(&mut self, job_process: &JobProcess, ended: Result<Summary, JobError>) {
        let mut world = self.world.world();
        let error = match ended {
            Ok(_) if job_process.stop_requested() => None,
            Ok(_) => Some("ended without a request to end".into()),
            Err(JobError::Fenced(reason)) => {
                self.fenced += 1;
                let generation = world
                    .checker
                    .checkpoint()
                    .map(|checkpoint| checkpoint.generation);
                (generation <= job_process.generation)
                    .then(|| format!("fenced, and no later generation is there: {reason}"))
            }
            Err(error) if error.to_string().contains(BROKEN) => None,
            // It read the topic, the topic grew, another process took over, and then it read the
            // checkpoint.
            Err(error)
                if self.grows_at.is_some()
                    && job_process.generation.is_none()
                    && error.to_string().contains("partitions") =>
            {
                None
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = error {
            world.checker.breach(format!(
                "generation {} ({:?}): {error}",
                job_process.number, job_process.generation
            ));
        }
    }

    /// Reads a bar and a view at quorum.
    fn look(&mut self) {
        let mut world = self.world.world();
        let (bars, windows) = world.checker.cells();
        let pick = |random: &mut StdRng, of: usize| {
            if of == 0 {
                None
            } else {
                Some(random.random_range(0..of))
            }
        };
        let bars: Vec<BarKey> = pick(&mut self.random, bars.len())
            .map(|at| bars[at].clone())
            .into_iter()
            .collect();
        let views: Vec<ViewKey> = pick(&mut self.random, windows.len())
            .map(|at| ViewKey {
                view: VIEWS[self.random.random_range(0..VIEWS.len())].0,
                size: windows[at].0,
                start: windows[at].1,
            })
            .into_iter()
            .collect();
        let bar_floors: Vec<u64> = bars
            .iter()
            .map(|key| world.checker.floor(Cell::Row(key)))
            .collect();
        let view_floors: Vec<u64> = views
            .iter()
            .map(|key| world.checker.floor(Cell::View(key)))
            .collect();
        let repaired = world.network_profile.repair;
        world.read(
            bars.clone(),
            views.clone(),
            move |world, bar_cells, view_cells| {
                for (key, floor) in bars.iter().zip(bar_floors) {
                    let state = bar_cells.get(key).map(|(_, state)| state);
                    let error = state.and_then(|state| world.checker.wrong_bar(key, state));
                    world.checker.reader_saw(
                        Cell::Row(key),
                        floor,
                        error,
                        state.map(|state| state.epoch),
                        repaired,
                    );
                }
                for (key, floor) in views.iter().zip(view_floors) {
                    let state = view_cells.get(key).map(|(_, state)| state);
                    let error = state.and_then(|state| world.checker.wrong_view(key, state));
                    world.checker.reader_saw(
                        Cell::View(key),
                        floor,
                        error,
                        state.map(|state| state.epoch),
                        repaired,
                    );
                }
            },
        );
    }

    /// Whether the seed is done: nothing to append, everything committed, no faults left.
    fn end(&mut self) {
        if self.left > 0 || self.faults > 0 {
            return;
        }
        let world = self.world.world();
        let Some(checkpoint) = world.checker.checkpoint() else {
            return;
        };
        let ends = world.log.iter().map(|records| records.len());
        let read = checkpoint.committed.cuts.len() == world.log.len()
            && checkpoint
                .committed
                .cuts
                .iter()
                .zip(ends)
                .all(|(cut, end)| usize::try_from(cut.next).is_ok_and(|next| next == end));
        self.over = read && checkpoint.bound.is_empty();
    }
}
