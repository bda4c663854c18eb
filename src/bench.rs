//! `tapeflow bench`: creates a topic and a keyspace, or files, of its own, measures the job on them
//! (the crate `bench/throughput`), prints the result, and removes them again.

use std::{
    ffi::OsString,
    fs,
    io::{Write, stderr, stdin},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tapeflow_feed::{Clock, Feed};
use tapeflow_log::kafka::admin as kafka;
use tapeflow_sinks::cassandra;
use tapeflow_throughput::{
    Error,
    backlog::{self, Plan},
    check, preload, rate,
    report::{self, Report},
    target::{Program, Target},
};
use tokio::runtime::Runtime;

use crate::{
    args::bench::{BenchSettings, PREFIX},
    exit::{Exit, say, unreachable_brokers, unreachable_store},
    signals, stores,
};

/// The name of the bench's jobs: a keyspace of another job is not the bench's to use.
const JOB: &str = "tapeflow-bench";
/// Replicas of bars, if there are enough nodes.
const REPLICATION: u32 = 3;
/// The smallest window that freshness is measured by, in milliseconds. A job of smaller windows
/// alone uses its largest.
const FRESHNESS_SIZE_MS: i64 = 60_000;
/// What can be done without brokers.
const INSTEAD: &str = ", or measure without servers: --embedded";

impl From<Error> for Exit {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(reason) => Self::Input(reason),
            error => Self::Failed(error.to_string()),
        }
    }
}

pub(crate) fn run(settings: BenchSettings) -> Result<(), Exit> {
    let runtime = crate::small_runtime()?;
    let asked = Arc::new(AtomicBool::new(false));
    let requested = Arc::clone(&asked);
    signals::on_end(runtime.handle(), move || {
        requested.store(true, Ordering::Release)
    });
    let place = Place::make(&settings, &runtime)?;
    let measured = measure(&settings, &place, &runtime, &asked);
    if settings.keep {
        note(&format!("kept: {}", place.describe()));
    } else if let Err(error) = place.remove(&runtime, measured.is_ok()) {
        note(&format!("not removed: {error}; {}", place.describe()));
    }
    let report = measured?;
    if !settings.json {
        say(report.table().trim_end())?;
    }
    say(&report.json().to_string())?;
    if report.checked.correct {
        Ok(())
    } else {
        Err(Exit::Failed(
            "the bars are not what the feed calls for".into(),
        ))
    }
}

/// Prints a line that is not part of the result.
fn note(text: &str) {
    let _ = writeln!(stderr(), "tapeflow bench: {text}");
}

fn measure(
    settings: &BenchSettings,
    place: &Place,
    runtime: &Runtime,
    asked: &AtomicBool,
) -> Result<Report, Exit> {
    let program = place.program(settings)?;
    let sizes = settings
        .sizes
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",");
    let epoch = format!("{}ms", settings.epoch.as_millis());
    let flags = ["--job", JOB, "--sizes", &sizes, "--epoch", &epoch];
    let plan = Plan {
        shape: settings.shape,
        partitions: place.partitions,
        processes: settings.processes,
        workers: settings.workers,
        settings: flags.map(OsString::from).to_vec(),
        logs: place.folder.clone(),
    };
    let load_before = report::load();
    let (written, preload, spent, sustained) = match settings.rate {
        Some(rate) => {
            let longer = settings
                .sizes
                .iter()
                .find(|size| size.ms() >= FRESHNESS_SIZE_MS);
            let size = longer
                .or(settings.sizes.last())
                .ok_or_else(|| Exit::Input("--sizes: none".into()))?;
            let (spent, written, sustained) = rate::sustain(
                &program,
                &place.target,
                &plan,
                rate,
                *size,
                runtime.handle(),
                asked,
            )?;
            (written, None, spent, Some(sustained))
        }
        None => {
            let (written, preload) = if place.is_full {
                // The topic holds this feed already; only its counts are needed.
                let mut feed = Feed::new(plan.shape, Clock::Tape, plan.partitions)
                    .map_err(tapeflow_throughput::Error::from)?;
                while feed
                    .next(0)
                    .map_err(tapeflow_throughput::Error::from)?
                    .is_some()
                {}
                (feed.written(), None)
            } else {
                let mut log =
                    place
                        .target
                        .appender(plan.partitions, preload::LINGER, runtime.handle())?;
                let (written, took) =
                    preload::preload(&mut log, plan.shape, plan.partitions, asked)?;
                (written, Some(took))
            };
            (
                written,
                preload,
                backlog::backlog(&program, &place.target, &plan, runtime.handle(), asked)?,
                None,
            )
        }
    };
    if settings.ask_before_check {
        note("the bars are written; waiting for a line on standard input before the check");
        stdin()
            .read_line(&mut String::new())
            .map_err(|error| Exit::Failed(error.to_string()))?;
    }
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        optimized: !cfg!(debug_assertions),
        target: place.target.name(),
        partitions: plan.partitions,
        sizes,
        symbols: plan.shape.symbols,
        seed: plan.shape.seed,
        per_message: plan.shape.per_message,
        processes: plan.processes,
        workers: plan.workers,
        written,
        preload,
        spent,
        sustained,
        checked: check::check(&program, &place.target, written, runtime.handle())?,
        load_before,
    })
}

/// Where the job is measured, and what of that the bench created.
struct Place {
    target: Target,
    partitions: u32,
    /// The job's log files, and the files of an embedded place.
    folder: PathBuf,
    /// The topic existed and holds the feed: it is not removed.
    is_full: bool,
}

impl Place {
    fn make(settings: &BenchSettings, runtime: &Runtime) -> Result<Self, Exit> {
        let name = format!("{PREFIX}{}", tapeflow_throughput::tag());
        let folder = std::env::temp_dir().join(&name);
        fs::create_dir_all(&folder)
            .map_err(|error| Exit::Input(format!("cannot create {}: {error}", folder.display())))?;
        let made = if settings.embedded {
            let target = Target::Embedded {
                log: folder.join("log.db"),
                bars: folder.join("rows.db"),
            };
            Ok(Self {
                target,
                partitions: settings.partitions,
                folder: folder.clone(),
                is_full: false,
            })
        } else {
            Self::on_servers(settings, &name, folder.clone(), runtime)
        };
        if made.is_err() {
            let _ = fs::remove_dir_all(&folder);
        }
        made
    }

    fn on_servers(
        settings: &BenchSettings,
        name: &str,
        folder: PathBuf,
        runtime: &Runtime,
    ) -> Result<Self, Exit> {
        let mut config = settings.kafka.clone();
        if config.topic.is_empty() {
            name.clone_into(&mut config.topic);
        }
        let there =
            kafka::partitions(&config).map_err(|error| unreachable_brokers(&error, INSTEAD))?;
        let partitions = there.unwrap_or(settings.partitions);
        if there.is_some() {
            Target::must_hold(&config, settings.shape, partitions)?;
        }
        let store = stores::cassandra(&settings.nodes, name, &settings.login, JOB)?;
        runtime.block_on(async {
            let refused = |error| unreachable_store(&store.address(), &error);
            let replicas = cassandra::nodes(&store)
                .await
                .map_err(refused)?
                .min(REPLICATION);
            if !cassandra::init(&store, replicas)
                .await
                .map_err(refused)?
                .created
            {
                return Err(Exit::Input(format!(
                    "keyspace {name} exists already: the bench uses only keyspaces that it creates"
                )));
            }
            if there.is_none() {
                kafka::make_topic(&config, partitions, None)
                    .await
                    .map_err(|error| unreachable_brokers(&error, INSTEAD))?;
                // Waits until every broker knows the topic.
                kafka::findings(config.clone())
                    .await
                    .map_err(|error| unreachable_brokers(&error, INSTEAD))?;
            }
            Ok(())
        })?;
        Ok(Self {
            target: Target::Servers {
                topic: config,
                store: Box::new(store),
            },
            partitions,
            folder,
            is_full: there.is_some(),
        })
    }

    /// This binary, with the flags of this place.
    fn program(&self, settings: &BenchSettings) -> Result<Program, Exit> {
        let executable = std::env::current_exe()
            .map_err(|error| Exit::Failed(format!("cannot find this program: {error}")))?;
        let file = |path: &PathBuf| {
            let mut address = OsString::from("sqlite:");
            address.push(path);
            address
        };
        let place = match &self.target {
            Target::Embedded { log, bars } => {
                vec!["--log".into(), file(log), "--store".into(), file(bars)]
            }
            Target::Servers { topic, store } => {
                let flags = [
                    "--brokers",
                    &topic.brokers,
                    "--topic",
                    &topic.topic,
                    "--store",
                    &store.address(),
                ];
                let mut flags: Vec<OsString> = flags.map(OsString::from).to_vec();
                flags.extend(settings.kafka_config_file.iter().flat_map(|file| {
                    ["--kafka-config-file".into(), file.clone().into_os_string()]
                }));
                flags.extend(settings.login_flags.iter().cloned());
                flags
            }
        };
        Ok(Program {
            executable,
            place,
            inherits: &["TAPEFLOW_CASSANDRA_PASSWORD"],
        })
    }

    fn describe(&self) -> String {
        match &self.target {
            Target::Embedded { log, bars } => format!(
                "log sqlite:{}, bars sqlite:{}",
                log.display(),
                bars.display()
            ),
            Target::Servers { topic, store } => format!(
                "topic {}, bars {}, logs {}",
                topic.topic,
                store.address(),
                self.folder.display()
            ),
        }
    }

    /// Deletes what the bench created. The job's log files of a failed run are kept.
    fn remove(&self, runtime: &Runtime, is_well: bool) -> Result<(), Exit> {
        if let Target::Servers { topic, store } = &self.target {
            runtime
                .block_on(cassandra::drop_keyspace(store))
                .map_err(|error| Exit::Failed(error.to_string()))?;
            if !self.is_full {
                runtime
                    .block_on(kafka::delete_topic(topic))
                    .map_err(|error| Exit::Failed(error.to_string()))?;
            }
        }
        if is_well || matches!(self.target, Target::Embedded { .. }) {
            fs::remove_dir_all(&self.folder)
                .map_err(|error| Exit::Failed(format!("{}: {error}", self.folder.display())))
        } else {
            note(&format!("the job's logs are in {}", self.folder.display()));
            Ok(())
        }
    }
}
