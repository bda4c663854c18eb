//! `/metrics`: Prometheus' text format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::{
    fmt::{Display, Write},
    sync::atomic::Ordering,
    time::Instant,
};

use tapeflow_ingest::{Connection, Progress};
use tapeflow_schemas::{Metric, metric::Kind};

use super::{
    Job, Told, process,
    status::{Standing, standings},
};

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Upper bounds of the freshness histogram's buckets, in milliseconds: one less than a power of
/// two, where the finer buckets beneath end as well.
const BOUNDS_MS: [u64; 15] = [
    15, 31, 63, 127, 255, 511, 1_023, 2_047, 4_095, 8_191, 16_383, 65_535, 262_143, 1_048_575,
    4_194_303,
];

/// All metrics of the process as they stand now.
pub(super) fn render(told: &Told) -> String {
    let mut text = Text::default();
    text.series(Metric::BuildInfo, [(env!("CARGO_PKG_VERSION"), 1)]);
    text.some(
        Metric::CpuSeconds,
        process::cpu().map(|cpu| cpu.as_secs_f64()),
    );
    text.some(Metric::ResidentMemory, process::resident_bytes());
    text.some(Metric::OpenFiles, process::open_files());
    text.one(Metric::StartTime, process::unix_seconds(told.began));
    text.one(Metric::PageStreams, told.streams.load(Ordering::Relaxed));
    if let Some(job) = &told.job {
        of_job(&mut text, job);
        text.some(
            Metric::EndOffsetsAge,
            job.log_age(told.began).map(|age| age.as_secs_f64()),
        );
    }
    if let Some(feed) = &told.feed {
        of_feed(&mut text, feed, told.began);
    }
    text.0
}

fn of_job(text: &mut Text, job: &Job) {
    let metrics = &*job.metrics;
    text.one(Metric::Workers, job.workers);
    text.one(Metric::Generation, metrics.generation.get());
    text.one(Metric::Ready, u8::from(metrics.ready()));
    text.some(
        Metric::ProgressAge,
        metrics.progress_age().map(|age| age.as_secs_f64()),
    );
    text.some(
        Metric::WorkerStepAge,
        metrics.step_age().map(|age| age.as_secs_f64()),
    );
    for (metric, counter) in [
        (Metric::RecordsRead, &metrics.records),
        (Metric::TradesAccepted, &metrics.accepted),
        (Metric::TradesLate, &metrics.late),
        (Metric::PriceUpdates, &metrics.price_updates),
        (Metric::RecordsDuplicate, &metrics.duplicates),
        (Metric::SequenceGaps, &metrics.gaps),
        (Metric::OffsetsLost, &metrics.lost),
        (Metric::BarsWritten, &metrics.bars_written),
        (Metric::BarsRead, &metrics.bars_read),
        (Metric::BarsEvicted, &metrics.bars_evicted),
        (Metric::ViewsWritten, &metrics.views_written),
        (Metric::ViewBarsRead, &metrics.view_bars_read),
        (Metric::StoreRetries, &metrics.store_retries),
    ] {
        text.one(metric, counter.get());
    }
    text.series(Metric::DeadLetters, metrics.dead_letters());
    text.one(Metric::EpochBound, metrics.epoch_bound.get());
    text.one(Metric::EpochCommitted, metrics.epoch_committed.get());
    text.histogram(Metric::Freshness, &metrics.freshness.snapshot());
    let standings = standings(job);
    text.series(
        Metric::OffsetBound,
        standings.iter().map(|s| (s.partition, s.bound)),
    );
    text.series(
        Metric::OffsetCommitted,
        standings.iter().map(|s| (s.partition, s.committed)),
    );
    text.series(
        Metric::OffsetEnd,
        standings.iter().filter_map(|s| Some((s.partition, s.end?))),
    );
    text.series(
        Metric::Lag,
        standings
            .iter()
            .filter_map(|s: &Standing| Some((s.partition, s.lag()?))),
    );
    text.some(
        Metric::NewestTrade,
        metrics
            .checkpoint()
            .and_then(|checkpoint| checkpoint.committed.watermark_ms())
            .map(seconds),
    );
}

fn of_feed(text: &mut Text, feed: &Progress, began: Instant) {
    let now = feed.snapshot();
    let counts = &now.counts;
    // A recording has no connection that could be lost.
    if now.connection != Connection::None {
        text.one(
            Metric::FeedConnected,
            u8::from(now.connection == Connection::Open),
        );
    }
    text.one(Metric::FeedReconnects, now.connections.saturating_sub(1));
    for (metric, count) in [
        (Metric::FeedFrames, counts.frames),
        (Metric::FeedTrades, counts.trades),
        (Metric::FeedPriceUpdates, counts.price_updates),
        (Metric::FeedRounded, counts.rounded),
        (Metric::FeedProviderErrors, counts.provider_errors),
        (Metric::FeedRecords, counts.records),
    ] {
        text.one(metric, count);
    }
    text.series(
        Metric::FeedInvalid,
        counts
            .invalid
            .iter()
            .map(|(reason, count)| (reason.word(), *count)),
    );
    text.series(
        Metric::FeedUnknownConditions,
        counts
            .unknown_conditions
            .iter()
            .map(|(code, count)| (*code, *count)),
    );
    // What has been silent from the start has been silent since then.
    text.one(
        Metric::FeedLastFrame,
        now.last_frame_ms
            .map_or_else(|| process::unix_seconds(began), seconds),
    );
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds since 1970 have 53 bits for 285,000 years"
)]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

/// The text so far. Writing into a string cannot fail.
#[derive(Default)]
struct Text(String);

impl Text {
    fn checkpoint(&mut self, metric: Metric) {
        let (name, kind) = (metric.name(), metric.kind());
        let _ = writeln!(
            self.0,
            "# HELP {name} {}\n# TYPE {name} {}",
            metric.help(),
            kind.word()
        );
    }

    fn one(&mut self, metric: Metric, value: impl Display) {
        debug_assert!(
            metric.label().is_none() && metric.kind() != Kind::Histogram,
            "{metric:?}"
        );
        self.checkpoint(metric);
        let _ = writeln!(self.0, "{} {value}", metric.name());
    }

    fn some(&mut self, metric: Metric, value: Option<impl Display>) {
        if let Some(value) = value {
            self.one(metric, value);
        }
    }

    fn series<L: Display, V: Display>(
        &mut self,
        metric: Metric,
        values: impl IntoIterator<Item = (L, V)>,
    ) {
        let Some(label) = metric.label() else {
            return debug_assert!(false, "{metric:?} has no label");
        };
        self.checkpoint(metric);
        for (of, value) in values {
            let _ = writeln!(
                self.0,
                "{}{{{label}=\"{}\"}} {value}",
                metric.name(),
                escaped(&of.to_string())
            );
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a run")]
    fn histogram(&mut self, metric: Metric, seen: &tapeflow_dataflow::HistogramSnapshot) {
        self.checkpoint(metric);
        let (name, count) = (metric.name(), seen.count());
        for bound in BOUNDS_MS {
            let _ = writeln!(
                self.0,
                "{name}_bucket{{le=\"{}\"}} {}",
                bound as f64 / 1_000.0,
                seen.up_to(bound)
            );
        }
        let _ = writeln!(
            self.0,
            "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {}\n{name}_count {count}",
            seen.sum_ms as f64 / 1_000.0
        );
    }
}

/// A label's value: a reason comes from a record, and a record may hold anything.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_break_out_of_their_quotes() {
        let mut text = Text::default();
        text.series(Metric::DeadLetters, [("a\"} 1\nevil 1 \\", 2)]);
        assert_eq!(text.0.lines().count(), 3, "{}", text.0);
        assert!(
            text.0.ends_with("{reason=\"a\\\"} 1\\nevil 1 \\\\\"} 2\n"),
            "{}",
            text.0
        );
    }
}
