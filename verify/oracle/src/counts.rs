//! What became of the records of the log.

use std::collections::BTreeMap;

use tapeflow_schemas::{Offset, Partition};

/// Counts of records and trades. `records` and `duplicates` count records; the others count trades.
/// A record that is a dead letter as a whole counts once.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct OracleCounts {
    /// Records read.
    pub records: u64,
    /// Trades accepted.
    pub accepted: u64,
    /// Dead letters, by reason.
    pub dead_letters: BTreeMap<String, u64>,
    /// Records dropped because they repeat an earlier one.
    pub duplicates: u64,
    /// Entries with a size of zero.
    pub price_updates: u64,
    /// Sequences that sessions skipped.
    pub gaps: u64,
    /// Trades that came after at least one of their windows had closed. Right only if the partition
    /// was read from its first record, because earlier trades decide what has closed.
    pub late: u64,
}

impl OracleCounts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.accepted += other.accepted;
        for (reason, count) in &other.dead_letters {
            *self.dead_letters.entry(reason.clone()).or_default() += count;
        }
        self.duplicates += other.duplicates;
        self.price_updates += other.price_updates;
        self.gaps += other.gaps;
        self.late += other.late;
    }

    /// Dead letters of all reasons.
    #[must_use]
    pub fn dead_letters_total(&self) -> u64 {
        self.dead_letters.values().sum()
    }
}

/// A dead letter: a record or a trade that cannot be counted. Its position identifies it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OracleDeadLetter {
    /// The partition of the record.
    pub partition: Partition,
    /// The offset of the record.
    pub offset: Offset,
    /// The index of the trade in its record; 0 for a whole record.
    pub index: u32,
    /// The reason, one word.
    pub reason: String,
}
