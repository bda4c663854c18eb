//! A replay that waits for one partition must not read the others without a bound.

mod support;

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use support::{
    feed::append_trade,
    interrupted_run::{Interruption, checkpoint, run_with},
    job::{config, io},
    memory_log::MemoryLog,
};
use tapeflow_dataflow::{JobConfig, Limits, Metrics, Stop, run};
use tapeflow_log::{Log, LogError, LogReader, LogRecord};
use tapeflow_protocol::SourceIdentity;
use tapeflow_schemas::{Offset, Partition};
use tapeflow_sinks::memory::MemoryStore;

struct StallingLog {
    log: MemoryLog,
    /// The records of partition 0 returned while partition 1 does not answer.
    returned: Arc<AtomicUsize>,
}

struct StallingReader {
    reader: Box<dyn LogReader>,
    at: Offset,
    log: MemoryLog,
    answers: bool,
    returned: Arc<AtomicUsize>,
}

/// The windows that all open maps of the job may hold together.
const OPEN: usize = 16_384;
/// More than that, with a last poll.
const TOO_MANY: usize = 20_000;

impl LogReader for StallingReader {
    fn poll(
        &mut self,
        limit: usize,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<usize, LogError> {
        if !self.answers && self.returned.load(SeqCst) < TOO_MANY {
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
                self.returned.fetch_add(1, SeqCst);
            }
            return Ok(count);
        }
        self.answers = true;
        self.reader.poll(limit, each)
    }

    fn set_paused(&mut self, partition: Partition, paused: bool) -> Result<(), LogError> {
        // The source pauses partition 0 while partition 1 does not answer.
        self.answers |= partition == 0 && paused;
        self.reader.set_paused(partition, paused)
    }
}

impl Log for StallingLog {
    fn describe(&self) -> String {
        "a log with a partition that does not answer".into()
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
            answers: false,
            returned: Arc::clone(&self.returned),
        }))
    }
}

#[test]
fn a_replay_that_waits_for_one_partition_reads_a_bounded_part_of_the_others() {
    let config = JobConfig {
        sizes: vec!["1m".parse().expect("a size")],
        limits: Limits {
            open_windows: OPEN,
            ..Limits::default()
        },
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
    run_with(&config, &log, &store, Interruption::None).expect("runs to the end");
    // Bind an epoch with records of partition 1 alone, then crash.
    append_trade(&log, of(1), 2, base + 1);
    run_with(&config, &log, &store, Interruption::AfterBinding).expect_err("a crash");
    assert_eq!(checkpoint(&store).bound.len(), 1);
    // Partition 0 has a backlog, each record in its own window. The leader of partition 1 does not
    // answer.
    for n in 0..30_000 {
        append_trade(
            &log,
            of(0),
            2 + n,
            base - 60_000 * i64::try_from(n).expect("few"),
        );
    }
    let returned = Arc::new(AtomicUsize::new(0));
    let stalling = StallingLog {
        log,
        returned: Arc::clone(&returned),
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
    let returned = returned.load(SeqCst);
    assert!(
        returned < TOO_MANY,
        "{returned} windows were read into an open map that holds {OPEN}"
    );
}
