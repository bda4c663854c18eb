//! The oracle against the golden files, which an independent Python program made from the same
//! frames.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use tapeflow_oracle::{Oracle, OracleBar, OracleEntry, OracleView};
use tapeflow_schemas::{
    Baskets, Conditions, EventTime, Price, SessionId, Size, Trade, WindowSize,
    codec::{BatchHeader, encode_batch},
    decimal::{divide_half_even, format_fixed},
    partition_for,
    window::format_utc,
};

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow, default)]
    data: Vec<FrameTrade<'a>>,
}

#[derive(Deserialize)]
struct FrameTrade<'a> {
    c: Option<Vec<String>>,
    #[serde(borrow)]
    p: &'a RawValue,
    s: String,
    t: i64,
    #[serde(borrow)]
    v: &'a RawValue,
}

const PARTITIONS: u32 = 3;
/// A time after the last trade.
const TAKEN_MS: i64 = 1_900_000_000_000;

/// Feeds frames to an oracle. The trades of a symbol in a frame are one record in the symbol's
/// partition.
fn oracle_of(frames: &str) -> Oracle {
    let mut oracle = Oracle::new(WindowSize::DEFAULTS.to_vec(), PARTITIONS);
    let mut sent = BTreeMap::<u32, u64>::new();
    for line in frames.lines() {
        let frame: Frame = serde_json::from_str(line).expect("a frame");
        let mut by_symbol = BTreeMap::<&str, Vec<Trade>>::new();
        for trade in &frame.data {
            let conditions = trade
                .c
                .iter()
                .flatten()
                .fold(Conditions::NONE, |set, code| {
                    set.with(Conditions::code_of(code))
                });
            let price = Price::parse(trade.p.get()).expect("a price").value;
            // A size of zero is a price update and no trade.
            let Ok(size) = Size::parse(trade.v.get()) else {
                continue;
            };
            let size = size.value;
            let time = EventTime::from_ms(trade.t).expect("a time");
            by_symbol
                .entry(&trade.s)
                .or_default()
                .push(Trade::new(time, price, size, conditions).expect("a trade"));
        }
        for (symbol, trades) in by_symbol {
            let partition = partition_for(symbol, PARTITIONS);
            let sequence = sent.entry(partition).or_default();
            *sequence += 1;
            let mut record = Vec::new();
            let header = BatchHeader {
                symbol,
                source: "replay",
                session: SessionId([1; 16]),
                sequence: *sequence,
                taken_ms: TAKEN_MS,
            };
            encode_batch(&mut record, &header, &trades);
            oracle.record(
                0,
                partition,
                i64::try_from(*sequence).expect("few"),
                TAKEN_MS,
                Some(&record),
            );
        }
    }
    oracle
}

fn bar_line(symbol: &str, size: WindowSize, start: i64, bar: &OracleBar) -> String {
    let price = |e8: Option<i64>| e8.map_or_else(String::new, |e8| format_fixed(e8.into(), 8));
    let time = |ms: Option<i64>| ms.map_or_else(String::new, format_utc);
    let sip = bar.sip;
    let vwap = divide_half_even(sip.notional_e16, sip.volume_e8)
        .map_or_else(String::new, |e8| format_fixed(e8, 8));
    [
        symbol.to_owned(),
        size.to_string(),
        format_utc(start),
        price(bar.open),
        price(bar.high),
        price(bar.low),
        price(bar.close),
        format_fixed(sip.volume_e8, 8),
        format_fixed(sip.notional_e16, 16),
        sip.trades.to_string(),
        vwap,
        time(bar.first_trade_ms),
        time(bar.last_trade_ms),
    ]
    .join(",")
        + ",,,,"
}

#[test]
fn the_recorded_trades_give_the_golden_bars() {
    let oracle = oracle_of(include_str!("../../../tests/golden/finnhub-recorded.jsonl"));
    let recomputed: Vec<_> = oracle
        .bars()
        .map(|(key, bar)| bar_line(key.symbol, key.size, key.start, &bar))
        .collect();
    let golden: Vec<_> = include_str!("../../../tests/golden/finnhub-recorded.csv")
        .lines()
        .skip(1)
        .collect();
    assert_eq!(recomputed, golden);
    let counts = oracle.counts();
    assert_eq!(
        (
            counts.accepted,
            counts.dead_letters_total(),
            counts.duplicates,
            counts.gaps
        ),
        (81, 0, 0, 0)
    );
}

/// The CSV line of an entry of a view. A value that does not exist is an empty field.
fn view_line(
    view: (&str, OracleView),
    size: WindowSize,
    start: i64,
    rank: usize,
    entry: &OracleEntry,
) -> String {
    let places = if view.1 == OracleView::Baskets { 4 } else { 0 };
    let price = |e8: Option<i64>| e8.map_or_else(String::new, |e8| format_fixed(e8.into(), 8));
    let sum = |sum: Option<i128>, places| {
        sum.map_or_else(String::new, |units| format_fixed(units, places))
    };
    let vwap = entry
        .notional
        .zip(entry.volume)
        .and_then(|(notional, volume)| divide_half_even(notional, volume));
    let change = entry
        .open
        .zip(entry.close)
        .map_or_else(String::new, |(open, close)| {
            let change = divide_half_even(i128::from(close - open) * 10_000_000_000, open.into())
                .expect("a price is not zero");
            format_fixed(change, 8)
        });
    [
        view.0.to_owned(),
        size.to_string(),
        format_utc(start),
        entry.quote.to_string(),
        rank.to_string(),
        entry.name.clone(),
        entry.symbols.to_string(),
        entry.trades.to_string(),
        sum(entry.volume, 8 + places),
        sum(entry.notional, 16 + places),
        sum(vwap, 8),
        price(entry.open),
        price(entry.close),
        change,
    ]
    .join(",")
        + ","
}

fn check_views(frames: &str, golden: &str) {
    let oracle = oracle_of(frames);
    let baskets =
        Baskets::parse(include_str!("../../../tests/golden/baskets.csv")).expect("baskets");
    let mut recomputed = Vec::new();
    let views = [
        ("active", OracleView::Active),
        ("movers", OracleView::Movers),
        ("baskets", OracleView::Baskets),
        ("market", OracleView::Market),
    ];
    for view in views {
        for (size, start) in oracle.windows() {
            let entries = oracle
                .view_as_of(view.1, size, start, 0, &baskets)
                .unwrap_or_default();
            recomputed.extend(entries.iter().enumerate().map(|(at, entry)| {
                // Movers are ranked together, everything else within its quote currency.
                let within = |other: &&OracleEntry| {
                    view.1 == OracleView::Movers || other.quote == entry.quote
                };
                let rank = 1 + entries[..at].iter().filter(within).count();
                view_line(view, size, start, rank, entry)
            }));
        }
    }
    assert_eq!(recomputed, golden.lines().skip(1).collect::<Vec<_>>());
}

#[test]
fn the_recorded_trades_give_the_golden_views() {
    check_views(
        include_str!("../../../tests/golden/finnhub-recorded.jsonl"),
        include_str!("../../../tests/golden/finnhub-recorded-views.csv"),
    );
}

#[test]
fn a_crowd_with_ties_at_every_edge_gives_the_golden_views() {
    check_views(
        include_str!("../../../tests/golden/crowd.jsonl"),
        include_str!("../../../tests/golden/crowd-views.csv"),
    );
}

#[test]
fn symbols_of_many_quote_currencies_give_the_golden_views() {
    check_views(
        include_str!("../../../tests/golden/currencies.jsonl"),
        include_str!("../../../tests/golden/currencies-views.csv"),
    );
}
