//! A bar on its way to the store and back: the state cell, and the columns that Cassandra gets.
//! `cargo bench -p tapeflow-sinks`.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use tapeflow_feed::{Clock, Feed, Shape};
use tapeflow_schemas::{
    AssetClass, BarKey, BarRow, BarState, BarWrite, PackedBars, Position, Symbol, Totals,
    WindowSize,
};
use tapeflow_sinks::cassandra::bench::columns;

const ROWS: u64 = 1_000;
const TRADES_A_ROW: i64 = 20;

/// Bars of some trades each, as an epoch writes them.
fn bars() -> Vec<BarWrite> {
    let size = WindowSize::DEFAULTS[1];
    let per_message = TRADES_A_ROW.unsigned_abs();
    let mut feed = Feed::new(
        Shape {
            seed: 1,
            trades: ROWS * per_message,
            per_message,
            symbols: 5_000,
            late: None,
        },
        Clock::Tape,
        4,
    )
    .expect("a feed");
    let mut bars = Vec::new();
    while let Some(message) = feed.next(0).expect("a message") {
        let symbol = Symbol::new(message.record.key).expect("a symbol");
        let mut totals = Totals::default();
        for (offset, trade) in (0..).zip(message.trades) {
            totals.add_trade(
                trade,
                Position {
                    partition: 0,
                    offset,
                    index: 0,
                },
                false,
            );
        }
        let start = size.start_of(message.trades[0].event_time, AssetClass::Stock);
        bars.push(BarWrite {
            key: BarKey {
                symbol,
                size,
                start,
            },
            state: BarState { epoch: 7, totals },
            packed: PackedBars::default(),
            write_timestamp: 1,
        });
    }
    bars
}

fn encode(criterion: &mut Criterion) {
    let bars = bars();
    let cells: Vec<Vec<u8>> = bars.iter().map(BarWrite::to_cell).collect();
    let mut group = criterion.benchmark_group("encode, a bar");
    group.throughput(Throughput::Elements(ROWS));
    group.bench_function("state cell", |bencher| {
        bencher.iter(|| {
            bars.iter()
                .map(|bar| black_box(bar).to_cell().len())
                .sum::<usize>()
        })
    });
    group.bench_function("state cell, read back", |bencher| {
        bencher.iter(|| {
            cells
                .iter()
                .zip(&bars)
                .filter(|(cell, bar)| BarRow::from_cell(black_box(cell), bar.key.start).is_ok())
                .count()
        });
    });
    group.bench_function("columns of Cassandra, cell included", |bencher| {
        bencher.iter(|| bars.iter().for_each(|bar| columns(black_box(bar))))
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    encode(&mut criterion);
    criterion.final_summary();
}
