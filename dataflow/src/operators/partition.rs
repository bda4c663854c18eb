//! The decision state of one partition: which records are accepted, which are duplicates, and which
//! become dead letters.
//!
//! Decisions depend only on the earlier records of the partition, never on a clock, the cuts or the
//! number of workers. So the records of an epoch give the same result whenever and by whichever
//! worker they are read. The duplicate filter itself is [`tapeflow_protocol::dedup`].

use tapeflow_log::LogRecord;
use tapeflow_protocol::{
    Counts, Cut, DeadLetter, FeedGap, LastRecord, LostRange,
    dedup::{DuplicateFilter, SEQUENCE_LEAP, Verdict},
};
use tapeflow_schemas::{
    Offset, Partition, Position, Symbol,
    codec::{self, DecodeError, Entry, EntryError, FeedState, FeedStateHeader, Header},
    trade::{FUTURE_TOLERANCE_MS, record_time_ms},
};

use crate::{
    metrics::freshness::Samples,
    operators::{
        combine::{Added, Combiner},
        dead_letters::{DeadLetters, RecordDeadLetters},
        exchange::ExchangeItem,
    },
};

/// The decision state of one partition after the records so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionState {
    pub(crate) partition: Partition,
    /// The offset of the next record.
    pub(crate) next: Offset,
    watermark_ms: Option<i64>,
    filter: DuplicateFilter,
    /// The lost range that the next cut records.
    pub(crate) lost: Option<LostRange>,
    /// The last record read, which the next cut names. No decision depends on it.
    pub(crate) last: Option<LastRecord>,
}

/// The result of a range of records: combined trades, dead letters and counts.
pub(crate) struct Intake {
    pub(crate) combiner: Combiner,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) feed_gaps: Vec<FeedGap>,
    /// Sequences lost between two sessions of one producer.
    lost_sequences: u64,
    pub(crate) counts: Counts,
    pub(crate) samples: Samples,
}

impl Intake {
    pub(crate) fn new(combiner: Combiner) -> Self {
        Self {
            combiner,
            dead_letters: DeadLetters::default(),
            feed_gaps: Vec::new(),
            lost_sequences: 0,
            counts: Counts::default(),
            samples: Samples::default(),
        }
    }

    /// Takes out the feed gaps.
    pub(crate) fn take_gaps(&mut self) -> impl Iterator<Item = ExchangeItem> + use<> {
        let gaps = std::mem::take(&mut self.feed_gaps).into_iter();
        gaps.map(|gap| ExchangeItem::FeedGap(Box::new(gap)))
    }

    /// Takes out the number of sequences lost between sessions.
    pub(crate) fn take_lost_sequences(&mut self) -> u64 {
        std::mem::take(&mut self.lost_sequences)
    }

    /// The record as a whole becomes a dead letter, which keeps the first of these bytes.
    fn refuse(&mut self, record: LogRecord<'_>, reason: &str, detail: &str, bytes: &[u8]) {
        self.counts.dead_letters += 1;
        RecordDeadLetters::new(record).whole(reason, detail, bytes, &mut self.dead_letters);
    }
}

impl PartitionState {
    /// The state that a cut recorded.
    pub(crate) fn from_cut(partition: Partition, cut: &Cut) -> Self {
        let filter = DuplicateFilter::from_windows(&cut.filter);
        Self {
            partition,
            next: cut.next,
            watermark_ms: cut.watermark_ms,
            filter,
            lost: cut.lost,
            last: cut.last,
        }
    }

    /// The cut at the current offset.
    pub(crate) fn to_cut(&self) -> Cut {
        Cut {
            next: self.next,
            watermark_ms: self.watermark_ms,
            filter: self.filter.windows().to_vec(),
            lost: self.lost,
            last: self.last,
        }
    }

    /// Whether later records get the same decisions as from a cut.
    pub(crate) fn decides_as(&self, cut: &Cut) -> bool {
        self.watermark_ms == cut.watermark_ms && self.filter.windows() == cut.filter
    }

    /// Takes the decision state from a cut, because some of the records below it are gone.
    pub(crate) fn adopt(&mut self, cut: &Cut) {
        self.watermark_ms = cut.watermark_ms;
        self.filter = DuplicateFilter::from_windows(&cut.filter);
        self.last = cut.last;
    }

    /// Takes the next record. `entries` is scratch space that the caller keeps, so that this
    /// function allocates nothing.
    pub(crate) fn take(
        &mut self,
        record: LogRecord<'_>,
        entries: &mut Vec<Entry>,
        into: &mut Intake,
    ) {
        self.next = record.offset + 1;
        into.counts.records += 1;
        into.samples.record(record.timestamp_ms);
        let payload = record.payload.unwrap_or_default();
        let header = match codec::decode(payload, entries) {
            Ok(header) => header,
            Err(error) => {
                let reason = decode_reason(&error);
                return into.refuse(record, reason, &error.to_string(), payload);
            }
        };
        if let Some((session, sequence)) = header.identity() {
            match self.filter.observe(session, sequence, record.offset) {
                Verdict::Fresh { gap } => {
                    into.counts.gaps = into.counts.gaps.saturating_add(gap);
                }
                Verdict::Duplicate => {
                    into.counts.duplicates += 1;
                    return;
                }
                Verdict::Leap { highest } => {
                    let detail = format!(
                        "sequence {sequence} of session {session} is more than {SEQUENCE_LEAP} \
                         above {highest}, its highest so far"
                    );
                    return into.refuse(record, "sequence", &detail, payload);
                }
            }
        }
        match header {
            Header::InvalidFrame {
                reason,
                detail,
                frame,
                ..
            } => into.refuse(record, reason, detail, frame),
            Header::FeedState(state) => {
                let known_ms = record_time_ms(Some(state.taken_ms), record.timestamp_ms);
                into.feed_gaps.extend(FeedGap::of(&state, known_ms));
                self.count_lost(&state, into);
            }
            Header::Batch { taken_ms, .. } => {
                let known_ms = record_time_ms(Some(taken_ms), record.timestamp_ms);
                self.take_trades(record, known_ms, entries, into);
            }
            Header::Legacy => {
                let known_ms = record_time_ms(None, record.timestamp_ms);
                self.take_trades(record, known_ms, entries, into);
            }
        }
    }

    /// Counts what the session before a new one had appended and this partition does not have. A
    /// session that the filter has forgotten, or that ended below the first offset of the job, has
    /// no known end, and nothing is counted.
    fn count_lost(&self, state: &FeedStateHeader<'_>, into: &mut Intake) {
        let (FeedState::Begins, Some(previous)) = (state.state, state.previous) else {
            return;
        };
        let lost = self.filter.missing_up_to(previous, state.previous_sequence);
        if lost > 0 {
            tracing::warn!(
                partition = self.partition,
                producer = state.producer,
                session = %previous,
                lost,
                "log has lost records of a session that has ended; their trades are missing"
            );
        }
        into.lost_sequences = into.lost_sequences.saturating_add(lost);
    }

    /// Takes the trades of a record. `known_ms` is the time at which it existed.
    fn take_trades(
        &mut self,
        record: LogRecord<'_>,
        known_ms: i64,
        entries: &[Entry],
        into: &mut Intake,
    ) {
        let payload = record.payload.unwrap_or_default();
        let mut invalid = RecordDeadLetters::new(record);
        // All entries of a batch share one symbol, which is looked up once.
        let mut interned = None;
        for (index, entry) in (0u32..).zip(entries) {
            let trade = match entry.trade {
                Ok(trade) => trade,
                Err(EntryError::PriceUpdate) => {
                    into.counts.price_updates += 1;
                    continue;
                }
                Err(error) => {
                    let reason = entry_reason(&error);
                    invalid.trade(index, reason, error, &mut into.dead_letters);
                    into.counts.dead_letters += 1;
                    continue;
                }
            };
            if trade.event_time.is_future(known_ms) {
                let detail = format!(
                    "event time {} is more than {FUTURE_TOLERANCE_MS} ms after the record's own \
                     time {}",
                    trade.event_time,
                    tapeflow_schemas::window::format_utc(known_ms)
                );
                invalid.trade(index, "future", detail, &mut into.dead_letters);
                into.counts.dead_letters += 1;
                continue;
            }
            let symbol = match interned {
                Some((span, id)) if span == entry.symbol => Some(id),
                _ => into.combiner.intern(codec::symbol_bytes_of(payload, entry)),
            };
            let Some(symbol) = symbol else {
                let error = Symbol::check(codec::symbol_of(payload, entry))
                    .err()
                    .map_or_else(|| "too many symbols".to_owned(), |error| error.to_string());
                invalid.trade(index, "symbol", error, &mut into.dead_letters);
                into.counts.dead_letters += 1;
                continue;
            };
            interned = Some((entry.symbol, symbol));
            let position = Position {
                partition: self.partition,
                offset: record.offset,
                index,
            };
            let late = match into
                .combiner
                .add(symbol, &trade, position, self.watermark_ms)
            {
                Added::Counted { late } => late,
                Added::TooLate => {
                    let detail = format!(
                        "event time {} is beyond the horizon of every window size: the partition's \
                         watermark is {}",
                        trade.event_time,
                        tapeflow_schemas::window::format_utc(self.watermark_ms.unwrap_or(0))
                    );
                    invalid.trade(index, "too_late", detail, &mut into.dead_letters);
                    into.counts.dead_letters += 1;
                    continue;
                }
            };
            into.counts.accepted += 1;
            into.counts.late += u64::from(late);
            self.watermark_ms = self.watermark_ms.max(Some(trade.event_time.ms()));
        }
        invalid.end(&mut into.dead_letters);
    }
}

/// The dead letter of offsets that are lost. It depends on the binding alone, so that every write
/// of it is identical. Its index is one that no trade has, because the first lost record may have
/// its own dead letter.
pub(crate) fn lost_dead_letter(partition: Partition, lost: LostRange) -> DeadLetter {
    let detail = format!(
        "offsets {lost} of partition {partition} were gone from the log before they were \
         committed, or could not be read, and were given up (--accept-loss, --skip-batch): {} \
         offsets",
        lost.offsets()
    );
    DeadLetter {
        partition,
        offset: lost.from,
        index: u32::MAX,
        reason: "lost".to_owned(),
        detail,
        payload: Vec::new(),
    }
}

/// The reason under which a dead letter of a whole record is counted.
fn decode_reason(error: &DecodeError) -> &'static str {
    match error {
        DecodeError::UnknownFingerprint(_) => "unknown_fingerprint",
        DecodeError::Malformed { .. } => "malformed",
        DecodeError::Empty => "empty",
    }
}

/// The reason under which a dead letter of a single trade is counted.
fn entry_reason(error: &EntryError) -> &'static str {
    match error {
        EntryError::PriceUpdate => "price_update",
        EntryError::Symbol(_) => "symbol",
        EntryError::Price(_) => "price",
        EntryError::Size(_) => "size",
        EntryError::EventTime(_) => "event_time",
        EntryError::Notional => "notional",
    }
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::{
        Conditions, EventTime, Price, SessionId, Size, Trade,
        codec::{BatchHeader, encode_batch, encode_feed_state},
    };

    use super::*;
    use crate::limits::Limits;

    const NOW: i64 = 1_700_000_000_000;

    /// One partition, and what it has taken.
    struct Fixture {
        state: PartitionState,
        intake: Intake,
        entries: Vec<Entry>,
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                state: PartitionState::from_cut(0, &Cut::default()),
                intake: Intake::new(Combiner::new(
                    &["1m".parse().expect("a size")],
                    &tapeflow_schemas::Horizons::NONE,
                    &Limits::default(),
                )),
                entries: Vec::new(),
            }
        }

        fn take(&mut self, timestamp_ms: i64, payload: &[u8]) {
            let record = LogRecord {
                partition: 0,
                offset: self.state.next,
                timestamp_ms,
                payload: Some(payload),
            };
            self.state.take(record, &mut self.entries, &mut self.intake);
        }

        fn reasons(&mut self) -> Vec<(String, u64)> {
            self.intake.dead_letters.take_counts().into_iter().collect()
        }
    }

    fn batch(sequence: u64, taken_ms: i64, events: &[i64]) -> Vec<u8> {
        let one = |event_ms: &i64| {
            let (price, size) = (Price::from_e8(1), Size::from_e8(1));
            Trade::new(
                EventTime::from_ms(*event_ms).expect("a time"),
                price.expect("a price"),
                size.expect("a size"),
                Conditions::NONE,
            )
            .expect("a trade")
        };
        let trades: Vec<Trade> = events.iter().map(one).collect();
        let header = BatchHeader {
            symbol: "AAPL",
            source: "test",
            session: SessionId([7; 16]),
            sequence,
            taken_ms,
        };
        let mut payload = Vec::new();
        encode_batch(&mut payload, &header, &trades);
        payload
    }

    /// A legacy record of 990 kB with nothing but trades of price 0.
    fn junk() -> Vec<u8> {
        // No conditions, price 0, symbol A, time 0, size 1.
        let entry = [
            &[2, 0, 0, 0, 0, 0, 0, 0, 0, 2, b'A', 0][..],
            &1f64.to_le_bytes(),
        ]
        .concat();
        let count = 990_000 / entry.len();
        let mut record = Vec::new();
        let mut zigzag = 2 * count;
        while zigzag >= 0x80 {
            record.push(zigzag.to_le_bytes()[0] | 0x80);
            zigzag >>= 7;
        }
        record.push(zigzag.to_le_bytes()[0]);
        record.extend(entry.repeat(count));
        record.extend([0, 0]);
        record
    }

    #[test]
    fn a_trade_beyond_the_horizon_of_every_size_is_a_dead_letter_by_the_watermark_alone() {
        let mut fixture = Fixture::new();
        let horizons = "1m=1d".parse().expect("horizons");
        fixture.intake.combiner = Combiner::new(
            &["1m".parse().expect("a size")],
            &horizons,
            &Limits::default(),
        );
        let day = 86_400_000;
        // The second trade is far behind the first, the third not far enough.
        let minute = NOW - NOW % 60_000;
        fixture.take(
            NOW,
            &batch(1, NOW, &[minute, minute - day - 1, minute - day]),
        );
        assert_eq!(fixture.reasons(), [("too_late".to_owned(), 1)]);
        let counts = fixture.intake.counts;
        assert_eq!((counts.accepted, counts.dead_letters), (2, 1));
        // A clock decides nothing: the record's own time is years later.
        let mut late = Fixture::new();
        late.intake.combiner = Combiner::new(
            &["1m".parse().expect("a size")],
            &horizons,
            &Limits::default(),
        );
        late.take(NOW + 400 * day, &batch(1, NOW + 400 * day, &[minute]));
        assert_eq!(late.intake.counts.accepted, 1);
    }

    #[test]
    fn a_record_of_a_megabyte_of_invalid_trades_makes_few_dead_letters_and_counts_all() {
        let mut fixture = Fixture::new();
        fixture.take(NOW, &junk());
        assert_eq!(fixture.reasons(), [("price".to_owned(), 49_500)]);
        assert_eq!(
            (
                fixture.intake.counts.dead_letters,
                fixture.intake.counts.records
            ),
            (49_500, 1)
        );
        let letters = fixture.intake.dead_letters.take();
        let bytes: usize = letters
            .iter()
            .map(|letter| letter.payload.len() + letter.detail.len())
            .sum();
        assert!(bytes < 6_000, "{bytes} bytes in {} letters", letters.len());
        assert_eq!(
            letters.last().map(|letter| letter.detail.as_str()),
            Some("and 49490 more trades of this record: price 49490")
        );
    }

    #[test]
    fn invalid_records_fill_the_open_map_to_its_bound_and_no_further() {
        let mut fixture = Fixture::new();
        let payload = vec![b'x'; 4_096];
        let mut records = 0;
        while fixture.intake.dead_letters.room_for_records() > 0 {
            fixture.take(NOW, &payload);
            records += 1;
        }
        assert!((2_000..4_096).contains(&records), "{records}");
        let kept = fixture.intake.dead_letters.take();
        let bytes: usize = kept.iter().map(|letter| letter.payload.len()).sum();
        assert!(bytes < 12 << 20, "{bytes}");
        assert!(fixture.intake.dead_letters.room_for_records() >= 1_024);
    }

    #[test]
    fn a_forged_sequence_is_a_dead_letter_and_the_session_goes_on() {
        let mut fixture = Fixture::new();
        fixture.take(NOW, &batch(1, NOW, &[NOW]));
        fixture.take(NOW, &batch(2, NOW, &[NOW]));
        fixture.take(NOW, &batch(i64::MAX.unsigned_abs(), NOW, &[]));
        fixture.take(NOW, &batch(3, NOW, &[NOW]));
        fixture.take(NOW, &batch(3, NOW, &[NOW]));
        let counts = fixture.intake.counts;
        assert_eq!((counts.accepted, counts.duplicates, counts.gaps), (3, 1, 0));
        assert_eq!(fixture.reasons(), [("sequence".to_owned(), 1)]);
        let letter = fixture.intake.dead_letters.take().pop().expect("one");
        assert_eq!(
            letter.detail,
            "sequence 9223372036854775807 of session 07070707070707070707070707070707 is more than \
             1048576 above 2, its highest so far"
        );
    }

    #[test]
    fn a_session_that_begins_tells_what_the_one_before_had_and_the_log_has_not() {
        let mut fixture = Fixture::new();
        fixture.take(NOW, &batch(1, NOW, &[]));
        for (sequence, (previous, last)) in (1..).zip([(7, 1), (7, 4), (9, 4)]) {
            let header = FeedStateHeader {
                session: SessionId([8; 16]),
                sequence,
                taken_ms: NOW,
                producer: "finnhub",
                state: FeedState::Begins,
                cause: "restart",
                from_ms: NOW - 10,
                to_ms: NOW - 10,
                previous: Some(SessionId([previous; 16])),
                previous_sequence: last,
            };
            let mut payload = Vec::new();
            encode_feed_state(&mut payload, &header);
            fixture.take(NOW, &payload);
            fixture.take(NOW, &payload);
        }
        assert_eq!(fixture.intake.take_lost_sequences(), 3);
        let counts = fixture.intake.counts;
        assert_eq!((counts.records, counts.duplicates), (7, 3));
        assert_eq!(
            (counts.accepted, counts.dead_letters, counts.gaps),
            (0, 0, 0)
        );
        let gaps = &fixture.intake.feed_gaps;
        assert!(gaps.len() == 3 && gaps.iter().all(|gap| *gap == gaps[0]));
        assert_eq!((gaps[0].from_ms, gaps[0].to_ms), (NOW - 10, None));
    }

    #[test]
    fn a_trade_minutes_ahead_of_its_record_is_a_dead_letter_and_moves_no_watermark() {
        let mut fixture = Fixture::new();
        let limit = NOW + FUTURE_TOLERANCE_MS;
        fixture.take(NOW, &batch(1, NOW, &[NOW, limit + 1]));
        assert_eq!(fixture.state.watermark_ms, Some(NOW));
        fixture.take(NOW, &batch(2, NOW, &[limit]));
        assert_eq!(fixture.state.watermark_ms, Some(limit));
        assert_eq!(fixture.reasons(), [("future".to_owned(), 1)]);
    }

    #[test]
    fn a_record_that_claims_to_be_of_2199_is_held_against_the_time_of_the_log() {
        let in_2199 = 7_226_582_400_000;
        let mut fixture = Fixture::new();
        fixture.take(NOW, &batch(1, in_2199, &[in_2199, NOW]));
        assert_eq!(fixture.state.watermark_ms, Some(NOW));
        assert_eq!(fixture.reasons(), [("future".to_owned(), 1)]);
        // A recording that is replayed years later, and a log without timestamps.
        fixture.take(NOW, &batch(2, NOW, &[1_000]));
        fixture.take(-1, &batch(3, NOW, &[NOW]));
        assert_eq!(fixture.intake.counts.accepted, 3);
    }
}
