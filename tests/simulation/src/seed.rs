//! One seed: a history of appends, worker steps, crashes, pauses, network faults and take-overs.
//! Each step is drawn from the seed, until the whole feed is committed.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};
use tapeflow_dataflow::{JobConfig, JobError, Limits, Summary};
use tapeflow_protocol::{decide::Refusal, workflow::WorkflowError};
use tapeflow_schemas::{BarKey, Baskets, Horizons, ViewKey, WindowSize};

use crate::{
    checked::Checked,
    checker::{Cell, VIEWS},
    expiring::may_have_left,
    feed::Feed,
    job_process::{Ended, JobProcess, Start},
    log::{BROKEN, Breaks, UNPROVEN},
    partition_log::PartitionLog,
    repairing::Repairing,
    replica::bar_in,
    world::{NetworkProfile, Rollback, Shared, World},
};

/// Steps after which a seed that is not done counts as stuck.
const STEPS_AT_MOST: u32 = 120_000;
/// Generations alive at once.
const LIVES_AT_ONCE: usize = 3;
const HOUR_US: i64 = 3_600_000_000;
/// Processes of a generation, and workers of each.
const PROCESSES: [(usize, usize); 7] = [(1, 1), (1, 2), (1, 3), (1, 1), (2, 1), (3, 1), (2, 2)];
/// Starts on a log that was rolled back, all of which must be refused.
const REFUSALS: u32 = 3;
/// What the errors of the job say.
const REFUSED_LOSS: &str = "before they were committed";
const OUTRUN: &str = "are gone from the log before they were read";
const ROLLED_BACK: &str = "the log was rolled back and has grown again";
const REPAIR: &str = "`verify --repair` is running";
const TRUNCATED: &str = "it was truncated or is not the log";

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
        } else if world.rollback.is_none() {
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

/// What happens to the log of a seed, beside records.
#[derive(Clone, Copy)]
struct LogFaults {
    /// How often an offset without a record follows a record.
    holes: f64,
    /// Times that retention may overtake the job.
    losses: u32,
    /// Whether the log may be rolled back, which ends the seed.
    rollback: bool,
}

/// Horizons of window sizes, far shorter than those of a real job.
const HORIZONS: [&str; 2] = ["1s=20s", "1s=20s,1m=100s,1d=1h,session=1h"];

/// The limits of a generation: those of a job, or some so small that everything waits for them.
fn limits(random: &mut StdRng) -> Limits {
    let mut limits = Limits::default();
    if random.random_bool(0.5) {
        return limits;
    }
    for limit in [
        &mut limits.records_per_poll,
        &mut limits.open_windows,
        &mut limits.open_windows_at_least,
        &mut limits.windows_in_full,
        &mut limits.open_dead_letters,
        &mut limits.keys_per_read,
        &mut limits.rows_at_once,
        &mut limits.bars_unacknowledged,
        &mut limits.calls_at_once,
        &mut limits.bars_per_write,
        &mut limits.views_per_write,
        &mut limits.windows_at_once,
        &mut limits.views_unacknowledged,
        &mut limits.bars_per_recount,
        &mut limits.directory_entries,
        &mut limits.interned_symbols,
    ] {
        if random.random_bool(0.3) {
            *limit = random.random_range(2..9);
        }
    }
    for limit in [&mut limits.epochs_ahead, &mut limits.rows_ahead] {
        if random.random_bool(0.3) {
            *limit = random.random_range(2..9);
        }
    }
    limits
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
    log_faults: LogFaults,
    /// Whether the operator accepts a loss from now on.
    accepts_loss: bool,
    /// A repair under way.
    repairing: Option<Repairing>,
    /// Whether a repairer died, so that a job may wait for it in vain.
    repairer_died: bool,
    /// Refusals of a log that was rolled back, in a row.
    refusals: u32,
    crashes: u32,
    fenced: u32,
    over: bool,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let sizes: Vec<WindowSize> = ["1s", "1m", "1d", "session"]
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
        let log_faults = LogFaults {
            holes: bad(&mut random, 0.4),
            losses: if random.random_bool(0.2) {
                random.random_range(1..3)
            } else {
                0
            },
            rollback: random.random_bool(0.1),
        };
        // With a forged record among few that are left of a session, the order in which its
        // records are seen decides which of them count.
        let feed = Feed::new(&mut random, partitions, log_faults.losses == 0);
        // Of lost records the recomputation does not know what they did to the watermark, and a
        // partition that is added has none.
        let horizons = if log_faults.losses == 0 && grows_at.is_none() && random.random_bool(0.4) {
            HORIZONS[random.random_range(0..HORIZONS.len())]
        } else {
            "none"
        };
        let horizons: Horizons = horizons.parse().expect("horizons");
        let faults = random.random_range(0..14);
        let world = World::begin(
            seed ^ 0x5EED,
            network_profile,
            partitions as usize,
            sizes,
            horizons,
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
            log_faults,
            accepts_loss: false,
            repairing: None,
            repairer_died: false,
            refusals: 0,
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
            15 => {
                let step = self.random.random_range(1..4);
                self.world.world().expire(step);
            }
            16..35 => {
                let mut by_us = [0, 100, 1_000, 5_000, 25_000][self.random.random_range(0..5)];
                let mut world = self.world.world();
                if self.repairer_died && self.repairing.is_none() && world.is_repairing() {
                    by_us += 1_000_000;
                }
                world.advance(by_us);
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
            world.log.push(PartitionLog::default());
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
            world.log[fed.partition as usize].append(fed.record);
        }
        if self.random.random_bool(self.log_faults.holes) {
            let at = self.random.random_range(0..world.log.len());
            for _ in 0..self.random.random_range(1..4) {
                world.log[at].append_hole();
            }
        }
    }

    /// A new generation.
    fn start(&mut self) {
        self.started += 1;
        let mut world = self.world.world();
        // A lost offset is accepted once: what is lost after it is refused again.
        self.accepts_loss &= world.is_anything_gone();
        let random = &mut self.random;
        let accept_loss = self.accepts_loss && random.random_bool(0.7);
        if accept_loss {
            world.checker.may_lose.insert(self.started);
        }
        let sizes = world.checker.sizes.clone();
        let horizons = world.checker.horizons.clone();
        let limits = limits(random);
        world.checker.checked.small += u64::from(limits != Limits::default());
        drop(world);
        let (processes, workers) = PROCESSES[random.random_range(0..PROCESSES.len())];
        let config = JobConfig {
            job: "simulated".into(),
            workers,
            processes: 1,
            process: 0,
            hosts: Vec::new(),
            secret: None,
            sizes,
            horizons,
            baskets: Baskets::parse(
                "tech,AAPL,0.5\ntech,MSFT,0.25\ncoins,BINANCE:BTCUSDT,1\nnone,UNSEEN,1\n",
            )
            .expect("baskets"),
            epoch: Duration::from_millis(random.random_range(5..120)),
            // Every bar is read back, or none is.
            resident_bars: [1, 8, 2_000, 100_000][random.random_range(0..4)],
            most_ranked: [10, 11, 50][(self.started % 3) as usize],
            until_end: false,
            accept_loss,
            skip_batches: Vec::new(),
            limits,
        };
        let off_us = if random.random_bool(0.3) {
            random.random_range(-HOUR_US..HOUR_US)
        } else {
            0
        };
        let mut breaks = || {
            if self.faults > 0 && random.random_bool(0.1) {
                0.01
            } else {
                0.0
            }
        };
        let breaks = Breaks {
            reads: breaks(),
            skips: breaks(),
        };
        let start = Start {
            number: self.started,
            config,
            processes,
            breaks,
            off_us,
            hash_seed: random.random(),
            notice_us: random.random_range(0..2_000_000),
        };
        match JobProcess::start(&self.world, start) {
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
        match self.random.random_range(0..16) {
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
            // A process dies, and the others notice it later.
            8..10 => {
                if let Some(job_process) = self.job_processes.last_mut() {
                    let process = self.random.random_range(0..job_process.processes());
                    if job_process.kill(process) {
                        self.world.world().checker.checked.apart += 1;
                        self.crashes += 1;
                    }
                }
            }
            10..12 => self.remove(),
            12 => self.roll_back(),
            13 => {
                if self.repairing.is_none() && self.world.world().checker.checkpoint().is_some() {
                    let lives_us = if self.random.random_bool(0.3) {
                        self.random.random_range(0..200_000)
                    } else {
                        u64::MAX / 2
                    };
                    let step = self.random.random_range(1..5);
                    let repairing = Repairing::start(&self.world, step, now_us + lives_us);
                    self.repairing = Some(repairing);
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

    /// Retention removes the beginning of a partition, and may overtake the job.
    fn remove(&mut self) {
        let mut world = self.world.world();
        let Some(checkpoint) = world.checker.checkpoint() else {
            return;
        };
        // A rollback is known by a record that is still there.
        if world.rollback.is_some() {
            return;
        }
        let at = self.random.random_range(0..world.log.len());
        let bounds = world.log[at].bounds();
        let committed = checkpoint.committed.cuts.get(at).map_or(0, |cut| cut.next);
        let overtakes = self.log_faults.losses > 0 && self.random.random_bool(0.7);
        let to = if overtakes { bounds.end } else { committed };
        if to <= bounds.start {
            return;
        }
        let to = self.random.random_range(bounds.start..to) + 1;
        world.log[at].remove_below(to);
        if world.log[at].bounds().start > committed {
            self.log_faults.losses = self.log_faults.losses.saturating_sub(1);
            world.checker.checked.removed_early += 1;
            world.find_losses();
        } else {
            world.checker.checked.removed += 1;
        }
    }

    /// All processes die, and the log comes back without its last records. Others take their
    /// offsets.
    fn roll_back(&mut self) {
        let mut world = self.world.world();
        let Some(checkpoint) = world.checker.checkpoint() else {
            return;
        };
        if !self.log_faults.rollback || world.rollback.is_some() || self.grows_at.is_some() {
            return;
        }
        let at = self.random.random_range(0..world.log.len());
        // Only a record that is there can tell one log from another.
        let bounds = world.log[at].bounds();
        let Some(last) = checkpoint.last_binding().cuts[at]
            .last
            .filter(|last| bounds.contains(&last.offset))
        else {
            return;
        };
        let before = world.log.clone();
        let end = self.random.random_range(bounds.start..last.offset + 1);
        world.log[at].truncate(end);
        world.rollback = Some(Rollback {
            before,
            last_number: self.started,
        });
        drop(world);
        self.crashes += 1;
        self.job_processes.clear();
        let is_grown = self.random.random_bool(0.7);
        let mut world = self.world.world();
        while is_grown && world.log[at].bounds().end <= bounds.end {
            for fed in self.feed.next(&mut self.random) {
                world.log[at].append(fed.record);
            }
        }
        self.left = 0;
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
        if let Ended::Finished(ended) = ended {
            self.checker_end(&job_process, ended);
        }
    }

    fn run_store_calls(&mut self) {
        self.repair();
        let Some(at) = self.awake() else { return };
        let now_us = self.world.world().now_us;
        self.job_processes[at].breathe(now_us, self.random.random_range(1..6));
    }

    /// Goes on with a repair.
    fn repair(&mut self) {
        let Some(repairing) = &mut self.repairing else {
            return;
        };
        let now_us = self.world.world().now_us;
        let ended = repairing.breathe(now_us, self.random.random_range(1..6));
        let is_dead = repairing.dies_at_us <= now_us;
        let mut world = self.world.world();
        let breach = match ended {
            None if is_dead => {
                world.checker.checked.repairers_dead += 1;
                self.repairer_died = true;
                None
            }
            None => return,
            Some(Ok(overwritten)) => {
                world.checker.checked.repaired += 1;
                (!overwritten.is_empty()).then(|| format!("after a repair: {overwritten:?}"))
            }
            // It was taken for dead.
            Some(Err(WorkflowError::Fenced { .. })) => None,
            // A job took over a topic that had grown, after the repairer had read the checkpoint.
            Some(Err(WorkflowError::Refused(Refusal::FewerPartitions { .. })))
                if self.grows_at.is_some() =>
            {
                None
            }
            Some(Err(error)) => Some(format!("a repair failed: {error}")),
        };
        world.checker.breaches.extend(breach);
        drop(world);
        self.repairing = None;
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
        let generation = world.checker.checkpoint().map(|found| found.generation);
        let is_old = job_process.generation < generation;
        let error = match ended {
            Ok(_) if job_process.stop_requested() => None,
            Ok(_) => Some("ended without a request to end".into()),
            Err(JobError::Fenced(reason)) => {
                self.fenced += 1;
                (!is_old).then(|| format!("fenced, and no later generation is there: {reason}"))
            }
            Err(error) if error.to_string().contains(BROKEN) => None,
            Err(error) if error.to_string().contains(UNPROVEN) => {
                world.checker.checked.skipped += 1;
                None
            }
            Err(JobError::Refused(reason)) if reason.contains(REFUSED_LOSS) => {
                world.checker.checked.refused += 1;
                self.accepts_loss = true;
                (!is_old && !world.is_anything_gone())
                    .then(|| format!("refused, and nothing is gone: {reason}"))
            }
            Err(JobError::Failed(reason)) if reason.contains(OUTRUN) => {
                world.checker.checked.outrun += 1;
                (!is_old && !world.is_anything_gone())
                    .then(|| format!("ended, and nothing is gone: {reason}"))
            }
            Err(JobError::Failed(reason)) if reason.contains(REPAIR) => (!is_old)
                .then(|| format!("ended for a repair, and no later generation is there: {reason}")),
            Err(JobError::Refused(reason))
                if reason.contains(ROLLED_BACK) || reason.contains(TRUNCATED) =>
            {
                world.checker.checked.rolled_back += 1;
                self.refusals += 1;
                (world.rollback.is_none())
                    .then(|| format!("refused, and the log is as it was: {reason}"))
            }
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
            bars.iter().map(BarKey::row).collect(),
            views.clone(),
            move |world, bar_cells, view_cells| {
                for (key, floor) in bars.iter().zip(bar_floors) {
                    let row = bar_cells.get(&key.row());
                    // It may have been removed before or after it was looked for.
                    let expiry = world.expiry();
                    let left = may_have_left(expiry.as_ref(), key);
                    let floor = if left { 0 } else { floor };
                    let state = row.and_then(|(_, row)| bar_in(row, key));
                    let error = state.and_then(|state| world.checker.wrong_bar(key, &state));
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
        if self.refusals >= REFUSALS {
            self.over = true;
            return;
        }
        let world = self.world.world();
        if world.rollback.is_some() {
            return;
        }
        let Some(checkpoint) = world.checker.checkpoint() else {
            return;
        };
        let ends = world.log.iter().map(|log| log.bounds().end);
        let read = self.repairing.is_none()
            && checkpoint.committed.cuts.len() == world.log.len()
            && checkpoint
                .committed
                .cuts
                .iter()
                .zip(ends)
                .all(|(cut, end)| cut.next == end);
        self.over = read && checkpoint.bound.is_empty();
    }
}
