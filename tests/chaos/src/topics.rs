//! What an operator may do to a topic: delete it, make it again, delete its oldest records. The
//! only place here that asks Kafka for such things.

use std::{collections::BTreeMap, thread, time::Duration};

use rdkafka::{
    ClientConfig, Offset as KafkaOffset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    error::KafkaError,
};
use tapeflow_schemas::Offset;
use tokio::runtime::Handle;

/// How long brokers may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a topic is tried to be made again, and how long after a try: its deletion takes a
/// moment.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(200);

/// A client that may do it.
pub(crate) struct Topics {
    runtime: Handle,
    admin: AdminClient<DefaultClientContext>,
}

impl Topics {
    /// # Errors
    /// There is no client.
    pub(crate) fn new(brokers: &str, runtime: Handle) -> Result<Self, String> {
        let admin = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .create()
            .map_err(|fault| fault.to_string())?;
        Ok(Self { runtime, admin })
    }

    /// Deletes a topic.
    ///
    /// # Errors
    /// What Kafka said.
    pub(crate) fn delete(&self, topic: &str) -> Result<(), String> {
        let done = self
            .runtime
            .block_on(self.admin.delete_topics(&[topic], &options()));
        one(&format!("deleting topic {topic}"), done)
    }

    /// Makes a topic, as soon as the one that was deleted under its name is gone.
    ///
    /// # Errors
    /// What Kafka said.
    pub(crate) fn make(&self, topic: &str, partitions: usize, copies: u8) -> Result<(), String> {
        let partitions = i32::try_from(partitions).map_err(|fault| fault.to_string())?;
        let wanted = NewTopic::new(topic, partitions, TopicReplication::Fixed(copies.into()));
        let mut tries = 1..=TRIES;
        loop {
            match one(
                &format!("making topic {topic}"),
                self.runtime
                    .block_on(self.admin.create_topics([&wanted], &options())),
            ) {
                Err(_) if tries.next().is_some() => thread::sleep(PAUSE),
                done => return done,
            }
        }
    }

    /// Deletes the records of some partitions below an offset each, as retention would.
    ///
    /// # Errors
    /// What Kafka said.
    pub(crate) fn delete_records(
        &self,
        topic: &str,
        below: &BTreeMap<usize, Offset>,
    ) -> Result<(), String> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in below {
            let partition = i32::try_from(*partition).map_err(|fault| fault.to_string())?;
            list.add_partition_offset(topic, partition, KafkaOffset::Offset(*offset))
                .map_err(|fault| fault.to_string())?;
        }
        let done = self
            .runtime
            .block_on(self.admin.delete_records(&list, &options()))
            .map_err(|fault| fault.to_string())?;
        match done.elements().iter().find_map(|element| {
            element
                .error()
                .err()
                .map(|fault| (element.partition(), fault))
        }) {
            Some((partition, fault)) => Err(format!(
                "deleting records of topic {topic}, partition {partition}: {fault}"
            )),
            None => Ok(()),
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .operation_timeout(Some(PATIENCE))
        .request_timeout(Some(PATIENCE))
}

/// The answer about the one topic that was asked for.
fn one(
    what: &str,
    done: Result<Vec<rdkafka::admin::TopicResult>, KafkaError>,
) -> Result<(), String> {
    let done = done.map_err(|fault| format!("{what}: {fault}"))?;
    done.into_iter().try_for_each(|answer| {
        answer
            .map(drop)
            .map_err(|(_, code)| format!("{what}: {code}"))
    })
}
