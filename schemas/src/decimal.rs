//! Exact decimals in fixed point. Only this file converts decimal text to numbers and back.
//!
//! Prices and sizes are integers in units of 1e-8. Their product, the notional, is an integer in
//! units of 1e-16. A decimal with more than eight places is rounded half-even once, at admission,
//! and [`Parsed::rounded`] reports it. Only [`Price::from_f64`] and [`Size::from_f64`] take
//! floating point: they read the doubles of the Spark pipeline's schema by their shortest decimal.

use std::{
    fmt::{self, Write},
    num::NonZeroI64,
};

use serde::{Deserialize, Serialize};

/// Decimal places of [`Price`] and [`Size`].
pub const SCALE: u32 = 8;
/// One whole unit of a price or a size, in units of 1e-8.
pub const ONE_E8: i128 = 100_000_000;
/// The largest price admitted, in units of 1e-8: one billion. The highest real price, that of
/// Berkshire Hathaway A, is near 7e5.
pub const MAX_PRICE_E8: i64 = 100_000_000_000_000_000;
/// The largest size admitted, in units of 1e-8: 1e15. A trade of a cheap coin can have about 1e11.
pub const MAX_SIZE_E8: i128 = 100_000_000_000_000_000_000_000;
/// The largest notional of one trade admitted, in units of 1e-16: 1e12. A sum of 128 bits holds
/// 1e10 such trades.
pub const MAX_NOTIONAL_E16: i128 = 10_000_000_000_000_000_000_000_000_000;

/// A price per unit traded, in units of 1e-8 of the quote currency: above zero, at most
/// [`MAX_PRICE_E8`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
// Never zero, so that an absent price needs no space beside it: totals have four.
pub struct Price(NonZeroI64);

/// A number of units traded, in units of 1e-8: above zero, at most [`MAX_SIZE_E8`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(i128);

/// Price times size, in units of 1e-16 of the quote currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Notional(pub i128);

/// An admitted number, and whether it was rounded to eight places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed<T> {
    /// The admitted value.
    pub value: T,
    /// Whether rounding changed the value.
    pub rounded: bool,
}

/// Why a text or an integer is not a valid price or size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// Not a JSON number: empty, a word, NaN or an infinity.
    #[error("not a decimal number")]
    NotANumber,
    /// Below zero.
    #[error("negative")]
    Negative,
    /// Zero, or zero after rounding to eight places.
    #[error("zero")]
    Zero,
    /// Above the largest value admitted ([`MAX_PRICE_E8`], [`MAX_SIZE_E8`], [`MAX_NOTIONAL_E16`]).
    #[error("absurdly large")]
    TooLarge,
}

impl Price {
    /// A price from units of 1e-8.
    ///
    /// # Errors
    /// [`NumberError`] unless it is above zero and at most [`MAX_PRICE_E8`].
    pub fn from_e8(e8: i64) -> Result<Self, NumberError> {
        match NonZeroI64::new(e8) {
            None => Err(NumberError::Zero),
            Some(_) if e8 < 0 => Err(NumberError::Negative),
            Some(_) if e8 > MAX_PRICE_E8 => Err(NumberError::TooLarge),
            Some(e8) => Ok(Self(e8)),
        }
    }

    /// A price from the text of a JSON number.
    ///
    /// # Errors
    /// [`NumberError`] if the text is not a decimal, not above zero, or too large.
    pub fn parse(text: &str) -> Result<Parsed<Self>, NumberError> {
        let (e8, rounded) = parse_e8(text)?;
        Ok(Parsed {
            value: Self::admit(e8)?,
            rounded,
        })
    }

    /// A price from a double of the Spark pipeline's schema, by its shortest decimal.
    ///
    /// # Errors
    /// [`NumberError`] as in [`Price::parse`]. NaN and infinities are not numbers.
    pub fn from_f64(double: f64) -> Result<Parsed<Self>, NumberError> {
        let (e8, rounded) = double_e8(double)?;
        Ok(Parsed {
            value: Self::admit(e8)?,
            rounded,
        })
    }

    fn admit(e8: i128) -> Result<Self, NumberError> {
        Self::from_e8(i64::try_from(e8).map_err(|_| {
            if e8 < 0 {
                NumberError::Negative
            } else {
                NumberError::TooLarge
            }
        })?)
    }

    /// Units of 1e-8.
    #[must_use]
    pub fn e8(self) -> i64 {
        self.0.get()
    }

    /// Price times size. The product of an admitted price and an admitted size can overflow, so it
    /// saturates. [`crate::trade::Trade::new`] refuses a product above [`MAX_NOTIONAL_E16`].
    #[must_use]
    pub fn times(self, size: Size) -> Notional {
        Notional(i128::from(self.e8()).saturating_mul(size.0))
    }
}

impl Size {
    /// A size from units of 1e-8.
    ///
    /// # Errors
    /// [`NumberError`] unless it is above zero and at most [`MAX_SIZE_E8`].
    pub fn from_e8(e8: i128) -> Result<Self, NumberError> {
        match e8 {
            i128::MIN..=-1 => Err(NumberError::Negative),
            0 => Err(NumberError::Zero),
            1..=MAX_SIZE_E8 => Ok(Self(e8)),
            _ => Err(NumberError::TooLarge),
        }
    }

    /// A size from the text of a JSON number.
    ///
    /// # Errors
    /// [`NumberError`] if the text is not a decimal, not above zero, or too large. A size of
    /// exactly zero is Finnhub's price update and no error, so callers handle [`NumberError::Zero`]
    /// apart.
    pub fn parse(text: &str) -> Result<Parsed<Self>, NumberError> {
        let (e8, rounded) = parse_e8(text)?;
        Ok(Parsed {
            value: Self::from_e8(e8)?,
            rounded,
        })
    }

    /// A size from a double of the Spark pipeline's schema, by its shortest decimal.
    ///
    /// # Errors
    /// [`NumberError`] as in [`Size::parse`]. NaN and infinities are not numbers.
    pub fn from_f64(double: f64) -> Result<Parsed<Self>, NumberError> {
        let (e8, rounded) = double_e8(double)?;
        Ok(Parsed {
            value: Self::from_e8(e8)?,
            rounded,
        })
    }

    /// Units of 1e-8.
    #[must_use]
    pub fn e8(self) -> i128 {
        self.0
    }
}

impl TryFrom<i64> for Price {
    type Error = NumberError;

    fn try_from(e8: i64) -> Result<Self, NumberError> {
        Self::from_e8(e8)
    }
}

impl From<Price> for i64 {
    fn from(price: Price) -> Self {
        price.e8()
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_fixed(i128::from(self.e8()), SCALE))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_fixed(self.0, SCALE))
    }
}

impl fmt::Display for Notional {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_fixed(self.0, 2 * SCALE))
    }
}

/// Parses the text of a JSON number (sign, digits, fraction, exponent) into units of 1e-8, rounded
/// half-even to eight places. The flag reports whether rounding changed the value.
///
/// # Errors
/// [`NumberError::NotANumber`] for other text; [`NumberError::TooLarge`] above 1e28 units.
pub fn parse_e8(text: &str) -> Result<(i128, bool), NumberError> {
    let (negative, body) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let (mantissa, exponent) = match body.iter().position(|b| matches!(b, b'e' | b'E')) {
        Some(at) => (&body[..at], parse_exponent(&body[at + 1..])?),
        None => (body, 0),
    };
    let (whole, fraction) = match mantissa.iter().position(|b| *b == b'.') {
        Some(at) if at + 1 < mantissa.len() => (&mantissa[..at], &mantissa[at + 1..]),
        Some(_) => return Err(NumberError::NotANumber),
        None => (mantissa, &mantissa[..0]),
    };
    if whole.is_empty() || matches!(whole, [b'0', _, ..]) {
        return Err(NumberError::NotANumber);
    }
    // A digit at place p is worth 10^p units of 1e-8. Digits at places below zero determine the
    // rounding.
    let mut place = i64::try_from(whole.len())
        .unwrap_or(i64::MAX)
        .saturating_sub(1)
        .saturating_add(exponent)
        + i64::from(SCALE);
    let mut units: i128 = 0;
    let (mut tenth, mut beyond) = (0u8, false);
    for digit in whole.iter().chain(fraction) {
        if !digit.is_ascii_digit() {
            return Err(NumberError::NotANumber);
        }
        let digit = digit - b'0';
        if place >= 0 {
            units = units * 10 + i128::from(digit);
            if units > MAX_NOTIONAL_E16 {
                return Err(NumberError::TooLarge);
            }
        } else if place == -1 {
            tenth = digit;
        } else if digit != 0 {
            beyond = true;
        }
        place -= 1;
    }
    if units > 0 {
        for _ in 0..=place.min(64) {
            units = units.saturating_mul(10);
            if units > MAX_NOTIONAL_E16 {
                return Err(NumberError::TooLarge);
            }
        }
    }
    let rounded = tenth != 0 || beyond;
    if tenth > 5 || (tenth == 5 && (beyond || units % 2 == 1)) {
        units += 1;
    }
    Ok((if negative { -units } else { units }, rounded))
}

fn parse_exponent(digits: &[u8]) -> Result<i64, NumberError> {
    let (negative, digits) = match digits {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] | rest => (false, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(NumberError::NotANumber);
    }
    // Beyond the length of any text, an exponent yields zero or too large. The cap keeps the sum in
    // range.
    let value = digits.iter().fold(0i64, |sum, d| {
        (sum * 10 + i64::from(d - b'0')).min(1_000_000_000_000_000)
    });
    Ok(if negative { -value } else { value })
}

/// Units of 1e-8 from the shortest decimal of a double: the one with the fewest digits among those
/// that parse to the same double.
fn double_e8(double: f64) -> Result<(i128, bool), NumberError> {
    let mut text = ShortText {
        bytes: [0; 32],
        len: 0,
    };
    // Such as `1.640601e2`: at most a sign, 17 digits, a point and `e-324`. NaN and infinities
    // print as words, which `parse_e8` refuses.
    write!(text, "{double:e}").map_err(|_| NumberError::NotANumber)?;
    parse_e8(std::str::from_utf8(&text.bytes[..text.len]).map_err(|_| NumberError::NotANumber)?)
}

/// A buffer on the stack for the text of a double, because the hot path must not allocate.
struct ShortText {
    bytes: [u8; 32],
    len: usize,
}

impl fmt::Write for ShortText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        self.bytes
            .get_mut(self.len..end)
            .ok_or(fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// The exact decimal text of `units` times `10^-places`, without exponent or trailing zeros.
#[must_use]
pub fn format_fixed(units: i128, places: u32) -> String {
    let one = 10u128.pow(places);
    let magnitude = units.unsigned_abs();
    let sign = if units < 0 { "-" } else { "" };
    let (whole, fraction) = (magnitude / one, magnitude % one);
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    let digits = format!(
        "{fraction:0width$}",
        width = usize::try_from(places).unwrap_or(usize::MAX)
    );
    format!("{sign}{whole}.{}", digits.trim_end_matches('0'))
}

/// The VWAP for display: `notional_e16 / volume_e8` in units of 1e-8, rounded half-even. `None` if
/// the volume is zero, or if the quotient needs more than 128 bits.
#[must_use]
pub fn divide_half_even(notional_e16: i128, volume_e8: i128) -> Option<i128> {
    // (n / 1e16) / (v / 1e8) * 1e8 = n / v: the scales cancel.
    let quotient = notional_e16.checked_div_euclid(volume_e8)?;
    let remainder = notional_e16.checked_rem_euclid(volume_e8)?;
    let twice = remainder.unsigned_abs() * 2;
    let size = volume_e8.unsigned_abs();
    let up = twice > size || (twice == size && quotient % 2 != 0);
    Some(if up {
        quotient + volume_e8.signum()
    } else {
        quotient
    })
}

/// A count in groups of three digits: `1,234,567`.
#[must_use]
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_in_groups_of_three_digits() {
        assert_eq!(
            ["0", "999", "1,000", "1,234,567", "50,000,000"],
            [0, 999, 1_000, 1_234_567, 50_000_000].map(grouped)[..]
        );
    }

    fn check(text: &str, want: Result<(i128, bool), NumberError>) {
        assert_eq!(parse_e8(text), want, "{text:?}");
    }

    #[test]
    fn json_numbers_become_units_of_1e_8() {
        check("164.0601", Ok((16_406_010_000, false)));
        check("0", Ok((0, false)));
        check("-3", Ok((-300_000_000, false)));
        check("0.000004", Ok((400, false)));
        check("4e-06", Ok((400, false)));
        check("1.5E3", Ok((150_000_000_000, false)));
        check("66972.77", Ok((6_697_277_000_000, false)));
        check("1e-400", Ok((0, true)));
        check("0e999999999", Ok((0, false)));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "", "-", "NaN", "inf", "1.", ".5", "1e", "1e+", "0x10", " 1", "1 ", "١", "1.2.3",
            "--1", "1e5.0",
        ] {
            check(text, Err(NumberError::NotANumber));
        }
        check("1e30", Err(NumberError::TooLarge));
        check(
            "99999999999999999999999999999999",
            Err(NumberError::TooLarge),
        );
        check("1e9999999999999", Err(NumberError::TooLarge));
    }

    #[test]
    fn more_than_eight_places_round_half_even_once() {
        check("0.000000005", Ok((0, true)));
        check("0.000000015", Ok((2, true)));
        check("0.000000025", Ok((2, true)));
        check("0.0000000250000001", Ok((3, true)));
        check("0.123456789", Ok((12_345_679, true)));
        check("0.1234567800", Ok((12_345_678, false)));
    }

    #[test]
    fn prices_and_sizes_must_be_above_zero_and_sane() {
        assert_eq!(Price::parse("0"), Err(NumberError::Zero));
        assert_eq!(Price::parse("-1"), Err(NumberError::Negative));
        assert_eq!(Price::parse("-99999999999999"), Err(NumberError::Negative));
        assert_eq!(Price::parse("1e9").map(|p| p.value.e8()), Ok(MAX_PRICE_E8));
        assert_eq!(Price::parse("1000000000.1"), Err(NumberError::TooLarge));
        assert_eq!(Size::parse("1e16"), Err(NumberError::TooLarge));
        assert_eq!(Price::from_f64(f64::NAN), Err(NumberError::NotANumber));
        assert_eq!(
            Price::from_f64(164.0601).map(|p| p.value.e8()),
            Ok(16_406_010_000)
        );
        assert_eq!(Size::from_f64(8e-5).map(|s| s.value.e8()), Ok(8_000));
    }

    #[test]
    fn division_rounds_half_even_and_has_no_answer_at_zero_volume() {
        assert_eq!(divide_half_even(5, 2), Some(2));
        assert_eq!(divide_half_even(7, 2), Some(4));
        assert_eq!(divide_half_even(8, 3), Some(3));
        assert_eq!(divide_half_even(1, 0), None);
        assert_eq!(divide_half_even(i128::MIN, -1), None);
        // Seven prints of a real TSLA frame: volume 107, notional 13064.56.
        let vwap = divide_half_even(130_645_600_000_000_000_000, 10_700_000_000);
        assert_eq!(
            vwap.map(|v| format_fixed(v, SCALE)).as_deref(),
            Some("122.09869159")
        );
    }

    #[test]
    fn decimals_print_exactly_and_without_exponent() {
        assert_eq!(format_fixed(400, 8), "0.000004");
        assert_eq!(format_fixed(-150_000_000, 8), "-1.5");
        assert_eq!(format_fixed(0, 16), "0");
        assert_eq!(
            format_fixed(i128::MAX, 16),
            "17014118346046923173168.7303715884105727"
        );
    }
}
