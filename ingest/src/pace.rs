//! When a recorded frame is due: at once, or at a multiple of the speed at which its trades
//! happened.

use std::{str::FromStr, time::Duration};

/// The speed of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Speed {
    /// As fast as the log accepts it.
    #[default]
    Max,
    /// This many times as fast as the trades happened.
    Times(f64),
}

/// A text that is not a speed.
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

/// The longest wait, in event time, for a gap in the recording, such as a night or the time between
/// two recordings in one file.
const LONGEST_GAP_MS: i64 = 60_000;

/// The clock of a replay, in event time.
#[derive(Debug, Default)]
pub struct Pace {
    latest_ms: Option<i64>,
    elapsed_ms: i64,
}

impl Pace {
    /// When a frame is due whose first trade happened at `event_ms`: the event time since the start
    /// of the replay. Never earlier than the frame before.
    pub fn due(&mut self, event_ms: i64) -> Duration {
        let latest_ms = self.latest_ms.unwrap_or(event_ms);
        self.elapsed_ms += (event_ms - latest_ms).clamp(0, LONGEST_GAP_MS);
        // A small step back is a late trade. A large one is another recording in the same file,
        // whose time counts from here.
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
    fn speeds_are_parsed_and_other_texts_are_refused() {
        assert_eq!("max".parse(), Ok(Speed::Max));
        assert_eq!("10x".parse(), Ok(Speed::Times(10.0)));
        assert_eq!("0.5x".parse(), Ok(Speed::Times(0.5)));
        for text in ["", "x", "10", "0x", "-1x", "infx", "nanx", "1e9x", "fast"] {
            assert_eq!(text.parse::<Speed>(), Err(SpeedError(text.into())));
        }
    }

    #[test]
    fn frames_are_due_as_they_happened_and_long_gaps_are_cut() {
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
