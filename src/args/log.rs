//! Where the log is: `--brokers` and `--topic` for Kafka, or `--log` for an embedded one. Every
//! command that reads or writes a log takes these definitions.

use std::path::PathBuf;

use clap::Args;
use tapeflow_log::kafka::KafkaConfig;

use super::{
    errors::Errors,
    store::{StoreAddress, sqlite_address},
    values::{self, Addresses},
};

/// Where a Kafka on this machine listens.
const DEFAULT_BROKERS: &str = "127.0.0.1:9092";

/// How to reach Kafka.
#[derive(Args, Debug)]
#[command(next_help_heading = "Kafka")]
pub(crate) struct BrokerArgs {
    /// Kafka brokers to connect to first [default: 127.0.0.1:9092]
    #[arg(
        long,
        env = "TAPEFLOW_BROKERS",
        value_name = "HOST:PORT,...",
        value_parser = values::addresses
    )]
    brokers: Option<Addresses>,
    /// File of Kafka client settings, one key=value a line, such as security.protocol=SASL_SSL.
    /// Passwords belong in this file, not on a command line. Settings that exactness rests on or
    /// that load code are refused
    #[arg(long, env = "TAPEFLOW_KAFKA_CONFIG_FILE", value_name = "FILE")]
    pub(crate) kafka_config_file: Option<PathBuf>,
}

impl BrokerArgs {
    /// The configuration of a client for `topic`; reads the file of settings.
    pub(crate) fn check(&self, topic: String, errors: &mut Errors) -> Option<KafkaConfig> {
        let settings = match &self.kafka_config_file {
            Some(file) => errors.keep("--kafka-config-file", KafkaConfig::read_settings(file))?,
            None => Vec::new(),
        };
        let brokers = self
            .brokers
            .as_ref()
            .map_or_else(|| DEFAULT_BROKERS.to_owned(), |all| all.join(","));
        Some(KafkaConfig {
            settings,
            ..KafkaConfig::new(brokers, topic)
        })
    }
}

/// The topic of trades.
#[derive(Args, Debug)]
#[command(next_help_heading = "Kafka")]
pub(crate) struct KafkaArgs {
    #[command(flatten)]
    brokers: BrokerArgs,
    /// Topic of trades
    #[arg(
        long,
        env = "TAPEFLOW_TOPIC",
        default_value = "trades",
        value_name = "NAME",
        value_parser = values::topic
    )]
    topic: String,
}

impl KafkaArgs {
    /// The configuration of a client; reads the file of settings.
    pub(crate) fn check(self, errors: &mut Errors) -> Option<KafkaConfig> {
        self.brokers.check(self.topic, errors)
    }

    /// Whether the brokers are named, and not assumed.
    fn has_brokers(&self) -> bool {
        self.brokers.brokers.is_some()
    }
}

/// The log: a topic, or an SQLite file.
#[derive(Args, Debug)]
#[command(next_help_heading = "Log")]
pub(crate) struct LogArgs {
    /// An embedded log, sqlite:PATH, instead of a topic
    #[arg(long, env = "TAPEFLOW_LOG", value_name = "sqlite:PATH", value_parser = sqlite_address)]
    pub(crate) log: Option<PathBuf>,
    #[command(flatten)]
    kafka: KafkaArgs,
}

impl LogArgs {
    /// The log that a job reads: `--log`, or else the topic.
    pub(crate) fn check(self, errors: &mut Errors) -> Option<LogChoice> {
        match self.log {
            Some(path) => Some(LogChoice::Sqlite(path)),
            None => self.kafka.check(errors).map(LogChoice::Kafka),
        }
    }

    /// The log that the bars of `store` come from: `--log`, or else the log in the file of the bars
    /// if they come from it, or else the topic.
    pub(crate) fn of_store(self, store: &StoreAddress, errors: &mut Errors) -> Option<LogChoice> {
        match (self.log, store) {
            (Some(path), _) => Some(LogChoice::Sqlite(path)),
            (None, StoreAddress::Sqlite(path)) => self
                .kafka
                .check(errors)
                .map(|kafka| LogChoice::Beside(path.clone(), kafka)),
            (None, StoreAddress::Cassandra { .. }) => {
                self.kafka.check(errors).map(LogChoice::Kafka)
            }
        }
    }

    /// As [`Self::of_store`] if a log is named; no log otherwise.
    #[expect(
        clippy::option_option,
        reason = "the outer one is an error, the inner one no log"
    )]
    pub(crate) fn of_store_if_named(
        self,
        store: &StoreAddress,
        errors: &mut Errors,
    ) -> Option<Option<LogChoice>> {
        if self.log.is_some() || self.kafka.has_brokers() {
            self.of_store(store, errors).map(Some)
        } else {
            Some(None)
        }
    }
}

/// A log by its kind.
#[derive(Debug)]
pub(crate) enum LogChoice {
    /// A topic.
    Kafka(KafkaConfig),
    /// An SQLite file.
    Sqlite(PathBuf),
    /// The log in the bars' own SQLite file if the bars come from it, otherwise a topic.
    Beside(PathBuf, KafkaConfig),
}
