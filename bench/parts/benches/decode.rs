//! Measures decoding: bytes of the log into trades. Run `cargo bench -p tapeflow-schemas`.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use tapeflow_feed::{Clock, Feed, Shape};
use tapeflow_schemas::codec;

/// Enough records to exceed the CPU caches.
const TRADES: u64 = 100_000;

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
        4,
    )
    .expect("a feed");
    let mut payloads = Vec::new();
    while let Some(message) = feed.next(0).expect("a message") {
        payloads.push(message.record.payload.to_vec());
    }
    payloads
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode, a trade");
    group.throughput(Throughput::Elements(TRADES));
    for per_message in [1, 20] {
        let payloads = payloads(per_message);
        let mut entries = Vec::new();
        group.bench_function(format!("{per_message} a message"), |bencher| {
            bencher.iter(|| {
                for payload in &payloads {
                    entries.clear();
                    black_box(codec::decode(black_box(payload), &mut entries)).expect("a record");
                }
                entries.len()
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    decode(&mut criterion);
    criterion.final_summary();
}
