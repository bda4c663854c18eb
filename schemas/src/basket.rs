//! Baskets: a user's named groups of symbols with weights, read from a file.
//!
//! ```text
//! # basket,symbol,weight
//! tech,AAPL,0.5
//! tech,MSFT,0.25
//! coins,BINANCE:BTCUSDT,1
//! ```
//!
//! A weight scales each trade of its symbol:
//!
//! - basket volume = Σ weight × volume
//! - basket notional = Σ weight × notional
//! - basket VWAP = basket notional / basket volume
//!
//! With equal weights, this is the VWAP of all trades of all members.
//!
//! All members of a basket have one quote currency ([`crate::quote_currency`]): a sum of dollars
//! and yen has no meaning. A symbol whose quote currency is unknown is alone in its basket.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::{
    decimal::{Size, format_fixed},
    quote_currency::QuoteCurrency,
    symbol::Symbol,
};

/// Decimal places of a [`Weight`].
pub const WEIGHT_SCALE: u32 = 4;
/// The largest weight, in units of 1e-4: one hundred. A sum of 128 bits holds ten thousand of the
/// largest trades at this weight.
pub const MAX_WEIGHT_E4: i128 = 1_000_000;
/// The largest number of baskets in a file. All baskets of a window form one view, which is written
/// as a whole.
pub const MAX_BASKETS: usize = 64;
/// The largest number of members of all baskets together.
pub const MAX_MEMBERS: usize = 100_000;
/// The longest name of a basket, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// The largest number of errors that are listed one by one.
const ERRORS_SHOWN: usize = 20;
/// The heading that a file of baskets may begin with.
const HEADING: [&str; 3] = ["basket", "symbol", "weight"];

/// The longest text of members that a fingerprint keeps, in bytes. Every commit writes it again.
const MAX_KEPT_BYTES: usize = 4_096;
/// What precedes the members in a fingerprint. They are its last part.
const MEMBERS: &str = "; members ";
/// What separates members in a fingerprint, which is one line.
const SEPARATOR: &str = " | ";

/// The weight of a member's trades, in units of 1e-4: above zero, at most [`MAX_WEIGHT_E4`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(i128);

impl Weight {
    /// Units of 1e-4.
    #[must_use]
    pub fn e4(self) -> i128 {
        self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let parsed = Size::parse(text).ok().filter(|parsed| !parsed.rounded)?;
        let (e4, rest) = (parsed.value.e8() / 10_000, parsed.value.e8() % 10_000);
        (rest == 0 && (1..=MAX_WEIGHT_E4).contains(&e4)).then_some(Self(e4))
    }
}

/// All baskets of a job, by name, each with its members by symbol.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Baskets {
    by_name: BTreeMap<String, BTreeMap<Symbol, Weight>>,
}

/// All errors in a file of baskets, each with its line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct BasketErrors(pub Vec<String>);

impl Baskets {
    /// Parses lines of `basket,symbol,weight`. Empty lines, lines that start with `#` and a first
    /// line that is this very heading are skipped.
    ///
    /// # Errors
    /// [`BasketErrors`] with all errors at once, each with its line.
    pub fn parse(text: &str) -> Result<Self, BasketErrors> {
        let (mut baskets, mut errors) = (Self::default(), Vec::new());
        let mut is_first = true;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let is_heading = is_first && line.split(',').map(str::trim).eq(HEADING);
            is_first = false;
            if is_heading {
                continue;
            }
            if let Err(error) = baskets.take(line) {
                errors.push(format!("line {number}: {error}"));
            }
        }
        let members: usize = baskets.by_name.values().map(BTreeMap::len).sum();
        if baskets.by_name.len() > MAX_BASKETS {
            errors.push(format!(
                "{} baskets, at most {MAX_BASKETS} are allowed",
                baskets.by_name.len()
            ));
        }
        if members > MAX_MEMBERS {
            errors.push(format!(
                "{members} members, at most {MAX_MEMBERS} are allowed"
            ));
        }
        if errors.len() > ERRORS_SHOWN {
            let rest = errors.len() - ERRORS_SHOWN;
            errors.truncate(ERRORS_SHOWN);
            errors.push(format!("and {rest} more"));
        }
        if errors.is_empty() {
            Ok(baskets)
        } else {
            Err(BasketErrors(errors))
        }
    }

    fn take(&mut self, line: &str) -> Result<(), String> {
        let [name, symbol, weight] = line.split(',').map(str::trim).collect::<Vec<_>>()[..] else {
            return Err("expected basket,symbol,weight".into());
        };
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
            return Err(format!(
                "a basket name has 1 to {MAX_NAME_BYTES} bytes and no control characters"
            ));
        }
        let symbol = Symbol::new(symbol).map_err(|error| error.to_string())?;
        let weight = Weight::parse(weight)
            .ok_or("a weight is a decimal from 0.0001 to 100 with at most four places")?;
        let members = self.by_name.entry(name.to_owned()).or_default();
        if members.contains_key(&symbol) {
            return Err(format!("{symbol} appears twice in {name}"));
        }
        if let Some(other) = members.keys().next() {
            check_quotes(name, other, &symbol)?;
        }
        members.insert(symbol, weight);
        Ok(())
    }

    /// The quote currency of a basket's members.
    #[must_use]
    pub fn quote_of(members: &BTreeMap<Symbol, Weight>) -> QuoteCurrency {
        let first = members.keys().next();
        first.map_or(QuoteCurrency::UNKNOWN, Symbol::quote)
    }

    /// Iterates over the baskets by name, each with its members by symbol, both ascending.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &BTreeMap<Symbol, Weight>)> {
        self.by_name
            .iter()
            .map(|(name, members)| (name.as_str(), members))
    }

    /// Whether there are no baskets.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The baskets as a part of the job's fingerprint: the digest, and the members themselves if
    /// they are short. So the store keeps them, and a reader needs no file.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let lines: Vec<String> = self
            .iter()
            .flat_map(|(name, members)| {
                members.iter().map(move |(symbol, weight)| {
                    format!("{name},{symbol},{}", format_fixed(weight.e4(), 4))
                })
            })
            .collect();
        let kept = format!("{}{MEMBERS}{}", self.digest(), lines.join(SEPARATOR));
        // A name may contain the separator; then the text would not be read back as it was.
        if lines.is_empty()
            || kept.len() > MAX_KEPT_BYTES
            || Self::of_fingerprint(&kept).as_ref() != Some(self)
        {
            return self.digest();
        }
        kept
    }

    /// The baskets that a fingerprint keeps; `None` if it keeps a digest alone.
    #[must_use]
    pub fn of_fingerprint(fingerprint: &str) -> Option<Self> {
        let (_, members) = fingerprint.split_once(MEMBERS)?;
        Self::parse(&members.replace(SEPARATOR, "\n")).ok()
    }

    /// A digest of the baskets: `none`, or the first 16 hexadecimal digits of a SHA-256 over names,
    /// symbols and weights. Equal baskets have equal digests, regardless of the order of lines and
    /// the spelling of numbers in the file. Baskets determine views, so the digest is part of the
    /// job's fingerprint.
    #[must_use]
    pub fn digest(&self) -> String {
        if self.is_empty() {
            return "none".into();
        }
        let mut hash = Sha256::new();
        for (name, members) in self.iter() {
            for (symbol, weight) in members {
                // Line feeds separate the three, because none of them can contain one.
                hash.update(format!("{name}\n{symbol}\n{}\n", weight.e4()));
            }
        }
        hash.finalize()
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// Whether two symbols can be members of one basket.
fn check_quotes(basket: &str, one: &Symbol, other: &Symbol) -> Result<(), String> {
    let (of_one, of_other) = (one.quote(), other.quote());
    if of_one == of_other && of_one.is_known() {
        return Ok(());
    }
    let quoted = |symbol: &Symbol, quote: QuoteCurrency| {
        if quote.is_known() {
            format!("{symbol} is quoted in {quote}")
        } else {
            format!("the quote currency of {symbol} is unknown")
        }
    };
    Err(format!(
        "{} and {}: the members of {basket} must have one known quote currency",
        quoted(one, of_one),
        quoted(other, of_other)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_keeps_baskets_that_are_short_and_can_be_read_back() {
        let baskets = |text: &str| Baskets::parse(text).expect("baskets");
        let kept = |baskets: &Baskets| {
            Baskets::of_fingerprint(&format!("rules 1; baskets {}", baskets.fingerprint()))
        };
        for text in [
            "tech,AAPL,0.5\ntech,MSFT,100\ncoins,BINANCE:BTCUSDT,0.0001\n",
            "a; b,A,1\n",
        ] {
            let baskets = baskets(text);
            assert_eq!(kept(&baskets), Some(baskets));
        }
        let long: String = (0..1_000).map(|n| format!("all,S{n},1\n")).collect();
        for text in ["", "# none\n", "a | b,AAPL,1\n", &long] {
            let baskets = baskets(text);
            assert_eq!(
                (kept(&baskets), baskets.fingerprint()),
                (None, baskets.digest())
            );
        }
    }

    #[test]
    fn a_file_may_begin_with_a_heading() {
        let with = Baskets::parse("# mine\nbasket, symbol, weight\ntech,AAPL,0.5\n");
        assert_eq!(with, Baskets::parse("tech,AAPL,0.5\n"));
        let later = Baskets::parse("tech,AAPL,0.5\nbasket,symbol,weight\n");
        assert!(later.is_err(), "only as the first line");
    }

    #[test]
    fn a_file_is_read_whatever_its_order_and_spelling() {
        let one = Baskets::parse(
            "# mine\ntech,AAPL,0.5\n tech , MSFT , 0.2500\n\ncoins,BINANCE:BTCUSDT,1\n",
        )
        .expect("read");
        let other =
            Baskets::parse("coins,BINANCE:BTCUSDT,1.0\r\ntech,MSFT,2.5e-1\r\ntech,AAPL,5e-1")
                .expect("read");
        let names: Vec<_> = one
            .iter()
            .map(|(name, members)| {
                (
                    name,
                    members
                        .values()
                        .map(|weight| weight.e4())
                        .collect::<Vec<_>>(),
                )
            })
            .collect();
        assert_eq!(
            names,
            [("coins", vec![10_000]), ("tech", vec![5_000, 2_500])]
        );
        assert_eq!((&other, other.digest()), (&one, one.digest()));
        assert_eq!(one.digest().len(), 16);
        assert_ne!(
            one.digest(),
            Baskets::parse("tech,AAPL,0.5").expect("read").digest()
        );
        assert_eq!(
            Baskets::parse("# nothing\n").expect("read").digest(),
            "none"
        );
    }

    #[test]
    fn members_of_two_quote_currencies_are_refused_and_named() {
        let quote = |text: &str| {
            let baskets = Baskets::parse(text).expect("baskets");
            baskets
                .iter()
                .map(|(_, members)| Baskets::quote_of(members).name())
                .collect::<Vec<_>>()
        };
        // A dollar is a dollar, whatever the class of the symbol.
        let dollars = "a,AAPL,1\na,OANDA:EUR_USD,2\na,COINBASE:BTC-USD,1\n";
        assert_eq!(quote(dollars), ["USD"]);
        assert_eq!(
            quote("yen,OANDA:USD_JPY,1\nid,IC MARKETS:1,1\n"),
            ["unknown", "JPY"]
        );
        let refused = |text: &str, want: &str| {
            let error = Baskets::parse(text).expect_err("refused").to_string();
            assert!(error.starts_with(want), "{error}");
        };
        refused(
            "a,AAPL,1\nb,BINANCE:BTCUSDT,1\na,BINANCE:BTCUSDT,1\na,MSFT,1\n",
            "line 3: AAPL is quoted in USD and BINANCE:BTCUSDT is quoted in USDT: the members of a",
        );
        refused(
            "a,IC MARKETS:1,1\na,IC MARKETS:2,1\n",
            "line 2: the quote currency of IC MARKETS:1 is unknown and ",
        );
    }

    #[test]
    fn every_error_names_its_line() {
        let text = "a,AAPL\na,AAPL,1\na,AAPL,2\n,X,1\nb,,1\nb,Y,0\nb,Y,-1\nb,Y,0.00001\n\
            b,Y,100.0001\nb,Y,NaN\n";
        let Err(BasketErrors(errors)) = Baskets::parse(text) else {
            panic!("refused")
        };
        let lines: Vec<_> = errors
            .iter()
            .map(|error| error.split(':').next().unwrap_or_default())
            .collect();
        assert_eq!(
            lines,
            [
                "line 1", "line 3", "line 4", "line 5", "line 6", "line 7", "line 8", "line 9",
                "line 10"
            ],
            "{errors:#?}"
        );
        let many: String = (0..=MAX_BASKETS).map(|n| format!("b{n},X,1\n")).collect();
        assert!(
            Baskets::parse(&many)
                .expect_err("too many")
                .to_string()
                .contains("65 baskets")
        );
    }
}
