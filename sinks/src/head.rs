//! The head of a job: the one durable record that only compare-and-set touches.
//!
//! It fixes which epochs exist (the bindings), which are committed, and who may bind: everything that is left after a crash is a pure
//! function of the head and the log. It is stored as JSON, so that an operator can read it.

use serde::{Deserialize, Serialize};
use tapeflow_schemas::{Offset, SessionId};

/// The format of heads this binary writes and reads. A greater one is refused.
pub const HEAD_FORMAT: u32 = 1;

/// An epoch's number: 1 is the first, 0 stands for "none yet".
pub type Epoch = u64;

/// Microseconds since 1970, strictly increasing over the bindings and take-overs of a job: the write timestamp of rows.
pub type Stamp = i64;

/// The durable state of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// [`HEAD_FORMAT`] of the binary that wrote it.
    pub format: u32,
    /// The job's name: a keyspace belongs to one job.
    pub job: String,
    /// One incarnation of the whole job, all its processes together; each take-over adds one.
    pub generation: u64,
    /// Each successful compare-and-set adds one.
    pub version: u64,
    /// Drawn at random by each take-over, 32 hexadecimal digits: tells our own proposal from one that merely looks like it.
    pub owner: String,
    /// The rules and settings that decide values. Another `logic` needs another keyspace.
    pub logic: String,
    /// The log this job reads.
    pub source: SourceIdentity,
    /// The stamp at which this generation rewrites the rows it replays, as of the last binding it took over.
    pub flush_stamp: Stamp,
    /// The largest stamp ever issued.
    pub last_stamp: Stamp,
    /// The last epoch of which every row is acknowledged by a quorum; its number is *c*.
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
    /// Whether the log that is there now is the one this identity was noted of. An id that was not known then proves nothing; one that was
    /// known must be told again, for without it a topic deleted and made again cannot be told from the old one.
    #[must_use]
    pub fn is_still(&self, now: &Self) -> bool {
        self.cluster == now.cluster && self.topic == now.topic && (self.topic_id.is_none() || self.topic_id == now.topic_id)
    }
}

/// A durable decision: the epoch ends at these cuts, and its rows are written at this stamp. It never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The epoch.
    pub epoch: Epoch,
    /// The write timestamp of its rows.
    pub stamp: Stamp,
    /// Where it ends in each partition; the index is the partition.
    pub cuts: Vec<Cut>,
}

/// Everything that decides about the records after a cut, as of that cut.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cut {
    /// The offset of the first record that is not in the epoch.
    pub next: Offset,
    /// The largest event time of the accepted records below the cut, in milliseconds; `None` if there is none.
    pub max_event_ms: Option<i64>,
    /// The duplicate filter, least recently heard session first.
    pub filter: Vec<SessionWindow>,
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

impl Head {
    /// The last binding: the last bound epoch, or the committed one if none is bound beyond it. Its epoch is *b*.
    #[must_use]
    pub fn last_binding(&self) -> &Binding {
        self.bound.last().unwrap_or(&self.committed)
    }

    /// The largest event time of any partition as of the last binding, in milliseconds; `None` before the first trade.
    #[must_use]
    pub fn max_event_ms(&self) -> Option<i64> {
        self.last_binding().max_event_ms()
    }

    /// The next stamp a binding or a take-over gets: after all others, and no earlier than the clock `now_us` says.
    #[must_use]
    pub fn next_stamp(&self, now_us: i64) -> Stamp {
        now_us.max(self.last_stamp + 1)
    }
}

impl Binding {
    /// The largest event time of any partition, in milliseconds.
    #[must_use]
    pub fn max_event_ms(&self) -> Option<i64> {
        self.cuts.iter().filter_map(|cut| cut.max_event_ms).max()
    }
}
