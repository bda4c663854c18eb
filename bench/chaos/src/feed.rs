//! The feed: seeded trades with ids, published for as long as the run lasts, so that the topic grows under every fault.
//!
//! **The id of a trade is in its size**: trade n of a symbol's minute has size 2^n x 1e-8. So the volume of a minute's row, in binary, is the set of
//! the trades in it: a bit that is missing names a lost trade, and a trade counted twice carries into a bit that nobody sent. All trades of
//! a symbol go to one partition in order, so a row that is right at any time has the lowest bits set and no others: 2^k - 1.
//!
//! Most trades come minute by minute; some fill the gaps that were left in older minutes, so that rows are read back and corrected late. Some
//! records are sent twice under one sequence, as a producer does that does not know whether it was heard.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tapeflow_ingest::{KafkaConfig, KafkaPublisher, OutRecord, Publish};
use tapeflow_schemas::{
    EventTime, Partition, Price, SessionId, Size, Symbol, Trade, WindowSize, WindowStart,
    codec::{self, BatchHeader},
    conditions::Conditions,
    partition_for,
};
use tapeflow_sinks::RowKey;

/// Trades a minute of a symbol can have: as many as bits that fit a size.
pub(crate) const SLOTS: u8 = 60;
/// Trades of a minute that come before the next minute begins; the others come late, if they come.
const IN_TIME: u8 = 48;
/// The first minute: 2024-01-02T15:00:00Z.
const FIRST_MINUTE_MS: i64 = 1_704_207_600_000;
/// The size of the windows whose trades are named.
pub(crate) const MINUTE_MS: i64 = 60_000;
/// How often a batch of records is sent, and waited for.
const BEAT: Duration = Duration::from_millis(50);
/// Records that may be sent again later.
const REMEMBERED: usize = 16;

/// One named trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id {
    pub(crate) minute: Minute,
    pub(crate) slot: u8,
}

/// One row whose trades are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Minute {
    /// The number of the symbol.
    pub(crate) symbol: usize,
    /// The number of the minute, from the first one on.
    pub(crate) number: usize,
}

impl Minute {
    pub(crate) fn start(self) -> WindowStart {
        FIRST_MINUTE_MS + i64::try_from(self.number).unwrap_or(0) * MINUTE_MS
    }

    /// The minute that begins there.
    pub(crate) fn at(symbol: usize, start: WindowStart) -> Option<Self> {
        let number = usize::try_from((start - FIRST_MINUTE_MS) / MINUTE_MS).ok()?;
        Some(Self { symbol, number })
    }
}

/// The trade that an id stands for: always the same.
pub(crate) fn trade(id: Id) -> Option<Trade> {
    let slot = i64::from(id.slot);
    let mixed = mixed(id);
    let event_ms = id.minute.start() + (slot * 997 + mixed % 1_000) % MINUTE_MS;
    let price = Price::from_e8(100_000_000 + mixed % 700_000_000).ok()?;
    let size = Size::from_e8(1i128 << id.slot).ok()?;
    Trade::new(EventTime::from_ms(event_ms)?, price, size, Conditions::NONE).ok()
}

/// A number that looks random and is always the same for an id (splitmix64).
fn mixed(id: Id) -> i64 {
    let number = |n: usize| u64::try_from(n).unwrap_or(0);
    let mut x = number(id.minute.symbol) << 40 ^ number(id.minute.number) << 8 ^ u64::from(id.slot);
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    i64::try_from((x ^ (x >> 31)) >> 2).unwrap_or(0)
}

/// The minute size.
pub(crate) fn minute() -> WindowSize {
    WindowSize::from_ms(MINUTE_MS).expect("a minute is a window size")
}

/// What has been sent, shared with those who read rows. A trade is noted before it is sent.
pub(crate) struct Book {
    pub(crate) symbols: Vec<Symbol>,
    /// By symbol, the trades of each of its minutes.
    sent: Mutex<Vec<Vec<u8>>>,
}

impl Book {
    pub(crate) fn new(symbols: usize) -> Self {
        // Stocks and coins: their days begin at different hours.
        let name = |n: usize| if n.is_multiple_of(2) { format!("C{n:02}") } else { format!("CHAOS:C{n:02}") };
        let symbols: Vec<Symbol> = (0..symbols).filter_map(|n| Symbol::new(&name(n)).ok()).collect();
        Self { sent: Mutex::new(vec![Vec::new(); symbols.len()]), symbols }
    }

    /// The row of a minute.
    pub(crate) fn key(&self, of: Minute) -> RowKey {
        RowKey { symbol: self.symbols[of.symbol].clone(), size: minute(), start: of.start() }
    }

    /// How many trades of a minute may have been sent by now.
    pub(crate) fn sent(&self, minute: Minute) -> u8 {
        self.lock()[minute.symbol].get(minute.number).copied().unwrap_or(0)
    }

    /// The minutes that a symbol has.
    pub(crate) fn minutes(&self, symbol: usize) -> usize {
        self.lock()[symbol].len()
    }

    /// All of it.
    pub(crate) fn all(&self) -> Vec<(Minute, u8)> {
        let sent = self.lock();
        let of_symbol = |(symbol, minutes): (usize, &Vec<u8>)| {
            minutes.iter().enumerate().map(|(number, sent)| (Minute { symbol, number }, *sent)).collect::<Vec<_>>()
        };
        sent.iter().enumerate().flat_map(of_symbol).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next `count` trades of a symbol, all of one minute.
    fn take(&self, symbol: usize, count: u8, late: Option<usize>) -> (Minute, std::ops::Range<u8>) {
        let mut sent = self.lock();
        let minutes = &mut sent[symbol];
        let late = late.and_then(|back| minutes.len().checked_sub(2 + back)).filter(|number| minutes[*number] < SLOTS);
        let (number, limit) = match late {
            Some(number) => (number, SLOTS),
            None => {
                if minutes.last().is_none_or(|sent| *sent >= IN_TIME) {
                    minutes.push(0);
                }
                (minutes.len() - 1, IN_TIME)
            }
        };
        let from = minutes[number];
        minutes[number] = limit.min(from + count).max(from);
        (Minute { symbol, number }, from..minutes[number])
    }
}

/// What the feed came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fed {
    pub(crate) trades: u64,
    pub(crate) records: u64,
    pub(crate) repeats: u64,
    /// How often the client had to be made anew.
    pub(crate) reconnects: u64,
}

/// What a feed needs to know.
pub(crate) struct FeedSettings {
    pub(crate) kafka: KafkaConfig,
    pub(crate) seed: u64,
    /// Trades a second.
    pub(crate) rate: u32,
}

/// A record with its place in the session.
#[derive(Clone)]
struct Numbered {
    record: OutRecord,
    sequence: u64,
}

/// Feeds until asked to stop; returns when all of it is durable.
///
/// # Errors
/// What the log said, if it failed for good.
pub(crate) async fn run(settings: FeedSettings, book: Arc<Book>, stop: Arc<AtomicBool>) -> Result<Fed, String> {
    let mut random = StdRng::seed_from_u64(settings.seed);
    // The sessions of two runs with one seed must differ, or the second's records would be repeats.
    let session = SessionId(rand::random());
    let mut publisher = KafkaPublisher::connect(settings.kafka.clone()).await.map_err(|fault| fault.to_string())?;
    let partitions = publisher.partitions();
    let mut sequences = vec![0u64; usize::try_from(partitions).unwrap_or(1)];
    let mut remembered: VecDeque<Numbered> = VecDeque::new();
    let mut fed = Fed::default();
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let a_beat = u64::from(settings.rate) * u64::try_from(BEAT.as_millis()).unwrap_or(50) / 1_000;
    while !stop.load(Ordering::Acquire) {
        beat.tick().await;
        let mut batch = Vec::new();
        let until = fed.trades + a_beat.max(1);
        while fed.trades < until {
            let symbol = popular(&mut random, book.symbols.len());
            let late = random.random_bool(0.04).then(|| random.random_range(0..20));
            let (minute, slots) = book.take(symbol, random.random_range(1..=3), late);
            let name = book.symbols[symbol].as_str();
            let partition = partition_for(name, partitions);
            let trades: Vec<Trade> = slots.filter_map(|slot| trade(Id { minute, slot })).collect();
            fed.trades += u64::try_from(trades.len()).unwrap_or(0);
            let numbered = numbered(name, partition, session, &mut sequences, &trades);
            fed.records += 1;
            if random.random_bool(0.02) {
                remembered.push_back(numbered.clone());
            }
            batch.push(numbered);
            if remembered.len() > REMEMBERED {
                batch.extend(remembered.pop_front());
                fed.repeats += 1;
            }
        }
        append(&mut publisher, &settings.kafka, session, &batch, &mut fed).await?;
    }
    Ok(fed)
}

/// A fifth of the symbols has half of the trades.
fn popular(random: &mut StdRng, symbols: usize) -> usize {
    if random.random_bool(0.5) { random.random_range(0..symbols.div_ceil(5)) } else { random.random_range(0..symbols) }
}

fn numbered(symbol: &str, partition: Partition, session: SessionId, sequences: &mut [u64], trades: &[Trade]) -> Numbered {
    let at = usize::try_from(partition).unwrap_or(0);
    sequences[at] += 1;
    let sequence = sequences[at];
    // Retention goes by this time, so it has to be today's.
    let taken_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(0));
    let header = BatchHeader { symbol, source: "chaos", session, sequence, taken_ms };
    let mut payload = Vec::new();
    codec::encode_batch(&mut payload, &header, trades);
    Numbered { record: OutRecord { partition, key: symbol.to_owned(), timestamp_ms: taken_ms, payload }, sequence }
}

/// Appends a batch and waits until it is durable; after a client that failed for good, with another one that goes on after what the log holds.
async fn append(publisher: &mut KafkaPublisher, kafka: &KafkaConfig, session: SessionId, batch: &[Numbered], fed: &mut Fed) -> Result<(), String> {
    let mut rest: Vec<Numbered> = batch.to_vec();
    for _ in 0..100 {
        let sent = match publisher.publish(rest.iter().map(|numbered| numbered.record.clone()).collect()).await {
            Ok(()) => publisher.flush().await,
            Err(fault) => Err(fault),
        };
        let Err(fault) = sent else { return Ok(()) };
        eprintln!("feed: {fault}; with another client");
        fed.reconnects += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Ok(again) = KafkaPublisher::connect(kafka.clone()).await else { continue };
        *publisher = again;
        let Ok(held) = publisher.last_sequences(session).await else { continue };
        rest.retain(|numbered| held.get(usize::try_from(numbered.record.partition).unwrap_or(0)).is_none_or(|held| numbered.sequence > *held));
    }
    Err("the log takes nothing, with any client".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_a_trade_of_its_minute_and_sums_name_them() {
        let minute = Minute { symbol: 3, number: 70 };
        let trades: Vec<Trade> = (0..SLOTS).map(|slot| trade(Id { minute, slot }).expect("a trade")).collect();
        assert!(trades.iter().all(|trade| self::minute().start_of(trade.event_time, tapeflow_schemas::AssetClass::Crypto) == minute.start()));
        let volume: i128 = trades.iter().map(|trade| trade.size.e8()).sum();
        assert_eq!(volume, (1i128 << SLOTS) - 1);
        assert_eq!(Minute::at(3, minute.start()), Some(minute));
    }

    #[test]
    fn a_minute_leaves_room_for_late_trades() {
        let book = Book::new(2);
        for _ in 0..IN_TIME {
            book.take(1, 1, None);
        }
        assert_eq!(book.take(1, 2, None), (Minute { symbol: 1, number: 1 }, 0..2));
        assert_eq!(book.take(1, 2, Some(0)), (Minute { symbol: 1, number: 0 }, IN_TIME..IN_TIME + 2));
        assert_eq!(book.take(1, 30, Some(0)), (Minute { symbol: 1, number: 0 }, IN_TIME + 2..SLOTS));
        assert_eq!(book.take(1, 1, Some(0)), (Minute { symbol: 1, number: 1 }, 2..3), "a full minute takes no more");
        assert_eq!(book.take(1, 1, Some(5)), (Minute { symbol: 1, number: 1 }, 3..4), "there is none so far back");
        assert_eq!((book.minutes(1), book.minutes(0), book.sent(Minute { symbol: 1, number: 0 })), (2, 0, SLOTS));
    }
}
