//! The guarantee, in one process: for any number of workers, any memory, any cuts and any crashes,
//! every bar equals an independent recomputation of the records up to its epoch.

mod support;

use std::{sync::Arc, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use support::{
    check::check,
    crashing_store::CrashingStore,
    feed::{append_feed_states, append_trade, feed, feed_wide},
    job::{self, block_on, run_job},
    memory_log::MemoryLog,
};
use tapeflow_dataflow::JobConfig;
use tapeflow_protocol::CheckpointStore;
use tapeflow_schemas::{SessionId, WindowSize};
use tapeflow_sinks::memory::{Call, Fault, MemoryStore};

/// A job that keeps session bars too: sale conditions decide which one a trade is in.
fn config(workers: usize, resident_bars: usize) -> JobConfig {
    let mut config = job::config(workers, resident_bars);
    config.sizes.push(WindowSize::SESSION);
    config
}

#[test]
fn bars_are_the_same_for_any_number_of_workers_and_any_memory() {
    let log = MemoryLog::new(4);
    feed(&log, 1, 3_000);
    for (workers, resident) in [(1, 100_000), (1, 8), (2, 8), (3, 100_000), (4, 8), (7, 8)] {
        let store = Arc::new(MemoryStore::new());
        let config = config(workers, resident);
        run_job(&config, &log, store.clone()).expect("runs to the end");
        let checkpoint = block_on(store.checkpoint())
            .expect("checkpoint")
            .expect("there");
        assert!(checkpoint.bound.is_empty(), "everything is committed");
        assert!(
            checkpoint
                .committed
                .cuts
                .iter()
                .enumerate()
                .all(|(p, cut)| cut.next as usize == log.0.lock().expect("log")[p].len()),
            "to the end"
        );
        block_on(check(
            &config,
            &log,
            &*store,
            &format!("{workers} workers, {resident} resident"),
        ));
    }
}

#[test]
fn running_again_adds_nothing_and_continues_with_new_records() {
    let log = MemoryLog::new(3);
    let store = Arc::new(MemoryStore::new());
    for round in 0..4u64 {
        feed(&log, round, 300);
        for again in 0..2 {
            let config = config(1 + (round as usize + again) % 3, 8);
            run_job(&config, &log, store.clone()).expect("runs to the end");
            block_on(check(
                &config,
                &log,
                &*store,
                &format!("round {round}, time {again}"),
            ));
        }
    }
}

#[test]
fn after_any_crash_nothing_is_lost_and_nothing_counts_twice() {
    for seed in 0..60u64 {
        let mut random = StdRng::seed_from_u64(seed);
        let log = MemoryLog::new(random.random_range(1..5));
        let store = Arc::new(MemoryStore::new());
        append_feed_states(&log, SessionId([8; 16]), 1_700_000_000_000);
        if seed % 3 == 0 {
            feed_wide(&log, seed, 400);
        } else {
            feed(&log, seed, 400);
        }
        append_feed_states(&log, SessionId([9; 16]), 1_700_000_200_000);
        let mut crashes = 0;
        for run in 0..200 {
            let config = config(
                random.random_range(1..4),
                if random.random_bool(0.5) { 8 } else { 100_000 },
            );
            // Half of the runs end during the take-over or the replay.
            let most = if random.random_bool(0.5) { 12 } else { 120 };
            let calls = if run == 199 {
                i64::MAX
            } else {
                random.random_range(1..most)
            };
            let crashing = Arc::new(CrashingStore::new(store.clone(), calls, seed * 1_000 + run));
            let ended = run_job(&config, &log, crashing);
            let what = format!("seed {seed}, run {run}");
            if block_on(store.checkpoint()).expect("checkpoint").is_some() {
                block_on(check(&config, &log, &*store, &what));
            }
            match ended {
                Ok(_) => break,
                Err(error) => assert!(error.to_string().contains("crash"), "{what}: {error}"),
            }
            crashes += 1;
        }
        let checkpoint = block_on(store.checkpoint())
            .expect("checkpoint")
            .expect("there");
        assert!(
            checkpoint.bound.is_empty(),
            "seed {seed}: committed to the end after {crashes} crashes"
        );
        assert_eq!(store.violations(), Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn the_stock_day_that_began_before_1970_keeps_all_its_symbols() {
    let (log, store) = (MemoryLog::new(1), Arc::new(MemoryStore::new()));
    for (sequence, (symbol, ms)) in (1..).zip([("AAPL", 0), ("MSFT", 0), ("AAPL", 1)]) {
        append_trade(&log, symbol, sequence, ms);
        run_job(&config(1, 8), &log, store.clone()).expect("runs to the end");
        block_on(check(
            &config(1, 8),
            &log,
            &*store,
            &format!("record {sequence}"),
        ));
    }
}

/// More bars than one write takes, and the first write is answered with an error and sent again.
/// Meanwhile the others must wait for its directory entries.
#[test]
fn no_bar_is_written_before_its_directory_entry() {
    let (log, store) = (MemoryLog::new(1), Arc::new(MemoryStore::new()));
    for sequence in 1..=2_000u64 {
        let second = i64::try_from(sequence).expect("small") * 1_000;
        append_trade(&log, "AAPL", sequence, second);
    }
    store.arm(Call::Write, [Fault::NotApplied; 3]);
    let long = JobConfig {
        epoch: Duration::from_secs(60),
        ..config(1, 100_000)
    };
    run_job(&long, &log, store.clone()).expect("runs to the end");
    block_on(check(&long, &log, &*store, "one epoch"));
    assert_eq!(store.violations(), Vec::<String>::new());
}
