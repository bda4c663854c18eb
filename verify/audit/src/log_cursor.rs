//! Reads the log from given offsets up to given cuts, once.

use std::{
    thread,
    time::{Duration, Instant},
};

use tapeflow_log::{Log, LogRecord};
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
    let first = |(partition, cut): (Partition, &Cut)| {
        let bounds = log
            .bounds(partition)
            .map_err(|source| AuditError::Bounds { partition, source })?;
        Ok(cut
            .lost
            .map_or(bounds.start, |lost| bounds.start.max(lost.to)))
    };
    let cuts = &checkpoint.last_binding().cuts;
    (0..).zip(cuts).map(first).collect()
}

/// A position in each partition of a log.
pub(crate) struct LogCursor<'a> {
    log: &'a dyn Log,
    next: Vec<Offset>,
    stop: Option<&'a CancellationToken>,
}

impl<'a> LogCursor<'a> {
    /// A cursor that begins at these offsets, one per partition.
    pub(crate) fn new(log: &'a dyn Log, from: &[Offset], stop: &'a CancellationToken) -> Self {
        Self {
            log,
            next: from.to_vec(),
            stop: Some(stop),
        }
    }

    /// From here on the cursor reads to the end although the token is cancelled.
    pub(crate) fn ignore_stop(&mut self) {
        self.stop = None;
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
        let next = &mut self.next;
        let behind: Vec<(Partition, Offset)> = (0..)
            .zip(next.iter().zip(cuts))
            .filter(|(_, (next, cut))| **next < cut.next)
            .map(|(partition, (next, _))| (partition, *next))
            .collect();
        if behind.is_empty() {
            return Ok(());
        }
        let mut reader = self.log.reader(&behind).map_err(AuditError::Log)?;
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
                    next[at] = next[at].max(record.offset + 1);
                }
            });
            let read = read.map_err(AuditError::Log)?;
            check_gaps(self.log, gaps)?;
            if read > 0 {
                last_record = Instant::now();
            } else if last_record.elapsed() > SILENCE {
                return Err(AuditError::LogSilent {
                    seconds: SILENCE.as_secs(),
                });
            } else {
                thread::sleep(POLL_PAUSE);
            }
        }
        Ok(())
    }
}

/// Tells two kinds of missing offsets apart. A transaction marker in Kafka has an offset and no
/// record; that is harmless. A record that retention has just removed is not.
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
