//! A recording is known by what it begins with. One that has grown goes on after what was taken in,
//! whatever its line ends are, and one that differs is refused.

use std::{
    fs,
    io::Write,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use crate::command::{Place, end_with, succeed, tapeflow, told, values};

/// One frame with one trade, ten milliseconds after the one before.
fn frame(n: u64) -> String {
    let (price, symbol, time) = (100 + n % 9, n % 7, 1_680_286_539_953 + 10 * n);
    format!(r#"{{"data":[{{"p":{price},"s":"S{symbol}","t":{time},"v":{n}}}],"type":"trade"}}"#)
}

/// Frames as lines of a file.
fn lines(frames: std::ops::RangeInclusive<u64>) -> String {
    frames.map(|n| frame(n) + "\n").collect()
}

fn day(place: &Place, text: &str) -> String {
    place.file("day.jsonl", text)
}

fn bars(place: &Place) -> Vec<String> {
    values(&succeed(&[
        "bars",
        "--store",
        &place.store,
        "--size",
        "all",
        "--policy",
        "all",
        "--format",
        "csv",
    ]))
}

/// How many jobs have taken the store over.
fn generation(place: &Place) -> u64 {
    let status = succeed(&["status", "--store", &place.store, "--format", "csv"]);
    let line = status.lines().nth(1).expect("a partition");
    let generation = line.split(',').nth(1).expect("a column");
    generation.parse().expect("a number")
}

/// The bars are those of one replay of this recording into a new store.
fn check(place: &Place, recording: &str) {
    let whole = Place::new();
    whole.replay(&day(&whole, recording), &[]);
    assert_eq!(bars(place), bars(&whole));
    assert!(place.verify().starts_with("0 differences"));
}

#[test]
fn a_recording_that_has_grown_goes_on_after_what_was_taken_in() {
    let place = Place::new();
    for last in [1, 5, 6, 6, 40, 41, 300] {
        place.replay(&day(&place, &lines(1..=last)), &[]);
        check(&place, &lines(1..=last));
    }
}

#[test]
fn a_replay_that_adds_nothing_says_so() {
    let place = Place::new();
    for (last, adds) in [(6, true), (6, false), (7, true)] {
        let said = place.replay(&day(&place, &lines(1..=last)), &[]);
        let says_nothing_added = said.contains("already in the log: nothing was added");
        assert_eq!(says_nothing_added, !adds, "{last}: {said}");
    }
}

#[test]
fn line_ends_empty_lines_and_compression_make_no_other_recording() {
    let place = Place::new();
    let text = lines(1..=50);
    place.replay(&day(&place, &text), &[]);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(text.as_bytes()).expect("written");
    fs::write(place.path("day.gz"), packed.finish().expect("finished")).expect("written");
    place.replay(place.path("day.gz").to_str().expect("UTF-8"), &[]);
    for same in [
        text.replace('\n', "\r\n"),
        text.trim_end().to_owned(),
        format!("\n  \n{}", text.replace('\n', "\n\n")),
    ] {
        place.replay(&day(&place, &same), &[]);
        check(&place, &text);
    }
    // Grown, and with other line ends.
    let grown = lines(1..=60);
    place.replay(&day(&place, &grown.replace('\n', "\r\n")), &[]);
    check(&place, &grown);
    // Standard input is compared as a file is.
    let grown = lines(1..=70);
    let run = [
        "run",
        "--until-end",
        "--store",
        &place.store,
        "--replay",
        "-",
    ];
    let mut child = tapeflow(&run)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(grown.as_bytes()).expect("read to its end");
    drop(input);
    let ended = child.wait_with_output().expect("ended");
    assert!(ended.status.success(), "{}", told(&ended));
    check(&place, &grown);
}

#[test]
fn a_recording_that_differs_later_is_refused_by_its_line_unless_it_is_taken_as_new() {
    let place = Place::new();
    let text = lines(1..=100);
    place.replay(&day(&place, &text), &[]);
    let (before, generation) = (bars(&place), generation(&place));
    let changed = |line: u64| text.replace(&frame(line), &frame(1_000 + line));
    let run = ["run", "--until-end", "--store", &place.store, "--replay"];
    for (recording, place_of_it) in [
        (changed(2), "line 2;"),
        (changed(20), "line 20;"),
        (changed(90), "lines 89 to 92;"),
        (changed(100), "lines 97 to 100;"),
        (changed(20) + &lines(101..=200), "line 20;"),
        (format!("{}\n{text}", frame(1)), "line 2;"),
        (lines(1..=99), "99 frames"),
    ] {
        let said = end_with(2, &[&run[..], &[&day(&place, &recording)]].concat());
        for hint in ["day.jsonl", place_of_it, "--replay-as-new"] {
            assert!(said.contains(hint), "{hint:?} in {said}");
        }
        assert_eq!(bars(&place), before);
        assert_eq!(self::generation(&place), generation, "no job has begun");
    }
    // Another recording has another beginning.
    place.replay(&day(&place, &lines(2_000..=2_010)), &[]);
    // Taken as new once, it is known.
    let differing = changed(90);
    for flags in [&["--replay-as-new"][..], &[], &["--replay-as-new"]] {
        place.replay(&day(&place, &differing), flags);
        check(
            &place,
            &[&text, &lines(2_000..=2_010), &*differing].concat(),
        );
    }
    // Both may grow.
    place.replay(&day(&place, &(differing.clone() + &lines(101..=110))), &[]);
    place.replay(&day(&place, &lines(1..=120)), &[]);
    let all = [
        &lines(1..=120),
        &lines(2_000..=2_010),
        &*differing,
        &lines(101..=110),
    ];
    check(&place, &all.concat());
}

#[test]
fn a_replay_that_was_killed_in_mid_file_goes_on_after_the_file_has_grown() {
    let place = Place::new();
    let file = day(&place, &lines(1..=3_000));
    for _ in 0..2 {
        // Half a minute at its own pace.
        let mut run = place.replay_begun(&file, &["--speed", "1x", "--epoch", "20ms"]);
        let begun = Instant::now();
        while !place.path("t.db").exists() || bars_or_none(&place) < 2 {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "bars are written"
            );
            thread::sleep(Duration::from_millis(50));
        }
        run.kill().expect("killed");
        run.wait().expect("gone");
    }
    let grown = lines(1..=3_100);
    place.replay(&day(&place, &grown), &[]);
    check(&place, &grown);
}

/// How many lines of bars there are; none before the store has its tables.
fn bars_or_none(place: &Place) -> usize {
    let bars = ["bars", "--store", &place.store, "--format", "csv"];
    let output = tapeflow(&bars).output().expect("the binary starts");
    String::from_utf8_lossy(&output.stdout).lines().count()
}

#[test]
fn a_last_line_that_is_half_written_waits_for_the_rest_of_it() {
    let place = Place::new();
    let next = frame(11);
    for length in [1, next.len() / 2, next.len() - 1] {
        place.replay(&day(&place, &(lines(1..=10) + &next[..length])), &[]);
        check(&place, &lines(1..=10));
    }
    place.replay(&day(&place, &lines(1..=12)), &[]);
    check(&place, &lines(1..=12));
    let letters = ["dead-letters", "--store", &place.store, "--format", "csv"];
    assert_eq!(succeed(&letters).lines().count(), 1, "only the heading");
}
