//! `/status`: the metrics as one JSON object, for the live page, scripts and people.

use std::{sync::Arc, time::Instant};

use axum::{extract::State, http::header::CONTENT_TYPE, response::IntoResponse};
use serde_json::{Value, json};
use tapeflow_dataflow::Metrics;
use tapeflow_ingest::{Connection, Progress};

use super::{Job, Told, process};

pub(super) async fn status(State(told): State<Arc<Told>>) -> impl IntoResponse {
    (
        [(CONTENT_TYPE, "application/json")],
        look(&told).to_string(),
    )
}

/// How the process stands now.
pub(crate) fn look(told: &Told) -> Value {
    json!({
        "command": told.command,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": told.began.elapsed().as_secs_f64(),
        "memory_bytes": process::resident_bytes(),
        "cpu_s": process::cpu().map(|cpu| cpu.as_secs_f64()),
        "page_streams": told.streams.load(std::sync::atomic::Ordering::Relaxed),
        "job": told.job.as_ref().map(|of| job(of, told)),
        "feed": told.feed.as_ref().map(feed),
    })
}

fn job(job: &Job, told: &Told) -> Value {
    let metrics = &*job.metrics;
    let checkpoint = metrics.checkpoint();
    json!({
        "name": job.name,
        "process": job.process,
        "processes": job.processes,
        "workers": job.workers,
        "log": job.log,
        "store": job.store,
        "ready": metrics.ready(),
        "generation": metrics.generation.get(),
        "epoch_bound": metrics.epoch_bound.get(),
        "epoch_committed": metrics.epoch_committed.get(),
        "newest_trade_ms": checkpoint.as_ref().and_then(|checkpoint| checkpoint.committed.watermark_ms()),
        "progress_age_s": metrics.progress_age().map(|age| age.as_secs_f64()),
        "log_age_s": job.log_age(told.began).map(|age| age.as_secs_f64()),
        "turn_age_s": metrics.step_age().map(|age| age.as_secs_f64()),
        // Known to process 0 alone.
        "partitions": partitions(job),
        "records_read": metrics.records.get(),
        "trades_accepted": metrics.accepted.get(),
        "trades_late": metrics.late.get(),
        "price_updates": metrics.price_updates.get(),
        "records_dead_letters": metrics.dead_letters(),
        "records_duplicate": metrics.duplicates.get(),
        "sequence_gaps": metrics.gaps.get(),
        "offsets_lost": metrics.lost.get(),
        "bars_written": metrics.bars_written.get(),
        "bars_read": metrics.bars_read.get(),
        "bars_evicted": metrics.bars_evicted.get(),
        "lists_written": metrics.views_written.get(),
        "view_bars_read": metrics.view_bars_read.get(),
        "store_retries": metrics.store_retries.get(),
        // Of the last minute or two; since the start in /metrics.
        "freshness_s": freshness(metrics),
    })
}

/// Where each partition is bound, committed, and ends.
pub(super) struct Standing {
    pub(super) partition: usize,
    pub(super) bound: i64,
    pub(super) committed: i64,
    /// None if the log has not told.
    pub(super) end: Option<i64>,
}

impl Standing {
    /// Records in the log that are not committed. What was committed since the log was asked is
    /// none.
    pub(super) fn lag(&self) -> Option<i64> {
        self.end.map(|end| (end - self.committed).max(0))
    }
}

/// All partitions; none in a process that does not lead.
pub(super) fn standings(job: &Job) -> Vec<Standing> {
    let Some(checkpoint) = job.metrics.checkpoint() else {
        return Vec::new();
    };
    let cuts = checkpoint
        .committed
        .cuts
        .iter()
        .zip(&checkpoint.last_binding().cuts)
        .enumerate();
    cuts.map(|(partition, (committed, bound))| Standing {
        partition,
        bound: bound.next,
        committed: committed.next,
        end: job.ends.of(partition).map(|end| end.max(bound.next)),
    })
    .collect()
}

fn partitions(job: &Job) -> Vec<Value> {
    let each = |standing: &Standing| {
        let Standing {
            partition,
            bound,
            committed,
            end,
        } = standing;
        json!({ "partition": partition, "bound": bound, "committed": committed, "end": end, "lag": standing.lag() })
    };
    standings(job).iter().map(each).collect()
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of a run")]
fn freshness(metrics: &Metrics) -> Value {
    let seen = metrics.recent_freshness.snapshot(Instant::now());
    let quantile = |share: f64| seen.quantile_ms(share).map(|ms| ms as f64 / 1_000.0);
    json!({ "count": seen.count(), "p50": quantile(0.5), "p90": quantile(0.9), "p99": quantile(0.99), "max": quantile(1.0) })
}

fn feed(feed: &Progress) -> Value {
    let now = feed.snapshot();
    let dead_letters: serde_json::Map<String, Value> = now
        .counts
        .invalid
        .iter()
        .map(|(reason, count)| (reason.word().to_owned(), json!(count)))
        .collect();
    json!({
        "connected": now.connection == Connection::Open,
        "recording": now.connection == Connection::None,
        "reconnects": now.connections.saturating_sub(1),
        "frames": now.counts.frames,
        "trades": now.counts.trades,
        "price_updates": now.counts.price_updates,
        "dead_letters": dead_letters,
        "rounded": now.counts.rounded,
        "provider_errors": now.counts.provider_errors,
        "records": now.counts.records,
        "last_frame_ms": now.last_frame_ms,
    })
}
