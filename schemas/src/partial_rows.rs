//! What one epoch adds to rows of bars, encoded: in this form partial sums wait for their binding
//! and travel between workers. Totals take more than 300 bytes in memory and about 40 here, and one
//! record can have a window for each of its trades.

use serde::{Deserialize, Serialize};

use crate::{
    CellError, PackedBar, PackedBars, Totals, WindowStart,
    cell::{Reader, put_totals},
};

/// Rows of one symbol, each with the totals of its bar and the packed bars within it:
///
/// ```text
///  number of its size │ start           │ length of the rest │ totals │ packed bars
///  one byte           │ 8, little-endian │ 4, little-endian   │        │
/// ```
///
/// The same row may be there more than once: then it has the sum.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialRows {
    rows: u32,
    bytes: Vec<u8>,
}

/// A row that is not decoded.
#[derive(Clone, Copy, Debug)]
pub struct PartialRow<'a> {
    /// The number of its size among those of the job. The size is not packed.
    pub size: u8,
    /// Its first millisecond.
    pub start: WindowStart,
    content: &'a [u8],
}

/// Packed bars that are not decoded: [`PackedBars::merge_encoded`].
#[derive(Clone, Copy, Debug)]
pub struct EncodedPackedBars<'a>(pub(crate) &'a [u8]);

impl PartialRows {
    /// The number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Adds a row, with its packed bars in any order.
    ///
    /// # Panics
    /// As [`PackedBars::of`].
    pub fn push(
        &mut self,
        (size, start): (u8, WindowStart),
        totals: &Totals,
        packed: &mut [PackedBar],
    ) {
        self.rows += 1;
        let out = &mut self.bytes;
        out.push(size);
        out.extend(start.to_le_bytes());
        let at = out.len();
        out.extend([0; 4]);
        put_totals(out, totals, start);
        PackedBars::put(out, start, packed);
        let length = u32::try_from(out.len() - at - 4).expect("a row has less than 4 GiB");
        out[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Takes the rows out, in memory of their exact size. What they took stays for reuse.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let taken = Self {
            rows: self.rows,
            bytes: self.bytes.as_slice().to_vec(),
        };
        self.rows = 0;
        self.bytes.clear();
        taken
    }

    /// The rows, not decoded.
    ///
    /// # Errors
    /// [`CellError::Damaged`] if the bytes are not those of rows. Nothing follows it.
    pub fn iter(&self) -> impl Iterator<Item = Result<PartialRow<'_>, CellError>> + '_ {
        let mut reader = Reader(&self.bytes);
        std::iter::from_fn(move || {
            if reader.is_empty() {
                return None;
            }
            let row = read_row(&mut reader);
            if row.is_none() {
                reader = Reader(&[]);
            }
            Some(row.ok_or(CellError::Damaged))
        })
    }
}

fn read_row<'a>(reader: &mut Reader<'a>) -> Option<PartialRow<'a>> {
    let size = reader.byte()?;
    let start = WindowStart::from_le_bytes(reader.bytes(8)?.try_into().ok()?);
    let length = u32::from_le_bytes(reader.bytes(4)?.try_into().ok()?);
    Some(PartialRow {
        size,
        start,
        content: reader.bytes(length.try_into().ok()?)?,
    })
}

impl<'a> PartialRow<'a> {
    /// The totals, and the packed bars.
    ///
    /// # Errors
    /// [`CellError::Damaged`] if the bytes are not those of totals. The packed bars are not checked.
    pub fn decode(&self) -> Result<(Totals, EncodedPackedBars<'a>), CellError> {
        let mut reader = Reader(self.content);
        let totals = reader.totals(self.start).ok_or(CellError::Damaged)?;
        Ok((totals, EncodedPackedBars(reader.0)))
    }
}

impl EncodedPackedBars<'_> {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conditions, EventTime, Position, Price, Size, Trade, WindowSize};

    fn totals(ms: i64, offset: i64) -> Totals {
        let trade = Trade::new(
            EventTime::from_ms(ms).expect("a time"),
            Price::parse("164.06").expect("a price").value,
            Size::parse("100").expect("a size").value,
            Conditions::NONE,
        );
        let position = Position {
            partition: 3,
            offset,
            index: 0,
        };
        Totals::of(&trade.expect("a trade"), position, false)
    }

    #[test]
    fn rows_come_back_with_their_packed_bars() {
        let size: WindowSize = "1s".parse().expect("a size");
        let mut rows = PartialRows::default();
        for n in 0..50 {
            let start = n * 60_000;
            let mut packed: Vec<PackedBar> = (0..n % 3)
                .map(|second| PackedBar {
                    size,
                    start: start + second * 1_000,
                    totals: totals(start + second * 1_000, n),
                })
                .collect();
            let number = u8::try_from(n % 4).expect("small");
            rows.push((number, start), &totals(start + 5, n), &mut packed);
        }
        let taken = rows.take();
        assert_eq!((taken.len(), rows.is_empty()), (50, true));
        for (n, row) in (0..).zip(taken.iter()) {
            let row = row.expect("well formed");
            assert_eq!((i64::from(row.size), row.start), (n % 4, n * 60_000));
            let (found, packed) = row.decode().expect("well formed");
            assert_eq!(found, totals(row.start + 5, n));
            let mut bars = PackedBars::default();
            bars.merge_encoded(row.start, packed, &mut Vec::new())
                .expect("well formed");
            let found: Vec<_> = bars
                .iter(row.start)
                .map(|bar| bar.expect("well formed").totals)
                .collect();
            let want: Vec<_> = (0..n % 3)
                .map(|second| totals(row.start + second * 1_000, n))
                .collect();
            assert_eq!(found, want);
        }
    }

    #[test]
    fn bytes_that_are_cut_short_end_with_an_error() {
        let mut rows = PartialRows::default();
        rows.push((1, 0), &totals(5, 1), &mut []);
        rows.push((1, 60_000), &totals(60_005, 1), &mut []);
        rows.bytes.pop();
        let found: Vec<bool> = rows.iter().map(|row| row.is_ok()).collect();
        assert_eq!(found, [true, false]);
        let short = PartialRow {
            size: 0,
            start: 0,
            content: &[],
        };
        assert!(short.decode().is_err());
    }
}
