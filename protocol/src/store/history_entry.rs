//! An entry of the history of epochs.

use tapeflow_schemas::{Epoch, Offset, WriteTimestamp};

use super::Counts;

/// One committed epoch. An audit uses it to know which prefix of the log an epoch names.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HistoryEntry {
    /// The epoch.
    pub epoch: Epoch,
    /// Its write timestamp.
    pub write_timestamp: WriteTimestamp,
    /// The offset at which it ends, by partition.
    pub cuts: Vec<Offset>,
    /// How its records were counted.
    pub counts: Counts,
}

impl HistoryEntry {
    /// Whether this entry agrees with `before`, an earlier form of the same entry. A topic may
    /// have gained partitions since; the cuts of the earlier partitions must be equal.
    #[must_use]
    pub fn is_still(&self, before: &Self) -> bool {
        let cuts = before.cuts.len().min(self.cuts.len());
        (before.epoch, before.write_timestamp, before.counts)
            == (self.epoch, self.write_timestamp, self.counts)
            && before.cuts[..cuts] == self.cuts[..cuts]
    }
}
