//! A process whose source fails keeps the capability of its sealed epoch. The other processes,
//! which do not know of the failure yet, must not commit this epoch.

mod support;

use std::{
    net::TcpListener,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use support::{
    check::check,
    job::{block_on, config, io},
    memory_log::MemoryLog,
};
use tapeflow_dataflow::{JobConfig, Metrics, Stop, run};
use tapeflow_log::{Log, LogError, LogReader, LogRecord};
use tapeflow_protocol::{
    CasOutcome, Checkpoint, CheckpointStore, EpochStore, EpochWrites, HistoryEntry, SourceIdentity,
    StoreError, SymbolDirectory,
};
use tapeflow_schemas::{
    AssetClass, BarKey, BarRow, Conditions, EventTime, Offset, Partition, Price, SessionId, Size,
    Symbol, Trade, ViewKey, ViewState, WriteTimestamp,
    codec::{BatchHeader, encode_batch},
};
use tapeflow_sinks::memory::MemoryStore;

/// Coordinates the two logs and the store.
#[derive(Default)]
struct Script {
    /// The log of process 1 fails once this is set.
    fail_one: AtomicBool,
    /// The log of process 1 has failed.
    one_failed: AtomicBool,
    /// The log of process 0 fails once this is set, which ends the test.
    fail_zero: AtomicBool,
    /// Bars of process 0 are acknowledged only once this is set.
    acknowledge: AtomicBool,
}

struct FailingLog {
    log: MemoryLog,
    script: Arc<Script>,
    process: usize,
}

struct FailingReader {
    reader: Box<dyn LogReader>,
    script: Arc<Script>,
    process: usize,
}

impl LogReader for FailingReader {
    fn poll(
        &mut self,
        limit: usize,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<usize, LogError> {
        let fails = if self.process == 0 {
            &self.script.fail_zero
        } else {
            &self.script.fail_one
        };
        if fails.load(SeqCst) {
            if self.process == 1 {
                self.script.one_failed.store(true, SeqCst);
            }
            return Err(LogError::Broken("an offset is gone".into()));
        }
        self.reader.poll(limit, each)
    }

    fn set_paused(&mut self, partition: Partition, paused: bool) -> Result<(), LogError> {
        self.reader.set_paused(partition, paused)
    }
}

impl Log for FailingLog {
    fn describe(&self) -> String {
        "a log that fails".into()
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
        Ok(Box::new(FailingReader {
            reader: self.log.reader(from)?,
            script: Arc::clone(&self.script),
            process: self.process,
        }))
    }
}

/// A store that delays the bars of process 0, so that `epochs_ahead` epochs are bound and the
/// coordinator commits without sealing first.
struct SlowStore {
    inner: Arc<MemoryStore>,
    script: Arc<Script>,
    symbol_of_zero: String,
}

#[async_trait]
impl CheckpointStore for SlowStore {
    fn describe(&self) -> String {
        "slow".into()
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.inner.checkpoint().await
    }

    async fn compare_and_set(
        &self,
        expected: Option<&Checkpoint>,
        proposed: &Checkpoint,
    ) -> CasOutcome {
        if proposed.bound.len() == 4 && !self.script.fail_one.swap(true, SeqCst) {
            // During the last possible binding, the source of process 1 fails after it has sealed
            // its part of the epoch.
            while !self.script.one_failed.load(SeqCst) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            let script = Arc::clone(&self.script);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                script.acknowledge.store(true, SeqCst);
                // Long enough for a wrong commit.
                tokio::time::sleep(Duration::from_secs(2)).await;
                script.fail_zero.store(true, SeqCst);
            });
        }
        self.inner.compare_and_set(expected, proposed).await
    }

    async fn write_history(
        &self,
        entries: &[HistoryEntry],
        recovery_timestamp: WriteTimestamp,
    ) -> Result<(), StoreError> {
        self.inner.write_history(entries, recovery_timestamp).await
    }
}

#[async_trait]
impl EpochStore for SlowStore {
    async fn read_bars(&self, keys: &[BarKey]) -> Result<Vec<Option<BarRow>>, StoreError> {
        self.inner.read_bars(keys).await
    }

    async fn read_views(&self, keys: &[ViewKey]) -> Result<Vec<Option<ViewState>>, StoreError> {
        self.inner.read_views(keys).await
    }

    async fn write(&self, writes: &EpochWrites) -> Result<(), StoreError> {
        while !self.script.acknowledge.load(SeqCst)
            && writes
                .bars
                .iter()
                .any(|bar| bar.key.symbol.as_str() == self.symbol_of_zero)
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.inner.write(writes).await
    }
}

#[async_trait]
impl SymbolDirectory for SlowStore {
    async fn symbols(&self) -> Result<Vec<(Symbol, AssetClass)>, StoreError> {
        self.inner.symbols().await
    }
}

/// A symbol whose bars belong to the worker of this process.
fn symbol_of(process: u64) -> String {
    let kept = |name: &String| xxhash_rust::xxh3::xxh3_64(name.as_bytes()) % 2 == process;
    (0..1_000)
        .map(|n| format!("S{n}"))
        .find(kept)
        .expect("one of a thousand")
}

#[test]
fn an_epoch_that_a_failed_source_has_sealed_is_not_committed() {
    let log = MemoryLog::new(2);
    let names = [symbol_of(0), symbol_of(1)];
    for (partition, symbol) in (0u32..).zip(&names) {
        for sequence in 1..=30_000 {
            let price = Price::from_e8(1).expect("a price");
            let trade = Trade::new(
                EventTime::from_ms(1_700_000_000_000).expect("a time"),
                price,
                Size::from_e8(1).expect("a size"),
                Conditions::NONE,
            );
            let header = BatchHeader {
                symbol,
                source: "test",
                session: SessionId([7; 16]),
                sequence,
                taken_ms: 1_700_000_000_000,
            };
            let mut payload = Vec::new();
            encode_batch(&mut payload, &header, &[trade.expect("a trade")]);
            log.append(partition, 1_700_000_000_000, payload);
        }
    }
    let script = Arc::new(Script::default());
    let inner = Arc::new(MemoryStore::new());
    let store = Arc::new(SlowStore {
        inner: Arc::clone(&inner),
        script: Arc::clone(&script),
        symbol_of_zero: names[0].clone(),
    });
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let hosts: Vec<String> = listeners
        .iter()
        .map(|listener| listener.local_addr().expect("an address").to_string())
        .collect();
    drop(listeners);
    let base = JobConfig {
        epoch: Duration::from_millis(5),
        sizes: vec!["1m".parse().expect("a size")],
        processes: 2,
        hosts,
        ..config(1, 100_000)
    };
    let processes = [0, 1].map(|process| {
        let job = JobConfig {
            process,
            ..base.clone()
        };
        let log = Arc::new(FailingLog {
            log: log.clone(),
            script: Arc::clone(&script),
            process,
        });
        let store = Arc::clone(&store);
        std::thread::spawn(move || {
            run(
                job,
                log,
                store,
                Stop::default(),
                Arc::new(()),
                Arc::new(Metrics::default()),
                io().handle(),
            )
        })
    });
    for process in processes {
        assert!(
            process.join().expect("no panic").is_err(),
            "both logs fail in the end"
        );
    }
    assert!(
        script.one_failed.load(SeqCst) && script.acknowledge.load(SeqCst),
        "the tested situation occurred"
    );
    block_on(check(&base, &log, &*inner, "after the failure"));
}
