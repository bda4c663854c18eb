//! Settings that would be ignored, or do something else than they say, are refused by name; and
//! what is printed fits the command that prints it.

use std::net::TcpListener;

use crate::command::{Place, end_with, golden, succeed, tapeflow, told};

#[test]
fn flags_that_would_be_ignored_are_refused_by_name_and_all_at_once() {
    let place = Place::new();
    let run = ["run", "--store", &place.store];
    let refused = |flags: &[&str], hints: &[&str]| {
        let said = end_with(2, &[&run[..], flags].concat());
        for hint in hints {
            assert!(said.contains(hint), "{hint:?} in\n{said}");
        }
    };
    refused(&["--speed", "2x"], &["--speed: ", "--replay"]);
    refused(&["--until-end"], &["--until-end: ", "--replay"]);
    refused(
        &["--replay-as-new"],
        &["--replay-as-new: ", "--replay FILE"],
    );
    refused(
        &["--symbols", "AAPL"],
        &["--symbols: ", "--token-file", "--simulate"],
    );
    refused(
        &["--simulate", "--token-file", "no-such-file"],
        &["--simulate", "--token-file: "],
    );
    refused(
        &[
            "--replay",
            "a",
            "--token-file",
            "no-such-file",
            "--epoch",
            "soon",
        ],
        &[
            "--epoch: ",
            "cannot be used with",
            "--replay",
            "--token-file",
        ],
    );
    // The recording is given, so what needs one is no error.
    for other in ["--simulate", "--until-end", "--replay-as-new"] {
        let flags = [&run[..], &["--replay", "a", "--token-file", "b", other]].concat();
        let said = end_with(2, &flags);
        assert!(
            said.contains("cannot be used with") && !said.contains(&format!("{other}: only")),
            "{said}"
        );
        assert!(!said.contains("give it with --replay"), "{said}");
    }
    let all = ["--speed", "2x", "--symbols", "AAPL", "--log-level", "loud"];
    refused(
        &[&all[..], &["--sizes", "7s", "--http-tls-key", "none"]].concat(),
        &[
            "--speed: ",
            "--symbols: ",
            "--log-level: ",
            "--sizes: ",
            "--http-tls-key: ",
        ],
    );
    assert!(!place.path("t.db").exists());
    succeed(
        &[
            &run[..],
            &["--symbols", "AAPL,MSFT", "--simulate", "--duration", "1s"],
        ]
        .concat(),
    );
    let symbols = place.bars();
    assert!(
        symbols
            .lines()
            .skip(1)
            .all(|line| line.starts_with("AAPL,") || line.starts_with("MSFT,")),
        "{symbols}"
    );
}

#[test]
fn a_log_level_that_is_none_is_refused_and_filters_are_accepted() {
    let place = Place::new();
    for bad in [
        "loud",
        "",
        "info,loud",
        "tapeflow=loud",
        "=info",
        "tapeflow_dataflow",
    ] {
        let said = end_with(2, &["bars", "--store", &place.store, "--log-level", bad]);
        assert!(
            said.contains("--log-level: ") && said.contains("debug"),
            "{bad:?}: {said}"
        );
    }
    place.replay(&golden("finnhub-recorded.jsonl"), &[]);
    for good in [
        "error",
        "WARN",
        "off",
        "info,tapeflow_dataflow=debug",
        "off,tapeflow=trace",
    ] {
        succeed(&["bars", "--store", &place.store, "--log-level", good]);
    }
}

#[test]
fn a_switch_takes_the_usual_words_of_an_environment_variable() {
    let said = |word: &str| {
        // Without --replay the switch is refused where it is on.
        let output = tapeflow(&["run", "--epoch", "soon"])
            .env("TAPEFLOW_UNTIL_END", word)
            .output()
            .expect("the binary starts");
        assert_eq!(output.status.code(), Some(2), "{}", told(&output));
        told(&output)
    };
    for on in ["1", "true", "yes", "True", "YES"] {
        let said = said(on);
        assert!(
            said.contains("--until-end: ") && said.contains("--replay"),
            "{on}: {said}"
        );
    }
    for off in ["0", "false", "no", "No"] {
        let said = said(off);
        assert!(!said.contains("--until-end"), "{off}: {said}");
    }
    for neither in ["perhaps", "2", ""] {
        let said = said(neither);
        assert!(
            said.contains("--until-end: ") && said.contains("yes") && !said.contains("--replay"),
            "{neither:?}: {said}"
        );
    }
}

#[test]
fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let said = end_with(2, &["simulate", "--bind", &address]);
    assert!(
        said.contains("--bind: ") && said.contains(&address) && said.contains("in use"),
        "{said}"
    );
}

#[test]
fn a_bench_without_brokers_offers_to_measure_without_servers() {
    let said = end_with(2, &["bench", "--brokers", "127.0.0.1:1"]);
    assert!(
        said.contains("--embedded") && !said.contains("--log "),
        "{said}"
    );
    assert_eq!(said.matches("--brokers").count(), 1, "{said}");
}

#[test]
fn other_sizes_or_baskets_are_refused_by_what_differs_alone() {
    let place = Place::new();
    let recording = golden("finnhub-recorded.jsonl");
    let many: String = (0..80).map(|n| format!("b,SYM{n:02},0.5\n")).collect();
    let (mine, other) = (
        place.file("mine.csv", &many),
        place.file("other.csv", &many.replace("SYM79,0.5", "SYM79,0.25")),
    );
    place.replay(&recording, &["--baskets", &mine]);
    let run = [
        "run",
        "--replay",
        &recording,
        "--until-end",
        "--store",
        &place.store,
    ];
    let refused = |flags: &[&str]| {
        let said = end_with(2, &[&run[..], flags].concat());
        assert!(!said.contains("allowed lateness"), "{said}");
        said
    };
    let said = refused(&["--baskets", &mine, "--sizes", "1s,10m"]);
    assert!(
        // The second brings the minute that holds it.
        said.contains("sizes 1s,1m,5m,1h,1d") && said.contains("1s,1m,10m"),
        "{said}"
    );
    assert!(!said.contains("SYM"), "{said}");
    let said = refused(&["--baskets", &other]);
    assert!(
        said.contains("baskets") && !said.contains("sizes 1s") && said.len() < 500,
        "{said}"
    );
}

#[test]
fn status_names_the_file_and_shows_its_lag_without_a_flag() {
    let place = Place::new();
    let here = |arguments: &[&str]| {
        let output = tapeflow(arguments)
            .current_dir(place.path(""))
            .output()
            .expect("the binary starts");
        assert!(output.status.success(), "{}", told(&output));
        String::from_utf8(output.stdout).expect("text")
    };
    here(&[
        "run",
        "--replay",
        &golden("finnhub-recorded.jsonl"),
        "--until-end",
    ]);
    let status = here(&["status"]);
    assert!(
        status.contains("tapeflow-data/tapeflow.db")
            && status.contains("lag in all       0 records"),
        "{status}"
    );
    let json: serde_json::Value =
        serde_json::from_str(&here(&["status", "--format", "json"])).expect("JSON");
    assert_eq!(json["lag"].as_array().map(Vec::len), Some(4), "{json}");
    let store = json["store"].as_str().unwrap_or_default();
    assert!(store.ends_with("tapeflow-data/tapeflow.db"), "{json}");
}

#[test]
fn a_recording_of_the_simulated_market_counts_price_updates_apart() {
    let place = Place::new();
    let file = place.path("made.jsonl");
    let file = file.to_str().expect("UTF-8");
    let said = succeed(&["simulate", "--out", file, "--trades", "20000"]);
    let replayed = place.replay(file, &[]);
    let number = |text: &str, after: &str| -> u64 {
        let words: Vec<&str> = text.split([' ', ';']).collect();
        let at = words.iter().position(|word| word.starts_with(after));
        let number = at.and_then(|at| words.get(at.checked_sub(1)?));
        number
            .and_then(|word| word.replace([',', '\u{202f}'], "").parse().ok())
            .unwrap_or_else(|| panic!("a number of {after} in {text}"))
    };
    let (trades, updates) = (number(&said, "trades"), number(&said, "price"));
    assert_eq!(trades + updates, 20_000, "{said}");
    assert!(updates > 0, "currency pairs have price updates: {said}");
    let last = replayed.lines().last().expect("a line");
    assert_eq!(number(last, "trades"), trades, "{last}");
}

#[test]
fn a_recording_that_has_ended_says_how_to_end_with_it() {
    let place = Place::new();
    let replay = golden("finnhub-recorded.jsonl");
    let run = ["run", "--store", &place.store, "--replay", &replay];
    let said = succeed(&[&run[..], &["--duration", "2s"]].concat());
    assert!(said.contains("--until-end"), "{said}");
}

#[test]
fn help_speaks_of_the_command_that_it_helps_with() {
    let help = |command: &str| {
        let help = succeed(&[command, "--help"]);
        help.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for (command, foreign) in [
        ("ingest", "committed"),
        ("ingest", "for dataflow"),
        ("ingest", "live page"),
        ("run", "for ingest"),
        ("run", "for dataflow"),
        ("dataflow", "for ingest"),
        ("bars", "of views"),
        ("bars", "of --log"),
        ("bars", "dataflow and init"),
        ("views", "all bars"),
        ("views", "dataflow and init"),
        ("dead-letters", "of --log"),
        ("init", "the file of --log"),
        ("dataflow", "dataflow and init"),
        ("verify", "a store keeps the ones it began with"),
        ("simulate", "fill the first chart"),
    ] {
        let help = help(command);
        assert!(!help.contains(foreign), "{command}: {foreign:?} in {help}");
    }
}
