//! Holds bars and lists against their recomputation one by one, and keeps what was found.

use std::collections::HashSet;

use tapeflow_oracle::OracleCounts;
use tapeflow_protocol::Unlisted;
use tapeflow_schemas::{
    BarKey, BarState, Baskets, Epoch, Offset, ViewKey, ViewState, WindowSize, WindowStart,
};

use super::{
    bars,
    coverage::Trust,
    lists,
    recompute::{AsOf, COMMITTED, Recomputation},
};
use crate::exit::say;

/// Differences printed one by one; all are counted.
const PRINTED: usize = 100;

/// What differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Row(BarKey),
    List(ViewKey),
    /// Bars that the directory does not lead to.
    Unlisted(Unlisted),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Row(key) => key.fmt(f),
            Self::List(key) => key.fmt(f),
            Self::Unlisted(Unlisted {
                symbol,
                size,
                bucket: Some(bucket),
            }) => write!(
                f,
                "bars of {symbol:?} {size:?} in the bucket of {bucket} ms"
            ),
            Self::Unlisted(Unlisted {
                symbol,
                size,
                bucket: None,
            }) => write!(f, "bars of {symbol:?} {size:?}"),
        }
    }
}

/// What would mend a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RepairAction {
    /// Writing the recomputation.
    Write,
    /// Nothing: no trade calls for what is there, and bars are never deleted.
    CannotBeDeleted,
    /// Nothing that is known: it may have had trades that were not read.
    OutOfReach,
}

/// What one look found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) errors: Vec<(Place, RepairAction)>,
    pub(super) bars: Tally,
    pub(super) lists: Tally,
    /// Bars and lists of epochs of which nobody tells the end.
    pub(super) untold: u64,
    /// What the job says of its records and the recomputation does not, though it should: 1 if
    /// there is such.
    pub(super) contradictions: u64,
    /// The first offsets of the looks that read all of the job's records: what they would have
    /// written rests on these.
    pub(super) begins: Vec<Vec<Offset>>,
    /// Whether all of the job's records were read, so that everything was judged.
    pub(super) all_read: bool,
    pub(super) counts: OracleCounts,
    /// Records that the log no longer has, or that were given up.
    pub(super) gone: u64,
    /// Records left out of a cheap look, and the epoch after which it began.
    pub(super) not_read: u64,
    pub(super) after: Epoch,
    pub(super) committed: Epoch,
    pub(super) bound: Epoch,
}

/// How many were compared, and how many could not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) compared: u64,
    pub(super) not_judged: u64,
}

impl Findings {
    /// What a look at another slice found as well.
    pub(super) fn add(&mut self, mut other: Self) {
        self.errors.append(&mut other.errors);
        for (mine, theirs) in [(&mut self.bars, other.bars), (&mut self.lists, other.lists)] {
            mine.compared += theirs.compared;
            mine.not_judged += theirs.not_judged;
        }
        self.untold += other.untold;
        self.contradictions = self.contradictions.max(other.contradictions);
        self.begins.append(&mut other.begins);
        self.begins.dedup();
        let Self {
            errors,
            bars,
            lists,
            untold,
            contradictions,
            begins,
            ..
        } = std::mem::take(self);
        // The rest is of the whole log each time; the last one read the most of it.
        *self = Self {
            errors,
            bars,
            lists,
            untold,
            contradictions,
            begins,
            ..other
        };
    }

    /// The differences.
    pub(super) fn differences(&self) -> u64 {
        self.errors.len() as u64 + self.contradictions
    }

    fn differ(&mut self, place: Place, repair_action: RepairAction, text: &str) {
        if self.errors.len() < PRINTED {
            // A reader that has gone misses the lines, not the exit code.
            let _ = say(text);
        }
        self.errors.push((place, repair_action));
    }

    /// Bars that the directory does not lead to, unless one of them was found missing: then it is
    /// that bar which differs.
    pub(super) fn unlisted(&mut self, unlisted: Unlisted) {
        let is_of = |place: &Place| match place {
            Place::Row(key) => {
                let bucket = key.size.bucket(key.start);
                key.symbol.as_str() == unlisted.symbol
                    && key.size.to_string() == unlisted.size
                    && unlisted.bucket.is_none_or(|unlisted| unlisted == bucket)
            }
            Place::List(_) | Place::Unlisted(_) => false,
        };
        if !self.errors.iter().any(|(place, _)| is_of(place)) {
            let place = Place::Unlisted(unlisted);
            let text = format!(
                "{place}: the directory does not lead to them, and the log has no trades for them"
            );
            self.differ(place, RepairAction::CannotBeDeleted, &text);
        }
    }

    /// All of it in one line.
    pub(super) fn summary(&self, has_lists: bool) -> String {
        let counts = &self.counts;
        let mut line = format!(
            "{} differences; {} bars compared, {} lists compared; {} records, {} trades accepted, {} rejected, {} duplicates, {} price updates, {} gaps; \
             {} records out of reach of the log",
            self.differences(),
            self.bars.compared,
            self.lists.compared,
            counts.records,
            counts.accepted,
            counts.dead_letters_in_all(),
            counts.duplicates,
            counts.price_updates,
            counts.gaps,
            self.gone,
        );
        if self.after > 0 {
            line += &format!(", {} up to epoch {} not read", self.not_read, self.after);
        }
        if !self.all_read {
            line += &format!(
                ", {} bars and {} lists that may rest on them not judged",
                self.bars.not_judged, self.lists.not_judged
            );
        }
        if self.untold > 0 {
            line += &format!(
                "; {} bars and lists of epochs that nobody tells the end of not judged",
                self.untold
            );
        }
        if !has_lists {
            line += "; lists not judged, for they are made of all symbols";
        }
        line + &format!("; committed epoch {}, bound {}", self.committed, self.bound)
    }
}

/// Looks at bars and lists one by one.
pub(super) struct Judge<'a> {
    pub(super) findings: Findings,
    trust: Trust,
    baskets: &'a Baskets,
    /// Windows of which a bar was not judged.
    passed_over: HashSet<(WindowSize, WindowStart)>,
    /// Of epochs that were not known when they were read.
    later_bars: Vec<(BarKey, BarState, Vec<String>)>,
    later_lists: Vec<(ViewKey, ViewState, Vec<String>)>,
    /// To be read once more.
    put_off: Vec<ViewKey>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(trust: Trust, baskets: &'a Baskets) -> Self {
        let findings = Findings {
            all_read: trust == Trust::All,
            ..Findings::default()
        };
        Self {
            findings,
            trust,
            baskets,
            passed_over: HashSet::new(),
            later_bars: Vec::new(),
            later_lists: Vec::new(),
            put_off: Vec::new(),
        }
    }

    /// A bar as it was read, and in what its columns stray from its cell. What a job has bound
    /// while it was read is judged when that is known: [`Judge::later_bars`].
    pub(super) fn bar(
        &mut self,
        again: &Recomputation<'_>,
        key: BarKey,
        state: BarState,
        mismatches: Vec<String>,
    ) {
        match again.as_of(state.epoch) {
            AsOf::Epoch(as_of) => self.judge_bar(again, key, &state, mismatches, as_of),
            AsOf::Unknown => self.later_bars.push((key, state, mismatches)),
        }
    }

    /// Judges the bars that were put off, now that all is known that was bound when they were read.
    pub(super) fn later_bars(&mut self, again: &Recomputation<'_>) {
        for (key, state, mismatches) in std::mem::take(&mut self.later_bars) {
            match again.as_of(state.epoch) {
                AsOf::Epoch(as_of) => self.judge_bar(again, key, &state, mismatches, as_of),
                AsOf::Unknown if state.epoch > again.last() => {
                    let repair_action = self.repair_action(
                        again
                            .oracle
                            .bar_as_of(key.symbol.as_str(), key.size, key.start, Epoch::MAX)
                            .is_some(),
                    );
                    let text = beyond(&key, state.epoch, again.last());
                    self.findings.differ(Place::Row(key), repair_action, &text);
                }
                AsOf::Unknown => {
                    self.findings.untold += 1;
                    self.passed_over.insert((key.size, key.start));
                }
            }
        }
    }

    fn judge_bar(
        &mut self,
        again: &Recomputation<'_>,
        key: BarKey,
        state: &BarState,
        mismatches: Vec<String>,
        as_of: Epoch,
    ) {
        let want = again
            .oracle
            .bar_as_of(key.symbol.as_str(), key.size, key.start, as_of);
        let judged = match self.trust {
            Trust::All => true,
            Trust::Since => {
                state.epoch <= again.confirmed
                    && bars::trades(&state.totals) <= want.map_or(0, |want| want.all.trades)
            }
            Trust::Presence => false,
        };
        let mut told = if judged {
            self.findings.bars.compared += 1;
            match want {
                None => vec!["the store has a bar, the log has no trades".to_owned()],
                Some(want) => bars::differences(&state.totals, &want),
            }
        } else {
            self.findings.bars.not_judged += 1;
            self.passed_over.insert((key.size, key.start));
            Vec::new()
        };
        // Whoever cannot be judged by the log can still be held against itself.
        told.extend(mismatches);
        let told = told.join("; ");
        if !told.is_empty() {
            let repair_action = self.repair_action(want.is_some());
            let text = format!("{key} (epoch {}): {told}", state.epoch);
            self.findings.differ(Place::Row(key), repair_action, &text);
        }
    }

    /// A list as it was read, and in what its lines stray from its cell; the bars must have been
    /// judged before.
    pub(super) fn list(
        &mut self,
        again: &Recomputation<'_>,
        key: ViewKey,
        state: ViewState,
        mismatches: Vec<String>,
    ) {
        match again.as_of(state.epoch) {
            AsOf::Epoch(as_of) => self.judge_list(again, key, &state, mismatches, as_of),
            AsOf::Unknown => self.later_lists.push((key, state, mismatches)),
        }
    }

    /// A list that cannot be judged as it was read: [`Judge::list_read_again`].
    pub(super) fn put_off(&mut self, key: ViewKey) {
        self.put_off.push(key);
    }

    pub(super) fn take_put_off(&mut self) -> Vec<ViewKey> {
        std::mem::take(&mut self.put_off)
    }

    /// A list, or lines without one, read again when all is known that was bound when they were
    /// read first. A committed epoch has its lists as well as its lines, and one that nobody has
    /// bound has neither.
    pub(super) fn list_read_again(
        &mut self,
        again: &Recomputation<'_>,
        key: ViewKey,
        state: Option<ViewState>,
        mut mismatches: Vec<String>,
        ahead: Option<Epoch>,
    ) {
        if let Some(ahead) = ahead
            && !(again.base + 1..=again.last()).contains(&ahead)
        {
            mismatches.push(format!("lines of epoch {ahead} stand beside it"));
        }
        match state {
            Some(state) => self.list(again, key, state, mismatches),
            None if mismatches.is_empty() => {
                if self.calls_for(again, key) {
                    self.missing(Place::List(key));
                }
            }
            None => self.unreadable(
                again,
                Place::List(key),
                &format!("{key}: lines stand there without a list"),
            ),
        }
    }

    /// Whether lists were put off.
    pub(super) fn has_later_lists(&self) -> bool {
        !self.later_lists.is_empty() || !self.put_off.is_empty()
    }

    /// Judges the lists that were put off.
    pub(super) fn later_lists(&mut self, again: &Recomputation<'_>) {
        for (key, state, mismatches) in std::mem::take(&mut self.later_lists) {
            match again.as_of(state.epoch) {
                AsOf::Epoch(as_of) => self.judge_list(again, key, &state, mismatches, as_of),
                AsOf::Unknown if state.epoch > again.last() => {
                    let repair_action =
                        self.repair_action(self.wanted(again, key, Epoch::MAX).is_some());
                    let text = beyond(&key, state.epoch, again.last());
                    self.findings.differ(Place::List(key), repair_action, &text);
                }
                AsOf::Unknown => self.findings.untold += 1,
            }
        }
    }

    fn judge_list(
        &mut self,
        again: &Recomputation<'_>,
        key: ViewKey,
        state: &ViewState,
        mismatches: Vec<String>,
        as_of: Epoch,
    ) {
        let judged = match self.trust {
            Trust::All => true,
            Trust::Since => {
                state.epoch <= again.confirmed && !self.passed_over.contains(&(key.size, key.start))
            }
            Trust::Presence => false,
        };
        let want = self.wanted(again, key, as_of);
        let mut told = if judged {
            self.findings.lists.compared += 1;
            match &want {
                None => vec!["the store has a list, the log has no trades for one".to_owned()],
                Some(want) => lists::differences(key.view, &state.entries, want),
            }
        } else {
            self.findings.lists.not_judged += 1;
            Vec::new()
        };
        told.extend(mismatches);
        let told = told.join("; ");
        if !told.is_empty() {
            let repair_action = self.repair_action(want.is_some());
            self.findings.differ(
                Place::List(key),
                repair_action,
                &format!("{key} (epoch {}): {told}", state.epoch),
            );
        }
    }

    /// A bar or a list that should be there, and is not.
    pub(super) fn missing(&mut self, place: Place) {
        let repair_action = self.repair_action(true);
        let text = match &place {
            Place::Row(_) => format!("{place}: the log has trades, the store has no bar"),
            Place::List(_) | Place::Unlisted(_) => {
                format!("{place}: the log has trades for it, the store has no list")
            }
        };
        self.findings.differ(place, repair_action, &text);
    }

    /// One that is there, and cannot be read.
    pub(super) fn unreadable(&mut self, again: &Recomputation<'_>, place: Place, reason: &str) {
        let wanted = match &place {
            Place::Row(key) => again
                .oracle
                .bar_as_of(key.symbol.as_str(), key.size, key.start, Epoch::MAX)
                .is_some(),
            Place::List(key) => self.wanted(again, *key, Epoch::MAX).is_some(),
            Place::Unlisted(_) => false,
        };
        let repair_action = self.repair_action(wanted);
        self.findings.differ(place, repair_action, reason);
    }

    /// What a list must be as of all that was committed before the store was read; none if nothing
    /// calls for one.
    pub(super) fn calls_for(&self, again: &Recomputation<'_>, key: ViewKey) -> bool {
        self.wanted(again, key, COMMITTED).is_some()
    }

    fn wanted(
        &self,
        again: &Recomputation<'_>,
        key: ViewKey,
        as_of: Epoch,
    ) -> Option<Vec<tapeflow_oracle::OracleEntry>> {
        again.oracle.list_as_of(
            lists::named(key.view),
            key.size,
            key.start,
            as_of,
            self.baskets,
        )
    }

    fn repair_action(&self, wanted: bool) -> RepairAction {
        match (self.trust, wanted) {
            (Trust::All, true) => RepairAction::Write,
            (Trust::All, false) => RepairAction::CannotBeDeleted,
            (Trust::Since | Trust::Presence, _) => RepairAction::OutOfReach,
        }
    }
}

fn beyond(key: &impl std::fmt::Display, label: Epoch, last: Epoch) -> String {
    format!("{key} (epoch {label}): labelled beyond the last bound epoch, {last}")
}
