//! The sessions of one day in New York, in milliseconds since 1970 UTC.
//!
//! Successive trades mostly share a day, so a thread remembers the last one: most look-ups take a
//! few comparisons.

use std::cell::RefCell;

use jiff::{
    Timestamp,
    civil::{Date, Time},
    tz::TimeZone,
};

use super::{Calendar, Hours, Stretch, TradingDay, TradingSession};

/// Pre begins, regular begins, regular ends, post ends.
const FULL: [Time; 4] = [clock(4, 0), clock(9, 30), clock(16, 0), clock(20, 0)];
const EARLY: [Time; 4] = [clock(4, 0), clock(9, 30), clock(13, 0), clock(17, 0)];

const fn clock(hour: i8, minute: i8) -> Time {
    Time::constant(hour, minute, 0, 0)
}

/// The stretch of the market of US equities that contains a time.
pub(super) fn stretch_at(ms: i64) -> Stretch {
    with_day(ms, |day| day.stretch_at(ms))
}

/// The regular session of the day of a time, if it has ended by then.
pub(super) fn regular_before(ms: i64) -> Option<Stretch> {
    with_day(ms, |day| {
        day.edges
            .filter(|edges| edges[2] <= ms)
            .map(|[_, open, close, _]| Stretch {
                hours: Hours::Open(TradingSession::Regular),
                start: open,
                end: close,
            })
    })
}

struct Day {
    start: i64,
    end: i64,
    /// Where pre begins, regular begins, regular ends and post ends; `None` without sessions.
    edges: Option<[i64; 4]>,
    /// Whether the calendar covers the day.
    known: bool,
}

impl Day {
    fn stretch_at(&self, ms: i64) -> Stretch {
        let stretch = |hours, start, end| Stretch { hours, start, end };
        let Some([pre, open, close, end]) = self.edges else {
            let hours = if self.known {
                Hours::Closed
            } else {
                Hours::Unknown
            };
            return stretch(hours, self.start, self.end);
        };
        if ms < pre {
            stretch(Hours::Closed, self.start, pre)
        } else if ms < open {
            stretch(Hours::Open(TradingSession::Pre), pre, open)
        } else if ms < close {
            stretch(Hours::Open(TradingSession::Regular), open, close)
        } else if ms < end {
            stretch(Hours::Open(TradingSession::Post), close, end)
        } else {
            stretch(Hours::Closed, end, self.end)
        }
    }

    /// The day that contains `ms`. New York has never skipped or repeated a midnight, and its clocks
    /// change at 2:00 on Sundays, outside of all sessions.
    fn look_up(zone: &TimeZone, ms: i64) -> Self {
        let bound = |date: Date, time: Time| {
            date.to_datetime(time)
                .to_zoned(zone.clone())
                .map(|z| z.timestamp().as_millisecond())
        };
        let day = Timestamp::from_millisecond(ms)
            .map(|t| t.to_zoned(zone.clone()).date())
            .and_then(|date| {
                let day = Calendar::us_equities().day(date);
                let edges = |times: [Time; 4]| {
                    let [a, b, c, d] = times.map(|time| bound(date, time));
                    Ok::<_, jiff::Error>(Some([a?, b?, c?, d?]))
                };
                Ok(Self {
                    start: bound(date, Time::midnight())?,
                    end: bound(date.tomorrow()?, Time::midnight())?,
                    edges: match day {
                        TradingDay::Full => edges(FULL)?,
                        TradingDay::Early => edges(EARLY)?,
                        TradingDay::Closed | TradingDay::Unknown => None,
                    },
                    known: day != TradingDay::Unknown,
                })
            });
        // A reader may ask for any time, and the dates of a calendar end in the year 9999.
        day.unwrap_or(Self {
            start: ms,
            end: ms.saturating_add(1),
            edges: None,
            known: false,
        })
    }
}

fn with_day<T>(ms: i64, answer: impl FnOnce(&Day) -> T) -> T {
    LAST.with(|last| {
        let (zone, day) = &mut *last.borrow_mut();
        if !(day.start..day.end).contains(&ms) {
            *day = Day::look_up(zone, ms);
        }
        answer(day)
    })
}

thread_local! {
    static LAST: RefCell<(TimeZone, Day)> = RefCell::new((
        TimeZone::get("America/New_York").expect("the tz database is bundled"),
        Day { start: 0, end: 0, edges: None, known: false },
    ));
}
