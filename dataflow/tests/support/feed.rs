//! Records for a [`MemoryLog`].

use rand::{Rng, SeedableRng, rngs::StdRng};
use tapeflow_log::Log;
use tapeflow_schemas::{
    Conditions, EventTime, Price, SessionId, Size, Trade,
    codec::{BatchHeader, encode_batch},
    partition_for,
};

use super::memory_log::MemoryLog;

/// Appends seeded records: out of order, late, with duplicates, invalid records, and one symbol
/// with most of the trades.
pub fn feed(log: &MemoryLog, seed: u64, records: usize) {
    feed_as(log, SessionId([7; 16]), seed, records);
}

/// Like [`feed`], with another session: no record duplicates one in the log.
pub fn feed_as(log: &MemoryLog, session: SessionId, seed: u64, records: usize) {
    let partitions = log.partitions().expect("partitions");
    let mut random = StdRng::seed_from_u64(seed);
    // More than a ranked view holds.
    let symbols = [
        "AAPL",
        "AMD",
        "AMZN",
        "BINANCE:BTCUSDT",
        "BINANCE:ETHUSDT",
        "BRK.B",
        "F",
        "GOOG",
        "IC MARKETS:1",
        "MSFT",
        "NVDA",
        "OANDA:EUR_USD",
        "T",
        "TSLA",
        "X",
    ];
    let codes = [1u8, 8, 12, 24, 15, 18, 9, 32, 16, 39, 41, 77];
    let mut sequences = vec![0u64; partitions as usize];
    let mut now = 1_700_000_000_000i64;
    for _ in 0..records {
        now += random.random_range(0..700);
        let symbol = if random.random_bool(0.4) {
            "AAPL"
        } else {
            symbols[random.random_range(0..symbols.len())]
        };
        let partition = partition_for(symbol, partitions);
        if random.random_bool(0.01) {
            log.append(partition, now, vec![0xC3, 0x01, 9, 9]);
            continue;
        }
        let mut trades = Vec::new();
        for _ in 0..random.random_range(1..6) {
            let late = match random.random_range(0..1_000) {
                // Late enough to touch a window that the views have unloaded.
                0..5 => random.random_range(0..2_000_000),
                5..100 => random.random_range(0..200_000),
                _ => random.random_range(0..50),
            };
            // A wrong clock: so far in the future that the trade becomes a dead letter.
            let ahead = if random.random_bool(0.005) {
                200_000_000
            } else {
                0
            };
            let conditions = (0..random.random_range(0..3)).fold(Conditions::NONE, |set, _| {
                set.with(codes[random.random_range(0..codes.len())])
            });
            let (price, size) = (
                random.random_range(1..1_000_000_000),
                random.random_range(1..1_000_000_000_000i128),
            );
            trades.push(
                Trade::new(
                    EventTime::from_ms(now - late + ahead).expect("time"),
                    Price::from_e8(price).expect("price"),
                    Size::from_e8(size).expect("size"),
                    conditions,
                )
                .expect("notional"),
            );
        }
        let sequence = &mut sequences[partition as usize];
        *sequence += if random.random_bool(0.02) { 2 } else { 1 };
        let mut payload = Vec::new();
        encode_batch(
            &mut payload,
            &BatchHeader {
                symbol,
                source: "test",
                session,
                sequence: *sequence,
                taken_ms: now,
            },
            &trades,
        );
        if random.random_bool(0.05) {
            log.append(partition, now, payload.clone());
        }
        log.append(partition, now, payload);
    }
}

/// Appends a trade with price 1 and size 1.
pub fn append_trade(log: &MemoryLog, symbol: &str, sequence: u64, event_ms: i64) {
    let one = |text: &str| {
        (
            Price::parse(text).expect("a price").value,
            Size::parse(text).expect("a size").value,
        )
    };
    let (price, size) = one("1");
    let trade = Trade::new(
        EventTime::from_ms(event_ms).expect("a time"),
        price,
        size,
        Conditions::NONE,
    )
    .expect("a trade");
    let header = BatchHeader {
        symbol,
        source: "test",
        session: SessionId([7; 16]),
        sequence,
        taken_ms: 1_700_000_000_000,
    };
    let mut payload = Vec::new();
    encode_batch(&mut payload, &header, &[trade]);
    log.append(
        partition_for(symbol, log.partitions().expect("partitions")),
        1_700_000_000_000,
        payload,
    );
}
