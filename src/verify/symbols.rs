//! Symbols that were asked for and do not exist: a typing error must not pass for "no difference".

use tapeflow_audit::Findings;
use tapeflow_protocol::Store;
use tapeflow_schemas::Symbol;
use tokio::runtime::Handle;

use crate::{exit::Exit, stores};

/// The most letters in which a suggestion may differ.
const MAX_DISTANCE: usize = 2;

/// The symbols that a store lists.
pub(super) struct Names {
    listed: Vec<String>,
    store: String,
}

impl Names {
    pub(super) fn of(store: &dyn Store, runtime: &Handle) -> Result<Self, Exit> {
        let listed = stores::answered(runtime.block_on(store.symbols()))?;
        Ok(Self {
            listed: listed
                .into_iter()
                .map(|(symbol, _)| symbol.to_string())
                .collect(),
            store: store.describe(),
        })
    }

    /// Says at once which symbols are not listed. Whether they are unknown is certain only after
    /// the log was read: it may have trades of a symbol that the directory has lost.
    pub(super) fn warn_of_unlisted(&self, wanted: &[Symbol]) {
        for symbol in wanted.iter().map(Symbol::as_str) {
            if !self.listed.iter().any(|listed| listed == symbol) {
                tracing::warn!(
                    "{}; the log is read for it all the same",
                    self.unknown(symbol)
                );
            }
        }
    }

    /// Refuses symbols for which neither the store nor the log has anything.
    pub(super) fn check_known(&self, findings: &Findings) -> Result<(), Exit> {
        if findings.unknown_symbols.is_empty() {
            return Ok(());
        }
        let each: Vec<String> = findings
            .unknown_symbols
            .iter()
            .map(|symbol| self.unknown(symbol))
            .collect();
        Err(Exit::Input(format!(
            "--symbol: {}; the log has no trade of it either",
            each.join("; ")
        )))
    }

    fn unknown(&self, symbol: &str) -> String {
        let hint = nearest(symbol, &self.listed).map_or_else(
            || match &self.listed[..] {
                [] => "it has none".to_owned(),
                [first, .., last] => {
                    format!("it has {} from {first} to {last}", self.listed.len())
                }
                [only] => format!("it has {only} alone"),
            },
            |name| format!("did you mean {name}?"),
        );
        format!("{} has no symbol {symbol} ({hint})", self.store)
    }
}

/// The listed symbol that was probably meant: the same in another case, the same without its
/// exchange, or one with few other letters.
fn nearest<'a>(symbol: &str, listed: &'a [String]) -> Option<&'a str> {
    let wanted = symbol.to_uppercase();
    let without_exchange = |name: &str| {
        name.split_once(':')
            .is_some_and(|(_, rest)| rest.to_uppercase() == wanted)
    };
    let names = || listed.iter().map(String::as_str);
    names()
        .find(|name| name.to_uppercase() == wanted)
        .or_else(|| names().find(|name| without_exchange(name)))
        .or_else(|| {
            names()
                .map(|name| (distance(&wanted, &name.to_uppercase()), name))
                .filter(|(distance, name)| *distance <= MAX_DISTANCE.min(name.len() / 2))
                .min()
                .map(|(_, name)| name)
        })
}

/// How many letters must be changed, added or left out to make one word of the other. Symbols are
/// short, so the table is small.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, letter) in (1..).zip(a.chars()) {
        let mut diagonal = std::mem::replace(&mut row[0], at);
        for (n, other) in b.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[n + 1];
            row[n + 1] = changed.min(row[n] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_symbol_that_was_probably_meant_is_suggested() {
        let listed = ["AAPL", "BINANCE:BTCUSDT", "F", "MSFT"].map(str::to_owned);
        for (symbol, want) in [
            ("aapl", Some("AAPL")),
            ("APPL", Some("AAPL")),
            ("AAPLE", Some("AAPL")),
            ("MSTF", Some("MSFT")),
            ("btcusdt", Some("BINANCE:BTCUSDT")),
            ("ZZZ", None),
            ("G", None),
        ] {
            assert_eq!(nearest(symbol, &listed), want, "{symbol}");
        }
        assert_eq!(nearest("AAPL", &[]), None);
    }
}
