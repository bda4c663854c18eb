//! Bars and views, as the dataflow uses them: it reads those that it adds to, and writes whole
//! epochs.

use async_trait::async_trait;
use tapeflow_schemas::{BarKey, BarRow, ViewKey, ViewState};

use super::{EpochWrites, StoreError, SymbolDirectory};

/// Where a job reads bars back and writes its epochs.
///
/// What holds for every store:
/// * Of two writes to a bar or a view, the one with the greater write timestamp wins, in whatever
///   order they arrive. Equal write timestamps have equal content, so a repeat changes nothing.
/// * Directory entries, dead letters and feed gaps are identified by their keys: a repeat changes
///   nothing.
/// * When [`EpochStore::write`] returns `Ok`, a quorum has everything in it.
#[async_trait]
pub trait EpochStore: SymbolDirectory {
    /// Reads rows of bars at quorum, in the order of the keys, whose sizes are not packed
    /// ([`BarKey::row`]); `None` where there is no row.
    async fn read_bars(&self, keys: &[BarKey]) -> Result<Vec<Option<BarRow>>, StoreError>;

    /// Reads views at quorum, in the order of the keys; `None` where there is no view.
    async fn read_views(&self, keys: &[ViewKey]) -> Result<Vec<Option<ViewState>>, StoreError>;

    /// Writes at quorum: first the directory entries, then everything else. After an error the
    /// caller may repeat all of it.
    async fn write(&self, writes: &EpochWrites) -> Result<(), StoreError>;
}
