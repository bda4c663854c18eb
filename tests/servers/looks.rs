//! Audits beside a job that writes to Cassandra at full load, while other work keeps the machine
//! busy: a difference would be a false one.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use libtest_mimic::Failed;
use tapeflow_ingest::simulator::{FeedFile, write_feed};

use crate::{
    job::{Feed, Job, brokers, store, tapeflow},
    supervised::{progress, signal},
};

/// Looks, unless `TAPEFLOW_SERVERS_LOOKS` says another number.
const LOOKS: usize = 2;
/// Threads that take a processor from job, audit and servers.
const BUSY_THREADS: usize = 1;

pub(crate) fn beside_a_job_at_full_load() -> Result<(), Failed> {
    let name = "looked_at";
    let wanted = match std::env::var("TAPEFLOW_SERVERS_LOOKS") {
        Ok(number) => number.parse()?,
        Err(_) => LOOKS,
    };
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("feed.jsonl");
    write_feed(
        &mut fs::File::create(&file)?,
        &FeedFile {
            seed: 29,
            trades: 300_000,
            symbols: 50,
            trades_per_second: 500,
            ..FeedFile::default()
        },
    )?;
    let feed = Feed { topic: name.into() };
    feed.init(name)?;
    let mut ingest = feed.ingest_paced(&file, "1x")?;
    let job = Job::start_with(&feed, name, 2, 1, &["--epoch", "20ms"])?;
    progress(name, "after the start")?;
    let ended = AtomicBool::new(false);
    let (looks, _) = thread::scope(|scope| {
        for _ in 0..BUSY_THREADS {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let looks = look(name, "1ms", wanted);
        ended.store(true, Ordering::Relaxed);
        looks
    })?;
    let _ = ingest.kill();
    ingest.wait()?;
    drop(job);
    let wrong: Vec<&String> = looks
        .iter()
        .filter(|line| !line.starts_with("0 differences; "))
        .collect();
    let epoch = |line: Option<&String>| -> Option<u64> { line?.rsplit(' ').next()?.parse().ok() };
    let (first, last) = (epoch(looks.first()), epoch(looks.last()));
    eprintln!(
        "{name}: {} looks from epoch {first:?} to {last:?}; the last: {}",
        looks.len(),
        looks.last().map_or("", String::as_str)
    );
    if looks.len() < wanted || !wrong.is_empty() {
        return Err(format!("{} of {wanted} looks; {wrong:#?}", looks.len()).into());
    }
    if first >= last {
        return Err("the job did not go on meanwhile".into());
    }
    Ok(())
}

/// So many lines of `verify --every PAUSE`, and how it ends after SIGTERM.
pub(crate) fn look(
    name: &str,
    pause: &str,
    wanted: usize,
) -> Result<(Vec<String>, ExitStatus), Failed> {
    let mut auditor = tapeflow(&[
        "verify",
        "--brokers",
        &brokers(),
        "--topic",
        name,
        "--store",
        &store(name),
        "--every",
        pause,
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::null())
    .spawn()?;
    let lines = BufReader::new(auditor.stdout.take().ok_or("piped")?).lines();
    let looks = lines.take(wanted).collect::<Result<_, _>>()?;
    signal("TERM", auditor.id())?;
    Ok((looks, auditor.wait()?))
}
