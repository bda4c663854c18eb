//! One admitted trade.

use std::fmt;

use crate::{
    conditions::Conditions,
    decimal::{MAX_NOTIONAL_E16, Notional, NumberError, Price, Size},
};

/// When a trade happened, by Finnhub, in milliseconds since 1970-01-01 UTC. It lies between 1970
/// and 2200. A time in microseconds that is mistaken for milliseconds falls outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTime(i64);

/// The first millisecond of the year 2200. Every event time is below it.
pub const END_OF_TIME_MS: i64 = 7_258_118_400_000;
/// How far an event time may lie ahead of the time of its record ([`record_time_ms`]), in
/// milliseconds; a trade beyond it becomes a dead letter. Five minutes cover the clock errors of a
/// usable feed. A trade in the future makes the real trades of its partition late for as long.
pub const FUTURE_TOLERANCE_MS: i64 = 300_000;

/// The time at which a record existed, in milliseconds since 1970 UTC: when it was taken in, but no
/// later than the log's own timestamp of it. A record can claim any time for itself. The log's
/// timestamp is that of the broker if the topic has `message.timestamp.type=LogAppendTime`.
///
/// A legacy record has no `taken_ms`, and a log without timestamps gives zero or less.
#[must_use]
pub fn record_time_ms(taken_ms: Option<i64>, timestamp_ms: i64) -> i64 {
    match taken_ms {
        Some(taken_ms) if timestamp_ms > 0 => taken_ms.min(timestamp_ms),
        Some(taken_ms) => taken_ms,
        None => timestamp_ms,
    }
}

impl EventTime {
    /// An event time from milliseconds since 1970 UTC; `None` outside 1970 to 2200.
    #[must_use]
    pub fn from_ms(ms: i64) -> Option<Self> {
        (0..END_OF_TIME_MS).contains(&ms).then_some(Self(ms))
    }

    /// Milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn ms(self) -> i64 {
        self.0
    }

    /// Whether this lies more than [`FUTURE_TOLERANCE_MS`] ahead of `known_ms`, the time at which
    /// the trade was known. With the reader's clock instead, a replay could decide otherwise.
    #[must_use]
    pub fn is_future(self, known_ms: i64) -> bool {
        self.0 > known_ms.saturating_add(FUTURE_TOLERANCE_MS)
    }
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::window::format_utc(self.0))
    }
}

/// An admitted trade: price and size above zero, notional in bounds. Its record holds the symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trade {
    /// When the trade happened.
    pub event_time: EventTime,
    /// Price per unit.
    pub price: Price,
    /// Units traded.
    pub size: Size,
    /// The sale conditions.
    pub conditions: Conditions,
}

impl Trade {
    /// Makes a trade whose notional is within bounds.
    ///
    /// # Errors
    /// [`NumberError::TooLarge`] if price times size exceeds [`MAX_NOTIONAL_E16`].
    pub fn new(
        event_time: EventTime,
        price: Price,
        size: Size,
        conditions: Conditions,
    ) -> Result<Self, NumberError> {
        if price.times(size).0 > MAX_NOTIONAL_E16 {
            Err(NumberError::TooLarge)
        } else {
            Ok(Self {
                event_time,
                price,
                size,
                conditions,
            })
        }
    }

    /// Price times size.
    #[must_use]
    pub fn notional(&self) -> Notional {
        self.price.times(self.size)
    }
}
