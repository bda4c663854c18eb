//! Which bars one look is about: some symbols, a fixed sample of them, or a slice of the windows.
//! Memory is that of the bars in scope.

use std::collections::BTreeSet;

use tapeflow_schemas::{Symbol, WindowSize, WindowStart};

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    /// These symbols; all if none are named.
    symbols: BTreeSet<String>,
    /// One of so many symbols, by a hash of the name that never changes.
    sample: u64,
    /// One of so many slices of the windows: (which, of how many).
    slice: (u64, u64),
}

impl Selection {
    pub(super) fn new(symbols: &[Symbol], sample: u64) -> Self {
        Self {
            symbols: symbols
                .iter()
                .map(|symbol| symbol.as_str().to_owned())
                .collect(),
            sample,
            slice: (0, 1),
        }
    }

    /// The slice of this scope: windows as a whole, so that lists can be judged in it.
    pub(super) fn slice(&self, at: u64, of: u64) -> Self {
        Self {
            slice: (at, of),
            ..self.clone()
        }
    }

    /// Whether a symbol is looked at.
    pub(super) fn symbol(&self, symbol: &str) -> bool {
        (self.symbols.is_empty() || self.symbols.contains(symbol))
            && hash(symbol.as_bytes()).is_multiple_of(self.sample)
    }

    /// Whether a window is looked at.
    pub(super) fn window(&self, size: WindowSize, start: WindowStart) -> bool {
        let (at, of) = self.slice;
        of == 1 || hash(&[size.ms().to_le_bytes(), start.to_le_bytes()].concat()) % of == at
    }

    /// Whether lists can be judged: they are made of all symbols.
    pub(super) fn has_lists(&self) -> bool {
        self.symbols.is_empty() && self.sample == 1
    }
}

/// FNV-1a, its bits mixed once more: that of the log's partitions would make a sample of one
/// partition.
fn hash(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    });
    (hash ^ (hash >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_and_slices_are_of_about_the_size_that_is_asked_for_and_never_change() {
        let symbols: Vec<String> = (0..2_000).map(|n| format!("S{n}")).collect();
        let sampled = symbols
            .iter()
            .filter(|symbol| Selection::new(&[], 10).symbol(symbol))
            .count();
        assert!((140..260).contains(&sampled), "{sampled} of 2,000");
        assert!(!Selection::new(&[], 10).has_lists() && Selection::new(&[], 1).has_lists());
        // Whoever compares two looks compares the same symbols.
        let fixed: Vec<_> = ["AAPL", "MSFT", "BINANCE:BTCUSDT"]
            .map(|symbol| hash(symbol.as_bytes()) % 1_000)
            .into();
        assert_eq!(fixed, [275, 619, 790]);
        let size: WindowSize = "1s".parse().expect("a size");
        let slices: Vec<usize> = (0..4)
            .map(|at| {
                (0..4_000)
                    .filter(|n| Selection::new(&[], 1).slice(at, 4).window(size, n * 1_000))
                    .count()
            })
            .collect();
        assert!(
            slices.iter().sum::<usize>() == 4_000
                && slices.iter().all(|slice| (850..1_150).contains(slice)),
            "{slices:?}"
        );
    }

    #[test]
    fn named_symbols_are_looked_at_and_no_others() {
        let selection = Selection::new(&[Symbol::new("AAPL").expect("a symbol")], 1);
        assert!(selection.symbol("AAPL") && !selection.symbol("MSFT") && !selection.has_lists());
        assert!(selection.slice(1, 3).symbol("AAPL") && !selection.slice(1, 3).symbol("MSFT"));
    }
}
