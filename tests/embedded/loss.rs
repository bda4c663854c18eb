//! `--accept-loss` at the command line: records that retention removed before they were committed
//! are named, given up only on request, kept as a dead letter, and known to `verify`.

use rusqlite::Connection;
use tapeflow_ingest::simulator::FeedFile;

use crate::{
    audit::number,
    command::{Place, end_with, succeed, tapeflow, told},
    rows,
};

/// An hour after the first feed.
const LATER_MS: i64 = 1_704_205_800_000 + 3_600_000;

/// A store whose log has two feeds and whose job has read the first. Returns the offsets where the
/// first feed ends too.
fn half_read() -> (Place, Connection, Vec<i64>) {
    let place = Place::new();
    let first = FeedFile {
        trades: 2_000,
        symbols: 8,
        trades_per_second: 100,
        ..FeedFile::default()
    };
    place.replay(&place.feed(&first), &["--partitions", "2"]);
    let both = Connection::open(place.path("t.db")).expect("opened");
    let half = place.path("half.db");
    both.execute("VACUUM INTO ?1", [half.to_str().expect("UTF-8")])
        .expect("copied");
    place.replay(
        &place.feed(&FeedFile {
            seed: 2,
            start_ms: LATER_MS,
            ..first
        }),
        &[],
    );
    both.execute("ATTACH ?1 AS half", [half.to_str().expect("UTF-8")])
        .expect("attached");
    let ends: String = both
        .query_row(
            "SELECT cuts FROM half.history ORDER BY epoch DESC LIMIT 1",
            [],
            |bar| bar.get(0),
        )
        .expect("history");
    for table in [
        "bars",
        "views",
        "view_entries",
        "symbols",
        "symbol_buckets",
        "history",
        "dead_letters",
        "checkpoint",
    ] {
        // Columns that are computed are not inserted.
        let mut columns = both
            .prepare("SELECT group_concat(name) FROM pragma_table_info(?1)")
            .expect("prepared");
        let columns: String = columns
            .query_row([table], |bar| bar.get(0))
            .expect("columns");
        both.execute_batch(&format!("DELETE FROM main.{table}; INSERT INTO main.{table} ({columns}) SELECT {columns} FROM half.{table}"))
            .expect("restored");
    }
    both.execute("DETACH half", []).expect("detached");
    (place, both, serde_json::from_str(&ends).expect("offsets"))
}

fn remove(database: &Connection, below: &[i64]) {
    for (partition, below) in (0i64..).zip(below) {
        database
            .execute(
                "DELETE FROM log WHERE partition = ?1 AND \"offset\" < ?2",
                [partition, *below],
            )
            .expect("removed");
        database
            .execute(
                "UPDATE log_partitions SET first_offset = ?2 WHERE partition = ?1",
                [partition, *below],
            )
            .expect("moved");
    }
}

#[test]
fn missing_records_are_named_and_given_up_only_on_request() {
    let (place, database, committed) = half_read();
    let starts: Vec<i64> = committed.iter().map(|next| next + 15).collect();
    remove(&database, &starts);
    let feed = place.path("feed.jsonl").to_str().expect("UTF-8").to_owned();
    let run = [
        "run",
        "--replay",
        &feed,
        "--until-end",
        "--store",
        &place.store,
    ];

    let before = place.bars();
    let said = end_with(2, &run);
    for (partition, (next, start)) in committed.iter().zip(&starts).enumerate() {
        let named = format!(
            "partition {partition}: offsets {next} to {} are gone from the log (it begins at {start})",
            start - 1
        );
        assert!(said.contains(&named), "{named:?} in\n{said}");
    }
    assert!(said.contains("--accept-loss"), "{said}");
    assert_eq!(place.bars(), before, "nothing was written");

    let output = tapeflow(&[&run[..], &["--accept-loss"]].concat())
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{}", told(&output));
    let warned = String::from_utf8_lossy(&output.stderr).into_owned();
    for (partition, (next, start)) in committed.iter().zip(&starts).enumerate() {
        let warning = format!(
            "offsets {next} to {} of partition {partition} are gone from the log before they were committed, and given up",
            start - 1
        );
        assert_eq!(
            warned.matches(&warning).count(),
            1,
            "{warning:?} in\n{warned}"
        );
    }
    let bars = place.bars();
    assert!(
        bars.lines().count() > before.lines().count() + 50,
        "the second feed is in the bars"
    );
    let letters = || {
        let listed = succeed(&["dead-letters", "--store", &place.store, "--format", "csv"]);
        listed
            .lines()
            .filter(|line| line.contains(",lost,"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let lost = letters();
    assert_eq!(lost.len(), 2, "{lost:?}");
    for (line, (next, start)) in lost.iter().zip(committed.iter().zip(&starts)) {
        assert!(
            line.contains(&format!(",{next},"))
                && line.contains(&format!("offsets {next} to {} of partition", start - 1)),
            "{line}"
        );
    }

    // The next run needs no permission and reports nothing twice.
    let said = end_with(0, &run);
    assert!(!said.contains("given up"), "{said}");
    assert_eq!((letters(), place.bars()), (lost, bars));

    let said = end_with(0, &["verify", "--log", &place.store]);
    let of_second = format!("start >= {}", LATER_MS - 1_800_000);
    let bars_of_second = rows::count_bars(&database, &of_second);
    let views_of_second: i64 = database
        .query_row(
            &format!("SELECT count(*) FROM views WHERE {of_second}"),
            [],
            |count| count.get(0),
        )
        .expect("counted");
    let views_of_second = u64::try_from(views_of_second).expect("a count");
    assert_eq!(
        (
            number(&said, "differences"),
            number(&said, "bars compared"),
            number(&said, "views compared")
        ),
        (0, bars_of_second, views_of_second),
        "{said}"
    );
    assert!(bars_of_second > 50 && views_of_second > 8, "{said}");
    // What remains of the epoch with the loss is compared as well: an error there is found.
    let symbol = "symbol_id = (SELECT id FROM symbols ORDER BY symbol LIMIT 1)";
    let first = format!(
        "{symbol} AND seconds = 60 AND start = (SELECT min(start) FROM bars WHERE {symbol} AND seconds = 60 AND {of_second})"
    );
    // The minute has the trades of one of its seconds alone; the seconds are right. More trades
    // than the rest of the log has may be of the records that are gone.
    rows::change(&database, &first, |minute, row| {
        let second = row.packed.iter(minute).next().expect("a second");
        row.state.totals = second.expect("a cell").totals;
    });
    let said = end_with(1, &["verify", "--log", &place.store]);
    assert_eq!(number(&said, "differences"), 1, "{said}");
}
