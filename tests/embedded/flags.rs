//! The command line: what is refused, with which message, and before anything is written.

use std::fs;

use crate::command::{Place, end_with, golden, succeed, tapeflow};

/// All commands.
const COMMANDS: [&[&str]; 11] = [
    &["run"],
    &["init"],
    &["ingest"],
    &["dataflow"],
    &["bars"],
    &["views"],
    &["verify"],
    &["status"],
    &["dead-letters"],
    &["simulate"],
    &["bench"],
];

/// Flags that would repeat something dangerous if a variable stayed set. They have no variable.
const ONCE: [&str; 5] = [
    "accept-loss",
    "repair",
    "replay-as-new",
    "skip-batch",
    "yes",
];

/// Flags that mean something else for another command. Their variables name the command, so that
/// one that is set for the other command does not reach this one.
const OF_ONE_COMMAND: [(&str, &str); 5] = [
    ("bench", "duration"),
    ("bench", "keep"),
    ("bench", "rate"),
    ("bench", "trades"),
    ("views", "size"),
];

#[test]
fn every_flag_is_an_environment_variable_too_but_those_for_one_run() {
    for command in COMMANDS {
        let help = succeed(&[command, &["--help"]].concat());
        let lines: Vec<&str> = help.lines().collect();
        // Lines with a deeper indent are descriptions, which may name other flags.
        let is_flag = |line: &str| line.starts_with("      --") || line.starts_with("  -");
        let flags = lines.iter().enumerate().filter_map(|(at, line)| {
            let name = line.strip_prefix("      --")?.split([' ', '.']).next()?;
            Some((at, name))
        });
        let mut seen = 0;
        for (at, name) in flags {
            seen += 1;
            let full = if OF_ONE_COMMAND.contains(&(command[0], name)) {
                format!("{}-{name}", command[0])
            } else {
                name.to_owned()
            };
            let variable = format!("[env: TAPEFLOW_{}=", full.to_uppercase().replace('-', "_"));
            let own = lines[at + 1..].iter().take_while(|line| !is_flag(line));
            assert_eq!(
                lines[at].contains(&variable) || own.clone().any(|line| line.contains(&variable)),
                !ONCE.contains(&name),
                "{command:?} --{name}: {variable} in\n{help}"
            );
        }
        assert!(seen >= 4, "{command:?} has flags: {help}");
    }
}

#[test]
fn an_environment_variable_sets_its_flag_and_a_flag_wins() {
    let place = Place::new();
    let run = |flags: &[&str]| {
        let mut command = tapeflow(&[&["run", "--until-end"], flags].concat());
        command
            .env("TAPEFLOW_STORE", &place.store)
            .env("TAPEFLOW_REPLAY", golden("finnhub-recorded.jsonl"))
            .env("TAPEFLOW_SIZES", "1h");
        command.output().expect("the binary starts")
    };
    assert!(run(&[]).status.success());
    let sizes = succeed(&[
        "bars",
        "--store",
        &place.store,
        "--size",
        "all",
        "--format",
        "csv",
    ]);
    assert!(
        sizes.lines().skip(1).all(|line| line.contains(",1h,")) && sizes.lines().count() > 1,
        "{sizes}"
    );
    assert_eq!(
        run(&["--sizes", "1m"]).status.code(),
        Some(2),
        "the flag wins, and other sizes are another store"
    );
}

#[test]
fn every_error_of_a_command_line_is_reported_at_once_and_nothing_is_written() {
    let place = Place::new();
    let flags = [
        "--sizes",
        "7s",
        "--epoch",
        "soon",
        "--workers",
        "0",
        "--speed",
        "fast",
        "--seed",
        "x",
        "--duration",
        "1",
    ];
    let said = end_with(
        2,
        &[
            &[
                "run",
                "--store",
                &place.store,
                "--replay",
                &golden("finnhub-recorded.jsonl"),
            ],
            &flags[..],
        ]
        .concat(),
    );
    for flag in [
        "--sizes",
        "--epoch",
        "--workers",
        "--speed",
        "--seed",
        "--duration",
    ] {
        assert!(said.contains(&format!("{flag}: ")), "{flag} in\n{said}");
    }
    assert!(!place.path("t.db").exists(), "{said}");
}

#[test]
fn flags_of_another_feed_are_refused_beside_a_recording() {
    let place = Place::new();
    let recording = golden("finnhub-recorded.jsonl");
    for flags in [
        &["--symbols", "AAPL"][..],
        &["--seed", "2"],
        &["--rate", "5"],
        &["--market-symbols", "5"],
    ] {
        let run = ["run", "--store", &place.store, "--replay", &recording];
        let said = end_with(2, &[&run[..], flags].concat());
        assert!(
            said.contains(flags[0]) && said.contains("--replay"),
            "{said}"
        );
        assert!(!place.path("t.db").exists(), "{said}");
    }
}

#[test]
fn bad_input_is_refused_with_code_2_and_what_to_do() {
    let place = Place::new();
    let recording = golden("finnhub-recorded.jsonl");
    let nothing = place
        .path("absent.jsonl")
        .to_str()
        .expect("UTF-8")
        .to_owned();
    let text = format!(
        "sqlite:{}",
        place.file("text.db", "this is no database, whatever its name says")
    );
    let refused = |arguments: &[&str], hint: &str| {
        let said = end_with(2, arguments);
        assert!(said.contains(hint), "{hint:?} in\n{said}");
    };
    refused(
        &["run", "--replay", &nothing, "--store", &place.store],
        "--replay",
    );
    refused(&["bars", "--store", &place.store], "t.db");
    refused(&["verify", "--log", &place.store], "t.db");
    refused(&["status", "--store", "mysql://somewhere"], "--store");
    refused(&["bars", "--store", &text], "text.db");
    refused(
        &[
            "run",
            "--replay",
            &recording,
            "--until-end",
            "--store",
            &text,
        ],
        "text.db",
    );
    let job = ["dataflow", "--store", &place.store];
    for (flags, hint) in [
        (&["--skip-batch", "3"][..], "3:1200"),
        (
            &["--skip-batch", "3:1", "--skip-batch", "3:9"],
            "one batch of a partition",
        ),
    ] {
        refused(&[&job[..], flags].concat(), hint);
    }
    let latest = place.file(
        "kafka.properties",
        "# from a guide\nauto.offset.reset=latest\n",
    );
    refused(
        &[&job[..], &["--kafka-config-file", &latest]].concat(),
        "line 2: auto.offset.reset cannot be set",
    );
    refused(&["bars", "--format", "xml"], "--format");
    refused(&["no-such-command"], "no-such-command");
    refused(&["run", "--no-such-flag"], "--no-such-flag");
    assert!(
        !place.path("t.db").exists(),
        "a reader or a refused run makes no file"
    );
    assert_eq!(
        fs::read_to_string(place.path("text.db")).expect("still there"),
        "this is no database, whatever its name says"
    );
}

#[test]
fn a_store_of_another_job_or_of_other_rules_is_refused_and_left_alone() {
    let place = Place::new();
    let recording = golden("finnhub-recorded.jsonl");
    place.replay(&recording, &[]);
    // The end of the log must not move either: the next run would count appended records.
    let status = || succeed(&["status", "--store", &place.store, "--log", &place.store]);
    let (bars, before) = (place.bars(), status());
    let other = golden("crowd.jsonl");
    let run = [
        "run",
        "--replay",
        &other,
        "--until-end",
        "--store",
        &place.store,
    ];
    for (flags, hint) in [
        (["--job", "someone-else"], "--job"),
        (["--sizes", "1s,10m"], "rules"),
    ] {
        let said = end_with(2, &[&run[..], &flags].concat());
        assert!(said.contains(hint), "{hint:?} in\n{said}");
    }
    assert_eq!(place.bars(), bars);
    assert_eq!(
        status(),
        before,
        "not even a generation was begun, and nothing appended"
    );
    let said = end_with(2, &["bars", "--store", &place.store, "--size", "10m"]);
    assert!(
        said.contains("10m") && said.contains("1s,1m,5m,1h,1d"),
        "{said}"
    );
}

#[test]
fn every_error_of_a_file_of_baskets_is_reported_and_nothing_is_written() {
    let place = Place::new();
    let (recording, baskets) = (
        golden("finnhub-recorded.jsonl"),
        place.file(
            "baskets.csv",
            "tech,AAPL,1\ntech,MSFT\ntech,GOOG,-1\ntech,BINANCE:BTCUSDT,1\n",
        ),
    );
    let said = end_with(
        2,
        &[
            "run",
            "--replay",
            &recording,
            "--until-end",
            "--store",
            &place.store,
            "--baskets",
            &baskets,
        ],
    );
    assert!(
        said.contains("--baskets: ")
            && said.contains("line 2: ")
            && said.contains("line 3: ")
            && said.contains("line 4: AAPL is quoted in USD and BINANCE:BTCUSDT is quoted in USDT")
            && !said.contains("line 1: "),
        "{said}"
    );
    let said = end_with(
        2,
        &[
            "dataflow",
            "--store",
            &place.store,
            "--baskets",
            "no-such-file",
            "--epoch",
            "soon",
        ],
    );
    assert!(
        said.contains("--baskets: no-such-file ") && said.contains("--epoch: "),
        "{said}"
    );
    assert!(!place.path("t.db").exists(), "{said}");
}

#[test]
fn a_store_keeps_the_baskets_it_began_with_and_is_verified_with_no_others() {
    let place = Place::new();
    let recording = golden("finnhub-recorded.jsonl");
    let (mine, same) = (
        place.file("mine.csv", "a,AAPL,0.5\nb,TSLA,1\n"),
        place.file("same.csv", "# again\nb,TSLA,1.0\na,AAPL,5e-1\n"),
    );
    let other = place.file("other.csv", "a,AAPL,0.25\nb,TSLA,1\n");
    let run = |store: &str, flags: &[&str], code: i32| {
        end_with(
            code,
            &[
                &[
                    "run",
                    "--replay",
                    &recording,
                    "--until-end",
                    "--store",
                    store,
                ],
                flags,
            ]
            .concat(),
        )
    };
    run(&place.store, &["--baskets", &mine], 0);
    let lists = succeed(&[
        "views",
        "--store",
        &place.store,
        "--view",
        "baskets",
        "--size",
        "1d",
        "--format",
        "csv",
    ]);
    run(&place.store, &["--baskets", &same], 0);
    for flags in [&["--baskets", &other][..], &[]] {
        let said = run(&place.store, flags, 2);
        assert!(
            said.contains("baskets ") && said.contains("rules"),
            "{said}"
        );
    }
    assert_eq!(
        succeed(&[
            "views",
            "--store",
            &place.store,
            "--view",
            "baskets",
            "--size",
            "1d",
            "--format",
            "csv"
        ]),
        lists
    );

    let verify = |store: &str, flags: &[&str], code: i32| {
        end_with(code, &[&["verify", "--log", store], flags].concat())
    };
    verify(&place.store, &["--baskets", &mine], 0);
    verify(&place.store, &["--baskets", &same], 0);
    // The store keeps their text: no file is needed.
    let said = verify(&place.store, &[], 0);
    assert!(said.contains("0 differences"), "{said}");
    let said = verify(&place.store, &["--baskets", &other], 2);
    assert!(said.contains("--baskets: "), "{said}");
    let without = Place::new();
    run(&without.store, &[], 0);
    let said = verify(&without.store, &["--baskets", &mine], 2);
    assert!(said.contains("--baskets: "), "{said}");
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let place = Place::new();
    let recording = golden("finnhub-recorded.jsonl");
    place.replay(&recording, &[]);
    let database = rusqlite::Connection::open(place.path("t.db")).expect("opened");
    let checkpoint: String = database
        .query_row("SELECT checkpoint FROM checkpoint", [], |bar| bar.get(0))
        .expect("a checkpoint");
    let newer = checkpoint.replacen("\"format\":", "\"format\":99", 1);
    assert_ne!(newer, checkpoint);
    database
        .execute("UPDATE checkpoint SET checkpoint = ?1", [&newer])
        .expect("changed");
    drop(database);
    let said = end_with(
        2,
        &[
            "run",
            "--replay",
            &recording,
            "--until-end",
            "--store",
            &place.store,
        ],
    );
    assert!(said.contains("99") && said.contains("newer"), "{said}");
    let database = rusqlite::Connection::open(place.path("t.db")).expect("opened");
    let after: String = database
        .query_row("SELECT checkpoint FROM checkpoint", [], |bar| bar.get(0))
        .expect("a checkpoint");
    assert_eq!(after, newer);
}

/// Runs a command that must end with code 2 under these variables; its standard error.
fn refused_under(variables: &[(&str, &str)], arguments: &[&str]) -> String {
    let output = tapeflow(arguments)
        .envs(variables.iter().copied())
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
    said
}

#[test]
fn an_error_names_the_environment_variable_that_a_value_came_from() {
    let place = Place::new();
    let note = |said: &str, flag: &str, variable: &str| {
        let note = format!("note: {flag} has its value from the environment variable {variable}");
        assert!(said.contains(&note), "{note:?} in\n{said}");
    };
    let run = ["run", "--store", &place.store, "--workers", "0"];
    let said = refused_under(
        &[("TAPEFLOW_EPOCH", "soon"), ("TAPEFLOW_SIZES", "1m")],
        &run,
    );
    assert!(
        said.contains("--epoch: ") && said.contains("--workers: "),
        "{said}"
    );
    note(&said, "--epoch", "TAPEFLOW_EPOCH");
    for quiet in ["TAPEFLOW_SIZES", "TAPEFLOW_WORKERS"] {
        assert!(!said.contains(quiet), "{quiet} is not at fault:\n{said}");
    }
    // Without a command, and of a switch.
    note(
        &refused_under(&[("TAPEFLOW_RATE", "x")], &[]),
        "--rate",
        "TAPEFLOW_RATE",
    );
    // A variable that means one thing for a command means nothing else for another.
    let bench = ["bench", "--embedded"];
    let of_others = [
        ("TAPEFLOW_KEEP", "7d"),
        ("TAPEFLOW_RATE", "soon"),
        ("TAPEFLOW_TRADES", "some"),
        ("TAPEFLOW_DURATION", "a while"),
    ];
    let said = refused_under(&of_others, &[&bench[..], &["--workers", "0"]].concat());
    assert_eq!(said.lines().count(), 1, "{said}");
    let views = ["views", "--store", &place.store, "--from", "soon"];
    let said = refused_under(&[("TAPEFLOW_SIZE", "all")], &views);
    assert_eq!(said.lines().count(), 1, "{said}");
    note(
        &refused_under(&[("TAPEFLOW_JSON", "perhaps")], &bench),
        "--json",
        "TAPEFLOW_JSON",
    );
    // Two flags that exclude each other.
    let replay = [("TAPEFLOW_REPLAY", "a.jsonl")];
    let said = refused_under(
        &replay,
        &["run", "--token-file", "token", "--store", &place.store],
    );
    note(&said, "--replay", "TAPEFLOW_REPLAY");
    // A file, a server and a choice.
    let said = refused_under(&[("TAPEFLOW_STORE", &place.store)], &["bars"]);
    note(&said, "--store", "TAPEFLOW_STORE");
    let said = refused_under(
        &[("TAPEFLOW_FORMAT", "xml")],
        &["bars", "--store", &place.store],
    );
    note(&said, "--format", "TAPEFLOW_FORMAT");
    assert!(said.contains("table, csv, json"), "{said}");
    assert!(!place.path("t.db").exists());
}

#[test]
fn the_help_of_each_command_ends_with_two_examples() {
    for command in COMMANDS {
        let help = succeed(&[command, &["--help"]].concat());
        let (_, examples) = help.rsplit_once("Examples:\n").expect("examples");
        // A long example goes on after a backslash.
        let examples = examples.replace("\\\n", "");
        let lines: Vec<&str> = examples.lines().collect();
        let of_command = format!("tapeflow {}", command[0]);
        assert_eq!(lines.len(), 2, "{help}");
        assert!(
            lines.iter().all(|line| line.contains(&of_command)),
            "{help}"
        );
        let widest = help.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(100), "{widest:?}: {help}");
    }
}

#[test]
fn a_command_without_a_log_a_store_or_a_result_says_what_to_do_next() {
    let place = Place::new();
    let said = |arguments: &[&str], hint: &str| {
        let said = end_with(2, arguments);
        assert!(said.contains(hint), "{arguments:?}: {hint:?} in\n{said}");
    };
    for command in ["bars", "views", "status", "dead-letters"] {
        said(
            &[command, "--store", &place.store],
            "start a job with tapeflow run",
        );
    }
    said(
        &["verify", "--log", &place.store],
        "start a job with tapeflow run",
    );
    said(
        &["dataflow", "--log", &place.store, "--store", &place.store],
        "does not exist",
    );
    said(&["dataflow"], "--store: missing; give cassandra://");
    said(&["ingest"], "--replay or --token-file: missing");
    place.replay(&golden("finnhub-recorded.jsonl"), &[]);
    let printed = |arguments: &[&str], hint: &str| {
        let text = succeed(&[arguments, &["--store", &place.store]].concat());
        assert!(text.contains(hint), "{arguments:?}: {hint:?} in\n{text}");
    };
    printed(
        &["views", "--view", "baskets"],
        "tapeflow run --baskets FILE",
    );
    printed(&["dead-letters"], "no dead letters");
}

#[test]
fn no_line_of_a_driver_precedes_the_error() {
    let unreachable = "cassandra://127.0.0.1:1/market";
    let output = tapeflow(&["bars", "--store", unreachable])
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.starts_with("tapeflow: the store ") && said.lines().count() == 1,
        "{said}"
    );
}

#[test]
fn status_is_printed_as_csv_with_and_without_its_log() {
    let place = Place::new();
    place.replay(&golden("finnhub-recorded.jsonl"), &[]);
    let status = |flags: &[&str]| succeed(&[&["status", "--store", &place.store], flags].concat());
    let csv = status(&["--format", "csv", "--log", &place.store]);
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(lines.len(), 5, "a heading and four partitions: {csv}");
    assert_eq!(
        lines[0][5..9],
        [
            "partition",
            "committed_offset",
            "bound_offset",
            "end_offset"
        ]
    );
    for line in &lines[1..] {
        assert_eq!(line.len(), lines[0].len(), "{csv}");
        assert_eq!(
            (line[6], line[9], line[10]),
            (line[8], "0", "0"),
            "everything is committed"
        );
    }
    // The file of the bars holds their log.
    assert_eq!(status(&["--format", "csv"]), csv);
    let other = format!("sqlite:{}", place.path("other.db").display());
    let job = ["dataflow", "--log", &place.store, "--store", &other];
    succeed(&[&job[..], &["--until-end"]].concat());
    let alone = succeed(&["status", "--store", &other, "--format", "csv"]);
    assert!(
        alone.lines().skip(1).all(|line| line.ends_with(",,,")),
        "no log, no lag: {alone}"
    );
}

#[test]
fn a_file_of_baskets_may_begin_with_a_heading() {
    let (with, without) = (Place::new(), Place::new());
    let lines = "tech,AAPL,0.5\ntech,TSLA,1\n";
    let views = |place: &Place, text: &str| {
        let file = place.file("baskets.csv", text);
        place.replay(&golden("finnhub-recorded.jsonl"), &["--baskets", &file]);
        let view = [
            "views", "--view", "baskets", "--size", "1d", "--format", "csv",
        ];
        succeed(&[&view[..], &["--store", &place.store]].concat())
    };
    let plain = views(&without, lines);
    assert_eq!(
        views(&with, &format!("basket,symbol,weight\n{lines}")),
        plain
    );
    assert!(plain.contains(",tech,"), "{plain}");
}
