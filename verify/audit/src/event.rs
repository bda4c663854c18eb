//! What a running audit or repair reports to its caller.

use crate::{
    coverage::HistoryDifference,
    findings::{Difference, Place},
};

/// Progress of an audit or a repair.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A pass over the log and the store begins. `pass` counts from 1 to `of`.
    PassStarted {
        /// The number of this pass.
        pass: u64,
        /// The number of passes.
        of: u64,
    },
    /// The job's own counts differ from those of the recomputation.
    HistoryDiffers(&'a HistoryDifference),
    /// A bar or a view differs. [`crate::Findings`] keeps the place and the action, not the
    /// description: a damaged store may have millions of differences.
    Difference {
        /// Where, and what can be done about it.
        difference: &'a Difference,
        /// The place, its label and the values that differ, on one line.
        description: &'a str,
    },
    /// A repair will write a place. Nothing is written before all places are reported.
    RepairReady {
        /// The bar or view.
        place: &'a Place,
        /// The stored content: `nothing`, `unreadable` or the values.
        before: &'a str,
        /// The content that is written.
        after: &'a str,
    },
    /// A repair leaves a place as it is.
    RepairRefused {
        /// The bar.
        place: &'a Place,
        /// Why.
        reason: &'a str,
    },
}

/// The caller's function that receives events. To end an audit early, it cancels the token of
/// [`crate::Audit`].
pub type Observer<'a> = dyn FnMut(Event<'_>) + 'a;
