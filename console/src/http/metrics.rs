//! `/metrics`: the text format of Prometheus, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! The registry of names, types, labels and help texts is [`Metric`]. `prometheus-client` writes
//! the text: a [`Collector`] reads the server state once per scrape, because the job counts in
//! atomics of its own and must not depend on a metrics library.

use std::{
    fmt::{self, Display},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Router, extract::State, http::header::CONTENT_TYPE, response::IntoResponse, routing::get,
};
use prometheus_client::{
    collector::Collector,
    encoding::{
        CounterValueEncoder, DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue,
        GaugeValueEncoder, MetricEncoder, NoLabelSet, prometheus_text,
    },
    metrics::MetricType,
    registry::Registry,
};
use tapeflow_dataflow::HistogramSnapshot;
use tapeflow_ingest::{Connection, Progress, spool::SpoolNow};
use tapeflow_schemas::{Metric, metric::Kind};

use super::{
    process::ProcessStats,
    state::{JobState, ServerState},
    status::partition_offsets,
};
use crate::clock::unix_seconds;

/// Upper bounds of the freshness histogram's buckets in milliseconds: one less than a power of two,
/// where the finer buckets of the job end too.
const BOUNDS_MS: [u64; 15] = [
    15, 31, 63, 127, 255, 511, 1_023, 2_047, 4_095, 8_191, 16_383, 65_535, 262_143, 1_048_575,
    4_194_303,
];

/// `GET /metrics`.
pub(super) fn route(state: &Arc<ServerState>) -> Router {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(StateCollector(Arc::clone(state))));
    Router::new()
        .route("/metrics", get(metrics))
        .with_state(Arc::new(registry))
}

async fn metrics(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = prometheus_text::encode(&mut text, &registry);
    ([(CONTENT_TYPE, prometheus_text::CONTENT_TYPE)], text)
}

#[derive(Debug)]
struct StateCollector(Arc<ServerState>);

impl Collector for StateCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (state, mut encoder) = (&*self.0, Encoder(encoder));
        let process = ProcessStats::now();
        encoder.series(Metric::BuildInfo, [(env!("CARGO_PKG_VERSION"), 1u64)])?;
        encoder.known(Metric::CpuSeconds, process.cpu)?;
        encoder.known(Metric::ResidentMemory, process.resident_bytes)?;
        encoder.known(Metric::OpenFiles, process.open_files)?;
        encoder.one(Metric::StartTime, unix_seconds(state.started))?;
        let streams = state.page_streams.load(Ordering::Relaxed);
        encoder.one(Metric::PageStreams, streams)?;
        let wrong = state.wrong_passwords.load(Ordering::Relaxed);
        encoder.one(Metric::WrongPasswords, wrong)?;
        if let Some(job) = &state.job {
            encode_job(&mut encoder, job)?;
            let age = job.end_offsets_age(state.started);
            encoder.known(Metric::EndOffsetsAge, age)?;
        }
        if let Some(feed) = &state.feed {
            encode_feed(&mut encoder, feed, unix_seconds(state.started))?;
        }
        Ok(())
    }
}

fn encode_job(encoder: &mut Encoder<'_>, job: &JobState) -> fmt::Result {
    let metrics = &*job.metrics;
    encoder.one(Metric::Workers, job.workers as u64)?;
    encoder.one(Metric::Generation, metrics.generation.get())?;
    encoder.one(Metric::Ready, u64::from(metrics.ready()))?;
    encoder.known(Metric::ProgressAge, metrics.progress_age())?;
    encoder.known(Metric::WorkerStepAge, metrics.step_age())?;
    for (metric, counter) in [
        (Metric::RecordsRead, &metrics.records),
        (Metric::TradesAccepted, &metrics.accepted),
        (Metric::TradesLate, &metrics.late),
        (Metric::PriceUpdates, &metrics.price_updates),
        (Metric::RecordsDuplicate, &metrics.duplicates),
        (Metric::LostSequences, &metrics.lost_sequences),
        (Metric::SequenceGaps, &metrics.gaps),
        (Metric::OffsetsLost, &metrics.lost),
        (Metric::BarsWritten, &metrics.bars_written),
        (Metric::TradesBeyondHorizon, &metrics.beyond_horizon),
        (Metric::BarsRead, &metrics.bars_read),
        (Metric::OpenBarsRead, &metrics.open_bars_read),
        (Metric::BarsEvicted, &metrics.bars_evicted),
        (Metric::ViewsWritten, &metrics.views_written),
        (Metric::ViewsRead, &metrics.views_read),
        (Metric::ViewRecounts, &metrics.view_recounts),
        (Metric::ViewBarsRead, &metrics.view_bars_read),
        (Metric::StoreRetries, &metrics.store_retries),
    ] {
        encoder.one(metric, counter.get())?;
    }
    encoder.series(Metric::DeadLetters, metrics.dead_letters())?;
    let outside = [
        ("closed", metrics.outside_sessions.get()),
        ("unknown_year", metrics.in_unknown_years.get()),
    ];
    encoder.series(Metric::TradesOutsideSessions, outside)?;
    encoder.one(Metric::EpochBound, metrics.epoch_bound.get())?;
    encoder.one(Metric::EpochCommitted, metrics.epoch_committed.get())?;
    encoder.histogram(Metric::Freshness, &metrics.freshness.snapshot())?;
    let offsets = partition_offsets(job);
    let each = || offsets.iter();
    encoder.series(Metric::OffsetBound, each().map(|p| (p.partition, p.bound)))?;
    encoder.series(
        Metric::OffsetCommitted,
        each().map(|p| (p.partition, p.committed)),
    )?;
    encoder.series(
        Metric::OffsetEnd,
        each().filter_map(|p| Some((p.partition, p.end?))),
    )?;
    encoder.series(
        Metric::Lag,
        each().filter_map(|p| Some((p.partition, p.lag()?))),
    )?;
    let newest = metrics
        .checkpoint()
        .and_then(|checkpoint| checkpoint.committed.watermark_ms());
    encoder.known(Metric::NewestTrade, newest.map(seconds))
}

/// `started` is the start of the process in seconds since 1970 UTC.
fn encode_feed(encoder: &mut Encoder<'_>, feed: &Progress, started: f64) -> fmt::Result {
    let now = feed.snapshot();
    let counts = &now.counts;
    // A recording has no connection that could be lost.
    if now.connection != Connection::None {
        let open = now.connection == Connection::Open;
        encoder.one(Metric::FeedConnected, u64::from(open))?;
    }
    encoder.one(Metric::FeedReconnects, now.connections.saturating_sub(1))?;
    for (metric, count) in [
        (Metric::FeedFrames, counts.frames),
        (Metric::FeedTrades, counts.trades),
        (Metric::FeedPriceUpdates, counts.price_updates),
        (Metric::FeedRounded, counts.rounded),
        (Metric::FeedProviderErrors, counts.provider_errors),
        (Metric::FeedRecords, counts.records),
    ] {
        encoder.one(metric, count)?;
    }
    let invalid = counts.invalid.iter();
    encoder.series(
        Metric::FeedInvalid,
        invalid.map(|(reason, count)| (reason.word(), *count)),
    )?;
    let unknown = counts.unknown_conditions.iter();
    encoder.series(
        Metric::FeedUnknownConditions,
        unknown.map(|(code, count)| (*code, *count)),
    )?;
    let last_frame = now.last_frame_ms.map_or(started, seconds);
    encoder.one(Metric::FeedLastFrame, last_frame)?;
    feed.spool()
        .map_or(Ok(()), |spool| encode_spool(encoder, &spool.now()))
}

fn encode_spool(encoder: &mut Encoder<'_>, spool: &SpoolNow) -> fmt::Result {
    for (metric, value) in [
        (Metric::FeedSpoolBytes, spool.bytes),
        (Metric::FeedSpoolLimit, spool.limit_bytes),
        (Metric::FeedSpoolRecords, spool.records),
        (Metric::FeedSpoolFull, u64::from(spool.full.is_some())),
        (Metric::FeedSpoolReplayed, spool.replayed),
        (Metric::FeedSpoolCut, spool.cut_bytes),
    ] {
        encoder.one(metric, value)?;
    }
    Ok(())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds since 1970 have 53 bits for 285,000 years"
)]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

/// The value of a sample. Integers stay integers: a double would round large offsets.
enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Unsigned(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Signed(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

/// In seconds, the base unit of Prometheus.
impl From<Duration> for Value {
    fn from(value: Duration) -> Self {
        Self::Float(value.as_secs_f64())
    }
}

impl EncodeGaugeValue for Value {
    fn encode(&self, encoder: &mut GaugeValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(value) => EncodeGaugeValue::encode(value, encoder),
            Self::Signed(value) => EncodeGaugeValue::encode(value, encoder),
            Self::Float(value) => EncodeGaugeValue::encode(value, encoder),
        }
    }
}

impl EncodeCounterValue for Value {
    fn encode(&self, encoder: &mut CounterValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(value) => EncodeCounterValue::encode(value, encoder),
            Self::Signed(value) => {
                EncodeCounterValue::encode(&u64::try_from(*value).unwrap_or(0), encoder)
            }
            Self::Float(value) => EncodeCounterValue::encode(value, encoder),
        }
    }
}

/// Writes metrics of the registry.
struct Encoder<'a>(DescriptorEncoder<'a>);

impl Encoder<'_> {
    /// Writes the `# HELP` and `# TYPE` lines.
    fn describe(&mut self, metric: Metric) -> Result<MetricEncoder<'_>, fmt::Error> {
        let (name, kind) = match metric.kind() {
            // The encoder adds the suffix to the name of each counter.
            Kind::Counter => {
                let name = metric.name();
                let stem = name.strip_suffix("_total").unwrap_or(name);
                (stem, MetricType::Counter)
            }
            Kind::Gauge => (metric.name(), MetricType::Gauge),
            Kind::Histogram => (metric.name(), MetricType::Histogram),
        };
        self.0.encode_descriptor(name, metric.help(), None, kind)
    }

    /// Writes a metric without a label.
    fn one(&mut self, metric: Metric, value: impl Into<Value>) -> fmt::Result {
        debug_assert!(metric.label().is_none(), "{metric:?} has a label");
        sample(metric.kind(), self.describe(metric)?, &value.into())
    }

    /// Writes a metric without a label; nothing if its value is unknown.
    fn known(&mut self, metric: Metric, value: Option<impl Into<Value>>) -> fmt::Result {
        value.map_or(Ok(()), |value| self.one(metric, value))
    }

    /// Writes a metric with one sample for each value of its label.
    fn series<L: Display, V: Into<Value>>(
        &mut self,
        metric: Metric,
        values: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let Some(label) = metric.label() else {
            debug_assert!(false, "{metric:?} has no label");
            return Ok(());
        };
        let mut family = self.describe(metric)?;
        for (text, value) in values {
            let labels = [(label, text.to_string())];
            sample(metric.kind(), family.encode_family(&labels)?, &value.into())?;
        }
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a run")]
    fn histogram(&mut self, metric: Metric, observed: &HistogramSnapshot) -> fmt::Result {
        let mut below = 0;
        let buckets = BOUNDS_MS.map(|bound_ms| {
            let (up_to, before) = (observed.up_to(bound_ms), below);
            below = up_to;
            (bound_ms as f64 / 1_000.0, up_to.saturating_sub(before))
        });
        let sum = observed.sum_ms as f64 / 1_000.0;
        self.describe(metric)?
            .encode_histogram::<NoLabelSet>(sum, observed.count(), &buckets, None)
    }
}

fn sample(kind: Kind, mut encoder: MetricEncoder<'_>, value: &Value) -> fmt::Result {
    match kind {
        Kind::Counter => encoder.encode_counter::<NoLabelSet, _, u64>(value, None),
        Kind::Gauge | Kind::Histogram => encoder.encode_gauge(value),
    }
}

#[cfg(test)]
mod tests {
    use tapeflow_dataflow::Metrics;

    use super::*;

    /// The text of what `encode` writes.
    fn text(encode: fn(&mut Encoder<'_>) -> fmt::Result) -> String {
        #[derive(Debug)]
        struct Written(fn(&mut Encoder<'_>) -> fmt::Result);
        impl Collector for Written {
            fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
                (self.0)(&mut Encoder(encoder))
            }
        }
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register_collector(Box::new(Written(encode)));
        prometheus_text::encode(&mut text, &registry).expect("a string takes all");
        text
    }

    #[test]
    fn labels_cannot_break_out_of_their_quotes() {
        let text =
            text(|encoder| encoder.series(Metric::DeadLetters, [("a\"} 1\nevil 1 \\", 2u64)]));
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(
            text.ends_with("{reason=\"a\\\"} 1\\nevil 1 \\\\\"} 2\n"),
            "{text}"
        );
    }

    #[test]
    fn names_and_help_are_those_of_the_registry() {
        let text = text(|encoder| {
            encoder.one(Metric::RecordsRead, 7u64)?;
            encoder.known(Metric::Generation, None::<u64>)?;
            encoder.series(Metric::Lag, [(3, 5i64)])?;
            encoder.series(Metric::FeedInvalid, std::iter::empty::<(&str, u64)>())?;
            encoder.one(Metric::ProgressAge, Duration::from_millis(1_500))
        });
        let described = |metric: Metric| {
            let (name, kind) = (metric.name(), metric.kind().word());
            format!("# HELP {name} {}\n# TYPE {name} {kind}\n", metric.help())
        };
        let wanted = [
            described(Metric::RecordsRead) + "tapeflow_records_read_total 7\n",
            described(Metric::Lag) + "tapeflow_lag_records{partition=\"3\"} 5\n",
            described(Metric::FeedInvalid),
            described(Metric::ProgressAge) + "tapeflow_progress_age_seconds 1.5\n",
        ];
        assert_eq!(text, wanted.concat());
    }

    #[test]
    fn buckets_of_the_histogram_are_cumulative_and_end_with_all_observations() {
        let text = text(|encoder| {
            encoder.histogram(Metric::Freshness, &Metrics::default().freshness.snapshot())
        });
        let buckets = text.lines().filter(|line| line.contains("_bucket{le="));
        assert_eq!(buckets.count(), BOUNDS_MS.len() + 1, "{text}");
        for line in [
            "tapeflow_freshness_seconds_bucket{le=\"0.015\"} 0",
            "tapeflow_freshness_seconds_bucket{le=\"4194.303\"} 0",
            "tapeflow_freshness_seconds_bucket{le=\"+Inf\"} 0",
            "tapeflow_freshness_seconds_count 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
