//! Symbols as Finnhub spells them, their asset class, and the partition of their trades.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::quote_currency::QuoteCurrency;

/// The longest valid symbol, in bytes. The longest ones of Finnhub have about 40.
pub const MAX_SYMBOL_BYTES: usize = 64;

/// A symbol as Finnhub spells it: `AAPL`, `BRK.B`, `BINANCE:BTCUSDT`, `IC MARKETS:1`. It has 1 to
/// [`MAX_SYMBOL_BYTES`] bytes of printable ASCII, with no space at its ends and no two in a row, so
/// no two symbols look alike. A clone shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(Arc<str>);

/// Why a text is not a valid symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SymbolError {
    /// The text is empty.
    #[error("empty symbol")]
    Empty,
    /// The text has more than [`MAX_SYMBOL_BYTES`] bytes; the value is its length.
    #[error("symbol of {0} bytes is longer than {MAX_SYMBOL_BYTES}")]
    TooLong(usize),
    /// A control character. No symbol has one, and a terminal would interpret it.
    #[error("control character in symbol")]
    Control,
    /// A character beyond ASCII. No symbol has one, and a reader would take a Cyrillic A for a
    /// Latin one.
    #[error("character U+{:04X} in symbol is not ASCII", *.0 as u32)]
    NotAscii(char),
    /// A space that a reader would not see.
    #[error("space at an end of symbol, or two in a row")]
    Space,
}

impl Symbol {
    /// Makes a symbol of a valid text.
    ///
    /// # Errors
    /// [`SymbolError`] if the text is empty, too long, or has characters that no symbol has.
    pub fn new(text: &str) -> Result<Self, SymbolError> {
        Self::check(text).map(|()| Self(text.into()))
    }

    /// Checks a text without allocating. The hot path uses this and interns the symbols.
    ///
    /// # Errors
    /// [`SymbolError`] if the text is empty, too long, or has characters that no symbol has.
    pub fn check(text: &str) -> Result<(), SymbolError> {
        if text.is_empty() {
            Err(SymbolError::Empty)
        } else if text.len() > MAX_SYMBOL_BYTES {
            Err(SymbolError::TooLong(text.len()))
        } else if text.chars().any(char::is_control) {
            Err(SymbolError::Control)
        } else if let Some(other) = text.chars().find(|c| !c.is_ascii()) {
            Err(SymbolError::NotAscii(other))
        } else if text.starts_with(' ') || text.ends_with(' ') || text.contains("  ") {
            Err(SymbolError::Space)
        } else {
            Ok(())
        }
    }

    /// Checks bytes as [`Symbol::check`] does; `None` if they are not UTF-8. Nearly all symbols have
    /// no space, which needs one comparison per byte.
    pub(crate) fn check_bytes(bytes: &[u8]) -> Option<Result<(), SymbolError>> {
        if (1..=MAX_SYMBOL_BYTES).contains(&bytes.len())
            && bytes.iter().all(|byte| (b'!'..=b'~').contains(byte))
        {
            return Some(Ok(()));
        }
        std::str::from_utf8(bytes).ok().map(Self::check)
    }

    /// The text, as Finnhub spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The asset class, which the prefix determines.
    #[must_use]
    pub fn class(&self) -> AssetClass {
        AssetClass::of(&self.0)
    }

    /// The currency of its prices and of its notional.
    #[must_use]
    pub fn quote(&self) -> QuoteCurrency {
        QuoteCurrency::of(&self.0)
    }
}

impl std::borrow::Borrow<str> for Symbol {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for Symbol {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Symbol {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// The kind of market that a symbol trades on. It determines the day that a trade belongs to.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum AssetClass {
    /// A US stock or fund, which has no venue prefix. Its day is the date in New York.
    Stock,
    /// A symbol with the prefix of a crypto venue. Its day is the UTC date.
    Crypto,
    /// A symbol with the prefix of a foreign-exchange venue. Its day is the UTC date.
    Forex,
}

/// Venues whose symbols are currencies or contracts. Every other prefix is a crypto venue.
const FOREX_VENUES: [&str; 6] = [
    "OANDA",
    "FXCM",
    "FOREX",
    "IC MARKETS",
    "FXPRO",
    "PEPPERSTONE",
];

impl AssetClass {
    /// All classes.
    pub const EVERY: [Self; 3] = [Self::Stock, Self::Crypto, Self::Forex];

    /// The class of a symbol: forex or crypto by the venue of `VENUE:NAME`, else a stock.
    #[must_use]
    pub fn of(symbol: &str) -> Self {
        match symbol.split_once(':') {
            None => Self::Stock,
            Some((venue, _)) if FOREX_VENUES.contains(&venue) => Self::Forex,
            Some(_) => Self::Crypto,
        }
    }

    /// The name in tables and labels.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Crypto => "crypto",
            Self::Forex => "forex",
        }
    }
}

/// The partition of all trades of a symbol, among `partitions`: the first eight bytes of the
/// SHA-256 of its text, modulo `partitions`. Programs in other languages can compute the same.
///
/// # Panics
/// If `partitions` is zero.
#[must_use]
pub fn partition_for(symbol: &str, partitions: u32) -> u32 {
    assert!(partitions > 0, "a topic has at least one partition");
    let digest = Sha256::digest(symbol.as_bytes());
    let number = digest
        .iter()
        .take(8)
        .fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
    u32::try_from(number % u64::from(partitions)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_admitted_as_finnhub_spells_them() {
        for good in ["AAPL", "BRK.B", "BINANCE:BTCUSDT", "IC MARKETS:1"] {
            assert!(Symbol::new(good).is_ok(), "{good}");
        }
        assert_eq!(Symbol::new(""), Err(SymbolError::Empty));
        assert_eq!(
            Symbol::new(&"A".repeat(1 << 20)),
            Err(SymbolError::TooLong(1 << 20))
        );
        assert_eq!(Symbol::new("A\u{1b}[31m"), Err(SymbolError::Control));
        assert_eq!(Symbol::new("A\u{85}"), Err(SymbolError::Control));
    }

    #[test]
    fn a_symbol_that_looks_like_another_is_invalid() {
        for (text, error) in [
            ("\u{410}APL", SymbolError::NotAscii('\u{410}')),
            ("AAPL\u{200b}", SymbolError::NotAscii('\u{200b}')),
            ("\u{202e}LPAA", SymbolError::NotAscii('\u{202e}')),
            ("IC\u{a0}MARKETS:1", SymbolError::NotAscii('\u{a0}')),
            (" AAPL", SymbolError::Space),
            ("AAPL ", SymbolError::Space),
            ("IC  MARKETS:1", SymbolError::Space),
        ] {
            assert_eq!(Symbol::check(text), Err(error), "{text:?}");
            assert_eq!(Symbol::check_bytes(text.as_bytes()), Some(Err(error)));
        }
        let message = SymbolError::NotAscii('\u{410}').to_string();
        assert_eq!(message, "character U+0410 in symbol is not ASCII");
    }

    #[test]
    fn the_class_follows_the_venue() {
        assert_eq!(AssetClass::of("AAPL"), AssetClass::Stock);
        assert_eq!(AssetClass::of("BINANCE:BTCUSDT"), AssetClass::Crypto);
        assert_eq!(AssetClass::of("OANDA:EUR_USD"), AssetClass::Forex);
        assert_eq!(AssetClass::of("IC MARKETS:1"), AssetClass::Forex);
    }

    #[test]
    fn the_partition_of_a_symbol_never_changes() {
        // sha256("AAPL") begins 1eb44d62 5271a4eb.
        assert_eq!(
            partition_for("AAPL", u32::MAX),
            u32::try_from(0x1eb4_4d62_5271_a4eb_u64 % u64::from(u32::MAX)).unwrap_or(0)
        );
        assert_eq!(partition_for("AAPL", 1), 0);
    }
}
