//! Opens the log that a command names.

use std::{path::Path, sync::Arc};

use tapeflow_log::{
    Log,
    kafka::KafkaLog,
    sqlite::{Access, SqliteLog},
};
use tapeflow_protocol::Checkpoint;

use crate::{
    args::log::LogChoice,
    exit::{Exit, unreachable_log, unreachable_store},
    stores,
};

/// The log that a job reads.
pub(crate) fn of_job(choice: LogChoice, job: &str) -> Result<Arc<dyn Log>, Exit> {
    match choice {
        LogChoice::Sqlite(path) => sqlite(&path),
        LogChoice::Kafka(mut config) | LogChoice::Beside(_, mut config) => {
            // Kafka's tools show the lag of this group. Each job has its own.
            job.clone_into(&mut config.group);
            let log = KafkaLog::connect(config).map_err(|error| unreachable_log(&error))?;
            for finding in log.findings() {
                tracing::warn!("{finding}");
            }
            Ok(Arc::new(log))
        }
    }
}

fn sqlite(path: &Path) -> Result<Arc<dyn Log>, Exit> {
    let database = stores::sqlite(path, Access::Reader)?;
    let name = database.describe();
    Ok(Arc::new(
        SqliteLog::open(&database).map_err(|error| unreachable_store(&name, &error))?,
    ))
}

/// The log that the bars of a store come from. Another log is refused: its offsets mean nothing for
/// this store. `store` is its name.
pub(crate) fn of_checkpoint(
    choice: LogChoice,
    checkpoint: &Checkpoint,
    store: &str,
) -> Result<Arc<dyn Log>, Exit> {
    let kafka = |config| KafkaLog::connect(config).map_err(|error| unreachable_log(&error));
    let log: Arc<dyn Log> = match choice {
        LogChoice::Kafka(config) => Arc::new(kafka(config)?),
        LogChoice::Beside(path, config) => match beside(&path, checkpoint) {
            Some(log) => log,
            None => Arc::new(kafka(config)?),
        },
        LogChoice::Sqlite(path) => sqlite(&path)?,
    };
    let given = log.identity().map_err(|error| unreachable_log(&error))?;
    if checkpoint.source.is_still(&given) {
        return Ok(log);
    }
    let (found, log) = (&checkpoint.source, log.describe());
    let id = |id: &Option<String>| {
        id.as_deref()
            .map(|id| format!(" with id {id}"))
            .unwrap_or_default()
    };
    Err(Exit::Input(format!(
        "the bars of {store} do not come from the log {log}: they come from topic {}{} of cluster \
         {}, and this is topic {}{} of cluster {}; name the log that the job has read with --log, or \
         with --brokers and --topic",
        found.topic,
        id(&found.topic_id),
        found.cluster,
        given.topic,
        id(&given.topic_id),
        given.cluster
    )))
}

/// The log in the bars' own file, if the bars come from it.
pub(crate) fn beside(path: &Path, checkpoint: &Checkpoint) -> Option<Arc<dyn Log>> {
    let database = stores::sqlite(path, Access::Reader).ok()?;
    let log = SqliteLog::open(&database).ok()?;
    checkpoint
        .source
        .is_still(log.identity())
        .then(|| Arc::new(log) as Arc<dyn Log>)
}
