//! What came in and what became of it, in numbers.

use std::collections::BTreeMap;

use crate::admission::Reason;

/// Counts since the start of a run. Every entry of every trade frame is a trade, a price update or
/// a reject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames taken in.
    pub frames: u64,
    /// Pings among them.
    pub pings: u64,
    /// Errors the provider sent.
    pub provider_errors: u64,
    /// Trades admitted.
    pub trades: u64,
    /// Entries of size zero: price updates, no trades.
    pub price_updates: u64,
    /// Trades whose price or size had more than eight places and was rounded.
    pub rounded: u64,
    /// Frames and entries refused, by reason.
    pub dead_letters: BTreeMap<Reason, u64>,
    /// Sale conditions that the table does not know, by code, in admitted trades.
    pub unknown_conditions: BTreeMap<u8, u64>,
    /// Records handed to the log.
    pub records: u64,
    /// Records the log held already, from an earlier run over the same recording.
    pub records_resumed: u64,
}

impl Counts {
    /// Frames and entries refused, for any reason.
    #[must_use]
    pub fn dead_letters(&self) -> u64 {
        self.dead_letters.values().sum()
    }
}
