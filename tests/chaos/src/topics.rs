//! What an operator may do to a topic: delete it, create it again, delete its oldest records, ask
//! where it ends.

use std::collections::BTreeMap;

use tapeflow_log::{
    Log, LogError,
    kafka::{KafkaConfig, KafkaLog, admin},
};
use tapeflow_schemas::{Offset, Partition};
use tokio::runtime::Handle;

/// The topics of some brokers.
pub(crate) struct Topics {
    brokers: String,
    runtime: Handle,
}

impl Topics {
    pub(crate) fn new(brokers: &str, runtime: Handle) -> Self {
        Self {
            brokers: brokers.into(),
            runtime,
        }
    }

    /// Deletes a topic.
    ///
    /// # Errors
    /// Kafka's answer.
    pub(crate) fn delete(&self, topic: &str) -> Result<(), String> {
        self.run(admin::delete_topic(&self.config(topic)))
    }

    /// Creates a topic, as soon as a deleted one of its name is gone.
    ///
    /// # Errors
    /// Kafka's answer.
    pub(crate) fn make(&self, topic: &str, partitions: usize, copies: u8) -> Result<(), String> {
        self.run(admin::recreate_topic(
            &self.config(topic),
            partitions,
            copies,
        ))
    }

    /// Deletes the records of some partitions below an offset each, as retention does.
    ///
    /// # Errors
    /// Kafka's answer.
    pub(crate) fn delete_records(
        &self,
        topic: &str,
        below: &BTreeMap<usize, Offset>,
    ) -> Result<(), String> {
        let below = below
            .iter()
            .map(|(partition, offset)| Ok((Partition::try_from(*partition)?, *offset)))
            .collect::<Result<Vec<_>, std::num::TryFromIntError>>()
            .map_err(|error| error.to_string())?;
        self.run(admin::delete_records(&self.config(topic), below))
    }

    fn config(&self, topic: &str) -> KafkaConfig {
        KafkaConfig::new(&self.brokers, topic)
    }

    fn run(&self, work: impl Future<Output = Result<(), LogError>>) -> Result<(), String> {
        self.runtime
            .block_on(work)
            .map_err(|error| error.to_string())
    }
}

/// Where each partition of a topic ends now.
///
/// # Errors
/// Kafka's answer.
pub(crate) fn ends(brokers: String, topic: &str) -> Result<Vec<Offset>, String> {
    let ends = || -> Result<Vec<Offset>, LogError> {
        let log = KafkaLog::connect(KafkaConfig::new(brokers, topic))?;
        let bounds = (0..log.partitions()?).map(|partition| log.bounds(partition));
        bounds
            .map(|bounds| bounds.map(|bounds| bounds.end))
            .collect()
    };
    ends().map_err(|error| error.to_string())
}
