//! The sink: writes bars and views to the store.
//!
//! It holds the capability of each batch until a quorum has acknowledged it. So once its output
//! frontier has passed an epoch on all workers, the epoch can be committed. Directory entries are
//! acknowledged before anything that came with them or after them is sent.

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
    coordinator::messages::LiveBar,
    metrics::Metrics,
    observer::Observer,
    operators::{
        acknowledged::Acknowledged,
        directory_first::{DirectoryFirst, Ready},
    },
    store_io::StoreIo,
};

pub(crate) struct SinkSettings {
    pub(crate) io: StoreIo,
    pub(crate) acknowledged: Acknowledged,
    /// Wakes the bar state and the view state after acknowledgements.
    pub(crate) waiting: [Activator; 2],
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) metrics: Arc<Metrics>,
    /// The window size that the observer of process 0 displays, and the queue to it; `None` in
    /// process 0 itself.
    pub(crate) live_bars: Option<(WindowSize, LiveBars)>,
}

/// Bars on their way to the observer of process 0.
pub(crate) type LiveBars = Rc<RefCell<Vec<LiveBar>>>;

/// Builds the operator. Its output carries no data, only its frontier.
pub(crate) fn build<'scope>(
    writes: StreamVec<'scope, u64, EpochWrites>,
    settings: SinkSettings,
) -> StreamVec<'scope, u64, ()> {
    let scope = writes.scope();
    writes.unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
        Pipeline,
        "sink",
        |_capability, info| {
            let writer = settings
                .io
                .writer::<u64>(scope.worker().sync_activator_for(info.address.to_vec()));
            // By token: the capability, and the number of a directory write.
            let mut held: HashMap<u64, (Capability<u64>, Option<u64>)> = HashMap::new();
            let mut next = 0u64;
            let mut order = DirectoryFirst::default();
            let mut ready = Vec::new();
            move |(input, _frontier), _output| {
                input.for_each_stamp(|capability, data| {
                    for writes in data.flat_map(|container| container.drain(..)) {
                        if let Some(capability) = capability.retain_least(0) {
                            order.arrive(capability, writes, &mut ready);
                        }
                    }
                });
                let mut any = false;
                for (token, writes) in writer.acknowledged() {
                    any = true;
                    let (capability, directory) = held
                        .remove(&token)
                        .expect("each write is acknowledged once");
                    if let Some(directory) = directory {
                        order.acknowledged(directory, &mut ready);
                    }
                    failpoint::reach("write-heard");
                    settings.metrics.bars_written.add(writes.bars.len() as u64);
                    settings
                        .metrics
                        .views_written
                        .add(writes.views.len() as u64);
                    settings.observer.acknowledged(*capability.time(), &writes);
                    if let Some((size, live_bars)) = &settings.live_bars {
                        live_bars.borrow_mut().extend(
                            writes
                                .bars
                                .iter()
                                .filter(|bar| bar.key.size == *size)
                                .map(live_bar),
                        );
                    }
                    let EpochWrites { bars, views, .. } = writes;
                    let mut acknowledged = settings.acknowledged.borrow_mut();
                    let bars = bars.into_iter().map(|bar| (bar.key, bar.state.epoch));
                    acknowledged.bars.extend(bars);
                    acknowledged
                        .views
                        .extend(views.into_iter().map(|view| view.key));
                }
                for Ready {
                    kept: capability,
                    writes,
                    directory,
                } in ready.drain(..)
                {
                    held.insert(next, (capability, directory));
                    writer.write(next, writes);
                    next += 1;
                }
                if any {
                    settings.waiting.iter().for_each(Activator::activate);
                }
            }
        },
    )
}

fn live_bar(bar: &BarWrite) -> LiveBar {
    let BarWrite {
        key,
        state,
        write_timestamp,
        packed: _,
    } = bar;
    LiveBar {
        epoch: state.epoch,
        write_timestamp: *write_timestamp,
        symbol: key.symbol.clone(),
        start: key.start,
        totals: state.totals,
    }
}
