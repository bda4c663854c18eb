//! What the changes of one worker do to a window, on their way to the worker that owns the views of
//! the window.

use std::{collections::BTreeMap, rc::Rc};

use differential_dataflow::consolidation::consolidate;
use serde::{Deserialize, Serialize};
use tapeflow_schemas::{Baskets, Epoch, Symbol};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{StreamVec, channels::pact::Pipeline, operators::generic::operator::Operator},
};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    changes::{BarValues, Change, Window},
    ranking::Bar,
    sums::{Sum, SumOf},
};
use crate::hash::Map;

/// The changes of a window by one worker at one time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct WindowChange {
    pub(super) window: Window,
    /// What each epoch adds to the sums. There is one epoch, except in the replay.
    pub(super) sums: Vec<((SumOf, Epoch), Sum)>,
    /// The bars after the change.
    pub(super) bars: Vec<Bar>,
    /// Of the bars that were there before: the place in `bars`, ascending, and the values before.
    /// Beside the bars, because a large epoch has mostly new ones.
    before: Vec<(u32, BarValues)>,
}

impl WindowChange {
    /// The symbols of the bars, with the values before the change; `None` if there was no bar.
    pub(super) fn bars_before(&self) -> impl Iterator<Item = (&Symbol, Option<BarValues>)> + '_ {
        let mut before = self.before.iter().peekable();
        (0..).zip(&self.bars).map(move |(at, (symbol, _))| {
            let values = before.next_if(|(place, _)| *place == at);
            (symbol, values.map(|(_, values)| *values))
        })
    }

    /// The worker that owns the views of the window, modulo the number of workers.
    pub(super) fn route(&self) -> u64 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.window.size.ms().to_le_bytes());
        bytes[8..].copy_from_slice(&self.window.start.to_le_bytes());
        xxh3_64(&bytes)
    }
}

/// By symbol: the baskets that contain it, with its weight in each.
pub(super) struct Weights(Map<Symbol, Vec<(SumOf, i128)>>);

impl Weights {
    pub(super) fn of(baskets: &Baskets) -> Self {
        let mut weights: Map<Symbol, Vec<(SumOf, i128)>> = Map::default();
        for (place, (_, members)) in (0..).zip(baskets.iter()) {
            for (symbol, weight) in members {
                weights
                    .entry(symbol.clone())
                    .or_default()
                    .push((SumOf::Basket(place), weight.e4()));
            }
        }
        Self(weights)
    }

    /// The sums that a symbol's bar is part of, with its weight in each.
    pub(super) fn of_symbol(&self, symbol: &Symbol) -> impl Iterator<Item = (SumOf, i128)> + '_ {
        let market = (SumOf::Market(symbol.quote(), symbol.class()), 1);
        [market]
            .into_iter()
            .chain(self.0.get(symbol).into_iter().flatten().copied())
    }
}

/// Sorts changes by window and adds up what they add to the sums.
pub(super) fn collect(changes: &[Change], time: Epoch, weights: &Weights) -> Vec<WindowChange> {
    let mut windows: BTreeMap<Window, WindowChange> = BTreeMap::new();
    for change in changes {
        let window = windows
            .entry(change.window)
            .or_insert_with(|| WindowChange {
                window: change.window,
                sums: Vec::new(),
                bars: Vec::new(),
                before: Vec::new(),
            });
        for (epoch, added) in change.added(time) {
            for (of, weight) in weights.of_symbol(&change.symbol) {
                window.sums.push(((of, epoch), Sum::of(&added, of, weight)));
            }
        }
        if let Some(before) = change.before {
            let place = u32::try_from(window.bars.len()).expect("bars of one epoch and window");
            window.before.push((place, before));
        }
        window.bars.push((change.symbol.clone(), change.after));
    }
    let mut windows: Vec<WindowChange> = windows.into_values().collect();
    for window in &mut windows {
        consolidate(&mut window.sums);
        // The windows of a large epoch wait for all others, most of them with one bar.
        window.sums.shrink_to_fit();
        window.bars.shrink_to_fit();
    }
    windows
}

/// Builds the operator that collects the changes of this worker.
pub(super) fn build<'scope>(
    changes: StreamVec<'scope, u64, Rc<Vec<Change>>>,
    weights: Rc<Weights>,
) -> StreamVec<'scope, u64, WindowChange> {
    changes.unary::<CapacityContainerBuilder<Vec<WindowChange>>, _, _, _>(
        Pipeline,
        "window changes",
        |_capability, _info| {
            move |input, output| {
                input.for_each_stamp(|capability, data| {
                    if let Some(capability) = capability.retain_least(0) {
                        let time = *capability.time();
                        let mut session = output.session(&capability);
                        for changes in data.flat_map(|container| container.drain(..)) {
                            session.give_iterator(collect(&changes, time, &weights).into_iter());
                        }
                    }
                });
            }
        },
    )
}
