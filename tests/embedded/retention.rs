//! `verify` on a log whose first records retention has removed: it compares what they cannot have
//! touched, and leaves the rest out.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tapeflow_ingest::simulator::FeedFile;

use crate::{
    audit::{number, summary},
    command::{Place, end_with, tapeflow},
    rows,
};

/// Where the second feed begins, an hour after the first.
const LATER_MS: i64 = 1_704_205_800_000 + 3_600_000;
/// The hour of the second feed. Except for the day, no window of the first feed starts as late.
const SECOND_HOUR_MS: i64 = LATER_MS - 1_800_000;

/// A store after two runs, and the offsets where the first run ended.
struct Kept {
    place: Place,
    database: Connection,
    end_of_first: Vec<i64>,
}

impl Kept {
    /// Two runs of half a minute each, an hour apart, with the same symbols on the same day.
    /// `between` changes the file between the runs.
    fn two_runs(between: impl FnOnce(&Connection)) -> Self {
        let place = Place::new();
        let first = FeedFile {
            trades: 3_000,
            symbols: 12,
            trades_per_second: 100,
            ..FeedFile::default()
        };
        place.replay(&place.feed(&first), &["--partitions", "2"]);
        let database = Connection::open(place.path("t.db")).expect("opened");
        let cuts: String = database
            .query_row(
                "SELECT cuts FROM history ORDER BY epoch DESC LIMIT 1",
                [],
                |bar| bar.get(0),
            )
            .expect("history");
        let end_of_first: Vec<i64> = serde_json::from_str(&cuts).expect("offsets");
        assert!(end_of_first.iter().all(|end| *end > 10), "{end_of_first:?}");
        between(&database);
        place.replay(
            &place.feed(&FeedFile {
                seed: 2,
                start_ms: LATER_MS,
                ..first
            }),
            &[],
        );
        Self {
            place,
            database,
            end_of_first,
        }
    }

    /// A copy in another file.
    fn copy(&self) -> Self {
        let place = Place::new();
        let file = place.path("t.db");
        self.database
            .execute("VACUUM INTO ?1", [file.to_str().expect("a path in UTF-8")])
            .expect("copied");
        let database = Connection::open(file).expect("opened");
        Self {
            place,
            database,
            end_of_first: self.end_of_first.clone(),
        }
    }

    fn execute(&self, change: &str) {
        let changed = self.database.execute(change, []).expect("changed");
        assert!(changed > 0, "{change}");
    }

    fn count(&self, what: &str) -> u64 {
        let count: i64 = self
            .database
            .query_row(&format!("SELECT count(*) FROM {what}"), [], |bar| {
                bar.get(0)
            })
            .expect("counted");
        u64::try_from(count).expect("a count")
    }

    /// The bars in the rows that meet a condition.
    fn bars(&self, condition: &str) -> u64 {
        rows::count_bars(&self.database, condition)
    }

    /// Runs `tapeflow verify`, which must end with `code`. Returns its output, and its numbers by the
    /// words after them.
    fn verify(&self, code: i32) -> (String, impl Fn(&str) -> u64 + use<>) {
        let said = end_with(code, &["verify", "--log", &self.place.store]);
        let summary = summary(&said);
        (said, move |words: &str| number(&summary, words))
    }
}

/// Removes the records below these offsets, as retention does.
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
fn what_the_removed_records_cannot_have_touched_is_compared() {
    let kept = Kept::two_runs(|_| {});
    let (_, number) = kept.verify(0);
    assert_eq!(
        (number("bars compared"), number("views compared")),
        (kept.bars("true"), kept.count("views"))
    );
    assert!(number("records no longer in the log") == 0 && number("views compared") > 10);

    remove(&kept.database, &kept.end_of_first);
    let (said, number) = kept.verify(0);
    let gone = u64::try_from(kept.end_of_first.iter().sum::<i64>()).expect("offsets");
    assert_eq!(
        (
            number("differences"),
            number("records no longer in the log")
        ),
        (0, gone),
        "{said}"
    );
    // Both runs have trades on the day.
    let of_second = format!("start >= {SECOND_HOUR_MS}");
    assert_eq!(number("bars compared"), kept.bars(&of_second), "{said}");
    assert_eq!(
        number("bars and "),
        kept.bars("true") - kept.bars(&of_second),
        "{said}"
    );
    assert_eq!(
        number("views compared"),
        kept.count(&format!("views WHERE {of_second}")),
        "{said}"
    );
    assert_eq!(
        number("views that may contain"),
        kept.count("views") - kept.count(&format!("views WHERE {of_second}")),
        "{said}"
    );
    assert!(
        number("bars compared") > 50 && number("bars and ") > 50 && number("views compared") >= 9,
        "{said}"
    );
}

#[test]
fn errors_in_what_can_be_compared_are_found_although_records_are_gone() {
    let kept = Kept::two_runs(|_| {});
    remove(&kept.database, &kept.end_of_first);
    assert_eq!((kept.verify(0).1)("differences"), 0);
    let start = format!("start = {SECOND_HOUR_MS}");
    let bar = |symbol: &str| format!("{} AND {start}", rows::of(symbol, 3_600));
    let view = |view: &str| format!("view_name = '{view}' AND size = '1h' AND {start}");
    let cases = [
        // AAPL trades most. A bar with fewer trades than the remaining records have is wrong,
        // whatever is gone.
        (format!("UPDATE bars SET state = (SELECT state FROM bars WHERE {}) WHERE {}", bar("MSFT"), bar("AAPL")), "AAPL 1h "),
        (format!("DELETE FROM bars WHERE {}", bar("AAPL")), "AAPL 1h "),
        // Also on the day, of which only a part can be recomputed.
        (format!("DELETE FROM bars WHERE {}", rows::of("AAPL", 86_400)), "AAPL 1d "),
        (format!("UPDATE views SET state = (SELECT state FROM views WHERE {}) WHERE {}", view("movers"), view("active")), "view active 1h "),
        (format!("DELETE FROM views WHERE {}", view("movers")), "view movers 1h "),
        ("DELETE FROM views WHERE view_name = 'market' AND size = '1d' AND start_utc LIKE '%T05:00:00Z'".to_owned(), "view market 1d "),
    ];
    for (change, hint) in cases {
        let copy = kept.copy();
        copy.execute(&change);
        let (said, number) = copy.verify(1);
        assert!(
            said.contains(hint) && number("differences") == 1,
            "{change}:\n{said}"
        );
    }
}

#[test]
fn a_record_that_may_repeat_a_removed_one_is_no_difference() {
    // At the end of the first run, the first record comes again, as a producer may repeat it.
    let kept = Kept::two_runs(|database| {
        let columns = "timestamp_ms, key, payload";
        let again = format!(
            "INSERT INTO log (partition, \"offset\", {columns})
             SELECT partition, (SELECT next_offset FROM log_partitions WHERE partition = 0), {columns} FROM log WHERE partition = 0 AND \"offset\" = 0"
        );
        database.execute(&again, []).expect("appended");
        database
            .execute(
                "UPDATE log_partitions SET next_offset = next_offset + 1 WHERE partition = 0",
                [],
            )
            .expect("appended");
    });
    let (said, number) = kept.verify(0);
    assert_eq!(
        (number("differences"), number("duplicates")),
        (0, 1),
        "{said}"
    );
    remove(&kept.database, &kept.end_of_first);
    // Only the job can know that the record is a duplicate.
    let (said, number) = kept.verify(4);
    assert_eq!(
        (
            number("differences"),
            number("duplicates"),
            number("bars compared"),
            number("views compared")
        ),
        (0, 0, 0, 0),
        "{said}"
    );
    assert_eq!(
        (number("bars and "), number("views that may contain")),
        (kept.bars("true"), kept.count("views")),
        "{said}"
    );
}

#[test]
fn records_removed_before_the_job_began_are_no_loss() {
    let kept = Kept::two_runs(|database| {
        // As for a new job: its log is old, its store is empty.
        remove(database, &[5, 6]);
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
            database
                .execute(&format!("DELETE FROM {table}"), [])
                .expect("emptied");
        }
    });
    let (said, number) = kept.verify(0);
    assert_eq!(
        (number("bars compared"), number("views compared")),
        (kept.bars("true"), kept.count("views")),
        "{said}"
    );
    assert_eq!(number("records no longer in the log"), 0, "{said}");
}

#[test]
fn with_no_records_left_nothing_is_compared() {
    let kept = Kept::two_runs(|_| {});
    let ends: Vec<i64> = {
        let mut select = kept
            .database
            .prepare("SELECT next_offset FROM log_partitions ORDER BY partition")
            .expect("prepared");
        select
            .query_map([], |bar| bar.get(0))
            .expect("asked")
            .collect::<Result<_, _>>()
            .expect("read")
    };
    remove(&kept.database, &ends);
    let (said, number) = kept.verify(4);
    assert_eq!(
        (
            number("bars compared"),
            number("views compared"),
            number("bars and ")
        ),
        (0, 0, kept.bars("true")),
        "{said}"
    );
    assert_eq!(
        number("records no longer in the log"),
        u64::try_from(ends.iter().sum::<i64>()).expect("offsets"),
        "{said}"
    );
}

/// The first offset that each partition keeps.
fn first_offsets(database: &Connection) -> Vec<i64> {
    let mut select = database
        .prepare("SELECT first_offset FROM log_partitions ORDER BY partition")
        .expect("prepared");
    let rows = select.query_map([], |row| row.get(0)).expect("queried");
    rows.map(|row| row.expect("an offset")).collect()
}

#[test]
fn run_removes_committed_records_that_are_old_and_verify_compares_the_rest() {
    let kept = Kept::two_runs(|database| {
        // As if the first run had been long ago, but for the last records, which the job knows.
        let old = "UPDATE log SET timestamp_ms = 1000 WHERE \"offset\" + 1 <
            (SELECT next_offset FROM log_partitions AS p WHERE p.partition = log.partition)";
        database.execute(old, []).expect("changed");
    });
    let last: Vec<i64> = kept.end_of_first.iter().map(|end| end - 1).collect();
    let mut run = tapeflow(&[
        "run",
        "--store",
        &kept.place.store,
        "--replay",
        kept.place
            .path("feed.jsonl")
            .to_str()
            .expect("a path in UTF-8"),
        "--keep",
        "1h",
        "--duration",
        "2s",
    ])
    .stdout(Stdio::null())
    .stderr(Stdio::null())
    .spawn()
    .expect("the binary starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    while first_offsets(&kept.database) != last {
        assert!(
            Instant::now() < deadline,
            "{:?}",
            first_offsets(&kept.database)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(run.wait().expect("ended").success());
    let (said, number) = kept.verify(0);
    let gone = u64::try_from(last.iter().sum::<i64>()).expect("offsets");
    assert_eq!(
        (
            number("records no longer in the log"),
            number("differences")
        ),
        (gone, 0),
        "{said}"
    );
    assert!(number("bars compared") > 100, "{said}");
}
