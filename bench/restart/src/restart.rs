//! One restart, measured: readers ask for the checkpoint and for bars of the hot symbol all the
//! time, and note when they first see what they wait for.
//!
//! *Moved*: a bar is of a later epoch than it was after the kill. *Fresh*: a bar of an epoch above
//! the last one that was bound before the kill. What is replayed is written again as of that epoch,
//! so a fresh bar holds records that no bar held before. *Made after the start*: a bar with a trade
//! that happened after the new process was started.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use tapeflow_protocol::{Checkpoint, CheckpointStore, EpochStore};
use tapeflow_schemas::{BarKey, BarState};
use tapeflow_sinks::cassandra::CassandraStore;
use tapeflow_throughput::{job_process::JobProcess, now_ms};
use tokio::time::sleep;

/// How often the readers ask for bars.
const ROWS_EVERY: Duration = Duration::from_millis(10);
/// How often they ask for the checkpoint: at SERIAL, which the job's own compare-and-sets may have
/// to wait for.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(25);
/// How often the process is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// When its memory is noted.
const SETTLED: Duration = Duration::from_secs(2);
/// When a restart is given up.
const PATIENCE: Duration = Duration::from_secs(180);

/// Where the job stood when it was killed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    generation: u64,
    bound: u64,
    committed: u64,
    /// Records of epochs that are bound and not committed: what is replayed.
    pub(crate) to_replay: u64,
    /// The watermark as of the last binding.
    pub(crate) watermark_ms: Option<i64>,
    /// The latest epoch of the bars that are watched.
    pub(crate) seen: u64,
}

/// The result of a restart; times from the start of the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Restart {
    pub(crate) to_replay: u64,
    pub(crate) taken_over: Duration,
    pub(crate) moved: Duration,
    pub(crate) fresh: Duration,
    /// Where trades happen as they are sent.
    pub(crate) made_after: Option<Duration>,
    pub(crate) committed: Duration,
    /// Two seconds after the start.
    pub(crate) settled_kb: u64,
    /// By the next kill.
    pub(crate) peak_kb: u64,
}

/// What the readers wait for.
struct Wanted<'a> {
    store: &'a CassandraStore,
    stood: Progress,
    /// Started then.
    begun: Instant,
    begun_ms: i64,
    /// Whether trades happen as they are sent.
    live: bool,
    /// Somebody has failed.
    over: &'a AtomicBool,
}

/// Reads the job's progress.
///
/// # Errors
/// The store does not answer.
pub(crate) async fn read_progress(store: &CassandraStore) -> Result<Progress, String> {
    let checkpoint = store
        .checkpoint()
        .await
        .map_err(|error| error.to_string())?
        .ok_or("there is no checkpoint")?;
    Ok(stood(&checkpoint))
}

fn stood(checkpoint: &Checkpoint) -> Progress {
    let last = checkpoint.last_binding();
    let records = last.cuts.iter().enumerate().map(|(at, cut)| {
        cut.next
            - checkpoint
                .committed
                .cuts
                .get(at)
                .map_or(0, |from| from.next)
    });
    Progress {
        generation: checkpoint.generation,
        bound: last.epoch,
        committed: checkpoint.committed.epoch,
        to_replay: u64::try_from(records.sum::<i64>()).unwrap_or(0),
        watermark_ms: last.watermark_ms(),
        seen: 0,
    }
}

/// The latest epoch of these bars; 0 if there are none.
///
/// # Errors
/// The store does not answer.
pub(crate) async fn seen(store: &CassandraStore, keys: &[BarKey]) -> Result<u64, String> {
    let bars = store
        .read_bars(keys)
        .await
        .map_err(|error| error.to_string())?;
    Ok(bars
        .iter()
        .flatten()
        .map(|bar| bar.state.epoch)
        .max()
        .unwrap_or(0))
}

/// Waits until the job has committed an epoch above that.
///
/// # Errors
/// The job ends, or does not commit for long.
pub(crate) async fn goes_on(
    store: &CassandraStore,
    job_process: &mut JobProcess,
    from: Option<Progress>,
) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        job_process.must_live().map_err(|error| error.to_string())?;
        if let Ok(Some(checkpoint)) = store.checkpoint().await
            && checkpoint.committed.epoch > from.map_or(0, |stood| stood.committed)
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!(
                "the job has committed nothing for {} s",
                PATIENCE.as_secs()
            ));
        }
        sleep(CHECKPOINT_EVERY).await;
    }
}

/// How long fresh trades waited from one moment on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    /// Until a bar held a trade made after that moment.
    pub(crate) bar: Duration,
    /// Until [`EPOCHS_WAITED`] epochs above the last one that was bound then were committed.
    pub(crate) commit: Duration,
}

/// A trade sent at a moment is in the second epoch after it at the latest.
const EPOCHS_WAITED: u64 = 3;

/// Measures how long fresh trades wait from now on, beginning with what `first` does.
///
/// # Errors
/// The store does not answer, or what is waited for does not come.
pub(crate) async fn wait(
    store: &CassandraStore,
    keys: impl Fn() -> Vec<BarKey>,
    first: impl FnOnce(),
) -> Result<Wait, String> {
    let from = read_progress(store).await?;
    let over = AtomicBool::new(false);
    let wanted = Wanted {
        store,
        stood: Progress {
            // No other process has taken over, and all bars of these epochs count as old.
            generation: from.generation - 1,
            committed: from.bound + EPOCHS_WAITED - 1,
            ..from
        },
        begun: Instant::now(),
        begun_ms: now_ms(),
        live: true,
        over: &over,
    };
    first();
    let (checkpoints, bars) = tokio::join!(wanted.checkpoints(), wanted.bars(&keys));
    let ((_, commit), (_, fresh, made_after)) = (checkpoints?, bars?);
    Ok(Wait {
        bar: made_after.unwrap_or(fresh),
        commit,
    })
}

/// Measures the restart that `job_process` is. `keys` names bars of which at least one changes in
/// every epoch.
///
/// # Errors
/// The process ends, or one of the things waited for does not come.
pub(crate) async fn measure(
    store: &CassandraStore,
    job_process: &mut JobProcess,
    stood: Progress,
    live: bool,
    keys: impl Fn() -> Vec<BarKey>,
) -> Result<Restart, String> {
    let over = AtomicBool::new(false);
    let wanted = Wanted {
        store,
        stood,
        begun: job_process.begun,
        begun_ms: job_process.begun_ms,
        live,
        over: &over,
    };
    let (checkpoints, bars, settled) = tokio::join!(
        wanted.checkpoints(),
        wanted.bars(&keys),
        settle(job_process, &over)
    );
    let ((taken_over, committed), (moved, fresh, made_after), settled_kb) =
        (checkpoints?, bars?, settled?);
    job_process.must_live().map_err(|error| error.to_string())?;
    Ok(Restart {
        to_replay: stood.to_replay,
        taken_over,
        moved,
        fresh,
        made_after,
        committed,
        settled_kb,
        peak_kb: job_process.memory.peak_kb,
    })
}

/// Looks at the process for as long as its memory settles, and then once more.
async fn settle(job_process: &mut JobProcess, over: &AtomicBool) -> Result<u64, String> {
    while job_process.begun.elapsed() < SETTLED {
        if let Err(error) = job_process.must_live().map_err(|error| error.to_string()) {
            over.store(true, Ordering::Release);
            return Err(error);
        }
        sleep(LOOK_EVERY).await;
    }
    job_process
        .must_live()
        .inspect_err(|_| over.store(true, Ordering::Release))
        .map_err(|error| error.to_string())?;
    Ok(job_process.memory.now_kb)
}

impl Wanted<'_> {
    /// Until a later generation has the checkpoint, and until it has committed.
    async fn checkpoints(&self) -> Result<(Duration, Duration), String> {
        let mut taken_over = None;
        loop {
            let checkpoint = self.store.checkpoint().await;
            if let Ok(Some(checkpoint)) = &checkpoint {
                let now = self.begun.elapsed();
                if checkpoint.generation > self.stood.generation {
                    taken_over.get_or_insert(now);
                }
                if let Some(taken_over) = taken_over
                    && checkpoint.committed.epoch > self.stood.committed
                {
                    return Ok((taken_over, now));
                }
            }
            self.patient("a commit")
                .map_err(|error| format!("{error}; the last answer: {checkpoint:?}"))?;
            sleep(CHECKPOINT_EVERY).await;
        }
    }

    /// Until a bar has moved, until one is fresh, and until one has a trade made after the start.
    async fn bars(
        &self,
        keys: &impl Fn() -> Vec<BarKey>,
    ) -> Result<(Duration, Duration, Option<Duration>), String> {
        let (mut moved, mut fresh) = (None, None);
        loop {
            let bars = self.store.read_bars(&keys()).await;
            if let Ok(bars) = &bars {
                let now = self.begun.elapsed();
                let any = |is: &dyn Fn(&BarState) -> bool| {
                    bars.iter().flatten().any(|row| is(&row.state))
                };
                if any(&|bar| bar.epoch > self.stood.seen) {
                    moved.get_or_insert(now);
                }
                if any(&|bar| bar.epoch > self.stood.bound) {
                    fresh.get_or_insert(now);
                }
                let made_after = any(&|bar| {
                    bar.totals
                        .last
                        .is_some_and(|last| last.event_ms >= self.begun_ms)
                });
                match moved.zip(fresh) {
                    Some((moved, fresh)) if !self.live => return Ok((moved, fresh, None)),
                    Some((moved, fresh)) if made_after => return Ok((moved, fresh, Some(now))),
                    _ => {}
                }
            }
            self.patient("a fresh bar")
                .map_err(|error| format!("{error}; the last answer: {bars:?}"))?;
            sleep(ROWS_EVERY).await;
        }
    }

    fn patient(&self, what: &str) -> Result<(), String> {
        if self.over.load(Ordering::Acquire) {
            return Err("the process has ended".into());
        }
        if self.begun.elapsed() < PATIENCE {
            Ok(())
        } else {
            Err(format!(
                "{what} has not come within {} s after {:?}",
                PATIENCE.as_secs(),
                self.stood
            ))
        }
    }
}
