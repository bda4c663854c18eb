//! The checkpoint of a job: the one durable record that only compare-and-set touches.
//!
//! It fixes which epochs exist (the bindings), which are committed, and which generation may bind.
//! After a crash, the job's state is a pure function of the checkpoint and the log. The checkpoint is
//! stored as JSON, so that an operator can read it.

use std::fmt;

use serde::{Deserialize, Serialize};
use tapeflow_schemas::{Epoch, Offset, SessionId, WriteTimestamp};

/// The newest checkpoint format that this binary reads and writes; a greater one is refused. Format
/// 1 is the first. In format 2 a cut may have lost offsets: a reader that ignored them would read
/// other records than the binding decided. A checkpoint has the oldest format that can express it.
pub const CHECKPOINT_FORMAT: u32 = 2;
/// The first format whose cuts may have lost offsets.
const FORMAT_WITH_LOSSES: u32 = 2;
/// The first format.
pub(crate) const FIRST_FORMAT: u32 = 1;

/// The durable state of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The oldest format that can express this checkpoint, at most [`CHECKPOINT_FORMAT`].
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
    /// in any checkpoint; the dead letters have earlier losses. (Always serialized: cuts also travel
    /// between processes in a format that knows fields by their order alone.)
    #[serde(default)]
    pub lost: Option<LostRange>,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionWindow {
    /// The session.
    pub session: SessionId,
    /// The highest sequence seen.
    pub highest: u64,
    /// Bit n: sequence `highest - n` was seen. Sequences below the window count as seen.
    pub seen: u64,
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

    /// The oldest format that can express this checkpoint.
    #[must_use]
    pub(crate) fn format_needed(&self) -> u32 {
        let mut cuts = std::iter::once(&self.committed)
            .chain(&self.bound)
            .flat_map(|binding| &binding.cuts);
        if cuts.any(|cut| cut.lost.is_some()) {
            FORMAT_WITH_LOSSES
        } else {
            FIRST_FORMAT
        }
    }

    /// The next write timestamp of a binding or a take-over: after all issued ones, and no earlier
    /// than the clock `now_us`.
    #[must_use]
    pub fn next_write_timestamp(&self, now_us: i64) -> WriteTimestamp {
        now_us.max(self.last_write_timestamp + 1)
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
    fn a_checkpoint_of_the_first_format_is_read_and_has_lost_nothing() {
        let text = r#"{"format":1,"job":"j","generation":2,"version":3,"owner":"o","fingerprint":"l",
            "source":{"cluster":"c","topic":"t","topic_id":null},
            "recovery_timestamp":4,"last_write_timestamp":5,
            "committed":{"epoch":1,"write_timestamp":4,
                "cuts":[{"next":7,"watermark_ms":8,"filter":[]}]},
            "bound":[]}"#;
        let checkpoint: Checkpoint = serde_json::from_str(text).expect("a checkpoint");
        assert_eq!(
            checkpoint.committed.cuts,
            [Cut {
                next: 7,
                watermark_ms: Some(8),
                ..Cut::default()
            }]
        );
        assert_eq!(checkpoint.format_needed(), 1);
        let mut lossy = checkpoint;
        lossy.committed.cuts[0].lost = Some(LostRange { from: 2, to: 5 });
        assert_eq!(lossy.format_needed(), 2);
        let again: Checkpoint = serde_json::from_str(&serde_json::to_string(&lossy).expect("JSON"))
            .expect("a checkpoint");
        assert_eq!(again, lossy);
    }

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
