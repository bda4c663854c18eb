//! `verify` on a log whose first records retention has removed: what they cannot have touched is
//! judged, and the rest is not guessed at.

use rusqlite::Connection;
use tapeflow_ingest::simulator::FeedFile;

use crate::command::{Place, end_with};

/// Where the second feed begins, an hour after the first.
const LATER_MS: i64 = 1_704_205_800_000 + 3_600_000;
/// The hour of the second feed: no window of the first, but the day, starts as late as this.
const SECOND_HOUR_MS: i64 = LATER_MS - 1_800_000;

/// A store after two runs, and where the first of them ended.
struct Kept {
    place: Place,
    database: Connection,
    end_of_first: Vec<i64>,
}

impl Kept {
    /// Two runs of half a minute each, an hour apart, of the same symbols, and so of the same day.
    /// `between` is done to the file between them.
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

    /// The same in a file of its own.
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

    /// `tapeflow verify`, which must end with `code`; all it said, and its numbers by the words
    /// behind them.
    fn verify(&self, code: i32) -> (String, impl Fn(&str) -> u64 + use<>) {
        let said = end_with(code, &["verify", "--log", &self.place.store]);
        let last = said
            .lines()
            .find(|line| line.contains(" differences; "))
            .expect("the last line")
            .to_owned();
        let number = move |words: &str| {
            let (before, _) = last
                .split_once(&format!(" {words}"))
                .unwrap_or_else(|| panic!("{words:?} in {last}"));
            before
                .rsplit(' ')
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or_else(|| panic!("a number before {words:?} in {last}"))
        };
        (said, number)
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
fn what_the_removed_records_cannot_have_touched_is_judged() {
    let kept = Kept::two_runs(|_| {});
    let (_, number) = kept.verify(0);
    assert_eq!(
        (number("bars compared"), number("lists compared")),
        (kept.count("bars"), kept.count("views"))
    );
    assert!(number("records out of reach") == 0 && number("lists compared") > 10);

    remove(&kept.database, &kept.end_of_first);
    let (said, number) = kept.verify(0);
    let gone = u64::try_from(kept.end_of_first.iter().sum::<i64>()).expect("offsets");
    assert_eq!(
        (number("differences"), number("records out of reach")),
        (0, gone),
        "{said}"
    );
    // Of a day, both runs have trades.
    let of_second = format!("WHERE start >= {SECOND_HOUR_MS}");
    assert_eq!(
        number("bars compared"),
        kept.count(&format!("bars {of_second}")),
        "{said}"
    );
    assert_eq!(
        number("bars and "),
        kept.count("bars") - kept.count(&format!("bars {of_second}")),
        "{said}"
    );
    assert_eq!(
        number("lists compared"),
        kept.count(&format!("views {of_second}")),
        "{said}"
    );
    assert_eq!(
        number("lists that may rest"),
        kept.count("views") - kept.count(&format!("views {of_second}")),
        "{said}"
    );
    assert!(
        number("bars compared") > 50 && number("bars and ") > 50 && number("lists compared") >= 9,
        "{said}"
    );
}

#[test]
fn faults_in_what_can_be_judged_are_found_though_records_are_gone() {
    let kept = Kept::two_runs(|_| {});
    remove(&kept.database, &kept.end_of_first);
    assert_eq!((kept.verify(0).1)("differences"), 0);
    let hour = format!("size = '1h' AND start = {SECOND_HOUR_MS}");
    let state =
        |table: &str, of: &str| format!("(SELECT state FROM {table} WHERE {of} AND {hour})");
    let cases = [
        // AAPL trades most: a bar with fewer trades than the remaining log makes is wrong, whatever
        // is gone.
        (format!("UPDATE bars SET state = {} WHERE symbol = 'AAPL' AND {hour}", state("bars", "symbol = 'MSFT'")), "AAPL 1h "),
        (format!("DELETE FROM bars WHERE symbol = 'AAPL' AND {hour}"), "AAPL 1h "),
        // Even of the day, of which only part can be recomputed.
        ("DELETE FROM bars WHERE symbol = 'AAPL' AND size = '1d'".to_owned(), "AAPL 1d "),
        (format!("UPDATE views SET state = {} WHERE view_name = 'active' AND {hour}", state("views", "view_name = 'movers'")), "view active 1h "),
        (format!("DELETE FROM views WHERE view_name = 'movers' AND {hour}"), "view movers 1h "),
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
fn a_record_that_may_repeat_a_removed_one_is_held_against_nobody() {
    // The first record comes again, as a producer may send it, at the end of the first run.
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
    // Only the job can have known that it is a repeat.
    let (said, number) = kept.verify(0);
    assert_eq!(
        (
            number("differences"),
            number("duplicates"),
            number("bars compared"),
            number("lists compared")
        ),
        (0, 0, 0, 0),
        "{said}"
    );
    assert_eq!(
        (number("bars and "), number("lists that may rest")),
        (kept.count("bars"), kept.count("views")),
        "{said}"
    );
}

#[test]
fn what_was_removed_before_the_job_began_is_no_loss() {
    let kept = Kept::two_runs(|database| {
        // Another job's: its log is old, its store is new.
        remove(database, &[5, 6]);
        for table in [
            "bars",
            "views",
            "view_entries",
            "symbols",
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
        (number("bars compared"), number("lists compared")),
        (kept.count("bars"), kept.count("views")),
        "{said}"
    );
    assert_eq!(number("records out of reach"), 0, "{said}");
}

#[test]
fn with_nothing_left_nothing_is_judged() {
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
    let (said, number) = kept.verify(0);
    assert_eq!(
        (
            number("bars compared"),
            number("lists compared"),
            number("bars and ")
        ),
        (0, 0, kept.count("bars")),
        "{said}"
    );
    assert_eq!(
        number("records out of reach"),
        u64::try_from(ends.iter().sum::<i64>()).expect("offsets"),
        "{said}"
    );
}
