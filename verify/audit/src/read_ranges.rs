//! Which window starts an audit reads from the store: all, or those of the windows that the
//! recomputation has.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use tapeflow_schemas::{Epoch, WindowSize, WindowStart};

use crate::recompute::Recomputation;

/// Two windows at most this many windows apart are read in one range: one range with unneeded
/// windows costs less than two queries.
const MAX_GAP_WINDOWS: i64 = 1_000;

/// Half-open ranges of window starts, by size.
pub(crate) struct ReadRanges(BTreeMap<WindowSize, Vec<Range<WindowStart>>>);

impl ReadRanges {
    pub(crate) fn everything(sizes: &[WindowSize]) -> Self {
        Self(
            sizes
                .iter()
                .map(|size| (*size, std::iter::once(i64::MIN..i64::MAX).collect()))
                .collect(),
        )
    }

    /// The windows in which any symbol has a bar. A view needs all bars of its window.
    pub(crate) fn of(recomputation: &Recomputation<'_>, sizes: &[WindowSize]) -> Self {
        let mut starts: BTreeMap<WindowSize, BTreeSet<WindowStart>> =
            sizes.iter().map(|size| (*size, BTreeSet::new())).collect();
        for symbol in recomputation.oracle.symbols() {
            for (size, start) in recomputation.oracle.windows_of(symbol, Epoch::MAX) {
                starts.entry(size).or_default().insert(start);
            }
        }
        Self(
            starts
                .into_iter()
                .map(|(size, starts)| {
                    let max_gap = MAX_GAP_WINDOWS.saturating_mul(size.ms());
                    (size, merge(&starts, max_gap))
                })
                .collect(),
        )
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (WindowSize, Range<WindowStart>)> {
        self.0
            .iter()
            .flat_map(|(size, ranges)| ranges.iter().map(|range| (*size, range.clone())))
    }
}

/// Ranges that contain all starts and no gap wider than `max_gap`, in milliseconds.
fn merge(starts: &BTreeSet<WindowStart>, max_gap: i64) -> Vec<Range<WindowStart>> {
    let mut ranges: Vec<Range<WindowStart>> = Vec::new();
    for start in starts {
        match ranges.last_mut() {
            Some(range) if start.saturating_sub(range.end) <= max_gap => range.end = start + 1,
            _ => ranges.push(*start..start + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_read_in_ranges_without_wide_gaps() {
        let merge = |starts: &[i64]| merge(&starts.iter().copied().collect(), 100);
        assert_eq!(merge(&[]), []);
        assert_eq!(merge(&[5, 200]), [5..6, 200..201]);
        assert_eq!(
            merge(&[0, 50, 151, 300, 9_000, 9_001]),
            [0..152, 300..301, 9_000..9_002]
        );
    }
}
