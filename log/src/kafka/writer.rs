//! Kafka's topic as a place for records. With its `tail` the only place of this crate that knows
//! Kafka.
//!
//! Appends are idempotent, acknowledged by all in-sync replicas, and tried until they succeed:
//! there is no time-out on a record, so a broker that is away makes ingest wait and loses nothing.
//! What does fail has failed for good and ends the run, for the next record must not overtake it. A
//! run that starts again relies on nothing but what the log holds ([`Publish::last_sequences`]).

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use rdkafka::{
    ClientConfig, ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseRecord, ProducerContext, ThreadedProducer},
};
use tapeflow_schemas::{Secret, SessionId};
use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::{log_throttle, tail};
use crate::append::{OutRecord, Publish, PublishError};

/// Where a topic is, and how to get there.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// `host:port[,host:port...]`.
    pub brokers: String,
    /// The topic. It must exist.
    pub topic: String,
    /// More client settings, such as TLS and SASL; they win over ours, but for those that exactness
    /// rests on.
    pub settings: Vec<(String, String)>,
    /// Settings whose values must not be seen, such as `sasl.password`.
    pub secrets: Vec<(String, Secret)>,
}

/// How long a question to the brokers may take before they count as out of reach.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// How often an unanswered append is mentioned.
const MENTION: Duration = Duration::from_secs(10);

/// What appends rest on, whatever else is set: no record lost, none twice, none out of order within
/// a connection's life.
const EXACT: [(&str, &str); 4] = [
    ("acks", "all"),
    ("enable.idempotence", "true"),
    ("message.timeout.ms", "0"),
    ("allow.auto.create.topics", "false"),
];
/// What an ordinary network wants; may be overruled.
const ORDINARY: [(&str, &str); 6] = [
    ("client.id", "tapeflow-ingest"),
    ("linger.ms", "5"),
    // A reader unpacks a record in a quarter of the time that zstd takes, which was an eighth of
    // all the CPU of a trade; half as many bytes again on disk (`bench/results/throughput.md`).
    ("compression.type", "lz4"),
    // Bounds what is taken but not yet appended.
    ("queue.buffering.max.messages", "50000"),
    ("queue.buffering.max.kbytes", "32768"),
    ("statistics.interval.ms", "0"),
];

impl KafkaConfig {
    /// A client's configuration: `ours`, overruled by the user's, overruled by `fixed`.
    fn client(&self, ours: &[(&str, &str)], fixed: &[(&str, &str)]) -> ClientConfig {
        let mut client = ClientConfig::new();
        for (key, value) in ours {
            client.set(*key, *value);
        }
        for (key, value) in &self.settings {
            client.set(key, value);
        }
        for (key, value) in &self.secrets {
            client.set(key, value.expose());
        }
        for (key, value) in fixed {
            client.set(*key, *value);
        }
        client.set("bootstrap.servers", &self.brokers);
        client
    }

    /// An error in words, without secrets: a configuration error of the library quotes values.
    pub(super) fn error(&self, error: &KafkaError) -> PublishError {
        use RDKafkaErrorCode as Code;
        let brokers = &self.brokers;
        let text = match (error, error.rdkafka_error_code()) {
            (KafkaError::ClientConfig(_, reason, key, _), _) => {
                format!("kafka setting {key}: {reason}")
            }
            (
                _,
                Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition),
            ) => {
                format!(
                    "there is no topic {:?} at {brokers}: run `tapeflow init`, or see --topic",
                    self.topic
                )
            }
            (
                _,
                Some(
                    code @ (Code::Authentication
                    | Code::SaslAuthenticationFailed
                    | Code::TopicAuthorizationFailed
                    | Code::ClusterAuthorizationFailed),
                ),
            ) => {
                format!("kafka at {brokers} refuses us: {code}; see --kafka-config-file")
            }
            (_, Some(Code::MessageSizeTooLarge)) => {
                format!(
                    "kafka at {brokers} refuses a record as too large: raise max.message.bytes of topic {:?} to its default of 1 MB",
                    self.topic
                )
            }
            _ => format!("kafka at {brokers}: {error}; see --brokers"),
        };
        PublishError(self.scrub(text))
    }

    fn scrub(&self, text: String) -> String {
        self.secrets
            .iter()
            .fold(text, |text, (_, secret)| secret.scrub(&text))
    }

    fn create<T: FromClientConfigAndContext<C>, C: ClientContext>(
        &self,
        client: &ClientConfig,
        context: C,
    ) -> Result<T, PublishError> {
        client
            .create_with_context(context)
            .map_err(|error| self.error(&error))
    }
}

/// A topic, for appending.
pub struct KafkaPublisher {
    config: KafkaConfig,
    partitions: u32,
    producer: ThreadedProducer<Deliveries>,
    appends: Arc<Appends>,
}

impl std::fmt::Debug for KafkaPublisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaPublisher")
            .field("config", &self.config)
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

impl KafkaPublisher {
    /// Connects, and makes sure that the topic exists.
    ///
    /// # Errors
    /// No broker answers within fifteen seconds, there is no such topic, or a setting is
    /// wrong. Nothing has been written then.
    pub async fn connect(config: KafkaConfig) -> Result<Self, PublishError> {
        let appends = Arc::new(Appends::default());
        let producer = config.create(
            &config.client(&ORDINARY, &EXACT),
            Deliveries(Arc::clone(&appends)),
        )?;
        let partitions = blocking({
            let config = config.clone();
            move || count_partitions(&config)
        })
        .await?;
        info!(
            brokers = config.brokers,
            topic = config.topic,
            partitions,
            "kafka connected"
        );
        Ok(Self {
            config,
            partitions,
            producer,
            appends,
        })
    }

    /// Fails once any append has failed for good: what follows it must not be appended.
    fn check(&self) -> Result<(), PublishError> {
        match self.appends.error.get() {
            Some(error) => Err(self.config.error(error)),
            None => Ok(()),
        }
    }

    fn send(&self, record: &OutRecord) -> Result<(), KafkaError> {
        let partition = i32::try_from(record.partition)
            .map_err(|_| KafkaError::MessageProduction(RDKafkaErrorCode::UnknownPartition))?;
        let mut message = BaseRecord::<str, [u8]>::to(&self.config.topic)
            .partition(partition)
            .payload(&record.payload)
            .timestamp(record.timestamp_ms);
        if !record.key.is_empty() {
            message = message.key(&record.key);
        }
        // Counted before it is sent: its report may come before the next line.
        self.appends.outstanding.fetch_add(1, Ordering::AcqRel);
        self.producer.send(message).map_err(|(error, _)| {
            self.appends.outstanding.fetch_sub(1, Ordering::AcqRel);
            error
        })
    }

    /// Waits for the next report; mentions it if none comes for long.
    async fn report(&self) {
        if tokio::time::timeout(MENTION, self.appends.reported.notified())
            .await
            .is_err()
        {
            let outstanding = self.appends.outstanding.load(Ordering::Acquire);
            warn!(
                outstanding,
                brokers = self.config.brokers,
                "kafka has acknowledged nothing for 10 s; waiting"
            );
        }
    }
}

#[async_trait]
impl Publish for KafkaPublisher {
    fn partitions(&self) -> u32 {
        self.partitions
    }

    async fn last_sequences(&mut self, session: SessionId) -> Result<Vec<u64>, PublishError> {
        // Our own appends count too.
        self.flush().await?;
        let (config, partitions) = (self.config.clone(), self.partitions);
        blocking(move || tail::last_sequences(&config, partitions, session)).await
    }

    async fn publish(&mut self, records: Vec<OutRecord>) -> Result<(), PublishError> {
        for record in &records {
            loop {
                self.check()?;
                match self.send(record) {
                    Ok(()) => break,
                    Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => {
                        self.report().await
                    }
                    Err(error) => return Err(self.config.error(&error)),
                }
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), PublishError> {
        while self.appends.outstanding.load(Ordering::Acquire) > 0 {
            self.check()?;
            self.report().await;
        }
        self.check()
    }
}

/// Appends on their way.
#[derive(Debug, Default)]
struct Appends {
    /// Taken, and neither acknowledged nor failed.
    outstanding: AtomicU64,
    /// The first that failed for good.
    error: OnceLock<KafkaError>,
    /// Signalled at each report. There is one waiter, and the signal keeps until it comes.
    reported: Notify,
}

/// Hears of each append's end, on the producer's own thread.
struct Deliveries(Arc<Appends>);

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_throttle::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            error!(%error, reason, "kafka producer has failed for good");
            let _ = self.0.error.set(error);
            self.0.reported.notify_one();
        } else {
            log_throttle::error(&error, reason);
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            let _ = self.0.error.set(error.clone());
        }
        self.0.outstanding.fetch_sub(1, Ordering::AcqRel);
        self.0.reported.notify_one();
    }
}

/// Answers questions, and reads the tail.
pub(super) struct Questions;

impl ClientContext for Questions {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_throttle::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_throttle::error(&error, reason);
    }
}

impl ConsumerContext for Questions {}

pub(super) fn consumer(config: &KafkaConfig) -> Result<BaseConsumer<Questions>, PublishError> {
    let ours = [
        ("client.id", "tapeflow-ingest"),
        // librdkafka wants a group to consume at all; nothing ever joins it.
        ("group.id", "tapeflow"),
        ("fetch.queue.backoff.ms", "2"),
        ("fetch.wait.max.ms", "100"),
        ("queued.max.messages.kbytes", "16384"),
        ("statistics.interval.ms", "0"),
    ];
    let fixed = [
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("isolation.level", "read_committed"),
        ("enable.partition.eof", "true"),
        // Retention may take the beginning of what is read backwards; then there is less to read.
        ("auto.offset.reset", "earliest"),
        ("allow.auto.create.topics", "false"),
    ];
    config.create(&config.client(&ours, &fixed), Questions)
}

/// Asked through a consumer: a producer that asks for a topic makes it, where brokers allow that.
fn count_partitions(config: &KafkaConfig) -> Result<u32, PublishError> {
    let consumer = consumer(config)?;
    let metadata = consumer
        .fetch_metadata(Some(&config.topic), PATIENCE)
        .map_err(|error| config.error(&error))?;
    let topic = metadata
        .topics()
        .iter()
        .find(|topic| topic.name() == config.topic);
    let no_topic = || {
        config.error(&KafkaError::MetadataFetch(
            RDKafkaErrorCode::UnknownTopicOrPartition,
        ))
    };
    let topic = topic.ok_or_else(no_topic)?;
    if let Some(code) = topic.error() {
        return Err(config.error(&KafkaError::MetadataFetch(code.into())));
    }
    match u32::try_from(topic.partitions().len()) {
        Ok(count @ 1..) => Ok(count),
        _ => Err(no_topic()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PublishError> + Send + 'static,
) -> Result<T, PublishError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(PublishError(format!("the kafka thread ended: {error}"))))
}
