//! One epoch's writes.

use tapeflow_schemas::{BarWrite, ViewWrite};

use super::{DeadLetter, DirectoryEntry, FeedGap};

/// Everything that one epoch writes before it is committed.
#[derive(Clone, Debug, Default)]
pub struct EpochWrites {
    /// Directory entries. A quorum has them before any bar is sent, so every bar is listed.
    pub directory: Vec<DirectoryEntry>,
    /// The bars.
    pub bars: Vec<BarWrite>,
    /// The views.
    pub views: Vec<ViewWrite>,
    /// The dead letters.
    pub dead_letters: Vec<DeadLetter>,
    /// Times in which trades may be missing.
    pub feed_gaps: Vec<FeedGap>,
}

impl EpochWrites {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.directory.is_empty()
            && self.bars.is_empty()
            && self.views.is_empty()
            && self.dead_letters.is_empty()
            && self.feed_gaps.is_empty()
    }
}
