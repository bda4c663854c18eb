//! The board's own tests: what a reader that asks now and then comes to know.

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
        write_timestamp: 1,
    }
}

fn take(board: &mut Board, bar: BarWrite) {
    board.take(
        &EpochWrites {
            bars: vec![bar],
            ..EpochWrites::default()
        },
        7,
    );
}

fn board(bars: Vec<BarWrite>) -> Board {
    let mut board = Board::new(&WindowSize::DEFAULTS);
    bars.into_iter().for_each(|bar| take(&mut board, bar));
    board
}

/// All closes, for one that has seen nothing.
fn closes(change: &Change) -> Vec<String> {
    let Closes::All(closes) = &change.closes else {
        panic!("{change:?}")
    };
    closes.iter().map(ToString::to_string).collect()
}

/// What a browser makes of the changes: trades of the newest window, and the closes as it has drawn
/// them.
#[derive(Debug, Default)]
struct Browser {
    base: u64,
    seen: u64,
    lines: BTreeMap<String, (WindowStart, Option<Price>, Vec<Price>)>,
}

impl Browser {
    fn ask(&mut self, board: &Board, count: usize) {
        let (changes, seen) = board.since(self.base, self.seen, count);
        self.seen = seen;
        if changes.len() < count {
            (self.base, self.seen) = (board.version(), board.version());
        }
        for Change {
            symbol,
            line,
            closes,
        } in changes
        {
            let known =
                self.lines
                    .entry(symbol.to_string())
                    .or_insert((line.start, None, Vec::new()));
            match closes {
                Closes::Known => {}
                // What is told twice is taken in once.
                Closes::Previous(close) if line.start > known.0 => known.2.push(close),
                Closes::Previous(_) => {}
                Closes::All(closes) => known.2 = closes,
            }
            (known.0, known.1) = (line.start, line.last);
        }
    }
}

#[test]
fn the_newest_minute_is_shown_and_late_bars_change_only_a_close() {
    let board = board(vec![
        bar("A", "1m", 0, 3),
        bar("A", "1m", 60_000, 1),
        bar("A", "1m", 0, 9),
        bar("A", "1s", 61_000, 70),
    ]);
    let (changes, seen) = board.since(0, 0, 10);
    assert_eq!((changes.len(), seen), (1, board.version()));
    assert_eq!(
        (
            changes[0].line.start,
            changes[0].line.trades,
            changes[0].line.acknowledged_ms
        ),
        (60_000, 1, Some(7))
    );
    assert_eq!(closes(&changes[0]), ["108"]);
    assert!(board.since(seen, seen, 10).0.is_empty());
}

#[test]
fn however_rarely_one_asks_it_ends_up_with_the_same() {
    let mut board = Board::new(&WindowSize::DEFAULTS);
    let (mut eager, mut lazy, mut few) =
        (Browser::default(), Browser::default(), Browser::default());
    let mut random = 1u64;
    for step in 0..2_000u32 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let window = i64::from(step / 40) - i64::from(random >> 33 & 7 == 0);
        take(
            &mut board,
            bar(
                &format!("S{}", random >> 40 & 7),
                "1m",
                window.max(0) * 60_000,
                1 + (random >> 50 & 3) as u32,
            ),
        );
        eager.ask(&board, 100);
        if step % 97 == 0 {
            lazy.ask(&board, 100);
        }
        if step % 3 == 0 {
            few.ask(&board, 1);
        }
    }
    for browser in [&mut eager, &mut lazy] {
        browser.ask(&board, 100);
    }
    (0..20).for_each(|_| few.ask(&board, 1));
    let mut fresh = Browser::default();
    fresh.ask(&board, 100);
    for browser in [&mut eager, &mut lazy, &mut few] {
        browser
            .lines
            .values_mut()
            .for_each(|line| drop(line.2.drain(..line.2.len().saturating_sub(CLOSES_KEPT))));
        assert_eq!(browser.lines, fresh.lines);
    }
}

#[test]
fn a_flood_of_symbols_keeps_the_busy_ones_and_tells_that_some_are_gone() {
    let mut bars = vec![bar("BUSY", "1m", 0, 50)];
    bars.extend((0..2 * SYMBOLS_KEPT).map(|n| bar(&format!("S{n}"), "1m", 0, 1)));
    let board = board(bars);
    assert_eq!((board.symbols(), board.clearings()), (SYMBOLS_KEPT, 1));
    let (changes, _) = board.since(0, 0, usize::MAX);
    assert!(
        changes
            .iter()
            .any(|change| change.symbol.as_str() == "BUSY")
    );
    assert!(
        board
            .kept
            .iter()
            .enumerate()
            .all(|(place, kept)| board.places[&kept.symbol] == place)
    );
}

#[test]
fn bars_of_the_store_fill_what_the_job_has_not_told_and_no_more() {
    let mut board = board(vec![bar("A", "1m", 120_000, 5)]);
    let stored = |start, trades| {
        let BarWrite { key, state, .. } = bar("A", "1m", start, trades);
        StoredBar {
            start: key.start,
            state,
        }
    };
    let symbol = Symbol::new("A").expect("symbol");
    board.seed(
        &symbol,
        &[stored(0, 1), stored(60_000, 2), stored(120_000, 3)],
    );
    let (changes, _) = board.since(0, 0, 10);
    assert_eq!((changes[0].line.trades, closes(&changes[0]).len()), (5, 2));
    board.seed(
        &Symbol::new("B").expect("symbol"),
        &[stored(0, 1), stored(60_000, 2)],
    );
    let (changes, _) = board.since(0, 0, 10);
    assert_eq!(
        (
            changes[1].line.trades,
            changes[1].line.acknowledged_ms,
            closes(&changes[1]).len()
        ),
        (2, None, 1)
    );
}

#[test]
fn a_line_that_changes_while_a_reader_is_on_its_way_is_told_whole() {
    let mut board = board(vec![
        bar("A", "1m", 0, 1),
        bar("B", "1m", 0, 1),
        bar("B", "1m", 60_000, 1),
        bar("C", "1m", 0, 1),
    ]);
    let mut browser = Browser::default();
    browser.ask(&board, 1);
    // It has passed A, and would have come to B next.
    take(&mut board, bar("B", "1m", 60_000, 2));
    (0..4).for_each(|_| browser.ask(&board, 1));
    assert_eq!(browser.lines["B"].2.len(), 1, "{browser:?}");
    take(&mut board, bar("B", "1m", 60_000, 3));
    (0..4).for_each(|_| browser.ask(&board, 1));
    assert_eq!(
        (browser.lines["B"].2.len(), browser.base),
        (1, board.version()),
        "and then it knows it"
    );
}

#[test]
fn the_busiest_come_first() {
    let board = board(vec![
        bar("A", "1m", 0, 3),
        bar("B", "1m", 0, 4),
        bar("A", "1m", 60_000, 2),
        bar("A", "1m", 60_000, 2),
        bar("C", "1m", 0, 4),
    ]);
    let names = |count| {
        board
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
fn a_window_without_a_price_leaves_the_last_one_in_sight() {
    let odd_lots = |start| bar_of("A", "1m", start, 2, Conditions::NONE.with(12));
    let mut board = board(vec![odd_lots(0)]);
    let last = |board: &Board| board.busiest(1)[0].1.last.map(|price| price.to_string());
    assert_eq!(last(&board), None);
    take(&mut board, bar("A", "1m", 60_000, 3));
    take(&mut board, odd_lots(120_000));
    assert_eq!(
        (last(&board).as_deref(), board.busiest(1)[0].1.trades),
        (Some("102"), 2)
    );
    take(&mut board, bar("A", "1m", 60_000, 4));
    assert_eq!(last(&board).as_deref(), Some("103"), "a late trade");
    take(&mut board, odd_lots(180_000));
    let (changes, _) = board.since(0, 0, 10);
    assert_eq!(
        (last(&board).as_deref(), closes(&changes[0])),
        (Some("103"), vec!["103".to_owned()]),
        "it is no close of the window without one"
    );
}
