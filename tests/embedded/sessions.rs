//! Bars of trading sessions and cumulative values, against an independent Python program
//! (`tests/golden/golden.py`).

use std::{fs, process::Command};

use serde_json::Value;

use crate::{
    command::{Place, end_with, golden, succeed},
    http::{get, until},
    serving::serving,
};

/// The csv without the columns epoch, final, revision and complete, which the golden files leave
/// empty.
fn unlabelled(csv: &str) -> Vec<String> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        [&fields[..13], &fields[17..]].concat().join(",")
    };
    csv.lines().map(line).collect()
}

fn golden_bars(file: &str) -> Vec<String> {
    unlabelled(&fs::read_to_string(golden(file)).expect("the golden file"))
}

fn bars(place: &Place, flags: &[&str]) -> String {
    let command = ["bars", "--store", &place.store, "--format", "csv"];
    succeed(&[&command[..], flags].concat())
}

fn made_up(workers: &str) -> Place {
    let place = Place::new();
    place.replay(
        &golden("sessions.jsonl"),
        &["--sizes", "1m,1h,session", "--workers", workers],
    );
    place
}

#[test]
fn the_recorded_trades_give_the_golden_session_bars() {
    let place = Place::new();
    let flags = ["--sizes", "1s,1d,session"];
    place.replay(&golden("finnhub-recorded.jsonl"), &flags);
    let want = golden_bars("finnhub-recorded-sessions.csv");
    assert_eq!(unlabelled(&bars(&place, &["--size", "session"])), want);
    assert!(place.verify().starts_with("0 differences"));
}

#[test]
fn sessions_and_cumulative_values_are_those_that_python_says() {
    let want = golden_bars("sessions.csv");
    for workers in ["1", "4"] {
        let place = made_up(workers);
        let found = bars(&place, &["--size", "all", "--anchor", "session"]);
        assert_eq!(unlabelled(&found), want, "{workers} workers");
        assert!(place.verify().starts_with("0 differences"));
        // A second run adds nothing.
        place.replay(
            &golden("sessions.jsonl"),
            &["--sizes", "1m,1h,session", "--workers", "2"],
        );
        let again = bars(&place, &["--size", "all", "--anchor", "session"]);
        assert_eq!(again, found, "{workers} workers");
    }
    let place = made_up("2");
    let anchors = [
        ("day", "day", "sip"),
        ("2023-03-13T13:31:00Z", "1678714260000", "all"),
        ("2023-11-06T14:30:00Z", "1699281000000", "strict"),
    ];
    for (anchor, of_python, policy) in anchors {
        let script = golden("golden.py");
        let sizes = ["--sizes", "1m,1h,session", "--anchor", of_python];
        let python = Command::new("python3")
            .args(["-B", &script, "--policy", policy])
            .args(sizes)
            .arg(golden("sessions.jsonl"))
            .output()
            .expect("python3 runs: the comparison needs it");
        let want = String::from_utf8(python.stdout).expect("UTF-8");
        assert!(want.lines().count() > 100, "{:?}", python.stderr);
        let flags = ["--size", "all", "--anchor", anchor, "--policy", policy];
        assert_eq!(
            unlabelled(&bars(&place, &flags)),
            unlabelled(&want),
            "{anchor}"
        );
    }
}

#[test]
fn what_is_printed_of_a_session_names_it() {
    let place = made_up("1");
    let day = [
        "--size",
        "session",
        "--symbol",
        "AAPL",
        "--from",
        "2023-07-03",
        "--to",
        "2023-07-04",
    ];
    let json = succeed(
        &[
            &["bars", "--store", &place.store, "--format", "json"],
            &day[..],
        ]
        .concat(),
    );
    let names: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["session"].clone())
        .collect();
    assert_eq!(names, ["pre", "regular", "post"]);
    let table = succeed(&[&["bars", "--store", &place.store], &day[..]].concat());
    assert!(
        table
            .lines()
            .next()
            .is_some_and(|line| line.ends_with("session")),
        "{table}"
    );
    assert!(
        table.lines().any(|line| line.ends_with("regular")),
        "{table}"
    );
    let last = bars(
        &place,
        &["--size", "session", "--symbol", "AAPL", "--last", "1"],
    );
    assert!(
        last.lines()
            .last()
            .is_some_and(|line| line.ends_with(",post")),
        "{last}"
    );
    let minutes = bars(&place, &["--last", "1"]);
    assert!(!minutes.contains("session"), "{minutes}");
}

#[test]
fn sessions_that_are_not_known_and_anchors_that_cannot_be_are_refused() {
    let place = made_up("1");
    let refused = |flags: &[&str], why: &str| {
        let said = end_with(2, &[&["bars", "--store", &place.store], flags].concat());
        assert!(said.contains(why), "{flags:?}: {said}");
    };
    refused(
        &["--size", "session", "--from", "2041-01-02"],
        "--from: the calendar of US equity sessions covers the years 2007 to 2040",
    );
    refused(
        &["--size", "session", "--to", "1999-01-01"],
        "--to: the calendar of US equity sessions covers the years 2007 to 2040",
    );
    refused(
        &["--anchor", "noon"],
        "give RFC 3339, such as 2023-03-31T18:15:00Z, or a date, session or day",
    );
    refused(
        &["--anchor", "2023-03-13T13:30:00.5Z"],
        "--anchor: cumulative values are added up from 1m bars, and none of them starts at",
    );
    let said = end_with(2, &["views", "--store", &place.store, "--size", "session"]);
    assert!(said.contains("has no views of session"), "{said}");
    let hours = Place::new();
    hours.replay(&golden("sessions.jsonl"), &["--sizes", "1h"]);
    let command = ["bars", "--store", &hours.store, "--size", "1h"];
    let said = end_with(2, &[&command[..], &["--anchor", "day"]].concat());
    assert!(
        said.contains("added up from 1m bars, which the job has not"),
        "{said}"
    );
    let command = ["bars", "--store", &hours.store, "--size", "session"];
    let said = end_with(2, &command);
    assert!(
        said.contains("the store has no bars of session; it has 1h"),
        "{said}"
    );
}

#[test]
fn sessions_and_cumulative_values_are_served_and_trades_without_a_session_are_counted() {
    let place = Place::new();
    let running = serving(&[
        "run",
        "--replay",
        &golden("sessions.jsonl"),
        "--store",
        &place.store,
        "--sizes",
        "1m,session",
        "--end-within",
        "5m",
    ]);
    let outside = until("all trades", || {
        let (_, text) = get(&running, "/metrics");
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.rsplit(' ').next()?.parse::<f64>().ok()
        };
        let all = value("tapeflow_trades_accepted_total")? >= 135.0;
        all.then(|| value("tapeflow_trades_outside_sessions_total{reason=\"closed\"}"))
    });
    // Of each of six dates one before pre and two after post, and three on closed days.
    assert_eq!(outside, Some(21.0));
    let path = "/bars?symbol=AAPL&size=session&anchor=session&limit=3";
    let bars = until("the bars", || {
        let (code, body) = get(&running, path);
        let answer: Value = serde_json::from_str(&body).ok()?;
        (code == 200 && answer["bars"].as_array()?.len() == 3).then(|| answer["bars"].clone())
    });
    let of = |name: &str| -> Vec<Value> {
        let bars = bars.as_array().expect("bars");
        bars.iter().map(|bar| bar[name].clone()).collect()
    };
    assert_eq!(of("session"), ["pre", "regular", "post"]);
    assert_eq!(of("cumulative_volume"), ["1436", "2376", "3320"]);
    assert_eq!(
        of("cumulative_vwap"),
        ["98.1781337", "98.10060185", "98.04907831"]
    );
    let (code, body) = get(
        &running,
        "/bars?symbol=AAPL&size=1m&anchor=2023-11-24T14:30:00.5Z",
    );
    assert_eq!(code, 400, "{body}");
}
