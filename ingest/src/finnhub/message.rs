//! Parses one frame of Finnhub: trades, a ping, an error, or a type that is not documented.
//!
//! Numbers stay text ([`RawTrade::price`] and the others borrow from the frame): converting a
//! decimal to a double can change it. A malformed entry does not affect the other entries of its
//! frame.

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
    /// The entries in the order sent. An entry without the shape of a trade is an `Err` with the
    /// reason, in its place.
    Trades(Vec<Result<RawTrade<'a>, String>>),
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
    // Almost every frame holds well-formed trades and takes one pass. Others are parsed entry by
    // entry.
    match serde_json::from_str::<Object<TradeFrame<'_>>>(text) {
        Ok(Object(TradeFrame {
            kind: TradeKind::Trade,
            data,
        })) => Ok(Message::Trades(
            data.into_iter().map(|trade| Ok(trade.0)).collect(),
        )),
        Err(_) => parse_piecewise(text),
    }
}

/// The texts of a trade frame's entries, to quote the one that is invalid; empty if it has none.
#[must_use]
pub fn entry_texts(bytes: &[u8]) -> Vec<&str> {
    let envelope = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| serde_json::from_str::<Object<Envelope<'_>>>(text).ok());
    let data = envelope.and_then(|envelope| envelope.0.data);
    let entries = data.and_then(|data| serde_json::from_str::<Vec<&RawValue>>(data.get()).ok());
    entries
        .unwrap_or_default()
        .into_iter()
        .map(RawValue::get)
        .collect()
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
            let entries: Vec<&'a RawValue> = serde_json::from_str(data.get()).map_err(json)?;
            let read = |entry: &'a RawValue| {
                serde_json::from_str(entry.get())
                    .map(|Object(trade)| trade)
                    .map_err(|error| error.to_string())
            };
            Ok(Message::Trades(entries.into_iter().map(read).collect()))
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

    fn trades(text: &str) -> Vec<Result<RawTrade<'_>, String>> {
        match parse(text.as_bytes()) {
            Ok(Message::Trades(trades)) => trades,
            other => panic!("not trades: {other:?}"),
        }
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
        assert_eq!(entry_texts(frame.as_bytes())[2], r#"{"p":1,"p":2}"#);
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
            .map(|line| {
                if let Ok(Message::Trades(trades)) = parse(line.as_bytes()) {
                    trades.iter().filter(|t| t.is_ok()).count()
                } else {
                    0
                }
            })
            .sum();
        assert_eq!(count, 81);
    }
}
