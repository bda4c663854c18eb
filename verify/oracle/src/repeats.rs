//! The duplicate filter of one partition, as plainly as it can be said: a list of sessions, each
//! with the set of what was heard of it.

use std::collections::{BTreeSet, VecDeque};

use tapeflow_schemas::SessionId;

/// Sessions remembered in a partition.
const SESSIONS: usize = 64;
/// A sequence this far below the highest counts as heard.
const WINDOW: u64 = 64;

/// What was heard in one partition, the session heard last at the back.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    sessions: VecDeque<(SessionId, BTreeSet<u64>)>,
}

impl Repeats {
    /// Hears of a record. `None` if it repeats one; else how many sequences it skipped.
    pub(crate) fn hear(&mut self, session: SessionId, sequence: u64) -> Option<u64> {
        let found = self
            .sessions
            .iter()
            .position(|(id, _)| *id == session)
            .and_then(|at| self.sessions.remove(at));
        let known = found.is_some();
        let (_, mut heard) = found.unwrap_or((session, BTreeSet::from([sequence])));
        let highest = heard.last().copied().unwrap_or(sequence);
        let repeats =
            known && (heard.contains(&sequence) || sequence.saturating_add(WINDOW) <= highest);
        let skipped = sequence.saturating_sub(highest).saturating_sub(1);
        if !repeats {
            heard.insert(sequence);
            heard.retain(|old| old.saturating_add(WINDOW) > highest.max(sequence));
        }
        self.sessions.push_back((session, heard));
        if self.sessions.len() > SESSIONS {
            self.sessions.pop_front();
        }
        (!repeats).then_some(skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(heard: &[u64], want: &[Option<u64>]) {
        let mut repeats = Repeats::default();
        let said: Vec<_> = heard
            .iter()
            .map(|sequence| repeats.hear(SessionId([7; 16]), *sequence))
            .collect();
        assert_eq!(said, want, "{heard:?}");
    }

    #[test]
    fn a_sequence_counts_once_and_a_gap_is_told() {
        check(
            &[5, 6, 6, 5, 9, 8, 8],
            &[Some(0), Some(0), None, None, Some(2), Some(0), None],
        );
    }

    #[test]
    fn a_session_may_begin_anywhere_and_what_is_far_below_counts_as_heard() {
        check(
            &[100, 99, 37, 36, 37],
            &[Some(0), Some(0), Some(0), None, None],
        );
        check(
            &[1, 65, 1, 2, 66, 2, 3],
            &[Some(0), Some(63), None, Some(0), Some(0), None, Some(0)],
        );
    }

    #[test]
    fn the_session_unheard_for_longest_is_forgotten() {
        let mut repeats = Repeats::default();
        for id in 0..64 {
            assert_eq!(repeats.hear(SessionId([id; 16]), 1), Some(0));
        }
        // A duplicate counts as heard, so the next to go is session 1.
        assert_eq!(repeats.hear(SessionId([0; 16]), 1), None);
        assert_eq!(repeats.hear(SessionId([64; 16]), 1), Some(0));
        assert_eq!(repeats.hear(SessionId([0; 16]), 1), None);
        assert_eq!(repeats.hear(SessionId([1; 16]), 1), Some(0));
    }
}
