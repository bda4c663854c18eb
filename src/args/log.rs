//! Where the log is: `--brokers` and `--topic`, or `--log`.

use std::path::PathBuf;

use clap::Args;
use tapeflow_log::kafka::KafkaConfig;

use super::{errors::Errors, store::sqlite_address, values};

/// Where the topic is.
#[derive(Args, Debug)]
#[command(next_help_heading = "Kafka")]
pub(crate) struct KafkaArgs {
    /// Kafka brokers to begin with
    #[arg(
        long,
        env = "TAPEFLOW_BROKERS",
        default_value = "127.0.0.1:9092",
        value_name = "HOST:PORT,..."
    )]
    brokers: String,
    /// Topic of trades
    #[arg(long, env = "TAPEFLOW_TOPIC", default_value = "trades")]
    topic: String,
    /// File of further client settings, one key=value a line, such as security.protocol=SASL_SSL;
    /// passwords belong here, not on a command line
    #[arg(long, env = "TAPEFLOW_KAFKA_CONFIG_FILE", value_name = "FILE")]
    kafka_config_file: Option<PathBuf>,
}

impl KafkaArgs {
    /// Reads the addresses, and the file of settings.
    pub(crate) fn check(self, errors: &mut Errors) -> Option<KafkaConfig> {
        let brokers = errors.read("--brokers", &self.brokers, values::addresses);
        let topic = errors.read("--topic", &self.topic, values::topic);
        let settings = match &self.kafka_config_file {
            Some(file) => KafkaConfig::read_settings(file)
                .map_err(|error| errors.add(format!("--kafka-config-file: {error}")))
                .ok(),
            None => Some(Vec::new()),
        };
        Some(KafkaConfig {
            brokers: brokers?.join(","),
            topic: topic?,
            settings: settings?,
        })
    }
}

/// A log to measure a job against; none unless one is named.
#[derive(Args, Debug)]
#[command(next_help_heading = "Log")]
pub(crate) struct LagArgs {
    /// Kafka brokers to begin with: how far the job is behind the topic is shown as well
    #[arg(long, env = "TAPEFLOW_BROKERS", value_name = "HOST:PORT,...")]
    brokers: Option<String>,
    /// Topic of trades
    #[arg(long, env = "TAPEFLOW_TOPIC", default_value = "trades")]
    topic: String,
    /// File of further client settings, one key=value a line
    #[arg(long, env = "TAPEFLOW_KAFKA_CONFIG_FILE", value_name = "FILE")]
    kafka_config_file: Option<PathBuf>,
    /// An embedded log instead of a topic
    #[arg(long, env = "TAPEFLOW_LOG", value_name = "sqlite:PATH")]
    log: Option<String>,
}

impl LagArgs {
    /// Which log, if any. An embedded one wins, as in `verify`.
    #[expect(
        clippy::option_option,
        reason = "the outer one is an error, the inner one no log"
    )]
    pub(crate) fn check(self, errors: &mut Errors) -> Option<Option<LogChoice>> {
        match (self.log, self.brokers) {
            (Some(text), _) => errors
                .read("--log", &text, sqlite_address)
                .map(|path| Some(LogChoice::Sqlite(path))),
            (None, Some(brokers)) => {
                let kafka = KafkaArgs {
                    brokers,
                    topic: self.topic,
                    kafka_config_file: self.kafka_config_file,
                };
                kafka
                    .check(errors)
                    .map(|config| Some(LogChoice::Kafka(config)))
            }
            (None, None) => Some(None),
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
    /// The log in the bars' own SQLite file, if that is where they come from; a topic else.
    Beside(PathBuf, KafkaConfig),
}
