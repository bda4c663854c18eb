//! When the feed was away, the bars of that time say so.

use std::{
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    command::{Place, succeed, tapeflow},
    http::until,
};

/// The start and the label `complete` of each bar of a second, over all symbols: a second is complete
/// if all its bars are.
fn seconds(place: &Place) -> Vec<(String, bool)> {
    let flags = ["bars", "--store", &place.store, "--size", "1s"];
    let csv = succeed(&[&flags[..], &["--format", "csv"]].concat());
    let mut lines = csv.lines();
    let heading = lines.next().expect("a heading");
    assert_eq!(heading.split(',').next_back(), Some("complete"));
    let mut bars: Vec<(String, bool)> = lines
        .map(|line| {
            let columns: Vec<&str> = line.split(',').collect();
            (columns[2].to_owned(), columns.last() == Some(&"true"))
        })
        .collect();
    // All bars of a second agree, because a gap concerns all symbols.
    bars.sort();
    bars.dedup();
    bars
}

#[test]
fn a_run_killed_under_load_leaves_a_gap_that_the_next_one_states() {
    let place = Place::new();
    let run = ["run", "--rate", "5000", "--store", &place.store];
    let mut killed = tapeflow(&[&run[..], &["--keep", "forever"]].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let begun = Instant::now();
    until("bars are committed", || {
        let asked = [
            "bars",
            "--store",
            &place.store,
            "--size",
            "1s",
            "--last",
            "1",
        ];
        let output = tapeflow(&asked).output().expect("it runs");
        (output.status.success() && output.stdout.len() > 500).then_some(())
    });
    sleep(Duration::from_secs(4).saturating_sub(begun.elapsed()));
    killed.kill().expect("killed");
    killed.wait().expect("gone");
    sleep(Duration::from_millis(1_500));
    succeed(&[&run[..], &["--keep", "forever", "--duration", "4s"]].concat());

    let found = seconds(&place);
    let starts: std::collections::BTreeSet<&String> =
        found.iter().map(|(start, _)| start).collect();
    assert_eq!(
        starts.len(),
        found.len(),
        "the bars of a second agree: {found:?}"
    );
    let labels: Vec<bool> = found.iter().map(|(_, complete)| *complete).collect();
    let spells: Vec<bool> = labels
        .chunk_by(|one, other| one == other)
        .map(|spell| spell[0])
        .collect();
    // Both runs begin within a second, and so does the end of the second one. The log says nothing
    // of the time before the first one, of which late trades may have come.
    assert!(
        spells.ends_with(&[false, true, false, true, false]) && spells.len() <= 6,
        "{found:?}"
    );
    let day = [
        "bars",
        "--store",
        &place.store,
        "--size",
        "1d",
        "--format",
        "json",
    ];
    assert!(
        succeed(&day)
            .lines()
            .all(|line| line.contains("\"complete\":false"))
    );
}
