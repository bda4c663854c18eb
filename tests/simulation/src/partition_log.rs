//! One partition of the simulated log. It has offsets without a record, retention removes its
//! beginning, and a rollback its end.
//!
//! A removed record stays known to the simulation: the job may have read it before, and bind it
//! later.

use std::ops::Range;

use tapeflow_schemas::Offset;

/// A record of the log.
#[derive(Clone, Debug)]
pub(crate) struct Appended {
    /// The log's own timestamp.
    pub(crate) timestamp_ms: i64,
    pub(crate) payload: Vec<u8>,
    /// The same record of its session without trades; `None` if it is no record of a session.
    pub(crate) emptied: Option<Vec<u8>>,
    /// Whether it repeats the record before it.
    pub(crate) repeats: bool,
}

/// A partition.
#[derive(Clone, Default)]
pub(crate) struct PartitionLog {
    /// By offset; `None` where there is no record.
    records: Vec<Option<Appended>>,
    start: Offset,
}

impl PartitionLog {
    /// The offsets that are kept.
    pub(crate) fn bounds(&self) -> Range<Offset> {
        self.start..Offset::try_from(self.records.len()).expect("few")
    }

    /// The record that was appended at an offset, also if it has been removed.
    pub(crate) fn record(&self, offset: Offset) -> Option<&Appended> {
        self.records.get(usize::try_from(offset).ok()?)?.as_ref()
    }

    pub(crate) fn append(&mut self, record: Appended) {
        self.records.push(Some(record));
    }

    /// Appends an offset without a record, such as the marker of a transaction.
    pub(crate) fn append_hole(&mut self) {
        self.records.push(None);
    }

    /// Retention removes offsets up to about this one. It never parts a record from its repeats:
    /// whether those would count depends on how much of the epoch is gone.
    pub(crate) fn remove_below(&mut self, offset: Offset) {
        let repeats = |offset: Offset| {
            (offset..self.bounds().end)
                .find_map(|next| self.record(next))
                .is_some_and(|record| record.repeats)
        };
        let mut start = offset.max(self.start);
        while start < self.bounds().end && repeats(start) {
            start += 1;
        }
        self.start = start;
    }

    /// A rollback removes the offsets from this one on. They are assigned again.
    pub(crate) fn truncate(&mut self, end: Offset) {
        self.records
            .truncate(usize::try_from(end).expect("an offset"));
    }
}
