//! The duplicate filter of one partition: a queue of sessions, each with the set of its recent
//! sequences.

use std::collections::{BTreeSet, VecDeque};

use tapeflow_schemas::{Offset, SessionId};

/// Sessions kept; the least recent one is forgotten first.
const SESSIONS: usize = 64;
/// A session whose last record is further back than this is forgotten too.
const OFFSETS: Offset = 16_777_216;
/// A sequence this far below the highest one of its session counts as a duplicate.
const WINDOW: u64 = 64;
/// A sequence further above the highest one than this is not believed.
const LEAP: u64 = 1_048_576;

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It counts. So many sequences were skipped before it, at most [`LEAP`].
    Counts(u64),
    Duplicate,
    /// Its sequence is not believed.
    NotBelieved,
}

/// The sessions of one partition. The session of the last record is at the back.
#[derive(Debug, Default)]
pub(crate) struct DuplicateFilter {
    sessions: VecDeque<Session>,
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    /// The recent sequences that counted.
    sequences: BTreeSet<u64>,
    /// Whether only one record of the session has counted.
    is_new: bool,
    last_offset: Offset,
    /// The sequence of the last record, if it was not believed.
    not_believed: Option<u64>,
}

impl DuplicateFilter {
    /// Adds a record.
    pub(crate) fn add(&mut self, id: SessionId, sequence: u64, offset: Offset) -> Decision {
        self.sessions
            .retain(|session| offset.saturating_sub(OFFSETS) <= session.last_offset);
        let found = self
            .sessions
            .iter()
            .position(|session| session.id == id)
            .and_then(|at| self.sessions.remove(at));
        let (mut session, decision) = match found {
            Some(mut session) => {
                let decision = session.add(sequence);
                (session, decision)
            }
            None => (Session::new(id, sequence), Decision::Counts(0)),
        };
        session.last_offset = offset;
        self.sessions.push_back(session);
        if self.sessions.len() > SESSIONS {
            self.sessions.pop_front();
        }
        decision
    }
}

impl Session {
    fn new(id: SessionId, sequence: u64) -> Self {
        Self {
            id,
            sequences: BTreeSet::from([sequence]),
            is_new: true,
            last_offset: 0,
            not_believed: None,
        }
    }

    fn add(&mut self, sequence: u64) -> Decision {
        let highest = self.sequences.last().copied().unwrap_or(sequence);
        let is_below = sequence.saturating_add(WINDOW) <= highest;
        let is_above = sequence > highest.saturating_add(LEAP);
        if self.is_new && (is_below || is_above) {
            // One record proves nothing about the place of its session.
            *self = Self::new(self.id, sequence);
            return Decision::Counts(0);
        }
        if is_below || self.sequences.contains(&sequence) {
            return Decision::Duplicate;
        }
        let follows = self
            .not_believed
            .is_some_and(|before| before < sequence && sequence < before.saturating_add(WINDOW));
        if is_above && !follows {
            self.not_believed = Some(sequence);
            return Decision::NotBelieved;
        }
        self.not_believed = None;
        self.is_new = false;
        self.sequences.insert(sequence);
        let now_highest = highest.max(sequence);
        self.sequences
            .retain(|old| old.saturating_add(WINDOW) > now_highest);
        let skipped = sequence.saturating_sub(highest).saturating_sub(1);
        Decision::Counts(skipped.min(LEAP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Decision = Decision::Counts(0);

    fn check(sequences: &[u64], want: &[Decision]) {
        let mut filter = DuplicateFilter::default();
        let found: Vec<_> = (0..)
            .zip(sequences)
            .map(|(offset, sequence)| filter.add(SessionId([7; 16]), *sequence, offset))
            .collect();
        assert_eq!(found, want, "{sequences:?}");
    }

    #[test]
    fn a_sequence_counts_once_and_a_gap_is_counted() {
        use Decision::{Counts, Duplicate};
        check(
            &[5, 6, 6, 5, 9, 8, 8],
            &[NEW, NEW, Duplicate, Duplicate, Counts(2), NEW, Duplicate],
        );
    }

    #[test]
    fn a_session_may_begin_anywhere_and_a_sequence_far_below_is_a_duplicate() {
        use Decision::{Counts, Duplicate};
        check(
            &[100, 99, 37, 36, 37],
            &[NEW, NEW, NEW, Duplicate, Duplicate],
        );
        check(
            &[1, 65, 1, 2, 66, 2, 3],
            &[NEW, Counts(63), Duplicate, NEW, NEW, Duplicate, NEW],
        );
    }

    #[test]
    fn a_sequence_far_above_is_believed_only_with_its_successor() {
        use Decision::{Counts, NotBelieved};
        let far = 3 + LEAP;
        check(
            &[1, 2, far, 3, far, far + 1, far + 2],
            &[NEW, NEW, NotBelieved, NEW, Counts(LEAP - 1), NEW, NEW],
        );
        check(
            &[1, 2, far + 9, far + 10, far + 11],
            &[NEW, NEW, NotBelieved, Counts(LEAP), NEW],
        );
        check(&[u64::MAX / 2, 1, 2], &[NEW, NEW, NEW]);
    }

    #[test]
    fn the_least_recent_session_is_forgotten() {
        let mut filter = DuplicateFilter::default();
        for id in 0..64 {
            assert_eq!(filter.add(SessionId([id; 16]), 1, id.into()), NEW);
        }
        // A duplicate makes its session recent, so session 1 is forgotten next.
        let mut add = |id, offset| filter.add(SessionId([id; 16]), 1, offset);
        assert_eq!(add(0, 64), Decision::Duplicate);
        assert_eq!(add(64, 65), NEW);
        assert_eq!(add(0, 66), Decision::Duplicate);
        assert_eq!(add(1, 67), NEW);
    }
}
