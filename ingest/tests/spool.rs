//! The spool in front of a log that is away, hangs or fails, and after ends at any moment.

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use common::MemoryLog;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tapeflow_ingest::spool::{
    Fsync, Owner, Remaining, Spool, SpoolConfig, SpoolError, SpoolWriter,
};
use tapeflow_log::{AppendError, LastSession, LogWriter, NewRecord};
use tapeflow_schemas::SessionId;
use tokio::sync::watch;

const SIZE: u64 = 256 << 10;
const MINUTE: Duration = Duration::from_secs(60);

/// A log that takes nothing while it is away.
struct AwayLog {
    log: MemoryLog,
    away: watch::Receiver<bool>,
}

impl AwayLog {
    async fn is_here(&mut self) {
        self.away
            .wait_for(|away| !*away)
            .await
            .expect("the test goes on");
    }
}

#[async_trait]
impl LogWriter for AwayLog {
    fn partitions(&self) -> u32 {
        self.log.partitions()
    }

    async fn last_sequences(&mut self, session: SessionId) -> Result<Vec<u64>, AppendError> {
        self.is_here().await;
        self.log.last_sequences(session).await
    }

    async fn last_session(&mut self, producer: &str) -> Result<Option<LastSession>, AppendError> {
        self.is_here().await;
        self.log.last_session(producer).await
    }

    async fn append(&mut self, records: Vec<NewRecord>) -> Result<(), AppendError> {
        self.is_here().await;
        self.log.append(records).await
    }

    async fn flush(&mut self) -> Result<(), AppendError> {
        self.is_here().await;
        self.log.flush().await
    }
}

fn config(directory: &Path) -> SpoolConfig {
    SpoolConfig {
        directory: directory.to_owned(),
        size_bytes: SIZE,
        fsync: Fsync::Never,
    }
}

fn owner() -> Owner {
    Owner {
        log: "topic trades of cluster a".into(),
        id: Some("first".into()),
        partitions: 3,
    }
}

fn start(config: SpoolConfig, log: impl LogWriter + 'static) -> Result<SpoolWriter, SpoolError> {
    Spool::open(config)?.start(owner(), Box::new(log))
}

fn away_log(log: &MemoryLog) -> (watch::Sender<bool>, AwayLog) {
    let (sender, away) = watch::channel(true);
    let log = log.clone();
    (sender, AwayLog { log, away })
}

/// Records of a session with dense sequences in each of three partitions.
fn records(session: u8, count: usize, random: &mut StdRng) -> Vec<NewRecord> {
    let mut last = [0; 3];
    (0..count)
        .map(|_| {
            let partition = random.random_range(0..3_u32);
            let sequence = &mut last[partition as usize];
            *sequence += 1;
            let mut payload = vec![0; random.random_range(10..300)];
            random.fill(payload.as_mut_slice());
            NewRecord {
                partition,
                key: "AAPL".into(),
                timestamp_ms: 1_700_000_000_000,
                payload,
                session: Some((SessionId([session; 16]), *sequence)),
            }
        })
        .collect()
}

/// The first of each session and sequence in a partition, as the job counts them. A repeat has
/// what it repeats.
fn counted(records: &[NewRecord]) -> Vec<NewRecord> {
    let mut seen: BTreeMap<_, &NewRecord> = BTreeMap::new();
    let mut counted = Vec::new();
    for record in records {
        let place = (record.partition, record.session);
        match seen.get(&place) {
            Some(first) => assert_eq!(*first, record),
            None => {
                seen.insert(place, record);
                counted.push(record.clone());
            }
        }
    }
    counted
}

/// Ends a spool as a kill does: nothing more is written, and the lock is free.
async fn killed(spool: SpoolWriter) {
    let directory = spool.directory();
    drop(spool);
    // The forwarder ends at its next await.
    while let Err(SpoolError::Held { .. }) = Spool::open(config(&directory)) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "segment"))
        .collect();
    found.sort();
    found
}

/// What a directory holds, apart from the number of the process that locks it.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(directory).expect("a directory");
    entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.file_name().is_some_and(|name| name != "lock"))
        .map(|path| (path.clone(), fs::read(&path).expect("read")))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_gets_what_the_spool_took_and_an_ended_spool_is_empty() {
    for fsync in [
        Fsync::Never,
        Fsync::Always,
        Fsync::Every(Duration::from_millis(5)),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let (log, mut random) = (MemoryLog::new(3), StdRng::seed_from_u64(1));
        let config = SpoolConfig {
            fsync,
            ..config(folder.path())
        };
        let mut spool = start(config, log.clone()).expect("started");
        let all = records(1, 3_000, &mut random);
        for some in all.chunks(100) {
            spool.append(some.to_vec()).await.expect("taken");
            spool.flush().await.expect("taken");
        }
        let remaining = spool.finish(MINUTE).await.expect("ended");
        assert_eq!(
            remaining,
            Remaining {
                records: 0,
                bytes: 0
            }
        );
        assert_eq!(log.records(), all);
        assert!(files(folder.path()).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_log_is_away_records_are_taken_and_the_next_run_sends_them_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, mut random) = (MemoryLog::new(3), StdRng::seed_from_u64(2));
    let (first, second) = (records(1, 400, &mut random), records(2, 100, &mut random));
    let (_away, away) = away_log(&log);
    let mut spool = start(config(folder.path()), away).expect("started");
    spool.append(first.clone()).await.expect("taken");
    spool.flush().await.expect("taken");
    let remaining = spool.finish(Duration::from_millis(50)).await.expect("kept");
    assert_eq!((remaining.records, log.records().len()), (400, 0));

    let opened = Spool::open(config(folder.path())).expect("whole");
    let state = opened.state();
    let mut spool = opened
        .start(owner(), Box::new(log.clone()))
        .expect("started");
    spool.append(second.clone()).await.expect("taken");
    spool.finish(MINUTE).await.expect("ended");
    assert_eq!(log.records(), [first, second].concat());
    assert_eq!(state.now().replayed, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_waits_keeps_to_its_bound_and_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, mut random) = (MemoryLog::new(3), StdRng::seed_from_u64(3));
    let (away, away_log) = away_log(&log);
    let opened = Spool::open(config(folder.path())).expect("empty");
    let state = opened.state();
    let mut spool = opened.start(owner(), Box::new(away_log)).expect("started");
    let all = records(1, 3_000, &mut random);
    {
        let mut append = Box::pin(spool.append(all.clone()));
        let waited = tokio::time::timeout(Duration::from_millis(300), &mut append).await;
        assert!(waited.is_err(), "no room");
        let now = state.now();
        assert!(now.full.is_some_and(|(_, why)| why.contains("full size")));
        let bytes: u64 = segments(folder.path())
            .iter()
            .map(|path| fs::metadata(path).expect("a file").len())
            .sum();
        assert_eq!(bytes, now.bytes);
        assert!((SIZE * 9 / 10..=SIZE).contains(&bytes), "{bytes} bytes");
        away.send(false).expect("the log is there");
        append.await.expect("room again");
    }
    assert_eq!(state.now().full, None);
    spool.finish(MINUTE).await.expect("ended");
    assert_eq!(log.records(), all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_above_the_bound_passes_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, mut random) = (MemoryLog::new(3), StdRng::seed_from_u64(4));
    let mut all = records(1, 5, &mut random);
    all[2].payload = vec![7; usize::try_from(2 * SIZE).expect("small")];
    let mut spool = start(config(folder.path()), log.clone()).expect("started");
    spool.append(all.clone()).await.expect("taken");
    spool.finish(MINUTE).await.expect("ended");
    assert_eq!(log.records(), all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_fails_ends_the_run_and_the_spool_keeps_what_it_had() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, mut random) = (MemoryLog::new(3), StdRng::seed_from_u64(5));
    let all = records(1, 500, &mut random);
    let mut spool = start(config(folder.path()), log.failing_after(200)).expect("started");
    let mut taken = 0;
    for some in all.chunks(50) {
        match spool.append(some.to_vec()).await {
            Ok(()) => taken += some.len(),
            Err(error) => {
                assert_eq!(error.to_string(), "the disk is full");
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!((200..500).contains(&taken), "{taken}");
    spool.finish(MINUTE).await.expect_err("failed");
    let spool = start(config(folder.path()), log.clone()).expect("started");
    spool.finish(MINUTE).await.expect("ended");
    assert_eq!(counted(&log.records()), all[..taken]);
}

/// A kill leaves the files as they are at some moment, and the last write cut at any byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_end_at_any_byte_each_record_before_it_counts_once() {
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let folder = tempfile::tempdir().expect("a folder");
        let log = MemoryLog::new(3);
        let mut sent = Vec::new();
        for session in 1..=4 {
            let mine = records(session, random.random_range(1..200), &mut random);
            let (away, away_log) = away_log(&log);
            away.send(random.random_bool(0.5)).expect("a log");
            let mut spool = start(config(folder.path()), away_log).expect("started");
            for some in mine.chunks(random.random_range(1..90)) {
                spool.append(some.to_vec()).await.expect("taken");
                if random.random_bool(0.1) {
                    away.send_modify(|away| *away = !*away);
                }
            }
            killed(spool).await;
            sent.push(mine);
            // A record that is cut was not taken: the kill came within its write.
            let last = segments(folder.path()).pop().expect("a segment");
            let held = fs::read(&last).expect("read");
            if session == 4 && held.len() > 200 {
                let cut = held.len() - random.random_range(1..60);
                fs::write(&last, &held[..cut]).expect("cut");
            }
        }
        let opened = Spool::open(config(folder.path())).expect("a torn end is no damage");
        let state = opened.state();
        let spool = opened
            .start(owner(), Box::new(log.clone()))
            .expect("started");
        spool.finish(MINUTE).await.expect("ended");
        let have = counted(&log.records());
        let want: Vec<NewRecord> = sent.concat();
        // At most the last record is gone, and only if it was cut before the log had it.
        let complete = have.len() == want.len();
        assert!(complete || state.now().cut_bytes > 0, "seed {seed}");
        assert!(have.len() + 1 >= want.len(), "seed {seed}");
        assert_eq!(have, want[..have.len()], "seed {seed}");
    }
}

/// What a run left behind, changed by `change`, is refused with a text and stays as it was.
async fn check_refused(change: impl FnOnce(&Path, &[PathBuf]), owner: Owner, texts: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, mut random) = (MemoryLog::new(3), StdRng::seed_from_u64(6));
    let (_away, away) = away_log(&log);
    let mut spool = start(config(folder.path()), away).expect("started");
    spool
        .append(records(1, 600, &mut random))
        .await
        .expect("taken");
    spool.finish(Duration::from_millis(20)).await.expect("kept");
    change(folder.path(), &segments(folder.path()));
    let before = files(folder.path());
    let started = Spool::open(config(folder.path()))
        .and_then(|spool| spool.start(owner, Box::new(log.clone())));
    let text = started.expect_err("refused").to_string();
    for part in texts {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(files(folder.path()), before);
    assert!(log.records().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_or_foreign_spool_is_refused_and_stays_as_it_was() {
    let flip = |path: &Path, at: usize| {
        let mut bytes = fs::read(path).expect("read");
        bytes[at] ^= 1;
        fs::write(path, bytes).expect("written");
    };
    check_refused(
        |_, segments| flip(&segments[1], 2_000),
        owner(),
        &[
            "00002.segment is damaged at byte ",
            "move the directory away",
        ],
    )
    .await;
    check_refused(
        |_, segments| flip(&segments[0], 9),
        owner(),
        &["00001.segment is damaged at byte 0"],
    )
    .await;
    check_refused(
        |_, segments| {
            let bytes = fs::read(&segments[1]).expect("read");
            fs::write(&segments[1], &bytes[..bytes.len() - 9]).expect("cut");
        },
        owner(),
        &["00002.segment is damaged at byte "],
    )
    .await;
    check_refused(
        |_, segments| fs::remove_file(&segments[1]).expect("removed"),
        owner(),
        &["00002.segment is missing"],
    )
    .await;
    check_refused(
        |directory, _| fs::write(directory.join("notes.txt"), "mine").expect("written"),
        owner(),
        &["\"notes.txt\"", "a directory that nothing else uses"],
    )
    .await;
    check_refused(
        |_, segments| {
            let target = tempfile::tempdir().expect("a folder").keep().join("s");
            fs::rename(&segments[0], &target).expect("moved");
            std::os::unix::fs::symlink(&target, &segments[0]).expect("linked");
        },
        owner(),
        &["00001.segment\", which is no file of a spool"],
    )
    .await;
    check_refused(
        |_, _| {},
        Owner {
            log: "topic trades of cluster b".into(),
            ..owner()
        },
        &["600 records for topic trades of cluster a", "cluster b"],
    )
    .await;
    check_refused(
        |_, _| {},
        Owner {
            id: Some("second".into()),
            ..owner()
        },
        &[
            "cluster a with the id first, and this is",
            "cluster a with the id second",
        ],
    )
    .await;
    check_refused(
        |_, _| {},
        Owner {
            partitions: 2,
            ..owner()
        },
        &["for a log of 3 partitions, and this one has 2"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_has_one_user_a_directory_and_room_on_its_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = Spool::open(config(folder.path())).expect("opened");
    let text = Spool::open(config(folder.path()))
        .expect_err("held")
        .to_string();
    let this = format!("process {} uses ", std::process::id());
    assert!(text.contains(&this), "{text}");
    drop(spool);
    Spool::open(config(folder.path())).expect("free again");

    let file = folder.path().join("file");
    fs::write(&file, "").expect("written");
    let text = Spool::open(config(&file)).expect_err("a file").to_string();
    assert!(text.contains("is no directory"), "{text}");

    let large = SpoolConfig {
        size_bytes: 1 << 60,
        ..config(&folder.path().join("new/spool"))
    };
    let text = Spool::open(large).expect_err("no room").to_string();
    assert!(
        text.contains("is full: ") && text.contains("--spool-size"),
        "{text}"
    );
}

/// A lost or torn note of what is acknowledged costs repeats, which the job drops.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_note_of_what_is_acknowledged_everything_left_is_sent_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, mut random) = (MemoryLog::new(3), StdRng::seed_from_u64(8));
    let all = records(1, 40, &mut random);
    let mut spool = start(config(folder.path()), log.clone()).expect("started");
    spool.append(all.clone()).await.expect("taken");
    log.until(|records| records.len() == 40).await;
    killed(spool).await;
    fs::write(folder.path().join("acknowledged"), "torn").expect("written");
    let spool = start(config(folder.path()), log.clone()).expect("started");
    spool.finish(MINUTE).await.expect("ended");
    assert_eq!(log.records().len(), 80);
    assert_eq!(counted(&log.records()), all);
}
