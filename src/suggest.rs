//! The symbol that a user probably meant.

use tapeflow_schemas::Symbol;

/// The known symbol nearest to one that is not known: the same in another case, the same behind a
/// prefix, or else the one that takes the fewest changed letters, if those are few.
pub(crate) fn nearest<'a>(asked: &str, known: &'a [Symbol]) -> Option<&'a Symbol> {
    let same = known
        .iter()
        .find(|symbol| symbol.as_str().eq_ignore_ascii_case(asked));
    let behind_prefix = || {
        known.iter().find(|symbol| {
            let name = symbol.as_str().rsplit_once(':').map(|(_, name)| name);
            name.is_some_and(|name| name.eq_ignore_ascii_case(asked))
        })
    };
    let misspelt = || {
        let length = asked.chars().count();
        let few = length.div_ceil(3).min(length.saturating_sub(1));
        known
            .iter()
            .map(|symbol| {
                (
                    changes(&asked.to_ascii_uppercase(), symbol.as_str()),
                    symbol,
                )
            })
            .filter(|(changes, _)| *changes <= few)
            .min_by_key(|(changes, _)| *changes)
            .map(|(_, symbol)| symbol)
    };
    same.or_else(behind_prefix).or_else(misspelt)
}

/// How many letters must be added, left out, replaced or exchanged with their neighbour to make
/// one text of the other.
fn changes(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for at in 0..from.len() {
        let mut now = vec![at + 1];
        for other in 0..to.len() {
            let replaced = last[other] + usize::from(from[at] != to[other]);
            let mut fewest = replaced.min(last[other + 1] + 1).min(now[other] + 1);
            let is_exchanged =
                at > 0 && other > 0 && from[at] == to[other - 1] && from[at - 1] == to[other];
            if is_exchanged {
                fewest = fewest.min(before_last[other - 1] + 1);
            }
            now.push(fewest);
        }
        before_last = std::mem::replace(&mut last, now);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_symbol_is_found_by_case_prefix_and_spelling() {
        let known = ["AAPL", "BINANCE:BTCUSDT", "GOOG", "TSLA", "F", "GOOGL"]
            .map(|text| Symbol::new(text).expect("a symbol"));
        for (asked, meant) in [
            ("aapl", Some("AAPL")),
            ("binance:btcusdt", Some("BINANCE:BTCUSDT")),
            ("btcusdt", Some("BINANCE:BTCUSDT")),
            ("APPL", Some("AAPL")),
            ("tlsa", Some("TSLA")),
            ("GOGO", Some("GOOG")),
            ("BINANCE:BTCUSD", Some("BINANCE:BTCUSDT")),
            ("T", None),
            ("ZZZZZZ", None),
        ] {
            let found = nearest(asked, &known).map(ToString::to_string);
            assert_eq!(found.as_deref(), meant, "{asked}");
        }
    }
}
