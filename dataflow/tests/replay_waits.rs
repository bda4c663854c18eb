//! A replay that waits for one partition: the others must not be read without a bound meanwhile.

mod support;

#[path = "accept_loss/course.rs"]
#[expect(dead_code, reason = "this target uses part of it")]
mod course;

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use course::{Ends, checkpoint, life};
use support::{MemoryLog, append_trade, config, io};
use tapeflow_dataflow::{JobConfig, Metrics, Stop, run};
use tapeflow_log::{Log, LogError, LogReader, LogRecord};
use tapeflow_protocol::SourceIdentity;
use tapeflow_schemas::{Offset, Partition};
use tapeflow_sinks::memory::MemoryStore;

struct StallingLog {
    log: MemoryLog,
    /// Records of partition 0 handed over before partition 1 was let go on.
    handed: Arc<AtomicUsize>,
}

struct StallingReader {
    reader: Box<dyn LogReader>,
    at: Offset,
    log: MemoryLog,
    let_go: bool,
    handed: Arc<AtomicUsize>,
}

/// So many windows of partition 0 are more than all open maps of a job may hold together (16,384).
const TOO_MANY: usize = 20_000;

impl LogReader for StallingReader {
    fn poll(
        &mut self,
        limit: usize,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<usize, LogError> {
        if !self.let_go && self.handed.load(SeqCst) < TOO_MANY {
            let records = self.log.0.lock().expect("log");
            let mut count = 0;
            while count < limit {
                let Some((timestamp_ms, payload)) =
                    records[0].get(usize::try_from(self.at).expect("offset"))
                else {
                    break;
                };
                each(LogRecord {
                    partition: 0,
                    offset: self.at,
                    timestamp_ms: *timestamp_ms,
                    payload: Some(payload),
                });
                self.at += 1;
                count += 1;
                self.handed.fetch_add(1, SeqCst);
            }
            return Ok(count);
        }
        self.let_go = true;
        self.reader.poll(limit, each)
    }

    fn set_paused(&mut self, partition: Partition, paused: bool) -> Result<(), LogError> {
        // What a mended source does while partition 1 does not answer.
        self.let_go |= partition == 0 && paused;
        self.reader.set_paused(partition, paused)
    }
}

impl Log for StallingLog {
    fn describe(&self) -> String {
        "a log of which one partition does not answer".into()
    }

    fn identity(&self) -> Result<SourceIdentity, LogError> {
        self.log.identity()
    }

    fn partitions(&self) -> Result<u32, LogError> {
        self.log.partitions()
    }

    fn bounds(&self, partition: Partition) -> Result<Range<Offset>, LogError> {
        self.log.bounds(partition)
    }

    fn reader(&self, from: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError> {
        let at = from
            .iter()
            .find(|(partition, _)| *partition == 0)
            .expect("one worker reads all")
            .1;
        Ok(Box::new(StallingReader {
            reader: self.log.reader(from)?,
            at,
            log: self.log.clone(),
            let_go: false,
            handed: Arc::clone(&self.handed),
        }))
    }
}

#[test]
fn a_replay_that_waits_for_one_partition_does_not_read_the_others_without_end() {
    let config = JobConfig {
        sizes: vec!["1s".parse().expect("a size")],
        ..config(1, 100_000)
    };
    let (log, store) = (MemoryLog::new(2), Arc::new(MemoryStore::new()));
    let of = |partition| {
        ["A", "B", "C", "D", "E"]
            .into_iter()
            .find(|symbol| tapeflow_schemas::partition_for(symbol, 2) == partition)
            .expect("a symbol")
    };
    let base = 1_700_000_000_000;
    append_trade(&log, of(0), 1, base);
    append_trade(&log, of(1), 1, base);
    life(&config, &log, &store, Ends::ByItself).expect("runs to the end");
    // An epoch of partition 1 alone is bound, and a crash.
    append_trade(&log, of(1), 2, base + 1);
    life(&config, &log, &store, Ends::AfterBinding).expect_err("a crash");
    assert_eq!(checkpoint(&store).bound.len(), 1);
    // Partition 0 has a backlog, each record in a window of its own, and the coordinator of partition 1
    // does not answer.
    for n in 0..30_000 {
        append_trade(
            &log,
            of(0),
            2 + n,
            base - 1_000 * i64::try_from(n).expect("few"),
        );
    }
    let handed = Arc::new(AtomicUsize::new(0));
    let stalling = StallingLog {
        log,
        handed: Arc::clone(&handed),
    };
    run(
        config,
        Arc::new(stalling),
        store,
        Stop::default(),
        Arc::new(()),
        Arc::new(Metrics::default()),
        io().handle(),
    )
    .expect("runs to the end");
    let handed = handed.load(SeqCst);
    assert!(
        handed < TOO_MANY,
        "{handed} windows were taken into an open map that holds 16,384"
    );
}
