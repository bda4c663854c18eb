//! The views of one window whose bars change, for `bench/parts`.

use tapeflow_schemas::{
    AssetClass, Baskets, EventTime, Price, Symbol, WindowSize, view::MOST_RANKED,
};

use super::{
    changes::{BarValues, Change, Window},
    window_change::{Weights, collect},
    window_views::{Applied, WindowViews},
};

pub(crate) struct ViewBench {
    window: Window,
    names: Vec<Symbol>,
    values: Vec<Option<BarValues>>,
    baskets: Baskets,
    weights: Weights,
    views: WindowViews,
}

impl ViewBench {
    pub(crate) fn new(symbols: usize) -> Self {
        let size = WindowSize::DEFAULTS[1];
        let midnight = EventTime::from_ms(0).expect("a time");
        let baskets = Baskets::default();
        Self {
            window: Window {
                size,
                start: size.start_of(midnight, AssetClass::Stock),
            },
            names: (0..symbols)
                .map(|number| Symbol::new(&format!("S{number}")).expect("a symbol"))
                .collect(),
            values: vec![None; symbols],
            weights: Weights::of(&baskets),
            baskets,
            views: WindowViews::empty(MOST_RANKED),
        }
    }

    /// One epoch, in which these bars get one more trade each.
    pub(crate) fn epoch(&mut self, epoch: u64, changed: impl Iterator<Item = usize>) {
        let changes: Vec<Change> = changed
            .map(|at| {
                let before = self.values[at];
                let after = before.map_or_else(
                    || BarValues::for_bench(at as u64, Price::from_e8(1_000_000).ok()),
                    BarValues::one_trade_more,
                );
                self.values[at] = Some(after);
                Change {
                    symbol: self.names[at].clone(),
                    window: self.window,
                    before,
                    after,
                    replayed: None,
                }
            })
            .collect();
        let collected = collect(&changes, epoch + 1, &self.weights);
        let Applied::Changed(views) = self.views.apply(&collected, false) else {
            panic!("a move only grows here, so no symbol falls");
        };
        for view in views {
            let cell = self.views.write(view, epoch + 1, &self.baskets).to_cell();
            std::hint::black_box(cell);
        }
    }
}
