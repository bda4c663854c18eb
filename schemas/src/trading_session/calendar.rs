//! The days of the US equity exchanges: which dates have no session, and which close early.
//!
//! It is data, in `schemas/data/us-equity-calendar.csv`, with the source of each line and the years
//! that it covers. Nothing is known of other years.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::LazyLock};

use jiff::civil::{Date, Weekday};
use xxhash_rust::xxh3::xxh3_64;

const DATA: &str = include_str!("../../data/us-equity-calendar.csv");

/// What the exchanges do on a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TradingDay {
    /// Pre 04:00 to 09:30, regular to 16:00, post to 20:00.
    Full,
    /// Regular ends at 13:00, and post at 17:00.
    Early,
    /// A weekend or a holiday: no session.
    Closed,
    /// The data does not cover the year.
    Unknown,
}

/// The calendar that the binary contains.
static US_EQUITIES: LazyLock<Calendar> =
    LazyLock::new(|| Calendar::parse(DATA).expect("a test reads the data"));

/// A calendar: years, and the dates in them that are not full days, weekends apart.
#[derive(Debug)]
pub struct Calendar {
    years: RangeInclusive<i16>,
    days: BTreeMap<Date, TradingDay>,
}

impl Calendar {
    /// The calendar of the US equity exchanges.
    #[must_use]
    pub fn us_equities() -> &'static Self {
        &US_EQUITIES
    }

    /// The years that it covers.
    #[must_use]
    pub fn years(&self) -> RangeInclusive<i16> {
        self.years.clone()
    }

    /// What happens on a date in New York.
    #[must_use]
    pub fn day(&self, date: Date) -> TradingDay {
        if !self.years.contains(&date.year()) {
            return TradingDay::Unknown;
        }
        match date.weekday() {
            Weekday::Saturday | Weekday::Sunday => TradingDay::Closed,
            _ => self.days.get(&date).copied().unwrap_or(TradingDay::Full),
        }
    }

    /// A digest of what it says, reasons and sources apart. It is part of the fingerprint of jobs
    /// that keep session bars.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut text = format!("{:?}", self.years);
        for (date, day) in &self.days {
            text += &format!(" {date} {day:?}");
        }
        format!("{:016x}", xxh3_64(text.as_bytes()))
    }

    /// Reads the data: `# years,FIRST,LAST`, then `DATE,closed|early,REASON,SOURCE` ascending.
    fn parse(text: &str) -> Result<Self, String> {
        let years = text
            .lines()
            .find_map(|line| line.strip_prefix("# years,")?.split_once(','))
            .and_then(|(first, last)| Some(first.parse().ok()?..=last.parse().ok()?))
            .ok_or("the line of years is missing")?;
        let mut days = BTreeMap::new();
        let lines = text.lines().filter(|line| !line.starts_with('#')).skip(1);
        for line in lines {
            let fields: Vec<&str> = line.split(',').collect();
            let day = match fields[..] {
                [_, "closed", _, "published" | "special" | "rule"] => TradingDay::Closed,
                [_, "early", _, "published" | "special" | "rule"] => TradingDay::Early,
                _ => return Err(format!("{line:?} is not a line of the calendar")),
            };
            let date: Date = fields[0]
                .parse()
                .map_err(|error| format!("{line:?}: {error}"))?;
            let ascending = days.last_key_value().is_none_or(|(last, _)| *last < date);
            let weekend = matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday);
            if !ascending || weekend || !years.contains(&date.year()) {
                return Err(format!(
                    "{line:?} is not ascending, a weekend, or in another year"
                ));
            }
            days.insert(date, day);
        }
        Ok(Self { years, days })
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn the_data_says_what_the_exchange_announced() {
        let calendar = Calendar::parse(DATA).expect("the data");
        for (year, month, day, want) in [
            (2018, 12, 5, TradingDay::Closed),
            (2025, 1, 9, TradingDay::Closed),
            (2025, 7, 3, TradingDay::Early),
            (2025, 7, 5, TradingDay::Closed),
            (2021, 12, 31, TradingDay::Full),
            (2021, 6, 18, TradingDay::Full),
            (2027, 6, 18, TradingDay::Closed),
            (2022, 12, 23, TradingDay::Full),
            (2006, 12, 29, TradingDay::Unknown),
            (2041, 1, 1, TradingDay::Unknown),
        ] {
            let at = date(year, month, day);
            assert_eq!(calendar.day(at), want, "{at}");
        }
        assert_eq!(calendar.years(), 2007..=2040);
    }

    #[test]
    fn a_changed_day_changes_the_digest_and_a_changed_reason_does_not() {
        let digest = |text: &str| Calendar::parse(text).expect("a calendar").digest();
        let own = digest(DATA);
        assert_eq!(own, Calendar::us_equities().digest());
        let (early, reason) = (
            DATA.replace("2025-12-24,early", "2025-12-24,closed"),
            DATA.replace("Labor Day", "Labour Day"),
        );
        assert_ne!(digest(&early), own);
        assert_eq!(digest(&reason), own);
    }

    #[test]
    fn data_that_cannot_be_right_is_refused() {
        let head = "# years,2007,2008\ndate,day,reason,source\n";
        for lines in [
            "2007-01-01,closed,x,rumour",
            "2007-01-01,shut,x,rule",
            "2007-13-01,closed,x,rule",
            "2007-01-06,closed,a Saturday,rule",
            "2009-01-01,closed,x,rule",
            "2007-05-28,closed,x,rule\n2007-05-28,early,x,rule",
        ] {
            assert!(
                Calendar::parse(&format!("{head}{lines}")).is_err(),
                "{lines}"
            );
        }
        assert!(Calendar::parse("date,day,reason,source\n").is_err());
        assert!(Calendar::parse(head).is_ok());
    }
}
