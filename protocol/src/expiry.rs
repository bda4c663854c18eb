//! What leaves a store: bars that are beyond their horizon ([`Horizons`]).
//!
//! A job goes on writing while bars leave, so two questions decide how they do.
//!
//! *Which bars?* Those that no further record can change. A trade is beyond the horizon of a window
//! by the watermark of its own partition. Foreign producers put a symbol into any partition, so the
//! lowest committed watermark of all partitions decides. Watermarks only grow, and an epoch that is
//! bound and not committed lies above them. A partition without a trade has no watermark, and does
//! not count: if its first trade comes later than a horizon, it may find that its bar has left. While
//! that trade is bound and not committed, nothing leaves; and a row that was written after the
//! checkpoint was read never does. An audit knows by [`ExpiryMarks`] what may have left before such a
//! trade moved the lowest watermark back.
//!
//! *At which write timestamp?* A row of its own is deleted at the largest write timestamp that was
//! ever issued. Bars that are packed into a minute leave by a write of that minute without them,
//! which must lie between the write that it follows and any later one of the job. The job issues
//! multiples of [`TIMESTAMP_STEP`] alone, and a minute without its first *n* packed sizes has the
//! write timestamp of that minute plus *n*. So equal write timestamps have equal content, in
//! whatever order and however often bars are removed. If the job writes the minute with the packed
//! bars once more, because it had read it before, they leave at the next occasion.

use std::ops::Range;

use tapeflow_schemas::{
    BarRow, CellError, Horizons, Symbol, WindowSize, WindowStart, WriteTimestamp,
};

use crate::Checkpoint;

/// A job's write timestamps are multiples of this number of microseconds. It is above the number of
/// sizes that can be packed into a minute, which is 11.
pub const TIMESTAMP_STEP: i64 = 16;
/// A New York day is an hour longer once a year, and no session is longer than a day.
const LONGER_DAY_MS: i64 = 3_600_000;
/// No window starts before this time: a day before 1970 in any time zone.
const EARLIEST: WindowStart = -2 * 86_400_000;

/// The first multiple of [`TIMESTAMP_STEP`] at or after a time.
pub(crate) fn next_step(us: i64) -> WriteTimestamp {
    us.saturating_add(TIMESTAMP_STEP - 1)
        .div_euclid(TIMESTAMP_STEP)
        * TIMESTAMP_STEP
}

/// What may leave a store now.
#[derive(Clone, Debug)]
pub struct Expiry {
    horizons: Horizons,
    packed: Vec<WindowSize>,
    watermark: Option<i64>,
    since: Option<i64>,
    /// The last write timestamp that was issued.
    issued: WriteTimestamp,
}

/// Up to which watermarks bars have left a store. Neither goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpiryMarks {
    /// The highest one by which anything may have left.
    pub begun: Option<i64>,
    /// The highest one by which everything has.
    pub done: Option<i64>,
}

impl Expiry {
    /// What may leave the store of this checkpoint, whose job has these horizons.
    #[must_use]
    pub fn of(checkpoint: &Checkpoint, horizons: Horizons) -> Self {
        let cuts = &checkpoint.committed.cuts;
        let lowest = cuts.iter().filter_map(|cut| cut.watermark_ms).min();
        let committed = |at: usize| cuts.get(at).and_then(|cut| cut.watermark_ms);
        let mut bound = checkpoint.last_binding().cuts.iter().enumerate();
        let first_trade_waits =
            bound.any(|(at, cut)| cut.watermark_ms.is_some() && committed(at).is_none());
        Self {
            packed: horizons.packed(),
            horizons,
            watermark: lowest.filter(|_| !first_trade_waits),
            since: None,
            issued: checkpoint.last_write_timestamp,
        }
    }

    /// What may be absent from the store of this checkpoint, if not all of its records are known: by
    /// the highest watermark, which is no lower than that of the partition that decided.
    #[must_use]
    pub fn at_most(checkpoint: &Checkpoint, horizons: Horizons) -> Self {
        let cuts = checkpoint.committed.cuts.iter();
        Self {
            watermark: cuts.filter_map(|cut| cut.watermark_ms).max(),
            ..Self::of(checkpoint, horizons)
        }
    }

    /// Also what may have left before ([`ExpiryMarks::begun`]).
    #[must_use]
    pub fn or_begun(self, begun: Option<i64>) -> Self {
        Self {
            watermark: self.watermark.max(begun),
            ..self
        }
    }

    /// The write timestamp of a deletion: after every write that was issued, and before the next.
    #[must_use]
    pub fn delete_at(&self) -> WriteTimestamp {
        self.issued + TIMESTAMP_STEP - 1
    }

    /// Without what has left before, by the watermark of that time. So the work follows what became
    /// old since, and not what exists. A minute that the job has written once more since then stays.
    #[must_use]
    pub fn since(self, watermark: Option<i64>) -> Self {
        Self {
            since: watermark,
            ..self
        }
    }

    /// The watermark that decides: the lowest committed one of any partition that has one.
    #[must_use]
    pub fn watermark(&self) -> Option<i64> {
        self.watermark
    }

    /// The sizes whose bars can leave, and that have rows of their own.
    pub fn row_sizes(&self) -> impl Iterator<Item = WindowSize> {
        self.horizons.sizes().filter(|size| !size.is_packed())
    }

    /// Whether bars of a size can leave.
    #[must_use]
    pub fn has_horizon(&self, size: WindowSize) -> bool {
        self.horizons.of(size).is_some()
    }

    /// Whether a bar may have left: its window is beyond its horizon.
    #[must_use]
    pub fn may_have_left(&self, symbol: &Symbol, size: WindowSize, start: WindowStart) -> bool {
        self.horizons
            .is_window_beyond(size, start, symbol.class(), self.watermark)
    }

    /// The starts of the bars and views of a size with rows of its own that may leave and have not:
    /// all that are beyond their horizon, but for the last day of days and sessions.
    #[must_use]
    pub fn rows(&self, size: WindowSize) -> Range<WindowStart> {
        let longer = if size.is_day() || size.is_session() {
            LONGER_DAY_MS
        } else {
            0
        };
        self.range(size, size.ms() + longer)
    }

    /// The starts of the minutes from which packed bars may leave and have not: a range for each
    /// packed size, but those that overlap are one.
    #[must_use]
    pub fn minutes(&self) -> Vec<Range<WindowStart>> {
        let sizes = self.packed.iter();
        let mut ranges: Vec<_> = sizes
            .map(|size| self.range(*size, WindowSize::MINUTE.ms()))
            .filter(|range| !range.is_empty())
            .collect();
        ranges.sort_unstable_by_key(|range| range.start);
        ranges.dedup_by(|later, range| {
            let overlap = later.start <= range.end;
            if overlap {
                range.end = range.end.max(later.end);
            }
            overlap
        });
        ranges
    }

    /// The row of a minute without the packed bars that may leave, and its write timestamp, given
    /// those of the row as it is; `None` if nothing leaves it.
    ///
    /// # Errors
    /// [`CellError`] if the packed bars cannot be decoded.
    pub fn minute_without(
        &self,
        start: WindowStart,
        row: &BarRow,
        write_timestamp: WriteTimestamp,
    ) -> Result<Option<(BarRow, WriteTimestamp)>, CellError> {
        if row.packed.is_empty() || write_timestamp >= self.issued + TIMESTAMP_STEP {
            return Ok(None);
        }
        let end = start + WindowSize::MINUTE.ms();
        let is_beyond = |size: &&WindowSize| self.horizons.is_beyond(**size, end, self.watermark);
        // The shortest horizon is first, so these are the first ones.
        let leave = self.packed.iter().take_while(is_beyond).count();
        let packed = row.packed.without(&self.packed[..leave])?;
        if packed == row.packed {
            return Ok(None);
        }
        let issued = write_timestamp.div_euclid(TIMESTAMP_STEP) * TIMESTAMP_STEP;
        let leave = i64::try_from(leave).unwrap_or(TIMESTAMP_STEP - 1);
        let without = BarRow {
            state: row.state,
            packed,
        };
        Ok(Some((without, issued + leave)))
    }

    /// From what had left before to what may leave now, of windows of this length.
    fn range(&self, size: WindowSize, length: i64) -> Range<WindowStart> {
        let before = |watermark: Option<i64>| {
            let horizon = self.horizons.of(size)?;
            Some(watermark?.saturating_sub(horizon) - length + 1)
        };
        match before(self.watermark) {
            Some(end) => before(self.since).unwrap_or(EARLIEST)..end,
            None => 0..0,
        }
    }
}

/// How much has left a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Rows of minutes that were written without packed bars.
    pub minutes: u64,
    /// Minutes whose rows cannot be read. They stay as they are, and an audit reports them.
    pub unreadable: u64,
    /// Rows of bars that were deleted. A store that deletes a range at once counts the range as one.
    pub bars: u64,
    /// Windows of views that were deleted, counted in the same way.
    pub views: u64,
}

impl std::ops::AddAssign for Expired {
    fn add_assign(&mut self, other: Self) {
        self.minutes += other.minutes;
        self.unreadable += other.unreadable;
        self.bars += other.bars;
        self.views += other.views;
    }
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::{BarState, PackedBar, PackedBars, Totals};

    use super::*;
    use crate::{Binding, Cut, SourceIdentity};

    const MINUTE: WindowStart = 1_680_286_500_000;

    fn expiry(horizons: &str, watermark_ms: i64) -> Expiry {
        Expiry::of(
            &checkpoint(watermark_ms),
            horizons.parse().expect("horizons"),
        )
    }

    fn checkpoint(watermark_ms: i64) -> Checkpoint {
        let committed = Binding {
            epoch: 3,
            write_timestamp: 160,
            cuts: vec![Cut {
                watermark_ms: Some(watermark_ms),
                ..Cut::default()
            }],
        };
        Checkpoint {
            format: crate::checkpoint::CHECKPOINT_FORMAT,
            job: "j".into(),
            generation: 1,
            version: 1,
            owner: String::new(),
            fingerprint: String::new(),
            source: SourceIdentity {
                cluster: "c".into(),
                topic: "t".into(),
                topic_id: None,
            },
            datacenter: None,
            recovery_timestamp: 16,
            last_write_timestamp: 320,
            committed,
            bound: Vec::new(),
        }
    }

    fn size(text: &str) -> WindowSize {
        text.parse().expect("a size")
    }

    /// A row with one bar of each of these sizes.
    fn row(sizes: &[&str]) -> BarRow {
        let mut bars: Vec<_> = sizes
            .iter()
            .map(|of| PackedBar {
                size: size(of),
                start: MINUTE,
                totals: Totals::default(),
            })
            .collect();
        BarRow {
            state: BarState {
                epoch: 2,
                totals: Totals::default(),
            },
            packed: PackedBars::of(MINUTE, &mut bars),
        }
    }

    /// In any order and however often: a write timestamp has one content.
    #[test]
    fn packed_bars_leave_in_one_order_each_at_a_write_timestamp_of_its_own() {
        let (hour, two) = (MINUTE + 60_000 + 3_600_000, MINUTE + 60_000 + 7_200_000);
        let horizons = "1s=2h,5s=1h";
        let leave = |watermark, row: &BarRow, at| {
            expiry(horizons, watermark)
                .minute_without(MINUTE, row, at)
                .expect("well encoded")
        };
        let whole = row(&["1s", "5s"]);
        assert_eq!(leave(hour - 1, &whole, 160), None);
        let first = leave(hour, &whole, 160).expect("the sizes of an hour leave");
        assert_eq!(first, (row(&["1s"]), 161));
        assert_eq!(leave(hour, &first.0, first.1), None);
        let at_once = leave(two, &whole, 160).expect("both leave");
        let one_by_one = leave(two, &first.0, first.1).expect("the other leaves");
        assert_eq!((&at_once, at_once.1), (&one_by_one, 162));
        assert!(at_once.0.packed.is_empty() && at_once.1 < 160 + TIMESTAMP_STEP);
        let all = EARLIEST..MINUTE + 1;
        assert_eq!(expiry(horizons, hour).minutes(), std::slice::from_ref(&all));
        // Since then each size has a range of its own.
        let later = expiry(horizons, hour + 60_000).since(Some(hour));
        assert_eq!(
            later.minutes(),
            [
                MINUTE + 1 - 3_600_000..MINUTE + 60_001 - 3_600_000,
                MINUTE + 1..MINUTE + 60_001
            ]
        );
    }

    #[test]
    fn rows_leave_before_a_time_and_never_one_that_a_trade_can_still_change() {
        let symbol = Symbol::new("AAPL").expect("a symbol");
        let day = 86_400_000;
        let watermark = 400 * day;
        let expiry = expiry("1m=7d,1d=7d", watermark);
        assert_eq!(
            expiry.row_sizes().collect::<Vec<_>>(),
            [size("1m"), size("1d")]
        );
        let before = expiry.rows(size("1m")).end;
        assert!(expiry.may_have_left(&symbol, size("1m"), before - 1));
        assert!(!expiry.may_have_left(&symbol, size("1m"), before));
        let before = expiry.rows(size("1d")).end;
        assert!(expiry.may_have_left(&symbol, size("1d"), before - 1));
        assert!(expiry.rows(size("1h")).is_empty());
        let again = expiry.clone().since(expiry.watermark());
        assert!(again.rows(size("1d")).is_empty());
        assert_eq!(expiry.delete_at(), 335);
    }

    #[test]
    fn the_lowest_watermark_decides_and_a_partition_without_one_does_not_count() {
        let of = |watermarks: &[Option<i64>]| {
            let mut checkpoint = checkpoint(0);
            let cut = |watermark_ms: &Option<i64>| Cut {
                watermark_ms: *watermark_ms,
                ..Cut::default()
            };
            checkpoint.committed.cuts = watermarks.iter().map(cut).collect();
            Expiry::of(&checkpoint, "1s=1h".parse().expect("horizons")).watermark()
        };
        assert_eq!(of(&[Some(9), None, Some(7)]), Some(7));
        assert_eq!(of(&[None]), None);
    }

    /// 1. A partition without a trade gets one that is older than the horizon.
    /// 2. Until it is committed, nothing leaves.
    /// 3. A row that it changed after the checkpoint was read is left alone.
    #[test]
    fn the_first_trade_of_a_partition_holds_expiry_up_and_its_bars_stay() {
        let horizons: Horizons = "1s=1h".parse().expect("horizons");
        let mut checkpoint = checkpoint(0);
        let cut = |watermark_ms| Cut {
            watermark_ms,
            ..Cut::default()
        };
        let late = MINUTE + 60_000 + 3_600_000;
        checkpoint.committed.cuts = vec![cut(Some(late)), cut(None)];
        let of = |checkpoint: &Checkpoint| Expiry::of(checkpoint, horizons.clone());
        assert_eq!(of(&checkpoint).watermark(), Some(late));
        let minute = row(&["1s"]);
        let without = |at| of(&checkpoint).minute_without(MINUTE, &minute, at);
        assert!(without(335).expect("well encoded").is_some());
        assert_eq!(without(336), Ok(None));
        let mut bound = checkpoint.clone();
        bound.bound.push(Binding {
            epoch: 4,
            write_timestamp: 336,
            cuts: vec![cut(Some(late)), cut(Some(5))],
        });
        assert_eq!(of(&bound).watermark(), None);
        // An audit knows what left before.
        bound.committed = bound.bound.remove(0);
        assert_eq!(of(&bound).watermark(), Some(5));
        assert_eq!(of(&bound).or_begun(Some(late)).watermark(), Some(late));
        let most = Expiry::at_most(&bound, horizons.clone());
        assert_eq!(most.watermark(), Some(late));
    }

    #[test]
    fn a_step_holds_all_sizes_that_can_be_packed() {
        let packed = (1..60)
            .filter_map(|s| WindowSize::from_ms(s * 1_000))
            .filter(|size| size.is_packed())
            .count();
        assert!(packed < usize::try_from(TIMESTAMP_STEP).expect("small"));
        for (us, step) in [(0, 0), (1, 16), (16, 16), (17, 32)] {
            assert_eq!(next_step(us), step);
        }
    }
}
