//! Tumbling windows: half-open `[start, end)`, labelled by their start, in several sizes at once.
//!
//! A window shorter than a day starts at a multiple of its size since 1970 UTC. A window of a day
//! is the date of the market: in New York for stocks, because a UTC day would split the US evening
//! session, and in UTC for crypto and forex.
//!
//! A window of size `session` is a trading session ([`crate::trading_session`]). It has no length
//! of its own, and which one a trade belongs to depends on its sale conditions too.

use std::{fmt, str::FromStr};

use jiff::{Timestamp, tz::TimeZone};

use serde::{Deserialize, Serialize};

use crate::{
    conditions::Conditions,
    symbol::AssetClass,
    trade::EventTime,
    trading_session::{Hours, Stretch, TradingSession},
};

/// The first millisecond of a window, since 1970-01-01 UTC.
pub type WindowStart = i64;

const DAY_MS: i64 = 86_400_000;
/// The length of a [`bucket`]: two weeks.
pub const BUCKET_MS: i64 = 14 * DAY_MS;
/// The text of the size of trading sessions.
const SESSION: &str = "session";

/// What stands for a trading session among lengths: above all of them, so that it sorts last.
const SESSION_MS: i64 = DAY_MS + 1;
/// What stands for a trading session among serialized lengths: it has none.
const SESSION_SERIALIZED: i64 = 0;

/// The length of a window: a whole number of seconds that divides a day, the day itself, or a
/// trading session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WindowSize {
    ms: i64,
}

/// Why a text is not a window size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a window size: give a number and s, m, h or d that divides a day evenly, \
     such as 1s, 5m, 1h, 1d, or session"
)]
pub struct WindowSizeError(String);

impl WindowSize {
    /// One minute.
    pub const MINUTE: Self = Self { ms: 60_000 };

    /// The default sizes of a job: one second, one minute, five minutes, one hour, one day.
    pub const DEFAULTS: [Self; 5] = [
        Self { ms: 1_000 },
        Self { ms: 60_000 },
        Self { ms: 300_000 },
        Self { ms: 3_600_000 },
        Self { ms: DAY_MS },
    ];

    /// One day, whose bounds depend on the asset class.
    pub const DAY: Self = Self { ms: DAY_MS };

    /// A trading session: pre, regular and post of stocks, and the UTC day of other classes.
    pub const SESSION: Self = Self { ms: SESSION_MS };

    /// A size from milliseconds; `None` unless it is whole seconds and divides a day.
    #[must_use]
    pub fn from_ms(ms: i64) -> Option<Self> {
        (ms > 0 && ms % 1_000 == 0 && DAY_MS % ms == 0).then_some(Self { ms })
    }

    /// The nominal length in milliseconds. A New York day has 23 or 25 hours twice a year. That of
    /// a trading session is a day, the longest one.
    #[must_use]
    pub fn ms(self) -> i64 {
        self.ms.min(DAY_MS)
    }

    /// Whether its windows are trading sessions.
    #[must_use]
    pub fn is_session(self) -> bool {
        self.ms == SESSION_MS
    }

    /// The start of the window that a trade belongs to. `None`: it belongs to no trading session,
    /// or to one of a year that the calendar does not cover. Other sizes have a window for every
    /// trade.
    #[must_use]
    pub fn window_of(
        self,
        time: EventTime,
        conditions: Conditions,
        class: AssetClass,
    ) -> Option<WindowStart> {
        if self.is_session() {
            let stretch = Stretch::of_trade(time, conditions, class);
            matches!(stretch.hours, Hours::Open(_)).then_some(stretch.start)
        } else {
            Some(self.start_of(time, class))
        }
    }

    /// The trading session that starts at `start`; `None` if the size is another one, or if none
    /// starts there.
    #[must_use]
    pub fn session_at(self, start: WindowStart, class: AssetClass) -> Option<TradingSession> {
        match Stretch::at(start, class) {
            Stretch {
                hours: Hours::Open(session),
                start: begins,
                ..
            } if self.is_session() && begins == start => Some(session),
            _ => None,
        }
    }

    /// Whether this is one day, whose bounds depend on the asset class.
    #[must_use]
    pub fn is_day(self) -> bool {
        self.ms == DAY_MS
    }

    /// The start of the window that contains `time`, for a symbol of `class`. By the clock alone: a
    /// trade may belong to another trading session ([`WindowSize::window_of`]), and the time
    /// between two sessions counts as a window here.
    #[must_use]
    pub fn start_of(self, time: EventTime, class: AssetClass) -> WindowStart {
        self.start_at(time.ms(), class)
    }

    /// Whether a window of a symbol of `class` starts at this millisecond, which is negative for
    /// the first day of stocks.
    #[must_use]
    pub fn is_start(self, ms: i64, class: AssetClass) -> bool {
        if self.is_session() {
            self.session_at(ms, class).is_some()
        } else {
            self.start_at(ms, class) == ms
        }
    }

    /// As [`WindowSize::start_of`], for any millisecond.
    #[must_use]
    pub fn start_at(self, ms: i64, class: AssetClass) -> WindowStart {
        if self.is_session() {
            Stretch::at(ms, class).start
        } else if self.is_day() && class == AssetClass::Stock {
            new_york_midnight(ms)
        } else {
            ms - ms.rem_euclid(self.ms)
        }
    }

    /// The first millisecond after the window that starts at `start`.
    #[must_use]
    pub fn end_of(self, start: WindowStart, class: AssetClass) -> i64 {
        // 26 hours after a midnight lies in the next day, whether the day has 23, 24 or 25 hours.
        if self.is_session() {
            Stretch::at(start, class).end
        } else if self.is_day() && class == AssetClass::Stock {
            new_york_midnight(start + 26 * 3_600_000)
        } else {
            start + self.ms
        }
    }

    /// The window whose row holds the window that starts at `start`: itself, or its minute.
    #[must_use]
    pub fn row_of(self, start: WindowStart) -> (Self, WindowStart) {
        if self.is_packed() {
            (
                Self::MINUTE,
                start.saturating_sub(start.rem_euclid(Self::MINUTE.ms)),
            )
        } else {
            (self, start)
        }
    }

    /// Whether bars of this size have no row of their own, but are packed into the row of their
    /// minute: sizes below a minute that divide it.
    #[must_use]
    pub fn is_packed(self) -> bool {
        self.ms < Self::MINUTE.ms && Self::MINUTE.ms % self.ms == 0
    }
}

/// The bucket of a window: the start of the table partition that holds it, in milliseconds since
/// 1970 UTC, which is 14 days long. A partition holds all sizes of a symbol, so that what an epoch
/// writes of a symbol is one mutation. Two weeks of minutes are 20,160 rows: some 3 MB for most
/// symbols, and 60 MB for one that trades in each second of the day.
#[must_use]
pub fn bucket(start: WindowStart) -> i64 {
    start - start.rem_euclid(BUCKET_MS)
}

impl fmt::Display for WindowSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_session() {
            return f.write_str(SESSION);
        }
        let seconds = self.ms / 1_000;
        match seconds {
            s if s % 86_400 == 0 => write!(f, "{}d", s / 86_400),
            s if s % 3_600 == 0 => write!(f, "{}h", s / 3_600),
            s if s % 60 == 0 => write!(f, "{}m", s / 60),
            s => write!(f, "{s}s"),
        }
    }
}

impl Serialize for WindowSize {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i64(if self.is_session() {
            SESSION_SERIALIZED
        } else {
            self.ms
        })
    }
}

impl<'de> Deserialize<'de> for WindowSize {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let ms = i64::deserialize(from)?;
        let size = if ms == SESSION_SERIALIZED {
            Some(Self::SESSION)
        } else {
            Self::from_ms(ms)
        };
        size.ok_or_else(|| serde::de::Error::custom("not a window size"))
    }
}

impl FromStr for WindowSize {
    type Err = WindowSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == SESSION {
            return Ok(Self::SESSION);
        }
        let error = || WindowSizeError(text.into());
        let unit = text.chars().next_back().ok_or_else(error)?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(error()),
        };
        let digits = &text[..text.len() - 1];
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error());
        }
        let count: i64 = digits.parse().map_err(|_| error())?;
        count
            .checked_mul(seconds * 1_000)
            .and_then(Self::from_ms)
            .ok_or_else(error)
    }
}

/// The last New York midnight at or before `ms`.
fn new_york_midnight(ms: i64) -> WindowStart {
    NEW_YORK.with(|zone| {
        let mut zone = zone.borrow_mut();
        if !(zone.day.0..zone.day.1).contains(&ms) {
            zone.day = zone.look_up(ms);
        }
        zone.day.0
    })
}

thread_local! {
    /// The time zone and the last day looked up. Successive trades mostly share a day, so most
    /// look-ups take two comparisons.
    static NEW_YORK: std::cell::RefCell<NewYork> = std::cell::RefCell::new(NewYork {
        zone: TimeZone::get("America/New_York").expect("the tz database is bundled"),
        day: (0, 0),
    });
}

struct NewYork {
    zone: TimeZone,
    day: (i64, i64),
}

impl NewYork {
    /// The bounds of the New York day that contains `ms`. New York has never skipped or repeated a
    /// midnight.
    fn look_up(&self, ms: i64) -> (i64, i64) {
        let bound = |date: jiff::civil::Date| {
            date.to_zoned(self.zone.clone())
                .map(|z| z.timestamp().as_millisecond())
        };
        let day = Timestamp::from_millisecond(ms)
            .map(|t| t.to_zoned(self.zone.clone()).date())
            .and_then(|date| Ok((bound(date)?, bound(date.tomorrow()?)?)));
        day.expect("event times end in 2200, within the range of the calendar")
    }
}

/// `2023-03-31T18:15:39.953Z`: RFC 3339 in UTC, with milliseconds only where there are any.
#[must_use]
pub fn format_utc(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms}ms"), |t| t.to_string())
}

/// Milliseconds since 1970 of an RFC 3339 time or a date (its UTC midnight).
///
/// # Errors
/// A message that quotes the text and names the valid forms.
pub fn parse_utc(text: &str) -> Result<i64, String> {
    let date = || {
        text.parse::<jiff::civil::Date>()
            .and_then(|d| d.to_zoned(TimeZone::UTC))
            .map(|z| z.timestamp())
    };
    text.parse::<Timestamp>()
        .or_else(|_| date())
        .map(Timestamp::as_millisecond)
        .map_err(|_| {
            format!(
                "{text:?} is not a time: give RFC 3339, such as 2023-03-31T18:15:00Z, or a date"
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(size: &str, time: &str, class: AssetClass) -> String {
        let size: WindowSize = size.parse().expect("a size");
        let ms = parse_utc(time).expect("a time");
        let start = size.start_of(EventTime::from_ms(ms).expect("in range"), class);
        assert!(
            start <= ms && ms < size.end_of(start, class),
            "{time} lies in its window"
        );
        assert!((start - BUCKET_MS + 1..=start).contains(&bucket(start)));
        format_utc(start)
    }

    #[test]
    fn windows_are_labelled_by_their_start() {
        assert_eq!(
            start("1s", "2023-03-31T18:15:39.953Z", AssetClass::Stock),
            "2023-03-31T18:15:39Z"
        );
        assert_eq!(
            start("5m", "2023-03-31T18:15:39.953Z", AssetClass::Stock),
            "2023-03-31T18:15:00Z"
        );
        assert_eq!(
            start("1h", "2023-03-31T18:00:00Z", AssetClass::Stock),
            "2023-03-31T18:00:00Z"
        );
    }

    #[test]
    fn a_day_is_the_date_of_the_market() {
        assert_eq!(
            start("1d", "2022-02-15T00:30:00Z", AssetClass::Stock),
            "2022-02-14T05:00:00Z"
        );
        assert_eq!(
            start("1d", "2022-02-15T00:30:00Z", AssetClass::Crypto),
            "2022-02-15T00:00:00Z"
        );
        // Daylight saving time: the day it begins has 23 hours, the day it ends 25.
        assert_eq!(
            start("1d", "2023-03-12T23:00:00Z", AssetClass::Stock),
            "2023-03-12T05:00:00Z"
        );
        assert_eq!(
            start("1d", "2023-03-13T04:00:00Z", AssetClass::Stock),
            "2023-03-13T04:00:00Z"
        );
        assert_eq!(
            start("1d", "2023-11-06T04:59:59Z", AssetClass::Stock),
            "2023-11-05T04:00:00Z"
        );
        assert_eq!(
            start("1d", "1970-01-01T00:00:00Z", AssetClass::Stock),
            "1969-12-31T05:00:00Z"
        );
    }

    #[test]
    fn sizes_that_divide_a_minute_are_packed_into_it() {
        for (text, is_packed) in [
            ("1s", true),
            ("15s", true),
            ("30s", true),
            ("8s", false),
            ("45s", false),
            ("1m", false),
            ("90s", false),
            ("1d", false),
        ] {
            let size: WindowSize = text.parse().expect(text);
            assert_eq!(size.is_packed(), is_packed, "{text}");
        }
    }

    #[test]
    fn a_session_is_the_largest_size_and_has_no_length_of_its_own() {
        let session: WindowSize = "session".parse().expect("a size");
        assert_eq!(session, WindowSize::SESSION);
        assert_eq!(session.to_string(), "session");
        assert!(session > WindowSize::DAY && !session.is_day() && session.is_session());
        assert_eq!(session.ms(), DAY_MS);
        for size in [session, WindowSize::DAY, WindowSize::MINUTE] {
            let json = serde_json::to_string(&size).expect("JSON");
            assert_eq!(serde_json::from_str::<WindowSize>(&json).ok(), Some(size));
        }
        assert!(serde_json::from_str::<WindowSize>("86400001").is_err());
        assert_eq!(
            start("session", "2023-03-31T18:15:39.953Z", AssetClass::Stock),
            "2023-03-31T13:30:00Z"
        );
    }

    #[test]
    fn a_trade_has_a_window_of_every_size_but_not_always_a_session() {
        let window = |size: &str, time: &str, code: u8| {
            let size: WindowSize = size.parse().expect("a size");
            let time = EventTime::from_ms(parse_utc(time).expect("a time")).expect("in range");
            let start = size.window_of(time, Conditions::NONE.with(code), AssetClass::Stock)?;
            let session = size.session_at(start, AssetClass::Stock);
            assert!(size.is_start(start, AssetClass::Stock));
            Some((format_utc(start), session.map(TradingSession::name)))
        };
        let found = |start: &str, session| Some((start.to_owned(), session));
        let close = "2023-03-31T20:00:07Z";
        assert_eq!(
            window("session", close, 1),
            found("2023-03-31T20:00:00Z", Some("post"))
        );
        assert_eq!(
            window("session", close, 35),
            found("2023-03-31T13:30:00Z", Some("regular"))
        );
        assert_eq!(window("1m", close, 35), found("2023-03-31T20:00:00Z", None));
        let (sunday, unknown) = ("2023-04-02T15:00:00Z", "2041-06-03T15:00:00Z");
        assert_eq!(window("session", sunday, 1), None);
        assert_eq!(window("session", unknown, 1), None);
        assert_eq!(window("1h", unknown, 1), found(unknown, None));
        let midnight = parse_utc("2023-04-02T04:00:00Z").expect("a time");
        assert!(!WindowSize::SESSION.is_start(midnight, AssetClass::Stock));
    }

    #[test]
    fn sizes_are_read_and_written_alike() {
        for text in ["1s", "90s", "1m", "5m", "1h", "1d", "12h"] {
            let size: WindowSize = text.parse().expect(text);
            assert_eq!(size.to_string(), if text == "90s" { "90s" } else { text });
        }
        for text in [
            "",
            "s",
            "0s",
            "7s",
            "2d",
            "1w",
            "-1m",
            "+1m",
            "1 m",
            "99999999999999999999d",
            "1é",
        ] {
            assert!(text.parse::<WindowSize>().is_err(), "{text}");
        }
    }
}
