//! `tapeflow bench --embedded` measures, checks every bar and removes its files.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::PathBuf,
    process::{Command, Stdio},
};

use rusqlite::Connection;
use serde_json::Value;

use crate::command::{Place, end_with, tapeflow, told};

/// A bench that creates its folders in this place.
fn bench(place: &Place, flags: &[&str]) -> Command {
    let mut command = tapeflow(&[&["bench", "--embedded"], flags].concat());
    command.env("TMPDIR", place.path(""));
    command
}

/// The one folder of a bench in this place.
fn folder(place: &Place) -> Option<PathBuf> {
    let mut found = fs::read_dir(place.path(""))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path());
    let folder = found.next();
    assert!(found.next().is_none(), "one bench, one folder");
    folder
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|fault| panic!("{fault}: {line}"))
}

#[test]
fn a_bench_without_servers_is_correct_reports_its_figures_and_leaves_no_files() {
    let place = Place::new();
    let output = bench(&place, &["--trades", "20000", "--per-message", "3"])
        .output()
        .expect("the binary starts");
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(
        text.lines()
            .any(|line| line.starts_with("correct") && line.ends_with("yes")),
        "{text}"
    );
    let result = json(text.lines().last().expect("a line"));
    assert_eq!(result["correct"], true);
    assert_eq!(
        (&result["trades"], &result["messages"], &result["mode"]),
        (&20_000.into(), &6_667.into(), &"drain".into())
    );
    assert!(result["bars_written"].as_u64() > Some(10_000), "{result}");
    for figure in [
        "seconds",
        "trades_per_second",
        "peak_memory_mb",
        "start_up_seconds",
        "fill_seconds",
        "check_seconds",
    ] {
        assert!(result[figure].as_f64() > Some(0.0), "{figure}: {result}");
    }
    let cpu = |part: &str| result["cpu_us_per_trade"][part].as_f64().expect("a time");
    assert!(
        cpu("total") > 0.0 && (cpu("total") - cpu("user") - cpu("system")).abs() < 0.01,
        "{result}"
    );
    assert_eq!(folder(&place), None);
}

#[test]
fn a_damaged_bar_makes_the_bench_end_with_code_1() {
    let place = Place::new();
    let mut command = bench(
        &place,
        &[
            "--trades",
            "2000",
            "--market-symbols",
            "20",
            "--json",
            "--keep",
            "--ask-before-check",
        ],
    );
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut said = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let asks = |line: &Result<String, _>| {
        line.as_ref()
            .is_ok_and(|line| line.contains("a line on standard input"))
    };
    assert!(
        said.any(|line| asks(&line)),
        "it waits for a line before it checks"
    );
    let bars = folder(&place).expect("a folder").join("rows.db");
    let damage = "UPDATE bars SET state = (SELECT state FROM bars WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'S0001') AND seconds = 3600) WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'S0000') AND seconds = 3600";
    assert_eq!(
        Connection::open(bars)
            .expect("opened")
            .execute(damage, [])
            .expect("changed"),
        1
    );
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(b"\n")
        .expect("written");
    let mut text = String::new();
    child
        .stdout
        .take()
        .expect("a pipe")
        .read_to_string(&mut text)
        .expect("text");
    let last: Vec<String> = said.map_while(Result::ok).collect();
    assert_eq!(
        child.wait().expect("it ends").code(),
        Some(1),
        "{text}{last:?}"
    );
    assert!(
        last.iter()
            .any(|line| line.contains("not what the feed calls for")),
        "{last:?}"
    );
    assert_eq!(text.lines().count(), 1, "one line of JSON: {text}");
    assert_eq!(json(&text)["correct"], false);
    assert!(folder(&place).expect("kept").join("log.db").is_file());
}

#[test]
fn under_a_steady_feed_the_bench_reports_the_freshness_of_bars() {
    let place = Place::new();
    let flags = [
        "--rate",
        "400",
        "--duration",
        "2s",
        "--market-symbols",
        "40",
        // It brings the minute, which holds the seconds.
        "--sizes",
        "1s",
        "--json",
    ];
    let output = bench(&place, &flags).output().expect("the binary starts");
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let result = json(std::str::from_utf8(&output.stdout).expect("text"));
    assert_eq!(
        (&result["correct"], &result["mode"]),
        (&true.into(), &"rate".into())
    );
    assert!(result["sizes"].to_string().contains("1m"), "{result}");
    let freshness = |name: &str| result["freshness_ms"][name].as_f64().expect("a figure");
    assert!(freshness("samples") > 100.0, "{result}");
    let percentiles = ["p50", "p90", "p99", "max"].map(freshness);
    assert!(percentiles[0] > 0.0 && percentiles.is_sorted(), "{result}");
    // The job measures the time from append to acknowledgement as well, on the same feed.
    let own = |name: &str| {
        result["rate"]["own_freshness_seconds"][name]
            .as_f64()
            .expect("a figure")
    };
    assert!(own("count") > 0.0 && own("p50") > 0.0, "{result}");
    // The three seconds of warm-up.
    assert_eq!(result["trades"], 2_000);
    assert_eq!(folder(&place), None);
}

#[test]
fn all_bad_settings_of_a_bench_are_reported_at_once_and_nothing_is_created() {
    let flags = [
        "--trades",
        "0",
        "--per-message",
        "x",
        "--sizes",
        "7s",
        "--processes",
        "2",
        "--cassandra",
        "nowhere",
        "--epoch",
        "1h",
    ];
    let said = end_with(2, &[&["bench", "--embedded"], &flags[..]].concat());
    for flag in [
        "--trades: ",
        "--per-message: ",
        "--sizes: ",
        "--processes: ",
        "--cassandra: ",
        "--epoch: ",
    ] {
        assert!(said.contains(flag), "{flag} in\n{said}");
    }
    let said = end_with(2, &["bench", "--bench-topic", "trades"]);
    assert!(
        said.contains("--bench-topic: ") && said.contains("tapeflow_bench_"),
        "{said}"
    );
    let said = end_with(2, &["bench", "--brokers", "127.0.0.1:1", "--trades", "10"]);
    assert!(said.contains("--brokers"), "{said}");
}
