//! Which trades count: Finnhub's sale conditions, and how each lets a trade change a bar.
//!
//! The table is that of the consolidated tape (CTA and UTP participant specifications,
//! trade-condition matrix) in Finnhub's numeric codes. Caution: public ports of Finnhub's sheet
//! exclude 31, 34, 36 and 41 from volume, and so lose the closing auction.

/// The sale conditions of one trade: a set of Finnhub's numeric codes. A missing list, `null` and
/// `[]` are the empty set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Conditions(u64);

/// The bit that stands for every code outside the table: above 62, zero, or not a number.
const UNKNOWN: u64 = 1 << 63;
/// The byte that stands for a code that is not a number between 1 and 254.
pub const UNKNOWN_CODE: u8 = 255;

/// Whether a trade sets the last price of a bar. The same rule applies to the open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Last {
    /// The trade sets it.
    Always,
    /// Only the first qualifying trade of the bar sets it.
    IfFirst,
    /// The trade sets it only if no other trade of the bar qualifies.
    IfSole,
    /// The trade never sets it.
    Never,
}

/// How a trade with given conditions changes a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Whether it changes high and low, that is, whether it forms a price.
    pub high_low: bool,
    /// Whether it sets open and last.
    pub last: Last,
    /// Whether the consolidated tape counts its size.
    pub volume: bool,
}

const REGULAR: Effect = Effect {
    high_low: true,
    last: Last::Always,
    volume: true,
};

impl Conditions {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// Adds a code. Zero and codes above 62 become the unknown code.
    #[must_use]
    pub fn with(self, code: u8) -> Self {
        match code {
            1..=62 => Self(self.0 | (1 << code)),
            _ => Self(self.0 | UNKNOWN),
        }
    }

    /// Reads a code as Finnhub spells it: the number if it is 1 to 254, else [`UNKNOWN_CODE`].
    #[must_use]
    pub fn code_of(text: &str) -> u8 {
        match text.parse::<u8>() {
            Ok(code @ 1..=254) if !text.starts_with('+') => code,
            _ => UNKNOWN_CODE,
        }
    }

    /// The codes in the set, ascending. [`UNKNOWN_CODE`] comes last, if the set has an unknown
    /// code.
    pub fn codes(self) -> impl Iterator<Item = u8> {
        (1..=62u8)
            .filter(move |code| self.0 & (1 << code) != 0)
            .chain((self.0 & UNKNOWN != 0).then_some(UNKNOWN_CODE))
    }

    /// Whether any code in the set is not in the table. Such a trade counts for volume and forms no
    /// price.
    #[must_use]
    pub fn has_unknown(self) -> bool {
        self.0 & !KNOWN != 0
    }

    /// Whether it is a closing print: Closing Trade or Closing Prints.
    #[inline]
    #[must_use]
    pub fn is_closing(self) -> bool {
        self.0 & CLOSING != 0
    }

    /// Whether it was made outside of regular hours: Form T, or Extended Hours Out of Sequence.
    #[inline]
    #[must_use]
    pub fn is_extended_hours(self) -> bool {
        self.0 & EXTENDED_HOURS != 0
    }

    /// Whether a trade may belong to another trading session than its time says.
    #[inline]
    #[must_use]
    pub fn may_move_session(self) -> bool {
        self.0 & (CLOSING | EXTENDED_HOURS) != 0
    }

    /// The effect of a trade with these conditions. A code that forbids an effect wins over codes
    /// that allow it. Neutral codes change nothing; a neutral code alone counts as regular.
    #[must_use]
    pub fn effect(self) -> Effect {
        // Fast path: nearly all trades have only unconditional or neutral codes.
        if self.0 & !(UNCONDITIONAL | NEUTRAL) == 0 {
            return REGULAR;
        }
        let any = |mask: u64| self.0 & mask != 0;
        let no_price = any(VOLUME_ONLY | OFFICIAL) || self.has_unknown();
        let last = if no_price {
            Last::Never
        } else if any(IF_SOLE) {
            Last::IfSole
        } else if any(IF_FIRST) {
            Last::IfFirst
        } else {
            Last::Always
        };
        Effect {
            high_low: !no_price,
            last,
            volume: !any(OFFICIAL | CORRECTED_CLOSE),
        }
    }
}

const fn mask(codes: &[u8]) -> u64 {
    let (mut set, mut at) = (0, 0);
    while at < codes.len() {
        set |= 1 << codes[at];
        at += 1;
    }
    set
}

/// Regular, Acquisition, Bunched, Distribution, Automatic Execution, Intermarket Sweep, Rule 127,
/// Rule 155, Opening Prints, Split, Cross, Yellow Flag, Stopped Stock, Re-opening Trade, Re-opening
/// Prints, Closing Trade, Closing Prints: high and low, last, and volume.
const UNCONDITIONAL: u64 = mask(&[1, 2, 4, 6, 7, 8, 13, 14, 19, 23, 28, 29, 31, 33, 34, 35, 36]);
/// Sold Last, Opening Trade: last only if the first qualifying trade.
const IF_FIRST: u64 = mask(&[15, 18]);
/// Bunched Sold, Prior Reference Price, Sold Out of Sequence, Derivatively Priced: last only if the
/// sole qualifying trade.
const IF_SOLE: u64 = mask(&[9, 21, 30, 32]);
/// Average Price, Cash Sale, Price Variation, CAP Election, Odd Lot, Next Day, Seller, Form T,
/// Extended Hours Out of Sequence, Contingent, Stock Option, Qualified Contingent: volume only.
const VOLUME_ONLY: u64 = mask(&[3, 5, 10, 11, 12, 17, 22, 24, 25, 26, 27, 37]);
/// Official Close, Official Open: no price and no volume.
const OFFICIAL: u64 = mask(&[16, 20]);
/// Corrected Consolidated Close: price, but no volume.
const CORRECTED_CLOSE: u64 = mask(&[39]);
/// 611 Exempt, Opened, Trade Through Exempt: no effect on price; volume counts.
const NEUTRAL: u64 = mask(&[38, 40, 41]);
/// Closing Trade, Closing Prints: they belong to the regular session that they close.
const CLOSING: u64 = mask(&[35, 36]);
/// Form T, Extended Hours Out of Sequence: they never belong to a regular session.
const EXTENDED_HOURS: u64 = mask(&[24, 25]);
const KNOWN: u64 =
    UNCONDITIONAL | IF_FIRST | IF_SOLE | VOLUME_ONLY | OFFICIAL | CORRECTED_CLOSE | NEUTRAL;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(codes: &[u8], high_low: bool, last: Last, volume: bool) {
        let set = codes
            .iter()
            .fold(Conditions::NONE, |set, code| set.with(*code));
        assert_eq!(
            set.effect(),
            Effect {
                high_low,
                last,
                volume
            },
            "{codes:?}"
        );
    }

    #[test]
    fn every_code_of_the_table_does_what_the_tape_says() {
        for code in 1..=41u8 {
            let (high_low, last, volume) = match code {
                15 | 18 => (true, Last::IfFirst, true),
                9 | 21 | 30 | 32 => (true, Last::IfSole, true),
                3 | 5 | 10 | 11 | 12 | 17 | 22 | 24 | 25 | 26 | 27 | 37 => {
                    (false, Last::Never, true)
                }
                16 | 20 => (false, Last::Never, false),
                39 => (true, Last::Always, false),
                _ => (true, Last::Always, true),
            };
            check(&[code], high_low, last, volume);
        }
    }

    #[test]
    fn any_no_wins_and_neutral_codes_say_nothing() {
        check(&[], true, Last::Always, true);
        check(&[1, 12], false, Last::Never, true);
        check(&[1, 8], true, Last::Always, true);
        check(&[1, 41], true, Last::Always, true);
        check(&[41, 12], false, Last::Never, true);
        check(&[15, 9], true, Last::IfSole, true);
        check(&[16, 1], false, Last::Never, false);
        check(&[39, 12], false, Last::Never, false);
    }

    #[test]
    fn an_unknown_code_has_volume_and_forms_no_price() {
        for code in [0, 42, 62, 63, 200, UNKNOWN_CODE] {
            check(&[code], false, Last::Never, true);
            check(&[1, code], false, Last::Never, true);
        }
        assert_eq!(Conditions::code_of("12"), 12);
        for text in ["", "x", "0", "255", "256", "-1", "+1", "1.0"] {
            assert_eq!(Conditions::code_of(text), UNKNOWN_CODE, "{text:?}");
        }
    }
}
