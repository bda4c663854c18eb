//! Logs that are not dense: offsets without a record, as a topic has them behind transactions, and
//! a batch that cannot be read. The job follows the position of its reader, binds nothing that is
//! not proven, and leaves a batch out only if the operator names it, through crashes.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Arc, Mutex},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use support::{
    check::check_without,
    feed::{feed, feed_as},
    interrupted_run::{Interruption, checkpoint, len, loss_letters, run_with},
    job::{block_on, config},
    memory_log::MemoryLog,
};
use tapeflow_dataflow::{JobConfig, JobError, Limits};
use tapeflow_log::{Log, LogError, LogReader, LogRecord};
use tapeflow_protocol::{LostRange, SourceIdentity};
use tapeflow_schemas::{Offset, Partition, SessionId};
use tapeflow_sinks::memory::MemoryStore;

/// How often a reader says that a jump is not proven yet.
const LOOKS_UNTIL_PROVEN: u32 = 1;

/// A log in which some offsets have no record, and some records cannot be read.
#[derive(Clone)]
struct SparseLog {
    inner: MemoryLog,
    /// Offsets without a record.
    holes: Arc<Mutex<BTreeSet<(Partition, Offset)>>>,
    /// Batches that cannot be read.
    unreadable: Arc<Vec<(Partition, Range<Offset>)>>,
    /// Whether the proof of a hole fails.
    unproven: bool,
}

impl SparseLog {
    fn new(inner: &MemoryLog) -> Self {
        Self {
            inner: inner.clone(),
            holes: Arc::default(),
            unreadable: Arc::default(),
            unproven: false,
        }
    }

    fn with_holes(inner: &MemoryLog, holes: impl IntoIterator<Item = (Partition, Offset)>) -> Self {
        Self {
            holes: Arc::new(Mutex::new(holes.into_iter().collect())),
            ..Self::new(inner)
        }
    }

    /// Appends records of a new session, with holes at random offsets and at the end.
    fn grow(&self, seed: u8, random: &mut StdRng) {
        let partitions = self.inner.partitions().expect("partitions");
        let before: Vec<Offset> = (0..partitions).map(|p| len(&self.inner, p)).collect();
        feed_as(&self.inner, SessionId([seed; 16]), seed.into(), 60);
        let mut holes = self.holes.lock().expect("holes");
        for (partition, before) in (0..).zip(before) {
            let end = len(&self.inner, partition);
            let hidden = (before..end).filter(|at| *at >= end - 2 || random.random_bool(0.2));
            holes.extend(hidden.map(|at| (partition, at)));
        }
    }

    fn is_hole(&self, partition: Partition, offset: Offset) -> bool {
        self.holes
            .lock()
            .expect("holes")
            .contains(&(partition, offset))
    }

    fn batch_at(&self, partition: Partition, offset: Offset) -> Option<Range<Offset>> {
        self.unreadable
            .iter()
            .find(|(of, batch)| *of == partition && batch.contains(&offset))
            .map(|(_, batch)| batch.clone())
    }
}

impl Log for SparseLog {
    fn describe(&self) -> String {
        "sparse".into()
    }

    fn identity(&self) -> Result<SourceIdentity, LogError> {
        self.inner.identity()
    }

    fn partitions(&self) -> Result<u32, LogError> {
        self.inner.partitions()
    }

    fn bounds(&self, partition: Partition) -> Result<Range<Offset>, LogError> {
        self.inner.bounds(partition)
    }

    fn unreadable_batch(
        &self,
        partition: Partition,
        offset: Offset,
    ) -> Result<Option<Range<Offset>>, LogError> {
        Ok(self.batch_at(partition, offset))
    }

    fn reader(&self, from: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(SparseReader {
            log: self.clone(),
            at: from.iter().map(|(p, o)| (*p, (*o, false))).collect(),
            left_out: Vec::new(),
            looks_left: 0,
        }))
    }
}

struct SparseReader {
    log: SparseLog,
    at: BTreeMap<Partition, (Offset, bool)>,
    left_out: Vec<(Partition, Range<Offset>)>,
    looks_left: u32,
}

impl LogReader for SparseReader {
    fn poll(
        &mut self,
        limit: usize,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<usize, LogError> {
        let limit = limit.min(7);
        let log = self.log.inner.0.lock().expect("log");
        let mut count = 0;
        for (partition, (offset, paused)) in &mut self.at {
            while !*paused && count < limit {
                let place = usize::try_from(*offset).expect("offset");
                let Some((timestamp_ms, payload)) = log[*partition as usize].get(place) else {
                    break;
                };
                if self.log.is_hole(*partition, *offset) {
                    *offset += 1;
                    self.looks_left = LOOKS_UNTIL_PROVEN;
                    continue;
                }
                if let Some(batch) = self.log.batch_at(*partition, *offset) {
                    if !self.left_out.contains(&(*partition, batch.clone())) {
                        return Err(LogError::Unreadable {
                            partition: *partition,
                            offset: batch.start,
                            reason: "too large".into(),
                        });
                    }
                    *offset = batch.end;
                    continue;
                }
                each(LogRecord {
                    partition: *partition,
                    offset: *offset,
                    timestamp_ms: *timestamp_ms,
                    payload: Some(payload),
                });
                *offset += 1;
                count += 1;
            }
        }
        Ok(count)
    }

    fn set_paused(&mut self, partition: Partition, paused: bool) -> Result<(), LogError> {
        self.at.get_mut(&partition).expect("ours").1 = paused;
        Ok(())
    }

    fn leave_out(&mut self, partition: Partition, offsets: Range<Offset>) {
        self.left_out.push((partition, offsets));
    }

    fn positions(&mut self, each: &mut dyn FnMut(Partition, Offset)) {
        self.at
            .iter()
            .for_each(|(partition, (offset, _))| each(*partition, *offset));
    }

    fn is_proven(&mut self) -> Result<bool, LogError> {
        if self.log.unproven && self.looks_left > 0 {
            return Err(LogError::Broken("a hole at some offset".into()));
        }
        let proven = self.looks_left == 0;
        self.looks_left = self.looks_left.saturating_sub(1);
        Ok(proven)
    }
}

#[test]
fn offsets_without_a_record_are_passed_through_crashes_and_their_retention_is_no_loss() {
    for seed in 0..8 {
        let mut random = StdRng::seed_from_u64(seed);
        let inner = MemoryLog::new(3);
        let log = SparseLog::new(&inner);
        let store = Arc::new(MemoryStore::new());
        // A run that writes nothing has room for a binding only if those before left some.
        let config = JobConfig {
            limits: Limits {
                epochs_ahead: 64,
                ..Limits::default()
            },
            ..config(random.random_range(1..4), 8)
        };
        // Each run has something to bind: one that has not ends at no binding.
        for session in 1..random.random_range(3..6) {
            log.grow(session, &mut random);
            let interruption = if random.random_bool(0.5) {
                Interruption::AfterBinding
            } else {
                Interruption::BeforeCommit
            };
            run_with(&config, &log, &store, interruption).expect_err("a crash");
        }
        log.grow(0, &mut random);
        run_with(&config, &log, &store, Interruption::None).expect("runs to the end");
        let hidden = |partition, offset| log.is_hole(partition, offset);
        let what = format!("seed {seed}");
        block_on(check_without(&config, &inner, &*store, &what, &hidden));
        for partition in 0..3 {
            let end = len(&inner, partition);
            assert_eq!(
                checkpoint(&store).committed.cuts[partition as usize].next,
                end,
                "{what}: the cut is behind the last marker"
            );
            // Retention takes everything along, the markers at the end too.
            inner.remove_below(partition, end);
        }
        run_with(&config, &log, &store, Interruption::None).expect("nothing is missing");
        assert!(loss_letters(&store).is_empty(), "{what}");
    }
}

#[test]
fn markers_that_follow_the_last_record_of_a_running_job_are_bound_without_records() {
    let inner = MemoryLog::new(1);
    feed(&inner, 1, 100);
    let (store, config) = (Arc::new(MemoryStore::new()), config(1, 8));
    run_with(&config, &SparseLog::new(&inner), &store, Interruption::None).expect("all records");
    let end = len(&inner, 0);
    inner.append(0, 1_700_000_000_000, Vec::new());
    let log = SparseLog::with_holes(&inner, [(0, end)]);
    run_with(&config, &log, &store, Interruption::None).expect("a marker, and no record");
    assert_eq!(checkpoint(&store).committed.cuts[0].next, end + 1);
    inner.remove_below(0, end + 1);
    run_with(&config, &log, &store, Interruption::None).expect("only a marker is gone");
}

#[test]
fn a_jump_that_is_not_proven_ends_the_job_and_nothing_behind_it_is_bound() {
    let inner = MemoryLog::new(1);
    feed(&inner, 1, 100);
    let log = SparseLog {
        unproven: true,
        ..SparseLog::with_holes(&inner, [(0, 0)])
    };
    let store = Arc::new(MemoryStore::new());
    let error = run_with(&config(1, 8), &log, &store, Interruption::None).expect_err("a failure");
    assert!(error.to_string().contains("a hole"), "{error}");
    let found = checkpoint(&store);
    assert_eq!((found.committed.epoch, found.bound.len()), (0, 0));
}

/// The job reads on while a jump is being examined, so a replay may arrive at its cut first.
#[test]
fn a_record_that_a_replay_does_not_find_ends_the_job_and_nothing_is_written() {
    for (unproven, reason) in [(true, "a hole"), (false, "does not arrive at the state")] {
        let inner = MemoryLog::new(1);
        feed(&inner, 1, 100);
        let (store, config) = (Arc::new(MemoryStore::new()), config(1, 8));
        let log = SparseLog::new(&inner);
        run_with(&config, &log, &store, Interruption::AfterBinding).expect_err("a crash");
        let (before, bars) = (checkpoint(&store), store.all_bars());
        let cut = &before.last_binding().cuts[0];
        // The last one is compared before anything is read.
        let hole = cut.last.expect("a record").offset - 1;
        assert!(before.committed.cuts[0].next <= hole, "{before:?}");
        let log = SparseLog {
            unproven,
            ..SparseLog::with_holes(&inner, [(0, hole)])
        };
        let error = run_with(&config, &log, &store, Interruption::None).expect_err("a failure");
        assert!(error.to_string().contains(reason), "{error}");
        let found = checkpoint(&store);
        assert_eq!(
            (found.committed, found.bound),
            (before.committed, before.bound)
        );
        assert_eq!(store.all_bars(), bars);
    }
}

#[test]
fn a_batch_that_cannot_be_read_is_named_and_left_out_only_where_the_operator_names_it() {
    for crash in [true, false] {
        for (seed, from_end) in [(1, 40), (2, 5), (3, 0)] {
            let inner = MemoryLog::new(2);
            feed(&inner, seed, 120);
            let end = len(&inner, 1) - from_end;
            let batch = end - 5..end;
            let log = SparseLog {
                unreadable: Arc::new(vec![(1, batch.clone())]),
                ..SparseLog::new(&inner)
            };
            let (store, config) = (Arc::new(MemoryStore::new()), config(2, 8));
            let error =
                run_with(&config, &log, &store, Interruption::None).expect_err("cannot be read");
            let JobError::Failed(text) = &error else {
                panic!("{error}")
            };
            let named = format!(
                "partition 1: the batch at offset {} cannot be read",
                batch.start
            );
            let hint = format!("--skip-batch 1:{}", batch.start);
            assert!(text.contains(&named) && text.contains(&hint), "{text}");
            // A batch elsewhere that can be read is not left out.
            let wrong = JobConfig {
                skip_batches: vec![(0, 3), (1, 0)],
                ..config.clone()
            };
            let error =
                run_with(&wrong, &log, &store, Interruption::None).expect_err("still there");
            assert!(error.to_string().contains(&named), "{error}");

            let skipping = JobConfig {
                skip_batches: vec![(1, batch.start)],
                ..config.clone()
            };
            let last = if crash {
                let cut_by = run_with(&skipping, &log, &store, Interruption::AfterBinding);
                cut_by.expect_err("a crash");
                skipping.clone()
            } else {
                skipping.clone()
            };
            run_with(&last, &log, &store, Interruption::None).expect("continues without it");
            // The loss is bound: from here on no permission is needed, and none takes more away.
            for again in [&config, &skipping] {
                run_with(again, &log, &store, Interruption::None).expect("nothing is missing");
            }
            let hidden = |partition, offset| partition == 1 && batch.contains(&offset);
            let what = format!("seed {seed}, crash {crash}");
            block_on(check_without(&config, &inner, &*store, &what, &hidden));
            let cut = &checkpoint(&store).committed.cuts[1];
            let range = LostRange {
                from: batch.start,
                to: batch.end,
            };
            assert_eq!(
                (cut.next, cut.lost),
                (len(&inner, 1), Some(range)),
                "{what}"
            );
            assert_eq!(
                loss_letters(&store),
                [(1, batch.start, batch.end)],
                "{what}"
            );
        }
    }
}

#[test]
fn a_replay_leaves_out_what_a_binding_lost_even_if_it_can_be_read_by_now() {
    let inner = MemoryLog::new(1);
    feed(&inner, 4, 200);
    let batch = 20..30;
    let (store, config) = (Arc::new(MemoryStore::new()), config(1, 8));
    let log = SparseLog {
        unreadable: Arc::new(vec![(0, batch.clone())]),
        ..SparseLog::new(&inner)
    };
    let skipping = JobConfig {
        skip_batches: vec![(0, 20)],
        ..config.clone()
    };
    while checkpoint_lost(&store).is_none() {
        run_with(&skipping, &log, &store, Interruption::AfterBinding).expect_err("a crash");
    }
    let found = checkpoint(&store);
    assert!(
        found.committed.cuts[0].next < 20,
        "the loss lies ahead of the replay"
    );
    // The operator raised the limit: everything can be read.
    run_with(&config, &SparseLog::new(&inner), &store, Interruption::None).expect("continues");
    let hidden = |_, offset| batch.contains(&offset);
    block_on(check_without(&config, &inner, &*store, "replayed", &hidden));
    assert_eq!(loss_letters(&store), [(0, 20, 30)]);
}

fn checkpoint_lost(store: &MemoryStore) -> Option<LostRange> {
    use tapeflow_protocol::CheckpointStore;
    let found = block_on(store.checkpoint()).expect("answered")?;
    found.last_binding().cuts[0].lost
}
