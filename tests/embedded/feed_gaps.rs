//! When the feed was away, the bars of that time say so.

use std::{
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    audit::{changed, number, summary},
    command::{Place, end_with, succeed, tapeflow},
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
    // Both runs begin within a second. So does the end of the second one, unless it has no bar any
    // more. The log says nothing of the time before the first one, of which late trades may have
    // come.
    let spells = spells.strip_prefix(&[true]).unwrap_or(&spells);
    let spells = spells.strip_suffix(&[false]).unwrap_or(spells);
    assert_eq!(spells, [false, true, false, true], "{found:?}");
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

#[test]
fn verify_finds_a_gap_that_is_missing_and_one_that_never_was_and_repairs_the_first() {
    let place = Place::new();
    for _ in 0..2 {
        succeed(&[
            "run",
            "--rate",
            "500",
            "--store",
            &place.store,
            "--duration",
            "2s",
        ]);
    }
    let verify = |code, flags: &[&str]| {
        let verify = ["verify", "--store", &place.store];
        end_with(code, &[&verify[..], flags].concat())
    };
    let change = |change: &str| changed(&place, change);
    let sound = summary(&verify(0, &[]));
    assert!(sound.starts_with("0 differences; "), "{sound}");
    assert!(number(&sound, "feed gaps compared") >= 4, "{sound}");

    assert_eq!(
        change(
            "DELETE FROM feed_gaps WHERE is_open = 0 AND from_ms = (
                SELECT min(from_ms) FROM feed_gaps WHERE is_open = 0)"
        ),
        1
    );
    change(
        "INSERT INTO feed_gaps (from_ms, session, to_ms, is_open, producer, cause) VALUES
            (1700000000000, '0123456789abcdef0123456789abcdef', 1700000001000, 0, 'x', 'silent')",
    );
    let said = verify(1, &[]);
    assert!(summary(&said).starts_with("2 differences; "), "{said}");
    assert!(
        said.contains(": a record of the log reports it, the store has none")
            && said.contains("feed gap of x from 2023-11-14T22:13:20Z")
            && said.contains(": no record of the log reports it"),
        "{said}"
    );
    let said = verify(1, &["--repair", "--yes"]);
    assert!(said.contains("and 1 feed gap, as of epoch"), "{said}");
    assert!(said.contains("; 1 place not repaired"), "{said}");
    assert_eq!(change("DELETE FROM feed_gaps WHERE producer = 'x'"), 1);
    assert_eq!(summary(&verify(0, &[])), sound);

    change("UPDATE feed_gaps SET session = 'none' WHERE is_open = 1");
    let said = verify(1, &[]);
    assert!(said.contains("feed gaps: "), "{said}");
}
