//! Parses one frame of Finnhub: trades, a ping, an error, or a type that is not documented.
//!
//! Numbers stay text ([`RawTrade::price`] and the others borrow from the frame): converting a
//! decimal to a double can change it. A malformed entry does not affect the other entries of its
//! frame. The entries of a large frame are parsed one at a time: a megabyte holds half a million of
//! them.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;
use tapeflow_schemas::Conditions;

use crate::frame::MAX_FRAME_BYTES;

/// The content of a frame.
#[derive(Debug)]
pub enum Message<'a> {
    /// The entries in the order sent.
    Trades(Entries<'a>),
    /// Finnhub sends one a minute.
    Ping,
    /// An error of the provider, such as an invalid symbol or too many of them.
    Error {
        /// Its text.
        message: String,
    },
    /// A frame of an unknown type.
    Unknown {
        /// The type; empty if there is none.
        kind: Cow<'a, str>,
    },
}

/// Why a whole frame cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Above [`MAX_FRAME_BYTES`].
    #[error("frame above {MAX_FRAME_BYTES} bytes")]
    TooLarge,
    /// Not UTF-8, not JSON, or not an object with trades.
    #[error("{0}")]
    Json(String),
}

/// An entry of a trade frame as sent. Fields may be missing (`None`) or hold anything; numbers are
/// the text of the frame.
#[derive(Debug, Deserialize)]
pub struct RawTrade<'a> {
    /// `s`: the symbol.
    #[serde(borrow, default, rename = "s")]
    symbol: Option<Text<'a>>,
    /// `p`: the price.
    #[serde(borrow, default, rename = "p")]
    price: Option<&'a RawValue>,
    /// `v`: the size.
    #[serde(borrow, default, rename = "v")]
    size: Option<&'a RawValue>,
    /// `t`: the event time, in milliseconds since 1970 UTC.
    #[serde(borrow, default, rename = "t")]
    event_time: Option<&'a RawValue>,
    /// `c`: the sale conditions.
    #[serde(default, rename = "c", deserialize_with = "codes")]
    conditions: Codes,
}

impl<'a> RawTrade<'a> {
    /// The symbol, if there is one.
    #[must_use]
    pub fn symbol(&self) -> Option<&str> {
        self.symbol.as_ref().map(|text| &*text.0)
    }

    /// The symbol, moved out of the entry.
    #[must_use]
    pub fn into_symbol(self) -> Option<Cow<'a, str>> {
        self.symbol.map(|text| text.0)
    }

    /// The text of the price.
    #[must_use]
    pub fn price(&self) -> Option<&'a str> {
        self.price.map(RawValue::get)
    }

    /// The text of the size.
    #[must_use]
    pub fn size(&self) -> Option<&'a str> {
        self.size.map(RawValue::get)
    }

    /// The text of the event time.
    #[must_use]
    pub fn event_time(&self) -> Option<&'a str> {
        self.event_time.map(RawValue::get)
    }

    /// The sale conditions; the empty set for `null`, `[]` and an absent field.
    #[must_use]
    pub fn conditions(&self) -> Conditions {
        self.conditions.set
    }

    /// The condition codes that the table does not know, as sent;
    /// [`tapeflow_schemas::conditions::UNKNOWN_CODE`] for a value that is no code.
    #[must_use]
    pub fn unknown_codes(&self) -> &[u8] {
        &self.conditions.unknown
    }
}

/// The entries of a trade frame.
#[derive(Debug)]
pub struct Entries<'a>(Form<'a>);

#[derive(Debug)]
enum Form<'a> {
    /// The trades of a small frame, and its text.
    Parsed(Vec<Object<RawTrade<'a>>>, &'a str),
    /// The text of the array.
    Unparsed(&'a str),
}

/// An entry of a trade frame.
pub struct Entry<'a> {
    /// The trade, or why the entry has not the shape of one.
    pub trade: Result<RawTrade<'a>, serde_json::Error>,
    /// Its index in the frame.
    pub index: usize,
    /// The text of the entry or, of a small frame, of the frame.
    within: &'a str,
    is_alone: bool,
}

impl<'a> Entry<'a> {
    /// The text of the entry, to quote it.
    #[must_use]
    pub fn text(&self) -> &'a str {
        if self.is_alone {
            return self.within;
        }
        let envelope = serde_json::from_str::<Object<Envelope<'a>>>(self.within).ok();
        let data = envelope.and_then(|envelope| envelope.0.data);
        let entries = data.and_then(|data| serde_json::from_str::<Vec<&RawValue>>(data.get()).ok());
        entries
            .and_then(|entries| entries.get(self.index).map(|entry| entry.get()))
            .unwrap_or(self.within)
    }
}

impl<'a> Entries<'a> {
    /// Passes each entry to `each`, in order.
    ///
    /// # Errors
    /// [`Malformed::Json`] if the array ends early, which its frame would not have passed.
    pub fn for_each(self, mut each: impl FnMut(Entry<'a>)) -> Result<(), Malformed> {
        match self.0 {
            Form::Parsed(trades, within) => {
                for (index, Object(trade)) in trades.into_iter().enumerate() {
                    each(Entry {
                        trade: Ok(trade),
                        index,
                        within,
                        is_alone: false,
                    });
                }
                Ok(())
            }
            Form::Unparsed(array) => {
                let mut index = 0;
                let one = |text: &'a str| {
                    each(Entry {
                        trade: serde_json::from_str(text).map(|Object(trade)| trade),
                        index,
                        within: text,
                        is_alone: true,
                    });
                    index += 1;
                };
                serde_json::Deserializer::from_str(array)
                    .deserialize_seq(OneByOne(one))
                    .map_err(|error| Malformed::Json(error.to_string()))
            }
        }
    }
}

/// Passes the text of each element of an array on, and keeps none.
struct OneByOne<F>(F);

impl<'de, F: FnMut(&'de str)> Visitor<'de> for OneByOne<F> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of trades")
    }
    fn visit_seq<A: SeqAccess<'de>>(mut self, mut array: A) -> Result<(), A::Error> {
        while let Some(entry) = array.next_element::<&'de RawValue>()? {
            (self.0)(entry.get());
        }
        Ok(())
    }
}

/// The largest frame that is parsed as a whole. Its entries need up to fifty times its bytes.
const ONE_PASS_BYTES: usize = 64 << 10;

/// Parses the bytes of a frame.
///
/// # Errors
/// [`Malformed`] if the frame as a whole cannot be parsed.
pub fn parse(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    if bytes.len() > MAX_FRAME_BYTES {
        return Err(Malformed::TooLarge);
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Malformed::Json(format!("not UTF-8 at byte {}", error.valid_up_to())))?;
    // Almost every frame is small, holds well-formed trades and takes one pass. Others are parsed
    // entry by entry.
    if text.len() <= ONE_PASS_BYTES
        && let Ok(Object(TradeFrame {
            kind: TradeKind::Trade,
            data,
        })) = serde_json::from_str(text)
    {
        return Ok(Message::Trades(Entries(Form::Parsed(data, text))));
    }
    parse_piecewise(text)
}

#[derive(Deserialize)]
struct TradeFrame<'a> {
    #[serde(rename = "type")]
    kind: TradeKind,
    #[serde(borrow)]
    data: Vec<Object<RawTrade<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum TradeKind {
    Trade,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    msg: Option<Text<'a>>,
}

fn parse_piecewise<'a>(text: &'a str) -> Result<Message<'a>, Malformed> {
    let json = |error: serde_json::Error| Malformed::Json(error.to_string());
    let Object(envelope): Object<Envelope<'_>> = serde_json::from_str(text).map_err(json)?;
    let kind = envelope.kind.map(|kind| kind.0).unwrap_or_default();
    match &*kind {
        "trade" => {
            let data = envelope
                .data
                .ok_or_else(|| Malformed::Json("a trade frame without data".into()))?;
            if !data.get().starts_with('[') {
                return Err(Malformed::Json("data is not an array of trades".into()));
            }
            Ok(Message::Trades(Entries(Form::Unparsed(data.get()))))
        }
        "ping" => Ok(Message::Ping),
        "error" => Ok(Message::Error {
            message: envelope
                .msg
                .map(|msg| msg.0.into_owned())
                .unwrap_or_default(),
        }),
        _ => Ok(Message::Unknown { kind }),
    }
}

/// A JSON object as a `T`. Derived code would also accept an array, with its elements as the fields
/// in the order of this source.
#[derive(Debug)]
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OnlyMaps<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OnlyMaps<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        from.deserialize_map(OnlyMaps(PhantomData))
    }
}

/// A string that borrows from the frame if it has no escapes (`Option<Cow<str>>` would always
/// copy).
#[derive(Debug)]
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Borrowing;
        impl<'de> Visitor<'de> for Borrowing {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(Borrowing)
    }
}

#[derive(Debug, Default)]
struct Codes {
    set: Conditions,
    unknown: Vec<u8>,
}

impl Codes {
    fn add(&mut self, code: u8) {
        self.set = self.set.with(code);
        if Conditions::NONE.with(code).has_unknown() {
            self.unknown.push(code);
        }
    }
}

/// One element of `c`: a string, as documented; a bare number and a null inside the array occur in
/// what others recorded.
struct Code(Option<u8>);

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct AnyCode;
        impl Visitor<'_> for AnyCode {
            type Value = Code;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sale condition")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Code, E> {
                Ok(Code(Some(Conditions::code_of(text))))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Code, E> {
                Ok(Code(Some(Conditions::code_of(&number.to_string()))))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Code, E> {
                Ok(Code(None))
            }
        }
        from.deserialize_any(AnyCode)
    }
}

fn codes<'de, D: Deserializer<'de>>(from: D) -> Result<Codes, D::Error> {
    struct CodeArray;
    impl<'de> Visitor<'de> for CodeArray {
        type Value = Codes;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of sale conditions or null")
        }
        fn visit_unit<E: de::Error>(self) -> Result<Codes, E> {
            Ok(Codes::default())
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Codes, A::Error> {
            let mut codes = Codes::default();
            // Real prints carry up to four conditions; the rest of a hostile array is read over.
            for _ in 0..MAX_CODES {
                match array.next_element::<Code>()? {
                    Some(Code(Some(code))) => codes.add(code),
                    Some(Code(None)) => {}
                    None => return Ok(codes),
                }
            }
            while array.next_element::<IgnoredAny>()?.is_some() {
                codes.set = codes.set.with(tapeflow_schemas::conditions::UNKNOWN_CODE);
            }
            Ok(codes)
        }
    }
    from.deserialize_any(CodeArray)
}

const MAX_CODES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Vec<Entry<'_>> {
        match parse(text.as_bytes()) {
            Ok(Message::Trades(entries)) => {
                let mut all = Vec::new();
                entries.for_each(|entry| all.push(entry)).expect("whole");
                all
            }
            other => panic!("not trades: {other:?}"),
        }
    }

    fn trades(text: &str) -> Vec<Result<RawTrade<'_>, serde_json::Error>> {
        entries(text).into_iter().map(|entry| entry.trade).collect()
    }

    #[test]
    fn a_trade_frame_keeps_the_text_of_its_numbers() {
        let frame = r#"{"data":[
            {"c":["1","12"],"p":164.0601,"s":"AAPL","t":1680286537580,"v":5},
            {"c":null,"p":4e-06,"s":"BINANCE:X","t":1,"v":0.10}
        ],"type":"trade"}"#;
        let trades = trades(frame);
        let first = trades[0].as_ref().expect("well formed");
        assert_eq!(
            (
                first.symbol(),
                first.price(),
                first.size(),
                first.event_time()
            ),
            (
                Some("AAPL"),
                Some("164.0601"),
                Some("5"),
                Some("1680286537580")
            )
        );
        assert_eq!(first.conditions().codes().collect::<Vec<_>>(), [1, 12]);
        let second = trades[1].as_ref().expect("well formed");
        assert_eq!(
            (second.price(), second.size()),
            (Some("4e-06"), Some("0.10"))
        );
    }

    #[test]
    fn null_empty_and_absent_conditions_are_the_same() {
        for c in [r#""c":null,"#, r#""c":[],"#, "", r#""c":[null],"#] {
            let frame = format!(r#"{{"type":"trade","data":[{{{c}"p":1,"s":"A","t":1,"v":1}}]}}"#);
            assert_eq!(
                trades(&frame)[0]
                    .as_ref()
                    .expect("well formed")
                    .conditions(),
                Conditions::NONE,
                "{c}"
            );
        }
    }

    #[test]
    fn unknown_codes_are_kept_as_sent() {
        let frame =
            r#"{"type":"trade","data":[{"c":["1","77","x",12],"p":1,"s":"A","t":1,"v":1}]}"#;
        let trades = trades(frame);
        let trade = trades[0].as_ref().expect("well formed");
        assert_eq!(trade.unknown_codes(), [77, 255]);
        assert!(trade.conditions().has_unknown());
    }

    #[test]
    fn a_malformed_entry_keeps_its_place_and_affects_no_other() {
        let frame = r#"{"type":"trade","data":[
            5,{"p":1,"s":"A","t":1,"v":1},{"p":1,"p":2},{"s":7},{"c":"1","s":"A"},["A",1,1,1,[]]
        ]}"#;
        let shapes: Vec<bool> = trades(frame).iter().map(Result::is_ok).collect();
        assert_eq!(shapes, [false, true, false, false, false, false]);
        assert_eq!(entries(frame)[2].text(), r#"{"p":1,"p":2}"#);
    }

    #[test]
    fn a_large_frame_is_parsed_as_a_small_one_is() {
        let entry = r#"{"p":1.50,"s":"A","t":1,"v":1,"c":["1"]}"#;
        let frame =
            |entries: &[&str]| format!(r#"{{"data":[{}],"type":"trade"}}"#, entries.join(", "));
        let (small, large) = (frame(&[entry; 3]), frame(&[entry; 3_000]));
        assert!(small.len() < ONE_PASS_BYTES && large.len() > ONE_PASS_BYTES);
        let (small, large) = (entries(&small), entries(&large));
        assert_eq!(large.len(), 3_000);
        for (index, one) in large.iter().enumerate() {
            assert_eq!((one.index, one.text()), (index, entry));
            assert_eq!(format!("{:?}", one.trade), format!("{:?}", small[0].trade));
        }
        assert_eq!(small[2].text(), entry);
    }

    #[test]
    fn other_kinds_of_frames_are_recognized() {
        assert!(matches!(parse(br#"{"type":"ping"}"#), Ok(Message::Ping)));
        assert!(matches!(
            parse(br#"{"type":"error","msg":"Invalid symbol \"X\""}"#),
            Ok(Message::Error { message }) if message == "Invalid symbol \"X\""
        ));
        assert!(matches!(
            parse(br#"{"type":"error"}"#),
            Ok(Message::Error { message }) if message.is_empty()
        ));
        assert!(matches!(
            parse(br#"{"type":"news","data":[{"id":1}]}"#),
            Ok(Message::Unknown { kind }) if kind == "news"
        ));
        assert!(matches!(parse(br"{}"), Ok(Message::Unknown { kind }) if kind.is_empty()));
    }

    #[test]
    fn unreadable_frames_are_malformed_and_never_panic() {
        let deep = "[".repeat(100_000);
        for bad in [
            "",
            "{",
            "nul",
            "[]",
            r#"["trade",[]]"#,
            "5",
            r#"{"type":"trade"}"#,
            r#"{"type":"trade","data":null}"#,
            r#"{"type":5}"#,
            r#"{"type":"trade","data":[{"p":NaN}]}"#,
            &deep,
        ] {
            assert!(
                matches!(parse(bad.as_bytes()), Err(Malformed::Json(_))),
                "{}",
                &bad[..bad.len().min(40)]
            );
        }
        assert!(matches!(
            parse(b"{\"type\":\"\xff\"}"),
            Err(Malformed::Json(_))
        ));
        assert!(matches!(
            parse(&vec![b' '; MAX_FRAME_BYTES + 1]),
            Err(Malformed::TooLarge)
        ));
    }

    #[test]
    fn the_recorded_frames_hold_81_trades() {
        let lines = include_str!("../../fixtures/finnhub-recorded.jsonl").lines();
        let count: usize = lines
            .filter(|line| matches!(parse(line.as_bytes()), Ok(Message::Trades(_))))
            .map(|line| trades(line).iter().filter(|trade| trade.is_ok()).count())
            .sum();
        assert_eq!(count, 81);
    }
}
