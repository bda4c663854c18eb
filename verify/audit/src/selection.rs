//! Which symbols and windows an audit includes: all, some symbols, a fixed sample of the symbols,
//! or one slice of the windows. The memory of an audit grows with the bars it includes.

use std::collections::BTreeSet;

use tapeflow_schemas::{Symbol, WindowSize, WindowStart};

/// The symbols and windows of an audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Empty means all.
    symbols: BTreeSet<String>,
    /// One of this many symbols is included.
    sample: u64,
    /// The number of the slice, from 0, and the number of slices.
    slice: (u64, u64),
}

impl Default for Selection {
    /// All symbols and windows.
    fn default() -> Self {
        Self::new(&[], 1)
    }
}

impl Selection {
    /// These symbols (all if `symbols` is empty), of which one in `sample` is included. A hash of
    /// the name decides, so a sample is the same in every audit.
    #[must_use]
    pub fn new(symbols: &[Symbol], sample: u64) -> Self {
        Self {
            symbols: symbols
                .iter()
                .map(|symbol| symbol.as_str().to_owned())
                .collect(),
            sample,
            slice: (0, 1),
        }
    }

    /// Slice `at` of `of`, from 0. A slice holds all symbols of a window, so its views can be
    /// compared.
    pub(crate) fn slice(&self, at: u64, of: u64) -> Self {
        Self {
            slice: (at, of),
            ..self.clone()
        }
    }

    /// The symbols that were asked for by name.
    pub(crate) fn named(&self) -> impl Iterator<Item = &str> {
        self.symbols.iter().map(String::as_str)
    }

    pub(crate) fn has_symbol(&self, symbol: &str) -> bool {
        (self.symbols.is_empty() || self.symbols.contains(symbol))
            && hash(symbol.as_bytes()).is_multiple_of(self.sample)
    }

    pub(crate) fn has_window(&self, size: WindowSize, start: WindowStart) -> bool {
        let (at, of) = self.slice;
        of == 1 || hash(&[size.ms().to_le_bytes(), start.to_le_bytes()].concat()) % of == at
    }

    /// Whether views can be compared: that needs all symbols.
    #[must_use]
    pub fn has_views(&self) -> bool {
        self.symbols.is_empty() && self.sample == 1
    }
}

/// FNV-1a with its bits mixed once more. The log assigns partitions by FNV-1a: without the mixing,
/// a sample would contain the symbols of one partition.
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
    fn samples_and_slices_have_about_the_requested_size_and_never_change() {
        let symbols: Vec<String> = (0..2_000).map(|n| format!("S{n}")).collect();
        let sampled = symbols
            .iter()
            .filter(|symbol| Selection::new(&[], 10).has_symbol(symbol))
            .count();
        assert!((140..260).contains(&sampled), "{sampled} of 2,000");
        assert!(!Selection::new(&[], 10).has_views() && Selection::new(&[], 1).has_views());
        // Two audits with one sample compare the same symbols.
        let fixed: Vec<_> = ["AAPL", "MSFT", "BINANCE:BTCUSDT"]
            .map(|symbol| hash(symbol.as_bytes()) % 1_000)
            .into();
        assert_eq!(fixed, [275, 619, 790]);
        let size: WindowSize = "1s".parse().expect("a size");
        let slices: Vec<usize> = (0..4)
            .map(|at| {
                (0..4_000)
                    .filter(|n| {
                        Selection::new(&[], 1)
                            .slice(at, 4)
                            .has_window(size, n * 1_000)
                    })
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
    fn named_symbols_are_selected_and_no_others() {
        let selection = Selection::new(&[Symbol::new("AAPL").expect("a symbol")], 1);
        assert!(
            selection.has_symbol("AAPL") && !selection.has_symbol("MSFT") && !selection.has_views()
        );
        assert!(
            selection.slice(1, 3).has_symbol("AAPL") && !selection.slice(1, 3).has_symbol("MSFT")
        );
    }
}
