//! The orders of the ranked views `active` and `movers`.

use std::cmp::Ordering;

use tapeflow_schemas::{Symbol, view::TOP};

use super::changes::BarValues;

/// A symbol and the values of its bar.
pub(super) type Bar = (Symbol, BarValues);
/// An order of bars, best first.
pub(super) type Order = fn(&Bar, &Bar) -> Ordering;

/// The order of `active`: by notional, descending; then by name.
pub(super) fn by_notional((a_name, a): &Bar, (b_name, b): &Bar) -> Ordering {
    b.notional_e16
        .cmp(&a.notional_e16)
        .then_with(|| a_name.cmp(b_name))
}

/// The order of `movers`: by the change from open to close as a share of open, descending and
/// whatever its direction; then by name. Exact: the fractions are multiplied crosswise.
pub(super) fn by_move((a_name, a): &Bar, (b_name, b): &Bar) -> Ordering {
    let share = |values: &BarValues| match (values.open, values.close) {
        // Prices are at most 1e17, so products are at most 1e34 and fit into 128 bits.
        (Some(open), Some(close)) => (
            i128::from(close.e8()).abs_diff(i128::from(open.e8())),
            u128::from(open.e8().unsigned_abs()),
        ),
        _ => (0, 1),
    };
    let ((a_move, a_open), (b_move, b_open)) = (share(a), share(b));
    (b_move * a_open)
        .cmp(&(a_move * b_open))
        .then_with(|| a_name.cmp(b_name))
}

pub(super) fn moved((_, values): &Bar) -> bool {
    values
        .open
        .zip(values.close)
        .is_some_and(|(open, close)| open != close)
}

/// The best bars, at most [`TOP`].
pub(super) fn top_of(mut bars: Vec<&Bar>, order: Order) -> Vec<Bar> {
    bars.sort_unstable_by(|a, b| order(a, b));
    bars.truncate(TOP);
    bars.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::Price;

    use super::*;

    fn price(e8: i64) -> Option<Price> {
        Price::from_e8(e8).ok()
    }

    fn bar(name: &str, notional_e16: i128, open: i64, close: i64) -> Bar {
        let values = BarValues {
            trades: 1,
            volume_e8: 1,
            notional_e16,
            open: price(open),
            close: price(close),
        };
        (Symbol::new(name).expect("a symbol"), values)
    }

    fn ranked(bars: &[Bar], order: Order) -> Vec<String> {
        top_of(bars.iter().collect(), order)
            .iter()
            .map(|(symbol, _)| symbol.to_string())
            .collect()
    }

    #[test]
    fn the_most_notional_comes_first_and_equal_ones_by_name() {
        assert_eq!(
            ranked(
                &[bar("B", 5, 1, 1), bar("C", 9, 1, 1), bar("A", 5, 1, 1)],
                by_notional
            ),
            ["C", "A", "B"]
        );
    }

    #[test]
    fn moves_are_compared_as_exact_shares_of_open_whatever_their_direction() {
        let max = tapeflow_schemas::decimal::MAX_PRICE_E8;
        let bars = [
            bar("HALF DOWN", 1, 2, 1),
            bar("HALF UP", 1, 4, 6),
            bar("NEARLY HALF", 1, max - 1, max / 2),
            bar("A THIRD", 1, 3, 2),
            bar("TO THE TOP", 1, 1, max),
            bar("NO PRICE", 1, 0, 0),
        ];
        assert_eq!(
            ranked(&bars, by_move),
            [
                "TO THE TOP",
                "HALF DOWN",
                "HALF UP",
                "NEARLY HALF",
                "A THIRD",
                "NO PRICE"
            ]
        );
        assert!(moved(&bars[0]) && !moved(&bars[5]) && !moved(&bar("X", 1, 7, 7)));
    }
}
