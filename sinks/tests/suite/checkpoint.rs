//! Compare-and-set: one proposal wins, and the checkpoint is read back as it was proposed.

use std::sync::Arc;

use tapeflow_protocol::{
    Binding, CasOutcome, Checkpoint, Cut, LastRecord, LostRange, SourceIdentity, Store,
    checkpoint::{CHECKPOINT_FORMAT, SessionPlace, SessionWindow, stored::MAX_CHECKPOINT_BYTES},
    workflow::{self, WorkflowError},
};
use tapeflow_schemas::SessionId;

use super::{JOB, write_timestamp};

/// The checkpoint of a job that has just been created by `owner`.
pub(super) fn first(owner: u8) -> Checkpoint {
    Checkpoint {
        format: CHECKPOINT_FORMAT,
        job: JOB.into(),
        generation: 1,
        version: 1,
        owner: format!("{owner:032x}"),
        fingerprint: "sizes=1s,1m rules=1".into(),
        source: SourceIdentity {
            cluster: "MkU3OEVBNTcwNTJENDM2Qg".into(),
            topic: "trades".into(),
            topic_id: Some("bXktdG9waWM".into()),
        },
        datacenter: None,
        recovery_timestamp: write_timestamp(0),
        last_write_timestamp: write_timestamp(0),
        committed: Binding {
            epoch: 0,
            write_timestamp: 0,
            cuts: vec![Cut::default(); 4],
        },
        bound: Vec::new(),
    }
}

/// The checkpoint that binds one more epoch.
fn next(checkpoint: &Checkpoint) -> Checkpoint {
    let mut next = checkpoint.clone();
    next.version += 1;
    next.last_write_timestamp += 250_000;
    let last = checkpoint.last_binding();
    let cuts = last
        .cuts
        .iter()
        .map(|cut| Cut {
            next: cut.next + 10,
            ..cut.clone()
        })
        .collect();
    next.bound.push(Binding {
        epoch: last.epoch + 1,
        write_timestamp: next.last_write_timestamp,
        cuts,
    });
    next
}

/// Proposes, and resolves an unknown outcome as the workflow does. Returns whether this proposal
/// won.
async fn propose(store: &dyn Store, expected: Option<&Checkpoint>, proposed: &Checkpoint) -> bool {
    loop {
        match store.compare_and_set(expected, proposed).await {
            CasOutcome::Won => return true,
            CasOutcome::Lost => {
                return store
                    .checkpoint()
                    .await
                    .expect("the checkpoint is read")
                    .as_ref()
                    == Some(proposed)
                    && expected != Some(proposed);
            }
            CasOutcome::Refused(reason) => panic!("refused: {reason}"),
            CasOutcome::Unknown(_) => {
                let now = store.checkpoint().await.expect("the checkpoint is read");
                if now.as_ref() == Some(proposed) {
                    return true;
                }
                if now.as_ref() != expected {
                    return false;
                }
            }
        }
    }
}

/// Proposes, and expects to lose. The checkpoint stays `now`.
async fn expect_lost(
    store: &dyn Store,
    what: &str,
    expected: Option<&Checkpoint>,
    proposed: &Checkpoint,
    now: Option<&Checkpoint>,
) {
    let outcome = loop {
        match store.compare_and_set(expected, proposed).await {
            CasOutcome::Unknown(_) => {}
            outcome => break outcome,
        }
    };
    assert!(matches!(outcome, CasOutcome::Lost), "{what}: {outcome:?}");
    assert_eq!(
        store
            .checkpoint()
            .await
            .expect("the checkpoint is read")
            .as_ref(),
        now,
        "{what}: the checkpoint stays"
    );
}

pub(super) async fn an_unwritten_checkpoint_is_absent(store: Arc<dyn Store>) {
    assert_eq!(
        store.checkpoint().await.expect("an empty store answers"),
        None
    );
    let checkpoint = first(1);
    expect_lost(
        &*store,
        "an expectation of a checkpoint that is not there",
        Some(&checkpoint),
        &next(&checkpoint),
        None,
    )
    .await;
}

pub(super) async fn the_first_checkpoint_is_created_once(store: Arc<dyn Store>) {
    let (one, two) = (first(1), first(2));
    assert!(
        propose(&*store, None, &one).await,
        "the first creation wins"
    );
    expect_lost(&*store, "a second creation", None, &two, Some(&one)).await;
}

pub(super) async fn a_checkpoint_is_read_back_field_by_field(store: Arc<dyn Store>) {
    let mut checkpoint = first(7);
    checkpoint.fingerprint = "quotes ' \" \\ and \u{1f4c8}".into();
    checkpoint.source.topic_id = None;
    assert!(propose(&*store, None, &checkpoint).await);
    assert_eq!(
        store.checkpoint().await.expect("the checkpoint is read"),
        Some(checkpoint.clone())
    );

    // The largest number that a checkpoint may have.
    const MAX_NUMBER: i64 = 1 << 62;
    let window = |n: u8| SessionWindow {
        session: SessionId([n; 16]),
        highest: u64::MAX - u64::from(n),
        seen: u64::MAX ^ u64::from(n),
        last: MAX_NUMBER - 400 + i64::from(n),
        place: match n % 3 {
            0 => SessionPlace::Known,
            1 => SessionPlace::First,
            _ => SessionPlace::Leapt { to: u64::MAX },
        },
    };
    let cut = |n: u8| Cut {
        next: MAX_NUMBER - i64::from(n),
        watermark_ms: Some(7_258_118_399_999),
        filter: (n..n + 64).map(window).collect(),
        lost: (n % 2 == 1).then_some(LostRange {
            from: MAX_NUMBER - 300,
            to: MAX_NUMBER - 250,
        }),
        last: (n % 3 == 1).then_some(LastRecord {
            offset: MAX_NUMBER - 1_000,
            hash: u64::MAX - u64::from(n),
        }),
    };
    let mut full = next(&checkpoint);
    full.generation = 9_007_199_254_740_993;
    full.last_write_timestamp = MAX_NUMBER;
    full.committed.cuts = vec![Cut::default(); 16];
    full.bound = (1..=3)
        .map(|epoch: u32| Binding {
            epoch: epoch.into(),
            write_timestamp: MAX_NUMBER - 4 + i64::from(epoch),
            cuts: (0..16).map(cut).collect(),
        })
        .collect();
    assert!(propose(&*store, Some(&checkpoint), &full).await);
    assert_eq!(
        store.checkpoint().await.expect("the checkpoint is read"),
        Some(full)
    );
}

pub(super) async fn a_checkpoint_that_is_too_long_is_refused_for_good(store: Arc<dyn Store>) {
    let one = first(1);
    assert!(propose(&*store, None, &one).await);
    let mut long = next(&one);
    long.fingerprint = "x".repeat(MAX_CHECKPOINT_BYTES);
    let outcome = store.compare_and_set(Some(&one), &long).await;
    assert!(matches!(outcome, CasOutcome::Refused(_)), "{outcome:?}");
    let error = workflow::propose(&*store, Some(&one), long)
        .await
        .expect_err("sent once, and not again and again");
    assert!(
        matches!(&error, WorkflowError::Store(reason) if reason.contains("bytes, more than")),
        "{error}"
    );
    assert_eq!(
        store.checkpoint().await.expect("the checkpoint is read"),
        Some(one)
    );
}

pub(super) async fn a_stale_expectation_loses(store: Arc<dyn Store>) {
    let one = first(1);
    assert!(propose(&*store, None, &one).await);
    let two = next(&one);
    assert!(propose(&*store, Some(&one), &two).await);
    expect_lost(
        &*store,
        "the version before",
        Some(&one),
        &next(&one),
        Some(&two),
    )
    .await;
    let other_generation = Checkpoint {
        generation: 2,
        ..two.clone()
    };
    expect_lost(
        &*store,
        "another generation",
        Some(&other_generation),
        &next(&two),
        Some(&two),
    )
    .await;
    let other_owner = Checkpoint {
        owner: format!("{:032x}", 9),
        ..two.clone()
    };
    expect_lost(
        &*store,
        "another owner",
        Some(&other_owner),
        &next(&two),
        Some(&two),
    )
    .await;
    let other_version = Checkpoint {
        version: 3,
        ..two.clone()
    };
    expect_lost(
        &*store,
        "a version still to come",
        Some(&other_version),
        &next(&two),
        Some(&two),
    )
    .await;
    assert!(
        propose(&*store, Some(&two), &next(&two)).await,
        "the true expectation wins after them all"
    );
}

pub(super) async fn the_same_proposal_again_loses_and_changes_nothing(store: Arc<dyn Store>) {
    let one = first(1);
    assert!(propose(&*store, None, &one).await);
    let two = next(&one);
    assert!(propose(&*store, Some(&one), &two).await);
    expect_lost(
        &*store,
        "the same proposal again",
        Some(&one),
        &two,
        Some(&two),
    )
    .await;
}

pub(super) async fn a_chain_of_checkpoints_wins_step_by_step(store: Arc<dyn Store>) {
    let mut checkpoint = first(1);
    assert!(propose(&*store, None, &checkpoint).await);
    for step in 0..20 {
        let mut proposed = next(&checkpoint);
        if step % 5 == 4 {
            // A take-over changes the owner and keeps the bindings.
            proposed.generation += 1;
            proposed.owner = format!("{step:032x}");
        }
        if proposed.bound.len() > 2 {
            proposed.committed = proposed.bound.remove(0);
        }
        assert!(
            propose(&*store, Some(&checkpoint), &proposed).await,
            "step {step}"
        );
        checkpoint = proposed;
    }
    assert_eq!(
        store.checkpoint().await.expect("the checkpoint is read"),
        Some(checkpoint)
    );
}

pub(super) async fn of_concurrent_creations_exactly_one_wins(store: Arc<dyn Store>) {
    race(store, None, (1..=8).map(first).collect()).await;
}

pub(super) async fn of_concurrent_proposals_exactly_one_wins(store: Arc<dyn Store>) {
    let mut checkpoint = first(1);
    assert!(propose(&*store, None, &checkpoint).await);
    for round in 0..5 {
        let rival = |n: u8| Checkpoint {
            generation: checkpoint.generation + 1,
            owner: format!("{:032x}", 16 * round + n),
            ..next(&checkpoint)
        };
        checkpoint = race(
            Arc::clone(&store),
            Some(checkpoint.clone()),
            (1..=8).map(rival).collect(),
        )
        .await;
    }
}

/// All `rivals` propose at once. Returns the checkpoint after that.
async fn race(
    store: Arc<dyn Store>,
    expected: Option<Checkpoint>,
    rivals: Vec<Checkpoint>,
) -> Checkpoint {
    let start = Arc::new(tokio::sync::Barrier::new(rivals.len()));
    let tasks: Vec<_> = rivals
        .into_iter()
        .map(|rival| {
            let (store, expected, start) =
                (Arc::clone(&store), expected.clone(), Arc::clone(&start));
            tokio::spawn(async move {
                start.wait().await;
                propose(&*store, expected.as_ref(), &rival)
                    .await
                    .then_some(rival)
            })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        winners.extend(task.await.expect("no rival panics"));
    }
    let now = store
        .checkpoint()
        .await
        .expect("the checkpoint is read")
        .expect("one of them wrote it");
    assert_eq!(
        winners,
        std::slice::from_ref(&now),
        "exactly one wins, and the checkpoint is what it proposed"
    );
    now
}
