//! Counts of what a run took in, and of what became of it.

use std::collections::BTreeMap;

use crate::admission::Reason;

/// Counts since the start of a run. Every entry of every trade frame is a trade, a price update or
/// an invalid frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All frames taken in.
    pub frames: u64,
    /// Frames that are pings.
    pub pings: u64,
    /// Frames that are errors of the provider.
    pub provider_errors: u64,
    /// Admitted trades.
    pub trades: u64,
    /// Entries of size zero: price updates, not trades.
    pub price_updates: u64,
    /// Admitted trades whose price or size had more than eight decimal places and was rounded.
    pub rounded: u64,
    /// Frames and entries that failed admission, by reason.
    pub invalid: BTreeMap<Reason, u64>,
    /// Sale conditions of admitted trades that the table does not know, by code.
    pub unknown_conditions: BTreeMap<u8, u64>,
    /// Records passed to the log.
    pub records: u64,
    /// Records skipped because the log holds them from an earlier run of the same session.
    pub records_resumed: u64,
}

impl Counts {
    /// Whether all records so far were in the log already.
    #[must_use]
    pub fn adds_nothing(&self) -> bool {
        self.records == 0 && self.records_resumed > 0
    }

    /// Frames and entries that failed admission, for any reason.
    #[must_use]
    pub fn invalid_frames(&self) -> u64 {
        self.invalid.values().sum()
    }
}
