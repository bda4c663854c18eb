//! What ingest says about its feed: since when it is away, and when it is back. Decisions only, with
//! `now` as a parameter.
//!
//! ```text
//!            connected and subscribed: Back
//!  away ────────────────────────────────────▶ there        stop: Ends, from either
//!   ▲                                           │
//!   └── dropped or silent: Away ────────────────┘
//! ```
//!
//! A run begins away: since the last record that the log has of its producer, or since its start if
//! the log has none. An attempt to connect that fails says nothing, because the feed is away
//! already. So each reconnection makes two changes, however many attempts it takes. The back-off
//! bounds them: of connections that drop at once, there are eight in the first minute and then at
//! most four a minute ([`crate::finnhub::Timing`]). Every partition gets a record of each.
//!
//! An idle feed is there, because it pings. After [`ALIVE_EVERY_MS`] without a record one says so.
//! Otherwise a gap after a kill would begin at the last trade before the market closed.

/// The time without a record after which an idle feed says that it is there, in milliseconds.
pub const ALIVE_EVERY_MS: i64 = 60_000;

/// Why a feed is or was away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The first run of the producer, as far as the log says.
    Start,
    /// An earlier run ended, by itself or killed.
    Restart,
    /// The connection dropped.
    Disconnected,
    /// The connection brought nothing for [`crate::finnhub::Timing::silence`].
    Silent,
    /// The run was asked to stop.
    Stopped,
    /// The server refused the run for good.
    Refused,
}

impl Cause {
    /// The word in records and tables.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Restart => "restart",
            Self::Disconnected => "disconnected",
            Self::Silent => "silent",
            Self::Stopped => "stopped",
            Self::Refused => "refused",
        }
    }
}

/// What the feed says about itself, in the order of its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The feed is away since then.
    Away {
        /// When trades were last known to be complete, in milliseconds since 1970 UTC.
        from_ms: i64,
        /// Why.
        cause: Cause,
    },
    /// The feed was away, and is back.
    Back {
        /// As in [`Change::Away`].
        from_ms: i64,
        /// When the feed was subscribed to, in milliseconds since 1970 UTC.
        to_ms: i64,
        /// Why it was away.
        cause: Cause,
    },
    /// The run ends.
    Ends {
        /// When, in milliseconds since 1970 UTC.
        at_ms: i64,
        /// Why.
        cause: Cause,
    },
}

/// Whether the feed is there.
#[derive(Clone, Copy, Debug)]
pub struct Presence {
    /// Since when it is away, and why.
    away: Option<(i64, Cause)>,
    /// When the last frame came.
    last_frame_ms: i64,
}

impl Presence {
    /// The feed of a run that begins: away since then.
    #[must_use]
    pub fn begins(from_ms: i64, cause: Cause) -> Self {
        Self {
            away: Some((from_ms, cause)),
            last_frame_ms: from_ms,
        }
    }

    /// Whether the feed is away.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.away.is_some()
    }

    /// A frame came.
    pub fn frame(&mut self, now_ms: i64) {
        self.last_frame_ms = now_ms;
    }

    /// The feed is subscribed to.
    pub fn back(&mut self, now_ms: i64) -> Option<Change> {
        let (from_ms, cause) = self.away.take()?;
        self.last_frame_ms = now_ms;
        Some(Change::Back {
            from_ms,
            to_ms: now_ms.max(from_ms),
            cause,
        })
    }

    /// The server closed the connection. Everything before arrived, because the messages of a
    /// connection arrive in order.
    pub fn closed(&mut self, now_ms: i64) -> Option<Change> {
        self.frame(now_ms);
        self.lost(Cause::Disconnected)
    }

    /// The connection broke or was given up. What came after the last frame is not known.
    pub fn lost(&mut self, cause: Cause) -> Option<Change> {
        if self.away.is_some() {
            return None;
        }
        let from_ms = self.last_frame_ms;
        self.away = Some((from_ms, cause));
        Some(Change::Away { from_ms, cause })
    }
}

/// Whether a feed that brings frames also brings records.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    recorded_ms: i64,
}

impl Idle {
    /// Of a run whose newest record was made then.
    #[must_use]
    pub fn since(recorded_ms: i64) -> Self {
        Self { recorded_ms }
    }

    /// A record was made.
    pub fn recorded(&mut self, now_ms: i64) {
        self.recorded_ms = now_ms;
    }

    /// A frame came that made no record. Returns whether the feed must say that it is there.
    pub fn is_due(&mut self, taken_ms: i64) -> bool {
        let is_due = taken_ms.saturating_sub(self.recorded_ms) >= ALIVE_EVERY_MS;
        if is_due {
            self.recorded(taken_ms);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_feed_says_once_a_minute_that_it_is_there() {
        let mut idle = Idle::since(1_000);
        assert!(!idle.is_due(60_999));
        assert!(idle.is_due(61_000));
        assert!(!idle.is_due(62_000));
        idle.recorded(100_000);
        assert!(!idle.is_due(121_000));
        assert!(idle.is_due(160_000));
    }

    #[test]
    fn a_feed_says_once_that_it_is_away_and_once_that_it_is_back() {
        let mut feed = Presence::begins(100, Cause::Restart);
        // Attempts to connect that fail.
        assert_eq!(feed.lost(Cause::Disconnected), None);
        assert_eq!(feed.closed(150), None);
        let back = |from_ms, to_ms, cause| {
            Some(Change::Back {
                from_ms,
                to_ms,
                cause,
            })
        };
        assert_eq!(feed.back(200), back(100, 200, Cause::Restart));
        assert_eq!(feed.back(210), None);
        feed.frame(300);
        // Silence is noticed late, and a close at once.
        let away = |from_ms, cause| Some(Change::Away { from_ms, cause });
        assert_eq!(feed.lost(Cause::Silent), away(300, Cause::Silent));
        assert_eq!(feed.lost(Cause::Disconnected), None);
        assert_eq!(feed.back(500), back(300, 500, Cause::Silent));
        assert_eq!(feed.closed(600), away(600, Cause::Disconnected));
        // The clock went back.
        assert_eq!(feed.back(550), back(600, 600, Cause::Disconnected));
    }
}
