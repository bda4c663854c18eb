//! Healing: a short generation of its own, which writes bars and lists anew that were found to
//! differ from their recomputation.
//!
//! ```text
//!  job          ── bind ── bind ──╳ fenced                  waits        ╭── take over ── replay ── bind ──
//!  repairer                         take over ── write at F ── read back ── release
//!  checkpoint's owner      a job's      repair-…                                 repaired-…      a job's
//! ```
//!
//! A repaired bar is written **as of b, labelled b, at the recovery timestamp F** of the repairer's take-over:
//! what any generation's replay would write. So the invariants hold: its content is the fold up to
//! a bound epoch (I2), F is above all write timestamps issued before, and no one else writes at it (I3, I4).
//!
//! No generation can undo it by writing what it had read before:
//! * An **older** one may hold a wrong bar in memory. But it is fenced, binds nothing any more, and
//!   all write timestamps it has are below F: whatever it still has under way loses.
//! * A **later** one has greater write timestamps. But it begins with an empty memory, and takes over only
//!   from a checkpoint that the repairer has released, after a quorum had all that was repaired: what it
//!   reads is repaired.
//! * One that takes over **in between**, for it takes the repairer for dead, may have read a wrong
//!   bar before it was written. Then the release fails: it is conditional on the checkpoint being still
//!   the repairer's ([`Repairer::end`]), and the operator is told to verify again. No harm is done:
//!   what the repairer writes is a true prefix, and loses to what is newer.
//!
//! A repairer that dies leaves a checkpoint that says `repair-…`, and some bars repaired. Whoever takes over
//! waits for a sign of life (the checkpoint's version grows) no longer than [`SILENCE`]. Healing again is
//! harmless; a second repairer waits for the first like a job.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use tapeflow_schemas::{
    BarKey, BarState, BarWrite, Epoch, Totals, ViewEntry, ViewKey, ViewState, ViewWrite,
    WriteTimestamp,
};
use tokio::time::Instant;
use tracing::warn;

use crate::{
    checkpoint::Checkpoint,
    decide::Opening,
    store::{
        BarReader, CheckpointStore, DirectoryEntry, EpochStore, EpochWrites, Store, StoreError,
    },
    workflow::{self, WorkflowError, until_answered},
};

/// How the owner of a checkpoint begins while a repairer has it.
const REPAIRING: &str = "repair-";
/// How it begins when the repairer has given it back.
const REPAIRED: &str = "repaired-";
/// How long a repairer may give no sign of life before it is taken for dead. Less than a process of
/// the job may stand still without being left by the others.
pub const SILENCE: Duration = Duration::from_secs(30);
/// How often it gives one, at least, between its writes.
pub const SIGN_EVERY: Duration = Duration::from_secs(3);
/// Bars, or lists, that are written and read back together.
const AT_ONCE: usize = 256;
/// How long the question takes at most who has fenced a job.
const ASKED_AT_MOST: Duration = Duration::from_secs(10);

/// Whether a repairer has the checkpoint now.
#[must_use]
pub fn is_repairing(owner: &str) -> bool {
    owner.starts_with(REPAIRING)
}

/// Whether a repairer has, or had, the checkpoint: a job that is fenced by it is to be started again.
#[must_use]
pub fn is_repairer(owner: &str) -> bool {
    owner.starts_with(REPAIRING) || owner.starts_with(REPAIRED)
}

/// Whether it is a repairer that has fenced a job of this store, as far as the store answers.
pub async fn has_fenced(store: &dyn CheckpointStore) -> bool {
    let checkpoint = tokio::time::timeout(
        ASKED_AT_MOST,
        until_answered("reading the checkpoint", || store.checkpoint()),
    )
    .await;
    checkpoint.is_ok_and(|checkpoint| {
        checkpoint.is_ok_and(|checkpoint| {
            checkpoint.is_some_and(|checkpoint| is_repairer(&checkpoint.owner))
        })
    })
}

/// Waits for a repairer, but not for one that is dead.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// Whose checkpoint was seen at which version, and when first.
    seen: Option<(String, u64, Instant)>,
}

impl Patience {
    /// Whether to wait before this checkpoint is taken over.
    pub(crate) fn waits(&mut self, checkpoint: &Checkpoint, now: Instant) -> bool {
        if !is_repairing(&checkpoint.owner) {
            return false;
        }
        match &self.seen {
            Some((owner, version, since))
                if (owner, version) == (&checkpoint.owner, &checkpoint.version) =>
            {
                let waits = now.duration_since(*since) < SILENCE;
                if !waits {
                    warn!(
                        owner,
                        "the repairer has given no sign of life for {} s: taking over from it",
                        SILENCE.as_secs()
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
                        "a repairer has the job: waiting for its end, or {} s after its last sign of life",
                        SILENCE.as_secs()
                    );
                }
                self.seen = Some((checkpoint.owner.clone(), checkpoint.version, now));
                true
            }
        }
    }
}

/// A generation that repairs.
#[derive(Debug)]
pub struct Repairer {
    checkpoint: Checkpoint,
    sign_given: Instant,
}

impl Repairer {
    /// Takes the job over, from another repairer only when that has ended or is dead. From here on
    /// nobody else binds or commits.
    ///
    /// # Errors
    /// [`WorkflowError`]; nothing was written then.
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
            // No partition is added: where it begins is a job's decision.
            earliest: vec![0; found.committed.cuts.len()],
            owner: format!("{REPAIRING}{}", nonce()),
        };
        let checkpoint = workflow::take_over(store, &opening, now_us).await?;
        Ok(Self {
            checkpoint,
            sign_given: Instant::now(),
        })
    }

    /// The checkpoint that was taken over.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The epoch as of which bars are repaired: the last one bound.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.checkpoint.last_binding().epoch
    }

    /// The write timestamp at which they are written.
    #[must_use]
    pub fn write_timestamp(&self) -> WriteTimestamp {
        self.checkpoint.recovery_timestamp
    }

    /// Writes bars and lists, each as of [`Repairer::epoch`], and reads all of them back. What reads
    /// back as something else is returned: whoever wrote that did so at a greater write timestamp.
    ///
    /// # Errors
    /// [`WorkflowError::Fenced`] if someone has taken over; [`WorkflowError::Store`].
    pub async fn write(
        &mut self,
        store: &dyn Store,
        bars: &[(BarKey, Totals)],
        lists: &[(ViewKey, Vec<ViewEntry>)],
    ) -> Result<Vec<String>, WorkflowError> {
        let (epoch, write_timestamp) = (self.epoch(), self.write_timestamp());
        let mut refused = Vec::new();
        for bars in bars.chunks(AT_ONCE) {
            let bars: Vec<BarWrite> = bars
                .iter()
                .map(|(key, totals)| BarWrite {
                    key: key.clone(),
                    state: BarState {
                        epoch,
                        totals: *totals,
                    },
                    write_timestamp,
                })
                .collect();
            // A bar that is missing may be so because the directory does not lead to it.
            let directory = bars.iter().map(|BarWrite { key, .. }| DirectoryEntry {
                symbol: key.symbol.clone(),
                size: key.size,
                bucket: key.size.bucket(key.start),
            });
            let writes = EpochWrites {
                directory: directory.collect(),
                bars,
                ..EpochWrites::default()
            };
            self.send(store, &writes).await?;
            for bar in &writes.bars {
                self.sign(store).await?;
                if read_back(store, bar).await? != Some(bar.state) {
                    refused.push(bar.key.to_string());
                }
            }
        }
        for lists in lists.chunks(AT_ONCE) {
            let views = lists.iter().map(|(key, entries)| ViewWrite {
                key: *key,
                state: ViewState {
                    epoch,
                    entries: entries.clone(),
                },
                write_timestamp,
            });
            let writes = EpochWrites {
                views: views.collect(),
                ..EpochWrites::default()
            };
            self.send(store, &writes).await?;
            for list in &writes.views {
                self.sign(store).await?;
                if list_back(store, list).await?.as_ref() != Some(&list.state) {
                    refused.push(list.key.to_string());
                }
            }
        }
        Ok(refused)
    }

    /// Gives a sign of life, if the last one was given a while ago: to be called between whatever
    /// takes its time.
    ///
    /// # Errors
    /// [`WorkflowError::Fenced`] if someone has taken over; [`WorkflowError::Store`].
    pub async fn sign(&mut self, store: &dyn CheckpointStore) -> Result<(), WorkflowError> {
        if self.sign_given.elapsed() >= SIGN_EVERY {
            self.checkpoint = workflow::propose(
                store,
                Some(&self.checkpoint),
                Checkpoint {
                    version: self.checkpoint.version + 1,
                    ..self.checkpoint.clone()
                },
            )
            .await?;
            self.sign_given = Instant::now();
        }
        Ok(())
    }

    async fn send(&mut self, store: &dyn Store, writes: &EpochWrites) -> Result<(), WorkflowError> {
        self.sign(store).await?;
        until_answered("repairing", || store.write(writes))
            .await
            .map_err(WorkflowError::Store)
    }

    /// Gives the job back. That it succeeds proves that nobody had taken over before: all that was
    /// written is what later generations read.
    ///
    /// # Errors
    /// [`WorkflowError::Fenced`] if someone had taken over, and may have read bars before
    /// they were repaired; [`WorkflowError::Store`].
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

/// What a quorum says of a bar. A damaged cell is something else than what was written, and no
/// failure.
async fn read_back(
    store: &dyn EpochStore,
    bar: &BarWrite,
) -> Result<Option<BarState>, WorkflowError> {
    let keys = std::slice::from_ref(&bar.key);
    Ok(
        whole("reading a repaired bar back", || store.read_bars(keys))
            .await?
            .and_then(|found| found.into_iter().next().flatten()),
    )
}

/// The same for a list.
async fn list_back(
    store: &dyn BarReader,
    list: &ViewWrite,
) -> Result<Option<ViewState>, WorkflowError> {
    let ViewKey { view, size, start } = list.key;
    let found = whole("reading a repaired list back", || {
        store.views(view, size, start..start + 1)
    })
    .await?;
    Ok(found
        .and_then(|found| found.into_iter().next())
        .map(|list| list.state))
}

/// An answer; none if what is asked for cannot be read.
async fn whole<T, F: Future<Output = Result<T, StoreError>>>(
    what: &str,
    mut call: impl FnMut() -> F,
) -> Result<Option<T>, WorkflowError> {
    let mut backoff = workflow::Backoff::new();
    loop {
        match call().await {
            Ok(found) => return Ok(Some(found)),
            Err(StoreError::Broken(reason)) => {
                warn!(what, reason, "not readable");
                return Ok(None);
            }
            Err(StoreError::Unavailable(reason)) => {
                warn!(what, reason, "store does not answer; trying again");
                backoff.wait().await;
            }
        }
    }
}

/// 128 random bits: the standard library's hash keys are drawn from the system's randomness.
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
    fn patience_ends_with_the_silence_of_one_repairer_and_begins_anew_with_a_sign_of_life() {
        let begin = Instant::now();
        let mut checkpoint =
            decide::take_over(None, &opening("repair-1"), 1).expect("a fresh store");
        let mut patience = Patience::default();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        assert!(patience.waits(&checkpoint, at(0)) && patience.waits(&checkpoint, at(29_999)));
        checkpoint.version += 1;
        assert!(
            patience.waits(&checkpoint, at(30_000)) && patience.waits(&checkpoint, at(59_999)),
            "a sign of life"
        );
        assert!(!patience.waits(&checkpoint, at(60_000)), "none for 30 s");
        checkpoint.owner = "repair-2".into();
        assert!(patience.waits(&checkpoint, at(60_001)), "another repairer");
        for owner in ["repaired-2", "0123", ""] {
            checkpoint.owner = owner.into();
            assert!(!Patience::default().waits(&checkpoint, at(0)), "{owner:?}");
        }
    }
}
