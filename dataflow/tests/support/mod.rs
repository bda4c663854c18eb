//! What the tests of the running job share: a log in memory, a store that crashes on purpose, a
//! seeded feed, and the check of every bar against the independent recomputation.

#![allow(dead_code, reason = "each target uses its part")]
#![allow(unreachable_pub, reason = "a module shared by test targets")]

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tapeflow_dataflow::{JobConfig, JobError, Metrics, Stop, Summary, run};
use tapeflow_log::{Log, LogError, LogReader, LogRecord};
use tapeflow_oracle::{Oracle, OracleBar, OracleEntry, OracleView};
use tapeflow_protocol::{
    CasOutcome, Checkpoint, DeadLetter, EpochWrites, HistoryEntry, SourceIdentity, Store,
    StoreError,
};
use tapeflow_schemas::{
    BarKey, BarState, Baskets, Conditions, EventTime, Offset, Partition, Policy, Price, SessionId,
    Size, StoredBar, StoredView, Symbol, Totals, Trade, View, WindowSize, WindowStart,
    WriteTimestamp,
    codec::{BatchHeader, encode_batch},
    partition_for,
};
use tapeflow_sinks::memory::MemoryStore;

/// One partition: timestamp and bytes of each record.
type Records = Vec<(i64, Vec<u8>)>;

/// A log in memory, shared by its readers; and of each partition, the first offset that retention
/// has left.
#[derive(Clone)]
pub struct MemoryLog(pub Arc<Mutex<Vec<Records>>>, pub Arc<Mutex<Vec<Offset>>>);

impl MemoryLog {
    pub fn new(partitions: u32) -> Self {
        Self(
            Arc::new(Mutex::new(vec![Vec::new(); partitions as usize])),
            Arc::new(Mutex::new(vec![0; partitions as usize])),
        )
    }

    /// Removes what lies below an offset, as retention does; the tests still know what it was.
    pub fn remove_below(&self, partition: Partition, start: Offset) {
        self.1.lock().expect("starts")[partition as usize] = start;
    }

    fn start(&self, partition: Partition) -> Offset {
        self.1.lock().expect("starts")[partition as usize]
    }

    pub fn append(&self, partition: Partition, timestamp_ms: i64, payload: Vec<u8>) {
        self.0.lock().expect("log")[partition as usize].push((timestamp_ms, payload));
    }
}

impl Log for MemoryLog {
    fn describe(&self) -> String {
        "memory".into()
    }

    fn identity(&self) -> Result<SourceIdentity, LogError> {
        Ok(SourceIdentity {
            cluster: "memory".into(),
            topic: "test".into(),
            topic_id: None,
        })
    }

    fn partitions(&self) -> Result<u32, LogError> {
        Ok(u32::try_from(self.0.lock().expect("log").len()).expect("few"))
    }

    fn bounds(&self, partition: Partition) -> Result<Range<Offset>, LogError> {
        Ok(self.start(partition)
            ..i64::try_from(self.0.lock().expect("log")[partition as usize].len()).expect("few"))
    }

    fn reader(&self, from: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(MemoryReader {
            log: self.clone(),
            at: from.iter().map(|(p, o)| (*p, (*o, false))).collect(),
        }))
    }
}

struct MemoryReader {
    log: MemoryLog,
    at: BTreeMap<Partition, (Offset, bool)>,
}

impl LogReader for MemoryReader {
    fn poll(
        &mut self,
        limit: usize,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<usize, LogError> {
        // A few records at a time, so that epochs end everywhere.
        let limit = limit.min(7);
        let log = self.log.0.lock().expect("log");
        let mut count = 0;
        for (partition, (offset, paused)) in &mut self.at {
            if *offset < self.log.start(*partition) {
                return Err(LogError::Broken("an offset is out of range".into()));
            }
            while !*paused && count < limit {
                let Some((timestamp_ms, payload)) =
                    log[*partition as usize].get(usize::try_from(*offset).expect("offset"))
                else {
                    break;
                };
                each(LogRecord {
                    partition: *partition,
                    offset: *offset,
                    timestamp_ms: *timestamp_ms,
                    payload: Some(payload),
                });
                *offset += 1;
                count += 1;
            }
        }
        Ok(count)
    }

    fn set_paused(&mut self, partition: Partition, paused: bool) -> Result<(), LogError> {
        self.at.get_mut(&partition).expect("ours").1 = paused;
        Ok(())
    }
}

/// A store that, after a number of calls, is as good as gone for this process: a write under way is
/// applied in part, a compare-and-set perhaps, and nothing after it.
pub struct CrashingStore {
    pub inner: Arc<MemoryStore>,
    calls_left: AtomicI64,
    random: Mutex<StdRng>,
}

impl CrashingStore {
    pub fn new(inner: Arc<MemoryStore>, calls: i64, seed: u64) -> Self {
        Self {
            inner,
            calls_left: AtomicI64::new(calls),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
        }
    }

    /// 1 or more: alive; 0: this call is the last; below: gone.
    fn left(&self) -> i64 {
        self.calls_left.fetch_sub(1, Ordering::SeqCst) - 1
    }

    fn chance(&self) -> bool {
        self.random.lock().expect("random").random_bool(0.5)
    }

    fn gone<T>() -> Result<T, StoreError> {
        Err(StoreError::Broken("crash".into()))
    }
}

#[async_trait]
impl Store for CrashingStore {
    fn describe(&self) -> String {
        "crashing".into()
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        if self.left() < 0 {
            Self::gone()
        } else {
            self.inner.checkpoint().await
        }
    }

    async fn compare_and_set(
        &self,
        expected: Option<&Checkpoint>,
        proposed: &Checkpoint,
    ) -> CasOutcome {
        match self.left() {
            1.. => self.inner.compare_and_set(expected, proposed).await,
            0 => {
                if self.chance() {
                    let _ = self.inner.compare_and_set(expected, proposed).await;
                }
                CasOutcome::Unknown("crash".into())
            }
            _ => CasOutcome::Unknown("crash".into()),
        }
    }

    async fn read_bars(&self, keys: &[BarKey]) -> Result<Vec<Option<BarState>>, StoreError> {
        // Reads that take their time see bars of later epochs, if anything writes those meanwhile.
        let delay_ms = if self.chance() {
            0
        } else {
            self.random.lock().expect("random").random_range(0..30)
        };
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        if self.left() < 0 {
            Self::gone()
        } else {
            self.inner.read_bars(keys).await
        }
    }

    async fn write(&self, writes: &EpochWrites) -> Result<(), StoreError> {
        // Acknowledgements that take their time let a commit overtake them, if anything does.
        let delay_ms = if self.chance() {
            0
        } else {
            self.random.lock().expect("random").random_range(0..30)
        };
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        match self.left() {
            1.. => self.inner.write(writes).await,
            0 => {
                let part = EpochWrites {
                    directory: writes
                        .directory
                        .iter()
                        .filter(|_| self.chance())
                        .cloned()
                        .collect(),
                    bars: writes
                        .bars
                        .iter()
                        .filter(|_| self.chance())
                        .cloned()
                        .collect(),
                    views: writes
                        .views
                        .iter()
                        .filter(|_| self.chance())
                        .cloned()
                        .collect(),
                    dead_letters: writes
                        .dead_letters
                        .iter()
                        .filter(|_| self.chance())
                        .cloned()
                        .collect(),
                };
                let _ = self.inner.write(&part).await;
                Self::gone()
            }
            _ => Self::gone(),
        }
    }

    async fn write_history(
        &self,
        entries: &[HistoryEntry],
        recovery_timestamp: WriteTimestamp,
    ) -> Result<(), StoreError> {
        if self.left() < 0 {
            Self::gone()
        } else {
            self.inner.write_history(entries, recovery_timestamp).await
        }
    }

    async fn symbols(&self) -> Result<Vec<(Symbol, tapeflow_schemas::AssetClass)>, StoreError> {
        self.inner.symbols().await
    }

    async fn bars(
        &self,
        symbol: &Symbol,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<StoredBar>, StoreError> {
        self.inner.bars(symbol, size, range).await
    }

    async fn views(
        &self,
        view: View,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<StoredView>, StoreError> {
        self.inner.views(view, size, range).await
    }

    async fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>, StoreError> {
        self.inner.history(limit).await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        self.inner.dead_letters(limit).await
    }
}

/// A seeded feed: out of order, late, with duplicates, price updates, poison and one heavy symbol.
pub fn feed(log: &MemoryLog, seed: u64, records: usize) {
    feed_as(log, SessionId([7; 16]), seed, records);
}

/// The same of another session: nothing of it repeats what the log has.
pub fn feed_as(log: &MemoryLog, session: SessionId, seed: u64, records: usize) {
    let partitions = log.partitions().expect("partitions");
    let mut random = StdRng::seed_from_u64(seed);
    // More than a list of the top holds.
    let symbols = [
        "AAPL",
        "AMD",
        "AMZN",
        "BINANCE:BTCUSDT",
        "BINANCE:ETHUSDT",
        "BRK.B",
        "F",
        "GOOG",
        "IC MARKETS:1",
        "MSFT",
        "NVDA",
        "OANDA:EUR_USD",
        "T",
        "TSLA",
        "X",
    ];
    let codes = [1u8, 8, 12, 24, 15, 18, 9, 32, 16, 39, 41, 77];
    let mut sequences = vec![0u64; partitions as usize];
    let mut now = 1_700_000_000_000i64;
    for _ in 0..records {
        now += random.random_range(0..700);
        let symbol = if random.random_bool(0.4) {
            "AAPL"
        } else {
            symbols[random.random_range(0..symbols.len())]
        };
        let partition = partition_for(symbol, partitions);
        if random.random_bool(0.01) {
            log.append(partition, now, vec![0xC3, 0x01, 9, 9]);
            continue;
        }
        let mut trades = Vec::new();
        for _ in 0..random.random_range(1..6) {
            let late = match random.random_range(0..1_000) {
                // Far enough to touch a window that the views have let go of.
                0..5 => random.random_range(0..2_000_000),
                5..100 => random.random_range(0..200_000),
                _ => random.random_range(0..50),
            };
            // A bad clock: far in the future, to be refused.
            let ahead = if random.random_bool(0.005) {
                200_000_000
            } else {
                0
            };
            let conditions = (0..random.random_range(0..3)).fold(Conditions::NONE, |set, _| {
                set.with(codes[random.random_range(0..codes.len())])
            });
            let (price, size) = (
                random.random_range(1..1_000_000_000),
                random.random_range(1..1_000_000_000_000i128),
            );
            trades.push(
                Trade::new(
                    EventTime::from_ms(now - late + ahead).expect("time"),
                    Price::from_e8(price).expect("price"),
                    Size::from_e8(size).expect("size"),
                    conditions,
                )
                .expect("notional"),
            );
        }
        let sequence = &mut sequences[partition as usize];
        *sequence += if random.random_bool(0.02) { 2 } else { 1 };
        let mut payload = Vec::new();
        encode_batch(
            &mut payload,
            &BatchHeader {
                symbol,
                source: "test",
                session,
                sequence: *sequence,
                taken_ms: now,
            },
            &trades,
        );
        if random.random_bool(0.05) {
            log.append(partition, now, payload.clone());
        }
        log.append(partition, now, payload);
    }
}

pub fn config(workers: usize, resident_bars: usize) -> JobConfig {
    JobConfig {
        job: "test".into(),
        workers,
        processes: 1,
        process: 0,
        hosts: Vec::new(),
        sizes: vec!["1s".parse().expect("size"), "1m".parse().expect("size"), "1d".parse().expect("size")],
        epoch: Duration::from_millis(1),
        resident_bars,
        baskets: Baskets::parse(
            "tech,AAPL,0.5\ntech,MSFT,0.25\ntech,NVDA,100\ncoins,BINANCE:BTCUSDT,1\ncoins,BINANCE:ETHUSDT,0.0001\nnone,UNSEEN,1\n",
        )
        .expect("baskets"),
        until_end: true,
        accept_loss: false,
    }
}

/// Threads for a job's calls of its store.
pub fn io() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

pub fn run_job(
    config: &JobConfig,
    log: &MemoryLog,
    store: Arc<dyn Store>,
) -> Result<Summary, JobError> {
    run(
        config.clone(),
        Arc::new(log.clone()),
        store,
        Stop::default(),
        Arc::new(()),
        Arc::new(Metrics::default()),
        io().handle(),
    )
}

/// Everything the store holds equals the independent recomputation, as of each bar's own epoch.
pub async fn check(config: &JobConfig, log: &MemoryLog, store: &dyn Store, what: &str) {
    check_without(config, log, store, what, &|_, _| false).await;
}

/// The same, of the records that are not lost.
pub async fn check_without(
    config: &JobConfig,
    log: &MemoryLog,
    store: &dyn Store,
    what: &str,
    lost: &dyn Fn(Partition, Offset) -> bool,
) {
    let checkpoint = store
        .checkpoint()
        .await
        .expect("checkpoint")
        .expect("a job has run");
    let mut oracle = Oracle::new(config.sizes.clone(), log.partitions().expect("partitions"));
    let mut any_lost = false;
    for (partition, records) in (0u32..).zip(log.0.lock().expect("log").iter()) {
        for (offset, (timestamp_ms, payload)) in (0i64..).zip(records) {
            let below = |binding: &tapeflow_protocol::Binding| {
                offset < binding.cuts[partition as usize].next
            };
            let epoch = if below(&checkpoint.committed) {
                0
            } else {
                checkpoint
                    .bound
                    .iter()
                    .find(|b| below(b))
                    .map_or(u64::MAX, |b| b.epoch)
            };
            let is_lost = lost(partition, offset);
            any_lost |= is_lost;
            if epoch != u64::MAX && !is_lost {
                oracle.record(epoch, partition, offset, *timestamp_ms, Some(payload));
            }
        }
    }
    let mut found = 0usize;
    for (symbol, _) in store.symbols().await.expect("symbols") {
        for size in &config.sizes {
            for bar in store
                .bars(&symbol, *size, i64::MIN..i64::MAX)
                .await
                .expect("bars")
            {
                found += 1;
                // Labels up to c hold all that is committed; beyond, what their own epoch names.
                let as_of = if bar.state.epoch <= checkpoint.committed.epoch {
                    0
                } else {
                    bar.state.epoch
                };
                let want = oracle.bar_as_of(symbol.as_str(), *size, bar.start, as_of);
                check_bar(
                    &bar.state.totals,
                    want,
                    &format!("{what}: {symbol} {size} {}", bar.start),
                );
            }
        }
    }
    let lists = check_lists(config, &oracle, store, &checkpoint, what).await;
    if checkpoint.bound.is_empty() {
        let called_for = |(size, start)| {
            ORACLE_VIEWS
                .iter()
                .filter(|(_, of)| {
                    oracle
                        .view_as_of(*of, size, start, 0, &config.baskets)
                        .is_some()
                })
                .count()
        };
        assert_eq!(
            lists,
            oracle.windows().map(called_for).sum::<usize>(),
            "{what}: every list of the recomputation is in the store"
        );
        // I6: what became of the records between the bindings, added up, is what became of them
        // all.
        let mut sum = tapeflow_protocol::Counts::default();
        store
            .history(usize::MAX)
            .await
            .expect("history")
            .iter()
            .for_each(|entry| sum.add(&entry.counts));
        let want = oracle.counts();
        assert_eq!(
            (
                sum.records,
                sum.accepted,
                sum.dead_letters,
                sum.duplicates,
                sum.price_updates
            ),
            (
                want.records,
                want.accepted,
                want.dead_letters_total(),
                want.duplicates,
                want.price_updates
            ),
            "{what}: history"
        );
        // A filter that a binding tells what it had heard finds no gap where records are lost.
        assert!(
            any_lost || sum.gaps == want.gaps,
            "{what}: history has {} gaps, recomputed {}",
            sum.gaps,
            want.gaps
        );
        assert_eq!(
            found,
            oracle.bars().count(),
            "{what}: every bar of the recomputation is in the store"
        );
    }
}

/// A bar holds what was recomputed for it.
pub fn check_bar(totals: &Totals, want: Option<OracleBar>, what: &str) {
    let want = want.unwrap_or_else(|| panic!("{what} has no trades in the log"));
    for (policy, want) in [
        (Policy::All, want.all),
        (Policy::Sip, want.sip),
        (Policy::Strict, want.strict),
    ] {
        let have = totals.of_policy(policy);
        assert_eq!(
            (have.volume_e8, have.notional_e16, have.trades),
            (want.volume_e8, want.notional_e16, want.trades),
            "{what} {}",
            policy.name()
        );
    }
    let prices =
        [totals.open(), totals.high, totals.low, totals.close()].map(|price| price.map(Price::e8));
    assert_eq!(
        (prices, totals.priced),
        ([want.open, want.high, want.low, want.close], want.priced),
        "{what}"
    );
}

/// The views, and what the recomputation calls them.
const ORACLE_VIEWS: [(View, OracleView); 4] = [
    (View::Active, OracleView::Active),
    (View::Movers, OracleView::Movers),
    (View::Baskets, OracleView::Baskets),
    (View::Market, OracleView::Market),
];

/// Every list the store holds equals the independent recomputation, as of its own epoch. Returns
/// how many there are.
async fn check_lists(
    config: &JobConfig,
    oracle: &Oracle,
    store: &dyn Store,
    checkpoint: &Checkpoint,
    what: &str,
) -> usize {
    let mut found = 0;
    for (view, of) in ORACLE_VIEWS {
        for size in &config.sizes {
            for list in store
                .views(view, *size, i64::MIN..i64::MAX)
                .await
                .expect("views")
            {
                found += 1;
                let as_of = if list.state.epoch <= checkpoint.committed.epoch {
                    0
                } else {
                    list.state.epoch
                };
                let want = oracle.view_as_of(of, *size, list.start, as_of, &config.baskets);
                let have: Vec<OracleEntry> = list
                    .state
                    .entries
                    .iter()
                    .map(|entry| OracleEntry {
                        name: entry.name.clone(),
                        symbols: entry.symbols,
                        trades: entry.trades,
                        volume: entry.volume,
                        notional: entry.notional,
                        open: entry.open.map(Price::e8),
                        close: entry.close.map(Price::e8),
                    })
                    .collect();
                assert_eq!(
                    Some(have),
                    want,
                    "{what}: {view} {size} {} of epoch {}",
                    list.start,
                    list.state.epoch
                );
            }
        }
    }
    found
}

/// One trade of one unit at a price of one.
pub fn append_trade(log: &MemoryLog, symbol: &str, sequence: u64, event_ms: i64) {
    let one = |text: &str| {
        (
            Price::parse(text).expect("a price").value,
            Size::parse(text).expect("a size").value,
        )
    };
    let (price, size) = one("1");
    let trade = Trade::new(
        EventTime::from_ms(event_ms).expect("a time"),
        price,
        size,
        Conditions::NONE,
    )
    .expect("a trade");
    let header = BatchHeader {
        symbol,
        source: "test",
        session: SessionId([7; 16]),
        sequence,
        taken_ms: 1_700_000_000_000,
    };
    let mut payload = Vec::new();
    encode_batch(&mut payload, &header, &[trade]);
    log.append(
        partition_for(symbol, log.partitions().expect("partitions")),
        1_700_000_000_000,
        payload,
    );
}
