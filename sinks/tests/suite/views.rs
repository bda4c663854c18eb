//! Views: a view is written as a whole, the greater write timestamp wins, and a view is read as it
//! was written.

use std::{ops::Range, sync::Arc};

use tapeflow_protocol::{EpochWrites, Store};
use tapeflow_schemas::{
    Price, QuoteCurrency, StoredView, View, ViewEntry, ViewKey, ViewState, ViewWrite, WindowStart,
    WriteTimestamp,
    decimal::MAX_PRICE_E8,
    view::{Reserve, TOP},
    window::{BUCKET_MS, bucket},
};

use super::{key, size, start, state, write_timestamp, writes};

/// The key of a view.
fn view_key(view: View, window: &str, start: WindowStart) -> ViewKey {
    ViewKey {
        view,
        size: size(window),
        start,
    }
}

/// An entry with values computed from `seed`. Every field differs for all seeds.
fn entry(name: &str, seed: u32) -> ViewEntry {
    let price = |plus: i64| Price::from_e8(16_406_010_000 + i64::from(seed) * 10 + plus).ok();
    ViewEntry {
        quote: QuoteCurrency::of(name),
        name: name.into(),
        symbols: u64::from(seed) + 1,
        trades: u64::from(seed) + 2,
        volume: Some(500_000_000 + i128::from(seed)),
        notional: Some(82_030_050_000_000_000_000 + i128::from(seed)),
        open: price(1),
        close: price(2),
    }
}

/// A view of `length` entries as of an epoch.
fn list(epoch: u64, length: u32) -> ViewState {
    let epoch_seed = u32::try_from(epoch).expect("small") * 1_000;
    let named = |n| entry(&format!("S{epoch}-{n}"), epoch_seed + n);
    ViewState {
        epoch,
        entries: (0..length).map(named).collect(),
        reserve: Reserve {
            entries: (length..length + 2).map(named).collect(),
            complete: length > 2,
        },
    }
}

async fn write(
    store: &dyn Store,
    lists: impl IntoIterator<Item = (ViewKey, ViewState, WriteTimestamp)>,
) {
    let views = lists
        .into_iter()
        .map(|(key, state, write_timestamp)| ViewWrite {
            key,
            state,
            write_timestamp,
        })
        .collect();
    store
        .write(&EpochWrites {
            views,
            ..EpochWrites::default()
        })
        .await
        .expect("lists are written");
}

async fn read(
    store: &dyn Store,
    view: View,
    window: &str,
    range: Range<WindowStart>,
) -> Vec<(WindowStart, ViewState)> {
    let lists = store
        .views(view, size(window), range)
        .await
        .expect("lists are read");
    lists
        .into_iter()
        .map(|StoredView { start, state }| (start, state))
        .collect()
}

/// Reads a view as readers do, and as the job does, beside one that there is not.
async fn read_one(store: &dyn Store, key: &ViewKey) -> Vec<(WindowStart, ViewState)> {
    let found = read(
        store,
        key.view,
        &key.size.to_string(),
        key.start..key.start + 1,
    )
    .await;
    let absent = ViewKey {
        start: key.start + 7 * key.size.ms(),
        ..*key
    };
    let by_key = store
        .read_views(&[absent, *key])
        .await
        .expect("views are read");
    let expected = found.first().map(|(_, state)| state.clone());
    assert_eq!(by_key, [None, expected], "{key}");
    found
}

pub(super) async fn the_greater_write_timestamp_of_a_view_wins_in_any_order_of_arrival(
    store: Arc<dyn Store>,
) {
    let orders = [
        [1, 2, 3],
        [1, 3, 2],
        [2, 1, 3],
        [2, 3, 1],
        [3, 1, 2],
        [3, 2, 1],
    ];
    for view in View::EVERY {
        for (minute, order) in (0..).zip(orders) {
            let key = view_key(view, "1m", start(60_000 * minute));
            let mut greatest = 0;
            for epoch in order {
                // The lengths differ, so that whole views and not ranks must win.
                let state = |epoch: u32| list(u64::from(epoch), [0, 4, 2, 3][epoch as usize]);
                write(
                    &*store,
                    [(key, state(epoch), write_timestamp(i64::from(epoch)))],
                )
                .await;
                greatest = greatest.max(epoch);
                assert_eq!(
                    read_one(&*store, &key).await,
                    [(key.start, state(greatest))],
                    "{view}, order {order:?}, after epoch {epoch}"
                );
            }
        }
    }
}

pub(super) async fn a_view_written_again_at_its_write_timestamp_is_harmless(store: Arc<dyn Store>) {
    let key = view_key(View::Movers, "1m", start(0));
    for epoch in [1, 2, 2, 1, 2] {
        write(
            &*store,
            [(
                key,
                list(epoch, 3),
                write_timestamp(i64::try_from(epoch).expect("small")),
            )],
        )
        .await;
    }
    assert_eq!(read_one(&*store, &key).await, [(key.start, list(2, 3))]);
    // A replay after a take-over writes the same content at a greater write timestamp.
    write(&*store, [(key, list(2, 3), write_timestamp(9))]).await;
    assert_eq!(read_one(&*store, &key).await, [(key.start, list(2, 3))]);
}

pub(super) async fn views_are_read_back_exactly(store: Arc<dyn Store>) {
    let price = |e8| Price::from_e8(e8).ok();
    let greatest = ViewEntry {
        symbols: i64::MAX as u64,
        trades: i64::MAX as u64,
        volume: Some(i128::MAX),
        notional: Some(i128::MAX),
        open: price(1),
        close: price(MAX_PRICE_E8),
        ..entry("G", 0)
    };
    let least = ViewEntry {
        symbols: 0,
        trades: 0,
        volume: Some(0),
        notional: Some(0),
        open: price(MAX_PRICE_E8),
        close: price(1),
        ..entry("L", 0)
    };
    let tiny = ViewEntry {
        volume: Some(1),
        notional: Some(i128::MAX),
        open: None,
        close: None,
        ..entry("T", 0)
    };
    let no_volume = ViewEntry {
        volume: Some(0),
        notional: Some(0),
        close: None,
        ..entry("N", 0)
    };
    let no_sums = ViewEntry {
        volume: None,
        notional: None,
        ..entry("S", 0)
    };
    let names = [
        "IC MARKETS:1",
        "OANDA:USD_JPY",
        "O'NEIL",
        "say \"x\"",
        "';--",
        "%",
        "\\",
        "?",
        "ÄÖÜ",
        "A\u{308}",
        "株式",
        "\u{1f4c8}",
        " ",
        "0",
        "NULL",
        "brk.b",
        "BRK.B",
    ];
    let longest = |n: u32| entry(&format!("{n:04}{}", "é".repeat(30)), n);
    assert_eq!(longest(63).name.len(), 64, "the longest names there can be");
    let contents = [
        Vec::new(),
        vec![greatest, least, tiny, no_volume, no_sums],
        names
            .iter()
            .zip(0..)
            .map(|(name, seed)| entry(name, seed))
            .collect(),
        (0..64).map(longest).collect(),
        // The job prevents that a name occurs twice. The store accepts it.
        vec![entry("X", 1), entry("X", 1)],
    ];
    // The New York day of 1970-01-01 starts before 1970; the last one is the day before 2200.
    let starts = [-68_400_000, 7_258_032_000_000];
    let mut all = Vec::new();
    for view in View::EVERY {
        for (window, entries) in ["1d", "1h", "5m", "2m", "1m"].into_iter().zip(&contents) {
            let state = ViewState::new(i64::MAX as u64, entries.clone());
            all.extend(starts.map(|start| {
                (
                    view_key(view, window, start),
                    state.clone(),
                    write_timestamp(1),
                )
            }));
        }
    }
    write(&*store, all.iter().cloned()).await;
    for (key, state, _) in &all {
        let want = starts.map(|start| (start, state.clone()));
        assert_eq!(
            read(&*store, key.view, &key.size.to_string(), i64::MIN..i64::MAX).await,
            want,
            "{key}"
        );
        let audited = store
            .audit_views(key.view, key.size, i64::MIN..i64::MAX, u64::MAX)
            .await
            .expect("lists are read");
        let audited: Vec<_> = audited
            .into_iter()
            .map(|list| (list.start, list.state, list.mismatches, list.ahead))
            .collect();
        assert_eq!(
            audited,
            want.map(|(start, state)| (start, Some(state), Vec::new(), None)),
            "{key}: the lines beside the cell say the same"
        );
    }
}

pub(super) async fn a_view_that_became_shorter_leaves_no_entries(store: Arc<dyn Store>) {
    let length = u32::try_from(TOP).expect("small");
    for view in View::EVERY {
        let key = view_key(view, "1m", start(0));
        for (epoch, length) in (1..).zip([length, 3, 1, 0, 2]) {
            write(
                &*store,
                [(
                    key,
                    list(epoch, length),
                    write_timestamp(i64::try_from(epoch).expect("small")),
                )],
            )
            .await;
            assert_eq!(
                read_one(&*store, &key).await,
                [(key.start, list(epoch, length))],
                "{view}, {length} lines"
            );
        }
    }
}

pub(super) async fn ranges_of_views_are_half_open_and_cross_buckets(store: Arc<dyn Store>) {
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
    let lists = all.iter().zip(1..).map(|(start, epoch)| {
        (
            view_key(View::Active, "1m", *start),
            list(epoch, 2),
            write_timestamp(1),
        )
    });
    write(&*store, lists).await;
    let check = |from, to, want: Vec<i64>| {
        let store = Arc::clone(&store);
        async move {
            let starts: Vec<_> = read(&*store, View::Active, "1m", from..to)
                .await
                .into_iter()
                .map(|(start, _)| start)
                .collect();
            assert_eq!(starts, want, "{from}..{to}");
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
    assert_eq!(
        read(&*store, View::Active, "1m", edge..edge + 60_001).await,
        [(edge, list(3, 2)), (edge + 60_000, list(4, 2))]
    );
}

pub(super) async fn views_sizes_and_starts_are_kept_apart(store: Arc<dyn Store>) {
    let keys: Vec<_> = View::EVERY
        .into_iter()
        .flat_map(|view| {
            ["1m", "5m", "1h"].into_iter().flat_map(move |window| {
                [0, 1].map(|n| view_key(view, window, start(n * size(window).ms())))
            })
        })
        .collect();
    // All are in one write, each with its own write timestamp.
    write(
        &*store,
        keys.iter().zip(1..).map(|(key, n)| {
            (
                *key,
                list(n, 2),
                write_timestamp(i64::try_from(n).expect("small")),
            )
        }),
    )
    .await;
    // Half of them are written again.
    write(
        &*store,
        keys.iter()
            .zip(1..)
            .skip(1)
            .step_by(2)
            .map(|(key, n)| (*key, list(n + 100, 1), write_timestamp(100))),
    )
    .await;
    for (pair, n) in keys.chunks(2).zip((1..).step_by(2)) {
        let want = [
            (pair[0].start, list(n, 2)),
            (pair[1].start, list(n + 101, 1)),
        ];
        assert_eq!(
            read(
                &*store,
                pair[0].view,
                &pair[0].size.to_string(),
                i64::MIN..i64::MAX
            )
            .await,
            want,
            "{}",
            pair[0]
        );
    }
    assert_eq!(
        read(&*store, View::Active, "1d", i64::MIN..i64::MAX).await,
        []
    );
}

pub(super) async fn concurrent_writers_of_one_view_leave_the_greatest_write_timestamp(
    store: Arc<dyn Store>,
) {
    let key = view_key(View::Movers, "1m", start(0));
    let barrier = Arc::new(tokio::sync::Barrier::new(16));
    let tasks: Vec<_> = (1..=16)
        .map(|n: u32| {
            let (store, barrier) = (Arc::clone(&store), Arc::clone(&barrier));
            tokio::spawn(async move {
                barrier.wait().await;
                // The order is scattered: the greatest is neither sent first nor last.
                let epoch = (n * 7) % 17;
                write(
                    &*store,
                    [(
                        key,
                        list(u64::from(epoch), 1 + epoch % 10),
                        write_timestamp(i64::from(epoch)),
                    )],
                )
                .await;
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no writer panics");
    }
    assert_eq!(read_one(&*store, &key).await, [(key.start, list(16, 7))]);
}

pub(super) async fn bars_and_views_fit_one_write(store: Arc<dyn Store>) {
    let minutes: Vec<_> = (0..40).map(|minute| start(60_000 * minute)).collect();
    let rows = minutes.iter().zip(1..).map(|(start, seed)| {
        (
            key("AAPL", "1m", *start),
            state(1, seed),
            write_timestamp(1),
        )
    });
    let lists = |epoch, length| {
        let keys = minutes
            .iter()
            .flat_map(|start| View::EVERY.map(|view| view_key(view, "1m", *start)));
        keys.map(|key| ViewWrite {
            key,
            state: list(epoch, length),
            write_timestamp: write_timestamp(i64::try_from(epoch).expect("small")),
        })
        .collect::<Vec<_>>()
    };
    let both = EpochWrites {
        views: lists(1, 10),
        ..writes(rows)
    };
    store
        .write(&both)
        .await
        .expect("rows and lists are written");
    // A bar of a later epoch is written with a stale view, and the other way round. Each is decided
    // by its own write timestamp.
    store
        .write(&EpochWrites {
            views: lists(3, 5),
            ..EpochWrites::default()
        })
        .await
        .expect("lists alone are written");
    let (row, newer) = (key("AAPL", "1m", minutes[0]), state(2, 99));
    store
        .write(&EpochWrites {
            views: lists(2, 7),
            ..writes([(row.clone(), newer, write_timestamp(2))])
        })
        .await
        .expect("rows and lists are written");
    let found = store
        .read_bars(&[row, key("AAPL", "1m", minutes[39])])
        .await
        .expect("rows are read");
    assert_eq!(
        found,
        [Some(newer.into_row()), Some(state(1, 40).into_row())]
    );
    for view in View::EVERY {
        let want: Vec<_> = minutes.iter().map(|start| (*start, list(3, 5))).collect();
        assert_eq!(
            read(&*store, view, "1m", minutes[0]..minutes[39] + 1).await,
            want,
            "{view}"
        );
    }
}
