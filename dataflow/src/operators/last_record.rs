//! Whether the log is still the one that the bindings were made from.
//!
//! A log that was rolled back, for example by a power cut or by a copy put back in place, ends
//! early, and a start notices that. When it has grown again beyond the last binding, its end says
//! nothing. So each cut names its last record by a hash ([`LastRecord`]), and a start reads that
//! record again. The same record at the same offset means the same log up to there: whatever was
//! rolled back before it would have taken it along.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use tapeflow_log::{Log, LogError, LogRecord};
use tapeflow_protocol::{Cut, LastRecord};
use tapeflow_schemas::{Offset, Partition};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::failure::JobError;

/// How long all records together may take to arrive.
const PATIENCE: Duration = Duration::from_secs(30);
/// The wait between two polls that return nothing.
const POLL_PAUSE: Duration = Duration::from_millis(1);
/// Records of one poll. What lies behind the record, such as a batch that cannot be read, is not
/// asked for.
const RECORDS_PER_POLL: usize = 1;

/// What a cut after this record names.
pub(crate) fn identify(record: LogRecord<'_>) -> LastRecord {
    LastRecord {
        offset: record.offset,
        hash: xxh3_64_with_seed(
            record.payload.unwrap_or_default(),
            record.timestamp_ms.cast_unsigned(),
        ),
    }
}

/// Compares the last record of each cut with the record at its offset. `bounds` has what the log
/// holds of each partition; a record that retention has removed cannot be compared.
///
/// # Errors
/// [`JobError::Refused`] if a record is another one or missing; [`JobError::Log`] if the log does
/// not answer.
pub(crate) fn compare<'a>(
    log: &dyn Log,
    cuts: impl Iterator<Item = (Partition, &'a Cut, &'a Range<Offset>)>,
) -> Result<(), JobError> {
    let mut expected: Vec<(Partition, LastRecord)> = cuts
        .filter_map(|(partition, cut, bounds)| Some((partition, cut.last?, bounds)))
        .filter(|(_, last, bounds)| bounds.contains(&last.offset))
        .map(|(partition, last, _)| (partition, last))
        .collect();
    if expected.is_empty() {
        return Ok(());
    }
    let from: Vec<(Partition, Offset)> = expected
        .iter()
        .map(|(partition, last)| (*partition, last.offset))
        .collect();
    let mut reader = log.reader(&from)?;
    let begun = Instant::now();
    while !expected.is_empty() {
        let mut found: Vec<(Partition, LastRecord)> = Vec::new();
        let read = reader.poll(RECORDS_PER_POLL, &mut |record| {
            // Of each partition the first record at the offset or after it. A client may return
            // earlier ones.
            if found
                .iter()
                .all(|(partition, _)| *partition != record.partition)
                && expected.iter().any(|(partition, last)| {
                    *partition == record.partition && record.offset >= last.offset
                })
            {
                found.push((record.partition, identify(record)));
            }
        })?;
        for (partition, found) in found {
            let Some(at) = expected.iter().position(|(known, _)| *known == partition) else {
                continue;
            };
            let (_, last) = expected.swap_remove(at);
            if found != last {
                return Err(another(partition, last, found));
            }
            reader.set_paused(partition, true)?;
        }
        if begun.elapsed() > PATIENCE && !expected.is_empty() {
            return Err(LogError::Unavailable(format!(
                "partition {}: the record at offset {} does not arrive within {} s",
                expected[0].0,
                expected[0].1.offset,
                PATIENCE.as_secs()
            ))
            .into());
        }
        if read == 0 {
            std::thread::sleep(POLL_PAUSE);
        }
    }
    Ok(())
}

fn another(partition: Partition, last: LastRecord, found: LastRecord) -> JobError {
    let what = if found.offset == last.offset {
        "is not the one that the job has read"
    } else {
        "that the job has read is not there"
    };
    JobError::Refused(format!(
        "partition {partition}: the record at offset {} {what}: the log was rolled back and has \
         grown again, or is another log; its bars may contain trades that are gone, so rebuild \
         into a new store with --store",
        last.offset
    ))
}
