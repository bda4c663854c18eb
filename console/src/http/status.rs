//! `/status`: the state of the process as one JSON object, for the live page, scripts and people.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use axum::{extract::State, http::header::CONTENT_TYPE, response::IntoResponse};
use serde_json::{Map, Value, json};
use tapeflow_dataflow::Metrics;
use tapeflow_ingest::{Connection, FeedKind, Progress, spool::SpoolNow};
use tapeflow_schemas::{Offset, Symbol};

use super::{
    process::ProcessStats,
    state::{JobState, ServerState},
};
use crate::outages::{Waiting, outages};

pub(super) async fn status(State(state): State<Arc<ServerState>>) -> impl IntoResponse {
    (
        [(CONTENT_TYPE, "application/json")],
        status_json(&state).to_string(),
    )
}

/// The body of `/status`.
pub(crate) fn status_json(state: &ServerState) -> Value {
    let process = ProcessStats::now();
    json!({
        "command": state.command,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": state.started.elapsed().as_secs_f64(),
        "memory_bytes": process.resident_bytes,
        "cpu_s": seconds(process.cpu),
        "page_streams": state.page_streams.load(Ordering::Relaxed),
        "job": state.job.as_ref().map(|job| job_json(job, state.started)),
        "feed": state.feed.as_ref().map(feed_json),
        // What the process waits for, the longest first; empty if all is well.
        "outages": outages(state).iter().map(Waiting::json).collect::<Vec<_>>(),
    })
}

fn job_json(job: &JobState, started: Instant) -> Value {
    let metrics = &*job.metrics;
    let checkpoint = metrics.checkpoint();
    let newest_trade_ms = checkpoint.and_then(|checkpoint| checkpoint.committed.watermark_ms());
    json!({
        "name": job.name,
        "process": job.process,
        "processes": job.processes,
        "workers": job.workers,
        "log": job.log,
        "store": job.store,
        // Of the start: a symbol that is misspelled is missing from the sums of its basket.
        "unlisted_basket_symbols": job.unlisted.iter().map(Symbol::as_str).collect::<Vec<_>>(),
        "ready": metrics.ready(),
        "generation": metrics.generation.get(),
        "epoch_bound": metrics.epoch_bound.get(),
        "epoch_committed": metrics.epoch_committed.get(),
        "newest_trade_ms": newest_trade_ms,
        "progress_age_s": seconds(metrics.progress_age()),
        "end_offsets_age_s": seconds(job.end_offsets_age(started)),
        "worker_step_age_s": seconds(metrics.step_age()),
        // Empty except in process 0.
        "partitions": partitions_json(job),
        "records_read": metrics.records.get(),
        "trades_accepted": metrics.accepted.get(),
        "trades_late": metrics.late.get(),
        "price_updates": metrics.price_updates.get(),
        "dead_letters": metrics.dead_letters(),
        "records_duplicate": metrics.duplicates.get(),
        "sequence_gaps": metrics.gaps.get(),
        "offsets_lost": metrics.lost.get(),
        "bars_written": metrics.bars_written.get(),
        "bars_read": metrics.bars_read.get(),
        "bars_evicted": metrics.bars_evicted.get(),
        "views_written": metrics.views_written.get(),
        "views_read": metrics.views_read.get(),
        "view_recounts": metrics.view_recounts.get(),
        "view_bars_read": metrics.view_bars_read.get(),
        "store_retries": metrics.store_retries.get(),
        // Of the last one to two minutes; /metrics counts since the start.
        "freshness_s": freshness_json(metrics),
    })
}

fn seconds(time: Option<Duration>) -> Option<f64> {
    time.map(|time| time.as_secs_f64())
}

/// How far one partition is bound and committed, and where it ends.
pub(super) struct PartitionOffsets {
    pub(super) partition: usize,
    /// The next offset to bind.
    pub(super) bound: Offset,
    /// The next offset to commit.
    pub(super) committed: Offset,
    /// The next offset of the log; none if it is unknown or stale.
    pub(super) end: Option<Offset>,
}

impl PartitionOffsets {
    /// Records in the log that are not committed. Never negative: records may have been committed
    /// since the end offset was read.
    pub(super) fn lag(&self) -> Option<Offset> {
        self.end.map(|end| (end - self.committed).max(0))
    }
}

/// All partitions; none in a process that does not run the coordinator.
pub(super) fn partition_offsets(job: &JobState) -> Vec<PartitionOffsets> {
    let Some(checkpoint) = job.metrics.checkpoint() else {
        return Vec::new();
    };
    let cuts = checkpoint
        .committed
        .cuts
        .iter()
        .zip(&checkpoint.last_binding().cuts)
        .enumerate();
    cuts.map(|(partition, (committed, bound))| PartitionOffsets {
        partition,
        bound: bound.next,
        committed: committed.next,
        end: job.end_offsets.of(partition).map(|end| end.max(bound.next)),
    })
    .collect()
}

fn partitions_json(job: &JobState) -> Vec<Value> {
    let each = |offsets: &PartitionOffsets| {
        json!({
            "partition": offsets.partition,
            "bound": offsets.bound,
            "committed": offsets.committed,
            "end": offsets.end,
            "lag": offsets.lag(),
        })
    };
    partition_offsets(job).iter().map(each).collect()
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of a run")]
fn freshness_json(metrics: &Metrics) -> Value {
    let observed = metrics.recent_freshness.snapshot(Instant::now());
    let quantile = |share: f64| observed.quantile_ms(share).map(|ms| ms as f64 / 1_000.0);
    json!({
        "count": observed.count(),
        "p50": quantile(0.5),
        "p90": quantile(0.9),
        "p99": quantile(0.99),
        "max": quantile(1.0),
    })
}

fn feed_json(feed: &Progress) -> Value {
    let now = feed.snapshot();
    let invalid: Map<String, Value> = now
        .counts
        .invalid
        .iter()
        .map(|(reason, count)| (reason.word().to_owned(), json!(count)))
        .collect();
    json!({
        // finnhub, recording or simulated.
        "kind": feed.kind().word(),
        "connected": now.connection == Connection::Open,
        "recording": feed.kind() == FeedKind::Recording,
        "reconnects": now.connections.saturating_sub(1),
        "frames": now.counts.frames,
        "trades": now.counts.trades,
        "price_updates": now.counts.price_updates,
        "invalid": invalid,
        "rounded": now.counts.rounded,
        "provider_errors": now.counts.provider_errors,
        "records": now.counts.records,
        "last_frame_ms": now.last_frame_ms,
        "spool": feed.spool().map(|spool| spool_json(&spool.now())),
    })
}

fn spool_json(spool: &SpoolNow) -> Value {
    json!({
        "bytes": spool.bytes,
        "limit_bytes": spool.limit_bytes,
        "records": spool.records,
        "full": spool.full.is_some(),
        "replayed_records": spool.replayed,
        "cut_bytes": spool.cut_bytes,
    })
}
