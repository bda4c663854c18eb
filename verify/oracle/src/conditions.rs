//! Sale conditions: what a trade counts for, by its condition codes. This is a second copy of the
//! table of the consolidated tape, independent of the one in `schemas`.

/// When a trade may set open and close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sets {
    Always,
    IfFirst,
    IfSole,
    Never,
}

/// What one trade counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) high_low: bool,
    pub(crate) sets: Sets,
    pub(crate) volume: bool,
}

/// The row of a code: (high and low, open and close), and volume. `None` for neutral codes, which
/// do not affect the price columns.
fn row(code: u8) -> (Option<(bool, Sets)>, bool) {
    match code {
        // Regular, acquisition, bunched, distribution, automatic execution, intermarket sweep,
        // rules 127 and 155, opening prints, split, cross, yellow flag, stopped stock, re-opening
        // trade and prints, closing trade and prints.
        1 | 2 | 4 | 6 | 7 | 8 | 13 | 14 | 19 | 23 | 28 | 29 | 31 | 33 | 34 | 35 | 36 => {
            (Some((true, Sets::Always)), true)
        }
        // Sold last, opening trade.
        15 | 18 => (Some((true, Sets::IfFirst)), true),
        // Bunched sold, prior reference price, sold out of sequence, derivatively priced.
        9 | 21 | 30 | 32 => (Some((true, Sets::IfSole)), true),
        // Official close, official open.
        16 | 20 => (Some((false, Sets::Never)), false),
        // Corrected consolidated close.
        39 => (Some((true, Sets::Always)), false),
        // 611 exempt, opened, trade through exempt.
        38 | 40 | 41 => (None, true),
        // Average price, cash sale, price variation, CAP election, odd lot, next day, seller, form
        // T, extended hours out of sequence, contingent, stock option, qualified contingent; and
        // every code that is not in the table.
        _ => (Some((false, Sets::Never)), true),
    }
}

/// The strictest value of each column over all codes of a trade. A trade without codes, or with
/// neutral codes only, is a regular trade.
pub(crate) fn counts(codes: &[u8]) -> Counts {
    let strictness = |sets: Sets| match sets {
        Sets::Always => 0,
        Sets::IfFirst => 1,
        Sets::IfSole => 2,
        Sets::Never => 3,
    };
    let mut counts = Counts {
        high_low: true,
        sets: Sets::Always,
        volume: true,
    };
    for code in codes {
        let (price, volume) = row(*code);
        counts.volume &= volume;
        if let Some((high_low, sets)) = price {
            counts.high_low &= high_low;
            if strictness(sets) > strictness(counts.sets) {
                counts.sets = sets;
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use tapeflow_schemas::{Conditions, Effect, conditions::Last};

    #[test]
    fn the_two_tables_agree_on_every_set_of_up_to_three_codes() {
        let check = |codes: &[u8]| {
            let mine = counts(codes);
            let theirs = codes
                .iter()
                .fold(Conditions::NONE, |set, code| set.with(*code))
                .effect();
            let last = match mine.sets {
                Sets::Always => Last::Always,
                Sets::IfFirst => Last::IfFirst,
                Sets::IfSole => Last::IfSole,
                Sets::Never => Last::Never,
            };
            assert_eq!(
                Effect {
                    high_low: mine.high_low,
                    last,
                    volume: mine.volume
                },
                theirs,
                "{codes:?}"
            );
        };
        check(&[]);
        for a in 0..=u8::MAX {
            check(&[a]);
            for b in 0..=64 {
                check(&[a, b]);
                for c in 0..=42 {
                    check(&[a, b, c]);
                }
            }
        }
    }
}
