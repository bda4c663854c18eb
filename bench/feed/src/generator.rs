//! The feed: generated trades in the proportions of a market. The same shape gives the same bytes, on
//! any machine of 64 bits.

use std::fmt;

use rand::{Rng, SeedableRng, rngs::SmallRng};
use sha2::{Digest, Sha256};
use tapeflow_schemas::{EventTime, Price, SessionId, Size, Symbol, Trade, conditions::Conditions};

use crate::{FeedError, Record, RecordGenerator, Written};

/// When the tape begins: the first millisecond of a minute, in no hour's last ten minutes.
pub const BEGIN_MS: i64 = 1_700_000_040_000;
/// How long it lasts by its own clock.
pub const SPAN_MS: i64 = 600_000;
/// One trade of so many is out of order...
const LATE_ONE_OF: u32 = 100;
/// ...by up to so much.
const LATEST_MS: i64 = 5_000;
/// One symbol of so many is crypto, the others are stocks.
const CRYPTO_EVERY: usize = 5;
/// What a change of this file's rules must change as well: a log filled by other rules is another
/// feed.
const RULES: u32 = 2;

/// What is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The same seed gives the same trades.
    pub seed: u64,
    /// How many in all.
    pub trades: u64,
    /// How many a message; the last one may hold fewer.
    pub per_message: u64,
    /// How many symbols; the n-th trades in proportion to 1/n.
    pub symbols: usize,
    /// Trades that come far too late, beside the one in a hundred that is out of order by seconds.
    pub late: Option<Late>,
}

/// Trades that are reported long after they happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    /// How many of a million trades.
    pub of_million: u32,
    /// By how much, in milliseconds.
    pub by_ms: i64,
}

/// When its trades happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Evenly over ten minutes of a day long past.
    Tape,
    /// As they are sent.
    Wall,
}

/// A feed under way.
#[derive(Debug)]
pub struct Feed {
    shape: Shape,
    clock: Clock,
    random: SmallRng,
    /// The sum of the shares up to and including each symbol's.
    shares: Vec<f64>,
    /// Each symbol's price in cents.
    cents: Vec<i64>,
    sent: u64,
    trades: Vec<Trade>,
    records: RecordGenerator,
}

/// A message, and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The record.
    pub record: Record<'a>,
    /// The symbol's rank, from 0.
    pub rank: usize,
    /// Its trades.
    pub trades: &'a [Trade],
}

impl Shape {
    /// How many messages there are.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.trades.div_ceil(self.per_message.max(1))
    }

    /// The session of this feed in a log of so many partitions: it tells by whom, and with which
    /// settings, a log was filled.
    #[must_use]
    pub fn session(&self, partitions: u32) -> SessionId {
        let mut session = [0; 16];
        for (to, from) in session.iter_mut().zip(Sha256::digest(format!(
            "tapeflow bench, rules {RULES}, {self}, {partitions} partitions"
        ))) {
            *to = from;
        }
        SessionId(session)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} trades, {} a message, {} symbols, seed {}",
            self.trades, self.per_message, self.symbols, self.seed
        )?;
        match self.late {
            Some(Late { of_million, by_ms }) => {
                write!(f, ", {of_million} of a million late by {} s", by_ms / 1_000)
            }
            None => Ok(()),
        }
    }
}

impl Feed {
    /// A feed at its beginning.
    ///
    /// # Errors
    /// There are no symbols, or no partitions.
    pub fn new(shape: Shape, clock: Clock, partitions: u32) -> Result<Self, FeedError> {
        if shape.symbols == 0 || shape.per_message == 0 || partitions == 0 {
            return Err(FeedError::Shape(
                "a feed has at least one symbol, one trade a message and one partition".into(),
            ));
        }
        let mut random = SmallRng::seed_from_u64(shape.seed);
        let mut sum = 0.0;
        #[expect(clippy::cast_precision_loss, reason = "a rank is small")]
        let shares = (0..shape.symbols).map(|rank| {
            sum += 1.0 / (rank + 1) as f64;
            sum
        });
        let session = match clock {
            Clock::Tape => shape.session(partitions),
            Clock::Wall => SessionId(rand::random()),
        };
        let records =
            RecordGenerator::new((0..shape.symbols).map(name), "bench", session, partitions)?;
        let shares = shares.collect();
        let cents = (0..shape.symbols)
            .map(|_| random.random_range(500..50_000))
            .collect();
        Ok(Self {
            shape,
            clock,
            random,
            shares,
            cents,
            sent: 0,
            trades: Vec::new(),
            records,
        })
    }

    /// What has been fed.
    #[must_use]
    pub fn written(&self) -> Written {
        self.records.written()
    }

    /// A symbol by its rank, from 0.
    #[must_use]
    pub fn symbol(&self, rank: usize) -> Option<&Symbol> {
        self.records.symbol(rank)
    }

    /// The next message; none once all trades are fed. `now_ms` is when it is appended.
    ///
    /// # Errors
    /// A trade is none.
    pub fn next(&mut self, now_ms: i64) -> Result<Option<Message<'_>>, FeedError> {
        let count = self
            .shape
            .per_message
            .min(self.shape.trades - self.sent.min(self.shape.trades));
        if count == 0 {
            return Ok(None);
        }
        let all = self.shares.last().copied().unwrap_or_default();
        let drawn = self.random.random_range(0.0..all);
        let rank = self
            .shares
            .partition_point(|share| *share <= drawn)
            .min(self.shares.len() - 1);
        let mut taken_ms = now_ms;
        self.trades.clear();
        for _ in 0..count {
            let happens_ms = match self.clock {
                Clock::Tape => BEGIN_MS + of_span(self.sent, self.shape.trades),
                Clock::Wall => now_ms,
            };
            self.sent += 1;
            taken_ms = happens_ms;
            let trade = self
                .random_trade(rank, happens_ms)
                .map_err(FeedError::Value)?;
            self.trades.push(trade);
        }
        let record = self.records.record(rank, &self.trades, taken_ms, now_ms)?;
        Ok(Some(Message {
            record,
            rank,
            trades: &self.trades,
        }))
    }

    fn random_trade(&mut self, rank: usize, happens_ms: i64) -> Result<Trade, String> {
        let random = &mut self.random;
        let is_late = |late: &Late| random.random_ratio(late.of_million, 1_000_000);
        let much_too_late_ms = self.shape.late.filter(is_late).map_or(0, |late| late.by_ms);
        let late_ms = if random.random_ratio(1, LATE_ONE_OF) {
            random.random_range(1..=LATEST_MS)
        } else {
            0
        };
        let event_ms = match self.clock {
            Clock::Tape => (happens_ms - late_ms).max(BEGIN_MS),
            Clock::Wall => happens_ms - late_ms,
        } - much_too_late_ms;
        let start = self.cents[rank];
        let cents = start + random.random_range(-(start / 100)..=start / 100);
        let (units_e8, conditions) = if is_crypto(rank) {
            (
                i128::from(random.random_range(1..=10_000_000)) * 100,
                Conditions::NONE,
            )
        } else {
            let shares = random.random_range(1..=1_000);
            (
                i128::from(shares) * 100_000_000,
                conditions(shares, random.random_range(0..1_000)),
            )
        };
        let time = EventTime::from_ms(event_ms)
            .ok_or_else(|| format!("{event_ms} ms is no time of a trade"))?;
        let price = Price::from_e8(cents * 1_000_000).map_err(|error| error.to_string())?;
        let size = Size::from_e8(units_e8).map_err(|error| error.to_string())?;
        Trade::new(time, price, size, conditions).map_err(|error| error.to_string())
    }
}

/// Where in the span a trade happens.
fn of_span(number: u64, of: u64) -> i64 {
    i64::try_from(i128::from(number) * i128::from(SPAN_MS) / i128::from(of.max(1)))
        .unwrap_or(SPAN_MS)
}

fn is_crypto(rank: usize) -> bool {
    rank % CRYPTO_EVERY == CRYPTO_EVERY - 1
}

fn name(rank: usize) -> String {
    if is_crypto(rank) {
        format!("BENCH:S{rank:04}-USDT")
    } else {
        format!("S{rank:04}")
    }
}

/// As prints of a US stock carry them: most are regular, below a round lot with 12; a few count for
/// volume alone, or not at all.
fn conditions(shares: u32, drawn: u32) -> Conditions {
    let base = match drawn {
        0..550 => Conditions::NONE.with(1),
        550..950 => Conditions::NONE.with(1).with(8),
        950..985 => Conditions::NONE.with(1).with(24),
        985..995 => Conditions::NONE.with(10),
        _ => Conditions::NONE.with(15),
    };
    if shares < 100 { base.with(12) } else { base }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tapeflow_schemas::codec::{self, Header};

    use super::*;

    const SHAPE: Shape = Shape {
        seed: 7,
        trades: 20_000,
        per_message: 1,
        symbols: 500,
        late: None,
    };

    /// All messages: rank, payload, event times.
    fn all(shape: Shape, clock: Clock) -> Vec<(usize, Vec<u8>, Vec<i64>)> {
        let mut feed = Feed::new(shape, clock, 4).expect("a feed");
        let mut found = Vec::new();
        while let Some(message) = feed.next(1_800_000_000_000).expect("a message") {
            let times = message
                .trades
                .iter()
                .map(|trade| trade.event_time.ms())
                .collect();
            found.push((message.rank, message.record.payload.to_vec(), times));
        }
        found
    }

    #[test]
    fn the_same_shape_is_the_same_bytes_and_another_seed_is_not() {
        assert_eq!(all(SHAPE, Clock::Tape), all(SHAPE, Clock::Tape));
        let other = Shape { seed: 8, ..SHAPE };
        assert_ne!(all(SHAPE, Clock::Tape)[0].1, all(other, Clock::Tape)[0].1);
        assert_ne!(SHAPE.session(4), other.session(4));
        assert_ne!(SHAPE.session(4), SHAPE.session(8));
    }

    #[test]
    fn so_many_of_a_million_are_late_by_so_much() {
        let late = Late {
            of_million: 50_000,
            by_ms: 3_600_000,
        };
        let times = |shape| {
            all(shape, Clock::Tape)
                .into_iter()
                .flat_map(|(.., times)| times)
        };
        let shape = Shape {
            late: Some(late),
            ..SHAPE
        };
        let hour_before = times(shape).filter(|ms| *ms < BEGIN_MS - late.by_ms + SPAN_MS);
        assert!((800..1_200).contains(&hour_before.count()), "of 20,000");
        assert!(times(SHAPE).all(|ms| ms >= BEGIN_MS));
        assert_ne!(shape.session(4), SHAPE.session(4));
    }

    #[test]
    fn messages_decode_to_what_was_added_up_and_sequences_have_no_gap() {
        let shape = Shape {
            trades: 4_005,
            per_message: 20,
            ..SHAPE
        };
        let mut feed = Feed::new(shape, Clock::Tape, 4).expect("a feed");
        let (mut entries, mut last, mut have) = (Vec::new(), [0; 4], Written::default());
        while let Some(Message { record, trades, .. }) = feed.next(0).expect("a message") {
            entries.clear();
            let Ok(Header::Batch {
                sequence, session, ..
            }) = codec::decode(record.payload, &mut entries)
            else {
                panic!("a batch")
            };
            assert_eq!(session, shape.session(4));
            let partition = usize::try_from(record.partition).expect("small");
            assert_eq!(
                (sequence, entries.len()),
                (last[partition] + 1, trades.len())
            );
            last[partition] = sequence;
            have.records += 1;
            for entry in &entries {
                let trade = entry.trade.expect("a trade");
                have.trades += 1;
                have.volume_e8 += trade.size.e8();
                have.notional_e16 += trade.notional().0;
            }
        }
        assert_eq!(have, feed.written());
        assert_eq!((have.trades, have.records), (4_005, shape.messages()));
        assert!(
            last.iter().all(|last| *last > 0),
            "symbols spread over all partitions: {last:?}"
        );
    }

    #[test]
    fn shares_fall_with_the_rank_and_one_trade_of_a_hundred_is_out_of_order() {
        let messages = all(SHAPE, Clock::Tape);
        let mut of: BTreeMap<usize, usize> = BTreeMap::new();
        messages
            .iter()
            .for_each(|(rank, ..)| *of.entry(*rank).or_default() += 1);
        let (first, tenth) = (of[&0], of[&9]);
        assert!((6..15).contains(&(first / tenth)), "{first} and {tenth}");
        let (mut newest, mut late) = (i64::MIN, 0);
        for (.., times) in &messages {
            for time in times {
                assert!((BEGIN_MS..BEGIN_MS + SPAN_MS).contains(time));
                late += usize::from(*time < newest);
                newest = newest.max(*time);
            }
        }
        assert!((140..260).contains(&late), "{late} of 20,000");
        assert!(
            newest > BEGIN_MS + SPAN_MS - 1_000,
            "they spread over all of the span"
        );
    }

    #[test]
    fn by_the_wall_clock_trades_happen_as_they_are_sent() {
        let now = 1_800_000_000_000;
        let times: Vec<i64> = all(
            Shape {
                trades: 1_000,
                ..SHAPE
            },
            Clock::Wall,
        )
        .into_iter()
        .flat_map(|(.., times)| times)
        .collect();
        assert!(
            times
                .iter()
                .all(|time| (now - LATEST_MS..=now).contains(time))
        );
        assert!(times.iter().filter(|time| **time == now).count() > 900);
    }
}
