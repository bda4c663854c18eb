//! Where a view differs from its recomputation.

use tapeflow_oracle::{OracleEntry, OracleView};
use tapeflow_schemas::{
    Price, View, ViewEntry,
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
    let ranks =
        (0..stored.len().max(expected.len())).filter(|at| stored.get(*at) != expected.get(*at));
    let mut found: Vec<String> = ranks
        .map(|at| {
            let text = |entry: Option<&OracleEntry>| {
                entry.map_or_else(
                    || "no entry".to_owned(),
                    |entry| describe_entry(view, entry),
                )
            };
            format!(
                "rank {} is {}, recomputed {}",
                at + 1,
                text(stored.get(at)),
                text(expected.get(at))
            )
        })
        .collect();
    if found.len() > DESCRIBED {
        let more = found.len() - DESCRIBED;
        found.truncate(DESCRIBED);
        found.push(format!("and {more} more ranks"));
    }
    found
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
        name,
        symbols,
        trades,
        volume,
        notional,
        open,
        close,
    } = entry.clone();
    OracleEntry {
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
    format!(
        "{} ({}, {}, volume {}, notional {}, open {}, close {})",
        entry.name,
        count(entry.symbols, "symbol"),
        count(entry.trades, "trade"),
        format_fixed(entry.volume, view.volume_scale()),
        format_fixed(entry.notional, view.notional_scale()),
        price(entry.open),
        price(entry.close)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, volume: i128) -> ViewEntry {
        let price = Price::from_e8(150_000_000).expect("a price");
        ViewEntry {
            name: name.into(),
            symbols: 1,
            trades: 2,
            volume,
            notional: 3,
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
            found[0].starts_with("rank 2 is B (1 symbol, 2 trades, volume 0.00000005, ")
                && found[0].contains("recomputed B ("),
            "{found:?}"
        );
        let found = differences(
            View::Active,
            std::slice::from_ref(&a),
            &recomputed(&[&b, &a]),
        );
        assert!(
            found[0].starts_with("rank 1 is A")
                && found[1].starts_with("rank 2 is no entry, recomputed A"),
            "{found:?}"
        );
        let many = vec![a; 10];
        let found = differences(View::Active, &many, &[]);
        assert_eq!((found.len(), found[3].as_str()), (4, "and 7 more ranks"));
    }

    #[test]
    fn every_value_of_an_entry_is_compared() {
        let right = entry("A", 1);
        let expected = [oracle_entry(&right)];
        let wrong = [
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
                volume: 2,
                ..right.clone()
            },
            ViewEntry {
                notional: 2,
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
