//! The history that the simulated feed of `tapeflow run` begins with.

use std::process::{Child, Command, Stdio};

use crate::{
    command::{Place, succeed, tapeflow, told},
    http::until,
};

const SYMBOLS: usize = 20;
/// Minute bars of four hours, without the incomplete ones at both ends.
const FULL_CHART: usize = 239;
/// Trades of the history: at most six a minute for each symbol. Price updates are not trades.
const HISTORY_TRADES: std::ops::RangeInclusive<u64> = 26_000..=29_000;

/// `tapeflow run` of the simulated feed, with its history, at a low rate.
fn simulated(place: &Place, symbols: usize, flags: &[&str]) -> Command {
    let symbols = symbols.to_string();
    let run = ["run", "--rate", "20", "--market-symbols", &symbols];
    let mut command = tapeflow(&[&run[..], &["--store", &place.store], flags].concat());
    command.env_remove("TAPEFLOW_NO_HISTORY");
    command
}

/// Starts the simulated feed and ends it once `enough`, which is asked again and again.
fn run_until(place: &Place, flags: &[&str], enough: impl Fn() -> bool) {
    let mut run = simulated(place, SYMBOLS, flags)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    until("the store exists", || {
        let status = tapeflow(&["status", "--store", &place.store]).output();
        status
            .is_ok_and(|output| output.status.success())
            .then_some(())
    });
    until("enough bars are committed", || enough().then_some(()));
    terminate(&mut run);
}

fn terminate(run: &mut Child) {
    let sent = Command::new("kill")
        .args(["-TERM", &run.id().to_string()])
        .status();
    assert!(sent.expect("kill runs").success());
    assert!(run.wait().expect("ended").success());
}

/// Start, trades and close of each minute bar of a symbol that has a close, in time order.
fn minutes(place: &Place, symbol: &str) -> Vec<(String, u64, f64)> {
    let csv = place.bars();
    let mut bars: Vec<(String, u64, f64)> = csv
        .lines()
        .map(|line| line.split(',').collect::<Vec<_>>())
        .filter(|columns| columns[0] == symbol && columns[1] == "1m")
        .filter_map(|columns| {
            Some((
                columns[2].to_owned(),
                columns[9].parse().ok()?,
                columns[6].parse().ok()?,
            ))
        })
        .collect();
    bars.sort_by(|left, right| left.0.cmp(&right.0));
    bars
}

/// Trades of all symbols.
fn trades(place: &Place) -> u64 {
    place
        .bars()
        .lines()
        .map(|line| line.split(',').collect::<Vec<_>>())
        .filter(|columns| columns[1] == "1m")
        .map(|columns| columns[9].parse::<u64>().expect("a number"))
        .sum()
}

/// Records that are in the log and not committed.
fn uncommitted(place: &Place) -> u64 {
    let status = ["status", "--store", &place.store, "--log", &place.store];
    let csv = succeed(&[&status[..], &["--format", "csv"]].concat());
    csv.lines()
        .skip(1)
        .map(|line| line.split(',').nth(9).expect("a column"))
        .map(|count| count.parse::<u64>().expect("a number"))
        .sum()
}

#[test]
fn a_fresh_store_gets_history_once_and_live_prices_continue_it() {
    let place = Place::new();
    let is_full = || minutes(&place, "AAPL").len() >= FULL_CHART;
    run_until(&place, &[], || is_full() && uncommitted(&place) < 100);
    let bars = minutes(&place, "AAPL");
    let steps = bars.windows(2).map(|pair| pair[1].2 / pair[0].2 - 1.0);
    let largest = steps.fold(0.0, |largest: f64, step| largest.max(step.abs()));
    assert!(largest < 0.1, "the price jumps by a factor of {largest}");
    let first = trades(&place);
    assert!(first >= *HISTORY_TRADES.start(), "{first} trades");
    place.verify();

    run_until(&place, &[], || trades(&place) > first);
    let both = trades(&place);
    assert!(
        both - first < *HISTORY_TRADES.start(),
        "{first} trades, then {both}: live ones only"
    );
    place.verify();
}

#[test]
fn a_run_that_ends_within_its_history_says_so_and_the_next_one_goes_on() {
    let place = Place::new();
    let output = simulated(&place, 30, &["--duration", "20ms"])
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{}", told(&output));
    let said = String::from_utf8(output.stdout).expect("text");
    assert!(said.contains("history is incomplete"), "{said}");
    // What is in the log and not committed is not passed over in silence.
    let left = uncommitted(&place);
    assert_eq!(
        left > 0,
        said.contains("not committed yet"),
        "{left}: {said}"
    );
    place.verify();

    let before = trades(&place);
    let mut run = simulated(&place, 30, &[])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    until("the history is complete", || {
        let bars = minutes(&place, "AAPL");
        (bars.len() >= FULL_CHART).then_some(())
    });
    terminate(&mut run);
    assert!(trades(&place) > before);
    // Newer minutes are there, and between them none is missing.
    let starts: Vec<String> = minutes(&place, "AAPL")
        .into_iter()
        .map(|bar| bar.0)
        .collect();
    let mut distinct = starts.clone();
    distinct.dedup();
    assert_eq!(starts, distinct);
    let minute = |start: &str| -> i64 {
        let clock: Vec<i64> = start[11..16]
            .split(':')
            .map(|part| part.parse().expect("a number"))
            .collect();
        clock[0] * 60 + clock[1]
    };
    for pair in starts.windows(2) {
        let step = (minute(&pair[1]) - minute(&pair[0])).rem_euclid(24 * 60);
        assert_eq!(step, 1, "a hole between {pair:?}");
    }
    place.verify();
}

#[test]
fn without_history_a_run_begins_with_live_trades() {
    let place = Place::new();
    let has_bars = |place: &Place| !minutes(place, "AAPL").is_empty();
    run_until(&place, &["--no-history"], || has_bars(&place));
    let bars = minutes(&place, "AAPL");
    assert!((1..=3).contains(&bars.len()), "{} minute bars", bars.len());

    // Trades of the past would come too late for a store that has live ones.
    let before = trades(&place);
    run_until(&place, &[], || trades(&place) > before);
    assert!(minutes(&place, "AAPL").len() <= 6);
    place.verify();
}
