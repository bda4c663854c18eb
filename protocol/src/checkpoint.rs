//! The checkpoint of a job: the one durable record that only compare-and-set touches.
//!
//! It fixes which epochs exist (the bindings), which are committed, and which generation may bind.
//! After a crash, the job's state is a pure function of the checkpoint and the log. How a store
//! keeps it is in [`stored`].

mod filters;
pub mod stored;

use std::fmt;

use serde::{Deserialize, Serialize};
use tapeflow_schemas::{Epoch, Offset, SessionId, WriteTimestamp};

use crate::expiry;

/// The checkpoint format that this binary reads and writes. Formats 1 and 2 were those of builds
/// before the first release.
pub const CHECKPOINT_FORMAT: u32 = 3;

/// The durable state of a job.
///
/// Serde's form is for messages between processes of one build. A store keeps
/// [`Checkpoint::to_text`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// [`CHECKPOINT_FORMAT`].
    pub format: u32,
    /// The job's name. A keyspace belongs to one job.
    pub job: String,
    /// One run of the whole job, all its processes together. Each take-over adds one.
    pub generation: u64,
    /// Each successful compare-and-set adds one.
    pub version: u64,
    /// 32 random hexadecimal digits that each take-over draws; a repairer's begin with `repair-`. It
    /// tells our own proposal from another one with the same numbers.
    pub owner: String,
    /// The rules and settings that decide values, as text. Another fingerprint needs another
    /// keyspace.
    pub fingerprint: String,
    /// The log this job reads.
    pub source: SourceIdentity,
    /// The datacenter of the store whose quorums acknowledged everything so far; `None` if the
    /// store has none.
    pub datacenter: Option<String>,
    /// The write timestamp at which this generation rewrites the bars it replays, as of the last
    /// binding it took over.
    pub recovery_timestamp: WriteTimestamp,
    /// The largest write timestamp ever issued.
    pub last_write_timestamp: WriteTimestamp,
    /// The last epoch of which every bar is acknowledged by a quorum; its number is *c*.
    pub committed: Binding,
    /// The epochs after it that are bound, oldest first; the last one's number is *b*.
    pub bound: Vec<Binding>,
}

/// Which log a job reads: offsets mean nothing in another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceIdentity {
    /// The Kafka cluster's id, or the embedded log's own random id.
    pub cluster: String,
    /// The topic's name.
    pub topic: String,
    /// The topic's id where the broker tells it: a topic deleted and made again has another.
    pub topic_id: Option<String>,
}

impl SourceIdentity {
    /// Whether the log `now` is the log of this identity. A topic id that was unknown proves nothing.
    /// A known id must be present again: without it, a topic that was deleted and recreated looks
    /// like the old one.
    #[must_use]
    pub fn is_still(&self, now: &Self) -> bool {
        self.cluster == now.cluster
            && self.topic == now.topic
            && (self.topic_id.is_none() || self.topic_id == now.topic_id)
    }
}

/// A durable decision: the epoch ends at these cuts, and its bars are written at this write
/// timestamp. A binding never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The epoch.
    pub epoch: Epoch,
    /// The write timestamp of its bars.
    pub write_timestamp: WriteTimestamp,
    /// Where it ends in each partition; the index is the partition.
    pub cuts: Vec<Cut>,
}

/// Everything that later decisions depend on, as of one cut of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cut {
    /// The offset of the first record that is not in the epoch.
    pub next: Offset,
    /// The watermark: the largest event time of the accepted records below the cut, in
    /// milliseconds; `None` without such a record.
    pub watermark_ms: Option<i64>,
    /// The duplicate filter ([`crate::dedup`]), the session with the oldest last record first.
    pub filter: Vec<SessionWindow>,
    /// The newest offsets that were gone from the log before they were committed, and whose loss the
    /// operator has accepted. The decision is durable: they are in no epoch from this cut on, even
    /// if the log shows them again. Every later cut carries them along, so that an audit finds them
    /// in any checkpoint; the dead letters have earlier losses.
    pub lost: Option<LostRange>,
    /// The last record below the cut that was read, if any was. A log that was rolled back and has
    /// grown again has another record at its offset, or none.
    pub last: Option<LastRecord>,
}

/// What tells a record from any other that a log may have at its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRecord {
    /// Its offset.
    pub offset: Offset,
    /// A hash of its timestamp and bytes.
    pub hash: u64,
}

/// Offsets of one partition that are gone: half-open, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRange {
    /// The first that is gone.
    pub from: Offset,
    /// The first after it that is not.
    pub to: Offset,
}

/// What the duplicate filter remembers of one session in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionWindow {
    /// The session.
    pub session: SessionId,
    /// The highest sequence seen.
    pub highest: u64,
    /// Bit n: sequence `highest - n` was seen. Sequences below the window count as seen.
    pub seen: u64,
    /// The offset of the session's last record.
    pub last: Offset,
    /// How sure `highest` is.
    pub place: SessionPlace,
}

/// How sure the place of a session is: one record alone proves nothing ([`crate::dedup`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionPlace {
    /// One record is known.
    First,
    /// Two records or more agree.
    Known,
    /// The last record was far above `highest`. It was not counted.
    Leapt {
        /// Its sequence.
        to: u64,
    },
}

impl Checkpoint {
    /// The last binding: the last bound epoch, or the committed one if none is bound beyond it. Its
    /// epoch is *b*.
    #[must_use]
    pub fn last_binding(&self) -> &Binding {
        self.bound.last().unwrap_or(&self.committed)
    }

    /// The watermark of any partition as of the last binding, in milliseconds; `None`
    /// before the first trade.
    #[must_use]
    pub fn watermark_ms(&self) -> Option<i64> {
        self.last_binding().watermark_ms()
    }

    /// The next write timestamp of a binding or a take-over: after all issued ones, and no earlier
    /// than the clock `now_us`. A multiple of [`expiry::TIMESTAMP_STEP`].
    #[must_use]
    pub fn next_write_timestamp(&self, now_us: i64) -> WriteTimestamp {
        expiry::next_step(now_us.max(self.last_write_timestamp + 1))
    }
}

impl Binding {
    /// The watermark of any partition, in milliseconds.
    #[must_use]
    pub fn watermark_ms(&self) -> Option<i64> {
        self.cuts.iter().filter_map(|cut| cut.watermark_ms).max()
    }
}

impl LostRange {
    /// The number of offsets. The number of records may be smaller: some offsets have no record.
    #[must_use]
    pub fn offsets(&self) -> u64 {
        u64::try_from(self.to.saturating_sub(self.from)).unwrap_or(0)
    }

    /// Whether the range contains an offset.
    #[must_use]
    pub fn contains(&self, offset: Offset) -> bool {
        (self.from..self.to).contains(&offset)
    }

    /// The part of this loss that is new, if the cut before had lost `before`.
    #[must_use]
    pub fn beyond(self, before: Option<Self>) -> Option<Self> {
        match before {
            Some(before) if before == self => None,
            Some(before) if before.from == self.from => Some(Self {
                from: before.to,
                to: self.to,
            }),
            _ => Some(self),
        }
    }
}

impl fmt::Display for LostRange {
    /// The first and the last offset, both inclusive.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.from, self.to.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cut_lost_is_what_the_one_before_had_not() {
        let range = |from, to| LostRange { from, to };
        assert_eq!(range(3, 5).beyond(None), Some(range(3, 5)));
        assert_eq!(range(3, 5).beyond(Some(range(3, 5))), None, "carried along");
        assert_eq!(
            range(3, 9).beyond(Some(range(3, 5))),
            Some(range(5, 9)),
            "grown"
        );
        assert_eq!(
            range(7, 9).beyond(Some(range(3, 5))),
            Some(range(7, 9)),
            "another"
        );
        assert_eq!(
            (range(3, 5).to_string(), range(3, 5).offsets()),
            ("3 to 4".to_owned(), 2)
        );
    }
}
