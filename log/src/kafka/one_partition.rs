//! A consumer that reads one partition at a time, again and again from other offsets.
//!
//! To assign a partition anew looks like the way to do that, and is a trap. librdkafka stops the
//! old reading in the background. Until then it still reports the old position, so that what is
//! seen may be of the old place; and if the partition is taken away a second time before it has
//! stopped, librdkafka ends the process by an assertion
//! (<https://github.com/confluentinc/librdkafka/issues/5573>). A busy machine makes that likely. A
//! seek waits for its answer, clears the position and is safe to repeat.

use std::{
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset as KafkaOffset, TopicPartitionList, consumer::Consumer, error::RDKafkaErrorCode,
};
use tapeflow_schemas::{Offset, Partition};

use super::{
    batch::{BatchConsumer, Record, RecordError},
    client_errors::ClientErrors,
    errors,
    reader::number,
    settings::{KafkaConfig, Preset},
};
use crate::read::LogError;

/// How long one start may take. It needs no broker.
const PATIENCE: Duration = Duration::from_secs(30);
/// The wait between two attempts to seek in a partition that has not started yet.
const PAUSE: Duration = Duration::from_millis(1);

pub(super) struct OnePartition<'a> {
    config: &'a KafkaConfig,
    consumer: BatchConsumer<ClientErrors>,
    assigned: Option<Partition>,
}

impl<'a> OnePartition<'a> {
    /// # Errors
    /// [`LogError`] if the settings make no client.
    pub(super) fn new(config: &'a KafkaConfig, preset: &Preset) -> Result<Self, LogError> {
        let consumer = config.create_with(&config.client(preset), ClientErrors::default())?;
        Ok(Self {
            config,
            consumer: BatchConsumer::new(consumer)
                .map_err(|error| errors::request(config, &error))?,
            assigned: None,
        })
    }

    pub(super) fn config(&self) -> &'a KafkaConfig {
        self.config
    }

    /// Reads a partition from an offset on. When it returns, the reading before has ended: nothing
    /// of it is seen any more, and it may be called again at once.
    ///
    /// # Errors
    /// [`LogError`] if the client does not start within half a minute.
    pub(super) fn start(&mut self, partition: Partition, at: Offset) -> Result<(), LogError> {
        if self.assigned != Some(partition) {
            self.assigned = Some(partition);
            self.consumer
                .consumer()
                .assign(&self.place(partition, at)?)
                .map_err(|error| errors::request(self.config, &error))?;
            // It succeeds only in a partition that has started, and none starts before the one
            // that was taken away has stopped.
            self.seek(partition, at)?;
        }
        // Also after an assignment: here no other request is under way that could overtake it.
        self.seek(partition, at)
    }

    /// Reads nothing until the next start.
    pub(super) fn stop(&mut self) {
        if self.assigned.take().is_some() {
            let _ = self.consumer.consumer().unassign();
        }
    }

    /// The next record or error, if there is one. Never waits.
    pub(super) fn poll_one(
        &mut self,
        each: impl FnMut(Result<Record<'_>, RecordError>) -> Result<(), LogError>,
    ) -> Result<usize, LogError> {
        self.consumer.poll(1, each)
    }

    /// The position since the last start; `None` before the first record, marker or error.
    pub(super) fn position(&self) -> Option<Offset> {
        let positions = self
            .consumer
            .positions(&self.config.topic, self.assigned.into_iter());
        positions.first().map(|(_, position)| *position)
    }

    fn place(&self, partition: Partition, at: Offset) -> Result<TopicPartitionList, LogError> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(
            &self.config.topic,
            number(partition)?,
            KafkaOffset::Offset(at),
        )
        .map_err(|error| errors::request(self.config, &error))?;
        Ok(list)
    }

    fn seek(&self, partition: Partition, at: Offset) -> Result<(), LogError> {
        let begun = Instant::now();
        loop {
            let sought = self
                .consumer
                .consumer()
                .seek_partitions(self.place(partition, at)?, PATIENCE)
                .map_err(|error| errors::request(self.config, &error))?;
            let result = sought.elements().first().map(|element| element.error());
            let Some(Err(error)) = result else {
                return Ok(());
            };
            let starts = matches!(
                error.rdkafka_error_code(),
                Some(
                    RDKafkaErrorCode::PreviousInProgress
                        | RDKafkaErrorCode::State
                        | RDKafkaErrorCode::UnknownPartition
                )
            );
            if !starts || begun.elapsed() > PATIENCE {
                return Err(errors::request(self.config, &error));
            }
            thread::sleep(PAUSE);
        }
    }
}
