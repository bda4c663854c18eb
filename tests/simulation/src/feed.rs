//! The records of a seed: few symbols, late and early trades, repeats, gaps, garbage and forgeries,
//! in a topic that may gain partitions.

use rand::{Rng, rngs::StdRng};
use tapeflow_schemas::{
    Conditions, EventTime, Partition, Price, SessionId, Size, Trade,
    codec::{BatchHeader, encode_batch},
    partition_for,
};

use crate::partition_log::Appended;

/// Where the feed's time begins, in milliseconds since 1970 UTC; a minute before a day of UTC
/// begins, so that days change.
pub(crate) const BEGIN_MS: i64 = 1_699_999_200_000 - 1_000;

/// A record on its way to the log.
pub(crate) struct Fed {
    pub(crate) partition: Partition,
    pub(crate) record: Appended,
}

/// Makes one record after the other.
pub(crate) struct Feed {
    symbols: Vec<&'static str>,
    partitions: u32,
    session: u8,
    sequences: Vec<u64>,
    now_ms: i64,
    /// Whether another program appends to its session.
    is_forged: bool,
}

const SYMBOLS: [&str; 14] = [
    "AAPL",
    "MSFT",
    "BINANCE:BTCUSDT",
    "NVDA",
    "BRK.B",
    "OANDA:EUR_USD",
    "AMD",
    "AMZN",
    "BINANCE:ETHUSDT",
    "F",
    "GOOG",
    "T",
    "TSLA",
    "X",
];
/// A time in the year 2199, in milliseconds since 1970 UTC.
const IN_2199_MS: i64 = 7_226_582_400_000;
/// Condition codes, of which some keep a trade out of a policy.
const CODES: [u8; 8] = [1, 35, 12, 24, 15, 18, 9, 41];

impl Feed {
    pub(crate) fn new(random: &mut StdRng, partitions: u32, is_forged: bool) -> Self {
        // Sometimes more symbols than a view has ranks.
        let symbols = if random.random_bool(0.2) {
            SYMBOLS.len()
        } else {
            random.random_range(1..6)
        };
        Self {
            symbols: SYMBOLS[..symbols].to_vec(),
            partitions,
            session: 0,
            sequences: vec![0; partitions as usize],
            now_ms: BEGIN_MS,
            is_forged,
        }
    }

    /// The topic has more partitions from now on; the feed begins a new session.
    pub(crate) fn grow(&mut self, partitions: u32) {
        self.partitions = partitions;
        self.session += 1;
        self.sequences = vec![0; partitions as usize];
    }

    /// The next record, sometimes twice.
    pub(crate) fn next(&mut self, random: &mut StdRng) -> Vec<Fed> {
        self.now_ms += random.random_range(0..900);
        let symbol = if random.random_bool(0.4) {
            self.symbols[0]
        } else {
            self.symbols[random.random_range(0..self.symbols.len())]
        };
        let (partition, timestamp_ms) = (partition_for(symbol, self.partitions), self.now_ms);
        if random.random_bool(0.01) {
            return vec![Fed {
                partition,
                record: Appended {
                    timestamp_ms,
                    payload: vec![0xC3, 0x01, 9, 9],
                    emptied: None,
                    repeats: false,
                },
            }];
        }
        let mut trades: Vec<Trade> = (0..random.random_range(1..4))
            .filter_map(|_| self.trade(random))
            .collect();
        if random.random_bool(0.01) && self.is_forged {
            return vec![Fed {
                partition,
                record: Appended {
                    timestamp_ms,
                    payload: self.forged(random, symbol, &trades),
                    emptied: None,
                    repeats: false,
                },
            }];
        }
        // A broken feed: more invalid trades than a record lists.
        if random.random_bool(0.005)
            && let Some(wrong) = trades.first().copied().and_then(in_2199)
        {
            trades.extend([wrong; 15]);
        }
        let sequence = &mut self.sequences[partition as usize];
        *sequence += if random.random_bool(0.02) { 2 } else { 1 };
        let header = BatchHeader {
            symbol,
            source: "simulated",
            session: SessionId([self.session; 16]),
            sequence: *sequence,
            taken_ms: timestamp_ms,
        };
        let encoded = |trades: &[Trade]| {
            let mut payload = Vec::new();
            encode_batch(&mut payload, &header, trades);
            payload
        };
        let copies = if random.random_bool(0.05) { 2 } else { 1 };
        (0..copies)
            .map(|copy| Fed {
                partition,
                record: Appended {
                    timestamp_ms,
                    payload: encoded(&trades),
                    emptied: Some(encoded(&[])),
                    repeats: copy > 0,
                },
            })
            .collect()
    }

    /// A record of another program in the feed's session. Its sequence is far above those of the
    /// session, and it claims to be of the year 2199.
    fn forged(&self, random: &mut StdRng, symbol: &str, trades: &[Trade]) -> Vec<u8> {
        let partition = partition_for(symbol, self.partitions) as usize;
        let header = BatchHeader {
            symbol,
            source: "forged",
            session: SessionId([self.session; 16]),
            sequence: self.sequences[partition] + random.random_range(1 << 21..1 << 62),
            taken_ms: IN_2199_MS,
        };
        let mut payload = Vec::new();
        let trades: Vec<Trade> = trades.iter().copied().filter_map(in_2199).collect();
        encode_batch(&mut payload, &header, &trades);
        payload
    }

    fn trade(&self, random: &mut StdRng) -> Option<Trade> {
        let late_ms = match random.random_range(0..100) {
            // Late enough to touch a window that the views have dropped, or the day before.
            0..2 => random.random_range(0..100_000_000),
            2..10 => random.random_range(0..200_000),
            10..25 => random.random_range(0..10_000),
            _ => random.random_range(0..50),
        };
        // A wrong clock: far in the future, refused by the job.
        let ahead_ms = match random.random_range(0..1_000) {
            0..5 => 200_000_000,
            // Just refused, and just accepted.
            5 => 300_001,
            6 => 299_000,
            _ => 0,
        };
        let conditions = (0..random.random_range(0..3)).fold(Conditions::NONE, |set, _| {
            set.with(CODES[random.random_range(0..CODES.len())])
        });
        let price = Price::from_e8(random.random_range(1..1_000_000_000)).ok()?;
        let size = Size::from_e8(random.random_range(1..1_000_000_000_000i128)).ok()?;
        Trade::new(
            EventTime::from_ms(self.now_ms - late_ms + ahead_ms)?,
            price,
            size,
            conditions,
        )
        .ok()
    }
}

fn in_2199(trade: Trade) -> Option<Trade> {
    Some(Trade {
        event_time: EventTime::from_ms(IN_2199_MS)?,
        ..trade
    })
}
