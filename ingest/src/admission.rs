//! Admission: a frame becomes trades, grouped by symbol in the order of the frame, and invalid
//! frames with a reason.
//!
//! The result depends on the bytes of the frame alone, with one exception: trades of a live frame
//! must not lie in the future of the time it was taken in. Frames of a recording are not checked
//! against the clock, because every replay must give the same sequences. The job checks them
//! against the time of their records. No input causes a panic.
//!
//! A frame of a megabyte may hold half a million invalid entries. The first [`LISTED`] of them
//! become invalid frames of their own, and one more stands for the rest. All are counted.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use tapeflow_schemas::{
    EventTime, NumberError, Price, Size, Symbol, Trade,
    decimal::Parsed,
    trade::{END_OF_TIME_MS, FUTURE_TOLERANCE_MS},
};

use crate::{
    counts::Counts,
    finnhub::message::{self, Entry, Malformed, Message, RawTrade},
    frame::Frame,
};

/// Why a frame or an entry is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Not JSON, or without the shape of a trade.
    Json,
    /// A frame of an unknown type.
    FrameType,
    /// A frame above [`crate::frame::MAX_FRAME_BYTES`].
    FrameTooLarge,
    /// No symbol, or not a valid one.
    Symbol,
    /// No price, or not a decimal above zero within bounds.
    Price,
    /// No size, or a negative or absurdly large one.
    Size,
    /// No event time, one outside 1970 to 2200, or one in seconds.
    EventTime,
    /// Price times size is absurdly large.
    Notional,
    /// The event time is more than five minutes ahead of the time it was taken in.
    Future,
    /// Stands for the invalid entries of a frame that are not listed.
    More,
}

impl Reason {
    /// The reason's name in records, tables and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::FrameType => "frame_type",
            Self::FrameTooLarge => "frame_too_large",
            Self::Symbol => "symbol",
            Self::Price => "price",
            Self::Size => "size",
            Self::EventTime => "event_time",
            Self::Notional => "notional",
            Self::Future => "future",
            Self::More => "more",
        }
    }
}

/// The trades of one symbol in one frame, in the frame's order.
#[derive(Debug, PartialEq, Eq)]
pub struct Group<'a> {
    /// A valid symbol.
    pub symbol: Cow<'a, str>,
    /// At least one trade.
    pub trades: Vec<Trade>,
}

/// A frame, or an entry of a trade frame, that failed admission. It becomes a dead letter.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidFrame<'a> {
    /// Why it failed.
    pub reason: Reason,
    /// The place (line and index) and the value that failed, shortened.
    pub detail: String,
    /// The first 1,024 bytes of the entry, or of the frame if the frame itself failed.
    pub frame: &'a [u8],
}

/// The result of one frame.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Admitted<'a> {
    /// Trades by symbol, in the order in which the symbols first appear.
    pub groups: Vec<Group<'a>>,
    /// What failed, in the order of the frame.
    pub invalid_frames: Vec<InvalidFrame<'a>>,
    /// The provider's message, if this frame is an error of the provider.
    pub provider_error: Option<String>,
}

/// The most invalid entries of one frame that become invalid frames of their own.
pub const LISTED: usize = 10;
/// The bytes of an invalid frame or entry that are kept.
const KEPT_BYTES: usize = 1024;
/// The characters of a value that a detail quotes.
const QUOTED_CHARS: usize = 64;
/// Above this many groups, a symbol's group is found by hashing. Real frames have fewer than ten.
const LINEAR_GROUPS: usize = 16;
/// Event times that are seconds: those of 2000 to 2200. As milliseconds they would be in the first
/// months of 1970, of which there is no feed.
const SECONDS: Range<i64> = 946_684_800..END_OF_TIME_MS / 1_000;

/// Whether an event time is in seconds, where milliseconds belong.
pub(crate) fn looks_like_seconds(time: i64) -> bool {
    SECONDS.contains(&time)
}

/// Admits a frame.
pub fn admit<'a>(frame: &'a Frame, counts: &mut Counts) -> Admitted<'a> {
    counts.frames += 1;
    let mut admission = Admission {
        frame,
        counts,
        admitted: Admitted::default(),
        index_of: HashMap::new(),
        unlisted: BTreeMap::new(),
    };
    match message::parse(&frame.bytes) {
        Ok(Message::Trades(entries)) => {
            if let Err(error) = entries.for_each(|entry| admission.take_entry(entry)) {
                admission.invalid_frame(Reason::Json, &cut(&error.to_string()));
            }
            admission.end_of_entries();
        }
        Ok(Message::Ping) => admission.counts.pings += 1,
        Ok(Message::Error { message }) => {
            admission.counts.provider_errors += 1;
            admission.admitted.provider_error = Some(cut(&message));
        }
        Ok(Message::Unknown { kind }) => {
            admission.invalid_frame(Reason::FrameType, &format!("unknown type {}", quote(&kind)))
        }
        Err(error @ Malformed::TooLarge) => {
            admission.invalid_frame(Reason::FrameTooLarge, &error.to_string())
        }
        Err(error @ Malformed::Json(_)) => {
            admission.invalid_frame(Reason::Json, &cut(&error.to_string()))
        }
    }
    admission.admitted
}

struct Admission<'a, 'c> {
    frame: &'a Frame,
    counts: &'c mut Counts,
    admitted: Admitted<'a>,
    /// Filled once there are more than [`LINEAR_GROUPS`].
    index_of: HashMap<String, usize>,
    /// The invalid entries beyond [`LISTED`], by reason.
    unlisted: BTreeMap<Reason, u64>,
}

impl<'a> Admission<'a, '_> {
    fn take_entry(&mut self, entry: Entry<'a>) {
        let raw = match &entry.trade {
            Ok(raw) => raw,
            Err(error) => {
                return self.invalid_entry(&entry, Reason::Json, || cut(&error.to_string()));
            }
        };
        match check(raw, self.frame.taken_ms) {
            Ok(Checked::Trade { trade, rounded }) => {
                self.counts.trades += 1;
                self.counts.rounded += u64::from(rounded);
                for code in raw.unknown_codes() {
                    *self.counts.unknown_conditions.entry(*code).or_default() += 1;
                }
                let symbol = entry.trade.ok().and_then(RawTrade::into_symbol);
                self.add(symbol.unwrap_or_default(), trade);
            }
            Ok(Checked::PriceUpdate) => self.counts.price_updates += 1,
            Err((reason, detail)) => self.invalid_entry(&entry, reason, || detail),
        }
    }

    fn add(&mut self, symbol: Cow<'a, str>, trade: Trade) {
        let groups = &mut self.admitted.groups;
        let known = if groups.len() <= LINEAR_GROUPS {
            groups.iter().position(|group| group.symbol == symbol)
        } else {
            self.index_of.get(&*symbol).copied()
        };
        match known.and_then(|at| groups.get_mut(at)) {
            Some(group) => group.trades.push(trade),
            None => {
                groups.push(Group {
                    symbol,
                    trades: vec![trade],
                });
                if groups.len() > LINEAR_GROUPS {
                    let unindexed = groups.iter().enumerate().skip(self.index_of.len());
                    self.index_of
                        .extend(unindexed.map(|(at, group)| (group.symbol.to_string(), at)));
                }
            }
        }
    }

    /// The detail is made only if it is kept.
    fn invalid_entry(&mut self, entry: &Entry<'a>, reason: Reason, what: impl FnOnce() -> String) {
        *self.counts.invalid.entry(reason).or_default() += 1;
        if self.admitted.invalid_frames.len() == LISTED {
            *self.unlisted.entry(reason).or_default() += 1;
            return;
        }
        let detail = format!(
            "line {}, index {}: {}",
            self.frame.line,
            entry.index,
            what()
        );
        self.keep(reason, detail, entry.text().as_bytes());
    }

    /// The last invalid frame says how many entries are not listed.
    fn end_of_entries(&mut self) {
        if self.unlisted.is_empty() {
            return;
        }
        let reasons: Vec<String> = self
            .unlisted
            .iter()
            .map(|(reason, count)| format!("{} {count}", reason.word()))
            .collect();
        let detail = format!(
            "line {}: and {} more invalid entries of this frame: {}",
            self.frame.line,
            self.unlisted.values().sum::<u64>(),
            reasons.join(", ")
        );
        self.keep(Reason::More, detail, &self.frame.bytes);
    }

    fn invalid_frame(&mut self, reason: Reason, what: &str) {
        *self.counts.invalid.entry(reason).or_default() += 1;
        let detail = format!("line {}: {what}", self.frame.line);
        self.keep(reason, detail, &self.frame.bytes);
    }

    fn keep(&mut self, reason: Reason, detail: String, sent: &'a [u8]) {
        self.admitted.invalid_frames.push(InvalidFrame {
            reason,
            detail,
            frame: &sent[..sent.len().min(KEPT_BYTES)],
        });
    }
}

enum Checked {
    Trade { trade: Trade, rounded: bool },
    PriceUpdate,
}

fn check(raw: &RawTrade<'_>, taken_ms: Option<i64>) -> Result<Checked, (Reason, String)> {
    let symbol = raw
        .symbol()
        .ok_or_else(|| (Reason::Symbol, "symbol is missing".to_owned()))?;
    Symbol::check(symbol)
        .map_err(|error| (Reason::Symbol, format!("{error}: {}", quote(symbol))))?;
    let event_time = event_time(raw.event_time()).map_err(|what| (Reason::EventTime, what))?;
    let price =
        number("price", raw.price(), Price::parse).map_err(|(_, what)| (Reason::Price, what))?;
    let size = match number("size", raw.size(), Size::parse) {
        Ok(size) => size,
        Err((Some(NumberError::Zero), _)) => return Ok(Checked::PriceUpdate),
        Err((_, what)) => return Err((Reason::Size, what)),
    };
    if taken_ms.is_some_and(|taken_ms| event_time.is_future(taken_ms)) {
        return Err((
            Reason::Future,
            format!(
                "event time {event_time} is more than {FUTURE_TOLERANCE_MS} ms ahead of the time it \
                 was taken in"
            ),
        ));
    }
    let trade = Trade::new(event_time, price.value, size.value, raw.conditions());
    let trade = trade.map_err(|error| {
        (
            Reason::Notional,
            format!("notional is {error}: {} times {}", price.value, size.value),
        )
    })?;
    Ok(Checked::Trade {
        trade,
        rounded: price.rounded || size.rounded,
    })
}

type Parse<T> = fn(&str) -> Result<Parsed<T>, NumberError>;

fn number<T>(
    name: &str,
    text: Option<&str>,
    parse: Parse<T>,
) -> Result<Parsed<T>, (Option<NumberError>, String)> {
    let text = text.ok_or_else(|| (None, format!("{name} is missing")))?;
    parse(text).map_err(|error| (Some(error), format!("{name} is {error}: {}", quote(text))))
}

fn event_time(text: Option<&str>) -> Result<EventTime, String> {
    let text = text.ok_or("event time is missing")?;
    let ms: i64 = text.parse().map_err(|_| {
        format!(
            "event time is not a whole number of milliseconds: {}",
            quote(text)
        )
    })?;
    if looks_like_seconds(ms) {
        return Err(format!(
            "event time {ms} looks like seconds: give milliseconds"
        ));
    }
    EventTime::from_ms(ms).ok_or_else(|| format!("event time {ms} ms is outside 1970 to 2200"))
}

/// A value for a detail: quoted, control characters escaped, shortened.
fn quote(text: &str) -> String {
    let start: String = text.chars().take(QUOTED_CHARS).collect();
    let more = if start.len() < text.len() {
        format!("... of {} bytes", text.len())
    } else {
        String::new()
    };
    format!("{start:?}{more}")
}

/// A text from outside for a log line: control characters escaped, shortened.
pub(crate) fn cut(text: &str) -> String {
    let start: String = text
        .chars()
        .take(4 * QUOTED_CHARS)
        .flat_map(|c| {
            c.escape_default()
                .take(if c.is_control() { 10 } else { 0 })
                .chain((!c.is_control()).then_some(c))
        })
        .collect();
    if text.chars().nth(4 * QUOTED_CHARS).is_some() {
        format!("{start}...")
    } else {
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::MAX_FRAME_BYTES;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn frame(text: &str) -> Frame {
        Frame {
            line: 7,
            bytes: text.as_bytes().to_vec(),
            taken_ms: Some(NOW_MS),
        }
    }

    /// Admits one trade frame with `entry` between two valid ones. These are admitted, and `entry`
    /// is invalid for this reason.
    fn check_invalid(entry: &str, reason: Reason, detail: &str) {
        let good = r#"{"s":"GOOD","p":1,"t":1,"v":1}"#;
        let frame = frame(&format!(
            r#"{{"type":"trade","data":[{good},{entry},{good}]}}"#
        ));
        let mut counts = Counts::default();
        let admitted = admit(&frame, &mut counts);
        assert_eq!(admitted.groups.len(), 1, "{entry}");
        assert_eq!(admitted.groups[0].trades.len(), 2, "{entry}");
        assert_eq!(admitted.invalid_frames.len(), 1, "{entry}");
        let invalid = &admitted.invalid_frames[0];
        assert_eq!(invalid.reason, reason, "{entry}: {}", invalid.detail);
        assert!(
            invalid.detail.starts_with("line 7, index 1: ") && invalid.detail.contains(detail),
            "{entry}: {}",
            invalid.detail
        );
        assert!(invalid.detail.len() < 400);
        assert_eq!(
            invalid.frame,
            &entry.as_bytes()[..entry.len().min(KEPT_BYTES)]
        );
        assert_eq!((counts.trades, counts.invalid_frames()), (2, 1));
    }

    #[test]
    fn each_invalid_entry_has_its_own_reason_and_its_neighbours_are_admitted() {
        check_invalid("5", Reason::Json, "invalid type");
        check_invalid(
            r#"{"s":"A","p":1,"p":2,"t":1,"v":1}"#,
            Reason::Json,
            "duplicate field",
        );
        check_invalid(r#"{"p":1,"t":1,"v":1}"#, Reason::Symbol, "missing");
        check_invalid(r#"{"s":"","p":1,"t":1,"v":1}"#, Reason::Symbol, "empty");
        check_invalid(
            &format!(r#"{{"s":"{}","p":1,"t":1,"v":1}}"#, "A".repeat(900_000)),
            Reason::Symbol,
            "of 900000 bytes",
        );
        check_invalid(
            r#"{"s":"A\u001b[31m","p":1,"t":1,"v":1}"#,
            Reason::Symbol,
            "control character",
        );
        check_invalid(
            r#"{"s":"A","t":1,"v":1}"#,
            Reason::Price,
            "price is missing",
        );
        check_invalid(
            r#"{"s":"A","p":-1.5,"t":1,"v":1}"#,
            Reason::Price,
            "price is negative: \"-1.5\"",
        );
        check_invalid(
            r#"{"s":"A","p":"NaN","t":1,"v":1}"#,
            Reason::Price,
            "not a decimal",
        );
        check_invalid(r#"{"s":"A","p":0,"t":1,"v":1}"#, Reason::Price, "zero");
        check_invalid(
            r#"{"s":"A","p":1e400,"t":1,"v":1}"#,
            Reason::Price,
            "absurdly large",
        );
        check_invalid(
            r#"{"s":"A","p":{"x":[]},"t":1,"v":1}"#,
            Reason::Price,
            "not a decimal",
        );
        check_invalid(r#"{"s":"A","p":1,"t":1}"#, Reason::Size, "size is missing");
        check_invalid(r#"{"s":"A","p":1,"t":1,"v":-3}"#, Reason::Size, "negative");
        check_invalid(
            r#"{"s":"A","p":1,"t":1,"v":1e16}"#,
            Reason::Size,
            "absurdly large",
        );
        check_invalid(r#"{"s":"A","p":1,"v":1}"#, Reason::EventTime, "missing");
        check_invalid(
            r#"{"s":"A","p":1,"t":1680286538,"v":1}"#,
            Reason::EventTime,
            "looks like seconds",
        );
        check_invalid(
            r#"{"s":"A","p":1,"t":1.5,"v":1}"#,
            Reason::EventTime,
            "whole number",
        );
        check_invalid(
            r#"{"s":"A","p":1,"t":1700000000000000,"v":1}"#,
            Reason::EventTime,
            "outside",
        );
        check_invalid(
            r#"{"s":"A","p":1,"t":-1,"v":1}"#,
            Reason::EventTime,
            "outside",
        );
        check_invalid(
            r#"{"s":"A","p":1e9,"t":1,"v":1e9}"#,
            Reason::Notional,
            "absurdly large",
        );
        check_invalid(
            r#"{"s":"A","p":1,"t":1700000300001,"v":1}"#,
            Reason::Future,
            "ahead",
        );
    }

    #[test]
    fn a_trade_may_be_five_minutes_ahead_of_the_clock() {
        let frame = frame(r#"{"type":"trade","data":[{"s":"A","p":1,"t":1700000300000,"v":1}]}"#);
        assert_eq!(admit(&frame, &mut Counts::default()).invalid_frames, []);
    }

    /// Admits a frame of one megabyte that is full of this entry; returns the number of entries.
    fn admit_a_megabyte(entry: &str, counts: &mut Counts) -> u64 {
        let many = (MAX_FRAME_BYTES - 40) / (entry.len() + 1);
        let frame = frame(&format!(
            r#"{{"type":"trade","data":[{}]}}"#,
            vec![entry; many].join(",")
        ));
        let admitted = admit(&frame, counts);
        assert!(admitted.invalid_frames.len() <= LISTED + 1, "{entry}");
        if let Some(last) = admitted.invalid_frames.get(LISTED) {
            let more = format!(
                "line 7: and {} more invalid entries of this frame: ",
                many - 10
            );
            assert_eq!(last.reason, Reason::More);
            assert!(last.detail.starts_with(&more), "{}", last.detail);
            assert_eq!(last.frame.len(), KEPT_BYTES);
        }
        u64::try_from(many).expect("small")
    }

    #[test]
    fn a_megabyte_of_junk_becomes_eleven_invalid_frames_and_all_of_it_is_counted() {
        let mut counts = Counts::default();
        let numbers = admit_a_megabyte("5", &mut counts);
        assert_eq!(numbers, 524_268);
        let negative = admit_a_megabyte(r#"{"s":"A","p":-1,"t":1,"v":1}"#, &mut counts);
        assert_eq!(
            counts.invalid,
            [(Reason::Json, numbers), (Reason::Price, negative)].into()
        );
        let mut counts = Counts::default();
        let trades = admit_a_megabyte(r#"{"s":"A","p":1,"t":1,"v":1}"#, &mut counts);
        assert_eq!((counts.trades, counts.invalid_frames()), (trades, 0));
    }

    #[test]
    fn a_recording_is_not_checked_against_the_clock() {
        let mut frame =
            frame(r#"{"type":"trade","data":[{"s":"A","p":1,"t":1700100000000,"v":1}]}"#);
        frame.taken_ms = None;
        assert_eq!(admit(&frame, &mut Counts::default()).groups.len(), 1);
    }

    #[test]
    fn frames_that_are_no_trades_are_refused_whole_but_pings_and_errors_are_not() {
        let refused = |text: &str| {
            let frame = frame(text);
            let mut counts = Counts::default();
            let admitted = admit(&frame, &mut counts);
            assert!(admitted.groups.is_empty());
            (
                admitted
                    .invalid_frames
                    .into_iter()
                    .map(|invalid| (invalid.reason, invalid.detail))
                    .next(),
                admitted.provider_error,
                counts,
            )
        };
        assert_eq!(
            refused(r#"{"type":"news"}"#).0,
            Some((Reason::FrameType, "line 7: unknown type \"news\"".into()))
        );
        assert_eq!(
            refused("{nonsense").0.map(|(reason, _)| reason),
            Some(Reason::Json)
        );
        assert_eq!(
            refused(&" ".repeat(2 << 20)).0.map(|(reason, _)| reason),
            Some(Reason::FrameTooLarge)
        );
        let (dead_letter, error, counts) = refused(r#"{"type":"ping"}"#);
        assert_eq!((dead_letter, error, counts.pings), (None, None, 1));
        let (dead_letter, error, counts) = refused(r#"{"type":"error","msg":"Invalid symbol X"}"#);
        assert_eq!(
            (dead_letter, error.as_deref(), counts.provider_errors),
            (None, Some("Invalid symbol X"), 1)
        );
    }

    #[test]
    fn groups_stand_in_the_order_of_the_frame_however_many_there_are() {
        let entries: Vec<String> = (0..3_000)
            .map(|n| format!(r#"{{"s":"S{}","p":1,"t":{n},"v":1}}"#, n % 1_000))
            .collect();
        let frame = frame(&format!(
            r#"{{"type":"trade","data":[{}]}}"#,
            entries.join(",")
        ));
        let admitted = admit(&frame, &mut Counts::default());
        assert_eq!(admitted.groups.len(), 1_000);
        for (at, group) in admitted.groups.iter().enumerate() {
            assert_eq!(group.symbol, format!("S{at}"));
            let times: Vec<i64> = group
                .trades
                .iter()
                .map(|trade| trade.event_time.ms())
                .collect();
            let at = i64::try_from(at).expect("small");
            assert_eq!(times, [at, at + 1_000, at + 2_000]);
        }
    }

    #[test]
    fn price_updates_rounding_and_unknown_conditions_are_counted() {
        let frame = frame(concat!(
            r#"{"type":"trade","data":[{"s":"A","p":1,"t":1,"v":0},{"s":"A","p":1,"t":1,"v":0.0},"#,
            r#"{"s":"A","p":1.123456789,"t":1,"v":1},"#,
            r#"{"s":"A","c":["1","77"],"p":1,"t":1,"v":1},"#,
            r#"{"s":"A","c":["x","77"],"p":1,"t":1,"v":1}]}"#
        ));
        let mut counts = Counts::default();
        let admitted = admit(&frame, &mut counts);
        assert_eq!(admitted.groups[0].trades.len(), 3);
        assert_eq!(
            (counts.price_updates, counts.rounded, counts.trades),
            (2, 1, 3)
        );
        assert_eq!(counts.unknown_conditions, [(77, 2), (255, 1)].into());
    }

    #[test]
    fn the_recording_is_admitted_whole() {
        let mut counts = Counts::default();
        for (line, text) in (1..).zip(include_str!("../fixtures/finnhub-recorded.jsonl").lines()) {
            let frame = Frame {
                line,
                bytes: text.as_bytes().to_vec(),
                taken_ms: None,
            };
            assert_eq!(admit(&frame, &mut counts).invalid_frames, []);
        }
        assert_eq!(
            (
                counts.frames,
                counts.pings,
                counts.trades,
                counts.price_updates,
                counts.rounded
            ),
            (14, 1, 81, 0, 0)
        );
        assert!(counts.unknown_conditions.is_empty());
    }

    #[test]
    fn a_foreign_message_is_cut_and_shows_no_control_characters() {
        assert_eq!(cut("a\u{1b}[31mb\n"), "a\\u{1b}[31mb\\n");
        assert!(cut(&"é".repeat(10_000)).len() < 600);
    }
}
