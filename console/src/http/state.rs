//! The server state: what the process knows of itself, for every route.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use tapeflow_dataflow::{JobConfig, Metrics};
use tapeflow_ingest::Progress;
use tapeflow_log::{Log, OutageState};
use tapeflow_schemas::Symbol;

use super::end_offsets::EndOffsets;
use crate::outages::outages;

/// What the process knows of itself.
#[derive(Debug)]
pub struct ServerState {
    /// The command that runs: `run`, `dataflow` or `ingest`.
    pub(crate) command: &'static str,
    pub(crate) job: Option<JobState>,
    /// The progress of the feed, in a process that reads one.
    pub(crate) feed: Option<Progress>,
    /// Whether appends to the log fail, where the log's writer says so.
    pub(crate) append_outage: Option<OutageState>,
    /// Browsers that follow the live page.
    pub(crate) page_streams: Arc<AtomicU64>,
    /// Wrong passwords since the start.
    pub(crate) wrong_passwords: Arc<AtomicU64>,
    pub(crate) started: Instant,
}

impl ServerState {
    /// The state of a process that only reads a feed.
    #[must_use]
    pub fn of_feed(feed: Progress) -> Self {
        Self::new("ingest", None, Some(feed))
    }

    /// The state of a process of a job.
    #[must_use]
    pub fn of_job(command: &'static str, job: JobState, feed: Option<Progress>) -> Self {
        Self::new(command, Some(job), feed)
    }

    fn new(command: &'static str, job: Option<JobState>, feed: Option<Progress>) -> Self {
        Self {
            command,
            job,
            feed,
            append_outage: None,
            page_streams: Arc::default(),
            wrong_passwords: Arc::default(),
            started: Instant::now(),
        }
    }

    /// The same, with what the log's writer says of its appends.
    #[must_use]
    pub fn with_appends(self, outage: OutageState) -> Self {
        Self {
            append_outage: Some(outage),
            ..self
        }
    }

    /// What the process waits for now, since when and why; `None` if all is well.
    #[must_use]
    pub fn waits_for(&self) -> Option<String> {
        let all: Vec<String> = outages(self).iter().map(ToString::to_string).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// The number of partitions of the log; 0 in a process that does not run the coordinator.
    pub(crate) fn partitions(&self) -> usize {
        self.job.as_ref().map_or(0, JobState::partitions)
    }
}

/// What one process knows of its job.
pub struct JobState {
    pub(crate) name: String,
    pub(crate) process: usize,
    pub(crate) processes: usize,
    pub(crate) workers: usize,
    pub(crate) log: String,
    pub(crate) store: String,
    /// Symbols of baskets that had no bar at the start and are not subscribed to.
    pub(crate) unlisted: Vec<Symbol>,
    /// How long an epoch may stay open.
    pub(crate) epoch: Duration,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) end_offsets: EndOffsets,
}

impl fmt::Debug for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobState")
            .field("name", &self.name)
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

impl JobState {
    /// The state of a job with this configuration; `store` is the store's description.
    #[must_use]
    pub fn new(config: &JobConfig, log: &dyn Log, store: String, metrics: &Arc<Metrics>) -> Self {
        Self {
            name: config.job.clone(),
            process: config.process,
            processes: config.processes,
            workers: config.workers,
            log: log.describe(),
            store,
            unlisted: Vec::new(),
            epoch: config.epoch,
            metrics: Arc::clone(metrics),
            end_offsets: EndOffsets::default(),
        }
    }

    /// The same, with symbols of baskets that had no bar at the start and are not subscribed to.
    #[must_use]
    pub fn with_unlisted(self, unlisted: Vec<Symbol>) -> Self {
        Self { unlisted, ..self }
    }

    pub(crate) fn partitions(&self) -> usize {
        self.metrics
            .checkpoint()
            .map_or(0, |checkpoint| checkpoint.committed.cuts.len())
    }

    /// The age of the oldest end offset; none in a process that reads none. `started` counts for
    /// a partition whose end offset was never read.
    pub(crate) fn end_offsets_age(&self, started: Instant) -> Option<Duration> {
        self.end_offsets.age(self.partitions(), started)
    }
}
