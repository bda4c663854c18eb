//! Decodes records with apache-avro. It uses the schema files and nothing of the job's decoder.

use std::{
    io::{self, Read},
    sync::LazyLock,
};

use apache_avro::{GenericSingleObjectReader, Schema, types::Value};
use tapeflow_schemas::SessionId;

use crate::gaps::FeedReport;

// The schema files define the format. The fingerprints are CRC-64-AVRO of their parsing canonical
// forms, written here a second time: a test compares them with those of the job's decoder.
const TRADE_BATCH_SCHEMA: &str = include_str!("../../../schemas/avro/trade_batch.v1.avsc");
const TRADE_BATCH_FINGERPRINT: u64 = 0x608d_079d_402a_54c9;
const INVALID_FRAME_SCHEMA: &str = include_str!("../../../schemas/avro/invalid_frame.v1.avsc");
const INVALID_FRAME_FINGERPRINT: u64 = 0x8e5a_1647_30aa_e98c;
const FEED_STATE_SCHEMA: &str = include_str!("../../../schemas/avro/feed_state.v1.avsc");
const FEED_STATE_FINGERPRINT: u64 = 0x2749_7877_ad61_6842;
const LEGACY_SCHEMA: &str = include_str!("../../../schemas/avro/finnhub_message.avsc");

/// A decoded record. Only its form is checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    Batch {
        session: SessionId,
        sequence: u64,
        taken_ms: i64,
        entries: Vec<Entry>,
    },
    InvalidFrame {
        session: SessionId,
        sequence: u64,
        reason: String,
    },
    /// It has no trades, and is no dead letter.
    FeedState(FeedReport),
    Legacy {
        entries: Vec<Entry>,
    },
}

/// One entry of a record: a trade or a price update. Numbers are in 1e-8; `price_e8` is `None` if
/// the price is not a number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) symbol: String,
    pub(crate) event_ms: i64,
    pub(crate) price_e8: Option<i128>,
    pub(crate) size: Size,
    pub(crate) codes: Vec<u8>,
}

/// The size of an entry. Zero means a price update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Size {
    Zero,
    Units(i128),
    NotANumber,
}

/// Why a record cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecodeFailure {
    Empty,
    UnknownFingerprint,
    Malformed,
}

impl DecodeFailure {
    /// The reason of the dead letter.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::UnknownFingerprint => "unknown_fingerprint",
            Self::Malformed => "malformed",
        }
    }
}

/// The decoder of every oracle. It has no state.
pub(crate) static DECODER: LazyLock<Decoder> = LazyLock::new(Decoder::new);

/// Readers for the four schemas.
pub(crate) struct Decoder {
    batch: GenericSingleObjectReader,
    invalid_frame: GenericSingleObjectReader,
    feed_state: GenericSingleObjectReader,
    legacy: GenericSingleObjectReader,
}

impl Decoder {
    fn new() -> Self {
        // The readers expect no header, because `decode` reads it. (For schemas with logical types,
        // apache-avro's fingerprint is not that of the specification.)
        let reader = |text| {
            let schema = Schema::parse_str(text).expect("the schema files are valid");
            GenericSingleObjectReader::builder()
                .schema(schema)
                .header(Vec::new())
                .build()
                .expect("the schemas refer to no others")
        };
        Self {
            batch: reader(TRADE_BATCH_SCHEMA),
            invalid_frame: reader(INVALID_FRAME_SCHEMA),
            feed_state: reader(FEED_STATE_SCHEMA),
            legacy: reader(LEGACY_SCHEMA),
        }
    }

    pub(crate) fn decode(&self, payload: &[u8]) -> Result<Record, DecodeFailure> {
        match payload {
            [] => Err(DecodeFailure::Empty),
            [0xC3, 0x01, a, b, c, d, e, f, g, h, datum @ ..] => {
                match u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]) {
                    TRADE_BATCH_FINGERPRINT => whole(&self.batch, datum)
                        .and_then(batch)
                        .ok_or(DecodeFailure::Malformed),
                    INVALID_FRAME_FINGERPRINT => whole(&self.invalid_frame, datum)
                        .and_then(invalid_frame)
                        .ok_or(DecodeFailure::Malformed),
                    FEED_STATE_FINGERPRINT => whole(&self.feed_state, datum)
                        .and_then(feed_state)
                        .ok_or(DecodeFailure::Malformed),
                    _ => Err(DecodeFailure::UnknownFingerprint),
                }
            }
            [0xC3, 0x01, ..] => Err(DecodeFailure::Malformed),
            datum => whole(&self.legacy, datum)
                .and_then(legacy)
                .ok_or(DecodeFailure::Malformed),
        }
    }
}

/// The bytes of a datum. Their end is an error of another kind than the end of a file, which
/// apache-avro takes for null: it would do so for each of the millions of items that a damaged
/// count may claim.
struct Datum<'a>(&'a [u8]);

impl Read for Datum<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.0.read(into)? {
            0 if !into.is_empty() => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the datum has ended",
            )),
            read => Ok(read),
        }
    }
}

/// The fields of a datum; `None` if it is damaged or if bytes follow it.
fn whole(reader: &GenericSingleObjectReader, datum: &[u8]) -> Option<Vec<Value>> {
    let mut datum = Datum(datum);
    let value = reader.read_value(&mut datum).ok()?;
    if datum.0.is_empty() {
        fields(value)
    } else {
        None
    }
}

fn fields(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Record(fields) => Some(fields.into_iter().map(|(_, value)| value).collect()),
        _ => None,
    }
}

fn batch(fields: Vec<Value>) -> Option<Record> {
    let [symbol, source, session, sequence, taken_ms, trades] =
        <[Value; 6]>::try_from(fields).ok()?;
    let symbol = string(symbol)?;
    string(source)?;
    let entry = |value| {
        let [event_time, price, size, codes] = <[Value; 4]>::try_from(self::fields(value)?).ok()?;
        let size = match decimal(size)? {
            0 => Size::Zero,
            units => Size::Units(units),
        };
        Some(Entry {
            symbol: symbol.clone(),
            event_ms: long(event_time)?,
            price_e8: Some(decimal(price)?),
            size,
            codes: bytes(codes)?,
        })
    };
    let entries = array(trades)?
        .into_iter()
        .map(entry)
        .collect::<Option<_>>()?;
    Some(Record::Batch {
        session: self::session(session)?,
        sequence: self::sequence(sequence)?,
        taken_ms: long(taken_ms)?,
        entries,
    })
}

fn invalid_frame(fields: Vec<Value>) -> Option<Record> {
    let [session, sequence, taken_ms, line, reason, detail, frame] =
        <[Value; 7]>::try_from(fields).ok()?;
    (long(taken_ms).is_some()
        && long(line)? >= 0
        && string(detail).is_some()
        && bytes(frame).is_some())
    .then_some(())?;
    Some(Record::InvalidFrame {
        session: self::session(session)?,
        sequence: self::sequence(sequence)?,
        reason: string(reason)?,
    })
}

fn feed_state(fields: Vec<Value>) -> Option<Record> {
    let [
        session,
        sequence,
        taken_ms,
        producer,
        state,
        cause,
        from_ms,
        to_ms,
        previous,
        previous_sequence,
    ] = <[Value; 10]>::try_from(fields).ok()?;
    let previous_is_session = match previous {
        Value::Union(0, _) => true,
        Value::Union(_, previous) => self::session(*previous).is_some(),
        _ => false,
    };
    let Value::Enum(_, state) = state else {
        return None;
    };
    (previous_is_session && long(previous_sequence)? >= 0).then_some(())?;
    Some(Record::FeedState(FeedReport {
        session: self::session(session)?,
        sequence: self::sequence(sequence)?,
        taken_ms: long(taken_ms)?,
        producer: string(producer)?,
        state,
        cause: string(cause)?,
        from_ms: long(from_ms)?,
        to_ms: long(to_ms)?,
    }))
}

fn legacy(fields: Vec<Value>) -> Option<Record> {
    let [data, kind] = <[Value; 2]>::try_from(fields).ok()?;
    string(kind)?;
    let entry = |value| {
        let [c, p, s, t, v] = <[Value; 5]>::try_from(self::fields(value)?).ok()?;
        let (Value::Double(price), Value::Double(size)) = (p, v) else {
            return None;
        };
        let size = match shortest_e8(size) {
            _ if size == 0.0 => Size::Zero,
            Some(units) => Size::Units(units),
            None => Size::NotANumber,
        };
        Some(Entry {
            symbol: string(s)?,
            event_ms: long(t)?,
            price_e8: shortest_e8(price),
            size,
            codes: legacy_codes(c)?,
        })
    };
    Some(Record::Legacy {
        entries: array(data)?.into_iter().map(entry).collect::<Option<_>>()?,
    })
}

fn legacy_codes(value: Value) -> Option<Vec<u8>> {
    let Value::Union(branch, list) = value else {
        return None;
    };
    if branch == 1 {
        return Some(Vec::new());
    }
    let mut codes = Vec::new();
    for item in array(*list)? {
        let Value::Union(branch, text) = item else {
            return None;
        };
        if branch == 1 {
            let text = string(*text)?;
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            codes.push(
                text.parse::<u8>()
                    .ok()
                    .filter(|code| digits && (1..=254).contains(code))
                    .unwrap_or(255),
            );
        }
    }
    Some(codes)
}

/// Converts a double to 1e-8 by the digits of its shortest decimal, rounding half to even; `None`
/// for infinities and NaN. A value that does not fit becomes the largest or smallest integer.
fn shortest_e8(double: f64) -> Option<i128> {
    if !double.is_finite() {
        return None;
    }
    let text = double.abs().to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let (kept, dropped) = fraction.split_at(fraction.len().min(8));
    let Ok(units) = format!("{whole}{kept:0<8}").parse::<i128>() else {
        return Some(if double < 0.0 { i128::MIN } else { i128::MAX });
    };
    // Texts of equal length compare like numbers. More than a half rounds up, and so does a half
    // after an odd digit.
    let half = format!("{:0<width$}", "5", width = dropped.len().max(1));
    let dropped = if dropped.is_empty() { "0" } else { dropped };
    let up = dropped > half.as_str() || (dropped == half && units % 2 == 1);
    let units = units + i128::from(up);
    Some(if double < 0.0 { -units } else { units })
}

fn string(value: Value) -> Option<String> {
    if let Value::String(text) = value {
        Some(text)
    } else {
        None
    }
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    if let Value::Bytes(bytes) = value {
        Some(bytes)
    } else {
        None
    }
}

fn array(value: Value) -> Option<Vec<Value>> {
    if let Value::Array(items) = value {
        Some(items)
    } else {
        None
    }
}

fn long(value: Value) -> Option<i64> {
    match value {
        Value::Long(long) | Value::TimestampMillis(long) => Some(long),
        _ => None,
    }
}

fn decimal(value: Value) -> Option<i128> {
    let Value::Decimal(decimal) = value else {
        return None;
    };
    let bytes = <Vec<u8>>::try_from(decimal).ok()?;
    let sign = if bytes.first()? & 0x80 == 0 { 0 } else { -1 };
    Some(
        bytes
            .iter()
            .fold(sign, |units, byte| (units << 8) | i128::from(*byte)),
    )
}

fn session(value: Value) -> Option<SessionId> {
    if let Value::Fixed(16, bytes) = value {
        Some(SessionId(bytes.try_into().ok()?))
    } else {
        None
    }
}

fn sequence(value: Value) -> Option<u64> {
    u64::try_from(long(value)?)
        .ok()
        .filter(|sequence| *sequence > 0)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rand::{Rng, SeedableRng, rngs::StdRng};
    use tapeflow_schemas::{
        Conditions, EventTime, Price, Trade,
        codec::{
            self, BatchHeader, DecodeError, EntryError, FeedState, FeedStateHeader, Header,
            InvalidFrameHeader, decode, encode_batch, encode_feed_state, encode_invalid_frame,
            symbol_of,
        },
    };

    use super::*;
    use crate::admission::{Admission, admit};

    #[test]
    fn the_fingerprints_are_those_of_the_jobs_decoder() {
        assert_eq!(
            [
                TRADE_BATCH_FINGERPRINT,
                INVALID_FRAME_FINGERPRINT,
                FEED_STATE_FINGERPRINT
            ],
            [
                codec::TRADE_BATCH_FINGERPRINT,
                codec::INVALID_FRAME_FINGERPRINT,
                codec::FEED_STATE_FINGERPRINT
            ]
        );
    }

    /// Decodes bytes with both decoders: both must fail with the same reason, or return the same
    /// content. Returns whether they were decoded.
    fn check(decoder: &Decoder, payload: &[u8]) -> bool {
        let mut entries = Vec::new();
        let theirs = decode(payload, &mut entries);
        let mine = match (decoder.decode(payload), theirs) {
            (Err(mine), Err(theirs)) => {
                let theirs = match theirs {
                    DecodeError::Empty => DecodeFailure::Empty,
                    DecodeError::UnknownFingerprint(_) => DecodeFailure::UnknownFingerprint,
                    DecodeError::Malformed { .. } => DecodeFailure::Malformed,
                };
                assert_eq!(mine, theirs, "{payload:02x?}");
                return false;
            }
            (
                Ok(Record::Batch {
                    session,
                    sequence,
                    taken_ms,
                    entries,
                }),
                Ok(header),
            ) => {
                assert_eq!(
                    header,
                    Header::Batch {
                        session,
                        sequence,
                        taken_ms
                    },
                    "{payload:02x?}"
                );
                entries
            }
            (
                Ok(Record::InvalidFrame {
                    session,
                    sequence,
                    reason,
                }),
                Ok(Header::InvalidFrame {
                    session: s,
                    sequence: q,
                    reason: r,
                    ..
                }),
            ) => {
                assert_eq!((session, sequence, &*reason), (s, q, r), "{payload:02x?}");
                Vec::new()
            }
            (Ok(Record::FeedState(mine)), Ok(Header::FeedState(theirs))) => {
                assert_eq!(
                    (mine.session, mine.sequence, mine.taken_ms),
                    (theirs.session, theirs.sequence, theirs.taken_ms)
                );
                assert_eq!(
                    (&*mine.producer, &*mine.cause, mine.from_ms, mine.to_ms),
                    (theirs.producer, theirs.cause, theirs.from_ms, theirs.to_ms)
                );
                assert_eq!(mine.state, format!("{:?}", theirs.state).to_uppercase());
                Vec::new()
            }
            (Ok(Record::Legacy { entries }), Ok(Header::Legacy)) => entries,
            (mine, theirs) => panic!("{mine:?} but {theirs:?}: {payload:02x?}"),
        };
        assert_eq!(mine.len(), entries.len());
        for (mine, theirs) in mine.iter().zip(&entries) {
            assert_eq!(mine.symbol, symbol_of(payload, theirs));
            // With the largest time of a record, no trade is in the future.
            match (admit(mine, i64::MAX), theirs.trade) {
                (
                    Admission::Trade {
                        time,
                        price_e8,
                        size_e8,
                    },
                    Ok(trade),
                ) => {
                    assert_eq!(
                        (time, price_e8, size_e8),
                        (trade.event_time, trade.price.e8(), trade.size.e8()),
                        "{mine:?}"
                    );
                    assert_eq!(
                        mine.codes
                            .iter()
                            .fold(Conditions::NONE, |set, code| set.with(*code)),
                        trade.conditions,
                        "{mine:?}"
                    );
                }
                (Admission::PriceUpdate, Err(EntryError::PriceUpdate)) => {}
                (Admission::DeadLetter(reason), Err(error)) => assert_eq!(
                    reason,
                    match error {
                        EntryError::Symbol(_) => "symbol",
                        EntryError::Price(_) => "price",
                        EntryError::Size(_) => "size",
                        EntryError::EventTime(_) => "event_time",
                        EntryError::Notional => "notional",
                        EntryError::PriceUpdate => "price update",
                    },
                    "{mine:?}"
                ),
                (_, theirs) => panic!("{mine:?} but {theirs:?}"),
            }
        }
        true
    }

    fn batch(rng: &mut StdRng) -> Vec<u8> {
        let trade = |rng: &mut StdRng| Trade {
            event_time: EventTime::from_ms(rng.random_range(0..2_000_000_000_000)).expect("a time"),
            price: Price::from_e8(rng.random_range(1..1 << 50)).expect("a price"),
            size: tapeflow_schemas::Size::from_e8(rng.random_range(1..1 << 70)).expect("a size"),
            conditions: (0..rng.random_range(0..4))
                .fold(Conditions::NONE, |set, _| set.with(rng.random())),
        };
        let trades: Vec<_> = (0..rng.random_range(0..4)).map(|_| trade(rng)).collect();
        let header = BatchHeader {
            symbol: "BRK.B",
            source: "replay",
            session: SessionId(rng.random()),
            sequence: rng.random_range(1..200),
            taken_ms: 5,
        };
        let mut payload = Vec::new();
        encode_batch(&mut payload, &header, &trades);
        payload
    }

    fn invalid_frame(rng: &mut StdRng) -> Vec<u8> {
        let header = InvalidFrameHeader {
            session: SessionId(rng.random()),
            sequence: rng.random_range(1..200),
            taken_ms: 5,
            line: rng.random_range(0..200),
            reason: "json",
            detail: "line 3: é",
            frame: b"{",
        };
        let mut payload = Vec::new();
        encode_invalid_frame(&mut payload, &header);
        payload
    }

    fn feed_state(rng: &mut StdRng) -> Vec<u8> {
        let header = FeedStateHeader {
            session: SessionId(rng.random()),
            sequence: rng.random_range(1..200),
            taken_ms: 5,
            producer: "é",
            state: FeedState::ALL[rng.random_range(0..FeedState::ALL.len())],
            cause: "silent",
            from_ms: rng.random_range(0..200),
            to_ms: rng.random(),
            previous: rng.random::<bool>().then(|| SessionId(rng.random())),
            previous_sequence: rng.random_range(0..200),
        };
        let mut payload = Vec::new();
        encode_feed_state(&mut payload, &header);
        payload
    }

    /// Built from bytes, to cover doubles of every kind and every form of a condition.
    fn legacy(rng: &mut StdRng) -> Vec<u8> {
        let double = |rng: &mut StdRng| match rng.random_range(0..6) {
            0 => f64::from_bits(rng.random()),
            1 => [
                0.0,
                -0.0,
                f64::NAN,
                f64::INFINITY,
                1e-9,
                5e-9,
                1.5e-8,
                2.5e-8,
                1e15,
                1e16,
                1e40,
                -1.0,
            ][rng.random_range(0..12)],
            2 => f64::from(rng.random_range(0..1000)) * 1e-8,
            _ => f64::from(rng.random_range(0..10_000_000)) / 1e4,
        };
        let mut payload = Vec::new();
        let trades = rng.random_range(0..5u8);
        for _ in 0..trades {
            payload.push(2);
            match rng.random_range(0..4) {
                0 => payload.push(2),
                1 => payload.extend([0, 0]),
                2 => payload.extend([0, 4, 2, 2, b'1', 0, 0]),
                _ => payload.extend([
                    0,
                    3,
                    99,
                    2,
                    6,
                    rng.random_range(b' '..b'A'),
                    b'2',
                    b'5',
                    2,
                    0,
                    0,
                ]),
            }
            payload.extend(double(rng).to_le_bytes());
            payload.extend([2, b'A', 0x80 | rng.random::<u8>(), 0x01]);
            payload.extend(double(rng).to_le_bytes());
        }
        payload.extend([0, 10]);
        payload.extend(b"trade");
        payload
    }

    #[test]
    fn the_oracle_and_the_jobs_decoder_agree_on_records_whole_and_damaged() {
        let decoder = &*DECODER;
        let (mut whole, mut read) = (0, 0);
        for seed in (0..400).chain([StdRng::from_os_rng().random()]) {
            println!("seed {seed}");
            let rng = &mut StdRng::seed_from_u64(seed);
            for payload in [batch(rng), invalid_frame(rng), feed_state(rng), legacy(rng)] {
                assert!(check(decoder, &payload), "{payload:02x?}");
                whole += 1;
                for len in 0..payload.len() {
                    check(decoder, &payload[..len]);
                }
                for _ in 0..40 {
                    let mut damaged = payload.clone();
                    for _ in 0..rng.random_range(1..4) {
                        let at = rng.random_range(0..damaged.len());
                        match rng.random_range(0..5) {
                            0 => damaged[at] ^= 1 << rng.random_range(0..8),
                            1 => damaged[at] = rng.random(),
                            2 => damaged[at] = [0, 1, 2, 0x7F, 0x80, 0xFF][rng.random_range(0..6)],
                            3 => damaged.insert(at, [0x80, 0, 1, 0xFF][rng.random_range(0..4)]),
                            _ => drop(damaged.remove(at)),
                        }
                        if damaged.is_empty() {
                            break;
                        }
                    }
                    read += usize::from(check(decoder, &damaged));
                }
            }
        }
        assert!(
            whole > 1_000 && read > 10_000,
            "{read} damaged records were decoded: the test must not compare failures only"
        );
    }

    #[test]
    fn a_count_that_the_bytes_cannot_hold_costs_nothing() {
        // One legacy trade, whose list claims nine million conditions and has none.
        let lie = [0x02, 0x00, 0x80, 0xD1, 0xCA, 0x08];
        let begun = Instant::now();
        for _ in 0..100 {
            assert_eq!(DECODER.decode(&lie), Err(DecodeFailure::Malformed));
        }
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
    }

    #[test]
    fn a_double_is_converted_by_its_digits() {
        let cases = [
            (164.0601, 16_406_010_000),
            (4e-6, 400),
            (5e-9, 0),
            (1.5e-8, 2),
            (2.5e-8, 2),
            (-1.5, -150_000_000),
            (1e-300, 0),
            (2.51e-8, 3),
        ];
        for (double, units) in cases {
            assert_eq!(shortest_e8(double), Some(units), "{double}");
        }
        assert_eq!(shortest_e8(f64::NAN), None);
        assert_eq!(shortest_e8(1e200), Some(i128::MAX));
    }
}
