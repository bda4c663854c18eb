//! Removes what the embedded log need not keep: committed records of a certain age.

use std::{sync::Arc, time::Duration};

use tapeflow_dataflow::clock::{Clock, SystemClock};
use tapeflow_log::sqlite::{Age, SqliteLog};
use tapeflow_protocol::{Store, StoreError};

/// How often the log is looked at. An audit reads the oldest records first, so it is past them
/// before the next ones are removed.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The pause between two removals, in which appends and commits get their turn.
const PAUSE: Duration = Duration::from_millis(20);

/// Removes records that are older than `keep`, again and again.
pub(crate) async fn trim_regularly(log: SqliteLog, store: Arc<dyn Store>, keep: Duration) {
    loop {
        match trim(&log, &*store, keep).await {
            Ok(0) => {}
            Ok(removed) => tracing::debug!(removed, "old records removed from the embedded log"),
            Err(error) => tracing::warn!(
                %error,
                "old records cannot be removed from the embedded log; trying again in a minute"
            ),
        }
        tokio::time::sleep(LOOK_EVERY.min(keep)).await;
    }
}

async fn trim(log: &SqliteLog, store: &dyn Store, keep: Duration) -> Result<u64, StoreError> {
    let Some(checkpoint) = store.checkpoint().await? else {
        return Ok(0);
    };
    let committed: Vec<_> = checkpoint
        .committed
        .cuts
        .iter()
        .map(|cut| cut.next)
        .collect();
    let now_ms = SystemClock.wall_us() / 1_000;
    let keep_ms = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    let age = Age {
        before_ms: now_ms.saturating_sub(keep_ms),
        now_ms,
    };
    let mut all = 0;
    loop {
        let (removed, more) = log.trim(committed.clone(), age).await?;
        all += removed;
        if !more {
            return Ok(all);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
