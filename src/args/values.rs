//! The values flags take, as text: durations, sizes, numbers, addresses, names. Each reader says
//! what it would have accepted.

use std::{collections::BTreeSet, time::Duration};

use tapeflow_schemas::{Symbol, WindowSize};

/// The most window sizes a job may have side by side.
const MAX_SIZES: usize = 16;

/// A duration: a whole number and `ms`, `s`, `m` or `h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let error = || {
        format!(
            "{text:?} is not a duration: give a whole number and ms, s, m or h, such as 250ms, 5s, 2m"
        )
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(error()),
    };
    let number: u64 = number.parse().map_err(|_| error())?;
    number
        .checked_mul(unit_ms)
        .map(Duration::from_millis)
        .ok_or_else(error)
}

/// How long an epoch may be: from 10 ms, below which it would be bindings and nothing else, to a
/// minute.
pub(crate) fn epoch(text: &str) -> Result<Duration, String> {
    let epoch = duration(text)?;
    if (Duration::from_millis(10)..=Duration::from_secs(60)).contains(&epoch) {
        Ok(epoch)
    } else {
        Err(format!("{text} is outside 10ms to 1m"))
    }
}

/// Window sizes, separated by commas; ascending and without repeats afterwards.
pub(crate) fn sizes(text: &str) -> Result<Vec<WindowSize>, String> {
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
            "{} sizes, at most {MAX_SIZES} stand side by side",
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

/// Symbols, separated by commas; in the order given, without repeats.
pub(crate) fn symbols(text: &str) -> Result<Vec<Symbol>, String> {
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

/// A whole number in a range that is told if it is missed.
pub(crate) fn number(range: std::ops::RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> {
    move |text| {
        let within = |number: &u64| range.contains(number);
        text.parse::<u64>().ok().filter(within).ok_or_else(|| {
            format!(
                "{text:?} is not a whole number from {} to {}",
                range.start(),
                range.end()
            )
        })
    }
}

/// One of so many: `1/N`.
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

/// A count of things that fit in memory.
pub(crate) fn count(
    range: std::ops::RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<usize, String> {
    let read = number(range);
    move |text| {
        read(text).and_then(|number| usize::try_from(number).map_err(|error| error.to_string()))
    }
}

/// `HOST:PORT` addresses, separated by commas.
pub(crate) fn addresses(text: &str) -> Result<Vec<String>, String> {
    text.split(',').map(|part| address(part.trim())).collect()
}

/// One `HOST:PORT`; an IPv6 host stands in brackets.
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

/// A job's name: what stands in the checkpoint and in the consumer group.
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

/// At most 60 characters of a value that is shown back.
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
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            "1d",
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
        let shown = |text| {
            sizes(text).map(|sizes| {
                sizes
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(",")
            })
        };
        assert_eq!(shown("1m, 1s,1m,1d"), Ok("1s,1m,1d".into()));
        assert!(shown("").is_err() && shown("1m,").is_err() && shown("7s").is_err());
        assert_eq!(size_choice("all"), Ok(SizeChoice::All));
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
    fn a_huge_value_is_not_shown_back_whole() {
        let error = symbols(&"X".repeat(1_000_000)).expect_err("too long");
        assert!(error.len() < 300, "{}", error.len());
    }
}
