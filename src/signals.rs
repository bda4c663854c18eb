//! Ctrl-C and SIGTERM request a graceful stop, optionally with a time limit. A second signal stops
//! the process at once.

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

/// A signal to a supervised process this soon after the first is the same request.
const SAME_REQUEST: Duration = Duration::from_secs(2);
/// The exit code of a program that a signal ended: 128 + SIGINT.
const INTERRUPTED: i32 = 130;
/// The exit code of a job that did not finish within its limit.
const LATE: i32 = 1;

/// Calls `ask` at the first signal. A second signal exits at once; what is committed stays so.
pub(crate) fn on_end(runtime: &tokio::runtime::Handle, ask: impl FnOnce() + Send + 'static) {
    on_end_within(None, runtime, ask);
}

/// As [`on_end`], and exits with code 1 if the process still runs `limit` after the first signal: a
/// store out of reach must not hold up a machine that shuts down.
pub(crate) fn on_end_within(
    limit: Option<Duration>,
    runtime: &tokio::runtime::Handle,
    ask: impl FnOnce() + Send + 'static,
) {
    let timer = runtime.clone();
    runtime.spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        ) else {
            tracing::warn!("cannot handle signals; only kill -9 ends this process");
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
                    tracing::info!(
                        "stopping: committing what was read; a second signal stops at once and \
                         loses nothing"
                    );
                    ask();
                    if let Some(limit) = limit {
                        timer.spawn(exit_after(limit));
                    }
                }
                // The process group and the supervisor may both deliver the same request.
                None if crate::supervise::is_supervised() && first.elapsed() < SAME_REQUEST => {}
                None => {
                    tapeflow_console::terminal::restore();
                    std::process::exit(INTERRUPTED)
                }
            }
        }
    });
}

async fn exit_after(limit: Duration) {
    tokio::time::sleep(limit).await;
    tracing::error!(
        after_s = limit.as_secs_f32(),
        "--end-within is over before everything that was read is committed: exiting; nothing is \
         lost, the next start resumes from the last commit"
    );
    tapeflow_console::terminal::restore();
    std::process::exit(LATE);
}
