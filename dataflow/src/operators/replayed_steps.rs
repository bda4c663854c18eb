//! What each epoch of a replay adds to each bar, for the views: the replay adds all epochs of a bar
//! at once, and a view may hold any of them already.

use tapeflow_schemas::{BarKey, BarState, Epoch, Policy, Totals};

use crate::{
    hash::Map,
    views::changes::{Added, Window},
};

/// What each epoch of the replay adds to each bar that has views.
#[derive(Default)]
pub(super) struct ReplayedSteps(Map<BarKey, Vec<(Epoch, Totals)>>);

impl ReplayedSteps {
    /// Epochs come in ascending order.
    pub(super) fn add(&mut self, key: &BarKey, epoch: Epoch, totals: &Totals) {
        if Window::of(key).is_some() {
            self.0
                .entry(key.clone())
                .or_default()
                .push((epoch, *totals));
        }
    }

    /// The steps of a bar. The bar is new in the first of them, unless the stored bar has more
    /// trades than the replayed epochs up to its own have added: then it is from before the replay.
    pub(super) fn take(&mut self, key: &BarKey, stored: Option<&BarState>) -> Vec<(Epoch, Added)> {
        let steps = self.0.remove(key).unwrap_or_default();
        let trades = |totals: &Totals| totals.of_policy(Policy::All).trades;
        let from_before = stored.is_some_and(|stored| {
            let replayed: u64 = steps
                .iter()
                .take_while(|(epoch, _)| *epoch <= stored.epoch)
                .map(|(_, totals)| trades(totals))
                .sum();
            trades(&stored.totals) > replayed
        });
        (0..)
            .zip(steps)
            .map(|(at, (epoch, totals))| {
                let new_bar = at == 0 && !from_before;
                (epoch, Added::of(totals.of_policy(Policy::Sip), new_bar))
            })
            .collect()
    }
}
