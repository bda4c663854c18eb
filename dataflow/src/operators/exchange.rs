//! What travels from sources to the bar state: partial sums of a symbol, dead letters and feed gaps.

use serde::{Deserialize, Serialize};
use tapeflow_protocol::{DeadLetter, FeedGap};
use tapeflow_schemas::{Epoch, PartialRows, Symbol};
use xxhash_rust::xxh3::xxh3_64;

/// One item of the exchange between workers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ExchangeItem {
    SymbolPartials(SymbolPartials),
    /// Any worker can write a dead letter.
    DeadLetter(Box<DeadLetter>),
    /// One worker gets all copies of a gap, one from each partition, and writes it once.
    FeedGap(Box<FeedGap>),
}

/// What one source has combined for one symbol in one epoch, or a part of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SymbolPartials {
    pub(crate) symbol: Symbol,
    /// The epoch of these trades. It differs from the timely time only in the replay, where several
    /// epochs enter at one time.
    pub(crate) epoch: Epoch,
    /// Their sizes are numbered as in the job's settings.
    pub(crate) rows: PartialRows,
}

impl ExchangeItem {
    /// How many rows of bars it changes.
    pub(crate) fn rows(&self) -> u64 {
        match self {
            Self::SymbolPartials(symbol_partials) => symbol_partials.rows.len() as u64,
            Self::DeadLetter(_) | Self::FeedGap(_) => 0,
        }
    }

    /// The worker that receives the item: all bars of a symbol belong to one worker (I8).
    pub(crate) fn route(&self) -> u64 {
        match self {
            Self::SymbolPartials(symbol_partials) => route(&symbol_partials.symbol),
            Self::DeadLetter(dead_letter) => u64::from(dead_letter.partition),
            Self::FeedGap(gap) => xxh3_64(&gap.session.0),
        }
    }
}

/// The worker of a symbol, modulo the number of workers. A hash of the name, because interned ids
/// differ between workers.
pub(crate) fn route(symbol: &Symbol) -> u64 {
    xxh3_64(symbol.as_str().as_bytes())
}
