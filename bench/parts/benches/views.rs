//! The path of the views: some bars of a window change each epoch, and its views follow them.
//! `cargo bench -p tapeflow-parts --bench views`.

use criterion::{Criterion, Throughput};
use tapeflow_dataflow::bench;

const SYMBOLS: usize = 5_000;

fn views(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(format!("views, a changed bar of {SYMBOLS}"));
    group.sample_size(10);
    for changed in [10usize, 500, 5_000] {
        group.throughput(Throughput::Elements(changed as u64));
        group.bench_function(format!("{changed} an epoch"), |bencher| {
            bencher.iter_custom(|epochs| bench::views(SYMBOLS, changed, epochs))
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    views(&mut criterion);
    criterion.final_summary();
}
