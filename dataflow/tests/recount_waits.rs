//! A recount of views reads the directory and the bars of a window only after the writes of all
//! earlier epochs are acknowledged.

mod support;

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use support::{
    check::check,
    feed::append_trade_at,
    job::{block_on, config, io, run_job},
    memory_log::MemoryLog,
};
use tapeflow_dataflow::{Metrics, Stop, run};
use tapeflow_log::{Log, LogError, LogReader, LogRecord};
use tapeflow_protocol::{
    CasOutcome, Checkpoint, CheckpointStore, EpochStore, EpochWrites, HistoryEntry, SourceIdentity,
    StoreError, SymbolDirectory,
};
use tapeflow_schemas::{
    AssetClass, BarKey, BarRow, Offset, Partition, Symbol, ViewKey, ViewState, WriteTimestamp,
};
use tapeflow_sinks::memory::MemoryStore;

const START_MS: i64 = 1_699_999_980_000;
/// The symbol whose first write is held.
const HELD: &str = "HELD";

/// Holds the first write of [`HELD`] until a recount has asked for the directory, or for a time in
/// which one would have.
struct HoldingStore {
    inner: Arc<MemoryStore>,
    held: Arc<AtomicBool>,
    asked: AtomicBool,
}

#[async_trait]
impl CheckpointStore for HoldingStore {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.inner.checkpoint().await
    }

    async fn compare_and_set(
        &self,
        expected: Option<&Checkpoint>,
        proposed: &Checkpoint,
    ) -> CasOutcome {
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
impl EpochStore for HoldingStore {
    async fn read_bars(&self, keys: &[BarKey]) -> Result<Vec<Option<BarRow>>, StoreError> {
        self.inner.read_bars(keys).await
    }

    async fn read_views(&self, keys: &[ViewKey]) -> Result<Vec<Option<ViewState>>, StoreError> {
        self.inner.read_views(keys).await
    }

    async fn write(&self, writes: &EpochWrites) -> Result<(), StoreError> {
        let is_held = |symbol: &Symbol| symbol.as_str() == HELD;
        if writes.bars.iter().any(|bar| is_held(&bar.key.symbol))
            || writes.directory.iter().any(|entry| is_held(&entry.symbol))
        {
            self.held.store(true, SeqCst);
            let since = Instant::now();
            while !self.asked.load(SeqCst) && since.elapsed() < Duration::from_secs(2) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        self.inner.write(writes).await
    }
}

#[async_trait]
impl SymbolDirectory for HoldingStore {
    async fn symbols(&self) -> Result<Vec<(Symbol, AssetClass)>, StoreError> {
        let symbols = self.inner.symbols().await;
        self.asked.fetch_or(self.held.load(SeqCst), SeqCst);
        symbols
    }
}

/// A log of one partition that returns no record from an offset on until a write is held.
struct GatedLog {
    log: MemoryLog,
    gate: Offset,
    open: Arc<AtomicBool>,
}

struct GatedReader {
    reader: Box<dyn LogReader>,
    at: Offset,
    gate: Offset,
    open: Arc<AtomicBool>,
}

impl LogReader for GatedReader {
    fn poll(
        &mut self,
        limit: usize,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<usize, LogError> {
        let limit = if self.open.load(SeqCst) {
            limit
        } else {
            limit.min(usize::try_from(self.gate - self.at).expect("an offset before the gate"))
        };
        let count = self.reader.poll(limit, each)?;
        self.at += i64::try_from(count).expect("few");
        Ok(count)
    }

    fn set_paused(&mut self, partition: Partition, paused: bool) -> Result<(), LogError> {
        self.reader.set_paused(partition, paused)
    }
}

impl Log for GatedLog {
    fn describe(&self) -> String {
        "a log with a gate".into()
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
        Ok(Box::new(GatedReader {
            reader: self.log.reader(from)?,
            at: from[0].1,
            gate: self.gate,
            open: Arc::clone(&self.open),
        }))
    }
}

#[test]
fn a_recount_sees_what_an_earlier_epoch_is_still_writing() {
    // 1. Epoch 1 makes the first bars of HELD, the greatest mover, and their write is under way.
    // 2. Epoch 2 takes so many other movers back that the reserve is used up: a recount.
    // 3. If the recount did not wait, it would find neither HELD in the directory nor its bar.
    let log = MemoryLog::new(1);
    let mut sequence = 0;
    let mut trade = |symbol: &str, price: &str| {
        sequence += 1;
        append_trade_at(&log, symbol, (sequence, START_MS), price);
    };
    for symbol in 0..80 {
        trade(&format!("S{symbol}"), "1.00");
        trade(&format!("S{symbol}"), &format!("1.{:02}", 1 + symbol));
    }
    let (config, inner) = (config(1, 100_000), Arc::new(MemoryStore::new()));
    run_job(&config, &log, inner.clone()).expect("runs to the end");
    trade(HELD, "1.00");
    trade(HELD, "3.00");
    for symbol in 60..80 {
        trade(&format!("S{symbol}"), "1.00");
    }
    let held = Arc::new(AtomicBool::new(false));
    let metrics: Arc<Metrics> = Arc::default();
    run(
        config.clone(),
        Arc::new(GatedLog {
            log: log.clone(),
            gate: 2 * 80 + 2,
            open: Arc::clone(&held),
        }),
        Arc::new(HoldingStore {
            inner: inner.clone(),
            held: Arc::clone(&held),
            asked: AtomicBool::new(false),
        }),
        Stop::default(),
        Arc::new(()),
        Arc::clone(&metrics),
        io().handle(),
    )
    .expect("runs to the end");
    assert!(held.load(SeqCst), "a write was held");
    assert!(metrics.view_recounts.get() > 0, "views were recounted");
    block_on(check(&config, &log, &*inner, "after a held write"));
    assert_eq!(inner.violations(), Vec::<String>::new());
}
