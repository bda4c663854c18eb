//! An outage: something that a process needs does not answer. Its callers record the outage, and
//! the console reads it.
//!
//! It decides nothing: calls are retried with and without it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Characters kept of a reason: enough for a message, and no room for what a server may send.
const REASON_CHARS: usize = 200;

/// Since when something does not answer, and what the last attempt said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When the first attempt failed.
    pub since: Instant,
    /// The error of the last attempt, cut to one short line without control characters.
    pub reason: String,
}

/// The outage of one thing, if there is one now; clones share it.
#[derive(Clone, Debug, Default)]
pub struct OutageState(Arc<Mutex<Option<Outage>>>);

impl OutageState {
    /// An attempt failed.
    pub fn failed(&self, reason: &str) {
        let reason = one_line(reason);
        let mut now = self.lock();
        let since = now
            .as_ref()
            .map_or_else(Instant::now, |outage| outage.since);
        *now = Some(Outage { since, reason });
    }

    /// An attempt succeeded. Returns how long the outage was; `None` if there was none.
    pub fn answered(&self) -> Option<Duration> {
        self.lock().take().map(|outage| outage.since.elapsed())
    }

    /// The outage now.
    #[must_use]
    pub fn now(&self) -> Option<Outage> {
        self.lock().clone()
    }

    /// Each change is one assignment, so a poisoned lock still guards a valid state.
    fn lock(&self) -> MutexGuard<'_, Option<Outage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A short text of one line: what a server said must not write to a terminal what it likes.
fn one_line(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.chars().take(REASON_CHARS).map(printable).collect();
    if text.chars().nth(REASON_CHARS).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_begins_with_its_first_failure_and_ends_with_an_answer() {
        let state = OutageState::default();
        assert_eq!((state.now(), state.answered()), (None, None));
        state.failed("disk is full");
        let first = state.now().expect("an outage");
        state.failed("no answer\r\u{1b}[2J");
        let second = state.now().expect("an outage");
        assert_eq!(second.since, first.since);
        assert_eq!(second.reason, "no answer  [2J");
        assert!(state.answered().is_some());
        assert_eq!(state.now(), None);
    }

    #[test]
    fn a_reason_is_bounded() {
        let state = OutageState::default();
        state.failed(&"é".repeat(REASON_CHARS + 1));
        let reason = state.now().expect("an outage").reason;
        assert_eq!(reason, "é".repeat(REASON_CHARS) + "…");
    }
}
