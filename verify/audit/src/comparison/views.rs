//! Where a view differs from its recomputation.

use std::collections::BTreeMap;

use tapeflow_oracle::{OracleEntry, OracleView};
use tapeflow_schemas::{
    Price, QuoteCurrency, View, ViewEntry, ViewState,
    decimal::{SCALE, format_fixed},
};

use super::count;

/// Ranks that are described one by one.
const DESCRIBED: usize = 3;

/// The oracle's name of a view.
pub(crate) fn oracle_view(view: View) -> OracleView {
    match view {
        View::Active => OracleView::Active,
        View::Movers => OracleView::Movers,
        View::Baskets => OracleView::Baskets,
        View::Market => OracleView::Market,
    }
}

/// A phrase for each rank that differs; empty if none does.
pub(super) fn differences(
    view: View,
    stored: &[ViewEntry],
    expected: &[OracleEntry],
) -> Vec<String> {
    let stored: Vec<OracleEntry> = stored.iter().map(oracle_entry).collect();
    let mut ranks: BTreeMap<(Option<QuoteCurrency>, usize), [Option<&OracleEntry>; 2]> =
        BTreeMap::new();
    for (side, entries) in [&stored[..], expected].into_iter().enumerate() {
        let mut lengths: BTreeMap<Option<QuoteCurrency>, usize> = BTreeMap::new();
        for entry in entries {
            let within = view.ranks_within_quote().then_some(entry.quote);
            let rank = lengths.entry(within).or_default();
            *rank += 1;
            ranks.entry((within, *rank)).or_default()[side] = Some(entry);
        }
    }
    let text = |entry: Option<&OracleEntry>| {
        entry.map_or_else(
            || "no entry".to_owned(),
            |entry| describe_entry(view, entry),
        )
    };
    let mut found: Vec<String> = ranks
        .into_iter()
        .filter(|(_, [stored, expected])| stored != expected)
        .map(|((quote, rank), [stored, expected])| {
            let rank = view.rank_name(rank, quote.unwrap_or(QuoteCurrency::UNKNOWN));
            let (stored, expected) = (text(stored), text(expected));
            format!("rank {rank} is {stored}, recomputed {expected}")
        })
        .collect();
    if found.is_empty() && stored != expected {
        found.push("its quote currencies are in another order".into());
    }
    if found.len() > DESCRIBED {
        let more = found.len() - DESCRIBED;
        found.truncate(DESCRIBED);
        found.push(format!("and {more} more ranks"));
    }
    found
}

/// A phrase if what `movers` has in reserve is not what follows its last rank. `all` are all
/// symbols that moved.
pub(super) fn wrong_reserve(state: &ViewState, all: &[OracleEntry]) -> Option<String> {
    let ranks = state.entries.len()..state.entries.len() + state.reserve.entries.len();
    let stored: Vec<OracleEntry> = state.reserve.entries.iter().map(oracle_entry).collect();
    let right = all.get(ranks.clone()) == Some(&stored[..])
        && (!state.reserve.complete || ranks.end == all.len());
    (!right).then(|| {
        format!(
            "its reserve of {} does not follow its last rank",
            count(stored.len() as u64, "symbol")
        )
    })
}

/// The first entries of a view, on one line.
pub(crate) fn describe(view: View, entries: &[ViewEntry]) -> String {
    let mut text: Vec<String> = entries
        .iter()
        .take(DESCRIBED)
        .map(|entry| describe_entry(view, &oracle_entry(entry)))
        .collect();
    if entries.len() > DESCRIBED {
        text.push(format!("and {} more", entries.len() - DESCRIBED));
    }
    format!("[{}]", text.join(", "))
}

fn oracle_entry(entry: &ViewEntry) -> OracleEntry {
    let ViewEntry {
        quote,
        name,
        symbols,
        trades,
        volume,
        notional,
        open,
        close,
    } = entry.clone();
    OracleEntry {
        quote,
        name,
        symbols,
        trades,
        volume,
        notional,
        open: open.map(Price::e8),
        close: close.map(Price::e8),
    }
}

fn describe_entry(view: View, entry: &OracleEntry) -> String {
    let price =
        |e8: Option<i64>| e8.map_or_else(|| "none".to_owned(), |e8| format_fixed(e8.into(), SCALE));
    let sum = |units: Option<i128>, places| {
        units.map_or_else(|| "none".to_owned(), |units| format_fixed(units, places))
    };
    format!(
        "{} ({}, {}, {}, volume {}, notional {}, open {}, close {})",
        entry.name,
        entry.quote,
        count(entry.symbols, "symbol"),
        count(entry.trades, "trade"),
        sum(entry.volume, view.volume_scale()),
        sum(entry.notional, view.notional_scale()),
        price(entry.open),
        price(entry.close)
    )
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::view::Reserve;

    use super::*;

    fn entry(name: &str, volume: i128) -> ViewEntry {
        let price = Price::from_e8(150_000_000).expect("a price");
        ViewEntry {
            quote: QuoteCurrency::USD,
            name: name.into(),
            symbols: 1,
            trades: 2,
            volume: Some(volume),
            notional: Some(3),
            open: Some(price),
            close: None,
        }
    }

    #[test]
    fn ranks_that_differ_are_described_with_both_sides() {
        let (a, b, other) = (entry("A", 100_000_000), entry("B", 5), entry("B", 6));
        let recomputed = |entries: &[&ViewEntry]| {
            entries
                .iter()
                .map(|entry| oracle_entry(entry))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            differences(
                View::Active,
                &[a.clone(), b.clone()],
                &recomputed(&[&a, &b])
            ),
            [] as [String; 0]
        );
        let found = differences(
            View::Active,
            &[a.clone(), b.clone()],
            &recomputed(&[&a, &other]),
        );
        assert_eq!(found.len(), 1);
        assert!(
            found[0]
                .starts_with("rank 2 of USD is B (USD, 1 symbol, 2 trades, volume 0.00000005, ")
                && found[0].contains("recomputed B ("),
            "{found:?}"
        );
        let found = differences(
            View::Active,
            std::slice::from_ref(&a),
            &recomputed(&[&b, &a]),
        );
        assert!(
            found[0].starts_with("rank 1 of USD is A")
                && found[1].starts_with("rank 2 of USD is no entry, recomputed A"),
            "{found:?}"
        );
        // An entry too many in one currency does not move the ranks of another.
        let yen = ViewEntry {
            quote: QuoteCurrency::of("OANDA:USD_JPY"),
            ..a.clone()
        };
        let found = differences(View::Market, &[yen.clone(), a.clone()], &recomputed(&[&a]));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("rank 1 of JPY is A"), "{found:?}");
        let found = differences(
            View::Market,
            &[a.clone(), yen.clone()],
            &recomputed(&[&yen, &a]),
        );
        assert_eq!(found, ["its quote currencies are in another order"]);
        let many = vec![a; 10];
        let found = differences(View::Active, &many, &[]);
        assert_eq!((found.len(), found[3].as_str()), (4, "and 7 more ranks"));
    }

    #[test]
    fn a_reserve_must_be_the_next_ranks_and_complete_only_if_there_are_no_more() {
        let symbols: Vec<ViewEntry> = ["A", "B", "C", "D"].map(|name| entry(name, 1)).into();
        let all: Vec<OracleEntry> = symbols.iter().map(oracle_entry).collect();
        let state = |reserve: &[usize], complete| ViewState {
            reserve: Reserve {
                entries: reserve.iter().map(|at| symbols[*at].clone()).collect(),
                complete,
            },
            ..ViewState::new(1, symbols[..2].to_vec())
        };
        for right in [state(&[], false), state(&[2], false), state(&[2, 3], true)] {
            assert_eq!(wrong_reserve(&right, &all), None, "{right:?}");
        }
        for wrong in [
            state(&[], true),
            state(&[3], false),
            state(&[2], true),
            state(&[2, 3, 3], false),
        ] {
            assert!(wrong_reserve(&wrong, &all).is_some(), "{wrong:?}");
        }
    }

    #[test]
    fn every_value_of_an_entry_is_compared() {
        let right = entry("A", 1);
        let expected = [oracle_entry(&right)];
        let wrong = [
            ViewEntry {
                quote: QuoteCurrency::UNKNOWN,
                ..right.clone()
            },
            ViewEntry {
                name: "B".into(),
                ..right.clone()
            },
            ViewEntry {
                symbols: 2,
                ..right.clone()
            },
            ViewEntry {
                trades: 1,
                ..right.clone()
            },
            ViewEntry {
                volume: Some(2),
                ..right.clone()
            },
            ViewEntry {
                notional: None,
                ..right.clone()
            },
            ViewEntry {
                open: None,
                ..right.clone()
            },
            ViewEntry {
                close: right.open,
                ..right.clone()
            },
        ];
        for wrong in wrong {
            assert_eq!(
                differences(View::Movers, std::slice::from_ref(&wrong), &expected).len(),
                1,
                "{wrong:?}"
            );
        }
    }
}
