//! Records of the Spark pipeline: a raw datum with several symbols, and numbers as doubles.

use super::{DecodeError, Entry, EntryError, Header, admit, wire::Reader};
use crate::{
    conditions::Conditions,
    decimal::{Price, Size},
};

/// Decodes a legacy record. A record without trades is valid: the producer wrote pings and errors
/// that way.
pub(super) fn decode<'a>(
    payload: &'a [u8],
    entries: &mut Vec<Entry>,
) -> Result<Header<'a>, DecodeError> {
    let mut reader = Reader::new(payload, 0);
    loop {
        let mut left = reader.block("a block of trades")?;
        if left == 0 {
            break;
        }
        while left > 0 {
            entries.push(entry(&mut reader)?);
            left -= 1;
        }
    }
    reader.string("the type")?;
    reader.end()?;
    Ok(Header::Legacy)
}

fn entry(reader: &mut Reader<'_>) -> Result<Entry, DecodeError> {
    let conditions = conditions(reader)?;
    let price = f64::from_le_bytes(reader.fixed("a price")?);
    let (checked, symbol) = reader.symbol("a symbol")?;
    let event_ms = reader.long("an event time")?;
    let size = f64::from_le_bytes(reader.fixed("a size")?);
    let price = Price::from_f64(price).map(|parsed| parsed.value);
    Ok(Entry {
        symbol,
        trade: admit(checked, event_ms, price, admit_size(size), conditions),
    })
}

/// Only an exact zero is a price update. A size that rounds to zero was a trade too small for
/// eight places. It is an error, so that it becomes a dead letter and is not lost silently.
fn admit_size(size: f64) -> Result<Size, EntryError> {
    if size == 0.0 {
        Err(EntryError::PriceUpdate)
    } else {
        Size::from_f64(size)
            .map(|parsed| parsed.value)
            .map_err(EntryError::Size)
    }
}

/// Decodes `[array<[null, string]>, null]`. A null item and a null list add no code.
fn conditions(reader: &mut Reader<'_>) -> Result<Conditions, DecodeError> {
    let mut set = Conditions::NONE;
    match reader.long("conditions")? {
        0 => {}
        1 => return Ok(set),
        _ => return Err(reader.malformed("conditions: a list or null")),
    }
    loop {
        let mut left = reader.block("a block of conditions")?;
        if left == 0 {
            return Ok(set);
        }
        while left > 0 {
            match reader.long("a condition")? {
                0 => {}
                1 => set = set.with(Conditions::code_of(reader.string("a condition")?)),
                _ => return Err(reader.malformed("a condition: a string or null")),
            }
            left -= 1;
        }
    }
}
