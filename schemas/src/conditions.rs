//! Which trades count: Finnhub's sale conditions, and what each allows a trade to do to a bar.
//!
//! The table is the consolidated tape's (CTA and UTP participant specifications, trade-condition
//! matrix) in Finnhub's numeric codes. A trap for the next reader: public ports of Finnhub's sheet
//! deny volume to 31, 34, 36 and 41 and so lose the closing auction.

/// The sale conditions of one trade: a set of Finnhub's numeric codes. `null`, `[]` and absent are
/// the empty set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Conditions(u64);

/// The bit that stands for every code outside the table: above 62, zero, or not a number.
const UNKNOWN: u64 = 1 << 63;
/// The byte that stands for a code that is no number between 1 and 254.
pub const UNKNOWN_CODE: u8 = 255;

/// What a trade may do to the last price (and, by the same column, to the open) of a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Last {
    /// It sets it.
    Always,
    /// It sets it only if it is the first qualifying trade of the bar.
    IfFirst,
    /// It sets it only if it is the sole qualifying trade of the bar.
    IfSole,
    /// It never does.
    Never,
}

/// What a trade with given conditions counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Whether it moves high and low: whether it is price-forming.
    pub high_low: bool,
    /// Whether, and when, it sets open and last.
    pub last: Last,
    /// Whether the tape counts its size.
    pub volume: bool,
}

const REGULAR: Effect = Effect {
    high_low: true,
    last: Last::Always,
    volume: true,
};

impl Conditions {
    /// No condition at all.
    pub const NONE: Self = Self(0);

    /// The set with one more code. Codes above 62 and zero are kept as unknown.
    #[must_use]
    pub fn with(self, code: u8) -> Self {
        match code {
            1..=62 => Self(self.0 | (1 << code)),
            _ => Self(self.0 | UNKNOWN),
        }
    }

    /// The code of one of Finnhub's strings: its number if that is 1 to 254, else [`UNKNOWN_CODE`].
    #[must_use]
    pub fn code_of(text: &str) -> u8 {
        match text.parse::<u8>() {
            Ok(code @ 1..=254) if !text.starts_with('+') => code,
            _ => UNKNOWN_CODE,
        }
    }

    /// The codes in the set, ascending; [`UNKNOWN_CODE`] last if there is one that the table does
    /// not know.
    pub fn codes(self) -> impl Iterator<Item = u8> {
        (1..=62u8)
            .filter(move |code| self.0 & (1 << code) != 0)
            .chain((self.0 & UNKNOWN != 0).then_some(UNKNOWN_CODE))
    }

    /// Whether any code in the set is not in the table: such a trade counts for volume and forms no
    /// price.
    #[must_use]
    pub fn has_unknown(self) -> bool {
        self.0 & !KNOWN != 0
    }

    /// What a trade with these conditions counts for. Any "no" wins; neutral codes say nothing, and
    /// a lone one counts as regular.
    #[must_use]
    pub fn effect(self) -> Effect {
        // Almost every trade: nothing but unconditional or neutral codes.
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
/// Prints, Closing Trade, Closing Prints: yes, yes, yes.
const UNCONDITIONAL: u64 = mask(&[1, 2, 4, 6, 7, 8, 13, 14, 19, 23, 28, 29, 31, 33, 34, 35, 36]);
/// Sold Last, Opening Trade: last only if the first qualifying trade.
const IF_FIRST: u64 = mask(&[15, 18]);
/// Bunched Sold, Prior Reference Price, Sold Out of Sequence, Derivatively Priced: last only if the
/// sole qualifying trade.
const IF_SOLE: u64 = mask(&[9, 21, 30, 32]);
/// Average Price, Cash Sale, Price Variation, CAP Election, Odd Lot, Next Day, Seller, Form T,
/// Extended Hours Out of Sequence, Contingent, Stock Option, Qualified Contingent: volume only.
const VOLUME_ONLY: u64 = mask(&[3, 5, 10, 11, 12, 17, 22, 24, 25, 26, 27, 37]);
/// Official Close, Official Open: nothing at all.
const OFFICIAL: u64 = mask(&[16, 20]);
/// Corrected Consolidated Close: price, no volume.
const CORRECTED_CLOSE: u64 = mask(&[39]);
/// 611 Exempt, Opened, Trade Through Exempt: neutral on price, volume yes.
const NEUTRAL: u64 = mask(&[38, 40, 41]);
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
