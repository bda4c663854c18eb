//! The identity of a record: its position in the log, and the session and sequence of its sender.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// A partition of the topic, counted from 0.
pub type Partition = u32;
/// The offset of a record in its partition. A *cut* at offset n contains the records below n.
pub type Offset = i64;

/// The place of one trade in the log. It identifies the trade, because Finnhub assigns no id. Its
/// order breaks ties between trades of equal event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The partition of the record.
    pub partition: Partition,
    /// The offset of the record.
    pub offset: Offset,
    /// The index of the trade in its record, from 0.
    pub index: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "partition {} offset {} index {}",
            self.partition, self.offset, self.index
        )
    }
}

/// One uninterrupted run of a sender. Within a session and a partition, sequences count from 1
/// without gaps. A live feed draws a random session at each start. A replay has the session of its
/// recording, so that a second run continues where the first one stopped, also if the recording has
/// grown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// A new session of a producer. The first half names the producer, so that a log can be searched
    /// for the producer's sessions without a list of them; `drawn` is random.
    #[must_use]
    pub fn of_producer(producer: &str, drawn: u64) -> Self {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&producer_bytes(producer));
        id[8..].copy_from_slice(&drawn.to_be_bytes());
        Self(id)
    }

    /// Whether it is a session that [`SessionId::of_producer`] has made for this producer.
    #[must_use]
    pub fn is_of(&self, producer: &str) -> bool {
        self.0.starts_with(&producer_bytes(producer))
    }
}

fn producer_bytes(producer: &str) -> [u8; 8] {
    xxh3_64(producer.as_bytes()).to_be_bytes()
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for SessionId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0u8; 16];
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("a session is 32 hexadecimal digits");
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16)
                .map_err(|_| "a session is 32 hexadecimal digits")?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sessions_of_a_producer_are_known_by_their_first_half() {
        let (one, other) = (
            SessionId::of_producer("simulator", 1),
            SessionId::of_producer("simulator", u64::MAX),
        );
        assert_ne!(one, other);
        assert!(one.is_of("simulator") && other.is_of("simulator") && !one.is_of("finnhub"));
        // Logs hold it: it must never change.
        assert_eq!(one.to_string(), "816d3eb08cc147f80000000000000001");
    }

    #[test]
    fn a_session_is_read_as_it_is_written_and_from_nothing_else() {
        let session = SessionId(*b"\x00\x01\xfesession 12345");
        assert_eq!(session.to_string().parse(), Ok(session));
        let too_long = "0".repeat(33);
        for text in [
            "",
            "+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1",
            "0x000000000000000000000000000000",
            "éééééééééééééééé",
            &too_long,
        ] {
            assert!(text.parse::<SessionId>().is_err(), "{text}");
        }
    }
}
