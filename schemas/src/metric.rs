//! The names of all metrics, in one place: what counts something, what serves it, what draws it and
//! what alarms at it use the same word.
//!
//! Names follow Prometheus' rules (<https://prometheus.io/docs/practices/naming/>): base units,
//! `_total` at the end of what only grows.

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from zero at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations in buckets.
    Histogram,
}

impl Kind {
    /// The word of the text format.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Which processes tell a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teller {
    /// Every process.
    Process,
    /// Every process of a job: `run`, `dataflow`.
    Job,
    /// Process 0 of a job, which leads it.
    Leader,
    /// Whoever takes a feed in: `run`, `ingest`.
    Feed,
}

macro_rules! metrics {
    ($($variant:ident $name:literal $kind:ident $teller:ident [$($label:literal)?] $help:literal;)*) => {
        /// A metric.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Metric {
            $(#[doc = $help] $variant,)*
        }

        impl Metric {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// How it behaves.
            #[must_use]
            pub fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)* }
            }

            /// Who tells it.
            #[must_use]
            pub fn teller(self) -> Teller {
                match self { $(Self::$variant => Teller::$teller,)* }
            }

            /// The label its series differ in, if there are several.
            #[must_use]
            pub fn label(self) -> Option<&'static str> {
                match self { $(Self::$variant => None$(.or(Some($label)))?,)* }
            }

            /// What it says, for a person.
            #[must_use]
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

metrics! {
    BuildInfo "tapeflow_build_info" Gauge Process ["version"] "Always 1; the label says which version runs.";
    CpuSeconds "process_cpu_seconds_total" Counter Process [] "CPU time of the process, user and system, in seconds.";
    ResidentMemory "process_resident_memory_bytes" Gauge Process [] "Memory of the process that stands in RAM.";
    OpenFiles "process_open_fds" Gauge Process [] "Open files and connections of the process.";
    StartTime "process_start_time_seconds" Gauge Process [] "When the process began, in seconds since 1970 UTC.";
    PageStreams "tapeflow_page_streams" Gauge Process [] "Browsers that follow the live page now.";

    Workers "tapeflow_workers" Gauge Job [] "Worker threads of this process.";
    Generation "tapeflow_generation" Gauge Job [] "Incarnation of the whole job: each start of all its processes adds one.";
    Ready "tapeflow_ready" Gauge Job [] "1 once the process has replayed what was bound and its job goes on, else 0.";
    ProgressAge "tapeflow_progress_age_seconds" Gauge Job [] "Time since the job last committed an epoch, or found everything in the log committed.";
    TurnAge "tapeflow_turn_age_seconds" Gauge Job [] "Time since the slowest worker of this process last began a turn.";
    RecordsRead "tapeflow_records_read_total" Counter Job [] "Log records read, replayed ones included.";
    TradesAccepted "tapeflow_trades_accepted_total" Counter Job [] "Trades counted into rows, replayed ones included.";
    TradesLate "tapeflow_trades_late_total" Counter Job [] "Of the trades counted, those that came after one of their windows had closed.";
    PriceUpdates "tapeflow_price_updates_total" Counter Job [] "Entries with a size of zero, which are no trades.";
    RecordsRejected "tapeflow_records_rejected_total" Counter Job ["reason"] "Records and trades that became dead letters, by reason.";
    RecordsDuplicate "tapeflow_records_duplicate_total" Counter Job [] "Records dropped because their session had sent their sequence before.";
    SequenceGaps "tapeflow_sequence_gaps_total" Counter Job [] "Sequences that a session skipped: records lost before the log.";
    OffsetsLost "tapeflow_offsets_lost_total" Counter Job [] "Offsets given up with --accept-loss, because the log had lost them before they were committed.";
    EpochBound "tapeflow_epoch_bound" Gauge Job [] "The last epoch bound: its offsets are durable.";
    EpochCommitted "tapeflow_epoch_committed" Gauge Job [] "The last epoch committed: a quorum has all its rows.";
    RowsWritten "tapeflow_rows_written_total" Counter Job [] "Rows acknowledged by the store.";
    RowsRead "tapeflow_rows_read_total" Counter Job [] "Rows asked of the store because they were not in memory.";
    RowsEvicted "tapeflow_rows_evicted_total" Counter Job [] "Rows put out of memory; the store has them.";
    ListsWritten "tapeflow_lists_written_total" Counter Job [] "Lists of views acknowledged by the store.";
    ViewRowsRead "tapeflow_view_rows_read_total" Counter Job [] "Rows asked of the store because a view's window was not in memory.";
    StoreRetries "tapeflow_store_retries_total" Counter Job [] "Calls of the store that failed and were tried again.";
    Freshness "tapeflow_freshness_seconds" Histogram Job [] "From the append of a record to the log until the store has acknowledged its rows; a sample of all records.";

    OffsetBound "tapeflow_offset_bound" Gauge Leader ["partition"] "The offset that bound epochs end at: the next record to be bound.";
    OffsetCommitted "tapeflow_offset_committed" Gauge Leader ["partition"] "The offset that committed epochs end at: the next record to be committed.";
    OffsetEnd "tapeflow_offset_end" Gauge Leader ["partition"] "The offset that the log's next record will get.";
    Lag "tapeflow_lag_records" Gauge Leader ["partition"] "Records in the log that are not committed yet; gone while the log does not tell where it ends.";
    LogAge "tapeflow_log_age_seconds" Gauge Leader [] "Time since the log last told where each of its partitions ends.";
    NewestTrade "tapeflow_newest_trade_timestamp_seconds" Gauge Leader [] "Event time of the newest committed trade, in seconds since 1970 UTC.";

    FeedConnected "tapeflow_feed_connected" Gauge Feed [] "1 while the connection to the feed is open, else 0.";
    FeedReconnects "tapeflow_feed_reconnects_total" Counter Feed [] "Times the connection to the feed was opened again.";
    FeedFrames "tapeflow_feed_frames_total" Counter Feed [] "Frames taken in from the feed.";
    FeedTrades "tapeflow_feed_trades_total" Counter Feed [] "Trades admitted from the feed.";
    FeedPriceUpdates "tapeflow_feed_price_updates_total" Counter Feed [] "Entries of the feed with a size of zero, which are no trades.";
    FeedRejected "tapeflow_feed_rejected_total" Counter Feed ["reason"] "Frames and entries of the feed that were refused, by reason.";
    FeedRounded "tapeflow_feed_rounded_total" Counter Feed [] "Trades whose price or size had more than eight decimals and was rounded.";
    FeedUnknownConditions "tapeflow_feed_unknown_conditions_total" Counter Feed ["code"] "Sale conditions that the table does not know, by code.";
    FeedProviderErrors "tapeflow_feed_provider_errors_total" Counter Feed [] "Errors that the provider of the feed sent.";
    FeedRecords "tapeflow_feed_records_total" Counter Feed [] "Records that the log has acknowledged.";
    FeedLastFrame "tapeflow_feed_last_frame_timestamp_seconds" Gauge Feed [] "When the last frame was taken in, in seconds since 1970 UTC; before the first one, when the process began.";
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
                "{name}: says what it says"
            );
        }
    }
}
