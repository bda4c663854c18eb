//! The symbols of the simulated market, and the process of each one's price, size and conditions.

use rand::{Rng, rngs::SmallRng};
use tapeflow_schemas::AssetClass;

/// Real tickers with their price in cents on one day, the most traded first.
const STOCKS: [(&str, u64); 40] = [
    ("AAPL", 22_689),
    ("MSFT", 42_650),
    ("NVDA", 14_627),
    ("TSLA", 32_818),
    ("AMZN", 20_710),
    ("GOOG", 17_589),
    ("META", 57_716),
    ("AMD", 13_980),
    ("AVGO", 17_030),
    ("INTC", 2_414),
    ("PLTR", 6_577),
    ("BAC", 4_584),
    ("F", 1_121),
    ("T", 2_232),
    ("PFE", 2_585),
    ("NFLX", 83_740),
    ("JPM", 24_075),
    ("XOM", 12_055),
    ("KO", 6_256),
    ("DIS", 10_912),
    ("WMT", 8_448),
    ("CSCO", 5_750),
    ("ORCL", 18_350),
    ("CRM", 33_135),
    ("ADBE", 52_630),
    ("QCOM", 16_010),
    ("MU", 9_870),
    ("UBER", 7_051),
    ("SHOP", 10_680),
    ("COIN", 27_730),
    ("SPY", 59_390),
    ("QQQ", 50_870),
    ("IWM", 23_380),
    ("GLD", 23_680),
    ("TLT", 8_990),
    ("BRK.B", 46_500),
    ("V", 30_920),
    ("MA", 52_200),
    ("UNH", 59_040),
    ("HD", 40_650),
];
/// Crypto pairs: price in units of 10^-places of the quote currency.
const CRYPTO: [(&str, u64, u32); 8] = [
    ("BINANCE:BTCUSDT", 6_697_277, 2),
    ("BINANCE:ETHUSDT", 311_842, 2),
    ("BINANCE:SOLUSDT", 21_530, 2),
    ("BINANCE:XRPUSDT", 11_234, 4),
    ("BINANCE:DOGEUSDT", 38_112, 5),
    ("BINANCE:SHIBUSDT", 2_415, 8),
    ("BINANCE:PEPEUSDT", 2_077, 8),
    ("COINBASE:BTC-USD", 6_697_901, 2),
];
/// Currency pairs, with five places; yen pairs have three.
const FOREX: [(&str, u64, u32); 6] = [
    ("OANDA:EUR_USD", 105_432, 5),
    ("OANDA:USD_JPY", 156_123, 3),
    ("OANDA:GBP_USD", 126_771, 5),
    ("OANDA:AUD_USD", 64_533, 5),
    ("OANDA:USD_CHF", 88_912, 5),
    ("IC MARKETS:1", 105_440, 5),
];
/// One symbol in this many is crypto or forex, as long as the lists last.
const CRYPTO_EVERY: usize = 6;
const FOREX_EVERY: usize = 9;

/// The first `count` symbols of the simulated market, the most traded first: real tickers, then
/// invented ones.
#[must_use]
pub fn symbols(count: usize) -> Vec<String> {
    let (mut stocks, mut crypto, mut forex) = (STOCKS.iter(), CRYPTO.iter(), FOREX.iter());
    let mut invented = 0;
    let mut next_stock = || {
        stocks.next().map_or_else(
            || {
                invented += 1;
                invented_ticker(invented)
            },
            |stock| stock.0.to_owned(),
        )
    };
    let pick = |at: usize| match at % 18 {
        at if at % CRYPTO_EVERY == 3 => crypto.next().map(|pair| pair.0.to_owned()),
        at if at % FOREX_EVERY == 7 => forex.next().map(|pair| pair.0.to_owned()),
        _ => None,
    };
    let others: Vec<Option<String>> = (0..count).map(pick).collect();
    others
        .into_iter()
        .map(|other| other.unwrap_or_else(&mut next_stock))
        .collect()
}

/// `QAAA`, `QAAB` and so on. None of the real tickers above has this form.
fn invented_ticker(number: usize) -> String {
    let mut letters = [b'A'; 4];
    let mut rest = number;
    for letter in letters.iter_mut().rev() {
        *letter += u8::try_from(rest % 26).unwrap_or(0);
        rest /= 26;
    }
    // Four letters give 456,976 tickers; further ones get a number at the end.
    let more = if rest > 0 {
        rest.to_string()
    } else {
        String::new()
    };
    format!(
        "Q{}{more}",
        letters.map(char::from).iter().collect::<String>()
    )
}

/// The market of one symbol. Its price is a random walk between a third and three times its start.
#[derive(Clone, Debug)]
pub(super) struct Instrument {
    pub(super) symbol: String,
    class: AssetClass,
    /// The price in units of 10^-`places`.
    price: u64,
    start: u64,
    places: u32,
}

/// A decimal number: `units` of 10^-`places`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    pub(super) units: u64,
    pub(super) places: u32,
}

impl Instrument {
    pub(super) fn new(symbol: &str, random: &mut SmallRng) -> Self {
        let class = AssetClass::of(symbol);
        let stock = STOCKS
            .iter()
            .find(|stock| stock.0 == symbol)
            .map(|stock| (stock.1, 2));
        let known = stock.or_else(|| {
            CRYPTO
                .iter()
                .chain(&FOREX)
                .find(|pair| pair.0 == symbol)
                .map(|pair| (pair.1, pair.2))
        });
        let (price, places) = known.unwrap_or_else(|| (random.random_range(150..60_000), 2));
        Self {
            symbol: symbol.to_owned(),
            class,
            price,
            start: price,
            places,
        }
    }

    /// The next trade's price: one step of a random walk, of up to `stride` times 0.025 % of the
    /// price. A stride of the square root of n moves as far as n steps do. Every fourth stock
    /// print lies between two cents, as midpoint and retail prints do.
    pub(super) fn walk(&mut self, stride: u64, random: &mut SmallRng) -> Decimal {
        let step = (self.price / 4_000).max(1) * stride;
        let moved = (self.price + random.random_range(0..=2 * step)).saturating_sub(step);
        self.price = moved.clamp((self.start / 3).max(1), self.start * 3);
        match self.class {
            AssetClass::Stock if random.random_bool(0.25) => Decimal {
                units: self.price * 100 + random.random_range(1..100),
                places: 4,
            },
            AssetClass::Stock | AssetClass::Crypto | AssetClass::Forex => Decimal {
                units: self.price,
                places: self.places,
            },
        }
    }

    /// The size of the next trade.
    pub(super) fn size(&self, random: &mut SmallRng) -> Decimal {
        match self.class {
            AssetClass::Stock if random.random_bool(0.7) => Decimal {
                units: random.random_range(1..100),
                places: 0,
            },
            AssetClass::Stock => Decimal {
                units: 100 * random.random_range(1..=10),
                places: 0,
            },
            // A pair with eight places has a tiny price and trades by the million.
            AssetClass::Crypto if self.places >= 8 => Decimal {
                units: random.random_range(10_000..100_000_000),
                places: 0,
            },
            AssetClass::Crypto => {
                let magnitude = random.random_range(1..=7);
                Decimal {
                    units: random.random_range(1..=10u64.pow(magnitude)),
                    places: 6,
                }
            }
            // A currency quote without a size is a price update.
            AssetClass::Forex => Decimal {
                units: if random.random_bool(0.2) {
                    0
                } else {
                    random.random_range(1..5_000)
                },
                places: 0,
            },
        }
    }

    /// The next trade's conditions as JSON. A print below a round lot has 12 (Odd Lot).
    pub(super) fn conditions(&self, size: Decimal, random: &mut SmallRng) -> &'static str {
        if self.class != AssetClass::Stock {
            return "null";
        }
        let odd_lot = size.units < 100;
        match (random.random_range(0..1000), odd_lot) {
            (0..550, true) => r#"["1","12"]"#,
            (550..950, true) => r#"["1","8","12"]"#,
            (950..985, true) => r#"["1","24","12"]"#,
            (0..550, false) => r#"["1"]"#,
            (550..940, false) => r#"["1","8"]"#,
            (940..970, false) => r#"["1","24"]"#,
            (970..975, false) => r#"["1","15"]"#,
            (975..980, false) => r#"["1","9"]"#,
            (980..985, false) => r#"["1","41"]"#,
            (985..990, _) => r#"["1","10"]"#,
            (990..993, _) => r#"["14"]"#,
            (993..996, _) => r#"["37"]"#,
            (996..999, _) => "[]",
            _ => "null",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn symbols_are_distinct_admissible_and_of_every_class() {
        let symbols = symbols(30_000);
        assert_eq!(symbols.iter().collect::<HashSet<_>>().len(), 30_000);
        assert!(
            symbols
                .iter()
                .all(|symbol| tapeflow_schemas::Symbol::new(symbol).is_ok())
        );
        assert_eq!(
            symbols[..5],
            ["AAPL", "MSFT", "NVDA", "BINANCE:BTCUSDT", "TSLA"]
        );
        let classes: HashSet<AssetClass> = symbols[..20]
            .iter()
            .map(|symbol| AssetClass::of(symbol))
            .collect();
        assert_eq!(classes.len(), 3);
    }

    #[test]
    fn fewer_symbols_are_the_beginning_of_more() {
        assert_eq!(symbols(100)[..50], symbols(50));
    }
}
