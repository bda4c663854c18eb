//! The duplicate filter of one partition: a queue of sessions, each with the set of its recent
//! sequences.

use std::collections::{BTreeSet, VecDeque};

use tapeflow_schemas::SessionId;

/// Sessions kept; the least recent one is forgotten first.
const SESSIONS: usize = 64;
/// A sequence this far below the highest one of its session counts as a duplicate.
const WINDOW: u64 = 64;

/// The sessions of one partition. The session of the last record is at the back.
#[derive(Debug, Default)]
pub(crate) struct DuplicateFilter {
    sessions: VecDeque<(SessionId, BTreeSet<u64>)>,
}

impl DuplicateFilter {
    /// Adds a record. `None` if it is a duplicate; otherwise the number of sequences that it
    /// skipped.
    pub(crate) fn accept(&mut self, session: SessionId, sequence: u64) -> Option<u64> {
        let found = self
            .sessions
            .iter()
            .position(|(id, _)| *id == session)
            .and_then(|at| self.sessions.remove(at));
        let known = found.is_some();
        let (_, mut sequences) = found.unwrap_or((session, BTreeSet::from([sequence])));
        let highest = sequences.last().copied().unwrap_or(sequence);
        let is_duplicate =
            known && (sequences.contains(&sequence) || sequence.saturating_add(WINDOW) <= highest);
        let skipped = sequence.saturating_sub(highest).saturating_sub(1);
        if !is_duplicate {
            sequences.insert(sequence);
            sequences.retain(|old| old.saturating_add(WINDOW) > highest.max(sequence));
        }
        self.sessions.push_back((session, sequences));
        if self.sessions.len() > SESSIONS {
            self.sessions.pop_front();
        }
        (!is_duplicate).then_some(skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sequences: &[u64], want: &[Option<u64>]) {
        let mut filter = DuplicateFilter::default();
        let skipped: Vec<_> = sequences
            .iter()
            .map(|sequence| filter.accept(SessionId([7; 16]), *sequence))
            .collect();
        assert_eq!(skipped, want, "{sequences:?}");
    }

    #[test]
    fn a_sequence_counts_once_and_a_gap_is_counted() {
        check(
            &[5, 6, 6, 5, 9, 8, 8],
            &[Some(0), Some(0), None, None, Some(2), Some(0), None],
        );
    }

    #[test]
    fn a_session_may_begin_anywhere_and_a_sequence_far_below_is_a_duplicate() {
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
    fn the_least_recent_session_is_forgotten() {
        let mut filter = DuplicateFilter::default();
        for id in 0..64 {
            assert_eq!(filter.accept(SessionId([id; 16]), 1), Some(0));
        }
        // A duplicate makes its session recent, so session 1 is forgotten next.
        assert_eq!(filter.accept(SessionId([0; 16]), 1), None);
        assert_eq!(filter.accept(SessionId([64; 16]), 1), Some(0));
        assert_eq!(filter.accept(SessionId([0; 16]), 1), None);
        assert_eq!(filter.accept(SessionId([1; 16]), 1), Some(0));
    }
}
