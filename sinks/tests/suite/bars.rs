//! Bars: the greater write timestamp wins in every order of arrival, and a bar is read as it was
//! written.

use std::sync::Arc;

use tapeflow_protocol::DirectoryEntry;
use tapeflow_protocol::{EpochWrites, Store};
use tapeflow_schemas::{
    BarKey, BarState, BarWrite, PackedBar, PackedBars, Position, Price, Sums, Totals, View,
    WriteTimestamp,
    decimal::{MAX_NOTIONAL_E16, MAX_PRICE_E8, MAX_SIZE_E8},
    symbol::MAX_SYMBOL_BYTES,
    totals::{MAX_BAR_TRADES, Mark},
};

use super::{key, size, start, state, write_timestamp, writes};

async fn write(
    store: &dyn Store,
    rows: impl IntoIterator<Item = (BarKey, BarState, WriteTimestamp)>,
) {
    store.write(&writes(rows)).await.expect("rows are written");
}

async fn read(store: &dyn Store, key: &BarKey) -> Option<BarState> {
    let rows = store
        .read_bars(std::slice::from_ref(key))
        .await
        .expect("rows are read");
    assert_eq!(rows.len(), 1, "one answer a key");
    rows.into_iter().next().flatten().map(|row| row.state)
}

pub(super) async fn bars_are_read_in_the_order_of_the_keys(store: Arc<dyn Store>) {
    let keys = [
        key("MSFT", "1m", start(0)),
        key("AAPL", "1m", start(60_000)),
        key("AAPL", "1h", start(60_000)),
        key("AAPL", "1m", start(0)),
    ];
    write(
        &*store,
        keys.iter()
            .zip(1..)
            .map(|(key, seed)| (key.clone(), state(1, seed), write_timestamp(1))),
    )
    .await;
    let absent = [
        key("TSLA", "1m", start(0)),
        key("AAPL", "1m", start(120_000)),
        key("AAPL", "5m", start(0)),
    ];
    let asked = [
        &keys[2], &absent[0], &keys[0], &absent[1], &keys[3], &keys[1], &absent[2], &keys[2],
    ]
    .map(Clone::clone);
    let want = [
        Some(3),
        None,
        Some(1),
        None,
        Some(4),
        Some(2),
        None,
        Some(3),
    ]
    .map(|seed| seed.map(|seed| state(1, seed).into_row()));
    assert_eq!(store.read_bars(&asked).await.expect("rows are read"), want);
}

pub(super) async fn nothing_to_read_or_write_is_no_error(store: Arc<dyn Store>) {
    assert_eq!(store.read_bars(&[]).await.expect("nothing is read"), []);
    store
        .write(&EpochWrites::default())
        .await
        .expect("nothing is written");
    store
        .write_history(&[], 0)
        .await
        .expect("no history is written");
    assert_eq!(store.symbols().await.expect("no symbols"), []);
    assert_eq!(store.dead_letters(10).await.expect("no dead letters"), []);
    assert_eq!(store.history(10).await.expect("no history"), []);
    assert_eq!(
        store
            .views(View::Active, size("1m"), i64::MIN..i64::MAX)
            .await
            .expect("no lists"),
        []
    );
    let absent = key("AAPL", "1m", start(0));
    assert_eq!(
        store
            .bars(&absent.symbol, absent.size, i64::MIN..i64::MAX)
            .await
            .expect("no rows"),
        []
    );
    assert!(!store.describe().is_empty());
}

pub(super) async fn the_greater_write_timestamp_wins_in_any_order_of_arrival(
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
    for (minute, order) in (0..).zip(orders) {
        let key = key("AAPL", "1m", start(60_000 * minute));
        let mut greatest = 0;
        for epoch in order {
            write(
                &*store,
                [(
                    key.clone(),
                    state(u64::from(epoch), epoch),
                    write_timestamp(i64::from(epoch)),
                )],
            )
            .await;
            greatest = greatest.max(epoch);
            assert_eq!(
                read(&*store, &key).await,
                Some(state(u64::from(greatest), greatest)),
                "order {order:?}, after epoch {epoch}"
            );
        }
        let rows = store
            .bars(&key.symbol, key.size, key.start..key.start + 1)
            .await
            .expect("rows are read");
        assert_eq!(
            rows.iter().map(|row| row.state).collect::<Vec<_>>(),
            [state(3, 3)],
            "order {order:?}"
        );
    }
}

pub(super) async fn an_equal_write_timestamp_with_equal_content_is_harmless(store: Arc<dyn Store>) {
    let key = key("AAPL", "1m", start(0));
    for epoch in [1, 2, 2, 1, 2] {
        write(
            &*store,
            [(
                key.clone(),
                state(epoch, 5),
                write_timestamp(i64::try_from(epoch).expect("small")),
            )],
        )
        .await;
    }
    assert_eq!(read(&*store, &key).await, Some(state(2, 5)));
    // A replay after a take-over writes the same content at a greater write timestamp.
    write(&*store, [(key.clone(), state(2, 5), write_timestamp(9))]).await;
    assert_eq!(read(&*store, &key).await, Some(state(2, 5)));
}

pub(super) async fn each_bar_of_a_write_has_its_own_write_timestamp(store: Arc<dyn Store>) {
    // Both bars are in one partition of the table: stores write such rows in one statement.
    let (old, new) = (
        key("AAPL", "1m", start(0)),
        key("AAPL", "1m", start(60_000)),
    );
    write(
        &*store,
        [
            (old.clone(), state(5, 5), write_timestamp(5)),
            (new.clone(), state(3, 3), write_timestamp(3)),
        ],
    )
    .await;
    write(
        &*store,
        [
            (old.clone(), state(4, 4), write_timestamp(4)),
            (new.clone(), state(4, 4), write_timestamp(4)),
        ],
    )
    .await;
    assert_eq!(
        read(&*store, &old).await,
        Some(state(5, 5)),
        "the write of write timestamp 4 is stale here"
    );
    assert_eq!(
        read(&*store, &new).await,
        Some(state(4, 4)),
        "and newer there"
    );
}

pub(super) async fn unusual_symbols_are_kept_apart_and_whole(store: Arc<dyn Store>) {
    let longest = "L".repeat(MAX_SYMBOL_BYTES);
    let names = [
        "IC MARKETS:1",
        "BINANCE:BTCUSDT",
        "BRK.B",
        "brk.b",
        "BRK",
        "O'NEIL",
        "say \"x\"",
        "';--",
        "%",
        "_",
        "\\",
        "{}",
        "?",
        "$1",
        "0",
        "-1",
        "NULL",
        "null",
        "1e5",
        "0x10",
        &longest,
    ];
    let all: Vec<_> = names
        .iter()
        .zip(1..)
        .map(|(name, seed)| {
            (
                key(name, "1m", start(0)),
                state(1, seed),
                write_timestamp(1),
            )
        })
        .collect();
    write(&*store, all.iter().cloned()).await;
    for (key, state, _) in &all {
        assert_eq!(
            read(&*store, key).await.as_ref(),
            Some(state),
            "{:?}",
            key.symbol
        );
        let rows = store
            .bars(&key.symbol, key.size, start(0)..start(1))
            .await
            .expect("rows are read");
        assert_eq!(
            rows.iter().map(|row| row.state).collect::<Vec<_>>(),
            [*state],
            "{:?}",
            key.symbol
        );
    }
    let mut want: Vec<_> = all
        .iter()
        .map(|(key, ..)| (key.symbol.clone(), key.symbol.class()))
        .collect();
    want.sort();
    assert_eq!(store.symbols().await.expect("symbols are read"), want);
}

pub(super) async fn extreme_values_are_kept_exactly(store: Arc<dyn Store>) {
    let price = |e8| Price::from_e8(e8).expect("a price");
    let mark = |e8, event_ms| Mark {
        event_ms,
        position: Position {
            partition: u32::MAX,
            offset: i64::MAX,
            index: u32::MAX,
        },
        price: price(e8),
    };
    let greatest = Sums {
        volume_e8: i128::from(MAX_BAR_TRADES) * MAX_SIZE_E8,
        notional_e16: i128::from(MAX_BAR_TRADES) * MAX_NOTIONAL_E16,
        trades: MAX_BAR_TRADES,
    };
    let tiny = Sums {
        volume_e8: 1,
        notional_e16: 1,
        trades: 1,
    };
    let huge_vwap = Sums {
        volume_e8: 1,
        notional_e16: MAX_NOTIONAL_E16,
        trades: 1,
    };
    let cases = [
        Totals::default(),
        // Odd lots only: volume, and no price.
        Totals {
            sums: [tiny, tiny, Sums::default()],
            ..Totals::default()
        },
        Totals {
            sums: [greatest; 3],
            priced: MAX_BAR_TRADES,
            revision: MAX_BAR_TRADES,
            sole_trades: MAX_BAR_TRADES,
            sole_price_e8: i128::from(MAX_BAR_TRADES) * i128::from(MAX_PRICE_E8),
            ..Totals::default()
        },
        Totals {
            sums: [huge_vwap; 3],
            high: Some(price(MAX_PRICE_E8)),
            low: Some(price(1)),
            ..Totals::default()
        },
        Totals {
            first: Some(mark(1, 0)),
            last: Some(mark(MAX_PRICE_E8, 7_258_118_399_999)),
            ..Totals::default()
        },
        Totals {
            first: Some(mark(1, 0)),
            ..Totals::default()
        },
    ];
    // The New York day of 1970-01-01 starts before 1970; the last one is the day before 2200.
    let starts = [-68_400_000, 7_258_032_000_000];
    let all: Vec<_> = starts
        .iter()
        .flat_map(|start| {
            (0..).zip(&cases).map(move |(n, totals)| {
                (
                    key(&format!("S{n}"), "1d", *start),
                    BarState {
                        epoch: i64::MAX as u64,
                        totals: *totals,
                    },
                    write_timestamp(1),
                )
            })
        })
        .collect();
    write(&*store, all.iter().cloned()).await;
    for (key, state, _) in &all {
        assert_eq!(read(&*store, key).await.as_ref(), Some(state), "{key}");
        let starts: Vec<_> = store
            .bars(&key.symbol, key.size, i64::MIN..i64::MAX)
            .await
            .expect("rows are read")
            .iter()
            .map(|row| row.start)
            .collect();
        assert_eq!(starts, [-68_400_000, 7_258_032_000_000], "{key}");
        let audited = store
            .audit_bars(&key.symbol, key.size, i64::MIN..i64::MAX)
            .await
            .expect("rows are read");
        assert!(
            audited
                .iter()
                .all(|row| row.state.as_ref() == Some(state) && row.mismatches.is_empty()),
            "{key}: {audited:?}"
        );
    }
    assert_eq!(store.unlisted().await.expect("the directory is read"), []);
}

pub(super) async fn thousands_of_bars_fit_one_write_and_one_read(store: Arc<dyn Store>) {
    let row = |n: u32| {
        (
            key(
                &format!("S{:03}", n % 300),
                "1m",
                start(i64::from(n) * 60_000),
            ),
            state(1, n),
            write_timestamp(1),
        )
    };
    let all: Vec<_> = (0..3_000).map(row).collect();
    write(&*store, all.iter().cloned()).await;
    let keys: Vec<_> = all.iter().rev().map(|(key, ..)| key.clone()).collect();
    let read = store.read_bars(&keys).await.expect("rows are read");
    assert_eq!(read.len(), keys.len());
    for (found, (key, state, _)) in read.iter().zip(all.iter().rev()) {
        assert_eq!(found.as_ref().map(|row| &row.state), Some(state), "{key}");
    }
}

pub(super) async fn packed_bars_are_read_as_bars_of_their_size(store: Arc<dyn Store>) {
    let minute = key("AAPL", "1m", start(0));
    let packed = |size_text: &str, at: i64, seed| PackedBar {
        size: size(size_text),
        start: start(at),
        totals: state(0, seed).totals,
    };
    let row = |key: BarKey, seed, bars: &mut [PackedBar]| BarWrite {
        packed: PackedBars::of(key.start, bars),
        key,
        state: state(7, seed),
        write_timestamp: write_timestamp(7),
    };
    let rows = vec![
        row(
            minute.clone(),
            1,
            &mut [
                packed("1s", 59_000, 3),
                packed("1s", 0, 2),
                packed("30s", 30_000, 4),
            ],
        ),
        row(
            key("AAPL", "1m", start(60_000)),
            5,
            &mut [packed("1s", 60_000, 6)],
        ),
    ];
    let expected = rows[0].row();
    store
        .write(&EpochWrites {
            directory: vec![DirectoryEntry::of(&minute)],
            bars: rows,
            ..EpochWrites::default()
        })
        .await
        .expect("rows are written");
    let row = store.read_bars(std::slice::from_ref(&minute)).await;
    assert_eq!(row.expect("rows are read"), [Some(expected)]);
    for (size_text, from, to, want) in [
        ("1s", 0, 120_000, &[(0, 2), (59_000, 3), (60_000, 6)][..]),
        ("1s", 1, 60_000, &[(59_000, 3)]),
        ("1s", 59_001, 60_001, &[(60_000, 6)]),
        ("30s", 0, 120_000, &[(30_000, 4)]),
        ("15s", 0, 120_000, &[]),
        ("1m", 0, 120_000, &[(0, 1), (60_000, 5)]),
    ] {
        let range = start(from)..start(to);
        let want: Vec<_> = want
            .iter()
            .map(|(at, seed)| (start(*at), state(7, *seed)))
            .collect();
        let symbol = minute.symbol.clone();
        let bars = store
            .bars(&symbol, size(size_text), range.clone())
            .await
            .expect("bars are read");
        let bars: Vec<_> = bars.iter().map(|bar| (bar.start, bar.state)).collect();
        assert_eq!(bars, want, "{size_text} from {from} to {to}");
        let audited = store
            .audit_bars(&symbol, size(size_text), range)
            .await
            .expect("bars are read");
        let audited: Vec<_> = audited
            .iter()
            .filter_map(|bar| Some((bar.start, bar.state?)))
            .collect();
        assert_eq!(audited, want, "{size_text} from {from} to {to}");
    }
}

pub(super) async fn concurrent_writers_of_one_bar_leave_the_greatest_write_timestamp(
    store: Arc<dyn Store>,
) {
    let key = key("AAPL", "1m", start(0));
    let barrier = Arc::new(tokio::sync::Barrier::new(16));
    let tasks: Vec<_> = (1..=16)
        .map(|n: u32| {
            let (store, key, barrier) = (Arc::clone(&store), key.clone(), Arc::clone(&barrier));
            tokio::spawn(async move {
                barrier.wait().await;
                // The order is scattered: the greatest is neither sent first nor last.
                let epoch = (n * 7) % 17;
                write(
                    &*store,
                    [(
                        key,
                        state(u64::from(epoch), epoch),
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
    assert_eq!(read(&*store, &key).await, Some(state(16, 16)));
}
