//! The windows nearest to a range that has none, for the error that says so.

use std::ops::Range;

use tapeflow_schemas::window::format_utc;

use crate::exit::Exit;

/// No window starts before this: event times begin in 1970, and its first day in New York some
/// hours before.
pub(crate) const EARLIEST_START_MS: i64 = -86_400_000;
/// How much further each look reaches than the one before it, so that a few looks cover a year of
/// seconds.
const GROWTH: i64 = 8;

/// Where to look.
pub(crate) struct Place {
    /// The range without a window, in milliseconds since 1970 UTC.
    pub(crate) range: Range<i64>,
    /// The length of a window.
    pub(crate) size_ms: i64,
    /// The newest trade; no window starts later.
    pub(crate) newest_ms: i64,
}

impl Place {
    /// The flags that gave the range.
    pub(crate) fn flags(&self) -> &'static str {
        match (self.range.start, self.range.end) {
            (i64::MIN, _) => "--to",
            (_, i64::MAX) => "--from",
            _ => "--from, --to",
        }
    }
}

/// The newest start before a range, and the first after it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Nearest {
    before: Option<i64>,
    after: Option<i64>,
}

impl Nearest {
    /// Looks for them. `starts` returns the first and the last start in a range.
    pub(crate) async fn find(
        place: &Place,
        starts: impl AsyncFn(Range<i64>) -> Result<Option<(i64, i64)>, Exit>,
    ) -> Result<Self, Exit> {
        let end_ms = place.newest_ms.saturating_add(1);
        let mut found = Self::default();
        let (mut until, mut width_ms) = (place.range.start.min(end_ms), place.size_ms);
        while found.before.is_none() && until > EARLIEST_START_MS {
            let from = until.saturating_sub(width_ms).max(EARLIEST_START_MS);
            found.before = starts(from..until).await?.map(|(_, last)| last);
            (until, width_ms) = (from, width_ms.saturating_mul(GROWTH));
        }
        let (mut from, mut width_ms) = (place.range.end.max(EARLIEST_START_MS), place.size_ms);
        while found.after.is_none() && from < end_ms {
            let until = from.saturating_add(width_ms).min(end_ms);
            found.after = starts(from..until).await?.map(|(first, _)| first);
            (from, width_ms) = (until, width_ms.saturating_mul(GROWTH));
        }
        Ok(found)
    }

    /// The rest of an error: what there is instead.
    pub(crate) fn hint(&self) -> String {
        let part = |what, start: Option<i64>| {
            start.map_or_else(String::new, |ms| format!("; {what} {}", format_utc(ms)))
        };
        match self {
            Self {
                before: None,
                after: None,
            } => "; there is none at any time".into(),
            Self { before, after } => {
                part("the newest one before it starts at", *before)
                    + &part("the first one after it starts at", *after)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;

    /// What is found beside a range, of windows that start at these days.
    fn check(starts: &[i64], range: Range<i64>, want: (Option<i64>, Option<i64>)) {
        let place = Place {
            range,
            size_ms: 1_000,
            newest_ms: 20_000 * DAY_MS,
        };
        let looks = std::cell::Cell::new(0);
        let find = Nearest::find(&place, async |range: Range<i64>| {
            looks.set(looks.get() + 1);
            let mut found = starts
                .iter()
                .map(|day| day * DAY_MS)
                .filter(|start| range.contains(start));
            let first = found.next();
            Ok(first.map(|first| (first, found.next_back().unwrap_or(first))))
        });
        let found = blocking(find).expect("found");
        let days = |start: Option<i64>| start.map(|start| start / DAY_MS);
        assert_eq!((days(found.before), days(found.after)), want);
        assert!(looks.get() < 40, "{} looks", looks.get());
    }

    fn blocking<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime")
            .block_on(future)
    }

    #[test]
    fn the_nearest_windows_beside_a_range_are_found_in_a_few_looks() {
        let starts = [100, 9_000, 19_990, 20_000];
        let at = |from: i64, to: i64| from * DAY_MS..to * DAY_MS;
        check(&starts, at(20_001, 30_000), (Some(20_000), None));
        check(&starts, at(9_001, 19_990), (Some(9_000), Some(19_990)));
        check(&starts, i64::MIN..DAY_MS, (None, Some(100)));
        check(
            &starts,
            at(20_001, 20_002).start..i64::MAX,
            (Some(20_000), None),
        );
        check(&[], at(1, 2), (None, None));
    }
}
