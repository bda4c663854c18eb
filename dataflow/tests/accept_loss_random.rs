//! Records are lost at random moments between random crashes: each bar equals the recomputation of
//! the remaining records and of the lost ones that it already contained.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
    sync::Arc,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use support::{
    check::check_bar,
    crashing_store::CrashingStore,
    feed::feed,
    interrupted_run::{
        Interruption, checkpoint, clear_of_repeats, len, loss_letters, refused, run_with,
    },
    job::{block_on, config, run_job},
    memory_log::MemoryLog,
};
use tapeflow_dataflow::{JobConfig, JobError};
use tapeflow_oracle::Oracle;
use tapeflow_protocol::{Checkpoint, CheckpointStore};
use tapeflow_schemas::{BarKey, Epoch, Offset, Partition, Symbol};
use tapeflow_sinks::memory::MemoryStore;

/// Records that were removed, and the state of the bars at that moment.
struct Loss {
    /// By partition; none of these offsets was committed.
    gone: Vec<Range<Offset>>,
    checkpoint: Checkpoint,
    labels: BTreeMap<BarKey, Epoch>,
}

impl Loss {
    /// Whether a bar that had this epoch at the loss did not contain the record.
    fn excludes(&self, label: Epoch, partition: Partition, offset: Offset) -> bool {
        let at = partition as usize;
        let epoch = self
            .checkpoint
            .bound
            .iter()
            .find(|binding| offset < binding.cuts[at].next)
            .map_or(Epoch::MAX, |binding| binding.epoch);
        self.gone[at].contains(&offset) && epoch > label
    }
}

/// How often each case occurred.
#[derive(Default, Debug)]
struct Coverage {
    within: u32,
    beyond: u32,
    held: u32,
    bound_at_once: u32,
    crashes: u32,
}

/// Removes some records that are not committed.
fn lose(
    log: &MemoryLog,
    store: &MemoryStore,
    starts: &mut [Offset],
    random: &mut StdRng,
    coverage: &mut Coverage,
) -> Loss {
    let checkpoint = checkpoint(store);
    let gone = (0u32..)
        .zip(starts)
        .map(|(partition, start)| {
            let at = partition as usize;
            let from = checkpoint.committed.cuts[at].next.max(*start);
            let (bound, end) = (checkpoint.last_binding().cuts[at].next, len(log, partition));
            if random.random_bool(0.3) || from == end {
                return from..from;
            }
            let to = if from < bound && random.random_bool(0.7) {
                random.random_range(from + 1..=bound)
            } else {
                random.random_range(from + 1..=end)
            };
            let to = clear_of_repeats(log, partition, to);
            if to < bound {
                coverage.within += 1
            } else {
                coverage.beyond += 1
            }
            *start = to;
            log.remove_below(partition, to);
            from..to
        })
        .collect();
    let labels = store
        .all_bars()
        .into_iter()
        .map(|(key, _, bar)| (key, bar.epoch))
        .collect();
    Loss {
        gone,
        checkpoint,
        labels,
    }
}

/// The offsets that a start must name now: not committed, gone, and given up by no binding.
fn unclaimed(checkpoint: &Checkpoint, starts: &[Offset]) -> Vec<(Partition, Offset, Offset)> {
    let cuts = checkpoint
        .committed
        .cuts
        .iter()
        .zip(&checkpoint.last_binding().cuts);
    let from = cuts.map(|(committed, last)| {
        last.lost
            .map_or(committed.next, |lost| lost.to.max(committed.next))
    });
    (0u32..)
        .zip(from.zip(starts))
        .filter(|(_, (from, start))| from < start)
        .map(|(partition, (from, start))| (partition, from, *start))
        .collect()
}

fn recompute(
    config: &JobConfig,
    log: &MemoryLog,
    excluded: impl Fn(Partition, Offset) -> bool,
) -> Oracle {
    let mut oracle = Oracle::new(config.sizes.clone(), len_of(log));
    for (partition, records) in (0u32..).zip(log.0.lock().expect("log").iter()) {
        for (offset, (timestamp_ms, payload)) in (0i64..).zip(records) {
            if !excluded(partition, offset) {
                oracle.record(0, partition, offset, *timestamp_ms, Some(payload));
            }
        }
    }
    oracle
}

fn len_of(log: &MemoryLog) -> u32 {
    u32::try_from(log.0.lock().expect("log").len()).expect("few")
}

/// Checks that every bar equals the recomputation of the remaining records and of the lost ones
/// that it contained.
fn compare(
    config: &JobConfig,
    log: &MemoryLog,
    store: &MemoryStore,
    losses: &[Loss],
    coverage: &mut Coverage,
    what: &str,
) {
    let labels = |key: &BarKey| -> Vec<Epoch> {
        losses
            .iter()
            .map(|loss| loss.labels.get(key).copied().unwrap_or(0))
            .collect()
    };
    let excluded = |labels: &[Epoch], partition, offset| {
        losses
            .iter()
            .zip(labels)
            .any(|(loss, label)| loss.excludes(*label, partition, offset))
    };
    let mut oracles: HashMap<Vec<Epoch>, Oracle> = HashMap::new();
    let bars: BTreeMap<BarKey, _> = store
        .all_bars()
        .into_iter()
        .map(|(key, _, bar)| (key, bar))
        .collect();
    let least = recompute(config, log, |partition, offset| {
        losses
            .iter()
            .any(|loss| loss.excludes(0, partition, offset))
    });
    for (key, bar) in &bars {
        let labels = labels(key);
        let oracle = oracles.entry(labels.clone()).or_insert_with(|| {
            recompute(config, log, |partition, offset| {
                excluded(&labels, partition, offset)
            })
        });
        let want = oracle.bar_as_of(key.symbol.as_str(), key.size, key.start, 0);
        coverage.held +=
            u32::from(want != least.bar_as_of(key.symbol.as_str(), key.size, key.start, 0));
        check_bar(&bar.totals, want, &format!("{what}: {key}"));
    }
    for (key, _) in least.bars() {
        let key = BarKey {
            symbol: Symbol::new(key.symbol).expect("a symbol"),
            size: key.size,
            start: key.start,
        };
        assert!(bars.contains_key(&key), "{what}: {key} is missing");
    }
}

#[test]
fn each_bar_is_exact_after_random_losses_and_crashes() {
    let mut coverage = Coverage::default();
    for seed in 0..40u64 {
        let mut random = StdRng::seed_from_u64(seed);
        let (log, store) = (
            MemoryLog::new(random.random_range(1..4)),
            Arc::new(MemoryStore::new()),
        );
        feed(&log, seed, 300);
        let mut starts = vec![0; len_of(&log) as usize];
        let mut losses: Vec<Loss> = Vec::new();
        for run in 0..200 {
            let what = format!("seed {seed}, run {run}");
            let mut config = config(
                random.random_range(1..4),
                if random.random_bool(0.5) { 8 } else { 100_000 },
            );
            let begun = block_on(store.checkpoint()).expect("checkpoint").is_some();
            if begun && losses.len() < 3 && random.random_bool(0.4) {
                losses.push(lose(&log, &store, &mut starts, &mut random, &mut coverage));
            }
            if begun
                && let unclaimed = unclaimed(&checkpoint(&store), &starts)
                && !unclaimed.is_empty()
            {
                assert_eq!(refused(&config, &log, &store), unclaimed, "{what}");
                config.accept_loss = true;
            } else if losses
                .iter()
                .any(|loss| loss.gone.iter().any(|gone| !gone.is_empty()))
            {
                coverage.bound_at_once += 1;
            }
            let most = if random.random_bool(0.5) { 10 } else { 40 };
            let calls = if run == 199 {
                i64::MAX
            } else {
                random.random_range(1..most)
            };
            let ended: Result<_, JobError> = run_job(
                &config,
                &log,
                Arc::new(CrashingStore::new(store.clone(), calls, seed * 1_000 + run)),
            );
            match ended {
                Ok(_) => break,
                Err(error) => assert!(error.to_string().contains("crash"), "{what}: {error}"),
            }
            coverage.crashes += 1;
        }
        let what = format!("seed {seed}");
        // If the run ended before the last loss was bound, nothing of it was lost.
        run_with(&config(2, 8), &log, &store, Interruption::None).expect("needs no --accept-loss");
        compare(&config(1, 8), &log, &store, &losses, &mut coverage, &what);
        let recorded: BTreeSet<(Partition, Offset)> = loss_letters(&store)
            .into_iter()
            .flat_map(|(p, from, to)| (from..to).map(move |offset| (p, offset)))
            .collect();
        let lost = losses.iter().flat_map(|loss| (0u32..).zip(&loss.gone));
        let lost: BTreeSet<(Partition, Offset)> = lost
            .flat_map(|(p, gone)| gone.clone().map(move |offset| (p, offset)))
            .collect();
        assert_eq!(
            recorded, lost,
            "{what}: there is a dead letter for every lost offset and for no other"
        );
        // A view may contain records that bars do not, so the views of one epoch may differ.
        let of_bars: Vec<String> = store
            .violations()
            .into_iter()
            .filter(|error| !error.contains("view "))
            .collect();
        assert_eq!(of_bars, Vec::<String>::new(), "{what}");
    }
    assert!(
        coverage.within > 8
            && coverage.beyond > 8
            && coverage.held > 8
            && coverage.bound_at_once > 8
            && coverage.crashes > 60,
        "each case occurs often enough: {coverage:?}"
    );
}
