//! Known content through the whole path, and content that must be refused.

use std::{fs, path::Path};

use libtest_mimic::Failed;
use tapeflow_ingest::simulator::{FeedFile, Popularity, write_feed};

use crate::job::{Ends, Feed, Job, brokers, store, succeed, tapeflow, told};

/// Real frames, and the bars an independent program makes of them.
fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// The csv without its last four columns, which are labels: epoch, final, revision, complete.
pub(crate) fn values(csv: &str) -> Vec<String> {
    csv.lines()
        .map(|line| line.rsplitn(5, ',').last().unwrap_or_default().to_owned())
        .collect()
}

pub(crate) fn recorded_trades() -> Result<(), Failed> {
    let frames = fixture("finnhub-recorded.jsonl");
    let golden = values(&fs::read_to_string(fixture("finnhub-recorded.csv"))?);
    let feed = Feed::publish("recorded", "recorded", &frames)?;
    // A finished file adds nothing.
    feed.ingest(&frames)?;
    for (workers, processes) in [(1, 1), (2, 1), (4, 1), (6, 1), (1, 2), (2, 2)] {
        let keyspace = format!("recorded_{workers}_{processes}");
        feed.init(&keyspace)?;
        for time in ["first", "second"] {
            // The recording goes back by a year, farther than the horizon of seconds.
            let flags = ["--until-end", "--horizon", "none"];
            Job::start_with(&feed, &keyspace, workers, processes, &flags)?.finish()?;
            let csv = succeed(&[
                "bars",
                "--store",
                &store(&keyspace),
                "--size",
                "all",
                "--format",
                "csv",
            ])?;
            if values(&csv) != golden {
                return Err(format!(
                    "{workers} workers, {processes} processes, {time} run:\n{csv}"
                )
                .into());
            }
        }
        feed.verify(&keyspace)?;
    }
    Ok(())
}

pub(crate) fn one_heavy_symbol() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("heavy.jsonl");
    let heavy = FeedFile {
        seed: 5,
        trades: 10_000,
        symbols: 50,
        popularity: Popularity::OneHot(0.99),
        ..FeedFile::default()
    };
    write_feed(&mut fs::File::create(&file)?, &heavy)?;
    let feed = Feed::publish("heavy", "heavy", &file)?;
    Job::start(&feed, "heavy", 2, 2, Ends::WithTheLog)?.finish()?;
    feed.verify("heavy")?;
    Ok(())
}

/// Each of these is one message and code 2, and leaves no trace.
pub(crate) fn refusals() -> Result<(), Failed> {
    let feed = Feed::publish("refusals", "refusals", &fixture("finnhub-recorded.jsonl"))?;
    let other = Feed::publish("another", "refusals", &fixture("finnhub-recorded.jsonl"))?;
    Job::start(&feed, "refusals", 1, 1, Ends::WithTheLog)?.finish()?;
    let before = succeed(&[
        "bars",
        "--store",
        &store("refusals"),
        "--size",
        "all",
        "--format",
        "csv",
    ])?;
    let (ours, nowhere, absent) = (
        store("refusals"),
        "cassandra://127.0.0.1:9/refusals".to_owned(),
        store("no_such_keyspace"),
    );
    let (brokers, topic) = (brokers(), feed.topic.clone());
    let cases: [(&str, Vec<&str>, &str); 8] = [
        (
            "another job",
            vec!["--topic", &topic, "--store", &ours, "--job", "someone-else"],
            "--job",
        ),
        (
            "another topic",
            vec!["--topic", &other.topic, "--store", &ours],
            "--topic",
        ),
        (
            "changed sizes",
            vec!["--topic", &topic, "--store", &ours, "--sizes", "1s,10m"],
            "rules",
        ),
        (
            "no such topic",
            vec!["--topic", "no-such-topic", "--store", &ours],
            "init",
        ),
        (
            "no such keyspace",
            vec!["--topic", &topic, "--store", &absent],
            "init",
        ),
        (
            "no database there",
            vec!["--topic", &topic, "--store", &nowhere],
            "--store",
        ),
        (
            "a size that is none",
            vec!["--topic", &topic, "--store", &ours, "--sizes", "7x"],
            "--sizes",
        ),
        (
            "an unknown store",
            vec!["--topic", &topic, "--store", "mysql://x"],
            "--store",
        ),
    ];
    for (what, flags, hint) in cases {
        let mut arguments = vec!["dataflow", "--brokers", &brokers, "--until-end"];
        arguments.extend(flags);
        refused(what, &arguments, hint)?;
    }
    refused(
        "no broker there",
        &[
            "dataflow",
            "--brokers",
            "127.0.0.1:9",
            "--topic",
            &topic,
            "--store",
            &ours,
        ],
        "--brokers",
    )?;
    let after = succeed(&["bars", "--store", &ours, "--size", "all", "--format", "csv"])?;
    if before == after {
        Ok(())
    } else {
        Err(format!("a refused run changed bars:\n{after}").into())
    }
}

fn refused(what: &str, arguments: &[&str], hint: &str) -> Result<(), Failed> {
    let output = tapeflow(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(2) && said.contains(hint) && !said.contains("panicked") {
        Ok(())
    } else {
        Err(format!(
            "{what}: expected code 2 and a hint at {hint}: {}",
            told(arguments, &output)
        )
        .into())
    }
}

/// Frames no exchange would send stand between real ones: each is reported with its place, and the
/// real ones count.
pub(crate) fn dead_letters() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("poison.jsonl");
    let good = fs::read_to_string(fixture("finnhub-recorded.jsonl"))?;
    let huge = "A".repeat(1 << 20);
    let trade = |symbol: &str, price: &str, time: &str, size: &str| {
        format!(
            r#"{{"data":[{{"c":null,"p":{price},"s":"{symbol}","t":{time},"v":{size}}}],"type":"trade"}}"#
        )
    };
    let poison = [
        ("json", "{\"data\":[{".to_owned()),
        ("json", trade("AAPL", "NaN", "1680286537580", "1")),
        ("frame_type", r#"{"type":"surprise"}"#.to_owned()),
        ("price", trade("AAPL", "-1", "1680286537580", "1")),
        ("size", trade("AAPL", "1", "1680286537580", "1e300")),
        ("future", trade("AAPL", "1", "5680286537580", "1")),
        ("event_time", trade("AAPL", "1", "99999999999999999", "1")),
        ("symbol", trade(&huge[..2_000], "1", "1680286537580", "1")),
        ("frame_too_large", trade(&huge, "1", "1680286537580", "1")),
    ];
    let mut lines: Vec<&str> = good.lines().collect();
    for (at, (_, line)) in poison.iter().enumerate() {
        lines.insert(1 + at, line);
    }
    fs::write(&file, lines.join("\n"))?;
    let feed = Feed::publish("poison", "poison", &file)?;
    let flags = ["--until-end", "--horizon", "none"];
    Job::start_with(&feed, "poison", 2, 1, &flags)?.finish()?;
    let csv = succeed(&[
        "bars",
        "--store",
        &store("poison"),
        "--size",
        "all",
        "--format",
        "csv",
    ])?;
    if values(&csv) != values(&fs::read_to_string(fixture("finnhub-recorded.csv"))?) {
        return Err(format!("poison changed bars:\n{csv}").into());
    }
    feed.verify("poison")?;
    let list = succeed(&["dead-letters", "--store", &store("poison")])?;
    for (reason, _) in &poison {
        if !list.contains(reason) {
            return Err(format!("no dead letter for {reason}:\n{list}").into());
        }
    }
    Ok(())
}
