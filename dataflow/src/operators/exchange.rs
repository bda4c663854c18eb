//! What travels from sources to the keepers of bars: partial totals of a symbol, and dead letters.

use serde::{Deserialize, Serialize};
use tapeflow_protocol::DeadLetter;
use tapeflow_schemas::{Epoch, Symbol, Totals, WindowStart};
use xxhash_rust::xxh3::xxh3_64;

/// One item of the exchange between workers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Item {
    /// Partials of one symbol.
    SymbolPartials(SymbolPartials),
    /// A dead letter: any worker can write it.
    DeadLetter(Box<DeadLetter>),
}

/// What one source has combined for one symbol in one epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SymbolPartials {
    pub(crate) symbol: Symbol,
    pub(crate) partials: Vec<Partial>,
}

/// The combined trades of one window.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Partial {
    /// The epoch these trades belong to; while replaying, several enter at one time.
    pub(crate) epoch: Epoch,
    /// Index into the job's sizes.
    pub(crate) size: u8,
    pub(crate) start: WindowStart,
    pub(crate) totals: Totals,
}

impl Item {
    /// Decides the worker: a symbol's bars live on one worker only (I8). By a hash of the name, for
    /// ids mean nothing elsewhere.
    pub(crate) fn route(&self) -> u64 {
        match self {
            Self::SymbolPartials(parcel) => route(&parcel.symbol),
            Self::DeadLetter(dead_letter) => u64::from(dead_letter.partition),
        }
    }
}

/// A symbol's worker, before the remainder by the number of workers.
pub(crate) fn route(symbol: &Symbol) -> u64 {
    xxh3_64(symbol.as_str().as_bytes())
}
