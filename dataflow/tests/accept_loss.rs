//! Offsets that retention removed before they were committed: the job names them and refuses, or,
//! if the operator accepts the loss, goes on with bars that are exactly those of what remains,
//! through crashes, and tells of the loss once and for good.

mod support;

#[path = "accept_loss/course.rs"]
mod course;
#[path = "accept_loss/random.rs"]
mod random;

use std::sync::Arc;

use course::{Ends, block_on, checkpoint, clear_of_repeats, len, letters, life, next, refused};
use support::{MemoryLog, append_trade, check, check_without, config, feed_as};
use tapeflow_dataflow::{JobConfig, JobError};
use tapeflow_protocol::{BarReader, LostRange};
use tapeflow_schemas::{Offset, Partition, Policy, SessionId};
use tapeflow_sinks::memory::MemoryStore;

/// Records of a session of their own, which repeat none that the log has.
fn feed(log: &MemoryLog, seed: u8, records: usize) {
    feed_as(log, SessionId([seed; 16]), seed.into(), records);
}

/// A job that has committed all of a log of `partitions`.
fn committed(partitions: u32, config: &JobConfig) -> (MemoryLog, Arc<MemoryStore>) {
    let (log, store) = (MemoryLog::new(partitions), Arc::new(MemoryStore::new()));
    feed(&log, 1, 300);
    life(config, &log, &store, Ends::ByItself).expect("runs to the end");
    (log, store)
}

/// Binds as many epochs as there are numbers, each of so many new records, and writes no bar of
/// them.
fn bind(log: &MemoryLog, store: &Arc<MemoryStore>, config: &JobConfig, records: &[usize]) {
    for (seed, records) in (10..).zip(records) {
        feed(log, seed, *records);
        let before = checkpoint(store).bound.len();
        life(config, log, store, Ends::AfterBinding).expect_err("a crash");
        assert_eq!(checkpoint(store).bound.len(), before + 1);
    }
}

/// Removes a partition's records from its committed cut up to `to`, or a little further; what is
/// lost by it.
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

/// Accepts the loss and reads to the end; everything is told once, and the next start needs no
/// permission.
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
    let metrics = life(
        &JobConfig {
            accept_loss: true,
            ..config.clone()
        },
        log,
        store,
        Ends::ByItself,
    )
    .expect("goes on");
    let sum: u64 = lost.iter().map(|(_, range)| range.offsets()).sum();
    assert_eq!(metrics.lost.get(), sum, "{what}: counted");
    for again in 0..2 {
        let what = format!("{what}, look {again}");
        block_on(check_without(config, log, &**store, &what, &named(lost)));
        assert_eq!(
            letters(store),
            lost.iter()
                .map(|(p, range)| (*p, range.from, range.to))
                .collect::<Vec<_>>(),
            "{what}: dead letters"
        );
        let checkpoint = checkpoint(store);
        assert!(
            checkpoint.bound.is_empty() && checkpoint.format == 2,
            "{what}: {checkpoint:?}"
        );
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
            let metrics = life(config, log, store, Ends::ByItself).expect("needs no permission");
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
        let fault = life(&config, &log, &store, Ends::ByItself).expect_err("a refusal");
        let JobError::Refused(text) = fault else {
            panic!("{fault}")
        };
        let of = |(partition, LostRange { from, to }): (Partition, LostRange)| {
            format!(
                "partition {partition}: offsets {from} to {} are gone from the log (it begins at {to}) before they were committed; ",
                to - 1
            )
        };
        assert!(text.starts_with(&lost.map(of).concat()), "{text}");
        assert!(text.ends_with("start with --accept-loss to go on without them: their trades will be missing from the bars for good"), "{text}");
        let after = checkpoint(&store);
        assert_eq!(
            (store.all_bars(), after.committed, after.bound),
            (before.0, before.1.committed, before.1.bound)
        );
        assert_eq!(letters(&store), []);
    }
}

#[test]
fn with_nothing_bound_bars_are_those_of_what_remains() {
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
fn with_all_that_was_bound_gone_bars_are_those_of_what_remains() {
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
fn with_part_of_what_was_bound_gone_bars_are_those_of_what_remains() {
    for (workers, cut) in [(1, 0), (2, 1), (3, 0), (1, 1)] {
        let config = config(workers, 8);
        let (log, store) = committed(2, &config);
        bind(&log, &store, &config, &[80, 80, 80]);
        feed(&log, 3, 100);
        // Inside of the first epoch that is bound, or of the second.
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
fn a_loss_that_is_bound_needs_no_second_permission_and_what_goes_after_it_does() {
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
    life(&accepting, &log, &store, Ends::AfterBinding).expect_err("a crash");
    let bound = checkpoint(&store);
    assert_eq!(
        (
            bound.bound.len(),
            bound.last_binding().cuts[0].lost,
            bound.committed.cuts[0].lost
        ),
        (2, Some(first), None)
    );
    assert_eq!(letters(&store), [], "nothing of its epoch has been written");

    // The same again, without permission: whatever the log shows. (No more often than epochs may be
    // ahead.)
    for (seed, start) in (20..).zip([first.to, 0]) {
        // Something to bind, however much the life before has read.
        feed(&log, seed, 40);
        log.remove_below(0, start);
        life(&plain, &log, &store, Ends::AfterBinding).expect_err("a crash");
        assert_eq!(checkpoint(&store).last_binding().cuts[0].lost, Some(first));
    }
    // More goes, of the epoch that carries the loss; it is bound though no further epoch may be
    // ahead.
    let cut = clear_of_repeats(&log, 0, bound.last_binding().cuts[0].next - 2);
    log.remove_below(0, cut);
    assert_eq!(
        refused(&plain, &log, &store),
        [(0, first.to, cut)],
        "only what is not given up yet"
    );
    life(&accepting, &log, &store, Ends::AfterBinding).expect_err("a crash");
    let whole = LostRange {
        from: first.from,
        to: cut,
    };
    assert_eq!(checkpoint(&store).last_binding().cuts[0].lost, Some(whole));
    let metrics = life(&plain, &log, &store, Ends::ByItself).expect("goes on without permission");
    assert_eq!(
        metrics.lost.get(),
        0,
        "what was bound before is not counted again"
    );
    block_on(check_without(
        &plain,
        &log,
        &*store,
        "after all",
        &named(&[(0, whole)]),
    ));
    assert_eq!(
        letters(&store),
        [(0, first.from, first.to), (0, first.to, cut)]
    );
    life(&plain, &log, &store, Ends::ByItself).expect("and again");
    assert_eq!(letters(&store).len(), 2);
    assert_eq!(store.violations(), Vec::<String>::new());
}

#[test]
fn a_loss_is_bound_though_there_is_nothing_left_to_read() {
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
    accepted(&config, &log, &store, &lost, "all is gone");
    assert!(checkpoint(&store).committed.epoch > epoch);
}

#[test]
fn a_record_that_repeats_a_lost_one_is_still_a_repeat() {
    // The first epoch's bars are written, those of the second are not; a repeat of what the first
    // held is in the second.
    for (of_first, gone) in [(vec![2], 2), (vec![2, 3], 2)] {
        let (log, store) = (MemoryLog::new(1), Arc::new(MemoryStore::new()));
        let config = config(1, 8);
        append_trade(&log, "AAPL", 1, 1_000);
        life(&config, &log, &store, Ends::ByItself).expect("runs to the end");
        for sequence in &of_first {
            append_trade(&log, "AAPL", *sequence, 1_000);
        }
        life(&config, &log, &store, Ends::BeforeCommit).expect_err("a crash");
        append_trade(&log, "AAPL", 2, 1_000);
        append_trade(&log, "AAPL", 4, 1_000);
        life(&config, &log, &store, Ends::AfterBinding).expect_err("a crash");
        log.remove_below(0, gone);
        life(
            &JobConfig {
                accept_loss: true,
                ..config.clone()
            },
            &log,
            &store,
            Ends::ByItself,
        )
        .expect("goes on");
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
fn a_log_that_ends_too_early_is_refused_whatever_is_accepted() {
    let config = JobConfig {
        accept_loss: true,
        ..config(1, 8)
    };
    let (log, store) = committed(1, &config);
    let bound = next(&store, 0);
    log.0.lock().expect("log")[0].truncate(usize::try_from(bound - 1).expect("an offset"));
    log.remove_below(0, bound - 1);
    let text = life(&config, &log, &store, Ends::ByItself)
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
    let ends = Ends::WithRemoval(Box::new(move || taken.remove_below(0, start)));
    let fault = life(&config, &log, &store, ends).expect_err("a failure");
    let JobError::Failed(text) = fault else {
        panic!("{fault}")
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
    // What was read until then stands, and only what was not read is lost.
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
        life(&config, &log, &store, Ends::ByItself).expect("goes on");
    }
}

#[test]
fn without_a_loss_nothing_changes_for_older_binaries() {
    let config = JobConfig {
        accept_loss: true,
        ..config(2, 8)
    };
    let (log, store) = committed(2, &config);
    feed(&log, 2, 100);
    life(&config, &log, &store, Ends::ByItself).expect("runs to the end");
    assert_eq!(
        (checkpoint(&store).format, letters(&store)),
        (1, vec![]),
        "the permission alone loses nothing"
    );
    block_on(check(
        &config,
        &log,
        &*store,
        "with a permission that nobody needs",
    ));
    assert!(
        block_on(store.dead_letters(usize::MAX))
            .expect("dead letters")
            .iter()
            .all(|dead_letter| dead_letter.reason != "lost")
    );
}

#[test]
fn what_is_gone_of_an_added_partition_is_not_passed_over_in_silence() {
    let config = config(1, 8);
    let (log, store) = (MemoryLog::new(2), Arc::new(MemoryStore::new()));
    feed_as(&log, SessionId([1; 16]), 1, 100);
    life(&config, &log, &store, Ends::ByItself).expect("runs to the end");
    // The topic grows while the job is down; producers use the new partition, and retention removes
    // the first of its records.
    log.0.lock().expect("log").push(Vec::new());
    log.1.lock().expect("starts").push(0);
    feed_as(&log, SessionId([2; 16]), 2, 200);
    assert!(len(&log, 2) > 10);
    log.remove_below(2, 10);
    let went = life(&config, &log, &store, Ends::ByItself);
    let text = went
        .err()
        .map(|fault| fault.to_string())
        .unwrap_or_default();
    assert!(
        text.contains("partition 2: offsets 0 to 9 are gone"),
        "ten records that no epoch has are gone, without permission, and nothing tells: {text:?}"
    );
}

#[test]
fn the_history_of_an_epoch_that_lost_records_is_that_of_the_later_generation() {
    let plain = config(1, 8);
    let (log, store) = committed(1, &plain);
    feed(&log, 2, 100);
    // History is written before the commit, which never comes.
    life(&plain, &log, &store, Ends::BeforeCommit).expect_err("a crash");
    let told = || block_on(store.history(100)).expect("history");
    let before = told();
    let from = next(&store, 0);
    log.remove_below(0, clear_of_repeats(&log, 0, from + 20));
    life(
        &JobConfig {
            accept_loss: true,
            ..plain
        },
        &log,
        &store,
        Ends::ByItself,
    )
    .expect("goes on");
    let after = told();
    let of_both = before.iter().filter_map(|entry| {
        Some((
            entry,
            after.iter().find(|other| other.epoch == entry.epoch)?,
        ))
    });
    let changed: Vec<_> = of_both.filter(|(before, after)| before != after).collect();
    assert!(
        !changed.is_empty(),
        "some of what was told is gone: {before:?}"
    );
    for (before, after) in changed {
        assert_eq!(
            after.write_timestamp, before.write_timestamp,
            "a label of the binding"
        );
        assert!(
            after.counts.records < before.counts.records,
            "{before:?} and then {after:?}"
        );
    }
    // Which would say so, had both been written at one write timestamp: Cassandra would then keep the greater
    // value of each column.
    assert_eq!(store.violations(), Vec::<String>::new());
}
