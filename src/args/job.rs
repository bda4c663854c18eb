//! The job's settings, and the commands that run it on servers: `dataflow`, and `init` before it.

use std::{path::Path, time::Duration};

use clap::Args;
use tapeflow_console::HttpSettings;
use tapeflow_dataflow::JobConfig;
use tapeflow_log::kafka::KafkaConfig;
use tapeflow_schemas::Baskets;

use super::{
    errors::Errors,
    http::HttpArgs,
    log::{KafkaArgs, LogArgs, LogChoice},
    store::{StoreAddress, StoreArgs, StoreChoice},
    values::{self, Addresses, Sizes},
};
use crate::exit::Exit;

/// The user's baskets.
#[derive(Args, Debug)]
pub(crate) struct BasketsArg {
    /// File of baskets, lines of basket,symbol,weight with or without that heading. They decide
    /// what a view holds, so a store keeps the ones it began with
    #[arg(long, env = "TAPEFLOW_BASKETS", value_name = "FILE", value_parser = read_baskets)]
    pub(crate) baskets: Option<Baskets>,
}

fn read_baskets(file: &str) -> Result<Baskets, String> {
    let text = std::fs::read_to_string(Path::new(file))
        .map_err(|error| format!("{file} cannot be read: {error}"))?;
    Baskets::parse(&text).map_err(|errors| {
        let lines: Vec<_> = errors
            .0
            .iter()
            .map(|error| format!("{file} {error}"))
            .collect();
        lines.join("\n--baskets: ")
    })
}

/// The settings of the job that do not depend on where it runs.
#[derive(Args, Debug)]
#[command(next_help_heading = "Job")]
pub(crate) struct JobArgs {
    /// Window sizes. They decide which bars there are, so a store keeps the ones it began with
    #[arg(
        long,
        env = "TAPEFLOW_SIZES",
        default_value = "1s,1m,5m,1h,1d",
        value_name = "SIZE,...",
        value_parser = values::sizes
    )]
    sizes: Sizes,
    /// Length of an epoch: how long a trade waits before its bars are written
    #[arg(
        long,
        env = "TAPEFLOW_EPOCH",
        default_value = "250ms",
        value_name = "DURATION",
        value_parser = values::epoch
    )]
    epoch: Duration,
    /// Bars that a worker keeps in memory beyond those it is writing; the store holds the rest
    #[arg(
        long,
        env = "TAPEFLOW_RESIDENT_BARS",
        default_value = "12000",
        value_name = "N",
        value_parser = values::count(1..=100_000_000)
    )]
    resident_bars: usize,
    #[command(flatten)]
    baskets: BasketsArg,
    /// Continue without the offsets that the log deleted before they were committed, instead of
    /// refusing to start: the bars lack their trades for good. Where the offsets were bound
    /// already, some bars and views may hold them and others not. The offsets are logged, kept as a
    /// dead letter and reported by verify. Meant for one start, so it has no environment variable
    #[arg(long)]
    accept_loss: bool,
    /// The job's name: a store belongs to one job
    #[arg(
        long,
        env = "TAPEFLOW_JOB",
        default_value = "tapeflow",
        value_name = "NAME",
        value_parser = values::job
    )]
    job: String,
}

impl JobArgs {
    /// The settings of a job of one process that has no end.
    pub(crate) fn config(self, workers: usize) -> JobConfig {
        JobConfig {
            job: self.job,
            workers,
            processes: 1,
            process: 0,
            hosts: Vec::new(),
            sizes: self.sizes,
            epoch: self.epoch,
            resident_bars: self.resident_bars,
            baskets: self.baskets.baskets.unwrap_or_default(),
            until_end: false,
            accept_loss: self.accept_loss,
        }
    }
}

/// `tapeflow init`.
#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// Partitions of the topic; counts only when the topic is created
    #[arg(
        long,
        env = "TAPEFLOW_PARTITIONS",
        default_value = "4",
        value_name = "N",
        value_parser = values::small(10_000)
    )]
    partitions: u32,
    /// Replicas of every record and every bar [default: 3, or the number of nodes if there are
    /// fewer]
    #[arg(
        long,
        env = "TAPEFLOW_REPLICATION",
        value_name = "N",
        value_parser = values::small(10_000)
    )]
    replication: Option<u32>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
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
    pub(crate) fn check(self) -> Result<InitSettings, Exit> {
        let mut errors = Errors::default();
        let kafka = self.kafka.check(&mut errors);
        let store = self.store.for_writing(None, &mut errors);
        errors.settle(|| {
            Some(InitSettings {
                kafka: kafka?,
                store: store?,
                partitions: self.partitions,
                replication: self.replication,
            })
        })
    }
}

/// `tapeflow dataflow`.
#[derive(Args, Debug)]
pub(crate) struct DataflowArgs {
    /// Worker threads of this process
    #[arg(
        long,
        env = "TAPEFLOW_WORKERS",
        default_value = "1",
        value_name = "N",
        value_parser = values::count(1..=256)
    )]
    workers: usize,
    /// Number of processes of the job
    #[arg(
        long,
        env = "TAPEFLOW_PROCESSES",
        default_value = "1",
        value_name = "N",
        value_parser = values::count(1..=256)
    )]
    processes: usize,
    /// Number of this process, from 0
    #[arg(
        long,
        env = "TAPEFLOW_PROCESS",
        default_value = "0",
        value_name = "N",
        value_parser = values::count(0..=255)
    )]
    process: usize,
    /// HOST:PORT of each process, in order, where the other processes reach it
    #[arg(
        long,
        env = "TAPEFLOW_HOSTS",
        value_name = "HOST:PORT,...",
        value_parser = values::addresses
    )]
    hosts: Option<Addresses>,
    /// Exit with code 0 when everything up to the end is committed: what the log held at the start
    #[arg(long, env = "TAPEFLOW_UNTIL_END")]
    until_end: bool,
    /// Run the job in a child process and restart it when it exits without a request: for jobs of
    /// several processes, which fail as a whole, and for process 1 of a container
    #[arg(long, env = "TAPEFLOW_SUPERVISE", conflicts_with = "until_end")]
    supervise: bool,
    /// How long to keep committing after SIGTERM or Ctrl-C while the store is slow or out of reach;
    /// then the process exits with code 1, and the next start commits the rest
    #[arg(
        long,
        env = "TAPEFLOW_END_WITHIN",
        default_value = "30s",
        value_name = "DURATION",
        value_parser = values::duration
    )]
    end_within: Duration,
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    log: LogArgs,
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
    pub(crate) fn check(self) -> Result<DataflowSettings, Exit> {
        let mut errors = Errors::default();
        let store = self.store.for_writing(self.log.log.as_deref(), &mut errors);
        let log = self.log.check(&mut errors);
        let (processes, process) = (self.processes, self.process);
        let hosts = self.hosts.unwrap_or_default();
        // Each process on one machine gets its own port.
        let port = 8_080 + u16::try_from(process).unwrap_or(0);
        let http = self.http.check(([127, 0, 0, 1], port).into(), &mut errors);
        if process >= processes {
            errors.add(format!(
                "--process: {process} is not below --processes {processes}"
            ));
        }
        if processes > 1 {
            check_processes(processes, &hosts, store.as_ref(), &mut errors);
        }
        let job = JobConfig {
            processes,
            process,
            hosts,
            until_end: self.until_end,
            ..self.job.config(self.workers)
        };
        errors.settle(|| {
            Some(DataflowSettings {
                log: log?,
                store: store?,
                job,
                supervise: self.supervise,
                end_within: self.end_within,
                http: http?,
            })
        })
    }
}

fn check_processes(
    processes: usize,
    hosts: &[String],
    store: Option<&StoreChoice>,
    errors: &mut Errors,
) {
    if hosts.len() != processes {
        let given =
            tapeflow_console::format::text::counted(hosts.len() as u64, "address", "addresses");
        errors.add(format!("--hosts: {given} for --processes {processes}"));
    }
    if matches!(
        store.map(|store| &store.address),
        Some(StoreAddress::Sqlite(_))
    ) {
        errors.add(
            "--store: several processes cannot share one sqlite: store; give \
             cassandra://HOST/KEYSPACE",
        );
    }
}
