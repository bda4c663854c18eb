//! Feeds the recomputation from the log: first all that is committed, as one; then what the job
//! binds while its bars are read, epoch by epoch.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use tapeflow_log::{Log, LogError, LogRecord};
use tapeflow_oracle::Oracle;
use tapeflow_protocol::{Checkpoint, Cut, HistoryEntry, LostRange};
use tapeflow_schemas::{Epoch, Offset, WindowSize};

use super::selection::Selection;
use crate::exit::{Exit, unreachable_log};

/// What the recomputation calls all epochs together that were committed when the bars were begun to
/// be read.
pub(super) const COMMITTED: Epoch = 0;
/// Records read in one go.
const RECORDS_PER_POLL: usize = 10_000;
/// How long the log may stay silent before a read is given up.
const SILENCE: Duration = Duration::from_secs(60);

/// The first offset that can be judged, of each partition that the job knows: the first that the
/// log still has, and none that an operator has given up. Where a log shows those again, the job
/// has not read them, and some bars may hold them all the same.
pub(super) fn starts(log: &dyn Log, checkpoint: &Checkpoint) -> Result<Vec<Offset>, Exit> {
    let partitions = (0u32..).zip(&checkpoint.last_binding().cuts);
    let start = |(partition, cut): (u32, &Cut)| {
        let bounds = log
            .bounds(partition)
            .map_err(|error| unreachable_log(&error))?;
        Ok(cut
            .lost
            .map_or(bounds.start, |lost| bounds.start.max(lost.to)))
    };
    partitions.map(start).collect()
}

/// A place in the log.
pub(super) struct Feed<'a> {
    log: &'a dyn Log,
    next: Vec<Offset>,
    asked: Option<&'a AtomicBool>,
}

impl<'a> Feed<'a> {
    /// Reads from these offsets on. `asked`: that a person wants it to end.
    pub(super) fn new(log: &'a dyn Log, from: &[Offset], asked: &'a AtomicBool) -> Self {
        Self {
            log,
            next: from.to_vec(),
            asked: Some(asked),
        }
    }

    /// Hands over every record up to these cuts.
    pub(super) fn to(
        &mut self,
        cuts: &[Cut],
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<(), Exit> {
        let failed = |error: LogError| Exit::Failed(error.to_string());
        if cuts.len() > self.next.len() {
            return Err(Exit::Failed(
                "the log has gained partitions meanwhile: run verify again".into(),
            ));
        }
        let lost: Vec<Option<LostRange>> = cuts.iter().map(|cut| cut.lost).collect();
        let next = &mut self.next;
        let behind = (0u32..)
            .zip(next.iter().zip(cuts))
            .filter(|(_, (next, cut))| **next < cut.next);
        let behind: Vec<_> = behind
            .map(|(partition, (next, _))| (partition, *next))
            .collect();
        if behind.is_empty() {
            return Ok(());
        }
        let mut reader = self.log.reader(&behind).map_err(failed)?;
        let mut heard = Instant::now();
        while next.iter().zip(cuts).any(|(next, cut)| *next < cut.next) {
            if self
                .asked
                .is_some_and(|asked| asked.load(Ordering::Acquire))
            {
                return Err(Exit::Failed("asked to end".into()));
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
            let read = read.map_err(failed)?;
            // An offset may have no record, as a transaction's marker has none; or retention has
            // just removed it.
            for (partition, expected, found) in gaps {
                if self.log.bounds(partition).map_err(failed)?.start > expected {
                    return Err(Exit::Failed(format!(
                        "offsets {expected} to {} of partition {partition} were removed from the log while it was read: run verify again",
                        found - 1
                    )));
                }
            }
            if read > 0 {
                heard = Instant::now();
            } else if heard.elapsed() > SILENCE {
                return Err(Exit::Failed(format!(
                    "the log has handed over nothing for {} s, before its bound end was reached",
                    SILENCE.as_secs()
                )));
            } else {
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }
}

/// What a label asks to be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AsOf {
    /// The recomputation as of this epoch, in its own numbers.
    Epoch(Epoch),
    /// Nothing yet: the epoch is beyond all that is known, or its end is.
    Unknown,
}

/// The bars in scope, recomputed so far.
pub(super) struct Recomputation<'a> {
    pub(super) oracle: Oracle,
    feed: Feed<'a>,
    /// The last epoch that is one with those before it.
    pub(super) base: Epoch,
    /// The epochs above, ascending, and where each ends.
    above: Vec<(Epoch, Vec<Offset>)>,
    /// Up to which epoch history says of the records what the recomputation says.
    pub(super) confirmed: Epoch,
}

impl<'a> Recomputation<'a> {
    pub(super) fn new(
        log: &'a dyn Log,
        sizes: &[WindowSize],
        from: &[Offset],
        selection: Selection,
        asked: &'a AtomicBool,
    ) -> Result<Self, Exit> {
        let partitions =
            u32::try_from(from.len()).map_err(|error| Exit::Failed(error.to_string()))?;
        let oracle = Oracle::new(sizes.to_vec(), partitions).keeping(move |symbol, size, start| {
            selection.window(size, start) && selection.symbol(symbol)
        });
        Ok(Self {
            oracle,
            feed: Feed::new(log, from, asked),
            base: 0,
            above: Vec::new(),
            confirmed: 0,
        })
    }

    /// Folds all that a checkpoint has committed, as one.
    pub(super) fn settle(&mut self, checkpoint: &Checkpoint) -> Result<(), Exit> {
        let oracle = &mut self.oracle;
        self.feed.to(&checkpoint.committed.cuts, &mut |record| {
            oracle.record(
                COMMITTED,
                record.partition,
                record.offset,
                record.timestamp_ms,
                record.payload,
            );
        })?;
        (self.base, self.confirmed) = (checkpoint.committed.epoch, checkpoint.committed.epoch);
        Ok(())
    }

    /// From here on a request to end is not heard: what has been found must be told.
    pub(super) fn finish_whatever_is_asked(&mut self) {
        self.feed.asked = None;
    }

    /// Folds what a later checkpoint has committed and bound since, epoch by epoch; history, in any
    /// order, says where those ended that the checkpoint no longer names.
    pub(super) fn follow(
        &mut self,
        checkpoint: &Checkpoint,
        history: &[HistoryEntry],
    ) -> Result<(), Exit> {
        let known = self.above.last().map_or(self.base, |(epoch, _)| *epoch);
        let offsets = |cuts: &[Cut]| cuts.iter().map(|cut| cut.next).collect::<Vec<_>>();
        let committed = history
            .iter()
            .filter(|entry| entry.epoch <= checkpoint.committed.epoch);
        let mut ends: BTreeMap<Epoch, Vec<Offset>> = committed
            .map(|entry| (entry.epoch, entry.cuts.clone()))
            .collect();
        ends.extend(
            std::iter::once(&checkpoint.committed)
                .chain(&checkpoint.bound)
                .map(|binding| (binding.epoch, offsets(&binding.cuts))),
        );
        self.above
            .extend(ends.into_iter().filter(|(epoch, _)| *epoch > known));
        let (oracle, above) = (&mut self.oracle, &self.above);
        self.feed
            .to(&checkpoint.last_binding().cuts, &mut |record| {
                let within = |cuts: &[Offset]| {
                    cuts.get(record.partition as usize)
                        .is_some_and(|cut| record.offset < *cut)
                };
                // It lies below the last one's cut.
                let epoch = above
                    .iter()
                    .find(|(_, cuts)| within(cuts))
                    .map_or(Epoch::MAX, |(epoch, _)| *epoch);
                oracle.record(
                    epoch,
                    record.partition,
                    record.offset,
                    record.timestamp_ms,
                    record.payload,
                );
            })?;
        let told: BTreeMap<Epoch, &HistoryEntry> =
            history.iter().map(|entry| (entry.epoch, entry)).collect();
        while let Some(entry) = told
            .get(&(self.confirmed + 1))
            .filter(|entry| entry.epoch <= checkpoint.committed.epoch)
        {
            if !super::coverage::same(&self.oracle.counts_of(entry.epoch), &entry.counts) {
                break;
            }
            self.confirmed = entry.epoch;
        }
        Ok(())
    }

    /// What a bar or a list with this label must equal.
    pub(super) fn as_of(&self, label: Epoch) -> AsOf {
        if label <= self.base {
            AsOf::Epoch(COMMITTED)
        } else if self.above.iter().any(|(epoch, _)| *epoch == label) {
            AsOf::Epoch(label)
        } else {
            AsOf::Unknown
        }
    }

    /// The last epoch that is known to be bound.
    pub(super) fn last(&self) -> Epoch {
        self.above.last().map_or(self.base, |(epoch, _)| *epoch)
    }
}
