//! Makes the views of a window from its bars, when its views do not say enough.
//!
//! The bars of all symbols are read in chunks ([`Limits::bars_per_recount`]), as of the time *t* of the changes at
//! hand:
//!
//! * a bar that *t* changes: as it is after that change;
//! * else, a bar that a later time changes: as it was before the earliest such change;
//! * else the bar in the store, whose epoch is at most *t*. All epochs before *t* are acknowledged
//!   when the reading begins, so the store has it as of *t*.
//!
//! A bar may come from the store with a later epoch than *t* before the change that made it has
//! arrived from its worker. It is *undecided* until the frontier has passed its epoch.

use std::{rc::Rc, sync::mpsc::Receiver};

use tapeflow_schemas::{BarKey, BarState, Epoch, Symbol};

use super::{
    changes::{BarValues, Window},
    ranking::Bar,
    sums::Sum,
    window_change::{Weights, WindowChange},
    window_views::WindowViews,
};
use crate::{
    failure::JobError,
    hash::{Map, Set},
    limits::Limits,
};

/// One recount under way.
pub(super) struct Recount {
    pub(super) window: Window,
    time: Epoch,
    weights: Rc<Weights>,
    limits: Limits,
    /// Taken once it is finished.
    views: Option<WindowViews>,
    /// The bars that the time has changed, already counted in.
    changed: Set<Symbol>,
    symbols: Symbols,
    /// Requested and not answered.
    outstanding: usize,
    undecided: Vec<(Symbol, BarState)>,
}

/// The symbols of the directory, which are read when a recount begins.
enum Symbols {
    Requested(Receiver<Vec<Symbol>>),
    Left(std::vec::IntoIter<Symbol>),
}

/// The values of bars before their earliest change after the recount's time; `None` for a bar that
/// there was not.
pub(super) type Later = Map<Symbol, Option<BarValues>>;

impl Recount {
    /// `empty` are the views of a window without bars.
    pub(super) fn new(
        (window, time, empty): (Window, Epoch, WindowViews),
        changes: &[WindowChange],
        weights: Rc<Weights>,
        symbols: Receiver<Vec<Symbol>>,
        limits: Limits,
    ) -> Self {
        let mut recount = Self {
            window,
            time,
            weights,
            limits,
            views: Some(empty),
            changed: Set::default(),
            symbols: Symbols::Requested(symbols),
            outstanding: 0,
            undecided: Vec::new(),
        };
        let bars: Vec<&Bar> = changes.iter().flat_map(|change| &change.bars).collect();
        recount
            .changed
            .extend(bars.iter().map(|(symbol, _)| symbol.clone()));
        recount.count_in(&bars);
        recount
    }

    /// The keys to request next; `None` if there is nothing to request now.
    pub(super) fn next_keys(&mut self) -> Option<Vec<BarKey>> {
        if let Symbols::Requested(answer) = &self.symbols
            && let Ok(symbols) = answer.try_recv()
        {
            self.symbols = Symbols::Left(symbols.into_iter());
        }
        let Symbols::Left(symbols) = &mut self.symbols else {
            return None;
        };
        if self.outstanding > 0 {
            return None;
        }
        let window = self.window;
        let keys: Vec<BarKey> = symbols
            // A day of stocks starts at another time than other days.
            .filter(|symbol| window.size.is_start(window.start, symbol.class()))
            .filter(|symbol| !self.changed.contains(symbol))
            .take(self.limits.bars_per_recount)
            .map(|symbol| BarKey {
                symbol,
                size: window.size,
                start: window.start,
            })
            .collect();
        self.outstanding = keys.len();
        (!keys.is_empty()).then_some(keys)
    }

    /// Counts in what the store has answered.
    ///
    /// # Errors
    /// [`JobError::Fenced`] if a bar is of another generation.
    pub(super) fn receive(
        &mut self,
        found: Vec<(BarKey, Option<BarState>)>,
        later: &Later,
    ) -> Result<(), JobError> {
        self.outstanding -= found.len();
        let mut bars: Vec<Bar> = Vec::new();
        for (key, bar) in found {
            let values = match (later.get(&key.symbol), bar) {
                (Some(before), _) => *before,
                (None, None) => None,
                (None, Some(bar)) if bar.epoch <= self.time => Some(BarValues::of(&bar.totals)),
                (None, Some(bar)) if bar.epoch <= self.time + self.limits.epochs_ahead => {
                    self.undecided.push((key.symbol, bar));
                    continue;
                }
                (None, Some(bar)) => return Err(self.fenced(&key.symbol, bar.epoch)),
            };
            bars.extend(values.map(|values| (key.symbol, values)));
        }
        self.count_in(&bars.iter().collect::<Vec<_>>());
        Ok(())
    }

    /// Decides what is undecided, as far as all changes of a bar's epoch have arrived.
    ///
    /// # Errors
    /// [`JobError::Fenced`] if a bar is of another generation.
    pub(super) fn decide(
        &mut self,
        later: &Later,
        complete: impl Fn(&u64) -> bool,
    ) -> Result<(), JobError> {
        let mut bars: Vec<Bar> = Vec::new();
        for (symbol, bar) in std::mem::take(&mut self.undecided) {
            match later.get(&symbol) {
                Some(before) => bars.extend(before.map(|before| (symbol, before))),
                None if complete(&bar.epoch) => return Err(self.fenced(&symbol, bar.epoch)),
                None => self.undecided.push((symbol, bar)),
            }
        }
        self.count_in(&bars.iter().collect::<Vec<_>>());
        Ok(())
    }

    /// The views, once all bars are counted in.
    pub(super) fn finished(&mut self) -> Option<WindowViews> {
        let read = matches!(&self.symbols, Symbols::Left(left) if left.as_slice().is_empty());
        self.views
            .take_if(|_| read && self.outstanding == 0 && self.undecided.is_empty())
    }

    fn count_in(&mut self, bars: &[&Bar]) {
        let weights = Rc::clone(&self.weights);
        let sums = bars.iter().flat_map(|(symbol, values)| {
            let added = values.since(None);
            weights
                .of_symbol(symbol)
                .map(move |(of, weight)| (of, Sum::of(&added, of, weight)))
        });
        if let Some(views) = &mut self.views {
            views.count_in(bars, sums);
        }
    }

    fn fenced(&self, symbol: &Symbol, epoch: Epoch) -> JobError {
        JobError::Fenced(format!(
            "the bar of {symbol} of {} {} has epoch {epoch}, which is later than epoch {} of this \
             process",
            self.window.size,
            tapeflow_schemas::window::format_utc(self.window.start),
            self.time
        ))
    }
}
