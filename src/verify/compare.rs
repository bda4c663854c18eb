//! Everything stored against its recomputation, then everything recomputed against the store.

use std::collections::HashSet;

use tapeflow_oracle::Oracle;
use tapeflow_schemas::{Baskets, Symbol, WindowSize, WindowStart, window::format_utc};
use tapeflow_sinks::{Epoch, Head, RowState, Store, View, ViewKey, ViewState, view::SMALLEST_VIEW_MS};

use super::{
    lists,
    reach::{Reach, Trust},
    rows,
};
use crate::{
    end::{End, say},
    stores,
};

/// What the recomputation calls all committed epochs together.
pub(super) const COMMITTED: Epoch = 0;
/// Differences printed one by one; all are counted.
const PRINTED: u64 = 100;

/// Looks at rows and lists one by one, and keeps count.
pub(super) struct Judge {
    head: Head,
    oracle: Oracle,
    baskets: Baskets,
    /// Records that are out of reach, if that matters.
    gone: u64,
    trust: Trust,
    differences: u64,
    rows: Tally,
    lists: Tally,
    /// Windows of which a row was not judged.
    passed_over: HashSet<(WindowSize, WindowStart)>,
}

#[derive(Default)]
struct Tally {
    compared: u64,
    not_judged: u64,
}

/// Rows first: lists are judged by what was found of the rows of their window.
pub(super) async fn compare(store: &dyn Store, sizes: &[WindowSize], judge: &mut Judge) -> Result<(), End> {
    let mut found = HashSet::new();
    for (symbol, _) in stores::answered(store.symbols().await)? {
        for size in sizes {
            for row in stores::answered(store.rows(&symbol, *size, i64::MIN..i64::MAX).await)? {
                judge.row(&symbol, *size, row.start, &row.state);
                found.insert((symbol.clone(), *size, row.start));
            }
        }
    }
    judge.missing_rows(&found);
    let mut found = HashSet::new();
    for view in View::EVERY {
        for size in sizes.iter().copied().filter(|size| size.ms() >= SMALLEST_VIEW_MS) {
            for list in stores::answered(store.views(view, size, i64::MIN..i64::MAX).await)? {
                let key = ViewKey { view, size, start: list.start };
                judge.list(key, &list.state);
                found.insert(key);
            }
        }
    }
    judge.missing_lists(&found);
    Ok(())
}

impl Judge {
    pub(super) fn new(head: Head, oracle: Oracle, baskets: Baskets, reach: Reach) -> Self {
        let trust = reach.trust(&oracle);
        let gone = if trust == Trust::All { 0 } else { reach.gone };
        let (rows, lists, passed_over) = (Tally::default(), Tally::default(), HashSet::new());
        Self { head, oracle, baskets, gone, trust, differences: 0, rows, lists, passed_over }
    }

    /// The epoch as of which the recomputation must say what a label promises; `None`, and a difference, if there is no such epoch.
    fn as_of(&mut self, place: &str, label: Epoch) -> Option<Epoch> {
        let bound = self.head.last_binding().epoch;
        if label > bound {
            // A job that goes on has bound more since the head was read; such a row is for the next look.
            self.differ(&format!("{place}: labelled beyond the last bound epoch {bound} as of this look; is the job running?"));
            return None;
        }
        Some(if label <= self.head.committed.epoch { COMMITTED } else { label })
    }

    fn row(&mut self, symbol: &Symbol, size: WindowSize, start: WindowStart, state: &RowState) {
        let place = format!("{symbol} {size} {} (epoch {})", format_utc(start), state.epoch);
        let Some(as_of) = self.as_of(&place, state.epoch) else { return };
        let want = self.oracle.row_as_of(symbol.as_str(), size, start, as_of);
        let judged = match self.trust {
            Trust::All => true,
            Trust::Since => as_of == COMMITTED && rows::trades(&state.totals) <= want.map_or(0, |want| want.all.trades),
            Trust::Presence => false,
        };
        if !judged {
            self.rows.not_judged += 1;
            self.passed_over.insert((size, start));
            return;
        }
        self.rows.compared += 1;
        match want {
            None => self.differ(&format!("{place}: the store has a row, the log has no trades")),
            Some(want) => {
                let differences = rows::differences(&state.totals, &want);
                if !differences.is_empty() {
                    self.differ(&format!("{place}: {}", differences.join("; ")));
                }
            }
        }
    }

    fn list(&mut self, key: ViewKey, state: &ViewState) {
        let place = format!("{key} (epoch {})", state.epoch);
        let Some(as_of) = self.as_of(&place, state.epoch) else { return };
        let judged = match self.trust {
            Trust::All => true,
            Trust::Since => as_of == COMMITTED && !self.passed_over.contains(&(key.size, key.start)),
            Trust::Presence => false,
        };
        if !judged {
            self.lists.not_judged += 1;
            return;
        }
        self.lists.compared += 1;
        match self.oracle.list_as_of(lists::named(key.view), key.size, key.start, as_of, &self.baskets) {
            None => self.differ(&format!("{place}: the store has a list, the log has no trades for one")),
            Some(want) => {
                let differences = lists::differences(key.view, &state.entries, &want);
                if !differences.is_empty() {
                    self.differ(&format!("{place}: {}", differences.join("; ")));
                }
            }
        }
    }

    fn missing_rows(&mut self, found: &HashSet<(Symbol, WindowSize, WindowStart)>) {
        let recomputed: Vec<_> = self.oracle.rows().map(|(key, _)| (key.symbol.to_owned(), key.size, key.start)).collect();
        for (symbol, size, start) in recomputed {
            let known = Symbol::new(&symbol).is_ok_and(|symbol| found.contains(&(symbol, size, start)));
            // Rows of epochs that are bound but not committed may not have been written yet.
            if !known && self.oracle.row_as_of(&symbol, size, start, COMMITTED).is_some() {
                self.differ(&format!("{symbol} {size} {}: the log has trades, the store has no row", format_utc(start)));
            }
        }
    }

    fn missing_lists(&mut self, found: &HashSet<ViewKey>) {
        let windows: Vec<_> = self.oracle.windows().collect();
        for (size, start) in windows {
            for key in View::EVERY.map(|view| ViewKey { view, size, start }) {
                let called_for = || self.oracle.list_as_of(lists::named(key.view), size, start, COMMITTED, &self.baskets).is_some();
                if !found.contains(&key) && called_for() {
                    self.differ(&format!("{key}: the log has trades for it, the store has no list"));
                }
            }
        }
    }

    fn differ(&mut self, text: &str) {
        self.differences += 1;
        if self.differences <= PRINTED {
            // A reader that has gone misses the lines, not the exit code.
            let _ = say(text);
        }
    }

    /// The last line, and how it ends.
    pub(super) fn finish(self) -> Result<(), End> {
        let counts = self.oracle.counts();
        let not_judged = if self.gone > 0 {
            format!(", {} rows and {} lists that may rest on them not judged", self.rows.not_judged, self.lists.not_judged)
        } else {
            String::new()
        };
        let line = format!(
            "{} differences; {} rows compared, {} lists compared; {} records, {} trades accepted, {} rejected, {} duplicates, {} price updates, {} gaps; \
             {} records out of reach of the log{not_judged}; committed epoch {}, bound {}",
            self.differences,
            self.rows.compared,
            self.lists.compared,
            counts.records,
            counts.accepted,
            counts.rejected_in_all(),
            counts.duplicates,
            counts.price_updates,
            counts.gaps,
            self.gone,
            self.head.committed.epoch,
            self.head.last_binding().epoch,
        );
        say(&line)?;
        if self.differences == 0 { Ok(()) } else { Err(End::Differs(self.differences)) }
    }
}
