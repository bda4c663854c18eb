//! Carries out what [`crate::decide`] decides: takes a job over, and moves its checkpoint from one
//! state to the next.
//!
//! One proposal is in flight at a time. A store that does not answer is asked again without a
//! limit: a stalled checkpoint stalls the job, which costs latency and nothing else.
//!
//! The loop of [`propose`] is written by hand and not by a retry library. Between two attempts it
//! must read the checkpoint and resolve the outcome; a plain retry would send a proposal again
//! that may already be applied, and report it as lost.

use std::time::Duration;

use tracing::warn;

use crate::{
    checkpoint::Checkpoint,
    decide::{self, Opening, Refusal, Resolution},
    failpoint,
    log_throttle::UNANSWERED,
    repair::RepairerWait,
    store::{CasOutcome, CheckpointStore, HistoryEntry, StoreError},
};

/// Why a step of the workflow failed for good.
#[derive(Debug, thiserror::Error)]
pub enum WorkflowError {
    /// The checkpoint must not be taken over; nothing was written.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Another owner moved the checkpoint: this process must stop.
    #[error("generation {generation} (owner {owner}) has taken the job over")]
    Fenced {
        /// The generation found.
        generation: u64,
        /// Its owner.
        owner: String,
    },
    /// The store failed in a way that no retry corrects.
    #[error("{0}")]
    Store(String),
}

/// How often the checkpoint is read while a repairer owns it.
const POLL_EVERY: Duration = Duration::from_millis(100);

/// The wait between attempts: 50 ms, doubling, at most 2 s.
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(Duration::from_millis(50))
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(Duration::from_secs(2));
    }
}

/// Repeats a call until the store answers.
///
/// # Errors
/// The text of an error that no retry corrects.
pub async fn until_answered<T, F: Future<Output = Result<T, StoreError>>>(
    what: &str,
    mut call: impl FnMut() -> F,
) -> Result<T, String> {
    let mut backoff = Backoff::new();
    loop {
        match call().await {
            Ok(value) => return Ok(value),
            Err(StoreError::Broken(reason)) => return Err(format!("{what}: {reason}")),
            Err(StoreError::Unavailable(reason)) => {
                if let Some(left_out) = UNANSWERED.allow() {
                    warn!(
                        what,
                        reason, left_out, "store does not answer: trying again"
                    );
                }
                backoff.wait().await;
            }
        }
    }
}

/// Takes the job over: reads the checkpoint, refuses one that is not this job's, waits until a
/// repairer ends ([`crate::repair`]), and becomes its owner.
///
/// # Errors
/// [`WorkflowError`]. If others take over at the same time, the last one wins and the
/// others are fenced by it later.
pub async fn take_over(
    store: &dyn CheckpointStore,
    opening: &Opening,
    now_us: impl Fn() -> i64,
) -> Result<Checkpoint, WorkflowError> {
    let mut wait = RepairerWait::default();
    loop {
        let found = until_answered("reading the checkpoint", || store.checkpoint())
            .await
            .map_err(WorkflowError::Store)?;
        let proposed = decide::take_over(found.as_ref(), opening, now_us())?;
        let proposed = decide::in_datacenter(proposed, store.datacenter())?;
        if found
            .as_ref()
            .is_some_and(|checkpoint| wait.waits(checkpoint, tokio::time::Instant::now()))
        {
            tokio::time::sleep(POLL_EVERY).await;
            continue;
        }
        failpoint::reach("take-over-before");
        match propose(store, found.as_ref(), proposed).await {
            // Another owner moved the checkpoint between our read and our write: read it again.
            Err(WorkflowError::Fenced { .. }) => {}
            other => {
                failpoint::reach("take-over-after");
                return other;
            }
        }
    }
}

/// Checks whether [`take_over`] would refuse the checkpoint. Writes nothing.
///
/// # Errors
/// [`WorkflowError::Refused`] or [`WorkflowError::Store`].
pub async fn may_take_over(
    store: &dyn CheckpointStore,
    opening: &Opening,
) -> Result<(), WorkflowError> {
    let found = until_answered("reading the checkpoint", || store.checkpoint())
        .await
        .map_err(WorkflowError::Store)?;
    let proposed = decide::take_over(found.as_ref(), opening, 0)?;
    decide::in_datacenter(proposed, store.datacenter())?;
    Ok(())
}

/// Writes the history of the epochs about to be committed, then moves the checkpoint to `proposed`.
///
/// # Errors
/// [`WorkflowError::Fenced`] or [`WorkflowError::Store`].
pub async fn advance(
    store: &dyn CheckpointStore,
    checkpoint: &Checkpoint,
    proposed: Checkpoint,
    history: &[HistoryEntry],
) -> Result<Checkpoint, WorkflowError> {
    if !history.is_empty() {
        until_answered("writing history", || {
            store.write_history(history, checkpoint.recovery_timestamp)
        })
        .await
        .map_err(WorkflowError::Store)?;
        failpoint::reach("history-written");
    }
    let (before, after) = if history.is_empty() {
        ("bind-before", "bind-after")
    } else {
        ("commit-before", "commit-after")
    };
    failpoint::reach(before);
    let ended = propose(store, Some(checkpoint), proposed).await;
    failpoint::reach(after);
    ended
}

/// One compare-and-set with a known outcome: after an unknown one, reads the checkpoint and tries
/// again until the outcome is known.
///
/// # Errors
/// [`WorkflowError`]: another generation has taken over, or the store failed for good.
pub async fn propose(
    store: &dyn CheckpointStore,
    expected: Option<&Checkpoint>,
    proposed: Checkpoint,
) -> Result<Checkpoint, WorkflowError> {
    let mut backoff = Backoff::new();
    loop {
        let mut refused = None;
        match store.compare_and_set(expected, &proposed).await {
            CasOutcome::Won => return Ok(proposed),
            CasOutcome::Lost => {}
            CasOutcome::Refused(reason) => refused = Some(reason),
            CasOutcome::Unknown(reason) => {
                if let Some(left_out) = UNANSWERED.allow() {
                    warn!(
                        reason,
                        left_out, "outcome of compare-and-set unknown: reading the checkpoint"
                    );
                }
                backoff.wait().await;
            }
        }
        let observed = until_answered("reading the checkpoint", || store.checkpoint())
            .await
            .map_err(WorkflowError::Store)?;
        match decide::resolve(expected, &proposed, observed.as_ref()) {
            Resolution::Applied => return Ok(proposed),
            Resolution::SendAgain => {
                if let Some(reason) = refused {
                    return Err(WorkflowError::Store(format!(
                        "the store refuses the checkpoint: {reason}"
                    )));
                }
            }
            Resolution::Fenced => {
                let (generation, owner) = observed.map_or((0, "none".into()), |checkpoint| {
                    (checkpoint.generation, checkpoint.owner)
                });
                return Err(WorkflowError::Fenced { generation, owner });
            }
        }
    }
}
