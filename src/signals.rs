//! Ctrl-C and SIGTERM request a graceful stop, optionally with a time limit. A second signal stops
//! the process at once.

use std::{
    sync::{Arc, Once},
    time::{Duration, Instant},
};

use tokio::signal::unix::{SignalKind, signal};

/// A signal that programs send, this soon after the first, is the same request: `timeout` signals a
/// process and then its group, and a supervised process hears its group and its supervisor.
const SAME_REQUEST: Duration = Duration::from_secs(2);
/// The exit code of a program that a signal ended: 128 + SIGINT.
const INTERRUPTED: i32 = 130;
/// The exit code of a job that did not finish within its limit.
const LATE: i32 = 1;

/// The end of a process that has a time limit: a store out of reach or a full disk must not hold up
/// a machine that shuts down.
pub(crate) struct Ending {
    limit: Duration,
    runtime: tokio::runtime::Handle,
    /// Says what the process waits for, when the limit is over.
    waits_for: Box<dyn Fn() -> Option<String> + Send + Sync>,
    ask: Box<dyn Fn() + Send + Sync>,
    begun: Once,
}

impl Ending {
    /// An end within `limit`. `ask` asks the process to end; `waits_for` says what holds it up.
    pub(crate) fn within(
        limit: Duration,
        runtime: &tokio::runtime::Handle,
        ask: impl Fn() + Send + Sync + 'static,
        waits_for: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            limit,
            runtime: runtime.clone(),
            waits_for: Box::new(waits_for),
            ask: Box::new(ask),
            begun: Once::new(),
        })
    }

    /// Asks the process to end; only the first call counts. It exits with code 1 if it still runs after the
    /// limit.
    pub(crate) fn begin(self: &Arc<Self>) {
        self.begun.call_once(|| {
            (self.ask)();
            self.runtime.spawn(Arc::clone(self).exit_at_the_limit());
        });
    }

    async fn exit_at_the_limit(self: Arc<Self>) {
        tokio::time::sleep(self.limit).await;
        let because = (self.waits_for)().map_or_else(String::new, |what| format!(" ({what})"));
        tapeflow_console::terminal::restore();
        tracing::error!(
            after_s = self.limit.as_secs_f32(),
            "--end-within is over before everything that was read is committed{because}: exiting; \
             nothing is lost, the next start resumes from the last commit"
        );
        std::process::exit(LATE);
    }
}

/// Calls `ask` at the first signal. A second Ctrl-C, or a SIGTERM after [`SAME_REQUEST`], exits at
/// once; what is committed stays so.
pub(crate) fn on_end(runtime: &tokio::runtime::Handle, ask: impl FnOnce() + Send + 'static) {
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
            let by_program = tokio::select! {
                _ = interrupt.recv() => crate::supervise::is_supervised(),
                _ = terminate.recv() => true,
            };
            match ask.take() {
                Some(ask) => {
                    first = Instant::now();
                    tracing::info!(
                        "stopping: committing what was read; a second signal stops at once and \
                         loses nothing"
                    );
                    ask();
                }
                None if by_program && first.elapsed() < SAME_REQUEST => {}
                None => {
                    tapeflow_console::terminal::restore();
                    std::process::exit(INTERRUPTED)
                }
            }
        }
    });
}
