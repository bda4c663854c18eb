//! Records that ingest writes: a batch of one symbol's trades and an invalid frame, in
//! single-object encoding.

use super::{
    DecodeError, Entry, EntryError, Header, INVALID_FRAME_FINGERPRINT, SINGLE_OBJECT,
    TRADE_BATCH_FINGERPRINT, admit,
    wire::{Reader, put_bytes, put_length, put_long},
};
use crate::{
    conditions::Conditions,
    decimal::{NumberError, Price, Size},
    identity::SessionId,
    trade::Trade,
};

/// The byte at which the datum of a single object starts.
const DATUM: usize = SINGLE_OBJECT.len() + size_of::<u64>();

/// The fields of a batch besides its trades.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader<'a> {
    /// The symbol of all trades.
    pub symbol: &'a str,
    /// The source of the trades: `finnhub`, `replay` or `simulator`.
    pub source: &'a str,
    /// The sender's session.
    pub session: SessionId,
    /// The sequence within (session, partition), from 1.
    pub sequence: u64,
    /// When ingest received it, in milliseconds since 1970 UTC.
    pub taken_ms: i64,
}

/// The fields of an invalid frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidFrameHeader<'a> {
    /// The sender's session.
    pub session: SessionId,
    /// The sequence within (session, partition), from 1; batches share the count.
    pub sequence: u64,
    /// When ingest received it, in milliseconds since 1970 UTC.
    pub taken_ms: i64,
    /// The line of the file or the number of the frame, from 1; 0 if there is none.
    pub line: u64,
    /// The reason: a short word of a fixed list.
    pub reason: &'a str,
    /// The reason in a sentence: what was found, and where.
    pub detail: &'a str,
    /// The bytes that the feed sent, cut to a bounded length.
    pub frame: &'a [u8],
}

/// Appends the record of a batch to `out`.
///
/// # Panics
/// If the sequence is zero or above `i64::MAX`.
pub fn encode_batch(out: &mut Vec<u8>, header: &BatchHeader<'_>, trades: &[Trade]) {
    put_fingerprint(out, TRADE_BATCH_FINGERPRINT);
    put_bytes(out, header.symbol.as_bytes());
    put_bytes(out, header.source.as_bytes());
    put_identity(out, header.session, header.sequence, header.taken_ms);
    if !trades.is_empty() {
        put_length(out, trades.len());
        for trade in trades {
            put_long(out, trade.event_time.ms());
            out.extend_from_slice(&trade.price.e8().to_be_bytes());
            out.extend_from_slice(&trade.size.e8().to_be_bytes());
            put_length(out, trade.conditions.codes().count());
            out.extend(trade.conditions.codes());
        }
    }
    put_long(out, 0);
}

/// Appends the record of an invalid frame to `out`.
///
/// # Panics
/// If the sequence is zero or above `i64::MAX`, or the line is above `i64::MAX`.
pub fn encode_invalid_frame(out: &mut Vec<u8>, header: &InvalidFrameHeader<'_>) {
    put_fingerprint(out, INVALID_FRAME_FINGERPRINT);
    put_identity(out, header.session, header.sequence, header.taken_ms);
    put_long(
        out,
        i64::try_from(header.line).expect("a line number counts lines"),
    );
    put_bytes(out, header.reason.as_bytes());
    put_bytes(out, header.detail.as_bytes());
    put_bytes(out, header.frame);
}

fn put_fingerprint(out: &mut Vec<u8>, fingerprint: u64) {
    out.extend_from_slice(&SINGLE_OBJECT);
    out.extend_from_slice(&fingerprint.to_le_bytes());
}

fn put_identity(out: &mut Vec<u8>, session: SessionId, sequence: u64, taken_ms: i64) {
    let sequence = i64::try_from(sequence)
        .ok()
        .filter(|s| *s > 0)
        .expect("a sequence counts records from one");
    out.extend_from_slice(&session.0);
    put_long(out, sequence);
    put_long(out, taken_ms);
}

/// Decodes a batch whose fingerprint the caller has read.
pub(super) fn decode_batch<'a>(
    payload: &'a [u8],
    entries: &mut Vec<Entry>,
) -> Result<Header<'a>, DecodeError> {
    let mut reader = Reader::new(payload, DATUM);
    let (error, symbol) = reader.symbol("the symbol")?;
    reader.skip_string("the source")?;
    let (session, sequence, taken_ms) = identity(&mut reader)?;
    loop {
        let mut left = reader.block("a block of trades")?;
        if left == 0 {
            break;
        }
        while left > 0 {
            let event_ms = reader.long("an event time")?;
            let price = Price::from_e8(i64::from_be_bytes(reader.fixed("a price")?));
            let size = Size::from_e8(i128::from_be_bytes(reader.fixed("a size")?));
            let size = size.map_err(|error| {
                if error == NumberError::Zero {
                    EntryError::PriceUpdate
                } else {
                    EntryError::Size(error)
                }
            });
            let conditions = reader
                .bytes("conditions")?
                .iter()
                .fold(Conditions::NONE, |set, code| set.with(*code));
            entries.push(Entry {
                symbol,
                trade: admit(error, event_ms, price, size, conditions),
            });
            left -= 1;
        }
    }
    reader.end()?;
    Ok(Header::Batch {
        session,
        sequence,
        taken_ms,
    })
}

/// Decodes an invalid frame whose fingerprint the caller has read.
pub(super) fn decode_invalid_frame(payload: &[u8]) -> Result<Header<'_>, DecodeError> {
    let mut reader = Reader::new(payload, DATUM);
    let (session, sequence, taken_ms) = identity(&mut reader)?;
    // The line is checked and dropped, because the detail names it too.
    if reader.long("the line")? < 0 {
        return Err(reader.malformed("a line that is not negative"));
    }
    let (reason, detail) = (reader.string("the reason")?, reader.string("the detail")?);
    let frame = reader.bytes("the frame")?;
    reader.end()?;
    Ok(Header::InvalidFrame {
        session,
        sequence,
        taken_ms,
        reason,
        detail,
        frame,
    })
}

fn identity(reader: &mut Reader<'_>) -> Result<(SessionId, u64, i64), DecodeError> {
    let session = SessionId(reader.fixed("the session")?);
    let sequence = reader.long("the sequence")?;
    let sequence = u64::try_from(sequence)
        .ok()
        .filter(|s| *s > 0)
        .ok_or_else(|| reader.malformed("a sequence above zero"))?;
    Ok((session, sequence, reader.long("the time of receipt")?))
}
