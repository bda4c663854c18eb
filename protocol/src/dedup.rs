//! The duplicate filter of one partition: it drops a sequence that its session has sent before.
//!
//! The filter is decision state: each binding records it as of its cut. Records alone bound it, and
//! no clock does. It is not part of the bars: a replay that started with a newer filter than its cut
//! would drop records that it must count.
//!
//! Sequences are dense per session and partition, and a producer that retries repeats its youngest
//! ones. So a window of 64 below the highest sequence tells a duplicate from a late arrival.

use tapeflow_schemas::SessionId;

use crate::checkpoint::SessionWindow;

/// The most sessions that a partition remembers. The one with the oldest last record is evicted
/// first.
pub const SESSIONS_REMEMBERED: usize = 64;
/// How far below the highest sequence a late one is still distinguished from a duplicate.
pub const SEQUENCE_WINDOW: u64 = 64;

/// What the filter decides about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not seen before. `gap` sequences were skipped before it: records lost before the log, or
    /// still to come.
    Fresh {
        /// Sequences skipped.
        gap: u64,
    },
    /// Seen before, or so far below the highest sequence that it counts as seen.
    Duplicate,
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

    /// Observes one record and decides whether it counts.
    pub fn observe(&mut self, session: SessionId, sequence: u64) -> Verdict {
        // Almost always the session of the record before.
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
            .expect("the session was found or added");
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
                filter.observe(session(*id), *sequence),
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
    fn the_least_recently_used_session_is_evicted_first() {
        let mut filter = DuplicateFilter::default();
        for id in 0..64 {
            filter.observe(session(id), 1);
        }
        assert_eq!(filter.observe(session(0), 1), Verdict::Duplicate);
        filter.observe(session(64), 1);
        assert_eq!(
            filter.observe(session(0), 1),
            Verdict::Duplicate,
            "0 was used recently"
        );
        assert_eq!(filter.observe(session(1), 1), NEW, "1 was evicted");
        assert_eq!(filter.windows().len(), SESSIONS_REMEMBERED);
    }
}
