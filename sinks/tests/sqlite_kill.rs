//! The embedded log and store under kill -9. This test starts itself again as a child process that
//! appends records and writes bars, and kills the child at a random moment.
//!
//! The child prints what was acknowledged. After the kill, everything printed must be in the file
//! once. A change that was not printed may be missing, but it is whole and in order if it is there.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tapeflow_log::{
    NewRecord,
    sqlite::{Access, Database, SqliteLog},
};
use tapeflow_protocol::{
    Binding, CasOutcome, Checkpoint, CheckpointStore, Cut, DirectoryEntry, EpochStore, EpochWrites,
    StoreError, checkpoint::CHECKPOINT_FORMAT,
};
use tapeflow_schemas::{
    BarKey, BarState, BarWrite, PackedBars, SessionId, Sums, Symbol, Totals, WindowSize,
};
use tapeflow_sinks::sqlite::SqliteStore;

const FILE: &str = "TAPEFLOW_TEST_KILL_FILE";
const SESSION: SessionId = SessionId([3; 16]);
const PARTITIONS: u32 = 3;

fn key() -> BarKey {
    BarKey {
        symbol: Symbol::new("AAPL").expect("a symbol"),
        size: WindowSize::DEFAULTS[0],
        start: 0,
    }
}

/// The bar's state as of an epoch. Its values contain the epoch, so that a mix of two epochs is
/// found.
fn state(epoch: u64) -> BarState {
    let sums = Sums {
        volume_e8: i128::from(epoch) << 64,
        notional_e16: i128::from(epoch),
        trades: epoch,
    };
    BarState {
        epoch,
        totals: Totals {
            sums: [sums; 3],
            ..Totals::default()
        },
    }
}

fn payload(partition: u32, sequence: u64) -> Vec<u8> {
    // The lengths vary, up to several pages.
    let text = format!("{partition}/{sequence};");
    text.repeat(1 + usize::try_from(sequence * 37 % 1_500).expect("small"))
        .into_bytes()
}

/// The child: binds an epoch, appends records and writes the bar, in a loop without end. It prints
/// a line after each acknowledgement.
async fn write_for_ever(path: &Path) {
    let database = Database::open(path, Access::Job).expect("the file opens after a kill");
    let log = SqliteLog::create_if_absent(&database, PARTITIONS)
        .await
        .expect("a log");
    let store = SqliteStore::new(database);
    let mut sequences = log.last_sequences(SESSION).await.expect("sequences");
    let mut checkpoint = store.checkpoint().await.expect("a checkpoint");
    loop {
        let epoch = checkpoint
            .as_ref()
            .map_or(1, |checkpoint| checkpoint.version + 1);
        let proposed = Checkpoint {
            format: CHECKPOINT_FORMAT,
            job: "tapeflow".into(),
            generation: 1,
            version: epoch,
            owner: "0".repeat(32),
            fingerprint: "1".into(),
            source: log.identity().clone(),
            datacenter: None,
            recovery_timestamp: 1,
            last_write_timestamp: i64::try_from(epoch).expect("small"),
            committed: Binding {
                epoch,
                write_timestamp: i64::try_from(epoch).expect("small"),
                cuts: vec![Cut::default()],
            },
            bound: Vec::new(),
        };
        assert!(matches!(
            store.compare_and_set(checkpoint.as_ref(), &proposed).await,
            CasOutcome::Won
        ));
        say(&format!("checkpoint {epoch}"));
        checkpoint = Some(proposed);

        let mut records = Vec::new();
        for partition in 0..PARTITIONS {
            let last = &mut sequences[usize::try_from(partition).expect("small")];
            for _ in 0..1 + (epoch + u64::from(partition)) % 4 {
                *last += 1;
                records.push(NewRecord {
                    partition,
                    key: "AAPL".into(),
                    timestamp_ms: 0,
                    payload: payload(partition, *last),
                    session: Some((SESSION, *last)),
                });
            }
        }
        let row = BarWrite {
            key: key(),
            state: state(epoch),
            packed: PackedBars::default(),
            write_timestamp: i64::try_from(epoch).expect("small"),
        };
        let writes = EpochWrites {
            directory: vec![DirectoryEntry::of(&row.key)],
            bars: vec![row],
            ..EpochWrites::default()
        };
        // Both run at once, so that they often share a transaction.
        let append = async {
            log.append(records).await.expect("appended");
            say(&format!(
                "log {}",
                sequences
                    .iter()
                    .map(u64::to_string)
                    .collect::<Vec<_>>()
                    .join(" ")
            ));
        };
        let write = async {
            store.write(&writes).await.expect("written");
            say(&format!("row {epoch}"));
        };
        tokio::join!(append, write);
    }
}

fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    // The parent has ended.
    if writeln!(out, "said {what}")
        .and_then(|()| out.flush())
        .is_err()
    {
        std::process::exit(1);
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the test named `test` as a child process. Returns the process and its output.
fn child(test: &str, path: &Path) -> (Killed, BufReader<ChildStdout>) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(FILE, path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command.spawn().expect("this program starts");
    let said = BufReader::new(child.stdout.take().expect("piped"));
    (Killed(child), said)
}

/// The file to work on, if this process is a child.
fn as_child() -> Option<PathBuf> {
    std::env::var_os(FILE).map(PathBuf::from)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// The last acknowledged change of each kind.
#[derive(Default, Debug)]
struct Said {
    checkpoint: u64,
    row: u64,
    log: Vec<u64>,
    lines: usize,
}

impl Said {
    fn parse(&mut self, line: &str) {
        // A line that the kill cut has no line break and is no acknowledgement.
        let Some(words) = line
            .strip_suffix('\n')
            .and_then(|line| line.split_once("said "))
            .map(|(_, words)| words)
        else {
            return;
        };
        self.lines += 1;
        let number = |text: &str| text.parse::<u64>().expect("a number");
        match words.split_once(' ') {
            Some(("checkpoint", epoch)) => self.checkpoint = number(epoch),
            Some(("row", epoch)) => self.row = number(epoch),
            Some(("log", sequences)) => self.log = sequences.split(' ').map(number).collect(),
            _ => panic!("the child said {line:?}"),
        }
    }
}

async fn check(path: &Path, said: &Said) {
    let database = Database::open(path, Access::Reader)
        .expect("a reader opens a file whose writer was killed");
    let log = SqliteLog::open(&database).expect("a log");
    let last = log.last_sequences(SESSION).await.expect("sequences");
    let mut found = vec![0; last.len()];
    let from: Vec<_> = (0..PARTITIONS).map(|partition| (partition, 0)).collect();
    let mut reader = log.reader(&from).expect("a reader");
    let each = &mut |record: tapeflow_log::LogRecord<'_>| {
        let sequence = &mut found[usize::try_from(record.partition).expect("small")];
        *sequence += 1;
        assert_eq!(
            record.offset + 1,
            i64::try_from(*sequence).expect("small"),
            "offsets are dense"
        );
        assert!(
            record.payload == Some(&payload(record.partition, *sequence)[..]),
            "partition {} offset {}: each record once, in order, whole",
            record.partition,
            record.offset
        );
    };
    while reader.poll(1_000, each).expect("the log is read") > 0 {}
    assert_eq!(found, last, "the sequences are those of the records");
    for (partition, found) in (0..).zip(&found) {
        assert_eq!(
            log.bounds(partition).expect("bounds"),
            0..i64::try_from(*found).expect("small")
        );
    }
    assert!(
        found
            .iter()
            .zip(&said.log)
            .all(|(found, said)| found >= said),
        "{said:?}, found {found:?}"
    );
    let store = SqliteStore::new(database);
    let checkpoint = store
        .checkpoint()
        .await
        .expect("a checkpoint")
        .map_or(0, |checkpoint| checkpoint.version);
    let rows = store.read_bars(&[key()]).await.expect("bars");
    let row = rows.into_iter().next().flatten().map(|row| row.state);
    assert!(
        (said.checkpoint..=said.checkpoint + 1).contains(&checkpoint),
        "{said:?}, found checkpoint {checkpoint}"
    );
    let epoch = row.map_or(0, |row| row.epoch);
    assert!(
        said.row <= epoch && epoch <= checkpoint,
        "{said:?}, found row {epoch} under checkpoint {checkpoint}"
    );
    assert_eq!(row, (epoch > 0).then(|| state(epoch)));
}

#[test]
fn kill_nine_loses_no_acknowledged_write_and_doubles_none() {
    if let Some(path) = as_child() {
        return runtime().block_on(write_for_ever(&path));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("kill.db");
    let mut random = StdRng::seed_from_u64(20_240_229);
    let mut said = Said::default();
    for round in 0..12 {
        let (child, mut lines) = child(
            "kill_nine_loses_no_acknowledged_write_and_doubles_none",
            &path,
        );
        let end = said.lines + random.random_range(1..120);
        let spin = random.random_range(0..40_000);
        let mut line = String::new();
        while said.lines < end {
            line.clear();
            assert!(
                lines.read_line(&mut line).expect("the child's output") > 0,
                "round {round}: the child ended by itself"
            );
            said.parse(&line);
        }
        // The kill hits a random moment of the next write.
        (0..spin).for_each(|_| std::hint::spin_loop());
        drop(child);
        // Unread lines that it printed before it died are acknowledged writes, too.
        loop {
            line.clear();
            if lines.read_line(&mut line).expect("the child's output") == 0 {
                break;
            }
            said.parse(&line);
        }
        println!("round {round}: {said:?}");
        runtime().block_on(check(&path, &said));
    }
    assert!(said.lines > 100, "the children got somewhere");
}

#[test]
fn another_process_that_writes_is_refused_until_it_is_killed() {
    if let Some(path) = as_child() {
        let _held = Database::open(&path, Access::Job).expect("the file opens");
        say("checkpoint 1");
        // Until killed.
        loop {
            std::thread::park();
        }
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("held.db");
    let (child, mut lines) = child(
        "another_process_that_writes_is_refused_until_it_is_killed",
        &path,
    );
    let (mut said, mut line) = (Said::default(), String::new());
    while said.lines == 0 {
        line.clear();
        assert!(
            lines.read_line(&mut line).expect("the child's output") > 0,
            "the child ended by itself"
        );
        said.parse(&line);
    }
    let reason = match Database::open(&path, Access::Job) {
        Err(StoreError::Broken(reason)) => reason,
        other => panic!("not refused: {other:?}"),
    };
    assert!(
        reason.contains("held.db") && reason.contains(&format!("process {}", child.0.id())),
        "{reason}"
    );
    Database::open(&path, Access::Reader).expect("readers are welcome");
    drop(child);
    Database::open(&path, Access::Job).expect("the kernel gives the lock back");
}
