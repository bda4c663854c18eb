//! Reads the log from given offsets up to given cuts, once.

use std::{
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use tapeflow_log::{Log, LogError, LogRecord};
use tapeflow_protocol::{Checkpoint, Cut, LostRange};
use tapeflow_schemas::{Offset, Partition};
use tokio_util::sync::CancellationToken;

use crate::error::AuditError;

/// Records read in one poll.
const RECORDS_PER_POLL: usize = 10_000;
/// How long the log may return nothing before the read fails.
const SILENCE: Duration = Duration::from_secs(60);
/// The wait between two polls that return nothing.
const POLL_PAUSE: Duration = Duration::from_millis(1);

/// The first offset to read of each partition that the job knows: the first one that the log still
/// has, and no offset that an operator has given up. A log may show such offsets again. The job
/// has not read them, but some bars may contain them.
pub(crate) fn first_offsets(
    log: &dyn Log,
    checkpoint: &Checkpoint,
) -> Result<Vec<Offset>, AuditError> {
    let cuts = &checkpoint.last_binding().cuts;
    let partitions: Vec<Partition> = (0..).zip(cuts).map(|(partition, _)| partition).collect();
    let all_bounds = log
        .bounds_of(&partitions)
        .map_err(|source| AuditError::Bounds { source })?;
    let first = |(cut, bounds): (&Cut, Range<Offset>)| {
        cut.lost
            .map_or(bounds.start, |lost| bounds.start.max(lost.to))
    };
    Ok(cuts.iter().zip(all_bounds).map(first).collect())
}

/// A position in each partition of a log.
pub(crate) struct LogCursor<'a> {
    log: &'a dyn Log,
    next: Vec<Offset>,
    /// Offsets passed, those without a record included and lost ones not.
    passed: u64,
    stop: Option<&'a CancellationToken>,
}

impl<'a> LogCursor<'a> {
    /// A cursor that begins at these offsets, one per partition.
    pub(crate) fn new(log: &'a dyn Log, from: &[Offset], stop: &'a CancellationToken) -> Self {
        Self {
            log,
            next: from.to_vec(),
            passed: 0,
            stop: Some(stop),
        }
    }

    /// From here on the cursor reads to the end although the token is cancelled.
    pub(crate) fn ignore_stop(&mut self) {
        self.stop = None;
    }

    /// Offsets passed so far, those without a record included and lost ones not.
    pub(crate) fn passed(&self) -> u64 {
        self.passed
    }

    /// Passes every record below these cuts to `each`, except lost ones, and moves on.
    pub(crate) fn read_to(
        &mut self,
        cuts: &[Cut],
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<(), AuditError> {
        if cuts.len() > self.next.len() {
            return Err(AuditError::PartitionsAdded);
        }
        let lost: Vec<Option<LostRange>> = cuts.iter().map(|cut| cut.lost).collect();
        let (next, passed) = (&mut self.next, &mut self.passed);
        let behind: Vec<(Partition, Offset)> = (0..)
            .zip(next.iter().zip(cuts))
            .filter(|(_, (next, cut))| **next < cut.next)
            .map(|(partition, (next, _))| (partition, *next))
            .collect();
        if behind.is_empty() {
            return Ok(());
        }
        let mut reader = self.log.reader(&behind).map_err(AuditError::Log)?;
        for (partition, _) in &behind {
            if let Some(lost) = lost[*partition as usize] {
                // It may be a batch that cannot be read.
                reader.leave_out(*partition, lost.from..lost.to);
            }
        }
        let mut last_record = Instant::now();
        while next.iter().zip(cuts).any(|(next, cut)| *next < cut.next) {
            if self.stop.is_some_and(CancellationToken::is_cancelled) {
                return Err(AuditError::Stopped);
            }
            let mut gaps = Vec::new();
            let read = reader.poll(RECORDS_PER_POLL, &mut |record| {
                let at = record.partition as usize;
                if record.offset > next[at] {
                    gaps.push((record.partition, next[at], record.offset));
                }
                if record.offset < cuts[at].next {
                    if lost[at].is_none_or(|lost| !lost.contains(record.offset)) {
                        each(record);
                    }
                    let after = next[at].max(record.offset + 1);
                    *passed += offsets(next[at]..after, lost[at]);
                    next[at] = after;
                }
            });
            let read = read.map_err(|error| removed_or(self.log, next, cuts, error))?;
            check_gaps(self.log, gaps)?;
            // A cut may lie behind offsets that have no record.
            reader.positions(&mut |partition, position| {
                let at = partition as usize;
                let after = next[at].max(position.min(cuts[at].next));
                *passed += offsets(next[at]..after, lost[at]);
                next[at] = after;
            });
            if read > 0 {
                last_record = Instant::now();
            } else {
                wait(last_record)?;
            }
        }
        while !reader.is_proven().map_err(AuditError::Log)? {
            wait(last_record)?;
        }
        Ok(())
    }
}

/// Waits a moment for the log.
fn wait(last_record: Instant) -> Result<(), AuditError> {
    if last_record.elapsed() > SILENCE {
        return Err(AuditError::LogSilent {
            seconds: SILENCE.as_secs(),
        });
    }
    thread::sleep(POLL_PAUSE);
    Ok(())
}

/// What a failed read means: retention may have removed the records that come next.
fn removed_or(log: &dyn Log, next: &[Offset], cuts: &[Cut], error: LogError) -> AuditError {
    for (partition, (next, cut)) in (0..).zip(next.iter().zip(cuts)) {
        if *next < cut.next
            && let Ok(bounds) = log.bounds(partition)
            && bounds.start > *next
        {
            return AuditError::RecordsRemoved {
                partition,
                from: *next,
                to: bounds.start,
            };
        }
    }
    AuditError::Log(error)
}

/// The number of offsets in a range, without the lost ones.
fn offsets(range: Range<Offset>, lost: Option<LostRange>) -> u64 {
    let count = |from: Offset, to: Offset| u64::try_from(to.saturating_sub(from)).unwrap_or(0);
    let gone = lost.map_or(0, |lost| {
        count(range.start.max(lost.from), range.end.min(lost.to))
    });
    count(range.start, range.end) - gone
}

/// Tells records that retention has just removed from offsets that never had one, such as
/// transaction markers in Kafka. The reader itself proves the latter.
fn check_gaps(log: &dyn Log, gaps: Vec<(Partition, Offset, Offset)>) -> Result<(), AuditError> {
    for (partition, from, to) in gaps {
        if log.bounds(partition).map_err(AuditError::Log)?.start > from {
            return Err(AuditError::RecordsRemoved {
                partition,
                from,
                to,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_offsets_are_not_passed() {
        let lost = Some(LostRange { from: 3, to: 6 });
        assert_eq!(offsets(0..10, None), 10);
        assert_eq!(offsets(0..10, lost), 7);
        assert_eq!(offsets(4..5, lost), 0);
        assert_eq!(offsets(6..10, lost), 4);
        assert_eq!(offsets(0..3, lost), 3);
    }
}
