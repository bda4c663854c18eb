//! Compares stored bars and views with their recomputation, one by one, and collects the findings.
//!
//! A bar or view is compared as of the epoch in its label. If a running job has bound that epoch
//! after the audit read the checkpoint, the comparison waits until the audit has read the next
//! checkpoint ([`Comparison::waiting_bars`], [`Comparison::waiting_views`]).

mod bars;
mod gaps;
mod views;

use std::{collections::HashSet, fmt::Display};

pub(crate) use bars::{describe as describe_bar, differences as bar_differences};
pub(crate) use gaps::lacking;
use tapeflow_oracle::OracleEntry;
use tapeflow_protocol::{Audited, Expiry, Unlisted};
use tapeflow_schemas::{
    BarKey, BarState, Baskets, Epoch, View, ViewKey, ViewState, WindowSize, WindowStart,
};
pub(crate) use views::{describe as describe_view, oracle_view};

use crate::{
    coverage::Comparable,
    event::{Event, Observer},
    findings::{Difference, Findings, Place, RepairAction},
    recompute::{AsOf, COMMITTED, Recomputation},
};

/// The comparison of one pass.
pub(crate) struct Comparison<'a> {
    pub(crate) findings: Findings,
    comparable: Comparable,
    baskets: &'a Baskets,
    observer: &'a mut Observer<'a>,
    /// Windows with a bar that was not compared.
    incomplete_windows: HashSet<(WindowSize, WindowStart)>,
    /// Bars and views whose epochs were unknown when they were read, with their mismatches.
    waiting_bars: Vec<(BarKey, BarState, Vec<String>)>,
    waiting_views: Vec<(ViewKey, ViewState, Vec<String>)>,
    views_to_reread: Vec<ViewKey>,
    /// What may have left the store, by the checkpoint that the audit began with.
    expiry: Expiry,
    /// Bars and views of sizes with a horizon that the store lacks.
    lacking: Vec<Place>,
}

impl<'a> Comparison<'a> {
    pub(crate) fn new(
        comparable: Comparable,
        baskets: &'a Baskets,
        expiry: Expiry,
        observer: &'a mut Observer<'a>,
    ) -> Self {
        let findings = Findings {
            complete: comparable == Comparable::Everything,
            ..Findings::default()
        };
        Self {
            findings,
            comparable,
            baskets,
            observer,
            incomplete_windows: HashSet::new(),
            waiting_bars: Vec::new(),
            waiting_views: Vec::new(),
            views_to_reread: Vec::new(),
            expiry,
            lacking: Vec::new(),
        }
    }

    pub(crate) fn comparable(&self) -> Comparable {
        self.comparable
    }

    /// A bar as it was read. `mismatches` says where its display columns differ from its state.
    pub(crate) fn bar(
        &mut self,
        recomputation: &Recomputation<'_>,
        key: BarKey,
        state: BarState,
        mismatches: Vec<String>,
    ) {
        match recomputation.as_of(state.epoch) {
            AsOf::Epoch(as_of) => self.compare_bar(recomputation, key, &state, mismatches, as_of),
            AsOf::Unknown => self.waiting_bars.push((key, state, mismatches)),
        }
    }

    /// Compares the bars that waited. The recomputation now knows all epochs that were bound when
    /// they were read.
    pub(crate) fn waiting_bars(&mut self, recomputation: &Recomputation<'_>) {
        for (key, state, mismatches) in std::mem::take(&mut self.waiting_bars) {
            match recomputation.as_of(state.epoch) {
                AsOf::Epoch(as_of) => {
                    self.compare_bar(recomputation, key, &state, mismatches, as_of);
                }
                AsOf::Unknown if state.epoch > recomputation.last_bound() => {
                    let place = Place::Bar(key);
                    let action = self.action(self.is_expected(recomputation, &place));
                    let text = label_too_new(&place, state.epoch, recomputation.last_bound());
                    self.differs(place, action, &text);
                }
                AsOf::Unknown => {
                    self.findings.unknown_epochs += 1;
                    self.incomplete_windows.insert((key.size, key.start));
                }
            }
        }
    }

    fn compare_bar(
        &mut self,
        recomputation: &Recomputation<'_>,
        key: BarKey,
        state: &BarState,
        mismatches: Vec<String>,
        as_of: Epoch,
    ) {
        let expected =
            recomputation
                .oracle
                .bar_as_of(key.symbol.as_str(), key.size, key.start, as_of);
        let is_comparable = match self.comparable {
            Comparable::Everything => true,
            Comparable::WindowsAfterCut => {
                let trades = expected.map_or(0, |expected| expected.all.trades);
                // Without all records it is not known which trades came beyond the horizon.
                let beyond = self.expiry.may_have_left(&key.symbol, key.size, key.start);
                state.epoch <= recomputation.confirmed
                    && bars::trades(&state.totals) <= trades
                    && !beyond
            }
            Comparable::PresenceOnly => false,
        };
        let mut reasons = if is_comparable {
            self.findings.bars.compared += 1;
            match expected {
                None => vec!["the store has a bar, the log has no trades".to_owned()],
                Some(expected) => bars::differences(&state.totals, &expected),
            }
        } else {
            self.findings.bars.not_compared += 1;
            self.findings.bars.beyond_reach += u64::from(expected.is_none());
            self.incomplete_windows.insert((key.size, key.start));
            Vec::new()
        };
        // Display columns are compared with the state, which needs no recomputation.
        reasons.extend(mismatches);
        // A packed bar that no trade made is gone when its row is written.
        let is_expected = expected.is_some()
            || key.size.is_packed() && self.is_expected(recomputation, &Place::Bar(key.row()));
        self.differs_if(Place::Bar(key), state.epoch, is_expected, &reasons);
    }

    /// A view as it was read, after all bars. `mismatches` says where its entries differ from its
    /// state.
    pub(crate) fn view(
        &mut self,
        recomputation: &Recomputation<'_>,
        key: ViewKey,
        state: ViewState,
        mismatches: Vec<String>,
    ) {
        match recomputation.as_of(state.epoch) {
            AsOf::Epoch(as_of) => self.compare_view(recomputation, key, &state, mismatches, as_of),
            AsOf::Unknown => self.waiting_views.push((key, state, mismatches)),
        }
    }

    /// A view whose entries are of a later epoch. A store does not write a view and its entries in
    /// one step, so the view must be read again: [`Comparison::view_read_again`].
    pub(crate) fn put_off(&mut self, key: ViewKey) {
        self.views_to_reread.push(key);
    }

    pub(crate) fn take_views_to_reread(&mut self) -> Vec<ViewKey> {
        std::mem::take(&mut self.views_to_reread)
    }

    /// The views that were put off at their last reading too: the job wrote them each time.
    pub(crate) fn give_up_views(&mut self) {
        self.findings.moving_views += self.take_views_to_reread().len() as u64;
    }

    /// A view that was read again, or entries without a view. The recomputation now knows all
    /// epochs that were bound when it was read. An epoch that was committed at the start has both
    /// view and entries, and an epoch that is not bound has neither: so only entries of an epoch
    /// that is bound and not committed are put off once more.
    pub(crate) fn view_read_again(
        &mut self,
        recomputation: &Recomputation<'_>,
        key: ViewKey,
        found: Audited<ViewState>,
    ) {
        let Audited {
            state,
            mut mismatches,
            ahead,
            ..
        } = found;
        let bound = recomputation.committed + 1..=recomputation.last_bound();
        match (state, ahead) {
            (None, Some(ahead)) if bound.contains(&ahead) => {
                if self.expects_view(recomputation, key) {
                    self.missing(Place::View(key));
                } else {
                    self.put_off(key);
                }
            }
            (None, _) => self.unreadable(
                recomputation,
                Place::View(key),
                "the store has entries without a view",
            ),
            (Some(_), Some(ahead)) if bound.contains(&ahead) => self.put_off(key),
            (Some(state), ahead) => {
                mismatches.extend(ahead.map(|ahead| format!("it has entries of epoch {ahead}")));
                self.view(recomputation, key, state, mismatches);
            }
        }
    }

    /// A view that the store lacks.
    pub(crate) fn missing_if_expected(&mut self, recomputation: &Recomputation<'_>, key: ViewKey) {
        if self.expects_view(recomputation, key) {
            self.missing(Place::View(key));
        }
    }

    pub(crate) fn has_waiting_views(&self) -> bool {
        !self.waiting_views.is_empty() || !self.views_to_reread.is_empty()
    }

    /// Compares the views that waited, as [`Comparison::waiting_bars`] does with bars.
    pub(crate) fn waiting_views(&mut self, recomputation: &Recomputation<'_>) {
        for (key, state, mismatches) in std::mem::take(&mut self.waiting_views) {
            match recomputation.as_of(state.epoch) {
                AsOf::Epoch(as_of) => {
                    self.compare_view(recomputation, key, &state, mismatches, as_of);
                }
                AsOf::Unknown if state.epoch > recomputation.last_bound() => {
                    let place = Place::View(key);
                    let action = self.action(self.is_expected(recomputation, &place));
                    let text = label_too_new(&place, state.epoch, recomputation.last_bound());
                    self.differs(place, action, &text);
                }
                AsOf::Unknown => self.findings.unknown_epochs += 1,
            }
        }
    }

    fn compare_view(
        &mut self,
        recomputation: &Recomputation<'_>,
        key: ViewKey,
        state: &ViewState,
        mismatches: Vec<String>,
        as_of: Epoch,
    ) {
        let is_comparable = match self.comparable {
            Comparable::Everything => true,
            Comparable::WindowsAfterCut => {
                state.epoch <= recomputation.confirmed
                    && !self.incomplete_windows.contains(&(key.size, key.start))
                    && !self.expiry.rows(key.size).contains(&key.start)
            }
            Comparable::PresenceOnly => false,
        };
        let expected = self.expected_view(recomputation, key, as_of);
        let mut reasons = if is_comparable {
            self.findings.views.compared += 1;
            match &expected {
                None => vec!["the store has a view, the log has no trades for it".to_owned()],
                Some(expected) => {
                    let mut found = views::differences(key.view, &state.entries, expected);
                    if key.view == View::Movers {
                        let oracle = &recomputation.oracle;
                        let all = oracle.movers_as_of(key.size, key.start, as_of);
                        found.extend(views::wrong_reserve(state, &all));
                    }
                    found
                }
            }
        } else {
            self.findings.views.not_compared += 1;
            self.findings.views.beyond_reach += u64::from(expected.is_none());
            Vec::new()
        };
        reasons.extend(mismatches);
        self.differs_if(Place::View(key), state.epoch, expected.is_some(), &reasons);
    }

    /// A bar or view that the recomputation has and the store lacks. If its size has a horizon,
    /// [`Comparison::settle_lacking`] decides whether it has left.
    pub(crate) fn missing(&mut self, place: Place) {
        let size = match &place {
            Place::Bar(key) => Some(key.size),
            Place::View(key) => Some(key.size),
            Place::FeedGap(_) | Place::FeedGaps | Place::Unlisted(_) => None,
        };
        if has_left(&self.expiry, &place) {
            self.findings.left += 1;
        } else if size.is_some_and(|size| self.expiry.has_horizon(size)) {
            self.lacking.push(place);
        } else {
            self.is_missing(place);
        }
    }

    /// What may have left by now. Bars and views leave while they are compared.
    pub(crate) fn set_expiry(&mut self, expiry: Expiry) {
        self.expiry = expiry;
    }

    pub(crate) fn has_lacking(&self) -> bool {
        !self.lacking.is_empty()
    }

    /// What the store lacked may have left, by a checkpoint that was read afterwards.
    pub(crate) fn settle_lacking(&mut self, expiry: &Expiry) {
        for place in std::mem::take(&mut self.lacking) {
            if has_left(expiry, &place) {
                self.findings.left += 1;
            } else {
                self.is_missing(place);
            }
        }
    }

    fn is_missing(&mut self, place: Place) {
        let what = match &place {
            Place::Bar(_) => "bar",
            Place::View(_) | Place::FeedGap(_) | Place::FeedGaps | Place::Unlisted(_) => "view",
        };
        let action = self.action(true);
        let text = format!("{place}: the log has trades for it, the store has no {what}");
        self.differs(place, action, &text);
    }

    /// A bar or view that cannot be read.
    pub(crate) fn unreadable(
        &mut self,
        recomputation: &Recomputation<'_>,
        place: Place,
        reason: &str,
    ) {
        let action = self.action(self.is_expected(recomputation, &place));
        let name = place.to_string();
        // A store that cannot decode a cell says which one.
        let text = if reason.contains(&name) {
            reason.to_owned()
        } else {
            format!("{name}: {reason}")
        };
        self.differs(place, action, &text);
    }

    /// Whether the committed records make this view.
    fn expects_view(&self, recomputation: &Recomputation<'_>, key: ViewKey) -> bool {
        self.expected_view(recomputation, key, COMMITTED).is_some()
    }

    /// Whether all records read so far make this view, or this bar or the row that it is packed
    /// into.
    fn is_expected(&self, recomputation: &Recomputation<'_>, place: &Place) -> bool {
        match place {
            Place::Bar(key) => [key, &key.row()].into_iter().any(|key| {
                recomputation
                    .oracle
                    .bar_as_of(key.symbol.as_str(), key.size, key.start, Epoch::MAX)
                    .is_some()
            }),
            Place::View(key) => self
                .expected_view(recomputation, *key, Epoch::MAX)
                .is_some(),
            Place::FeedGap(_) | Place::FeedGaps | Place::Unlisted(_) => false,
        }
    }

    fn expected_view(
        &self,
        recomputation: &Recomputation<'_>,
        key: ViewKey,
        as_of: Epoch,
    ) -> Option<Vec<OracleEntry>> {
        recomputation.oracle.view_as_of(
            oracle_view(key.view),
            key.size,
            key.start,
            as_of,
            self.baskets,
        )
    }

    /// What a repair can do about a place, depending on whether trades belong there.
    fn action(&self, is_expected: bool) -> RepairAction {
        match (self.comparable, is_expected) {
            (Comparable::Everything, true) => RepairAction::Write,
            (Comparable::Everything, false) => RepairAction::CannotDelete,
            (Comparable::WindowsAfterCut | Comparable::PresenceOnly, _) => {
                RepairAction::CannotRecompute
            }
        }
    }

    fn differs_if(&mut self, place: Place, label: Epoch, is_expected: bool, reasons: &[String]) {
        if !reasons.is_empty() {
            let action = self.action(is_expected);
            let text = format!("{place} (epoch {label}): {}", reasons.join("; "));
            self.differs(place, action, &text);
        }
    }

    fn differs(&mut self, place: Place, action: RepairAction, description: &str) {
        report(
            &mut self.findings,
            self.observer,
            Difference { place, action },
            description,
        );
    }
}

/// Whether a bar or view that the store lacks may have left it.
fn has_left(expiry: &Expiry, place: &Place) -> bool {
    match place {
        Place::Bar(key) => expiry.may_have_left(&key.symbol, key.size, key.start),
        Place::View(key) => expiry.rows(key.size).contains(&key.start),
        Place::FeedGap(_) | Place::FeedGaps | Place::Unlisted(_) => false,
    }
}

/// Bars that the symbol directory does not list. If one of them was found missing, that bar is the
/// difference.
pub(crate) fn unlisted_bars(
    findings: &mut Findings,
    observer: &mut Observer<'_>,
    unlisted: Unlisted,
) {
    if !findings.contains_bar_of(&unlisted) {
        let place = Place::Unlisted(unlisted);
        let text = format!(
            "{place}: the symbol directory does not list them, and the log has no trades for them"
        );
        let action = RepairAction::CannotDelete;
        report(findings, observer, Difference { place, action }, &text);
    }
}

fn report(
    findings: &mut Findings,
    observer: &mut Observer<'_>,
    difference: Difference,
    description: &str,
) {
    observer(Event::Difference {
        difference: &difference,
        description,
    });
    findings.differences.push(difference);
}

fn label_too_new(place: &impl Display, label: Epoch, last_bound: Epoch) -> String {
    format!(
        "{place} (epoch {label}): labelled with an epoch after the last bound one, {last_bound}"
    )
}

/// A number with its noun.
fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
