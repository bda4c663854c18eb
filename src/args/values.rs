//! clap value parsers for durations, sizes, numbers, addresses and names. Each error says which
//! values are accepted.

use std::{collections::BTreeSet, ops::RangeInclusive, time::Duration};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use tapeflow_console::cumulative::Anchor;
use tapeflow_protocol::store::feed_gap::MAX_WORD_BYTES;
use tapeflow_schemas::{Offset, Partition, Policy, Symbol, View, WindowSize, window::parse_utc};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// The limits of [`keep`].
const MIN_KEEP: Duration = Duration::from_secs(1);
const MAX_KEEP: Duration = Duration::from_secs(7_000 * 86_400);
/// The most window sizes that one job keeps.
const MAX_SIZES: usize = 16;

/// Window sizes, ascending and without repeats.
///
/// clap takes a field of type `Vec` for a flag that may be repeated; these aliases are one value.
pub(crate) type Sizes = Vec<WindowSize>;
/// Symbols in the order given, without repeats.
pub(crate) type Symbols = Vec<Symbol>;
/// A partition and the first offset of a batch in it.
pub(crate) type Batch = (Partition, Offset);
/// `HOST:PORT` addresses.
pub(crate) type Addresses = Vec<String>;

/// A duration: a whole number and `ms`, `s`, `m`, `h` or `d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let error = || {
        format!(
            "{text:?} is not a duration: give a whole number and ms, s, m, h or d, such as 250ms or 2m"
        )
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(error()),
    };
    let number: u64 = number.parse().map_err(|_| error())?;
    number
        .checked_mul(unit_ms)
        .map(Duration::from_millis)
        .ok_or_else(error)
}

/// How long something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Nothing is removed.
    Forever,
    /// What is older may be removed.
    For(Duration),
}

impl Keep {
    /// `None`: forever.
    pub(crate) fn limit(self) -> Option<Duration> {
        match self {
            Self::Forever => None,
            Self::For(limit) => Some(limit),
        }
    }
}

/// How long something is kept: a duration of at least a second, or `forever`.
pub(crate) fn keep(text: &str) -> Result<Keep, String> {
    if text == "forever" {
        return Ok(Keep::Forever);
    }
    match duration(text) {
        // Cassandra's own limit of a TTL is 20 years.
        Ok(limit) if (MIN_KEEP..=MAX_KEEP).contains(&limit) => Ok(Keep::For(limit)),
        Ok(_) => Err(format!("{text} is outside 1s to 7000d: give forever")),
        Err(_) => Err(format!(
            "{text:?} is not a time to keep: give a whole number and s, m, h or d, such as 7d, or \
             forever"
        )),
    }
}

/// The length of an epoch: 10 ms to a minute. Below 10 ms a job would do little but bind.
pub(crate) fn epoch(text: &str) -> Result<Duration, String> {
    let epoch = duration(text)?;
    if (Duration::from_millis(10)..=Duration::from_secs(60)).contains(&epoch) {
        Ok(epoch)
    } else {
        Err(format!("{text} is outside 10ms to 1m"))
    }
}

/// The window sizes of a job, separated by commas. A size that is packed into a minute brings the
/// minute with it.
pub(crate) fn job_sizes(text: &str) -> Result<Sizes, String> {
    let mut sizes = sizes(text)?;
    if sizes.iter().any(|size| size.is_packed()) && !sizes.contains(&WindowSize::MINUTE) {
        sizes.push(WindowSize::MINUTE);
        sizes.sort_unstable();
    }
    Ok(sizes)
}

/// Window sizes, separated by commas.
pub(crate) fn sizes(text: &str) -> Result<Sizes, String> {
    let sizes = text
        .split(',')
        .map(|size| {
            size.trim()
                .parse::<WindowSize>()
                .map_err(|error| error.to_string())
        })
        .collect::<Result<BTreeSet<_>, _>>()?;
    if sizes.len() > MAX_SIZES {
        Err(format!(
            "{} sizes, at most {MAX_SIZES} are allowed",
            sizes.len()
        ))
    } else {
        Ok(sizes.into_iter().collect())
    }
}

/// Which sizes a reader asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SizeChoice {
    /// Every size of the job.
    All,
    /// These.
    These(Vec<WindowSize>),
}

/// Window sizes separated by commas, or `all`.
pub(crate) fn size_choice(text: &str) -> Result<SizeChoice, String> {
    if text == "all" {
        Ok(SizeChoice::All)
    } else {
        sizes(text).map(SizeChoice::These)
    }
}

/// Symbols, separated by commas.
pub(crate) fn symbols(text: &str) -> Result<Symbols, String> {
    let mut seen = BTreeSet::new();
    let mut symbols = Vec::new();
    for part in text.split(',') {
        let symbol = Symbol::new(part.trim())
            .map_err(|error| format!("{:?} is not a symbol: {error}", abbreviated(part)))?;
        if seen.insert(symbol.clone()) {
            symbols.push(symbol);
        }
    }
    Ok(symbols)
}

/// A whole number in a range.
pub(crate) fn number(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync {
    move |text| {
        text.parse::<u64>()
            .ok()
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                format!(
                    "{text:?} is not a whole number from {} to {}",
                    range.start(),
                    range.end()
                )
            })
    }
}

/// A whole number from 1 to `most`, as a `u32`.
pub(crate) fn small(most: u32) -> impl Fn(&str) -> Result<u32, String> + Clone + Send + Sync {
    let read = number(1..=most.into());
    move |text| read(text).and_then(|n| u32::try_from(n).map_err(|error| error.to_string()))
}

/// A share of all trades: 0 to 1.
pub(crate) fn fraction(text: &str) -> Result<f64, String> {
    let share = text
        .parse::<f64>()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("{text:?} is not a share: give 0 to 1"))
}

/// Whether a switch is on, as its environment variable says it.
pub(crate) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" => Ok(true),
        "0" | "false" | "no" => Ok(false),
        _ => Err(format!(
            "{:?} is neither on nor off: give 1, true or yes, or 0, false or no",
            abbreviated(text)
        )),
    }
}

/// A filter of log lines: levels, and `target=level`, separated by commas.
///
/// The filter itself takes a mistyped level for the name of a target, and so shows nothing.
pub(crate) fn log_filter(text: &str) -> Result<String, String> {
    let is_level = |text: &str| !text.is_empty() && text.parse::<LevelFilter>().is_ok();
    let is_directive = |part: &str| match part.rsplit_once('=') {
        Some((target, level)) => !target.is_empty() && is_level(level),
        None => is_level(part),
    };
    // The fields of a span may hold commas.
    let has_fields = text.contains('{');
    if (has_fields || text.split(',').all(is_directive)) && EnvFilter::try_new(text).is_ok() {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{:?} is not a filter: give error, warn, info, debug, trace or off, or such as \
             info,tapeflow_dataflow=debug",
            abbreviated(text)
        ))
    }
}

/// Which trades count: `all`, `sip` or `strict`.
pub(crate) fn policy() -> impl TypedValueParser<Value = Policy> {
    PossibleValuesParser::new(Policy::EVERY.map(Policy::name)).try_map(|name| {
        Policy::EVERY
            .into_iter()
            .find(|policy| policy.name() == name)
            .ok_or("not a policy")
    })
}

/// A view by its name.
pub(crate) fn view() -> impl TypedValueParser<Value = View> {
    PossibleValuesParser::new(View::EVERY.map(View::name)).try_map(|name| {
        View::EVERY
            .into_iter()
            .find(|view| view.name() == name)
            .ok_or("not a view")
    })
}

/// A point in time: RFC 3339, or a date whose midnight depends on `--tz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Milliseconds since 1970.
    At(i64),
    /// A calendar date.
    Date(jiff::civil::Date),
}

impl Moment {
    /// Milliseconds since 1970; a date is its first moment in `zone`.
    pub(crate) fn in_zone(self, zone: &jiff::tz::TimeZone) -> Result<i64, String> {
        match self {
            Self::At(ms) => Ok(ms),
            Self::Date(date) => date
                .to_zoned(zone.clone())
                .map(|time| time.timestamp().as_millisecond())
                .map_err(|error| error.to_string()),
        }
    }
}

/// An RFC 3339 time or a date.
pub(crate) fn moment(text: &str) -> Result<Moment, String> {
    let date = text
        .parse::<jiff::civil::Date>()
        .ok()
        .filter(|_| text.len() == 10);
    date.map_or_else(
        || parse_utc(text).map(Moment::At),
        |date| Ok(Moment::Date(date)),
    )
}

/// From where values accumulate, as a flag says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnchorChoice {
    /// The start of the trading session.
    Session,
    /// The midnight of the market.
    Day,
    /// A time.
    At(Moment),
}

impl AnchorChoice {
    /// A date is its first moment in `zone`.
    pub(crate) fn in_zone(self, zone: &jiff::tz::TimeZone) -> Result<Anchor, String> {
        match self {
            Self::Session => Ok(Anchor::Session),
            Self::Day => Ok(Anchor::Day),
            Self::At(moment) => moment.in_zone(zone).map(Anchor::At),
        }
    }
}

/// `session`, `day`, or a time.
pub(crate) fn anchor(text: &str) -> Result<AnchorChoice, String> {
    match text {
        "session" => Ok(AnchorChoice::Session),
        "day" => Ok(AnchorChoice::Day),
        _ => moment(text)
            .map(AnchorChoice::At)
            .map_err(|error| format!("{error}, session or day")),
    }
}

/// A time zone of the tz database, which is built in.
pub(crate) fn zone(text: &str) -> Result<jiff::tz::TimeZone, String> {
    jiff::tz::TimeZone::get(text).map_err(|_| {
        format!(
            "{:?} is not a time zone: give a name of the tz database, such as America/New_York",
            abbreviated(text)
        )
    })
}

/// A sample of one in N, as `1/N`.
pub(crate) fn share(text: &str) -> Result<u64, String> {
    let of = text
        .strip_prefix("1/")
        .and_then(|of| of.parse::<u64>().ok())
        .filter(|of| (1..=1_000_000).contains(of));
    of.ok_or_else(|| {
        format!(
            "{:?} is not a share: give 1/N, such as 1/10",
            abbreviated(text)
        )
    })
}

/// A count of things that are held in memory.
pub(crate) fn count(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync {
    let read = number(range);
    move |text| read(text).and_then(|n| usize::try_from(n).map_err(|error| error.to_string()))
}

/// A size in bytes, with or without a unit: `4096`, `512KiB`, `64MiB`, `1GiB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let error = || format!("{text:?} is not a size: give bytes, or a number with KiB, MiB or GiB");
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(error()),
    };
    let number: u64 = digits.parse().map_err(|_| error())?;
    number
        .checked_mul(unit)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(error)
}

/// A partition and an offset of it.
pub(crate) fn batch(text: &str) -> Result<Batch, String> {
    text.split_once(':')
        .and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)))
        .filter(|(_, offset): &Batch| *offset >= 0)
        .ok_or_else(|| format!("{text:?} is not PARTITION:OFFSET, such as 3:1200"))
}

/// `HOST:PORT` addresses, separated by commas.
pub(crate) fn addresses(text: &str) -> Result<Addresses, String> {
    text.split(',').map(|part| address(part.trim())).collect()
}

/// One `HOST:PORT`; an IPv6 host is in brackets.
pub(crate) fn address(text: &str) -> Result<String, String> {
    let error = || format!("{text:?} is not an address: give HOST:PORT, such as 127.0.0.1:9092");
    let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = !host.is_empty() && !host.contains([':', '/', '@', ' ', '[', ']']);
    if (bracketed || plain) && port.parse::<u16>().is_ok_and(|port| port > 0) {
        Ok(text.to_owned())
    } else {
        Err(error())
    }
}

/// A name Kafka accepts for a topic.
pub(crate) fn topic(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !text.is_empty()
        && text.len() <= 249
        && text.chars().all(legal)
        && text != "."
        && text != ".."
    {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{:?} is not a topic's name: at most 249 letters, digits, dots, dashes and underscores",
            abbreviated(text)
        ))
    }
}

/// A job's name: part of the checkpoint, and the name of the consumer group.
pub(crate) fn job(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=100).contains(&text.len()) && text.chars().all(legal) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{:?} is not a job's name: at most 100 letters, digits, dots, dashes and underscores",
            abbreviated(text)
        ))
    }
}

/// The name of a producer: records and the table of feed gaps have it.
pub(crate) fn producer(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=MAX_WORD_BYTES).contains(&text.len()) && text.chars().all(legal) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{:?} is not a producer's name: at most {MAX_WORD_BYTES} letters, digits, dots, dashes \
             and underscores",
            abbreviated(text)
        ))
    }
}

/// At most 60 characters of a value, for an error that quotes it.
pub(crate) fn abbreviated(text: &str) -> String {
    if text.chars().count() <= 60 {
        text.to_owned()
    } else {
        text.chars().take(57).chain("...".chars()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7_200)));
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        assert_eq!(keep("2d"), Ok(Keep::For(Duration::from_secs(172_800))));
        assert_eq!(keep("forever"), Ok(Keep::Forever));
        assert!(keep("999ms").is_err() && keep("7001d").is_err() && keep("never").is_err());
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            "1w",
            "99999999999999999999s",
            "5 s",
            "5é",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(epoch("1ms").is_err() && epoch("2m").is_err() && epoch("100ms").is_ok());
    }

    #[test]
    fn sizes_come_out_ascending_and_once() {
        let joined = |text| {
            sizes(text).map(|sizes| {
                sizes
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(",")
            })
        };
        assert_eq!(joined("1m, 1s,1m,1d"), Ok("1s,1m,1d".into()));
        let of_job = |text| job_sizes(text).map(|sizes| sizes.len());
        assert_eq!(of_job("1s,1d"), Ok(3), "the minute that holds the seconds");
        assert_eq!((of_job("1s,1m"), of_job("45s,1h")), (Ok(2), Ok(2)));
        assert!(joined("").is_err() && joined("1m,").is_err() && joined("7s").is_err());
        assert_eq!(size_choice("all"), Ok(SizeChoice::All));
    }

    #[test]
    fn a_batch_is_a_partition_and_an_offset() {
        assert_eq!(batch("3:1200"), Ok((3, 1_200)));
        for text in ["", "3", "3:", ":5", "-1:5", "3:-5", "3:5:7", "a:b"] {
            assert!(batch(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_name_a_host_and_a_port() {
        for text in ["127.0.0.1:9092", "broker-1.example:9092", "[::1]:9042"] {
            assert_eq!(address(text).as_deref(), Ok(text));
        }
        for text in [
            "",
            "host",
            "host:",
            ":9092",
            "host:0",
            "host:99999",
            "::1:9042",
            "user:secret@host:1",
            "http://host:1",
        ] {
            assert!(address(text).is_err(), "{text}");
        }
        assert_eq!(addresses("a:1, b:2"), Ok(vec!["a:1".into(), "b:2".into()]));
    }

    #[test]
    fn a_size_has_a_unit_or_is_in_bytes() {
        for (text, bytes) in [
            ("4096", 4_096),
            ("1B", 1),
            ("4KiB", 4_096),
            ("64MiB", 64 << 20),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "MiB", "1MB", "1 MiB", "-1KiB", "99999999999GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_huge_value_is_not_quoted_whole() {
        let error = symbols(&"X".repeat(1_000_000)).expect_err("too long");
        assert!(error.len() < 300, "{}", error.len());
    }

    #[test]
    fn a_date_is_the_midnight_of_the_zone() {
        let new_york = zone("America/New_York").expect("a zone");
        let at = |text: &str, zone: &jiff::tz::TimeZone| moment(text).and_then(|m| m.in_zone(zone));
        assert_eq!(
            at("2023-03-31", &jiff::tz::TimeZone::UTC),
            Ok(1_680_220_800_000)
        );
        assert_eq!(at("2023-03-31", &new_york), Ok(1_680_235_200_000));
        assert_eq!(at("2023-03-31T00:00:00Z", &new_york), Ok(1_680_220_800_000));
        assert!(moment("yesterday").is_err() && zone("Mars/Olympus").is_err());
    }
}
