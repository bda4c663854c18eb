//! What a process tells of itself over HTTP: metrics, health, status, and the live page.
//!
//! ```text
//!  GET /         the live page             GET /livez    is it alive? 200 or 503
//!  GET /metrics  for Prometheus            GET /readyz   does the job go on? 200 or 503
//!  GET /status   the same as JSON
//! ```
//!
//! Everything here only looks: it counts nothing, and the job never waits for it.

mod ends;
mod health;
mod process;
mod server;
mod status;
mod text;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use axum::{
    Router, extract::State, http::header::CONTENT_TYPE, response::IntoResponse, routing::get,
};
use tapeflow_dataflow::{JobConfig, Metrics};
use tapeflow_ingest::Progress;
use tapeflow_log::Log;

use self::ends::Ends;
pub(crate) use self::status::look;
use crate::{args::http::HttpSettings, exit::Exit};

/// What there is to tell.
pub(crate) struct Told {
    /// The command.
    pub(crate) command: &'static str,
    pub(crate) job: Option<Job>,
    /// The feed, if this process takes one in.
    pub(crate) feed: Option<Progress>,
    /// Browsers that follow the live page.
    pub(crate) streams: Arc<AtomicU64>,
    pub(crate) began: Instant,
}

/// The job, if this process is one of its.
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) process: usize,
    pub(crate) processes: usize,
    pub(crate) workers: usize,
    pub(crate) log: String,
    pub(crate) store: String,
    pub(crate) metrics: Arc<Metrics>,
    ends: Ends,
}

impl Job {
    /// A job as its settings have it.
    pub(crate) fn new(
        config: &JobConfig,
        log: &dyn Log,
        store: String,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let JobConfig {
            job,
            process,
            processes,
            workers,
            ..
        } = config;
        let (process, processes, workers) = (*process, *processes, *workers);
        Self {
            name: job.clone(),
            process,
            processes,
            workers,
            log: log.describe(),
            store,
            metrics: Arc::clone(metrics),
            ends: Ends::default(),
        }
    }
}

impl Job {
    /// Partitions of the log; none in a process that does not lead.
    fn partitions(&self) -> usize {
        self.metrics
            .checkpoint()
            .map_or(0, |checkpoint| checkpoint.committed.cuts.len())
    }

    /// How long ago the log last told where it ends; none in a process that does not ask.
    fn log_age(&self, began: Instant) -> Option<Duration> {
        self.ends.age(self.partitions(), began)
    }
}

impl Told {
    /// Of a process that only takes a feed in.
    pub(crate) fn feed(feed: Progress) -> Self {
        Self {
            command: "ingest",
            job: None,
            feed: Some(feed),
            streams: Arc::default(),
            began: Instant::now(),
        }
    }

    /// Of a process of a job.
    pub(crate) fn job(command: &'static str, job: Job, feed: Option<Progress>) -> Self {
        Self {
            command,
            job: Some(job),
            feed,
            streams: Arc::default(),
            began: Instant::now(),
        }
    }
}

/// Begins to serve; ends with the runtime. Returns where the live page is, if anywhere. `log`, if
/// there is one, is asked for its ends, each second. `page` are further routes, under the same
/// password.
///
/// # Errors
/// [`Exit::Input`] if the address was asked for and cannot be had.
pub(crate) fn serve(
    settings: &HttpSettings,
    told: Arc<Told>,
    log: Option<Arc<dyn Log>>,
    page: Router,
    runtime: &tokio::runtime::Handle,
) -> Result<Option<String>, Exit> {
    let Some(address) = settings.address else {
        return Ok(None);
    };
    let Some(listener) = server::listen(address, settings.asked, runtime)? else {
        return Ok(None);
    };
    let scheme = if settings.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let at = listener
        .local_addr()
        .map(|address| format!("{scheme}://{address}"))
        .ok();
    // The coordinator alone knows what is committed, so it alone tells how far that is behind.
    if let Some(log) = log.filter(|_| told.job.as_ref().is_some_and(|job| job.process == 0)) {
        ends::follow(Arc::clone(&told), log);
    }
    let open = Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .with_state(Arc::clone(&told));
    let closed = Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status::status))
        .with_state(told)
        .merge(page);
    let router = open.merge(server::behind_password(closed, settings.password.clone()));
    runtime.spawn(server::run(listener, router, settings.tls.clone()));
    Ok(at)
}

async fn metrics(State(told): State<Arc<Told>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, text::CONTENT_TYPE)], text::render(&told))
}
