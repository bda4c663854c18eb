//! A dead letter.

use tapeflow_schemas::{Offset, Partition, Position};

/// The most bytes of a record that its dead letters keep.
pub const MAX_DEAD_LETTER_BYTES: usize = 4_096;
/// The most trades of one record that become dead letters of their own.
pub const LISTED_DEAD_LETTERS: usize = 10;
/// The longest reason, in bytes.
pub const MAX_REASON_BYTES: usize = 64;
/// The longest detail, in bytes.
pub const MAX_DETAIL_BYTES: usize = 512;

/// One record, or one trade of a record, that the job could not count, and the reason. Its
/// position in the log identifies it.
///
/// A record has at most [`LISTED_DEAD_LETTERS`] of them and one more, at the first trade that is
/// not listed, whose reason is `more` and whose detail says how many trades it stands for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeadLetter {
    /// The partition of the record.
    pub partition: Partition,
    /// The offset of the record.
    pub offset: Offset,
    /// The index of the trade in the record; 0 if the record as a whole is invalid.
    pub index: u32,
    /// The reason as a short word of a fixed list, which is also a metric's label; at most
    /// [`MAX_REASON_BYTES`]. That of an invalid frame is the word of its producer.
    pub reason: String,
    /// The reason in words, with the offending value; at most [`MAX_DETAIL_BYTES`].
    pub detail: String,
    /// The first [`MAX_DEAD_LETTER_BYTES`] bytes of the record; empty in all dead letters of a
    /// record but the first.
    pub payload: Vec<u8>,
}

impl DeadLetter {
    /// Partition, offset and index together.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            partition: self.partition,
            offset: self.offset,
            index: self.index,
        }
    }
}
