//! From changed lists to writes: each list whose content an epoch has changed is written once, at
//! the epoch's write timestamp.
//!
//! What is only retracted is a window that was put out of memory: that is no change, and nothing is
//! written. What the replay brings is all new here, so every list of a window that the replay
//! touches is written at the recovery timestamp, as its bars are.

use std::{
    cell::RefCell,
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

use super::{Lists, Window};
use crate::operators::bar_state::EpochTimestamps;

/// Lists that travel to the sink together.
const LISTS_PER_WRITE: usize = 64;

/// What one time has changed.
struct Pending {
    capability: Capability<u64>,
    lists: BTreeMap<(View, Window), Vec<ViewEntry>>,
}

/// Builds the operator; the activator wakes it after news on the board.
pub(crate) fn build<'scope>(
    lists: Lists<'scope>,
    board: Rc<RefCell<EpochTimestamps>>,
) -> (StreamVec<'scope, u64, EpochWrites>, Activator) {
    let scope = lists.inner.scope();
    let mut activator = None;
    let slot = &mut activator;
    let writes = lists
        .inner
        .unary_frontier::<CapacityContainerBuilder<Vec<EpochWrites>>, _, _, _>(
            Pipeline,
            "lists",
            |_capability, info| {
                *slot = Some(scope.activator_for(Rc::clone(&info.address)));
                let mut pending: BTreeMap<u64, Pending> = BTreeMap::new();
                move |(input, frontier), output| {
                    input.for_each_stamp(|capability, data| {
                        for ((key, list), time, diff) in
                            data.flat_map(|container| container.drain(..))
                        {
                            if diff < 0 {
                                continue;
                            }
                            let pending = match pending.entry(time) {
                                Entry::Occupied(held) => held.into_mut(),
                                Entry::Vacant(free) => {
                                    // A message may bear an earlier time than the changes in it.
                                    free.insert(Pending {
                                        capability: capability.delayed(&time, 0),
                                        lists: BTreeMap::new(),
                                    })
                                }
                            };
                            let earlier = pending.lists.insert(key, list);
                            assert!(earlier.is_none(), "a list has one content at a time");
                        }
                    });
                    while let Some(entry) = pending
                        .first_entry()
                        .filter(|entry| !frontier.less_equal(entry.key()))
                    {
                        let time = *entry.key();
                        let Some(write_timestamp) = board.borrow().write_timestamp_of(time) else {
                            break;
                        };
                        let Pending { capability, lists } = entry.remove();
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
                        let mut lists = lists.into_iter().map(write).peekable();
                        while lists.peek().is_some() {
                            session.give(EpochWrites {
                                views: lists.by_ref().take(LISTS_PER_WRITE).collect(),
                                ..EpochWrites::default()
                            });
                        }
                    }
                }
            },
        );
    (writes, activator.expect("the constructor has run"))
}
