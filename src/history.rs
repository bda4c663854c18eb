//! What the log of `tapeflow run` holds when the simulated feed begins, and so whether a simulated
//! history may be appended to it. Older trades than those in the log would come too late for their
//! bars.

use tapeflow_ingest::simulator::{HISTORY_SESSION, HeldHistory};
use tapeflow_log::sqlite::SqliteLog;
use tapeflow_protocol::StoreError;
use tapeflow_schemas::{Offset, Partition, codec};
use tokio::runtime::Runtime;

use crate::args::feed::History;

/// The history that the simulated market begins with on this log.
pub(crate) fn of(log: &SqliteLog, runtime: &Runtime) -> Result<History, StoreError> {
    let last = runtime.block_on(log.last_sequences(HISTORY_SESSION))?;
    let (mut first_ms, mut last_ms) = (None::<i64>, None::<i64>);
    for (partition, last) in (0..log.partitions()).zip(last) {
        let kept = log.bounds(partition)?;
        // One record of a session for each sequence, and offsets from 0 without gaps.
        if u64::try_from(kept.end) != Ok(last) {
            return Ok(History::Skip);
        }
        if kept.is_empty() {
            continue;
        }
        let first = event_times(log, partition, kept.start)?;
        let last = event_times(log, partition, kept.end - 1)?;
        first_ms = first.into_iter().chain(first_ms).min();
        last_ms = last.into_iter().chain(last_ms).max();
    }
    let held = first_ms
        .zip(last_ms)
        .map(|(first_ms, last_ms)| HeldHistory { first_ms, last_ms });
    Ok(History::Append(held))
}

/// The event times of the trades in one record, in milliseconds since 1970 UTC.
fn event_times(
    log: &SqliteLog,
    partition: Partition,
    offset: Offset,
) -> Result<Vec<i64>, StoreError> {
    let mut times = Vec::new();
    let mut entries = Vec::new();
    log.reader(&[(partition, offset)])?.poll(1, &mut |record| {
        let decoded = codec::decode(record.payload.unwrap_or_default(), &mut entries);
        // A record that cannot be decoded is a dead letter and has no time.
        if decoded.is_ok() {
            let trades = entries.iter().filter_map(|entry| entry.trade.ok());
            times.extend(trades.map(|trade| trade.event_time.ms()));
        }
    })?;
    Ok(times)
}
