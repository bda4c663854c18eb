//! Records for a [`MemoryLog`].

use rand::{Rng, SeedableRng, rngs::StdRng};
use tapeflow_log::Log;
use tapeflow_schemas::{
    Conditions, EventTime, Price, SessionId, Size, Trade,
    codec::{BatchHeader, FeedState, FeedStateHeader, encode_batch, encode_feed_state},
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
    feed_symbols(log, (session, seed), records, &[]);
}

/// Like [`feed`], with so many symbols that a ranking's reserve holds only a part of them, and runs
/// out.
pub fn feed_wide(log: &MemoryLog, seed: u64, records: usize) {
    let names: Vec<String> = (0..90).map(|n| format!("W{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    feed_symbols(log, (SessionId([7; 16]), seed), records, &names);
}

/// Appends what ingest says of its feed in a session of its own: each state to every partition, as
/// ingest does, and each record twice.
pub fn append_feed_states(log: &MemoryLog, session: SessionId, begin_ms: i64) {
    const STATES: [FeedState; 5] = [
        FeedState::Begins,
        FeedState::Back,
        FeedState::Away,
        FeedState::Alive,
        FeedState::Ends,
    ];
    let mut now = begin_ms;
    for (sequence, state) in (1..).zip(STATES) {
        now += 10_000;
        let header = FeedStateHeader {
            session,
            sequence,
            taken_ms: now,
            producer: "test",
            state,
            cause: "disconnected",
            from_ms: now - 5_000,
            to_ms: now - 1_000,
            previous: None,
            previous_sequence: 0,
        };
        let mut payload = Vec::new();
        encode_feed_state(&mut payload, &header);
        for partition in 0..log.partitions().expect("partitions") {
            log.append(partition, now, payload.clone());
            log.append(partition, now, payload.clone());
        }
    }
}

fn feed_symbols(
    log: &MemoryLog,
    (session, seed): (SessionId, u64),
    records: usize,
    further: &[&str],
) {
    let partitions = log.partitions().expect("partitions");
    let mut random = StdRng::seed_from_u64(seed);
    // More than a ranked view holds.
    let mut symbols = vec![
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
        "OANDA:USD_JPY",
        "T",
        "TSLA",
    ];
    symbols.extend(further);
    let codes = [1u8, 35, 12, 24, 15, 18, 9, 32, 16, 39, 41, 77];
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
                // Late enough to touch a window whose views have left memory.
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
    append_trade_at(log, symbol, (sequence, event_ms), "1");
}

/// Appends a trade with size 1.
pub fn append_trade_at(
    log: &MemoryLog,
    symbol: &str,
    (sequence, event_ms): (u64, i64),
    price: &str,
) {
    let trade = Trade::new(
        EventTime::from_ms(event_ms).expect("a time"),
        Price::parse(price).expect("a price").value,
        Size::parse("1").expect("a size").value,
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
