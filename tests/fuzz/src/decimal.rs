//! Decimal texts and doubles as integers, against an independent library.

use std::str::FromStr;

use bigdecimal::{BigDecimal, RoundingMode, num_bigint::BigInt};
use tapeflow_schemas::{
    NumberError, Price, Size,
    decimal::{MAX_NOTIONAL_E16, SCALE, divide_half_even, format_fixed, parse_e8},
};

/// A text; or a double and two integers of 128 bits.
pub(crate) fn check(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        check_text(text);
    }
    if let Some((double, rest)) = bytes.split_first_chunk() {
        check_double(f64::from_le_bytes(*double));
        if let Some((one, rest)) = rest.split_first_chunk()
            && let Some((other, _)) = rest.split_first_chunk()
        {
            check_division(i128::from_le_bytes(*one), i128::from_le_bytes(*other));
        }
    }
}

fn check_text(text: &str) {
    let parsed = parse_e8(text);
    let is_number = is_json_number(text);
    match parsed {
        Ok((units, rounded)) => {
            assert!(is_number, "{text:?} is no number of JSON");
            assert_eq!(parse_e8(&format_fixed(units, SCALE)), Ok((units, false)));
            if let Some(exact) = reference(text) {
                let scaled = exact * BigDecimal::from(100_000_000);
                let want = scaled.with_scale_round(0, RoundingMode::HalfEven);
                assert_eq!(BigDecimal::from(units), want, "{text:?}");
                assert_eq!(rounded, want != scaled, "{text:?}");
            }
        }
        Err(NumberError::NotANumber) => assert!(!is_number, "{text:?} is a number of JSON"),
        Err(error) => assert_eq!(error, NumberError::TooLarge, "{text:?}"),
    }
    if parsed == Err(NumberError::TooLarge)
        && is_number
        && let Some(exact) = reference(text)
    {
        let units = exact * BigDecimal::from(100_000_000);
        assert!(units.abs() > MAX_NOTIONAL_E16, "{text:?}");
    }
    if let Ok(price) = Price::parse(text) {
        let again = Price::parse(&price.value.to_string()).expect("its own text");
        assert_eq!((again.value, again.rounded), (price.value, false));
    }
    if let Ok(size) = Size::parse(text) {
        let again = Size::parse(&size.value.to_string()).expect("its own text");
        assert_eq!((again.value, again.rounded), (size.value, false));
    }
}

/// Whether another parser takes the text, and all of it, for a number.
fn is_json_number(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte))
        && serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
}

/// The exact value; `None` where the exponent would make the library write gigabytes of zeros.
fn reference(text: &str) -> Option<BigDecimal> {
    let exponent = text.find(['e', 'E']).map_or("0", |at| &text[at + 1..]);
    let exponent: i64 = exponent.parse().ok()?;
    (exponent.unsigned_abs() < 400)
        .then(|| BigDecimal::from_str(text).ok())
        .flatten()
}

fn check_double(double: f64) {
    let text = format!("{double}");
    if double.is_finite() {
        assert_eq!(Price::from_f64(double), Price::parse(&text), "{double:e}");
        assert_eq!(Size::from_f64(double), Size::parse(&text), "{double:e}");
    } else {
        assert_eq!(Price::from_f64(double), Err(NumberError::NotANumber));
        assert_eq!(Size::from_f64(double), Err(NumberError::NotANumber));
    }
}

fn check_division(notional: i128, volume: i128) {
    let quotient = divide_half_even(notional, volume);
    let has_none = volume == 0 || (notional == i128::MIN && volume == -1);
    assert_eq!(quotient.is_none(), has_none);
    let Some(quotient) = quotient else {
        return;
    };
    let rest = BigInt::from(notional) - BigInt::from(quotient) * BigInt::from(volume);
    let (twice, size) = (rest.magnitude() * 2u32, BigInt::from(volume));
    let size = size.magnitude();
    assert!(
        twice < *size || (twice == *size && quotient % 2 == 0),
        "{notional} / {volume} = {quotient}"
    );
}
