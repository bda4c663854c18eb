//! Audits beside a job that goes on between any two calls to the store, and inside the calls that
//! a store does not answer from one snapshot. The job's history is recorded from real runs, so a
//! seed decides exactly what each call sees.

#[path = "../../../../dataflow/tests/support/mod.rs"]
mod support;

mod moving_store;

use std::sync::Arc;

use moving_store::{MovingStore, Pace, now};
use support::{
    feed::feed_as,
    job::{config, io, run_job},
    memory_log::MemoryLog,
};
use tapeflow_audit::{Audit, CancellationToken, Event, Findings, Rules, Settings};
use tapeflow_protocol::CheckpointStore;
use tapeflow_schemas::SessionId;
use tapeflow_sinks::memory::{Accepted, MemoryStore};

/// Runs of the job.
const RUNS: u8 = 8;

/// Several runs of a job, each a generation of its own, and everything that its store accepted.
fn recorded() -> (MemoryLog, Vec<Accepted>) {
    let (log, store) = (MemoryLog::new(3), Arc::new(MemoryStore::new()));
    for round in 0..RUNS {
        feed_as(&log, SessionId([round; 16]), round.into(), 60);
        run_job(&config(2, 1_000), &log, store.clone()).expect("runs to the end");
    }
    assert_eq!(store.violations(), Vec::<String>::new());
    (log, store.accepted())
}

/// What a series of audits found.
#[derive(Default)]
struct Seen {
    looks: u64,
    bars: u64,
    views: u64,
    moving: u64,
    /// Views whose entries were ahead of their cells when they were read.
    put_off: u64,
}

/// Audits until the recorded history ends. No audit may find a difference.
fn look_until_the_end(log: &MemoryLog, history: &[Accepted], pace: Pace, seed: u64) -> Seen {
    let store = MovingStore::new(history, pace, seed);
    store.skip_to_the_first_commit();
    let (runtime, stop) = (io(), CancellationToken::new());
    let mut seen = Seen::default();
    loop {
        let is_last = store.is_at_the_end();
        let checkpoint = now(store.checkpoint())
            .expect("a checkpoint")
            .expect("a job has run");
        let rules = Rules::of(&checkpoint, Some(&config(1, 8).baskets)).expect("known rules");
        let audit = Audit {
            store: &store,
            log,
            rules: &rules,
            runtime: runtime.handle(),
            stop: &stop,
        };
        let mut found = Vec::new();
        let findings: Findings = audit
            .run(&Settings::default(), &mut |event| match event {
                Event::Difference { description, .. } => found.push(description.to_owned()),
                Event::HistoryDiffers(difference) => found.push(difference.to_string()),
                _ => {}
            })
            .expect("an audit");
        assert_eq!(found, Vec::<String>::new(), "seed {seed}, {pace:?}");
        assert_eq!(findings.unknown_epochs, 0, "seed {seed}, {pace:?}");
        seen.looks += 1;
        seen.bars += findings.bars.compared;
        seen.views += findings.views.compared;
        seen.moving += findings.moving_views;
        if is_last {
            seen.put_off = store.put_off();
            return seen;
        }
    }
}

#[test]
fn beside_a_job_that_moves_on_between_any_two_calls_no_difference_is_reported() {
    let (log, history) = recorded();
    let mut all = Seen::default();
    for seed in 0..15 {
        for pace in [Pace::Steps(3), Pace::Steps(40), Pace::Epochs] {
            let seen = look_until_the_end(&log, &history, pace, seed);
            assert!(seen.bars > 0 && seen.views > 0, "seed {seed}, {pace:?}");
            all.looks += seen.looks;
            all.moving += seen.moving;
            all.put_off += seen.put_off;
        }
    }
    println!(
        "{} looks, {} readings of views put off, {} views given up",
        all.looks, all.put_off, all.moving
    );
    // How many epochs the recorded runs have, and so how many readings meet an epoch that is under
    // way, depends on the speed of the machine that recorded them: 77 of 299 looks on a slow one.
    assert!(all.looks > 100 && all.put_off > 0, "the job moved on");
}

#[test]
fn a_view_that_the_job_writes_at_each_reading_is_not_compared_and_no_difference() {
    let (log, history) = recorded();
    let moving: u64 = (0..10)
        .map(|seed| look_until_the_end(&log, &history, Pace::WithEachView, seed).moving)
        .sum();
    assert!(moving > 0, "no view was written at each of its readings");
}
