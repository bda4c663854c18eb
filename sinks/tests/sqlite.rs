//! Tests of SQLite beyond the contract suite: how a file is opened, refused, reopened and read by
//! other tools, and the log.

#[path = "sqlite/retention.rs"]
mod retention;
#[path = "sqlite/views.rs"]
mod views;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::Connection;
use tapeflow_log::{
    NewRecord,
    sqlite::{Access, Database, SqliteLog, SqliteLogReader},
};
use tapeflow_protocol::{
    BarReader, Binding, CasOutcome, Checkpoint, CheckpointStore, Cut, DirectoryEntry, EpochStore,
    EpochWrites, SourceIdentity, StoreError, SymbolDirectory, checkpoint::CHECKPOINT_FORMAT,
};
use tapeflow_schemas::{
    BarKey, BarState, BarWrite, PackedBars, Position, Price, SessionId, Sums, Symbol, Totals,
    WindowSize, totals::Mark,
};
use tapeflow_sinks::sqlite::SqliteStore;

struct File {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn file() -> File {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.db");
    File {
        _directory: directory,
        path,
    }
}

fn job(path: &Path) -> Database {
    Database::open(path, Access::Job).expect("the file opens")
}

fn refusal<T>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Broken(reason)) => reason,
        Err(StoreError::Unavailable(reason)) => panic!("not a matter of waiting: {reason}"),
        Ok(_) => panic!("it was not refused"),
    }
}

fn key(name: &str) -> BarKey {
    BarKey {
        symbol: Symbol::new(name).expect("a symbol"),
        size: WindowSize::DEFAULTS[1],
        start: 1_674_226_380_000,
    }
}

/// The golden window: 7 prints, volume 107, notional 13064.56.
fn golden(epoch: u64) -> BarState {
    let sums = Sums {
        volume_e8: 10_700_000_000,
        notional_e16: 130_645_600_000_000_000_000,
        trades: 7,
    };
    let price = |text: &str| Price::parse(text).expect("a price").value;
    let mark = |offset, text: &str| Mark {
        event_ms: 1_674_226_439_365,
        position: Position {
            partition: 0,
            offset,
            index: 0,
        },
        price: price(text),
    };
    let totals = Totals {
        sums: [sums; 3],
        priced: 7,
        high: Some(price("122.1")),
        low: Some(price("122.06")),
        first: Some(mark(1, "122.06")),
        last: Some(mark(7, "122.09")),
        ..Totals::default()
    };
    BarState { epoch, totals }
}

fn row(name: &str, epoch: u64, write_timestamp: i64) -> EpochWrites {
    let key = key(name);
    EpochWrites {
        directory: vec![DirectoryEntry::of(&key)],
        bars: vec![BarWrite {
            key,
            state: golden(epoch),
            packed: PackedBars::default(),
            write_timestamp,
        }],
        ..EpochWrites::default()
    }
}

fn checkpoint(source: &SourceIdentity) -> Checkpoint {
    Checkpoint {
        format: CHECKPOINT_FORMAT,
        job: "tapeflow".into(),
        generation: 1,
        version: 1,
        owner: "0".repeat(32),
        fingerprint: "1".into(),
        source: source.clone(),
        datacenter: None,
        recovery_timestamp: 1,
        last_write_timestamp: 1,
        committed: Binding {
            epoch: 0,
            write_timestamp: 1,
            cuts: vec![Cut::default()],
        },
        bound: Vec::new(),
    }
}

fn record(partition: u32, text: &str, session: Option<(SessionId, u64)>) -> NewRecord {
    NewRecord {
        partition,
        key: "AAPL".into(),
        timestamp_ms: 1_674_226_439_365,
        payload: text.as_bytes().to_vec(),
        session,
    }
}

fn poll(reader: &mut SqliteLogReader, limit: usize) -> Vec<(u32, i64, String)> {
    let mut found = Vec::new();
    let count = reader
        .poll(limit, &mut |record| {
            found.push((
                record.partition,
                record.offset,
                String::from_utf8_lossy(record.payload.expect("a value")).into_owned(),
            ))
        })
        .expect("the log is read");
    assert_eq!(count, found.len());
    found
}

const SESSION: SessionId = SessionId([7; 16]);

#[tokio::test]
async fn reopening_keeps_everything() {
    let file = file();
    let identity = {
        let database = job(&file.path);
        let log = SqliteLog::create_if_absent(&database, 3)
            .await
            .expect("a log");
        log.append(vec![
            record(0, "a", Some((SESSION, 4))),
            record(2, "b", None),
        ])
        .await
        .expect("appended");
        let store = SqliteStore::new(database.clone());
        store.write(&row("TSLA", 1, 1)).await.expect("written");
        assert!(matches!(
            store
                .compare_and_set(None, &checkpoint(log.identity()))
                .await,
            CasOutcome::Won
        ));
        log.identity().clone()
    };
    let database = job(&file.path);
    let log = SqliteLog::create_if_absent(&database, 9)
        .await
        .expect("a log");
    assert_eq!(
        (log.identity(), log.partitions()),
        (&identity, 3),
        "the log that is there keeps its ids and its number of partitions"
    );
    assert_eq!(
        [0, 1, 2].map(|partition| log.bounds(partition).expect("bounds")),
        [0..1, 0..0, 0..1]
    );
    assert_eq!(
        log.last_sequences(SESSION).await.expect("sequences"),
        [4, 0, 0]
    );
    assert_eq!(
        poll(&mut log.reader(&[(0, 0), (2, 0)]).expect("a reader"), 9),
        [(0, 0, "a".into()), (2, 0, "b".into())]
    );
    let store = SqliteStore::new(database);
    assert_eq!(
        store.checkpoint().await.expect("a checkpoint"),
        Some(checkpoint(&identity))
    );
    assert_eq!(
        store.read_bars(&[key("TSLA")]).await.expect("bars"),
        [Some(golden(1).into_row())]
    );
}

#[tokio::test]
async fn two_logs_have_two_identities() {
    let (one, two) = (file(), file());
    let (one, two) = (job(&one.path), job(&two.path));
    let one = SqliteLog::create_if_absent(&one, 1)
        .await
        .expect("a log")
        .identity()
        .clone();
    let two = SqliteLog::create_if_absent(&two, 1)
        .await
        .expect("a log")
        .identity()
        .clone();
    assert_ne!(one.cluster, two.cluster);
    assert_ne!(one.topic_id, two.topic_id);
}

#[tokio::test]
async fn what_was_queued_is_on_disk_when_the_last_handle_is_dropped() {
    let file = file();
    {
        let database = job(&file.path);
        let store = Arc::new(SqliteStore::new(database));
        let tasks: Vec<_> = (0..50)
            .map(|n| {
                let store = Arc::clone(&store);
                tokio::spawn(async move { store.write(&row(&format!("S{n}"), 1, 1)).await })
            })
            .collect();
        // Each future is polled once, so that it is queued, and then dropped.
        tokio::task::yield_now().await;
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        for task in tasks {
            let _ = task.await;
        }
    }
    let store = SqliteStore::new(job(&file.path));
    assert_eq!(store.symbols().await.expect("symbols").len(), 50);
}

#[tokio::test]
async fn a_second_writer_is_refused_by_any_name_of_the_file() {
    let file = file();
    let first = job(&file.path);
    let reason = refusal(Database::open(&file.path, Access::Job));
    assert!(
        reason.contains("store.db")
            && reason.contains(&format!("process {}", std::process::id()))
            && reason.contains("refused"),
        "{reason}"
    );
    let other_name = file.path.parent().expect("a directory").join("link.db");
    std::os::unix::fs::symlink(&file.path, &other_name).expect("a link");
    assert!(refusal(Database::open(&other_name, Access::Job)).contains("refused"));
    drop(first);
    job(&other_name);
}

#[tokio::test]
async fn a_reader_reads_beside_a_job_and_after_it_and_writes_nothing() {
    let file = file();
    let database = job(&file.path);
    let log = SqliteLog::create_if_absent(&database, 1)
        .await
        .expect("a log");
    let reader = Database::open(&file.path, Access::Reader).expect("opens beside the job");
    let (store, read) = (SqliteStore::new(database), SqliteStore::new(reader.clone()));
    let read_log = SqliteLog::open(&reader).expect("a log");
    let mut tape = read_log.reader(&[(0, 0)]).expect("a reader");
    for epoch in 1..=3 {
        store
            .write(&row("TSLA", epoch, i64::try_from(epoch).expect("small")))
            .await
            .expect("written");
        assert_eq!(
            read.read_bars(&[key("TSLA")]).await.expect("bars"),
            [Some(golden(epoch).into_row())]
        );
        log.append(vec![record(0, "x", None)])
            .await
            .expect("appended");
        assert_eq!(
            poll(&mut tape, 9).len(),
            1,
            "another process's appends are seen"
        );
    }
    drop((store, log));
    assert_eq!(read.symbols().await.expect("symbols").len(), 1);
    assert!(refusal(read.write(&row("TSLA", 4, 4)).await).contains("opened for reading"));
    assert!(
        refusal(read_log.append(vec![record(0, "x", None)]).await).contains("opened for reading")
    );
    assert!(refusal(SqliteLog::create_if_absent(&reader, 1).await).contains("opened for reading"));
}

#[test]
fn files_that_are_no_store_are_refused_and_left_alone() {
    let file = file();
    let open = |access| refusal(Database::open(&file.path, access));
    assert!(open(Access::Reader).contains("there is no such file"));
    assert!(!file.path.exists(), "a reader makes nothing");

    std::fs::write(&file.path, "symbol,price\n".repeat(100)).expect("a file");
    let before = std::fs::read(&file.path).expect("a file");
    for access in [Access::Job, Access::Reader] {
        assert!(open(access).contains("not a database"), "{access:?}");
    }
    assert_eq!(std::fs::read(&file.path).expect("a file"), before);

    std::fs::remove_file(&file.path).expect("removed");
    Connection::open(&file.path)
        .and_then(|other| {
            other.execute_batch("CREATE TABLE photos (name TEXT); CREATE TABLE schema (name TEXT)")
        })
        .expect("a database");
    let before = std::fs::read(&file.path).expect("a file");
    assert!(open(Access::Job).contains("something else"));
    assert!(open(Access::Reader).contains("holds no tapeflow store"));
    assert_eq!(std::fs::read(&file.path).expect("a file"), before);

    let nowhere = file
        .path
        .parent()
        .expect("a directory")
        .join("missing")
        .join("store.db");
    assert!(
        refusal(Database::open(&nowhere, Access::Job)).contains("its directory cannot be opened")
    );
    assert!(
        refusal(Database::open(
            file.path.parent().expect("a directory"),
            Access::Job
        ))
        .contains("sqlite:")
    );
}

#[test]
fn tables_of_a_newer_format_are_refused_with_what_to_do() {
    let file = file();
    drop(job(&file.path));
    Connection::open(&file.path)
        .and_then(|raw| raw.execute_batch("UPDATE schema SET format = 2"))
        .expect("changed");
    for access in [Access::Job, Access::Reader] {
        let reason = refusal(Database::open(&file.path, access));
        assert!(
            reason.contains("version 2") && reason.contains("a newer tapeflow made it"),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn a_checkpoint_of_a_newer_shape_is_named_and_a_damaged_one_too() {
    let file = file();
    let store = SqliteStore::new(job(&file.path));
    let source = SourceIdentity {
        cluster: "c".into(),
        topic: "t".into(),
        topic_id: None,
    };
    assert!(matches!(
        store.compare_and_set(None, &checkpoint(&source)).await,
        CasOutcome::Won
    ));
    let raw = Connection::open(&file.path).expect("opens");
    raw.execute(
        "UPDATE checkpoint SET checkpoint = ?1",
        [r#"{"format":4,"epochs":{}}"#],
    )
    .expect("changed");
    let reason = refusal(store.checkpoint().await);
    assert!(
        reason.contains("format 4") && reason.contains("use the newer tapeflow"),
        "{reason}"
    );
    raw.execute("UPDATE checkpoint SET checkpoint = ?1", [r#"{"format":3}"#])
        .expect("changed");
    assert!(refusal(store.checkpoint().await).contains("damaged"));
}

#[tokio::test]
async fn two_contents_at_one_write_timestamp_are_refused_and_take_no_neighbour_along() {
    let file = file();
    let store = SqliteStore::new(job(&file.path));
    store.write(&row("TSLA", 1, 1)).await.expect("written");
    let (different, mut both) = (row("TSLA", 2, 1), row("GOOG", 2, 1));
    both.bars.extend(different.bars.clone());
    let good: Vec<_> = (0..20).map(|n| row(&format!("S{n}"), 1, 1)).collect();
    // All run at once, so that they share transactions.
    let (bad, neighbours) = tokio::join!(
        futures::future::join_all([&different, &both].map(|bad| store.write(bad))),
        futures::future::join_all(good.iter().map(|good| store.write(good)))
    );
    for result in bad {
        let reason = refusal(result);
        assert!(
            reason.contains("TSLA 1m 2023-01-20T14:53:00Z") && reason.contains("write timestamp 1"),
            "{reason}"
        );
    }
    assert!(neighbours.iter().all(Result::is_ok));
    let keys: Vec<_> = good.iter().map(|good| good.bars[0].key.clone()).collect();
    assert_eq!(
        store.read_bars(&keys).await.expect("bars"),
        vec![Some(golden(1).into_row()); 20]
    );
    assert_eq!(
        store
            .read_bars(&[key("TSLA"), key("GOOG")])
            .await
            .expect("bars"),
        [Some(golden(1).into_row()), None],
        "a write is whole or not at all"
    );
}

#[tokio::test]
async fn a_damaged_cell_stops_the_job_and_names_the_bar() {
    let file = file();
    let store = SqliteStore::new(job(&file.path));
    store.write(&row("TSLA", 1, 1)).await.expect("written");
    Connection::open(&file.path)
        .and_then(|raw| raw.execute("UPDATE bars SET state = substr(state, 1, 40)", []))
        .expect("changed");
    let key = key("TSLA");
    for reason in [
        refusal(store.read_bars(std::slice::from_ref(&key)).await),
        refusal(store.bars(&key.symbol, key.size, 0..i64::MAX).await),
    ] {
        assert!(
            reason.contains("TSLA 1m") && reason.contains("damaged"),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn offsets_are_dense_from_zero_in_every_partition() {
    let file = file();
    let log = SqliteLog::create_if_absent(&job(&file.path), 2)
        .await
        .expect("a log");
    let offsets = log
        .append(vec![
            record(0, "a", None),
            record(1, "b", None),
            record(0, "c", None),
        ])
        .await
        .expect("appended");
    assert_eq!(offsets, [Some(0), Some(0), Some(1)]);
    assert_eq!(
        log.append(vec![record(0, "d", None)])
            .await
            .expect("appended"),
        [Some(2)]
    );
    assert_eq!(
        (
            log.bounds(0).expect("bounds"),
            log.bounds(1).expect("bounds")
        ),
        (0..3, 0..1)
    );
    assert!(
        refusal(
            log.append(vec![record(0, "e", None), record(2, "f", None)])
                .await
        )
        .contains("no partition 2")
    );
    assert!(refusal(log.bounds(2)).contains("no partition 2"));
    assert_eq!(
        log.bounds(0).expect("bounds"),
        0..3,
        "an append is whole or not at all"
    );
    assert_eq!(log.append(vec![]).await.expect("nothing"), []);
}

#[tokio::test]
async fn an_offset_is_not_given_out_again_when_its_record_is_gone() {
    let file = file();
    let log = SqliteLog::create_if_absent(&job(&file.path), 1)
        .await
        .expect("a log");
    log.append((0..5).map(|n| record(0, &n.to_string(), None)).collect())
        .await
        .expect("appended");
    Connection::open(&file.path)
        .and_then(|raw| raw.execute_batch("DELETE FROM log WHERE \"offset\" IN (0, 1, 4)"))
        .expect("deleted");
    assert_eq!(
        log.append(vec![record(0, "5", None)])
            .await
            .expect("appended"),
        [Some(5)]
    );
    let mut reader = log.reader(&[(0, 0)]).expect("a reader");
    let reason = refusal(reader.poll(9, &mut |_| {}));
    assert!(
        reason.contains("partition 0: offsets 0 to 1 are gone"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_sequence_sent_again_is_appended_once() {
    let file = file();
    let log = SqliteLog::create_if_absent(&job(&file.path), 2)
        .await
        .expect("a log");
    let of = |partition, sequence| {
        record(
            partition,
            &format!("{partition}/{sequence}"),
            Some((SESSION, sequence)),
        )
    };
    assert_eq!(
        log.append(vec![of(0, 1), of(0, 2), of(1, 1), of(0, 2)])
            .await
            .expect("appended"),
        [Some(0), Some(1), Some(0), None]
    );
    assert_eq!(
        log.append(vec![of(0, 2), of(0, 3), of(1, 1)])
            .await
            .expect("appended"),
        [None, Some(2), None]
    );
    assert_eq!(
        log.last_sequences(SESSION).await.expect("sequences"),
        [3, 1]
    );
    assert_eq!(
        log.last_sequences(SessionId([8; 16]))
            .await
            .expect("sequences"),
        [0, 0],
        "another session starts anew"
    );
    assert_eq!(
        log.append(vec![record(0, "other", Some((SessionId([8; 16]), 1)))])
            .await
            .expect("appended"),
        [Some(3)]
    );
    assert_eq!(
        log.append(vec![record(0, "none", None), record(0, "none", None)])
            .await
            .expect("appended"),
        [Some(4), Some(5)],
        "without a session nothing is a repeat"
    );
}

#[tokio::test]
async fn a_reader_takes_turns_keeps_its_place_and_skips_what_is_paused() {
    let file = file();
    let log = SqliteLog::create_if_absent(&job(&file.path), 2)
        .await
        .expect("a log");
    let mut reader = log.reader(&[(0, 0), (1, 1)]).expect("a reader");
    assert_eq!(poll(&mut reader, 9), []);
    log.append(
        (0..6)
            .flat_map(|n| {
                [
                    record(0, &format!("a{n}"), None),
                    record(1, &format!("b{n}"), None),
                ]
            })
            .collect(),
    )
    .await
    .expect("appended");
    let offsets = |found: Vec<(u32, i64, String)>| {
        found
            .into_iter()
            .map(|(partition, offset, _)| (partition, offset))
            .collect::<Vec<_>>()
    };
    let first = offsets(poll(&mut reader, 4));
    assert_eq!(
        first
            .iter()
            .filter(|(partition, _)| *partition == 0)
            .count(),
        2,
        "an equal share each: {first:?}"
    );
    reader.set_paused(0, true);
    let second = offsets(poll(&mut reader, 100));
    assert_eq!(second, [(1, 3), (1, 4), (1, 5)]);
    assert_eq!(poll(&mut reader, 100), []);
    reader.set_paused(0, false);
    reader.set_paused(7, true);
    assert_eq!(poll(&mut reader, 0), []);
    assert_eq!(
        offsets(poll(&mut reader, 100)),
        [(0, 2), (0, 3), (0, 4), (0, 5)]
    );
    log.append(vec![record(1, "b6", None)])
        .await
        .expect("appended");
    assert_eq!(poll(&mut reader, 100), [(1, 6, "b6".into())]);
    assert_eq!(
        poll(&mut log.reader(&[]).expect("a reader of nothing"), 9),
        []
    );
}

#[tokio::test]
async fn polling_an_idle_log_asks_the_file_nothing() {
    let file = file();
    let log = SqliteLog::create_if_absent(&job(&file.path), 1)
        .await
        .expect("a log");
    log.append(vec![record(0, "a", None)])
        .await
        .expect("appended");
    let mut reader = log.reader(&[(0, 0)]).expect("a reader");
    assert_eq!(poll(&mut reader, 9).len(), 1);
    Connection::open(&file.path)
        .and_then(|raw| raw.execute_batch("ALTER TABLE log RENAME TO hidden"))
        .expect("renamed");
    assert_eq!(poll(&mut reader, 9), [], "a query would have failed");
    Connection::open(&file.path)
        .and_then(|raw| raw.execute_batch("ALTER TABLE hidden RENAME TO log"))
        .expect("renamed back");
}

#[tokio::test]
async fn a_file_without_a_log_says_so() {
    let file = file();
    let database = job(&file.path);
    assert!(refusal(SqliteLog::open(&database)).contains("holds no log"));
    assert!(
        refusal(SqliteLog::create_if_absent(&database, 0).await).contains("at least one partition")
    );
}
