//! What `tapeflow run` leaves to the next run when it was asked to end: records of the log that are
//! not committed, and a part of the simulated history. Neither is lost, and both are said on
//! standard output.

use std::time::Duration;

use tapeflow_console::format::text::counted;
use tapeflow_log::sqlite::SqliteLog;
use tapeflow_protocol::{Store, StoreError};

use crate::exit::{Exit, say, store_failed};

/// How long a job that was asked to end goes on reading a log that is ahead of it. Commonly it has
/// read everything by then. A history of many thousand records takes longer, and who has asked for
/// an end does not wait for it.
pub(crate) const CATCH_UP: Duration = Duration::from_secs(1);

/// Says what is left to do.
pub(crate) async fn say_what_is_left(
    log: &SqliteLog,
    store: &dyn Store,
    is_history_cut: bool,
) -> Result<(), Exit> {
    let left = uncommitted(log, store)
        .await
        .map_err(|error| store_failed(&error))?;
    if is_history_cut {
        say("the simulated history is incomplete: the run ended within it; the next run goes on")?;
    }
    match left {
        0 => Ok(()),
        left => say(&format!(
            "{} in the log not committed yet; the next run goes on there",
            counted(left, "record is", "records are")
        )),
    }
}

/// Records of the log that are not committed.
async fn uncommitted(log: &SqliteLog, store: &dyn Store) -> Result<u64, StoreError> {
    let checkpoint = store.checkpoint().await?;
    let mut left = 0;
    for partition in 0..log.partitions() {
        let kept = log.bounds(partition)?;
        let committed = checkpoint
            .as_ref()
            .zip(usize::try_from(partition).ok())
            .and_then(|(checkpoint, at)| checkpoint.committed.cuts.get(at))
            .map_or(kept.start, |cut| cut.next);
        left += u64::try_from(kept.end - committed).unwrap_or(0);
    }
    Ok(left)
}
