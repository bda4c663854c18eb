//! The tables: their creation, their migration from an older version, and their contents.

use std::sync::Mutex;

use scylla::value::{CqlTimestamp, CqlValue};
use tapeflow_protocol::{
    AuditStore, BarReader, CasOutcome, CheckpointStore, Counts, DeadLetter, EpochStore,
    EpochWrites, HistoryEntry, StoreError,
};
use tapeflow_schemas::{
    BarKey, BarWrite, Position, Price, Sums, Totals,
    decimal::{MAX_NOTIONAL_E16, MAX_PRICE_E8, MAX_SIZE_E8},
    symbol::MAX_SYMBOL_BYTES,
    totals::{MAX_BAR_TRADES, Mark},
    window::bucket,
};
use tapeflow_sinks::cassandra::{CassandraConfig, CassandraStore, Finding, MIGRATIONS, init};

use crate::{
    Test,
    keyspace::Keyspace,
    samples::{entry, first_checkpoint, row},
};

pub(crate) fn tests() -> Vec<(String, Test)> {
    let test = |name: &str, test: Test| (format!("tables::{name}"), test);
    vec![
        test(
            "init_again_changes_nothing",
            Box::new(|host| Box::pin(init_again_changes_nothing(host))),
        ),
        test(
            "init_continues_from_every_older_version",
            Box::new(|host| Box::pin(init_continues_from_every_older_version(host))),
        ),
        test(
            "init_finishes_an_init_that_crashed",
            Box::new(|host| Box::pin(init_finishes_an_init_that_crashed(host))),
        ),
        test(
            "init_refuses_more_replicas_than_nodes",
            Box::new(|host| Box::pin(init_refuses_more_replicas_than_nodes(host))),
        ),
        test(
            "a_missing_keyspace_says_what_to_do",
            Box::new(|host| Box::pin(a_missing_keyspace_says_what_to_do(host))),
        ),
        test(
            "tables_of_a_newer_binary_are_refused",
            Box::new(|host| Box::pin(tables_of_a_newer_binary_are_refused(host))),
        ),
        test(
            "a_cluster_below_the_guarantee_is_reported",
            Box::new(|host| Box::pin(a_cluster_below_the_guarantee_is_reported(host))),
        ),
        test(
            "two_jobs_cannot_both_claim_a_keyspace",
            Box::new(|host| Box::pin(two_jobs_cannot_both_claim_a_keyspace(host))),
        ),
        test(
            "the_directories_list_records_written_one_by_one",
            Box::new(|host| Box::pin(the_directories_list_records_written_one_by_one(host))),
        ),
        test(
            "a_bar_has_all_columns_at_its_write_timestamp_and_no_null",
            Box::new(|host| {
                Box::pin(a_bar_has_all_columns_at_its_write_timestamp_and_no_null(
                    host,
                ))
            }),
        ),
        test(
            "a_bar_without_its_cell_is_absent_until_its_epoch_is_committed_and_damaged_then",
            Box::new(|host| Box::pin(a_bar_without_its_cell(host))),
        ),
        test(
            "a_damaged_cell_is_named_and_not_read",
            Box::new(|host| Box::pin(a_damaged_cell_is_named_and_not_read(host))),
        ),
        test(
            "the_largest_statements_cause_no_warning_of_a_server",
            Box::new(|host| Box::pin(no_statement_is_warned_of(host))),
        ),
        test(
            "display_columns_that_differ_from_their_cell_are_named",
            Box::new(|host| Box::pin(columns_that_mismatch_are_named(host))),
        ),
        test(
            "bars_that_no_directory_lists_are_found",
            Box::new(|host| Box::pin(bars_that_no_directory_lists_are_found(host))),
        ),
    ]
}

fn names(count: usize) -> Vec<&'static str> {
    MIGRATIONS[count..]
        .iter()
        .map(|migration| migration.name)
        .collect()
}

async fn init_again_changes_nothing(host: String) {
    let keyspace = Keyspace::plan(&host).await;
    let first = keyspace.init(MIGRATIONS).await;
    assert!(first.created);
    assert_eq!((first.replication, first.applied), (1, names(0)));
    let before = keyspace.cql("SELECT * FROM KS.migrations", ()).await;
    let second = keyspace.init(MIGRATIONS).await;
    assert!(!second.created && second.applied.is_empty());
    assert_eq!(
        keyspace.cql("SELECT * FROM KS.migrations", ()).await,
        before
    );
}

async fn init_continues_from_every_older_version(host: String) {
    for version in 0..MIGRATIONS.len() {
        let keyspace = Keyspace::plan(&host).await;
        keyspace.init(&MIGRATIONS[..version]).await;
        let refusal = keyspace.refusal().await;
        let lacking = format!(
            "lacks migration {}: run `tapeflow init --store {}`",
            names(version)[0],
            keyspace.config.address()
        );
        assert!(refusal.ends_with(&lacking), "{refusal}");
        assert_eq!(keyspace.init(MIGRATIONS).await.applied, names(version));
        keyspace.connect().await;
    }
}

async fn init_finishes_an_init_that_crashed(host: String) {
    let keyspace = Keyspace::create(&host).await;
    // As after a crash between the statements of the last file and its record.
    let last = i32::try_from(MIGRATIONS.len()).expect("small");
    keyspace
        .cql("DELETE FROM KS.migrations WHERE version = ?", (last,))
        .await;
    assert_eq!(
        keyspace.init(MIGRATIONS).await.applied,
        names(MIGRATIONS.len() - 1)
    );
    keyspace.connect().await;
}

async fn init_refuses_more_replicas_than_nodes(host: String) {
    let keyspace = Keyspace::plan(&host).await;
    for replication in [0, 100] {
        let refused = init(&keyspace.config, replication)
            .await
            .expect_err("refused")
            .to_string();
        assert!(refused.contains("give a number between 1 and"), "{refused}");
    }
    assert!(
        keyspace.refusal().await.contains("there is no keyspace"),
        "nothing was made"
    );
}

async fn a_missing_keyspace_says_what_to_do(host: String) {
    let config =
        CassandraConfig::parse(&format!("cassandra://{host}/missing_keyspace"), "contract")
            .expect("an address");
    let refused = CassandraStore::connect(config)
        .await
        .err()
        .expect("refused");
    assert!(matches!(refused, StoreError::Broken(_)));
    let want = format!(
        "there is no keyspace missing_keyspace: \
         run `tapeflow init --store cassandra://{host}/missing_keyspace`"
    );
    assert_eq!(refused.to_string(), want);
}

async fn tables_of_a_newer_binary_are_refused(host: String) {
    let keyspace = Keyspace::create(&host).await;
    keyspace
        .cql(
            "INSERT INTO KS.migrations (version, name, checksum) VALUES (99, '0099_future', 'x')",
            (),
        )
        .await;
    assert!(
        keyspace
            .refusal()
            .await
            .contains("made by a newer tapeflow")
    );
    let refused = init(&keyspace.config, 1)
        .await
        .expect_err("refused")
        .to_string();
    assert!(refused.contains("made by a newer tapeflow"), "{refused}");
}

async fn a_cluster_below_the_guarantee_is_reported(host: String) {
    let keyspace = Keyspace::create(&host).await;
    let store = keyspace.connect().await;
    assert!(
        matches!(
            store.findings(),
            [
                Finding::Replication { replicas: 1, .. },
                Finding::CommitLogSync { nodes, period },
            ] if nodes == std::slice::from_ref(&host) && period == "10000ms"
        ),
        "{:?}",
        store.findings()
    );
    keyspace
        .cql("ALTER TABLE KS.bars WITH read_repair = 'NONE'", ())
        .await;
    keyspace
        .cql("ALTER TABLE KS.views WITH default_time_to_live = 60", ())
        .await;
    let store = keyspace.connect().await;
    let found = store.findings();
    assert!(
        found.contains(&Finding::ReadRepair {
            table: "bars".into(),
            option: "NONE".into()
        }) && found.contains(&Finding::TimeToLive {
            table: "views".into(),
            seconds: 60
        }),
        "{found:?}"
    );
}

async fn two_jobs_cannot_both_claim_a_keyspace(host: String) {
    let keyspace = Keyspace::borrow(&host).await;
    let store = keyspace.connect().await;
    let checkpoints = ["one", "two"].map(first_checkpoint);
    let outcomes = futures::future::join_all(
        checkpoints
            .iter()
            .map(|checkpoint| store.compare_and_set(None, checkpoint)),
    )
    .await;
    let won = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, CasOutcome::Won))
        .count();
    // In a race between two ballots the outcome of one may be unknown. Two can never win.
    assert!(won <= 1, "{outcomes:?}");
    let found = store.checkpoint().await.expect("the checkpoint is read");
    let claimed = checkpoints
        .iter()
        .zip(&outcomes)
        .find(|(_, outcome)| matches!(outcome, CasOutcome::Won));
    assert!(
        claimed.is_none_or(|(checkpoint, _)| found.as_ref() == Some(checkpoint)),
        "{outcomes:?}, {found:?}"
    );
    assert_eq!(
        keyspace
            .cql("SELECT only_one FROM KS.checkpoint", ())
            .await
            .len(),
        usize::from(found.is_some())
    );
    keyspace.give_back();
}

/// A store remembers the directory entries it has written. It must still write a new entry, and one
/// that was forgotten.
async fn the_directories_list_records_written_one_by_one(host: String) {
    let keyspace = Keyspace::borrow(&host).await;
    let store = keyspace.connect().await;
    let dead_letter = |offset: i64| DeadLetter {
        partition: 1,
        offset,
        index: 0,
        reason: "price".into(),
        detail: String::new(),
        payload: Vec::new(),
    };
    let entry = |day: i64| HistoryEntry {
        epoch: u64::try_from(day).expect("small"),
        write_timestamp: 86_400_000_000 * day,
        cuts: vec![day],
        counts: Counts::default(),
    };
    // Offsets and days whose table partition is new, that of the previous entry, or that of a much
    // earlier entry.
    for n in [0, 10_000, 10_001, 20_000, 1] {
        store
            .write(&EpochWrites {
                dead_letters: vec![dead_letter(n)],
                ..EpochWrites::default()
            })
            .await
            .expect("written");
        store.write_history(&[entry(n)], 0).await.expect("written");
    }
    assert_eq!(
        store.dead_letters(10).await.expect("read"),
        [0, 1, 10_000, 10_001, 20_000].map(dead_letter)
    );
    assert_eq!(
        store.history(10).await.expect("read"),
        [20_000, 10_001, 10_000, 1, 0].map(entry)
    );
    keyspace.give_back();
}

async fn a_bar_has_all_columns_at_its_write_timestamp_and_no_null(host: String) {
    let keyspace = Keyspace::borrow(&host).await;
    let store = keyspace.connect().await;
    // The bar with the fewest values.
    let row = row("AAPL", 0, Totals::default());
    store
        .write(&EpochWrites {
            directory: vec![entry(&row.key)],
            bars: vec![row.clone()],
            ..EpochWrites::default()
        })
        .await
        .expect("written");
    let read = keyspace.cql("SELECT * FROM KS.bars", ()).await;
    let [found] = read.as_slice() else {
        panic!("one row: {read:?}")
    };
    assert!(found.columns.iter().all(Option::is_some), "{found:?}");
    let columns = keyspace.cql("SELECT column_name FROM system_schema.columns WHERE keyspace_name = 'KS' AND table_name = 'bars'", ()).await;
    let mut regular = 0;
    for column in columns {
        let Some(CqlValue::Text(name)) = column.columns.into_iter().next().flatten() else {
            panic!("a name")
        };
        if !["symbol", "size", "bucket", "start"].contains(&name.as_str()) {
            let write_timestamps = keyspace
                .cql(&format!("SELECT writetime({name}) FROM KS.bars"), ())
                .await;
            assert_eq!(
                write_timestamps[0].columns,
                [Some(CqlValue::BigInt(row.write_timestamp))],
                "{name}"
            );
            regular += 1;
        }
    }
    assert_eq!(regular, 11);
    let mirrors = keyspace
        .cql(
            "SELECT open, high, low, close, vwap, volume FROM KS.bars",
            (),
        )
        .await;
    let is_nan = |value: &Option<CqlValue>| matches!(value, Some(CqlValue::Double(double)) if double.is_nan());
    assert!(mirrors[0].columns[..5].iter().all(is_nan), "{mirrors:?}");
    assert_eq!(mirrors[0].columns[5..], [Some(CqlValue::Double(0.0))]);
    keyspace.give_back();
}

/// A dashboard's read may repair a replica with the columns that it selects and without the cell.
/// That is a write under way, unless the epoch is committed: then a quorum has the cell.
async fn a_bar_without_its_cell(host: String) {
    let keyspace = Keyspace::borrow(&host).await;
    let store = keyspace.connect().await;
    let BarWrite { key, .. } = row("AAPL", 0, Totals::default());
    store
        .write(&EpochWrites {
            directory: vec![entry(&key)],
            ..EpochWrites::default()
        })
        .await
        .expect("written");
    insert(&keyspace, &key, "epoch", 8i64).await;
    let checkpoint = first_checkpoint("one");
    assert!(matches!(
        store.compare_and_set(None, &checkpoint).await,
        CasOutcome::Won
    ));
    let one = std::slice::from_ref(&key);
    assert_eq!(store.read_bars(one).await.expect("read"), [None]);
    let all = store.bars(&key.symbol, key.size, 0..i64::MAX);
    assert_eq!(all.await.expect("read"), []);
    let audited = store.audit_bars(&key.symbol, key.size, 0..i64::MAX);
    assert_eq!(audited.await.expect("read"), []);

    let mut committed = checkpoint.clone();
    committed.version += 1;
    committed.committed.epoch = 8;
    assert!(matches!(
        store.compare_and_set(Some(&checkpoint), &committed).await,
        CasOutcome::Won
    ));
    let want = "bar AAPL 1m 2023-11-14T22:00:00Z: state cell is missing";
    let one = store.read_bars(one).await.expect_err("damaged");
    let all = store.bars(&key.symbol, key.size, 0..i64::MAX).await;
    for fault in [one, all.expect_err("damaged")] {
        assert!(
            matches!(&fault, StoreError::Broken(text) if text == want),
            "{fault:?}"
        );
    }
    let audited = store.audit_bars(&key.symbol, key.size, 0..i64::MAX);
    assert_eq!(audited.await.expect("read")[0].state, None);
    // Another process learns what is committed from the checkpoint.
    let other = keyspace.connect().await;
    let one = std::slice::from_ref(&key);
    assert_eq!(other.read_bars(one).await.expect("read"), [None]);
    other.checkpoint().await.expect("read").expect("there");
    other.read_bars(one).await.expect_err("damaged");
    keyspace.give_back();
}

async fn a_damaged_cell_is_named_and_not_read(host: String) {
    let keyspace = Keyspace::borrow(&host).await;
    let store = keyspace.connect().await;
    let bar = row("AAPL", 0, Totals::default());
    let key = bar.key.clone();
    store
        .write(&EpochWrites {
            directory: vec![entry(&key)],
            ..EpochWrites::default()
        })
        .await
        .expect("written");
    let mut cell = bar.to_cell();
    cell[1] ^= 1;
    insert(&keyspace, &key, "state", cell).await;
    let want = "bar AAPL 1m 2023-11-14T22:00:00Z: state cell is damaged";
    let one = store
        .read_bars(std::slice::from_ref(&key))
        .await
        .expect_err("damaged");
    let range = store
        .bars(&key.symbol, key.size, 0..i64::MAX)
        .await
        .expect_err("damaged");
    for fault in [one, range] {
        assert!(
            matches!(&fault, StoreError::Broken(text) if text == want),
            "{fault:?}"
        );
    }
    keyspace.give_back();
}

/// A server sends its warnings with the answer, and the driver logs them.
async fn no_statement_is_warned_of(host: String) {
    static LOGGED: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    struct Logged;
    impl std::io::Write for Logged {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            LOGGED.lock().expect("no test panics here").write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .with_writer(|| Logged)
        .init();

    let keyspace = Keyspace::borrow(&host).await;
    let store = keyspace.connect().await;
    let price = Price::from_e8(MAX_PRICE_E8 - 1).expect("a price");
    let mark = Some(Mark {
        event_ms: 1_699_999_200_000,
        position: Position {
            partition: 0,
            offset: 1,
            index: 0,
        },
        price,
    });
    let sums = Sums {
        volume_e8: i128::from(MAX_BAR_TRADES) * MAX_SIZE_E8,
        notional_e16: i128::from(MAX_BAR_TRADES) * MAX_NOTIONAL_E16,
        trades: MAX_BAR_TRADES,
    };
    let widest = Totals {
        sums: [sums; 3],
        priced: 1,
        high: Some(price),
        low: Some(price),
        first: mark,
        last: mark,
        ..Totals::default()
    };
    let rows: Vec<_> = (0..40)
        .map(|n| row(&format!("{n:0MAX_SYMBOL_BYTES$}"), 1, widest))
        .collect();
    let directory: Vec<_> = rows.iter().map(|row| entry(&row.key)).collect();
    store
        .write(&EpochWrites {
            directory,
            bars: rows,
            ..EpochWrites::default()
        })
        .await
        .expect("written");

    let logged = |keyspace: &str| {
        let text =
            String::from_utf8_lossy(&LOGGED.lock().expect("no test panics here")).into_owned();
        text.lines()
            .filter(|line| line.contains("contains a warning") && line.contains(keyspace))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let name = &keyspace.config.keyspace;
    assert!(logged(&format!("{name}.")).is_empty(), "{:?}", logged(name));
    // A statement with a warning shows that warnings are logged.
    let values: Vec<String> = (0..20)
        .map(|n| format!("INSERT INTO KS.symbols (symbol, class) VALUES ('{n}', '')"))
        .collect();
    keyspace
        .cql(
            &format!("BEGIN UNLOGGED BATCH {} APPLY BATCH", values.join(" ")),
            (),
        )
        .await;
    assert!(!logged(&format!("{name}.")).is_empty());
    keyspace.give_back();
}

async fn columns_that_mismatch_are_named(host: String) {
    let keyspace = Keyspace::borrow(&host).await;
    let store = keyspace.connect().await;
    let row = row("AAPL", 1, Totals::default());
    store
        .write(&EpochWrites {
            directory: vec![entry(&row.key)],
            bars: vec![row.clone()],
            ..EpochWrites::default()
        })
        .await
        .expect("written");
    let mismatches = async || {
        let found = store
            .audit_bars(&row.key.symbol, row.key.size, 0..i64::MAX)
            .await
            .expect("read");
        let [found] = &found[..] else {
            panic!("one row")
        };
        assert_eq!(found.state.as_ref(), Some(&row.state));
        found.mismatches.clone()
    };
    assert!(mismatches().await.is_empty());
    insert(&keyspace, &row.key, "open", 1.5f64).await;
    insert(&keyspace, &row.key, "volume", 12.0f64).await;
    insert(&keyspace, &row.key, "trades", 3i64).await;
    insert(
        &keyspace,
        &row.key,
        "revision",
        scylla::value::MaybeUnset::Set(None::<i64>),
    )
    .await;
    assert_eq!(
        mismatches().await,
        [
            "open shows 1.5, its cell says NaN",
            "volume shows 12, its cell says 0",
            "trades shows 3, its cell says 0",
            "revision shows nothing, its cell says 0"
        ]
    );
    // Dashboards read these as well.
    let other = BarKey {
        start: row.key.start + row.key.size.ms(),
        ..row.key.clone()
    };
    insert(&keyspace, &other, "trades", 3i64).await;
    let found = store
        .audit_bars(&row.key.symbol, row.key.size, 0..i64::MAX)
        .await
        .expect("read");
    assert_eq!(
        (found[1].start, &found[1].state, &found[1].mismatches[..]),
        (
            other.start,
            &None,
            &["display columns without a cell".to_owned()][..]
        )
    );
    keyspace.give_back();
}

async fn bars_that_no_directory_lists_are_found(host: String) {
    let keyspace = Keyspace::borrow(&host).await;
    let store = keyspace.connect().await;
    let rows = ["AAPL", "MSFT", "TSLA"].map(|symbol| row(symbol, 1, Totals::default()));
    let directory = rows.iter().map(|row| entry(&row.key)).collect();
    store
        .write(&EpochWrites {
            directory,
            bars: rows.to_vec(),
            ..EpochWrites::default()
        })
        .await
        .expect("written");
    assert_eq!(store.unlisted().await.expect("read"), []);
    let [_, msft, tsla] = &rows;
    keyspace
        .cql("DELETE FROM KS.symbols WHERE symbol = 'MSFT'", ())
        .await;
    keyspace
        .cql("DELETE FROM KS.symbol_buckets WHERE symbol = 'TSLA'", ())
        .await;
    keyspace
        .cql(
            "INSERT INTO KS.bars (symbol, size, bucket, start, trades) VALUES (' ', '7m', 0, 0, 1)",
            (),
        )
        .await;
    let found: Vec<_> = store
        .unlisted()
        .await
        .expect("read")
        .into_iter()
        .map(|found| (found.symbol, found.bucket))
        .collect();
    let want = [
        (" ", 0),
        ("MSFT", bucket(msft.key.start)),
        ("TSLA", bucket(tsla.key.start)),
    ];
    assert_eq!(
        found,
        want.map(|(symbol, bucket)| (symbol.to_owned(), bucket))
    );
    keyspace.give_back();
}

/// Sets one column of a row.
async fn insert(
    keyspace: &Keyspace,
    key: &BarKey,
    column: &str,
    value: impl scylla::serialize::value::SerializeValue,
) {
    let cql = format!(
        "INSERT INTO KS.bars (symbol, size, bucket, start, {column}) VALUES (?, ?, ?, ?, ?)"
    );
    let bucket = CqlTimestamp(bucket(key.start));
    keyspace
        .cql(
            &cql,
            (
                key.symbol.as_str(),
                key.size.to_string(),
                bucket,
                CqlTimestamp(key.start),
                value,
            ),
        )
        .await;
}
