//! The path of a trade through a source: decoded, held against the duplicate filter, added to its
//! window of every size; then the seal of an epoch. `cargo bench -p tapeflow-dataflow`.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use tapeflow_dataflow::bench::Source;
use tapeflow_feed::{Clock, Feed, Shape};
use tapeflow_schemas::WindowSize;

const TRADES: u64 = 100_000;

/// The payloads of a whole feed, in one partition.
fn payloads(per_message: u64) -> Vec<Vec<u8>> {
    let mut feed = Feed::new(
        Shape {
            seed: 1,
            trades: TRADES,
            per_message,
            symbols: 5_000,
            late: None,
        },
        Clock::Tape,
        1,
    )
    .expect("a feed");
    let mut payloads = Vec::new();
    while let Some(message) = feed.next(0).expect("a message") {
        payloads.push(message.record.payload.to_vec());
    }
    payloads
}

fn taken(payloads: &[Vec<u8>], sizes: &[WindowSize]) -> Source {
    let mut source = Source::new(sizes);
    payloads
        .iter()
        .for_each(|payload| source.take(black_box(payload)));
    assert_eq!(source.accepted(), TRADES, "all of them count");
    source
}

fn combine(criterion: &mut Criterion) {
    let sizes: [(&str, &[WindowSize]); 2] = [
        ("1m", &WindowSize::DEFAULTS[1..2]),
        ("1s,1m,5m,1h,1d", &WindowSize::DEFAULTS),
    ];
    for (called, sizes) in sizes {
        let mut group = criterion.benchmark_group(format!("windows of {called}"));
        group.sample_size(20);
        for per_message in [1, 20] {
            let payloads = payloads(per_message);
            group.throughput(Throughput::Elements(TRADES));
            group.bench_function(
                format!("decode and combine, a trade, {per_message} a message"),
                |bencher| {
                    bencher.iter_with_large_drop(|| taken(&payloads, sizes));
                },
            );
        }
        let payloads = payloads(1);
        group.throughput(Throughput::Elements(taken(&payloads, sizes).windows()));
        group.bench_function("seal, a window", |bencher| {
            bencher.iter_batched(
                || taken(&payloads, sizes),
                |mut source| (source.seal(), source),
                BatchSize::LargeInput,
            );
        });
        group.finish();
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    combine(&mut criterion);
    criterion.final_summary();
}
