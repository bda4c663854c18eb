//! Turns changed views into writes. Each view that an epoch has changed is written once, at the
//! epoch's write timestamp.
//!
//! A retraction alone means that the window left memory. That is no change, and nothing is written.
//! After a restart all views of the replay are new here, so every view of a window that the replay
//! touches is written at the recovery timestamp, like its bars.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    rc::Rc,
};

use tapeflow_protocol::EpochWrites;
use tapeflow_schemas::{View, ViewEntry, ViewKey, ViewState, ViewWrite};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{
        StreamVec,
        channels::pact::Pipeline,
        operators::{Capability, generic::operator::Operator},
    },
    scheduling::Activator,
};

use super::{changes::Window, definitions::Views};
use crate::epoch_timestamps::SharedEpochTimestamps;

/// The most views of one batch to the sink.
const VIEWS_PER_WRITE: usize = 64;

/// The views that one time has changed.
struct Pending {
    capability: Capability<u64>,
    views: BTreeMap<(View, Window), Vec<ViewEntry>>,
}

/// Builds the operator. The activator wakes it after a new write timestamp.
pub(crate) fn build<'scope>(
    views: Views<'scope>,
    timestamps: SharedEpochTimestamps,
) -> (StreamVec<'scope, u64, EpochWrites>, Activator) {
    let scope = views.inner.scope();
    let mut activator = None;
    let slot = &mut activator;
    let writes = views
        .inner
        .unary_frontier::<CapacityContainerBuilder<Vec<EpochWrites>>, _, _, _>(
            Pipeline,
            "view writes",
            |_capability, info| {
                *slot = Some(scope.activator_for(Rc::clone(&info.address)));
                let mut pending: BTreeMap<u64, Pending> = BTreeMap::new();
                move |(input, frontier), output| {
                    input.for_each_stamp(|capability, data| {
                        for ((key, content), time, diff) in
                            data.flat_map(|container| container.drain(..))
                        {
                            if diff < 0 {
                                continue;
                            }
                            let pending = match pending.entry(time) {
                                Entry::Occupied(held) => held.into_mut(),
                                Entry::Vacant(free) => {
                                    // The message's time may be earlier than that of its changes.
                                    free.insert(Pending {
                                        capability: capability.delayed(&time, 0),
                                        views: BTreeMap::new(),
                                    })
                                }
                            };
                            let earlier = pending.views.insert(key, content);
                            assert!(earlier.is_none(), "a view has one content at a time");
                        }
                    });
                    while let Some(entry) = pending
                        .first_entry()
                        .filter(|entry| !frontier.less_equal(entry.key()))
                    {
                        let time = *entry.key();
                        let Some(write_timestamp) = timestamps.borrow().write_timestamp_of(time)
                        else {
                            break;
                        };
                        let Pending { capability, views } = entry.remove();
                        let write = |((view, window), entries): ((View, Window), _)| ViewWrite {
                            key: ViewKey {
                                view,
                                size: window.size,
                                start: window.start,
                            },
                            state: ViewState {
                                epoch: time,
                                entries,
                            },
                            write_timestamp,
                        };
                        let mut session = output.session(&capability);
                        let mut views = views.into_iter().map(write).peekable();
                        while views.peek().is_some() {
                            session.give(EpochWrites {
                                views: views.by_ref().take(VIEWS_PER_WRITE).collect(),
                                ..EpochWrites::default()
                            });
                        }
                    }
                }
            },
        );
    (writes, activator.expect("the constructor has run"))
}
