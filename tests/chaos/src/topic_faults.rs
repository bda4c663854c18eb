//! Topics that can no longer be read: each cycle makes a small job with a topic and a keyspace of
//! its own, lets it commit, breaks the topic, and demands that the job reports exactly that and
//! changes nothing more. The job of all other cycles continues meanwhile.

use std::{
    collections::BTreeMap,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use rand::{Rng, seq::IndexedRandom};
use tapeflow_log::kafka::KafkaConfig;
use tapeflow_protocol::{BarReader, Checkpoint, CheckpointStore, EpochStore};
use tapeflow_schemas::{BarKey, Offset, Policy};
use tapeflow_sinks::cassandra::CassandraStore;

use crate::{
    checker::Topic,
    cycle::{Back, LEAVING, LOOK, PATIENCE, Stage},
    fault::TopicFault,
    feed::Feeder,
    feed_profile::FeedProfile,
    job::{JobRun, Orders, Shape},
    ledger::Ledger,
    run,
    topics::Topics,
    watch::patiently,
};

/// Symbols of a small job.
const SYMBOLS: usize = 12;
/// Trades fed at a time.
const TRADES: u64 = 400;
/// Dead letters of a small job, at most.
const LETTERS: usize = 100_000;
/// What the job says of offsets that it cannot read any more.
const GONE: &str = "are gone from the log";
/// Exit codes: nothing was begun; something failed under way, or a process of the same job left.
const REFUSED: i32 = 2;
const FAILED: i32 = 1;

/// A small job whose topic and keyspace are being made; that is ended when dropped.
pub(crate) struct Preparing {
    name: String,
    making: Child,
}

impl Drop for Preparing {
    fn drop(&mut self) {
        let _ = self.making.kill().and_then(|()| self.making.wait());
    }
}

/// A small job and what was fed to it.
struct Small {
    name: String,
    ledger: Ledger,
    store: CassandraStore,
    shape: Shape,
}

impl Stage {
    /// One such cycle; the time is that from the start of processes that must refuse to their end.
    pub(crate) fn topic_faults(&mut self, topic_faults: TopicFault) -> Result<Back, String> {
        let small = self.small()?;
        let damaged = match topic_faults {
            TopicFault::Retention => self.retention(&small),
            TopicFault::AgainWhileDown => self.again(&small, false),
            TopicFault::AgainWhileUp => self.again(&small, true),
        };
        // Whatever came of it, servers need not carry the topic on.
        let deleted = self.topics().delete(&small.name);
        let after = damaged.map_err(|fault| format!("{}: {fault}", small.name))?;
        deleted?;
        // The other job was not watched meanwhile.
        let before = self.any_generation()?;
        self.back(before, Instant::now())?;
        Ok(Back {
            after,
            started: true,
        })
    }

    /// Begins to make the next small job's tables: on busy nodes that takes long, so it is done
    /// beside other cycles.
    pub(crate) fn prepare_small(&mut self) -> Result<(), String> {
        self.damaged += 1;
        let name = format!("damaged_{}", self.damaged);
        let mut command = run::init_command(&self.binary, &self.cluster, &name);
        let making = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|fault| format!("the binary does not start: {fault}"))?;
        self.preparing = Some(Preparing { name, making });
        Ok(())
    }

    fn small(&mut self) -> Result<Small, String> {
        if self.preparing.is_none() {
            self.prepare_small()?;
        }
        let mut preparing = self.preparing.take().ok_or("it has just been begun")?;
        let name = std::mem::take(&mut preparing.name);
        if !preparing.making.wait().is_ok_and(|ended| ended.success()) {
            // A server may have been killed meanwhile.
            run::init(&self.binary, &self.cluster, &name)?;
        }
        self.prepare_small()?;
        let store = self.watch.runtime.block_on(self.cluster.connect(&name))?;
        let shape = Shape {
            processes: self.random.random_range(1..=2),
            supervised: false,
            ..self.shape(None)
        };
        Ok(Small {
            name,
            ledger: Ledger::new('S', SYMBOLS, 0),
            store,
            shape,
        })
    }

    fn feed_small(&mut self, small: &Small, ledger: &Ledger) -> Result<(), String> {
        let kafka = KafkaConfig::new(self.cluster.brokers(), small.name.clone());
        let seed = self.random.random();
        self.watch.runtime.block_on(async {
            // Not every broker knows at once of a topic that has just been made.
            let deadline = Instant::now() + PATIENCE;
            let mut feeder = loop {
                match Feeder::connect(kafka.clone(), seed).await {
                    Err(_) if Instant::now() < deadline => tokio::time::sleep(LOOK).await,
                    connected => break connected?,
                }
            };
            feeder.feed(ledger, FeedProfile::Calm, TRADES).await
        })
    }

    /// Starts a small job and waits until something, or everything that was fed, is committed.
    fn run_small(&mut self, small: &Small, everything: bool) -> Result<JobRun, String> {
        let mut job_run = self
            .binary
            .start(&mut self.cluster, &Orders::new(small.shape, &small.name))?;
        let deadline = Instant::now() + PATIENCE;
        let fed = small.ledger.appended();
        let is_enough = |checkpoint: &Checkpoint| {
            checkpoint.committed.epoch > 0
                && (!everything
                    || fed
                        .iter()
                        .zip(&checkpoint.committed.cuts)
                        .all(|(fed, cut)| cut.next >= *fed))
        };
        while !self
            .checkpoint(small)
            .is_ok_and(|checkpoint| is_enough(&checkpoint))
        {
            job_run.check_ends()?;
            if job_run.any_ended() || Instant::now() > deadline {
                return Err(format!(
                    "job run {} does not commit: {:?}",
                    job_run.number,
                    job_run.codes()
                ));
            }
            thread::sleep(LOOK);
        }
        Ok(job_run)
    }

    fn checkpoint(&self, small: &Small) -> Result<Checkpoint, String> {
        let checkpoint = self
            .watch
            .runtime
            .block_on(patiently(|| small.store.checkpoint()))?;
        checkpoint.ok_or_else(|| "there is no checkpoint".into())
    }

    /// Starts processes that must refuse: all end, one with the code for it, and nothing of what
    /// was bound or committed changes.
    fn refused(&mut self, small: &Small) -> Result<(Duration, String), String> {
        let before = self.checkpoint(small)?;
        let begun = Instant::now();
        let mut job_run = self
            .binary
            .start(&mut self.cluster, &Orders::new(small.shape, &small.name))?;
        job_run.all_ended(LEAVING)?;
        let took = begun.elapsed();
        let codes = job_run.codes();
        if !codes.contains(&Some(REFUSED))
            || codes
                .iter()
                .any(|code| !matches!(code, Some(REFUSED | FAILED)))
        {
            return Err(format!(
                "job run {} should have refused with code {REFUSED}, and ended with {codes:?}",
                job_run.number
            ));
        }
        job_run.count_ends(&mut self.ends);
        let after = self.checkpoint(small)?;
        if (&after.committed, &after.bound) != (&before.committed, &before.bound) {
            return Err(format!(
                "job run {} refused, and changed the checkpoint all the same: {before:?} to \
                 {after:?}",
                job_run.number
            ));
        }
        Ok((took, job_run.output()))
    }

    /// Records are deleted beyond what is committed, in some partitions, while the job is down.
    fn retention(&mut self, small: &Small) -> Result<Duration, String> {
        self.feed_small(small, &small.ledger)?;
        let mut job_run = self.run_small(small, false)?;
        // Some leave epochs that are bound and not committed.
        if self.random.random_bool(0.5) {
            job_run.kill_all();
        } else {
            job_run.ask_to_end(LEAVING)?;
        }
        job_run.count_ends(&mut self.ends);
        self.feed_small(small, &small.ledger)?;
        let checkpoint = self.checkpoint(small)?;
        let topic = Topic::read(self.cluster.brokers(), &small.name, &small.ledger)?;
        let ends = small.ledger.appended();
        let committed: Vec<Offset> = checkpoint
            .committed
            .cuts
            .iter()
            .map(|cut| cut.next)
            .collect();
        let behind: Vec<usize> = (0..committed.len())
            .filter(|at| ends.get(*at).is_some_and(|end| *end > committed[*at] + 1))
            .collect();
        let count = self.random.random_range(1..=behind.len().max(1));
        let mut gone: BTreeMap<usize, Offset> = BTreeMap::new();
        for at in behind
            .choose_multiple(&mut self.random, count)
            .copied()
            .collect::<Vec<_>>()
        {
            // Sometimes all that there is.
            let start = if self.random.random_bool(0.2) {
                ends[at]
            } else {
                self.random.random_range(committed[at] + 1..ends[at])
            };
            gone.insert(at, start);
        }
        if gone.is_empty() {
            return Err("there is nothing behind what is committed".into());
        }
        self.topics().delete_records(&small.name, &gone)?;
        let (took, said) = self.refused(small)?;
        let names: Vec<String> = gone
            .iter()
            .map(|(at, start)| {
                format!(
                    "partition {at}: offsets {} to {} are gone from the log",
                    committed[*at],
                    start - 1
                )
            })
            .collect();
        let named = said.matches(GONE).count();
        let right: usize = names
            .iter()
            .map(|name| said.matches(name.as_str()).count())
            .sum();
        let recorded = names
            .iter()
            .filter(|name| said.contains(name.as_str()))
            .count();
        if named != right || recorded < names.len() {
            return Err(format!(
                "committed {committed:?}, deleted below {gone:?}, but it says: {said}"
            ));
        }
        self.accept(small, &topic, &checkpoint, &gone)?;
        Ok(took)
    }

    fn topics(&self) -> Topics {
        Topics::new(&self.cluster.brokers(), self.watch.runtime.clone())
    }

    /// With the loss accepted it continues: all trades count but those that were deleted before
    /// they were committed, and from then on it needs no permission. What was bound already may
    /// stand in bars all the same; and a record that was sent again later counts by its repeat.
    fn accept(
        &mut self,
        small: &Small,
        topic: &Topic,
        checkpoint: &Checkpoint,
        gone: &BTreeMap<usize, Offset>,
    ) -> Result<(), String> {
        for further in [&["--accept-loss", "--until-end"][..], &["--until-end"]] {
            let mut job_run = self.binary.start(
                &mut self.cluster,
                &Orders {
                    further,
                    ..Orders::new(small.shape, &small.name)
                },
            )?;
            job_run.all_ended(PATIENCE)?;
            if job_run.codes().iter().any(|code| *code != Some(0)) {
                return Err(format!(
                    "job run {} goes on with the loss accepted ({further:?}), and ended with {:?}",
                    job_run.number,
                    job_run.codes()
                ));
            }
            job_run.count_ends(&mut self.ends);
        }
        let all = small.ledger.all();
        let keys: Vec<BarKey> = all
            .iter()
            .map(|(minute, _)| small.ledger.key(*minute))
            .collect();
        let bars = self
            .watch
            .runtime
            .block_on(patiently(|| small.store.read_bars(&keys)))?;
        for (((minute, _), key), bar) in all.iter().zip(&keys).zip(bars) {
            let (partition, places) = topic.places(*minute);
            let at = usize::try_from(partition).unwrap_or(0);
            let lost = gone
                .get(&at)
                .map_or(0..0, |start| checkpoint.committed.cuts[at].next..*start);
            let bound = checkpoint.last_binding().cuts[at].next;
            let (mut must, mut may) = (0i128, 0i128);
            for (slot, offset) in (0u32..).zip(places) {
                let is_lost = lost.contains(offset);
                must |= i128::from(!is_lost) << slot;
                may |= i128::from(
                    !is_lost || *offset < bound || topic.repeated.contains(&(partition, *offset)),
                ) << slot;
            }
            let have = bar.map_or(0, |bar| bar.state.totals.of_policy(Policy::All).volume_e8);
            if have & must != must || have & !may != 0 {
                return Err(format!(
                    "{key}: with the offsets {lost:?} lost the trades must be {must:b}, may be \
                     {may:b}, and are {have:b}"
                ));
            }
        }
        let dead_letters = self
            .watch
            .runtime
            .block_on(patiently(|| small.store.dead_letters(LETTERS)))?;
        let recorded: BTreeMap<usize, Offset> = dead_letters
            .iter()
            .filter(|dead_letter| dead_letter.reason == "lost")
            .filter_map(|dead_letter| {
                Some((
                    usize::try_from(dead_letter.partition).ok()?,
                    dead_letter.offset,
                ))
            })
            .collect();
        let want: BTreeMap<usize, Offset> = gone
            .keys()
            .map(|at| (*at, checkpoint.committed.cuts[*at].next))
            .collect();
        if recorded == want {
            Ok(())
        } else {
            Err(format!(
                "the loss of {want:?} was accepted, and the dead letters say {recorded:?}"
            ))
        }
    }

    /// The topic is deleted and made again, and filled with other trades at the same offsets: none
    /// of them may be counted.
    fn again(&mut self, small: &Small, running: bool) -> Result<Duration, String> {
        self.feed_small(small, &small.ledger)?;
        let mut job_run = self.run_small(small, true)?;
        if !running {
            job_run.ask_to_end(LEAVING)?;
        }
        let topics = self.topics();
        topics.delete(&small.name)?;
        topics.make(
            &small.name,
            small.ledger.appended().len(),
            self.cluster.nodes,
        )?;
        // More than there were: every offset the job has read, or is about to, is that of another
        // record now.
        let others = Ledger::new('X', SYMBOLS, 0);
        for _ in 0..3 {
            self.feed_small(small, &others)?;
        }
        if running {
            job_run.all_ended(LEAVING)?;
            if job_run
                .codes()
                .iter()
                .any(|code| !matches!(code, Some(REFUSED | FAILED)))
            {
                return Err(format!(
                    "job run {} reads a topic that was made again, and ended with {:?}",
                    job_run.number,
                    job_run.codes()
                ));
            }
        }
        job_run.count_ends(&mut self.ends);
        let (took, said) = self.refused(small)?;
        if !said.contains("bars come from another log") {
            return Err(format!(
                "the topic was deleted and made again, and the job that refuses it says: {said}"
            ));
        }
        let keys: Vec<BarKey> = others
            .all()
            .into_iter()
            .map(|(minute, _)| others.key(minute))
            .collect();
        let bars = self
            .watch
            .runtime
            .block_on(patiently(|| small.store.read_bars(&keys)))?;
        match keys.iter().zip(&bars).find(|(_, bar)| bar.is_some()) {
            Some((key, _)) => Err(format!(
                "{key}: a bar of trades that were never in the topic the job began with"
            )),
            None => Ok(took),
        }
    }
}
