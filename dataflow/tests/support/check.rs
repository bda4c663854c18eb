//! Compares the store with the independent recomputation of the oracle.

use tapeflow_dataflow::JobConfig;
use tapeflow_log::Log;
use tapeflow_oracle::{Oracle, OracleBar, OracleEntry, OracleView};
use tapeflow_protocol::{Binding, Checkpoint, Counts, Store};
use tapeflow_schemas::{Offset, Partition, Policy, Price, Totals, View};

use super::memory_log::MemoryLog;

/// Checks that every bar and view in the store equals the recomputation as of its own epoch.
pub async fn check(config: &JobConfig, log: &MemoryLog, store: &dyn Store, what: &str) {
    check_without(config, log, store, what, &|_, _| false).await;
}

/// Like [`check`], without the records for which `lost` returns true.
pub async fn check_without(
    config: &JobConfig,
    log: &MemoryLog,
    store: &dyn Store,
    what: &str,
    lost: &dyn Fn(Partition, Offset) -> bool,
) {
    let checkpoint = store
        .checkpoint()
        .await
        .expect("checkpoint")
        .expect("a job has run");
    let mut oracle = Oracle::new(config.sizes.clone(), log.partitions().expect("partitions"));
    let mut any_lost = false;
    for (partition, records) in (0u32..).zip(log.0.lock().expect("log").iter()) {
        for (offset, (timestamp_ms, payload)) in (0i64..).zip(records) {
            let below = |binding: &Binding| offset < binding.cuts[partition as usize].next;
            let epoch = if below(&checkpoint.committed) {
                0
            } else {
                checkpoint
                    .bound
                    .iter()
                    .find(|b| below(b))
                    .map_or(u64::MAX, |b| b.epoch)
            };
            let is_lost = lost(partition, offset);
            any_lost |= is_lost;
            if epoch != u64::MAX && !is_lost {
                oracle.record(epoch, partition, offset, *timestamp_ms, Some(payload));
            }
        }
    }
    let mut found = 0usize;
    for (symbol, _) in store.symbols().await.expect("symbols") {
        for size in &config.sizes {
            for bar in store
                .bars(&symbol, *size, i64::MIN..i64::MAX)
                .await
                .expect("bars")
            {
                found += 1;
                // Bars of an epoch up to c contain everything committed. Later ones contain the
                // records up to their own epoch.
                let as_of = if bar.state.epoch <= checkpoint.committed.epoch {
                    0
                } else {
                    bar.state.epoch
                };
                let want = oracle.bar_as_of(symbol.as_str(), *size, bar.start, as_of);
                check_bar(
                    &bar.state.totals,
                    want,
                    &format!("{what}: {symbol} {size} {}", bar.start),
                );
            }
        }
    }
    let views = check_views(config, &oracle, store, &checkpoint, what).await;
    if checkpoint.bound.is_empty() {
        let expected_at = |(size, start)| {
            ORACLE_VIEWS
                .iter()
                .filter(|(_, of)| {
                    oracle
                        .view_as_of(*of, size, start, 0, &config.baskets)
                        .is_some()
                })
                .count()
        };
        assert_eq!(
            views,
            oracle.windows().map(expected_at).sum::<usize>(),
            "{what}: every view of the recomputation is in the store"
        );
        // I6: the sum of the counts in `history` equals the counts of all records.
        let mut sum = Counts::default();
        store
            .history(usize::MAX)
            .await
            .expect("history")
            .iter()
            .for_each(|entry| sum.add(&entry.counts));
        let want = oracle.counts();
        assert_eq!(
            (
                sum.records,
                sum.accepted,
                sum.dead_letters,
                sum.duplicates,
                sum.price_updates
            ),
            (
                want.records,
                want.accepted,
                want.dead_letters_total(),
                want.duplicates,
                want.price_updates
            ),
            "{what}: history"
        );
        // After a loss the duplicate filter comes from the binding, and so finds no gap there.
        assert!(
            any_lost || sum.gaps == want.gaps,
            "{what}: history has {} gaps, recomputed {}",
            sum.gaps,
            want.gaps
        );
        assert_eq!(
            found,
            oracle.bars().count(),
            "{what}: every bar of the recomputation is in the store"
        );
    }
}

/// Checks that a bar equals the recomputed one.
pub fn check_bar(totals: &Totals, want: Option<OracleBar>, what: &str) {
    let want = want.unwrap_or_else(|| panic!("{what} has no trades in the log"));
    for (policy, want) in [
        (Policy::All, want.all),
        (Policy::Sip, want.sip),
        (Policy::Strict, want.strict),
    ] {
        let have = totals.of_policy(policy);
        assert_eq!(
            (have.volume_e8, have.notional_e16, have.trades),
            (want.volume_e8, want.notional_e16, want.trades),
            "{what} {}",
            policy.name()
        );
    }
    let prices =
        [totals.open(), totals.high, totals.low, totals.close()].map(|price| price.map(Price::e8));
    assert_eq!(
        (prices, totals.priced),
        ([want.open, want.high, want.low, want.close], want.priced),
        "{what}"
    );
}

/// The views, and their names in the oracle.
const ORACLE_VIEWS: [(View, OracleView); 4] = [
    (View::Active, OracleView::Active),
    (View::Movers, OracleView::Movers),
    (View::Baskets, OracleView::Baskets),
    (View::Market, OracleView::Market),
];

/// Checks that every view in the store equals the recomputation as of its own epoch. Returns the
/// number of views.
async fn check_views(
    config: &JobConfig,
    oracle: &Oracle,
    store: &dyn Store,
    checkpoint: &Checkpoint,
    what: &str,
) -> usize {
    let mut found = 0;
    for (view, of) in ORACLE_VIEWS {
        for size in &config.sizes {
            for stored in store
                .views(view, *size, i64::MIN..i64::MAX)
                .await
                .expect("views")
            {
                found += 1;
                let as_of = if stored.state.epoch <= checkpoint.committed.epoch {
                    0
                } else {
                    stored.state.epoch
                };
                let want = oracle.view_as_of(of, *size, stored.start, as_of, &config.baskets);
                let have: Vec<OracleEntry> = stored
                    .state
                    .entries
                    .iter()
                    .map(|entry| OracleEntry {
                        name: entry.name.clone(),
                        symbols: entry.symbols,
                        trades: entry.trades,
                        volume: entry.volume,
                        notional: entry.notional,
                        open: entry.open.map(Price::e8),
                        close: entry.close.map(Price::e8),
                    })
                    .collect();
                assert_eq!(
                    Some(have),
                    want,
                    "{what}: {view} {size} {} of epoch {}",
                    stored.start,
                    stored.state.epoch
                );
            }
        }
    }
    found
}
