//! A writer for benchmarks: appends as many records as the brokers accept.
//!
//! Appends are as exact as those of [`KafkaWriter`](super::KafkaWriter). The calls block, and only
//! failures are reported.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
};
use tapeflow_schemas::Partition;

use super::{
    errors,
    settings::{BULK_WRITER, KafkaConfig},
};
use crate::read::LogError;

/// How long the brokers may accept nothing before an append fails.
const STALL_LIMIT: Duration = Duration::from_secs(180);

/// One record to append.
#[derive(Clone, Copy, Debug)]
pub struct BulkRecord<'a> {
    /// Its partition.
    pub partition: Partition,
    /// Its key: the symbol.
    pub key: &'a str,
    /// When it was taken in, in milliseconds since 1970 UTC.
    pub timestamp_ms: i64,
    /// The Avro bytes.
    pub payload: &'a [u8],
}

/// A producer for one topic.
pub struct BulkWriter {
    config: KafkaConfig,
    producer: BaseProducer<Failures>,
    failure: Arc<OnceLock<String>>,
}

/// Keeps the first append that failed for good.
struct Failures(Arc<OnceLock<String>>);

impl ClientContext for Failures {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            let _ = self.0.set(format!("{error}: {reason}"));
        }
    }
}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            let _ = self.0.set(error.to_string());
        }
    }
}

impl BulkWriter {
    /// A producer whose records wait up to `linger` for others of their batch.
    ///
    /// # Errors
    /// [`LogError`] if a setting is wrong.
    pub fn new(config: &KafkaConfig, linger: Duration) -> Result<Self, LogError> {
        let failure = Arc::new(OnceLock::new());
        let mut client = config.client(&BULK_WRITER);
        client.set("linger.ms", linger.as_millis().to_string());
        Ok(Self {
            producer: config.create_with(&client, Failures(Arc::clone(&failure)))?,
            config: config.clone(),
            failure,
        })
    }

    /// Queues a record; waits while the queue is full.
    ///
    /// # Errors
    /// [`LogError`] if an append has failed for good, or nothing was accepted for three minutes.
    pub fn append(&self, record: BulkRecord<'_>) -> Result<(), LogError> {
        let partition =
            i32::try_from(record.partition).map_err(|error| LogError::Broken(error.to_string()))?;
        let mut message = BaseRecord::<str, [u8]>::to(&self.config.topic)
            .partition(partition)
            .key(record.key)
            .payload(record.payload)
            .timestamp(record.timestamp_ms);
        let mut full_since = None;
        loop {
            message = match self.producer.send(message) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => back,
                Err((error, _)) => return Err(errors::request(&self.config, &error)),
            };
            self.poll(Duration::from_millis(5))?;
            if full_since.get_or_insert_with(Instant::now).elapsed() > STALL_LIMIT {
                return Err(LogError::Unavailable(format!(
                    "kafka at {} has accepted nothing for {} s",
                    self.config.brokers,
                    STALL_LIMIT.as_secs()
                )));
            }
        }
    }

    /// Handles delivery reports for up to `time`.
    ///
    /// # Errors
    /// [`LogError::Broken`] if an append has failed for good.
    pub fn poll(&self, time: Duration) -> Result<(), LogError> {
        self.producer.poll(time);
        self.failure.get().map_or(Ok(()), |error| {
            Err(LogError::Broken(format!("append failed: {error}")))
        })
    }

    /// Waits until every queued record is durable.
    ///
    /// # Errors
    /// [`LogError`] if an append has failed for good, or three minutes are not enough.
    pub fn flush(&self) -> Result<(), LogError> {
        self.producer
            .flush(STALL_LIMIT)
            .map_err(|error| errors::request(&self.config, &error))?;
        self.poll(Duration::ZERO)
    }

    /// The number of records that are queued or in flight.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        u64::try_from(self.producer.in_flight_count()).unwrap_or(0)
    }
}
