//! A log that was rolled back and has grown again beyond the committed offset. Its end says
//! nothing; the last record of the bindings does.

mod support;

use std::{path::Path, sync::Arc};

use support::{
    feed::{feed, feed_as},
    interrupted_run::{Interruption, checkpoint, len, run_with},
    job::{block_on, config, io},
    memory_log::MemoryLog,
};
use tapeflow_dataflow::{JobError, Metrics, Stop, run};
use tapeflow_log::{
    NewRecord,
    sqlite::{Access, Database, SqliteLog},
};
use tapeflow_schemas::{Offset, Partition, SessionId};
use tapeflow_sinks::memory::MemoryStore;

/// Takes records away from the end of a partition, and appends others up to more than before.
fn roll_back(log: &MemoryLog, partition: Partition, by: usize) {
    let was = len(log, partition);
    log.0.lock().expect("log")[partition as usize]
        .truncate(usize::try_from(was).expect("few") - by);
    for seed in 100.. {
        feed_as(log, SessionId([seed; 16]), seed.into(), 40);
        if len(log, partition) > was {
            return;
        }
    }
}

#[test]
fn a_log_that_was_rolled_back_and_has_grown_again_is_refused() {
    for (bound, by) in [(false, 1), (false, 60), (true, 1), (true, 60)] {
        let (log, store, config) = (
            MemoryLog::new(2),
            Arc::new(MemoryStore::new()),
            config(2, 8),
        );
        feed(&log, 1, 200);
        if bound {
            run_with(&config, &log, &store, Interruption::AfterBinding).expect_err("a crash");
            run_with(&config, &log, &store, Interruption::AfterBinding).expect_err("a crash");
        } else {
            run_with(&config, &log, &store, Interruption::None).expect("runs to the end");
        }
        let before = checkpoint(&store);
        let cut = &before.last_binding().cuts[1];
        // From behind the last bound record back over `by` of those that are bound.
        let beyond = usize::try_from(len(&log, 1) - cut.next).expect("few");
        // How many were bound before the crash depends on the machine.
        let by = by.min(usize::try_from(cut.next).expect("few"));
        roll_back(&log, 1, beyond + by);
        let error = run_with(&config, &log, &store, Interruption::None).expect_err("refused");
        let JobError::Refused(text) = &error else {
            panic!("{error}")
        };
        let last = cut.last.expect("records were read").offset;
        assert!(
            text.starts_with(&format!("partition 1: the record at offset {last} "))
                && text.contains("rolled back and has grown again")
                && text.contains("--store"),
            "bound {bound}, by {by}: {text}"
        );
        let after = checkpoint(&store);
        assert_eq!(
            (&after.committed, &after.bound),
            (&before.committed, &before.bound),
            "nothing is bound on the other log"
        );
    }
}

#[test]
fn a_log_that_only_grew_and_one_whose_last_record_retention_took_are_read_on() {
    let (log, store, config) = (
        MemoryLog::new(2),
        Arc::new(MemoryStore::new()),
        config(1, 8),
    );
    feed(&log, 1, 200);
    run_with(&config, &log, &store, Interruption::None).expect("runs to the end");
    feed_as(&log, SessionId([2; 16]), 2, 50);
    run_with(&config, &log, &store, Interruption::None).expect("grown");
    let last = checkpoint(&store).committed.cuts[0].last.expect("a record");
    assert_eq!(last.offset, len(&log, 0) - 1);
    log.remove_below(0, len(&log, 0));
    feed_as(&log, SessionId([3; 16]), 3, 50);
    run_with(&config, &log, &store, Interruption::None).expect("nothing to compare");
}

/// The embedded log, put back from a copy: its identity is in the file and says nothing.
#[test]
fn an_embedded_log_put_back_from_a_copy_is_refused_once_it_has_grown() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, copy) = (
        folder.path().join("log.db"),
        tempfile::tempdir().expect("a folder"),
    );
    let copy_all = |from: &Path, to: &Path| {
        for entry in std::fs::read_dir(from).expect("a folder") {
            let entry = entry.expect("a file");
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    };
    let append = |from: Offset, count: Offset, what: u8| {
        let database = Database::open(&file, Access::Job).expect("opened");
        let records = (from..from + count)
            .map(|n| NewRecord {
                partition: 0,
                key: String::new(),
                timestamp_ms: n,
                payload: vec![what; 9],
                session: None,
            })
            .collect();
        block_on(async {
            let log = SqliteLog::create_if_absent(&database, 1)
                .await
                .expect("a log");
            log.append(records).await.expect("appended");
        });
    };
    let store = Arc::new(MemoryStore::new());
    let run_job = || {
        let database = Database::open(&file, Access::Reader).expect("opened");
        let log = SqliteLog::open(&database).expect("a log");
        run(
            config(1, 8),
            Arc::new(log),
            store.clone(),
            Stop::default(),
            Arc::new(()),
            Arc::new(Metrics::default()),
            io().handle(),
        )
    };
    append(0, 10, 1);
    copy_all(folder.path(), copy.path());
    append(10, 10, 1);
    run_job().expect("all 20 records");
    for entry in std::fs::read_dir(folder.path()).expect("a folder") {
        std::fs::remove_file(entry.expect("a file").path()).expect("removed");
    }
    copy_all(copy.path(), folder.path());
    append(10, 30, 2);
    let error = run_job().expect_err("other records at the same offsets");
    assert!(
        matches!(&error, JobError::Refused(text) if text.contains("the record at offset 19 is not")),
        "{error}"
    );
}
