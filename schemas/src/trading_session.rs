//! Trading sessions: which session a trade belongs to.
//!
//! The US equity market has three sessions on each trading day, in New York time:
//!
//! ```text
//!            04:00        09:30             16:00          20:00
//!   closed     │    pre     │    regular      │     post     │     closed
//!              └────────────┴─────────────────┴──────────────┘
//!                                    13:00 on early days     17:00
//! ```
//!
//! A session is half-open, and labelled by its start. Sessions and the time between them, which is
//! *closed*, make up all of time. Crypto and forex trade around the clock, so their only session is
//! the UTC day.
//!
//! A trade belongs to the session that contains its event time, with two exceptions, which its sale
//! conditions decide:
//!
//! - Closing prints (35, 36) are published seconds to minutes after the close. They belong to the
//!   regular session of their date, whenever on that date they come after it.
//! - Form T and Extended Hours Out of Sequence (24, 25) mark trades outside of regular hours. Such
//!   a trade with a time in the regular session was published late: it belongs to the session that
//!   went before, pre. With both kinds of codes it is no closing print.
//!
//! A trade at any other time of the night, of a weekend or of a holiday belongs to no session. Such
//! trades are venues' overnight trades and prints published late; no chart of a session has them.
//! Bars of other sizes do.

pub mod calendar;
mod new_york_day;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::calendar::{Calendar, TradingDay};
use crate::{AssetClass, Conditions, EventTime, WindowStart};

const DAY_MS: i64 = 86_400_000;

/// A trading session of a day. It is not a producer's session ([`crate::SessionId`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TradingSession {
    /// Before the regular session of US equities.
    Pre,
    /// The regular session of US equities.
    Regular,
    /// After the regular session of US equities.
    Post,
    /// The UTC day of crypto and forex.
    Day,
}

impl TradingSession {
    /// The name in outputs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pre => "pre",
            Self::Regular => "regular",
            Self::Post => "post",
            Self::Day => "day",
        }
    }
}

/// What the market does in a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hours {
    /// A session.
    Open(TradingSession),
    /// The time before the pre session, after the post session, or a day without a session.
    Closed,
    /// A day in New York that [`Calendar`] does not cover.
    Unknown,
}

/// A stretch of time, half-open, in milliseconds since 1970 UTC. It never reaches beyond a day, in
/// New York for stocks and in UTC for other classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// What the market does.
    pub hours: Hours,
    /// Its first millisecond.
    pub start: WindowStart,
    /// The first millisecond after it.
    pub end: i64,
}

/// A time of stocks in a year that the calendar does not cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub struct UnknownYear {
    /// The time, in milliseconds since 1970 UTC.
    pub ms: i64,
}

impl fmt::Display for UnknownYear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let years = Calendar::us_equities().years();
        write!(
            f,
            "the calendar of US equity sessions covers the years {} to {}, and {} is outside of \
             them",
            years.start(),
            years.end(),
            crate::window::format_utc(self.ms)
        )
    }
}

impl Stretch {
    /// The stretch that contains a time, by the clock alone.
    #[must_use]
    pub fn at(ms: i64, class: AssetClass) -> Self {
        match class {
            AssetClass::Stock => new_york_day::stretch_at(ms),
            AssetClass::Crypto | AssetClass::Forex => {
                let start = ms - ms.rem_euclid(DAY_MS);
                Self {
                    hours: Hours::Open(TradingSession::Day),
                    start,
                    end: start + DAY_MS,
                }
            }
        }
    }

    /// The stretch that a trade belongs to: the one that contains its time, unless its sale
    /// conditions name another one of the same day.
    #[must_use]
    pub fn of_trade(time: EventTime, conditions: Conditions, class: AssetClass) -> Self {
        let at = Self::at(time.ms(), class);
        if class != AssetClass::Stock || !at.excludes(conditions) {
            return at;
        }
        let moved = if at.hours == Hours::Open(TradingSession::Regular) {
            // The millisecond before a regular session is in the pre session.
            Some(Self::at(at.start - 1, class))
        } else {
            new_york_day::regular_before(time.ms())
        };
        moved.unwrap_or(at)
    }

    /// Whether trades with these conditions may belong elsewhere, though their time is in this
    /// stretch. The answer is false for nearly all trades.
    #[inline]
    #[must_use]
    pub fn excludes(&self, conditions: Conditions) -> bool {
        match self.hours {
            Hours::Open(TradingSession::Regular) => conditions.is_extended_hours(),
            Hours::Open(TradingSession::Post) | Hours::Closed => {
                conditions.is_closing() && !conditions.is_extended_hours()
            }
            Hours::Open(TradingSession::Pre | TradingSession::Day) | Hours::Unknown => false,
        }
    }

    /// The kind of the session; `None` between sessions.
    ///
    /// # Errors
    /// [`UnknownYear`] if the calendar does not cover the day.
    pub fn session(&self) -> Result<Option<TradingSession>, UnknownYear> {
        match self.hours {
            Hours::Open(kind) => Ok(Some(kind)),
            Hours::Closed => Ok(None),
            Hours::Unknown => Err(UnknownYear { ms: self.start }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::{format_utc, parse_utc};

    fn check(time: &str, codes: &[u8], class: AssetClass, hours: Hours, start: &str) {
        let ms = parse_utc(time).expect("a time");
        let conditions = codes
            .iter()
            .fold(Conditions::NONE, |set, code| set.with(*code));
        let time_of = EventTime::from_ms(ms).expect("in range");
        let found = Stretch::of_trade(time_of, conditions, class);
        assert_eq!(
            (found.hours, format_utc(found.start)),
            (hours, start.to_owned()),
            "{time} {codes:?}"
        );
        let at = Stretch::at(ms, class);
        assert!(at.start <= ms && ms < at.end, "{time}");
        assert!(found.start <= ms, "no session starts after its trades");
        assert_eq!(
            Stretch::at(found.start, class),
            found,
            "the start names the session"
        );
    }

    fn stock(time: &str, codes: &[u8], kind: TradingSession, start: &str) {
        check(time, codes, AssetClass::Stock, Hours::Open(kind), start);
    }

    #[test]
    fn sessions_follow_new_york_and_its_daylight_saving_time() {
        use TradingSession::{Post, Pre, Regular};
        // A Friday in winter, and the Monday after the clocks changed.
        stock("2023-03-10T09:00:00Z", &[], Pre, "2023-03-10T09:00:00Z");
        stock("2023-03-10T14:29:59.999Z", &[], Pre, "2023-03-10T09:00:00Z");
        stock("2023-03-10T14:30:00Z", &[], Regular, "2023-03-10T14:30:00Z");
        stock("2023-03-13T13:30:00Z", &[], Regular, "2023-03-13T13:30:00Z");
        stock("2023-03-13T20:00:00Z", &[], Post, "2023-03-13T20:00:00Z");
        stock(
            "2023-03-13T23:59:59.999Z",
            &[],
            Post,
            "2023-03-13T20:00:00Z",
        );
    }

    #[test]
    fn between_sessions_the_market_is_closed() {
        let closed = |time: &str, start: &str| {
            check(time, &[], AssetClass::Stock, Hours::Closed, start);
        };
        closed("2023-03-14T00:00:00Z", "2023-03-14T00:00:00Z");
        closed("2023-03-14T07:59:59.999Z", "2023-03-14T04:00:00Z");
        closed("2025-01-09T18:00:00Z", "2025-01-09T05:00:00Z");
        closed("2023-03-12T18:00:00Z", "2023-03-12T05:00:00Z");
        // An early day: post ends at 17:00.
        closed("2025-07-03T21:00:00Z", "2025-07-03T21:00:00Z");
        stock(
            "2025-07-03T17:00:00Z",
            &[],
            TradingSession::Post,
            "2025-07-03T17:00:00Z",
        );
    }

    #[test]
    fn closing_prints_belong_to_the_regular_session_of_their_date() {
        use TradingSession::{Post, Pre, Regular};
        for code in [35, 36] {
            stock(
                "2023-03-13T20:00:07Z",
                &[1, code],
                Regular,
                "2023-03-13T13:30:00Z",
            );
            // After post has ended, on the same date.
            stock(
                "2023-03-14T03:59:59.999Z",
                &[code],
                Regular,
                "2023-03-13T13:30:00Z",
            );
            stock(
                "2023-03-13T13:29:59.999Z",
                &[code],
                Pre,
                "2023-03-13T08:00:00Z",
            );
            stock(
                "2025-07-03T17:00:01Z",
                &[code],
                Regular,
                "2025-07-03T13:30:00Z",
            );
            stock(
                "2023-03-13T20:00:07Z",
                &[code, 24],
                Post,
                "2023-03-13T20:00:00Z",
            );
            for (time, start) in [
                ("2023-03-14T04:00:00Z", "2023-03-14T04:00:00Z"),
                ("2023-03-12T20:00:00Z", "2023-03-12T05:00:00Z"),
            ] {
                check(time, &[code], AssetClass::Stock, Hours::Closed, start);
            }
        }
    }

    #[test]
    fn extended_hours_trades_are_never_regular() {
        for code in [24, 25] {
            for time in ["2023-03-13T13:30:00Z", "2023-03-13T19:59:59.999Z"] {
                stock(
                    time,
                    &[12, code],
                    TradingSession::Pre,
                    "2023-03-13T08:00:00Z",
                );
            }
            stock(
                "2023-03-13T20:00:00Z",
                &[code],
                TradingSession::Post,
                "2023-03-13T20:00:00Z",
            );
        }
    }

    #[test]
    fn crypto_and_forex_have_the_utc_day() {
        for class in [AssetClass::Crypto, AssetClass::Forex] {
            check(
                "2023-03-12T20:00:07Z",
                &[35, 24],
                class,
                Hours::Open(TradingSession::Day),
                "2023-03-12T00:00:00Z",
            );
        }
    }

    #[test]
    fn a_year_without_a_calendar_is_unknown_and_the_error_names_the_years() {
        check(
            "2041-03-12T20:00:07Z",
            &[35],
            AssetClass::Stock,
            Hours::Unknown,
            "2041-03-12T04:00:00Z",
        );
        for ms in [i64::MIN, i64::MAX] {
            assert_eq!(Stretch::at(ms, AssetClass::Stock).hours, Hours::Unknown);
        }
        let ms = parse_utc("1999-03-12T20:00:07Z").expect("a time");
        let error = Stretch::at(ms, AssetClass::Stock)
            .session()
            .expect_err("before the calendar begins");
        assert_eq!(
            error.to_string(),
            "the calendar of US equity sessions covers the years 2007 to 2040, and \
             1999-03-12T05:00:00Z is outside of them"
        );
    }
}
