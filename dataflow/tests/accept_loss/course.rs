//! Lives of a job that end where a test wants them to, and what they leave behind.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use async_trait::async_trait;
use tapeflow_dataflow::{JobConfig, JobError, Metrics, Stop, run};
use tapeflow_protocol::{
    BarReader, CasOutcome, Checkpoint, CheckpointStore, DeadLetter, EpochStore, EpochWrites,
    HistoryEntry, StoreError, SymbolDirectory,
};
use tapeflow_schemas::{AssetClass, BarKey, BarState, Offset, Partition, Symbol, WriteTimestamp};
use tapeflow_sinks::memory::MemoryStore;

use crate::support::{MemoryLog, io};

/// How a life ends.
pub(crate) enum Ends {
    /// At the end of the log.
    ByItself,
    /// With a crash right after the first binding, no bar written.
    AfterBinding,
    /// With a crash right before the first commit: all that it would commit is written.
    BeforeCommit,
    /// By what is done right after the first binding.
    WithRemoval(Box<dyn Fn() + Send + Sync>),
}

struct Ending {
    inner: Arc<MemoryStore>,
    ends: Ends,
    gone: AtomicBool,
}

impl Ending {
    fn crash(&self) -> CasOutcome {
        self.gone.store(true, SeqCst);
        CasOutcome::Unknown("crash".into())
    }

    fn alive(&self) -> Result<(), StoreError> {
        if self.gone.load(SeqCst) {
            Err(StoreError::Broken("crash".into()))
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl CheckpointStore for Ending {
    fn describe(&self) -> String {
        "ending".into()
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
        match &self.ends {
            Ends::AfterBinding if binds => {
                let _ = self.inner.compare_and_set(expected, proposed).await;
                self.crash()
            }
            Ends::BeforeCommit if commits => self.crash(),
            Ends::WithRemoval(remove) if binds => {
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
impl EpochStore for Ending {
    async fn read_bars(&self, keys: &[BarKey]) -> Result<Vec<Option<BarState>>, StoreError> {
        self.inner.read_bars(keys).await
    }

    async fn write(&self, writes: &EpochWrites) -> Result<(), StoreError> {
        if matches!(self.ends, Ends::AfterBinding) {
            return std::future::pending().await;
        }
        self.alive()?;
        self.inner.write(writes).await
    }
}

#[async_trait]
impl SymbolDirectory for Ending {
    async fn symbols(&self) -> Result<Vec<(Symbol, AssetClass)>, StoreError> {
        self.inner.symbols().await
    }
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime")
        .block_on(future)
}

/// One life of the job; what it counted, if it came to its end.
pub(crate) fn life(
    config: &JobConfig,
    log: &MemoryLog,
    store: &Arc<MemoryStore>,
    ends: Ends,
) -> Result<Arc<Metrics>, JobError> {
    let metrics = Arc::new(Metrics::default());
    let store = Arc::new(Ending {
        inner: Arc::clone(store),
        ends,
        gone: AtomicBool::new(false),
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

pub(crate) fn checkpoint(store: &MemoryStore) -> Checkpoint {
    block_on(store.checkpoint())
        .expect("checkpoint")
        .expect("a job has run")
}

/// Where a partition is committed to.
pub(crate) fn next(store: &MemoryStore, partition: Partition) -> Offset {
    checkpoint(store).committed.cuts[partition as usize].next
}

pub(crate) fn len(log: &MemoryLog, partition: Partition) -> Offset {
    Offset::try_from(log.0.lock().expect("log")[partition as usize].len()).expect("few")
}

/// The next offset whose record does not repeat the one before it. A repeat of a lost record is
/// what the binding says of it, and the recomputation cannot know that.
pub(crate) fn clear_of_repeats(log: &MemoryLog, partition: Partition, offset: Offset) -> Offset {
    let records = &log.0.lock().expect("log")[partition as usize];
    let mut at = usize::try_from(offset).expect("an offset");
    while at > 0 && at < records.len() && records[at].1 == records[at - 1].1 {
        at += 1;
    }
    Offset::try_from(at).expect("few")
}

/// The dead letters of lost offsets: partition, first offset, first that is not lost.
pub(crate) fn letters(store: &MemoryStore) -> Vec<(Partition, Offset, Offset)> {
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
            "beside the dead letter of the record that was there"
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
            rest.ends_with(&format!("(--accept-loss): {} offsets", to - offset)),
            "{detail}"
        );
        (*partition, *offset, to)
    })
    .collect()
}

/// What a start without permission names as gone: partition, first offset, first that is not gone.
pub(crate) fn refused(
    config: &JobConfig,
    log: &MemoryLog,
    store: &Arc<MemoryStore>,
) -> Vec<(Partition, Offset, Offset)> {
    let fault = life(config, log, store, Ends::ByItself).expect_err("a refusal");
    let JobError::Refused(text) = fault else {
        panic!("{fault}")
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
