//! Numbers and ages for a terminal, rounded to a few digits. `tapeflow bars` prints exact ones.

use tapeflow_schemas::decimal::{ONE_E8, SCALE, divide_half_even, format_fixed};

/// A decimal in units of 1e-8: four decimal places from 1 on, all eight below 1.
pub(super) fn short_decimal(e8: i128) -> String {
    if e8.abs() < ONE_E8 {
        return format_fixed(e8, SCALE);
    }
    divide_half_even(e8, 10_000).map_or_else(String::new, |e4| format_fixed(e4, 4))
}

/// An age in one unit: `0.4s`, `12s`, `5m`, `7h`, `1022d`. A time in the future has age zero.
pub(super) fn age(event_ms: i64, now_ms: i64) -> String {
    match now_ms.saturating_sub(event_ms).max(0) {
        ms @ ..10_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        ms @ ..60_000 => format!("{}s", ms / 1_000),
        ms @ ..3_600_000 => format!("{}m", ms / 60_000),
        ms @ ..172_800_000 => format!("{}h", ms / 3_600_000),
        ms => format!("{}d", ms / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_short() {
        assert_eq!(short_decimal(12_209_869_159), "122.0987");
        assert_eq!(short_decimal(400), "0.000004");
        assert_eq!(short_decimal(99_999_999), "0.99999999");
        assert_eq!(short_decimal(0), "0");
    }

    #[test]
    fn ages_have_one_unit() {
        for (ms, want) in [
            (-5, "0.0s"),
            (450, "0.4s"),
            (12_999, "12s"),
            (300_000, "5m"),
            (7 * 3_600_000, "7h"),
            (3 * 86_400_000, "3d"),
        ] {
            assert_eq!(age(1_000_000 - ms, 1_000_000), want);
        }
        assert_eq!(age(i64::MIN, i64::MAX), "106751991167d");
    }
}
