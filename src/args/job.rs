//! The job's settings, and the commands that run it on servers: `dataflow`, and `init` before it.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use tapeflow_console::HttpSettings;
use tapeflow_dataflow::{JobConfig, Limits, MIN_SECRET_CHARS, RESIDENT_BAR_BYTES};
use tapeflow_log::kafka::KafkaConfig;
use tapeflow_schemas::{Baskets, Horizons, Secret, view::MOST_RANKED};

use super::{
    end::EndArgs,
    errors::Errors,
    http::HttpArgs,
    log::{KafkaArgs, LogArgs, LogChoice},
    store::{StoreAddress, StoreArgs, StoreChoice},
    values::{self, Addresses, Keep, Sizes},
};
use crate::{exit::Exit, secret};

/// The user's baskets.
#[derive(Args, Debug)]
pub(crate) struct BasketsArg {
    /// File of baskets, lines of basket,symbol,weight with or without that heading. The members of
    /// a basket have one quote currency. They decide what a view holds, so a store keeps the ones it
    /// began with
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
    /// Window sizes. They decide which bars there are, so a store keeps the ones it began with. The
    /// size session is a trading session: pre, regular or post of stocks, else the UTC day
    #[arg(
        long,
        env = "TAPEFLOW_SIZES",
        default_value = "1s,1m,5m,1h,1d",
        value_name = "SIZE,...",
        value_parser = values::job_sizes
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
    /// Memory of a process for bars beyond those it is writing; the store holds the rest. The bars
    /// of all open windows should fit: 64MiB is enough for 20,000 symbols and five sizes
    #[arg(
        long,
        env = "TAPEFLOW_BAR_MEMORY",
        default_value = "64MiB",
        value_name = "SIZE",
        value_parser = values::size
    )]
    bar_memory: u64,
    /// How late a trade may be for the bars of a size, by the watermark of its partition: 1s=7d
    /// lets bars of a second go after a week, and later trades are in the longer bars alone. A
    /// store keeps the ones it began with [default: 7d for sizes below a minute, none for others]
    #[arg(long, env = "TAPEFLOW_HORIZON", value_name = "SIZE=TIME,...|none")]
    horizon: Option<Horizons>,
    #[command(flatten)]
    baskets: BasketsArg,
    /// Continue without the offsets that the log deleted before they were committed, instead of
    /// refusing to start: the bars lack their trades for good. Where the offsets were bound
    /// already, some bars and views may hold them and others not. The offsets are logged, kept as a
    /// dead letter and reported by verify. Meant for one start, so it has no environment variable
    #[arg(long)]
    accept_loss: bool,
    /// How long the store keeps the history of epochs: with it `verify` audits bars whose first
    /// records the log no longer has. Give at least the retention of the log, or forever
    #[arg(
        long,
        env = "TAPEFLOW_KEEP_HISTORY",
        default_value = "7d",
        value_name = "DURATION",
        value_parser = values::keep
    )]
    pub(super) keep_history: Keep,
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
    pub(crate) fn config(self, workers: usize, errors: &mut Errors) -> JobConfig {
        let horizons = self
            .horizon
            .unwrap_or_else(|| Horizons::of_sizes(&self.sizes));
        for error in horizons.check(&self.sizes).err().into_iter().flatten() {
            errors.add(format!("--horizon: {error}"));
        }
        JobConfig {
            horizons,
            job: self.job,
            workers,
            processes: 1,
            process: 0,
            hosts: Vec::new(),
            secret: None,
            sizes: self.sizes,
            epoch: self.epoch,
            resident_bars: resident_bars(self.bar_memory, workers),
            most_ranked: MOST_RANKED,
            baskets: self.baskets.baskets.unwrap_or_default(),
            until_end: false,
            accept_loss: self.accept_loss,
            skip_batches: Vec::new(),
            limits: Limits::default(),
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
    /// File with the secret that the processes of the job prove to each other, at least 32
    /// characters: the same for all. Their connections are encrypted with it. Without it all
    /// processes must be on this machine, at loopback addresses
    #[arg(long, env = "TAPEFLOW_CLUSTER_SECRET_FILE", value_name = "FILE")]
    cluster_secret_file: Option<PathBuf>,
    /// Exit with code 0 when everything up to the end is committed: what the log held at the start
    #[arg(long, env = "TAPEFLOW_UNTIL_END")]
    until_end: bool,
    /// Run the job in a child process and restart it when it exits without a request: for jobs of
    /// several processes, which fail as a whole, and for process 1 of a container
    #[arg(long, env = "TAPEFLOW_SUPERVISE")]
    supervise: bool,
    #[command(flatten)]
    end: EndArgs,
    /// Leave out the batch of records that begins at this place, if it cannot be read: its trades
    /// are missing from the bars for good, and its offsets are reported as lost. An error names the
    /// place. One batch of a partition in one start; no environment variable
    #[arg(
        long = "skip-batch",
        value_name = "PARTITION:OFFSET",
        value_parser = values::batch,
        action = clap::ArgAction::Append
    )]
    skip_batches: Vec<values::Batch>,
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
    pub(crate) keep_history: Keep,
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
        let secret = self
            .cluster_secret_file
            .as_deref()
            .and_then(|file| errors.keep("--cluster-secret-file", cluster_secret(file)));
        if self.supervise && self.until_end {
            errors.add("--supervise: cannot be used with --until-end");
        }
        let partitions = self.skip_batches.iter().map(|(partition, _)| partition);
        if partitions.collect::<BTreeSet<_>>().len() < self.skip_batches.len() {
            errors.add("--skip-batch: one batch of a partition in one start");
        }
        if processes > 1 {
            check_processes(processes, &hosts, store.as_ref(), &mut errors);
            if self.cluster_secret_file.is_none() {
                check_loopback(&hosts, &mut errors);
            }
        }
        let keep_history = self.job.keep_history;
        let config = self.job.config(self.workers, &mut errors);
        let job = JobConfig {
            processes,
            process,
            hosts,
            secret,
            until_end: self.until_end,
            skip_batches: self.skip_batches,
            ..config
        };
        errors.settle(|| {
            Some(DataflowSettings {
                log: log?,
                store: store?,
                job,
                keep_history,
                supervise: self.supervise,
                end_within: self.end.end_within,
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

/// The bars that fit into the memory of one of a process's workers; one at least.
fn resident_bars(bar_memory: u64, workers: usize) -> usize {
    let bar = RESIDENT_BAR_BYTES.saturating_mul(workers.max(1)) as u64;
    usize::try_from(bar_memory / bar)
        .unwrap_or(usize::MAX)
        .max(1)
}

/// Reads the secret of the cluster. One that can be guessed is refused: who connects to a process
/// can try guesses on what it shows, as fast as a machine can.
fn cluster_secret(file: &Path) -> Result<Secret, String> {
    let secret = secret::read(file)?;
    if secret.expose().chars().count() < MIN_SECRET_CHARS {
        return Err(format!(
            "{} has fewer than {MIN_SECRET_CHARS} characters; make one with openssl rand -hex 32",
            file.display()
        ));
    }
    Ok(secret)
}

/// Without a secret, no other machine may reach the processes of the job.
fn check_loopback(hosts: &[String], errors: &mut Errors) {
    let open: Vec<&str> = hosts
        .iter()
        .filter(|host| !is_loopback(host))
        .map(String::as_str)
        .collect();
    if !open.is_empty() {
        errors.add(format!(
            "--cluster-secret-file: missing, and other machines may reach {} of --hosts; give all \
             processes one secret, or loopback addresses",
            open.join(", ")
        ));
    }
}

fn is_loopback(address: &str) -> bool {
    let host = address
        .rsplit_once(':')
        .map_or(address, |(host, _port)| host)
        .trim_matches(['[', ']']);
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_secret_only_loopback_is_allowed() {
        let refused = |hosts: &[&str]| {
            let mut errors = Errors::default();
            let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
            check_loopback(&hosts, &mut errors);
            errors
                .settle(|| Some(()))
                .err()
                .map(|exit| exit.to_string())
                .unwrap_or_default()
        };
        assert_eq!(
            refused(&["127.0.0.1:1", "localhost:2", "[::1]:3", "127.1.2.3:4"]),
            ""
        );
        for host in [
            "10.0.0.1:1",
            "0.0.0.0:1",
            "[::]:1",
            "job-0.job:2101",
            "127.0.0.1.example.com:1",
            "localhost.example.com:1",
        ] {
            let text = refused(&["127.0.0.1:1", host]);
            assert!(
                text.contains("--cluster-secret-file") && text.contains(host),
                "{host}: {text}"
            );
        }
    }

    #[test]
    fn a_short_secret_is_refused_and_not_repeated() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("secret");
        std::fs::write(&file, "hunter2\n").expect("written");
        let error = cluster_secret(&file).expect_err("refused");
        assert!(
            error.contains("fewer than 32") && !error.contains("hunter2"),
            "{error}"
        );
        std::fs::write(&file, "0123456789abcdef0123456789abcdef\n").expect("written");
        assert!(cluster_secret(&file).is_ok());
    }
}
