//! What became of an epoch's records.

/// How the records between two bindings were counted. `records` counts log records; the other
/// fields count trades, except that a record that is invalid or dropped as a whole counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Log records read.
    pub records: u64,
    /// Trades accepted: equal to the trades of policy `all`, summed over the windows of one size.
    pub accepted: u64,
    /// Trades or records that became dead letters.
    pub dead_letters: u64,
    /// Records dropped because their session had sent their sequence before.
    pub duplicates: u64,
    /// Entries with a size of zero: price updates, which are not trades.
    pub price_updates: u64,
    /// Sequences that a session skipped: records lost before the log.
    pub gaps: u64,
    /// Trades that arrived after at least one of their windows had closed.
    pub late: u64,
}

impl Counts {
    /// Adds the counts of another part of the log. A count stops at its largest value.
    pub fn add(&mut self, other: &Self) {
        self.records = self.records.saturating_add(other.records);
        self.accepted = self.accepted.saturating_add(other.accepted);
        self.dead_letters = self.dead_letters.saturating_add(other.dead_letters);
        self.duplicates = self.duplicates.saturating_add(other.duplicates);
        self.price_updates = self.price_updates.saturating_add(other.price_updates);
        self.gaps = self.gaps.saturating_add(other.gaps);
        self.late = self.late.saturating_add(other.late);
    }
}
