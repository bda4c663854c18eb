//! stand-in
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
pub(crate) struct View {
    metrics: Arc<tapeflow_dataflow::Metrics>,
}
impl View {
    pub(crate) fn new(
        _sizes: &[tapeflow_schemas::WindowSize],
        metrics: Arc<tapeflow_dataflow::Metrics>,
        _p: Option<tapeflow_ingest::Progress>,
        _s: String,
        _st: String,
    ) -> Arc<Self> {
        Arc::new(Self { metrics })
    }
}
impl tapeflow_dataflow::Observer for View {}
pub(crate) fn paint(view: Arc<View>, done: Arc<AtomicBool>, _colours: bool, _on_quit: impl Fn() + Send) -> std::io::Result<()> {
    let mut n = 0u32;
    while !done.load(Ordering::Acquire) {
        std::thread::sleep(std::time::Duration::from_millis(100));
        n += 1;
        if n % 10 == 0 {
            println!(
                "records {} rows {} epoch {}/{}",
                view.metrics.records.get(),
                view.metrics.rows_written.get(),
                view.metrics.epoch_committed.get(),
                view.metrics.epoch_bound.get()
            );
        }
    }
    Ok(())
}
