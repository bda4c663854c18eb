//! MIGRATION.md says that the old system's producer can feed this job unchanged. Here its records,
//! written by hand as its library writes them, stand in a log instead of ours: the bars must be
//! those that our own `ingest` makes of the same frames.

use std::{path::Path, process::Command};

use rusqlite::{Connection, params};
use serde_json::Value;

const RECORDING: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/golden/finnhub-recorded.jsonl"
);

/// Avro's long: zigzag, seven bits a byte.
fn long(out: &mut Vec<u8>, value: i64) {
    let mut left = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while left > 127 {
        out.push(u8::try_from(left & 127).expect("seven bits") | 128);
        left >>= 7;
    }
    out.push(u8::try_from(left).expect("seven bits"));
}

fn text(out: &mut Vec<u8>, text: &str) {
    long(out, i64::try_from(text.len()).expect("short"));
    out.extend(text.as_bytes());
}

/// A list: one block with its number of items, and the empty block that ends it.
fn list(out: &mut Vec<u8>, items: &[Value], mut item: impl FnMut(&mut Vec<u8>, &Value)) {
    if !items.is_empty() {
        long(out, i64::try_from(items.len()).expect("few"));
        items.iter().for_each(|value| item(out, value));
    }
    long(out, 0);
}

/// A whole frame as one raw datum of `schemas/avro/finnhub_message.avsc`.
fn datum(frame: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let number = |trade: &Value, key: &str| trade[key].as_f64().expect("a number").to_le_bytes();
    list(
        &mut out,
        frame["data"].as_array().map_or(&[], Vec::as_slice),
        |out, trade| {
            match trade["c"].as_array() {
                None => long(out, 1),
                Some(codes) => {
                    long(out, 0);
                    list(out, codes, |out, code| {
                        long(out, 1);
                        text(out, code.as_str().expect("a code"));
                    });
                }
            }
            out.extend(number(trade, "p"));
            text(out, trade["s"].as_str().expect("a symbol"));
            long(out, trade["t"].as_i64().expect("milliseconds"));
            out.extend(number(trade, "v"));
        },
    );
    text(&mut out, frame["type"].as_str().expect("a type"));
    out
}

fn tapeflow(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tapeflow"))
        .current_dir(folder)
        .args(arguments)
        .output()
        .expect("the program runs");
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// All bars without their labels (epoch, final, revision), which may differ between two runs.
fn bars(folder: &Path, store: &str, size: &str) -> Vec<String> {
    let csv = tapeflow(
        folder,
        &["bars", "--store", store, "--size", size, "--format", "csv"],
    );
    csv.lines()
        .map(|line| line.rsplitn(4, ',').last().expect("columns").to_owned())
        .collect()
}

#[test]
fn the_old_producers_records_give_the_bars_that_our_own_ingest_gives() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    tapeflow(
        at,
        &[
            "run",
            "--replay",
            RECORDING,
            "--until-end",
            // The recording goes back by a year, and the two logs differ in their partitions.
            "--horizon",
            "none",
            "--store",
            "sqlite:ours.db",
            "--http",
            "off",
        ],
    );

    // The same log with other records in it, all in one partition and without keys, as that
    // producer sent them. (A copy of the file alone would leave out what stands in its write-ahead
    // log.)
    let ours = Connection::open(at.join("ours.db")).expect("our log");
    ours.execute(
        "VACUUM INTO ?",
        [at.join("old.db").to_str().expect("a path in UTF-8")],
    )
    .expect("a copy");
    drop(ours);
    let recording = std::fs::read_to_string(RECORDING).expect("the recording");
    let records: Vec<Vec<u8>> = recording
        .lines()
        .map(|line| datum(&serde_json::from_str(line).expect("a frame")))
        .collect();
    let count = i64::try_from(records.len()).expect("few");
    assert!(count > 10, "frames were recorded");
    let log = Connection::open(at.join("old.db")).expect("the log");
    let timestamp: i64 = log
        .query_row("SELECT max(timestamp_ms) FROM log", [], |bar| bar.get(0))
        .expect("a time");
    log.execute_batch("DELETE FROM log; DELETE FROM log_sessions; UPDATE log_partitions SET first_offset = 0, next_offset = 0").expect("emptied");
    for (offset, payload) in (0i64..).zip(&records) {
        let insert = "INSERT INTO log (partition, \"offset\", timestamp_ms, key, payload) VALUES (0, ?, ?, '', ?)";
        log.execute(insert, params![offset, timestamp, payload])
            .expect("a record");
    }
    log.execute(
        "UPDATE log_partitions SET next_offset = ? WHERE partition = 0",
        [count],
    )
    .expect("the end");
    drop(log);

    tapeflow(
        at,
        &[
            "dataflow",
            "--log",
            "sqlite:old.db",
            "--store",
            "sqlite:bars.db",
            "--horizon",
            "none",
            "--until-end",
            "--http",
            "off",
        ],
    );
    for size in ["1s", "1m", "5m", "1h", "1d"] {
        let (ours, old) = (
            bars(at, "sqlite:ours.db", size),
            bars(at, "sqlite:bars.db", size),
        );
        assert!(ours.len() > 5, "{size}: bars of the recording");
        assert_eq!(old, ours, "{size}");
    }
    let verdict = tapeflow(
        at,
        &[
            "verify",
            "--log",
            "sqlite:old.db",
            "--store",
            "sqlite:bars.db",
        ],
    );
    assert!(
        verdict.contains("0 differences") && verdict.contains(&format!("{count} records")),
        "{verdict}"
    );
}
