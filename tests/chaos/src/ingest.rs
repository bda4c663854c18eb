//! The real `tapeflow ingest`, which replays the [`Recording`] into the topic of the feed.
//!
//! Ingest runs to the end of the recording, rests, and is started again when the recording has
//! grown. A kill may come at any moment of that. Each start must go on exactly after what the topic
//! holds: the final comparison would find a trade that is missing or doubled, and here each start
//! says how much it found.
//!
//! Ingest may end with an error only if a broker was down while it ran.

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use rustix::process::Signal;

use crate::{
    cluster::Cluster,
    cycle::{LOOK, PATIENCE},
    job::Binary,
    recording::Recording,
};

/// The frames by which the recording grows: when nothing is done to ingest, and when it will be
/// killed, so many that appending them takes a while.
const STEP: std::ops::Range<usize> = 5..40;
const LARGE_STEP: std::ops::Range<usize> = 200..800;
/// How often a run is killed beside other faults.
const DIES: f64 = 0.2;
/// How long ingest rests at the end of the recording: the machine has other work.
const REST: Duration = Duration::from_secs(3);
/// When ingest is killed at its start: it needs some seconds to find its place.
const AFTER_START_MS: std::ops::Range<u64> = 0..4_000;
/// How many records ingest appends in a request, and how long after it has found its place it is
/// killed: with one broker, and with several, whose replicas make a request take many times as
/// long. In full batches a few requests would append a large step, and hardly any kill would come
/// between them.
const ONE_BROKER: (u16, std::ops::Range<u64>) = (1, 0..1_500);
const SEVERAL_BROKERS: (u16, std::ops::Range<u64>) = (8, 0..4_000);
/// How often a kill looks whether ingest has found its place.
const GLANCE: Duration = Duration::from_millis(2);

/// How often what was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Replays {
    pub(crate) starts: u64,
    pub(crate) kills: u64,
    /// Kills after which the topic had a part of the new frames.
    pub(crate) midway: u64,
    /// Ends with an error, while a broker was down.
    pub(crate) errors: u64,
}

/// One process.
struct Run {
    child: Child,
    log: PathBuf,
    since: Instant,
    /// The records of the recording when it was started.
    records: u64,
    /// Whether a broker was down while it ran.
    is_excused: bool,
    /// When it is killed, whatever else is done then.
    dies: Option<Instant>,
}

/// What the topic holds of the recording, in records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// So many: ingest came to the end of the recording.
    Exactly(u64),
    /// Ingest found so many when it was started, and could append up to so many.
    Between(u64, u64),
}

impl Held {
    /// Whether ingest may find so many at its next start.
    fn allows(self, found: u64) -> bool {
        match self {
            Self::Exactly(records) => found == records,
            Self::Between(from, to) => (from..=to).contains(&found),
        }
    }

    /// Whether ingest was killed when it had appended a part, if it finds so many.
    fn is_part(self, found: u64) -> bool {
        matches!(self, Self::Between(from, to) if from < found && found < to)
    }
}

/// Ingest and its recording; killed when dropped.
pub(crate) struct Ingest {
    pub(crate) recording: Recording,
    /// `--brokers`, `--topic` and so on.
    arguments: Vec<String>,
    after_place_ms: std::ops::Range<u64>,
    random: StdRng,
    run: Option<Run>,
    held: Held,
    rests_since: Instant,
    is_broker_down: bool,
    brokers_up_since: Instant,
    pub(crate) replays: Replays,
}

impl Ingest {
    /// Ingest that is not running, and a recording of a few frames.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(crate) fn new(
        mut recording: Recording,
        cluster: &Cluster,
        topic: &str,
        seed: u64,
    ) -> Result<Self, String> {
        recording.grow(STEP.end, false)?;
        let (batch, after_place_ms) = if cluster.nodes == 1 {
            ONE_BROKER
        } else {
            SEVERAL_BROKERS
        };
        let config = recording.path().with_extension("properties");
        fs::write(&config, format!("batch.num.messages={batch}\n"))
            .map_err(|error| format!("{}: {error}", config.display()))?;
        let arguments = [
            ("--replay", recording.path().display().to_string()),
            ("--brokers", cluster.brokers()),
            ("--topic", topic.to_owned()),
            ("--kafka-config-file", config.display().to_string()),
            ("--http", "off".to_owned()),
        ];
        let arguments = arguments
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value]);
        Ok(Self {
            recording,
            arguments: arguments.collect(),
            after_place_ms,
            random: StdRng::seed_from_u64(seed ^ 0x169e),
            run: None,
            held: Held::Exactly(0),
            rests_since: Instant::now(),
            is_broker_down: false,
            brokers_up_since: Instant::now(),
            replays: Replays::default(),
        })
    }

    /// Notes how ingest ended, and starts it again after a rest, with more to do. Kills some.
    ///
    /// # Errors
    /// Ingest ended as it must not, or does not end.
    pub(crate) fn tend(&mut self, binary: &Binary) -> Result<(), String> {
        self.look()?;
        let is_due = |run: &Run| run.dies.is_some_and(|dies| dies < Instant::now());
        if self.run.as_ref().is_some_and(is_due) {
            self.kill()?;
        }
        if self.run.is_none() && self.rests_since.elapsed() > REST {
            let is_half = self.random.random_bool(0.3);
            self.grow(STEP, is_half)?;
            let after_ms = self.random.random_range(AFTER_START_MS);
            let dies = Instant::now() + Duration::from_millis(after_ms);
            let dies = self.random.random_bool(DIES).then_some(dies);
            self.start(binary, dies)?;
        }
        Ok(())
    }

    /// Lets the recording grow by much, starts ingest, and kills it: while it starts, or soon after
    /// it has begun to append.
    ///
    /// # Errors
    /// Ingest ended as it must not.
    pub(crate) fn kill_midway(&mut self, binary: &Binary) -> Result<(), String> {
        self.kill()?;
        let is_half = self.random.random_bool(0.5);
        self.grow(LARGE_STEP, is_half)?;
        self.start(binary, None)?;
        let after = if self.random.random_bool(0.3) {
            AFTER_START_MS
        } else {
            while self.run.as_ref().is_some_and(|run| resumed(run).is_none()) {
                thread::sleep(GLANCE);
                self.look()?;
            }
            self.after_place_ms.clone()
        };
        thread::sleep(Duration::from_millis(self.random.random_range(after)));
        self.kill()
    }

    /// Completes the last line, and lets ingest run to the end of the recording.
    ///
    /// # Errors
    /// It does not come there.
    pub(crate) fn complete(&mut self, binary: &Binary) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while !self.has_all() {
            if Instant::now() > deadline {
                return Err(format!(
                    "ingest has not come to the end of its recording within {} s: {:?}",
                    PATIENCE.as_secs(),
                    self.held
                ));
            }
            if self.run.is_none() {
                self.recording.grow(0, false)?;
                self.start(binary, None)?;
            }
            thread::sleep(LOOK);
            self.look()?;
        }
        Ok(())
    }

    /// A broker is about to be killed: until all are up again, ingest may end with an error.
    pub(crate) fn broker_goes_down(&mut self) {
        self.is_broker_down = true;
        if let Some(run) = &mut self.run {
            run.is_excused = true;
        }
    }

    /// All brokers are up: an ingest that is started from now on must not fail.
    pub(crate) fn brokers_are_up(&mut self) {
        self.is_broker_down = false;
        self.brokers_up_since = Instant::now();
    }

    fn grow(&mut self, step: std::ops::Range<usize>, is_half: bool) -> Result<(), String> {
        let frames = self.random.random_range(step);
        self.recording.grow(frames, is_half)
    }

    fn start(&mut self, binary: &Binary, dies: Option<Instant>) -> Result<(), String> {
        self.replays.starts += 1;
        let log = format!("ingest-{:04}.log", self.replays.starts);
        let log = binary.logs().join(log);
        let file = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let mut command = binary.command(&["ingest", "--until-end"]);
        let child = command
            .args(&self.arguments)
            .stderr(file)
            .spawn()
            .map_err(|error| format!("ingest does not start: {error}"))?;
        self.run = Some(Run {
            child,
            log,
            since: Instant::now(),
            records: self.recording.recorded.records,
            is_excused: self.is_broker_down,
            dies,
        });
        Ok(())
    }

    /// Notes how ingest ended, if it has.
    fn look(&mut self) -> Result<(), String> {
        let Some(run) = &mut self.run else {
            return Ok(());
        };
        if let Some(status) = run.child.try_wait().map_err(|error| error.to_string())? {
            return self.ended(status, false);
        }
        let since = run.since.max(self.brokers_up_since);
        if !self.is_broker_down && since.elapsed() > PATIENCE {
            return Err(format!(
                "ingest still runs after {} s; see {}",
                PATIENCE.as_secs(),
                run.log.display()
            ));
        }
        Ok(())
    }

    /// kill -9 of ingest, if it runs.
    fn kill(&mut self) -> Result<(), String> {
        self.look()?;
        let Some(run) = &mut self.run else {
            return Ok(());
        };
        // One that has ended in between is not killed: its status tells.
        let _ = run.child.kill();
        let status = run.child.wait().map_err(|error| error.to_string())?;
        self.ended(status, true)
    }

    fn ended(&mut self, status: ExitStatus, is_killed: bool) -> Result<(), String> {
        let Some(run) = self.run.take() else {
            return Ok(());
        };
        self.rests_since = Instant::now();
        let resumed = resumed(&run);
        if let Some(resumed) = resumed {
            self.found(resumed, &run)?;
        }
        if status.code() == Some(0) && resumed.is_some() {
            self.held = Held::Exactly(run.records);
        } else if is_killed && status.signal() == Some(Signal::KILL.as_raw()) {
            self.replays.kills += 1;
        } else if run.is_excused && status.code().is_some_and(|code| code != 0) {
            self.replays.errors += 1;
        } else {
            return Err(format!(
                "ingest ended with {status}, and found {resumed:?} records, though no broker was \
                 down; see {}",
                run.log.display()
            ));
        }
        Ok(())
    }

    /// Compares what ingest found in the topic with what the runs before it left there. It says so
    /// before it appends: a run that did not say it has appended nothing.
    fn found(&mut self, resumed: u64, run: &Run) -> Result<(), String> {
        if !self.held.allows(resumed) {
            return Err(format!(
                "ingest found {resumed} records of its recording in the topic, where there must be \
                 {:?}; see {}",
                self.held,
                run.log.display()
            ));
        }
        self.replays.midway += u64::from(self.held.is_part(resumed));
        self.held = Held::Between(resumed, run.records);
        Ok(())
    }

    /// Whether the topic has the whole recording.
    fn has_all(&self) -> bool {
        let records = self.recording.recorded.records;
        self.recording.is_whole() && self.run.is_none() && self.held == Held::Exactly(records)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if let Some(run) = &mut self.run {
            let _ = run.child.kill();
            let _ = run.child.wait();
        }
    }
}

/// How many records a run found in the topic, as soon as its log says so.
fn resumed(run: &Run) -> Option<u64> {
    number_in(&fs::read_to_string(&run.log).ok()?)
}

fn number_in(log: &str) -> Option<u64> {
    let mut lines = log.split_inclusive('\n');
    let line = lines.find(|line| line.contains("replay begins") && line.ends_with('\n'))?;
    let (_, number) = line.split_once(" resumed=")?;
    number.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ingest_finds_is_what_the_runs_before_it_left() {
        assert!(Held::Exactly(7).allows(7));
        assert!(!Held::Exactly(7).allows(6), "lost");
        assert!(!Held::Exactly(7).allows(0), "taken for another recording");
        let held = Held::Between(5, 9);
        assert!([5, 7, 9].into_iter().all(|found| held.allows(found)));
        assert!([4, 10].into_iter().all(|found| !held.allows(found)));
        assert!([6, 8].into_iter().all(|found| held.is_part(found)));
        assert!([5, 9].into_iter().all(|found| !held.is_part(found)));
        assert!(!Held::Exactly(7).is_part(7));
    }

    #[test]
    fn a_run_has_found_its_place_once_its_whole_line_is_there() {
        let begins =
            "INFO tapeflow_ingest::run: replay begins session=5f file=r frames=9 speed=max";
        assert_eq!(number_in(&format!("{begins} resumed=965\nnext")), Some(965));
        assert_eq!(number_in(&format!("{begins} resumed=965")), None);
        assert_eq!(number_in("feed ends records_resumed=3"), None);
    }
}
