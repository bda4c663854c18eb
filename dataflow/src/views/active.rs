//! The view `active`: a ranking by notional for each quote currency, because notionals of different
//! currencies do not compare. A symbol whose quote currency is unknown is in none of them.

use std::collections::BTreeMap;

use tapeflow_schemas::{QuoteCurrency, ViewEntry, ViewState, view::TOP};

use super::ranking::{Bar, Rank, Ranking};

/// The rankings of a window, ordered by currency. [`QuoteCurrency`] bounds their number. A vector,
/// because most windows have one, and the node of a tree has space for eleven.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Active {
    rankings: Vec<(QuoteCurrency, Ranking)>,
}

fn empty() -> Ranking {
    Ranking::empty(Rank::Active, TOP)
}

impl Active {
    /// The rankings of a stored view; `None` if it has an entry that the job does not write.
    pub(super) fn stored(state: &ViewState) -> Option<Self> {
        let mut by_quote: BTreeMap<QuoteCurrency, Vec<&ViewEntry>> = BTreeMap::new();
        for entry in &state.entries {
            if !entry.quote.is_known() {
                return None;
            }
            by_quote.entry(entry.quote).or_default().push(entry);
        }
        let mut rankings = Vec::with_capacity(by_quote.len());
        for (quote, entries) in by_quote {
            // No symbol ever falls, so a currency with fewer entries has no more symbols.
            let complete = entries.len() < TOP;
            let ranking = empty().stored(entries.into_iter(), complete)?;
            rankings.push((quote, ranking));
        }
        Some(Self { rankings })
    }

    /// Applies bars that have changed, each once. Returns whether a ranking is another one now.
    pub(super) fn apply(&mut self, changed: &[&Bar]) -> bool {
        let mut by_quote: BTreeMap<QuoteCurrency, Vec<&Bar>> = BTreeMap::new();
        for bar in changed {
            let quote = bar.0.quote();
            if quote.is_known() {
                by_quote.entry(quote).or_default().push(bar);
            }
        }
        let mut is_another = false;
        for (quote, bars) in by_quote {
            let found = self
                .rankings
                .binary_search_by_key(&quote, |(quote, _)| *quote);
            let at = found.unwrap_or_else(|at| {
                self.rankings.reserve_exact(1);
                self.rankings.insert(at, (quote, empty()));
                at
            });
            is_another |= self.rankings[at].1.apply(&bars);
        }
        is_another
    }

    /// The number of bars in memory.
    pub(super) fn len(&self) -> usize {
        self.rankings.iter().map(|(_, ranking)| ranking.len()).sum()
    }

    /// The entries of the view, by quote currency and rank.
    pub(super) fn entries(&self) -> Vec<ViewEntry> {
        self.rankings
            .iter()
            .flat_map(|(_, ranking)| ranking.entries())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::{Price, Symbol};

    use super::*;
    use crate::views::changes::BarValues;

    fn bar(symbol: &str, notional_e16: i128) -> Bar {
        let values = BarValues {
            trades: 1,
            volume_e8: 1,
            notional_e16,
            open: Price::from_e8(1).ok(),
            close: Price::from_e8(1).ok(),
        };
        (Symbol::new(symbol).expect("a symbol"), values)
    }

    /// The entries as `quote name`.
    fn lines(active: &Active) -> Vec<String> {
        let line = |entry: ViewEntry| format!("{} {}", entry.quote, entry.name);
        active.entries().into_iter().map(line).collect()
    }

    fn applied(active: &mut Active, bars: &[(&str, i128)]) -> bool {
        let bars: Vec<Bar> = bars.iter().map(|(symbol, sum)| bar(symbol, *sum)).collect();
        active.apply(&bars.iter().collect::<Vec<_>>())
    }

    #[test]
    fn symbols_are_ranked_within_their_quote_currency() {
        let mut active = Active::default();
        assert!(applied(
            &mut active,
            &[("AAPL", 5), ("OANDA:USD_JPY", 900), ("OANDA:EUR_USD", 7)]
        ));
        assert_eq!(
            lines(&active),
            ["JPY OANDA:USD_JPY", "USD OANDA:EUR_USD", "USD AAPL"]
        );
        // A late trade in yen changes no rank in dollars.
        assert!(applied(&mut active, &[("OANDA:EUR_JPY", 901)]));
        assert_eq!(
            lines(&active)[..2],
            ["JPY OANDA:EUR_JPY", "JPY OANDA:USD_JPY"]
        );
        assert!(!applied(&mut active, &[("IC MARKETS:1", 1_000)]));
        assert_eq!((active.len(), lines(&active).len()), (4, 4));
    }

    #[test]
    fn the_rankings_come_back_from_the_stored_view() {
        let mut active = Active::default();
        for n in 0..25 {
            let (dollars, coins) = (format!("S{n}"), format!("BINANCE:C{n}USDT"));
            applied(&mut active, &[(&dollars, n), (&coins, n / 4)]);
        }
        applied(&mut active, &[("OANDA:USD_JPY", 3)]);
        let stored = ViewState::new(1, active.entries());
        assert_eq!(stored.entries.len(), 21);
        assert_eq!(Active::stored(&stored), Some(active));

        let broken = |damage: fn(&mut ViewEntry)| {
            let mut stored = stored.clone();
            damage(&mut stored.entries[0]);
            Active::stored(&stored)
        };
        assert_eq!(broken(|entry| entry.quote = QuoteCurrency::UNKNOWN), None);
        assert_eq!(broken(|entry| entry.quote = QuoteCurrency::USD), None);
        assert_eq!(broken(|entry| entry.notional = None), None);
    }

    #[test]
    fn a_window_has_at_most_a_ranking_for_each_known_currency() {
        let mut active = Active::default();
        for quote in QuoteCurrency::every() {
            for n in 0..TOP + 5 {
                applied(&mut active, &[(&format!("OANDA:S{n}_{quote}"), 1)]);
            }
            applied(&mut active, &[(&format!("OANDA:EUR_{quote}X"), 1)]);
        }
        let known = QuoteCurrency::every().count() - 1;
        assert_eq!(active.rankings.len(), known);
        assert_eq!(active.len(), known * TOP);
    }
}
