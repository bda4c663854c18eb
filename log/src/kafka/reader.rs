//! Kafka's topic as a log. Nothing else of this crate knows Kafka.
//!
//! Connecting makes sure that the topic is one a job may read, and notes in what it is less than
//! the guarantee needs ([`topic`]).
//!
//! Partitions are assigned by the job itself: no consumer group, no rebalance, and committed
//! offsets are never read, for the truth stands in the checkpoint. Queues are bounded: librdkafka's
//! defaults would take hundreds of megabytes.

use std::{
    fmt,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Offset as KafkaOffset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    metadata::{Metadata, MetadataTopic},
};
use tapeflow_protocol::SourceIdentity;
use tapeflow_schemas::{Offset, Partition};

use super::{
    TopicFinding,
    batch::{BatchConsumer, Record},
    client_errors as trouble,
    client_errors::{ClientErrors, Why},
    topic, topic_id,
};
use crate::read::{Log, LogError, LogReader, LogRecord};

/// How long a question to the brokers may take before they count as out of reach.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the first try of a question may take; each further one twice as long, and all of them
/// [`PATIENCE`].
const FIRST_TRY: Duration = Duration::from_secs(1);

/// What brokers log us as.
const CLIENT: &str = "tapeflow-dataflow";

/// Where a topic is, and how to get there.
#[derive(Clone)]
pub struct KafkaLogConfig {
    /// `host:port[,host:port...]`.
    pub brokers: String,
    /// The topic.
    pub topic: String,
    /// More client settings, such as TLS and SASL; they win over ours. Values may be secret.
    pub settings: Vec<(String, String)>,
}

impl fmt::Debug for KafkaLogConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings: Vec<_> = self.settings.iter().map(|(key, _)| key).collect();
        f.debug_struct("KafkaLogConfig")
            .field("brokers", &self.brokers)
            .field("topic", &self.topic)
            .field("settings", &settings)
            .finish()
    }
}

/// A topic.
pub struct KafkaLog {
    config: KafkaLogConfig,
    /// Answers questions; reads nothing.
    client: BaseConsumer<ClientErrors>,
    findings: Vec<TopicFinding>,
}

impl KafkaLog {
    /// Connects, makes sure that the topic exists and is none that loses records by design, and
    /// examines its settings.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if no broker answers within ten seconds;
    /// [`LogError::Broken`] if brokers refuse us, if there is no such topic, or if it is compacted.
    pub fn connect(config: KafkaLogConfig) -> Result<Self, LogError> {
        let client = consumer(&config)?;
        let mut log = Self {
            config,
            client,
            findings: Vec::new(),
        };
        let topic = log.config.topic.clone();
        let facts = log.metadata(|metadata, found| topic::Facts {
            replicas: found
                .partitions()
                .iter()
                .map(|partition| partition.replicas().len())
                .min()
                .unwrap_or(0),
            brokers: metadata.brokers().len(),
            settings: topic::settings(&to_cluster(&log.config), &topic, PATIENCE),
        })?;
        log.findings = topic::judge(&topic, &facts)
            .map_err(|compacted| LogError::Broken(compacted.to_string()))?;
        Ok(log)
    }

    /// In what the topic is less than the guarantee needs, as of connecting; empty if in nothing.
    /// For the caller to say.
    #[must_use]
    pub fn findings(&self) -> &[TopicFinding] {
        &self.findings
    }

    /// What the brokers say of the topic, which is there.
    fn metadata<T>(
        &self,
        read: impl FnOnce(&Metadata, &MetadataTopic) -> T,
    ) -> Result<T, LogError> {
        let metadata = self.answer()?;
        let topic = metadata
            .topics()
            .iter()
            .find(|topic| topic.name() == self.config.topic)
            .ok_or_else(|| self.no_topic())?;
        match topic.error() {
            Some(code) => Err(self.error(&KafkaError::MetadataFetch(code.into()))),
            None if topic.partitions().is_empty() => Err(self.no_topic()),
            None => Ok(read(&metadata, topic)),
        }
    }

    /// Asks about the topic. The first question of all comes here, so this is where one learns that
    /// brokers refuse us; the client itself would go on trying until the time is up.
    fn answer(&self) -> Result<Metadata, LogError> {
        let (deadline, mut patience) = (Instant::now() + PATIENCE, FIRST_TRY);
        trouble::forget(&self.client);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self
                .client
                .fetch_metadata(Some(&self.config.topic), patience.min(left))
            {
                Ok(metadata) => return Ok(metadata),
                Err(error) => {
                    trouble::hear(&self.client);
                    if left <= patience || self.client.context().is_hopeless() {
                        return Err(self.error(&error));
                    }
                }
            }
            patience *= 2;
        }
    }

    fn error(&self, error: &KafkaError) -> LogError {
        use RDKafkaErrorCode as Code;
        let brokers = &self.config.brokers;
        trouble::hear(&self.client);
        match (error.rdkafka_error_code(), self.client.context().why()) {
            (
                Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition),
                _,
            ) => self.no_topic(),
            (
                Some(
                    code @ (Code::TopicAuthorizationFailed
                    | Code::Authentication
                    | Code::SaslAuthenticationFailed),
                ),
                _,
            ) => LogError::Broken(format!(
                "kafka at {brokers} refuses us: {code}; see --kafka-config-file"
            )),
            (_, Some(Why::Refused(reason))) => LogError::Broken(format!(
                "kafka at {brokers} refuses us or is not trusted: {reason}; see --kafka-config-file"
            )),
            (_, Some(Why::Failed(reason))) if reason.contains("Disconnected") => {
                LogError::Unavailable(format!(
                    "kafka at {brokers} ends the connection: {reason}; if it asks for TLS or a password, see security.protocol in --kafka-config-file"
                ))
            }
            (_, Some(Why::Failed(reason))) => LogError::Unavailable(format!(
                "kafka at {brokers}: {error}: {reason}; see --brokers"
            )),
            (_, None) => {
                LogError::Unavailable(format!("kafka at {brokers}: {error}; see --brokers"))
            }
        }
    }

    fn no_topic(&self) -> LogError {
        LogError::Broken(format!(
            "there is no topic {:?} at {}: run `tapeflow init`, or see --topic",
            self.config.topic, self.config.brokers
        ))
    }
}

/// Where the cluster is and how to get in, for any kind of client.
fn to_cluster(config: &KafkaLogConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &config.brokers)
        .set("client.id", CLIENT);
    for (key, value) in &config.settings {
        client.set(key, value);
    }
    client
}

fn consumer(config: &KafkaLogConfig) -> Result<BaseConsumer<ClientErrors>, LogError> {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &config.brokers)
        .set("client.id", CLIENT)
        // No consumer joins the group. It only holds the committed offsets, for tools that display
        // lag.
        .set("group.id", "tapeflow")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false")
        .set("check.crcs", "true")
        // The default of 1000 ms makes a consumer of small messages ten times slower.
        .set("fetch.queue.backoff.ms", "2")
        .set("fetch.wait.max.ms", "100")
        // A connection that has gone silent: the default of 60 s is how long its partitions would
        // stand still.
        .set("socket.timeout.ms", "10000")
        .set("queued.min.messages", "5000")
        .set("queued.max.messages.kbytes", "1024")
        // A record above this still comes, alone; a megabyte at a time, unpacked, is what the
        // client held most of its memory for.
        .set("fetch.message.max.bytes", "262144")
        .set("statistics.interval.ms", "0")
        // Why a connection failed is a line of its log.
        .set_log_level(RDKafkaLogLevel::Info);
    for (key, value) in &config.settings {
        client.set(key, value);
    }
    // The text of a configuration error names the setting; values may be secret and are not
    // repeated.
    client
        .create_with_context(ClientErrors::default())
        .map_err(|error| match error {
            KafkaError::ClientConfig(_, reason, key, _) => {
                LogError::Broken(format!("kafka setting {key}: {reason}"))
            }
            other => LogError::Broken(match unreadable(&config.settings) {
                Some(file) => format!("kafka setting {file}"),
                None => format!("cannot make a kafka client: {other}"),
            }),
        })
}

/// The first setting whose file cannot be read, for librdkafka says neither which one nor why.
fn unreadable(settings: &[(String, String)]) -> Option<String> {
    let mut files = settings
        .iter()
        .filter(|(key, _)| key.starts_with("ssl.") && key.ends_with(".location"));
    files.find_map(|(key, file)| {
        std::fs::File::open(file)
            .err()
            .map(|error| format!("{key}: cannot read {file}: {error}"))
    })
}

impl Log for KafkaLog {
    fn describe(&self) -> String {
        format!(
            "kafka topic {} at {}",
            self.config.topic, self.config.brokers
        )
    }

    fn identity(&self) -> Result<SourceIdentity, LogError> {
        trouble::forget(&self.client);
        let cluster = self.client.client().fetch_cluster_id(PATIENCE);
        let cluster = cluster.ok_or_else(|| {
            LogError::Unavailable(format!(
                "kafka at {} does not tell its cluster id; see --brokers",
                self.config.brokers
            ))
        })?;
        let topic_id = topic_id::read(&self.client, &self.config.topic, PATIENCE)
            .map_err(|error| self.error(&error))?;
        Ok(SourceIdentity {
            cluster,
            topic: self.config.topic.clone(),
            topic_id,
        })
    }

    fn partitions(&self) -> Result<u32, LogError> {
        let count = self.metadata(|_, topic| topic.partitions().len())?;
        u32::try_from(count)
            .map_err(|_| LogError::Broken(format!("kafka has no {count} partitions")))
    }

    fn bounds(&self, partition: Partition) -> Result<Range<Offset>, LogError> {
        trouble::forget(&self.client);
        let (low, high) = self
            .client
            .fetch_watermarks(&self.config.topic, number(partition)?, PATIENCE)
            .map_err(|error| self.error(&error))?;
        Ok(low..high)
    }

    fn commit_group_offsets(&self, committed: &[(Partition, Offset)]) -> Result<(), LogError> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in committed {
            list.add_partition_offset(
                &self.config.topic,
                number(*partition)?,
                KafkaOffset::Offset(*offset),
            )
            .map_err(|error| self.error(&error))?;
        }
        self.client
            .commit(&list, CommitMode::Sync)
            .map_err(|error| self.error(&error))
    }

    fn reader(&self, from: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError> {
        let consumer = consumer(&self.config)?;
        let mut list = TopicPartitionList::new();
        for (partition, offset) in from {
            list.add_partition_offset(
                &self.config.topic,
                number(*partition)?,
                KafkaOffset::Offset(*offset),
            )
            .map_err(|error| self.error(&error))?;
        }
        if !from.is_empty() {
            consumer.assign(&list).map_err(|error| self.error(&error))?;
        }
        let consumer = BatchConsumer::new(consumer).map_err(|error| self.error(&error))?;
        Ok(Box::new(KafkaReader {
            consumer,
            topic: self.config.topic.clone(),
        }))
    }
}

fn number(partition: Partition) -> Result<i32, LogError> {
    i32::try_from(partition)
        .map_err(|_| LogError::Broken(format!("kafka has no partition {partition}")))
}

struct KafkaReader {
    consumer: BatchConsumer<ClientErrors>,
    topic: String,
}

impl LogReader for KafkaReader {
    fn poll(
        &mut self,
        limit: usize,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<usize, LogError> {
        let (topic, trouble) = (&self.topic, Arc::clone(self.consumer.consumer().context()));
        self.consumer.poll(limit, |record| match record {
            Ok(Record {
                partition,
                offset,
                timestamp_ms,
                payload,
            }) => {
                each(LogRecord {
                    partition,
                    offset,
                    timestamp_ms,
                    payload,
                });
                Ok(())
            }
            Err(error) => judge(topic, &trouble, &error),
        })
    }

    fn set_paused(&mut self, partition: Partition, paused: bool) -> Result<(), LogError> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, number(partition)?);
        let done = if paused {
            self.consumer.consumer().pause(&list)
        } else {
            self.consumer.consumer().resume(&list)
        };
        done.map_err(|error| {
            LogError::Broken(format!(
                "cannot pause or resume partition {partition}: {error}"
            ))
        })
    }
}

/// Tells errors that end the reading from such that librdkafka mends by itself.
fn judge(topic: &str, trouble: &ClientErrors, error: &KafkaError) -> Result<(), LogError> {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::OffsetOutOfRange | Code::AutoOffsetReset) => Err(LogError::Broken(format!(
            "topic {topic}: an offset to be read is gone from the log ({error})"
        ))),
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
            Err(LogError::Broken(format!("topic {topic} is gone")))
        }
        // What cannot be read will not be read better a second time, and to go on without it would
        // lose it in silence.
        Some(
            Code::BadMessage
            | Code::BadCompression
            | Code::NotImplemented
            | Code::TopicAuthorizationFailed
            | Code::Fatal,
        ) => Err(LogError::Broken(format!("topic {topic}: {error}"))),
        _ => {
            tracing::warn!(%error, why = ?trouble.why(), "kafka trouble; the client tries again by itself");
            Ok(())
        }
    }
}
