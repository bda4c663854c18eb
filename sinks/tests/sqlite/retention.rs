//! Retention of the embedded log and of the history: what is old is removed, what is not committed
//! stays, and the file stops growing.

use std::time::Duration;

use rusqlite::Connection;
use tapeflow_log::{
    NewRecord,
    sqlite::{Access, Age, Database, SqliteLog},
};
use tapeflow_protocol::{BarReader, CheckpointStore, Counts, HistoryEntry};
use tapeflow_sinks::sqlite::SqliteStore;

use super::{File, file, job, poll, record};

fn at(partition: u32, timestamp_ms: i64) -> NewRecord {
    NewRecord {
        timestamp_ms,
        ..record(partition, "some trades", None)
    }
}

async fn log(file: &File, partitions: u32) -> SqliteLog {
    SqliteLog::create_if_absent(&job(&file.path), partitions)
        .await
        .expect("a log")
}

/// Records from before 100 are old, and it is 200.
const AGE: Age = Age {
    before_ms: 100,
    now_ms: 200,
};

#[tokio::test]
async fn old_records_are_removed_and_uncommitted_ones_stay() {
    let file = file();
    let log = log(&file, 3).await;
    let records = (0..10)
        .map(|n| at(0, n * 20))
        .chain((0..10).map(|n| at(1, n)))
        .collect();
    log.append(records).await.expect("appended");
    // Partition 0 is committed to its end, partition 1 up to offset 4, partition 2 is empty.
    let trimmed = log.trim(vec![10, 4, 0], AGE).await.expect("trimmed");
    assert_eq!(trimmed, (5 + 3, false));
    let bounds = [0, 1, 2].map(|partition| log.bounds(partition).expect("bounds"));
    assert_eq!(bounds, [5..10, 3..10, 0..0], "and the last committed one");
    let mut reader = log.reader(&[(0, 5), (1, 3)]).expect("a reader");
    assert_eq!(poll(&mut reader, 100).len(), 5 + 7);
    assert_eq!(
        log.trim(vec![10, 4, 0], AGE).await.expect("trimmed"),
        (0, false)
    );
    let offset = log.append(vec![at(1, 500)]).await.expect("appended");
    assert_eq!(offset, [Some(10)], "no offset is used twice");
}

#[tokio::test]
async fn a_record_from_a_wrong_clock_does_not_keep_those_after_it() {
    let file = file();
    let log = log(&file, 1).await;
    let times = [1, 7_000_000_000_000, 2, 3, 150, 4];
    log.append(times.map(|time| at(0, time)).into())
        .await
        .expect("appended");
    log.trim(vec![6], AGE).await.expect("trimmed");
    assert_eq!(log.bounds(0).expect("bounds"), 4..6, "up to the young one");
}

#[tokio::test]
async fn one_call_removes_a_bounded_number_of_records() {
    let file = file();
    let log = log(&file, 1).await;
    let records = (0..5_000).map(|_| at(0, 1)).collect();
    log.append(records).await.expect("appended");
    let trim = || log.trim(vec![5_000], AGE);
    assert_eq!(trim().await.expect("trimmed"), (2_048, true));
    assert_eq!(trim().await.expect("trimmed"), (2_048, true));
    assert_eq!(trim().await.expect("trimmed"), (903, false));
    assert_eq!(log.bounds(0).expect("bounds"), 4_999..5_000);
}

#[tokio::test]
async fn a_file_whose_old_records_are_removed_stops_growing() {
    let file = file();
    let pages = || -> i64 {
        Connection::open(&file.path)
            .expect("opened")
            .query_row("PRAGMA page_count", [], |row| row.get(0))
            .expect("counted")
    };
    let log = log(&file, 2).await;
    let mut sizes = Vec::new();
    for round in 1..=12 {
        let records = (0..2_000).map(|n| at(n % 2, 1)).collect();
        log.append(records).await.expect("appended");
        while log
            .trim(vec![round * 1_000; 2], AGE)
            .await
            .expect("trimmed")
            .1
        {}
        sizes.push(pages());
    }
    println!("pages after each round: {sizes:?}");
    assert!(sizes[11] <= sizes[1] + sizes[0] / 10, "{sizes:?}");
}

#[tokio::test]
async fn old_history_is_removed_and_stays_without_a_gap() {
    let file = file();
    let entry = |epoch: u64| HistoryEntry {
        epoch,
        write_timestamp: i64::try_from(epoch).expect("small") * 1_000_000,
        cuts: vec![1],
        counts: Counts::default(),
    };
    let all: Vec<HistoryEntry> = (1..=500).map(entry).collect();
    let database = job(&file.path);
    let store = SqliteStore::new(database.clone());
    store.write_history(&all, 0).await.expect("written");
    let keeping = SqliteStore::new(database).keeping_history(Some(Duration::from_secs(100)));
    let kept = async || {
        let history = keeping.history(1_000).await.expect("read");
        let (newest, oldest) = (history[0].epoch, history[history.len() - 1].epoch);
        assert_eq!(newest - oldest + 1, history.len() as u64, "no gap");
        history.len()
    };
    for epoch in 501..=504 {
        keeping
            .write_history(&[entry(epoch)], 0)
            .await
            .expect("written");
    }
    assert_eq!(kept().await, 504 - 4 * 64, "a bounded number at once");
    for epoch in 505..=600 {
        keeping
            .write_history(&[entry(epoch)], 0)
            .await
            .expect("written");
    }
    assert_eq!(kept().await, 101, "100 seconds, and the newest");
    let reader = Database::open(&file.path, Access::Reader).expect("opened");
    assert_eq!(
        SqliteStore::new(reader)
            .history(1)
            .await
            .expect("read")
            .first()
            .map(|entry| entry.epoch),
        Some(600)
    );
}
