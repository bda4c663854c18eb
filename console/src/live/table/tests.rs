//! Tests of the table of live bars: every reader ends with the same bars, however it reads.

use std::collections::BTreeMap;

use tapeflow_schemas::{BarKey, BarState, BarWrite, Conditions, EventTime, Position, Size, Trade};

use super::*;

/// A bar of `trades` trades of size 1, at the price 100 and one more for each.
fn bar(symbol: &str, size: &str, start: WindowStart, trades: u32) -> BarWrite {
    bar_of(symbol, size, start, trades, Conditions::NONE)
}

fn bar_of(
    symbol: &str,
    size: &str,
    start: WindowStart,
    trades: u32,
    conditions: Conditions,
) -> BarWrite {
    let mut totals = Totals::default();
    for index in 0..trades {
        let price = Price::parse(&(100 + index).to_string())
            .expect("price")
            .value;
        let time = EventTime::from_ms(start + i64::from(index)).expect("time");
        let trade = Trade::new(
            time,
            price,
            Size::parse("1").expect("size").value,
            conditions,
        )
        .expect("trade");
        totals.add_trade(
            &trade,
            Position {
                partition: 0,
                offset: 0,
                index,
            },
            false,
        );
    }
    let key = BarKey {
        symbol: Symbol::new(symbol).expect("symbol"),
        size: size.parse().expect("size"),
        start,
    };
    BarWrite {
        key,
        state: BarState { epoch: 1, totals },
        packed: tapeflow_schemas::PackedBars::default(),
        write_timestamp: 1,
    }
}

fn take(table: &mut BarTable, bar: BarWrite) {
    table.take(
        &EpochWrites {
            bars: vec![bar],
            ..EpochWrites::default()
        },
        7,
    );
}

fn table(bars: Vec<BarWrite>) -> BarTable {
    let mut table = BarTable::new(&WindowSize::DEFAULTS);
    bars.into_iter().for_each(|bar| take(&mut table, bar));
    table
}

/// All closes, for a reader that has read nothing.
fn closes(change: &Change) -> Vec<String> {
    let Closes::All(closes) = &change.closes else {
        panic!("{change:?}")
    };
    closes.iter().map(ToString::to_string).collect()
}

/// A browser: the newest window of each symbol, and its closes, as the changes make them.
#[derive(Debug, Default)]
struct Browser {
    base: u64,
    read: u64,
    bars: BTreeMap<String, (WindowStart, Option<Price>, Vec<Price>)>,
}

impl Browser {
    fn ask(&mut self, table: &BarTable, count: usize) {
        let (changes, read) = table.since(self.base, self.read, count);
        self.read = read;
        if changes.len() < count {
            (self.base, self.read) = (table.version(), table.version());
        }
        for Change {
            symbol,
            bar,
            closes,
        } in changes
        {
            let known =
                self.bars
                    .entry(symbol.to_string())
                    .or_insert((bar.start, None, Vec::new()));
            match closes {
                Closes::Known => {}
                // A close that arrives twice is added once.
                Closes::Previous(close) if bar.start > known.0 => known.2.push(close),
                Closes::Previous(_) => {}
                Closes::All(closes) => known.2 = closes,
            }
            (known.0, known.1) = (bar.start, bar.last);
        }
    }
}

#[test]
fn the_newest_minute_is_shown_and_late_bars_change_only_a_close() {
    let table = table(vec![
        bar("A", "1m", 0, 3),
        bar("A", "1m", 60_000, 1),
        bar("A", "1m", 0, 9),
        bar("A", "1s", 61_000, 70),
    ]);
    let (changes, read) = table.since(0, 0, 10);
    assert_eq!((changes.len(), read), (1, table.version()));
    assert_eq!(
        (
            changes[0].bar.start,
            changes[0].bar.trades,
            changes[0].bar.acknowledged_ms
        ),
        (60_000, 1, Some(7))
    );
    assert_eq!(closes(&changes[0]), ["108"]);
    assert!(table.since(read, read, 10).0.is_empty());
}

#[test]
fn readers_end_with_the_same_bars_however_rarely_they_ask() {
    let mut table = BarTable::new(&WindowSize::DEFAULTS);
    let (mut eager, mut lazy, mut few) =
        (Browser::default(), Browser::default(), Browser::default());
    let mut random = 1u64;
    for step in 0..2_000u32 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let window = i64::from(step / 40) - i64::from(random >> 33 & 7 == 0);
        take(
            &mut table,
            bar(
                &format!("S{}", random >> 40 & 7),
                "1m",
                window.max(0) * 60_000,
                1 + (random >> 50 & 3) as u32,
            ),
        );
        eager.ask(&table, 100);
        if step % 97 == 0 {
            lazy.ask(&table, 100);
        }
        if step % 3 == 0 {
            few.ask(&table, 1);
        }
    }
    for browser in [&mut eager, &mut lazy] {
        browser.ask(&table, 100);
    }
    (0..20).for_each(|_| few.ask(&table, 1));
    let mut fresh = Browser::default();
    fresh.ask(&table, 100);
    for browser in [&mut eager, &mut lazy, &mut few] {
        browser
            .bars
            .values_mut()
            .for_each(|bar| drop(bar.2.drain(..bar.2.len().saturating_sub(CLOSES_KEPT))));
        assert_eq!(browser.bars, fresh.bars);
    }
}

#[test]
fn a_flood_of_symbols_keeps_the_busy_ones_and_counts_the_eviction() {
    let mut bars = vec![bar("BUSY", "1m", 0, 50)];
    bars.extend((0..2 * SYMBOLS_KEPT).map(|n| bar(&format!("S{n}"), "1m", 0, 1)));
    let table = table(bars);
    assert_eq!((table.symbols(), table.evictions()), (SYMBOLS_KEPT, 1));
    let (changes, _) = table.since(0, 0, usize::MAX);
    assert!(
        changes
            .iter()
            .any(|change| change.symbol.as_str() == "BUSY")
    );
    assert!(
        table
            .entries
            .iter()
            .enumerate()
            .all(|(at, entry)| table.index[&entry.symbol] == at)
    );
}

#[test]
fn bars_of_the_store_do_not_replace_those_of_the_job() {
    let mut table = table(vec![bar("A", "1m", 120_000, 5)]);
    let stored = |start, trades| {
        let BarWrite { key, state, .. } = bar("A", "1m", start, trades);
        StoredBar {
            start: key.start,
            state,
        }
    };
    let symbol = Symbol::new("A").expect("symbol");
    table.preload(
        &symbol,
        &[stored(0, 1), stored(60_000, 2), stored(120_000, 3)],
    );
    let (changes, _) = table.since(0, 0, 10);
    assert_eq!((changes[0].bar.trades, closes(&changes[0]).len()), (5, 2));
    table.preload(
        &Symbol::new("B").expect("symbol"),
        &[stored(0, 1), stored(60_000, 2)],
    );
    let (changes, _) = table.since(0, 0, 10);
    assert_eq!(
        (
            changes[1].bar.trades,
            changes[1].bar.acknowledged_ms,
            closes(&changes[1]).len()
        ),
        (2, None, 1)
    );
}

#[test]
fn a_bar_that_changes_while_a_reader_reads_in_pieces_reaches_it_whole() {
    let mut table = table(vec![
        bar("A", "1m", 0, 1),
        bar("B", "1m", 0, 1),
        bar("B", "1m", 60_000, 1),
        bar("C", "1m", 0, 1),
    ]);
    let mut browser = Browser::default();
    browser.ask(&table, 1);
    // It has read A, and would read B next.
    take(&mut table, bar("B", "1m", 60_000, 2));
    (0..4).for_each(|_| browser.ask(&table, 1));
    assert_eq!(browser.bars["B"].2.len(), 1, "{browser:?}");
    take(&mut table, bar("B", "1m", 60_000, 3));
    (0..4).for_each(|_| browser.ask(&table, 1));
    assert_eq!(
        (browser.bars["B"].2.len(), browser.base),
        (1, table.version()),
        "the reader has all closes"
    );
}

#[test]
fn the_busiest_symbols_come_first() {
    let table = table(vec![
        bar("A", "1m", 0, 3),
        bar("B", "1m", 0, 4),
        bar("A", "1m", 60_000, 2),
        bar("A", "1m", 60_000, 2),
        bar("C", "1m", 0, 4),
    ]);
    let names = |count| {
        table
            .busiest(count)
            .into_iter()
            .map(|(symbol, _)| symbol.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(10),
        ["A", "B", "C"],
        "five trades in two windows; ties by name"
    );
    assert_eq!(names(1), ["A"]);
}

#[test]
fn a_window_without_a_close_shows_the_close_before_it() {
    let odd_lots = |start| bar_of("A", "1m", start, 2, Conditions::NONE.with(12));
    let mut table = table(vec![odd_lots(0)]);
    let last = |table: &BarTable| table.busiest(1)[0].1.last.map(|price| price.to_string());
    assert_eq!(last(&table), None);
    take(&mut table, bar("A", "1m", 60_000, 3));
    take(&mut table, odd_lots(120_000));
    assert_eq!(
        (last(&table).as_deref(), table.busiest(1)[0].1.trades),
        (Some("102"), 2)
    );
    assert_eq!(
        table.busiest(1)[0].1.close,
        None,
        "its VWAP has no close beside it"
    );
    take(&mut table, bar("A", "1m", 60_000, 4));
    assert_eq!(last(&table).as_deref(), Some("103"), "a late trade");
    take(&mut table, odd_lots(180_000));
    let (changes, _) = table.since(0, 0, 10);
    assert_eq!(
        (last(&table).as_deref(), closes(&changes[0])),
        (Some("103"), vec!["103".to_owned()]),
        "the window without a close adds none"
    );
}
