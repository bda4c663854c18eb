//! The quote currency of a symbol: what its prices are stated in. Notional is price times size, so
//! notionals compare and add up only within one quote currency.
//!
//! The feed does not name the currency, so it follows from the symbol:
//!
//! * A stock without an exchange suffix is a US stock, quoted in USD. `.A`, `.B` and `.C` name a
//!   share class (`BRK.B`). Any other suffix names an exchange (`.TO`, `.L`), whose currency is
//!   unknown here: London, for one, quotes in pence.
//! * `VENUE:BASE_QUOTE`, with `_`, `-` or `/` between the two: the table of currencies must
//!   have the quote.
//! * `VENUE:BASEQUOTE`: at a venue of [`QUOTES_AT`], its longest quote that ends the name; at a
//!   forex venue, six letters are two codes of three.
//! * Everything else is unknown.
//!
//! Sources: Finnhub's lists of symbols (`/stock/symbol`, `/forex/symbol`, `/crypto/symbol`), ISO
//! 4217, and the quote assets of Binance's `exchangeInfo`.
//!
//! The tables decide views. A change of them is a change of the rules in the job's fingerprint.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::symbol::AssetClass;

/// The currencies that are known, ascending: money and metals by their ISO 4217 code, and the coins
/// that others are quoted in. It bounds the number of rankings and sums of a window.
const CURRENCIES: [&str; 59] = [
    "AED", "ARS", "AUD", "BNB", "BRL", "BTC", "BUSD", "CAD", "CHF", "CLP", "CNH", "CNY", "COP",
    "CZK", "DAI", "DKK", "DOGE", "DOT", "ETH", "EUR", "EURC", "FDUSD", "GBP", "GUSD", "HKD", "HUF",
    "IDR", "ILS", "INR", "ISK", "JPY", "KRW", "MXN", "MYR", "NGN", "NOK", "NZD", "PHP", "PLN",
    "RON", "RUB", "SAR", "SEK", "SGD", "SOL", "THB", "TRX", "TRY", "TUSD", "TWD", "UAH", "USD",
    "USDC", "USDT", "VND", "XAG", "XAU", "XRP", "ZAR",
];

/// The quotes of venues that put nothing between base and quote. No quote of a venue may end like a
/// longer one that is missing here: with USD beside TUSD, `BATUSD` could be read in two ways.
pub const QUOTES_AT: [(&str, &[&str]); 1] = [(
    "BINANCE",
    &[
        "ARS", "AUD", "BNB", "BRL", "BTC", "BUSD", "COP", "CZK", "DAI", "DOGE", "DOT", "ETH",
        "EUR", "FDUSD", "GBP", "JPY", "MXN", "NGN", "PLN", "RON", "RUB", "SOL", "TRX", "TRY",
        "TUSD", "UAH", "USDC", "USDT", "XRP", "ZAR",
    ],
)];

/// Venues that have spelled both `BASE_QUOTE` and `QUOTE_BASE`.
const EITHER_ORDER: [&str; 2] = ["BITTREX", "POLONIEX"];

/// What separates base and quote.
const SEPARATORS: [char; 3] = ['_', '-', '/'];

/// The suffixes of share classes of US stocks.
const SHARE_CLASSES: [&str; 3] = ["A", "B", "C"];

/// The currency in which a symbol is quoted, or [`QuoteCurrency::UNKNOWN`]. Ordered by name; the
/// unknown one is last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuoteCurrency(&'static str);

impl QuoteCurrency {
    /// The currency of US stocks.
    pub const USD: Self = Self("USD");
    /// Not one currency: two symbols of it may be quoted in different ones. What is quoted in it is
    /// never ranked by notional, nor summed.
    pub const UNKNOWN: Self = Self("unknown");

    /// The quote currency of a symbol.
    #[must_use]
    pub fn of(symbol: &str) -> Self {
        let quote = match symbol.split_once(':') {
            None => Self::of_stock(symbol),
            Some((venue, name)) => Self::at_venue(venue, name, AssetClass::of(symbol)),
        };
        quote.unwrap_or(Self::UNKNOWN)
    }

    fn of_stock(symbol: &str) -> Option<Self> {
        let is_us = match symbol.rsplit_once('.') {
            None => true,
            Some((_, suffix)) => SHARE_CLASSES.contains(&suffix),
        };
        is_us.then_some(Self::USD)
    }

    fn at_venue(venue: &str, name: &str, class: AssetClass) -> Option<Self> {
        if EITHER_ORDER.contains(&venue) {
            return None;
        }
        if let Some((_, quote)) = name.rsplit_once(SEPARATORS) {
            return Self::known(quote);
        }
        if let Some((_, quotes)) = QUOTES_AT.iter().find(|(at, _)| *at == venue) {
            return quotes
                .iter()
                .filter(|quote| name.len() > quote.len() && name.ends_with(*quote))
                .max_by_key(|quote| quote.len())
                .and_then(|quote| Self::known(quote));
        }
        let (base, quote) = name.split_at_checked(3).filter(|_| name.len() == 6)?;
        Self::known(base)
            .and(Self::known(quote))
            .filter(|_| class == AssetClass::Forex)
    }

    fn known(code: &str) -> Option<Self> {
        let at = CURRENCIES.binary_search(&code).ok()?;
        Some(Self(CURRENCIES[at]))
    }

    /// The currency of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        if name == Self::UNKNOWN.0 {
            return Some(Self::UNKNOWN);
        }
        Self::known(name)
    }

    /// All of them, ascending, and the unknown one.
    pub fn every() -> impl Iterator<Item = Self> {
        CURRENCIES.into_iter().map(Self).chain([Self::UNKNOWN])
    }

    /// Its code, or `unknown`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0
    }

    /// Whether it is one currency, so that notionals in it compare and add up.
    #[must_use]
    pub fn is_known(self) -> bool {
        self != Self::UNKNOWN
    }
}

impl fmt::Display for QuoteCurrency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Serialize for QuoteCurrency {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for QuoteCurrency {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        Self::from_name(&name)
            .ok_or_else(|| serde::de::Error::custom(format!("no quote currency {name:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(symbols: &[&str], want: &str) {
        for symbol in symbols {
            assert_eq!(QuoteCurrency::of(symbol).name(), want, "{symbol}");
        }
    }

    #[test]
    fn us_stocks_are_quoted_in_dollars_and_those_of_other_exchanges_in_an_unknown_currency() {
        check(&["AAPL", "F", "BRK.B", "BF.A", "S0001", "ÄÖ"], "USD");
        check(
            &["SHOP.TO", "VOD.L", "7203.T", "BMW.DE", "ABC.V", "ABC."],
            "unknown",
        );
    }

    #[test]
    fn the_text_behind_the_separator_is_the_quote() {
        check(
            &["OANDA:EUR_USD", "FXCM:EUR/USD", "COINBASE:BTC-USD"],
            "USD",
        );
        check(&["OANDA:USD_JPY"], "JPY");
        check(&["OANDA:XAU_XAG"], "XAG");
        check(&["KUCOIN:ETH-BTC"], "BTC");
        check(&["OKEX:BTC-USDT"], "USDT");
        check(
            &[
                "OANDA:EUR_XYZ",
                "OANDA:EUR_",
                "OKEX:BTC-USD-SWAP",
                "OANDA:EUR_usd",
                "POLONIEX:USDT_BTC",
                "BITTREX:BTC-USD",
            ],
            "unknown",
        );
    }

    #[test]
    fn without_a_separator_the_longest_quote_of_the_venue_counts() {
        check(&["BINANCE:BTCUSDT", "BINANCE:BETHUSDT"], "USDT");
        check(&["BINANCE:BTCTUSD"], "TUSD");
        check(&["BINANCE:BTCFDUSD"], "FDUSD");
        check(&["BINANCE:ETHBTC"], "BTC");
        check(&["BINANCE:ADAEUR"], "EUR");
        check(&["FOREX:EURUSD"], "USD");
        check(
            &[
                "BINANCE:USDT",
                "BINANCE:X",
                "BINANCE:",
                "KRAKEN:XXBTZUSD",
                "KRAKEN:EURUSD",
                "FOREX:EURXYZ",
                "FOREX:XYZUSD",
                "IC MARKETS:1",
                "IC MARKETS:ÄÖÜ",
                "BENCH:S0001",
                ":",
            ],
            "unknown",
        );
    }

    #[test]
    fn the_tables_are_in_order_and_agree() {
        assert!(CURRENCIES.is_sorted());
        assert!(QuoteCurrency::every().is_sorted());
        assert_eq!(QuoteCurrency::known("USD"), Some(QuoteCurrency::USD));
        for (venue, quotes) in QUOTES_AT {
            for quote in quotes {
                assert!(QuoteCurrency::known(quote).is_some(), "{venue}: {quote}");
            }
        }
    }

    #[test]
    fn every_currency_comes_back_from_its_name() {
        for quote in QuoteCurrency::every() {
            assert_eq!(QuoteCurrency::from_name(quote.name()), Some(quote));
        }
        assert_eq!(QuoteCurrency::from_name("XYZ"), None);
        assert_eq!(QuoteCurrency::from_name(""), None);
    }
}
