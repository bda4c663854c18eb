//! The sink: writes bars and lists, and keeps its frontier at an epoch until everything of it is
//! acknowledged.
//!
//! It holds the capability of each batch until a quorum has it. So when its output frontier has
//! passed an epoch on all workers, the epoch can be committed.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc};

use tapeflow_protocol::{EpochWrites, failpoint};
use tapeflow_schemas::{BarWrite, WindowSize};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{
        StreamVec,
        channels::pact::Pipeline,
        operators::{Capability, generic::operator::Operator},
    },
    scheduling::Activator,
};

use crate::{
    coordinator::messages::Shown, job::Observer, metrics::Metrics,
    operators::bar_state::Acknowledged, store_io::StoreIo,
};

/// What the sink needs to know from the start.
pub(crate) struct SinkSettings {
    pub(crate) io: StoreIo,
    pub(crate) acknowledged: Acknowledged,
    /// Wakes the keeper of bars after acknowledgements.
    pub(crate) keeper: Activator,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) metrics: Arc<Metrics>,
    /// Where bars go that process 0 is to hear of, and of which size they are; none in process 0
    /// itself.
    pub(crate) shown: Option<(WindowSize, Showing)>,
}

/// Bars on their way to process 0.
pub(crate) type Showing = Rc<RefCell<Vec<Shown>>>;

/// Builds the operator. Its output carries nothing but its frontier.
pub(crate) fn build<'scope>(
    bars: StreamVec<'scope, u64, EpochWrites>,
    settings: SinkSettings,
) -> StreamVec<'scope, u64, ()> {
    let scope = bars.scope();
    bars.unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
        Pipeline,
        "sink",
        |_capability, info| {
            let writer = settings
                .io
                .writer::<u64>(scope.worker().sync_activator_for(info.address.to_vec()));
            let mut held: HashMap<u64, Capability<u64>> = HashMap::new();
            let mut next = 0u64;
            move |(input, _frontier), _output| {
                input.for_each_stamp(|capability, data| {
                    for writes in data.flat_map(|container| container.drain(..)) {
                        if let Some(capability) = capability.retain_least(0) {
                            held.insert(next, capability);
                            writer.write(next, writes);
                            next += 1;
                        }
                    }
                });
                let mut any = false;
                for (token, writes) in writer.acknowledged() {
                    any = true;
                    let capability = held
                        .remove(&token)
                        .expect("each write is acknowledged once");
                    failpoint::reach("write-heard");
                    settings.metrics.bars_written.add(writes.bars.len() as u64);
                    settings
                        .metrics
                        .lists_written
                        .add(writes.views.len() as u64);
                    settings.observer.acknowledged(*capability.time(), &writes);
                    if let Some((size, showing)) = &settings.shown {
                        showing.borrow_mut().extend(
                            writes
                                .bars
                                .iter()
                                .filter(|bar| bar.key.size == *size)
                                .map(shown),
                        );
                    }
                    settings.acknowledged.borrow_mut().push_back(writes);
                }
                if any {
                    settings.keeper.activate();
                }
            }
        },
    )
}

fn shown(bar: &BarWrite) -> Shown {
    let BarWrite {
        key,
        state,
        write_timestamp,
    } = bar;
    Shown {
        epoch: state.epoch,
        write_timestamp: *write_timestamp,
        symbol: key.symbol.clone(),
        start: key.start,
        totals: state.totals,
    }
}
