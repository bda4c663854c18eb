//! Bars and views with what is wrong beside them, as `tapeflow verify` uses them.

use std::{collections::BTreeMap, ops::Range};

use async_trait::async_trait;
use tapeflow_schemas::{BarState, Epoch, Symbol, View, ViewState, WindowSize, WindowStart};

use super::{FeedGap, StoreError};
use crate::audit::{Audited, Unlisted};

/// What an audit compares beyond the values of bars and views.
#[async_trait]
pub trait AuditStore: Send + Sync + 'static {
    /// A symbol's bars, as [`super::BarReader::bars`] reads them, each with the display columns
    /// that differ from its cell.
    async fn audit_bars(
        &self,
        symbol: &Symbol,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Result<Vec<Audited<BarState>>, StoreError>;

    /// The windows of a view, as [`super::BarReader::views`] reads them, each with the display
    /// columns that differ from its cell; and entries without a cell. `committed` is the last
    /// committed epoch, read before this call: entries of later epochs may not all be written yet.
    async fn audit_views(
        &self,
        view: View,
        size: WindowSize,
        range: Range<WindowStart>,
        committed: Epoch,
    ) -> Result<Vec<Audited<ViewState>>, StoreError>;

    /// The feed gaps as they are stored, not settled ([`super::feed_gap::settle`]), each with the
    /// number of its buckets ([`FeedGap::buckets`]) in which it was found: readers of a bucket do
    /// not see a gap that is only in others. [`usize::MAX`] in a store that keeps each gap in one
    /// row.
    async fn audit_feed_gaps(&self) -> Result<BTreeMap<FeedGap, usize>, StoreError>;

    /// Bars that the directory does not list, so that [`super::BarReader::bars`] does not find
    /// them. A job writes the directory entry before the bar, so a healthy store has none.
    async fn unlisted(&self) -> Result<Vec<Unlisted>, StoreError>;
}
