//! An entry of the directory of bars.

use tapeflow_schemas::{Symbol, WindowSize};

/// States that a symbol has bars of a size in a bucket. Writing it again changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryEntry {
    /// The symbol.
    pub symbol: Symbol,
    /// The window size.
    pub size: WindowSize,
    /// The start of the bucket in ms since 1970 ([`WindowSize::bucket`]).
    pub bucket: i64,
}
