//! When a recorded frame is due: as fast as possible, or as its trades happened, at a multiple of
//! their speed.

use std::{str::FromStr, time::Duration};

/// How fast a recording is replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Speed {
    /// As fast as it is taken.
    #[default]
    Max,
    /// This many times as fast as it happened.
    Times(f64),
}

/// Why a text is no speed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a speed: give max, or a multiple such as 1x or 10x")]
pub struct SpeedError(String);

impl FromStr for Speed {
    type Err = SpeedError;

    fn from_str(text: &str) -> Result<Self, SpeedError> {
        if text == "max" {
            return Ok(Self::Max);
        }
        let times = text
            .strip_suffix('x')
            .filter(|number| number.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
            .and_then(|number| number.parse::<f64>().ok());
        times
            .filter(|times| (0.001..=1e6).contains(times))
            .map(Self::Times)
            .ok_or_else(|| SpeedError(text.into()))
    }
}

impl std::fmt::Display for Speed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::Times(times) => write!(f, "{times}x"),
        }
    }
}

/// The longest pause that a gap in the recording makes, in event time: nights and the years between
/// two recordings in one file are not waited out.
const LONGEST_GAP_MS: i64 = 60_000;

/// Keeps the time of a replay.
#[derive(Debug, Default)]
pub struct Pace {
    latest_ms: Option<i64>,
    elapsed_ms: i64,
}

impl Pace {
    /// How long after the start of the replay, in event time, a frame is due whose first trade
    /// happened at `event_ms`. Never earlier than the frame before.
    pub fn due(&mut self, event_ms: i64) -> Duration {
        let latest_ms = self.latest_ms.unwrap_or(event_ms);
        self.elapsed_ms += (event_ms - latest_ms).clamp(0, LONGEST_GAP_MS);
        // A little back is a late trade; far back is another recording in the same file, and time
        // goes on from there.
        self.latest_ms = Some(if event_ms < latest_ms - LONGEST_GAP_MS {
            event_ms
        } else {
            latest_ms.max(event_ms)
        });
        Duration::from_millis(u64::try_from(self.elapsed_ms).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_read_and_nonsense_is_named() {
        assert_eq!("max".parse(), Ok(Speed::Max));
        assert_eq!("10x".parse(), Ok(Speed::Times(10.0)));
        assert_eq!("0.5x".parse(), Ok(Speed::Times(0.5)));
        for text in ["", "x", "10", "0x", "-1x", "infx", "nanx", "1e9x", "fast"] {
            assert_eq!(text.parse::<Speed>(), Err(SpeedError(text.into())));
        }
    }

    #[test]
    fn frames_are_due_as_they_happened_but_long_gaps_are_not_waited_out() {
        let mut pace = Pace::default();
        let year_ms = 31_536_000_000;
        let times = [
            year_ms,
            year_ms + 100,
            year_ms + 50,
            year_ms + 200,
            3 * year_ms,
            3 * year_ms + 1_000,
            2 * year_ms,
            2 * year_ms + 10,
        ];
        let due: Vec<u128> = times.iter().map(|ms| pace.due(*ms).as_millis()).collect();
        assert_eq!(due, [0, 100, 100, 200, 60_200, 61_200, 61_200, 61_210]);
    }
}
