//! Times in which trades may be missing, because a feed was away.
//!
//! Only what a record itself says becomes a gap. A reader closes a gap that no record has closed.

use std::collections::BTreeMap;

use tapeflow_schemas::SessionId;

/// The last millisecond of the year 2199: no time is after it.
const LATEST_MS: i64 = 7_258_118_399_999;
/// A gap is at most 366 days long; of a longer one the end counts.
const LONGEST_MS: i64 = 366 * 24 * 60 * 60 * 1_000;
/// The bytes of a producer and of a cause that are kept.
const WORD_BYTES: usize = 64;

/// What a record says about the feed of its sender. Times are in milliseconds since 1970 UTC.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FeedReport {
    pub(crate) session: SessionId,
    pub(crate) sequence: u64,
    pub(crate) taken_ms: i64,
    pub(crate) producer: String,
    /// The name of the state in the schema.
    pub(crate) state: String,
    pub(crate) cause: String,
    pub(crate) from_ms: i64,
    pub(crate) to_ms: i64,
}

/// A time in which trades may be missing, in milliseconds since 1970 UTC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OracleGap {
    /// Since when.
    pub from_ms: i64,
    /// Until when; `None` if the record does not say.
    pub to_ms: Option<i64>,
    /// The session of the sender.
    pub session: SessionId,
    /// The sender's name.
    pub producer: String,
    /// Why the feed was away.
    pub cause: String,
}

/// All gaps, each with the first epoch that has a record of it.
#[derive(Debug, Default)]
pub(crate) struct Gaps(BTreeMap<OracleGap, u64>);

impl Gaps {
    /// Adds what a record says that existed at `known_ms`.
    pub(crate) fn add(&mut self, epoch: u64, report: FeedReport, known_ms: i64) {
        if let Some(gap) = gap_of(report, known_ms) {
            let first = self.0.entry(gap).or_insert(epoch);
            *first = epoch.min(*first);
        }
    }

    /// The gaps as of an epoch, ascending.
    pub(crate) fn as_of(&self, epoch: u64) -> impl Iterator<Item = &OracleGap> {
        let all = self.0.iter();
        all.filter(move |(_, of)| **of <= epoch).map(|(gap, _)| gap)
    }
}

fn gap_of(report: FeedReport, known_ms: i64) -> Option<OracleGap> {
    let known_ms = known_ms.clamp(0, LATEST_MS);
    let within = |ms: i64| ms.clamp(0, known_ms);
    let (latest_ms, to_ms) = match &*report.state {
        "ALIVE" => return None,
        "BACK" => (within(report.to_ms), Some(within(report.to_ms))),
        // A gap without length: it marks the window that was open.
        "ENDS" => (within(report.from_ms), Some(within(report.from_ms))),
        _ => (known_ms, None),
    };
    let from_ms = report.from_ms.min(latest_ms).max(latest_ms - LONGEST_MS);
    Some(OracleGap {
        from_ms: from_ms.max(0),
        to_ms,
        session: report.session,
        producer: short(report.producer),
        cause: short(report.cause),
    })
}

/// The longest beginning that ends between two characters.
fn short(mut word: String) -> String {
    while word.len() > WORD_BYTES {
        word.pop();
    }
    word
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use tapeflow_protocol::FeedGap;
    use tapeflow_schemas::codec::{FeedState, FeedStateHeader};

    use super::*;

    #[test]
    fn any_record_makes_the_gap_that_the_job_makes() {
        const STATES: [(FeedState, &str); 5] = [
            (FeedState::Begins, "BEGINS"),
            (FeedState::Away, "AWAY"),
            (FeedState::Back, "BACK"),
            (FeedState::Alive, "ALIVE"),
            (FeedState::Ends, "ENDS"),
        ];
        let mut rng = StdRng::seed_from_u64(1);
        let mut made = 0;
        for _ in 0..20_000 {
            let mut time = || match rng.random_range(0..4) {
                0 => rng.random(),
                1 => rng.random_range(-5..5),
                2 => LATEST_MS + rng.random_range(-5..5),
                _ => 1_700_000_000_000 + rng.random_range(-2..2) * LONGEST_MS,
            };
            let (from_ms, to_ms, known_ms) = (time(), time(), time());
            let (state, name) = STATES[rng.random_range(0..STATES.len())];
            let (producer, cause) = ("é".repeat(rng.random_range(0..40)), "x".repeat(70));
            let session = SessionId([rng.random_range(0..3); 16]);
            let theirs = FeedGap::of(
                &FeedStateHeader {
                    session,
                    sequence: 1,
                    taken_ms: 0,
                    producer: &producer,
                    state,
                    cause: &cause,
                    from_ms,
                    to_ms,
                    previous: None,
                    previous_sequence: 0,
                },
                known_ms,
            );
            let mine = FeedReport {
                session,
                sequence: 1,
                taken_ms: 0,
                producer,
                state: name.into(),
                cause,
                from_ms,
                to_ms,
            };
            let mine = gap_of(mine, known_ms).map(|gap| FeedGap {
                from_ms: gap.from_ms,
                to_ms: gap.to_ms,
                session: gap.session,
                producer: gap.producer,
                cause: gap.cause,
            });
            assert_eq!(mine, theirs, "{name} {from_ms} {to_ms} known {known_ms}");
            made += u32::from(mine.is_some());
        }
        assert!(made > 10_000, "{made}");
    }

    #[test]
    fn a_gap_is_of_the_first_epoch_that_has_it() {
        let report = |from_ms| FeedReport {
            session: SessionId([1; 16]),
            sequence: 1,
            taken_ms: 1_000,
            producer: "a".into(),
            state: "BACK".into(),
            cause: "silent".into(),
            from_ms,
            to_ms: 20,
        };
        let mut gaps = Gaps::default();
        gaps.add(7, report(10), 1_000);
        gaps.add(3, report(10), 1_000);
        gaps.add(5, report(12), 1_000);
        let counts: Vec<usize> = [2, 3, 4, 5].map(|epoch| gaps.as_of(epoch).count()).into();
        assert_eq!(counts, [0, 1, 1, 2]);
    }
}
