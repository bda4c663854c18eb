//! Something between two processes of a job flips bits of what they send to each other.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use libtest_mimic::Failed;
use tapeflow_ingest::simulator::{FeedFile, write_feed};

use crate::job::{Ends, Feed, Job};

/// Where process 0 listens, and what process 1 takes for it.
const ZERO: &str = "127.0.0.1:22890";
const INTRUDER: &str = "127.0.0.1:22891";
const ONE: &str = "127.0.0.1:22892";
/// Beyond all handshakes and heartbeats, and deep in the data.
const FLIPPED_BYTES: [usize; 3] = [9_000, 20_001, 60_002];

pub(crate) fn flipped_bits() -> Result<(), Failed> {
    let name = "intruder";
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("feed.jsonl");
    write_feed(
        &mut fs::File::create(&file)?,
        &FeedFile {
            seed: 31,
            trades: 20_000,
            symbols: 100,
            ..FeedFile::default()
        },
    )?;
    let secret = folder.path().join("secret");
    fs::write(&secret, "0123456789abcdef0123456789abcdef")?;
    let secret = secret.to_str().ok_or("a path in UTF-8")?;
    let feed = Feed::publish(name, name, &file)?;
    let (flip_at, flips) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    intrude(&flip_at, &flips)?;
    let hosts = |zero: &str| vec![zero.to_owned(), ONE.to_owned()];
    let mut broken = 0;
    for at in FLIPPED_BYTES {
        flip_at.store(at, Ordering::Release);
        let before = flips.load(Ordering::Acquire);
        let mut job = Job::start_at(
            &feed,
            name,
            2,
            &[hosts(ZERO), hosts(INTRUDER)],
            &["--until-end", "--cluster-secret-file", secret],
        )?;
        job.left_by_themselves(Duration::from_secs(120))?;
        if flips.load(Ordering::Acquire) == before {
            break;
        }
        let codes = [0, 1].map(|process| {
            job.ended(process, Duration::from_secs(1))
                .map(|status| status.code())
        });
        if codes != [Ok(Some(1)), Ok(Some(1))] {
            return Err(format!(
                "byte {at} was flipped, and the processes ended with {codes:?}: {} {}",
                job.log(0),
                job.log(1)
            )
            .into());
        }
        broken += 1;
    }
    if broken < 2 {
        return Err(format!("only {broken} runs had a bit flipped").into());
    }
    Job::start(&feed, name, 2, 2, Ends::WithTheLog)?.finish()?;
    eprintln!(
        "{name}: {broken} runs ended by a flipped bit; {}",
        feed.verify(name)?.lines().last().unwrap_or_default()
    );
    Ok(())
}

/// Passes connections on to process 0, and flips one bit of each direction of each connection.
fn intrude(flip_at: &Arc<AtomicUsize>, flips: &Arc<AtomicUsize>) -> Result<(), Failed> {
    let listener = TcpListener::bind(INTRUDER)?;
    let (flip_at, flips) = (Arc::clone(flip_at), Arc::clone(flips));
    thread::spawn(move || {
        for caller in listener.incoming().flatten() {
            let Ok(called) = TcpStream::connect(ZERO) else {
                continue;
            };
            let (Ok(back_from), Ok(back_to)) = (called.try_clone(), caller.try_clone()) else {
                continue;
            };
            let at = flip_at.load(Ordering::Acquire);
            for (from, to) in [(caller, called), (back_from, back_to)] {
                let flips = Arc::clone(&flips);
                thread::spawn(move || pass(from, to, at, &flips));
            }
        }
    });
    Ok(())
}

fn pass(mut from: TcpStream, mut to: TcpStream, at: usize, flips: &AtomicUsize) {
    let (mut buffer, mut passed) = (vec![0; 16 * 1024], 0);
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if passed <= at && at < passed + count {
            buffer[at - passed] ^= 1;
            flips.fetch_add(1, Ordering::AcqRel);
        }
        passed += count;
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
