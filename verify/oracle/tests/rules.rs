//! The rules by which records count, one by one, through the public interface.

use tapeflow_oracle::{Oracle, OracleSums, OracleView};
use tapeflow_schemas::{
    Baskets, Conditions, EventTime, Price, SessionId, Size, Trade, WindowSize,
    codec::{BatchHeader, InvalidFrameHeader, encode_batch, encode_invalid_frame},
};

const MINUTE: i64 = 60_000;
const NOW: i64 = 1_680_286_537_580;

fn trade(ms: i64, price: i64, size: i128) -> Trade {
    let (price, size) = (
        Price::from_e8(price).expect("a price"),
        Size::from_e8(size).expect("a size"),
    );
    Trade::new(
        EventTime::from_ms(ms).expect("a time"),
        price,
        size,
        Conditions::NONE,
    )
    .expect("a trade")
}

fn batch(symbol: &str, session: u8, sequence: u64, taken_ms: i64, trades: &[Trade]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_batch(
        &mut out,
        &BatchHeader {
            symbol,
            source: "replay",
            session: SessionId([session; 16]),
            sequence,
            taken_ms,
        },
        trades,
    );
    out
}

fn oracle(partitions: u32) -> Oracle {
    Oracle::new(vec![size("1m"), size("1d")], partitions)
}

fn size(text: &str) -> WindowSize {
    text.parse().expect("a size")
}

/// The dead letters as text: each reason with its count.
fn dead_letters(oracle: &Oracle) -> String {
    oracle
        .counts()
        .dead_letters
        .iter()
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[test]
fn a_bar_as_of_an_epoch_holds_the_epochs_up_to_it_in_any_order_of_partitions() {
    let mut oracle = oracle(2);
    let one = |sequence, price| batch("AAPL", 1, sequence, NOW, &[trade(120_000, price, 2)]);
    oracle.record(0, 0, 10, NOW, Some(&one(1, 100)));
    oracle.record(2, 0, 11, NOW, Some(&one(2, 300)));
    // Then the other partition, from its beginning.
    oracle.record(
        0,
        1,
        5,
        NOW,
        Some(&batch("AAPL", 2, 1, NOW, &[trade(119_999, 50, 1)])),
    );
    oracle.record(
        1,
        1,
        6,
        NOW,
        Some(&batch("AAPL", 2, 2, NOW, &[trade(120_000, 200, 3)])),
    );
    let bar = |epoch| oracle.bar_as_of("AAPL", size("1m"), 2 * MINUTE, epoch);
    let values = |epoch| {
        bar(epoch).map(|bar| {
            (
                bar.sip.trades,
                bar.sip.notional_e16,
                bar.open,
                bar.close,
                bar.high,
            )
        })
    };
    assert_eq!(values(0), Some((1, 200, Some(100), Some(100), Some(100))));
    // In one millisecond, partition 0 comes before partition 1.
    assert_eq!(values(1), Some((2, 800, Some(100), Some(200), Some(200))));
    assert_eq!(values(2), Some((3, 1_400, Some(100), Some(200), Some(300))));
    assert_eq!(values(9), values(2));
    assert_eq!(
        oracle
            .bar_as_of("AAPL", size("1m"), MINUTE, 0)
            .map(|bar| bar.all),
        Some(OracleSums {
            volume_e8: 1,
            notional_e16: 50,
            trades: 1
        })
    );
    assert_eq!(oracle.bar_as_of("AAPL", size("1m"), 3 * MINUTE, 9), None);
    assert_eq!(oracle.bar_as_of("MSFT", size("1m"), MINUTE, 9), None);
    // The day 1969-12-31 in New York begins at 05:00 UTC.
    let keys: Vec<_> = oracle
        .bars()
        .map(|(key, bar)| (key.symbol, key.size.to_string(), key.start, bar.all.trades))
        .collect();
    assert_eq!(
        keys,
        [
            ("AAPL", "1m".into(), MINUTE, 1),
            ("AAPL", "1m".into(), 2 * MINUTE, 3),
            ("AAPL", "1d".into(), -19 * 60 * MINUTE, 4)
        ]
    );
}

#[test]
fn a_bar_of_a_later_epoch_does_not_exist_before() {
    let mut oracle = oracle(1);
    oracle.record(
        7,
        0,
        0,
        NOW,
        Some(&batch("AAPL", 1, 1, NOW, &[trade(0, 1, 1)])),
    );
    assert_eq!(oracle.bar_as_of("AAPL", size("1m"), 0, 6), None);
    assert!(oracle.bar_as_of("AAPL", size("1m"), 0, 7).is_some());
}

#[test]
fn a_view_as_of_an_epoch_ranks_the_bars_as_of_it() {
    let mut oracle = Oracle::new(vec![size("1s"), size("1m"), size("1d")], 2);
    let baskets = Baskets::parse("late,MSFT,0.5\n").expect("baskets");
    let (coin, aapl) = (
        "BINANCE:BTCUSDT",
        [trade(MINUTE, 100, 2), trade(MINUTE + 1_000, 90, 1)],
    );
    oracle.record(0, 0, 0, NOW, Some(&batch("AAPL", 1, 1, NOW, &aapl)));
    oracle.record(
        1,
        1,
        0,
        NOW,
        Some(&batch(coin, 2, 1, NOW, &[trade(MINUTE, 10, 30)])),
    );
    // A late trade, and a trade that moves MSFT to the first rank.
    oracle.record(
        2,
        0,
        1,
        NOW,
        Some(&batch("MSFT", 1, 2, NOW, &[trade(MINUTE, 5, 8)])),
    );
    oracle.record(
        3,
        0,
        2,
        NOW,
        Some(&batch("MSFT", 1, 3, NOW, &[trade(MINUTE + 1, 6, 100)])),
    );
    let names = |view, epoch| {
        let entries = oracle.view_as_of(view, size("1m"), MINUTE, epoch, &baskets)?;
        Some(
            entries
                .iter()
                .map(|entry| format!("{} {}", entry.name, entry.notional.unwrap_or(-1)))
                .collect::<Vec<_>>()
                .join(", "),
        )
    };
    let active = |epoch| names(OracleView::Active, epoch).expect("a view");
    assert_eq!(active(0), "AAPL 290");
    assert_eq!(active(1), "AAPL 290, BINANCE:BTCUSDT 300");
    assert_eq!(active(2), "AAPL 290, MSFT 40, BINANCE:BTCUSDT 300");
    assert_eq!(active(3), "MSFT 640, AAPL 290, BINANCE:BTCUSDT 300");
    assert_eq!(names(OracleView::Movers, 2).as_deref(), Some("AAPL 290"));
    assert_eq!(
        names(OracleView::Movers, 3).as_deref(),
        Some("MSFT 640, AAPL 290"),
        "they changed by a fifth and by a tenth"
    );
    assert_eq!(
        names(OracleView::Market, 3).as_deref(),
        Some("stock 930, crypto 300")
    );
    assert_eq!(
        (
            names(OracleView::Baskets, 1),
            names(OracleView::Baskets, 3).as_deref()
        ),
        (None, Some("late 3200000"))
    );
    // No views of seconds, one window of a minute, the day in New York and the day in UTC.
    let windows: Vec<_> = oracle
        .windows()
        .map(|(size, start)| (size.to_string(), start))
        .collect();
    assert_eq!(
        windows,
        [
            ("1m".to_owned(), MINUTE),
            ("1d".to_owned(), -19 * 60 * MINUTE),
            ("1d".to_owned(), 0)
        ]
    );
    assert_eq!(
        oracle.view_as_of(OracleView::Active, size("1s"), MINUTE, 3, &baskets),
        None
    );
    let day = oracle
        .view_as_of(OracleView::Market, size("1d"), 0, 3, &baskets)
        .expect("the day in UTC");
    assert_eq!(
        day.iter()
            .map(|entry| entry.name.as_str())
            .collect::<Vec<_>>(),
        ["crypto"]
    );
}

#[test]
fn counts_are_kept_by_epoch_and_add_up() {
    let mut oracle = oracle(1);
    let record = batch("AAPL", 1, 1, NOW, &[trade(0, 1, 1)]);
    for (epoch, offset) in [(0, 0), (1, 1), (1, 2)] {
        oracle.record(epoch, 0, offset, NOW, Some(&record));
    }
    oracle.record(1, 0, 3, NOW, None);
    let of = |epoch| {
        (
            oracle.counts_of(epoch).records,
            oracle.counts_of(epoch).accepted,
            oracle.counts_of(epoch).duplicates,
        )
    };
    assert_eq!((of(0), of(1), of(2)), ((1, 1, 0), (3, 0, 2), (0, 0, 0)));
    assert_eq!(
        (
            oracle.counts().records,
            oracle.counts().duplicates,
            dead_letters(&oracle).as_str()
        ),
        (4, 2, "empty 1")
    );
}

#[test]
fn a_repeated_record_is_dropped_whole_and_counted_once() {
    let mut oracle = oracle(2);
    let record = batch("AAPL", 1, 3, NOW, &[trade(0, 1, 1), trade(0, 1, 1)]);
    oracle.record(0, 0, 0, NOW, Some(&record));
    oracle.record(0, 0, 1, NOW, Some(&record));
    // In another partition it is not a duplicate.
    oracle.record(0, 1, 0, NOW, Some(&record));
    oracle.record(0, 0, 2, NOW, Some(&batch("AAPL", 1, 7, NOW, &[])));
    let counts = oracle.counts();
    assert_eq!(
        (
            counts.records,
            counts.accepted,
            counts.duplicates,
            counts.gaps
        ),
        (4, 4, 1, 3)
    );
}

#[test]
fn an_unreadable_record_is_a_dead_letter_and_does_not_count_as_a_sequence() {
    let mut oracle = oracle(1);
    let good = batch("AAPL", 1, 1, NOW, &[trade(0, 1, 1)]);
    let cut = &good[..good.len() - 1];
    oracle.record(0, 0, 0, NOW, None);
    oracle.record(0, 0, 1, NOW, Some(&[]));
    oracle.record(0, 0, 2, NOW, Some(cut));
    oracle.record(0, 0, 3, NOW, Some(&[0xC3, 0x01, 1, 2, 3, 4, 5, 6, 7, 8, 9]));
    oracle.record(0, 0, 4, NOW, Some(&good));
    assert_eq!(
        dead_letters(&oracle),
        "empty 2, malformed 1, unknown_fingerprint 1"
    );
    assert_eq!(
        (
            oracle.counts().accepted,
            oracle.counts().dead_letters_total()
        ),
        (1, 4)
    );
    let places: Vec<_> = oracle
        .dead_letters()
        .iter()
        .map(|dead_letter| {
            (
                dead_letter.offset,
                dead_letter.index,
                dead_letter.reason.as_str(),
            )
        })
        .collect();
    assert_eq!(
        places,
        [
            (0, 0, "empty"),
            (1, 0, "empty"),
            (2, 0, "malformed"),
            (3, 0, "unknown_fingerprint")
        ]
    );
}

#[test]
fn an_invalid_frame_is_one_dead_letter_with_its_own_reason_and_can_repeat() {
    let mut oracle = oracle(1);
    let mut record = Vec::new();
    let session = SessionId([1; 16]);
    encode_invalid_frame(
        &mut record,
        &InvalidFrameHeader {
            session,
            sequence: 1,
            taken_ms: 0,
            line: 1,
            reason: "json",
            detail: "",
            frame: b"{",
        },
    );
    oracle.record(0, 0, 0, NOW, Some(&record));
    oracle.record(0, 0, 1, NOW, Some(&record));
    assert_eq!(
        (dead_letters(&oracle).as_str(), oracle.counts().duplicates),
        ("json 1", 1)
    );
}

#[test]
fn a_trade_too_far_in_the_future_of_its_record_is_a_dead_letter() {
    let mut oracle = oracle(1);
    let limit = 5 * MINUTE;
    let trades = [trade(NOW + limit, 1, 1), trade(NOW + limit + 1, 1, 1)];
    oracle.record(0, 0, 0, NOW, Some(&batch("AAPL", 1, 1, NOW, &trades)));
    assert_eq!(
        (oracle.counts().accepted, dead_letters(&oracle).as_str()),
        (1, "future 1")
    );
    assert_eq!(oracle.dead_letters()[0].index, 1);
    // The earlier of the two times counts, and the batch's own if the log has none.
    oracle.record(0, 0, 1, NOW + 1, Some(&batch("AAPL", 1, 2, NOW, &trades)));
    oracle.record(0, 0, 2, NOW, Some(&batch("AAPL", 1, 3, NOW + 1, &trades)));
    assert_eq!(
        (oracle.counts().accepted, dead_letters(&oracle).as_str()),
        (3, "future 3")
    );
    oracle.record(0, 0, 3, 0, Some(&batch("AAPL", 1, 4, NOW + 1, &trades)));
    assert_eq!(oracle.counts().accepted, 5);
    // A legacy record has only the log's timestamp. Here t = 1: a trade of 1 unit of A at 1.0.
    let legacy = [
        &[2, 2][..],
        &1.0f64.to_le_bytes(),
        &[2, b'A', 2],
        &1.0f64.to_le_bytes(),
        &[0, 0],
    ]
    .concat();
    oracle.record(0, 0, 4, 1 - limit, Some(&legacy));
    oracle.record(0, 0, 5, -limit, Some(&legacy));
    assert_eq!(
        (oracle.counts().accepted, dead_letters(&oracle).as_str()),
        (6, "future 4")
    );
}

#[test]
fn a_record_lists_ten_invalid_trades_and_one_for_the_rest_and_counts_all() {
    let mut oracle = oracle(1);
    let trades = vec![trade(NOW + 6 * MINUTE, 1, 1); 12];
    oracle.record(0, 0, 0, NOW, Some(&batch("AAPL", 1, 1, NOW, &trades[..10])));
    assert_eq!(oracle.dead_letters().len(), 10);
    oracle.record(0, 0, 1, NOW, Some(&batch("AAPL", 1, 2, NOW, &trades)));
    assert_eq!(dead_letters(&oracle), "future 22");
    let of_second: Vec<_> = oracle.dead_letters()[10..]
        .iter()
        .map(|dead_letter| (dead_letter.index, dead_letter.reason.as_str()))
        .collect();
    assert_eq!(of_second.len(), 11);
    assert_eq!(of_second[9..], [(9, "future"), (10, "more")]);
}

#[test]
fn a_sequence_that_is_not_believed_is_a_dead_letter_and_moves_nothing() {
    let mut oracle = oracle(1);
    let one = |sequence| batch("AAPL", 1, sequence, NOW, &[trade(NOW, 1, 1)]);
    for (offset, sequence) in (0..).zip([1, 2, i64::MAX.unsigned_abs(), 3, 3]) {
        oracle.record(0, 0, offset, NOW, Some(&one(sequence)));
    }
    let counts = oracle.counts();
    assert_eq!((counts.accepted, counts.duplicates, counts.gaps), (3, 1, 0));
    assert_eq!(dead_letters(&oracle), "sequence 1");
}

#[test]
fn every_entry_has_its_own_reason() {
    let mut oracle = oracle(1);
    let entry = |price: f64, symbol: &[u8], time: u8, size: f64| {
        let len = u8::try_from(2 * symbol.len()).expect("short");
        [
            &[2][..],
            &price.to_le_bytes(),
            &[len],
            symbol,
            &[time],
            &size.to_le_bytes(),
        ]
        .concat()
    };
    let entries = [
        entry(1.0, b"A", 2, 1.0),
        entry(1.0, b"", 2, 0.0),
        entry(-1.0, b"A", 1, 0.0),
        entry(f64::NAN, b"A", 1, -1.0),
        entry(1.0, b"A", 1, -1.0),
        entry(1.0, b"A", 1, 1.0),
        entry(1e9, b"A", 2, 1e15),
        entry(1.0, b"A\n", 2, 1.0),
        entry(1.0, b"A", 2, 1e-9),
    ];
    let record = [&[18][..], &entries.concat(), &[0, 0]].concat();
    oracle.record(0, 0, 0, NOW, Some(&record));
    let reasons: Vec<_> = oracle
        .dead_letters()
        .iter()
        .map(|dead_letter| (dead_letter.index, dead_letter.reason.as_str()))
        .collect();
    assert_eq!(
        reasons,
        [
            (1, "symbol"),
            (3, "price"),
            (4, "size"),
            (5, "event_time"),
            (6, "notional"),
            (7, "symbol"),
            (8, "size")
        ]
    );
    assert_eq!(
        (oracle.counts().accepted, oracle.counts().price_updates),
        (1, 1)
    );
}

/// A trade in no window is a dead letter; one that only some windows refuse counts in the others.
#[test]
fn a_trade_beyond_a_horizon_is_in_the_other_windows_and_a_dead_letter_if_there_are_none() {
    let day = 86_400_000;
    let last = 40 * day;
    let events = [
        last,
        // The minute ended exactly a day before, and a millisecond less.
        last - day - 1,
        last - day,
        // The day ended exactly ten days before.
        last - 11 * day + 5 * 3_600_000 - 1,
        last - 12 * day,
    ];
    let trades: Vec<Trade> = events.iter().map(|at| trade(*at, 1, 1)).collect();
    let coin = "BINANCE:BTCUSDT";
    let record = batch(coin, 1, 1, last, &trades);
    let with = |horizons: Vec<(WindowSize, i64)>| {
        let mut oracle = oracle(1).with_horizons(horizons);
        oracle.record(0, 0, 0, last, Some(&record));
        let bars = |of: WindowSize| oracle.bars().filter(|(key, _)| key.size == of).count();
        (bars(size("1m")), bars(size("1d")), dead_letters(&oracle))
    };
    assert_eq!(with(Vec::new()), (5, 5, String::new()));
    assert_eq!(with(vec![(size("1m"), day)]), (2, 5, String::new()));
    assert_eq!(
        with(vec![(size("1m"), day), (size("1d"), 10 * day)]),
        (2, 3, "too_late 2".to_owned())
    );
}
