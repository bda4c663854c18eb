//! Runs of a job that are interrupted at a chosen point, and the state that they leave.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use async_trait::async_trait;
use tapeflow_dataflow::{JobConfig, JobError, Metrics, Stop, run};
use tapeflow_log::Log;
use tapeflow_protocol::{
    BarReader, CasOutcome, Checkpoint, CheckpointStore, DeadLetter, EpochStore, EpochWrites,
    HistoryEntry, StoreError, SymbolDirectory,
};
use tapeflow_schemas::{
    AssetClass, BarKey, BarRow, Offset, Partition, Symbol, ViewKey, ViewState, WriteTimestamp,
};
use tapeflow_sinks::memory::MemoryStore;

use super::{
    job::{block_on, io},
    memory_log::MemoryLog,
};

/// How a run is interrupted.
pub enum Interruption {
    /// Not at all: it reads to the end of the log.
    None,
    /// By a crash right after the first binding, before any bar is written.
    AfterBinding,
    /// By a crash right before the first commit: all its bars are written.
    BeforeCommit,
    /// By a removal of records right after the first binding.
    WithRemoval(Box<dyn Fn() + Send + Sync>),
}

struct InterruptedStore {
    inner: Arc<MemoryStore>,
    interruption: Interruption,
    crashed: AtomicBool,
}

impl InterruptedStore {
    fn crash(&self) -> CasOutcome {
        self.crashed.store(true, SeqCst);
        CasOutcome::Unknown("crash".into())
    }

    fn alive(&self) -> Result<(), StoreError> {
        if self.crashed.load(SeqCst) {
            Err(StoreError::Broken("crash".into()))
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl CheckpointStore for InterruptedStore {
    fn describe(&self) -> String {
        "interrupted".into()
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.alive()?;
        self.inner.checkpoint().await
    }

    async fn compare_and_set(
        &self,
        expected: Option<&Checkpoint>,
        proposed: &Checkpoint,
    ) -> CasOutcome {
        let binds = expected
            .is_some_and(|before| proposed.last_binding().epoch > before.last_binding().epoch);
        let commits =
            expected.is_some_and(|before| proposed.committed.epoch > before.committed.epoch);
        match &self.interruption {
            Interruption::AfterBinding if binds => {
                let _ = self.inner.compare_and_set(expected, proposed).await;
                self.crash()
            }
            Interruption::BeforeCommit if commits => self.crash(),
            Interruption::WithRemoval(remove) if binds => {
                let outcome = self.inner.compare_and_set(expected, proposed).await;
                remove();
                outcome
            }
            _ => self.inner.compare_and_set(expected, proposed).await,
        }
    }

    async fn write_history(
        &self,
        entries: &[HistoryEntry],
        recovery_timestamp: WriteTimestamp,
    ) -> Result<(), StoreError> {
        self.alive()?;
        self.inner.write_history(entries, recovery_timestamp).await
    }
}

#[async_trait]
impl EpochStore for InterruptedStore {
    async fn read_bars(&self, keys: &[BarKey]) -> Result<Vec<Option<BarRow>>, StoreError> {
        self.inner.read_bars(keys).await
    }

    async fn read_views(&self, keys: &[ViewKey]) -> Result<Vec<Option<ViewState>>, StoreError> {
        self.inner.read_views(keys).await
    }

    async fn write(&self, writes: &EpochWrites) -> Result<(), StoreError> {
        if matches!(self.interruption, Interruption::AfterBinding) {
            return std::future::pending().await;
        }
        self.alive()?;
        self.inner.write(writes).await
    }
}

#[async_trait]
impl SymbolDirectory for InterruptedStore {
    async fn symbols(&self) -> Result<Vec<(Symbol, AssetClass)>, StoreError> {
        self.inner.symbols().await
    }
}

/// Runs the job. Returns its metrics if it reaches the end of the log.
pub fn run_with(
    config: &JobConfig,
    log: &(impl Log + Clone),
    store: &Arc<MemoryStore>,
    interruption: Interruption,
) -> Result<Arc<Metrics>, JobError> {
    let metrics = Arc::new(Metrics::default());
    let store = Arc::new(InterruptedStore {
        inner: Arc::clone(store),
        interruption,
        crashed: AtomicBool::new(false),
    });
    run(
        config.clone(),
        Arc::new(log.clone()),
        store,
        Stop::default(),
        Arc::new(()),
        Arc::clone(&metrics),
        io().handle(),
    )
    .map(|_| metrics)
}

pub fn checkpoint(store: &MemoryStore) -> Checkpoint {
    block_on(store.checkpoint())
        .expect("checkpoint")
        .expect("a job has run")
}

/// The committed offset of a partition.
pub fn next(store: &MemoryStore, partition: Partition) -> Offset {
    checkpoint(store).committed.cuts[partition as usize].next
}

pub fn len(log: &MemoryLog, partition: Partition) -> Offset {
    Offset::try_from(log.0.lock().expect("log")[partition as usize].len()).expect("few")
}

/// The next offset whose record does not duplicate the previous one. The duplicate of a lost record
/// is dropped because the binding's filter knows it, which the recomputation cannot know.
pub fn clear_of_repeats(log: &MemoryLog, partition: Partition, offset: Offset) -> Offset {
    let records = &log.0.lock().expect("log")[partition as usize];
    let mut at = usize::try_from(offset).expect("an offset");
    while at > 0 && at < records.len() && records[at].1 == records[at - 1].1 {
        at += 1;
    }
    Offset::try_from(at).expect("few")
}

/// The dead letters of lost offsets: partition, first lost offset, first that is not lost.
pub fn loss_letters(store: &MemoryStore) -> Vec<(Partition, Offset, Offset)> {
    let dead_letters = block_on(store.dead_letters(usize::MAX)).expect("dead letters");
    let lost = dead_letters
        .iter()
        .filter(|dead_letter| dead_letter.reason == "lost");
    lost.map(|dead_letter| {
        let DeadLetter {
            partition,
            offset,
            index,
            detail,
            ..
        } = dead_letter;
        assert_eq!(
            *index,
            u32::MAX,
            "distinct from the dead letter of the lost record"
        );
        let rest = detail
            .strip_prefix(&format!("offsets {offset} to "))
            .unwrap_or_else(|| panic!("{detail}"));
        let (last, rest) = rest
            .split_once(&format!(
                " of partition {partition} were gone from the log "
            ))
            .unwrap_or_else(|| panic!("{detail}"));
        let to = last
            .parse::<Offset>()
            .unwrap_or_else(|_| panic!("{detail}"))
            + 1;
        assert!(
            rest.ends_with(&format!(
                "(--accept-loss, --skip-batch): {} offsets",
                to - offset
            )),
            "{detail}"
        );
        (*partition, *offset, to)
    })
    .collect()
}

/// The offsets that a start without `--accept-loss` names as gone: partition, first offset, first
/// that is not gone.
pub fn refused(
    config: &JobConfig,
    log: &MemoryLog,
    store: &Arc<MemoryStore>,
) -> Vec<(Partition, Offset, Offset)> {
    let error = run_with(config, log, store, Interruption::None).expect_err("a refusal");
    let JobError::Refused(text) = error else {
        panic!("{error}")
    };
    assert!(text.contains("--accept-loss"), "{text}");
    let parts = text
        .split("; ")
        .filter_map(|part| part.strip_prefix("partition "));
    parts
        .map(|part| {
            let numbers: Vec<Offset> = part
                .split(|c: char| !c.is_ascii_digit())
                .filter_map(|number| number.parse().ok())
                .collect();
            let [partition, from, last, start] = numbers[..] else {
                panic!("{text}")
            };
            assert_eq!(last + 1, start, "{text}");
            (
                Partition::try_from(partition).expect("a partition"),
                from,
                start,
            )
        })
        .collect()
}
