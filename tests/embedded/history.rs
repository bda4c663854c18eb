//! The history that the simulated feed of `tapeflow run` begins with.

use crate::command::{Place, tapeflow, told};

const SYMBOLS: usize = 20;
/// Minute bars of four hours, without the incomplete ones at both ends.
const FULL_CHART: usize = 239;
/// Trades of the history: at most six a minute for each symbol. Price updates are not trades.
const HISTORY_TRADES: std::ops::RangeInclusive<u64> = 26_000..=28_800;

/// Runs the simulated feed for a moment, at a low rate, so that there are few live trades.
fn run(place: &Place, flags: &[&str]) {
    let symbols = SYMBOLS.to_string();
    let arguments = [
        &[
            "run",
            "--duration",
            "8s",
            "--rate",
            "20",
            "--market-symbols",
            &symbols,
            "--store",
            &place.store,
        ],
        flags,
    ]
    .concat();
    let output = tapeflow(&arguments)
        .env_remove("TAPEFLOW_NO_HISTORY")
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{}", told(&output));
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

#[test]
fn a_fresh_store_gets_history_once_and_live_prices_continue_it() {
    let place = Place::new();
    run(&place, &[]);
    let bars = minutes(&place, "AAPL");
    assert!(bars.len() >= FULL_CHART, "{} minute bars", bars.len());
    let steps = bars.windows(2).map(|pair| pair[1].2 / pair[0].2 - 1.0);
    let largest = steps.fold(0.0, |largest: f64, step| largest.max(step.abs()));
    assert!(largest < 0.1, "the price jumps by a factor of {largest}");
    let first = trades(&place);
    let live = first - first.min(*HISTORY_TRADES.end());
    assert!(
        first >= *HISTORY_TRADES.start() && live < 1_000,
        "{first} trades"
    );
    place.verify();

    run(&place, &[]);
    let both = trades(&place);
    assert!(
        both > first && both - first < 1_000,
        "{first} trades, then {both}: live ones only"
    );
    place.verify();
}

#[test]
fn without_history_a_run_begins_with_live_trades() {
    let place = Place::new();
    run(&place, &["--no-history"]);
    let bars = minutes(&place, "AAPL");
    assert!((1..=3).contains(&bars.len()), "{} minute bars", bars.len());

    // Trades of the past would come too late for a store that has live ones.
    run(&place, &[]);
    assert!(minutes(&place, "AAPL").len() <= 6);
    place.verify();
}
