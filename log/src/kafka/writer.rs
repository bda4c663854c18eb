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
    time::{Duration, Instant},
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
use tapeflow_protocol::SourceIdentity;
use tapeflow_schemas::SessionId;
use tokio::sync::{Notify, OnceCell};
use tracing::{error, info, warn};

use super::{
    errors, log_throttle,
    session_index::SessionIndex,
    settings::{KafkaConfig, TAIL, WRITER},
    tail, topic_id,
};
use crate::{
    append::{AppendError, LastSession, LogWriter, NewRecord},
    recording::{KnownRecording, RecordingNote},
};

/// How long a request to the brokers may take before they count as unavailable.
pub(super) const TIMEOUT: Duration = Duration::from_secs(15);
/// How long the id of a topic is waited for: brokers that have none may not answer.
const ID_PATIENCE: Duration = Duration::from_secs(5);
/// How often a warning repeats while nothing is acknowledged.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// How often the sequences of a session are noted while it appends.
const NOTE_EVERY: Duration = Duration::from_secs(10);

/// A topic, for appending.
pub struct KafkaWriter {
    config: KafkaConfig,
    partitions: u32,
    producer: ThreadedProducer<Deliveries>,
    appends: Arc<Appends>,
    /// Where sessions are noted, once it was needed; `None` if there is no index.
    index: OnceCell<Option<Arc<SessionIndex>>>,
    /// The session that was asked for.
    session: Option<Session>,
    /// When they were noted.
    noted: Instant,
    searched: u64,
}

/// A session whose sequences are noted.
struct Session {
    id: SessionId,
    /// The last sequence that was appended in each partition.
    last: Vec<u64>,
    /// Its recording, which each note has.
    recording: Option<RecordingNote>,
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
            index: OnceCell::new(),
            session: None,
            noted: Instant::now(),
            searched: 0,
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
        let index = self.index().await?;
        let search =
            blocking(move || tail::last_sequences(&config, partitions, index.as_deref(), session));
        let found = search.await?;
        self.searched = found.searched;
        self.noted = Instant::now();
        self.session = Some(Session {
            id: session,
            last: found.last.clone(),
            recording: found.recording,
        });
        Ok(found.last)
    }

    async fn last_session(&mut self, producer: &str) -> Result<Option<LastSession>, AppendError> {
        self.flush().await?;
        let (config, partitions) = (self.config.clone(), self.partitions);
        let producer = producer.to_owned();
        blocking(move || tail::last_session(&config, partitions, &producer)).await
    }

    async fn recordings(&mut self, beginning: &str) -> Result<Vec<KnownRecording>, AppendError> {
        let Some(index) = self.index().await? else {
            return Ok(Vec::new());
        };
        let beginning = beginning.to_owned();
        blocking(move || index.recordings(&beginning)).await
    }

    async fn note_recording(
        &mut self,
        session: SessionId,
        note: &RecordingNote,
    ) -> Result<(), AppendError> {
        if let Some(known) = self.session.as_mut().filter(|known| known.id == session) {
            known.recording = Some(note.clone());
        }
        self.note_sequences(session).await
    }

    async fn note_sequences(&mut self, session: SessionId) -> Result<(), AppendError> {
        self.flush_appends().await?;
        self.noted = Instant::now();
        let index = self.index().await?;
        let session_known = self.session.as_ref().filter(|known| known.id == session);
        let (
            Some(index),
            Some(Session {
                last, recording, ..
            }),
        ) = (index, session_known)
        else {
            return Ok(());
        };
        let config = self.config.clone();
        let (last, recording) = (last.clone(), recording.clone());
        blocking(move || tail::note_sequences(&config, &index, session, &last, recording.as_ref()))
            .await
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
            if let (Some(known), Some((session, sequence))) = (&mut self.session, record.session)
                && known.id == session
                && let Some(last) = known.last.get_mut(record.partition as usize)
            {
                *last = (*last).max(sequence);
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), AppendError> {
        match self.session.as_ref().map(|session| session.id) {
            // After a crash only what was appended since is searched.
            Some(session) if self.noted.elapsed() >= NOTE_EVERY => {
                self.note_sequences(session).await
            }
            _ => self.flush_appends().await,
        }
    }
}

impl KafkaWriter {
    /// The number of records that [`LogWriter::last_sequences`] last had to read.
    #[must_use]
    pub fn searched(&self) -> u64 {
        self.searched
    }

    /// Which topic this is. The id of the topic is absent if the brokers do not give it in time.
    ///
    /// # Errors
    /// [`AppendError`] if no broker answers.
    pub async fn identity(&self) -> Result<SourceIdentity, AppendError> {
        let config = self.config.clone();
        blocking(move || {
            let consumer = consumer(&config)?;
            let cluster = consumer.client().fetch_cluster_id(TIMEOUT);
            let cluster = cluster.ok_or_else(|| {
                AppendError(format!(
                    "kafka at {} does not answer with its cluster id; see --brokers",
                    config.brokers
                ))
            })?;
            let topic_id = topic_id::read(&consumer, &config.topic, ID_PATIENCE);
            Ok(SourceIdentity {
                cluster,
                topic: config.topic,
                topic_id: topic_id.unwrap_or_else(|error| {
                    warn!(%error, "kafka does not tell the id of the topic");
                    None
                }),
            })
        })
        .await
    }

    /// The index of the topic; `None` if there is none and it cannot be made.
    async fn index(&self) -> Result<Option<Arc<SessionIndex>>, AppendError> {
        let open = || {
            let config = self.config.clone();
            blocking(move || Ok(tail::index(&config)?.map(Arc::new)))
        };
        self.index.get_or_try_init(open).await.cloned()
    }

    async fn flush_appends(&self) -> Result<(), AppendError> {
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
