//! `verify` beside a running job, with part of the log, with some symbols, repeatedly, and with
//! damaged cells.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tapeflow_ingest::simulator::FeedFile;

use crate::{
    command::{Place, end_with, succeed, tapeflow},
    rows,
};

/// The number before some words in a summary. `words` begin with a plural; a summary may have its
/// singular.
pub(crate) fn number(summary: &str, words: &str) -> u64 {
    let noun = words.find(|c: char| !c.is_alphabetic());
    let (noun, rest) = words.split_at(noun.unwrap_or(words.len()));
    let singular = format!("{}{rest}", noun.trim_end_matches('s'));
    let (before, _) = summary
        .split_once(&format!(" {words}"))
        .or_else(|| summary.split_once(&format!(" {singular}")))
        .unwrap_or_else(|| panic!("{words:?} in {summary}"));
    before
        .rsplit([' ', ';', '\n'])
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("a number before {words:?} in {summary}"))
}

/// The summary of an audit.
pub(crate) fn summary(said: &str) -> String {
    said.lines()
        .rfind(|line| line.contains(" compared; "))
        .unwrap_or_else(|| panic!("a summary in {said}"))
        .to_owned()
}

/// Runs `tapeflow verify` with further flags. It must end with `code`. Returns its summary.
fn verify(place: &Place, code: i32, flags: &[&str]) -> String {
    summary(&end_with(
        code,
        &[&["verify", "--store", &place.store], flags].concat(),
    ))
}

/// Changes the store behind the job's back. Returns the number of rows, of which there must be one.
pub(crate) fn changed(place: &Place, change: &str) -> usize {
    let count = Connection::open(place.path("t.db"))
        .expect("opened")
        .execute(change, [])
        .expect("changed");
    assert!(count > 0, "{change}");
    count
}

fn count(place: &Place, what: &str) -> u64 {
    let database = Connection::open(place.path("t.db")).expect("opened");
    let count: i64 = database
        .query_row(&format!("SELECT count(*) FROM {what}"), [], |bar| {
            bar.get(0)
        })
        .expect("counted");
    u64::try_from(count).expect("a count")
}

/// The bars in the rows that meet a condition.
fn bars(place: &Place, condition: &str) -> u64 {
    let database = Connection::open(place.path("t.db")).expect("opened");
    rows::count_bars(&database, condition)
}

fn some_trades() -> Place {
    let place = Place::new();
    place.replay(
        &place.feed(&FeedFile {
            trades: 3_000,
            symbols: 12,
            ..FeedFile::default()
        }),
        &[],
    );
    place
}

/// A process that is killed when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn verify(place: &Place, flags: &[&str]) -> (Self, impl Iterator<Item = String> + use<>) {
        let mut command = tapeflow(&[&["verify", "--store", &place.store], flags].concat());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        (Self(child), lines.map(|line| line.expect("text")))
    }

    /// Asks the process to stop, and returns its exit code.
    fn end(&mut self) -> Option<i32> {
        let sent = Command::new("kill")
            .args(["-TERM", &self.0.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(sent.success());
        self.0.wait().expect("ended").code()
    }
}

/// Waits until a job has committed an epoch after `before`, and returns that epoch.
pub(crate) fn committed_beyond(place: &Place, before: u64) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let status = tapeflow(&["status", "--store", &place.store, "--format", "json"])
            .output()
            .expect("the binary starts");
        let checkpoint: serde_json::Value =
            serde_json::from_slice(&status.stdout).unwrap_or_default();
        if let Some(epoch) = checkpoint["checkpoint"]["committed"]["epoch"]
            .as_u64()
            .filter(|epoch| *epoch > before)
        {
            return epoch;
        }
        assert!(
            Instant::now() < deadline,
            "nothing is committed after {before}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn beside_a_running_job_no_difference_is_reported() {
    for flags in [
        &["--every", "10ms"][..],
        // A starved job commits little in two seconds.
        &["--every", "10ms", "--since", "2s", "--min-compared", "1"],
    ] {
        let place = Place::new();
        let job = [
            "run",
            "--store",
            &place.store,
            "--rate",
            "300",
            "--market-symbols",
            "20",
            "--epoch",
            "20ms",
            "--workers",
            "2",
            "--bar-memory",
            "100KiB",
        ];
        let _job = Running(
            tapeflow(&job)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("the binary starts"),
        );
        committed_beyond(&place, 0);
        let (mut verify, lines) = Running::verify(&place, flags);
        let mut epochs = Vec::new();
        for line in lines {
            assert!(line.starts_with("0 differences; "), "{flags:?}: {line}");
            epochs.push(
                line.rsplit(' ')
                    .next()
                    .and_then(|epoch| epoch.parse::<u64>().ok())
                    .expect("the bound epoch"),
            );
            assert!(number(&line, "bars compared") > 0, "{line}");
            // On a busy machine, six audits may take less time than an epoch.
            if epochs.len() >= 6 && epochs.last() > epochs.first() {
                break;
            }
            assert!(epochs.len() < 10_000, "the job stands still: {line}");
        }
        assert_eq!(verify.end(), Some(0), "{flags:?}");
        assert!(
            epochs.is_sorted() && epochs.last() > epochs.first(),
            "the job went on meanwhile: {epochs:?}"
        );
    }
}

#[test]
fn repeated_audits_end_with_the_worst_result() {
    let place = some_trades();
    let (mut verify, mut lines) = Running::verify(&place, &["--every", "10ms"]);
    assert!(
        lines
            .next()
            .expect("an audit")
            .starts_with("0 differences; ")
    );
    let state = "UPDATE bars SET state = (SELECT state FROM bars WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'MSFT') AND seconds = 86400) WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'AAPL') AND seconds = 86400";
    let database = Connection::open(place.path("t.db")).expect("opened");
    let before: Vec<u8> = database
        .query_row(
            "SELECT state FROM bars WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'AAPL') AND seconds = 86400",
            [],
            |bar| bar.get(0),
        )
        .expect("a bar");
    changed(&place, state);
    assert!(
        lines.any(|line| line.starts_with("1 difference; ")),
        "the wrong bar is found"
    );
    database
        .execute(
            "UPDATE bars SET state = ?1 WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'AAPL') AND seconds = 86400",
            [before],
        )
        .expect("corrected");
    assert!(
        lines.any(|line| line.starts_with("0 differences; ")),
        "the corrected bar is right"
    );
    assert_eq!(verify.end(), Some(1));
}

#[test]
fn an_audit_since_a_time_compares_what_no_earlier_record_can_have_touched() {
    const LATER_MS: i64 = 1_704_205_800_000 + 3_600_000;
    let place = Place::new();
    let first = FeedFile {
        trades: 3_000,
        symbols: 12,
        trades_per_second: 100,
        ..FeedFile::default()
    };
    place.replay(&place.feed(&first), &["--partitions", "2"]);
    let (write_timestamp, cuts): (i64, String) = newest(&place);
    let read: u64 = serde_json::from_str::<Vec<u64>>(&cuts)
        .expect("offsets")
        .iter()
        .sum();
    place.replay(
        &place.feed(&FeedFile {
            seed: 2,
            start_ms: LATER_MS,
            ..first
        }),
        &[],
    );
    let since = format!("{}ms", (newest(&place).0 - write_timestamp - 1) / 1_000);
    let recent = |code: i32| verify(&place, code, &["--since", &since]);

    let line = recent(0);
    let of_second = format!("start >= {}", LATER_MS - 1_800_000);
    assert_eq!(
        number(&line, "bars compared"),
        bars(&place, &of_second),
        "{line}"
    );
    assert_eq!(
        number(&line, "views compared"),
        count(&place, &format!("views WHERE {of_second}")),
        "{line}"
    );
    assert_eq!(number(&line, "records up to epoch"), read, "{line}");
    assert!(
        number(&line, "records, ") < number(&verify(&place, 0, &[]), "records, "),
        "{line}"
    );
    // Both feeds have trades on the day. Its bars that the second feed touched are not compared, and
    // the others are not read.
    let days = number(&line, "bars and ");
    assert!(
        days > 0 && days <= count(&place, "bars WHERE seconds = 86400"),
        "{line}"
    );
    assert_eq!(
        verify(&place, 0, &["--since", "1000h"]),
        verify(&place, 0, &[]),
        "everything of a young job is read"
    );

    // AAPL trades most.
    let wrong = |start: &str| {
        format!(
            "UPDATE bars SET state = (SELECT state FROM bars WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'MSFT') AND seconds = 3600 AND start {start}) \
             WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'AAPL') AND seconds = 3600 AND start {start}"
        )
    };
    changed(&place, &wrong(&format!("< {}", LATER_MS - 1_800_000)));
    assert!(
        recent(0).starts_with("0 differences; "),
        "bars without recent trades are not compared"
    );
    changed(&place, &wrong(&format!(">= {}", LATER_MS - 1_800_000)));
    assert!(recent(1).starts_with("1 difference; "));
    assert!(verify(&place, 1, &[]).starts_with("2 differences; "));
}

/// The write timestamp of the newest epoch, and the offsets where it ends.
fn newest(place: &Place) -> (i64, String) {
    let database = Connection::open(place.path("t.db")).expect("opened");
    let select = "SELECT write_timestamp, cuts FROM history ORDER BY epoch DESC LIMIT 1";
    database
        .query_row(select, [], |bar| Ok((bar.get(0)?, bar.get(1)?)))
        .expect("history")
}

#[test]
fn some_symbols_a_sample_and_slices_are_compared_alone() {
    let place = some_trades();
    let all = verify(&place, 0, &[]);
    let compared = number(&all, "bars compared");
    let sliced = verify(&place, 0, &["--passes", "3"]);
    assert_eq!(sliced, all, "the passes compare everything together");
    let sampled = verify(&place, 0, &["--sample", "1/3"]);
    let share = number(&sampled, "bars compared");
    assert!(
        share > 0 && share < compared * 7 / 10 && sampled.contains("views not compared"),
        "{sampled}; {compared}"
    );
    assert_eq!(number(&sampled, "views compared"), 0, "{sampled}");
    let one = verify(&place, 0, &["--symbol", "AAPL"]);
    assert_eq!(
        number(&one, "bars compared"),
        bars(
            &place,
            "symbol_id = (SELECT id FROM symbols WHERE symbol = 'AAPL')"
        ),
        "{one}"
    );

    changed(
        &place,
        "DELETE FROM bars WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'AAPL') AND seconds = 3600",
    );
    assert!(
        verify(&place, 0, &["--symbol", "MSFT", "--symbol", "TSLA"]).starts_with("0 differences; ")
    );
    for flags in [&["--symbol", "MSFT,AAPL"][..], &["--passes", "4"], &[]] {
        assert!(
            verify(&place, 1, flags).starts_with("1 difference; "),
            "{flags:?}"
        );
    }
    let said = end_with(
        2,
        &[
            "verify", "--sample", "2/3", "--passes", "0", "--since", "soon", "--every", "1",
        ],
    );
    for flag in ["--sample: ", "--passes: ", "--since: ", "--every: "] {
        assert!(said.contains(flag), "{flag} in {said}");
    }
}

#[test]
fn a_cell_that_cannot_be_read_is_one_difference_and_does_not_end_the_audit() {
    let place = some_trades();
    let bars = number(&verify(&place, 0, &[]), "bars compared");
    changed(
        &place,
        "UPDATE bars SET state = x'0102' WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'AAPL') AND seconds = 3600",
    );
    changed(
        &place,
        "UPDATE views SET state = x'0102' WHERE view_name = 'movers' AND size = '1h'",
    );
    let said = end_with(1, &["verify", "--store", &place.store]);
    let damaged =
        count(&place, "bars WHERE state = x'0102'") + count(&place, "views WHERE state = x'0102'");
    assert!(
        said.contains("AAPL 1h ") && said.contains("view movers 1h ") && said.contains("damaged"),
        "{said}"
    );
    assert_eq!(number(&summary(&said), "differences"), damaged, "{said}");
    assert_eq!(
        number(&summary(&said), "bars compared"),
        bars - count(&place, "bars WHERE state = x'0102'"),
        "{said}"
    );
}

#[test]
fn the_log_beside_the_bars_is_the_one_they_come_from() {
    let place = some_trades();
    let beside = succeed(&["verify", "--store", &place.store]);
    assert_eq!(beside, succeed(&["verify", "--log", &place.store]));
    // A log that the bars do not come from.
    let other = some_trades();
    let said = end_with(
        2,
        &["verify", "--store", &place.store, "--log", &other.store],
    );
    assert!(said.contains("--log"), "{said}");
}

#[test]
fn a_symbol_that_nothing_has_is_an_error_with_a_suggestion() {
    let place = some_trades();
    for (symbol, hint) in [
        ("aapl", "did you mean AAPL?"),
        ("AAPLE", "did you mean AAPL?"),
        ("ZZZZZZ", "it has 12 from "),
    ] {
        let said = end_with(2, &["verify", "--store", &place.store, "--symbol", symbol]);
        assert!(
            said.contains(&format!("no symbol {symbol} (")) && said.contains(hint),
            "{said}"
        );
    }
    // A symbol that the directory has lost is a difference: the log has its trades.
    changed(&place, "DELETE FROM symbols WHERE symbol = 'AAPL'");
    let said = end_with(1, &["verify", "--store", &place.store, "--symbol", "AAPL"]);
    assert!(number(&summary(&said), "differences") > 0, "{said}");
}

#[test]
fn an_audit_that_compared_too_little_has_an_exit_code_of_its_own() {
    let place = some_trades();
    // No epoch says where the records of the bars begin, so they cannot be recomputed.
    changed(&place, "DELETE FROM history");
    changed(
        &place,
        "DELETE FROM log WHERE partition = 0 AND \"offset\" < 5",
    );
    changed(
        &place,
        "UPDATE log_partitions SET first_offset = 5 WHERE partition = 0",
    );
    let said = end_with(4, &["verify", "--store", &place.store]);
    assert!(
        said.contains("only 0 of") && said.contains("--min-compared"),
        "{said}"
    );
    verify(&place, 0, &["--min-compared", "0"]);
    changed(
        &place,
        "UPDATE view_entries SET trades = 7 WHERE view_name = 'active' AND size = '1h' AND rank = 1",
    );
    verify(&place, 1, &[]);
    let said = end_with(2, &["verify", "--min-compared", "101"]);
    assert!(said.contains("--min-compared: "), "{said}");
}

#[test]
fn a_log_of_other_bars_is_refused_by_the_names_of_both_files() {
    let (place, other) = (some_trades(), some_trades());
    let said = end_with(
        2,
        &["verify", "--store", &place.store, "--log", &other.store],
    );
    let name = |place: &Place| {
        let path = place.path("t.db").canonicalize().expect("there");
        path.to_str().expect("a path in UTF-8").to_owned()
    };
    assert!(
        said.contains(&name(&place)) && said.contains(&name(&other)),
        "{said}"
    );
}
