//! Bars, views and records beside them, as readers use them.

use std::ops::Range;

use async_trait::async_trait;
use tapeflow_schemas::{AssetClass, StoredBar, StoredView, Symbol, View, WindowSize, WindowStart};

use super::{DeadLetter, FeedGap, HistoryEntry, StoreError};

/// The directory of symbols, which a job and its readers share.
#[async_trait]
pub trait SymbolDirectory: Send + Sync + 'static {
    /// All symbols that have bars, ascending.
    async fn symbols(&self) -> Result<Vec<(Symbol, AssetClass)>, StoreError>;
}

/// What commands, the live page and tests read.
#[async_trait]
pub trait BarReader: SymbolDirectory {
    /// A symbol's bars of a size with starts in the half-open range, ascending.
    async fn bars(
        &self,
        symbol: &Symbol,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<StoredBar>, StoreError>;

    /// The windows of a view of a size with starts in the half-open range, ascending.
    async fn views(
        &self,
        view: View,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<StoredView>, StoreError>;

    /// The times in which trades may be missing, as far as they concern a half-open range of time in
    /// milliseconds since 1970 UTC, ascending ([`super::feed_gap::settle`]).
    async fn feed_gaps(&self, range: Range<i64>) -> Result<Vec<FeedGap>, StoreError>;

    /// The newest history entries, at most `limit`, newest first.
    async fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>, StoreError>;

    /// Dead letters by position, at most `limit`.
    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError>;
}
