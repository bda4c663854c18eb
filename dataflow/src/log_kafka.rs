//! Kafka's topic as a log. The only file of this crate that knows Kafka.
//!
//! Partitions are assigned by the job itself: no consumer group, no rebalance, and committed offsets are never read, for the truth stands in the
//! head. Queues are bounded: librdkafka's defaults would take hundreds of megabytes.

use std::{ops::Range, time::Duration};

use rdkafka::{
    ClientConfig, Message, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use tapeflow_schemas::{Offset, Partition};
use tapeflow_sinks::SourceIdentity;

use crate::log::{Log, LogFault, LogReader, LogRecord};

/// How long a question to the brokers may take before they count as out of reach.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a topic is, and how to get there.
#[derive(Clone, Debug)]
pub struct KafkaLogConfig {
    /// `host:port[,host:port...]`.
    pub brokers: String,
    /// The topic.
    pub topic: String,
    /// More client settings, such as TLS and SASL; they win over ours. Values may be secret.
    pub settings: Vec<(String, String)>,
}

/// A topic.
pub struct KafkaLog {
    config: KafkaLogConfig,
    /// Answers questions; reads nothing.
    client: BaseConsumer,
}

impl KafkaLog {
    /// Connects, and makes sure that the topic exists.
    ///
    /// # Errors
    /// [`LogFault::Unavailable`] if no broker answers within ten seconds, [`LogFault::Broken`] if there is no such topic.
    pub fn connect(config: KafkaLogConfig) -> Result<Self, LogFault> {
        let client = consumer(&config)?;
        let log = Self { config, client };
        log.partitions()?;
        Ok(log)
    }

    fn fault(&self, fault: &KafkaError) -> LogFault {
        let brokers = &self.config.brokers;
        match fault.rdkafka_error_code() {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownPartition) => self.no_topic(),
            Some(
                code @ (RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed | RDKafkaErrorCode::TopicAuthorizationFailed),
            ) => LogFault::Broken(format!("kafka at {brokers} refuses us: {code}; see --kafka-config-file")),
            _ => LogFault::Unavailable(format!("kafka at {brokers}: {fault}; see --brokers")),
        }
    }

    fn no_topic(&self) -> LogFault {
        LogFault::Broken(format!("there is no topic {:?} at {}: run `tapeflow init`, or see --topic", self.config.topic, self.config.brokers))
    }
}

fn consumer(config: &KafkaLogConfig) -> Result<BaseConsumer, LogFault> {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &config.brokers)
        .set("client.id", "tapeflow-dataflow")
        // librdkafka wants a group to consume at all; nothing ever joins it.
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
        .set("queued.min.messages", "5000")
        .set("queued.max.messages.kbytes", "2048")
        .set("fetch.message.max.bytes", "1048576")
        .set("statistics.interval.ms", "0");
    for (key, value) in &config.settings {
        client.set(key, value);
    }
    // The text of a configuration fault names the setting; values may be secret and are not repeated.
    client.create().map_err(|fault| match fault {
        KafkaError::ClientConfig(_, reason, key, _) => LogFault::Broken(format!("kafka setting {key}: {reason}")),
        other => LogFault::Broken(format!("cannot make a kafka client: {other}")),
    })
}

impl Log for KafkaLog {
    fn describe(&self) -> String {
        format!("kafka topic {} at {}", self.config.topic, self.config.brokers)
    }

    fn identity(&self) -> Result<SourceIdentity, LogFault> {
        let cluster = self.client.client().fetch_cluster_id(PATIENCE);
        let cluster =
            cluster.ok_or_else(|| LogFault::Unavailable(format!("kafka at {} does not tell its cluster id; see --brokers", self.config.brokers)))?;
        Ok(SourceIdentity { cluster, topic: self.config.topic.clone(), topic_id: None })
    }

    fn partitions(&self) -> Result<u32, LogFault> {
        let metadata = self.client.fetch_metadata(Some(&self.config.topic), PATIENCE).map_err(|fault| self.fault(&fault))?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.config.topic).ok_or_else(|| self.no_topic())?;
        if let Some(code) = topic.error() {
            return Err(self.fault(&KafkaError::MetadataFetch(code.into())));
        }
        match u32::try_from(topic.partitions().len()) {
            Ok(count @ 1..) => Ok(count),
            _ => Err(self.no_topic()),
        }
    }

    fn bounds(&self, partition: Partition) -> Result<Range<Offset>, LogFault> {
        let (low, high) = self.client.fetch_watermarks(&self.config.topic, number(partition)?, PATIENCE).map_err(|fault| self.fault(&fault))?;
        Ok(low..high)
    }

    fn reader(&self, from: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogFault> {
        let consumer = consumer(&self.config)?;
        let mut list = TopicPartitionList::new();
        for (partition, offset) in from {
            list.add_partition_offset(&self.config.topic, number(*partition)?, KafkaOffset::Offset(*offset)).map_err(|fault| self.fault(&fault))?;
        }
        if !from.is_empty() {
            consumer.assign(&list).map_err(|fault| self.fault(&fault))?;
        }
        Ok(Box::new(KafkaReader { consumer, topic: self.config.topic.clone() }))
    }
}

fn number(partition: Partition) -> Result<i32, LogFault> {
    i32::try_from(partition).map_err(|_| LogFault::Broken(format!("kafka has no partition {partition}")))
}

struct KafkaReader {
    consumer: BaseConsumer,
    topic: String,
}

impl LogReader for KafkaReader {
    fn poll(&mut self, limit: usize, each: &mut dyn FnMut(LogRecord<'_>)) -> Result<usize, LogFault> {
        let mut count = 0;
        while count < limit {
            match self.consumer.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => {
                    let partition = Partition::try_from(message.partition())
                        .map_err(|_| LogFault::Broken("kafka handed over a record of no partition".into()))?;
                    let timestamp_ms = message.timestamp().to_millis().unwrap_or(0);
                    each(LogRecord { partition, offset: message.offset(), timestamp_ms, payload: message.payload() });
                    count += 1;
                }
                Some(Err(fault)) => self.judge(&fault)?,
            }
        }
        Ok(count)
    }

    fn set_paused(&mut self, partition: Partition, paused: bool) -> Result<(), LogFault> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, number(partition)?);
        let done = if paused { self.consumer.pause(&list) } else { self.consumer.resume(&list) };
        done.map_err(|fault| LogFault::Broken(format!("cannot pause or resume partition {partition}: {fault}")))
    }
}

impl KafkaReader {
    /// Tells faults that end the reading from such that librdkafka mends by itself.
    fn judge(&self, fault: &KafkaError) -> Result<(), LogFault> {
        use RDKafkaErrorCode as Code;
        match fault.rdkafka_error_code() {
            Some(Code::OffsetOutOfRange | Code::AutoOffsetReset) => Err(LogFault::Broken(format!(
                "topic {}: an offset to be read is gone from the log ({fault}); rebuild into a new store with --store",
                self.topic
            ))),
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                Err(LogFault::Broken(format!("topic {} is gone", self.topic)))
            }
            Some(Code::TopicAuthorizationFailed | Code::Fatal) => Err(LogFault::Broken(format!("topic {}: {fault}", self.topic))),
            _ => {
                tracing::warn!(%fault, "kafka trouble; the client tries again by itself");
                Ok(())
            }
        }
    }
}
