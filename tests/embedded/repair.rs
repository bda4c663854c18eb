//! `verify --repair` corrects what was changed outside the job and does not touch what the log
//! cannot confirm. A job waits for a repair that runs.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
};

use rusqlite::Connection;
use tapeflow_ingest::simulator::FeedFile;
use tapeflow_schemas::PackedBar;

use crate::{
    audit::{changed, committed_beyond, summary},
    command::{Place, end_with, golden, succeed, tapeflow, values},
    rows,
};

fn database(place: &Place) -> Connection {
    Connection::open(place.path("t.db")).expect("opened")
}

/// The values of all bars and the entries of all views, without the labels, which a repair changes.
fn everything(place: &Place) -> (Vec<String>, Vec<String>) {
    let views = ["active", "movers", "market"].into_iter().flat_map(|view| {
        ["1m", "5m", "1h", "1d"].into_iter().flat_map(move |size| {
            let top = [
                "views",
                "--store",
                &place.store,
                "--view",
                view,
                "--size",
                size,
                "--format",
                "csv",
                "--from",
                "1960-01-01",
            ];
            succeed(&top)
                .lines()
                .map(|line| line.rsplit_once(',').expect("columns").0.to_owned())
                .collect::<Vec<_>>()
        })
    });
    (values(&place.bars()), views.collect())
}

fn checkpoint(place: &Place) -> serde_json::Value {
    let checkpoint: String = database(place)
        .query_row("SELECT checkpoint FROM checkpoint", [], |bar| bar.get(0))
        .expect("a checkpoint");
    serde_json::from_str(&checkpoint).expect("JSON")
}

fn repair(place: &Place, code: i32) -> String {
    end_with(
        code,
        &["verify", "--store", &place.store, "--repair", "--yes"],
    )
}

/// Makes wrong, missing and damaged bars and views, and removes a symbol from the directory.
fn damage(place: &Place) -> usize {
    let wrong = [
        "UPDATE bars SET state = (SELECT state FROM bars WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'MSFT') AND seconds = 86400) WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'AAPL') AND seconds = 86400",
        "DELETE FROM bars WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'AAPL') AND seconds = 3600",
        "UPDATE bars SET state = x'00' WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'MSFT') AND seconds = 3600",
        "DELETE FROM symbol_buckets WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'TSLA')",
        "UPDATE views SET state = (SELECT state FROM views WHERE view_name = 'active' AND size = '1h') WHERE view_name = 'movers' AND size = '1h'",
        "DELETE FROM views WHERE view_name = 'market' AND size = '1h'",
        "UPDATE views SET state = x'00' WHERE view_name = 'active' AND size = '1h'",
    ];
    for wrong in wrong {
        changed(place, wrong);
    }
    wrong.len()
}

#[test]
fn what_was_changed_behind_the_jobs_back_is_corrected() {
    let place = Place::new();
    let feed = FeedFile {
        trades: 3_000,
        symbols: 12,
        ..FeedFile::default()
    };
    place.replay(&place.feed(&feed), &[]);
    let (before, was) = (everything(&place), checkpoint(&place));
    assert!(before.1.len() > 20);
    damage(&place);
    let found = summary(&end_with(1, &["verify", "--store", &place.store]));

    let said = repair(&place, 0);
    assert_eq!(
        summary(&said),
        found,
        "the audit of a repair is the same audit"
    );
    assert!(
        said.contains("AAPL 1h ")
            && said.contains(": nothing -> ")
            && said.contains(": unreadable -> "),
        "{said}"
    );
    assert!(said.contains("; 0 places not repaired"), "{said}");
    assert!(
        place.verify().starts_with("0 differences; "),
        "{}",
        place.verify()
    );
    assert_eq!(everything(&place), before);
    let now = checkpoint(&place);
    assert_eq!(
        now["generation"].as_u64(),
        was["generation"].as_u64().map(|generation| generation + 1)
    );
    assert_eq!(
        (&now["committed"]["epoch"], &now["bound"]),
        (&was["committed"]["epoch"], &was["bound"])
    );
    assert!(
        now["owner"]
            .as_str()
            .is_some_and(|owner| owner.starts_with("repaired-"))
            && now["recovery_timestamp"].as_i64() > was["last_write_timestamp"].as_i64()
    );

    // A second repair writes nothing, and the job goes on as if nothing had happened.
    let said = repair(&place, 0);
    assert!(said.contains("nothing to repair"), "{said}");
    assert_eq!(checkpoint(&place), now);
    let more = FeedFile { seed: 2, ..feed };
    place.replay(&place.feed(&more), &[]);
    assert!(
        place.verify().starts_with("0 differences; "),
        "{}",
        place.verify()
    );
    let undisturbed = Place::new();
    for feed in [&feed, &more] {
        undisturbed.replay(&undisturbed.feed(feed), &[]);
    }
    assert_eq!(everything(&place), everything(&undisturbed));
}

#[test]
fn a_wrong_second_is_corrected_with_the_minute_that_holds_it() {
    let place = Place::new();
    let feed = FeedFile {
        trades: 3_000,
        symbols: 12,
        ..FeedFile::default()
    };
    place.replay(&place.feed(&feed), &[]);
    let before = everything(&place);
    let minute = rows::of("AAPL", 60);
    rows::change_second(&database(&place), &minute, rows::doubled);
    rows::change_second(&database(&place), &rows::of("MSFT", 60), |_| None);
    // A second that no trade made: it goes with the minute that is written again.
    rows::change_second(&database(&place), &rows::of("NVDA", 60), |second| {
        let start = second.start - 10_000;
        [PackedBar { start, ..second }, second]
    });
    // A second of a minute that is wrong itself, whose views are written with it.
    let both = rows::of("TSLA", 60);
    rows::change_second(&database(&place), &both, rows::doubled);
    rows::double(&database(&place), &both);
    let found = end_with(1, &["verify", "--store", &place.store]);
    assert!(summary(&found).starts_with("5 differences; "), "{found}");

    let said = repair(&place, 0);
    assert!(
        said.contains("repaired: 4 bars and 3 views") && said.contains("; 0 places not repaired"),
        "{said}"
    );
    assert!(
        place.verify().starts_with("0 differences; "),
        "{}",
        place.verify()
    );
    assert_eq!(everything(&place), before);
}

#[test]
fn display_columns_are_compared_with_their_cells_and_written_again() {
    let place = Place::new();
    let feed = FeedFile {
        trades: 3_000,
        symbols: 12,
        ..FeedFile::default()
    };
    place.replay(&place.feed(&feed), &[]);
    let before = everything(&place);
    changed(
        &place,
        "UPDATE view_entries SET name = 'UNLISTED' WHERE view_name = 'active' AND size = '1h' AND rank = 1",
    );
    changed(
        &place,
        "DELETE FROM view_entries WHERE view_name = 'movers' AND size = '1h' AND rank = 2",
    );

    let found = end_with(1, &["verify", "--store", &place.store]);
    assert!(
        found.contains("name of rank 1 of USD shows UNLISTED, its cell says "),
        "{found}"
    );
    assert!(found.contains(" rank(s) found, its view has "), "{found}");
    assert!(summary(&found).starts_with("2 differences; "), "{found}");

    repair(&place, 0);
    assert!(
        place.verify().starts_with("0 differences; "),
        "{}",
        place.verify()
    );
    assert_eq!(everything(&place), before, "the cells were right");
}

#[test]
fn a_job_that_was_killed_is_repaired_as_of_what_it_had_bound_and_replays_it() {
    let (place, undisturbed) = (Place::new(), Place::new());
    // Half a minute of trades at the speed below, so that no run reaches their end before it is
    // killed, even on a slow machine.
    let file = place.feed(&FeedFile {
        seed: 5,
        trades: 30_000,
        symbols: 30,
        ..FeedFile::default()
    });
    undisturbed.replay(&file, &[]);
    let (mut between, mut committed) = (0, 0);
    for _ in 0..4 {
        let mut run = place.replay_begun(
            &file,
            &["--speed", "1x", "--bar-memory", "4KiB", "--epoch", "20ms"],
        );
        committed = committed_beyond(&place, committed + 3);
        run.kill().expect("killed");
        run.wait().expect("gone");
        let was = checkpoint(&place);
        let bound = was["bound"].as_array().expect("bindings").len();
        between += bound;
        // The hour and the day of the busiest symbol, which change in every epoch.
        changed(
            &place,
            "UPDATE bars SET state = (SELECT state FROM bars AS other WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'MSFT') AND other.seconds = bars.seconds AND other.start = bars.start) WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'AAPL') AND seconds IN (3600, 86400)",
        );
        repair(&place, 0);
        let days = rows::rows(&database(&place), &rows::of("AAPL", 86_400));
        let epoch = days[0].1.state.epoch;
        let last = was["committed"]["epoch"]
            .as_u64()
            .map(|committed| committed + bound as u64);
        assert_eq!(Some(epoch), last, "as of the last epoch bound");
        assert_eq!(
            checkpoint(&place)["bound"],
            was["bound"],
            "what was bound is still to be replayed"
        );
    }
    assert!(between > 0, "a run ended between a binding and its commit");
    place.replay(&file, &[]);
    assert!(
        place.verify().starts_with("0 differences; "),
        "{}",
        place.verify()
    );
    assert_eq!(everything(&place), everything(&undisturbed));
}

#[test]
fn what_no_trade_made_is_reported_and_not_deleted() {
    let place = Place::new();
    place.replay(&golden("finnhub-recorded.jsonl"), &[]);
    let database = database(&place);
    let day = rows::of("GOOG", 86_400);
    let start = rows::rows(&database, &day)[0].0;
    let id = rows::symbol_id(&database, "GOOG");
    rows::add(&database, &day, id, start - 86_400_000);
    changed(
        &place,
        "DELETE FROM bars WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'TSLA') AND seconds = 86400",
    );
    // A symbol without buckets, and a number without a symbol.
    changed(
        &place,
        "INSERT INTO symbols (symbol, class) VALUES ('UNLISTED', 'stock')",
    );
    let unlisted = rows::symbol_id(&database, "UNLISTED");
    rows::add(&database, &day, unlisted, start);
    rows::add(&database, &day, unlisted + 1, start);
    changed(
        &place,
        "UPDATE view_entries SET start = start - 86400000 WHERE view_name = 'market' AND size = '1d' AND start < 1630000000000",
    );
    let said = repair(&place, 1);
    assert!(
        said.contains("not repaired: no trade in the log belongs to it")
            && said.contains("repaired: 1 bar and "),
        "{said}"
    );
    let said = repair(&place, 1);
    assert!(
        summary(&said).starts_with("4 differences; ") && said.contains("nothing to repair"),
        "{said}"
    );
    for symbol in ["UNLISTED".to_owned(), format!("symbol_id {}", unlisted + 1)] {
        let line = said
            .lines()
            .find(|line| line.starts_with(&format!("bars of {symbol:?} in the bucket of ")))
            .unwrap_or_else(|| panic!("{symbol} in {said}"));
        assert!(
            line.ends_with(
                "the symbol directory does not list them, and the log has no trades for them"
            ),
            "{line}"
        );
    }
    assert!(
        said.contains("the store has entries without a view"),
        "{said}"
    );
}

#[test]
fn a_damaged_bar_does_not_hide_the_others_and_the_directory_is_written_again() {
    let place = Place::new();
    place.replay(
        &place.feed(&FeedFile {
            // Three minutes, of which the first and the last are damaged, and so few seconds that
            // all differences are printed.
            trades: 300,
            trades_per_second: 2,
            symbols: 12,
            ..FeedFile::default()
        }),
        &[],
    );
    let before = everything(&place);
    let minutes = rows::of("AAPL", 60);
    let extreme = |which: &str| {
        format!("{minutes} AND start = (SELECT {which}(start) FROM bars WHERE {minutes})")
    };
    rows::double(&database(&place), &extreme("max"));
    changed(
        &place,
        &format!(
            "UPDATE bars SET state = substr(state, 1, 40) WHERE {}",
            extreme("min")
        ),
    );
    changed(
        &place,
        "UPDATE views SET epoch = epoch + 50 WHERE view_name = 'market' AND size = '1h'",
    );
    changed(
        &place,
        "DELETE FROM symbol_buckets WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'MSFT')",
    );
    let said = end_with(1, &["verify", "--store", &place.store]);
    assert!(
        said.contains("damaged")
            && said.contains(": volume_e8 (all) is ")
            && said.contains("epoch shows "),
        "{said}"
    );
    repair(&place, 0);
    assert!(
        place.verify().starts_with("0 differences; "),
        "{}",
        place.verify()
    );
    assert_eq!(everything(&place), before);
}

#[test]
fn what_missing_records_may_have_touched_is_left_alone() {
    let place = Place::new();
    let first = FeedFile {
        trades: 3_000,
        symbols: 12,
        trades_per_second: 100,
        ..FeedFile::default()
    };
    place.replay(&place.feed(&first), &["--partitions", "1"]);
    place.replay(
        &place.feed(&FeedFile {
            seed: 2,
            start_ms: 1_704_205_800_000 + 3_600_000,
            ..first
        }),
        &[],
    );
    let cuts: String = database(&place)
        .query_row("SELECT cuts FROM history WHERE epoch = 1", [], |bar| {
            bar.get(0)
        })
        .expect("history");
    let first_epoch = cuts
        .trim_matches(['[', ']'])
        .parse::<i64>()
        .expect("an offset");
    database(&place)
        .execute("DELETE FROM log WHERE \"offset\" < ?1", [first_epoch])
        .expect("removed");
    database(&place)
        .execute("UPDATE log_partitions SET first_offset = ?1", [first_epoch])
        .expect("moved");
    changed(
        &place,
        "DELETE FROM bars WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'AAPL') AND seconds = 86400",
    );
    let was = checkpoint(&place);
    let said = repair(&place, 1);
    assert!(
        said.contains("1 place not repaired: trades from records that are no longer in the log"),
        "{said}"
    );
    assert_eq!(checkpoint(&place), was, "nothing was written");
}

#[test]
fn without_a_terminal_and_without_yes_nothing_is_written() {
    let place = Place::new();
    place.replay(&golden("finnhub-recorded.jsonl"), &[]);
    changed(
        &place,
        "DELETE FROM bars WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'AAPL') AND seconds = 86400",
    );
    let was = fs::read(place.path("t.db")).expect("a file");
    for (flags, hint) in [
        (&["--repair"][..], "--yes"),
        (&["--yes"], "--repair"),
        (&["--repair", "--yes", "--since", "1m"], "--since"),
        (&["--repair", "--yes", "--every", "1m"], "--every"),
    ] {
        let said = end_with(2, &[&["verify", "--store", &place.store], flags].concat());
        assert!(said.contains(hint), "{hint} in {said}");
    }
    assert!(fs::read(place.path("t.db")).expect("a file") == was);
}

#[test]
fn bars_of_some_symbols_are_repaired_alone() {
    let place = Place::new();
    place.replay(
        &place.feed(&FeedFile {
            trades: 2_000,
            symbols: 10,
            ..FeedFile::default()
        }),
        &[],
    );
    changed(
        &place,
        "DELETE FROM bars WHERE symbol_id IN (SELECT id FROM symbols WHERE symbol IN ('AAPL', 'MSFT')) AND seconds = 86400",
    );
    let said = end_with(
        0,
        &[
            "verify",
            "--store",
            &place.store,
            "--repair",
            "--yes",
            "--symbol",
            "AAPL",
        ],
    );
    assert!(said.contains("repaired: 1 bar and 0 views"), "{said}");
    let said = end_with(1, &["verify", "--store", &place.store]);
    assert!(
        summary(&said).starts_with("1 difference; ") && said.contains("MSFT 1d "),
        "{said}"
    );
}

#[test]
fn a_job_waits_for_the_repairer_that_has_its_checkpoint() {
    let place = Place::new();
    let file = golden("finnhub-recorded.jsonl");
    place.replay(&file, &[]);
    // The checkpoint of a repairer that runs or was killed.
    let own = |owner: &str| {
        let mut checkpoint = checkpoint(&place);
        checkpoint["owner"] = owner.into();
        checkpoint["version"] = (checkpoint["version"].as_u64().expect("a version") + 1).into();
        let version = checkpoint["version"].as_i64();
        database(&place)
            .execute(
                "UPDATE checkpoint SET owner = ?1, version = ?2, checkpoint = ?3",
                (owner, version, checkpoint.to_string()),
            )
            .expect("changed");
    };
    own("repair-0123");
    let mut run = tapeflow(&[
        "run",
        "--replay",
        &file,
        "--until-end",
        "--store",
        &place.store,
    ]);
    let mut run = run
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut lines = BufReader::new(run.stderr.take().expect("piped"))
        .lines()
        .map(|line| line.expect("text"));
    assert!(
        lines.any(|line| line.contains("a repairer owns the job")),
        "the log names what it waits for"
    );
    assert_eq!(checkpoint(&place)["generation"], 1, "the job waits");
    own("repaired-0123");
    assert!(lines.any(|line| line.contains("job taken over")));
    assert!(lines.count() < 1_000 && run.wait().expect("ended").success());
    assert_eq!(checkpoint(&place)["generation"], 2);
}

#[test]
fn a_file_that_a_job_is_writing_is_not_repaired_beside_it() {
    let place = Place::new();
    let mut run = tapeflow(&["run", "--store", &place.store])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let mut lines = BufReader::new(run.stdout.take().expect("piped")).lines();
    assert!(lines.next().is_some_and(|line| line.is_ok()));
    let said = end_with(2, &["verify", "--store", &place.store, "--repair", "--yes"]);
    run.kill().expect("killed");
    run.wait().expect("gone");
    assert!(said.contains("is writing it"), "{said}");
}

#[test]
fn records_removed_between_the_audit_and_the_repair_cut_no_bar_short() {
    let place = Place::new();
    let feed = FeedFile {
        trades: 6_000,
        symbols: 12,
        ..FeedFile::default()
    };
    place.replay(&place.feed(&feed), &[]);
    let right = everything(&place);
    // An early pass finds a wrong value. Then half of the log is removed during later passes.
    changed(
        &place,
        "UPDATE bars SET state = (SELECT state FROM bars WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'MSFT') AND seconds = 86400) WHERE symbol_id = (SELECT id FROM symbols WHERE symbol = 'AAPL') AND seconds = 86400",
    );
    let wrong = everything(&place);
    let arguments = [
        "verify",
        "--store",
        &place.store,
        "--passes",
        "12",
        "--repair",
        "--yes",
    ];
    let mut repairer = tapeflow(&arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let mut said = Vec::new();
    for line in BufReader::new(repairer.stdout.take().expect("piped")).lines() {
        said.push(line.expect("a line"));
        if said.len() == 1 {
            assert!(said[0].contains("AAPL 1d "), "{said:?}");
            let mut database = database(&place);
            let both = database.transaction().expect("begun");
            let half = "UPDATE log_partitions SET first_offset = first_offset + (next_offset - first_offset) / 2";
            both.execute(half, []).expect("moved");
            let gone = "DELETE FROM log WHERE \"offset\" < (SELECT first_offset FROM log_partitions AS its WHERE its.partition = log.partition)";
            let removed = both.execute(gone, []).expect("removed");
            both.commit().expect("as retention does it");
            assert!(removed > 1_000, "{removed}");
        }
    }
    let code = repairer.wait().expect("it ends").code();
    let is = everything(&place);
    // The bar is repaired in full, before the records were removed, or not at all.
    assert!(
        is == right || (is == wrong && code == Some(1)),
        "{code:?}: {said:#?}"
    );
}
