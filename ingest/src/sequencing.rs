//! Sequences: the place of every record in its session, from 1 in each partition without gaps.
//!
//! The records are a function of the frames and the partition count alone. A second replay of a
//! recording gives each record the sequence it had before, so [`Sequencer::resume_from`] can skip
//! the records that the log already holds.

use std::{collections::HashMap, ops::Range};

use tapeflow_log::{LastSession, NewRecord};
use tapeflow_schemas::{
    Partition, SessionId,
    codec::{self, BatchHeader, FeedState, FeedStateHeader, InvalidFrameHeader},
    partition_for,
};

use crate::{
    admission::Admitted,
    counts::Counts,
    presence::{Cause, Change},
};

/// The partition of invalid frames, which have no symbol.
pub const INVALID_FRAMES_PARTITION: Partition = 0;
/// Bound of the trades in one record: a frame of a megabyte must not become a record that Kafka
/// refuses (1 MB by default).
pub const MAX_TRADES_PER_RECORD: usize = 1_000;
/// Bound of the cached symbols; the cache is emptied when a feed has more.
const CACHED_SYMBOLS: usize = 100_000;

/// The origin of a frame's records.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The frame's number.
    pub line: u64,
    /// When it was taken in, in milliseconds since 1970 UTC.
    pub taken_ms: i64,
}

/// A record about the feed.
struct Said<'a> {
    state: FeedState,
    cause: &'static str,
    from_ms: i64,
    to_ms: i64,
    previous: Option<&'a LastSession>,
    now_ms: i64,
}

/// Encodes records and numbers them.
#[derive(Debug)]
pub struct Sequencer {
    session: SessionId,
    source: String,
    producer: String,
    last: Vec<u64>,
    held: Vec<u64>,
    partition_of: HashMap<Box<str>, Partition>,
}

impl Sequencer {
    /// A session whose first sequence is 1. `partitions` is at least one.
    #[must_use]
    pub fn new(session: SessionId, source: impl Into<String>, partitions: u32) -> Self {
        let partitions = vec![0; usize::try_from(partitions.max(1)).unwrap_or(1)];
        Self {
            session,
            source: source.into(),
            producer: String::new(),
            held: partitions.clone(),
            last: partitions,
            partition_of: HashMap::new(),
        }
    }

    /// Names the sender in what is said about its feed.
    #[must_use]
    pub fn of_producer(self, producer: &str) -> Self {
        Self {
            producer: producer.to_owned(),
            ..self
        }
    }

    /// Skips records up to the last sequence that each partition already holds
    /// ([`tapeflow_log::LogWriter::last_sequences`]).
    pub fn resume_from(&mut self, last_sequences: &[u64]) {
        for (held, last) in self.held.iter_mut().zip(last_sequences) {
            *held = *last;
        }
    }

    /// Continues after the last sequence that each partition already holds: the frames to come are
    /// new ones.
    pub fn continue_from(&mut self, last_sequences: &[u64]) {
        self.resume_from(last_sequences);
        self.last.clone_from(&self.held);
    }

    /// Adds the records of a frame to `out`: one for each symbol, then one for each invalid frame.
    pub fn take(
        &mut self,
        admitted: &Admitted<'_>,
        origin: Origin,
        counts: &mut Counts,
        out: &mut Vec<NewRecord>,
    ) {
        for group in &admitted.groups {
            let partition = self.partition_of(&group.symbol);
            for trades in group.trades.chunks(MAX_TRADES_PER_RECORD) {
                let Some(sequence) = self.next(partition, counts) else {
                    continue;
                };
                let header = BatchHeader {
                    symbol: &group.symbol,
                    source: &self.source,
                    session: self.session,
                    sequence,
                    taken_ms: origin.taken_ms,
                };
                let mut payload = Vec::with_capacity(96 + 40 * trades.len());
                codec::encode_batch(&mut payload, &header, trades);
                out.push(NewRecord {
                    partition,
                    key: group.symbol.to_string(),
                    timestamp_ms: origin.taken_ms,
                    payload,
                    session: Some((self.session, sequence)),
                });
            }
        }
        for invalid in &admitted.invalid_frames {
            let Some(sequence) = self.next(INVALID_FRAMES_PARTITION, counts) else {
                continue;
            };
            let header = InvalidFrameHeader {
                session: self.session,
                sequence,
                taken_ms: origin.taken_ms,
                line: origin.line,
                reason: invalid.reason.word(),
                detail: &invalid.detail,
                frame: invalid.frame,
            };
            let mut payload = Vec::new();
            codec::encode_invalid_frame(&mut payload, &header);
            out.push(NewRecord {
                partition: INVALID_FRAMES_PARTITION,
                key: String::new(),
                timestamp_ms: origin.taken_ms,
                payload,
                session: Some((self.session, sequence)),
            });
        }
    }

    /// Adds the first records of a live run, one for each partition: the feed is away since then.
    pub fn begin(
        &mut self,
        from_ms: i64,
        cause: Cause,
        previous: Option<&LastSession>,
        now_ms: i64,
        counts: &mut Counts,
        out: &mut Vec<NewRecord>,
    ) {
        for partition in self.partitions() {
            let said = Said {
                state: FeedState::Begins,
                cause: cause.word(),
                from_ms,
                to_ms: from_ms,
                previous,
                now_ms,
            };
            self.say(partition, &said, counts, out);
        }
    }

    /// Adds a change of the feed, one record for each partition.
    pub fn change(
        &mut self,
        change: Change,
        now_ms: i64,
        counts: &mut Counts,
        out: &mut Vec<NewRecord>,
    ) {
        let (state, from_ms, to_ms, cause) = match change {
            Change::Away { from_ms, cause } => (FeedState::Away, from_ms, from_ms, cause),
            Change::Back {
                from_ms,
                to_ms,
                cause,
            } => (FeedState::Back, from_ms, to_ms, cause),
            Change::Ends { at_ms, cause } => (FeedState::Ends, at_ms, at_ms, cause),
        };
        let said = Said {
            state,
            cause: cause.word(),
            from_ms,
            to_ms,
            previous: None,
            now_ms,
        };
        for partition in self.partitions() {
            self.say(partition, &said, counts, out);
        }
    }

    /// Adds that the feed is there and idle. One partition is enough: nothing is missing.
    pub fn alive(&mut self, now_ms: i64, counts: &mut Counts, out: &mut Vec<NewRecord>) {
        let said = Said {
            state: FeedState::Alive,
            cause: "",
            from_ms: now_ms,
            to_ms: now_ms,
            previous: None,
            now_ms,
        };
        self.say(INVALID_FRAMES_PARTITION, &said, counts, out);
    }

    fn partitions(&self) -> Range<Partition> {
        0..Partition::try_from(self.last.len()).unwrap_or(Partition::MAX)
    }

    fn say(
        &mut self,
        partition: Partition,
        said: &Said<'_>,
        counts: &mut Counts,
        out: &mut Vec<NewRecord>,
    ) {
        let Some(sequence) = self.next(partition, counts) else {
            return;
        };
        let at = usize::try_from(partition).unwrap_or(usize::MAX);
        let previous_sequence = said.previous.and_then(|session| session.last.get(at));
        let header = FeedStateHeader {
            session: self.session,
            sequence,
            taken_ms: said.now_ms,
            producer: &self.producer,
            state: said.state,
            cause: said.cause,
            from_ms: said.from_ms,
            to_ms: said.to_ms,
            previous: said.previous.map(|session| session.session),
            previous_sequence: previous_sequence.copied().unwrap_or(0),
        };
        let mut payload = Vec::new();
        codec::encode_feed_state(&mut payload, &header);
        out.push(NewRecord {
            partition,
            key: String::new(),
            timestamp_ms: said.now_ms,
            payload,
            session: Some((self.session, sequence)),
        });
    }

    /// The next sequence of a partition; `None` if the log already holds it.
    fn next(&mut self, partition: Partition, counts: &mut Counts) -> Option<u64> {
        let at = usize::try_from(partition).ok()?;
        let last = self.last.get_mut(at)?;
        *last += 1;
        let fresh = *last > *self.held.get(at)?;
        *(if fresh {
            &mut counts.records
        } else {
            &mut counts.records_resumed
        }) += 1;
        fresh.then_some(*last)
    }

    fn partition_of(&mut self, symbol: &str) -> Partition {
        if let Some(partition) = self.partition_of.get(symbol) {
            return *partition;
        }
        if self.partition_of.len() >= CACHED_SYMBOLS {
            self.partition_of.clear();
        }
        let partition = partition_for(symbol, u32::try_from(self.last.len()).unwrap_or(1));
        self.partition_of.insert(symbol.into(), partition);
        partition
    }
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::codec::Header;

    use super::*;
    use crate::{admission::admit, frame::Frame};

    const SESSION: SessionId = SessionId([7; 16]);

    fn records(frames: &[String], partitions: u32, held: &[u64]) -> (Vec<NewRecord>, Counts) {
        let mut sequencer = Sequencer::new(SESSION, "test", partitions);
        sequencer.resume_from(held);
        let (mut out, mut counts) = (Vec::new(), Counts::default());
        for (line, text) in (1..).zip(frames) {
            let frame = Frame {
                line,
                bytes: text.as_bytes().to_vec(),
                taken_ms: None,
            };
            let admitted = admit(&frame, &mut counts);
            sequencer.take(
                &admitted,
                Origin { line, taken_ms: 5 },
                &mut counts,
                &mut out,
            );
        }
        (out, counts)
    }

    fn sequence_of(record: &NewRecord) -> u64 {
        let mut entries = Vec::new();
        let header = codec::decode(&record.payload, &mut entries).expect("our own record");
        let (session, sequence) = header.identity().expect("ours");
        assert_eq!(session, SESSION);
        sequence
    }

    fn frames() -> Vec<String> {
        let recorded = include_str!("../fixtures/finnhub-recorded.jsonl")
            .lines()
            .map(str::to_owned);
        recorded
            .chain([
                "{bad".to_owned(),
                concat!(
                    r#"{"type":"trade","data":[{"s":"MSFT","p":1,"t":1,"v":1},"#,
                    r#"{"s":"A","p":-1,"t":1,"v":1}]}"#
                )
                .to_owned(),
            ])
            .collect()
    }

    #[test]
    fn sequences_are_dense_from_one_in_each_partition() {
        for partitions in [1, 3, 4] {
            let (records, counts) = records(&frames(), partitions, &[]);
            let mut last = [0; 4];
            for record in &records {
                let last = &mut last[usize::try_from(record.partition).expect("small")];
                *last += 1;
                assert_eq!(sequence_of(record), *last);
                if !record.key.is_empty() {
                    assert_eq!(record.partition, partition_for(&record.key, partitions));
                }
            }
            assert_eq!(counts.records, u64::try_from(records.len()).expect("small"));
        }
    }

    #[test]
    fn a_second_run_adds_exactly_what_the_first_did_not_bring_home() {
        let (all, _) = records(&frames(), 3, &[]);
        for kept in 0..=all.len() {
            let mut held = vec![0; 3];
            for record in &all[..kept] {
                held[usize::try_from(record.partition).expect("small")] = sequence_of(record);
            }
            let (rest, counts) = records(&frames(), 3, &held);
            assert_eq!(rest, all[kept..]);
            assert_eq!(counts.records_resumed, u64::try_from(kept).expect("small"));
        }
    }

    #[test]
    fn a_dead_letter_carries_its_line_reason_and_text() {
        let (records, _) = records(&frames(), 4, &[]);
        let last = records.last().expect("some");
        assert_eq!((last.partition, last.key.as_str()), (0, ""));
        match codec::decode(&last.payload, &mut Vec::new()).expect("our own record") {
            Header::InvalidFrame {
                reason,
                detail,
                frame,
                taken_ms,
                ..
            } => {
                assert_eq!((reason, taken_ms), ("price", 5));
                assert_eq!(detail, "line 16, index 1: price is negative: \"-1\"");
                assert_eq!(frame, br#"{"s":"A","p":-1,"t":1,"v":1}"#);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_flood_in_one_frame_is_split_into_records_that_a_broker_takes() {
        let entries = vec![r#"{"s":"A","p":1,"t":1,"v":1}"#; 30_000].join(",");
        let (records, counts) = records(
            &[format!(r#"{{"type":"trade","data":[{entries}]}}"#)],
            2,
            &[],
        );
        assert_eq!((records.len(), counts.trades), (30, 30_000));
        assert!(records.iter().all(|record| record.payload.len() < 100_000));
    }
}
