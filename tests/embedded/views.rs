//! Known trades give known views, and `tapeflow views` prints them.

use std::fs;

use tapeflow_ingest::simulator::FeedFile;

use crate::{
    command::{Place, end_with, golden, succeed, tapeflow, told},
    http::get,
    serving::serving,
};

const VIEWS: [&str; 4] = ["active", "movers", "baskets", "market"];
/// The default sizes, without those below a minute.
const SIZES: [&str; 4] = ["1m", "5m", "1h", "1d"];

/// The lines of `tapeflow views --format csv`, without the header and without the last column,
/// which is a label.
fn top(place: &Place, view: &str, size: &str, flags: &[&str]) -> Vec<String> {
    let csv = succeed(
        &[
            &[
                "views",
                "--store",
                &place.store,
                "--view",
                view,
                "--size",
                size,
                "--format",
                "csv",
            ],
            flags,
        ]
        .concat(),
    );
    let mut lines = csv.lines();
    assert_eq!(
        lines.next(),
        Some(
            "view,size,start,quote,rank,name,symbols,trades,volume,notional,vwap,open,close,change_pct,epoch"
        )
    );
    lines
        .map(|line| line.rsplit_once(',').expect("columns").0.to_owned())
        .collect()
}

/// All views.
fn everything(place: &Place) -> Vec<String> {
    VIEWS
        .iter()
        .flat_map(|view| {
            SIZES
                .iter()
                .flat_map(|size| top(place, view, size, &["--from", "1960-01-01"]))
        })
        .collect()
}

/// The views that an independent program computed.
fn golden_views(name: &str) -> Vec<String> {
    let csv = fs::read_to_string(golden(name)).expect("the golden file");
    csv.lines()
        .skip(1)
        .map(|line| line.strip_suffix(',').expect("an empty label").to_owned())
        .collect()
}

fn verify(place: &Place) -> String {
    succeed(&[
        "verify",
        "--log",
        &place.store,
        "--baskets",
        &golden("baskets.csv"),
    ])
    .lines()
    .last()
    .unwrap_or_default()
    .to_owned()
}

#[test]
fn recorded_and_simulated_trades_give_the_golden_views_and_a_second_run_changes_none() {
    for (frames, views) in [
        ("finnhub-recorded.jsonl", "finnhub-recorded-views.csv"),
        ("crowd.jsonl", "crowd-views.csv"),
        ("currencies.jsonl", "currencies-views.csv"),
    ] {
        let want = golden_views(views);
        let baskets = golden("baskets.csv");
        for flags in [
            ["--workers", "1", "--bar-memory", "4KiB"],
            ["--workers", "4", "--partitions", "7"],
        ] {
            let place = Place::new();
            let flags = [&flags[..], &["--baskets", &baskets]].concat();
            place.replay(&golden(frames), &flags);
            assert_eq!(everything(&place), want, "{frames} {flags:?}");
            place.replay(&golden(frames), &["--baskets", &baskets]);
            assert_eq!(everything(&place), want, "{frames} {flags:?}, second run");
            let verified = verify(&place);
            assert!(
                verified.starts_with("0 differences; ") && !verified.contains(" 0 views compared"),
                "{verified}"
            );
        }
    }
}

#[test]
fn views_do_not_depend_on_workers_memory_or_the_length_of_an_epoch() {
    // Two minutes in the feed's time, both with late trades.
    let feed = FeedFile {
        seed: 9,
        trades: 12_000,
        symbols: 40,
        trades_per_second: 100,
        ..FeedFile::default()
    };
    let (narrow, wide) = (Place::new(), Place::new());
    let file = narrow.feed(&feed);
    let baskets = narrow.file(
        "baskets.csv",
        "big,AAPL,0.5\nbig,MSFT,1.25\ncoins,BINANCE:BTCUSDT,1\n",
    );
    narrow.replay(
        &file,
        &[
            "--baskets",
            &baskets,
            "--workers",
            "1",
            "--bar-memory",
            "4KiB",
            "--epoch",
            "10ms",
            "--speed",
            "60x",
        ],
    );
    wide.replay(
        &file,
        &["--baskets", &baskets, "--workers", "4", "--epoch", "1s"],
    );
    let views = everything(&narrow);
    assert!(
        views.iter().any(|line| line.starts_with("baskets,1m,")) && views.len() > 50,
        "{views:#?}"
    );
    assert_eq!(views, everything(&wide));
    for place in [&narrow, &wide] {
        succeed(&["verify", "--log", &place.store, "--baskets", &baskets]);
    }
}

#[test]
fn without_a_range_the_newest_view_is_shown_and_of_days_those_of_all_markets() {
    let place = Place::new();
    place.replay(
        &golden("crowd.jsonl"),
        &["--baskets", &golden("baskets.csv")],
    );
    let all = everything(&place);
    let of = |prefix: &str| {
        all.iter()
            .filter(|line| line.starts_with(prefix))
            .cloned()
            .collect::<Vec<_>>()
    };
    let market = top(&place, "market", "1m", &[]);
    assert_eq!(market, of("market,1m,2024-06-22T00:00:00Z,"));
    // The newest trades are in the first minute of a day in UTC. In New York it is the evening
    // before.
    let days = [
        of("active,1d,2024-06-21T04:00:00Z,"),
        of("active,1d,2024-06-22T00:00:00Z,"),
    ]
    .concat();
    assert_eq!(top(&place, "active", "1d", &[]), days);
    assert!(
        days.len() == 11 && of("active,1d,2024-06-21T00:00:00Z,").len() == 3,
        "{all:#?}"
    );
    let defaults = succeed(&["views", "--store", &place.store, "--format", "csv"]);
    assert_eq!(
        defaults.lines().count(),
        1 + of("active,1m,2024-06-22T00:00:00Z,").len(),
        "{defaults}"
    );

    // For a basket that did not trade in the newest minute: the newest minute in which it did.
    let place = Place::new();
    place.replay(
        &golden("crowd.jsonl"),
        &["--baskets", &place.file("one.csv", "one,ALONE,1\n")],
    );
    assert_eq!(
        top(&place, "baskets", "1m", &[]),
        ["baskets,1m,2024-06-21T14:21:00Z,USD,1,one,1,2,3,15,5,,,"]
    );
    assert_eq!(
        top(&place, "baskets", "1d", &[]),
        ["baskets,1d,2024-06-21T04:00:00Z,USD,1,one,1,2,3,15,5,,,"]
    );
}

#[test]
fn views_are_chosen_by_time_and_printed_in_three_formats() {
    let place = Place::new();
    place.replay(&golden("crowd.jsonl"), &[]);
    let starts = |flags: &[&str]| {
        let mut starts: Vec<String> = top(&place, "active", "1m", flags)
            .iter()
            .map(|line| line.split(',').nth(2).expect("a start").into())
            .collect();
        starts.dedup();
        starts
    };
    let range = ["--from", "2024-06-21T14:21:00Z", "--to", "2024-06-22"];
    assert_eq!(
        starts(&range),
        ["2024-06-21T14:21:00Z", "2024-06-21T14:25:00Z"],
        "the end is not included"
    );
    assert_eq!(
        starts(&["--to", "2024-06-21T14:21:00Z"]),
        ["2024-06-21T14:20:00Z"]
    );
    let empty = end_with(
        2,
        &[
            "views",
            "--store",
            &place.store,
            "--view",
            "active",
            "--size",
            "1m",
            "--from",
            "2025-01-01",
        ],
    );
    assert!(
        empty.contains("no active view of 1m starts in this range; the newest one before it"),
        "{empty}"
    );

    let form = |format: &str, view: &str| {
        succeed(
            &[
                &[
                    "views",
                    "--store",
                    &place.store,
                    "--view",
                    view,
                    "--format",
                    format,
                ],
                &range[..],
            ]
            .concat(),
        )
    };
    let lines: Vec<serde_json::Value> = form("json", "active")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(
        (
            &lines[0]["quote"],
            &lines[0]["name"],
            &lines[0]["rank"],
            &lines[0]["notional"],
            &lines[0]["change_pct"]
        ),
        (
            &"USD".into(),
            &"ALONE".into(),
            &1.into(),
            &"15".into(),
            &"0".into()
        )
    );
    let table = form("table", "active");
    assert!(
        table.starts_with("active 1m 2024-06-21T14:21:00Z, epoch ")
            && table.contains("\nquote  rank  name "),
        "{table}"
    );
    assert!(
        form("table", "movers").contains("no symbol moved"),
        "a minute in which no symbol moved has an empty view"
    );
    let none = form("table", "baskets");
    assert!(
        none.starts_with("no baskets view of 1m yet: ") && none.contains("--baskets"),
        "{none}"
    );
}

#[test]
fn sizes_without_views_and_unknown_views_are_refused() {
    let place = Place::new();
    place.replay(&golden("crowd.jsonl"), &["--sizes", "1s,1m,1h"]);
    let refused = |flags: &[&str], hints: &[&str]| {
        let said = end_with(2, &[&["views", "--store", &place.store], flags].concat());
        hints
            .iter()
            .for_each(|hint| assert!(said.contains(hint), "{hint:?} in\n{said}"));
    };
    refused(
        &["--size", "1s"],
        &["--size: ", "below one minute", "it has 1m,1h"],
    );
    refused(&["--size", "10m"], &["--size: ", "it has 1m,1h"]);
    refused(
        &["--view", "losers", "--size", "7s", "--from", "noon"],
        &["--view: ", "--size: ", "--from: "],
    );
}

#[test]
fn a_basket_symbol_that_never_trades_is_named_once() {
    let place = Place::new();
    let baskets = place.file("baskets.csv", "tech,AAPL,1\ntech,APLE,1\n");
    let warnings = |flags: &[&str]| {
        let run = ["run", "--store", &place.store, "--baskets", &baskets];
        let output = tapeflow(&[&run[..], flags].concat())
            .output()
            .expect("the binary starts");
        let said = told(&output);
        assert!(output.status.success(), "{said}");
        let warnings = said.lines().filter(|line| line.contains("without a bar"));
        warnings.map(str::to_owned).collect::<Vec<_>>()
    };
    let recording = golden("finnhub-recorded.jsonl");
    for flags in [
        &["--replay", &recording, "--until-end"][..],
        &["--simulate", "--symbols", "MSFT", "--duration", "1s"],
    ] {
        let said = warnings(flags);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].contains("APLE") && !said[0].contains("AAPL"),
            "{said:?}"
        );
    }
    let simulated = ["--simulate", "--symbols", "MSFT", "--baskets", &baskets];
    let running = serving(&[&["run", "--store", &place.store][..], &simulated].concat());
    let status: serde_json::Value =
        serde_json::from_str(&get(&running, "/status").1).expect("JSON");
    let unlisted = &status["job"]["unlisted_basket_symbols"];
    assert_eq!(*unlisted, serde_json::json!(["APLE"]));
    drop(running);
    let subscribed = ["--simulate", "--symbols", "APLE", "--duration", "1s"];
    assert_eq!(warnings(&subscribed), Vec::<String>::new());
}
