//! Which entries of a record are trades. The rules apply in the order they are written here.

use tapeflow_schemas::{
    EventTime, Symbol,
    decimal::{MAX_NOTIONAL_E16, MAX_PRICE_E8, MAX_SIZE_E8},
};

use crate::decode::{Entry, Size};

/// What an entry is.
pub(crate) enum Admission {
    Trade {
        time: EventTime,
        price_e8: i64,
        size_e8: i128,
    },
    /// An entry with a size of zero.
    PriceUpdate,
    /// The reason of the dead letter.
    DeadLetter(&'static str),
}

/// `known_ms` is the time at which the record existed: a trade after it is a dead letter.
pub(crate) fn admit(entry: &Entry, known_ms: i64) -> Admission {
    if Symbol::check(&entry.symbol).is_err() {
        return Admission::DeadLetter("symbol");
    }
    if entry.size == Size::Zero {
        return Admission::PriceUpdate;
    }
    let Some(price_e8) = entry
        .price_e8
        .and_then(|price| i64::try_from(price).ok())
        .filter(|price| (1..=MAX_PRICE_E8).contains(price))
    else {
        return Admission::DeadLetter("price");
    };
    let size_e8 = match entry.size {
        Size::Units(size_e8) if (1..=MAX_SIZE_E8).contains(&size_e8) => size_e8,
        Size::Units(_) | Size::NotANumber | Size::Zero => {
            return Admission::DeadLetter("size");
        }
    };
    let Some(time) = EventTime::from_ms(entry.event_ms) else {
        return Admission::DeadLetter("event_time");
    };
    if i128::from(price_e8)
        .checked_mul(size_e8)
        .is_none_or(|notional| notional > MAX_NOTIONAL_E16)
    {
        return Admission::DeadLetter("notional");
    }
    if time.is_future(known_ms) {
        return Admission::DeadLetter("future");
    }
    Admission::Trade {
        time,
        price_e8,
        size_e8,
    }
}
