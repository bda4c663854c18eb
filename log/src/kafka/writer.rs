//! A topic as ingest appends to it.
//!
//! Appends are idempotent and acknowledged by all in-sync replicas. A record has no time-out: while
//! a broker is away, ingest waits and loses nothing. An append that fails has failed for good and
//! ends the run, because the next record must not overtake it. A run that starts again relies only
//! on what the log holds ([`LogWriter::last_sequences`]).

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseRecord, ProducerContext, ThreadedProducer},
};
use tapeflow_schemas::SessionId;
use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::{
    errors, log_throttle,
    settings::{KafkaConfig, TAIL, WRITER},
    tail,
};
use crate::append::{AppendError, LogWriter, NewRecord};

/// How long a request to the brokers may take before they count as unavailable.
pub(super) const TIMEOUT: Duration = Duration::from_secs(15);
/// How often a warning repeats while nothing is acknowledged.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// A topic, for appending.
pub struct KafkaWriter {
    config: KafkaConfig,
    partitions: u32,
    producer: ThreadedProducer<Deliveries>,
    appends: Arc<Appends>,
}

impl std::fmt::Debug for KafkaWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaWriter")
            .field("config", &self.config)
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

impl KafkaWriter {
    /// Connects, and checks that the topic exists.
    ///
    /// # Errors
    /// [`AppendError`] if no broker answers within fifteen seconds, there is no such topic, or a
    /// setting is wrong. Nothing was appended then.
    pub async fn connect(config: KafkaConfig) -> Result<Self, AppendError> {
        let appends = Arc::new(Appends::default());
        let producer =
            config.create_with(&config.client(&WRITER), Deliveries(Arc::clone(&appends)))?;
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

    /// Fails once any append has failed for good: later records must not be appended.
    fn check(&self) -> Result<(), AppendError> {
        match self.appends.error.get() {
            Some(error) => Err(errors::request(&self.config, error).into()),
            None => Ok(()),
        }
    }

    fn send(&self, record: &NewRecord) -> Result<(), KafkaError> {
        let partition = i32::try_from(record.partition)
            .map_err(|_| KafkaError::MessageProduction(RDKafkaErrorCode::UnknownPartition))?;
        let mut message = BaseRecord::<str, [u8]>::to(&self.config.topic)
            .partition(partition)
            .payload(&record.payload)
            .timestamp(record.timestamp_ms);
        if !record.key.is_empty() {
            message = message.key(&record.key);
        }
        // Counted before the send, because the report may come before the send returns.
        self.appends.outstanding.fetch_add(1, Ordering::AcqRel);
        self.producer.send(message).map_err(|(error, _)| {
            self.appends.outstanding.fetch_sub(1, Ordering::AcqRel);
            error
        })
    }

    /// Waits for the next delivery report, and logs a warning if none comes for long.
    async fn report(&self) {
        if tokio::time::timeout(WARN_EVERY, self.appends.reported.notified())
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
impl LogWriter for KafkaWriter {
    fn partitions(&self) -> u32 {
        self.partitions
    }

    async fn last_sequences(&mut self, session: SessionId) -> Result<Vec<u64>, AppendError> {
        // So that records of this writer are found too.
        self.flush().await?;
        let (config, partitions) = (self.config.clone(), self.partitions);
        blocking(move || tail::last_sequences(&config, partitions, session)).await
    }

    async fn append(&mut self, records: Vec<NewRecord>) -> Result<(), AppendError> {
        for record in &records {
            loop {
                self.check()?;
                match self.send(record) {
                    Ok(()) => break,
                    Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => {
                        self.report().await
                    }
                    Err(error) => return Err(errors::request(&self.config, &error).into()),
                }
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), AppendError> {
        while self.appends.outstanding.load(Ordering::Acquire) > 0 {
            self.check()?;
            self.report().await;
        }
        self.check()
    }
}

/// Appends in flight.
#[derive(Debug, Default)]
struct Appends {
    /// Accepted, and neither acknowledged nor failed yet.
    outstanding: AtomicU64,
    /// The first that failed for good.
    error: OnceLock<KafkaError>,
    /// Signalled at each report. There is one waiter; a signal without a waiter is kept.
    reported: Notify,
}

/// Receives the delivery reports, on the producer's own thread.
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

/// The context of the consumer that sends requests and reads the tail.
pub(super) struct Requests;

impl ClientContext for Requests {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_throttle::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_throttle::error(&error, reason);
    }
}

impl ConsumerContext for Requests {}

/// The consumer of [`TAIL`].
pub(super) fn consumer(config: &KafkaConfig) -> Result<BaseConsumer<Requests>, AppendError> {
    Ok(config.create_with(&config.client(&TAIL), Requests)?)
}

/// Asks through a consumer, because a producer's request creates the topic where brokers allow it.
fn count_partitions(config: &KafkaConfig) -> Result<u32, AppendError> {
    let consumer = consumer(config)?;
    let metadata = consumer
        .fetch_metadata(Some(&config.topic), TIMEOUT)
        .map_err(|error| errors::request(config, &error))?;
    let topic = metadata
        .topics()
        .iter()
        .find(|topic| topic.name() == config.topic);
    let topic = topic.ok_or_else(|| errors::no_topic(config))?;
    if let Some(code) = topic.error() {
        let error = KafkaError::MetadataFetch(code.into());
        return Err(errors::request(config, &error).into());
    }
    match u32::try_from(topic.partitions().len()) {
        Ok(count @ 1..) => Ok(count),
        _ => Err(errors::no_topic(config).into()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AppendError> + Send + 'static,
) -> Result<T, AppendError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(AppendError(format!("the kafka thread ended: {error}"))))
}
