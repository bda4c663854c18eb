//! A topic, for appending as fast as it goes, and what else a measurement asks of it. The only
//! place here that knows Kafka.
//!
//! Appends are idempotent and acknowledged by all replicas: what is handed over stands in the topic
//! once and in order, or the run fails.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
};
use tapeflow_feed::Record;

use crate::Error;

/// How long the first question to the broker may take, which may be none; and how long others.
const REACH: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the broker may take nothing before a run is given up.
const STANDSTILL: Duration = Duration::from_secs(180);
/// How long a record that is there may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(10);

/// Where a topic is.
#[derive(Clone, Debug)]
pub struct TopicAddress {
    /// Brokers to begin with.
    pub brokers: String,
    /// Its name.
    pub name: String,
    /// Further client settings; their values may be secret.
    pub settings: Vec<(String, String)>,
}

/// A topic to append to.
pub struct Topic {
    name: String,
    producer: BaseProducer<Deliveries>,
    error: Arc<OnceLock<String>>,
}

/// Hears of appends that failed for good; of those that succeed nobody asks.
struct Deliveries(Arc<OnceLock<String>>);

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            let _ = self.0.set(format!("{error}: {reason}"));
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            let _ = self.0.set(error.to_string());
        }
    }
}

/// What a client says, without the value of a setting, which may be secret.
fn said(what: &str, error: &KafkaError) -> Error {
    Error::Failed(match error {
        KafkaError::ClientConfig(_, reason, key, _) => format!("{what}: setting {key}: {reason}"),
        error => format!("{what}: {error}"),
    })
}

impl TopicAddress {
    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "tapeflow-bench")
            .set("allow.auto.create.topics", "false");
        for (key, value) in &self.settings {
            client.set(key, value);
        }
        client
    }

    fn asker(&self) -> Result<BaseConsumer, Error> {
        self.client()
            .create()
            .map_err(|error| said("no Kafka client", &error))
    }

    /// How many partitions it has; none if there is no such topic.
    ///
    /// # Errors
    /// The broker does not say.
    pub fn partitions(&self) -> Result<Option<u32>, Error> {
        let metadata = self
            .asker()?
            .fetch_metadata(Some(&self.name), REACH)
            .map_err(|error| said("asking about the topic", &error))?;
        let found = metadata
            .topics()
            .iter()
            .find(|topic| topic.name() == self.name && topic.error().is_none());
        Ok(found
            .map(|topic| topic.partitions().len())
            .filter(|count| *count > 0)
            .and_then(|count| u32::try_from(count).ok()))
    }

    /// How many records each partition holds.
    ///
    /// # Errors
    /// The broker does not say.
    pub fn held(&self) -> Result<Vec<u64>, Error> {
        let (asking, partitions) = (
            self.asker()?,
            self.partitions()?
                .ok_or_else(|| Error::Failed("the broker does not know the topic".into()))?,
        );
        let partition = |id: u32| {
            let number = i32::try_from(id).map_err(|error| Error::Failed(error.to_string()))?;
            let found = asking.fetch_watermarks(&self.name, number, PATIENCE);
            let (low, high) =
                found.map_err(|error| said(&format!("asking for partition {id}"), &error))?;
            u64::try_from(high - low).map_err(|error| Error::Failed(error.to_string()))
        };
        (0..partitions).map(partition).collect()
    }

    /// The bytes of the first record of a partition that holds one.
    ///
    /// # Errors
    /// It does not arrive.
    pub fn first(&self, partition: u32) -> Result<Option<Vec<u8>>, Error> {
        let failed = |error: KafkaError| said("reading the topic", &error);
        let reading: BaseConsumer = self
            .client()
            .set("group.id", "tapeflow-bench")
            .set("enable.auto.commit", "false")
            .create()
            .map_err(failed)?;
        let number = i32::try_from(partition).map_err(|error| Error::Failed(error.to_string()))?;
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(&self.name, number, Offset::Beginning)
            .map_err(failed)?;
        reading.assign(&from).map_err(failed)?;
        let deadline = Instant::now() + ARRIVAL;
        while Instant::now() < deadline {
            match reading.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => return Ok(message.payload().map(<[u8]>::to_vec)),
                Some(Err(error)) => return Err(failed(error)),
                None => {}
            }
        }
        Ok(None)
    }

    /// Deletes it.
    ///
    /// # Errors
    /// The broker does not.
    pub async fn delete(&self) -> Result<(), Error> {
        let what = format!("deleting topic {}", self.name);
        let admin: AdminClient<DefaultClientContext> = self
            .client()
            .create()
            .map_err(|error| said(&what, &error))?;
        let options = AdminOptions::new()
            .operation_timeout(Some(PATIENCE))
            .request_timeout(Some(PATIENCE));
        let deleted = admin
            .delete_topics(&[&self.name], &options)
            .await
            .map_err(|error| said(&what, &error))?;
        deleted.into_iter().try_for_each(|deleted| {
            deleted
                .map(drop)
                .map_err(|(_, code)| Error::Failed(format!("{what}: {code}")))
        })
    }
}

impl Topic {
    /// Makes a client. A record waits `linger` for others to travel with.
    ///
    /// # Errors
    /// There is no client.
    pub fn new(address: &TopicAddress, linger: Duration) -> Result<Self, Error> {
        let error = Arc::new(OnceLock::new());
        let producer = address
            .client()
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", "0")
            .set("delivery.report.only.error", "true")
            .set("linger.ms", linger.as_millis().to_string())
            // As ingest does.
            .set("compression.type", "lz4")
            .set("batch.num.messages", "4000")
            .set("queue.buffering.max.messages", "200000")
            .set("queue.buffering.max.kbytes", "131072")
            .create_with_context(Deliveries(Arc::clone(&error)))
            .map_err(|error| said("no Kafka client", &error))?;
        Ok(Self {
            name: address.name.clone(),
            producer,
            error,
        })
    }

    /// Hands a record over; waits while too many are on their way.
    ///
    /// # Errors
    /// An append has failed for good, or nothing is taken for long.
    pub fn append(&self, record: &Record<'_>) -> Result<(), Error> {
        let partition =
            i32::try_from(record.partition).map_err(|error| Error::Failed(error.to_string()))?;
        let mut message = BaseRecord::<str, [u8]>::to(&self.name)
            .partition(partition)
            .key(record.key)
            .payload(record.payload)
            .timestamp(record.timestamp_ms);
        let mut full_since = None;
        loop {
            message = match self.producer.send(message) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => back,
                Err((error, _)) => return Err(said("appending", &error)),
            };
            self.hear(Duration::from_millis(5))?;
            if full_since.get_or_insert_with(Instant::now).elapsed() > STANDSTILL {
                return Err(Error::Failed(format!(
                    "the broker has taken nothing for {} s",
                    STANDSTILL.as_secs()
                )));
            }
        }
    }

    /// Hears, for so long, of what became of appends.
    ///
    /// # Errors
    /// One has failed for good.
    pub fn hear(&self, time: Duration) -> Result<(), Error> {
        self.producer.poll(time);
        self.error.get().map_or(Ok(()), |error| {
            Err(Error::Failed(format!("appending: {error}")))
        })
    }

    /// Waits until all that was handed over is durable.
    ///
    /// # Errors
    /// An append has failed for good, or they take too long.
    pub fn flush(&self) -> Result<(), Error> {
        self.producer
            .flush(STANDSTILL)
            .map_err(|error| said("appending", &error))?;
        self.hear(Duration::ZERO)
    }

    /// How many are on their way.
    #[must_use]
    pub fn on_their_way(&self) -> u64 {
        u64::try_from(self.producer.in_flight_count()).unwrap_or(0)
    }
}
