//! Runtimes whose clock stands still until it is moved.

use std::time::Duration;

use tokio::runtime::Runtime;

/// A runtime of one thread, at its beginning.
pub(crate) fn paused_runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without input and output needs nothing of the machine")
}

/// Moves the clock of a runtime, and runs its tasks for a while.
pub(crate) fn advance(runtime: &Runtime, by_us: u64, rounds: u32) {
    let by = Duration::from_micros(by_us);
    runtime.block_on(async {
        if !by.is_zero() {
            tokio::time::advance(by).await;
        }
        for _ in 0..rounds {
            tokio::task::yield_now().await;
        }
    });
}
