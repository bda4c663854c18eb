//! The job's settings, and the commands that run it on servers: `dataflow`, and `init` before it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use tapeflow_console::HttpSettings;
use tapeflow_dataflow::JobConfig;
use tapeflow_log::kafka::KafkaConfig;
use tapeflow_schemas::Baskets;

use super::{
    errors::Errors,
    http::HttpArgs,
    log::{KafkaArgs, LogChoice},
    store::{LoginArgs, StoreAddress, StoreChoice, sqlite_address, store_choice},
    values,
};
use crate::end::End;

/// The user's baskets.
#[derive(Args, Debug)]
pub(crate) struct BasketsArg {
    /// File of baskets, lines of basket,symbol,weight; they decide lists, so a store keeps the ones
    /// it began with
    #[arg(long, env = "TAPEFLOW_BASKETS", value_name = "FILE")]
    baskets: Option<PathBuf>,
}

impl BasketsArg {
    /// Reads the file; no file is no baskets.
    pub(crate) fn check(self, errors: &mut Errors) -> Option<Baskets> {
        let Some(file) = self.baskets else {
            return Some(Baskets::default());
        };
        read_baskets(&file)
            .map_err(|found| {
                found
                    .into_iter()
                    .for_each(|error| errors.add(format!("--baskets: {} {error}", file.display())))
            })
            .ok()
    }
}

fn read_baskets(file: &Path) -> Result<Baskets, Vec<String>> {
    let text =
        std::fs::read_to_string(file).map_err(|error| vec![format!("cannot be read: {error}")])?;
    Baskets::parse(&text).map_err(|errors| errors.0)
}

/// The settings of the job that do not depend on where it runs.
#[derive(Args, Debug)]
#[command(next_help_heading = "Job")]
pub(crate) struct JobArgs {
    /// Window sizes side by side; they decide bars, so a store keeps the ones it began with
    #[arg(
        long,
        env = "TAPEFLOW_SIZES",
        default_value = "1s,1m,5m,1h,1d",
        value_name = "SIZE,..."
    )]
    sizes: String,
    /// How often an epoch is cut: how long a trade waits before its bars are written
    #[arg(
        long,
        env = "TAPEFLOW_EPOCH",
        default_value = "250ms",
        value_name = "DURATION"
    )]
    epoch: String,
    /// Bars a worker keeps in memory beyond those it is writing; the store holds the rest
    #[arg(
        long,
        env = "TAPEFLOW_RESIDENT_ROWS",
        default_value = "12000",
        value_name = "N"
    )]
    resident_bars: String,
    #[command(flatten)]
    baskets: BasketsArg,
    /// Go on without offsets that the log has lost before they were committed, instead of refusing
    /// to start: their trades are missing from the bars for good. Where they were bound already,
    /// some bars and lists may hold them and others not. Which offsets is told in the log, in a
    /// dead letter, and to verify. It is meant for one start: leave it out again
    #[arg(long, env = "TAPEFLOW_ACCEPT_LOSS")]
    accept_loss: bool,
    /// The job's name: a store belongs to one job
    #[arg(
        long,
        env = "TAPEFLOW_JOB",
        default_value = "tapeflow",
        value_name = "NAME"
    )]
    job: String,
}

impl JobArgs {
    /// Reads the settings of a job of one process that does not end by itself.
    pub(crate) fn check(self, workers: &str, errors: &mut Errors) -> Option<JobConfig> {
        let workers = errors.read("--workers", workers, values::count(1..=256));
        let sizes = errors.read("--sizes", &self.sizes, values::sizes);
        let epoch = errors.read("--epoch", &self.epoch, values::epoch);
        let resident_bars = errors.read(
            "--resident-bars",
            &self.resident_bars,
            values::count(1..=100_000_000),
        );
        let baskets = self.baskets.check(errors);
        let job = errors.read("--job", &self.job, values::job);
        Some(JobConfig {
            job: job?,
            workers: workers?,
            processes: 1,
            process: 0,
            hosts: Vec::new(),
            sizes: sizes?,
            epoch: epoch?,
            resident_bars: resident_bars?,
            baskets: baskets?,
            until_end: false,
            accept_loss: self.accept_loss,
        })
    }
}

/// `tapeflow init`.
#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Where bars go: cassandra://HOST[:PORT][,HOST...]/KEYSPACE
    #[arg(long, env = "TAPEFLOW_STORE", value_name = "URL")]
    store: String,
    /// Partitions of the topic, when it is made
    #[arg(
        long,
        env = "TAPEFLOW_PARTITIONS",
        default_value = "4",
        value_name = "N"
    )]
    partitions: String,
    /// Copies of every record and every bar [default: 3, or as many as there are nodes]
    #[arg(long, env = "TAPEFLOW_REPLICATION", value_name = "N")]
    replication: Option<String>,
    #[command(flatten)]
    login: LoginArgs,
}

/// What `init` does.
#[derive(Debug)]
pub(crate) struct InitSettings {
    pub(crate) kafka: KafkaConfig,
    pub(crate) store: StoreChoice,
    pub(crate) partitions: u32,
    pub(crate) replication: Option<u32>,
}

impl InitArgs {
    pub(crate) fn check(self) -> Result<InitSettings, End> {
        let mut errors = Errors::default();
        let kafka = self.kafka.check(&mut errors);
        let store = store_choice(&self.store, self.login, &mut errors);
        let small = |text: &str| {
            values::number(1..=10_000)(text)
                .and_then(|n| u32::try_from(n).map_err(|error| error.to_string()))
        };
        let partitions = errors.read("--partitions", &self.partitions, small);
        let replication = errors.read_option("--replication", self.replication.as_deref(), small);
        errors.settle(|| {
            Some(InitSettings {
                kafka: kafka?,
                store: store?,
                partitions: partitions?,
                replication: replication?,
            })
        })
    }
}

/// `tapeflow dataflow`.
#[derive(Args, Debug)]
pub(crate) struct DataflowArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// An embedded log instead of a topic
    #[arg(long, env = "TAPEFLOW_LOG", value_name = "sqlite:PATH")]
    log: Option<String>,
    /// Where bars go: cassandra://HOST[:PORT][,HOST...]/KEYSPACE, or sqlite:PATH for a job of one
    /// process
    #[arg(long, env = "TAPEFLOW_STORE", value_name = "URL")]
    store: String,
    /// Worker threads in this process
    #[arg(long, env = "TAPEFLOW_WORKERS", default_value = "1", value_name = "N")]
    workers: String,
    /// Processes of the job
    #[arg(
        long,
        env = "TAPEFLOW_PROCESSES",
        default_value = "1",
        value_name = "N"
    )]
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
    /// Run as a child of this process, and start it again when it ends without having been asked
    /// to: for jobs of several processes, which live and die as a whole, and as process 1 of a
    /// container
    #[arg(long, env = "TAPEFLOW_SUPERVISE", conflicts_with = "until_end")]
    supervise: bool,
    /// How long to go on committing what was read after SIGTERM or Ctrl-C, should the store be slow
    /// or out of reach; then the process ends with code 1 and the next start commits it
    #[arg(
        long,
        env = "TAPEFLOW_END_WITHIN",
        default_value = "30s",
        value_name = "DURATION"
    )]
    end_within: String,
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    login: LoginArgs,
    #[command(flatten)]
    http: HttpArgs,
}

/// What `dataflow` does.
#[derive(Debug)]
pub(crate) struct DataflowSettings {
    pub(crate) log: LogChoice,
    pub(crate) store: StoreChoice,
    pub(crate) job: JobConfig,
    pub(crate) supervise: bool,
    pub(crate) end_within: Duration,
    pub(crate) http: HttpSettings,
}

impl DataflowArgs {
    pub(crate) fn check(self) -> Result<DataflowSettings, End> {
        let mut errors = Errors::default();
        let kafka = self.kafka.check(&mut errors);
        let log = match &self.log {
            Some(text) => errors
                .read("--log", text, sqlite_address)
                .map(LogChoice::Sqlite),
            None => kafka.map(LogChoice::Kafka),
        };
        let store = store_choice(&self.store, self.login, &mut errors);
        let processes = errors.read("--processes", &self.processes, values::count(1..=256));
        let process = errors.read("--process", &self.process, values::count(0..=255));
        let hosts = errors
            .read_option("--hosts", self.hosts.as_deref(), values::addresses)
            .map(Option::unwrap_or_default);
        let job = self.job.check(&self.workers, &mut errors);
        let end_within = errors.read("--end-within", &self.end_within, values::duration);
        // Each process of one machine has a place of its own.
        let port = 8_080
            + process
                .and_then(|process| u16::try_from(process).ok())
                .unwrap_or(0);
        let http = self.http.check(([127, 0, 0, 1], port).into(), &mut errors);
        if let (Some(processes), Some(process), Some(hosts)) = (processes, process, &hosts) {
            if process >= processes {
                errors.add(format!(
                    "--process: {process} is not below --processes {processes}"
                ));
            }
            if processes > 1 && hosts.len() != processes {
                errors.add(format!(
                    "--hosts: {} addresses for --processes {processes}",
                    hosts.len()
                ));
            }
            if processes > 1
                && matches!(
                    store.as_ref().map(|store| &store.address),
                    Some(StoreAddress::Sqlite(_))
                )
            {
                errors.add("--store: several processes cannot share one sqlite: store; give cassandra://HOST/KEYSPACE");
            }
        }
        errors.settle(|| {
            let job = JobConfig {
                processes: processes?,
                process: process?,
                hosts: hosts?,
                until_end: self.until_end,
                ..job?
            };
            Some(DataflowSettings {
                log: log?,
                store: store?,
                job,
                supervise: self.supervise,
                end_within: end_within?,
                http: http?,
            })
        })
    }
}
