//! What the process waits for now, since when and why: the same for `/readyz`, `/status`, the live
//! page and the terminal.
//!
//! An outage is no error of the process. It waits, loses nothing, and goes on by itself, so none of
//! them fails `/livez`.

use std::{
    fmt,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tapeflow_ingest::{Connection, FeedKind, Progress, spool::SpoolNow};

use crate::http::state::{JobState, ServerState};

/// An append or an epoch under way for this long is late: each takes milliseconds while its server
/// answers.
const LATE: Duration = Duration::from_secs(10);
/// A job that commits nothing for this long, beyond two epochs, is held up, though no call has
/// failed: a slow store answers each call in time.
const HELD_UP: Duration = Duration::from_secs(30);

/// What the process waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// `store`, `log`, `spool`, `feed` or `job`.
    pub(crate) part: &'static str,
    pub(crate) lasts: Duration,
    pub(crate) reason: String,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            part,
            lasts,
            reason,
        } = self;
        write!(f, "{part}, for {}: {reason}", lasted(*lasts))
    }
}

impl Waiting {
    pub(crate) fn json(&self) -> Value {
        json!({ "part": self.part, "seconds": self.lasts.as_secs_f64(), "reason": self.reason })
    }
}

/// A duration for a person, in its two largest units.
pub(crate) fn lasted(time: Duration) -> String {
    match time.as_secs() {
        s @ ..60 => format!("{s} s"),
        s @ ..3_600 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
    }
}

/// All of them, the longest first; empty if all is well.
pub(crate) fn outages(state: &ServerState) -> Vec<Waiting> {
    let mut found = Vec::new();
    if let Some(job) = &state.job {
        found.extend(of_job(job, state.started));
    }
    if let Some(feed) = &state.feed {
        found.extend(of_feed(feed));
        found.extend(of_appends(state, feed));
    }
    found.sort_by_key(|waiting| std::cmp::Reverse(waiting.lasts));
    found
}

fn of_job(job: &JobState, started: Instant) -> Vec<Waiting> {
    let mut found = Vec::new();
    let held_up = HELD_UP.saturating_add(job.epoch.saturating_mul(2));
    if let Some(outage) = job.metrics.store_outage() {
        found.push(Waiting {
            part: "store",
            lasts: outage.since.elapsed(),
            reason: outage.reason,
        });
    } else if let Some(lasts) = job.metrics.progress_age().filter(|age| *age > held_up) {
        found.push(Waiting {
            part: "job",
            lasts,
            reason: "records wait and nothing is committed; the store may be slow".into(),
        });
    }
    if let Some(lasts) = job.end_offsets.silence(job.partitions(), started) {
        found.push(Waiting {
            part: "log",
            lasts,
            reason: "does not say where it ends".into(),
        });
    }
    found
}

/// A recording has no connection; any other feed must be connected.
fn of_feed(feed: &Progress) -> Option<Waiting> {
    if let Some(outage) = feed.outage() {
        return Some(Waiting {
            part: "feed",
            lasts: outage.since.elapsed(),
            reason: outage.reason,
        });
    }
    let begins = feed.kind() == FeedKind::Finnhub && feed.snapshot().connection == Connection::None;
    begins.then(|| Waiting {
        part: "feed",
        lasts: Duration::ZERO,
        reason: "not connected yet".into(),
    })
}

fn of_appends(state: &ServerState, feed: &Progress) -> Option<Waiting> {
    let known = state.append_outage.as_ref().and_then(|state| state.now());
    if let Some(outage) = known {
        return Some(Waiting {
            part: "log",
            lasts: outage.since.elapsed(),
            reason: outage.reason,
        });
    }
    if let Some(spool) = feed.spool() {
        return of_spool(&spool.now());
    }
    let lasts = feed.appending().filter(|lasts| *lasts >= LATE)?;
    Some(Waiting {
        part: "log",
        lasts,
        reason: "has not acknowledged what was appended".into(),
    })
}

/// A full spool is one at once: the feed is not read. While there is room, a log that is away is an
/// outage as without a spool.
fn of_spool(spool: &SpoolNow) -> Option<Waiting> {
    if let Some((lasts, why)) = spool.full {
        return Some(Waiting {
            part: "spool",
            lasts,
            reason: format!("{why}; the feed is not read"),
        });
    }
    let lasts = spool.forwarding.filter(|lasts| *lasts >= LATE)?;
    Some(Waiting {
        part: "log",
        lasts,
        reason: format!(
            "has not acknowledged what was appended; {} records wait in the spool, which is at \
             {} % of its size",
            spool.records,
            spool.bytes * 100 / spool.limit_bytes.max(1)
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_says_what_it_holds_and_when_it_is_full() {
        let spool = SpoolNow {
            bytes: 25,
            limit_bytes: 100,
            records: 7,
            replayed: 0,
            cut_bytes: 0,
            full: None,
            forwarding: Some(LATE),
        };
        let text = |spool: &SpoolNow| of_spool(spool).map(|waiting| waiting.to_string());
        assert_eq!(
            text(&spool).as_deref(),
            Some(
                "log, for 10 s: has not acknowledged what was appended; 7 records wait in the \
                 spool, which is at 25 % of its size"
            )
        );
        let full = SpoolNow {
            full: Some((Duration::from_secs(1), "its disk is full")),
            ..spool.clone()
        };
        assert_eq!(
            text(&full).as_deref(),
            Some("spool, for 1 s: its disk is full; the feed is not read")
        );
        let idle = SpoolNow {
            forwarding: None,
            ..spool
        };
        assert_eq!(text(&idle), None);
    }

    #[test]
    fn an_outage_says_what_since_when_and_why() {
        let waiting = |seconds| Waiting {
            part: "store",
            lasts: Duration::from_secs(seconds),
            reason: "database or disk is full".into(),
        };
        for (seconds, text) in [
            (12, "store, for 12 s: database or disk is full"),
            (75, "store, for 1 min 15 s: database or disk is full"),
            (7_260, "store, for 2 h 1 min: database or disk is full"),
        ] {
            assert_eq!(waiting(seconds).to_string(), text);
        }
    }

    #[test]
    fn a_live_feed_is_awaited_from_the_start_and_a_recording_never() {
        let of = |kind| of_feed(&Progress::new(kind)).map(|waiting| waiting.reason);
        assert_eq!(of(FeedKind::Finnhub).as_deref(), Some("not connected yet"));
        assert_eq!(of(FeedKind::Recording), None);
        assert_eq!(
            of(FeedKind::Simulated),
            None,
            "its history is appended first"
        );
    }
}
