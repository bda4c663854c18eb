//! What the store has acknowledged: the queues from the sink back to the operators that own bars and
//! views, and the epoch up to which everything is acknowledged.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use tapeflow_schemas::{BarKey, Epoch, ViewKey};
use timely::dataflow::ProbeHandle;

/// Acknowledged writes on their way from the sink to the bar state and the view state of the same
/// worker. A feedback edge of timely would make epochs wait for each other's writes.
pub(crate) type Acknowledged = Rc<RefCell<AcknowledgedWrites>>;

/// What has been written, without its content.
#[derive(Default)]
pub(crate) struct AcknowledgedWrites {
    /// Bars, each with its epoch.
    pub(crate) bars: VecDeque<(BarKey, Epoch)>,
    pub(crate) views: VecDeque<ViewKey>,
}

/// The last epoch of which everything is acknowledged on all workers. The probe follows the sink,
/// whose frontier stays at the first epoch with an unacknowledged write.
pub(crate) fn acknowledged_epoch(probe: &ProbeHandle<u64>) -> Epoch {
    probe.with_frontier(|frontier| {
        frontier
            .first()
            .map_or(u64::MAX, |first| first.saturating_sub(1))
    })
}
