//! Repair on the memory store: repaired values stay, delayed writes of the job lose, and a job
//! waits for a repairer.

use std::{sync::Arc, time::Duration};

use tapeflow_protocol::{
    Checkpoint, CheckpointStore, Cut, EpochStore, EpochWrites, SourceIdentity,
    decide::{self, Opening},
    repair::{HEARTBEAT_EVERY, Repairer, has_fenced, is_repairer, is_repairing},
    workflow::{self, WorkflowError},
};
use tapeflow_schemas::{
    BarKey, BarState, BarWrite, Epoch, PackedBars, Totals, View, ViewKey, WriteTimestamp,
};
use tapeflow_sinks::memory::{Accepted, Call, Fault, MemoryStore};

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

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(test)
}

/// A job that has bound two epochs, with a bar of the second.
async fn job(store: &MemoryStore) -> Checkpoint {
    let mut checkpoint = workflow::take_over(store, &opening("job"), || 100)
        .await
        .expect("taken over");
    for next in [5, 9] {
        let cuts = vec![Cut {
            next,
            ..Cut::default()
        }];
        checkpoint = workflow::advance(
            store,
            &checkpoint,
            decide::bind(&checkpoint, cuts, 0, 100),
            &[],
        )
        .await
        .expect("bound");
    }
    checkpoint
}

fn key(start: i64) -> BarKey {
    BarKey {
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

fn row(epoch: Epoch, write_timestamp: WriteTimestamp, priced: u64) -> EpochWrites {
    let row = BarWrite {
        key: key(0),
        state: BarState {
            epoch,
            totals: totals(priced),
        },
        packed: PackedBars::default(),
        write_timestamp,
    };
    EpochWrites {
        bars: vec![row],
        ..EpochWrites::default()
    }
}

fn stored(store: &MemoryStore) -> (Epoch, u64) {
    store
        .all_bars()
        .iter()
        .find(|row| row.0 == key(0))
        .map(|(_, _, state)| (state.epoch, state.totals.priced))
        .expect("a row")
}

#[test]
fn what_is_repaired_is_as_of_the_last_binding_and_what_was_under_way_loses_to_it() {
    run(async {
        let store = MemoryStore::new();
        let job = job(&store).await;
        store
            .write(&row(1, job.bound[0].write_timestamp, 66))
            .await
            .expect("written by hand");
        store.arm(Call::Write, [Fault::UnderWay]);
        store
            .write(&row(2, job.bound[1].write_timestamp, 67))
            .await
            .expect_err("the job adds to it, and the write is under way");

        let mut repairer = Repairer::begin(&store, || 100).await.expect("taken over");
        assert_eq!((repairer.epoch(), repairer.checkpoint().generation), (2, 2));
        let list = ViewKey {
            view: View::Market,
            size: key(0).size,
            start: 0,
        };
        let refused = repairer
            .write(
                &store,
                &[(key(0), totals(7), PackedBars::default())],
                &[(list, Vec::new())],
            )
            .await
            .expect("written");
        assert_eq!(refused, [] as [String; 0]);
        assert!(store.deliver(), "what the job had under way arrives");
        assert_eq!(stored(&store), (2, 7));
        assert!(
            repairer.write_timestamp() > job.last_write_timestamp
                && !store
                    .violations()
                    .iter()
                    .any(|breach| breach.starts_with("I4")),
            "{:?}",
            store.violations()
        );
        let released = repairer.end(&store).await.expect("still its own");
        assert!(
            is_repairer(&released.owner) && !is_repairing(&released.owner),
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

        // A repairer has fenced the job. The next generation takes over at once.
        let lost = workflow::advance(&store, &job, decide::commit(&job, 1), &[])
            .await
            .expect_err("fenced");
        assert!(
            matches!(&lost, WorkflowError::Fenced { owner, .. } if is_repairer(owner)),
            "{lost}"
        );
        assert!(has_fenced(&store).await);
        let next = workflow::take_over(&store, &opening("next"), || 100)
            .await
            .expect("taken over");
        assert!(next.generation == 3 && next.recovery_timestamp > released.recovery_timestamp);
        assert!(!has_fenced(&store).await);
    });
}

#[test]
fn bars_written_at_a_greater_write_timestamp_are_reported() {
    run(async {
        let store = MemoryStore::new();
        job(&store).await;
        store
            .write(&row(1, 1_000_000, 66))
            .await
            .expect("written by a clock that is ahead");
        let mut repairer = Repairer::begin(&store, || 100).await.expect("taken over");
        let refused = repairer
            .write(
                &store,
                &[
                    (key(0), totals(7), PackedBars::default()),
                    (key(60_000), totals(1), PackedBars::default()),
                ],
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
        let repairer = Repairer::begin(&store, || 100).await.expect("taken over");
        // A job takes over, as it does when the repairer gives no heartbeat.
        let found = store
            .checkpoint()
            .await
            .expect("read")
            .expect("a checkpoint");
        let taken = decide::take_over(Some(&found), &opening("job"), 100).expect("the same job");
        workflow::propose(&store, Some(&found), taken)
            .await
            .expect("taken over");
        assert!(
            matches!(repairer.end(&store).await, Err(WorkflowError::Fenced { owner, .. }) if owner == "job")
        );
    });
}

#[test]
fn a_job_waits_for_a_repairer_and_so_does_a_second_repairer() {
    run(async {
        let store = Arc::new(MemoryStore::new());
        job(&store).await;
        let mut first = Repairer::begin(&*store, || 100).await.expect("taken over");
        let (of_job, of_second) = (Arc::clone(&store), Arc::clone(&store));
        let job =
            tokio::spawn(
                async move { workflow::take_over(&*of_job, &opening("job"), || 100).await },
            );
        // Without the wait, the job would take over within this time.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!job.is_finished(), "it waits");
        first
            .write(&*store, &[(key(0), totals(7), PackedBars::default())], &[])
            .await
            .expect("written");
        first
            .end(&*store)
            .await
            .expect("released: no other owner came in between");
        assert_eq!(
            job.await.expect("no panic").expect("taken over").generation,
            3
        );

        let first = Repairer::begin(&*store, || 100).await.expect("taken over");
        let second = tokio::spawn(async move {
            Repairer::begin(&*of_second, || 100)
                .await
                .map(|repairer| repairer.checkpoint().generation)
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!second.is_finished(), "it waits");
        first.end(&*store).await.expect("released");
        assert_eq!(second.await.expect("no panic").expect("taken over"), 5);
    });
}

#[test]
fn a_repairer_sends_heartbeats_at_the_interval_and_no_more_often() {
    run(async {
        let store = MemoryStore::new();
        job(&store).await;
        let mut repairer = Repairer::begin(&store, || 100).await.expect("taken over");
        let version = || async {
            store
                .checkpoint()
                .await
                .expect("read")
                .expect("a checkpoint")
                .version
        };
        let before = version().await;
        repairer.heartbeat(&store).await.expect("its own");
        assert_eq!(version().await, before, "it has just begun");
        for sign in 1..=2 {
            tokio::time::advance(HEARTBEAT_EVERY).await;
            // The repairer gives a heartbeat also while it writes.
            if sign == 1 {
                repairer.heartbeat(&store).await.expect("its own");
            } else {
                repairer
                    .write(&store, &[(key(0), totals(7), PackedBars::default())], &[])
                    .await
                    .expect("written");
            }
            assert_eq!(version().await, before + sign);
        }
        repairer
            .end(&store)
            .await
            .expect("released: no other owner came in between");
    });
}
