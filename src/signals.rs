//! Ctrl-C and SIGTERM ask for a graceful end, which a job may be given a limit for; a second one
//! ends at once.

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

/// Signals to a supervised process within so long of the first are the same request.
const SAME_REQUEST: Duration = Duration::from_secs(2);
/// The exit code of a program that a signal ended: 128 + SIGINT.
const INTERRUPTED: i32 = 130;
/// The exit code of a job that did not come to its end in time.
const LEFT: i32 = 1;

/// Calls `ask` at the first signal. A second one leaves without waiting: everything durable stays
/// so.
pub(crate) fn on_end(runtime: &tokio::runtime::Handle, ask: impl FnOnce() + Send + 'static) {
    on_end_within(None, runtime, ask);
}

/// The same; what has not ended so long after the first signal leaves with code 1, as it does at a
/// second one: a store out of reach must not hold up the machine that is going down.
pub(crate) fn on_end_within(
    limit: Option<Duration>,
    runtime: &tokio::runtime::Handle,
    ask: impl FnOnce() + Send + 'static,
) {
    let timer = runtime.clone();
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
                    tracing::info!("asked to end: what was read is being committed; a second signal ends at once, and loses nothing either");
                    ask();
                    if let Some(limit) = limit {
                        timer.spawn(leave_after(limit));
                    }
                }
                // The group of processes and the supervisor may both hand the same request over.
                None if crate::supervise::is_supervised() && first.elapsed() < SAME_REQUEST => {}
                None => {
                    tapeflow_console::terminal::restore();
                    std::process::exit(INTERRUPTED)
                }
            }
        }
    });
}

async fn leave_after(limit: Duration) {
    tokio::time::sleep(limit).await;
    tracing::error!(
        after_s = limit.as_secs_f32(),
        "not everything that was read is committed by now, and --end-within is over: leaving; nothing is lost, the next start goes on from the last commit"
    );
    tapeflow_console::terminal::restore();
    std::process::exit(LEFT);
}
