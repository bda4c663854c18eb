//! The dead letters of a range of records, bounded per record and in bytes.
//!
//! A record may hold tens of thousands of invalid trades. Only the first [`LISTED_DEAD_LETTERS`]
//! become dead letters of their own, and only the first of these keeps the bytes of the record. One
//! more says how many others there are. So no record makes more than [`RECORD_BYTES`], and what is
//! written depends on the record alone. Every trade is counted, by its reason.

use std::{collections::BTreeMap, fmt::Display};

use tapeflow_log::LogRecord;
use tapeflow_protocol::{
    DeadLetter,
    store::{LISTED_DEAD_LETTERS, MAX_DEAD_LETTER_BYTES, MAX_DETAIL_BYTES, MAX_REASON_BYTES},
};

/// The most bytes of dead letters in an open map. A poll reads only as many records as there is
/// room for, so neither one record nor many of them exceed it.
const OPEN_BYTES: usize = 12 << 20;
/// The most bytes of dead letters that one record makes.
const RECORD_BYTES: usize = MAX_DEAD_LETTER_BYTES
    + (LISTED_DEAD_LETTERS + 1) * (size_of::<DeadLetter>() + MAX_REASON_BYTES + MAX_DETAIL_BYTES);
/// The most dead letters logged per epoch and source. Further ones are only written and counted, so
/// that many invalid records do not flood the log output.
const LOGGED: usize = 10;
/// The most reasons counted apart; the reason of an invalid frame is the producer's own word.
const REASONS: usize = 64;
/// The reason under which the others are counted.
const OTHER_REASON: &str = "other";

/// Dead letters, and the number of records and trades by reason.
#[derive(Debug, Default)]
pub(crate) struct DeadLetters {
    letters: Vec<DeadLetter>,
    bytes: usize,
    by_reason: BTreeMap<String, u64>,
}

impl DeadLetters {
    pub(crate) fn len(&self) -> usize {
        self.letters.len()
    }

    /// How many more records there is room for, however invalid they are.
    pub(crate) fn room_for_records(&self) -> usize {
        OPEN_BYTES.saturating_sub(self.bytes) / RECORD_BYTES
    }

    /// Takes them out.
    pub(crate) fn take(&mut self) -> Vec<DeadLetter> {
        self.bytes = 0;
        std::mem::take(&mut self.letters)
    }

    /// Keeps the first ones only, for a reader that writes none.
    pub(crate) fn truncate(&mut self, len: usize) {
        for letter in self.letters.drain(len.min(self.letters.len())..) {
            self.bytes -= memory(&letter);
        }
    }

    /// Takes out the number of records and trades by reason, since the last time.
    pub(crate) fn take_counts(&mut self) -> BTreeMap<String, u64> {
        std::mem::take(&mut self.by_reason)
    }

    /// Adds one that is complete, for one record.
    pub(crate) fn push(&mut self, letter: DeadLetter) {
        self.count(&letter.reason, 1);
        self.keep(letter);
    }

    fn count(&mut self, reason: &str, trades: u64) {
        if let Some(count) = self.by_reason.get_mut(reason) {
            *count += trades;
        } else if self.by_reason.len() < REASONS {
            self.by_reason.insert(reason.to_owned(), trades);
        } else {
            *self.by_reason.entry(OTHER_REASON.to_owned()).or_default() += trades;
        }
    }

    fn keep(&mut self, letter: DeadLetter) {
        if self.letters.len() < LOGGED {
            tracing::warn!(
                partition = letter.partition,
                offset = letter.offset,
                index = letter.index,
                reason = letter.reason,
                detail = letter.detail,
                "invalid record becomes a dead letter"
            );
        }
        self.bytes += memory(&letter);
        self.letters.push(letter);
    }
}

fn memory(letter: &DeadLetter) -> usize {
    size_of::<DeadLetter>() + letter.reason.len() + letter.detail.len() + letter.payload.len()
}

/// The dead letters of one record.
pub(crate) struct RecordDeadLetters<'a> {
    record: LogRecord<'a>,
    listed: usize,
    /// The first trade that is not listed.
    first_other: u32,
    others: BTreeMap<&'static str, u64>,
}

impl<'a> RecordDeadLetters<'a> {
    pub(crate) fn new(record: LogRecord<'a>) -> Self {
        Self {
            record,
            listed: 0,
            first_other: 0,
            others: BTreeMap::new(),
        }
    }

    /// Adds the record as a whole. `bytes` are those that are kept.
    pub(crate) fn whole(self, reason: &str, detail: &str, bytes: &[u8], into: &mut DeadLetters) {
        let letter = self.letter(0, reason, detail.to_owned(), bytes);
        into.push(letter);
    }

    /// Adds a trade. The detail is made only if it is kept.
    pub(crate) fn trade(
        &mut self,
        index: u32,
        reason: &'static str,
        detail: impl Display,
        into: &mut DeadLetters,
    ) {
        into.count(reason, 1);
        if self.listed == LISTED_DEAD_LETTERS {
            if self.others.is_empty() {
                self.first_other = index;
            }
            *self.others.entry(reason).or_default() += 1;
            return;
        }
        let bytes = match self.listed {
            0 => self.record.payload.unwrap_or_default(),
            _ => &[],
        };
        self.listed += 1;
        into.keep(self.letter(index, reason, detail.to_string(), bytes));
    }

    /// Ends the record: the last dead letter says what is not listed.
    pub(crate) fn end(self, into: &mut DeadLetters) {
        if self.others.is_empty() {
            return;
        }
        let reasons: Vec<String> = self
            .others
            .iter()
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        let detail = format!(
            "and {} more trades of this record: {}",
            self.others.values().sum::<u64>(),
            reasons.join(", ")
        );
        into.keep(self.letter(self.first_other, "more", detail, &[]));
    }

    fn letter(&self, index: u32, reason: &str, detail: String, bytes: &[u8]) -> DeadLetter {
        let mut detail = detail;
        detail.truncate(cut(&detail, MAX_DETAIL_BYTES).len());
        DeadLetter {
            partition: self.record.partition,
            offset: self.record.offset,
            index,
            reason: cut(reason, MAX_REASON_BYTES).to_owned(),
            detail,
            payload: bytes[..bytes.len().min(MAX_DEAD_LETTER_BYTES)].to_vec(),
        }
    }
}

/// The longest beginning of a text that has at most `bytes` bytes and ends between two characters.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(payload: &[u8]) -> LogRecord<'_> {
        LogRecord {
            partition: 1,
            offset: 7,
            timestamp_ms: 0,
            payload: Some(payload),
        }
    }

    #[test]
    fn a_record_lists_some_trades_keeps_its_bytes_once_and_counts_all() {
        let payload = vec![b'x'; 1 << 20];
        let mut all = DeadLetters::default();
        let mut of_record = RecordDeadLetters::new(record(&payload));
        for index in 0..30_000 {
            let reason = if index % 3 == 0 { "price" } else { "size" };
            of_record.trade(index, reason, "a detail", &mut all);
        }
        of_record.end(&mut all);
        assert!(all.bytes <= RECORD_BYTES, "{}", all.bytes);
        let counts = BTreeMap::from([("price".to_owned(), 10_000), ("size".to_owned(), 20_000)]);
        assert_eq!(all.take_counts(), counts);
        let letters = all.take();
        assert_eq!(letters.len(), LISTED_DEAD_LETTERS + 1);
        assert_eq!(letters[0].payload.len(), MAX_DEAD_LETTER_BYTES);
        assert!(letters[1..].iter().all(|letter| letter.payload.is_empty()));
        let last = &letters[LISTED_DEAD_LETTERS];
        assert_eq!(
            (last.index, last.reason.as_str(), last.detail.as_str()),
            (
                10,
                "more",
                "and 29990 more trades of this record: price 9996, size 19994"
            )
        );
    }

    #[test]
    fn words_of_a_record_are_cut_between_characters() {
        let mut all = DeadLetters::default();
        let long = "é".repeat(500_000);
        RecordDeadLetters::new(record(b"")).whole(&long, &long, long.as_bytes(), &mut all);
        assert!(all.bytes <= RECORD_BYTES, "{}", all.bytes);
        let letter = all.take().pop().expect("one");
        assert_eq!(
            (letter.reason.len(), letter.detail.len(), all.bytes),
            (MAX_REASON_BYTES, MAX_DETAIL_BYTES, 0)
        );
        for n in 0..1_000 {
            let reason = format!("r{n}");
            RecordDeadLetters::new(record(b"")).whole(&reason, "", b"", &mut all);
        }
        assert_eq!(all.take_counts().len(), REASONS + 1);
    }
}
