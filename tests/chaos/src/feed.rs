//! The feed: the trades of the [`Ledger`], published for as long as the run lasts, so that the
//! topic grows under every fault.
//!
//! Most trades come minute by minute; some fill the gaps that were left in older minutes, so that
//! bars are read back and corrected late. Some records are sent twice under one sequence, as a
//! producer does whose acknowledgement was lost. Between them are records that cannot be decoded
//! and trades of the far future: [`crate::poison`], [`FeedProfile`].

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tapeflow_log::{
    LogWriter, NewRecord,
    kafka::{KafkaConfig, KafkaWriter},
};
use tapeflow_schemas::{
    EventTime, Price, SessionId, Size, Trade,
    codec::{self, BatchHeader},
    conditions::Conditions,
    partition_for,
};

use crate::{
    feed_profile::FeedProfile,
    ledger::{Id, Ledger, Minute, trade},
    poison,
};

/// How often a batch of records is sent, and waited for.
const BEAT: Duration = Duration::from_millis(50);
/// Records that may be sent again later.
const REMEMBERED: usize = 16;
/// How far ahead of their record they are: a little over a day, a year, a century.
const AHEAD_MS: [i64; 3] = [86_400_000 + 60_000, 366 * 86_400_000, 36_525 * 86_400_000];
/// How much faster the feed is when nearly all trades are of one symbol.
const CROWD: u64 = 5;

/// The numbers of the feed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fed {
    pub(crate) trades: u64,
    pub(crate) records: u64,
    pub(crate) repeats: u64,
    pub(crate) poison: u64,
    /// Far-future trades.
    pub(crate) futures: u64,
    /// How often the client had to be made anew.
    pub(crate) reconnects: u64,
}

/// The settings of a feed.
pub(crate) struct FeedSettings {
    pub(crate) kafka: KafkaConfig,
    pub(crate) seed: u64,
    /// Trades a second.
    pub(crate) rate: u32,
}

/// A record with its place in the session; poison has none.
#[derive(Clone)]
struct Numbered {
    record: NewRecord,
    sequence: Option<u64>,
}

/// Feeds until asked to stop; returns when all of it is durable.
///
/// # Errors
/// What the log said, if it failed for good.
pub(crate) async fn run(
    settings: FeedSettings,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
) -> Result<Fed, String> {
    let mut feeder = Feeder::connect(settings.kafka, settings.seed).await?;
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let a_beat = u64::from(settings.rate) * u64::try_from(BEAT.as_millis()).unwrap_or(50) / 1_000;
    while !stop.load(Ordering::Acquire) {
        beat.tick().await;
        let feed_profile = ledger.feed_profile.get();
        feeder
            .feed(
                &ledger,
                feed_profile,
                a_beat.max(1)
                    * if feed_profile == FeedProfile::OneSymbol {
                        CROWD
                    } else {
                        1
                    },
            )
            .await?;
    }
    Ok(feeder.fed)
}

/// A session that appends.
pub(crate) struct Feeder {
    kafka: KafkaConfig,
    publisher: KafkaWriter,
    random: StdRng,
    session: SessionId,
    sequences: Vec<u64>,
    remembered: VecDeque<Numbered>,
    pub(crate) fed: Fed,
}

impl Feeder {
    /// A new session.
    ///
    /// # Errors
    /// What the log said.
    pub(crate) async fn connect(kafka: KafkaConfig, seed: u64) -> Result<Self, String> {
        let publisher = KafkaWriter::connect(kafka.clone())
            .await
            .map_err(|fault| fault.to_string())?;
        let partitions = usize::try_from(publisher.partitions()).unwrap_or(1);
        Ok(Self {
            kafka,
            publisher,
            random: StdRng::seed_from_u64(seed),
            // The sessions of two runs with one seed must differ, or the second's records would be
            // repeats.
            session: SessionId(rand::random()),
            sequences: vec![0; partitions],
            remembered: VecDeque::new(),
            fed: Fed::default(),
        })
    }

    /// Appends about so many trades, and waits until they are durable.
    ///
    /// # Errors
    /// What the log said, if it failed for good.
    pub(crate) async fn feed(
        &mut self,
        ledger: &Ledger,
        feed_profile: FeedProfile,
        trades: u64,
    ) -> Result<(), String> {
        let (mut batch, until) = (Vec::new(), self.fed.trades + trades);
        while self.fed.trades < until {
            if self.random.random_bool(feed_profile.poison()) {
                batch.push(self.poison(ledger));
            }
            let numbered = self.trades(ledger, feed_profile);
            if self.random.random_bool(0.02) {
                self.remembered.push_back(numbered.clone());
            }
            batch.push(numbered);
            if self.remembered.len() > REMEMBERED {
                batch.extend(self.remembered.pop_front());
                self.fed.repeats += 1;
            }
        }
        self.append(batch, ledger).await
    }

    /// The next trades of a symbol.
    fn trades(&mut self, ledger: &Ledger, feed_profile: FeedProfile) -> Numbered {
        let random = &mut self.random;
        let symbol = if feed_profile == FeedProfile::OneSymbol && random.random_bool(0.99) {
            0
        } else {
            popular(random, ledger.fed)
        };
        let late = random.random_bool(0.04).then(|| random.random_range(0..20));
        let (minute, slots) = ledger.take(symbol, random.random_range(1..=3), late);
        let mut trades: Vec<Trade> = slots
            .filter_map(|slot| trade(Id { minute, slot }))
            .collect();
        self.fed.trades += u64::try_from(trades.len()).unwrap_or(0);
        self.fed.records += 1;
        let taken_ms = now_ms();
        if random.random_bool(feed_profile.future())
            && let Some(future) = future(random, taken_ms)
        {
            ledger.expect_no_bar(symbol, &future);
            trades.insert(random.random_range(0..=trades.len()), future);
            self.fed.futures += 1;
        }
        let name = ledger.symbols[symbol].as_str();
        let partition = partition_for(name, u32::try_from(self.sequences.len()).unwrap_or(1));
        let sequence = &mut self.sequences[usize::try_from(partition).unwrap_or(0)];
        *sequence += 1;
        let payload = encoded(name, self.session, *sequence, taken_ms, &trades);
        Numbered {
            record: NewRecord {
                partition,
                key: name.to_owned(),
                timestamp_ms: taken_ms,
                payload,
                session: Some((self.session, *sequence)),
            },
            sequence: Some(*sequence),
        }
    }

    /// A record that must become a dead letter.
    fn poison(&mut self, ledger: &Ledger) -> Numbered {
        let minute = Minute {
            symbol: 0,
            number: self.random.random_range(0..1_000),
        };
        let trades: Vec<Trade> = (0..3)
            .filter_map(|slot| trade(Id { minute, slot }))
            .collect();
        // Of a session of its own: what is made of this must not be taken for a record that counts.
        let good = encoded(
            ledger.symbols[0].as_str(),
            SessionId(self.random.random()),
            1,
            now_ms(),
            &trades,
        );
        let (payload, reason) = poison::payload(&mut self.random, &good);
        ledger.poison.add(&payload, reason);
        self.fed.poison += 1;
        let partition = self
            .random
            .random_range(0..u32::try_from(self.sequences.len()).unwrap_or(1));
        Numbered {
            record: NewRecord {
                partition,
                key: "poison".into(),
                timestamp_ms: now_ms(),
                payload,
                session: None,
            },
            sequence: None,
        }
    }

    /// Appends and waits until it is durable; after a client that failed for good, with another one
    /// that continues after what the log holds.
    async fn append(&mut self, batch: Vec<Numbered>, ledger: &Ledger) -> Result<(), String> {
        let mut counts = vec![0; self.sequences.len()];
        batch.iter().for_each(|numbered| {
            counts[usize::try_from(numbered.record.partition).unwrap_or(0)] += 1
        });
        let mut rest = batch;
        for _ in 0..100 {
            let sent = match self
                .publisher
                .append(
                    rest.iter()
                        .map(|numbered| numbered.record.clone())
                        .collect(),
                )
                .await
            {
                Ok(()) => self.publisher.flush().await,
                Err(fault) => Err(fault),
            };
            let Err(fault) = sent else {
                ledger.note_appended(&counts);
                return Ok(());
            };
            eprintln!("feed: {fault}; with another client");
            self.fed.reconnects += 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let Ok(again) = KafkaWriter::connect(self.kafka.clone()).await else {
                continue;
            };
            self.publisher = again;
            let Ok(held) = self.publisher.last_sequences(self.session).await else {
                continue;
            };
            let is_held = |numbered: &Numbered| {
                let held = held
                    .get(usize::try_from(numbered.record.partition).unwrap_or(0))
                    .copied()
                    .unwrap_or(0);
                numbered.sequence.is_some_and(|sequence| sequence <= held)
            };
            rest.retain(|numbered| !is_held(numbered));
        }
        Err("the log accepts no records from any client".into())
    }
}

/// Milliseconds since 1970 UTC: retention goes by the records' time, so it has to be today's.
fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(0))
}

/// A fifth of the symbols has half of the trades.
fn popular(random: &mut StdRng, symbols: usize) -> usize {
    if random.random_bool(0.5) {
        random.random_range(0..symbols.div_ceil(5))
    } else {
        random.random_range(0..symbols)
    }
}

/// A trade of the far future.
fn future(random: &mut StdRng, taken_ms: i64) -> Option<Trade> {
    let ahead =
        AHEAD_MS[random.random_range(0..AHEAD_MS.len())] + random.random_range(0..1_000_000);
    Trade::new(
        EventTime::from_ms(taken_ms + ahead)?,
        Price::from_e8(100_000_000).ok()?,
        Size::from_e8(1).ok()?,
        Conditions::NONE,
    )
    .ok()
}

fn encoded(
    symbol: &str,
    session: SessionId,
    sequence: u64,
    taken_ms: i64,
    trades: &[Trade],
) -> Vec<u8> {
    let mut payload = Vec::new();
    codec::encode_batch(
        &mut payload,
        &BatchHeader {
            symbol,
            source: "chaos",
            session,
            sequence,
            taken_ms,
        },
        trades,
    );
    payload
}
