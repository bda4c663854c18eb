//! The duplicate filter of one partition: a sequence that a session has sent before is dropped.
//!
//! It is decision state: it travels in the binding, as of the cut, and is bounded by records, never
//! by a clock. A replay that starts with a newer filter than its cut would drop records it must
//! count, which is why it does not live in bars.
//!
//! Sequences are dense per (session, partition), and a producer that retries repeats the youngest
//! ones, so a window of 64 below the highest is enough to tell a repeat from a late arrival.

use tapeflow_schemas::SessionId;

use crate::checkpoint::SessionWindow;

/// How many sessions a partition remembers; the least recently heard is forgotten first.
pub const SESSIONS_REMEMBERED: usize = 64;
/// How far below the highest sequence a late one is still told from a repeat.
pub const SEQUENCE_WINDOW: u64 = 64;

/// What the filter says of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not seen before. `gap` sequences were skipped before it: records lost before the log, or
    /// still to come.
    Fresh {
        /// Sequences skipped.
        gap: u64,
    },
    /// Seen before, or so far below the highest that it counts as seen.
    Duplicate,
}

/// The filter, as of the records it has heard.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DuplicateFilter {
    /// Least recently heard first.
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

    /// What a cut records.
    #[must_use]
    pub fn windows(&self) -> &[SessionWindow] {
        &self.sessions
    }

    /// Hears of one record, and says whether it counts.
    pub fn hear(&mut self, session: SessionId, sequence: u64) -> Verdict {
        // Almost always the session heard last.
        let found = self
            .sessions
            .iter()
            .rposition(|window| window.session == session);
        match found {
            Some(at) => {
                if at + 1 != self.sessions.len() {
                    self.sessions[at..].rotate_left(1);
                }
            }
            None => {
                if self.sessions.len() == SESSIONS_REMEMBERED {
                    self.sessions.remove(0);
                }
                self.sessions.push(SessionWindow {
                    session,
                    highest: sequence,
                    seen: 1,
                });
                return Verdict::Fresh { gap: 0 };
            }
        }
        let window = self
            .sessions
            .last_mut()
            .expect("the session was found or put there");
        if sequence > window.highest {
            let step = sequence - window.highest;
            window.seen = if step < SEQUENCE_WINDOW {
                (window.seen << step) | 1
            } else {
                1
            };
            window.highest = sequence;
            return Verdict::Fresh { gap: step - 1 };
        }
        let below = window.highest - sequence;
        if below >= SEQUENCE_WINDOW || window.seen & (1 << below) != 0 {
            return Verdict::Duplicate;
        }
        window.seen |= 1 << below;
        Verdict::Fresh { gap: 0 }
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
        for (at, ((id, sequence), want)) in heard.iter().zip(want).enumerate() {
            // Cutting and resuming between any two records changes nothing.
            filter = DuplicateFilter::from_windows(filter.windows());
            assert_eq!(
                filter.hear(session(*id), *sequence),
                *want,
                "record {at}: session {id} sequence {sequence}"
            );
        }
    }

    const NEW: Verdict = Verdict::Fresh { gap: 0 };

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
    fn the_least_recently_heard_session_is_forgotten_first() {
        let mut filter = DuplicateFilter::default();
        for id in 0..64 {
            filter.hear(session(id), 1);
        }
        assert_eq!(filter.hear(session(0), 1), Verdict::Duplicate);
        filter.hear(session(64), 1);
        assert_eq!(
            filter.hear(session(0), 1),
            Verdict::Duplicate,
            "0 was heard lately"
        );
        assert_eq!(filter.hear(session(1), 1), NEW, "1 was forgotten");
        assert_eq!(filter.windows().len(), SESSIONS_REMEMBERED);
    }
}
