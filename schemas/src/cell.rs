//! The bytes of a bar: its totals in few of them, and the checks on what is read back.
//!
//! Integers are written as [LEB128] varints, signed ones zigzagged, and as differences from what
//! they are near to:
//!
//! | value | written as |
//! |---|---|
//! | prices | the low, and the distance of the others from it |
//! | times | milliseconds from the window's start, or from the first or last trade |
//! | notional | its distance from low times volume, which is 0 for a window of one price |
//! | sums by policy | `sip`, and the others only where they differ |
//!
//! So a second of one trade takes about 26 bytes, a minute of many about 60, and a value that is
//! most often absent takes a bit. What is written is a function of the totals, and no two contents
//! have the same bytes: a reader refuses bytes that a writer would not have written.
//!
//! [LEB128]: https://en.wikipedia.org/wiki/LEB128

use crate::{
    Position, Price, WindowStart,
    totals::{Mark, Sums, Totals},
};

const ALL_DIFFERS: u16 = 1;
const STRICT_DIFFERS: u16 = 1 << 1;
const LOW: u16 = 1 << 2;
const HIGH: u16 = 1 << 3;
const FIRST: u16 = 1 << 4;
const LAST: u16 = 1 << 5;
const LAST_IS_FIRST: u16 = 1 << 6;
const FIRST_TRADE: u16 = 1 << 7;
const LAST_TRADE: u16 = 1 << 8;
const PRICED_DIFFERS: u16 = 1 << 9;
const REVISED: u16 = 1 << 10;
const SOLE: u16 = 1 << 11;

/// Appends a number in 1 to 19 bytes.
pub(crate) fn put(out: &mut Vec<u8>, mut value: u128) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

/// Appends a signed number, small ones in few bytes whatever their sign.
fn put_signed(out: &mut Vec<u8>, value: i128) {
    put(out, ((value << 1) ^ (value >> 127)).cast_unsigned());
}

fn put_difference(out: &mut Vec<u8>, value: i64, from: i64) {
    put_signed(out, i128::from(value) - i128::from(from));
}

fn put_sums(out: &mut Vec<u8>, sums: &Sums, low: i64) {
    put(out, sums.trades.into());
    put_signed(out, sums.volume_e8);
    // Wrapping, because a difference that overflows is read back by the sum that overflows.
    let expected = i128::from(low).wrapping_mul(sums.volume_e8);
    put_signed(out, sums.notional_e16.wrapping_sub(expected));
}

fn put_mark(out: &mut Vec<u8>, mark: &Mark, near: Near) {
    put_difference(out, mark.event_ms, near.event_ms);
    put_difference(out, mark.position.partition.into(), near.partition);
    put_difference(out, mark.position.offset, near.offset);
    put(out, mark.position.index.into());
    put_difference(out, mark.price.e8(), near.price);
}

/// What a mark is near to.
#[derive(Clone, Copy)]
struct Near {
    event_ms: i64,
    partition: i64,
    offset: i64,
    price: i64,
}

impl Near {
    fn of_first(totals: &Totals, start: WindowStart) -> Self {
        Self {
            event_ms: totals.first_trade_ms.unwrap_or(start),
            partition: 0,
            offset: 0,
            price: low(totals),
        }
    }

    fn of_last(totals: &Totals, start: WindowStart) -> Self {
        let first = totals.first.map(|mark| mark.position);
        Self {
            event_ms: totals.last_trade_ms.unwrap_or(start),
            partition: first.map_or(0, |first| first.partition.into()),
            offset: first.map_or(0, |first| first.offset),
            price: low(totals),
        }
    }
}

fn low(totals: &Totals) -> i64 {
    totals.low.map_or(0, Price::e8)
}

fn flags(totals: &Totals) -> u16 {
    let [all, sip, strict] = &totals.sums;
    let is_same = totals.first.is_some() && totals.last == totals.first;
    [
        (ALL_DIFFERS, all != sip),
        (STRICT_DIFFERS, strict != sip),
        (LOW, totals.low.is_some()),
        (HIGH, totals.high.is_some()),
        (FIRST, totals.first.is_some()),
        (LAST, totals.last.is_some()),
        (LAST_IS_FIRST, is_same),
        (FIRST_TRADE, totals.first_trade_ms.is_some()),
        (LAST_TRADE, totals.last_trade_ms.is_some()),
        (PRICED_DIFFERS, totals.priced != strict.trades),
        (REVISED, totals.revision != 0),
        (SOLE, (totals.sole_trades, totals.sole_price_e8) != (0, 0)),
    ]
    .into_iter()
    .fold(0, |flags, (flag, is_set)| {
        flags | if is_set { flag } else { 0 }
    })
}

/// Appends the totals of a window that starts at `start`.
pub(crate) fn put_totals(out: &mut Vec<u8>, totals: &Totals, start: WindowStart) {
    let (flags, low) = (flags(totals), low(totals));
    put(out, flags.into());
    if flags & LOW != 0 {
        put_difference(out, low, 0);
    }
    if let Some(high) = totals.high {
        put_difference(out, high.e8(), low);
    }
    let [all, sip, strict] = &totals.sums;
    put_sums(out, sip, low);
    if flags & ALL_DIFFERS != 0 {
        put_sums(out, all, low);
    }
    if flags & STRICT_DIFFERS != 0 {
        put_sums(out, strict, low);
    }
    if let Some(first_trade_ms) = totals.first_trade_ms {
        put_difference(out, first_trade_ms, start);
    }
    if let Some(last_trade_ms) = totals.last_trade_ms {
        put_difference(out, last_trade_ms, totals.first_trade_ms.unwrap_or(start));
    }
    if let Some(first) = &totals.first {
        put_mark(out, first, Near::of_first(totals, start));
    }
    if let Some(last) = totals.last.as_ref().filter(|_| flags & LAST_IS_FIRST == 0) {
        put_mark(out, last, Near::of_last(totals, start));
    }
    if flags & PRICED_DIFFERS != 0 {
        put(out, totals.priced.into());
    }
    if flags & REVISED != 0 {
        put(out, totals.revision.into());
    }
    if flags & SOLE != 0 {
        put(out, totals.sole_trades.into());
        put_signed(out, totals.sole_price_e8);
    }
}

/// Reads what the functions above have written. `None` is what they do not write.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next bytes, so many of them.
    pub(crate) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn u128(&mut self) -> Option<u128> {
        // Most numbers have few bytes: nine of them fit into 64 bits.
        let (mut small, mut length) = (0u64, 0);
        for byte in self.0.iter().take(9) {
            small |= u64::from(byte & 0x7f) << (7 * length);
            length += 1;
            if byte & 0x80 == 0 {
                self.0 = &self.0[length..];
                return (*byte != 0 || length == 1).then_some(small.into());
            }
        }
        let (mut value, mut shift) = (0u128, 0);
        loop {
            let byte = self.byte()?;
            let bits = u128::from(byte & 0x7f);
            // The 19th byte has two bits of 128.
            if shift > 126 || (shift == 126 && bits > 3) {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                // A last byte of zeros would be another form of the same number.
                return (byte != 0 || shift == 0).then_some(value);
            }
            shift += 7;
        }
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.u128()?.try_into().ok()
    }

    fn signed(&mut self) -> Option<i128> {
        let value = self.u128()?;
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    fn difference(&mut self, from: i64) -> Option<i64> {
        self.signed()?
            .checked_add(from.into())
            .and_then(|value| value.try_into().ok())
    }

    fn price(&mut self, low: i64) -> Option<Price> {
        Price::from_e8(self.difference(low)?).ok()
    }

    fn sums(&mut self, low: i64) -> Option<Sums> {
        let trades = self.u64()?;
        let volume_e8 = self.signed()?;
        let expected = i128::from(low).wrapping_mul(volume_e8);
        Some(Sums {
            volume_e8,
            notional_e16: self.signed()?.wrapping_add(expected),
            trades,
        })
    }

    fn mark(&mut self, near: Near) -> Option<Mark> {
        Some(Mark {
            event_ms: self.difference(near.event_ms)?,
            position: Position {
                partition: self.difference(near.partition)?.try_into().ok()?,
                offset: self.difference(near.offset)?,
                index: self.u64()?.try_into().ok()?,
            },
            price: self.price(near.price)?,
        })
    }

    /// The totals of a window that starts at `start`.
    pub(crate) fn totals(&mut self, start: WindowStart) -> Option<Totals> {
        let flags: u16 = self.u64()?.try_into().ok()?;
        let has = |flag: u16| flags & flag != 0;
        let mut totals = Totals::default();
        if has(LOW) {
            totals.low = Some(self.price(0)?);
        }
        let low = low(&totals);
        if has(HIGH) {
            totals.high = Some(self.price(low)?);
        }
        let sip = self.sums(low)?;
        totals.sums = [sip; 3];
        if has(ALL_DIFFERS) {
            totals.sums[0] = self.sums(low)?;
        }
        if has(STRICT_DIFFERS) {
            totals.sums[2] = self.sums(low)?;
        }
        if has(FIRST_TRADE) {
            totals.first_trade_ms = Some(self.difference(start)?);
        }
        if has(LAST_TRADE) {
            totals.last_trade_ms = Some(self.difference(totals.first_trade_ms.unwrap_or(start))?);
        }
        if has(FIRST) {
            totals.first = Some(self.mark(Near::of_first(&totals, start))?);
        }
        if has(LAST_IS_FIRST) {
            totals.last = totals.first;
        } else if has(LAST) {
            totals.last = Some(self.mark(Near::of_last(&totals, start))?);
        }
        totals.priced = if has(PRICED_DIFFERS) {
            self.u64()?
        } else {
            totals.sums[2].trades
        };
        if has(REVISED) {
            totals.revision = self.u64()?;
        }
        if has(SOLE) {
            totals.sole_trades = self.u64()?;
            totals.sole_price_e8 = self.signed()?;
        }
        // Flags of absent or equal values are another form of the same totals.
        (self::flags(&totals) == flags).then_some(totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_back_and_have_one_form() {
        let powers = (0..128).map(|bit| 1u128 << bit);
        for value in powers.flat_map(|power| [power - 1, power, power + 1]) {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            let mut reader = Reader(&bytes);
            assert_eq!((reader.u128(), reader.is_empty()), (Some(value), true));
            for signed in [value.cast_signed(), value.cast_signed().wrapping_neg()] {
                let mut bytes = Vec::new();
                put_signed(&mut bytes, signed);
                assert_eq!(Reader(&bytes).signed(), Some(signed));
            }
        }
        let mut most = Vec::new();
        put(&mut most, u128::MAX);
        let mut beyond = most.clone();
        *beyond.last_mut().expect("not empty") = 4;
        let mut longer = most;
        *longer.last_mut().expect("not empty") |= 0x80;
        longer.push(1);
        for bytes in [&[0x80, 0][..], &[0x81], &[], &beyond, &longer] {
            assert_eq!(Reader(bytes).u128(), None, "{bytes:?}");
        }
    }
}
