//! Topics: created by `init`, examined, and for benchmarks and tests also deleted.

use std::time::{Duration, Instant};

use backon::{BlockingRetryable, ConstantBuilder};
use rdkafka::{
    Message, Offset as KafkaOffset, TopicPartitionList,
    admin::{AdminOptions, NewTopic, TopicReplication, TopicResult},
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use tapeflow_schemas::{Offset, Partition};

use super::{
    KafkaLog, errors, leader_changes, session_index,
    settings::{AdminClient, KafkaConfig, TAIL},
};
use crate::read::LogError;

/// How long `init` waits for the brokers.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long benchmarks and tests wait for the brokers, which may be under full load.
const LONG_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a record that exists may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(10);
/// The time between two attempts while brokers hear of a change.
const RETRY: Duration = Duration::from_millis(100);
/// Attempts to create a topic again after its deletion, which takes the brokers a moment.
const CREATE_ATTEMPTS: usize = 200;
/// How long records are kept: a week, well above any outage that an operator notices.
const RETENTION_MS: &str = "604800000";
/// The most copies of a partition that `init` asks for by itself.
const MAX_COPIES: usize = 3;

/// A topic after [`make_topic`].
pub struct TopicReport {
    /// Whether it was created now.
    pub created: bool,
    /// The number of its partitions.
    pub partitions: usize,
}

/// Creates the topic with its partitions unless it exists. Without `replication` each partition
/// has three copies, or one on each broker if there are fewer.
///
/// # Errors
/// [`LogError`] if no broker answers or they refuse.
pub async fn make_topic(
    config: &KafkaConfig,
    partitions: u32,
    replication: Option<u32>,
) -> Result<TopicReport, LogError> {
    let asked = config.clone();
    let (nodes, existing) = blocking(move || {
        let client: BaseConsumer = asked.admin()?;
        let metadata = client
            .fetch_metadata(Some(&asked.topic), TIMEOUT)
            .map_err(|error| unreachable(&asked, &error))?;
        let existing = metadata
            .topics()
            .iter()
            .find(|found| found.name() == asked.topic && found.error().is_none())
            .map_or(0, |found| found.partitions().len());
        Ok((metadata.brokers().len(), existing))
    })
    .await?;
    if existing > 0 {
        return Ok(TopicReport {
            created: false,
            partitions: existing,
        });
    }
    let (brokers, topic) = (&config.brokers, &config.topic);
    let copies = replication.map_or(nodes.min(MAX_COPIES), |n| n as usize);
    if copies > nodes {
        return Err(LogError::Broken(format!(
            "--replication: {copies} copies, but kafka at {brokers} has {nodes} brokers"
        )));
    }
    let in_sync = if copies >= MAX_COPIES { "2" } else { "1" };
    let copies = i32::try_from(copies)
        .map_err(|error| LogError::Broken(format!("--replication: {error}")))?;
    let count = i32::try_from(partitions)
        .map_err(|error| LogError::Broken(format!("--partitions: {error}")))?;
    let new = NewTopic::new(topic, count, TopicReplication::Fixed(copies))
        .set("min.insync.replicas", in_sync)
        .set("cleanup.policy", "delete")
        // A producer can claim any time for its records; the broker's time limits it.
        .set("message.timestamp.type", "LogAppendTime")
        .set("unclean.leader.election.enable", "false")
        .set("retention.ms", RETENTION_MS);
    let admin: AdminClient = config.admin()?;
    let results = admin
        .create_topics([&new], &options(TIMEOUT))
        .await
        .map_err(|error| unreachable(config, &error))?;
    let report = |created| TopicReport {
        created,
        partitions: partitions as usize,
    };
    match results.into_iter().next() {
        Some(Ok(_)) => {
            let made = config.clone();
            // Without it the first replay searches the whole topic and makes it.
            let index = blocking(move || {
                session_index::make(&made, partitions)
                    .map_err(|error| LogError::Broken(error.to_string()))
            });
            if let Err(error) = index.await {
                tracing::warn!(%error, "the index of sessions is not made yet");
            }
            Ok(report(true))
        }
        // Another process was faster.
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(report(false)),
        Some(Err((_, code))) => Err(LogError::Broken(format!(
            "kafka at {brokers} does not create topic {topic}: {code}"
        ))),
        None => Err(LogError::Broken(format!(
            "kafka at {brokers} does not answer about topic {topic}"
        ))),
    }
}

/// What the topic lacks for the guarantee. Retries for ten seconds, because some brokers hear late
/// of a topic that was just created.
///
/// # Errors
/// [`LogError`] of the last attempt.
pub async fn findings(config: KafkaConfig) -> Result<Vec<String>, LogError> {
    blocking(move || {
        // An attempt may itself take ten seconds, so the limit is a time and not a number.
        let deadline = Instant::now() + TIMEOUT;
        let log = (|| KafkaLog::connect(config.clone()))
            .retry(
                ConstantBuilder::default()
                    .with_delay(RETRY)
                    .without_max_times(),
            )
            .when(|_| Instant::now() < deadline)
            .call()?;
        Ok(log.findings().iter().map(ToString::to_string).collect())
    })
    .await
}

/// The number of partitions; `None` if there is no such topic. Blocks.
///
/// # Errors
/// [`LogError`] if no broker answers within ten seconds.
pub fn partitions(config: &KafkaConfig) -> Result<Option<u32>, LogError> {
    let client: BaseConsumer = config.admin()?;
    let metadata = client
        .fetch_metadata(Some(&config.topic), TIMEOUT)
        .map_err(|error| errors::request(config, &error))?;
    let found = metadata
        .topics()
        .iter()
        .find(|topic| topic.name() == config.topic && topic.error().is_none());
    Ok(found
        .map(|topic| topic.partitions().len())
        .filter(|count| *count > 0)
        .and_then(|count| u32::try_from(count).ok()))
}

/// The number of records in each partition. Blocks.
///
/// # Errors
/// [`LogError`] if no broker answers or there is no such topic.
pub fn record_counts(config: &KafkaConfig) -> Result<Vec<u64>, LogError> {
    let client: BaseConsumer = config.admin()?;
    let count = partitions(config)?.ok_or_else(|| errors::no_topic(config))?;
    let records = |partition: Partition| {
        let (topic, partition) = (&config.topic, number(partition)?);
        let bounds = leader_changes::bounds(&client, topic, partition, LONG_TIMEOUT)
            .map_err(|error| errors::request(config, &error))?;
        u64::try_from(bounds.end - bounds.start)
            .map_err(|error| LogError::Broken(error.to_string()))
    };
    (0..count).map(records).collect()
}

/// The bytes of the first record of a partition; `None` if none arrives within ten seconds. Blocks.
///
/// # Errors
/// [`LogError`] if the partition cannot be read.
pub fn first_record(
    config: &KafkaConfig,
    partition: Partition,
) -> Result<Option<Vec<u8>>, LogError> {
    let failed = |error: KafkaError| errors::request(config, &error);
    let client = config.client(&TAIL);
    let consumer: BaseConsumer = client
        .create()
        .map_err(|error| errors::not_created(config, &error))?;
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(&config.topic, number(partition)?, KafkaOffset::Beginning)
        .and_then(|()| consumer.assign(&from))
        .map_err(failed)?;
    match consumer.poll(ARRIVAL) {
        Some(Ok(message)) => Ok(message.payload().map(<[u8]>::to_vec)),
        Some(Err(KafkaError::PartitionEOF(_))) | None => Ok(None),
        Some(Err(error)) => Err(failed(error)),
    }
}

/// Deletes the topic.
///
/// # Errors
/// [`LogError`] if no broker answers or they refuse.
pub async fn delete_topic(config: &KafkaConfig) -> Result<(), LogError> {
    let admin: AdminClient = config.admin()?;
    let done = admin
        .delete_topics(&[&config.topic], &options(LONG_TIMEOUT))
        .await;
    topic_result(config, "delete", done)
}

/// Creates the topic with exactly so many partitions and copies and the brokers' own settings, as
/// soon as a deleted topic of its name is gone.
///
/// # Errors
/// [`LogError`] of the last attempt.
pub async fn recreate_topic(
    config: &KafkaConfig,
    partitions: usize,
    copies: u8,
) -> Result<(), LogError> {
    use backon::Retryable;
    let partitions =
        i32::try_from(partitions).map_err(|error| LogError::Broken(error.to_string()))?;
    let admin: AdminClient = config.admin()?;
    let create = || async {
        let new = NewTopic::new(
            &config.topic,
            partitions,
            TopicReplication::Fixed(copies.into()),
        );
        let done = admin.create_topics([&new], &options(LONG_TIMEOUT)).await;
        topic_result(config, "create", done)
    };
    create
        .retry(
            ConstantBuilder::default()
                .with_delay(RETRY)
                .with_max_times(CREATE_ATTEMPTS),
        )
        .await
}

/// Deletes the records of some partitions below an offset each, as retention does.
///
/// # Errors
/// [`LogError`] if no broker answers or they refuse.
pub async fn delete_records(
    config: &KafkaConfig,
    below: impl IntoIterator<Item = (Partition, Offset)>,
) -> Result<(), LogError> {
    let failed = |error: &KafkaError| errors::request(config, error);
    let mut list = TopicPartitionList::new();
    for (partition, offset) in below {
        list.add_partition_offset(
            &config.topic,
            number(partition)?,
            KafkaOffset::Offset(offset),
        )
        .map_err(|error| failed(&error))?;
    }
    let admin: AdminClient = config.admin()?;
    let done = admin
        .delete_records(&list, &options(LONG_TIMEOUT))
        .await
        .map_err(|error| failed(&error))?;
    for element in done.elements() {
        if let Err(error) = element.error() {
            return Err(LogError::Broken(format!(
                "kafka at {} does not delete records of topic {} partition {}: {error}",
                config.brokers,
                config.topic,
                element.partition()
            )));
        }
    }
    Ok(())
}

fn options(timeout: Duration) -> AdminOptions {
    AdminOptions::new()
        .operation_timeout(Some(timeout))
        .request_timeout(Some(timeout))
}

/// The result for the one topic of a request.
fn topic_result(
    config: &KafkaConfig,
    what: &str,
    done: Result<Vec<TopicResult>, KafkaError>,
) -> Result<(), LogError> {
    let done = done.map_err(|error| errors::request(config, &error))?;
    done.into_iter().try_for_each(|result| {
        result.map(drop).map_err(|(topic, code)| {
            LogError::Broken(format!(
                "kafka at {} does not {what} topic {topic}: {code}",
                config.brokers
            ))
        })
    })
}

/// `init` has no log to wait for: brokers that do not answer end it.
fn unreachable(config: &KafkaConfig, error: &KafkaError) -> LogError {
    LogError::Broken(format!(
        "kafka at {} cannot be reached: {error}; check --brokers",
        config.brokers
    ))
}

fn number(partition: Partition) -> Result<i32, LogError> {
    i32::try_from(partition)
        .map_err(|_| LogError::Broken(format!("kafka has no partition {partition}")))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(LogError::Broken(format!("a kafka thread ended: {error}"))))
}
