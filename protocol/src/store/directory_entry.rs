//! An entry of the directory of bars.

use tapeflow_schemas::{BarKey, Symbol, window::bucket};

/// States that a symbol has bars in a bucket. Writing it again changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryEntry {
    /// The symbol.
    pub symbol: Symbol,
    /// The start of the bucket in ms since 1970 ([`bucket`]).
    pub bucket: i64,
}

impl DirectoryEntry {
    /// The entry that leads to a bar.
    #[must_use]
    pub fn of(key: &BarKey) -> Self {
        Self {
            symbol: key.symbol.clone(),
            bucket: bucket(key.start),
        }
    }
}
