//! `bench`: what is fed, through what, and how it is told.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::Args;
use tapeflow_feed::Shape;
use tapeflow_log::kafka::KafkaConfig;
use tapeflow_schemas::WindowSize;

use super::{
    errors::Errors,
    store::{Login, LoginArgs},
    values,
};
use crate::end::End;

/// What the bench's topics and keyspaces are called first; it touches no others.
pub(crate) const PREFIX: &str = "tapeflow_bench_";
const TRADES: u64 = 5_000_000;
const TRADES_EMBEDDED: u64 = 500_000;

/// `tapeflow bench`.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// Without servers: log and bars are files that are deleted afterwards
    #[arg(long, env = "TAPEFLOW_EMBEDDED")]
    embedded: bool,
    /// How many trades are fed [default: 5000000, or 500000 with --embedded]
    #[arg(
        long,
        env = "TAPEFLOW_TRADES",
        value_name = "N",
        conflicts_with = "rate"
    )]
    trades: Option<String>,
    /// How many trades of a symbol travel in one message
    #[arg(
        long,
        env = "TAPEFLOW_PER_MESSAGE",
        default_value = "1",
        value_name = "N"
    )]
    per_message: String,
    /// How many symbols there are; the n-th trades in proportion to 1/n
    #[arg(
        long,
        env = "TAPEFLOW_SYMBOLS",
        default_value = "5000",
        value_name = "N"
    )]
    symbols: String,
    /// The same seed gives the same feed
    #[arg(long, env = "TAPEFLOW_SEED", default_value = "1", value_name = "N")]
    seed: String,
    /// Feed so many trades a second while the job runs, and tell how fresh the bars are, instead of
    /// filling the log first
    #[arg(long, env = "TAPEFLOW_RATE", value_name = "N")]
    rate: Option<String>,
    /// For how long, with --rate
    #[arg(
        long,
        env = "TAPEFLOW_DURATION",
        default_value = "30s",
        value_name = "DURATION",
        requires = "rate"
    )]
    duration: String,
    /// Partitions of the log
    #[arg(
        long,
        env = "TAPEFLOW_PARTITIONS",
        default_value = "4",
        value_name = "N"
    )]
    partitions: String,
    /// Print nothing but one line of JSON
    #[arg(long, env = "TAPEFLOW_JSON")]
    json: bool,
    /// Leave the log and the bars where they are, and say where
    #[arg(long, env = "TAPEFLOW_KEEP")]
    keep: bool,
    /// Wait for a line on standard input before the bars are checked: so that a test can spoil one
    #[arg(long, hide = true)]
    ask_before_check: bool,
    #[command(flatten)]
    job: BenchJobArgs,
    #[command(flatten)]
    servers: BenchServersArgs,
    #[command(flatten)]
    login: LoginArgs,
}

/// How the job runs.
#[derive(Args, Debug)]
#[command(next_help_heading = "Job")]
struct BenchJobArgs {
    /// Worker threads in each process of the job
    #[arg(long, env = "TAPEFLOW_WORKERS", default_value = "2", value_name = "N")]
    workers: String,
    /// Processes of the job; several need servers
    #[arg(
        long,
        env = "TAPEFLOW_PROCESSES",
        default_value = "1",
        value_name = "N"
    )]
    processes: String,
    /// Window sizes side by side
    #[arg(
        long,
        env = "TAPEFLOW_SIZES",
        default_value = "1s,1m,5m,1h,1d",
        value_name = "SIZE,..."
    )]
    sizes: String,
    /// How often an epoch is cut
    #[arg(
        long,
        env = "TAPEFLOW_EPOCH",
        default_value = "250ms",
        value_name = "DURATION"
    )]
    epoch: String,
}

/// Which servers.
#[derive(Args, Debug)]
#[command(next_help_heading = "Servers")]
struct BenchServersArgs {
    /// Kafka brokers to begin with
    #[arg(
        long,
        env = "TAPEFLOW_BROKERS",
        default_value = "127.0.0.1:9092",
        value_name = "HOST:PORT,..."
    )]
    brokers: String,
    /// File of further client settings, one key=value a line
    #[arg(long, env = "TAPEFLOW_KAFKA_CONFIG_FILE", value_name = "FILE")]
    kafka_config_file: Option<PathBuf>,
    /// A topic that was filled with this very feed and kept; filled first if it is not there. Its
    /// name begins with tapeflow_bench_
    #[arg(long, alias = "topic", env = "TAPEFLOW_BENCH_TOPIC", value_name = "NAME", conflicts_with_all = ["embedded", "rate"])]
    bench_topic: Option<String>,
    /// Cassandra nodes to begin with; the keyspace is the bench's own
    #[arg(
        long,
        env = "TAPEFLOW_CASSANDRA",
        default_value = "127.0.0.1:9042",
        value_name = "HOST:PORT,..."
    )]
    cassandra: String,
}

/// What `bench` does.
#[derive(Debug)]
pub(crate) struct BenchSettings {
    pub(crate) embedded: bool,
    pub(crate) shape: Shape,
    /// Trades a second, and for how long.
    pub(crate) rate: Option<(u64, Duration)>,
    pub(crate) partitions: u32,
    pub(crate) json: bool,
    pub(crate) keep: bool,
    pub(crate) ask_before_check: bool,
    pub(crate) workers: usize,
    pub(crate) processes: usize,
    pub(crate) sizes: Vec<WindowSize>,
    pub(crate) epoch: String,
    /// Its topic is the one that was named, or empty.
    pub(crate) kafka: KafkaConfig,
    pub(crate) kafka_config_file: Option<PathBuf>,
    pub(crate) nodes: Vec<String>,
    pub(crate) login: Login,
    /// The login's flags, for other processes.
    pub(crate) login_flags: Vec<OsString>,
}

/// A name that the bench may have given.
fn own_topic(text: &str) -> Result<String, String> {
    let name = values::topic(text)?;
    if name.starts_with(PREFIX) {
        Ok(name)
    } else {
        Err(format!(
            "{text:?} is not a topic of the bench's own: their names begin with {PREFIX}"
        ))
    }
}

impl BenchArgs {
    pub(crate) fn check(self) -> Result<BenchSettings, End> {
        let mut errors = Errors::default();
        let most = if self.embedded {
            TRADES_EMBEDDED
        } else {
            TRADES
        };
        let trades = errors.read_option(
            "--trades",
            self.trades.as_deref(),
            values::number(1..=10_000_000_000),
        );
        let per_message = errors.read(
            "--per-message",
            &self.per_message,
            values::number(1..=10_000),
        );
        let symbols = errors.read("--symbols", &self.symbols, values::count(1..=1_000_000));
        let seed = errors.read("--seed", &self.seed, values::number(0..=u64::MAX));
        let rate = errors.read_option(
            "--rate",
            self.rate.as_deref(),
            values::number(1..=10_000_000),
        );
        let duration = errors.read("--duration", &self.duration, values::duration);
        let small = |text: &str| {
            values::number(1..=10_000)(text)
                .and_then(|n| u32::try_from(n).map_err(|error| error.to_string()))
        };
        let partitions = errors.read("--partitions", &self.partitions, small);
        let workers = errors.read("--workers", &self.job.workers, values::count(1..=256));
        let processes = errors.read("--processes", &self.job.processes, values::count(1..=256));
        let sizes = errors.read("--sizes", &self.job.sizes, values::sizes);
        let epoch = errors.read("--epoch", &self.job.epoch, values::epoch);
        let brokers = errors.read("--brokers", &self.servers.brokers, values::addresses);
        let topic = errors.read_option(
            "--bench-topic",
            self.servers.bench_topic.as_deref(),
            own_topic,
        );
        let nodes = errors.read("--cassandra", &self.servers.cassandra, values::addresses);
        let settings = match &self.servers.kafka_config_file {
            Some(file) => KafkaConfig::read_settings(file)
                .map_err(|error| errors.add(format!("--kafka-config-file: {error}")))
                .ok(),
            None => Some(Vec::new()),
        };
        if self.embedded && processes.is_some_and(|processes| processes > 1) {
            errors
                .add("--processes: several processes cannot share one file: leave --embedded out");
        }
        let login_flags = self.login.flags();
        let login = self.login.check(&mut errors);
        errors.settle(|| {
            epoch?;
            let shape = Shape {
                seed: seed?,
                trades: trades?.unwrap_or(most),
                per_message: per_message?,
                symbols: symbols?,
            };
            let kafka = KafkaConfig {
                brokers: brokers?.join(","),
                topic: topic?.unwrap_or_default(),
                settings: settings?,
            };
            Some(BenchSettings {
                embedded: self.embedded,
                shape,
                rate: rate?.zip(duration),
                partitions: partitions?,
                json: self.json,
                keep: self.keep,
                ask_before_check: self.ask_before_check,
                workers: workers?,
                processes: processes?,
                sizes: sizes?,
                epoch: self.job.epoch,
                kafka,
                kafka_config_file: self.servers.kafka_config_file,
                nodes: nodes?,
                login,
                login_flags,
            })
        })
    }
}
