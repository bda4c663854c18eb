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

use tokio::time::Instant;
use tracing::warn;

use crate::{
    decide::Opening,
    head::{Epoch, Head, Stamp},
    row::{RowKey, RowState, RowWrite},
    store::{DirectoryEntry, EpochWrites, Store, StoreError},
    totals::Totals,
    view::{ViewEntry, ViewKey, ViewState, ViewWrite},
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
const SIGN_EVERY: Duration = Duration::from_secs(3);
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
    /// # Errors [`WorkflowError::Fenced`] if someone had taken over, and may have read rows before
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
    use std::sync::Arc;

    use super::*;
    use crate::{
        decide,
        head::{Cut, SourceIdentity},
        memory::{Accepted, Call, Fault, MemoryStore},
        view::View,
    };

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

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime")
            .block_on(test)
    }

    /// A job that has bound two epochs, with a row of the second.
    async fn job(store: &MemoryStore) -> Head {
        let mut head = workflow::take_over(store, &opening("job"), || 100)
            .await
            .expect("taken over");
        for next in [5, 9] {
            let cuts = vec![Cut {
                next,
                ..Cut::default()
            }];
            head = workflow::advance(store, &head, decide::bind(&head, cuts, 0, 100), &[])
                .await
                .expect("bound");
        }
        head
    }

    fn key(start: i64) -> RowKey {
        RowKey {
            symbol: tapeflow_schemas::Symbol::new("A").expect("a symbol"),
            size: "1m".parse().expect("a size"),
            start,
        }
    }

    fn totals(priced: u64) -> Totals {
        Totals {
            priced,
            ..Totals::default()
        }
    }

    fn row(epoch: Epoch, stamp: Stamp, priced: u64) -> EpochWrites {
        let row = RowWrite {
            key: key(0),
            state: RowState {
                epoch,
                totals: totals(priced),
            },
            stamp,
        };
        EpochWrites {
            rows: vec![row],
            ..EpochWrites::default()
        }
    }

    fn stored(store: &MemoryStore) -> (Epoch, u64) {
        store
            .all_rows()
            .iter()
            .find(|row| row.0 == key(0))
            .map(|(_, _, state)| (state.epoch, state.totals.priced))
            .expect("a row")
    }

    #[test]
    fn what_is_healed_is_as_of_the_last_binding_and_what_was_under_way_loses_to_it() {
        run(async {
            let store = MemoryStore::new();
            let job = job(&store).await;
            store
                .write(&row(1, job.bound[0].stamp, 66))
                .await
                .expect("written by hand");
            store.arm(Call::Write, [Fault::UnderWay]);
            store
                .write(&row(2, job.bound[1].stamp, 67))
                .await
                .expect_err("the job adds to it, and the write is under way");

            let mut healer = Healer::begin(&store, || 100).await.expect("taken over");
            assert_eq!((healer.epoch(), healer.head().generation), (2, 2));
            let list = ViewKey {
                view: View::Market,
                size: key(0).size,
                start: 0,
            };
            let refused = healer
                .write(&store, &[(key(0), totals(7))], &[(list, Vec::new())])
                .await
                .expect("written");
            assert_eq!(refused, [] as [String; 0]);
            assert!(store.deliver(), "what the job had under way arrives");
            assert_eq!(stored(&store), (2, 7));
            assert!(
                healer.stamp() > job.last_stamp
                    && !store
                        .violations()
                        .iter()
                        .any(|breach| breach.starts_with("I4")),
                "{:?}",
                store.violations()
            );
            let released = healer.end(&store).await.expect("still its own");
            assert!(
                is_healer(&released.owner) && !is_healing(&released.owner),
                "{}",
                released.owner
            );
            assert_eq!(
                (released.bound.len(), released.committed.epoch),
                (2, 0),
                "bindings are the job's"
            );
            assert!(
                store
                    .accepted()
                    .iter()
                    .any(|accepted| matches!(accepted, Accepted::Directory(_))),
                "the directory leads to the row"
            );
            assert!(
                store
                    .accepted()
                    .iter()
                    .any(|accepted| matches!(accepted, Accepted::View(view) if view.key == list))
            );

            // The job finds itself fenced by a healer, and the next generation takes over at once.
            let lost = workflow::advance(&store, &job, decide::commit(&job, 1), &[])
                .await
                .expect_err("fenced");
            assert!(
                matches!(&lost, WorkflowError::Fenced { owner, .. } if is_healer(owner)),
                "{lost}"
            );
            assert!(has_fenced(&store).await);
            let next = workflow::take_over(&store, &opening("next"), || 100)
                .await
                .expect("taken over");
            assert!(next.generation == 3 && next.flush_stamp > released.flush_stamp);
            assert!(!has_fenced(&store).await);
        });
    }

    #[test]
    fn what_someone_wrote_at_a_greater_stamp_is_told() {
        run(async {
            let store = MemoryStore::new();
            job(&store).await;
            store
                .write(&row(1, 1_000_000, 66))
                .await
                .expect("written by a clock that is ahead");
            let mut healer = Healer::begin(&store, || 100).await.expect("taken over");
            let refused = healer
                .write(
                    &store,
                    &[(key(0), totals(7)), (key(60_000), totals(1))],
                    &[],
                )
                .await
                .expect("written");
            assert_eq!(refused, [key(0).to_string()]);
        });
    }

    #[test]
    fn a_job_that_came_in_between_makes_the_release_fail() {
        run(async {
            let store = MemoryStore::new();
            job(&store).await;
            let healer = Healer::begin(&store, || 100).await.expect("taken over");
            // As after the healer's silence.
            let found = store.head().await.expect("read").expect("a head");
            let taken =
                decide::take_over(Some(&found), &opening("job"), 100).expect("the same job");
            workflow::propose(&store, Some(&found), taken)
                .await
                .expect("taken over");
            assert!(
                matches!(healer.end(&store).await, Err(WorkflowError::Fenced { owner, .. }) if owner == "job")
            );
        });
    }

    #[test]
    fn a_job_waits_for_a_healer_and_so_does_a_second_healer() {
        run(async {
            let store = Arc::new(MemoryStore::new());
            job(&store).await;
            let mut first = Healer::begin(&*store, || 100).await.expect("taken over");
            let (of_job, of_second) = (Arc::clone(&store), Arc::clone(&store));
            let job = tokio::spawn(async move {
                workflow::take_over(&*of_job, &opening("job"), || 100).await
            });
            // Long enough for it to take over, if it did not wait.
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(!job.is_finished(), "it waits");
            first
                .write(&*store, &[(key(0), totals(7))], &[])
                .await
                .expect("written");
            first
                .end(&*store)
                .await
                .expect("released, for nobody came in between");
            assert_eq!(
                job.await.expect("no panic").expect("taken over").generation,
                3
            );

            let first = Healer::begin(&*store, || 100).await.expect("taken over");
            let second = tokio::spawn(async move {
                Healer::begin(&*of_second, || 100)
                    .await
                    .map(|healer| healer.head.generation)
            });
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(!second.is_finished(), "it waits");
            first.end(&*store).await.expect("released");
            assert_eq!(second.await.expect("no panic").expect("taken over"), 5);
        });
    }

    #[test]
    fn a_healer_gives_a_sign_of_life_before_it_is_taken_for_dead_and_not_all_the_time() {
        run(async {
            let store = MemoryStore::new();
            job(&store).await;
            let mut healer = Healer::begin(&store, || 100).await.expect("taken over");
            let version = || async { store.head().await.expect("read").expect("a head").version };
            let before = version().await;
            healer.sign(&store).await.expect("its own");
            assert_eq!(version().await, before, "it has just begun");
            for sign in 1..=2 {
                healer.sign_given = healer
                    .sign_given
                    .checked_sub(SIGN_EVERY)
                    .expect("the machine is up");
                // Also while it reads back what it has written.
                if sign == 1 {
                    healer.sign(&store).await.expect("its own");
                } else {
                    healer
                        .write(&store, &[(key(0), totals(7))], &[])
                        .await
                        .expect("written");
                }
                assert_eq!(version().await, before + sign);
            }
            healer
                .end(&store)
                .await
                .expect("released, for nobody came in between");
        });
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
