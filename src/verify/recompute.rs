//! Feeds the recomputation from the log.

use std::{
    thread,
    time::{Duration, Instant},
};

use tapeflow_dataflow::{Log, LogFault};
use tapeflow_oracle::Oracle;
use tapeflow_schemas::{Offset, WindowSize};
use tapeflow_sinks::Head;

use super::compare::COMMITTED;
use crate::end::{End, unreachable_log};

/// Records read in one go.
const RECORDS_PER_POLL: usize = 10_000;
/// How long the log may stay silent before a read is given up.
const SILENCE: Duration = Duration::from_secs(60);

/// The first offset that the log still has, of each partition that the job knows.
pub(super) fn starts(log: &dyn Log, head: &Head) -> Result<Vec<Offset>, End> {
    let partitions = (0u32..).zip(&head.last_binding().cuts).map(|(partition, _)| partition);
    partitions.map(|partition| log.bounds(partition).map(|bounds| bounds.start).map_err(|fault| unreachable_log(&fault))).collect()
}

/// Folds every record from these offsets up to the last binding.
pub(super) fn from(log: &dyn Log, head: &Head, sizes: &[WindowSize], from: &[Offset]) -> Result<Oracle, End> {
    let failed = |fault: LogFault| End::Failed(fault.to_string());
    let cuts = &head.last_binding().cuts;
    let mut oracle = Oracle::new(sizes.to_vec(), u32::try_from(cuts.len()).map_err(|fault| End::Failed(fault.to_string()))?);
    let mut next = from.to_vec();
    let read: Vec<_> = (0u32..).zip(from.iter().zip(cuts)).filter(|(_, (from, cut))| **from < cut.next).map(|(at, (from, _))| (at, *from)).collect();
    let mut reader = log.reader(&read).map_err(failed)?;
    let mut heard = Instant::now();
    while next.iter().zip(cuts).any(|(next, cut)| *next < cut.next) {
        let read = reader.poll(RECORDS_PER_POLL, &mut |record| {
            let at = record.partition as usize;
            if record.offset < cuts[at].next {
                let epoch = if record.offset < head.committed.cuts[at].next {
                    COMMITTED
                } else {
                    head.bound.iter().find(|binding| record.offset < binding.cuts[at].next).map_or(COMMITTED, |binding| binding.epoch)
                };
                oracle.record(epoch, record.partition, record.offset, record.timestamp_ms, record.payload);
            }
            next[at] = next[at].max(record.offset + 1);
        });
        if read.map_err(failed)? > 0 {
            heard = Instant::now();
        } else if heard.elapsed() > SILENCE {
            return Err(End::Failed(format!("the log has handed over nothing for {} s, before its bound end was reached", SILENCE.as_secs())));
        } else {
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(oracle)
}
