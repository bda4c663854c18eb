//! Where a measurement takes place: servers, or two files.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use tapeflow_feed::{Record, Shape};
use tapeflow_log::{
    NewRecord,
    kafka::{KafkaConfig, admin},
    sqlite::{Access, Database, SqliteLog},
};
use tapeflow_protocol::{Store, StoreError};
use tapeflow_schemas::codec::{self, Header};
use tapeflow_sinks::{
    cassandra::{CassandraConfig, CassandraStore},
    sqlite::SqliteStore,
};
use tokio::runtime::Handle;

use crate::{Error, topic::Topic};

/// Records appended to a file in one go.
const RECORDS_AT_ONCE: usize = 4_096;

/// A log and a store.
#[derive(Clone, Debug)]
pub enum Target {
    /// Files of SQLite: needs no server.
    Embedded {
        /// The log's file.
        log: PathBuf,
        /// The bars' file.
        bars: PathBuf,
    },
    /// Kafka and Cassandra.
    Servers {
        /// The topic.
        topic: KafkaConfig,
        /// The keyspace.
        store: Box<CassandraConfig>,
    },
}

/// The program that is measured, and how it finds log and store.
#[derive(Clone, Debug)]
pub struct Program {
    /// The binary.
    pub executable: PathBuf,
    /// Flags that name the log and the store, for the job and for `verify`.
    pub place: Vec<OsString>,
    /// Variables that it may inherit though they are settings: passwords.
    pub inherits: &'static [&'static str],
}

impl Program {
    /// A command of it, under no foreign settings.
    #[must_use]
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.executable);
        command.arg(name).args(&self.place).stdin(Stdio::null());
        let settings = std::env::vars_os()
            .map(|(name, _)| name)
            .filter(|name| name.to_string_lossy().starts_with("TAPEFLOW_"));
        for name in settings.filter(|name| self.inherits.iter().all(|kept| name != kept)) {
            command.env_remove(name);
        }
        // What a job serves beside its work is not measured.
        command.env("TAPEFLOW_HTTP", "off");
        command
    }
}

/// A log to append to.
pub enum Appender {
    /// A topic.
    Topic(Box<Topic>),
    /// A file, and what waits to be appended to it.
    File {
        /// The log in it.
        log: SqliteLog,
        /// Answers when appends are on disk.
        runtime: Handle,
        /// Not yet appended.
        waiting: Vec<NewRecord>,
    },
}

impl Target {
    /// What it is called in a report.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Embedded { .. } => "embedded",
            Self::Servers { .. } => "servers",
        }
    }

    /// A store to look at; none while it has not been made.
    ///
    /// # Errors
    /// It cannot be reached.
    pub fn look(&self, runtime: &Handle) -> Result<Option<Arc<dyn Store>>, Error> {
        let failed = |error: StoreError| Error::Failed(error.to_string());
        match self {
            Self::Embedded { bars, .. } if !bars.is_file() => Ok(None),
            // A file that the job is just making has no tables yet.
            Self::Embedded { bars, .. } => Ok(Database::open(bars, Access::Reader)
                .ok()
                .map(|file| Arc::new(SqliteStore::new(file)) as Arc<dyn Store>)),
            Self::Servers { store, .. } => {
                let store = runtime
                    .block_on(CassandraStore::connect((**store).clone()))
                    .map_err(failed)?;
                Ok(Some(Arc::new(store)))
            }
        }
    }

    /// Opens the log for appending; a file is made with so many partitions. A record waits `linger`
    /// for others to travel with.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn appender(
        &self,
        partitions: u32,
        linger: Duration,
        runtime: &Handle,
    ) -> Result<Appender, Error> {
        let failed = |error: StoreError| Error::Failed(error.to_string());
        match self {
            Self::Embedded { log, .. } => {
                let file = Database::open(log, Access::Job).map_err(failed)?;
                let log = runtime
                    .block_on(SqliteLog::create_if_absent(&file, partitions))
                    .map_err(failed)?;
                Ok(Appender::File {
                    log,
                    runtime: runtime.clone(),
                    waiting: Vec::with_capacity(RECORDS_AT_ONCE),
                })
            }
            Self::Servers { topic, .. } => {
                Ok(Appender::Topic(Box::new(Topic::new(topic, linger)?)))
            }
        }
    }

    /// Demands that a topic that is there already was filled with this very feed, all of it.
    ///
    /// # Errors
    /// [`Error::Refused`] if it was not.
    pub fn must_hold(topic: &KafkaConfig, shape: Shape, partitions: u32) -> Result<(), Error> {
        let name = &topic.topic;
        let each = admin::record_counts(topic)?;
        let held: u64 = each.iter().sum();
        if held != shape.messages() {
            return Err(Error::Refused(format!(
                "topic {name} holds {held} messages, and this feed has {}: it is another one's",
                shape.messages()
            )));
        }
        let mut entries = Vec::new();
        for (partition, _) in (0..partitions).zip(each).filter(|(_, held)| *held > 0) {
            let payload = admin::first_record(topic, partition)?.unwrap_or_default();
            entries.clear();
            match codec::decode(&payload, &mut entries) {
                Ok(Header::Batch { session, .. }) if session == shape.session(partitions) => {}
                _ => {
                    return Err(Error::Refused(format!(
                        "topic {name} was not filled by this bench with these settings ({shape})"
                    )));
                }
            }
        }
        Ok(())
    }
}

impl Appender {
    /// Hands a record over.
    ///
    /// # Errors
    /// An append has failed for good.
    pub fn append(&mut self, record: &Record<'_>) -> Result<(), Error> {
        match self {
            Self::Topic(topic) => topic.append(record),
            Self::File { waiting, .. } => {
                waiting.push(NewRecord {
                    partition: record.partition,
                    key: record.key.to_owned(),
                    timestamp_ms: record.timestamp_ms,
                    payload: record.payload.to_vec(),
                    session: Some((record.session, record.sequence)),
                });
                if waiting.len() < RECORDS_AT_ONCE {
                    Ok(())
                } else {
                    self.flush()
                }
            }
        }
    }

    /// Hears what became of appends; waits for nothing.
    ///
    /// # Errors
    /// One has failed for good.
    pub fn hear(&mut self) -> Result<(), Error> {
        match self {
            Self::Topic(topic) => topic.hear(Duration::ZERO),
            Self::File { .. } => Ok(()),
        }
    }

    /// Lets nothing wait for others to travel with.
    ///
    /// # Errors
    /// An append has failed for good.
    pub fn send(&mut self) -> Result<(), Error> {
        match self {
            Self::Topic(topic) => topic.hear(Duration::ZERO),
            Self::File { .. } => self.flush(),
        }
    }

    /// Waits until all that was handed over is durable.
    ///
    /// # Errors
    /// An append has failed for good.
    pub fn flush(&mut self) -> Result<(), Error> {
        match self {
            Self::Topic(topic) => topic.flush(),
            Self::File {
                log,
                runtime,
                waiting,
            } => {
                let records = std::mem::replace(waiting, Vec::with_capacity(RECORDS_AT_ONCE));
                runtime
                    .block_on(log.append(records))
                    .map(drop)
                    .map_err(|error| Error::Failed(format!("appending: {error}")))
            }
        }
    }

    /// How many records are on their way.
    #[must_use]
    pub fn on_their_way(&self) -> u64 {
        match self {
            Self::Topic(topic) => topic.on_their_way(),
            Self::File { waiting, .. } => u64::try_from(waiting.len()).unwrap_or(0),
        }
    }
}
