//! How much counts have grown per second over the last seconds.

use std::collections::VecDeque;

/// Rates are averages over this many milliseconds.
const SPAN_MS: u64 = 3_000;
/// Rates divide by at least this many milliseconds: a shorter span says little about a second.
const SHORTEST_SPAN_MS: u64 = 250;

/// The counts of the last seconds: milliseconds since the start, and both counts.
#[derive(Debug, Default)]
pub(super) struct Rates(VecDeque<(u64, [u64; 2])>);

impl Rates {
    /// Adds the counts at `now_ms`, in milliseconds since the start, and returns the growth of each
    /// per second.
    pub(super) fn per_second(&mut self, now_ms: u64, counts: [u64; 2]) -> [u64; 2] {
        if self.0.is_empty() {
            // All counts are zero at the start.
            self.0.push_back((0, [0, 0]));
        }
        self.0.push_back((now_ms, counts));
        while self.0.len() > 2
            && self
                .0
                .get(1)
                .is_some_and(|(at, _)| now_ms.saturating_sub(*at) >= SPAN_MS)
        {
            self.0.pop_front();
        }
        let (then_ms, then) = self.0.front().copied().unwrap_or((now_ms, counts));
        let elapsed_ms = now_ms.saturating_sub(then_ms).max(SHORTEST_SPAN_MS);
        std::array::from_fn(|at| {
            counts[at].saturating_sub(then[at]).saturating_mul(1_000) / elapsed_ms
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_cover_the_last_seconds_and_not_the_whole_run() {
        let mut rates = Rates::default();
        assert_eq!(rates.per_second(0, [0, 0]), [0, 0]);
        assert_eq!(rates.per_second(500, [50, 7]), [100, 14]);
        for second in 1..100 {
            rates.per_second(second * 1_000, [50, 7]);
        }
        assert_eq!(rates.per_second(100_000, [350, 10]), [100, 1]);
    }
}
