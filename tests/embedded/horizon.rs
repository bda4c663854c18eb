//! Horizons: what comes too late, what leaves the file, and what `verify` says of both.

use rusqlite::Connection;
use tapeflow_ingest::simulator::FeedFile;

use crate::{
    audit::{number, summary},
    command::{Place, end_with, succeed},
    rows,
};

/// Half a minute of trades of twelve symbols in one partition, and two days later as many.
fn two_days(flags: &[&str]) -> Place {
    let place = Place::new();
    let first = FeedFile {
        trades: 1_500,
        symbols: 12,
        trades_per_second: 50,
        ..FeedFile::default()
    };
    let flags = [&["--partitions", "1", "--horizon", "1s=30h"], flags].concat();
    place.replay(&place.feed(&first), &flags);
    place.replay(
        &place.feed(&FeedFile {
            seed: 2,
            start_ms: first.start_ms + 2 * 86_400_000,
            ..first
        }),
        &flags,
    );
    place
}

fn seconds(place: &Place) -> u64 {
    let database = Connection::open(place.path("t.db")).expect("opened");
    rows::count_bars(&database, "seconds = 60") - rows::rows(&database, "seconds = 60").len() as u64
}

#[test]
fn old_seconds_leave_the_file_everything_else_stays_and_verify_knows() {
    let place = two_days(&[]);
    let csv = |size: &str| {
        let all = ["bars", "--store", &place.store, "--format", "csv", "--size"];
        succeed(&[&all[..], &[size]].concat())
    };
    let (minutes, days, before) = (csv("1m"), csv("1d"), seconds(&place));
    let said = succeed(&["expire", "--store", &place.store]);
    assert!(number(&said, "minutes, ") > 0, "{said}");
    assert!(
        said.contains("by the watermark 2024-01-04T14:30:"),
        "{said}"
    );
    let after = seconds(&place);
    assert!(after > 0 && after < before, "{after} of {before}");
    assert!(!csv("1s").contains("2024-01-02") && csv("1s").contains("2024-01-04"));
    assert_eq!((csv("1m"), csv("1d")), (minutes, days));
    let found = summary(&succeed(&["verify", "--log", &place.store]));
    assert_eq!(number(&found, "differences"), 0, "{found}");
    assert_eq!(
        number(&found, "places not compared because they are beyond"),
        before - after,
        "{found}"
    );
    // Nothing became old since.
    let again = succeed(&["expire", "--store", &place.store]);
    assert_eq!(number(&again, "minutes, "), 0, "{again}");
    // A second of a bar that is not old is missed.
    let database = Connection::open(place.path("t.db")).expect("opened");
    let symbol: String = database
        .query_row(
            "SELECT symbol FROM bars JOIN symbols ON id = symbol_id
            WHERE seconds = 60 AND start > 1704300000000 LIMIT 1",
            [],
            |row| row.get(0),
        )
        .expect("a symbol");
    let young = format!("{} AND start > 1704300000000", rows::of(&symbol, 60));
    rows::change_second(&database, &young, |_| None);
    let found = summary(&end_with(1, &["verify", "--log", &place.store]));
    assert_eq!(number(&found, "differences"), 1, "{found}");
}

#[test]
fn a_trade_beyond_the_horizon_is_in_the_longer_bars_and_beyond_all_a_dead_letter() {
    let place = Place::new();
    let trade = |time: &str, ms: i64| {
        format!(
            "{{\"type\":\"trade\",\"data\":[{{\"s\":\"AAPL\",\"p\":{time},\"t\":{ms},\"v\":1}}]}}\n"
        )
    };
    let day = 86_400_000;
    let now = 1_704_205_800_000;
    let lines = [
        trade("10", now),
        trade("11", now - 3 * day),
        trade("12", now - 20 * day),
    ]
    .concat();
    let file = place.file("late.jsonl", &lines);
    let horizons = ["--sizes", "1s,1m", "--horizon", "1s=2d,1m=10d"];
    place.replay(&file, &horizons);
    let csv = |size: &str| {
        let all = ["bars", "--store", &place.store, "--format", "csv", "--size"];
        succeed(&[&all[..], &[size]].concat()).lines().count() - 1
    };
    assert_eq!((csv("1s"), csv("1m")), (1, 2));
    let letters = succeed(&["dead-letters", "--store", &place.store]);
    assert!(
        letters.contains("too_late") && letters.contains("horizon"),
        "{letters}"
    );
    let found = place.verify();
    assert!(found.contains(" 1 dead letter,"), "{found}");
    // Another horizon is another job.
    let other = [
        &[
            "run",
            "--replay",
            &file,
            "--until-end",
            "--store",
            &place.store,
        ],
        &["--sizes", "1s,1m", "--horizon", "none"][..],
    ]
    .concat();
    let refused = end_with(2, &other);
    assert!(
        refused.contains("horizon 1s=2d,1m=10d (now none)"),
        "{refused}"
    );
}

#[test]
fn a_horizon_that_cannot_be_kept_is_refused_with_every_reason_and_writes_nothing() {
    let place = Place::new();
    let run = ["run", "--duration", "1s", "--store", &place.store];
    let wrong = ["--sizes", "1s,1m,1d", "--horizon", "1s=12h,5m=7d"];
    let said = end_with(2, &[&run[..], &wrong].concat());
    for reason in [
        "--horizon: 1s=12h is shorter than the longest window, 1d",
        "--horizon: 5m is none of the job's sizes",
    ] {
        assert!(said.contains(reason), "{said}");
    }
    assert!(!place.path("t.db").exists());
    let said = end_with(2, &["expire", "--store", &place.store]);
    assert!(said.contains("does not exist"), "{said}");
    place.replay(
        &place.feed(&FeedFile {
            trades: 10,
            ..FeedFile::default()
        }),
        &["--horizon", "none"],
    );
    let said = end_with(2, &["expire", "--store", &place.store]);
    assert!(said.contains("has no horizon"), "{said}");
}
