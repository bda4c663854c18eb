//! The memory of the whole process at its worst, measured by the kernel: against the same binary
//! that has nothing to do.
//!
//! The binary is a debug build, as in all tests: a release build would take longer than all of
//! them. Its limits hold for a release binary too. What is measured is what was allocated above an
//! idle process, and both builds allocate the same: the collections, their growth and the bounds
//! are of the source, and no optimization adds an allocation.

use std::{
    fs,
    process::Child,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags};
use tapeflow_log::{
    NewRecord,
    sqlite::{Access, Database, SqliteLog},
};
use tapeflow_schemas::{
    Conditions, EventTime, Price, SessionId, Size, Trade,
    codec::{BatchHeader, encode_batch},
};

use crate::command::Place;

/// What a record, frame, late trade or restart may cost at its worst.
const MOST_MIB: u64 = 128;
/// The same where 64 MiB of it are bars that a process keeps (`--bar-memory`, by default), and all
/// the time others come and go: the allocator decides about the last few.
const MOST_MIB_OF_FULL_BAR_MEMORY: u64 = 160;
const MINUTE_MS: i64 = 60_000;
const NOW_MS: i64 = 1_704_205_800_000;
/// The longest record that a log takes by default: Kafka's `message.max.bytes` less some room.
const RECORD_BYTES: usize = 990_000;
/// The longest frame that is parsed.
const FRAME_BYTES: usize = 1 << 20;
const PING: &str = "{\"type\":\"ping\"}\n";

/// A frame with trades of these symbols and times.
fn frame(trades: impl Iterator<Item = (String, i64)>) -> String {
    let trades: Vec<String> = trades
        .map(|(symbol, ms)| format!(r#"{{"c":["1"],"p":10.5,"s":"{symbol}","t":{ms},"v":3}}"#))
        .collect();
    format!("{{\"data\":[{}],\"type\":\"trade\"}}\n", trades.join(","))
}

/// Waits for the process to end well; the most memory it ever had, in MiB.
fn peak_mib(mut child: Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        // The highest mark, so a look just before the end is enough.
        let text = fs::read_to_string(&status).unwrap_or_default();
        let kib = text
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) / 1_024);
        if let Some(ended) = child.try_wait().expect("a child") {
            assert!(ended.success(), "{ended}");
            assert!(peak > 0, "it was never seen");
            return peak;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Replays a recording in a new process, and demands that it takes no more than `most` MiB above a
/// process without anything to do.
fn check(place: &Place, recording: &str, most: u64) {
    let flags = ["--workers", "2"];
    let empty = Place::new();
    let idle = peak_mib(empty.replay_begun(&empty.file("ping.jsonl", PING), &flags));
    let file = place.file("worst.jsonl", recording);
    let peak = peak_mib(place.replay_begun(&file, &flags));
    println!("{peak} MiB, idle {idle} MiB");
    assert!(peak < idle + most, "{peak} MiB, idle {idle} MiB");
}

/// The bars and views of a place are right.
fn verify(place: &Place) {
    let verified = place.verify();
    assert!(verified.contains("0 differences"), "{verified}");
}

/// A place whose log holds this record, before any job has run.
fn with_record(payload: Vec<u8>) -> Place {
    let place = Place::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let database = Database::open(&place.path("t.db"), Access::Job).expect("a file");
    runtime.block_on(async {
        let log = SqliteLog::create_if_absent(&database, 1).await;
        let record = NewRecord {
            partition: 0,
            key: String::new(),
            timestamp_ms: NOW_MS,
            payload,
            session: None,
        };
        log.expect("a log")
            .append(vec![record])
            .await
            .expect("appended");
    });
    database.close();
    place
}

/// A legacy record of as many trades as fit, each of other bytes.
fn legacy_record(mut trade: impl FnMut(usize) -> Vec<u8>) -> Vec<u8> {
    let mut trades = Vec::new();
    let mut count = 0;
    loop {
        let next = trade(count);
        if trades.len() + next.len() > RECORD_BYTES - 16 {
            break;
        }
        trades.extend(next);
        count += 1;
    }
    let mut record = Vec::new();
    put_long(&mut record, i64::try_from(count).expect("a count"));
    record.extend(trades);
    record.extend([0, 10]);
    record.extend(b"trade");
    record
}

/// A trade of a legacy record, without sale conditions.
fn legacy_trade(symbol: &str, ms: i64, price: f64) -> Vec<u8> {
    let mut trade = vec![2];
    trade.extend(price.to_le_bytes());
    put_long(&mut trade, i64::try_from(symbol.len()).expect("short"));
    trade.extend(symbol.bytes());
    put_long(&mut trade, ms);
    trade.extend(1f64.to_le_bytes());
    trade
}

/// Avro's long.
fn put_long(out: &mut Vec<u8>, long: i64) {
    let mut zigzag = ((long << 1) ^ (long >> 63)).cast_unsigned();
    while zigzag >= 0x80 {
        out.push(zigzag.to_le_bytes()[0] | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag.to_le_bytes()[0]);
}

#[test]
fn a_record_of_invalid_trades_takes_little_memory() {
    let place = with_record(legacy_record(|_| legacy_trade("", 0, -1.0)));
    check(&place, PING, MOST_MIB);
}

#[test]
fn a_record_with_a_window_for_each_trade_takes_little_memory() {
    // One symbol, a second and a minute for each trade: as many windows as one batch can have. An
    // epoch ends between two records, so this one exceeds the windows that an epoch may have.
    // Ingest writes no such record: it bounds the trades of each.
    let mut trades = Vec::new();
    let mut payload = Vec::new();
    loop {
        let at = i64::try_from(trades.len()).expect("a count");
        let (price, size) = (Price::from_e8(1), Size::from_e8(1));
        trades.push(
            Trade::new(
                EventTime::from_ms(at * 5 * MINUTE_MS).expect("a time"),
                price.expect("a price"),
                size.expect("a size"),
                Conditions::NONE,
            )
            .expect("a trade"),
        );
        if trades.len() * 31 >= RECORD_BYTES {
            break;
        }
    }
    let header = BatchHeader {
        symbol: "S",
        source: "test",
        session: SessionId([1; 16]),
        sequence: 1,
        taken_ms: NOW_MS,
    };
    encode_batch(&mut payload, &header, &trades);
    let place = with_record(payload);
    check(&place, PING, MOST_MIB);
    verify(&place);
}

#[test]
fn a_record_with_a_symbol_for_each_trade_takes_little_memory() {
    let place = with_record(legacy_record(|n| {
        legacy_trade(&format!("{n:x}"), NOW_MS, 1.0)
    }));
    check(&place, PING, MOST_MIB);
    verify(&place);
}

#[test]
fn a_frame_of_junk_takes_little_memory() {
    let head = "{\"type\":\"trade\",\"data\":[1";
    let junk = ",1".repeat((FRAME_BYTES - head.len() - 3) / 2);
    let place = Place::new();
    check(&place, &format!("{head}{junk}]}}\n"), MOST_MIB);
}

#[test]
fn a_frame_with_a_symbol_for_each_trade_takes_little_memory() {
    let trade = |n: usize| format!(r#"{{"p":1,"s":"{n:x}","t":{NOW_MS},"v":1}}"#);
    let mut trades = Vec::new();
    let mut bytes = 32;
    while bytes < FRAME_BYTES - 64 {
        trades.push(trade(trades.len()));
        bytes += trades.last().map_or(0, String::len) + 1;
    }
    assert!(trades.len() > 23_000, "{} symbols", trades.len());
    let recording = format!("{{\"data\":[{}],\"type\":\"trade\"}}\n", trades.join(","));
    let place = Place::new();
    check(&place, &recording, MOST_MIB);
    verify(&place);
}

#[test]
fn a_frame_with_a_symbol_and_a_day_for_each_trade_takes_little_memory() {
    // Each of the days has views of its own. There are 19,000 days since 1970.
    let day = |n: usize| NOW_MS - i64::try_from(n % 19_000).expect("small") * 1_440 * MINUTE_MS;
    let trade = |n: usize| format!(r#"{{"p":1,"s":"{n:x}","t":{},"v":1}}"#, day(n));
    let mut trades = Vec::new();
    let mut bytes = 32;
    while bytes < FRAME_BYTES - 64 {
        trades.push(trade(trades.len()));
        bytes += trades.last().map_or(0, String::len) + 1;
    }
    assert!(trades.len() > 22_000, "{} symbols", trades.len());
    let recording = format!("{{\"data\":[{}],\"type\":\"trade\"}}\n", trades.join(","));
    let place = Place::new();
    check(&place, &recording, MOST_MIB_OF_FULL_BAR_MEMORY);
    verify(&place);
}

#[test]
fn late_trades_of_one_symbol_among_5000_take_little_memory() {
    let place = Place::new();
    let symbols: Vec<String> = (0..5_000).map(|n| format!("S{n}")).collect();
    let market: String = symbols
        .chunks(100)
        .map(|symbols| frame(symbols.iter().map(|symbol| (symbol.clone(), NOW_MS))))
        .collect();
    place.replay(&place.file("market.jsonl", &market), &[]);
    // In a run of its own, which has nothing in memory.
    let late: String = (1..=500)
        .map(|minute| frame([("S7".to_owned(), NOW_MS - minute * MINUTE_MS)].into_iter()))
        .collect();
    check(&place, &late, MOST_MIB);
    verify(&place);
}

/// The committed epoch and the number of epochs that are bound beyond it; `None` before there is a
/// checkpoint.
fn epochs(place: &Place) -> Option<(u64, usize)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = Connection::open_with_flags(place.path("t.db"), flags).ok()?;
    let sql = "SELECT checkpoint FROM checkpoint";
    let text: String = database.query_row(sql, [], |found| found.get(0)).ok()?;
    let checkpoint: serde_json::Value = serde_json::from_str(&text).ok()?;
    let committed = checkpoint["committed"]["epoch"].as_u64()?;
    Some((committed, checkpoint["bound"].as_array()?.len()))
}

#[test]
fn a_restart_in_the_middle_of_a_backlog_takes_little_memory() {
    // Every trade has windows of its own, so the epochs have as many as the limits allow.
    let symbols: Vec<String> = (0..20_000).map(|n| format!("S{n}")).collect();
    let backlog: String = (0..2)
        .flat_map(|minute| {
            let frames = symbols.chunks(100);
            frames.map(move |symbols| {
                let at = NOW_MS + minute * MINUTE_MS;
                frame(symbols.iter().map(|symbol| (symbol.clone(), at)))
            })
        })
        .collect();
    let place = Place::new();
    let file = place.file("backlog.jsonl", &backlog);
    let mut child = place.replay_begun(&file, &["--workers", "2"]);
    let deadline = Instant::now() + Duration::from_secs(120);
    // The first epoch is small, so that the first bars appear soon.
    while epochs(&place).is_none_or(|(committed, bound)| committed < 1 || bound == 0) {
        assert!(Instant::now() < deadline, "no epoch was bound ahead");
        assert!(child.try_wait().expect("a child").is_none(), "it ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    let (_, bound) = epochs(&place).expect("a checkpoint");
    assert!(bound > 0, "the restart has epochs to replay");
    check(&place, &backlog, MOST_MIB_OF_FULL_BAR_MEMORY);
    verify(&place);
}
