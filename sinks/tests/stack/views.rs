//! Views in Cassandra's tables: the ranks that dashboards read agree with the view, also after it
//! has become shorter.

use scylla::value::{CqlTimestamp, CqlValue};
use tapeflow_protocol::{
    AuditStore, BarReader, CasOutcome, CheckpointStore, EpochStore, EpochWrites, StoreError,
};
use tapeflow_schemas::{
    Price, QuoteCurrency, View, ViewEntry, ViewKey, ViewState, ViewWrite, WindowStart, view::TOP,
    window::bucket,
};

use crate::{
    Test,
    keyspace::Keyspace,
    samples::{WRITE_TIMESTAMP, first_checkpoint},
};

pub(crate) fn tests() -> Vec<(String, Test)> {
    let test = |name: &str, test: Test| (format!("views::{name}"), test);
    vec![
        test(
            "the_ranks_agree_with_the_view_in_every_order_of_arrival",
            Box::new(|host| Box::pin(the_ranks_are_those_of_the_view(host))),
        ),
        test(
            "a_view_and_its_ranks_have_all_columns_at_their_write_timestamp",
            Box::new(|host| Box::pin(all_columns_at_their_write_timestamp(host))),
        ),
        test(
            "a_view_without_its_cell_is_absent_until_its_epoch_is_committed_and_damaged_then",
            Box::new(|host| Box::pin(a_view_without_its_cell(host))),
        ),
        test(
            "a_damaged_view_is_named_and_not_read",
            Box::new(|host| Box::pin(a_damaged_view_is_named_and_not_read(host))),
        ),
        test(
            "ranks_that_differ_from_their_view_are_named",
            Box::new(|host| Box::pin(ranks_that_mismatch_are_named(host))),
        ),
    ]
}

const START: WindowStart = 1_699_999_200_000;

fn entry(name: &str) -> ViewEntry {
    let price = |text: &str| Price::parse(text).ok().map(|parsed| parsed.value);
    ViewEntry {
        quote: QuoteCurrency::USD,
        name: name.into(),
        symbols: 1,
        trades: 7,
        volume: Some(10_700_000_000),
        notional: Some(130_645_600_000_000_000_000),
        open: price("122.06"),
        close: price("122.09"),
    }
}

fn list(view: View, epoch: u64, names: &[&str]) -> ViewWrite {
    let key = ViewKey {
        view,
        size: "1m".parse().expect("a size"),
        start: START,
    };
    let write_timestamp = WRITE_TIMESTAMP + i64::try_from(epoch).expect("small");
    ViewWrite {
        key,
        state: ViewState::new(epoch, names.iter().copied().map(entry).collect()),
        write_timestamp,
    }
}

fn text(value: &Option<CqlValue>) -> String {
    let Some(CqlValue::Text(text)) = value else {
        panic!("a text: {value:?}")
    };
    text.clone()
}

/// In what [`entry`] is ranked.
fn ranked_in(view: View) -> &'static str {
    if view == View::Movers { "all" } else { "USD" }
}

/// The names of a view's ranks as a dashboard reads them, by rank.
async fn names(keyspace: &Keyspace, view: View) -> Vec<String> {
    let cql = "SELECT name FROM KS.view_entries WHERE view_name = ? AND size = '1m' AND \
        bucket = ? AND ranked_in = ? AND start = ?";
    let bucket = bucket(START);
    let rows = keyspace
        .cql(
            cql,
            (
                view.name(),
                CqlTimestamp(bucket),
                ranked_in(view),
                CqlTimestamp(START),
            ),
        )
        .await;
    rows.iter().map(|row| text(&row.columns[0])).collect()
}

async fn the_ranks_are_those_of_the_view(host: String) {
    let keyspace = Keyspace::borrow(&host).await;
    let store = keyspace.connect().await;
    let top: Vec<_> = (0..TOP).map(|n| format!("S{n}")).collect();
    let top: Vec<&str> = top.iter().map(String::as_str).collect();
    for view in [View::Movers, View::Active] {
        let check = async |epoch, given: &[&str], want: &[&str]| {
            store
                .write(&EpochWrites {
                    views: vec![list(view, epoch, given)],
                    ..EpochWrites::default()
                })
                .await
                .expect("written");
            let mut want: Vec<_> = want.to_vec();
            want.resize(TOP, "");
            assert_eq!(names(&keyspace, view).await, want, "{view}, epoch {epoch}");
        };
        check(1, &["A"], &["A"]).await;
        check(3, &top, &top).await;
        check(2, &["A", "B"], &top).await;
        check(5, &["B", "A"], &["B", "A"]).await;
        check(4, &top, &["B", "A"]).await;
        check(5, &["B", "A"], &["B", "A"]).await;
        if view == View::Movers {
            check(6, &[], &[]).await;
        }
        check(7, &["C"], &["C"]).await;
    }
    // Their number only grows, and they have no blank ranks.
    let baskets: Vec<_> = (0..64)
        .map(|n| format!("{n:04}{}", "é".repeat(30)))
        .collect();
    let baskets: Vec<&str> = baskets.iter().map(String::as_str).collect();
    for (epoch, names_now) in [(1, &[][..]), (2, &baskets[..2]), (3, &baskets[..])] {
        store
            .write(&EpochWrites {
                views: vec![list(View::Baskets, epoch, names_now)],
                ..EpochWrites::default()
            })
            .await
            .expect("written");
        assert_eq!(names(&keyspace, View::Baskets).await, names_now);
    }
    keyspace.give_back();
}

async fn all_columns_at_their_write_timestamp(host: String) {
    let keyspace = Keyspace::borrow(&host).await;
    let store = keyspace.connect().await;
    let write = list(View::Movers, 3, &["TSLA"]);
    store
        .write(&EpochWrites {
            views: vec![write.clone()],
            ..EpochWrites::default()
        })
        .await
        .expect("written");
    for (table, rows, regular) in [("views", 1, 2), ("view_entries", TOP, 15)] {
        let read = keyspace.cql(&format!("SELECT * FROM KS.{table}"), ()).await;
        assert_eq!(read.len(), rows, "{table}");
        assert!(
            read.iter()
                .all(|row| row.columns.iter().all(Option::is_some)),
            "{table}: {read:?}"
        );
        let cql = format!(
            "SELECT column_name, kind FROM system_schema.columns WHERE keyspace_name = 'KS' AND table_name = '{table}'"
        );
        let columns: Vec<_> = keyspace
            .cql(&cql, ())
            .await
            .into_iter()
            .filter(|column| text(&column.columns[1]) == "regular")
            .collect();
        assert_eq!(columns.len(), regular, "{table}");
        for column in columns {
            let name = text(&column.columns[0]);
            let write_timestamps = keyspace
                .cql(&format!("SELECT writetime({name}) FROM KS.{table}"), ())
                .await;
            assert!(
                write_timestamps
                    .iter()
                    .all(|row| row.columns == [Some(CqlValue::BigInt(write.write_timestamp))]),
                "{table}.{name}: {write_timestamps:?}"
            );
        }
    }
    let ranks =
        keyspace.cql("SELECT rank, name, symbols, volume, notional, vwap, open, close, change_pct, vwap_exact, change_pct_exact FROM KS.view_entries", ()).await;
    let double = |value| Some(CqlValue::Double(value));
    let first = [
        Some(CqlValue::Int(1)),
        Some(CqlValue::Text("TSLA".into())),
        Some(CqlValue::BigInt(1)),
        double(107.0),
        double(13_064.56),
        double(122.098_691_59),
        double(122.06),
        double(122.09),
        double(0.024_578_08),
        Some(CqlValue::Text("122.09869159".into())),
        Some(CqlValue::Text("0.02457808".into())),
    ];
    assert_eq!(ranks[0].columns, first);
    let is_nan = |value: &Option<CqlValue>| matches!(value, Some(CqlValue::Double(double)) if double.is_nan());
    assert!(ranks[TOP - 1].columns[5..9].iter().all(is_nan), "{ranks:?}");
    keyspace.give_back();
}

/// Sets one column of a view.
async fn insert(
    keyspace: &Keyspace,
    key: &ViewKey,
    column: &str,
    value: impl scylla::serialize::value::SerializeValue,
) {
    let cql = format!(
        "INSERT INTO KS.views (view_name, size, bucket, start, {column}) VALUES (?, ?, ?, ?, ?)"
    );
    let bucket = CqlTimestamp(bucket(key.start));
    keyspace
        .cql(
            &cql,
            (
                key.view.name(),
                key.size.to_string(),
                bucket,
                CqlTimestamp(key.start),
                value,
            ),
        )
        .await;
}

async fn a_view_without_its_cell(host: String) {
    let keyspace = Keyspace::borrow(&host).await;
    let store = keyspace.connect().await;
    let key = list(View::Active, 1, &[]).key;
    insert(&keyspace, &key, "epoch", 8i64).await;
    let views = || store.views(key.view, key.size, i64::MIN..i64::MAX);
    assert_eq!(views().await.expect("read"), []);
    let mut committed = first_checkpoint("one");
    committed.committed.epoch = 8;
    assert!(matches!(
        store.compare_and_set(None, &committed).await,
        CasOutcome::Won
    ));
    let fault = views().await.expect_err("damaged");
    assert!(
        matches!(&fault, StoreError::Broken(text) if text == "view active 1m 2023-11-14T22:00:00Z: state cell is missing"),
        "{fault:?}"
    );
    keyspace.give_back();
}

async fn a_damaged_view_is_named_and_not_read(host: String) {
    let keyspace = Keyspace::borrow(&host).await;
    let store = keyspace.connect().await;
    let ViewWrite { key, state, .. } = list(View::Active, 1, &["TSLA"]);
    let mut cell = state.to_cell();
    cell[1] ^= 1;
    insert(&keyspace, &key, "state", cell).await;
    let fault = store
        .views(key.view, key.size, i64::MIN..i64::MAX)
        .await
        .expect_err("damaged");
    assert!(
        matches!(&fault, StoreError::Broken(text) if text == "view active 1m 2023-11-14T22:00:00Z: state cell is damaged"),
        "{fault:?}"
    );
    keyspace.give_back();
}

async fn ranks_that_mismatch_are_named(host: String) {
    let keyspace = Keyspace::borrow(&host).await;
    let store = keyspace.connect().await;
    let written = list(View::Market, 5, &["stock", "crypto"]);
    let key = written.key;
    store
        .write(&EpochWrites {
            views: vec![written.clone()],
            ..EpochWrites::default()
        })
        .await
        .expect("written");
    let place = (
        key.view.name(),
        key.size.to_string(),
        CqlTimestamp(bucket(key.start)),
        CqlTimestamp(key.start),
    );
    let set = async |rank: i32, epoch: i64, name: &str| {
        let cql = "INSERT INTO KS.view_entries (view_name, size, bucket, ranked_in, start, rank, epoch, name) VALUES (?, ?, ?, 'USD', ?, ?, ?, ?)";
        keyspace
            .cql(
                cql,
                (place.0, &place.1, place.2, place.3, rank, epoch, name),
            )
            .await;
    };
    // The mismatches of a committed epoch, and of one that is not committed.
    let mismatches = async |committed: u64| {
        let found = store
            .audit_views(key.view, key.size, i64::MIN..i64::MAX, committed)
            .await
            .expect("read");
        let [found] = &found[..] else {
            panic!("one list")
        };
        assert_eq!(found.state.as_ref(), Some(&written.state));
        (found.mismatches.clone(), found.ahead)
    };
    let none = || (Vec::new(), None);
    assert_eq!((mismatches(4).await, mismatches(5).await), (none(), none()));
    set(2, 5, "forex").await;
    let wrong = || {
        (
            vec!["name of rank 2 of USD shows forex, its cell says crypto".to_owned()],
            None,
        )
    };
    assert_eq!(
        (mismatches(4).await, mismatches(5).await),
        (wrong(), wrong())
    );
    set(2, 5, "crypto").await;
    set(3, 5, "forex").await;
    assert_eq!(
        mismatches(5).await.0,
        ["rank 3 of USD is extra, its view has 2"]
    );
    keyspace.cql("DELETE FROM KS.view_entries WHERE view_name = ? AND size = ? AND bucket = ? AND ranked_in = 'USD' AND start = ? AND rank > 1", place.clone()).await;
    assert_eq!(mismatches(5).await.0, ["rank 2 of USD is missing"]);
    // While a job runs, the ranks may be those of a later view, or the view may be of a later epoch
    // whose ranks are not written yet.
    set(1, 6, "stock").await;
    assert_eq!(mismatches(6).await, (Vec::new(), Some(6)));
    set(1, 4, "stock").await;
    assert_eq!(mismatches(4).await, none());
    assert!(
        mismatches(5)
            .await
            .0
            .iter()
            .any(|mismatch| mismatch == "epoch of rank 1 of USD shows 4, its cell says 5"),
        "{:?}",
        mismatches(5).await
    );
    insert(&keyspace, &key, "epoch", 7i64).await;
    assert_eq!(mismatches(4).await.0, ["epoch shows 7, its cell says 5"]);
    // Ranks without a view, one of them in a bucket without views.
    let elsewhere = place.2.0 - 86_400_000 * 365;
    let cql = "INSERT INTO KS.view_entries (view_name, size, bucket, ranked_in, start, rank, epoch, name) VALUES (?, ?, ?, 'JPY', ?, 1, 3, 'stock')";
    keyspace
        .cql(
            cql,
            (
                place.0,
                &place.1,
                CqlTimestamp(bucket(elsewhere)),
                CqlTimestamp(elsewhere),
            ),
        )
        .await;
    let found = store
        .audit_views(key.view, key.size, i64::MIN..elsewhere + 1, 5)
        .await
        .expect("read");
    let found: Vec<_> = found
        .into_iter()
        .map(|found| (found.start, found.state, found.ahead))
        .collect();
    assert_eq!(found, [(elsewhere, None, Some(3))]);
    keyspace.give_back();
}
