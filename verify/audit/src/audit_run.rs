//! One audit run: recomputes the log, compares everything stored with it, and looks up everything
//! recomputed in the store.
//!
//! A job may go on meanwhile. Each bar and view names an epoch in its label and is compared as of
//! that epoch:
//!
//! ```text
//!  read: checkpoint 0         bars           checkpoint 1         views           checkpoint 2
//!        committed c0 ───▶ label <= c0:      bound b1 ───▶ label <= b1:           bound b2
//!        one epoch         compare now          │          compare now               │
//!                          label > c0: ◀────────┘          label > b1: ◀─────────────┘
//!                          compare after checkpoint 1      compare after checkpoint 2
//! ```
//!
//! A job binds an epoch before it writes a bar for it. So a checkpoint that is read after the bar,
//! together with history, has the end of that epoch. Everything committed in checkpoint 0 must be
//! in the store, because bars and views are read later.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::Range,
    time::Duration,
};

use tapeflow_log::Log;
use tapeflow_protocol::{Audited, Checkpoint, Expiry, FeedGap, HistoryEntry, Store, StoreError};
use tapeflow_schemas::{
    BarKey, BarState, Epoch, Symbol, View, ViewKey, ViewState, WindowSize, WindowStart,
    view::has_views,
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::{
    comparison::{Comparison, unlisted_bars},
    coverage::{Comparable, coverage},
    error::AuditError,
    event::{Event, Observer},
    findings::{Findings, Place},
    log_cursor::first_offsets,
    read_ranges::ReadRanges,
    recompute::{COMMITTED, Recomputation},
    rules::Rules,
    selection::Selection,
    store_reads::{Stored, checkpoint_of, history_back_to, read_range},
};

/// How often a view is read again whose cell and entries the job writes meanwhile. They are written
/// together, and one window is read in a few milliseconds: even beside epochs of 20 ms, most views
/// settle at the first reading.
const VIEW_READS: usize = 8;

/// An audit of one store against one log.
///
/// Its methods block: call them from a thread that is not one of `runtime`.
#[derive(Clone, Copy)]
pub struct Audit<'a> {
    /// The store.
    pub store: &'a dyn Store,
    /// The log that the store's checkpoint names.
    pub log: &'a dyn Log,
    /// The rules of the store's checkpoint.
    pub rules: &'a Rules,
    /// The runtime in which the store was opened.
    pub runtime: &'a Handle,
    /// Ends a run early, while it reads the log. A run that compares the store already goes on to
    /// its end, so that what it found is reported.
    pub stop: &'a CancellationToken,
}

/// How much of the log and the store a run compares.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The symbols.
    pub selection: Selection,
    /// Reads only the records that the job read in this time before its last commit; `None` reads
    /// all.
    pub since: Option<Duration>,
    /// Reads the log and the store this many times, at least 1, for one slice of the windows each.
    /// That divides the memory.
    pub passes: u64,
}

impl Default for Settings {
    /// Everything, in one pass.
    fn default() -> Self {
        Self {
            selection: Selection::default(),
            since: None,
            passes: 1,
        }
    }
}

impl Audit<'_> {
    /// Compares the store with the log and reports each difference to `observer`.
    ///
    /// # Errors
    /// [`AuditError`]. Differences are no error.
    pub fn run(
        &self,
        settings: &Settings,
        observer: &mut Observer<'_>,
    ) -> Result<Findings, AuditError> {
        let (selection, passes) = (&settings.selection, settings.passes);
        let mut findings = Findings::default();
        for pass in 0..passes {
            observer(Event::PassStarted {
                pass: pass + 1,
                of: passes,
            });
            let slice = selection.slice(pass, passes);
            let found = self.run_pass(&slice, pass == 0, settings.since, observer)?;
            if pass == 0 {
                findings = found;
            } else {
                findings.add(found);
            }
        }
        if selection.has_views() && settings.since.is_none() {
            let unlisted = self.runtime.block_on(self.store.unlisted());
            for unlisted in unlisted.map_err(AuditError::Store)? {
                unlisted_bars(&mut findings, observer, unlisted);
            }
        }
        Ok(findings)
    }

    fn run_pass(
        &self,
        selection: &Selection,
        with_feed_gaps: bool,
        since: Option<Duration>,
        observer: &mut Observer<'_>,
    ) -> Result<Findings, AuditError> {
        let first = self.checkpoint()?;
        let first_offsets = first_offsets(self.log, &first)?;
        let mut coverage =
            self.runtime
                .block_on(coverage(self.store, &first, &first_offsets, since))?;
        let mut recomputation = Recomputation::new(
            self.log,
            self.rules,
            &coverage.from,
            selection.clone(),
            self.stop,
        );
        recomputation.read_committed(&first)?;
        // Reading took time, and the job may have committed more. Epochs that are committed now
        // need not be kept apart.
        let checkpoint = self.checkpoint()?;
        let (before, now) = (first.committed.epoch, checkpoint.committed.epoch);
        if now > before {
            coverage.extend(before, now, &self.history_after(before)?);
            recomputation.read_committed(&checkpoint)?;
        }
        let comparable = coverage.comparable(&recomputation.oracle);
        let history_difference = coverage.history_difference(&recomputation.oracle);
        if let Some(difference) = &history_difference {
            observer(Event::HistoryDiffers(difference));
        }
        let is_recent_only = since.is_some() && coverage.after > 0;
        let ranges = if is_recent_only {
            ReadRanges::of(&recomputation, &self.rules.sizes)
        } else {
            ReadRanges::everything(&self.rules.sizes)
        };
        recomputation.ignore_stop();
        let mut comparison = Comparison::new(
            comparable,
            &self.rules.baskets,
            self.expiry(comparable)?,
            observer,
        );
        let feed_gaps = with_feed_gaps.then(|| self.feed_gaps()).transpose()?;
        let bound = self.compare(selection, &ranges, &mut recomputation, &mut comparison)?;
        match feed_gaps {
            Some(Ok(found)) => comparison.feed_gaps(&recomputation, &found),
            Some(Err(reason)) => comparison.unreadable_feed_gaps(&reason),
            None => {}
        }
        let mut findings = comparison.findings;
        findings.history_differs = history_difference.is_some();
        if comparable == Comparable::Everything {
            findings.first_offsets.push(first_offsets);
        } else {
            findings.missing_records = coverage.missing_records;
        }
        if is_recent_only {
            findings.skipped_records = coverage.skipped_records;
            findings.skipped_up_to = coverage.after;
        }
        findings.counts = recomputation.oracle.counts();
        findings.offsets = recomputation.passed();
        findings.committed = now;
        findings.bound = bound;
        Ok(findings)
    }

    /// The feed gaps of the store, or why one of them is damaged. Their epochs are bound by the
    /// checkpoint that is read next.
    pub(crate) fn feed_gaps(&self) -> Result<Result<BTreeMap<FeedGap, usize>, String>, AuditError> {
        let found = self.runtime.block_on(self.store.audit_feed_gaps());
        match found {
            Ok(found) => Ok(Ok(found)),
            Err(StoreError::Broken(reason)) => Ok(Err(reason)),
            Err(error) => Err(AuditError::Store(error)),
        }
    }

    /// Compares bars, then views. Returns the last epoch that was bound then.
    fn compare(
        &self,
        selection: &Selection,
        ranges: &ReadRanges,
        recomputation: &mut Recomputation<'_>,
        comparison: &mut Comparison<'_>,
    ) -> Result<Epoch, AuditError> {
        self.compare_bars(selection, ranges, recomputation, comparison)?;
        let mut bound = self.read_bound(recomputation)?;
        comparison.set_expiry(self.expiry(comparison.comparable())?);
        comparison.waiting_bars(recomputation);
        if selection.has_views() {
            self.compare_views(selection, ranges, recomputation, comparison)?;
            if comparison.has_waiting_views() {
                bound = self.read_bound(recomputation)?;
                comparison.waiting_views(recomputation);
                if let Some(later) = self.reread_views(recomputation, comparison)? {
                    bound = later;
                }
            }
        }
        if comparison.has_lacking() {
            let expiry = self.expiry(comparison.comparable())?;
            comparison.settle_lacking(&expiry);
        }
        Ok(bound)
    }

    /// Recomputes what the job has bound by now. Returns the last epoch bound.
    fn read_bound(&self, recomputation: &mut Recomputation<'_>) -> Result<Epoch, AuditError> {
        let checkpoint = self.checkpoint()?;
        // The job may commit more before history is read. The checkpoint names those epochs as
        // bound.
        let history = if checkpoint.committed.epoch > recomputation.committed {
            self.history_after(recomputation.committed)?
        } else {
            Vec::new()
        };
        recomputation.read_bound(&checkpoint, &history)?;
        Ok(checkpoint.last_binding().epoch)
    }

    fn compare_bars(
        &self,
        selection: &Selection,
        ranges: &ReadRanges,
        recomputation: &Recomputation<'_>,
        comparison: &mut Comparison<'_>,
    ) -> Result<(), AuditError> {
        let listed = self.runtime.block_on(self.store.symbols());
        let listed: BTreeSet<Symbol> = listed
            .map_err(AuditError::Store)?
            .into_iter()
            .map(|(symbol, _)| symbol)
            .filter(|symbol| selection.has_symbol(symbol.as_str()))
            .collect();
        // The symbol directory must list every symbol that has trades.
        let traded = recomputation
            .oracle
            .symbols()
            .filter_map(|symbol| Symbol::new(symbol).ok());
        let symbols: BTreeSet<Symbol> = listed.iter().cloned().chain(traded).collect();
        comparison.findings.unknown_symbols = selection
            .named()
            .filter(|name| selection.has_symbol(name))
            .filter(|name| symbols.iter().all(|symbol| symbol.as_str() != *name))
            .map(str::to_owned)
            .collect();
        for symbol in symbols {
            let mut found = HashSet::new();
            if listed.contains(&symbol) {
                for (size, range) in ranges.iter() {
                    for (start, bar) in self.read_bars(&symbol, size, range, recomputation)? {
                        if !selection.has_window(size, start) {
                            continue;
                        }
                        found.insert((size, start));
                        let key = BarKey {
                            symbol: symbol.clone(),
                            size,
                            start,
                        };
                        compare_bar(recomputation, comparison, key, bar);
                    }
                }
            }
            // Bars of later epochs may not be written yet.
            for (size, start) in recomputation
                .oracle
                .windows_of(symbol.as_str(), COMMITTED)
                .filter(|window| !found.contains(window))
            {
                comparison.missing(Place::Bar(BarKey {
                    symbol: symbol.clone(),
                    size,
                    start,
                }));
            }
        }
        Ok(())
    }

    fn read_bars(
        &self,
        symbol: &Symbol,
        size: WindowSize,
        range: Range<WindowStart>,
        recomputation: &Recomputation<'_>,
    ) -> Result<Vec<Stored<BarState>>, AuditError> {
        let windows = recomputation.oracle.windows_of(symbol.as_str(), Epoch::MAX);
        let read = |range| {
            self.runtime
                .block_on(self.store.audit_bars(symbol, size, range))
        };
        read_range(size, &range, windows, read, || {
            format!("bars of {symbol} {size}")
        })
    }

    fn compare_views(
        &self,
        selection: &Selection,
        ranges: &ReadRanges,
        recomputation: &Recomputation<'_>,
        comparison: &mut Comparison<'_>,
    ) -> Result<(), AuditError> {
        let mut found = HashSet::new();
        for view in View::EVERY {
            for (size, range) in ranges.iter().filter(|(size, _)| has_views(*size)) {
                for (start, stored) in self.read_views(view, size, range, recomputation)? {
                    let key = ViewKey { view, size, start };
                    if selection.has_window(size, start) {
                        compare_view(recomputation, comparison, key, stored);
                        found.insert(key);
                    }
                }
            }
        }
        for (size, start) in recomputation.oracle.windows() {
            for key in View::EVERY.map(|view| ViewKey { view, size, start }) {
                if !found.contains(&key) {
                    comparison.missing_if_expected(recomputation, key);
                }
            }
        }
        Ok(())
    }

    fn read_views(
        &self,
        view: View,
        size: WindowSize,
        range: Range<WindowStart>,
        recomputation: &Recomputation<'_>,
    ) -> Result<Vec<Stored<ViewState>>, AuditError> {
        let committed = recomputation.committed;
        let read = |range| {
            self.runtime
                .block_on(self.store.audit_views(view, size, range, committed))
        };
        read_range(size, &range, recomputation.oracle.windows(), read, || {
            format!("view {view} {size}")
        })
    }

    /// Reads the views again whose entries were of another epoch than their cells, at most
    /// [`VIEW_READS`] times. Returns the last epoch that was bound after that; `None` if there was
    /// no such view.
    ///
    /// The bindings are read after the views, never before:
    /// 1. the audit reads that epoch 16 is the last bound one;
    /// 2. the job binds epoch 17 and writes the view;
    /// 3. the audit reads the view again, with epoch 17, and would take it for an epoch that never
    ///    was.
    fn reread_views(
        &self,
        recomputation: &mut Recomputation<'_>,
        comparison: &mut Comparison<'_>,
    ) -> Result<Option<Epoch>, AuditError> {
        let mut bound = None;
        for read in 1..=VIEW_READS {
            let keys = comparison.take_views_to_reread();
            if keys.is_empty() {
                break;
            }
            let mut reread = Vec::with_capacity(keys.len());
            for key in keys {
                let range = key.start..key.start + 1;
                let mut stored = self.read_views(key.view, key.size, range, recomputation)?;
                reread.push((key, stored.pop().map(|(_, stored)| stored)));
            }
            bound = Some(self.read_bound(recomputation)?);
            for (key, stored) in reread {
                match stored {
                    Some(Err(reason)) => {
                        comparison.unreadable(recomputation, Place::View(key), &reason);
                    }
                    Some(Ok(found)) => comparison.view_read_again(recomputation, key, found),
                    // Both its cell and its entries are gone.
                    None => comparison.missing_if_expected(recomputation, key),
                }
            }
            comparison.waiting_views(recomputation);
            if read == VIEW_READS {
                comparison.give_up_views();
            }
        }
        Ok(bound)
    }

    /// What may have left the store by now. Without all records it is not known which partition's
    /// watermark kept a trade out of a bar.
    fn expiry(&self, comparable: Comparable) -> Result<Expiry, AuditError> {
        let (checkpoint, horizons) = (self.checkpoint()?, self.rules.horizons.clone());
        let marks = self.runtime.block_on(self.store.expired_up_to());
        let begun = marks.map_err(AuditError::Store)?.begun;
        let expiry = match comparable {
            Comparable::Everything => Expiry::of(&checkpoint, horizons),
            Comparable::WindowsAfterCut | Comparable::PresenceOnly => {
                Expiry::at_most(&checkpoint, horizons)
            }
        };
        Ok(expiry.or_begun(begun))
    }

    pub(crate) fn checkpoint(&self) -> Result<Checkpoint, AuditError> {
        checkpoint_of(self.store, self.runtime)
    }

    /// The history of the epochs after this one, newest first.
    fn history_after(&self, epoch: Epoch) -> Result<Vec<HistoryEntry>, AuditError> {
        let mut history = self
            .runtime
            .block_on(history_back_to(self.store, |entry| entry.epoch <= epoch))?;
        history.retain(|entry| entry.epoch > epoch);
        Ok(history)
    }
}

fn compare_bar(
    recomputation: &Recomputation<'_>,
    comparison: &mut Comparison<'_>,
    key: BarKey,
    stored: Result<Audited<BarState>, String>,
) {
    match stored {
        Ok(Audited {
            state: Some(state),
            mismatches,
            ..
        }) => comparison.bar(recomputation, key, state, mismatches),
        Ok(Audited { mismatches, .. }) => {
            comparison.unreadable(recomputation, Place::Bar(key), &mismatches.join("; "));
        }
        Err(reason) => comparison.unreadable(recomputation, Place::Bar(key), &reason),
    }
}

fn compare_view(
    recomputation: &Recomputation<'_>,
    comparison: &mut Comparison<'_>,
    key: ViewKey,
    stored: Result<Audited<ViewState>, String>,
) {
    match stored {
        // The entries may belong to a view that the job is about to write.
        Ok(Audited { ahead: Some(_), .. }) => comparison.put_off(key),
        Ok(Audited {
            state: Some(state),
            mismatches,
            ..
        }) => comparison.view(recomputation, key, state, mismatches),
        Ok(Audited { mismatches, .. }) => {
            comparison.unreadable(recomputation, Place::View(key), &mismatches.join("; "));
        }
        Err(reason) => comparison.unreadable(recomputation, Place::View(key), &reason),
    }
}
