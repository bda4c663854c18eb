//! Records that ingest writes: a batch of one symbol's trades, an invalid frame and a state of the
//! feed, in single-object encoding.

use super::{
    DecodeError, Entry, EntryError, FEED_STATE_FINGERPRINT, Header, INVALID_FRAME_FINGERPRINT,
    SINGLE_OBJECT, TRADE_BATCH_FINGERPRINT, admit,
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

/// What a record says about the feed. The order is that of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedState {
    /// A session begins, and its feed is not there yet.
    Begins,
    /// The feed is away.
    Away,
    /// The feed was away, and is there again.
    Back,
    /// The feed is there, and has brought no record for a while.
    Alive,
    /// The session ends.
    Ends,
}

impl FeedState {
    /// All of them, in the order of the schema.
    pub const ALL: [Self; 5] = [
        Self::Begins,
        Self::Away,
        Self::Back,
        Self::Alive,
        Self::Ends,
    ];
}

/// The fields of a state of the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedStateHeader<'a> {
    /// The sender's session.
    pub session: SessionId,
    /// The sequence within (session, partition), from 1; batches share the count.
    pub sequence: u64,
    /// When ingest learned of it, in milliseconds since 1970 UTC.
    pub taken_ms: i64,
    /// The name of the sender, the same in all of its sessions.
    pub producer: &'a str,
    /// What it says.
    pub state: FeedState,
    /// Why the feed is or was away: a short word of a fixed list.
    pub cause: &'a str,
    /// Since when trades may be missing, in milliseconds since 1970 UTC.
    pub from_ms: i64,
    /// Until when, with [`FeedState::Back`]; otherwise `from_ms`.
    pub to_ms: i64,
    /// With [`FeedState::Begins`]: the sender's session before, as far as known.
    pub previous: Option<SessionId>,
    /// The last sequence of that session in this partition; 0 where none is known.
    pub previous_sequence: u64,
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

/// Appends the record of a state of the feed to `out`.
///
/// # Panics
/// If the sequence is zero or above `i64::MAX`, or the previous one is above `i64::MAX`.
pub fn encode_feed_state(out: &mut Vec<u8>, header: &FeedStateHeader<'_>) {
    put_fingerprint(out, FEED_STATE_FINGERPRINT);
    put_identity(out, header.session, header.sequence, header.taken_ms);
    put_bytes(out, header.producer.as_bytes());
    put_long(out, header.state as i64);
    put_bytes(out, header.cause.as_bytes());
    put_long(out, header.from_ms);
    put_long(out, header.to_ms);
    put_long(out, i64::from(header.previous.is_some()));
    if let Some(previous) = header.previous {
        out.extend_from_slice(&previous.0);
    }
    put_long(
        out,
        i64::try_from(header.previous_sequence).expect("a sequence counts records"),
    );
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

/// Decodes a state of the feed whose fingerprint the caller has read.
pub(super) fn decode_feed_state(payload: &[u8]) -> Result<Header<'_>, DecodeError> {
    let mut reader = Reader::new(payload, DATUM);
    let (session, sequence, taken_ms) = identity(&mut reader)?;
    let producer = reader.string("the producer")?;
    let state = reader.long("the state")?;
    let state = usize::try_from(state)
        .ok()
        .and_then(|at| FeedState::ALL.get(at))
        .copied()
        .ok_or_else(|| reader.malformed("one of the states"))?;
    let cause = reader.string("the cause")?;
    let (from_ms, to_ms) = (reader.long("a time")?, reader.long("a time")?);
    let previous = match reader.long("a branch")? {
        0 => None,
        1 => Some(SessionId(reader.fixed("the session before")?)),
        _ => return Err(reader.malformed("one of two branches")),
    };
    let previous_sequence = reader.long("the sequence before")?;
    let previous_sequence = u64::try_from(previous_sequence)
        .map_err(|_| reader.malformed("a sequence that is not negative"))?;
    reader.end()?;
    Ok(Header::FeedState(FeedStateHeader {
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
    }))
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
