//! Avro's binary primitives: longs as zigzag varints, bytes, strings, and array blocks.

use super::{DecodeError, Span};
use crate::symbol::{Symbol, SymbolError};

/// The largest number of bytes in a long.
const MAX_VARINT_BYTES: usize = 10;

/// Reads a record from front to back. Every method moves forward within the bytes or fails.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader that starts at byte `at` of a record.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// The error that `what` was expected here.
    pub(super) fn malformed(&self, what: &'static str) -> DecodeError {
        DecodeError::Malformed { at: self.at, what }
    }

    /// Reads a long. It drops bits beyond the 64th, which only the tenth byte can have, as all Avro
    /// implementations do.
    #[inline]
    pub(super) fn long(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        let mut zigzag = 0u64;
        for (place, byte) in self
            .bytes
            .get(self.at..)
            .unwrap_or_default()
            .iter()
            .take(MAX_VARINT_BYTES)
            .enumerate()
        {
            zigzag |= u64::from(byte & 0x7F) << (7 * place);
            if byte & 0x80 == 0 {
                self.at += place + 1;
                return Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed());
            }
        }
        Err(self.malformed(what))
    }

    /// Reads `len` bytes.
    #[inline]
    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let taken = self
            .at
            .checked_add(len)
            .and_then(|end| self.bytes.get(self.at..end))
            .ok_or_else(|| self.malformed(what))?;
        self.at += len;
        Ok(taken)
    }

    /// Reads a `fixed` of `N` bytes.
    #[inline]
    pub(super) fn fixed<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], DecodeError> {
        let fixed = self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.first_chunk::<N>())
            .ok_or_else(|| self.malformed(what))?;
        self.at += N;
        Ok(*fixed)
    }

    /// Reads bytes that are preceded by their length.
    #[inline]
    pub(super) fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.long(what)?;
        let len = usize::try_from(len).map_err(|_| self.malformed(what))?;
        self.take(len, what)
    }

    /// Reads a string, which must be UTF-8.
    #[inline]
    pub(super) fn string(&mut self, what: &'static str) -> Result<&'a str, DecodeError> {
        let bytes = self.bytes(what)?;
        std::str::from_utf8(bytes).map_err(|_| self.malformed(what))
    }

    /// Skips a string, which must be UTF-8 too.
    #[inline]
    pub(super) fn skip_string(&mut self, what: &'static str) -> Result<(), DecodeError> {
        let bytes = self.bytes(what)?;
        if bytes.is_ascii() || std::str::from_utf8(bytes).is_ok() {
            Ok(())
        } else {
            Err(self.malformed(what))
        }
    }

    /// Reads a symbol. Returns whether it is valid, and its span.
    #[inline]
    pub(super) fn symbol(
        &mut self,
        what: &'static str,
    ) -> Result<(Result<(), SymbolError>, Span), DecodeError> {
        let bytes = self.bytes(what)?;
        let checked = Symbol::check_bytes(bytes).ok_or_else(|| self.malformed(what))?;
        match (
            u32::try_from(self.at - bytes.len()),
            u32::try_from(bytes.len()),
        ) {
            (Ok(from), Ok(len)) => Ok((checked, (from, len))),
            _ => Err(self.malformed(what)),
        }
    }

    /// Reads the number of items in the next block of an array; zero after the last block. A
    /// negative count is followed by the size of the block in bytes, which only a reader that skips
    /// blocks needs.
    #[inline]
    pub(super) fn block(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let count = self.long(what)?;
        if count < 0 {
            self.long(what)?;
        }
        if count == i64::MIN {
            Err(self.malformed(what))
        } else {
            Ok(count.unsigned_abs())
        }
    }

    /// Fails unless all bytes were read.
    pub(super) fn end(&self) -> Result<(), DecodeError> {
        if self.at == self.bytes.len() {
            Ok(())
        } else {
            Err(self.malformed("the end of the record"))
        }
    }
}

/// Appends a long.
#[inline]
pub(super) fn put_long(out: &mut Vec<u8>, long: i64) {
    let mut zigzag = ((long << 1) ^ (long >> 63)).cast_unsigned();
    loop {
        let [low, ..] = zigzag.to_le_bytes();
        zigzag >>= 7;
        if zigzag == 0 {
            out.push(low & 0x7F);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Appends a length or a count.
#[inline]
pub(super) fn put_length(out: &mut Vec<u8>, length: usize) {
    put_long(
        out,
        i64::try_from(length).expect("nothing in memory is longer than i64::MAX"),
    );
}

/// Appends bytes, or the bytes of a string, preceded by their length.
#[inline]
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(bytes: &[u8]) -> Result<i64, usize> {
        let mut reader = Reader::new(bytes, 0);
        let value = reader.long("a long").map_err(|_| bytes.len())?;
        assert_eq!(reader.end(), Ok(()));
        Ok(value)
    }

    #[test]
    fn every_long_comes_back() {
        for shift in 0..64 {
            for near in -2..=2 {
                for value in [
                    (1i64 << shift).wrapping_add(near),
                    (1i64 << shift).wrapping_neg().wrapping_add(near),
                ] {
                    let mut bytes = Vec::new();
                    put_long(&mut bytes, value);
                    assert_eq!(long(&bytes), Ok(value));
                }
            }
        }
        assert_eq!(
            long(&[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]),
            Ok(i64::MAX)
        );
        // Padded with zeros. Avro allows this, and some writers do it to reserve room for a length.
        assert_eq!(long(&[0x82, 0x80, 0x00]), Ok(1));
    }

    #[test]
    fn a_long_without_an_end_or_beyond_ten_bytes_is_refused() {
        assert_eq!(long(&[]), Err(0));
        assert_eq!(long(&[0x80]), Err(1));
        assert_eq!(long(&[0x80; 10]), Err(10));
        assert_eq!(
            long(&[
                0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00
            ]),
            Err(11)
        );
    }

    #[test]
    fn a_length_or_count_that_cannot_be_is_refused() {
        for claimed in [i64::MIN, -1, 3, i64::MAX] {
            let mut bytes = Vec::new();
            put_long(&mut bytes, claimed);
            bytes.extend([1, 2]);
            assert!(Reader::new(&bytes, 0).bytes("bytes").is_err(), "{claimed}");
        }
        let mut bytes = Vec::new();
        put_long(&mut bytes, i64::MIN);
        bytes.push(0);
        assert!(Reader::new(&bytes, 0).block("a block").is_err());
        assert_eq!(Reader::new(&[3, 8], 0).block("a block"), Ok(2));
        assert!(Reader::new(&[2, 0xFF], 0).string("a string").is_err());
    }
}
