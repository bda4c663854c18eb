//! A topic as the job reads it.
//!
//! Connecting checks that a job may read the topic, and notes what the topic lacks for the
//! guarantee ([`topic`]).
//!
//! The job assigns partitions itself. There is no consumer group and no rebalance, and committed
//! offsets are never read: the checkpoint decides where the job resumes.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::KafkaError,
    metadata::{Metadata, MetadataTopic},
};
use tapeflow_protocol::SourceIdentity;
use tapeflow_schemas::{Offset, Partition};

use super::{
    TopicFinding,
    assigned::AssignedReader,
    batch::BatchConsumer,
    client_errors::{self, ClientErrors},
    errors, leader_changes,
    settings::KafkaConfig,
    topic, topic_id, unreadable,
};
use crate::read::{Log, LogError, LogReader};

/// How long a request to the brokers may take before they count as unavailable.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the first attempt of a request may take. Each further one may take twice as long, and
/// all of them together [`TIMEOUT`].
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);

/// A topic, for reading.
pub struct KafkaLog {
    config: KafkaConfig,
    /// For requests: it reads no record.
    client: BaseConsumer<ClientErrors>,
    findings: Vec<TopicFinding>,
}

impl KafkaLog {
    /// Connects, checks that the topic exists and is not compacted, and examines its settings.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if no broker answers within ten seconds. [`LogError::Broken`] if
    /// brokers refuse us, if there is no such topic, or if it is compacted.
    pub fn connect(config: KafkaConfig) -> Result<Self, LogError> {
        let client = config.reader()?;
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
            settings: topic::settings(&log.config, TIMEOUT),
        })?;
        log.findings = topic::examine(&topic, &facts)
            .map_err(|compacted| LogError::Broken(compacted.to_string()))?;
        Ok(log)
    }

    /// What the topic lacked for the guarantee when this connected. The caller logs it.
    #[must_use]
    pub fn findings(&self) -> &[TopicFinding] {
        &self.findings
    }

    /// Reads the brokers' metadata of the topic, which must exist.
    fn metadata<T>(
        &self,
        read: impl FnOnce(&Metadata, &MetadataTopic) -> T,
    ) -> Result<T, LogError> {
        let metadata = self.fetch_metadata()?;
        let topic = metadata
            .topics()
            .iter()
            .find(|topic| topic.name() == self.config.topic)
            .ok_or_else(|| errors::no_topic(&self.config))?;
        match topic.error() {
            Some(code) => Err(self.error(&KafkaError::MetadataFetch(code.into()))),
            None if topic.partitions().is_empty() => Err(errors::no_topic(&self.config)),
            None => Ok(read(&metadata, topic)),
        }
    }

    /// Requests metadata. This is the first request of a client, so it ends as soon as all brokers
    /// refuse us; the client itself would try until the time is up.
    fn fetch_metadata(&self) -> Result<Metadata, LogError> {
        let (deadline, mut timeout) = (Instant::now() + TIMEOUT, FIRST_TIMEOUT);
        client_errors::reset(&self.client);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self
                .client
                .fetch_metadata(Some(&self.config.topic), timeout.min(left))
            {
                Ok(metadata) => return Ok(metadata),
                Err(error) => {
                    client_errors::collect(&self.client);
                    if left <= timeout || self.client.context().is_hopeless() {
                        return Err(self.error(&error));
                    }
                }
            }
            timeout *= 2;
        }
    }

    /// The first or the next offset of partitions. One request for each broker, all at once.
    fn offsets(
        &self,
        partitions: &[Partition],
        which: KafkaOffset,
        deadline: Instant,
    ) -> Result<Vec<Offset>, LogError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition_offset(&self.config.topic, number(*partition)?, which)
                .map_err(|error| self.error(&error))?;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        // Times of the protocol: -2 is the first offset, -1 the next one.
        let found = leader_changes::answered(left, |left| {
            let found = self.client.offsets_for_times(list.clone(), left)?;
            let mut elements = found.elements().into_iter();
            elements.try_for_each(|element| element.error())?;
            Ok(found)
        })
        .map_err(|error| self.error(&error))?;
        let offset_of = |partition: &Partition| {
            let element = found
                .find_partition(&self.config.topic, number(*partition)?)
                .ok_or_else(|| errors::no_topic(&self.config))?;
            element
                .offset()
                .to_raw()
                .filter(|offset| *offset >= 0)
                .ok_or_else(|| {
                    LogError::Unavailable(format!(
                        "kafka at {} does not answer with the offsets of partition {partition}",
                        self.config.brokers
                    ))
                })
        };
        partitions.iter().map(offset_of).collect()
    }

    fn error(&self, error: &KafkaError) -> LogError {
        client_errors::collect(&self.client);
        errors::request_of(&self.config, error, self.client.context())
    }
}

impl Log for KafkaLog {
    fn describe(&self) -> String {
        format!(
            "kafka topic {} at {}",
            self.config.topic, self.config.brokers
        )
    }

    fn identity(&self) -> Result<SourceIdentity, LogError> {
        client_errors::reset(&self.client);
        let cluster = self.client.client().fetch_cluster_id(TIMEOUT);
        let cluster = cluster.ok_or_else(|| {
            LogError::Unavailable(format!(
                "kafka at {} does not answer with its cluster id; see --brokers",
                self.config.brokers
            ))
        })?;
        let topic_id = topic_id::read(&self.client, &self.config.topic, TIMEOUT)
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
        client_errors::reset(&self.client);
        let (topic, partition) = (&self.config.topic, number(partition)?);
        leader_changes::bounds(&self.client, topic, partition, TIMEOUT)
            .map_err(|error| self.error(&error))
    }

    fn bounds_of(&self, partitions: &[Partition]) -> Result<Vec<Range<Offset>>, LogError> {
        client_errors::reset(&self.client);
        let deadline = Instant::now() + TIMEOUT;
        let starts = self.offsets(partitions, KafkaOffset::Beginning, deadline)?;
        let ends = self.offsets(partitions, KafkaOffset::End, deadline)?;
        Ok(starts
            .into_iter()
            .zip(ends)
            .map(|(start, end)| start..end)
            .collect())
    }

    fn unreadable_batch(
        &self,
        partition: Partition,
        offset: Offset,
    ) -> Result<Option<Range<Offset>>, LogError> {
        let bounds = self.bounds(partition)?;
        unreadable::batch_at(&self.config, partition, offset, &bounds)
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
        let consumer = self.config.reader()?;
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
        Ok(Box::new(AssignedReader::new(
            consumer,
            self.config.clone(),
            from,
        )))
    }
}

pub(super) fn number(partition: Partition) -> Result<i32, LogError> {
    i32::try_from(partition)
        .map_err(|_| LogError::Broken(format!("kafka has no partition {partition}")))
}
