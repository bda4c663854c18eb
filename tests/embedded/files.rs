//! The SQLite file of `tapeflow run`: whole after a clean end, copied while it runs, and refused by
//! name if its tables are of another version.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use rusqlite::{Connection, OpenFlags};

use crate::{
    command::{Place, end_with, golden, succeed, tapeflow, told, values},
    http::until,
};

/// What stands in the folder of a test.
fn names(place: &Place) -> BTreeSet<String> {
    let entries = fs::read_dir(place.path("")).expect("a folder");
    entries
        .map(|entry| {
            let name = entry.expect("an entry").file_name();
            name.into_string().expect("UTF-8")
        })
        .collect()
}

fn only(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

/// Starts the simulated feed, and returns once it has printed a line.
fn running(place: &Place) -> (std::process::Child, impl Iterator<Item = String> + use<>) {
    let mut run = tapeflow(&["run", "--store", &place.store, "--rate", "200"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let lines = BufReader::new(run.stdout.take().expect("piped")).lines();
    let mut lines = lines.map(|line| line.expect("text"));
    assert!(lines.next().is_some(), "it has begun");
    (run, lines)
}

fn signal(name: &str, run: &std::process::Child) {
    let sent = Command::new("kill")
        .args([name, &run.id().to_string()])
        .status();
    assert!(sent.expect("kill runs").success());
}

#[test]
fn after_a_clean_end_nothing_stands_beside_the_file() {
    let place = Place::new();
    place.replay(&golden("finnhub-recorded.jsonl"), &[]);
    assert_eq!(names(&place), only(&["t.db"]), "a recording to its end");
    let (mut run, lines) = running(&place);
    assert!(place.path("t.db.lock").exists(), "one process writes");
    signal("-TERM", &run);
    drop(lines.last());
    assert_eq!(run.wait().expect("ended").code(), Some(0));
    assert_eq!(names(&place), only(&["t.db"]), "a signal");
    // Readers leave nothing behind either.
    let bars = place.bars();
    place.verify();
    succeed(&["status", "--store", &place.store]);
    assert_eq!(names(&place), only(&["t.db"]), "readers");
    let other = format!("sqlite:{}", place.path("other.db").display());
    let job = [
        "dataflow",
        "--log",
        &place.store,
        "--store",
        &other,
        "--until-end",
    ];
    succeed(&job);
    assert_eq!(
        names(&place),
        only(&["other.db", "t.db"]),
        "a job of two files"
    );
    // The file alone is the store.
    let copy = Place::new();
    fs::copy(place.path("t.db"), copy.path("t.db")).expect("copied");
    assert_eq!(copy.bars(), bars);
    assert!(copy.verify().starts_with("0 differences"));
}

#[test]
fn a_killed_run_leaves_a_file_that_the_next_one_makes_whole() {
    let place = Place::new();
    let (mut run, _lines) = running(&place);
    run.kill().expect("killed");
    run.wait().expect("gone");
    assert!(place.path("t.db-wal").exists() && place.path("t.db.lock").exists());
    place.verify();
    succeed(&["run", "--store", &place.store, "--duration", "300ms"]);
    assert_eq!(names(&place), only(&["t.db"]));
    assert!(place.verify().starts_with("0 differences"));
}

#[test]
fn a_running_file_can_be_copied_and_the_copy_is_a_store() {
    let place = Place::new();
    let (mut run, lines) = running(&place);
    until("bars are committed", || {
        (place.bars().lines().count() > 1).then_some(())
    });
    // As `docs/operations.md` says.
    let copy = Place::new();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let source = Connection::open_with_flags(place.path("t.db"), flags).expect("opened");
    let into = copy.path("t.db");
    source
        .execute("VACUUM INTO ?1", [into.to_str().expect("UTF-8")])
        .expect("copied");
    drop(source);
    signal("-TERM", &run);
    drop(lines.last());
    assert_eq!(run.wait().expect("ended").code(), Some(0));
    assert!(copy.verify().starts_with("0 differences"));
    let before = values(&copy.bars()).len();
    assert!(before > 1, "the copy holds bars");
    succeed(&["run", "--store", &copy.store, "--duration", "300ms"]);
    assert!(copy.verify().starts_with("0 differences"));
    assert_eq!(names(&copy), only(&["t.db"]));
    assert_eq!(names(&place), only(&["t.db"]));
}

#[test]
fn tables_of_another_version_are_refused_by_file_version_and_what_to_do() {
    let changed = |statement: &str, hints: &[&str]| {
        let place = Place::new();
        place.replay(&golden("finnhub-recorded.jsonl"), &[]);
        let database = Connection::open(place.path("t.db")).expect("opened");
        database.execute_batch(statement).expect("changed");
        drop(database);
        let recording = golden("crowd.jsonl");
        let run = ["run", "--replay", &recording, "--until-end", "--store"];
        for command in [&["bars", "--store"][..], &["verify", "--log"], &run] {
            let said = end_with(2, &[command, &[&place.store]].concat());
            for hint in [&["t.db", "--store"], hints].concat() {
                assert!(said.contains(hint), "{hint:?} in {said}");
            }
        }
    };
    changed(
        "UPDATE schema SET format = 99",
        &["tables of version 99", "wants version 1", "newer"],
    );
    changed(
        "UPDATE schema SET format = 0",
        &["tables of version 0", "wants version 1"],
    );
    // A build between two releases had other tables under the same number.
    changed(
        "ALTER TABLE bars RENAME COLUMN write_timestamp TO written",
        &["version 1", "table bars"],
    );
    changed(
        "DROP TABLE dead_letters",
        &["version 1", "table dead_letters"],
    );
}

/// The tables of bars as builds before the first release made them: a row for each second, with
/// display columns, under the version that the tables of now have.
const FIRST_BARS: &str = "
DROP TABLE bars;
DROP TABLE symbols;
DROP TABLE symbol_buckets;
CREATE TABLE bars (
    symbol    TEXT NOT NULL,
    size      TEXT NOT NULL,
    start     INTEGER NOT NULL,
    epoch     INTEGER NOT NULL,
    write_timestamp INTEGER NOT NULL,
    open      REAL,
    high      REAL,
    low       REAL,
    close     REAL,
    vwap      TEXT,
    volume    TEXT NOT NULL,
    notional  TEXT NOT NULL,
    trades    INTEGER NOT NULL,
    state     BLOB NOT NULL,
    start_utc TEXT GENERATED ALWAYS AS
        (strftime('%Y-%m-%dT%H:%M:%SZ', start / 1000, 'unixepoch')) VIRTUAL,
    PRIMARY KEY (symbol, size, start)
) STRICT, WITHOUT ROWID;
CREATE TABLE symbols (
    symbol TEXT NOT NULL,
    size   TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    class  TEXT NOT NULL,
    PRIMARY KEY (symbol, size, bucket)
) STRICT, WITHOUT ROWID;
INSERT INTO symbols VALUES ('AAPL', '1m', 0, 'stock');
INSERT INTO bars (symbol, size, start, epoch, write_timestamp, volume, notional, trades, state)
VALUES ('AAPL', '1m', 60000, 1, 1, '0', '0', 0, x'01');
VACUUM;";

#[test]
fn a_file_with_bars_of_the_first_form_is_refused_and_left_as_it_is() {
    let place = Place::new();
    let recording = golden("finnhub-recorded.jsonl");
    place.replay(&recording, &[]);
    let database = Connection::open(place.path("t.db")).expect("opened");
    database.execute_batch(FIRST_BARS).expect("made");
    drop(database);
    let was = fs::read(place.path("t.db")).expect("a file");
    for command in [
        &["bars", "--store"][..],
        &["verify", "--log"],
        &["verify", "--repair", "--yes", "--store"],
        &["run", "--duration", "1s", "--store"],
        &["run", "--replay", &recording, "--until-end", "--store"],
        &["dataflow", "--until-end", "--log", &place.store, "--store"],
    ] {
        let output = tapeflow(&[command, &[&place.store]].concat())
            .output()
            .expect("the binary starts");
        assert_eq!(output.status.code(), Some(2), "{}", told(&output));
        let said = String::from_utf8(output.stderr.clone()).expect("text");
        let errors: Vec<&str> = said
            .lines()
            .filter(|line| line.starts_with("tapeflow: "))
            .collect();
        let [error] = errors[..] else {
            panic!("one error in {}", told(&output));
        };
        for part in [
            "t.db: its tables are not those of their version 1: table bars has no column ",
            "; a build between two releases made it; use that one, or start a new file with --store",
        ] {
            assert!(error.contains(part), "{part:?} in {error}");
        }
        assert!(
            fs::read(place.path("t.db")).expect("a file") == was,
            "{command:?} changed the file"
        );
        assert_eq!(names(&place), only(&["t.db"]), "{command:?}");
    }
}
