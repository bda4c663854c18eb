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

use super::{client_errors::ClientErrors, errors};
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
}

impl KafkaConfig {
    /// A topic of brokers that need no further settings.
    #[must_use]
    pub fn new(brokers: impl Into<String>, topic: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            topic: topic.into(),
            settings: Vec::new(),
        }
    }

    /// Reads settings from a file: one `key=value` a line. Empty lines and lines that begin with
    /// `#` are skipped.
    ///
    /// # Errors
    /// A text that names the file and the line, and never a value.
    pub fn read_settings(file: &Path) -> Result<Vec<(String, Secret)>, String> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        let lines = text
            .lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line.trim()))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        lines
            .map(|(number, line)| match line.split_once('=') {
                Some((key, value)) if !key.trim().is_empty() => {
                    Ok((key.trim().to_owned(), Secret::new(value.trim())))
                }
                _ => Err(format!("{} line {number} is not key=value", file.display())),
            })
            .collect()
    }

    /// Settings for the library: the preset's, overruled as the top of this file says.
    pub(super) fn client(&self, preset: &Preset) -> ClientConfig {
        let mut client = ClientConfig::new();
        for (key, value) in preset.defaults {
            client.set(*key, *value);
        }
        for (key, value) in &self.settings {
            client.set(key, value.expose());
        }
        for (key, value) in preset.fixed {
            client.set(*key, *value);
        }
        client.set("bootstrap.servers", &self.brokers);
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
    /// The library's default follows the level of this process.
    log_level: Option<RDKafkaLogLevel>,
}

/// The job's consumer. It reads partitions that the job assigns to itself, and answers questions
/// about the topic.
const READER: Preset = Preset {
    defaults: &[
        ("client.id", "tapeflow-dataflow"),
        // No consumer ever joins the group. The job commits its offsets to it, for tools that show
        // lag, and never reads them: the checkpoint decides where the job resumes.
        ("group.id", "tapeflow"),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("isolation.level", "read_committed"),
        // An offset that is gone is a loss for the operator to decide on, not to skip.
        ("auto.offset.reset", "error"),
        // A mistyped topic must not come into being.
        ("allow.auto.create.topics", "false"),
        ("check.crcs", "true"),
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
    fixed: &[],
    // The reason why a connection failed is a line of this level.
    log_level: Some(RDKafkaLogLevel::Info),
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
    fixed: EXACT,
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
    fixed: EXACT,
    log_level: None,
};

/// What exact appends need: no record lost, none twice, none out of order while the connection
/// lives. A record has no time-out, so a broker that is away makes the producer wait.
const EXACT: &[(&str, &str)] = &[
    ("acks", "all"),
    ("enable.idempotence", "true"),
    ("message.timeout.ms", "0"),
    ("allow.auto.create.topics", "false"),
];

/// The consumer that reads the end of a topic for the last sequences of a session.
pub(super) const TAIL: Preset = Preset {
    defaults: &[
        ("client.id", "tapeflow-ingest"),
        // librdkafka requires a group. No consumer ever joins it.
        ("group.id", "tapeflow"),
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
    log_level: None,
};

/// Clients that create, delete and describe topics, and read no record.
const ADMIN: Preset = Preset {
    defaults: &[
        ("client.id", "tapeflow-admin"),
        // A question about a topic must not create it.
        ("allow.auto.create.topics", "false"),
    ],
    fixed: &[],
    log_level: None,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_lines_of_key_and_value_and_errors_do_not_show_values() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(
            file.path(),
            "# tls\nsecurity.protocol = SASL_SSL\n\nsasl.password=a=b\n",
        )
        .expect("written");
        let read = KafkaConfig::read_settings(file.path()).expect("two settings");
        assert_eq!(
            read,
            [
                ("security.protocol".into(), Secret::new("SASL_SSL")),
                ("sasl.password".into(), Secret::new("a=b"))
            ]
        );
        std::fs::write(file.path(), "hunter2").expect("written");
        let error = KafkaConfig::read_settings(file.path()).expect_err("no key");
        assert!(
            error.contains("line 1") && !error.contains("hunter2"),
            "{error}"
        );
    }

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

    #[test]
    fn the_operator_overrules_defaults_but_not_what_exactness_needs() {
        let config = KafkaConfig {
            settings: vec![
                ("linger.ms".into(), Secret::new("50")),
                ("acks".into(), Secret::new("1")),
                ("bootstrap.servers".into(), Secret::new("elsewhere:1")),
            ],
            ..KafkaConfig::new("b:9092", "trades")
        };
        let client = config.client(&WRITER);
        assert_eq!(client.get("linger.ms"), Some("50"));
        assert_eq!(client.get("acks"), Some("all"));
        assert_eq!(client.get("bootstrap.servers"), Some("b:9092"));
    }
}
