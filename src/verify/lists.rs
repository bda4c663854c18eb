//! Where a list differs from its recomputation.

use tapeflow_oracle::{OracleEntry, OracleView};
use tapeflow_schemas::{
    Price, View, ViewEntry,
    decimal::{SCALE, format_fixed},
};

/// Ranks told one by one.
const TOLD: usize = 3;

/// A view by its name in the recomputation.
pub(super) fn named(view: View) -> OracleView {
    match view {
        View::Active => OracleView::Active,
        View::Movers => OracleView::Movers,
        View::Baskets => OracleView::Baskets,
        View::Market => OracleView::Market,
    }
}

/// Which ranks differ, for a person.
pub(super) fn differences(view: View, have: &[ViewEntry], want: &[OracleEntry]) -> Vec<String> {
    let have: Vec<OracleEntry> = have.iter().map(as_recomputed).collect();
    let ranks = (0..have.len().max(want.len())).filter(|at| have.get(*at) != want.get(*at));
    let mut found: Vec<String> = ranks
        .map(|at| {
            let told = |entry: Option<&OracleEntry>| {
                entry.map_or_else(|| "no line".to_owned(), |entry| describe(view, entry))
            };
            format!(
                "rank {} is {}, recomputed {}",
                at + 1,
                told(have.get(at)),
                told(want.get(at))
            )
        })
        .collect();
    if found.len() > TOLD {
        let more = found.len() - TOLD;
        found.truncate(TOLD);
        found.push(format!("and {more} more ranks"));
    }
    found
}

/// A list in short, for a person: its first lines.
pub(super) fn describe_all(view: View, entries: &[ViewEntry]) -> String {
    let mut told: Vec<String> = entries
        .iter()
        .take(TOLD)
        .map(|entry| describe(view, &as_recomputed(entry)))
        .collect();
    if entries.len() > TOLD {
        told.push(format!("and {} more", entries.len() - TOLD));
    }
    format!("[{}]", told.join(", "))
}

fn as_recomputed(entry: &ViewEntry) -> OracleEntry {
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

fn describe(view: View, entry: &OracleEntry) -> String {
    let price =
        |e8: Option<i64>| e8.map_or_else(|| "none".to_owned(), |e8| format_fixed(e8.into(), SCALE));
    format!(
        "{} ({} symbols, {} trades, volume {}, notional {}, open {}, close {})",
        entry.name,
        entry.symbols,
        entry.trades,
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
    fn ranks_that_differ_are_told_with_both_sides() {
        let (a, b, other) = (entry("A", 100_000_000), entry("B", 5), entry("B", 6));
        let recomputed = |entries: &[&ViewEntry]| {
            entries
                .iter()
                .map(|entry| as_recomputed(entry))
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
        let told = differences(
            View::Active,
            &[a.clone(), b.clone()],
            &recomputed(&[&a, &other]),
        );
        assert_eq!(told.len(), 1);
        assert!(
            told[0].starts_with("rank 2 is B (1 symbols, 2 trades, volume 0.00000005, ")
                && told[0].contains("recomputed B ("),
            "{told:?}"
        );
        let told = differences(
            View::Active,
            std::slice::from_ref(&a),
            &recomputed(&[&b, &a]),
        );
        assert!(
            told[0].starts_with("rank 1 is A")
                && told[1].starts_with("rank 2 is no line, recomputed A"),
            "{told:?}"
        );
        let many = vec![a; 10];
        let told = differences(View::Active, &many, &[]);
        assert_eq!((told.len(), told[3].as_str()), (4, "and 7 more ranks"));
    }

    #[test]
    fn every_value_of_a_line_counts() {
        let right = entry("A", 1);
        let want = [as_recomputed(&right)];
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
                differences(View::Movers, std::slice::from_ref(&wrong), &want).len(),
                1,
                "{wrong:?}"
            );
        }
    }
}
