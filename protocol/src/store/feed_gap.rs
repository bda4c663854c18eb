//! Times in which trades of a feed may be missing.

use std::ops::Range;

use tapeflow_schemas::{
    SessionId,
    codec::{FeedState, FeedStateHeader},
    trade::END_OF_TIME_MS,
    window::{BUCKET_MS, bucket},
};

/// The longest gap, in milliseconds: 366 days. Of a longer one the end counts, so that the rows of
/// a gap are bounded: one in each bucket that it touches.
pub const MAX_GAP_MS: i64 = 366 * 86_400_000;
/// The longest producer and the longest cause, in bytes.
pub const MAX_WORD_BYTES: usize = 64;

/// A time in which trades may be missing, because the feed was away: half-open. It applies to all
/// symbols, because a record does not say which symbols its producer has subscribed to.
///
/// It is a function of one record alone. So a replay, and the other partitions, which get the same
/// record, write the same row again.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct FeedGap {
    /// Since when, in milliseconds since 1970 UTC.
    pub from_ms: i64,
    /// Until when; `None` while no record says so.
    pub to_ms: Option<i64>,
    /// The session that reports it.
    pub session: SessionId,
    /// The name of the sender, the same in all of its sessions; at most [`MAX_WORD_BYTES`].
    pub producer: String,
    /// Why: a short word; at most [`MAX_WORD_BYTES`].
    pub cause: String,
}

impl FeedGap {
    /// The gap that a record reports, if it reports one. `known_ms` is the time at which the record
    /// existed ([`tapeflow_schemas::trade::record_time_ms`]): no gap reaches beyond it.
    ///
    /// The end of a session is a gap without length. It marks the window that was open then, and
    /// none after it: whether the feed was away from then on, the next session says.
    #[must_use]
    pub fn of(header: &FeedStateHeader<'_>, known_ms: i64) -> Option<Self> {
        let known_ms = known_ms.clamp(0, END_OF_TIME_MS - 1);
        let (until_ms, is_closed) = match header.state {
            FeedState::Alive => return None,
            FeedState::Begins | FeedState::Away => (known_ms, false),
            FeedState::Back => (header.to_ms.clamp(0, known_ms), true),
            FeedState::Ends => (header.from_ms.clamp(0, known_ms), true),
        };
        let earliest_ms = until_ms.saturating_sub(MAX_GAP_MS).max(0);
        Some(Self {
            from_ms: header.from_ms.clamp(earliest_ms, until_ms),
            to_ms: is_closed.then_some(until_ms),
            session: header.session,
            producer: cut(header.producer),
            cause: cut(header.cause),
        })
    }

    /// Where a gap ends for a reader, in milliseconds since 1970 UTC. One that no record has closed
    /// ends with the bucket after its own: its producer may never have come back.
    #[must_use]
    pub fn end_ms(&self) -> i64 {
        let open_end_ms = || bucket(self.from_ms).saturating_add(2 * BUCKET_MS);
        self.to_ms.unwrap_or_else(open_end_ms)
    }

    /// Whether trades of the window from `start` to `end` may be missing. A gap without length
    /// concerns the window that it lies in.
    #[must_use]
    pub fn overlaps(&self, start: i64, end: i64) -> bool {
        self.from_ms < end && self.end_ms() > start
    }

    /// The buckets in which a store keeps the gap. An open one is only in that of its beginning.
    pub fn buckets(&self) -> impl Iterator<Item = i64> + use<> {
        let last = bucket(self.to_ms.unwrap_or(self.from_ms));
        std::iter::successors(Some(bucket(self.from_ms)), move |bucket| {
            bucket.checked_add(BUCKET_MS).filter(|next| *next <= last)
        })
    }

    /// The buckets, by their starts, whose gaps [`settle`] needs for a range.
    #[must_use]
    pub fn buckets_for(range: &Range<i64>) -> Range<i64> {
        let start = bucket(range.start.clamp(0, END_OF_TIME_MS));
        let end = range.end.clamp(0, END_OF_TIME_MS);
        start.saturating_sub(BUCKET_MS)..end
    }
}

/// Of the gaps that a store has, those that concern a half-open range of time, ascending.
///
/// A producer says that its feed is away, and later until when it was. If it was killed in between,
/// its next session says so, from the last record on. So an open gap ends where the first gap of its
/// producer ends that ends no earlier than it begins.
#[must_use]
pub fn settle(gaps: impl IntoIterator<Item = FeedGap>, range: &Range<i64>) -> Vec<FeedGap> {
    let mut gaps: Vec<FeedGap> = gaps.into_iter().collect();
    let mut ends: Vec<(String, i64)> = gaps
        .iter()
        .filter_map(|gap| Some((gap.producer.clone(), gap.to_ms?)))
        .collect();
    ends.sort_unstable();
    for gap in gaps.iter_mut().filter(|gap| gap.to_ms.is_none()) {
        let next = ends
            .partition_point(|(producer, to_ms)| (producer, *to_ms) < (&gap.producer, gap.from_ms));
        gap.to_ms = ends
            .get(next)
            .filter(|(producer, _)| *producer == gap.producer)
            .map(|(_, to_ms)| *to_ms);
    }
    gaps.retain(|gap| gap.overlaps(range.start, range.end));
    gaps.sort_unstable();
    gaps.dedup();
    gaps
}

/// Whether no gap concerns the window from `start` to `end`.
#[must_use]
pub fn is_complete(gaps: &[FeedGap], start: i64, end: i64) -> bool {
    !gaps.iter().any(|gap| gap.overlaps(start, end))
}

/// The longest beginning of a word that a store keeps.
fn cut(word: &str) -> String {
    word[..word.floor_char_boundary(MAX_WORD_BYTES)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn header(state: FeedState, from_ms: i64, to_ms: i64) -> FeedStateHeader<'static> {
        FeedStateHeader {
            session: SessionId([1; 16]),
            sequence: 1,
            taken_ms: NOW,
            producer: "finnhub",
            state,
            cause: "silent",
            from_ms,
            to_ms,
            previous: None,
            previous_sequence: 0,
        }
    }

    fn gap(producer: &str, from_ms: i64, to_ms: Option<i64>) -> FeedGap {
        FeedGap {
            from_ms,
            to_ms,
            session: SessionId([1; 16]),
            producer: producer.to_owned(),
            cause: "silent".to_owned(),
        }
    }

    #[test]
    fn a_gap_lies_before_its_record_and_is_bounded_whatever_the_record_claims() {
        let check = |state, from_ms, to_ms, want: Option<(i64, Option<i64>)>| {
            let found = FeedGap::of(&header(state, from_ms, to_ms), NOW);
            assert_eq!(found.map(|gap| (gap.from_ms, gap.to_ms)), want, "{state:?}");
        };
        check(FeedState::Alive, NOW, NOW, None);
        check(FeedState::Away, NOW - 5, NOW - 5, Some((NOW - 5, None)));
        check(FeedState::Begins, NOW + 5, NOW + 5, Some((NOW, None)));
        check(FeedState::Ends, NOW - 5, 7, Some((NOW - 5, Some(NOW - 5))));
        check(
            FeedState::Back,
            NOW - 9,
            NOW - 5,
            Some((NOW - 9, Some(NOW - 5))),
        );
        check(
            FeedState::Back,
            NOW,
            NOW - 5,
            Some((NOW - 5, Some(NOW - 5))),
        );
        let longest = Some((NOW - MAX_GAP_MS, Some(NOW)));
        check(FeedState::Back, i64::MIN, i64::MAX, longest);
        let found = FeedGap::of(&header(FeedState::Back, i64::MIN, i64::MAX), i64::MAX);
        let longest = found.expect("a gap");
        assert!(longest.buckets().count() <= 28);
        assert_eq!(
            FeedGap::of(&header(FeedState::Back, 5, 9), -1).map(|gap| gap.to_ms),
            Some(Some(0))
        );
        let long = "é".repeat(40);
        let words = FeedStateHeader {
            producer: &long,
            cause: &long,
            ..header(FeedState::Away, 0, 0)
        };
        let found = FeedGap::of(&words, NOW).expect("a gap");
        assert_eq!((found.producer.len(), found.cause.len()), (64, 64));
    }

    #[test]
    fn a_window_is_incomplete_if_a_gap_lies_in_it_and_not_if_one_touches_it() {
        let closed = [gap("a", 100, Some(200))];
        for (start, end, complete) in [
            (0, 100, true),
            (0, 101, false),
            (150, 160, false),
            (199, 300, false),
            (200, 300, true),
        ] {
            assert_eq!(is_complete(&closed, start, end), complete, "{start}..{end}");
        }
        // The start or the end of a session has no length.
        let point = [gap("a", 100, Some(100))];
        for (start, end, complete) in [
            (0, 100, true),
            (0, 101, false),
            (99, 200, false),
            (100, 200, true),
        ] {
            assert_eq!(is_complete(&point, start, end), complete, "{start}..{end}");
        }
    }

    #[test]
    fn an_open_gap_ends_where_its_producer_next_says_so_or_with_the_bucket_after_its_own() {
        let all = 0..i64::MAX;
        let settled = |gaps: &[FeedGap]| settle(gaps.to_vec(), &all);
        // Away and back: one gap.
        let back = gap("a", 100, Some(200));
        let found = settled(&[gap("a", 100, None), back.clone()]);
        assert_eq!(found, std::slice::from_ref(&back));
        // Killed while away: the next session knows only of the record at 150.
        let next = gap("a", 150, Some(300));
        assert_eq!(
            settled(&[gap("a", 100, None), next.clone(), gap("a", 150, None)]),
            [gap("a", 100, Some(300)), next]
        );
        // Another producer, and an earlier gap, close nothing.
        let open = gap("b", 250, None);
        let found = settled(&[gap("b", 1, Some(2)), back.clone(), open.clone()]);
        assert_eq!(found, [gap("b", 1, Some(2)), back, open.clone()]);
        assert!(open.overlaps(2 * BUCKET_MS - 1, 2 * BUCKET_MS));
        assert!(!open.overlaps(2 * BUCKET_MS, 3 * BUCKET_MS));
        assert_eq!(settle([open], &(2 * BUCKET_MS..i64::MAX)), []);
    }

    #[test]
    fn a_gap_is_in_each_bucket_that_it_touches() {
        let buckets = |gap: FeedGap| gap.buckets().collect::<Vec<_>>();
        assert_eq!(buckets(gap("a", 5, None)), [0]);
        assert_eq!(buckets(gap("a", 5, Some(BUCKET_MS - 1))), [0]);
        let three = gap("a", 5, Some(2 * BUCKET_MS));
        assert_eq!(buckets(three), [0, BUCKET_MS, 2 * BUCKET_MS]);
        assert_eq!(
            FeedGap::buckets_for(&(i64::MIN..i64::MAX)),
            -BUCKET_MS..END_OF_TIME_MS
        );
        let at = FeedGap::buckets_for(&(BUCKET_MS + 5..BUCKET_MS + 6));
        assert_eq!(at, 0..BUCKET_MS + 6);
    }
}
