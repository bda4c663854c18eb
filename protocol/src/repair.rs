//! Healing: a short generation of its own, which writes rows and lists anew that were found to
//! differ from their recomputation.
//!
//! ```text
//!  job          ── bind ── bind ──╳ fenced                  waits        ╭── take over ── replay ── bind ──
//!  healer                         take over ── write at F ── read back ── release
//!  head's owner      a job's      heal-…                                 healed-…      a job's
//! ```
//!
//! A healed row is written **as of b, labelled b, at the flush stamp F** of the healer's take-over:
//! what any generation's replay would write. So the invariants hold: its content is the fold up to
//! a bound epoch (I2), F is above all stamps issued before, and no one else writes at it (I3, I4).
//!
//! No generation can undo it by writing what it had read before:
//! * An **older** one may hold a wrong row in memory. But it is fenced, binds nothing any more, and
//!   all stamps it has are below F: whatever it still has under way loses.
//! * A **later** one has greater stamps. But it begins with an empty memory, and takes over only
//!   from a head that the healer has released, after a quorum had all that was healed: what it
//!   reads is healed.
//! * One that takes over **in between**, for it takes the healer for dead, may have read a wrong
//!   row before it was written. Then the release fails: it is conditional on the head being still
//!   the healer's ([`Healer::end`]), and the operator is told to verify again. No harm is done:
//!   what the healer writes is a true prefix, and loses to what is newer.
//!
//! A healer that dies leaves a head that says `heal-…`, and some rows healed. Whoever takes over
//! waits for a sign of life (the head's version grows) no longer than [`SILENCE`]. Healing again is
//! harmless; a second healer waits for the first like a job.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use tapeflow_schemas::{
    Epoch, RowKey, RowState, RowWrite, Stamp, Totals, ViewEntry, ViewKey, ViewState, ViewWrite,
};
use tokio::time::Instant;
use tracing::warn;

use crate::{
    checkpoint::Head,
    decide::Opening,
    store::{DirectoryEntry, EpochWrites, Store, StoreError},
    workflow::{self, WorkflowError, until_answered},
};

/// How the owner of a head begins while a healer has it.
const HEALING: &str = "heal-";
/// How it begins when the healer has given it back.
const HEALED: &str = "healed-";
/// How long a healer may give no sign of life before it is taken for dead. Less than a process of
/// the job may stand still without being left by the others.
pub const SILENCE: Duration = Duration::from_secs(30);
/// How often it gives one, at least, between its writes.
pub const SIGN_EVERY: Duration = Duration::from_secs(3);
/// Rows, or lists, that are written and read back together.
const AT_ONCE: usize = 256;
/// How long the question takes at most who has fenced a job.
const ASKED_AT_MOST: Duration = Duration::from_secs(10);

/// Whether a healer has the head now.
#[must_use]
pub fn is_healing(owner: &str) -> bool {
    owner.starts_with(HEALING)
}

/// Whether a healer has, or had, the head: a job that is fenced by it is to be started again.
#[must_use]
pub fn is_healer(owner: &str) -> bool {
    owner.starts_with(HEALING) || owner.starts_with(HEALED)
}

/// Whether it is a healer that has fenced a job of this store, as far as the store answers.
pub async fn has_fenced(store: &dyn Store) -> bool {
    let head = tokio::time::timeout(
        ASKED_AT_MOST,
        until_answered("reading the head", || store.head()),
    )
    .await;
    head.is_ok_and(|head| head.is_ok_and(|head| head.is_some_and(|head| is_healer(&head.owner))))
}

/// Waits for a healer, but not for one that is dead.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// Whose head was seen at which version, and when first.
    seen: Option<(String, u64, Instant)>,
}

impl Patience {
    /// Whether to wait before this head is taken over.
    pub(crate) fn waits(&mut self, head: &Head, now: Instant) -> bool {
        if !is_healing(&head.owner) {
            return false;
        }
        match &self.seen {
            Some((owner, version, since)) if (owner, version) == (&head.owner, &head.version) => {
                let waits = now.duration_since(*since) < SILENCE;
                if !waits {
                    warn!(
                        owner,
                        "the healer has given no sign of life for {} s: taking over from it",
                        SILENCE.as_secs()
                    );
                }
                waits
            }
            seen => {
                if seen.as_ref().is_none_or(|(owner, ..)| *owner != head.owner) {
                    warn!(
                        owner = head.owner,
                        "a healer has the job: waiting for its end, or {} s after its last sign of life",
                        SILENCE.as_secs()
                    );
                }
                self.seen = Some((head.owner.clone(), head.version, now));
                true
            }
        }
    }
}

/// A generation that heals.
#[derive(Debug)]
pub struct Healer {
    head: Head,
    sign_given: Instant,
}

impl Healer {
    /// Takes the job over, from another healer only when that has ended or is dead. From here on
    /// nobody else binds or commits.
    ///
    /// # Errors
    /// [`WorkflowError`]; nothing was written then.
    pub async fn begin(store: &dyn Store, now_us: impl Fn() -> i64) -> Result<Self, WorkflowError> {
        let found = until_answered("reading the head", || store.head())
            .await
            .map_err(WorkflowError::Store)?;
        let found = found.ok_or_else(|| {
            WorkflowError::Store(format!("no job has run on {}", store.describe()))
        })?;
        let opening = Opening {
            job: found.job,
            logic: found.logic,
            source: found.source,
            // No partition is added: where it begins is a job's decision.
            earliest: vec![0; found.committed.cuts.len()],
            owner: format!("{HEALING}{}", nonce()),
        };
        let head = workflow::take_over(store, &opening, now_us).await?;
        Ok(Self {
            head,
            sign_given: Instant::now(),
        })
    }

    /// The head that was taken over.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The epoch as of which rows are healed: the last one bound.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.head.last_binding().epoch
    }

    /// The stamp at which they are written.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        self.head.flush_stamp
    }

    /// Writes rows and lists, each as of [`Healer::epoch`], and reads all of them back. What reads
    /// back as something else is returned: whoever wrote that did so at a greater stamp.
    ///
    /// # Errors
    /// [`WorkflowError::Fenced`] if someone has taken over; [`WorkflowError::Store`].
    pub async fn write(
        &mut self,
        store: &dyn Store,
        rows: &[(RowKey, Totals)],
        lists: &[(ViewKey, Vec<ViewEntry>)],
    ) -> Result<Vec<String>, WorkflowError> {
        let (epoch, stamp) = (self.epoch(), self.stamp());
        let mut refused = Vec::new();
        for rows in rows.chunks(AT_ONCE) {
            let rows: Vec<RowWrite> = rows
                .iter()
                .map(|(key, totals)| RowWrite {
                    key: key.clone(),
                    state: RowState {
                        epoch,
                        totals: *totals,
                    },
                    stamp,
                })
                .collect();
            // A row that is missing may be so because the directory does not lead to it.
            let directory = rows.iter().map(|RowWrite { key, .. }| DirectoryEntry {
                symbol: key.symbol.clone(),
                size: key.size,
                bucket: key.size.bucket(key.start),
            });
            let writes = EpochWrites {
                directory: directory.collect(),
                rows,
                ..EpochWrites::default()
            };
            self.send(store, &writes).await?;
            for row in &writes.rows {
                self.sign(store).await?;
                if read_back(store, row).await? != Some(row.state) {
                    refused.push(row.key.to_string());
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
                stamp,
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
    pub async fn sign(&mut self, store: &dyn Store) -> Result<(), WorkflowError> {
        if self.sign_given.elapsed() >= SIGN_EVERY {
            self.head = workflow::propose(
                store,
                Some(&self.head),
                Head {
                    version: self.head.version + 1,
                    ..self.head.clone()
                },
            )
            .await?;
            self.sign_given = Instant::now();
        }
        Ok(())
    }

    async fn send(&mut self, store: &dyn Store, writes: &EpochWrites) -> Result<(), WorkflowError> {
        self.sign(store).await?;
        until_answered("healing", || store.write(writes))
            .await
            .map_err(WorkflowError::Store)
    }

    /// Gives the job back. That it succeeds proves that nobody had taken over before: all that was
    /// written is what later generations read.
    ///
    /// # Errors
    /// [`WorkflowError::Fenced`] if someone had taken over, and may have read rows before
    /// they were healed; [`WorkflowError::Store`].
    pub async fn end(self, store: &dyn Store) -> Result<Head, WorkflowError> {
        let owner = format!("{HEALED}{}", self.head.owner.trim_start_matches(HEALING));
        let released = Head {
            version: self.head.version + 1,
            owner,
            ..self.head.clone()
        };
        workflow::propose(store, Some(&self.head), released).await
    }
}

/// What a quorum says of a row. A damaged cell is something else than what was written, and no
/// failure.
async fn read_back(store: &dyn Store, row: &RowWrite) -> Result<Option<RowState>, WorkflowError> {
    let keys = std::slice::from_ref(&row.key);
    Ok(whole("reading a healed row back", || store.read_rows(keys))
        .await?
        .and_then(|found| found.into_iter().next().flatten()))
}

/// The same for a list.
async fn list_back(
    store: &dyn Store,
    list: &ViewWrite,
) -> Result<Option<ViewState>, WorkflowError> {
    let ViewKey { view, size, start } = list.key;
    let found = whole("reading a healed list back", || {
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
        RandomState::new().hash_one(HEALING)
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
            logic: "l".into(),
            source,
            earliest: vec![0],
            owner: owner.into(),
        }
    }

    #[test]
    fn patience_ends_with_the_silence_of_one_healer_and_begins_anew_with_a_sign_of_life() {
        let begin = Instant::now();
        let mut head = decide::take_over(None, &opening("heal-1"), 1).expect("a fresh store");
        let mut patience = Patience::default();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        assert!(patience.waits(&head, at(0)) && patience.waits(&head, at(29_999)));
        head.version += 1;
        assert!(
            patience.waits(&head, at(30_000)) && patience.waits(&head, at(59_999)),
            "a sign of life"
        );
        assert!(!patience.waits(&head, at(60_000)), "none for 30 s");
        head.owner = "heal-2".into();
        assert!(patience.waits(&head, at(60_001)), "another healer");
        for owner in ["healed-2", "0123", ""] {
            head.owner = owner.into();
            assert!(!Patience::default().waits(&head, at(0)), "{owner:?}");
        }
    }
}
