//! The ledger: the named trades that have been sent.
//!
//! **The id of a trade is in its size**: trade n of a symbol's minute has size 2^n x 1e-8. So the
//! volume of a minute's bar, in binary, is the set of the trades in it: a bit that is missing names
//! a lost trade, and a trade counted twice carries into a bit that was not sent. All trades of a
//! symbol go to one partition in order, so a bar that is right at any time has the lowest bits set
//! and no others: 2^k - 1.

use std::sync::{Mutex, PoisonError};

use tapeflow_schemas::{
    BarKey, EventTime, Price, Size, Symbol, Trade, WindowSize, WindowStart, conditions::Conditions,
};

use crate::{feed_profile::SharedProfile, poison::Cabinet};

/// Trades a minute of a symbol can have: as many as bits that fit a size.
pub(crate) const SLOTS: u8 = 60;
/// Trades of a minute that come before the next minute begins; the others come late, if they come.
const IN_TIME: u8 = 48;
/// The first minute: 2024-01-02T15:00:00Z.
const FIRST_MINUTE_MS: i64 = 1_704_207_600_000;
/// The size of the windows whose trades are named.
pub(crate) const MINUTE_MS: i64 = 60_000;
/// Far-future trades of which it is remembered which bar they would make.
const FUTURES_KEPT: usize = 500;

/// One named trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id {
    pub(crate) minute: Minute,
    pub(crate) slot: u8,
}

/// One bar whose trades are named.
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

/// The notional of the first trades of a minute, in 1e-16.
pub(crate) fn notional_of(minute: Minute, trades: u8) -> i128 {
    (0..trades)
        .filter_map(|slot| trade(Id { minute, slot }))
        .map(|trade| trade.notional().0)
        .sum()
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

/// What has been sent, shared with those who read bars. A trade is noted before it is sent.
pub(crate) struct Ledger {
    pub(crate) symbols: Vec<Symbol>,
    /// How many of the symbols are the feed's; the others are those of the recording.
    pub(crate) fed: usize,
    /// By symbol, the trades of each of its minutes.
    sent: Mutex<Vec<Vec<u8>>>,
    /// By partition, the records of the feed that are durable in it, at least.
    appended: Mutex<Vec<i64>>,
    /// Bars that must not exist.
    futures: Mutex<Vec<BarKey>>,
    /// Records that must become dead letters.
    pub(crate) poison: Cabinet,
    pub(crate) feed_profile: SharedProfile,
}

impl Ledger {
    /// A ledger of so many symbols of the feed and of the recording, whose names begin with
    /// `dead_letter`.
    pub(crate) fn new(dead_letter: char, fed: usize, recorded: usize) -> Self {
        // Stocks and coins: their days begin at different hours, and each class has one quote
        // currency.
        let name = |n: usize| {
            if n.is_multiple_of(2) {
                format!("{dead_letter}{n:02}")
            } else {
                format!("CHAOS:{dead_letter}{n:02}-USDT")
            }
        };
        let symbols: Vec<Symbol> = (0..fed + recorded)
            .filter_map(|n| Symbol::new(&name(n)).ok())
            .collect();
        Self {
            sent: Mutex::new(vec![Vec::new(); symbols.len()]),
            symbols,
            fed,
            appended: Mutex::default(),
            futures: Mutex::default(),
            poison: Cabinet::default(),
            feed_profile: SharedProfile::default(),
        }
    }

    /// The symbols of the recording.
    pub(crate) fn recorded(&self) -> std::ops::Range<usize> {
        self.fed..self.symbols.len()
    }

    /// By partition, how many records of the feed are durable in it, at least.
    pub(crate) fn appended(&self) -> Vec<i64> {
        self.appended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Bars that far-future trades would have made, had they been counted.
    pub(crate) fn futures(&self) -> Vec<BarKey> {
        self.futures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The bar of a minute.
    pub(crate) fn key(&self, of: Minute) -> BarKey {
        BarKey {
            symbol: self.symbols[of.symbol].clone(),
            size: minute(),
            start: of.start(),
        }
    }

    /// How many trades of a minute may have been sent by now.
    pub(crate) fn sent(&self, minute: Minute) -> u8 {
        self.lock()[minute.symbol]
            .get(minute.number)
            .copied()
            .unwrap_or(0)
    }

    /// The minutes that a symbol has.
    pub(crate) fn minutes(&self, symbol: usize) -> usize {
        self.lock()[symbol].len()
    }

    /// Every trade that was sent.
    pub(crate) fn all(&self) -> Vec<(Minute, u8)> {
        let sent = self.lock();
        let of_symbol = |(symbol, minutes): (usize, &Vec<u8>)| {
            minutes
                .iter()
                .enumerate()
                .map(|(number, sent)| (Minute { symbol, number }, *sent))
                .collect::<Vec<_>>()
        };
        sent.iter().enumerate().flat_map(of_symbol).collect()
    }

    pub(crate) fn note_appended(&self, counts: &[i64]) {
        let mut appended = self.appended.lock().unwrap_or_else(PoisonError::into_inner);
        let length = appended.len().max(counts.len());
        appended.resize(length, 0);
        appended
            .iter_mut()
            .zip(counts)
            .for_each(|(appended, count)| *appended += count);
    }

    pub(crate) fn expect_no_bar(&self, symbol: usize, trade: &Trade) {
        let symbol = &self.symbols[symbol];
        let mut futures = self.futures.lock().unwrap_or_else(PoisonError::into_inner);
        if futures.len() < FUTURES_KEPT {
            futures.push(BarKey {
                symbol: symbol.clone(),
                size: minute(),
                start: minute().start_of(trade.event_time, symbol.class()),
            });
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next `count` trades of a symbol, all of one minute.
    pub(crate) fn take(
        &self,
        symbol: usize,
        count: u8,
        late: Option<usize>,
    ) -> (Minute, std::ops::Range<u8>) {
        let mut sent = self.lock();
        let minutes = &mut sent[symbol];
        let late = late
            .and_then(|back| minutes.len().checked_sub(2 + back))
            .filter(|number| minutes[*number] < SLOTS);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_a_trade_of_its_minute_and_sums_name_them() {
        let minute = Minute {
            symbol: 3,
            number: 70,
        };
        let trades: Vec<Trade> = (0..SLOTS)
            .map(|slot| trade(Id { minute, slot }).expect("a trade"))
            .collect();
        assert!(trades.iter().all(|trade| {
            self::minute().start_of(trade.event_time, tapeflow_schemas::AssetClass::Crypto)
                == minute.start()
        }));
        let volume: i128 = trades.iter().map(|trade| trade.size.e8()).sum();
        assert_eq!(volume, (1i128 << SLOTS) - 1);
        assert_eq!(Minute::at(3, minute.start()), Some(minute));
    }

    #[test]
    fn a_minute_leaves_room_for_late_trades() {
        let ledger = Ledger::new('C', 2, 0);
        for _ in 0..IN_TIME {
            ledger.take(1, 1, None);
        }
        assert_eq!(
            ledger.take(1, 2, None),
            (
                Minute {
                    symbol: 1,
                    number: 1
                },
                0..2
            )
        );
        assert_eq!(
            ledger.take(1, 2, Some(0)),
            (
                Minute {
                    symbol: 1,
                    number: 0
                },
                IN_TIME..IN_TIME + 2
            )
        );
        assert_eq!(
            ledger.take(1, 30, Some(0)),
            (
                Minute {
                    symbol: 1,
                    number: 0
                },
                IN_TIME + 2..SLOTS
            )
        );
        assert_eq!(
            ledger.take(1, 1, Some(0)),
            (
                Minute {
                    symbol: 1,
                    number: 1
                },
                2..3
            ),
            "a full minute takes no more"
        );
        assert_eq!(
            ledger.take(1, 1, Some(5)),
            (
                Minute {
                    symbol: 1,
                    number: 1
                },
                3..4
            ),
            "no minute is so far back"
        );
        assert_eq!(
            (
                ledger.minutes(1),
                ledger.minutes(0),
                ledger.sent(Minute {
                    symbol: 1,
                    number: 0
                })
            ),
            (2, 0, SLOTS)
        );
    }
}
