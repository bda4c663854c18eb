//! The commands and their flags. Values are kept as text here and read by each command's `check`, so that every fault is told at once.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use tapeflow_dataflow::{JobConfig, KafkaLogConfig};
use tapeflow_ingest::{Secret, Speed};
use tapeflow_schemas::{Symbol, window::parse_utc};
use tapeflow_sinks::Policy;

use super::{
    faults::Faults,
    store::{DEFAULT_STORE, Login, LoginArgs, StoreAddress, sqlite_address, store_address},
    values::{self, SizeChoice},
};
use crate::{end::End, kafka};

/// Live trades become exact, per-symbol VWAP and volume: never lost, never counted twice.
///
/// Without a command, `tapeflow run` with its defaults: a simulated feed through the whole pipeline, in this one process, into ./tapeflow-data.
/// Every flag can also be given as an environment variable, shown beside it.
#[derive(Parser, Debug)]
#[command(name = "tapeflow", version, max_term_width = 120, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) output: Output,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done; 1 failed under way, or verify found differences; 2 the input or a setting is at fault, nothing was written.";

/// How the program speaks.
#[derive(Args, Debug)]
#[command(next_help_heading = "Output")]
pub(crate) struct Output {
    /// Log lines on standard error: text for people, json for machines
    #[arg(long, global = true, env = "TAPEFLOW_LOG_FORMAT", default_value = "text", value_enum)]
    pub(crate) log_format: LogFormat,
    /// Which log lines: error, warn, info, debug, or a filter such as tapeflow_dataflow=debug [default: info; error for run on a terminal]
    #[arg(long, global = true, env = "TAPEFLOW_LOG_LEVEL", value_name = "FILTER")]
    pub(crate) log_level: Option<String>,
}

/// The form of log lines.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// The whole pipeline in one process: a feed, an embedded log, the dataflow, an embedded store, a live view
    Run(RunArgs),
    /// Make the topic and the keyspace, or bring them up to date; harmless when they are
    Init(InitArgs),
    /// Finnhub, or a recording, into Kafka
    Ingest(IngestArgs),
    /// Kafka into rows: one process of the job
    Dataflow(DataflowArgs),
    /// Print rows
    Bars(BarsArgs),
    /// Recompute every row from the log, independently, and print each difference
    Verify(VerifyArgs),
    /// Where the job stands: generation, epochs, offsets
    Status(StatusArgs),
    /// Dead letters
    #[command(subcommand)]
    Rejects(RejectsCommand),
    /// The simulated Finnhub server by itself, or a recording of it
    Simulate(SimulateArgs),
}

/// What to do with dead letters.
#[derive(Subcommand, Debug)]
pub(crate) enum RejectsCommand {
    /// Print dead letters: place, reason, detail
    List(RejectsArgs),
}

/// Where the topic is.
#[derive(Args, Debug)]
#[command(next_help_heading = "Kafka")]
pub(crate) struct KafkaArgs {
    /// Kafka brokers to begin with
    #[arg(long, env = "TAPEFLOW_BROKERS", default_value = "127.0.0.1:9092", value_name = "HOST:PORT,...")]
    brokers: String,
    /// Topic of trades
    #[arg(long, env = "TAPEFLOW_TOPIC", default_value = "trades")]
    topic: String,
    /// File of further client settings, one key=value a line, such as security.protocol=SASL_SSL; passwords belong here, not on a command line
    #[arg(long, env = "TAPEFLOW_KAFKA_CONFIG_FILE", value_name = "FILE")]
    kafka_config_file: Option<PathBuf>,
}

impl KafkaArgs {
    fn check(self, faults: &mut Faults) -> Option<KafkaLogConfig> {
        let brokers = faults.read("--brokers", &self.brokers, values::addresses);
        let topic = faults.read("--topic", &self.topic, values::topic);
        let settings = match &self.kafka_config_file {
            Some(file) => kafka::settings(file).map_err(|fault| faults.add(format!("--kafka-config-file: {fault}"))).ok(),
            None => Some(Vec::new()),
        };
        Some(KafkaLogConfig { brokers: brokers?.join(","), topic: topic?, settings: settings? })
    }
}

/// A store, and how to get in.
#[derive(Debug)]
pub(crate) struct StoreChoice {
    pub(crate) address: StoreAddress,
    pub(crate) login: Login,
}

fn store_choice(text: &str, login: LoginArgs, faults: &mut Faults) -> Option<StoreChoice> {
    let login = login.check(faults);
    let address = faults.read("--store", text, store_address)?;
    Some(StoreChoice { address, login })
}

/// The settings of the job that do not depend on where it runs.
#[derive(Args, Debug)]
#[command(next_help_heading = "Job")]
pub(crate) struct JobArgs {
    /// Window sizes side by side; they decide rows, so a store keeps the ones it began with
    #[arg(long, env = "TAPEFLOW_SIZES", default_value = "1s,1m,5m,1h,1d", value_name = "SIZE,...")]
    sizes: String,
    /// How often an epoch is cut: how long a trade waits before its rows are written
    #[arg(long, env = "TAPEFLOW_EPOCH", default_value = "250ms", value_name = "DURATION")]
    epoch: String,
    /// Rows a worker keeps in memory beyond those it is writing; the store holds the rest
    #[arg(long, env = "TAPEFLOW_RESIDENT_ROWS", default_value = "12000", value_name = "N")]
    resident_rows: String,
    /// The job's name: a store belongs to one job
    #[arg(long, env = "TAPEFLOW_JOB", default_value = "tapeflow", value_name = "NAME")]
    job: String,
}

impl JobArgs {
    fn check(self, workers: &str, faults: &mut Faults) -> Option<JobConfig> {
        let workers = faults.read("--workers", workers, values::count(1..=256));
        let sizes = faults.read("--sizes", &self.sizes, values::sizes);
        let epoch = faults.read("--epoch", &self.epoch, values::epoch);
        let resident_rows = faults.read("--resident-rows", &self.resident_rows, values::count(1..=100_000_000));
        let job = faults.read("--job", &self.job, values::job);
        Some(JobConfig {
            job: job?,
            workers: workers?,
            processes: 1,
            process: 0,
            hosts: Vec::new(),
            sizes: sizes?,
            epoch: epoch?,
            resident_rows: resident_rows?,
            baskets: tapeflow_schemas::Baskets::default(),
            until_end: false,
        })
    }
}

/// `tapeflow run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Replay recorded frames, JSON lines as Finnhub sends them, instead of the simulated feed
    #[arg(long, env = "TAPEFLOW_REPLAY", value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Speed of a replay: max, or a multiple of the recording's own pace such as 1x, 10x
    #[arg(long, env = "TAPEFLOW_SPEED", default_value = "max")]
    speed: String,
    /// End with code 0 once the replay's every row is committed
    #[arg(long, env = "TAPEFLOW_EXIT_AT_END", requires = "replay")]
    exit_at_end: bool,
    /// File holding Finnhub's token: read the live feed instead of the simulated one
    #[arg(long, env = "TAPEFLOW_FINNHUB_TOKEN_FILE", value_name = "FILE", conflicts_with = "replay")]
    finnhub_token_file: Option<PathBuf>,
    /// Symbols to subscribe to; with the simulated feed, how many it has [default: 200 simulated; AAPL,MSFT,BINANCE:BTCUSDT live]
    #[arg(long, env = "TAPEFLOW_SYMBOLS", value_name = "LIST")]
    symbols: Option<String>,
    /// Seed of the simulated feed
    #[arg(long, env = "TAPEFLOW_SEED", default_value = "1", value_name = "N", allow_hyphen_values = true)]
    seed: String,
    /// Trades a second of the simulated feed
    #[arg(long, env = "TAPEFLOW_RATE", default_value = "1000", value_name = "N")]
    rate: String,
    /// Log and rows
    #[arg(long, env = "TAPEFLOW_STORE", default_value = DEFAULT_STORE, value_name = "sqlite:PATH")]
    store: String,
    /// Worker threads
    #[arg(long, env = "TAPEFLOW_WORKERS", default_value = "2", value_name = "N")]
    workers: String,
    /// Partitions of the embedded log, when it is made
    #[arg(long, env = "TAPEFLOW_PARTITIONS", default_value = "4", value_name = "N")]
    partitions: String,
    /// End, with everything committed, after this long
    #[arg(long, env = "TAPEFLOW_DURATION", value_name = "DURATION")]
    duration: Option<String>,
    #[command(flatten)]
    job: JobArgs,
}

/// Where trades come from.
#[derive(Debug)]
pub(crate) enum Feed {
    /// The simulated server on loopback.
    Simulated { seed: u64, symbols: Vec<String>, rate: u64 },
    /// A recording.
    Replay { path: PathBuf, speed: Speed, exit_at_end: bool },
    /// Finnhub.
    Live { url: String, symbols: Vec<String>, token: Secret },
}

/// What `run` does.
#[derive(Debug)]
pub(crate) struct RunSettings {
    pub(crate) feed: Feed,
    pub(crate) store: PathBuf,
    pub(crate) partitions: u32,
    pub(crate) duration: Option<Duration>,
    pub(crate) job: JobConfig,
}

fn names(symbols: Vec<Symbol>) -> Vec<String> {
    symbols.iter().map(ToString::to_string).collect()
}

fn token(file: &std::path::Path, flag: &str, faults: &mut Faults) -> Option<Secret> {
    Secret::read_file(file).map_err(|fault| faults.add(format!("{flag}: {fault}"))).ok()
}

impl RunArgs {
    pub(crate) fn check(self) -> Result<RunSettings, End> {
        let mut faults = Faults::default();
        let speed = faults.read("--speed", &self.speed, str::parse::<Speed>);
        let seed = faults.read("--seed", &self.seed, values::number(0..=u64::MAX));
        let rate = faults.read("--rate", &self.rate, values::number(1..=10_000_000));
        let partitions = faults.read("--partitions", &self.partitions, values::number(1..=1_024)).and_then(|n| u32::try_from(n).ok());
        let duration = faults.read_option("--duration", self.duration.as_deref(), values::duration);
        let store = faults.read("--store", &self.store, sqlite_address);
        let job = self.job.check(&self.workers, &mut faults);
        let feed = match (self.replay, self.finnhub_token_file) {
            (Some(path), _) => speed.map(|speed| Feed::Replay { path, speed, exit_at_end: self.exit_at_end }),
            (None, Some(file)) => {
                let symbols = faults.read("--symbols", self.symbols.as_deref().unwrap_or("AAPL,MSFT,BINANCE:BTCUSDT"), values::symbols);
                let token = token(&file, "--finnhub-token-file", &mut faults);
                let url = tapeflow_ingest::finnhub::endpoint::FINNHUB_URL.to_owned();
                symbols.zip(token).map(|(symbols, token)| Feed::Live { url, symbols: names(symbols), token })
            }
            (None, None) => {
                let text = self.symbols.as_deref().unwrap_or("200");
                let symbols = match text.parse::<usize>() {
                    Ok(_) => faults.read("--symbols", text, values::count(1..=100_000)).map(tapeflow_ingest::simulator::symbols),
                    Err(_) => faults.read("--symbols", text, values::symbols).map(names),
                };
                symbols.zip(seed).zip(rate).map(|((symbols, seed), rate)| Feed::Simulated { seed, symbols, rate })
            }
        };
        faults.settle(|| Some(RunSettings { feed: feed?, store: store?, partitions: partitions?, duration: duration?, job: job? }))
    }
}

impl Default for RunArgs {
    /// What `tapeflow` without a command runs: the flags' own defaults, and the environment's.
    fn default() -> Self {
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            run: RunArgs,
        }
        Alone::parse_from(["tapeflow"]).run
    }
}

/// `tapeflow init`.
#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Where rows go: cassandra://HOST[:PORT][,HOST...]/KEYSPACE
    #[arg(long, env = "TAPEFLOW_STORE", value_name = "URL")]
    store: String,
    /// Partitions of the topic, when it is made
    #[arg(long, env = "TAPEFLOW_PARTITIONS", default_value = "4", value_name = "N")]
    partitions: String,
    /// Copies of every record and every row [default: 3, or as many as there are nodes]
    #[arg(long, env = "TAPEFLOW_REPLICATION", value_name = "N")]
    replication: Option<String>,
    #[command(flatten)]
    login: LoginArgs,
}

/// What `init` does.
#[derive(Debug)]
pub(crate) struct InitSettings {
    pub(crate) kafka: KafkaLogConfig,
    pub(crate) store: StoreChoice,
    pub(crate) partitions: u32,
    pub(crate) replication: Option<u32>,
}

impl InitArgs {
    pub(crate) fn check(self) -> Result<InitSettings, End> {
        let mut faults = Faults::default();
        let kafka = self.kafka.check(&mut faults);
        let store = store_choice(&self.store, self.login, &mut faults);
        let small = |text: &str| values::number(1..=10_000)(text).and_then(|n| u32::try_from(n).map_err(|fault| fault.to_string()));
        let partitions = faults.read("--partitions", &self.partitions, small);
        let replication = faults.read_option("--replication", self.replication.as_deref(), small);
        faults.settle(|| Some(InitSettings { kafka: kafka?, store: store?, partitions: partitions?, replication: replication? }))
    }
}

/// `tapeflow ingest`.
#[derive(Args, Debug)]
pub(crate) struct IngestArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Replay recorded frames, JSON lines as Finnhub sends them, instead of the live feed
    #[arg(long, env = "TAPEFLOW_REPLAY", value_name = "FILE", required_unless_present = "token_file")]
    replay: Option<PathBuf>,
    /// Speed of a replay: max, or a multiple of the recording's own pace such as 1x, 10x
    #[arg(long, env = "TAPEFLOW_SPEED", default_value = "max")]
    speed: String,
    /// End with code 0 once the whole replay is in the topic
    #[arg(long, env = "TAPEFLOW_EXIT_AT_END")]
    exit_at_end: bool,
    /// Where the live feed is
    #[arg(long, env = "TAPEFLOW_FINNHUB_URL", default_value = tapeflow_ingest::finnhub::endpoint::FINNHUB_URL, value_name = "URL")]
    finnhub_url: String,
    /// Symbols to subscribe to, such as AAPL,BINANCE:BTCUSDT
    #[arg(long, env = "TAPEFLOW_SYMBOLS", value_name = "LIST", requires = "token_file")]
    symbols: Option<String>,
    /// File holding Finnhub's token
    #[arg(long, env = "TAPEFLOW_TOKEN_FILE", value_name = "FILE", conflicts_with = "replay", requires = "symbols")]
    token_file: Option<PathBuf>,
}

/// What `ingest` does.
#[derive(Debug)]
pub(crate) struct IngestSettings {
    pub(crate) kafka: KafkaLogConfig,
    pub(crate) feed: Feed,
}

impl IngestArgs {
    pub(crate) fn check(self) -> Result<IngestSettings, End> {
        let mut faults = Faults::default();
        let kafka = self.kafka.check(&mut faults);
        let speed = faults.read("--speed", &self.speed, str::parse::<Speed>);
        let feed = match (self.replay, self.token_file) {
            (Some(path), _) => speed.map(|speed| Feed::Replay { path, speed, exit_at_end: self.exit_at_end }),
            (None, Some(file)) => {
                let symbols = faults.read("--symbols", self.symbols.as_deref().unwrap_or_default(), values::symbols);
                let token = token(&file, "--token-file", &mut faults);
                symbols.zip(token).map(|(symbols, token)| Feed::Live { url: self.finnhub_url, symbols: names(symbols), token })
            }
            (None, None) => {
                faults.add("--replay or --token-file: one of them must name a file");
                None
            }
        };
        faults.settle(|| Some(IngestSettings { kafka: kafka?, feed: feed? }))
    }
}

/// `tapeflow dataflow`.
#[derive(Args, Debug)]
pub(crate) struct DataflowArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Where rows go: cassandra://HOST[:PORT][,HOST...]/KEYSPACE, or sqlite:PATH for a job of one process
    #[arg(long, env = "TAPEFLOW_STORE", value_name = "URL")]
    store: String,
    /// Worker threads in this process
    #[arg(long, env = "TAPEFLOW_WORKERS", default_value = "1", value_name = "N")]
    workers: String,
    /// Processes of the job
    #[arg(long, env = "TAPEFLOW_PROCESSES", default_value = "1", value_name = "N")]
    processes: String,
    /// Which of them this one is, from 0
    #[arg(long, env = "TAPEFLOW_PROCESS", default_value = "0", value_name = "N")]
    process: String,
    /// HOST:PORT of each process, in order, where they reach each other
    #[arg(long, env = "TAPEFLOW_HOSTS", value_name = "HOST:PORT,...")]
    hosts: Option<String>,
    /// End with code 0 once everything that was in the topic at the start is committed
    #[arg(long, env = "TAPEFLOW_UNTIL_END")]
    until_end: bool,
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    login: LoginArgs,
}

/// What `dataflow` does.
#[derive(Debug)]
pub(crate) struct DataflowSettings {
    pub(crate) kafka: KafkaLogConfig,
    pub(crate) store: StoreChoice,
    pub(crate) job: JobConfig,
}

impl DataflowArgs {
    pub(crate) fn check(self) -> Result<DataflowSettings, End> {
        let mut faults = Faults::default();
        let kafka = self.kafka.check(&mut faults);
        let store = store_choice(&self.store, self.login, &mut faults);
        let processes = faults.read("--processes", &self.processes, values::count(1..=256));
        let process = faults.read("--process", &self.process, values::count(0..=255));
        let hosts = faults.read_option("--hosts", self.hosts.as_deref(), values::addresses).map(Option::unwrap_or_default);
        let job = self.job.check(&self.workers, &mut faults);
        if let (Some(processes), Some(process), Some(hosts)) = (processes, process, &hosts) {
            if process >= processes {
                faults.add(format!("--process: {process} is not below --processes {processes}"));
            }
            if processes > 1 && hosts.len() != processes {
                faults.add(format!("--hosts: {} addresses for --processes {processes}", hosts.len()));
            }
            if processes > 1 && matches!(store.as_ref().map(|store| &store.address), Some(StoreAddress::Sqlite(_))) {
                faults.add("--store: several processes cannot share one sqlite: store; give cassandra://HOST/KEYSPACE");
            }
        }
        faults.settle(|| {
            let job = JobConfig { processes: processes?, process: process?, hosts: hosts?, until_end: self.until_end, ..job? };
            Some(DataflowSettings { kafka: kafka?, store: store?, job })
        })
    }
}

/// The form of printed rows.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Columns for people.
    Table,
    /// Exact decimals, no exponent, empty where there is no value.
    Csv,
    /// One object a line, decimals as strings.
    Json,
}

/// `tapeflow bars`.
#[derive(Args, Debug)]
pub(crate) struct BarsArgs {
    /// Where the rows are: sqlite:PATH, or cassandra://HOST[:PORT][,HOST...]/KEYSPACE
    #[arg(long, env = "TAPEFLOW_STORE", default_value = DEFAULT_STORE, value_name = "URL")]
    store: String,
    /// Window sizes, or all
    #[arg(long, env = "TAPEFLOW_SIZE", default_value = "1m", value_name = "SIZE,...")]
    size: String,
    /// A symbol; may be repeated [default: all]
    #[arg(long, env = "TAPEFLOW_SYMBOL", value_name = "SYMBOL")]
    symbol: Vec<String>,
    /// First window start, RFC 3339 or a date
    #[arg(long, env = "TAPEFLOW_FROM", value_name = "TIME")]
    from: Option<String>,
    /// Window starts before this, RFC 3339 or a date
    #[arg(long, env = "TAPEFLOW_TO", value_name = "TIME")]
    to: Option<String>,
    /// Which trades volume, notional, trades and VWAP are made of: all, those the tape counts (sip), or those that form prices (strict)
    #[arg(long, env = "TAPEFLOW_POLICY", default_value = "sip", value_name = "all|sip|strict")]
    policy: String,
    /// Form of the output
    #[arg(long, env = "TAPEFLOW_FORMAT", default_value = "table", value_enum)]
    format: Format,
    #[command(flatten)]
    login: LoginArgs,
}

/// What `bars` does.
#[derive(Debug)]
pub(crate) struct BarsSettings {
    pub(crate) store: StoreChoice,
    pub(crate) sizes: SizeChoice,
    pub(crate) symbols: Vec<Symbol>,
    pub(crate) range: std::ops::Range<i64>,
    pub(crate) policy: Policy,
    pub(crate) format: Format,
}

impl BarsArgs {
    pub(crate) fn check(self) -> Result<BarsSettings, End> {
        let mut faults = Faults::default();
        let store = store_choice(&self.store, self.login, &mut faults);
        let sizes = faults.read("--size", &self.size, values::size_choice);
        let symbols: Vec<_> = self.symbol.iter().map(|symbol| faults.read("--symbol", symbol, values::symbols)).collect();
        let from = faults.read_option("--from", self.from.as_deref(), parse_utc);
        let to = faults.read_option("--to", self.to.as_deref(), parse_utc);
        let policy = faults.read("--policy", &self.policy, |text| {
            Policy::EVERY.into_iter().find(|policy| policy.name() == text).ok_or_else(|| format!("{text:?} is not a policy: give all, sip or strict"))
        });
        faults.settle(|| {
            let symbols = symbols.into_iter().collect::<Option<Vec<_>>>()?.concat();
            let range = from?.unwrap_or(i64::MIN)..to?.unwrap_or(i64::MAX);
            Some(BarsSettings { store: store?, sizes: sizes?, symbols, range, policy: policy?, format: self.format })
        })
    }
}

/// `tapeflow verify`.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// An embedded log instead of a topic; its rows are beside it unless --store says otherwise
    #[arg(long, env = "TAPEFLOW_LOG", value_name = "sqlite:PATH")]
    log: Option<String>,
    /// Where the rows are
    #[arg(long, env = "TAPEFLOW_STORE", value_name = "URL", required_unless_present = "log")]
    store: Option<String>,
    #[command(flatten)]
    login: LoginArgs,
}

/// A log by its kind.
#[derive(Debug)]
pub(crate) enum LogChoice {
    /// A topic.
    Kafka(KafkaLogConfig),
    /// An SQLite file.
    Sqlite(PathBuf),
}

/// What `verify` does.
#[derive(Debug)]
pub(crate) struct VerifySettings {
    pub(crate) log: LogChoice,
    pub(crate) store: StoreChoice,
}

impl VerifyArgs {
    pub(crate) fn check(self) -> Result<VerifySettings, End> {
        let mut faults = Faults::default();
        let kafka = self.kafka.check(&mut faults);
        let log = match &self.log {
            Some(text) => faults.read("--log", text, sqlite_address).map(LogChoice::Sqlite),
            None => kafka.map(LogChoice::Kafka),
        };
        let store = store_choice(self.store.as_deref().or(self.log.as_deref()).unwrap_or_default(), self.login, &mut faults);
        faults.settle(|| Some(VerifySettings { log: log?, store: store? }))
    }
}

/// `tapeflow status`.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// The job's store
    #[arg(long, env = "TAPEFLOW_STORE", default_value = DEFAULT_STORE, value_name = "URL")]
    store: String,
    /// Form of the output
    #[arg(long, env = "TAPEFLOW_FORMAT", default_value = "table", value_enum)]
    format: Format,
    #[command(flatten)]
    login: LoginArgs,
}

/// What `status` does.
#[derive(Debug)]
pub(crate) struct StatusSettings {
    pub(crate) store: StoreChoice,
    pub(crate) format: Format,
}

impl StatusArgs {
    pub(crate) fn check(self) -> Result<StatusSettings, End> {
        let mut faults = Faults::default();
        let store = store_choice(&self.store, self.login, &mut faults);
        faults.settle(|| Some(StatusSettings { store: store?, format: self.format }))
    }
}

/// `tapeflow rejects list`.
#[derive(Args, Debug)]
pub(crate) struct RejectsArgs {
    /// The job's store
    #[arg(long, env = "TAPEFLOW_STORE", default_value = DEFAULT_STORE, value_name = "URL")]
    store: String,
    /// At most so many
    #[arg(long, env = "TAPEFLOW_LIMIT", default_value = "1000", value_name = "N")]
    limit: String,
    /// Form of the output
    #[arg(long, env = "TAPEFLOW_FORMAT", default_value = "table", value_enum)]
    format: Format,
    #[command(flatten)]
    login: LoginArgs,
}

/// What `rejects list` does.
#[derive(Debug)]
pub(crate) struct RejectsSettings {
    pub(crate) store: StoreChoice,
    pub(crate) limit: usize,
    pub(crate) format: Format,
}

impl RejectsArgs {
    pub(crate) fn check(self) -> Result<RejectsSettings, End> {
        let mut faults = Faults::default();
        let store = store_choice(&self.store, self.login, &mut faults);
        let limit = faults.read("--limit", &self.limit, values::count(1..=100_000_000));
        faults.settle(|| Some(RejectsSettings { store: store?, limit: limit?, format: self.format }))
    }
}

/// `tapeflow simulate`.
#[derive(Args, Debug)]
pub(crate) struct SimulateArgs {
    /// Where to listen, on this machine alone
    #[arg(long, env = "TAPEFLOW_BIND", default_value = "127.0.0.1:8765", value_name = "HOST:PORT")]
    bind: String,
    /// File with the token that clients must bring [default: the token is "simulated"]
    #[arg(long, env = "TAPEFLOW_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The same seed gives the same market
    #[arg(long, env = "TAPEFLOW_SEED", default_value = "1", value_name = "N", allow_hyphen_values = true)]
    seed: String,
    /// How many symbols the market has
    #[arg(long, env = "TAPEFLOW_SYMBOLS", default_value = "200", value_name = "N")]
    symbols: String,
    /// Trades a second
    #[arg(long, env = "TAPEFLOW_RATE", default_value = "1000", value_name = "N")]
    rate: String,
    /// How many trades in all [default: no end, or 100000 with --out]
    #[arg(long, env = "TAPEFLOW_TRADES", value_name = "N")]
    trades: Option<String>,
    /// Share of all trades that the first symbol gets, 0 to 1, instead of the usual falling shares
    #[arg(long, env = "TAPEFLOW_ONE_SYMBOL_SHARE", value_name = "SHARE")]
    one_symbol_share: Option<String>,
    /// Write a recording, JSON lines, to this file instead of listening
    #[arg(long, env = "TAPEFLOW_OUT", value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What `simulate` does.
#[derive(Debug)]
pub(crate) struct SimulateSettings {
    pub(crate) bind: std::net::SocketAddr,
    pub(crate) token: Secret,
    pub(crate) seed: u64,
    pub(crate) symbols: usize,
    pub(crate) rate: u32,
    pub(crate) trades: Option<u64>,
    pub(crate) one_symbol_share: Option<f64>,
    pub(crate) out: Option<PathBuf>,
}

impl SimulateArgs {
    pub(crate) fn check(self) -> Result<SimulateSettings, End> {
        let mut faults = Faults::default();
        let bind = faults.read("--bind", &self.bind, |text| {
            text.parse::<std::net::SocketAddr>().map_err(|_| format!("{text:?} is not an address: give IP:PORT, such as 127.0.0.1:8765"))
        });
        let token = match &self.token_file {
            Some(file) => token(file, "--token-file", &mut faults),
            None => Some(Secret::new("simulated")),
        };
        let seed = faults.read("--seed", &self.seed, values::number(0..=u64::MAX));
        let symbols = faults.read("--symbols", &self.symbols, values::count(1..=100_000));
        let rate = faults.read("--rate", &self.rate, values::number(1..=10_000_000)).and_then(|n| u32::try_from(n).ok());
        let trades = faults.read_option("--trades", self.trades.as_deref(), values::number(1..=100_000_000_000));
        let one_symbol_share = faults.read_option("--one-symbol-share", self.one_symbol_share.as_deref(), |text| {
            text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| format!("{text:?} is not a share: give 0 to 1"))
        });
        faults.settle(|| {
            Some(SimulateSettings {
                bind: bind?,
                token: token?,
                seed: seed?,
                symbols: symbols?,
                rate: rate?,
                trades: trades?,
                one_symbol_share: one_symbol_share?,
                out: self.out,
            })
        })
    }
}
