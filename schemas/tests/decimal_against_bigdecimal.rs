//! Compares the conversion of decimal texts to integers with an independent library, on random
//! texts.

use std::str::FromStr;

use bigdecimal::{BigDecimal, RoundingMode, ToPrimitive};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tapeflow_schemas::{
    NumberError, Price, Size,
    decimal::{MAX_NOTIONAL_E16, divide_half_even, format_fixed, parse_e8},
};

fn seeded(check: impl Fn(&mut StdRng)) {
    for seed in (0..2_000).chain([StdRng::from_os_rng().random()]) {
        println!("seed {seed}");
        check(&mut StdRng::seed_from_u64(seed));
    }
}

/// The expected result, by the other library: units of 1e-8 rounded half-even, and whether rounding
/// changed the value.
fn reference(text: &str) -> (BigDecimal, bool) {
    let exact = BigDecimal::from_str(text).expect("a decimal");
    let units =
        (&exact * BigDecimal::from(100_000_000)).with_scale_round(0, RoundingMode::HalfEven);
    let rounded = units != &exact * BigDecimal::from(100_000_000);
    (units, rounded)
}

/// A random JSON number. Ties, zeros, nines and long fractions are more likely.
fn random_number(rng: &mut StdRng) -> String {
    let digits = |rng: &mut StdRng, most: usize| -> String {
        let alphabet: &[char] = [
            &['0'][..],
            &['9'],
            &['0', '5'],
            &['0', '1', '2', '3', '4', '5', '6', '7', '8', '9'],
        ]
        .choose(rng)
        .expect("four");
        (0..rng.random_range(1..=most))
            .map(|_| *alphabet.choose(rng).expect("some"))
            .collect()
    };
    let mut text = String::from(if rng.random_ratio(1, 8) { "-" } else { "" });
    let whole = digits(rng, 24);
    let whole = whole.trim_start_matches('0');
    text += if whole.is_empty() { "0" } else { whole };
    if rng.random() {
        text += ".";
        text += &digits(rng, 30);
        if rng.random_ratio(1, 4) {
            text += ["5", "50", "500000000000000001", "4999999"]
                .choose(rng)
                .expect("some");
        }
    }
    if rng.random_ratio(1, 3) {
        text += ["e", "E", "e+", "e-", "E-"].choose(rng).expect("some");
        text += &rng.random_range(0..40).to_string();
    }
    text
}

#[test]
fn every_number_is_what_the_other_library_makes_of_it() {
    seeded(|rng| {
        for _ in 0..20 {
            let text = random_number(rng);
            let (units, rounded) = reference(&text);
            match parse_e8(&text) {
                Ok(mine) => {
                    assert_eq!(
                        (BigDecimal::from(mine.0), mine.1),
                        (units.clone(), rounded),
                        "{text}"
                    );
                    // The text of an integer parses to that integer.
                    assert_eq!(
                        parse_e8(&format_fixed(mine.0, 8)),
                        Ok((mine.0, false)),
                        "{text}"
                    );
                }
                Err(error) => {
                    assert_eq!(error, NumberError::TooLarge, "{text}");
                    let largest = BigDecimal::from(MAX_NOTIONAL_E16);
                    assert!(units.abs() > largest, "{text}");
                }
            }
        }
    });
}

#[test]
fn a_double_is_read_by_its_shortest_decimal() {
    seeded(|rng| {
        let doubles = [
            f64::from_bits(rng.random()),
            rng.random_range(0.0..1e6),
            (rng.random_range(0.0f64..1e9)).round() / 1e4,
        ];
        for double in doubles.into_iter().filter(|double| double.is_finite()) {
            // Without an exponent, unlike the form that `from_f64` uses.
            assert_eq!(
                Price::from_f64(double),
                Price::parse(&format!("{double}")),
                "{double:e}"
            );
            assert_eq!(
                Size::from_f64(double),
                Size::parse(&format!("{double}")),
                "{double:e}"
            );
        }
    });
    for double in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(Price::from_f64(double), Err(NumberError::NotANumber));
        assert_eq!(Size::from_f64(double), Err(NumberError::NotANumber));
    }
    for double in [
        f64::MAX,
        f64::MIN_POSITIVE,
        5e-324,
        -f64::MAX,
        1.797_693_134_862_315_7e308,
    ] {
        assert_eq!(Price::from_f64(double), Price::parse(&format!("{double}")));
    }
}

#[test]
fn division_rounds_as_the_other_library_does() {
    seeded(|rng| {
        let notional = rng.random::<i128>() >> rng.random_range(0..120);
        let volume = match rng.random_range(1..=i128::from(u64::MAX)) >> rng.random_range(0..60) {
            0 => 2,
            volume => volume,
        };
        // Random numbers yield no exact ties.
        let tie = if volume % 2 == 0 {
            (notional >> 70) * volume + volume / 2
        } else {
            notional
        };
        for notional in [notional, tie] {
            for volume in [volume, -volume] {
                let mine = divide_half_even(notional, volume).expect("a volume");
                let exact = BigDecimal::from(notional);
                // |n - q v| is at most |v| / 2; if it equals |v| / 2, q is even.
                let rest = (exact - BigDecimal::from(mine) * BigDecimal::from(volume)).abs()
                    * BigDecimal::from(2);
                let size = BigDecimal::from(volume).abs();
                assert!(rest <= size, "{notional} / {volume} = {mine}");
                assert!(
                    rest < size
                        || BigDecimal::from(mine)
                            .to_i128()
                            .is_some_and(|even| even % 2 == 0),
                    "{notional} / {volume} = {mine}"
                );
            }
        }
    });
}

#[test]
fn a_price_from_outside_is_checked_by_serde_too() {
    let price = Price::from_e8(16_406_010_000).expect("a price");
    assert_eq!(serde_json::to_string(&price).expect("json"), "16406010000");
    assert_eq!(
        serde_json::from_str::<Price>("16406010000").expect("a price"),
        price
    );
    for text in ["0", "-1", "100000000000000001", "1.5", "null"] {
        assert!(serde_json::from_str::<Price>(text).is_err(), "{text}");
    }
}
