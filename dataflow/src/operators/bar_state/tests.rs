//! The bar state without a dataflow: what it reads, and which bars it refuses.

use std::sync::Arc;

use tapeflow_protocol::{
    EpochStore, SourceIdentity,
    decide::{self, Opening},
};
use tapeflow_schemas::{Conditions, EventTime, PartialRows, Position, Price, Size, Trade};
use tapeflow_sinks::memory::MemoryStore;
use timely::scheduling::SyncActivator;

use super::*;
use crate::epoch_timestamps::EpochTimestamps;

const SIZE: &str = "1m";
const START: WindowStart = 60_000;

fn key(symbol: &str) -> BarKey {
    BarKey {
        symbol: Symbol::new(symbol).expect("a symbol"),
        size: SIZE.parse().expect("a size"),
        start: START,
    }
}

fn one_trade() -> Totals {
    let number = "1";
    let trade = Trade::new(
        EventTime::from_ms(START).expect("a time"),
        Price::parse(number).expect("a price").value,
        Size::parse(number).expect("a size").value,
        Conditions::NONE,
    )
    .expect("a trade");
    let position = Position {
        partition: 0,
        offset: 0,
        index: 0,
    };
    Totals::of(&trade, position, false)
}

/// Runs a test with a bar state that took over a store at epoch 3, nothing of which is left to
/// replay, and has bound the epochs 4 to 6.
fn with_bars(resident_bars: usize, test: impl FnOnce(&mut ResidentBars, &MemoryStore)) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (store, failure) = (MemoryStore::new(), Failure::default());
    let opening = Opening {
        job: "j".into(),
        fingerprint: "f".into(),
        source: SourceIdentity {
            cluster: "c".into(),
            topic: "t".into(),
            topic_id: None,
        },
        earliest: vec![0],
        owner: "o".into(),
    };
    let mut checkpoint = decide::take_over(None, &opening, 1_000).expect("a fresh store");
    checkpoint.committed.epoch = 3;
    checkpoint.committed.cuts[0].watermark_ms = Some(START + 1_000_000);
    let timestamps = EpochTimestamps {
        checkpoint: Some(Rc::new(checkpoint)),
        bound: (4..=6).map(|epoch| (epoch, 2_000 + epoch as i64)).collect(),
    };
    let settings = StateSettings {
        sizes: vec![SIZE.parse().expect("a size")],
        resident_bars,
        limits: Limits::default(),
        io: StoreIo::new(
            runtime.handle().clone(),
            Arc::new(store.clone()),
            &Limits::default(),
            failure.clone(),
        ),
        timestamps: Rc::new(std::cell::RefCell::new(timestamps)),
        acknowledged: Acknowledged::default(),
        failure,
        metrics: Arc::default(),
    };
    let wake: SyncActivator =
        timely::execute_directly(|worker| worker.sync_activator_for(Vec::new()));
    test(&mut ResidentBars::new(settings, wake), &store);
}

fn whole() -> Piece {
    let hash = HashState::default();
    Piece {
        number: 0,
        of: 1,
        hash,
    }
}

fn partials(symbol: &str) -> [SymbolPartials; 1] {
    let mut rows = PartialRows::default();
    rows.push((0, START), &one_trade(), &mut []);
    let (symbol, epoch) = (key(symbol).symbol, 4);
    [SymbolPartials {
        symbol,
        epoch,
        rows,
    }]
}

/// A bar of epoch 4 that this process reads while it adds epoch 4 was written by another
/// generation, which may have counted other records in it.
#[test]
fn a_bar_of_the_epoch_that_is_being_added_is_of_another_generation() {
    for (stored, fenced) in [(3, false), (4, true), (5, true)] {
        with_bars(8, |bars, _| {
            let state = BarState {
                epoch: stored,
                totals: one_trade(),
            };
            bars.replies.insert(key("A"), Some(state.into_row()));
            let added = bars.add(4, 2_004, &mut partials("A"), &whole());
            assert_eq!(
                matches!(added, Err(JobError::Fenced(_))),
                fenced,
                "a bar of epoch {stored}"
            );
        });
    }
}

/// 1. A bar is in memory when its partial arrives, so it is not requested.
/// 2. It is evicted before the partial's epoch is complete.
/// 3. The epoch is complete: it must be requested now, or the partial is added to nothing.
#[test]
fn a_bar_that_was_evicted_after_its_partial_arrived_is_read_before_it_is_added_to() {
    with_bars(1, |bars, store| {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let written: Vec<BarWrite> = ["A", "B"]
            .map(|symbol| BarWrite {
                key: key(symbol),
                state: BarState {
                    epoch: 3,
                    totals: one_trade(),
                },
                packed: PackedBars::default(),
                write_timestamp: 1_500,
            })
            .into();
        for bar in &written {
            bars.replies
                .insert(bar.key.clone(), Some(bar.state.into_row()));
        }
        for symbol in ["A", "B"] {
            bars.add(4, 2_004, &mut partials(symbol), &whole())
                .expect("added");
        }
        let evolved: Vec<BarWrite> = ["A", "B"]
            .map(|symbol| BarWrite {
                key: key(symbol),
                state: BarState {
                    epoch: 4,
                    totals: bars.resident[&key(symbol)].totals,
                },
                packed: PackedBars::default(),
                write_timestamp: 2_004,
            })
            .into();
        let writes = EpochWrites {
            bars: evolved,
            ..EpochWrites::default()
        };
        runtime.block_on(store.write(&writes)).expect("written");
        assert!(!bars.must_read(&key("A")), "it is in memory");
        let keys = writes.bars.into_iter().map(|bar| (bar.key, 4));
        bars.settings.acknowledged.borrow_mut().bars.extend(keys);
        bars.receive_from_store();
        // As after a look that found all bars in memory or requested.
        bars.recheck = false;
        bars.evict();
        assert_eq!(bars.resident.len(), 1, "one of the two is evicted");
        let evicted = ["A", "B"]
            .into_iter()
            .find(|symbol| !bars.resident.contains_key(&key(symbol)))
            .expect("one");
        assert!(bars.recheck, "what was found in memory is looked for again");
        assert!(bars.must_read(&key(evicted)));
    });
}
