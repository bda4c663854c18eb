//! Repair: a short generation of its own rewrites bars and views that differ from their
//! recomputation.
//!
//! ```text
//!  job          ── bind ── bind ──╳ fenced                  waits        ╭── take over ── replay ──
//!  repairer                         take over ── write at F ── read back ── release
//!  checkpoint's owner      a job's      repair-…                                 repaired-…
//! ```
//!
//! A repaired bar is written **as of epoch b, at the recovery timestamp F** of the repairer's
//! take-over. Any generation's replay would write the same. So the invariants hold: the content is
//! the sum up to a bound epoch (I2), F is above all write timestamps issued before, and no other
//! generation writes at F (I3, I4).
//!
//! No generation can undo a repair by writing what it read before:
//! * An **older** generation may have a wrong bar in memory. It is fenced and binds no more epochs.
//!   All its write timestamps are below F, so its writes in flight lose.
//! * A **later** generation has greater write timestamps. It begins with empty memory, and takes
//!   over only a checkpoint that the repairer has released. By then a quorum has every repaired
//!   bar, so it reads repaired bars.
//! * A generation that takes over **in between**, because it believes the repairer is dead, may
//!   have read a wrong bar before it was rewritten. Then the release fails, because it is
//!   conditional on the repairer still owning the checkpoint ([`Repairer::end`]), and the operator
//!   is asked to verify again. The repairer's writes did no harm: they are a true prefix, and lose
//!   to newer writes.
//!
//! A repairer that dies leaves the owner `repair-…` in the checkpoint, and some bars repaired. The
//! next job waits for a heartbeat (the checkpoint's version grows), at most
//! [`HEARTBEAT_TIMEOUT`]. A second repair is harmless; a second repairer waits like a job.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use tapeflow_schemas::{
    BarKey, BarRow, BarState, BarWrite, Epoch, PackedBars, Totals, ViewEntry, ViewKey, ViewState,
    ViewWrite, WriteTimestamp,
};
use tokio::time::Instant;
use tracing::warn;

use crate::{
    checkpoint::Checkpoint,
    decide::Opening,
    store::{
        CheckpointStore, DirectoryEntry, EpochStore, EpochWrites, FeedGap, JobStore, StoreError,
    },
    workflow::{self, WorkflowError, until_answered},
};

/// The prefix of the checkpoint's owner while a repairer owns it.
const REPAIRING: &str = "repair-";
/// The prefix of the checkpoint's owner after the repairer has released it.
const REPAIRED: &str = "repaired-";
/// A repairer without a heartbeat for this long counts as dead.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest time between a repairer's heartbeats while it works.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(3);
/// The most bars, or views, that are written and read back together.
const AT_ONCE: usize = 256;
/// The longest time to find out which owner has fenced a job.
const FENCED_BY_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether a repairer owns the checkpoint now.
#[must_use]
pub fn is_repairing(owner: &str) -> bool {
    owner.starts_with(REPAIRING)
}

/// Whether a repairer owns the checkpoint or has released it. A job that it fenced is to be started
/// again.
#[must_use]
pub fn is_repairer(owner: &str) -> bool {
    owner.starts_with(REPAIRING) || owner.starts_with(REPAIRED)
}

/// Whether a repairer has fenced the job of this store; false if the store does not answer in time.
pub async fn has_fenced(store: &dyn CheckpointStore) -> bool {
    let checkpoint = tokio::time::timeout(
        FENCED_BY_TIMEOUT,
        until_answered("reading the checkpoint", || store.checkpoint()),
    )
    .await;
    checkpoint.is_ok_and(|checkpoint| {
        checkpoint.is_ok_and(|checkpoint| {
            checkpoint.is_some_and(|checkpoint| is_repairer(&checkpoint.owner))
        })
    })
}

/// Decides how long a take-over waits for a repairer.
#[derive(Debug, Default)]
pub(crate) struct RepairerWait {
    /// The repairer's owner and version as last read, and when they were first read.
    last_heartbeat: Option<(String, u64, Instant)>,
}

impl RepairerWait {
    /// Whether to wait before this checkpoint is taken over.
    pub(crate) fn waits(&mut self, checkpoint: &Checkpoint, now: Instant) -> bool {
        if !is_repairing(&checkpoint.owner) {
            return false;
        }
        match &self.last_heartbeat {
            Some((owner, version, since))
                if (owner, version) == (&checkpoint.owner, &checkpoint.version) =>
            {
                let waits = now.duration_since(*since) < HEARTBEAT_TIMEOUT;
                if !waits {
                    warn!(
                        owner,
                        "no heartbeat from the repairer for {} s: taking the job over from it",
                        HEARTBEAT_TIMEOUT.as_secs()
                    );
                }
                waits
            }
            seen => {
                if seen
                    .as_ref()
                    .is_none_or(|(owner, ..)| *owner != checkpoint.owner)
                {
                    warn!(
                        owner = checkpoint.owner,
                        "a repairer owns the job: waiting until it ends, or {} s after its last heartbeat",
                        HEARTBEAT_TIMEOUT.as_secs()
                    );
                }
                self.last_heartbeat = Some((checkpoint.owner.clone(), checkpoint.version, now));
                true
            }
        }
    }
}

/// A generation that repairs bars and views.
#[derive(Debug)]
pub struct Repairer {
    checkpoint: Checkpoint,
    last_heartbeat: Instant,
}

impl Repairer {
    /// Takes the job over; from another repairer only after that has ended or is dead. From here on
    /// no other generation binds or commits.
    ///
    /// # Errors
    /// [`WorkflowError`]; then nothing was written.
    pub async fn begin(
        store: &dyn CheckpointStore,
        now_us: impl Fn() -> i64,
    ) -> Result<Self, WorkflowError> {
        let found = until_answered("reading the checkpoint", || store.checkpoint())
            .await
            .map_err(WorkflowError::Store)?;
        let found = found.ok_or_else(|| {
            WorkflowError::Store(format!("no job has run on {}", store.describe()))
        })?;
        let opening = Opening {
            job: found.job,
            fingerprint: found.fingerprint,
            source: found.source,
            // A repairer adds no partition: a job decides where a new partition begins.
            earliest: vec![0; found.committed.cuts.len()],
            owner: format!("{REPAIRING}{}", nonce()),
        };
        let checkpoint = workflow::take_over(store, &opening, now_us).await?;
        Ok(Self {
            checkpoint,
            last_heartbeat: Instant::now(),
        })
    }

    /// The checkpoint that was taken over.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The epoch as of which bars are repaired: the last bound one.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.checkpoint.last_binding().epoch
    }

    /// The write timestamp of the repaired bars.
    #[must_use]
    pub fn write_timestamp(&self) -> WriteTimestamp {
        self.checkpoint.recovery_timestamp
    }

    /// Writes rows of bars, and views, each as of [`Repairer::epoch`], and reads all of them back.
    /// Returns the keys that read back as something else, because a write with a greater write
    /// timestamp won.
    ///
    /// # Errors
    /// [`WorkflowError::Fenced`] if another generation has taken over; [`WorkflowError::Store`].
    pub async fn write(
        &mut self,
        store: &dyn JobStore,
        bars: &[(BarKey, Totals, PackedBars)],
        views: &[(ViewKey, Vec<ViewEntry>)],
    ) -> Result<Vec<String>, WorkflowError> {
        let (epoch, write_timestamp) = (self.epoch(), self.write_timestamp());
        let mut refused = Vec::new();
        for bars in bars.chunks(AT_ONCE) {
            let bars: Vec<BarWrite> = bars
                .iter()
                .map(|(key, totals, packed)| BarWrite {
                    key: key.clone(),
                    state: BarState {
                        epoch,
                        totals: *totals,
                    },
                    packed: packed.clone(),
                    write_timestamp,
                })
                .collect();
            // A bar may be missing only because the directory does not list it.
            let directory = bars.iter().map(|bar| DirectoryEntry::of(&bar.key));
            let writes = EpochWrites {
                directory: directory.collect(),
                bars,
                ..EpochWrites::default()
            };
            self.send(store, &writes).await?;
            for bar in &writes.bars {
                self.heartbeat(store).await?;
                // An expiry beside the repair may have left out packed bars.
                let found = read_back(store, bar).await?;
                if !found.is_some_and(|found| found.is_or_has_left(&bar.row())) {
                    refused.push(bar.key.to_string());
                }
            }
        }
        for views in views.chunks(AT_ONCE) {
            let views = views.iter().map(|(key, entries)| ViewWrite {
                key: *key,
                // Without a reserve: the job makes one from the bars when it needs it.
                state: ViewState::new(epoch, entries.clone()),
                write_timestamp,
            });
            let writes = EpochWrites {
                views: views.collect(),
                ..EpochWrites::default()
            };
            self.send(store, &writes).await?;
            for view in &writes.views {
                self.heartbeat(store).await?;
                if read_view_back(store, view).await?.as_ref() != Some(&view.state) {
                    refused.push(view.key.to_string());
                }
            }
        }
        Ok(refused)
    }

    /// Writes feed gaps. Each is a function of one record, so every generation writes the same row.
    ///
    /// # Errors
    /// As [`Repairer::write`].
    pub async fn write_feed_gaps(
        &mut self,
        store: &dyn JobStore,
        gaps: &[FeedGap],
    ) -> Result<(), WorkflowError> {
        for gaps in gaps.chunks(AT_ONCE) {
            let writes = EpochWrites {
                feed_gaps: gaps.to_vec(),
                ..EpochWrites::default()
            };
            self.send(store, &writes).await?;
            self.heartbeat(store).await?;
        }
        Ok(())
    }

    /// Sends a heartbeat if the last one is older than [`HEARTBEAT_EVERY`]. Call it between long
    /// steps.
    ///
    /// # Errors
    /// [`WorkflowError::Fenced`] if another generation has taken over; [`WorkflowError::Store`].
    pub async fn heartbeat(&mut self, store: &dyn CheckpointStore) -> Result<(), WorkflowError> {
        if self.last_heartbeat.elapsed() >= HEARTBEAT_EVERY {
            self.checkpoint = workflow::propose(
                store,
                Some(&self.checkpoint),
                Checkpoint {
                    version: self.checkpoint.version + 1,
                    ..self.checkpoint.clone()
                },
            )
            .await?;
            self.last_heartbeat = Instant::now();
        }
        Ok(())
    }

    async fn send(
        &mut self,
        store: &dyn JobStore,
        writes: &EpochWrites,
    ) -> Result<(), WorkflowError> {
        self.heartbeat(store).await?;
        until_answered("repairing", || store.write(writes))
            .await
            .map_err(WorkflowError::Store)
    }

    /// Releases the job. Success proves that no other generation had taken over, so later
    /// generations read what was written.
    ///
    /// # Errors
    /// [`WorkflowError::Fenced`] if another generation had taken over, and may have read bars
    /// before they were repaired; [`WorkflowError::Store`].
    pub async fn end(self, store: &dyn CheckpointStore) -> Result<Checkpoint, WorkflowError> {
        let owner = format!(
            "{REPAIRED}{}",
            self.checkpoint.owner.trim_start_matches(REPAIRING)
        );
        let released = Checkpoint {
            version: self.checkpoint.version + 1,
            owner,
            ..self.checkpoint.clone()
        };
        workflow::propose(store, Some(&self.checkpoint), released).await
    }
}

/// Reads a bar at quorum; `None` if it is absent or damaged, which differs from what was written.
async fn read_back(
    store: &dyn EpochStore,
    bar: &BarWrite,
) -> Result<Option<BarRow>, WorkflowError> {
    let keys = std::slice::from_ref(&bar.key);
    Ok(
        read_or_damaged("reading a repaired bar back", || store.read_bars(keys))
            .await?
            .and_then(|found| found.into_iter().next().flatten()),
    )
}

/// Reads a view at quorum; `None` if it is absent or damaged.
async fn read_view_back(
    store: &dyn EpochStore,
    view: &ViewWrite,
) -> Result<Option<ViewState>, WorkflowError> {
    let keys = std::slice::from_ref(&view.key);
    Ok(
        read_or_damaged("reading a repaired view back", || store.read_views(keys))
            .await?
            .and_then(|found| found.into_iter().next().flatten()),
    )
}

/// Repeats a read until the store answers; `None` if the cell is damaged.
async fn read_or_damaged<T, F: Future<Output = Result<T, StoreError>>>(
    what: &str,
    mut call: impl FnMut() -> F,
) -> Result<Option<T>, WorkflowError> {
    let mut backoff = workflow::Backoff::new();
    loop {
        match call().await {
            Ok(found) => return Ok(Some(found)),
            Err(StoreError::Broken(reason)) => {
                warn!(what, reason, "cell cannot be read");
                return Ok(None);
            }
            Err(StoreError::Unavailable(reason)) => {
                warn!(what, reason, "store does not answer: trying again");
                backoff.wait().await;
            }
        }
    }
}

/// 128 random bits: the standard library draws its hash keys from the system's randomness.
fn nonce() -> String {
    format!(
        "{:016x}{:016x}",
        RandomState::new().hash_one(std::process::id()),
        RandomState::new().hash_one(REPAIRING)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SourceIdentity, decide};

    fn opening(owner: &str) -> Opening {
        let source = SourceIdentity {
            cluster: "c".into(),
            topic: "t".into(),
            topic_id: None,
        };
        Opening {
            job: "j".into(),
            fingerprint: "l".into(),
            source,
            earliest: vec![0],
            owner: owner.into(),
        }
    }

    #[test]
    fn the_wait_ends_without_a_heartbeat_and_begins_again_with_one() {
        let begin = Instant::now();
        let mut checkpoint =
            decide::take_over(None, &opening("repair-1"), 1).expect("a fresh store");
        let mut wait = RepairerWait::default();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        assert!(wait.waits(&checkpoint, at(0)) && wait.waits(&checkpoint, at(29_999)));
        checkpoint.version += 1;
        assert!(
            wait.waits(&checkpoint, at(30_000)) && wait.waits(&checkpoint, at(59_999)),
            "a heartbeat"
        );
        assert!(!wait.waits(&checkpoint, at(60_000)), "none for 30 s");
        checkpoint.owner = "repair-2".into();
        assert!(wait.waits(&checkpoint, at(60_001)), "another repairer");
        for owner in ["repaired-2", "0123", ""] {
            checkpoint.owner = owner.into();
            assert!(
                !RepairerWait::default().waits(&checkpoint, at(0)),
                "{owner:?}"
            );
        }
    }
}
