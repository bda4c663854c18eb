//! Known trades give known bars, for every number of workers, partitions and resident bars.

use std::{fs, io::Write, process::Stdio};

use tapeflow_ingest::simulator::{FeedFile, Popularity};

use crate::command::{Place, golden, succeed, tapeflow, values};

#[test]
fn the_recorded_trades_give_the_golden_csv_and_a_second_run_adds_nothing() {
    let want =
        values(&fs::read_to_string(golden("finnhub-recorded.csv")).expect("the golden file"));
    for flags in [
        ["--workers", "1", "--partitions", "4"],
        ["--workers", "2", "--partitions", "4"],
        ["--workers", "4", "--partitions", "1"],
        ["--workers", "4", "--partitions", "7"],
    ] {
        let place = Place::new();
        // The recording goes back by a year, farther than the horizon of seconds.
        let flags = [&flags[..], &["--horizon", "none"]].concat();
        place.replay(&golden("finnhub-recorded.jsonl"), &flags);
        let first = place.bars();
        assert_eq!(values(&first), want, "{flags:?}");
        // The epochs of the bars do not change either: there is nothing new to bind.
        place.replay(
            &golden("finnhub-recorded.jsonl"),
            &["--workers", "3", "--horizon", "none"],
        );
        assert_eq!(place.bars(), first, "{flags:?}, second run");
        assert!(
            place.verify().starts_with("0 differences"),
            "{}",
            place.verify()
        );
    }
}

#[test]
fn bars_do_not_depend_on_workers_memory_or_the_length_of_an_epoch() {
    let shapes = [Popularity::Zipf(1.0), Popularity::OneHot(0.99)];
    for popularity in shapes {
        let feed = FeedFile {
            seed: 3,
            trades: 8_000,
            symbols: 60,
            popularity,
            ..FeedFile::default()
        };
        let (narrow, wide) = (Place::new(), Place::new());
        let file = narrow.feed(&feed);
        // Eight resident bars: nearly every bar is read back before it is added to.
        narrow.replay(
            &file,
            &["--workers", "1", "--bar-memory", "4KiB", "--epoch", "10ms"],
        );
        wide.replay(&file, &["--workers", "4", "--epoch", "1s"]);
        assert_eq!(
            values(&narrow.bars()),
            values(&wide.bars()),
            "{popularity:?}"
        );
        narrow.verify();
    }
}

#[test]
fn policies_govern_volume_and_vwap_and_not_prices() {
    let place = Place::new();
    place.replay(&golden("finnhub-recorded.jsonl"), &[]);
    let bar = |policy: &str| {
        let csv = succeed(&[
            "bars",
            "--store",
            &place.store,
            "--size",
            "1s",
            "--symbol",
            "AAPL",
            "--policy",
            policy,
            "--format",
            "csv",
        ]);
        csv.lines()
            .find(|line| line.starts_with("AAPL,1s,2023-03-31T18:15:37Z"))
            .map(str::to_owned)
    };
    let times = "2023-03-31T18:15:37.58Z,2023-03-31T18:15:37.58Z";
    // A lone odd lot: volume under sip and all, no price, and nothing at all under strict.
    let (all, sip, strict) = (
        bar("all").expect("a bar"),
        bar("sip").expect("a bar"),
        bar("strict").expect("a bar"),
    );
    assert_eq!(
        values(&all),
        [format!(
            "AAPL,1s,2023-03-31T18:15:37Z,,,,,5,820.3005,1,164.0601,{times}"
        )]
    );
    assert_eq!(values(&sip), values(&all));
    assert_eq!(
        values(&strict),
        [format!("AAPL,1s,2023-03-31T18:15:37Z,,,,,0,0,0,,{times}")]
    );
}

#[test]
fn bars_are_chosen_by_symbol_size_and_time() {
    let place = Place::new();
    place.replay(&golden("finnhub-recorded.jsonl"), &["--horizon", "none"]);
    let all: Vec<String> = values(&place.bars());
    let chosen = |flags: &[&str]| {
        values(&succeed(
            &[&["bars", "--store", &place.store, "--format", "csv"], flags].concat(),
        ))
    };
    let expected = |keep: &dyn Fn(&str) -> bool| -> Vec<String> {
        all.iter()
            .enumerate()
            .filter(|(at, line)| *at == 0 || keep(line))
            .map(|(_, line)| line.clone())
            .collect()
    };
    assert_eq!(
        chosen(&[]),
        expected(&|line| line.contains(",1m,")),
        "one minute is the default"
    );
    assert_eq!(
        chosen(&["--symbol", "TSLA", "--size", "1s,1d"]),
        expected(&|line| line.starts_with("TSLA,1s,") || line.starts_with("TSLA,1d,"))
    );
    let (from, to) = ("2023-03-31T18:15:38Z", "2023-03-31T18:15:39Z");
    assert_eq!(
        chosen(&["--size", "1s", "--from", from, "--to", to]),
        expected(&|line| line.contains(",1s,2023-03-31T18:15:38Z,")),
        "the end is not included"
    );
    let json = succeed(&[
        "bars",
        "--store",
        &place.store,
        "--size",
        "1s",
        "--symbol",
        "AAPL",
        "--format",
        "json",
    ]);
    let bars: Vec<serde_json::Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(
        bars.len(),
        expected(&|line| line.starts_with("AAPL,1s,")).len() - 1
    );
    assert_eq!(bars[1]["notional"], "820.3005", "decimals are strings");
    assert!(bars[1]["open"].is_null(), "and no price is no number");
}

#[test]
fn a_recording_is_read_from_standard_input_and_compressed() {
    let recording = fs::read(golden("finnhub-recorded.jsonl")).expect("the recording");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&recording).expect("written");
    let compressed = gzip.finish().expect("finished");
    let want =
        values(&fs::read_to_string(golden("finnhub-recorded.csv")).expect("the golden file"));
    for bytes in [&recording, &compressed] {
        let place = Place::new();
        let mut run = tapeflow(&[
            "run",
            "--replay",
            "-",
            "--until-end",
            "--horizon",
            "none",
            "--store",
            &place.store,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary starts");
        run.stdin
            .take()
            .expect("piped")
            .write_all(bytes)
            .expect("written");
        assert!(run.wait().expect("ended").success());
        assert_eq!(values(&place.bars()), want);
        // It is the same recording in another form, so there is nothing to add.
        let first = place.bars();
        fs::write(place.path("day.jsonl.gz"), &compressed).expect("written");
        let file = place
            .path("day.jsonl.gz")
            .to_str()
            .expect("UTF-8")
            .to_owned();
        place.replay(&file, &["--horizon", "none"]);
        assert_eq!(place.bars(), first);
    }
}

#[test]
fn the_last_bars_of_each_symbol_are_printed_in_the_zone_that_was_asked_for() {
    let place = Place::new();
    place.replay(&golden("finnhub-recorded.jsonl"), &[]);
    let bars = |flags: &[&str]| {
        let csv = ["bars", "--store", &place.store, "--format", "csv"];
        values(&succeed(&[&csv[..], flags].concat()))
    };
    let all = bars(&["--size", "1s"]);
    let symbol = |line: &String| line.split(',').next().map(str::to_owned);
    for last in [1, 2, 1_000] {
        let count = last.to_string();
        let some = bars(&["--size", "1s", "--last", &count]);
        let want: Vec<String> = all
            .iter()
            .enumerate()
            .filter(|(at, line)| {
                let later = all[at + 1..]
                    .iter()
                    .filter(|other| symbol(other) == symbol(line));
                *at == 0 || later.count() < last
            })
            .map(|(_, line)| line.clone())
            .collect();
        assert_eq!(some, want, "--last {last}");
    }
    let range = [
        "--symbol",
        "AAPL",
        "--from",
        "2023-03-31",
        "--to",
        "2023-04-01",
    ];
    let in_utc = bars(&[&range[..], &["--last", "1"]].concat());
    let in_new_york = bars(&[&range[..], &["--last", "1", "--tz", "America/New_York"]].concat());
    assert_eq!(in_utc.len(), 2, "{in_utc:?}");
    assert!(
        in_utc[1].contains("T18:") && in_new_york[1].contains("T14:"),
        "{in_new_york:?}"
    );
    assert!(in_new_york[1].contains("-04:00,"), "{in_new_york:?}");
}

#[test]
fn a_job_of_seconds_has_the_minutes_that_hold_them_and_is_the_same_job_with_both_named() {
    let place = Place::new();
    let recording = golden("finnhub-recorded.jsonl");
    place.replay(&recording, &["--sizes", "1s", "--horizon", "none"]);
    let size = |line: &str| line.split(',').nth(1).map(str::to_owned);
    let of = |wanted: &[&str], lines: Vec<String>| -> Vec<String> {
        let is_wanted =
            |line: &String| size(line).is_some_and(|size| wanted.contains(&size.as_str()));
        lines.into_iter().filter(is_wanted).collect()
    };
    let bars = values(&place.bars());
    let all = values(&fs::read_to_string(golden("finnhub-recorded.csv")).expect("the golden file"));
    let want = of(&["1s", "1m"], all);
    assert!(!of(&["1s"], want.clone()).is_empty() && !of(&["1m"], want.clone()).is_empty());
    assert_eq!(bars[1..], want);
    let before = place.bars();
    place.replay(&recording, &["--sizes", "1m,1s", "--horizon", "none"]);
    assert_eq!(place.bars(), before, "a store of the same rules");
    assert!(
        place.verify().starts_with("0 differences"),
        "{}",
        place.verify()
    );
}
