//! Cycles: in each something is done to the job or its servers, and then the job must commit
//! something new.

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rand::{Rng, rngs::StdRng};

use crate::{
    cluster::{Cluster, MAIN, Server},
    fault::{Fault, Pause},
    fault_schedule::FaultSchedule,
    ingest::Ingest,
    job::{Binary, FailpointTrigger, JobRun, Orders, Shape, Skew, wake},
    ledger::Ledger,
    topic_faults::Preparing,
    topics::ends,
    watch::{Progress, Watch},
};

/// How long the job may take to commit something new, once nothing hinders it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// How long processes may stay when another of their job is gone: the heartbeat, and at a start the
/// wait for each other.
pub(crate) const LEAVING: Duration = Duration::from_secs(60);
/// How long a failpoint is waited for.
const TRAP_PATIENCE: Duration = Duration::from_secs(25);
pub(crate) const LOOK: Duration = Duration::from_millis(30);

/// The result of a cycle.
#[derive(Clone, Debug)]
pub(crate) struct Cycle {
    pub(crate) fault: Fault,
    /// From the start of new processes to their first commit, if they had to be started.
    pub(crate) started: Option<Duration>,
    /// From the fault to the next commit, if the job came back, or went on, by itself.
    pub(crate) by_itself: Option<Duration>,
    /// A failpoint that was not reached: the processes were killed then.
    pub(crate) missed: bool,
}

/// How the job committed again.
pub(crate) struct Back {
    pub(crate) after: Duration,
    /// Whether processes had to be started.
    pub(crate) started: bool,
}

/// Everything that a cycle changes.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) binary: Binary,
    pub(crate) watch: Watch,
    pub(crate) fault_schedule: FaultSchedule,
    pub(crate) random: StdRng,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) ingest: Ingest,
    /// The next small job to be damaged.
    pub(crate) preparing: Option<Preparing>,
    /// Small jobs that were begun.
    pub(crate) damaged: u32,
    /// Whether write timestamps have run ahead of the clock.
    pub(crate) was_ahead: bool,
    /// How processes ended.
    pub(crate) ends: BTreeMap<String, u64>,
    /// The processes of now.
    pub(crate) job_run: Option<JobRun>,
}

impl Stage {
    /// One cycle.
    ///
    /// # Errors
    /// A process that panics or stays, a checkpoint that goes back, a
    /// job that does not come back.
    pub(crate) fn cycle(&mut self) -> Result<Cycle, String> {
        let fault = self.fault_schedule.peek()?;
        if !self
            .job_run
            .as_ref()
            .is_some_and(|job_run| fits(job_run.shape, &fault))
        {
            // Under a later generation: processes that are stopped before they have taken over
            // would do so when they wake, and rightly.
            let before = self.later_generation()?;
            self.replace()?;
            self.back(before, Instant::now())?;
        }
        let _ = self.fault_schedule.next_fault()?;
        self.pass(0..1_500);
        let mut cycle = Cycle {
            fault: fault.clone(),
            started: None,
            by_itself: None,
            missed: false,
        };
        let back = match &fault {
            Fault::KillOne => self.kill_one(),
            Fault::KillAll => self.kill_all(),
            Fault::KillSupervisor => self.kill_supervisor(),
            Fault::PauseOne(pause) => self.pause(*pause, false),
            Fault::PauseAll(pause) => self.pause(*pause, true),
            Fault::Zombies => self.zombies(),
            Fault::Overtake => self.overtake(),
            Fault::Failpoint { name, times } => self.failpoint(name, *times, &mut cycle.missed),
            Fault::Rescale => self.rescale(),
            Fault::KillIngest => self.kill_ingest(),
            Fault::KillCassandra => {
                let node = self.cluster.any(&mut self.random);
                self.kill_server(Server::Cassandra, node)
            }
            Fault::KillTwoCassandra => self.kill_two(),
            Fault::KillBroker => {
                let controller = self.cluster.controller()?;
                let node = controller % self.cluster.nodes + 1;
                self.kill_server(Server::Kafka, node)
            }
            Fault::KillController => {
                let node = self.cluster.controller()?;
                self.kill_server(Server::Kafka, node)
            }
            Fault::Network(link, way) => self.network(*link, *way),
            Fault::Clock(clocks) => self.clock(*clocks),
            Fault::Feed(feed_profile) => self.shared_profile(*feed_profile),
            Fault::TopicFault(topic_faults) => self.topic_faults(*topic_faults),
        }
        .map_err(|what| format!("{fault:?}: {what}"))?;
        *if back.started {
            &mut cycle.started
        } else {
            &mut cycle.by_itself
        } = Some(back.after);
        Ok(cycle)
    }

    /// Waits.
    pub(crate) fn pass(&mut self, range_ms: std::ops::Range<u64>) {
        let ms = self.random.random_range(range_ms);
        thread::sleep(Duration::from_millis(ms));
    }

    /// A shape that the next fault can meet.
    pub(crate) fn shape(&mut self, of: Option<&Fault>) -> Shape {
        let wants = of.map(Fault::wants);
        let several = wants.is_some_and(|wants| wants.several);
        let supervised = self.random.random_bool(0.5);
        Shape {
            processes: self.random.random_range(if several { 2 } else { 1 }..=3),
            workers: self.random.random_range(1..=2),
            supervised: wants
                .and_then(|wants| wants.supervised)
                .unwrap_or(supervised),
            // Eight: every bar is read back. Twelve thousand: hardly any is.
            resident_bars: [8, 8, 200, 12_000][self.random.random_range(0..4)],
            epoch_ms: [100, 250][self.random.random_range(0..2)],
        }
    }

    pub(crate) fn job_run(&mut self) -> Result<&mut JobRun, String> {
        self.job_run
            .as_mut()
            .ok_or_else(|| "no process is running".into())
    }

    /// Ends the current processes and records how they ended.
    pub(crate) fn end_processes(&mut self) {
        if let Some(mut job_run) = self.job_run.take() {
            job_run.kill_all();
            job_run.count_ends(&mut self.ends);
        }
    }

    /// Starts processes that the next fault can meet; those of before are gone or left to the
    /// caller.
    fn start(&mut self) -> Result<Option<JobRun>, String> {
        self.start_skewed(None)
    }

    /// Starts processes whose clocks are wrong.
    pub(crate) fn start_skewed(&mut self, skew: Option<Skew>) -> Result<Option<JobRun>, String> {
        let next = self.fault_schedule.peek()?;
        let shape = self.shape(Some(&next));
        let job_run = self.binary.start(
            &mut self.cluster,
            &Orders {
                skew,
                ..Orders::new(shape, MAIN)
            },
        )?;
        Ok(self.job_run.replace(job_run))
    }

    /// Ends the processes of now and starts others.
    pub(crate) fn replace(&mut self) -> Result<(), String> {
        self.end_processes();
        self.start().map(drop)
    }

    /// Waits until the job has committed more than `before`, under a later generation if `before`
    /// names one; starts processes again when those without a supervisor have left.
    pub(crate) fn back(&mut self, before: Progress, since: Instant) -> Result<Back, String> {
        let is_back =
            |now: Progress| now.committed > before.committed && now.generation > before.generation;
        self.until(since, &format!("more than {before:?}"), |watch| {
            Ok(watch.read_progress()?.is_some_and(is_back))
        })
    }

    /// Waits until everything that is in the topic by now is committed. Other parts of the job may
    /// still commit while one part makes no progress.
    pub(crate) fn caught_up(&mut self, since: Instant) -> Result<Back, String> {
        let ends = ends(self.cluster.brokers(), MAIN)?;
        self.until(
            since,
            &format!("everything below the offsets {ends:?}"),
            |watch| watch.has_committed(&ends),
        )
    }

    fn until(
        &mut self,
        since: Instant,
        what: &str,
        is_done: impl Fn(&mut Watch) -> Result<bool, String>,
    ) -> Result<Back, String> {
        let (mut since, mut started) = (since, false);
        let mut leaving: Option<Instant> = None;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if is_done(&mut self.watch)? {
                return Ok(Back {
                    after: since.elapsed(),
                    started,
                });
            }
            self.ingest.tend(&self.binary)?;
            let job_run = self.job_run()?;
            job_run.check_ends()?;
            if job_run.any_ended() {
                let begun = *leaving.get_or_insert_with(Instant::now);
                // A supervisor that ends does not start its process again, and its peers'
                // supervisors would wait for ever.
                if job_run.shape.supervised || job_run.all_ended(Duration::ZERO).is_ok() {
                    self.replace()?;
                    (since, started, leaving) = (Instant::now(), true, None);
                } else if begun.elapsed() > LEAVING {
                    job_run.all_ended(Duration::ZERO)?;
                }
            }
            if Instant::now() > deadline {
                let now = self.watch.read_progress()?;
                let job_run = self.job_run()?;
                return Err(format!(
                    "not committed within {} s: {what}; progress is {now:?}; job run {} ({})",
                    PATIENCE.as_secs(),
                    job_run.number,
                    job_run.shape
                ));
            }
            thread::sleep(LOOK);
        }
    }

    /// The job's progress; the next commit must be of a later generation.
    pub(crate) fn later_generation(&mut self) -> Result<Progress, String> {
        self.watch.progress()
    }

    /// The job's progress; the next commit may be of the same generation.
    pub(crate) fn any_generation(&mut self) -> Result<Progress, String> {
        Ok(Progress {
            generation: 0,
            ..self.watch.progress()?
        })
    }

    fn kill_one(&mut self) -> Result<Back, String> {
        let begun = Instant::now();
        let at = self.random_process()?;
        let supervised = self.job_run()?.shape.supervised;
        self.job_run()?.kill_worker(at);
        if !supervised {
            // The failpoint ended it. The others must leave by themselves.
            self.expect_killed()?;
            self.job_run()?.all_ended(LEAVING)?;
            let before = self.later_generation()?;
            self.replace()?;
            return self.back(before, Instant::now()).map(|back| Back {
                started: true,
                ..back
            });
        }
        let before = self.later_generation()?;
        self.back(before, begun)
    }

    /// Waits for the end of a process that we killed, which `check_ends` would take for a crash.
    fn expect_killed(&mut self) -> Result<(), String> {
        let job_run = self.job_run()?;
        let deadline = Instant::now() + LEAVING;
        while !job_run.any_ended() {
            let _ = job_run.check_ends();
            if Instant::now() > deadline {
                return Err("a killed process does not end".into());
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    pub(crate) fn random_process(&mut self) -> Result<usize, String> {
        let processes = self.job_run()?.len();
        Ok(self.random.random_range(0..processes))
    }

    fn kill_all(&mut self) -> Result<Back, String> {
        self.end_processes();
        for _ in 0..self.random.random_range(0..3) {
            // Some die while they take over, some while they replay.
            self.start()?;
            self.pass(100..3_000);
            self.end_processes();
        }
        let before = self.later_generation()?;
        self.replace()?;
        self.back(before, Instant::now()).map(|back| Back {
            started: true,
            ..back
        })
    }

    fn kill_supervisor(&mut self) -> Result<Back, String> {
        let begun = Instant::now();
        let at = self.random_process()?;
        self.job_run()?.kill_supervisor(at)?;
        let before = self.later_generation()?;
        self.pass(0..1_000);
        let mut job_run = self.job_run.take().ok_or("no process is running")?;
        job_run.start_again(at, &self.binary)?;
        self.job_run = Some(job_run);
        self.back(before, begun)
    }

    fn pause(&mut self, pause: Pause, all: bool) -> Result<Back, String> {
        let at = self.random_process()?;
        let job_run = self.job_run()?;
        let several = job_run.len() > 1;
        let paused: Vec<u32> = (0..job_run.len())
            .filter(|place| all || *place == at)
            .filter_map(|place| job_run.pause(place))
            .collect();
        let before = if pause == Pause::Long && several && !all {
            self.later_generation()?
        } else {
            self.any_generation()?
        };
        thread::sleep(match pause {
            Pause::Short => Duration::from_secs(3),
            Pause::Long => Duration::from_secs(15),
        });
        let woken = Instant::now();
        paused.into_iter().for_each(wake);
        self.back(before, woken)
    }

    /// Processes are stopped in the middle of their work, others take over, and then they wake:
    /// their late writes must do no harm, and they must notice that they are fenced and leave.
    fn zombies(&mut self) -> Result<Back, String> {
        let job_run = self.job_run()?;
        let paused: Vec<u32> = (0..job_run.len())
            .filter_map(|place| job_run.pause(place))
            .collect();
        let before = self.later_generation()?;
        let mut old = self.start()?.ok_or("no process is running")?;
        let back = self.back(before, Instant::now()).map(|back| Back {
            started: true,
            ..back
        })?;
        self.pass(0..8_000);
        paused.into_iter().for_each(wake);
        old.all_ended(LEAVING)?;
        if old.codes().iter().any(|code| !matches!(code, Some(1 | 3))) {
            return Err(format!(
                "zombies of job run {} ended with {:?}, and not because they were fenced or left",
                old.number,
                old.codes()
            ));
        }
        old.count_ends(&mut self.ends);
        let before = self.any_generation()?;
        self.back(before, Instant::now())?;
        Ok(back)
    }

    /// Two jobs under one name: the later one continues, and the earlier one ends.
    fn overtake(&mut self) -> Result<Back, String> {
        let before = self.later_generation()?;
        let mut old = self.start()?.ok_or("no process is running")?;
        let back = self.back(before, Instant::now()).map(|back| Back {
            started: true,
            ..back
        })?;
        let deadline = Instant::now() + LEAVING;
        while !old.codes().contains(&Some(3)) {
            old.check_ends()?;
            if Instant::now() > deadline {
                return Err(format!(
                    "job run {} goes on, though job run {} has taken over: {:?}",
                    old.number,
                    self.job_run()?.number,
                    old.codes()
                ));
            }
            thread::sleep(LOOK);
        }
        old.kill_all();
        old.count_ends(&mut self.ends);
        Ok(back)
    }

    fn failpoint(&mut self, name: &str, times: u32, missed: &mut bool) -> Result<Back, String> {
        self.end_processes();
        if name == "replay-release" {
            // Something must have been bound and not committed.
            self.run_to_failpoint("bind-after", 1, 0)?;
        }
        let of_the_coordinator = [
            "take-over-before",
            "take-over-after",
            "bind-before",
            "bind-after",
            "history-written",
            "commit-before",
            "commit-after",
        ];
        let process = if of_the_coordinator.contains(&name) {
            0
        } else {
            self.random.random_range(0..3)
        };
        *missed = !self.run_to_failpoint(name, times, process)?;
        let before = self.later_generation()?;
        self.start()?;
        self.back(before, Instant::now()).map(|back| Back {
            started: true,
            ..back
        })
    }

    /// Starts processes one of which ends itself, and waits for that; the others are killed, or
    /// leave. Returns whether it did.
    fn run_to_failpoint(&mut self, name: &str, times: u32, process: usize) -> Result<bool, String> {
        let shape = Shape {
            supervised: false,
            ..self.shape(None)
        };
        let process = process.min(usize::from(shape.processes) - 1);
        let trap = FailpointTrigger {
            process,
            failpoint: format!("{name}:{times}"),
        };
        let mut job_run = self.binary.start(
            &mut self.cluster,
            &Orders {
                trap: Some(&trap),
                ..Orders::new(shape, MAIN)
            },
        )?;
        let deadline = Instant::now() + TRAP_PATIENCE;
        while !job_run.trapped(process) && !job_run.any_ended() && Instant::now() < deadline {
            job_run.check_ends()?;
            thread::sleep(LOOK);
        }
        let trapped = job_run.trapped(process);
        if trapped && self.random.random_bool(0.3) {
            job_run.all_ended(LEAVING)?;
        }
        job_run.kill_all();
        job_run.count_ends(&mut self.ends);
        Ok(trapped)
    }

    fn rescale(&mut self) -> Result<Back, String> {
        let job_run = self.job_run()?;
        job_run.ask_to_end(LEAVING)?;
        if job_run.codes().iter().any(|code| *code != Some(0)) {
            return Err(format!(
                "job run {} ({}) was asked to end, and ended with {:?}",
                job_run.number,
                job_run.shape,
                job_run.codes()
            ));
        }
        let before = self.later_generation()?;
        self.replace()?;
        self.back(before, Instant::now()).map(|back| Back {
            started: true,
            ..back
        })
    }

    /// Ingest is killed several times, each time with more to append; then it must append the rest,
    /// and the job must commit all of it.
    fn kill_ingest(&mut self) -> Result<Back, String> {
        for _ in 0..self.random.random_range(2..=4) {
            self.ingest.kill_midway(&self.binary)?;
        }
        self.ingest.complete(&self.binary)?;
        self.caught_up(Instant::now())
    }

    /// One node of three is killed: the job continues while it is down, and after it is back.
    fn kill_server(&mut self, server: Server, node: u8) -> Result<Back, String> {
        self.pass(500..2_000);
        let begun = Instant::now();
        if server == Server::Kafka {
            self.ingest.broker_goes_down();
        }
        self.cluster.kill(server, node)?;
        let before = self.any_generation()?;
        let back = self.back(before, begun)?;
        self.pass(0..2_000);
        self.cluster.up()?;
        self.ingest.brokers_are_up();
        let before = self.any_generation()?;
        self.back(before, Instant::now())?;
        Ok(back)
    }

    /// Two nodes of three are killed: the job stands still, and continues when they are back.
    fn kill_two(&mut self) -> Result<Back, String> {
        // In full flow, and not just as it comes back from the fault before.
        self.pass(2_000..6_000);
        let spared = self.cluster.any(&mut self.random);
        let killed: Vec<u8> = (1..=self.cluster.nodes)
            .filter(|node| *node != spared)
            .collect();
        // At the same moment, as near as can be: what both had acknowledged may stand on the third
        // alone.
        let cluster = &self.cluster;
        thread::scope(|scope| {
            let killing: Vec<_> = killed
                .iter()
                .map(|node| scope.spawn(|| cluster.kill(Server::Cassandra, *node)))
                .collect();
            killing.into_iter().try_for_each(|kill| {
                kill.join()
                    .unwrap_or_else(|_| Err("a thread that kills a node panicked".into()))
            })
        })?;
        self.pass(1_000..10_000);
        self.cluster.up()?;
        let up = Instant::now();
        let before = self.any_generation()?;
        self.back(before, up)
    }

    /// Lets ingest run to the end of its recording; asks the processes of now to end, and lets
    /// others run to the end of the topic.
    ///
    /// # Errors
    /// They do not.
    pub(crate) fn finish(&mut self, patience: Duration) -> Result<(), String> {
        self.cluster.up()?;
        self.ingest.brokers_are_up();
        self.ingest.complete(&self.binary)?;
        if let Some(job_run) = &mut self.job_run {
            let _ = job_run.ask_to_end(LEAVING);
        }
        self.end_processes();
        let shape = Shape {
            processes: 2,
            workers: 2,
            supervised: false,
            resident_bars: 12_000,
            epoch_ms: 250,
        };
        let mut job_run = self.binary.start(
            &mut self.cluster,
            &Orders {
                further: &["--until-end"],
                ..Orders::new(shape, MAIN)
            },
        )?;
        job_run.all_ended(patience)?;
        if job_run.codes().iter().any(|code| *code != Some(0)) {
            return Err(format!(
                "the last processes (job run {}) ended with {:?}",
                job_run.number,
                job_run.codes()
            ));
        }
        job_run.count_ends(&mut self.ends);
        Ok(())
    }
}

/// Whether a fault can meet processes of this shape.
fn fits(shape: Shape, fault: &Fault) -> bool {
    let wants = fault.wants();
    (!wants.several || shape.processes > 1)
        && wants
            .supervised
            .is_none_or(|supervised| supervised == shape.supervised)
}
