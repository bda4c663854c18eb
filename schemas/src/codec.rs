//! Avro: the bytes of a record, both ways. The only file that knows them.
//!
//! Three forms are read. Our own, in Avro single-object encoding (`C3 01`, the schema's CRC-64-AVRO
//! fingerprint, the datum): a [`batch`](Header::Batch) of one symbol's trades, or a [`rejected
//! frame`](Header::RejectedFrame). And the old system's raw datum (`FinnhubProducer.message`),
//! which has no header and may hold several symbols.
//!
//! What holds: a record is read as a whole or not at all, so a record cut short leaves nothing
//! behind. No length is believed before the bytes are there: nothing is allocated from it, and a
//! claimed count ends where the bytes end. What is read is exactly what the reference
//! implementation, apache-avro, reads; `tests/codec_against_avro.rs` holds the two together,
//! damaged bytes included.

mod legacy;
mod own;
mod wire;

pub use own::{BatchHeader, RejectedFrameHeader, encode_batch, encode_rejected_frame};

use crate::{
    conditions::Conditions,
    decimal::{NumberFault, Price, Size},
    identity::SessionId,
    symbol::SymbolFault,
    trade::{EventTime, Trade},
};

/// The schema of a batch of trades.
pub const TRADE_BATCH_SCHEMA: &str = include_str!("../avro/trade_batch.v1.avsc");
/// The schema of a rejected frame.
pub const REJECTED_FRAME_SCHEMA: &str = include_str!("../avro/rejected_frame.v1.avsc");
/// The schema of the old system's records.
pub const FINNHUB_MESSAGE_SCHEMA: &str = include_str!("../avro/finnhub_message.avsc");
/// CRC-64-AVRO of the parsing canonical form of [`TRADE_BATCH_SCHEMA`]; a test computes it.
pub const TRADE_BATCH_FINGERPRINT: u64 = 0x608d_079d_402a_54c9;
/// CRC-64-AVRO of the parsing canonical form of [`REJECTED_FRAME_SCHEMA`]; a test computes it.
pub const REJECTED_FRAME_FINGERPRINT: u64 = 0x816a_ade4_30f8_a10f;
/// The first two bytes of Avro's single-object encoding.
const SINGLE_OBJECT: [u8; 2] = [0xC3, 0x01];

/// What a record says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header<'a> {
    /// A batch of one symbol's trades, by our ingest.
    Batch {
        /// The sender's session.
        session: SessionId,
        /// Its sequence in (session, partition), from 1.
        sequence: u64,
        /// When ingest took it in, in milliseconds since 1970 UTC.
        taken_ms: i64,
    },
    /// Something the feed sent that is no trade: a dead letter, carried through the log so that its
    /// place there is its identity.
    RejectedFrame {
        /// The sender's session.
        session: SessionId,
        /// Its sequence in (session, partition), from 1.
        sequence: u64,
        /// When ingest took it in, in milliseconds since 1970 UTC.
        taken_ms: i64,
        /// The reason: one short word of a fixed list.
        reason: &'a str,
        /// The reason for a person, with what was found and where (the line of a file, the index in
        /// a frame).
        detail: &'a str,
        /// What was sent, cut to a bounded length.
        frame: &'a [u8],
    },
    /// A record of the old system's producer: no session, no sequence.
    Legacy,
}

/// A place in a record's bytes: offset and length.
pub type Span = (u32, u32);

/// One entry of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where its symbol stands.
    pub symbol: Span,
    /// The trade, or why it is none.
    pub trade: Result<Trade, EntryFault>,
}

/// Why an entry of a well-formed record is no trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// A size of zero: a price update. Not a fault of anyone's.
    #[error("price update, no trade")]
    PriceUpdate,
    /// The symbol.
    #[error("{0}")]
    Symbol(SymbolFault),
    /// The price.
    #[error("price is {0}")]
    Price(NumberFault),
    /// The size.
    #[error("size is {0}")]
    Size(NumberFault),
    /// The event time, in milliseconds, lies outside 1970 to 2200.
    #[error("event time {0} ms is outside 1970 to 2200")]
    EventTime(i64),
    /// Price times size.
    #[error("notional is absurdly large")]
    Notional,
}

/// Why a record as a whole could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeFault {
    /// Single-object encoding of a schema this binary does not know.
    #[error("unknown schema fingerprint {0:016x}")]
    UnknownFingerprint(u64),
    /// Not a datum of the schema it should be of.
    #[error("malformed Avro at byte {at}: {what}")]
    Malformed {
        /// Where reading stopped.
        at: usize,
        /// What was expected.
        what: &'static str,
    },
    /// No bytes at all.
    #[error("empty record")]
    Empty,
}

/// Reads a record. `entries` is cleared, then filled with what the record holds; the caller keeps
/// it from record to record, so that nothing is allocated for a trade.
///
/// # Errors
/// [`DecodeFault`] if the record as a whole could not be read: then `entries` is empty,
/// and nothing of the record may be counted.
pub fn decode<'a>(payload: &'a [u8], entries: &mut Vec<Entry>) -> Result<Header<'a>, DecodeFault> {
    entries.clear();
    let header = decode_form(payload, entries);
    if header.is_err() {
        entries.clear();
    }
    header
}

fn decode_form<'a>(payload: &'a [u8], entries: &mut Vec<Entry>) -> Result<Header<'a>, DecodeFault> {
    // Also bounds every offset below: the span of a symbol is two u32.
    if u32::try_from(payload.len()).is_err() {
        return Err(DecodeFault::Malformed {
            at: 0,
            what: "a record below 4 GiB",
        });
    }
    let Some(datum) = payload.strip_prefix(&SINGLE_OBJECT) else {
        return match payload.first() {
            None => Err(DecodeFault::Empty),
            // An empty legacy record starts with this byte too, so that is tried first.
            Some(0) => legacy::decode(payload, entries).map_err(|_| DecodeFault::Malformed {
                at: 0,
                what: "a datum without Confluent's wire format (0x00 and a schema id), which is not read",
            }),
            Some(_) => legacy::decode(payload, entries),
        };
    };
    // A legacy datum could begin with these two bytes only as a block of 98 trades with its size
    // told, which its producer never wrote.
    let Some((fingerprint, _)) = datum.split_first_chunk::<8>() else {
        return Err(DecodeFault::Malformed {
            at: payload.len(),
            what: "eight bytes of schema fingerprint",
        });
    };
    match u64::from_le_bytes(*fingerprint) {
        TRADE_BATCH_FINGERPRINT => own::decode_batch(payload, entries),
        REJECTED_FRAME_FINGERPRINT => own::decode_rejected_frame(payload),
        other => Err(DecodeFault::UnknownFingerprint(other)),
    }
}

/// The symbol of an entry that [`decode`] found in this very payload; empty if it was another one.
#[must_use]
pub fn symbol_of<'a>(payload: &'a [u8], entry: &Entry) -> &'a str {
    std::str::from_utf8(symbol_bytes_of(payload, entry)).unwrap_or("")
}

/// The same as bytes, for whoever looks them up and need not read them.
#[must_use]
pub fn symbol_bytes_of<'a>(payload: &'a [u8], entry: &Entry) -> &'a [u8] {
    let at = |offset: u32| usize::try_from(offset).ok();
    let bytes = at(entry.symbol.0)
        .zip(at(entry.symbol.1))
        .and_then(|(from, len)| payload.get(from..from.checked_add(len)?));
    bytes.unwrap_or_default()
}

/// What an entry's parts come to. Of several faults the first in this order is told: symbol, a size
/// of zero, price, size, event time, notional.
fn admit(
    symbol: Result<(), SymbolFault>,
    event_ms: i64,
    price: Result<Price, NumberFault>,
    size: Result<Size, EntryFault>,
    conditions: Conditions,
) -> Result<Trade, EntryFault> {
    symbol.map_err(EntryFault::Symbol)?;
    if size == Err(EntryFault::PriceUpdate) {
        return Err(EntryFault::PriceUpdate);
    }
    let price = price.map_err(EntryFault::Price)?;
    let size = size?;
    let event_time = EventTime::from_ms(event_ms).ok_or(EntryFault::EventTime(event_ms))?;
    Trade::new(event_time, price, size, conditions).map_err(|_| EntryFault::Notional)
}
