//! The decision state of one partition: which records are accepted, which are duplicates, and which
//! become dead letters.
//!
//! Decisions depend only on the earlier records of the partition, never on a clock, the cuts or the
//! number of workers. So the records of an epoch give the same result whenever and by whichever
//! worker they are read. The duplicate filter itself is [`tapeflow_protocol::dedup`].

use tapeflow_log::LogRecord;
use tapeflow_protocol::{
    Counts, Cut, DeadLetter, LostRange,
    dedup::{DuplicateFilter, Verdict},
    store::MAX_DEAD_LETTER_BYTES,
};
use tapeflow_schemas::{
    Offset, Partition, Position, Symbol,
    codec::{self, DecodeError, Entry, EntryError, Header},
};

use crate::{metrics::freshness::Samples, operators::combine::Combiner};

/// The most dead letters logged per epoch and source. Further ones are only written and counted, so
/// that many invalid records do not flood the log output.
const DEAD_LETTERS_LOGGED: usize = 10;

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
}

/// The result of a range of records: combined trades, dead letters and counts.
pub(crate) struct Intake {
    pub(crate) combiner: Combiner,
    pub(crate) dead_letters: Vec<DeadLetter>,
    pub(crate) counts: Counts,
    pub(crate) samples: Samples,
}

impl Intake {
    pub(crate) fn new(combiner: Combiner) -> Self {
        Self {
            combiner,
            dead_letters: Vec::new(),
            counts: Counts::default(),
            samples: Samples::default(),
        }
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
        }
    }

    /// The cut at the current offset.
    pub(crate) fn to_cut(&self) -> Cut {
        Cut {
            next: self.next,
            watermark_ms: self.watermark_ms,
            filter: self.filter.windows().to_vec(),
            lost: self.lost,
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
                return self.dead_letter(
                    record,
                    0,
                    decode_reason(&error),
                    error.to_string(),
                    payload,
                    into,
                );
            }
        };
        let (session, taken_ms) = match header {
            Header::Batch {
                session,
                sequence,
                taken_ms,
            }
            | Header::InvalidFrame {
                session,
                sequence,
                taken_ms,
                ..
            } => (Some((session, sequence)), taken_ms),
            Header::Legacy => (None, record.timestamp_ms),
        };
        if let Some((session, sequence)) = session {
            match self.filter.observe(session, sequence) {
                Verdict::Fresh { gap } => into.counts.gaps += gap,
                Verdict::Duplicate => {
                    into.counts.duplicates += 1;
                    return;
                }
            }
        }
        if let Header::InvalidFrame {
            reason,
            detail,
            frame,
            ..
        } = header
        {
            return self.dead_letter(record, 0, reason, detail.to_owned(), frame, into);
        }
        // All entries of a batch share one symbol, which is looked up once.
        let mut interned = None;
        for (index, entry) in (0u32..).zip(entries.iter()) {
            let trade = match entry.trade {
                Ok(trade) => trade,
                Err(EntryError::PriceUpdate) => {
                    into.counts.price_updates += 1;
                    continue;
                }
                Err(error) => {
                    self.dead_letter(
                        record,
                        index,
                        entry_reason(&error),
                        error.to_string(),
                        payload,
                        into,
                    );
                    continue;
                }
            };
            if trade.event_time.is_far_future(taken_ms) {
                let detail = format!(
                    "event time {} is more than a day after the record's own time {}",
                    trade.event_time,
                    tapeflow_schemas::window::format_utc(taken_ms)
                );
                self.dead_letter(record, index, "future", detail, payload, into);
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
                self.dead_letter(record, index, "symbol", error, payload, into);
                continue;
            };
            interned = Some((entry.symbol, symbol));
            let position = Position {
                partition: self.partition,
                offset: record.offset,
                index,
            };
            let late = into
                .combiner
                .add(symbol, &trade, position, self.watermark_ms);
            into.counts.accepted += 1;
            into.counts.late += u64::from(late);
            self.watermark_ms = self.watermark_ms.max(Some(trade.event_time.ms()));
        }
    }

    fn dead_letter(
        &self,
        record: LogRecord<'_>,
        index: u32,
        reason: &str,
        detail: String,
        bytes: &[u8],
        into: &mut Intake,
    ) {
        into.counts.dead_letters += 1;
        if into.dead_letters.len() < DEAD_LETTERS_LOGGED {
            tracing::warn!(
                partition = self.partition,
                offset = record.offset,
                index,
                reason,
                detail,
                "invalid record becomes a dead letter"
            );
        }
        let payload = bytes[..bytes.len().min(MAX_DEAD_LETTER_BYTES)].to_vec();
        into.dead_letters.push(DeadLetter {
            partition: self.partition,
            offset: record.offset,
            index,
            reason: reason.to_owned(),
            detail,
            payload,
        });
    }
}

/// The dead letter of offsets that are lost. It depends on the binding alone, so that every write
/// of it is identical. Its index is one that no trade has, because the first lost record may have
/// its own dead letter.
pub(crate) fn lost_dead_letter(partition: Partition, lost: LostRange) -> DeadLetter {
    let detail = format!(
        "offsets {lost} of partition {partition} were gone from the log before they were \
         committed, and were given up (--accept-loss): {} offsets",
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
