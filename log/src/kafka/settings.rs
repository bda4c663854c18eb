//! How Kafka is configured: where the topic is, and the settings of every kind of client.
//!
//! A [`KafkaConfig`] holds what the operator chose. A preset holds what this crate chose for one
//! kind of client, and why. A setting of Kafka is changed here and nowhere else.
//!
//! Later values win: the preset's defaults, then the operator's settings, then the preset's fixed
//! settings, then the addresses of the brokers.

use std::{fmt, path::Path};

use rdkafka::{
    ClientConfig, ClientContext,
    client::DefaultClientContext,
    config::{FromClientConfig, FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::BaseConsumer,
    error::KafkaError,
};
use tapeflow_schemas::Secret;

use super::{
    client_errors::ClientErrors,
    errors,
    operator_settings::{self, canonical},
};
use crate::read::LogError;

/// Where a topic is, and how to connect to its brokers. `Debug` prints the keys of settings and
/// not their values.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaConfig {
    /// `host:port[,host:port...]`.
    pub brokers: String,
    /// The topic. Nothing creates it but [`admin`](super::admin).
    pub topic: String,
    /// Further client settings, such as TLS and SASL. They win over the presets' defaults.
    pub settings: Vec<(String, Secret)>,
    /// The consumer group that shows the lag of a job: the job's name. No consumer ever joins it.
    /// The job commits its offsets to it and never reads them: the checkpoint decides where the job
    /// resumes.
    pub group: String,
}

/// The group of clients that commit no offsets. librdkafka wants a name all the same.
pub const DEFAULT_GROUP: &str = "tapeflow";

impl KafkaConfig {
    /// A topic of brokers that need no further settings.
    #[must_use]
    pub fn new(brokers: impl Into<String>, topic: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            topic: topic.into(),
            settings: Vec::new(),
            group: DEFAULT_GROUP.to_owned(),
        }
    }

    /// Reads settings from a file: one `key=value` a line. What exactness rests on, and what loads
    /// code, is refused by name.
    ///
    /// # Errors
    /// A text that names the file, the line and the setting, and never a value.
    pub fn read_settings(file: &Path) -> Result<Vec<(String, Secret)>, String> {
        operator_settings::read(file)
    }

    /// Settings for the library: the preset's, overruled as the top of this file says.
    pub(super) fn client(&self, preset: &Preset) -> ClientConfig {
        let mut client = ClientConfig::new();
        // The map of the library has no order, so a setting must not be in it under two names.
        let mut set = |key: &str, value: &str| {
            client.set(canonical(key), value);
        };
        for (key, value) in preset.defaults {
            set(key, value);
        }
        for (key, value) in &self.settings {
            set(key, value.expose());
        }
        if preset.consumes {
            set("group.id", &self.group);
        }
        for (key, value) in preset.fixed {
            set(key, value);
        }
        set("bootstrap.servers", &self.brokers);
        if let Some(level) = preset.log_level {
            client.set_log_level(level);
        }
        client
    }

    /// The consumer of [`READER`], for questions and for reading.
    pub(super) fn reader(&self) -> Result<BaseConsumer<ClientErrors>, LogError> {
        self.create_with(&self.client(&READER), ClientErrors::default())
    }

    /// A client of [`ADMIN`]: one that manages topics, or one that asks about them.
    pub(super) fn admin<T: FromClientConfig>(&self) -> Result<T, LogError> {
        self.client(&ADMIN)
            .create()
            .map_err(|error| self.not_created(&error))
    }

    pub(super) fn create_with<T: FromClientConfigAndContext<C>, C: ClientContext>(
        &self,
        client: &ClientConfig,
        context: C,
    ) -> Result<T, LogError> {
        client
            .create_with_context(context)
            .map_err(|error| self.not_created(&error))
    }

    fn not_created(&self, error: &KafkaError) -> LogError {
        errors::not_created(self, error)
    }
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.settings.iter().map(|(key, _)| key).collect();
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("topic", &self.topic)
            .field("settings", &keys)
            .field("group", &self.group)
            .finish()
    }
}

/// A client that manages topics.
pub(super) type AdminClient = rdkafka::admin::AdminClient<DefaultClientContext>;

/// Settings of one kind of client.
pub(super) struct Preset {
    /// The operator's settings win over these.
    defaults: &'static [(&'static str, &'static str)],
    /// These win over the operator's settings.
    fixed: &'static [(&'static str, &'static str)],
    /// Whether it may become a consumer, which needs the name of a group. The library warns of one
    /// in a producer.
    consumes: bool,
    /// The library's default follows the level of this process.
    log_level: Option<RDKafkaLogLevel>,
}

/// The job's consumer. It reads partitions that the job assigns to itself, and answers questions
/// about the topic.
pub(super) const READER: Preset = Preset {
    defaults: &[
        ("client.id", "tapeflow-dataflow"),
        // The default of 1000 ms makes a consumer of small messages ten times slower.
        ("fetch.queue.backoff.ms", "2"),
        ("fetch.wait.max.ms", "100"),
        // Partitions of a connection that has gone silent stand still for this long; the default
        // is 60 s.
        ("socket.timeout.ms", "10000"),
        // Bounds the queues: the defaults take hundreds of megabytes.
        ("queued.min.messages", "5000"),
        ("queued.max.messages.kbytes", "1024"),
        // A larger record still arrives, alone. With the default of 1 MB most of the client's
        // memory holds one decompressed megabyte after another.
        ("fetch.message.max.bytes", "262144"),
        ("statistics.interval.ms", "0"),
    ],
    fixed: READ_EXACTLY,
    // The reason why a connection failed is a line of this level.
    consumes: true,
    log_level: Some(RDKafkaLogLevel::Info),
};

/// What exact reading needs: every committed record, from the offset that the job names.
const READ_EXACTLY: &[(&str, &str)] = &[
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("isolation.level", "read_committed"),
    // An offset that is gone is a loss for the operator to decide on, not to skip.
    ("auto.offset.reset", "error"),
    // A mistyped topic must not come into being.
    ("allow.auto.create.topics", "false"),
    ("check.crcs", "true"),
    ("enable.partition.eof", "false"),
];

/// The consumer that looks at offsets without a record ([`jumps`](super::jumps)): every record,
/// also of transactions that were given up, and one batch at a time.
pub(super) const WALKER: Preset = Preset {
    defaults: &[("client.id", "tapeflow-dataflow")],
    fixed: &[
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("isolation.level", "read_uncommitted"),
        ("auto.offset.reset", "error"),
        ("allow.auto.create.topics", "false"),
        ("check.crcs", "true"),
        ("enable.partition.eof", "false"),
        // The brokers always answer with one batch, and with no more at this size.
        ("fetch.message.max.bytes", "1"),
        // No further batch is fetched before this one was taken.
        ("queued.min.messages", "1"),
        ("fetch.queue.backoff.ms", "1"),
        ("fetch.wait.max.ms", "100"),
    ],
    consumes: true,
    log_level: None,
};

/// The consumer that finds the extent of a batch that cannot be read
/// ([`unreadable`](super::unreadable)). It reads like the job.
pub(super) const PROBE: Preset = Preset {
    defaults: READER.defaults,
    fixed: &[
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("isolation.level", "read_committed"),
        ("auto.offset.reset", "error"),
        ("allow.auto.create.topics", "false"),
        ("check.crcs", "true"),
        // Behind the last batch there is nothing but the end.
        ("enable.partition.eof", "true"),
    ],
    consumes: true,
    log_level: None,
};

/// Ingest's producer.
pub(super) const WRITER: Preset = Preset {
    defaults: &[
        ("client.id", "tapeflow-ingest"),
        ("linger.ms", "5"),
        // A reader decompresses lz4 in a quarter of the time of zstd, which took an eighth of all
        // CPU of a trade. The records take half as much disk again
        // (`bench/results/throughput.md`).
        ("compression.type", "lz4"),
        // Bounds the records that are accepted but not yet appended.
        ("queue.buffering.max.messages", "50000"),
        ("queue.buffering.max.kbytes", "32768"),
        ("statistics.interval.ms", "0"),
    ],
    fixed: APPEND_EXACTLY,
    consumes: false,
    log_level: None,
};

/// The producer of benchmarks, for as many records as the brokers accept.
pub(super) const BULK_WRITER: Preset = Preset {
    defaults: &[
        ("client.id", "tapeflow-bench"),
        // As in `WRITER`: readers are measured on the same records.
        ("compression.type", "lz4"),
        ("delivery.report.only.error", "true"),
        ("batch.num.messages", "4000"),
        ("queue.buffering.max.messages", "200000"),
        ("queue.buffering.max.kbytes", "131072"),
    ],
    fixed: APPEND_EXACTLY,
    consumes: false,
    log_level: None,
};

/// What exact appends need: no record lost, none twice, none out of order while the connection
/// lives. A record has no time-out, so a broker that is away makes the producer wait.
const APPEND_EXACTLY: &[(&str, &str)] = &[
    ("acks", "all"),
    ("enable.idempotence", "true"),
    ("message.timeout.ms", "0"),
    ("message.send.max.retries", "2147483647"),
    // The most that idempotence allows.
    ("max.in.flight.requests.per.connection", "5"),
    ("queuing.strategy", "fifo"),
    ("allow.auto.create.topics", "false"),
];

/// The consumer that reads the end of a topic for the last sequences of a session.
pub(super) const TAIL: Preset = Preset {
    defaults: &[
        ("client.id", "tapeflow-ingest"),
        ("fetch.queue.backoff.ms", "2"),
        ("fetch.wait.max.ms", "100"),
        ("queued.max.messages.kbytes", "16384"),
        ("statistics.interval.ms", "0"),
    ],
    fixed: &[
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("isolation.level", "read_committed"),
        // Ends the reading of a chunk whose last offsets are transaction markers.
        ("enable.partition.eof", "true"),
        // Retention may delete the first offsets of a chunk; then there is less to read.
        ("auto.offset.reset", "earliest"),
        ("allow.auto.create.topics", "false"),
    ],
    consumes: true,
    log_level: None,
};

/// Clients that create, delete and describe topics, and read no record.
const ADMIN: Preset = Preset {
    defaults: &[("client.id", "tapeflow-admin")],
    // A question about a topic must not create it.
    fixed: &[("allow.auto.create.topics", "false")],
    consumes: true,
    log_level: None,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_prints_the_keys_of_settings_and_no_values() {
        let config = KafkaConfig {
            settings: vec![("sasl.password".into(), Secret::new("hunter2"))],
            ..KafkaConfig::new("b:9092", "trades")
        };
        let text = format!("{config:?}");
        assert!(
            text.contains("sasl.password") && !text.contains("hunter2"),
            "{text}"
        );
    }

    fn with(settings: &[(&str, &str)]) -> KafkaConfig {
        KafkaConfig {
            settings: settings
                .iter()
                .map(|(key, value)| ((*key).to_owned(), Secret::new(*value)))
                .collect(),
            ..KafkaConfig::new("b:9092", "trades")
        }
    }

    #[test]
    fn the_operator_overrules_defaults_but_not_what_exactness_needs() {
        let client = with(&[
            ("linger.ms", "50"),
            ("acks", "1"),
            ("delivery.timeout.ms", "1"),
            ("bootstrap.servers", "elsewhere:1"),
        ])
        .client(&WRITER);
        assert_eq!(client.get("group.id"), None);
        assert_eq!(client.get("queue.buffering.max.ms"), Some("50"));
        assert_eq!(client.get("linger.ms"), None, "under one name only");
        assert_eq!(client.get("request.required.acks"), Some("all"));
        assert_eq!(client.get("message.timeout.ms"), Some("0"));
        assert_eq!(client.get("delivery.timeout.ms"), None);
        assert_eq!(client.get("metadata.broker.list"), Some("b:9092"));
    }

    #[test]
    fn no_setting_moves_a_reader_beyond_records() {
        for key in ["auto.offset.reset", "topic.auto.offset.reset"] {
            let client = with(&[
                (key, "latest"),
                ("isolation.level", "read_uncommitted"),
                ("check.crcs", "false"),
                ("group.id", "another"),
            ])
            .client(&READER);
            assert_eq!(client.get("auto.offset.reset"), Some("error"));
            assert_eq!(client.get("topic.auto.offset.reset"), None);
            assert_eq!(client.get("isolation.level"), Some("read_committed"));
            assert_eq!(client.get("check.crcs"), Some("true"));
            assert_eq!(client.get("group.id"), Some("tapeflow"));
        }
    }

    #[test]
    fn an_alias_decides_nothing_by_the_order_of_a_map() {
        let config = with(&[
            ("delivery.timeout.ms", "1"),
            ("queue.buffering.max.ms", "7"),
        ]);
        for _ in 0..64 {
            let native = config
                .client(&WRITER)
                .create_native_config()
                .expect("settings");
            assert_eq!(native.get("message.timeout.ms").as_deref(), Ok("0"));
            assert_eq!(native.get("linger.ms").as_deref(), Ok("7"));
        }
    }
}
