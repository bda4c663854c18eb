//! The duplicate filter of one partition: it drops a sequence that its session has sent before.
//!
//! The filter is decision state: each binding records it as of its cut. Records alone move and
//! bound it, and no clock does. It is not part of the bars: a replay that started with a newer
//! filter than its cut would drop records that it must count.
//!
//! Sequences are dense per session and partition, and a producer that retries repeats its youngest
//! ones. So a window of 64 below the highest sequence tells a duplicate from a late arrival.
//!
//! One record alone never moves a session far. A forged or broken sequence would otherwise make
//! every real record after it look like a repeat:
//!
//! * A sequence more than [`SEQUENCE_LEAP`] above the highest one is a leap: a dead letter. Only if
//!   the next record of the session follows on it does the session move there. So a session goes on
//!   after a real loss of that many records, at the price of one record.
//! * The first record of a session that is not remembered may have any sequence, because earlier
//!   records may be gone from the log. So it fixes no place yet: if the second one is far from it,
//!   the second one counts, wherever it is.

use tapeflow_schemas::{Offset, SessionId};

use crate::checkpoint::{SessionPlace, SessionWindow};

/// The most sessions that a partition remembers. The one with the oldest last record is evicted
/// first.
pub const SESSIONS_REMEMBERED: usize = 64;
/// A session is forgotten when the partition has this many offsets after its last record. At 5,000
/// records a second in one partition these are 55 minutes: longer than a producer retries a record.
pub const SESSION_OFFSETS: Offset = 1 << 24;
/// How far below the highest sequence a late one is still distinguished from a duplicate.
pub const SEQUENCE_WINDOW: u64 = 64;
/// How far above the highest sequence the next one may be. Records that were lost before the log
/// leave a gap, and ingest loses none while it runs: this is room for a million of them.
pub const SEQUENCE_LEAP: u64 = 1 << 20;

/// What the filter decides about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not seen before. `gap` sequences were skipped before it: records lost before the log, or
    /// still to come. At most [`SEQUENCE_LEAP`].
    Fresh {
        /// Sequences skipped.
        gap: u64,
    },
    /// Seen before, or so far below the highest sequence that it counts as seen.
    Duplicate,
    /// More than [`SEQUENCE_LEAP`] above the highest sequence, and not where the session has gone
    /// on: the record must not be counted.
    Leap {
        /// The highest sequence of the session.
        highest: u64,
    },
}

/// The filter, as of the records it has observed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DuplicateFilter {
    /// The session with the oldest last record first.
    sessions: Vec<SessionWindow>,
}

impl DuplicateFilter {
    /// The filter as a cut recorded it.
    #[must_use]
    pub fn from_windows(windows: &[SessionWindow]) -> Self {
        Self {
            sessions: windows.to_vec(),
        }
    }

    /// The state that a cut records.
    #[must_use]
    pub fn windows(&self) -> &[SessionWindow] {
        &self.sessions
    }

    /// Observes the record at `offset` and decides whether it counts. Offsets ascend.
    pub fn observe(&mut self, session: SessionId, sequence: u64, offset: Offset) -> Verdict {
        let forgotten = self
            .sessions
            .iter()
            .take_while(|window| window.last < offset.saturating_sub(SESSION_OFFSETS))
            .count();
        self.sessions.drain(..forgotten);
        // Almost always the session of the record before.
        let found = self
            .sessions
            .iter()
            .rposition(|window| window.session == session);
        let Some(at) = found else {
            if self.sessions.len() == SESSIONS_REMEMBERED {
                self.sessions.remove(0);
            }
            self.sessions
                .push(SessionWindow::first(session, sequence, offset));
            return Verdict::Fresh { gap: 0 };
        };
        if at + 1 != self.sessions.len() {
            self.sessions[at..].rotate_left(1);
        }
        let window = self.sessions.last_mut().expect("the session was found");
        window.last = offset;
        window.observe(sequence)
    }

    /// How many sequences above the highest one of a session there were, if `last` was its last
    /// one; at most [`SEQUENCE_LEAP`]. 0 if the session is not remembered.
    #[must_use]
    pub fn missing_up_to(&self, session: SessionId, last: u64) -> u64 {
        let window = self.sessions.iter().rfind(|of| of.session == session);
        window.map_or(0, |window| {
            last.saturating_sub(window.highest).min(SEQUENCE_LEAP)
        })
    }
}

impl SessionWindow {
    /// A session of which one record is known.
    fn first(session: SessionId, sequence: u64, offset: Offset) -> Self {
        Self {
            session,
            highest: sequence,
            seen: 1,
            last: offset,
            place: SessionPlace::First,
        }
    }

    fn observe(&mut self, sequence: u64) -> Verdict {
        if self.place == SessionPlace::First && !self.is_near(sequence) {
            *self = Self::first(self.session, sequence, self.last);
            return Verdict::Fresh { gap: 0 };
        }
        if sequence > self.highest {
            let step = sequence - self.highest;
            if step > SEQUENCE_LEAP && !self.follows_leap(sequence) {
                self.place = SessionPlace::Leapt { to: sequence };
                return Verdict::Leap {
                    highest: self.highest,
                };
            }
            self.seen = if step < SEQUENCE_WINDOW {
                (self.seen << step) | 1
            } else {
                1
            };
            self.highest = sequence;
            self.place = SessionPlace::Known;
            return Verdict::Fresh {
                gap: (step - 1).min(SEQUENCE_LEAP),
            };
        }
        let below = self.highest - sequence;
        if below >= SEQUENCE_WINDOW || self.seen & (1 << below) != 0 {
            return Verdict::Duplicate;
        }
        self.seen |= 1 << below;
        self.place = SessionPlace::Known;
        Verdict::Fresh { gap: 0 }
    }

    /// Whether a sequence is within the window below the highest one, or no leap above it.
    fn is_near(&self, sequence: u64) -> bool {
        if sequence > self.highest {
            sequence - self.highest <= SEQUENCE_LEAP
        } else {
            self.highest - sequence < SEQUENCE_WINDOW
        }
    }

    /// Whether the record before leapt, and this one follows on it.
    fn follows_leap(&self, sequence: u64) -> bool {
        match self.place {
            SessionPlace::Leapt { to } => sequence > to && sequence - to < SEQUENCE_WINDOW,
            SessionPlace::First | SessionPlace::Known => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(n: u8) -> SessionId {
        SessionId([n; 16])
    }

    fn check(heard: &[(u8, u64)], want: &[Verdict]) {
        let mut filter = DuplicateFilter::default();
        for ((at, (id, sequence)), want) in (0..).zip(heard).zip(want) {
            // Cutting and resuming between any two records changes nothing.
            filter = DuplicateFilter::from_windows(filter.windows());
            assert_eq!(
                filter.observe(session(*id), *sequence, at),
                *want,
                "record {at}: session {id} sequence {sequence}"
            );
        }
    }

    const NEW: Verdict = Verdict::Fresh { gap: 0 };

    #[test]
    fn what_a_session_had_beyond_its_highest_sequence_is_missing() {
        let mut filter = DuplicateFilter::default();
        filter.observe(session(1), 7, 0);
        filter.observe(session(2), 3, 1);
        let missing = [(1, 7), (1, 9), (1, 0), (1, u64::MAX), (3, 9)]
            .map(|(id, last)| filter.missing_up_to(session(id), last));
        assert_eq!(missing, [0, 2, 0, SEQUENCE_LEAP, 0]);
    }

    #[test]
    fn one_forged_sequence_silences_no_session() {
        const FORGED: u64 = u64::MAX >> 1;
        check(
            &[
                (1, 1),
                (1, 2),
                (1, FORGED),
                (1, 3),
                (1, FORGED),
                (1, FORGED),
                (1, 4),
                (1, 4),
            ],
            &[
                NEW,
                NEW,
                Verdict::Leap { highest: 2 },
                NEW,
                Verdict::Leap { highest: 3 },
                Verdict::Leap { highest: 3 },
                NEW,
                Verdict::Duplicate,
            ],
        );
        // Before the session's first real record, and between the first and the second.
        check(
            &[(1, FORGED), (1, 1), (1, 2), (1, 2)],
            &[NEW, NEW, NEW, Verdict::Duplicate],
        );
        check(
            &[
                (1, 9_000_000),
                (1, 1),
                (1, 9_000_001),
                (1, 9_000_002),
                (1, 9_000_001),
            ],
            &[NEW, NEW, NEW, NEW, Verdict::Duplicate],
        );
    }

    #[test]
    fn a_session_that_goes_on_beyond_a_leap_loses_one_record() {
        let far = 10 + SEQUENCE_LEAP;
        check(
            &[
                (1, 8),
                (1, 9),
                (1, far),
                (1, far + 1),
                (1, far + 2),
                (1, far + 1),
                (1, 9),
            ],
            &[
                NEW,
                NEW,
                Verdict::Leap { highest: 9 },
                Verdict::Fresh { gap: SEQUENCE_LEAP },
                NEW,
                Verdict::Duplicate,
                Verdict::Duplicate,
            ],
        );
        // The longest step that is none, and a leap that the next record does not follow.
        check(
            &[
                (1, 8),
                (1, 9),
                (1, 9 + SEQUENCE_LEAP),
                (1, u64::MAX - 99),
                (1, u64::MAX),
            ],
            &[
                NEW,
                NEW,
                Verdict::Fresh {
                    gap: SEQUENCE_LEAP - 1,
                },
                Verdict::Leap {
                    highest: 9 + SEQUENCE_LEAP,
                },
                Verdict::Leap {
                    highest: 9 + SEQUENCE_LEAP,
                },
            ],
        );
    }

    #[test]
    fn a_session_is_forgotten_when_its_last_record_is_far_back_in_the_partition() {
        let mut filter = DuplicateFilter::default();
        assert_eq!(filter.observe(session(1), 1, 10), NEW);
        assert_eq!(filter.observe(session(2), 1, 11), NEW);
        assert_eq!(
            filter.observe(session(2), 1, 10 + SESSION_OFFSETS),
            Verdict::Duplicate
        );
        assert_eq!(filter.windows().len(), 2, "the last offset that counts");
        assert_eq!(filter.observe(session(2), 2, 11 + SESSION_OFFSETS), NEW);
        assert_eq!(filter.windows().len(), 1);
        assert_eq!(filter.observe(session(1), 1, 12 + SESSION_OFFSETS), NEW);
    }

    #[test]
    fn a_repeated_sequence_is_dropped_and_another_session_is_not() {
        check(
            &[(1, 1), (1, 2), (1, 2), (1, 1), (2, 1), (2, 1)],
            &[
                NEW,
                NEW,
                Verdict::Duplicate,
                Verdict::Duplicate,
                NEW,
                Verdict::Duplicate,
            ],
        );
    }

    #[test]
    fn gaps_are_counted_and_a_late_arrival_still_counts_once() {
        check(
            &[(1, 5), (1, 8), (1, 6), (1, 6), (1, 9)],
            &[NEW, Verdict::Fresh { gap: 2 }, NEW, Verdict::Duplicate, NEW],
        );
    }

    #[test]
    fn below_the_window_everything_counts_as_seen() {
        check(
            &[(1, 1), (1, 200), (1, 137), (1, 136), (1, 137)],
            &[
                NEW,
                Verdict::Fresh { gap: 198 },
                NEW,
                Verdict::Duplicate,
                Verdict::Duplicate,
            ],
        );
        check(
            &[(1, 1), (1, 65), (1, 1), (1, 2)],
            &[NEW, Verdict::Fresh { gap: 63 }, Verdict::Duplicate, NEW],
        );
        check(
            &[(1, 1), (1, 64), (1, 1)],
            &[NEW, Verdict::Fresh { gap: 62 }, Verdict::Duplicate],
        );
    }

    #[test]
    fn the_least_recently_used_session_is_evicted_first() {
        let mut filter = DuplicateFilter::default();
        for id in 0..64 {
            filter.observe(session(id), 1, id.into());
        }
        assert_eq!(filter.observe(session(0), 1, 64), Verdict::Duplicate);
        filter.observe(session(64), 1, 65);
        assert_eq!(
            filter.observe(session(0), 1, 66),
            Verdict::Duplicate,
            "0 was used recently"
        );
        assert_eq!(filter.observe(session(1), 1, 67), NEW, "1 was evicted");
        assert_eq!(filter.windows().len(), SESSIONS_REMEMBERED);
    }
}
