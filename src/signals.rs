//! Ctrl-C and SIGTERM ask for a graceful end; a second one ends at once.

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

/// Signals to a supervised process within so long of the first are the same request.
const SAME_REQUEST: Duration = Duration::from_secs(2);
/// The exit code of a program that a signal ended: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// Calls `ask` at the first signal. A second one leaves without waiting: everything durable stays so.
pub(crate) fn on_end(runtime: &tokio::runtime::Handle, ask: impl FnOnce() + Send + 'static) {
    runtime.spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
            tracing::warn!("signals cannot be heard; only kill -9 ends this process");
            return;
        };
        let mut ask = Some(ask);
        let mut first = Instant::now();
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            match ask.take() {
                Some(ask) => {
                    first = Instant::now();
                    tracing::info!("asked to end: draining");
                    ask();
                }
                // The group of processes and the supervisor may both hand the same request over.
                None if crate::supervise::is_supervised() && first.elapsed() < SAME_REQUEST => {}
                None => {
                    crate::terminal::give_back();
                    std::process::exit(INTERRUPTED)
                }
            }
        }
    });
}
