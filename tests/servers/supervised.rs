//! A supervised job of two processes: a paused one is found and left, one that is killed comes
//! back, and no process outlives its supervisor.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use libtest_mimic::Failed;
use tapeflow_ingest::simulator::{FeedFile, write_feed};

use crate::job::{Ends, Feed, Job, store, succeed};

pub(crate) fn paused_killed_and_orphaned() -> Result<(), Failed> {
    let name = "supervised";
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("feed.jsonl");
    write_feed(
        &mut fs::File::create(&file)?,
        &FeedFile {
            seed: 21,
            trades: 40_000,
            symbols: 100,
            ..FeedFile::default()
        },
    )?;
    let feed = Feed { topic: name.into() };
    feed.init(name)?;
    let mut ingest = feed.ingest_paced(&file, "1x")?;
    let mut job = Job::start_supervised(&feed, name, 2, 2)?;
    let supervisors: Vec<u32> = job.processes.iter().map(std::process::Child::id).collect();
    progress(name, "after the start")?;

    // Process 1 stands still without a word: process 0 leaves it, and waits for it to come back.
    let (zero, one) = (child_of(supervisors[0])?, child_of(supervisors[1])?);
    signal("STOP", one)?;
    until("process 0 leaves a peer that is paused", || {
        Ok(child_of(supervisors[0])? != zero)
    })?;
    if child_of(supervisors[1])? != one {
        return Err("a paused process does not end by itself".into());
    }
    // Awake again it finds its connections closed, and what it still holds is not bound.
    signal("CONT", one)?;
    until("the process that woke leaves as well", || {
        Ok(child_of(supervisors[1])? != one)
    })?;
    progress(name, "after a pause")?;

    let (zero, one) = (child_of(supervisors[0])?, child_of(supervisors[1])?);
    let begun = Instant::now();
    signal("KILL", zero)?;
    until("both come back when one is killed", || {
        Ok(child_of(supervisors[0])? != zero && child_of(supervisors[1])? != one)
    })?;
    progress(name, "after a kill")?;
    eprintln!(
        "{name}: from the kill of a process to the next commit {:.1} s",
        begun.elapsed().as_secs_f32()
    );

    // A supervisor's death takes its child along; the other process leaves, and its supervisor ends
    // it in good order when asked.
    let one = child_of(supervisors[1])?;
    signal("KILL", supervisors[1])?;
    until("the child of a dead supervisor is gone", || Ok(!alive(one)))?;
    job.kill(1);
    signal("TERM", supervisors[0])?;
    job.left_by_themselves(Duration::from_secs(30))?;
    if !ingest.wait()?.success() {
        return Err("ingest failed".into());
    }

    Job::start(&feed, name, 3, 2, Ends::WithTheLog)?.finish()?;
    eprintln!(
        "{name}: {}",
        feed.verify(name)?.lines().last().unwrap_or_default()
    );
    Ok(())
}

/// A second job under the same name takes over from the first, which ends for good and is not
/// started again by its supervisor.
pub(crate) fn two_under_one_name() -> Result<(), Failed> {
    let name = "rivals";
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("feed.jsonl");
    write_feed(
        &mut fs::File::create(&file)?,
        &FeedFile {
            seed: 22,
            trades: 12_000,
            symbols: 50,
            ..FeedFile::default()
        },
    )?;
    let feed = Feed { topic: name.into() };
    feed.init(name)?;
    let mut ingest = feed.ingest_paced(&file, "1x")?;
    let mut first = Job::start_supervised(&feed, name, 2, 1)?;
    progress(name, "of the first job")?;
    // Paused in the middle of its work: a zombie that will wake when the other has taken over.
    let paused = child_of(first.processes[0].id())?;
    signal("STOP", paused)?;
    let second = Job::start(&feed, name, 1, 2, Ends::Never)?;
    progress(name, "of the second job")?;
    signal("CONT", paused)?;
    let status = first.ended(0, Duration::from_secs(60))?;
    if status.code() != Some(3) {
        return Err(
            format!("the first job ended with {status}, and not because it was fenced").into(),
        );
    }
    progress(name, "of the second job, after the first has woken")?;
    drop(second);
    if !ingest.wait()?.success() {
        return Err("ingest failed".into());
    }
    Job::start(&feed, name, 2, 1, Ends::WithTheLog)?.finish()?;
    eprintln!(
        "{name}: {}",
        feed.verify(name)?.lines().last().unwrap_or_default()
    );
    Ok(())
}

/// Processes that would read, keep or write other things than each other do not become one job.
pub(crate) fn disagreeing() -> Result<(), Failed> {
    let (name, other) = ("disagreeing", "elsewhere");
    let feed = Feed { topic: name.into() };
    feed.init(name)?;
    feed.init(other)?;
    let cases = [
        (name, "9KiB", "resident bars"),
        (other, "4KiB", "is not the store that process 0 writes to"),
    ];
    for (keyspace, bar_memory, want) in cases {
        let mut zero = Job::start_part(&feed, name, (0, 2), "4KiB")?;
        let mut one = Job::start_part(&feed, keyspace, (1, 2), bar_memory)?;
        let status = one.ended(0, Duration::from_secs(30))?;
        let log = one.log(0);
        if status.code() != Some(2) || !log.contains(want) {
            return Err(
                format!("ended with {status}, and not because of the {want}: {log}").into(),
            );
        }
        zero.kill(0);
    }
    Ok(())
}

/// The one child a supervisor has; 0 between two.
pub(crate) fn child_of(supervisor: u32) -> Result<u32, Failed> {
    let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"))?;
    Ok(children
        .split_whitespace()
        .next()
        .map_or(Ok(0), str::parse)?)
}

/// Whether a process exists and is not a zombie that waits for its parent.
fn alive(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| !rest.starts_with(" Z"))
    })
}

pub(crate) fn signal(name: &str, process: u32) -> Result<(), Failed> {
    let sent = Command::new("kill")
        .args(["-s", name, &process.to_string()])
        .status()?;
    if sent.success() {
        Ok(())
    } else {
        Err(format!("cannot send {name} to {process}").into())
    }
}

pub(crate) fn until(
    what: &str,
    mut happened: impl FnMut() -> Result<bool, Failed>,
) -> Result<(), Failed> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !happened()? {
        if Instant::now() > deadline {
            return Err(format!("not within 60 s: {what}").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Waits until the job has committed more than it had.
pub(crate) fn progress(keyspace: &str, when: &str) -> Result<(), Failed> {
    let committed = || -> Result<String, Failed> {
        // Before the first take-over there is no checkpoint, which `status` says with an error.
        let status = succeed(&["status", "--store", &store(keyspace)]).unwrap_or_default();
        Ok(status
            .lines()
            .find(|line| line.starts_with("epoch committed"))
            // A take-over alone commits nothing.
            .filter(|line| line.split_whitespace().nth(2) != Some("0"))
            .unwrap_or_default()
            .to_owned())
    };
    let before = committed()?;
    until(&format!("a commit {when}"), || Ok(committed()? != before))
}
