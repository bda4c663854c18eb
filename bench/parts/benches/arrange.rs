//! The views' path through differential dataflow: bars of one window, of which some change each
//! epoch, arranged and ranked anew. `cargo bench -p tapeflow-dataflow`.

use criterion::{Criterion, Throughput};
use tapeflow_dataflow::bench::views;

const SYMBOLS: usize = 5_000;

fn arrange(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(format!("arrange, a changed bar of {SYMBOLS}"));
    group.sample_size(10);
    for changed in [10usize, 500, 5_000] {
        group.throughput(Throughput::Elements(changed as u64));
        group.bench_function(format!("{changed} an epoch"), |bencher| {
            bencher.iter_custom(|epochs| views(SYMBOLS, changed, epochs))
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    arrange(&mut criterion);
    criterion.final_summary();
}
