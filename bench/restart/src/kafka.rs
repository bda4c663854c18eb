//! The topic, for appending as fast as it goes. The only place here that knows Kafka.
//!
//! Appends are idempotent and acknowledged by all replicas: what is handed over stands in the topic once and in order, or the run fails.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
};

use crate::tape::Record;

/// How long a question to the broker may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the broker may take nothing before a run is given up.
const STANDSTILL: Duration = Duration::from_secs(180);

/// A topic.
pub(crate) struct Topic {
    brokers: String,
    name: String,
    producer: BaseProducer<Deliveries>,
    fault: Arc<OnceLock<String>>,
}

/// Hears of appends that failed for good; of those that succeed nobody asks.
struct Deliveries(Arc<OnceLock<String>>);

impl ClientContext for Deliveries {
    fn error(&self, fault: KafkaError, reason: &str) {
        if fault.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            let _ = self.0.set(format!("{fault}: {reason}"));
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((fault, _)) = result {
            let _ = self.0.set(fault.to_string());
        }
    }
}

impl Topic {
    /// Makes a client. A record waits `linger` for others to travel with.
    ///
    /// # Errors
    /// There is no client.
    pub(crate) fn new(brokers: &str, name: &str, linger: Duration) -> Result<Self, String> {
        let fault = Arc::new(OnceLock::new());
        let producer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("client.id", "tapeflow-restart")
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", "0")
            .set("delivery.report.only.error", "true")
            .set("linger.ms", linger.as_millis().to_string())
            .set("compression.type", "zstd")
            .set("compression.level", "1")
            .set("batch.num.messages", "4000")
            .set("queue.buffering.max.messages", "200000")
            .set("queue.buffering.max.kbytes", "131072")
            .create_with_context(Deliveries(Arc::clone(&fault)))
            .map_err(|fault| fault.to_string())?;
        Ok(Self { brokers: brokers.into(), name: name.into(), producer, fault })
    }

    /// Hands a record over; waits while too many are on their way.
    ///
    /// # Errors
    /// An append has failed for good, or nothing is taken for long.
    pub(crate) fn append(&self, record: &Record<'_>) -> Result<(), String> {
        let partition = i32::try_from(record.partition).map_err(|fault| fault.to_string())?;
        let mut message =
            BaseRecord::<str, [u8]>::to(&self.name).partition(partition).key(record.key).payload(record.payload).timestamp(record.timestamp_ms);
        let mut full_since = None;
        loop {
            message = match self.producer.send(message) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => back,
                Err((fault, _)) => return Err(format!("appending: {fault}")),
            };
            self.hear(Duration::from_millis(5))?;
            if full_since.get_or_insert_with(Instant::now).elapsed() > STANDSTILL {
                return Err(format!("the broker has taken nothing for {} s", STANDSTILL.as_secs()));
            }
        }
    }

    /// Hears, for so long, of what became of appends.
    ///
    /// # Errors
    /// One has failed for good.
    pub(crate) fn hear(&self, time: Duration) -> Result<(), String> {
        self.producer.poll(time);
        self.fault.get().map_or(Ok(()), |fault| Err(format!("appending: {fault}")))
    }

    /// Waits until all that was handed over is durable.
    ///
    /// # Errors
    /// An append has failed for good, or they take too long.
    pub(crate) fn flush(&self) -> Result<(), String> {
        self.producer.flush(STANDSTILL).map_err(|fault| format!("appending: {fault}"))?;
        self.hear(Duration::ZERO)
    }

    /// How many are on their way.
    pub(crate) fn on_their_way(&self) -> u64 {
        u64::try_from(self.producer.in_flight_count()).unwrap_or(0)
    }

    /// How many records each partition holds.
    ///
    /// # Errors
    /// The broker does not say.
    pub(crate) fn held(&self) -> Result<Vec<u64>, String> {
        let asking: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "tapeflow-restart")
            .create()
            .map_err(|fault: KafkaError| fault.to_string())?;
        let metadata = asking.fetch_metadata(Some(&self.name), PATIENCE).map_err(|fault| format!("asking about the topic: {fault}"))?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.name).ok_or("the broker does not know the topic")?;
        let partition = |id| {
            let (low, high) = asking.fetch_watermarks(&self.name, id, PATIENCE).map_err(|fault| format!("asking for partition {id}: {fault}"))?;
            u64::try_from(high - low).map_err(|fault| fault.to_string())
        };
        topic.partitions().iter().map(|found| partition(found.id())).collect()
    }
}
