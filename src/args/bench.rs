//! `bench`: which feed, through which servers, and what is measured.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::Args;
use tapeflow_feed::{Late, Shape};
use tapeflow_log::kafka::KafkaConfig;
use tapeflow_schemas::WindowSize;

use super::{
    errors::Errors,
    log::BrokerArgs,
    store::{Login, LoginArgs},
    values::{self, Addresses, Sizes},
};
use crate::exit::Exit;

/// The prefix of the bench's topics and keyspaces; it touches no others.
pub(crate) const PREFIX: &str = "tapeflow_bench_";
const TRADES: u64 = 5_000_000;
const TRADES_EMBEDDED: u64 = 500_000;
/// How long a feed at a rate lasts.
const DURATION: Duration = Duration::from_secs(30);

/// `tapeflow bench`.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// Without servers: log and bars are files, deleted at the end
    #[arg(long, env = "TAPEFLOW_EMBEDDED")]
    embedded: bool,
    /// How many trades to feed [default: 5000000, or 500000 with --embedded]
    #[arg(
        long,
        env = "TAPEFLOW_BENCH_TRADES",
        value_name = "N",
        conflicts_with = "rate",
        value_parser = values::number(1..=10_000_000_000)
    )]
    trades: Option<u64>,
    /// How many trades of a symbol one message holds
    #[arg(
        long,
        env = "TAPEFLOW_PER_MESSAGE",
        default_value = "1",
        value_name = "N",
        value_parser = values::number(1..=10_000)
    )]
    per_message: u64,
    /// How many symbols the feed has; the n-th trades in proportion to 1/n
    #[arg(
        long,
        env = "TAPEFLOW_MARKET_SYMBOLS",
        default_value = "5000",
        value_name = "N",
        value_parser = values::count(1..=1_000_000)
    )]
    market_symbols: usize,
    /// Trades that come late: how many of all, and by how much, as in 0.5%:30m. Each belongs to a
    /// window that is closed, and is read back from the store
    #[arg(
        long,
        env = "TAPEFLOW_LATE",
        value_name = "SHARE:AGE",
        value_parser = late
    )]
    late: Option<Late>,
    /// Seed of the feed: the same seed gives the same feed
    #[arg(
        long,
        env = "TAPEFLOW_SEED",
        default_value = "1",
        value_name = "N",
        value_parser = values::number(0..=u64::MAX)
    )]
    seed: u64,
    /// Feed this many trades a second while the job runs and measure how fresh the bars are,
    /// instead of filling the log first
    #[arg(
        long,
        env = "TAPEFLOW_BENCH_RATE",
        value_name = "N",
        value_parser = values::number(1..=10_000_000)
    )]
    rate: Option<u64>,
    /// How long to feed, with --rate [default: 30s]
    #[arg(
        long,
        env = "TAPEFLOW_BENCH_DURATION",
        value_name = "DURATION",
        value_parser = values::duration
    )]
    duration: Option<Duration>,
    /// Partitions of the log
    #[arg(
        long,
        env = "TAPEFLOW_PARTITIONS",
        default_value = "4",
        value_name = "N",
        value_parser = values::small(10_000)
    )]
    partitions: u32,
    /// Print one line of JSON and nothing else
    #[arg(long, env = "TAPEFLOW_JSON")]
    json: bool,
    /// Keep the log and the bars, and print where they are
    #[arg(long, env = "TAPEFLOW_BENCH_KEEP")]
    keep: bool,
    /// Wait for a line on standard input before the check, so that a test can damage a bar
    #[arg(long, hide = true)]
    ask_before_check: bool,
    #[command(flatten)]
    job: BenchJobArgs,
    #[command(flatten)]
    brokers: BrokerArgs,
    #[command(flatten)]
    servers: BenchServersArgs,
    #[command(flatten)]
    login: LoginArgs,
}

/// A share of trades, in percent, and their age.
fn late(text: &str) -> Result<Late, String> {
    let error =
        || format!("{text:?} is no share and age: give percent and a duration, as in 0.5%:30m");
    let (share, age) = text.split_once("%:").ok_or_else(error)?;
    let percent: f64 = share.parse().map_err(|_| error())?;
    if !(0.0001..=100.0).contains(&percent) {
        return Err(format!("{share}% is not between 0.0001% and 100%"));
    }
    let age = values::duration(age)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most a million"
    )]
    let of_million = (percent * 10_000.0).round() as u32;
    let by_ms = i64::try_from(age.as_millis()).map_err(|_| error())?;
    Ok(Late { of_million, by_ms })
}

/// How the job runs.
#[derive(Args, Debug)]
#[command(next_help_heading = "Job")]
struct BenchJobArgs {
    /// Worker threads of each process
    #[arg(
        long,
        env = "TAPEFLOW_WORKERS",
        default_value = "2",
        value_name = "N",
        value_parser = values::count(1..=256)
    )]
    workers: usize,
    /// Number of processes of the job; more than one needs servers
    #[arg(
        long,
        env = "TAPEFLOW_PROCESSES",
        default_value = "1",
        value_name = "N",
        value_parser = values::count(1..=256)
    )]
    processes: usize,
    /// Window sizes
    #[arg(
        long,
        env = "TAPEFLOW_SIZES",
        default_value = "1s,1m,5m,1h,1d",
        value_name = "SIZE,...",
        value_parser = values::job_sizes
    )]
    sizes: Sizes,
    /// Length of an epoch
    #[arg(
        long,
        env = "TAPEFLOW_EPOCH",
        default_value = "250ms",
        value_name = "DURATION",
        value_parser = values::epoch
    )]
    epoch: Duration,
}

/// Which servers.
#[derive(Args, Debug)]
#[command(next_help_heading = "Servers")]
struct BenchServersArgs {
    /// A topic that an earlier bench filled with the same feed and kept; it is filled if it does
    /// not exist. Its name begins with tapeflow_bench_
    #[arg(
        long,
        alias = "topic",
        env = "TAPEFLOW_BENCH_TOPIC",
        value_name = "NAME",
        conflicts_with = "rate",
        value_parser = own_topic
    )]
    bench_topic: Option<String>,
    /// Cassandra nodes to connect to first; the bench makes its own keyspace
    #[arg(
        long,
        env = "TAPEFLOW_CASSANDRA",
        default_value = "127.0.0.1:9042",
        value_name = "HOST:PORT,...",
        value_parser = values::addresses
    )]
    cassandra: Addresses,
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
    pub(crate) epoch: Duration,
    /// Its topic is the one that was named, or empty.
    pub(crate) kafka: KafkaConfig,
    pub(crate) kafka_config_file: Option<PathBuf>,
    pub(crate) nodes: Vec<String>,
    pub(crate) login: Login,
    /// The login's flags, for child processes.
    pub(crate) login_flags: Vec<OsString>,
}

/// A topic's name with the bench's prefix.
fn own_topic(text: &str) -> Result<String, String> {
    let name = values::topic(text)?;
    if name.starts_with(PREFIX) {
        Ok(name)
    } else {
        Err(format!(
            "{text:?} is not a topic of the bench: their names begin with {PREFIX}"
        ))
    }
}

impl BenchArgs {
    pub(crate) fn check(self) -> Result<BenchSettings, Exit> {
        let mut errors = Errors::default();
        if self.duration.is_some() && self.rate.is_none() {
            errors.add("--duration: only a feed at a rate has one; give it with --rate N");
        }
        if self.embedded && self.servers.bench_topic.is_some() {
            errors.add("--bench-topic: cannot be used with --embedded");
        }
        let duration = self.duration.unwrap_or(DURATION);
        let kafka = self
            .brokers
            .check(self.servers.bench_topic.unwrap_or_default(), &mut errors);
        if self.embedded && self.job.processes > 1 {
            errors.add("--processes: several processes cannot share one file: omit --embedded");
        }
        let login_flags = self.login.flags();
        let login = self.login.check(&mut errors);
        let default_trades = if self.embedded {
            TRADES_EMBEDDED
        } else {
            TRADES
        };
        let shape = Shape {
            seed: self.seed,
            trades: self.trades.unwrap_or(default_trades),
            per_message: self.per_message,
            symbols: self.market_symbols,
            late: self.late,
        };
        errors.settle(|| {
            Some(BenchSettings {
                embedded: self.embedded,
                shape,
                rate: self.rate.map(|rate| (rate, duration)),
                partitions: self.partitions,
                json: self.json,
                keep: self.keep,
                ask_before_check: self.ask_before_check,
                workers: self.job.workers,
                processes: self.job.processes,
                sizes: self.job.sizes,
                epoch: self.job.epoch,
                kafka: kafka?,
                kafka_config_file: self.brokers.kafka_config_file,
                nodes: self.servers.cassandra,
                login,
                login_flags,
            })
        })
    }
}
