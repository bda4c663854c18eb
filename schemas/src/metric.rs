//! The registry of all metrics: name, type, label and help text.
//!
//! Code that counts, `/metrics`, dashboards and alerts all use these names; `tests/grafana/`
//! checks that each metric appears in a dashboard or an alert. Names follow the rules of Prometheus
//! (<https://prometheus.io/docs/practices/naming/>): base units, and `_total` for counters.

/// The type of a metric in Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Starts at zero with the process and never decreases.
    Counter,
    /// Increases and decreases.
    Gauge,
    /// Counts observations in buckets.
    Histogram,
}

impl Kind {
    /// The name of the type in Prometheus' text format.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Which processes export a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every process.
    Process,
    /// Every process of a job: `run`, `dataflow`.
    Job,
    /// Process 0 of a job, which runs the coordinator.
    Coordinator,
    /// Processes that read a feed: `run`, `ingest`.
    Feed,
}

macro_rules! metrics {
    ($(
        $variant:ident $name:literal $kind:ident $scope:ident [$($label:literal)?]
        $help:literal;
    )*) => {
        /// A metric that tapeflow exports.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Metric {
            $(#[doc = $help] $variant,)*
        }

        impl Metric {
            /// All metrics, in the order of the registry.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in `/metrics`, without a histogram's `_bucket`, `_sum` and `_count`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The type, for the `# TYPE` line.
            #[must_use]
            pub fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)* }
            }

            /// Which processes export it.
            #[must_use]
            pub fn scope(self) -> Scope {
                match self { $(Self::$variant => Scope::$scope,)* }
            }

            /// The label that distinguishes its series; `None` if there is one series per process.
            #[must_use]
            pub fn label(self) -> Option<&'static str> {
                match self { $(Self::$variant => None$(.or(Some($label)))?,)* }
            }

            /// The help text, for the `# HELP` line.
            #[must_use]
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

metrics! {
    BuildInfo "tapeflow_build_info" Gauge Process ["version"]
        "Always 1; the label is the version of the binary.";
    CpuSeconds "process_cpu_seconds_total" Counter Process []
        "CPU time of the process, user and system, in seconds.";
    ResidentMemory "process_resident_memory_bytes" Gauge Process []
        "Resident memory of the process in bytes.";
    OpenFiles "process_open_fds" Gauge Process []
        "Open file descriptors of the process.";
    StartTime "process_start_time_seconds" Gauge Process []
        "Start time of the process in seconds since 1970 UTC.";
    PageStreams "tapeflow_page_streams" Gauge Process []
        "Browsers that follow the live page.";
    WrongPasswords "tapeflow_http_wrong_passwords_total" Counter Process []
        "HTTP requests with a wrong password.";

    Workers "tapeflow_workers" Gauge Job []
        "Worker threads of the process.";
    Generation "tapeflow_generation" Gauge Job []
        "Generation of the job: each start of the whole job adds one.";
    Ready "tapeflow_ready" Gauge Job []
        "1 once the process has replayed all bound epochs and counts new records, else 0.";
    ProgressAge "tapeflow_progress_age_seconds" Gauge Job []
        "Seconds since the job last committed an epoch or found everything committed.";
    WorkerStepAge "tapeflow_worker_step_age_seconds" Gauge Job []
        "Seconds since the slowest worker of the process last began a step.";
    RecordsRead "tapeflow_records_read_total" Counter Job []
        "Records read from the log, including replayed ones.";
    TradesAccepted "tapeflow_trades_accepted_total" Counter Job []
        "Trades counted into bars, including replayed ones.";
    TradesLate "tapeflow_trades_late_total" Counter Job []
        "Counted trades that arrived after one of their windows was final.";
    TradesOutsideSessions "tapeflow_trades_outside_sessions_total" Counter Job ["reason"]
        "Counted trades that are in no session bar: market closed, or a year without a calendar.";
    TradesBeyondHorizon "tapeflow_trades_beyond_horizon_total" Counter Job []
        "Counted trades that came too late for the bars of a window size with a horizon.";
    PriceUpdates "tapeflow_price_updates_total" Counter Job []
        "Entries with a size of zero. They are not trades.";
    DeadLetters "tapeflow_dead_letters_total" Counter Job ["reason"]
        "Records and trades that became dead letters, by reason.";
    RecordsDuplicate "tapeflow_records_duplicate_total" Counter Job []
        "Records dropped because their session had already sent their sequence.";
    LostSequences "tapeflow_lost_sequences_total" Counter Job []
        "Sequences that the session before of a producer had appended, and that the log does not \
         have. More than zero means that the log has lost records after it acknowledged them.";
    SequenceGaps "tapeflow_sequence_gaps_total" Counter Job []
        "Sequences missing within a session: records lost before the log.";
    OffsetsLost "tapeflow_offsets_lost_total" Counter Job []
        "Offsets skipped with --accept-loss: the log had removed them before they were committed.";
    EpochBound "tapeflow_epoch_bound" Gauge Job []
        "Last epoch bound: its end offsets are durable.";
    EpochCommitted "tapeflow_epoch_committed" Gauge Job []
        "Last epoch committed: the store has acknowledged all its bars and views.";
    BarsWritten "tapeflow_bars_written_total" Counter Job []
        "Bars acknowledged by the store.";
    BarsRead "tapeflow_bars_read_total" Counter Job []
        "Bars read from the store because they were not in memory.";
    OpenBarsRead "tapeflow_open_bars_read_total" Counter Job []
        "Bars of open windows removed from memory and read back: --bar-memory is too small.";
    BarsEvicted "tapeflow_bars_evicted_total" Counter Job []
        "Bars removed from memory to bound it; the store has them.";
    ViewsWritten "tapeflow_views_written_total" Counter Job []
        "Views of windows acknowledged by the store.";
    ViewsRead "tapeflow_views_read_total" Counter Job []
        "Views read from the store because their window was not in memory.";
    ViewRecounts "tapeflow_view_recounts_total" Counter Job []
        "Windows whose views were made again from all bars, because a ranking ran out of reserve.";
    ViewBarsRead "tapeflow_view_bars_read_total" Counter Job []
        "Bars read from the store to make the views of a window again.";
    StoreRetries "tapeflow_store_retries_total" Counter Job []
        "Store calls that failed and were retried.";
    Freshness "tapeflow_freshness_seconds" Histogram Job []
        "Seconds from the append of a record until the store acknowledges its bars, sampled.";

    OffsetBound "tapeflow_offset_bound" Gauge Coordinator ["partition"]
        "End offset of the bound epochs: the next record to bind.";
    OffsetCommitted "tapeflow_offset_committed" Gauge Coordinator ["partition"]
        "End offset of the committed epochs: the next record to commit.";
    OffsetEnd "tapeflow_offset_end" Gauge Coordinator ["partition"]
        "End offset of the log: the offset that the next record gets.";
    Lag "tapeflow_lag_records" Gauge Coordinator ["partition"]
        "Records in the log that are not committed; absent while the end offset is unknown.";
    EndOffsetsAge "tapeflow_end_offsets_age_seconds" Gauge Coordinator []
        "Seconds since the end offset of every partition was last read.";
    NewestTrade "tapeflow_newest_trade_timestamp_seconds" Gauge Coordinator []
        "Event time of the newest committed trade in seconds since 1970 UTC.";

    FeedConnected "tapeflow_feed_connected" Gauge Feed []
        "1 while the connection to the feed is open, else 0.";
    FeedReconnects "tapeflow_feed_reconnects_total" Counter Feed []
        "Times that the connection to the feed was opened again.";
    FeedFrames "tapeflow_feed_frames_total" Counter Feed []
        "Frames received from the feed.";
    FeedTrades "tapeflow_feed_trades_total" Counter Feed []
        "Trades admitted from the feed.";
    FeedPriceUpdates "tapeflow_feed_price_updates_total" Counter Feed []
        "Entries of the feed with a size of zero. They are not trades.";
    FeedInvalid "tapeflow_feed_invalid_total" Counter Feed ["reason"]
        "Invalid frames and entries of the feed, by reason.";
    FeedRounded "tapeflow_feed_rounded_total" Counter Feed []
        "Trades whose price or size had more than eight decimal places and was rounded.";
    FeedUnknownConditions "tapeflow_feed_unknown_conditions_total" Counter Feed ["code"]
        "Sale conditions that are not in the table, by code.";
    FeedProviderErrors "tapeflow_feed_provider_errors_total" Counter Feed []
        "Errors that the provider of the feed sent.";
    FeedRecords "tapeflow_feed_records_total" Counter Feed []
        "Records that the log acknowledged.";
    FeedLastFrame "tapeflow_feed_last_frame_timestamp_seconds" Gauge Feed []
        "Time of the last frame in seconds since 1970 UTC; before it, the start of the process.";
    FeedSpoolBytes "tapeflow_feed_spool_bytes" Gauge Feed []
        "Bytes of the spool's files. With --spool only, as all metrics of the spool.";
    FeedSpoolLimit "tapeflow_feed_spool_limit_bytes" Gauge Feed []
        "Bound of the spool's files: --spool-size.";
    FeedSpoolRecords "tapeflow_feed_spool_records" Gauge Feed []
        "Records in the spool that the log has not acknowledged.";
    FeedSpoolFull "tapeflow_feed_spool_full" Gauge Feed []
        "1 while the spool has no room and the feed is not read, else 0.";
    FeedSpoolReplayed "tapeflow_feed_spool_replayed_records_total" Counter Feed []
        "Records in the spool from an earlier run that were sent.";
    FeedSpoolCut "tapeflow_feed_spool_cut_bytes_total" Counter Feed []
        "Bytes of a record that was being written when ingest was killed; cut at the start.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_follow_the_rules_of_prometheus() {
        let names: BTreeSet<&str> = Metric::ALL.iter().map(|metric| metric.name()).collect();
        assert_eq!(names.len(), Metric::ALL.len());
        for metric in Metric::ALL {
            let name = metric.name();
            assert!(
                name.starts_with("tapeflow_") || name.starts_with("process_"),
                "{name}"
            );
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
                "{name}"
            );
            assert_eq!(
                metric.kind() == Kind::Counter,
                name.ends_with("_total"),
                "{name}: a counter, and nothing else, ends in _total"
            );
            assert!(
                metric.help().ends_with('.') && metric.help().len() > 10,
                "{name}: its help is a sentence"
            );
        }
    }
}
