//! Encodes and decodes the Avro bytes of a record. Only this module knows them.
//!
//! It decodes four forms:
//!
//! - A [`batch`](Header::Batch) of one symbol's trades, in Avro single-object encoding: `C3 01`,
//!   the CRC-64-AVRO fingerprint of the schema, the datum.
//! - An [invalid frame](Header::InvalidFrame), in the same encoding.
//! - A [state of the feed](Header::FeedState), in the same encoding.
//! - A raw datum of the Spark pipeline's schema (`FinnhubProducer.message`), which has no header
//!   and may hold several symbols.
//!
//! A record is decoded as a whole or not at all: a truncated record yields no entries. A length in
//! the bytes is never trusted: it causes no allocation, and a count ends at the end of the bytes.
//! The decoder accepts exactly what the reference implementation, apache-avro, accepts;
//! `tests/codec_against_avro.rs` compares the two, also on damaged bytes.
//!
//! The codec is written by hand because the schemas are fixed: it allocates nothing per trade.

mod legacy;
mod own;
mod wire;

pub use own::{
    BatchHeader, FeedState, FeedStateHeader, InvalidFrameHeader, encode_batch, encode_feed_state,
    encode_invalid_frame,
};

use crate::{
    conditions::Conditions,
    decimal::{NumberError, Price, Size},
    identity::SessionId,
    symbol::SymbolError,
    trade::{EventTime, Trade},
};

/// The schema of a batch of trades.
pub const TRADE_BATCH_SCHEMA: &str = include_str!("../avro/trade_batch.v1.avsc");
/// The schema of an invalid frame.
pub const INVALID_FRAME_SCHEMA: &str = include_str!("../avro/invalid_frame.v1.avsc");
/// The schema of a state of the feed.
pub const FEED_STATE_SCHEMA: &str = include_str!("../avro/feed_state.v1.avsc");
/// The schema of the Spark pipeline's records.
pub const FINNHUB_MESSAGE_SCHEMA: &str = include_str!("../avro/finnhub_message.avsc");
/// CRC-64-AVRO of the parsing canonical form of [`TRADE_BATCH_SCHEMA`]. A test recomputes it.
pub const TRADE_BATCH_FINGERPRINT: u64 = 0x608d_079d_402a_54c9;
/// CRC-64-AVRO of the parsing canonical form of [`INVALID_FRAME_SCHEMA`]. A test recomputes it.
pub const INVALID_FRAME_FINGERPRINT: u64 = 0x8e5a_1647_30aa_e98c;
/// CRC-64-AVRO of the parsing canonical form of [`FEED_STATE_SCHEMA`]. A test recomputes it.
pub const FEED_STATE_FINGERPRINT: u64 = 0x2749_7877_ad61_6842;
/// The first two bytes of Avro's single-object encoding.
const SINGLE_OBJECT: [u8; 2] = [0xC3, 0x01];

/// The header of a record, by its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header<'a> {
    /// A batch of one symbol's trades.
    Batch {
        /// The sender's session.
        session: SessionId,
        /// The sequence within (session, partition), from 1.
        sequence: u64,
        /// When ingest received it, in milliseconds since 1970 UTC.
        taken_ms: i64,
    },
    /// A frame or an entry that failed admission. The job makes a dead letter of it. It travels
    /// through the log so that its place there identifies it.
    InvalidFrame {
        /// The sender's session.
        session: SessionId,
        /// The sequence within (session, partition), from 1.
        sequence: u64,
        /// When ingest received it, in milliseconds since 1970 UTC.
        taken_ms: i64,
        /// The reason: a short word of a fixed list.
        reason: &'a str,
        /// The reason in a sentence: what was found, and where (line of the file, index in the
        /// frame).
        detail: &'a str,
        /// The bytes that the feed sent, cut to a bounded length.
        frame: &'a [u8],
    },
    /// What ingest knows about its feed. It has no trades.
    FeedState(FeedStateHeader<'a>),
    /// A record of the Spark pipeline's producer. It has neither session nor sequence.
    Legacy,
}

impl Header<'_> {
    /// The session and the sequence of the record; a legacy record has none.
    #[must_use]
    pub fn identity(&self) -> Option<(SessionId, u64)> {
        match self {
            Self::Batch {
                session, sequence, ..
            }
            | Self::InvalidFrame {
                session, sequence, ..
            }
            | Self::FeedState(FeedStateHeader {
                session, sequence, ..
            }) => Some((*session, *sequence)),
            Self::Legacy => None,
        }
    }

    /// When ingest made the record, in milliseconds since 1970 UTC; a legacy record does not say.
    #[must_use]
    pub fn taken_ms(&self) -> Option<i64> {
        match self {
            Self::Batch { taken_ms, .. }
            | Self::InvalidFrame { taken_ms, .. }
            | Self::FeedState(FeedStateHeader { taken_ms, .. }) => Some(*taken_ms),
            Self::Legacy => None,
        }
    }
}

/// A range of a record's bytes: offset and length.
pub type Span = (u32, u32);

/// One entry of a record: a trade, or an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The bytes of its symbol; see [`symbol_of`].
    pub symbol: Span,
    /// The trade, or why the entry is not a trade.
    pub trade: Result<Trade, EntryError>,
}

/// Why an entry of a well-formed record is not a trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// A size of zero: a price update, which is valid input.
    #[error("price update, not a trade")]
    PriceUpdate,
    /// The symbol is invalid.
    #[error("{0}")]
    Symbol(SymbolError),
    /// The price is invalid.
    #[error("price is {0}")]
    Price(NumberError),
    /// The size is invalid.
    #[error("size is {0}")]
    Size(NumberError),
    /// The event time, in milliseconds since 1970 UTC, is outside 1970 to 2200.
    #[error("event time {0} ms is outside 1970 to 2200")]
    EventTime(i64),
    /// Price times size exceeds [`crate::decimal::MAX_NOTIONAL_E16`].
    #[error("notional is absurdly large")]
    Notional,
}

/// Why a record as a whole could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The single-object encoding names a schema that this binary does not know.
    #[error("unknown schema fingerprint {0:016x}")]
    UnknownFingerprint(u64),
    /// The bytes do not match the schema.
    #[error("malformed Avro at byte {at}: {what}")]
    Malformed {
        /// The byte at which decoding stopped.
        at: usize,
        /// What was expected.
        what: &'static str,
    },
    /// The record has no bytes.
    #[error("empty record")]
    Empty,
}

/// Decodes a record. It clears `entries` and fills it with the entries of the record. The caller
/// reuses the vector for each record, so that a trade costs no allocation.
///
/// # Errors
/// [`DecodeError`] if the record as a whole could not be decoded. Then `entries` is empty, and
/// nothing of the record may be counted.
pub fn decode<'a>(payload: &'a [u8], entries: &mut Vec<Entry>) -> Result<Header<'a>, DecodeError> {
    entries.clear();
    let header = decode_form(payload, entries);
    if header.is_err() {
        entries.clear();
    }
    header
}

fn decode_form<'a>(payload: &'a [u8], entries: &mut Vec<Entry>) -> Result<Header<'a>, DecodeError> {
    // This also bounds every offset below: the span of a symbol has two u32.
    if u32::try_from(payload.len()).is_err() {
        return Err(DecodeError::Malformed {
            at: 0,
            what: "a record below 4 GiB",
        });
    }
    let Some(datum) = payload.strip_prefix(&SINGLE_OBJECT) else {
        return match payload.first() {
            None => Err(DecodeError::Empty),
            // An empty legacy record starts with this byte too, so try that form first.
            Some(0) => legacy::decode(payload, entries).map_err(|_| DecodeError::Malformed {
                at: 0,
                what: "a datum without the header of Confluent's wire format \
                       (0x00 and a schema id), which is not supported",
            }),
            Some(_) => legacy::decode(payload, entries),
        };
    };
    // A legacy datum starts with these two bytes only if it is a block of 98 trades that states its
    // size in bytes. Its producer never wrote such a block.
    let Some((fingerprint, _)) = datum.split_first_chunk::<8>() else {
        return Err(DecodeError::Malformed {
            at: payload.len(),
            what: "eight bytes of schema fingerprint",
        });
    };
    match u64::from_le_bytes(*fingerprint) {
        TRADE_BATCH_FINGERPRINT => own::decode_batch(payload, entries),
        INVALID_FRAME_FINGERPRINT => own::decode_invalid_frame(payload),
        FEED_STATE_FINGERPRINT => own::decode_feed_state(payload),
        other => Err(DecodeError::UnknownFingerprint(other)),
    }
}

/// The symbol of an entry that [`decode`] found in this payload; empty for another payload.
#[must_use]
pub fn symbol_of<'a>(payload: &'a [u8], entry: &Entry) -> &'a str {
    std::str::from_utf8(symbol_bytes_of(payload, entry)).unwrap_or("")
}

/// The bytes of [`symbol_of`], for callers that only look them up.
#[must_use]
pub fn symbol_bytes_of<'a>(payload: &'a [u8], entry: &Entry) -> &'a [u8] {
    let at = |offset: u32| usize::try_from(offset).ok();
    let bytes = at(entry.symbol.0)
        .zip(at(entry.symbol.1))
        .and_then(|(from, len)| payload.get(from..from.checked_add(len)?));
    bytes.unwrap_or_default()
}

/// Makes a trade of the parts of an entry. Of several errors it returns the first in this order:
/// symbol, a size of zero, price, size, event time, notional.
fn admit(
    symbol: Result<(), SymbolError>,
    event_ms: i64,
    price: Result<Price, NumberError>,
    size: Result<Size, EntryError>,
    conditions: Conditions,
) -> Result<Trade, EntryError> {
    symbol.map_err(EntryError::Symbol)?;
    if size == Err(EntryError::PriceUpdate) {
        return Err(EntryError::PriceUpdate);
    }
    let price = price.map_err(EntryError::Price)?;
    let size = size?;
    let event_time = EventTime::from_ms(event_ms).ok_or(EntryError::EventTime(event_ms))?;
    Trade::new(event_time, price, size, conditions).map_err(|_| EntryError::Notional)
}
