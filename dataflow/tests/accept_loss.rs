//! Offsets that retention removed before they were committed. The job names them and refuses to
//! start. If the operator accepts the loss, bars are exactly those of the remaining records,
//! through crashes, and the loss is recorded once.

mod support;

use std::{sync::Arc, time::Duration};

use support::{
    check::{check, check_without},
    feed::{append_trade, feed_as},
    interrupted_run::{
        Interruption, checkpoint, clear_of_repeats, len, loss_letters, next, refused, run_with,
    },
    job::{block_on, config},
    memory_log::MemoryLog,
};
use tapeflow_dataflow::{JobConfig, JobError};
use tapeflow_protocol::{BarReader, LostRange};
use tapeflow_schemas::{Offset, Partition, Policy, SessionId};
use tapeflow_sinks::memory::MemoryStore;

/// Appends records of a new session, which duplicate none in the log.
fn feed(log: &MemoryLog, seed: u8, records: usize) {
    feed_as(log, SessionId([seed; 16]), seed.into(), records);
}

/// The log and store of a job that has committed everything.
fn committed(partitions: u32, config: &JobConfig) -> (MemoryLog, Arc<MemoryStore>) {
    let (log, store) = (MemoryLog::new(partitions), Arc::new(MemoryStore::new()));
    feed(&log, 1, 300);
    run_with(config, &log, &store, Interruption::None).expect("runs to the end");
    (log, store)
}

/// Binds one epoch for each number, with so many new records, and writes none of its bars.
fn bind(log: &MemoryLog, store: &Arc<MemoryStore>, config: &JobConfig, records: &[usize]) {
    // Long enough that an epoch has records of both partitions, however fast the machine binds.
    let config = &JobConfig {
        epoch: Duration::from_millis(500),
        ..config.clone()
    };
    for (seed, records) in (10..).zip(records) {
        feed(log, seed, *records);
        let before = checkpoint(store).bound.len();
        run_with(config, log, store, Interruption::AfterBinding).expect_err("a crash");
        assert_eq!(checkpoint(store).bound.len(), before + 1);
    }
}

/// Removes a partition's records from its committed cut up to `to`, or slightly further. Returns
/// the lost range.
fn lose(log: &MemoryLog, store: &MemoryStore, partition: Partition, to: Offset) -> LostRange {
    let range = LostRange {
        from: next(store, partition),
        to: clear_of_repeats(log, partition, to),
    };
    assert!(range.from < range.to, "partition {partition}: {range}");
    log.remove_below(partition, range.to);
    range
}

fn named(lost: &[(Partition, LostRange)]) -> impl Fn(Partition, Offset) -> bool {
    move |partition, offset| {
        lost.iter()
            .any(|(of, range)| *of == partition && range.contains(offset))
    }
}

/// Accepts the loss and reads to the end. Checks that the loss is recorded once and that the next
/// start does not need `--accept-loss`.
fn accepted(
    config: &JobConfig,
    log: &MemoryLog,
    store: &Arc<MemoryStore>,
    lost: &[(Partition, LostRange)],
    what: &str,
) {
    assert_eq!(
        refused(config, log, store),
        lost.iter()
            .map(|(p, range)| (*p, range.from, range.to))
            .collect::<Vec<_>>(),
        "{what}"
    );
    let metrics = run_with(
        &JobConfig {
            accept_loss: true,
            ..config.clone()
        },
        log,
        store,
        Interruption::None,
    )
    .expect("continues");
    let sum: u64 = lost.iter().map(|(_, range)| range.offsets()).sum();
    assert_eq!(metrics.lost.get(), sum, "{what}: counted");
    for again in 0..2 {
        let what = format!("{what}, check {again}");
        block_on(check_without(config, log, &**store, &what, &named(lost)));
        assert_eq!(
            loss_letters(store),
            lost.iter()
                .map(|(p, range)| (*p, range.from, range.to))
                .collect::<Vec<_>>(),
            "{what}: dead letters"
        );
        let checkpoint = checkpoint(store);
        assert!(checkpoint.bound.is_empty(), "{what}: {checkpoint:?}");
        for (partition, cut) in (0u32..).zip(&checkpoint.committed.cuts) {
            assert_eq!(
                (cut.next, cut.lost),
                (
                    len(log, partition),
                    lost.iter()
                        .find(|(of, _)| *of == partition)
                        .map(|(_, range)| *range)
                ),
                "{what}"
            );
        }
        if again == 0 {
            feed(log, 99, 100);
            let metrics =
                run_with(config, log, store, Interruption::None).expect("needs no --accept-loss");
            assert_eq!(metrics.lost.get(), 0, "{what}: counted once");
        }
    }
    assert_eq!(store.violations(), Vec::<String>::new(), "{what}");
}

#[test]
fn offsets_that_are_gone_are_named_exactly_and_nothing_is_written() {
    for workers in [1, 3] {
        let config = config(workers, 8);
        let (log, store) = committed(3, &config);
        let before = (store.all_bars(), checkpoint(&store));
        feed(&log, 2, 200);
        let lost = [0, 2].map(|partition| {
            (
                partition,
                lose(
                    &log,
                    &store,
                    partition,
                    next(&store, partition) + 4 + Offset::from(partition),
                ),
            )
        });
        let error = run_with(&config, &log, &store, Interruption::None).expect_err("a refusal");
        let JobError::Refused(text) = error else {
            panic!("{error}")
        };
        let of = |(partition, LostRange { from, to }): (Partition, LostRange)| {
            format!(
                "partition {partition}: offsets {from} to {} are gone from the log (it begins at \
                 {to}) before they were committed; ",
                to - 1
            )
        };
        assert!(text.starts_with(&lost.map(of).concat()), "{text}");
        let hint = "start with --accept-loss to go on without them: their trades will be missing \
                    from the bars for good";
        assert!(text.ends_with(hint), "{text}");
        let after = checkpoint(&store);
        assert_eq!(
            (store.all_bars(), after.committed, after.bound),
            (before.0, before.1.committed, before.1.bound)
        );
        assert_eq!(loss_letters(&store), []);
    }
}

#[test]
fn with_nothing_bound_bars_are_those_of_the_remaining_records() {
    for workers in 1..5 {
        let config = config(workers, if workers % 2 == 0 { 8 } else { 100_000 });
        let (log, store) = committed(3, &config);
        feed(&log, 2, 200);
        let lost = [0, 1].map(|partition| {
            (
                partition,
                lose(&log, &store, partition, next(&store, partition) + 20),
            )
        });
        accepted(&config, &log, &store, &lost, &format!("{workers} workers"));
    }
}

#[test]
fn with_all_bound_records_gone_bars_are_those_of_the_remaining_records() {
    for workers in 1..4 {
        let config = config(workers, 8);
        let (log, store) = committed(3, &config);
        bind(&log, &store, &config, &[60, 60]);
        feed(&log, 3, 200);
        let end =
            |partition: Partition| checkpoint(&store).last_binding().cuts[partition as usize].next;
        let lost =
            [0, 2].map(|partition| (partition, lose(&log, &store, partition, end(partition) + 7)));
        accepted(&config, &log, &store, &lost, &format!("{workers} workers"));
    }
}

#[test]
fn with_some_bound_records_gone_bars_are_those_of_the_remaining_records() {
    for (workers, cut) in [(1, 0), (2, 1), (3, 0), (1, 1)] {
        let config = config(workers, 8);
        let (log, store) = committed(2, &config);
        bind(&log, &store, &config, &[80, 80, 80]);
        feed(&log, 3, 100);
        // Inside the first bound epoch, or the second.
        let before_end =
            |partition: Partition| checkpoint(&store).bound[cut].cuts[partition as usize].next - 3;
        let lost = [0, 1].map(|partition| {
            (
                partition,
                lose(&log, &store, partition, before_end(partition)),
            )
        });
        assert!(
            lost.iter()
                .all(|(p, range)| range.to
                    < checkpoint(&store).last_binding().cuts[*p as usize].next),
            "{lost:?}"
        );
        accepted(
            &config,
            &log,
            &store,
            &lost,
            &format!("{workers} workers, epoch {cut}"),
        );
    }
}

#[test]
fn a_bound_loss_needs_no_second_permission_and_a_later_loss_does() {
    let plain = config(2, 8);
    let accepting = JobConfig {
        accept_loss: true,
        ..plain.clone()
    };
    let (log, store) = committed(2, &plain);
    bind(&log, &store, &plain, &[80]);
    feed(&log, 3, 200);
    let first = lose(
        &log,
        &store,
        0,
        checkpoint(&store).last_binding().cuts[0].next - 4,
    );
    run_with(&accepting, &log, &store, Interruption::AfterBinding).expect_err("a crash");
    let bound = checkpoint(&store);
    assert_eq!(
        (
            bound.bound.len(),
            bound.last_binding().cuts[0].lost,
            bound.committed.cuts[0].lost
        ),
        (2, Some(first), None)
    );
    assert_eq!(
        loss_letters(&store),
        [],
        "nothing of its epoch has been written"
    );

    // Again without --accept-loss, whether the log still has the records or not. (At most
    // `epochs_ahead` times.)
    for (seed, start) in (20..).zip([first.to, 0]) {
        // New records, so that there is an epoch to bind.
        feed(&log, seed, 40);
        log.remove_below(0, start);
        run_with(&plain, &log, &store, Interruption::AfterBinding).expect_err("a crash");
        assert_eq!(checkpoint(&store).last_binding().cuts[0].lost, Some(first));
    }
    // More records go, of the epoch that carries the loss. The new loss is bound even though no
    // further epoch may be ahead.
    let cut = clear_of_repeats(&log, 0, bound.last_binding().cuts[0].next - 2);
    log.remove_below(0, cut);
    assert_eq!(
        refused(&plain, &log, &store),
        [(0, first.to, cut)],
        "only the offsets that are not given up yet"
    );
    run_with(&accepting, &log, &store, Interruption::AfterBinding).expect_err("a crash");
    let whole = LostRange {
        from: first.from,
        to: cut,
    };
    assert_eq!(checkpoint(&store).last_binding().cuts[0].lost, Some(whole));
    let metrics = run_with(&plain, &log, &store, Interruption::None)
        .expect("continues without --accept-loss");
    assert_eq!(
        metrics.lost.get(),
        0,
        "a loss that was bound before is not counted again"
    );
    block_on(check_without(
        &plain,
        &log,
        &*store,
        "after all",
        &named(&[(0, whole)]),
    ));
    assert_eq!(
        loss_letters(&store),
        [(0, first.from, first.to), (0, first.to, cut)]
    );
    run_with(&plain, &log, &store, Interruption::None).expect("and again");
    assert_eq!(loss_letters(&store).len(), 2);
    assert_eq!(store.violations(), Vec::<String>::new());
}

#[test]
fn a_loss_is_bound_even_without_new_records() {
    let config = config(2, 8);
    let (log, store) = committed(2, &config);
    feed(&log, 2, 50);
    let lost = [0, 1].map(|partition| {
        (
            partition,
            lose(&log, &store, partition, len(&log, partition)),
        )
    });
    let epoch = checkpoint(&store).committed.epoch;
    accepted(&config, &log, &store, &lost, "everything is gone");
    assert!(checkpoint(&store).committed.epoch > epoch);
}

#[test]
fn a_record_that_repeats_a_lost_one_is_still_a_duplicate() {
    // The bars of the first epoch are written, those of the second are not. The second contains a
    // duplicate of a record of the first.
    for (of_first, gone) in [(vec![2], 2), (vec![2, 3], 2)] {
        let (log, store) = (MemoryLog::new(1), Arc::new(MemoryStore::new()));
        let config = config(1, 8);
        append_trade(&log, "AAPL", 1, 1_000);
        run_with(&config, &log, &store, Interruption::None).expect("runs to the end");
        for sequence in &of_first {
            append_trade(&log, "AAPL", *sequence, 1_000);
        }
        run_with(&config, &log, &store, Interruption::BeforeCommit).expect_err("a crash");
        append_trade(&log, "AAPL", 2, 1_000);
        append_trade(&log, "AAPL", 4, 1_000);
        run_with(&config, &log, &store, Interruption::AfterBinding).expect_err("a crash");
        log.remove_below(0, gone);
        run_with(
            &JobConfig {
                accept_loss: true,
                ..config.clone()
            },
            &log,
            &store,
            Interruption::None,
        )
        .expect("continues");
        let bars = store.all_bars();
        assert_eq!(bars.len(), 3, "one of each size");
        for (key, _, bar) in bars {
            let trades = bar.totals.of_policy(Policy::All).trades;
            assert_eq!(
                trades,
                2 + of_first.len() as u64,
                "{key}: the sequences 1, {of_first:?} and 4, each once"
            );
        }
    }
}

#[test]
fn a_log_that_ends_too_early_is_refused_even_with_accept_loss() {
    let config = JobConfig {
        accept_loss: true,
        ..config(1, 8)
    };
    let (log, store) = committed(1, &config);
    let bound = next(&store, 0);
    log.0.lock().expect("log")[0].truncate(usize::try_from(bound - 1).expect("an offset"));
    log.remove_below(0, bound - 1);
    let text = run_with(&config, &log, &store, Interruption::None)
        .expect_err("a refusal")
        .to_string();
    assert!(
        text.contains(&format!("offsets below {bound}"))
            && text.contains(&format!("ends at {}", bound - 1)),
        "{text}"
    );
    log.remove_below(0, 0);
    assert_eq!(checkpoint(&store).last_binding().cuts[0].lost, None);
}

#[test]
fn offsets_that_go_while_the_job_runs_end_it_and_are_named() {
    let config = JobConfig {
        accept_loss: true,
        ..config(1, 8)
    };
    let (log, store) = (MemoryLog::new(1), Arc::new(MemoryStore::new()));
    feed(&log, 1, 5_000);
    let last = len(&log, 0) - 1;
    let (taken, start) = (log.clone(), last);
    let ends = Interruption::WithRemoval(Box::new(move || taken.remove_below(0, start)));
    let error = run_with(&config, &log, &store, ends).expect_err("a failure");
    let JobError::Failed(text) = error else {
        panic!("{error}")
    };
    let rest = text
        .strip_prefix("partition 0: offsets ")
        .unwrap_or_else(|| panic!("{text}"));
    let (from, rest) = rest.split_once(" to ").unwrap_or_else(|| panic!("{text}"));
    let from: Offset = from.parse().unwrap_or_else(|_| panic!("{text}"));
    assert!(from >= next(&store, 0) && from < last, "{text}");
    assert!(
        rest.starts_with(&format!(
            "{} are gone from the log before they were read; ",
            last - 1
        )),
        "{text}"
    );
    assert!(
        rest.contains("--accept-loss") && rest.ends_with("(an offset is out of range)"),
        "{text}"
    );
    // Records read before the failure are kept; only unread ones are lost.
    let from = next(&store, 0);
    let whole = (
        0,
        LostRange {
            from,
            to: clear_of_repeats(&log, 0, last),
        },
    );
    log.remove_below(0, whole.1.to);
    if checkpoint(&store).bound.is_empty() {
        accepted(
            &JobConfig {
                accept_loss: false,
                ..config
            },
            &log,
            &store,
            &[whole],
            "after the failure",
        );
    } else {
        run_with(&config, &log, &store, Interruption::None).expect("continues");
    }
}

#[test]
fn without_a_loss_accept_loss_changes_nothing() {
    let config = JobConfig {
        accept_loss: true,
        ..config(2, 8)
    };
    let (log, store) = committed(2, &config);
    feed(&log, 2, 100);
    run_with(&config, &log, &store, Interruption::None).expect("runs to the end");
    assert_eq!(
        loss_letters(&store),
        [],
        "--accept-loss alone loses nothing"
    );
    block_on(check(
        &config,
        &log,
        &*store,
        "with --accept-loss and without a loss",
    ));
    assert!(
        block_on(store.dead_letters(usize::MAX))
            .expect("dead letters")
            .iter()
            .all(|dead_letter| dead_letter.reason != "lost")
    );
}

#[test]
fn offsets_gone_from_an_added_partition_are_named() {
    let config = config(1, 8);
    let (log, store) = (MemoryLog::new(2), Arc::new(MemoryStore::new()));
    feed_as(&log, SessionId([1; 16]), 1, 100);
    run_with(&config, &log, &store, Interruption::None).expect("runs to the end");
    // Partitions are added while the job is down. Producers use the new partition, and retention
    // removes its first records.
    log.0.lock().expect("log").push(Vec::new());
    log.1.lock().expect("starts").push(0);
    feed_as(&log, SessionId([2; 16]), 2, 200);
    assert!(len(&log, 2) > 10);
    log.remove_below(2, 10);
    let went = run_with(&config, &log, &store, Interruption::None);
    let text = went
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert!(
        text.contains("partition 2: offsets 0 to 9 are gone"),
        "ten uncommitted records are gone, and the error does not name them: {text:?}"
    );
}

#[test]
fn the_later_generation_writes_the_history_of_an_epoch_with_a_loss() {
    let plain = config(1, 8);
    let (log, store) = committed(1, &plain);
    feed(&log, 2, 100);
    // The history is written before the commit, which does not happen.
    run_with(&plain, &log, &store, Interruption::BeforeCommit).expect_err("a crash");
    let history = || block_on(store.history(100)).expect("history");
    let before = history();
    let from = next(&store, 0);
    log.remove_below(0, clear_of_repeats(&log, 0, from + 20));
    run_with(
        &JobConfig {
            accept_loss: true,
            ..plain
        },
        &log,
        &store,
        Interruption::None,
    )
    .expect("continues");
    let after = history();
    let of_both = before.iter().filter_map(|entry| {
        Some((
            entry,
            after.iter().find(|other| other.epoch == entry.epoch)?,
        ))
    });
    let changed: Vec<_> = of_both.filter(|(before, after)| before != after).collect();
    assert!(
        !changed.is_empty(),
        "the loss changes the history: {before:?}"
    );
    for (before, after) in changed {
        assert_eq!(
            after.write_timestamp, before.write_timestamp,
            "it belongs to the binding"
        );
        assert!(
            after.counts.records < before.counts.records,
            "{before:?} and then {after:?}"
        );
    }
    // Two writes at one write timestamp would be a violation: Cassandra would keep the greater
    // value of each column.
    assert_eq!(store.violations(), Vec::<String>::new());
}
