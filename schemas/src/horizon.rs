//! How late a trade may be for a bar, and so which bars can never change again.
//!
//! Without a horizon a bar of any age takes a late trade, so no bar may ever be removed. With a
//! horizon of a week for bars of a second, a trade that comes a week after its second has ended is
//! in the longer bars alone, and what the store keeps of that second may be removed
//! (`tapeflow expire`).
//!
//! The measure is the watermark of the trade's partition, never a clock: a replay of the same
//! records takes and refuses the same trades.

use std::fmt;

use crate::{AssetClass, WindowSize, WindowStart};

/// The default horizon of sizes that are packed into a minute: 7 days. A store keeps more of them
/// than of everything else.
const PACKED_DEFAULT_MS: i64 = 7 * 86_400_000;
/// The longest horizon: 100 years.
const LONGEST_MS: i64 = 36_500 * 86_400_000;
/// The units of a horizon, longest first.
const UNITS: [(char, i64); 6] = [
    ('y', 365 * 86_400_000),
    ('w', 7 * 86_400_000),
    ('d', 86_400_000),
    ('h', 3_600_000),
    ('m', 60_000),
    ('s', 1_000),
];

/// Horizons by window size; a size without one has none. As text `1s=7d,1m=2y`, and `none` if no
/// size has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Horizons {
    /// Ascending by size, in milliseconds.
    by_size: Vec<(WindowSize, i64)>,
}

impl Horizons {
    /// No size has a horizon.
    pub const NONE: Self = Self {
        by_size: Vec::new(),
    };

    /// Those of a job that names none: 7 days for the sizes that are packed into a minute, and
    /// none for the others. No window is longer than that.
    #[must_use]
    pub fn of_sizes(sizes: &[WindowSize]) -> Self {
        let packed = sizes.iter().filter(|size| size.is_packed());
        Self {
            by_size: packed.map(|size| (*size, PACKED_DEFAULT_MS)).collect(),
        }
    }

    /// Whether no size has one.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.by_size.is_empty()
    }

    /// The horizon of a size, in milliseconds.
    #[must_use]
    pub fn of(&self, size: WindowSize) -> Option<i64> {
        let mut all = self.by_size.iter();
        all.find(|(of, _)| *of == size).map(|(_, ms)| *ms)
    }

    /// All of them, ascending by size, in milliseconds.
    pub fn iter(&self) -> impl Iterator<Item = (WindowSize, i64)> {
        self.by_size.iter().copied()
    }

    /// The sizes that have one, ascending.
    pub fn sizes(&self) -> impl Iterator<Item = WindowSize> {
        self.by_size.iter().map(|(size, _)| *size)
    }

    /// The packed sizes that have one, the shortest horizon first: the order in which they leave
    /// the row of their minute.
    #[must_use]
    pub fn packed(&self) -> Vec<WindowSize> {
        let mut packed: Vec<_> = self
            .by_size
            .iter()
            .filter(|(size, _)| size.is_packed())
            .map(|(size, ms)| (*ms, *size))
            .collect();
        packed.sort_unstable();
        packed.into_iter().map(|(_, size)| size).collect()
    }

    /// Whether a window of this size that ends at `end_ms` is beyond its horizon once a partition
    /// has this watermark: the trades of that partition no longer change it.
    #[must_use]
    pub fn is_beyond(&self, size: WindowSize, end_ms: i64, watermark_ms: Option<i64>) -> bool {
        match (self.of(size), watermark_ms) {
            (Some(horizon), Some(watermark)) => end_ms.saturating_add(horizon) <= watermark,
            _ => false,
        }
    }

    /// The same of the window that starts at `start`. What is packed is beyond its horizon together
    /// with all of its size in that minute.
    #[must_use]
    pub fn is_window_beyond(
        &self,
        size: WindowSize,
        start: WindowStart,
        class: AssetClass,
        watermark_ms: Option<i64>,
    ) -> bool {
        let (row, row_start) = size.row_of(start);
        self.is_beyond(size, row.end_of(row_start, class), watermark_ms)
    }

    /// What is wrong with them for a job of these sizes.
    ///
    /// # Errors
    /// A sentence for each.
    pub fn check(&self, sizes: &[WindowSize]) -> Result<(), Vec<String>> {
        let mut errors = Vec::new();
        let longest = sizes.iter().max_by_key(|size| size.ms());
        for (size, ms) in &self.by_size {
            if !sizes.contains(size) {
                errors.push(format!("{size} is none of the job's sizes"));
            }
            if let Some(longest) = longest.filter(|longest| *ms < longest.ms()) {
                errors.push(format!(
                    "{size}={} is shorter than the longest window, {longest}",
                    text_of(*ms)
                ));
            }
            let minute = self.of(WindowSize::MINUTE);
            if let Some(minute) = minute.filter(|minute| size.is_packed() && minute < ms) {
                errors.push(format!(
                    "{size}={} is longer than 1m={}: a size below a minute is kept in the row of \
                     its minute",
                    text_of(*ms),
                    text_of(minute)
                ));
            }
        }
        if let Some(minute) = self.of(WindowSize::MINUTE) {
            let endless = sizes
                .iter()
                .filter(|size| size.is_packed() && self.of(**size).is_none());
            errors.extend(endless.map(|size| {
                format!(
                    "1m={} needs one of {size} too, which is kept in the row of its minute",
                    text_of(minute)
                )
            }));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

fn text_of(ms: i64) -> String {
    let (unit, unit_ms) = UNITS
        .iter()
        .find(|(_, unit_ms)| ms % unit_ms == 0)
        .expect("a horizon is whole seconds");
    format!("{}{unit}", ms / unit_ms)
}

impl fmt::Display for Horizons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return f.write_str("none");
        }
        for (at, (size, ms)) in self.by_size.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{size}={}", text_of(*ms))?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Horizons {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self::NONE);
        }
        let mut by_size = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (size, horizon) = part.split_once('=').ok_or_else(|| {
                format!("{part:?} is no horizon: give SIZE=TIME, such as 1s=7d, or none")
            })?;
            let size: WindowSize = size
                .parse()
                .map_err(|error: crate::window::WindowSizeError| error.to_string())?;
            by_size.push((size, horizon_ms(horizon)?));
        }
        by_size.sort_unstable();
        if let Some(twice) = by_size.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(format!("{} has two horizons", twice[0].0));
        }
        Ok(Self { by_size })
    }
}

fn horizon_ms(text: &str) -> Result<i64, String> {
    let error = || {
        format!(
            "{text:?} is no time: give a whole number and s, m, h, d, w or y (365 days), at most \
             100y"
        )
    };
    let unit = text.chars().next_back().ok_or_else(error)?;
    let (_, unit_ms) = UNITS.iter().find(|(of, _)| *of == unit).ok_or_else(error)?;
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(error());
    }
    let count: i64 = digits.parse().map_err(|_| error())?;
    count
        .checked_mul(*unit_ms)
        .filter(|ms| (1..=LONGEST_MS).contains(ms))
        .ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(text: &str) -> Vec<WindowSize> {
        text.split(',')
            .map(|size| size.parse().expect("a size"))
            .collect()
    }

    fn horizons(text: &str) -> Horizons {
        text.parse().expect(text)
    }

    #[test]
    fn a_text_gives_itself_back_in_the_order_of_sizes_and_the_longest_units() {
        for (text, want) in [
            ("none", "none"),
            ("1s=7d", "1s=1w"),
            ("1m=730d, 1s=36h", "1s=36h,1m=2y"),
            ("session=90000s", "session=25h"),
        ] {
            assert_eq!(horizons(text).to_string(), want);
            assert_eq!(horizons(want), horizons(text));
        }
        for text in [
            "",
            "1s",
            "1s=",
            "1s=7",
            "1s=0d",
            "1s=7x",
            "1s=101y",
            "2x=7d",
            "1s=7d,1s=8d",
        ] {
            assert!(text.parse::<Horizons>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_refused_with_all_reasons() {
        let check =
            |text: &str, of: &str| horizons(text).check(&sizes(of)).err().unwrap_or_default();
        assert_eq!(check("1s=7d,1m=2y", "1s,1m,1d"), [""; 0]);
        assert_eq!(check("none", "1s,1m,1d"), [""; 0]);
        assert_eq!(check("1m=2y", "1m,1d"), [""; 0]);
        assert_eq!(
            check("1s=12h,5m=7d", "1s,1m,1d"),
            [
                "1s=12h is shorter than the longest window, 1d",
                "5m is none of the job's sizes"
            ]
        );
        assert_eq!(
            check("1s=2w,1m=1w", "1s,1m,1d"),
            ["1s=2w is longer than 1m=1w: a size below a minute is kept in the row of its minute"]
        );
        assert_eq!(
            check("1m=1w", "1s,1m"),
            ["1m=1w needs one of 1s too, which is kept in the row of its minute"]
        );
    }

    #[test]
    fn without_a_word_seconds_have_a_week_and_nothing_else_has_an_end() {
        assert_eq!(
            Horizons::of_sizes(&WindowSize::DEFAULTS).to_string(),
            "1s=1w"
        );
        assert_eq!(Horizons::of_sizes(&sizes("1m,1d")), Horizons::NONE);
        let default = Horizons::of_sizes(&WindowSize::DEFAULTS);
        assert_eq!(default.check(&WindowSize::DEFAULTS), Ok(()));
    }

    #[test]
    fn a_window_is_beyond_its_horizon_when_the_watermark_is_a_horizon_past_its_end() {
        let horizons = horizons("1s=1h,5s=2h");
        let second = sizes("1s")[0];
        assert!(!horizons.is_beyond(second, 1_000, None));
        assert!(!horizons.is_beyond(second, 1_000, Some(3_600_999)));
        assert!(horizons.is_beyond(second, 1_000, Some(3_601_000)));
        assert!(!horizons.is_beyond(WindowSize::MINUTE, 0, Some(i64::MAX)));
        // Stored seconds leave their minute together.
        let class = AssetClass::of("AAPL");
        let stored = |watermark| horizons.is_window_beyond(second, 2_000, class, Some(watermark));
        assert!(!stored(3_659_999) && stored(3_660_000));
        assert_eq!(horizons.packed(), sizes("1s,5s"));
    }
}
