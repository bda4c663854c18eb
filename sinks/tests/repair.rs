//! Repair on the memory store: what is repaired holds, what was under way loses, and a job waits for a
//! repairer.

use std::{sync::Arc, time::Duration};

use tapeflow_protocol::{
    Cut, EpochWrites, Head, SourceIdentity, Store,
    decide::{self, Opening},
    repair::{Healer, SIGN_EVERY, has_fenced, is_healer, is_healing},
    workflow::{self, WorkflowError},
};
use tapeflow_schemas::{Epoch, RowKey, RowState, RowWrite, Stamp, Totals, View, ViewKey};
use tapeflow_sinks::memory::{Accepted, Call, Fault, MemoryStore};

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
        .start_paused(true)
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
        let taken = decide::take_over(Some(&found), &opening("job"), 100).expect("the same job");
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
        let job =
            tokio::spawn(
                async move { workflow::take_over(&*of_job, &opening("job"), || 100).await },
            );
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
                .map(|healer| healer.head().generation)
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
            tokio::time::advance(SIGN_EVERY).await;
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
