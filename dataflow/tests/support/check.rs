//! Compares the store with the independent recomputation of the oracle.

use tapeflow_dataflow::JobConfig;
use tapeflow_log::Log;
use tapeflow_oracle::{Oracle, OracleBar, OracleEntry, OracleView};
use tapeflow_protocol::{
    Binding, Checkpoint, Counts, FeedGap, Store,
    dedup::{DuplicateFilter, Verdict},
    store::feed_gap::settle,
};
use tapeflow_schemas::{
    Offset, Partition, Policy, Price, Totals, View, ViewEntry,
    codec::{Header, decode},
};

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
        let gaps = store.feed_gaps(i64::MIN..i64::MAX).await.expect("gaps");
        let want = feed_gaps(log, &checkpoint);
        // After a loss the duplicate filter comes from the binding.
        assert!(
            any_lost || gaps == want,
            "{what}: feed gaps {gaps:?}, recomputed {want:?}"
        );
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

/// The feed gaps of all committed records.
fn feed_gaps(log: &MemoryLog, checkpoint: &Checkpoint) -> Vec<FeedGap> {
    let mut gaps = Vec::new();
    let log = log.0.lock().expect("log");
    for (records, cut) in log.iter().zip(&checkpoint.committed.cuts) {
        let mut filter = DuplicateFilter::default();
        for (offset, (timestamp_ms, payload)) in (0..cut.next).zip(records) {
            let Ok(header) = decode(payload, &mut Vec::new()) else {
                continue;
            };
            let verdict = header
                .identity()
                .map(|(session, sequence)| filter.observe(session, sequence, offset));
            if let Header::FeedState(state) = header
                && matches!(verdict, Some(Verdict::Fresh { .. }))
            {
                gaps.extend(FeedGap::of(&state, state.taken_ms.min(*timestamp_ms)));
            }
        }
    }
    settle(gaps, &(i64::MIN..i64::MAX))
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
                let have = oracle_entries(&stored.state.entries);
                let place = format!(
                    "{what}: {view} {size} {} of epoch {}",
                    stored.start, stored.state.epoch
                );
                assert_eq!(Some(&have), want.as_ref(), "{place}");
                if view == View::Movers {
                    let reserve = oracle_entries(&stored.state.reserve.entries);
                    let all = oracle.movers_as_of(*size, stored.start, as_of);
                    let end = have.len() + reserve.len();
                    assert_eq!(all.get(have.len()..end), Some(&reserve[..]), "{place}");
                    assert!(
                        !stored.state.reserve.complete || end == all.len(),
                        "{place}: there are more"
                    );
                }
            }
        }
    }
    found
}

fn oracle_entries(entries: &[ViewEntry]) -> Vec<OracleEntry> {
    let oracle_entry = |entry: &ViewEntry| OracleEntry {
        quote: entry.quote,
        name: entry.name.clone(),
        symbols: entry.symbols,
        trades: entry.trades,
        volume: entry.volume,
        notional: entry.notional,
        open: entry.open.map(Price::e8),
        close: entry.close.map(Price::e8),
    };
    entries.iter().map(oracle_entry).collect()
}
