//! What a user names must be there: a recording that is none, a symbol that the store does not
//! have, and a range without a window end with code 2 and a hint, not with an empty success.

use std::{
    fs,
    io::Write,
    process::{Output, Stdio},
};

use crate::command::{Place, end_with, golden, succeed, tapeflow, told};

/// Files that are no recording, each with a word of the reason.
fn no_recordings() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let mut picture = b"\x89PNG\r\n\x1a\n".to_vec();
    picture.extend((0..5_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()));
    let csv = (0..500)
        .map(|n| format!("{n},AAPL,164.06,10\n"))
        .collect::<String>();
    let mut archive = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    archive
        .write_all(&[b"day.jsonl\0\0\0\0".repeat(40), vec![0; 2_000]].concat())
        .expect("written");
    let seconds =
        r#"{"data":[{"p":1,"s":"AAPL","t":1680286539,"v":10}],"type":"trade"}"#.to_owned() + "\n";
    let objects = "{\"symbol\":\"AAPL\",\"price\":1}\n".repeat(300);
    vec![
        ("picture.png", picture, "binary"),
        ("day.zip", b"PK\x03\x04\x14\0\0\0rest".to_vec(), "zip"),
        ("day.zst", b"\x28\xb5\x2f\xfd\0rest".to_vec(), "zstd"),
        ("day.tar.gz", archive.finish().expect("finished"), "binary"),
        ("day.csv", csv.into_bytes(), "JSON"),
        ("objects.jsonl", objects.into_bytes(), "type"),
        ("seconds.jsonl", seconds.into_bytes(), "look like seconds"),
    ]
}

fn piped(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = tapeflow(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // A refused input is not read to its end.
    let _ = child.stdin.take().expect("piped").write_all(input);
    child.wait_with_output().expect("ended")
}

#[test]
fn a_recording_that_is_none_is_refused_with_its_reason_before_anything_is_written() {
    let place = Place::new();
    for (name, content, reason) in no_recordings() {
        fs::write(place.path(name), &content).expect("written");
        let path = place.path(name);
        let path = path.to_str().expect("UTF-8");
        let run = ["run", "--until-end", "--store", &place.store, "--replay"];
        let said = end_with(2, &[&run[..], &[path]].concat());
        assert!(
            said.contains("--replay: ") && said.contains(name) && said.contains(reason),
            "{name}: {said}"
        );
        let output = piped(&[&run[..], &["-"]].concat(), &content);
        let said = told(&output);
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        assert!(said.contains(reason), "{name}: {said}");
        // Before the brokers are asked for anything.
        let said = end_with(2, &["ingest", "--until-end", "--replay", path]);
        assert!(said.contains(reason), "{name}: {said}");
        assert!(!place.path("t.db").exists(), "{name}: {said}");
    }
}

#[test]
fn a_recording_with_bad_lines_among_frames_is_replayed() {
    let place = Place::new();
    let frame = r#"{"data":[{"p":1,"s":"AAPL","t":1680286539953,"v":10}],"type":"trade"}"#;
    let text = format!("not JSON\n{{\"type\":\"ping\"}}\n{frame}\nnot JSON\n");
    place.replay(&place.file("mixed.jsonl", &text), &[]);
    let letters = succeed(&["dead-letters", "--store", &place.store, "--format", "csv"]);
    assert_eq!(letters.lines().count(), 3, "{letters}");
    // A day without trades.
    let (quiet, empty) = (Place::new(), Place::new());
    quiet.replay(&quiet.file("quiet.jsonl", "{\"type\":\"ping\"}\n"), &[]);
    empty.replay(&empty.file("empty.jsonl", ""), &[]);
}

#[test]
fn a_symbol_that_the_store_does_not_have_is_refused_and_the_right_one_named() {
    let place = Place::new();
    place.replay(&golden("finnhub-recorded.jsonl"), &[]);
    let bars = [
        "bars",
        "--store",
        &place.store,
        "--format",
        "csv",
        "--symbol",
    ];
    for (asked, suggested) in [
        ("aapl", "AAPL"),
        ("APPL", "AAPL"),
        ("BTCUSDT", "BINANCE:BTCUSDT"),
        ("TSLA,GOGO", "GOOG"),
    ] {
        let said = end_with(2, &[&bars[..], &[asked]].concat());
        assert!(
            said.contains("--symbol: ") && said.contains(&format!("did you mean {suggested}?")),
            "{asked}: {said}"
        );
        assert!(
            !said.contains("symbol,size,start"),
            "nothing is printed: {said}"
        );
    }
    let said = end_with(2, &[&bars[..], &["ZZZZZZZZ"]].concat());
    assert!(
        said.contains("ZZZZZZZZ") && !said.contains("did you mean"),
        "{said}"
    );
    succeed(&[&bars[..], &["AAPL,TSLA"]].concat());
}

#[test]
fn a_range_without_windows_is_refused_and_the_nearest_one_named() {
    let place = Place::new();
    place.replay(&golden("finnhub-recorded.jsonl"), &[]);
    let bars = ["bars", "--store", &place.store, "--symbol", "AAPL"];
    let views = ["views", "--store", &place.store, "--size", "1d"];
    let newest = succeed(&[&bars[..], &["--last", "1", "--format", "csv"]].concat());
    let newest = newest
        .lines()
        .last()
        .and_then(|line| line.split(',').nth(2));
    let newest = newest.expect("a bar").to_owned();
    let refused = |command: &[&str], flags: &[&str], hint: &str| {
        let said = end_with(2, &[command, flags].concat());
        assert!(
            said.contains(flags[0]) && said.contains(hint),
            "{hint:?} in {said}"
        );
    };
    refused(&bars, &["--from", "2030-01-01"], &newest);
    refused(&bars, &["--to", "1999-01-01"], "2022-02-14T");
    refused(&views, &["--from", "2030-01-01"], "2024-11-14T");
    refused(&views, &["--to", "1999-01-01"], "2021-06-29T");
    for command in [&bars[..], &views] {
        refused(
            command,
            &["--from", "2026-02-01", "--to", "2026-01-01"],
            "not before --to",
        );
        refused(
            command,
            &["--from", "2026-01-01", "--to", "2026-01-01"],
            "not before --to",
        );
    }
    // A reader in a script also learns it from the code.
    let csv = [&bars[..], &["--format", "csv", "--from", "2030-01-01"]].concat();
    assert!(!end_with(2, &csv).contains("symbol,size"));
}
