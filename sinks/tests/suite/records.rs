//! Ranges of a symbol's bars, the directory, dead letters and history.

use std::{collections::BTreeSet, sync::Arc};

use tapeflow_protocol::{
    Counts, DeadLetter, EpochWrites, FeedGap, HistoryEntry, Store, store::MAX_DEAD_LETTER_BYTES,
};
use tapeflow_schemas::{
    BarKey, SessionId, WindowStart,
    window::{BUCKET_MS, bucket},
};

use super::{key, size, start, state, symbol, write_timestamp, writes};

const DAY_US: i64 = 86_400_000_000;

async fn starts(
    store: &dyn Store,
    name: &str,
    window: &str,
    range: std::ops::Range<WindowStart>,
) -> Vec<WindowStart> {
    let rows = store
        .bars(&symbol(name), size(window), range)
        .await
        .expect("rows are read");
    rows.iter().map(|row| row.start).collect()
}

pub(super) async fn ranges_are_half_open_and_cross_buckets(store: Arc<dyn Store>) {
    let edge = bucket(start(0)) + BUCKET_MS;
    // Windows in the second of two adjacent buckets, in the one before it, and in one three buckets
    // later, with nothing between.
    let all = [
        edge - BUCKET_MS,
        edge - 60_000,
        edge,
        edge + 60_000,
        edge + 3 * BUCKET_MS,
    ];
    let rows = all.iter().zip(1..).map(|(start, seed)| {
        (
            key("AAPL", "1m", *start),
            state(1, seed),
            write_timestamp(1),
        )
    });
    store.write(&writes(rows)).await.expect("rows are written");
    let check = |from, to, want: Vec<i64>| {
        let store = Arc::clone(&store);
        async move {
            assert_eq!(
                starts(&*store, "AAPL", "1m", from..to).await,
                want,
                "{from}..{to}"
            )
        }
    };
    check(i64::MIN, i64::MAX, all.to_vec()).await;
    check(all[0], all[4], all[..4].to_vec()).await;
    check(all[0], all[4] + 1, all.to_vec()).await;
    check(all[0] + 1, all[2], vec![all[1]]).await;
    check(edge, edge + 60_000, vec![edge]).await;
    check(edge - 59_999, edge + 1, vec![edge]).await;
    check(edge + 120_000, all[4], vec![]).await;
    check(edge, edge, vec![]).await;
    check(all[4], all[0], vec![]).await;
    let rows = store
        .bars(&symbol("AAPL"), size("1m"), edge..edge + 60_001)
        .await
        .expect("rows are read");
    assert_eq!(
        rows.iter().map(|row| row.state).collect::<Vec<_>>(),
        [state(1, 3), state(1, 4)]
    );
}

pub(super) async fn sizes_are_kept_apart(store: Arc<dyn Store>) {
    let sizes = ["45s", "1m", "5m", "1h"];
    let rows = sizes.iter().zip(1..).map(|(size, seed)| {
        (
            key("AAPL", size, start(0)),
            state(1, seed),
            write_timestamp(1),
        )
    });
    store.write(&writes(rows)).await.expect("rows are written");
    for (window, seed) in sizes.iter().zip(1..) {
        let rows = store
            .bars(&symbol("AAPL"), size(window), i64::MIN..i64::MAX)
            .await
            .expect("rows are read");
        assert_eq!(
            rows.iter()
                .map(|row| (row.start, row.state))
                .collect::<Vec<_>>(),
            [(start(0), state(1, seed))],
            "{window}"
        );
    }
}

pub(super) async fn the_directory_leads_to_every_bar(store: Arc<dyn Store>) {
    let mut all: Vec<BarKey> = Vec::new();
    for name in ["ZM", "AAPL", "BINANCE:BTCUSDT", "OANDA:EUR_USD"] {
        for window in ["45s", "1m", "1h"] {
            let step = BUCKET_MS / 3;
            all.extend((0..8).map(|n| key(name, window, bucket(start(0)) + n * step)));
        }
    }
    // They are written in several epochs.
    for (epoch, keys) in (1..).zip(all.chunks(7)) {
        let rows = keys.iter().zip(0..).map(|(key, seed)| {
            (
                key.clone(),
                state(epoch, seed),
                write_timestamp(i64::try_from(epoch).expect("small")),
            )
        });
        store.write(&writes(rows)).await.expect("rows are written");
    }
    let symbols = store.symbols().await.expect("symbols are read");
    let names: Vec<_> = symbols
        .iter()
        .map(|(symbol, class)| (symbol.as_str(), class.name()))
        .collect();
    assert_eq!(
        names,
        [
            ("AAPL", "stock"),
            ("BINANCE:BTCUSDT", "crypto"),
            ("OANDA:EUR_USD", "forex"),
            ("ZM", "stock")
        ]
    );
    let mut found = Vec::new();
    for (symbol, _) in &symbols {
        for window in ["45s", "1m", "1h"] {
            found.extend(
                starts(&*store, symbol.as_str(), window, i64::MIN..i64::MAX)
                    .await
                    .into_iter()
                    .map(|start| key(symbol.as_str(), window, start)),
            );
        }
    }
    all.sort();
    found.sort();
    assert_eq!(found, all);
}

pub(super) async fn a_directory_entry_written_again_changes_nothing(store: Arc<dyn Store>) {
    let one = writes([(key("AAPL", "1m", start(0)), state(1, 1), write_timestamp(1))]);
    for _ in 0..3 {
        store.write(&one).await.expect("rows are written");
    }
    // The directory of an older epoch may arrive after that of a newer one.
    let newer = writes([(
        key("AAPL", "1m", start(BUCKET_MS)),
        state(2, 2),
        write_timestamp(2),
    )]);
    store.write(&newer).await.expect("rows are written");
    store
        .write(&EpochWrites {
            directory: one.directory.clone(),
            ..EpochWrites::default()
        })
        .await
        .expect("a directory entry alone");
    assert_eq!(store.symbols().await.expect("symbols are read").len(), 1);
    assert_eq!(
        starts(&*store, "AAPL", "1m", i64::MIN..i64::MAX).await,
        [start(0), start(BUCKET_MS)]
    );
}

fn dead_letter(partition: u32, offset: i64, index: u32) -> DeadLetter {
    let payload = (0..=255)
        .cycle()
        .take(usize::try_from(offset % 5).expect("small") * 100)
        .collect();
    DeadLetter {
        partition,
        offset,
        index,
        reason: "price".into(),
        detail: format!("price is negative: '{offset}' \"\u{20ac}\""),
        payload,
    }
}

async fn write_dead_letters(store: &dyn Store, dead_letters: &[DeadLetter]) {
    store
        .write(&EpochWrites {
            dead_letters: dead_letters.to_vec(),
            ..EpochWrites::default()
        })
        .await
        .expect("dead letters are written");
}

pub(super) async fn dead_letters_are_kept_whole_and_in_order(store: Arc<dyn Store>) {
    let mut all: Vec<DeadLetter> = (0..4)
        .flat_map(|partition| {
            (0..9)
                .map(move |n| dead_letter(partition, 13 * n, u32::try_from(n % 3).expect("small")))
        })
        .collect();
    all.extend([
        dead_letter(0, 13, 0),
        dead_letter(0, 13, 11),
        dead_letter(3, i64::MAX, u32::MAX),
    ]);
    all.push(DeadLetter {
        payload: vec![0xff; MAX_DEAD_LETTER_BYTES],
        detail: String::new(),
        ..dead_letter(2, 7, 0)
    });
    all.sort_by_key(DeadLetter::position);
    let (odd, even): (Vec<_>, Vec<_>) = all
        .iter()
        .cloned()
        .enumerate()
        .partition(|(n, _)| n % 2 == 1);
    for half in [odd, even] {
        let dead_letters: Vec<_> = half
            .into_iter()
            .rev()
            .map(|(_, dead_letter)| dead_letter)
            .collect();
        write_dead_letters(&*store, &dead_letters).await;
    }
    for limit in [0, 1, 7, all.len(), all.len() + 1, usize::MAX] {
        let found = store
            .dead_letters(limit)
            .await
            .expect("dead letters are read");
        assert_eq!(found, all[..limit.min(all.len())], "limit {limit}");
    }
}

pub(super) async fn a_dead_letter_written_again_is_one_dead_letter(store: Arc<dyn Store>) {
    let all = [
        dead_letter(0, 1, 0),
        dead_letter(0, 1, 1),
        dead_letter(1, 1, 0),
    ];
    write_dead_letters(&*store, &all).await;
    write_dead_letters(&*store, &all).await;
    assert_eq!(
        store.dead_letters(10).await.expect("dead letters are read"),
        all
    );
}

/// The entry of an epoch `day` days after the time of the suite.
fn entry(epoch: u64, day: i64) -> HistoryEntry {
    let n = epoch * 10;
    let counts = Counts {
        records: n,
        accepted: n + 1,
        dead_letters: n + 2,
        duplicates: n + 3,
        price_updates: n + 4,
        gaps: n + 5,
        late: n + 6,
    };
    let write_timestamp = write_timestamp(day * DAY_US + i64::try_from(epoch).expect("small"));
    HistoryEntry {
        epoch,
        write_timestamp,
        cuts: vec![0, i64::MAX, i64::try_from(n).expect("small")],
        counts,
    }
}

pub(super) async fn history_comes_newest_first(store: Arc<dyn Store>) {
    let all = [
        entry(1, 0),
        entry(2, 0),
        entry(3, 0),
        entry(4, 1),
        entry(9, 2),
        entry(10, 2),
        entry(11, 20),
        entry(100, 20),
    ];
    // A committed epoch's entry is written before its commit, so an older one may be written again
    // after a newer.
    store
        .write_history(&all[4..], 0)
        .await
        .expect("history is written");
    store
        .write_history(&all[..5], 0)
        .await
        .expect("history is written");
    let newest: Vec<_> = all.iter().rev().cloned().collect();
    for limit in [0, 1, 3, 6, 8, 9, usize::MAX] {
        let found = store.history(limit).await.expect("history is read");
        assert_eq!(found, newest[..limit.min(newest.len())], "limit {limit}");
    }
}

pub(super) async fn a_history_entry_written_again_is_one_entry(store: Arc<dyn Store>) {
    for _ in 0..3 {
        store
            .write_history(&[entry(7, 0), entry(8, 0)], 0)
            .await
            .expect("history is written");
    }
    assert_eq!(
        store.history(10).await.expect("history is read"),
        [entry(8, 0), entry(7, 0)]
    );
}

pub(super) async fn feed_gaps_are_read_by_time_and_one_written_again_is_one(store: Arc<dyn Store>) {
    let gap = |id, from_ms, to_ms| FeedGap {
        from_ms,
        to_ms,
        session: SessionId([id; 16]),
        producer: format!("producer é {id}"),
        cause: "silent".into(),
    };
    let edge = bucket(start(0)) + BUCKET_MS;
    // Within a bucket, across three of them, without length, without an end, and ended later.
    let short = gap(1, edge - 60_000, Some(edge - 50_000));
    let long = gap(2, edge - 10, Some(edge + BUCKET_MS + 10));
    let point = gap(3, edge + 7, Some(edge + 7));
    let open = gap(4, edge + BUCKET_MS + 5, None);
    let (away, back) = (gap(5, edge + 20, None), gap(5, edge + 20, Some(edge + 30)));
    let all = [&short, &long, &point, &open, &away, &back].map(Clone::clone);
    for some in [&all[..], &all[..3], &all[2..]] {
        let writes = EpochWrites {
            feed_gaps: some.to_vec(),
            ..EpochWrites::default()
        };
        store.write(&writes).await.expect("gaps are written");
    }
    let check = async |from, to, want: &[&FeedGap]| {
        let found = store.feed_gaps(from..to).await.expect("gaps are read");
        assert_eq!(found.iter().collect::<Vec<_>>(), want, "{from}..{to}");
    };
    check(i64::MIN, i64::MAX, &[&short, &long, &point, &back, &open]).await;
    check(edge - 60_000, edge - 59_999, &[&short]).await;
    check(edge - 70_000, edge - 60_000, &[]).await;
    check(edge - 50_000, edge - 10, &[]).await;
    check(edge, edge + 7, &[&long]).await;
    check(edge, edge + 8, &[&long, &point]).await;
    check(edge + 25, edge + 26, &[&long, &back]).await;
    check(edge + BUCKET_MS, edge + BUCKET_MS + 1, &[&long]).await;
    check(edge + 2 * BUCKET_MS, edge + 2 * BUCKET_MS + 1, &[&open]).await;
    check(edge + 3 * BUCKET_MS, i64::MAX, &[]).await;
    // As they are stored: `away` is one of its own.
    let stored = store.audit_feed_gaps().await.expect("gaps are read");
    let expected: BTreeSet<&FeedGap> = all.iter().collect();
    assert_eq!(stored.keys().collect::<BTreeSet<_>>(), expected);
    for (gap, found) in &stored {
        let buckets = gap.buckets().count();
        assert!([buckets, usize::MAX].contains(found), "{gap:?}: {found}");
    }
    assert_eq!(long.buckets().count(), 3);
}
