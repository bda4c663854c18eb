//! The state of a spool: what its writer and its forwarder tell each other, and what the console
//! shows.

use std::{
    collections::VecDeque,
    fs::File,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::directory::Position;

/// A spool at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolNow {
    /// The bytes of its files.
    pub bytes: u64,
    /// The bound of its files.
    pub limit_bytes: u64,
    /// Records that the log has not acknowledged.
    pub records: u64,
    /// Records of an earlier run that were sent.
    pub replayed: u64,
    /// Bytes of a torn end that were cut at the start.
    pub cut_bytes: u64,
    /// How long the feed has waited for room, and why; `None` if it does not.
    pub full: Option<(Duration, &'static str)>,
    /// How long the call of the log under way has taken; `None` if none is.
    pub forwarding: Option<Duration>,
}

/// The state of a spool; clones share it.
#[derive(Clone, Debug)]
pub struct SpoolState(pub(super) Arc<watch::Sender<View>>);

impl SpoolState {
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self(Arc::new(watch::Sender::new(View {
            limit_bytes,
            ..View::default()
        })))
    }

    /// The state now.
    #[must_use]
    pub fn now(&self) -> SpoolNow {
        let view = self.0.borrow();
        SpoolNow {
            bytes: view.bytes(),
            limit_bytes: view.limit_bytes,
            records: view.waiting(),
            replayed: view.replayed,
            cut_bytes: view.cut_bytes,
            full: view.full.map(|(since, why)| (since.elapsed(), why)),
            forwarding: view.forwarding.map(|since| since.elapsed()),
        }
    }
}

/// What writer and forwarder share. Positions only grow.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) limit_bytes: u64,
    /// In order; the last one is written to.
    pub(super) segments: VecDeque<Segment>,
    /// The file of the last segment.
    pub(super) file: Option<Arc<File>>,
    /// The end of the whole entries.
    pub(super) written: Position,
    pub(super) written_records: u64,
    /// Up to where the log has acknowledged.
    pub(super) acknowledged: Position,
    pub(super) acknowledged_records: u64,
    pub(super) replayed: u64,
    pub(super) cut_bytes: u64,
    pub(super) full: Option<(Instant, &'static str)>,
    pub(super) forwarding: Option<Instant>,
    /// Why nothing can be sent or written any more.
    pub(super) error: Option<String>,
}

/// A segment and where its entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) begin: u64,
    pub(super) end: u64,
}

impl View {
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.end).sum()
    }

    pub(super) fn waiting(&self) -> u64 {
        self.written_records - self.acknowledged_records
    }

    pub(super) fn is_acknowledged(&self) -> bool {
        self.acknowledged == self.written
    }

    pub(super) fn fits(&self, bytes: u64) -> bool {
        self.bytes() + bytes <= self.limit_bytes
    }

    /// Whether an entry may be written. One that is larger than the bound passes when it is alone.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.fits(bytes) || (self.is_acknowledged() && self.segments.len() == 1)
    }

    /// The segment of a position.
    pub(super) fn segment(&self, number: u64) -> Option<Segment> {
        let found = |segment: &&Segment| segment.number == number;
        self.segments.iter().find(found).copied()
    }

    /// A position at the end of a segment is the beginning of the next one, if there is one.
    pub(super) fn normal(&self, position: Position) -> Position {
        let at = self.segments.iter();
        let mut after = at.skip_while(|segment| segment.number != position.segment);
        match (after.next(), after.next()) {
            (Some(here), Some(next)) if position.offset >= here.end => self.normal(Position {
                segment: next.number,
                offset: next.begin,
            }),
            _ => position,
        }
    }
}
