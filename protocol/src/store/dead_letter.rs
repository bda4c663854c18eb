//! A dead letter.

use tapeflow_schemas::{Offset, Partition, Position};

/// The most bytes of a record that a dead letter keeps.
pub const MAX_DEAD_LETTER_BYTES: usize = 4_096;

/// One record, or one trade of a record, that the job could not count, and the reason. Its
/// position in the log identifies it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeadLetter {
    /// The partition of the record.
    pub partition: Partition,
    /// The offset of the record.
    pub offset: Offset,
    /// The index of the trade in the record; 0 if the record as a whole is invalid.
    pub index: u32,
    /// The reason as a short word of a fixed list, which is also a metric's label.
    pub reason: String,
    /// The reason in words, with the offending value.
    pub detail: String,
    /// The first [`MAX_DEAD_LETTER_BYTES`] bytes of the record.
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
