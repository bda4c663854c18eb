//! Views in the file: what other tools read, and files that were created before views existed.

use std::path::Path;

use rusqlite::Connection;
use tapeflow_protocol::{AuditStore, BarReader, EpochStore, EpochWrites};
use tapeflow_schemas::{
    Price, QuoteCurrency, View, ViewEntry, ViewKey, ViewState, ViewWrite, WindowSize,
};
use tapeflow_sinks::sqlite::SqliteStore;

use super::{file, golden, job, key, refusal, row};

fn entry(name: &str, volume: i128, prices: Option<(&str, &str)>) -> ViewEntry {
    let price = |text: &str| Price::parse(text).expect("a price").value;
    ViewEntry {
        quote: QuoteCurrency::USD,
        name: name.into(),
        symbols: 1,
        trades: 7,
        volume: Some(volume),
        notional: Some(volume * 12_209_869_159),
        open: prices.map(|(open, _)| price(open)),
        close: prices.map(|(_, close)| price(close)),
    }
}

fn list(view: View, epoch: u64, entries: &[ViewEntry]) -> EpochWrites {
    let key = ViewKey {
        view,
        size: WindowSize::DEFAULTS[1],
        start: 1_674_226_380_000,
    };
    let write_timestamp = i64::try_from(epoch).expect("small");
    EpochWrites {
        views: vec![ViewWrite {
            key,
            state: ViewState::new(epoch, entries.to_vec()),
            write_timestamp,
        }],
        ..EpochWrites::default()
    }
}

/// The first column of all rows, a text.
fn texts(path: &Path, sql: &str) -> Vec<String> {
    let raw = Connection::open(path).expect("opens");
    let mut select = raw.prepare(sql).expect(sql);
    select
        .query_map([], |row| row.get(0))
        .and_then(Iterator::collect)
        .expect(sql)
}

/// The entries of a view as another tool reads them.
fn lines(path: &Path, view: View) -> Vec<String> {
    texts(
        path,
        &format!(
            "SELECT rank || ' ' || name FROM view_entries WHERE view_name = '{view}' ORDER BY size, start, rank"
        ),
    )
}

#[tokio::test]
async fn the_entries_agree_with_the_view_in_every_order_of_arrival() {
    let file = file();
    let store = SqliteStore::new(job(&file.path));
    let [a, b, c] =
        ["AAPL", "MSFT", "TSLA"].map(|name| entry(name, 100_000_000, Some(("122.06", "122.09"))));
    let check = async |writes: EpochWrites, want: &[&str]| {
        store.write(&writes).await.expect("written");
        assert_eq!(lines(&file.path, View::Movers), want);
    };
    check(
        list(View::Movers, 1, &[a.clone(), b.clone(), c.clone()]),
        &["1 AAPL", "2 MSFT", "3 TSLA"],
    )
    .await;
    check(list(View::Movers, 3, std::slice::from_ref(&c)), &["1 TSLA"]).await;
    check(list(View::Movers, 2, &[b.clone(), a.clone()]), &["1 TSLA"]).await;
    check(list(View::Movers, 3, std::slice::from_ref(&c)), &["1 TSLA"]).await;
    check(list(View::Active, 4, &[b.clone(), a.clone()]), &["1 TSLA"]).await;
    assert_eq!(lines(&file.path, View::Active), ["1 MSFT", "2 AAPL"]);
    check(list(View::Movers, 5, &[]), &[]).await;
    check(list(View::Movers, 6, &[a, b]), &["1 AAPL", "2 MSFT"]).await;
}

#[tokio::test]
async fn any_sqlite_tool_reads_a_view() {
    let file = file();
    let store = SqliteStore::new(job(&file.path));
    let moved = entry("TSLA", 10_700_000_000, Some(("100", "99.875")));
    let beyond = entry("PENNY", 1, Some(("0.00000001", "1000000000")));
    let silent = entry("ODD", 0, None);
    store
        .write(&list(View::Active, 3, &[moved, beyond, silent]))
        .await
        .expect("written");
    store
        .write(&list(
            View::Baskets,
            3,
            &[entry("tech", 1_500_000_000_000, None)],
        ))
        .await
        .expect("written");
    let market = |quote, notional| ViewEntry {
        quote,
        volume: None,
        notional,
        ..entry("crypto", 0, None)
    };
    store
        .write(&list(
            View::Market,
            3,
            &[
                market(QuoteCurrency::USD, Some(15 * 10i128.pow(15))),
                market(QuoteCurrency::UNKNOWN, None),
            ],
        ))
        .await
        .expect("written");
    let columns = "view_name || ' ' || size || ' ' || start_utc || ' ' || quote || ' ' || rank || ' ' || name || ' ' || symbols || ' ' || trades || ' ' || ifnull(volume, 'none') || ' ' || ifnull(notional, 'none') || ' ' || ifnull(vwap, 'none')";
    let prices = "ifnull(typeof(open) || ' ' || open || ' ' || close || ' ' || typeof(change_pct) || ' ' || change_pct || ' ' || change_pct_exact, 'none')";
    let read = texts(
        &file.path,
        &format!(
            "SELECT {columns} || ' ' || {prices} FROM view_entries ORDER BY view_name, quote, rank"
        ),
    );
    assert_eq!(
        read,
        [
            "active 1m 2023-01-20T14:53:00Z USD 1 TSLA 1 7 107 13064.56000013 122.09869159 real 100.0 99.875 real -0.125 -0.125".to_owned(),
            "active 1m 2023-01-20T14:53:00Z USD 2 PENNY 1 7 0.00000001 0.0000012209869159 122.09869159 real 1.0e-08 1000000000.0 real 1.0e+19 9999999999999999900".into(),
            "active 1m 2023-01-20T14:53:00Z USD 3 ODD 1 7 0 0 none none".into(),
            // Weights have four decimal places, which volume and notional have on top.
            "baskets 1m 2023-01-20T14:53:00Z USD 1 tech 1 7 1.5 183.148037385 122.09869159 none".into(),
            "market 1m 2023-01-20T14:53:00Z USD 1 crypto 1 7 none 1.5 none none".into(),
            "market 1m 2023-01-20T14:53:00Z unknown 1 crypto 1 7 none none none none".into(),
        ]
    );
    let labels = texts(
        &file.path,
        "SELECT view_name || ' ' || start_utc || ' ' || epoch || ' ' || write_timestamp FROM views ORDER BY view_name",
    );
    assert_eq!(
        labels,
        [
            "active 2023-01-20T14:53:00Z 3 3",
            "baskets 2023-01-20T14:53:00Z 3 3",
            "market 2023-01-20T14:53:00Z 3 3"
        ]
    );
}

#[tokio::test]
async fn two_contents_of_a_view_at_one_write_timestamp_are_refused_and_change_nothing() {
    let file = file();
    let store = SqliteStore::new(job(&file.path));
    let writes = |name: &str| EpochWrites {
        views: list(View::Market, 1, &[entry(name, 1, None)]).views,
        ..row(name, 1, 1)
    };
    store.write(&writes("stock")).await.expect("written");
    let reason = refusal(store.write(&writes("crypto")).await);
    assert!(
        reason.contains("view market 1m 2023-01-20T14:53:00Z")
            && reason.contains("write timestamp 1"),
        "{reason}"
    );
    assert_eq!(lines(&file.path, View::Market), ["1 stock"]);
    assert_eq!(
        store
            .read_bars(&[key("stock"), key("crypto")])
            .await
            .expect("bars"),
        [Some(golden(1).into_row()), None],
        "a write is whole or not at all"
    );
}

#[tokio::test]
async fn a_damaged_view_is_named_and_not_read() {
    let file = file();
    let store = SqliteStore::new(job(&file.path));
    store
        .write(&list(View::Active, 1, &[entry("TSLA", 1, None)]))
        .await
        .expect("written");
    Connection::open(&file.path)
        .and_then(|raw| raw.execute("UPDATE views SET state = substr(state, 1, 40)", []))
        .expect("changed");
    let reason = refusal(
        store
            .views(View::Active, WindowSize::DEFAULTS[1], 0..i64::MAX)
            .await,
    );
    assert!(
        reason.contains("view active 1m 2023-01-20T14:53:00Z") && reason.contains("damaged"),
        "{reason}"
    );
}

#[tokio::test]
async fn entries_that_differ_from_their_view_are_named() {
    let file = file();
    let store = SqliteStore::new(job(&file.path));
    let entries =
        ["AAPL", "MSFT", "TSLA"].map(|name| entry(name, 10_700_000_000, Some(("100", "99.875"))));
    store
        .write(&list(View::Active, 1, &entries))
        .await
        .expect("written");
    let mismatches = async || {
        let found = store
            .audit_views(View::Active, WindowSize::DEFAULTS[1], 0..i64::MAX, 1)
            .await
            .expect("read");
        let [list] = &found[..] else {
            panic!("one list")
        };
        assert_eq!(
            list.state.as_ref().map(|list| &list.entries[..]),
            Some(&entries[..])
        );
        list.mismatches.clone()
    };
    assert!(mismatches().await.is_empty());
    let raw = Connection::open(&file.path).expect("opens");
    raw.execute_batch("UPDATE view_entries SET name = 'NVDA', close = NULL WHERE rank = 2; UPDATE view_entries SET rank = 4 WHERE rank = 3")
        .expect("changed");
    assert_eq!(
        mismatches().await,
        [
            "name of rank 2 of USD shows NVDA, its cell says MSFT",
            "close of rank 2 of USD shows nothing, its cell says 99.875",
            "rank 4 of USD is extra, its view has 3"
        ]
    );
    raw.execute_batch("DELETE FROM view_entries WHERE rank > 1")
        .expect("changed");
    assert_eq!(mismatches().await, ["1 rank(s) found, its view has 3"]);
    raw.execute_batch("UPDATE views SET epoch = 9; UPDATE view_entries SET start = start + 60000")
        .expect("changed");
    let found = store
        .audit_views(View::Active, WindowSize::DEFAULTS[1], 0..i64::MAX, 1)
        .await
        .expect("read");
    let [list, lines] = &found[..] else {
        panic!("a list and lines without one: {found:?}")
    };
    assert_eq!(
        list.mismatches,
        [
            "epoch shows 9, its cell says 1",
            "0 rank(s) found, its view has 3"
        ]
    );
    assert_eq!(
        (lines.start, &lines.state, lines.ahead),
        (list.start + 60_000, &None, Some(0))
    );
}
