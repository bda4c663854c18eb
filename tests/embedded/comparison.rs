//! `verify` finds every kind of difference, and dead letters are kept. A `verify` that never finds
//! anything would pass all other tests.

use std::fs;

use rusqlite::Connection;
use tapeflow_ingest::simulator::FeedFile;
use tapeflow_schemas::PackedBar;

use crate::{
    command::{Place, end_with, golden, succeed, values},
    rows,
};

/// Changes the store outside the job by a statement. `verify` must find `times` differences and
/// print `hint`.
fn found(change: &str, times: usize, hint: &str) {
    let change = |database: &Connection| {
        let changed = database.execute(change, []).expect("changed");
        assert!(changed > 0, "{change}");
    };
    found_after(change, times, hint);
}

fn found_after(change: impl FnOnce(&Connection), times: usize, hint: &str) {
    let place = Place::new();
    place.replay(
        &place.feed(&FeedFile {
            trades: 2_000,
            symbols: 10,
            ..FeedFile::default()
        }),
        &[],
    );
    place.verify();
    change(&Connection::open(place.path("t.db")).expect("opened"));
    let said = end_with(1, &["verify", "--log", &place.store]);
    assert!(said.contains(hint), "{said}");
    let differences = format!("{times} difference");
    assert!(
        said.lines().any(|line| line.starts_with(&differences)),
        "{differences} in\n{said}"
    );
}

#[test]
fn verify_finds_a_bar_with_other_values() {
    // A valid cell of another symbol: only a recomputation shows that it is wrong.
    found(
        "UPDATE bars SET state = (SELECT state FROM bars WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'MSFT') AND seconds = 86400) WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'AAPL') AND seconds = 86400",
        1,
        "AAPL 1d",
    );
}

#[test]
fn verify_finds_a_missing_bar() {
    found(
        "DELETE FROM bars WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'AAPL') AND seconds = 86400",
        1,
        "the store has no bar",
    );
}

#[test]
fn verify_finds_a_bar_that_no_trade_made() {
    let the_day_before = |database: &Connection| {
        let day = rows::of("AAPL", 86_400);
        let start = rows::rows(database, &day)[0].0 - 86_400_000;
        rows::add(database, &day, rows::symbol_id(database, "AAPL"), start);
    };
    found_after(the_day_before, 1, "AAPL 1d");
}

#[test]
fn verify_finds_the_cell_of_another_window() {
    // A cell belongs to the start of its window.
    found(
        "UPDATE bars SET state = (SELECT state FROM bars WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'AAPL') AND seconds = 86400) WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'AAPL') AND seconds = 3600",
        1,
        "state cell is damaged",
    );
}

#[test]
fn verify_finds_a_wrong_second_in_a_right_minute() {
    type Change = fn(PackedBar) -> Option<PackedBar>;
    let cases: [(Change, &str); 2] = [
        (rows::doubled, " (epoch 1): volume_e8 (all) is "),
        (
            |_| None,
            ": the log has trades for it, the store has no bar",
        ),
    ];
    for (change, hint) in cases {
        let damage = |database: &Connection| {
            rows::change_second(database, &rows::of("AAPL", 60), change);
        };
        found_after(damage, 1, &format!("AAPL 1s 2024-01-02T14:29:58Z{hint}"));
    }
}

/// A condition for the newest view of a kind and size.
fn newest_view(view: &str, size: &str) -> String {
    format!(
        "view_name = '{view}' AND size = '{size}' AND start = (SELECT max(start) FROM views WHERE view_name = '{view}' AND size = '{size}')"
    )
}

#[test]
fn verify_finds_a_view_with_other_entries() {
    for (view, other) in [
        ("active", "movers"),
        ("movers", "active"),
        ("market", "active"),
    ] {
        // A valid cell of another view.
        let state = format!("SELECT state FROM views WHERE {}", newest_view(other, "1m"));
        found(
            &format!(
                "UPDATE views SET state = ({state}) WHERE {}",
                newest_view(view, "1m")
            ),
            1,
            &format!("view {view} 1m "),
        );
    }
}

#[test]
fn verify_prints_the_rank_with_both_sides() {
    let place = Place::new();
    place.replay(&golden("crowd.jsonl"), &[]);
    let database = Connection::open(place.path("t.db")).expect("opened");
    // The view of the hour has the same first ranks, and more trades at later ones.
    let change = "UPDATE views SET state = (SELECT state FROM views WHERE view_name = 'active' AND size = '1h' AND start = 1718978400000)
        WHERE view_name = 'active' AND size = '5m' AND start = 1718979600000";
    assert_eq!(database.execute(change, []).expect("changed"), 1);
    let said = end_with(1, &["verify", "--log", &place.store]);
    let line = said
        .lines()
        .find(|line| line.starts_with("view active 5m 2024-06-21T14:20:00Z (epoch "))
        .unwrap_or_else(|| panic!("{said}"));
    assert!(
        line.contains("rank 5 of USD is S01 (USD, 1 symbol, 3 trades,")
            && line.contains("recomputed S01 (USD, 1 symbol, 2 trades,"),
        "{line}"
    );
    assert!(!line.contains("rank 1 "), "{line}");
}

#[test]
fn verify_finds_a_missing_view() {
    for view in ["active", "movers", "market"] {
        found(
            &format!("DELETE FROM views WHERE {}", newest_view(view, "1h")),
            1,
            &format!("view {view} 1h "),
        );
    }
}

#[test]
fn verify_finds_a_view_that_no_trade_made() {
    let columns = "epoch, write_timestamp, state";
    let view = format!(
        "INSERT INTO views (view_name, size, start, {columns}) SELECT view_name, size, start - 86400000, {columns} FROM views"
    );
    found(
        &format!("{view} WHERE {}", newest_view("active", "1h")),
        1,
        "view active 1h ",
    );
}

#[test]
fn what_cannot_be_counted_becomes_a_dead_letter_and_the_stream_goes_on() {
    let place = Place::new();
    let good = fs::read_to_string(golden("finnhub-recorded.jsonl")).expect("the recording");
    let trade = |symbol: &str, price: &str| {
        format!(
            r#"{{"data":[{{"c":null,"p":{price},"s":"{symbol}","t":1680286537580,"v":1}}],"type":"trade"}}"#
        )
    };
    let poison = [
        ("json", "{\"data\":[{".to_owned()),
        ("frame_type", r#"{"type":"surprise"}"#.to_owned()),
        ("price", trade("AAPL", "-1")),
        ("symbol", trade(&"A".repeat(2_000), "1")),
        ("frame_too_large", trade(&"A".repeat(1 << 20), "1")),
    ];
    let mut lines: Vec<&str> = poison.iter().map(|(_, line)| line.as_str()).collect();
    lines.extend(good.lines());
    let file = place.file("poison.jsonl", &lines.join("\n"));
    place.replay(&file, &["--horizon", "none"]);
    assert_eq!(
        values(&place.bars()),
        values(&fs::read_to_string(golden("finnhub-recorded.csv")).expect("the golden file"))
    );
    assert!(
        place
            .verify()
            .contains(&format!(" {} dead letters", poison.len())),
        "{}",
        place.verify()
    );
    let list = succeed(&["dead-letters", "--store", &place.store, "--format", "csv"]);
    assert_eq!(list.lines().count(), 1 + poison.len(), "{list}");
    for (reason, _) in &poison {
        assert!(
            list.lines()
                .any(|line| line.split(',').nth(3) == Some(reason)),
            "{reason} in\n{list}"
        );
    }
}

#[test]
fn status_names_the_epochs_and_the_offsets() {
    let place = Place::new();
    place.replay(&golden("finnhub-recorded.jsonl"), &["--partitions", "3"]);
    let status: serde_json::Value = serde_json::from_str(&succeed(&[
        "status",
        "--store",
        &place.store,
        "--format",
        "json",
    ]))
    .expect("JSON");
    assert_eq!(status["checkpoint"]["generation"], 1);
    assert_eq!(
        status["checkpoint"]["committed"]["cuts"]
            .as_array()
            .map(Vec::len),
        Some(3)
    );
    assert_eq!(
        status["checkpoint"]["bound"],
        serde_json::json!([]),
        "everything is committed"
    );
    let table = succeed(&["status", "--store", &place.store]);
    for part in ["t.db\n", "epoch committed", "2024-11-14", "lag in all"] {
        assert!(table.contains(part), "{part:?} in {table}");
    }
}

#[test]
fn status_shows_how_far_the_job_is_behind_its_log() {
    let place = Place::new();
    place.replay(&golden("finnhub-recorded.jsonl"), &["--partitions", "3"]);
    let status = |format: &str| {
        succeed(&[
            "status",
            "--store",
            &place.store,
            "--log",
            &place.store,
            "--format",
            format,
        ])
    };
    assert!(
        status("table").contains("lag in all       0 records"),
        "{}",
        status("table")
    );
    // Two more records than the job has read.
    let database = Connection::open(place.path("t.db")).expect("opened");
    database
        .execute(
            "UPDATE log_partitions SET next_offset = next_offset + 2 WHERE partition = 1",
            [],
        )
        .expect("changed");
    let json: serde_json::Value = serde_json::from_str(&status("json")).expect("JSON");
    let lag: Vec<_> = json["lag"]
        .as_array()
        .expect("partitions")
        .iter()
        .map(|lag| lag["uncommitted"].as_i64())
        .collect();
    assert_eq!(lag, [Some(0), Some(2), Some(0)]);
    assert_eq!(json["lag"][1]["unbound"], 2);
    assert!(
        status("table").contains("lag in all       2 records"),
        "{}",
        status("table")
    );

    // With the log of another store, or without one, it prints the checkpoint and the error.
    let other = Place::new();
    other.replay(&golden("finnhub-recorded.jsonl"), &[]);
    for (log, hint) in [
        (other.store.as_str(), "--log"),
        ("sqlite:no-such.db", "no-such.db"),
    ] {
        let said = end_with(2, &["status", "--store", &place.store, "--log", log]);
        assert!(
            said.contains("epoch committed") && said.contains(hint),
            "{said}"
        );
    }
}
