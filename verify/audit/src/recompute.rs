//! What `verify` recomputes: every selected bar and view, from the records of the log.
//!
//! The rules of the recomputation are in `verify/oracle`. This file decides which epoch each record
//! belongs to:
//!
//! ```text
//!  offsets ─▶ first ........ committed ..... bound 1 ..... bound 2
//!             └─ COMMITTED ─┘└─ epoch c+1 ──┘└─ epoch c+2 ─┘
//! ```
//!
//! All epochs that are committed when the audit begins are one: a bar with any of their labels must
//! equal the recomputation of all of them. Later epochs are kept apart.

use std::collections::BTreeMap;

use tapeflow_log::Log;
use tapeflow_oracle::Oracle;
use tapeflow_protocol::{Checkpoint, Cut, HistoryEntry};
use tapeflow_schemas::{Epoch, Offset, Partition};
use tokio_util::sync::CancellationToken;

use crate::{
    coverage::same_counts, error::AuditError, log_cursor::LogCursor, rules::Rules,
    selection::Selection,
};

/// The oracle's number for all epochs that were committed before the store was read.
pub(crate) const COMMITTED: Epoch = 0;

/// The epoch, in the oracle's numbers, that a label must be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AsOf {
    Epoch(Epoch),
    /// The epoch or its end is not known, or not known yet.
    Unknown,
}

/// The selected bars and views, recomputed from the records read so far.
pub(crate) struct Recomputation<'a> {
    pub(crate) oracle: Oracle,
    cursor: LogCursor<'a>,
    /// The last epoch that belongs to [`COMMITTED`].
    pub(crate) committed: Epoch,
    /// The epochs above [`Recomputation::committed`], ascending, with the offsets where they end.
    later: Vec<(Epoch, Vec<Offset>)>,
    /// The last epoch up to which history and the recomputation have the same counts.
    pub(crate) confirmed: Epoch,
}

impl<'a> Recomputation<'a> {
    pub(crate) fn new(
        log: &'a dyn Log,
        rules: &Rules,
        from: &[Offset],
        selection: Selection,
        stop: &'a CancellationToken,
    ) -> Self {
        let oracle = Oracle::new(rules.sizes.clone(), partitions(from))
            .with_horizons(rules.horizons.iter())
            .keeping(move |symbol, size, start| {
                selection.has_window(size, start) && selection.has_symbol(symbol)
            });
        Self {
            oracle,
            cursor: LogCursor::new(log, from, stop),
            committed: 0,
            later: Vec::new(),
            confirmed: 0,
        }
    }

    /// Reads everything that a checkpoint has committed, as one epoch.
    pub(crate) fn read_committed(&mut self, checkpoint: &Checkpoint) -> Result<(), AuditError> {
        let oracle = &mut self.oracle;
        self.cursor
            .read_to(&checkpoint.committed.cuts, &mut |record| {
                oracle.record(
                    COMMITTED,
                    record.partition,
                    record.offset,
                    record.timestamp_ms,
                    record.payload,
                );
            })?;
        self.committed = checkpoint.committed.epoch;
        self.confirmed = checkpoint.committed.epoch;
        Ok(())
    }

    /// Offsets passed so far ([`LogCursor::passed`]).
    pub(crate) fn passed(&self) -> u64 {
        self.cursor.passed()
    }

    /// From here on the recomputation does not stop early, so that the findings are reported.
    pub(crate) fn ignore_stop(&mut self) {
        self.cursor.ignore_stop();
    }

    /// Reads what a later checkpoint has committed and bound, epoch by epoch. `history`, in any
    /// order, has the ends of epochs that the checkpoint no longer names.
    pub(crate) fn read_bound(
        &mut self,
        checkpoint: &Checkpoint,
        history: &[HistoryEntry],
    ) -> Result<(), AuditError> {
        let known = self.last_bound();
        let later = epoch_ends(checkpoint, history);
        self.later
            .extend(later.into_iter().filter(|(epoch, _)| *epoch > known));
        let (oracle, later) = (&mut self.oracle, &self.later);
        let epoch_of = |partition: Partition, offset: Offset| {
            let contains = |ends: &[Offset]| {
                ends.get(partition as usize)
                    .is_some_and(|end| offset < *end)
            };
            later
                .iter()
                .find(|(_, ends)| contains(ends))
                .map_or(Epoch::MAX, |(epoch, _)| *epoch)
        };
        self.cursor
            .read_to(&checkpoint.last_binding().cuts, &mut |record| {
                oracle.record(
                    epoch_of(record.partition, record.offset),
                    record.partition,
                    record.offset,
                    record.timestamp_ms,
                    record.payload,
                );
            })?;
        self.confirm(checkpoint.committed.epoch, history);
        Ok(())
    }

    /// Moves [`Recomputation::confirmed`] forward as far as history has the same counts.
    fn confirm(&mut self, committed: Epoch, history: &[HistoryEntry]) {
        let entries: BTreeMap<Epoch, &HistoryEntry> =
            history.iter().map(|entry| (entry.epoch, entry)).collect();
        while let Some(entry) = entries
            .get(&(self.confirmed + 1))
            .filter(|entry| entry.epoch <= committed)
            .filter(|entry| same_counts(&self.oracle.counts_of(entry.epoch), &entry.counts))
        {
            self.confirmed = entry.epoch;
        }
    }

    /// The epoch that a bar or view with this label must be compared with.
    pub(crate) fn as_of(&self, label: Epoch) -> AsOf {
        if label <= self.committed {
            AsOf::Epoch(COMMITTED)
        } else if self.later.iter().any(|(epoch, _)| *epoch == label) {
            AsOf::Epoch(label)
        } else {
            AsOf::Unknown
        }
    }

    /// The last epoch that is known to be bound.
    pub(crate) fn last_bound(&self) -> Epoch {
        self.later
            .last()
            .map_or(self.committed, |(epoch, _)| *epoch)
    }
}

/// The number of partitions, given an offset for each.
pub(crate) fn partitions(offsets: &[Offset]) -> u32 {
    u32::try_from(offsets.len()).expect("partitions are numbered with 32 bits")
}

/// Where epochs end: committed ones by history, and those that the checkpoint names.
fn epoch_ends(checkpoint: &Checkpoint, history: &[HistoryEntry]) -> BTreeMap<Epoch, Vec<Offset>> {
    let offsets = |cuts: &[Cut]| cuts.iter().map(|cut| cut.next).collect::<Vec<_>>();
    let mut ends: BTreeMap<Epoch, Vec<Offset>> = history
        .iter()
        .filter(|entry| entry.epoch <= checkpoint.committed.epoch)
        .map(|entry| (entry.epoch, entry.cuts.clone()))
        .collect();
    ends.extend(
        std::iter::once(&checkpoint.committed)
            .chain(&checkpoint.bound)
            .map(|binding| (binding.epoch, offsets(&binding.cuts))),
    );
    ends
}
