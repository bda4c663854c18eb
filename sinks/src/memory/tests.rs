//! The memory store: writes held and delivered, faults armed, breaches recorded.

use futures::FutureExt;

use super::*;
use tapeflow_protocol::{Cut, SourceIdentity, checkpoint::CHECKPOINT_FORMAT};
use tapeflow_schemas::{PackedBars, Totals};

fn checkpoint(version: u64) -> Checkpoint {
    let binding = |epoch: u64| Binding {
        epoch,
        write_timestamp: i64::try_from(epoch).expect("small"),
        cuts: vec![Cut::default()],
    };
    Checkpoint {
        format: CHECKPOINT_FORMAT,
        job: "tapeflow".into(),
        generation: 1,
        version,
        owner: "0".repeat(32),
        fingerprint: "1".into(),
        source: SourceIdentity {
            cluster: "c".into(),
            topic: "t".into(),
            topic_id: None,
        },
        datacenter: None,
        recovery_timestamp: 0,
        last_write_timestamp: 9,
        committed: binding(0),
        bound: (1..=5).map(binding).collect(),
    }
}

fn bar(epoch: u64, write_timestamp: WriteTimestamp, priced: u64) -> EpochWrites {
    let key = BarKey {
        symbol: Symbol::new("AAPL").expect("a symbol"),
        size: WindowSize::MINUTE,
        start: 0,
    };
    let state = BarState {
        epoch,
        totals: Totals {
            priced,
            ..Totals::default()
        },
    };
    EpochWrites {
        directory: vec![DirectoryEntry::of(&key)],
        bars: vec![BarWrite {
            key,
            state,
            packed: PackedBars::default(),
            write_timestamp,
        }],
        ..EpochWrites::default()
    }
}

fn write_timestamps(store: &MemoryStore) -> Vec<WriteTimestamp> {
    store
        .all_bars()
        .into_iter()
        .map(|(_, write_timestamp, _)| write_timestamp)
        .collect()
}

#[tokio::test]
async fn an_unknown_compare_and_set_is_applied_or_not_or_later() {
    let store = MemoryStore::new();
    store.arm(
        Call::CompareAndSet,
        [
            Fault::NotApplied,
            Fault::AppliedUnanswered,
            Fault::UnderWay,
            Fault::UnderWay,
        ],
    );
    assert!(matches!(
        store.compare_and_set(None, &checkpoint(1)).await,
        CasOutcome::Unknown(_)
    ));
    assert_eq!(store.checkpoint().await.expect("answers"), None);
    assert!(matches!(
        store.compare_and_set(None, &checkpoint(1)).await,
        CasOutcome::Unknown(_)
    ));
    assert_eq!(
        store.checkpoint().await.expect("answers"),
        Some(checkpoint(1))
    );
    for _ in 0..2 {
        assert!(matches!(
            store
                .compare_and_set(Some(&checkpoint(1)), &checkpoint(2))
                .await,
            CasOutcome::Unknown(_)
        ));
    }
    assert_eq!(
        store.checkpoint().await.expect("answers"),
        Some(checkpoint(1))
    );
    assert!(store.deliver());
    assert_eq!(
        store.checkpoint().await.expect("answers"),
        Some(checkpoint(2))
    );
    assert!(
        matches!(
            store
                .compare_and_set(Some(&checkpoint(2)), &checkpoint(3))
                .await,
            CasOutcome::Won
        ),
        "the plan is used up"
    );
    assert!(store.deliver());
    assert_eq!(
        store.checkpoint().await.expect("answers"),
        Some(checkpoint(3)),
        "what arrives too late loses"
    );
    assert!(!store.deliver());
    let won: Vec<_> = [1, 2, 3]
        .map(|version| Accepted::Checkpoint(checkpoint(version)))
        .into();
    assert_eq!((store.accepted(), store.violations()), (won, vec![]));
}

#[tokio::test]
async fn writes_and_reads_fail_as_armed() {
    let store = MemoryStore::new();
    store.arm(
        Call::Write,
        [Fault::NotApplied, Fault::UnderWay, Fault::AppliedUnanswered],
    );
    let unavailable = |result| matches!(result, Err(StoreError::Unavailable(_)));
    assert!(unavailable(store.write(&bar(1, 1, 1)).await) && write_timestamps(&store).is_empty());
    assert!(unavailable(store.write(&bar(1, 1, 1)).await) && write_timestamps(&store).is_empty());
    assert!(unavailable(store.write(&bar(2, 2, 2)).await));
    assert_eq!(write_timestamps(&store), [2]);
    assert!(store.deliver(), "a write of an older epoch, late");
    assert_eq!(write_timestamps(&store), [2]);
    assert_eq!(store.accepted().len(), 4);
    store.arm(Call::Read, [Fault::NotApplied]);
    assert!(matches!(
        store.checkpoint().await,
        Err(StoreError::Unavailable(_))
    ));
    assert!(store.checkpoint().await.is_ok());
    assert_eq!(store.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn held_calls_wait_until_the_last_hold_is_dropped() {
    let store = MemoryStore::new();
    let (one, two) = (store.hold(Call::Write), store.hold(Call::Write));
    let writes = bar(1, 1, 1);
    let mut write = store.write(&writes);
    assert!((&mut write).now_or_never().is_none());
    assert!(
        store.checkpoint().now_or_never().is_some(),
        "other calls are not held"
    );
    drop(one);
    assert!((&mut write).now_or_never().is_none() && write_timestamps(&store).is_empty());
    drop(two);
    write.await.expect("written");
    assert_eq!(write_timestamps(&store), [1]);
}

/// Writes bars (epoch, write timestamp, content) under a checkpoint with b = 5. `breach` is the
/// violation that the last one must cause.
async fn check(bars: &[(u64, WriteTimestamp, u64)], breach: Option<&str>) {
    let store = MemoryStore::new();
    assert!(matches!(
        store.compare_and_set(None, &checkpoint(1)).await,
        CasOutcome::Won
    ));
    for (epoch, write_timestamp, content) in bars {
        assert_eq!(store.violations(), Vec::<String>::new(), "{bars:?}");
        store
            .write(&bar(*epoch, *write_timestamp, *content))
            .await
            .expect("written");
    }
    let found = store.violations();
    assert_eq!(
        found.len(),
        usize::from(breach.is_some()),
        "{bars:?}: {found:?}"
    );
    assert!(
        found
            .iter()
            .all(|text| breach.is_some_and(|breach| text.starts_with(breach))),
        "{bars:?}: {found:?}"
    );
}

#[tokio::test]
async fn breaches_by_bars_are_recorded() {
    check(&[(1, 1, 1), (2, 2, 2), (1, 1, 1), (2, 7, 2)], None).await;
    check(&[(1, 1, 1), (1, 1, 2)], Some("I4")).await;
    check(&[(1, 1, 1), (2, 1, 1)], Some("I4")).await;
    check(&[(2, 1, 1), (1, 2, 1)], Some("I3")).await;
    check(&[(1, 2, 1), (2, 1, 1)], Some("I3")).await;
    check(&[(1, 1, 1), (1, 2, 2)], Some("I2")).await;
    check(&[(6, 6, 1)], Some("I2")).await;
}

#[tokio::test]
async fn breaches_by_checkpoints_are_recorded() {
    type Change = fn(&mut Checkpoint);
    let changes: [(Option<&str>, Change); 9] = [
        (None, |_| {}),
        (None, |checkpoint| {
            checkpoint.committed = checkpoint.bound.remove(0)
        }),
        (None, |checkpoint| {
            checkpoint
                .bound
                .iter_mut()
                .chain([&mut checkpoint.committed])
                .for_each(|binding| binding.cuts.push(Cut::default()))
        }),
        (Some("I1: generation"), |checkpoint| {
            checkpoint.generation = 0
        }),
        (Some("I1: b went back"), |checkpoint| {
            drop(checkpoint.bound.pop())
        }),
        (Some("I1: last write timestamp"), |checkpoint| {
            checkpoint.last_write_timestamp = 8
        }),
        (Some("I1: a binding changed"), |checkpoint| {
            checkpoint.bound[4].cuts[0].next = 7
        }),
        (Some("I1: a binding changed"), |checkpoint| {
            checkpoint.committed.cuts.clear()
        }),
        (Some("I1: Binding { epoch: 6"), |checkpoint| {
            checkpoint.bound.push(Binding {
                epoch: 6,
                write_timestamp: 5,
                cuts: vec![Cut::default()],
            })
        }),
    ];
    for (at, (breach, change)) in changes.into_iter().enumerate() {
        let store = MemoryStore::new();
        assert!(matches!(
            store.compare_and_set(None, &checkpoint(1)).await,
            CasOutcome::Won
        ));
        let mut next = checkpoint(2);
        change(&mut next);
        assert!(matches!(
            store.compare_and_set(Some(&checkpoint(1)), &next).await,
            CasOutcome::Won
        ));
        let found = store.violations();
        assert_eq!(
            found.len(),
            usize::from(breach.is_some()),
            "change {at}: {found:?}"
        );
        assert!(
            found
                .iter()
                .all(|text| breach.is_some_and(|breach| text.starts_with(breach))),
            "change {at}: {found:?}"
        );
    }
}
