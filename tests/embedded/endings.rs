//! A run may end in any way: the next one continues, and the bars are those of an undisturbed run.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tapeflow_ingest::simulator::FeedFile;

use crate::{
    command::{Place, succeed, tapeflow, values},
    http::{get, until, value},
    serving::serving,
};

/// The number of runs that are killed while they work.
const KILLS: u32 = 8;

#[test]
fn kill_nine_again_and_again_loses_and_doubles_nothing() {
    let seed = 7;
    let mut random = StdRng::seed_from_u64(seed);
    let (place, undisturbed) = (Place::new(), Place::new());
    let feed = FeedFile {
        seed,
        trades: 30_000,
        symbols: 300,
        ..FeedFile::default()
    };
    let file = place.feed(&feed);
    undisturbed.replay(&file, &[]);

    for kill in 0..KILLS {
        let workers = random.random_range(1..=4).to_string();
        // The recording takes seven seconds at four times its speed. That is many epochs, and no
        // run reaches the end.
        let mut life = place.replay_begun(
            &file,
            &[
                "--speed",
                "4x",
                "--workers",
                &workers,
                "--bar-memory",
                "4KiB",
                "--epoch",
                "20ms",
            ],
        );
        // Every second run is killed while it takes over or replays what the previous one bound.
        let range = if kill % 2 == 0 { 250..700 } else { 20..90 };
        std::thread::sleep(Duration::from_millis(random.random_range(range)));
        let ended = life.try_wait().expect("asked");
        life.kill().expect("killed");
        life.wait().expect("gone");
        assert!(
            ended.is_none(),
            "a life ended by itself: {ended:?}, seed {seed}"
        );
    }
    place.replay(&file, &["--workers", "3"]);
    assert!(
        place.verify().starts_with("0 differences"),
        "{}, seed {seed}",
        place.verify()
    );
    assert_eq!(
        values(&place.bars()),
        values(&undisturbed.bars()),
        "seed {seed}"
    );
}

/// Trades in all one-minute bars.
fn trades(place: &Place) -> u64 {
    let csv = succeed(&[
        "bars",
        "--store",
        &place.store,
        "--policy",
        "all",
        "--format",
        "csv",
    ]);
    csv.lines()
        .skip(1)
        .map(|line| {
            line.split(',')
                .nth(9)
                .and_then(|trades| trades.parse::<u64>().ok())
                .expect("a count")
        })
        .sum()
}

#[test]
fn a_signal_drains_and_the_next_run_goes_on() {
    let place = Place::new();
    let mut before = 0;
    for signal in ["-TERM", "-INT"] {
        let mut run = tapeflow(&["run", "--store", &place.store])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(run.stdout.take().expect("piped")).lines();
        // The first line of output shows that the run has begun.
        let line = lines.next().expect("a line").expect("text");
        assert!(line.contains("trades"), "{line}");
        // `timeout` sends SIGTERM to a process and then to its group: that is one request.
        let id = run.id();
        let script = match signal {
            "-TERM" => format!("kill -TERM {id}; sleep 0.05; kill -TERM {id} 2>/dev/null || true"),
            _ => format!("kill {signal} {id}"),
        };
        let sent = Command::new("sh").args(["-c", &script]).status();
        assert!(sent.expect("sh runs").success());
        let last = lines.map(|line| line.expect("text")).last().unwrap_or(line);
        assert_eq!(
            run.wait().expect("ended").code(),
            Some(0),
            "{signal}: {last}"
        );
        let after = trades(&place);
        assert!(after > before, "{signal}: {after} trades after {before}");
        before = after;
        // All records of the log are committed.
        let verified = place.verify();
        assert!(verified.starts_with("0 differences"), "{verified}");
        assert!(
            verified.contains(&format!(" {after} trades accepted")),
            "{after} trades in bars; {verified}"
        );
    }
}

#[test]
fn a_store_that_does_not_answer_holds_up_no_end_and_the_next_start_commits() {
    let place = Place::new();
    place.replay(
        &place.feed(&FeedFile {
            trades: 500,
            symbols: 10,
            ..FeedFile::default()
        }),
        &[],
    );
    let other = format!("sqlite:{}", place.path("other.db").display());
    let job = ["dataflow", "--log", &place.store, "--store", &other];
    // The epoch is so long that nothing is bound before the stop is requested.
    let mut running = serving(&[&job[..], &["--epoch", "60s", "--end-within", "300ms"]].concat());
    until("records are read", || {
        value(&get(&running, "/metrics").1, "tapeflow_records_read_total")
            .filter(|read| *read > 0.0)
    });
    let lock = rusqlite::Connection::open(place.path("other.db")).expect("opened");
    lock.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let sent = Command::new("kill")
        .args(["-TERM", &running.child.id().to_string()])
        .status()
        .expect("kill runs");
    assert!(sent.success());
    let mut said = String::new();
    running.said.read_to_string(&mut said).expect("text");
    assert_eq!(
        running.child.wait().expect("ended").code(),
        Some(1),
        "{said}"
    );
    assert!(said.contains("--end-within is over"), "{said}");

    drop(lock);
    succeed(&[&job[..], &["--until-end", "--http", "off"]].concat());
    assert!(
        succeed(&["verify", "--log", &place.store, "--store", &other])
            .lines()
            .last()
            .is_some_and(|last| last.starts_with("0 differences"))
    );
    let bars = |store: &str| {
        values(&succeed(&[
            "bars", "--store", store, "--size", "all", "--format", "csv",
        ]))
    };
    assert_eq!(bars(&other), bars(&place.store));
}

#[test]
fn a_run_of_a_given_length_ends_by_itself() {
    let place = Place::new();
    let said = succeed(&[
        "run",
        "--store",
        &place.store,
        "--duration",
        "1500ms",
        "--rate",
        "500",
    ]);
    assert!(
        said.lines().count() >= 2,
        "a line a second, and one at the end: {said}"
    );
    assert!(trades(&place) > 0);
    place.verify();
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let place = Place::new();
    place.replay(
        &place.feed(&FeedFile {
            trades: 20_000,
            ..FeedFile::default()
        }),
        &[],
    );
    let mut bars = tapeflow(&[
        "bars",
        "--store",
        &place.store,
        "--size",
        "all",
        "--format",
        "csv",
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .expect("the binary starts");
    let mut reader = BufReader::new(bars.stdout.take().expect("piped"));
    let mut first = String::new();
    reader.read_line(&mut first).expect("a line");
    drop(reader);
    let output = bars.wait_with_output().expect("ended");
    assert_eq!(
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).as_ref()
        ),
        (Some(0), "")
    );
}
