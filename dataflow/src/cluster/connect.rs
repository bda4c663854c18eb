//! Connects the workers of a job: threads of this process with each other, and with the workers of
//! the other processes.

use std::{sync::Arc, time::Duration};

use tapeflow_protocol::{JobStore, decide::Opening};
use timely::{
    CommunicationConfig,
    communication::{
        Hooks,
        allocator::{
            AllocatorBuilder, ProcessBuilder,
            zero_copy::initialize::{CommsGuard, initialize_networking_from_sockets},
        },
    },
};

use tokio::runtime::Handle;

use crate::{
    cluster::{
        fence,
        handshake::{self, ClusterConfig, ClusterError},
        heartbeat::{self, LostPeer},
        liveness::Liveness,
    },
    config::JobConfig,
    failure::JobError,
    shutdown::{Stop, StopRequest},
};

/// How long the processes of a job wait for each other at the start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// The workers' channels, and the guard that keeps the connections to other processes open.
pub(crate) struct Connections {
    pub(crate) builders: Vec<AllocatorBuilder>,
    pub(crate) guard: Option<CommsGuard>,
}

/// What the connections need of a process.
pub(crate) struct Process<'a> {
    pub(crate) liveness: &'a Liveness,
    pub(crate) stop: &'a Stop,
    pub(crate) store: &'a Arc<dyn JobStore>,
    pub(crate) runtime: &'a Handle,
}

/// Connects the workers; `None` if a stop was requested meanwhile.
pub(crate) fn connect_workers(
    config: &JobConfig,
    opening: &Opening,
    process: &Process<'_>,
) -> Result<Option<Connections>, JobError> {
    if config.processes == 1 {
        let (builders, _) = CommunicationConfig::Process(config.workers)
            .try_build()
            .map_err(JobError::Failed)?;
        return Ok(Some(Connections {
            builders,
            guard: None,
        }));
    }
    exit_on_panic(process.liveness.clone());
    let settings = ClusterConfig {
        job: config.job.clone(),
        settings: common_settings(config, opening),
        process: config.process,
        hosts: config.hosts.clone(),
        nonce: opening.owner.clone(),
        secret: config.secret.clone(),
        timeout: CONNECT_TIMEOUT,
    };
    let cluster = handshake::connect(&settings, || process.stop.requested() != StopRequest::None)
        .map_err(to_job)?;
    let Some(cluster) = cluster else {
        return Ok(None);
    };
    tracing::info!(
        processes = config.processes,
        encrypted = config.secret.is_some(),
        "all processes are connected"
    );
    let (liveness, store, runtime) = (
        process.liveness.clone(),
        Arc::clone(process.store),
        process.runtime.clone(),
    );
    let on_lost = move |lost: LostPeer| {
        let LostPeer::SaysFenced(_) = lost else {
            exit(&lost.to_string(), 1)
        };
        liveness.set_asking();
        // Without an answer the process is about to end, with the code of its own reason.
        if let Some((code, why)) = fence::ask(&store, &runtime, &cluster.nonce) {
            exit(&format!("{lost}; {why}"), code)
        }
    };
    let broken =
        |error: std::io::Error| JobError::Failed(format!("cannot set up the cluster: {error}"));
    heartbeat::start(cluster.heartbeat, process.liveness.clone(), on_lost).map_err(broken)?;
    let hooks = Hooks::default();
    let within =
        ProcessBuilder::new_typed_vector(config.workers, hooks.refill.clone(), hooks.spill.clone());
    let (builders, guard) = initialize_networking_from_sockets(
        within,
        cluster.data,
        config.process,
        config.workers,
        hooks,
    )
    .map_err(broken)?;
    Ok(Some(Connections {
        builders: builders.into_iter().map(AllocatorBuilder::Tcp).collect(),
        guard: Some(guard),
    }))
}

/// What all processes must agree on: every setting that changes what a process reads, keeps or
/// writes.
fn common_settings(config: &JobConfig, opening: &Opening) -> String {
    let source = &opening.source;
    let id = source.topic_id.as_deref().unwrap_or("none");
    let losses = if config.accept_loss {
        "accepted"
    } else {
        "refused"
    };
    let skipped: String = config
        .skip_batches
        .iter()
        .map(|(partition, offset)| format!(", without the batch at {partition}:{offset}"))
        .collect();
    format!(
        "{} workers, {} resident bars, losses {losses}{skipped}, topic {} (id {id}) of cluster {}; {}",
        config.workers,
        config.resident_bars,
        source.topic,
        source.cluster,
        config.short_fingerprint()
    )
}

fn to_job(error: ClusterError) -> JobError {
    match error {
        // A restart with the same settings does not help.
        ClusterError::Refused { .. } => JobError::Refused(format!(
            "{error}; start all processes with the same settings"
        )),
        ClusterError::Restarted { .. }
        | ClusterError::Listen { .. }
        | ClusterError::Timeout { .. }
        | ClusterError::Broken(_) => JobError::Failed(error.to_string()),
    }
}

/// Ends the process at once. Only durable state counts, and a supervisor restarts all processes.
fn exit(reason: &str, code: u8) -> ! {
    tracing::error!(
        reason,
        "process exits because the job runs as a whole; restart all processes of the job"
    );
    std::process::exit(code.into());
}

/// Ends the process when any of its threads panics. Timely does not tolerate the failure of a
/// worker: a process that survives a panic would block the others forever.
fn exit_on_panic(liveness: Liveness) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // Timely's network threads panic when a connection breaks. That is not an error of this
        // process.
        if std::thread::current()
            .name()
            .is_some_and(|name| name.starts_with("timely:send") || name.starts_with("timely:recv"))
        {
            // The heartbeat may know the reason, for example a fence. Let it exit first.
            std::thread::sleep(2 * heartbeat::INTERVAL);
            if liveness.is_asking() {
                std::thread::sleep(2 * fence::ANSWER_WITHIN);
            }
            exit("a connection to another process broke", 1);
        }
        before(info);
        std::process::abort();
    }));
}
