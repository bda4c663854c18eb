//! One look: the log recomputed, everything stored held against it, and everything recomputed
//! looked for in the store.
//!
//! A job may go on meanwhile. What is read of the store is as of some epoch each, which its label
//! names, and is judged as of that:
//!
//! ```text
//!  checkpoint h0            bars             checkpoint h1             lists            checkpoint h2
//!  committed c0 ────▶ labels <= c0 ──▶ their epochs ─────▶ labels <= b1 ──▶ their epochs are
//!  recomputed as one  judged at once   are known by now    judged at once   known by now
//! ```
//!
//! Every epoch that a bar was written for had been bound before it was written, so the checkpoint read
//! after it knows it, or history does. What is committed in h0 must be there, in bars and lists
//! that are read later.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::Range,
    sync::atomic::AtomicBool,
    time::Duration,
};

use tapeflow_log::Log;
use tapeflow_protocol::{Audited, Checkpoint, HistoryEntry, Store, StoreError};
use tapeflow_schemas::{
    BarKey, BarState, Baskets, Epoch, Symbol, View, ViewKey, ViewState, WindowSize, WindowStart,
    view::SMALLEST_VIEW_MS,
};
use tokio::runtime::Runtime;

use super::{
    coverage,
    judge::{Findings, Judge, Place},
    recompute::{COMMITTED, Recomputation, starts},
    selection::Selection,
};
use crate::{
    exit::{Exit, say},
    stores,
};

/// Windows that nobody asked for, read rather than asked around, for each question costs more.
const GAP_READ: i64 = 1_000;

/// What is looked at, and how.
pub(super) struct Ground<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) store: &'a dyn Store,
    pub(super) log: &'a dyn Log,
    pub(super) sizes: &'a [WindowSize],
    pub(super) baskets: &'a Baskets,
    /// That a person wants it to end.
    pub(super) asked: &'a AtomicBool,
}

/// Which starts are read of each size.
struct Plan(BTreeMap<WindowSize, Vec<Range<WindowStart>>>);

impl Ground<'_> {
    pub(super) fn checkpoint(&self) -> Result<Checkpoint, Exit> {
        self.runtime.block_on(stores::checkpoint(self.store))
    }

    /// The history since an epoch, newest first.
    fn history(&self, since: Epoch) -> Result<Vec<HistoryEntry>, Exit> {
        let mut history = self
            .runtime
            .block_on(coverage::back_to(self.store, |entry| entry.epoch <= since))?;
        history.retain(|entry| entry.epoch > since);
        Ok(history)
    }

    /// Looks once, at all of the scope, or at what the last `since` of the job has touched.
    pub(super) fn look(
        &self,
        selection: &Selection,
        since: Option<Duration>,
    ) -> Result<Findings, Exit> {
        let checkpoint = self.checkpoint()?;
        let starts = starts(self.log, &checkpoint)?;
        let mut coverage =
            self.runtime
                .block_on(coverage::of(self.store, &checkpoint, &starts, since))?;
        let mut again = Recomputation::new(
            self.log,
            self.sizes,
            &coverage.from,
            selection.clone(),
            self.asked,
        )?;
        again.settle(&checkpoint)?;
        // That takes its time: a job may have gone on, and the more is one, the less must be told
        // apart.
        let begun = self.checkpoint()?;
        if begun.committed.epoch > checkpoint.committed.epoch {
            coverage.extend(
                checkpoint.committed.epoch,
                begun.committed.epoch,
                &self.history(checkpoint.committed.epoch)?,
            );
            again.settle(&begun)?;
        }
        let trust = coverage.trust(&again.oracle);
        let contradiction = coverage.contradiction(&again.oracle);
        if let Some(contradiction) = &contradiction {
            say(contradiction)?;
        }
        let cheap = since.is_some() && coverage.after > 0;
        let plan = if cheap {
            Plan::of(&again, self.sizes)
        } else {
            Plan::everything(self.sizes)
        };
        let mut judge = Judge::new(trust, self.baskets);
        again.finish_whatever_is_asked();
        self.read_bars(selection, &plan, &again, &mut judge)?;
        let last = self.follow(&mut again)?;
        judge.later_bars(&again);
        let mut bound = last.last_binding().epoch;
        if selection.has_lists() {
            self.read_lists(selection, &plan, &again, &mut judge)?;
            if judge.has_later_lists() {
                bound = self.follow(&mut again)?.last_binding().epoch;
                judge.later_lists(&again);
                self.read_again(&again, &mut judge)?;
            }
        }
        let mut findings = judge.findings;
        findings.contradictions = u64::from(contradiction.is_some());
        if trust == coverage::Trust::All {
            findings.begins.push(starts);
        }
        (findings.counts, findings.gone) = (
            again.oracle.counts(),
            if findings.all_read { 0 } else { coverage.gone },
        );
        (findings.not_read, findings.after) = if cheap {
            (coverage.not_read, coverage.after)
        } else {
            (0, 0)
        };
        (findings.committed, findings.bound) = (begun.committed.epoch, bound);
        Ok(findings)
    }

    /// Recomputes what has been bound since.
    fn follow(&self, again: &mut Recomputation<'_>) -> Result<Checkpoint, Exit> {
        let checkpoint = self.checkpoint()?;
        // Between the two, the job may have committed more; that is told by the checkpoint as bound.
        let history = if checkpoint.committed.epoch > again.base {
            self.history(again.base)?
        } else {
            Vec::new()
        };
        again.follow(&checkpoint, &history)?;
        Ok(checkpoint)
    }

    fn read_bars(
        &self,
        selection: &Selection,
        plan: &Plan,
        again: &Recomputation<'_>,
        judge: &mut Judge<'_>,
    ) -> Result<(), Exit> {
        let listed = stores::answered(self.runtime.block_on(self.store.symbols()))?;
        let listed: BTreeSet<Symbol> = listed
            .into_iter()
            .map(|(symbol, _)| symbol)
            .filter(|symbol| selection.symbol(symbol.as_str()))
            .collect();
        // The directory must lead to whatever has trades; one that does not is found here.
        let traded = again
            .oracle
            .symbols()
            .filter_map(|symbol| Symbol::new(symbol).ok());
        for symbol in listed
            .iter()
            .cloned()
            .chain(traded)
            .collect::<BTreeSet<_>>()
        {
            let mut found = HashSet::new();
            if listed.contains(&symbol) {
                for (size, range) in plan.ranges() {
                    for (start, bar) in self.bars_of(&symbol, size, range, again)? {
                        if !selection.window(size, start) {
                            continue;
                        }
                        found.insert((size, start));
                        let key = BarKey {
                            symbol: symbol.clone(),
                            size,
                            start,
                        };
                        match bar {
                            Ok(Audited {
                                state: Some(state),
                                mismatches,
                                ..
                            }) => judge.bar(again, key, state, mismatches),
                            Ok(Audited { mismatches, .. }) => {
                                judge.unreadable(again, Place::Row(key), &mismatches.join("; "))
                            }
                            Err(reason) => judge.unreadable(again, Place::Row(key), &reason),
                        }
                    }
                }
            }
            // Bars of epochs that were not committed may not have been written yet.
            for (size, start) in again
                .oracle
                .windows_of(symbol.as_str(), COMMITTED)
                .filter(|window| !found.contains(window))
            {
                judge.missing(Place::Row(BarKey {
                    symbol: symbol.clone(),
                    size,
                    start,
                }));
            }
        }
        Ok(())
    }

    /// Reads bars in one go or, where one of them cannot be read, one by one those that the
    /// recomputation has.
    fn bars_of(
        &self,
        symbol: &Symbol,
        size: WindowSize,
        range: Range<WindowStart>,
        again: &Recomputation<'_>,
    ) -> Result<Vec<Found<BarState>>, Exit> {
        let windows = again.oracle.windows_of(symbol.as_str(), Epoch::MAX);
        let read = |range| {
            self.runtime
                .block_on(self.store.audit_bars(symbol, size, range))
        };
        in_one_go_or_one_by_one(size, &range, windows, read, || {
            format!("bars of {symbol} {size}")
        })
    }

    fn read_lists(
        &self,
        selection: &Selection,
        plan: &Plan,
        again: &Recomputation<'_>,
        judge: &mut Judge<'_>,
    ) -> Result<(), Exit> {
        let mut found = HashSet::new();
        for view in View::EVERY {
            for (size, range) in plan
                .ranges()
                .filter(|(size, _)| size.ms() >= SMALLEST_VIEW_MS)
            {
                for (start, list) in self.lists_of(view, size, range, again)? {
                    let key = ViewKey { view, size, start };
                    if !selection.window(size, start) {
                        continue;
                    }
                    match list {
                        // Its lines may be those of a list that is about to be written.
                        Ok(Audited { ahead: Some(_), .. }) => judge.put_off(key),
                        Ok(Audited {
                            state: Some(state),
                            mismatches,
                            ..
                        }) => judge.list(again, key, state, mismatches),
                        Ok(Audited { mismatches, .. }) => {
                            judge.unreadable(again, Place::List(key), &mismatches.join("; "))
                        }
                        Err(reason) => judge.unreadable(again, Place::List(key), &reason),
                    }
                    found.insert(key);
                }
            }
        }
        let windows: Vec<_> = again.oracle.windows().collect();
        for (size, start) in windows {
            for key in View::EVERY.map(|view| ViewKey { view, size, start }) {
                if !found.contains(&key) && judge.calls_for(again, key) {
                    judge.missing(Place::List(key));
                }
            }
        }
        Ok(())
    }

    /// The same for lists.
    fn lists_of(
        &self,
        view: View,
        size: WindowSize,
        range: Range<WindowStart>,
        again: &Recomputation<'_>,
    ) -> Result<Vec<Found<ViewState>>, Exit> {
        let read = |range| {
            self.runtime
                .block_on(self.store.audit_views(view, size, range, again.base))
        };
        in_one_go_or_one_by_one(size, &range, again.oracle.windows(), read, || {
            format!("lists of view {view} {size}")
        })
    }

    /// Lists that had lines of a later epoch beside them, or lines without a list, are read once
    /// more: by now all is known that was bound then.
    fn read_again(&self, again: &Recomputation<'_>, judge: &mut Judge<'_>) -> Result<(), Exit> {
        for key in judge.take_put_off() {
            for (_, list) in self.lists_of(key.view, key.size, key.start..key.start + 1, again)? {
                match list {
                    Ok(Audited {
                        state,
                        mismatches,
                        ahead,
                        ..
                    }) => judge.list_read_again(again, key, state, mismatches, ahead),
                    Err(reason) => judge.unreadable(again, Place::List(key), &reason),
                }
            }
        }
        judge.later_lists(again);
        Ok(())
    }

    /// Bars that no reader finds who begins with the directory. Those that the log has trades for
    /// have been found missing.
    pub(super) fn look_beside_the_directory(&self, findings: &mut Findings) -> Result<(), Exit> {
        for unlisted in stores::answered(self.runtime.block_on(self.store.unlisted()))? {
            findings.unlisted(unlisted);
        }
        Ok(())
    }
}

/// A window as it was found, or why it cannot be read.
type Found<T> = (WindowStart, Result<Audited<T>, String>);

/// Reads a range in one go or, where something in it cannot be read, window by window those that
/// the recomputation has.
fn in_one_go_or_one_by_one<T>(
    size: WindowSize,
    range: &Range<WindowStart>,
    windows: impl Iterator<Item = (WindowSize, WindowStart)>,
    read: impl Fn(Range<WindowStart>) -> Result<Vec<Audited<T>>, StoreError>,
    what: impl Fn() -> String,
) -> Result<Vec<Found<T>>, Exit> {
    let reason = match read(range.clone()) {
        Ok(found) => {
            return Ok(found
                .into_iter()
                .map(|found| (found.start, Ok(found)))
                .collect());
        }
        Err(StoreError::Broken(reason)) => reason,
        Err(error) => return Err(crate::exit::store_failed(&error)),
    };
    let (mut all, mut damaged) = (Vec::new(), false);
    for (_, start) in windows.filter(|(of, start)| *of == size && range.contains(start)) {
        match read(start..start + 1) {
            Ok(found) => all.extend(found.into_iter().map(|found| (found.start, Ok(found)))),
            Err(StoreError::Broken(reason)) => {
                damaged = true;
                all.push((start, Err(reason)));
            }
            Err(error) => return Err(crate::exit::store_failed(&error)),
        }
    }
    // Else it is a window that no trade made, or the store as a whole.
    if damaged {
        Ok(all)
    } else {
        Err(Exit::Failed(format!("{} cannot be read: {reason}", what())))
    }
}

impl Plan {
    fn everything(sizes: &[WindowSize]) -> Self {
        Self(
            sizes
                .iter()
                .map(|size| (*size, std::iter::once(i64::MIN..i64::MAX).collect()))
                .collect(),
        )
    }

    /// The windows that the recomputation has a bar in, whatever the symbol: a list needs all bars
    /// of its window.
    fn of(again: &Recomputation<'_>, sizes: &[WindowSize]) -> Self {
        let mut starts: BTreeMap<WindowSize, BTreeSet<WindowStart>> =
            sizes.iter().map(|size| (*size, BTreeSet::new())).collect();
        for symbol in again.oracle.symbols() {
            for (size, start) in again.oracle.windows_of(symbol, Epoch::MAX) {
                starts.entry(size).or_default().insert(start);
            }
        }
        Self(
            starts
                .into_iter()
                .map(|(size, starts)| (size, runs(&starts, GAP_READ.saturating_mul(size.ms()))))
                .collect(),
        )
    }

    fn ranges(&self) -> impl Iterator<Item = (WindowSize, Range<WindowStart>)> {
        self.0
            .iter()
            .flat_map(|(size, ranges)| ranges.iter().map(|range| (*size, range.clone())))
    }
}

/// Ranges that have all of the starts in them, and no gap wider than this.
fn runs(starts: &BTreeSet<WindowStart>, gap: i64) -> Vec<Range<WindowStart>> {
    let mut runs: Vec<Range<WindowStart>> = Vec::new();
    for start in starts {
        match runs.last_mut() {
            Some(run) if start.saturating_sub(run.end) <= gap => run.end = start + 1,
            _ => runs.push(*start..start + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_read_in_runs_without_wide_gaps() {
        let runs = |starts: &[i64]| runs(&starts.iter().copied().collect(), 100);
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[5, 200]), [5..6, 200..201]);
        assert_eq!(
            runs(&[0, 50, 151, 300, 9_000, 9_001]),
            [0..152, 300..301, 9_000..9_002]
        );
    }
}
