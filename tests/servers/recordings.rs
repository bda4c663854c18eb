//! Recordings that have grown, were interrupted, or differ, into a topic: each trade counts once.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use libtest_mimic::Failed;

use crate::{
    golden::values,
    job::{Ends, Feed, Job, brokers, store, succeed, tapeflow, told},
};

/// One frame with one trade, ten milliseconds after the one before.
fn frame(n: u64) -> String {
    let (symbol, time) = (n % 7, 1_680_286_539_953 + 10 * n);
    format!(r#"{{"data":[{{"p":100,"s":"S{symbol}","t":{time},"v":{n}}}],"type":"trade"}}"#)
}

fn lines(frames: std::ops::RangeInclusive<u64>) -> String {
    frames.map(|n| frame(n) + "\n").collect()
}

/// The bars of all that is in a topic, by a job that ends with it.
fn bars(feed: &Feed, keyspace: &str) -> Result<Vec<String>, Failed> {
    Job::start(feed, keyspace, 2, 1, Ends::WithTheLog)?.finish()?;
    feed.verify(keyspace)?;
    let store = store(keyspace);
    let bars = [
        "bars", "--store", &store, "--size", "all", "--policy", "all",
    ];
    let csv = succeed(&[&bars[..], &["--format", "csv"]].concat())?;
    Ok(values(&csv))
}

pub(crate) fn grown() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = |name: &str, text: &str| -> Result<PathBuf, Failed> {
        let path = folder.path().join(name);
        fs::write(&path, text)?;
        Ok(path)
    };
    let feed = Feed {
        topic: "grown".into(),
    };
    feed.init("grown")?;
    for (last, ends) in [
        (1, "\n"),
        (40, "\n"),
        (40, "\r\n"),
        (41, "\r\n"),
        (60, "\n"),
    ] {
        let text = lines(1..=last).replace('\n', ends);
        feed.ingest(&file("day.jsonl", &text)?)?;
    }
    // Interrupted twice in mid-file, which takes ten seconds at its own pace, and then grown.
    let text = lines(1..=1_000);
    let day = file("day.jsonl", &text)?;
    for _ in 0..2 {
        let mut ingest = feed.ingest_paced(&day, "1x")?;
        std::thread::sleep(Duration::from_secs(3));
        ingest.kill()?;
        ingest.wait()?;
    }
    let text = text + &lines(1_001..=1_010);
    feed.ingest(&file("day.jsonl", &text)?)?;

    let changed = text.replace(&frame(20), &frame(2_020));
    let day = file("day.jsonl", &changed)?;
    refused(&feed, &day)?;
    let whole = Feed::publish("grown-whole", "grown_whole", &file("whole.jsonl", &text)?)?;
    assert_eq!(bars(&feed, "grown")?, bars(&whole, "grown_whole")?);

    // Taken as new it counts, once.
    let (topic, path) = (&feed.topic, day.to_str().ok_or("a path in UTF-8")?);
    let ingest = ["ingest", "--brokers", &brokers(), "--topic", topic];
    let replay = ["--replay", path, "--until-end", "--replay-as-new"];
    for _ in 0..2 {
        succeed(&[&ingest[..], &replay].concat())?;
    }
    feed.ingest(&day)?;
    let both = file("both.jsonl", &[text, changed].concat())?;
    let both = Feed::publish("grown-both", "grown_both", &both)?;
    assert_eq!(bars(&feed, "grown")?, bars(&both, "grown_both")?);
    Ok(())
}

/// A replay that must end with code 2, name the line, and append nothing.
fn refused(feed: &Feed, file: &Path) -> Result<(), Failed> {
    let begun = Instant::now();
    let path = file.to_str().ok_or("a path in UTF-8")?;
    let topic = &feed.topic;
    let ingest = ["ingest", "--brokers", &brokers(), "--topic", topic];
    let arguments = [&ingest[..], &["--replay", path, "--until-end"]].concat();
    let output = tapeflow(&arguments).output()?;
    let said = told(&arguments, &output);
    let names_it = said.contains("differs at line 20;") && said.contains("--replay-as-new");
    if output.status.code() == Some(2) && names_it {
        eprintln!("refused after {} ms", begun.elapsed().as_millis());
        Ok(())
    } else {
        Err(format!("expected code 2 and line 20: {said}").into())
    }
}
