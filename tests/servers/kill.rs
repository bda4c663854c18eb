//! kill -9 in the middle of a job, again and again, with other workers each time; the independent
//! recomputation has the last word.

use std::{fs, time::Duration};

use libtest_mimic::Failed;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tapeflow_ingest::simulator::{FeedFile, write_feed};

use crate::job::{Ends, Feed, Job};

/// A number from the environment, for larger runs than CI's.
fn setting(name: &str, default: u64) -> Result<u64, Failed> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .map_err(|_| format!("{name} is {text:?}: give a whole number").into()),
        Err(_) => Ok(default),
    }
}

/// Who is killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    One,
    All,
}

pub(crate) fn one_of_two() -> Result<(), Failed> {
    kill_again_and_again("kill_one", Victim::One, 11)
}

pub(crate) fn whole_job() -> Result<(), Failed> {
    kill_again_and_again("kill_all", Victim::All, 12)
}

fn kill_again_and_again(name: &str, victim: Victim, seed: u64) -> Result<(), Failed> {
    let (trades, kills) = (
        setting("TAPEFLOW_SERVERS_TRADES", 25_000)?,
        setting("TAPEFLOW_SERVERS_KILLS", 3)?,
    );
    let symbols = setting("TAPEFLOW_SERVERS_SYMBOLS", 200)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("feed.jsonl");
    write_feed(
        &mut fs::File::create(&file)?,
        &FeedFile {
            seed,
            trades,
            symbols: usize::try_from(symbols)?,
            ..FeedFile::default()
        },
    )?;
    let feed = Feed {
        topic: name.replace('_', "-"),
    };
    feed.init(name)?;
    let speed = std::env::var("TAPEFLOW_SERVERS_SPEED").unwrap_or_else(|_| "1x".into());
    // The feed arrives while the job is killed, so that there are many epochs, and kills in the
    // middle of each kind of step.
    let mut ingest = feed.ingest_paced(&file, &speed)?;
    let mut random = StdRng::seed_from_u64(seed);
    for kill in 1..=kills {
        let workers = random.random_range(1..4);
        let mut job = Job::start(&feed, name, workers, 2, Ends::Never)?;
        // From the start of the processes: some die while taking over, some while replaying, most
        // in full flow.
        std::thread::sleep(Duration::from_millis(random.random_range(500..6_000)));
        let first = random.random_range(0..2);
        job.kill(first);
        match victim {
            // At once if they were connected; after 20 s if the victim died before that.
            Victim::One => job.left_by_themselves(Duration::from_secs(40))?,
            Victim::All => job.kill(1 - first),
        }
        eprintln!("{name}: kill {kill} of {kills}, {workers} workers in each of two processes");
    }
    if !ingest.wait()?.success() {
        return Err("ingest failed".into());
    }
    Job::start(&feed, name, 2, 2, Ends::WithTheLog)?.finish()?;
    eprintln!(
        "{name}: {}",
        feed.verify(name)?.lines().last().unwrap_or_default()
    );
    Ok(())
}
