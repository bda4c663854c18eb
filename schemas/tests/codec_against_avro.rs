//! Compares the hand-written codec with the reference implementation, apache-avro: each decodes
//! what the other encodes, and both refuse the same bytes.

mod support;

use apache_avro::{Decimal, Schema, rabin::Rabin, types::Value};
use rand::{Rng, SeedableRng, rngs::StdRng};
use support::{read, record, seeded, single_object, write};
use tapeflow_schemas::{
    AssetClass, Conditions, EventTime, NumberError, Price, SessionId, Size, SymbolError, Trade,
    codec::{
        BatchHeader, DecodeError, Entry, EntryError, FEED_STATE_FINGERPRINT, FEED_STATE_SCHEMA,
        FINNHUB_MESSAGE_SCHEMA, Header, INVALID_FRAME_FINGERPRINT, INVALID_FRAME_SCHEMA,
        InvalidFrameHeader, TRADE_BATCH_FINGERPRINT, TRADE_BATCH_SCHEMA, decode, encode_batch,
        encode_invalid_frame, symbol_of,
    },
    decimal::{MAX_PRICE_E8, MAX_SIZE_E8},
};

fn random_trade(rng: &mut StdRng) -> Trade {
    loop {
        let time = EventTime::from_ms(rng.random_range(0..7_258_118_400_000)).expect("in range");
        let (largest_price, largest_size) = (
            MAX_PRICE_E8 >> rng.random_range(0..56),
            MAX_SIZE_E8 >> rng.random_range(0..76),
        );
        let price = Price::from_e8(rng.random_range(1..=largest_price)).expect("in range");
        let size = Size::from_e8(rng.random_range(1..=largest_size)).expect("in range");
        let conditions =
            (0..rng.random_range(0..5)).fold(Conditions::NONE, |set, _| set.with(rng.random()));
        if let Ok(trade) = Trade::new(time, price, size, conditions) {
            return trade;
        }
    }
}

struct Batch {
    symbol: String,
    session: SessionId,
    sequence: u64,
    taken_ms: i64,
    trades: Vec<Trade>,
}

impl Batch {
    fn random(rng: &mut StdRng) -> Self {
        let symbols = ["AAPL", "BRK.B", "BINANCE:BTCUSDT", "IC MARKETS:1", "!~"];
        Self {
            symbol: symbols[rng.random_range(0..symbols.len())].into(),
            session: SessionId(rng.random()),
            sequence: (rng.random::<u64>() >> rng.random_range(1..63)).max(1),
            taken_ms: rng.random::<i64>() >> rng.random_range(0..63),
            trades: (0..rng.random_range(0..20))
                .map(|_| random_trade(rng))
                .collect(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let header = BatchHeader {
            symbol: &self.symbol,
            source: "replay",
            session: self.session,
            sequence: self.sequence,
            taken_ms: self.taken_ms,
        };
        let mut out = b"before".to_vec();
        encode_batch(&mut out, &header, &self.trades);
        assert!(out.starts_with(b"before"), "it appends");
        out.split_off(6)
    }

    fn value(&self) -> Value {
        let trade = |trade: &Trade| {
            record([
                ("event_time", Value::TimestampMillis(trade.event_time.ms())),
                (
                    "price",
                    Value::Decimal(Decimal::from(trade.price.e8().to_be_bytes())),
                ),
                (
                    "size",
                    Value::Decimal(Decimal::from(trade.size.e8().to_be_bytes())),
                ),
                (
                    "conditions",
                    Value::Bytes(trade.conditions.codes().collect()),
                ),
            ])
        };
        record([
            ("symbol", Value::String(self.symbol.clone())),
            ("source", Value::String("replay".into())),
            ("session", Value::Fixed(16, self.session.0.to_vec())),
            (
                "sequence",
                Value::Long(i64::try_from(self.sequence).expect("positive")),
            ),
            ("taken_ms", Value::TimestampMillis(self.taken_ms)),
            (
                "trades",
                Value::Array(self.trades.iter().map(trade).collect()),
            ),
        ])
    }

    fn check_decoded(&self, payload: &[u8]) {
        let mut entries = vec![Entry {
            symbol: (9, 9),
            trade: Err(EntryError::Notional),
        }];
        let header = decode(payload, &mut entries);
        assert_eq!(
            header,
            Ok(Header::Batch {
                session: self.session,
                sequence: self.sequence,
                taken_ms: self.taken_ms
            })
        );
        assert_eq!(
            entries.iter().map(|entry| entry.trade).collect::<Vec<_>>(),
            self.trades.iter().copied().map(Ok).collect::<Vec<_>>()
        );
        assert!(
            entries
                .iter()
                .all(|entry| symbol_of(payload, entry) == self.symbol)
        );
    }
}

/// The schema without its logical types. The parsing canonical form has no logical types, so this
/// changes no fingerprint. But apache-avro 0.22 leaves traces of them in its form
/// (`{"type":"long"}`, `precision`, `scale`), unlike the specification, Java and fastavro.
fn without_logical_types(json: serde_json::Value) -> serde_json::Value {
    use serde_json::Value::{Array, Object, String};
    match json {
        Object(mut map) => {
            for annotation in ["logicalType", "precision", "scale"] {
                map.remove(annotation);
            }
            match (map.len(), map.get("type")) {
                (1, Some(String(primitive))) => String(primitive.clone()),
                _ => Object(
                    map.into_iter()
                        .map(|(key, value)| (key, without_logical_types(value)))
                        .collect(),
                ),
            }
        }
        Array(items) => Array(items.into_iter().map(without_logical_types).collect()),
        other => other,
    }
}

#[test]
fn the_fingerprints_are_those_of_the_schema_files() {
    for (text, fingerprint) in [
        (TRADE_BATCH_SCHEMA, TRADE_BATCH_FINGERPRINT),
        (INVALID_FRAME_SCHEMA, INVALID_FRAME_FINGERPRINT),
        (FEED_STATE_SCHEMA, FEED_STATE_FINGERPRINT),
    ] {
        let plain = without_logical_types(serde_json::from_str(text).expect("json"));
        assert_eq!(
            Schema::parse(&plain)
                .expect("a schema")
                .fingerprint::<Rabin>()
                .bytes,
            fingerprint.to_le_bytes()
        );
    }
}

#[test]
fn a_batch_is_written_as_the_reference_writes_it_and_read_by_both() {
    seeded(|rng| {
        let batch = Batch::random(rng);
        let payload = batch.encode();
        assert_eq!(
            payload,
            single_object(
                TRADE_BATCH_FINGERPRINT,
                &write(TRADE_BATCH_SCHEMA, batch.value())
            )
        );
        assert_eq!(read(TRADE_BATCH_SCHEMA, &payload[10..]), batch.value());
        batch.check_decoded(&payload);
    });
}

#[test]
fn a_invalid_frame_is_written_as_the_reference_writes_it_and_read_by_both() {
    seeded(|rng| {
        let frame: Vec<u8> = (0..rng.random_range(0..300))
            .map(|_| rng.random())
            .collect();
        let header = InvalidFrameHeader {
            session: SessionId(rng.random()),
            sequence: rng.random_range(1..1 << 40),
            taken_ms: rng.random_range(0..1 << 42),
            line: rng.random_range(0..1 << 40),
            reason: "json",
            detail: "line 7: expected value — and more",
            frame: &frame,
        };
        let value = record([
            ("session", Value::Fixed(16, header.session.0.to_vec())),
            (
                "sequence",
                Value::Long(i64::try_from(header.sequence).expect("small")),
            ),
            ("taken_ms", Value::TimestampMillis(header.taken_ms)),
            (
                "line",
                Value::Long(i64::try_from(header.line).expect("small")),
            ),
            ("reason", Value::String(header.reason.into())),
            ("detail", Value::String(header.detail.into())),
            ("frame", Value::Bytes(frame.clone())),
        ]);
        let mut payload = Vec::new();
        encode_invalid_frame(&mut payload, &header);
        assert_eq!(
            payload,
            single_object(
                INVALID_FRAME_FINGERPRINT,
                &write(INVALID_FRAME_SCHEMA, value.clone())
            )
        );
        assert_eq!(read(INVALID_FRAME_SCHEMA, &payload[10..]), value);
        let mut entries = Vec::new();
        let InvalidFrameHeader {
            session,
            sequence,
            taken_ms,
            reason,
            detail,
            frame,
            ..
        } = header;
        assert_eq!(
            decode(&payload, &mut entries),
            Ok(Header::InvalidFrame {
                session,
                sequence,
                taken_ms,
                reason,
                detail,
                frame
            })
        );
        assert!(entries.is_empty());
        for len in 0..payload.len() {
            assert!(
                decode(&payload[..len], &mut entries).is_err(),
                "cut to {len} bytes"
            );
        }
    });
}

/// fastavro decoded the same values from these bytes, in a check by hand.
#[test]
fn the_bytes_of_a_batch_never_change() {
    let trade = |ms, price: &str, size: &str, codes: &[u8]| {
        let conditions = codes
            .iter()
            .fold(Conditions::NONE, |set, code| set.with(*code));
        let (price, size) = (
            Price::parse(price).expect("a price").value,
            Size::parse(size).expect("a size").value,
        );
        Trade::new(
            EventTime::from_ms(ms).expect("a time"),
            price,
            size,
            conditions,
        )
        .expect("a trade")
    };
    let batch = Batch {
        symbol: "AAPL".into(),
        session: SessionId(*b"0123456789abcdef"),
        sequence: 7,
        taken_ms: 1_680_286_540_000,
        trades: vec![
            trade(1_680_286_537_580, "164.0601", "5", &[1, 12]),
            trade(1_680_286_538_064, "164.06", "0.00001", &[200]),
        ],
    };
    let hex: String = batch
        .encode()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        hex,
        concat!(
            "c301",
            "c9542a409d078d60",
            "08",
            "4141504c",
            "0c",
            "7265706c6179",
            "30313233343536373839616263646566",
            "0e",
            "c0838f8ee761",
            "04",
            "d8dd8e8ee761",
            "00000003d1dfd890",
            "0000000000000000000000001dcd6500",
            "04010c",
            "a0e58e8ee761",
            "00000003d1dfb180",
            "000000000000000000000000000003e8",
            "02ff",
            "00"
        )
    );
}

#[test]
fn blocks_with_their_size_told_and_several_blocks_are_read() {
    let rng = &mut StdRng::seed_from_u64(7);
    let batch = Batch {
        trades: (0..5).map(|_| random_trade(rng)).collect(),
        ..Batch::random(rng)
    };
    let payload = batch.encode();
    let at = |count: usize| {
        Batch {
            symbol: batch.symbol.clone(),
            trades: batch.trades[..count].to_vec(),
            ..batch
        }
        .encode()
        .len()
            - 1
    };
    // One block of five is a count byte, the trades and a zero. The other form of the same trades
    // is a padded block of two that states its size, and a block of three.
    let (first, split, end) = (at(0) + 1, at(2), at(5));
    let size = u8::try_from(split - first).expect("two trades are short") * 2;
    let (low, high) = (size | 0x80, u8::from(split - first >= 64));
    let blocks = [
        &payload[..first - 1],
        &[0x03, low, high],
        &payload[first..split],
        &[0x05, 0x00],
        &payload[split..end],
        &[0x00],
    ]
    .concat();
    batch.check_decoded(&blocks);
    assert_eq!(read(TRADE_BATCH_SCHEMA, &blocks[10..]), batch.value());
}

#[test]
fn a_record_cut_short_or_too_long_leaves_nothing_behind() {
    seeded(|rng| {
        let payload = Batch::random(rng).encode();
        let mut entries = Vec::new();
        for len in 0..payload.len() {
            let error = decode(&payload[..len], &mut entries).expect_err("a record cut short");
            match len {
                0 => assert_eq!(error, DecodeError::Empty),
                _ => assert!(
                    matches!(error, DecodeError::Malformed { at, .. } if at <= len),
                    "{error:?} at {len}"
                ),
            }
            assert!(entries.is_empty());
        }
        let longer = [&payload[..], &[0]].concat();
        assert_eq!(
            decode(&longer, &mut entries),
            Err(DecodeError::Malformed {
                at: payload.len(),
                what: "the end of the record"
            })
        );
        assert!(entries.is_empty());
    });
}

#[test]
fn damaged_bytes_never_panic_and_never_leave_entries_with_a_error() {
    seeded(|rng| {
        let batch = Batch::random(rng);
        let legacy = write(FINNHUB_MESSAGE_SCHEMA, legacy_message(rng));
        let mut entries = Vec::new();
        for _ in 0..400 {
            let mut payload = if rng.random() {
                batch.encode()
            } else {
                legacy.clone()
            };
            for _ in 0..rng.random_range(1..6) {
                let at = rng.random_range(0..payload.len());
                match rng.random_range(0..4) {
                    0 => payload[at] ^= 1 << rng.random_range(0..8),
                    1 => payload[at] = rng.random(),
                    2 => payload[at] = 0xFF,
                    _ => payload.insert(at, rng.random()),
                }
            }
            if decode(&payload, &mut entries).is_err() {
                assert!(entries.is_empty());
            }
            entries
                .iter()
                .for_each(|entry| assert!(symbol_of(&payload, entry).len() <= payload.len()));
        }
        let noise: Vec<u8> = (0..rng.random_range(0..200))
            .map(|_| rng.random())
            .collect();
        let _ = decode(&noise, &mut entries);
        let _ = decode(
            &single_object(TRADE_BATCH_FINGERPRINT, &noise),
            &mut entries,
        );
        let _ = decode(
            &single_object(INVALID_FRAME_FINGERPRINT, &noise),
            &mut entries,
        );
    });
}

#[test]
fn a_claimed_count_or_length_costs_nothing() {
    let varint = |value: i64| write(r#""long""#, Value::Long(value));
    let checkpoint = Batch {
        trades: Vec::new(),
        ..Batch::random(&mut StdRng::seed_from_u64(1))
    }
    .encode();
    let checkpoint = &checkpoint[..checkpoint.len() - 1];
    let mut entries = Vec::new();
    for count in [1, i64::MAX, i64::MIN, i64::MIN + 1, -5] {
        for tail in [&[][..], &[0], &[0, 0, 0, 0]] {
            let payload = [checkpoint, &varint(count), tail].concat();
            assert!(decode(&payload, &mut entries).is_err(), "{count}");
            let legacy = [&varint(count), tail].concat();
            assert!(decode(&legacy, &mut entries).is_err(), "{count}");
            assert_eq!(entries.capacity(), 0, "nothing was set aside");
        }
    }
    assert!(
        decode(
            &single_object(TRADE_BATCH_FINGERPRINT, &varint(i64::MAX)),
            &mut entries
        )
        .is_err()
    );
    assert!(
        decode(
            &single_object(TRADE_BATCH_FINGERPRINT, &[0x80; 100]),
            &mut entries
        )
        .is_err()
    );
}

#[test]
fn each_entry_of_a_batch_has_its_own_error() {
    let faulty = |symbol: &str, ms: i64, price_e8: i64, size_e8: i128| {
        let trade = record([
            ("event_time", Value::TimestampMillis(ms)),
            (
                "price",
                Value::Decimal(Decimal::from(price_e8.to_be_bytes())),
            ),
            ("size", Value::Decimal(Decimal::from(size_e8.to_be_bytes()))),
            ("conditions", Value::Bytes(vec![])),
        ]);
        let value = record([
            ("symbol", Value::String(symbol.into())),
            ("source", Value::String("finnhub".into())),
            ("session", Value::Fixed(16, vec![0; 16])),
            ("sequence", Value::Long(1)),
            ("taken_ms", Value::TimestampMillis(0)),
            ("trades", Value::Array(vec![trade.clone(), trade])),
        ]);
        let mut entries = Vec::new();
        decode(
            &single_object(TRADE_BATCH_FINGERPRINT, &write(TRADE_BATCH_SCHEMA, value)),
            &mut entries,
        )
        .expect("a record");
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0], entries[1]);
        entries[0].trade.expect_err("an error")
    };
    assert_eq!(
        faulty(&"A".repeat(1 << 20), -1, -1, 0),
        EntryError::Symbol(SymbolError::TooLong(1 << 20))
    );
    assert_eq!(faulty("A", -1, -1, 0), EntryError::PriceUpdate);
    assert_eq!(
        faulty("A", -1, -1, -1),
        EntryError::Price(NumberError::Negative)
    );
    assert_eq!(
        faulty("A", -1, 1, -1),
        EntryError::Size(NumberError::Negative)
    );
    assert_eq!(
        faulty("A", -1, i64::MAX, i128::MAX),
        EntryError::Price(NumberError::TooLarge)
    );
    assert_eq!(
        faulty("A", -1, 1, i128::MIN),
        EntryError::Size(NumberError::Negative)
    );
    assert_eq!(
        faulty("A", -1, MAX_PRICE_E8, MAX_SIZE_E8),
        EntryError::EventTime(-1)
    );
    assert_eq!(
        faulty("A", 0, MAX_PRICE_E8, MAX_SIZE_E8),
        EntryError::Notional
    );
}

#[test]
fn a_sequence_below_one_or_a_foreign_fingerprint_is_refused() {
    let mut batch = Batch::random(&mut StdRng::seed_from_u64(3));
    batch.symbol = "A".into();
    batch.sequence = 1;
    let mut payload = batch.encode();
    let at = 10 + 2 + 7 + 16;
    assert_eq!(payload[at], 2, "the sequence's only byte");
    let mut entries = Vec::new();
    for bad in [0, 1] {
        payload[at] = bad;
        assert_eq!(
            decode(&payload, &mut entries),
            Err(DecodeError::Malformed {
                at: at + 1,
                what: "a sequence above zero"
            })
        );
    }
    let foreign = single_object(0x0123_4567_89ab_cdef, b"datum");
    assert_eq!(
        decode(&foreign, &mut entries),
        Err(DecodeError::UnknownFingerprint(0x0123_4567_89ab_cdef))
    );
}

fn legacy_trade(c: Value, p: f64, s: &str, t: i64, v: f64) -> Value {
    record([
        ("c", c),
        ("p", Value::Double(p)),
        ("s", Value::String(s.into())),
        ("t", Value::Long(t)),
        ("v", Value::Double(v)),
    ])
}

fn codes(codes: &[Option<&str>]) -> Value {
    let code = |code: &Option<&str>| match code {
        None => Value::Union(0, Box::new(Value::Null)),
        Some(text) => Value::Union(1, Box::new(Value::String((*text).into()))),
    };
    Value::Union(0, Box::new(Value::Array(codes.iter().map(code).collect())))
}

fn no_codes() -> Value {
    Value::Union(1, Box::new(Value::Null))
}

fn message(trades: Vec<Value>, kind: &str) -> Value {
    record([
        ("data", Value::Array(trades)),
        ("type", Value::String(kind.into())),
    ])
}

fn legacy_message(rng: &mut StdRng) -> Value {
    let trade = |rng: &mut StdRng| {
        let c = if rng.random() {
            codes(&[Some("1"), None, Some("x")])
        } else {
            no_codes()
        };
        legacy_trade(
            c,
            rng.random_range(0.0..1e5),
            "BINANCE:BTCUSDT",
            rng.random_range(0..1 << 42),
            f64::from_bits(rng.random()),
        )
    };
    message(
        (0..rng.random_range(0..6)).map(|_| trade(rng)).collect(),
        "trade",
    )
}

#[test]
fn the_old_producers_records_are_read() {
    let payload = write(
        FINNHUB_MESSAGE_SCHEMA,
        message(
            vec![
                legacy_trade(
                    codes(&[Some("1"), Some("12")]),
                    164.0601,
                    "AAPL",
                    1_680_286_537_580,
                    5.0,
                ),
                legacy_trade(
                    no_codes(),
                    66_972.77,
                    "BINANCE:BTCUSDT",
                    1_710_000_000_000,
                    8e-5,
                ),
                legacy_trade(codes(&[]), 1.0, "AAPL", 1, 0.0),
                legacy_trade(
                    codes(&[None, Some("x"), Some("300")]),
                    0.1 + 0.2,
                    "AAPL",
                    1,
                    1.0,
                ),
                legacy_trade(no_codes(), f64::NAN, "AAPL", 1, 1.0),
                legacy_trade(no_codes(), 1.0, "AAPL", 1, f64::INFINITY),
                legacy_trade(no_codes(), 1.0, "AAPL", 1, -0.0),
                legacy_trade(no_codes(), 1.0, "AAPL", 1, 1e-9),
                legacy_trade(no_codes(), 1.0, "", 1, 1.0),
                legacy_trade(no_codes(), 1.0, "AAPL", -1, 1.0),
                legacy_trade(no_codes(), 1e9, "AAPL", 1, 1e15),
            ],
            "trade",
        ),
    );
    let mut entries = Vec::new();
    assert_eq!(decode(&payload, &mut entries), Ok(Header::Legacy));
    let seen: Vec<_> = entries
        .iter()
        .map(|entry| (symbol_of(&payload, entry), entry.trade))
        .collect();
    let (symbol, trade) = (seen[0].0, seen[0].1.expect("a trade"));
    assert_eq!(
        (
            symbol,
            trade.event_time.ms(),
            trade.price.e8(),
            trade.size.e8()
        ),
        ("AAPL", 1_680_286_537_580, 16_406_010_000, 500_000_000)
    );
    assert_eq!(trade.conditions.codes().collect::<Vec<_>>(), [1, 12]);
    let (symbol, trade) = (seen[1].0, seen[1].1.expect("a trade"));
    assert_eq!(
        (AssetClass::of(symbol), trade.price.e8(), trade.size.e8()),
        (AssetClass::Crypto, 6_697_277_000_000, 8_000)
    );
    assert_eq!(seen[2].1, Err(EntryError::PriceUpdate));
    let trade = seen[3].1.expect("a trade");
    assert_eq!(
        (
            trade.price.e8(),
            trade.conditions.codes().collect::<Vec<_>>()
        ),
        (30_000_000, vec![255])
    );
    assert_eq!(seen[4].1, Err(EntryError::Price(NumberError::NotANumber)));
    assert_eq!(seen[5].1, Err(EntryError::Size(NumberError::NotANumber)));
    assert_eq!(seen[6].1, Err(EntryError::PriceUpdate));
    assert_eq!(seen[7].1, Err(EntryError::Size(NumberError::Zero)));
    assert_eq!(seen[8].1, Err(EntryError::Symbol(SymbolError::Empty)));
    assert_eq!(seen[9].1, Err(EntryError::EventTime(-1)));
    assert_eq!(seen[10].1, Err(EntryError::Notional));
    for len in 1..payload.len() {
        assert!(
            decode(&payload[..len], &mut entries).is_err(),
            "cut to {len} bytes"
        );
    }
}

#[test]
fn an_old_record_without_trades_is_legal_and_confluents_format_is_named() {
    let mut entries = Vec::new();
    let ping = write(FINNHUB_MESSAGE_SCHEMA, message(vec![], "ping"));
    assert_eq!(ping[0], 0);
    assert_eq!(decode(&ping, &mut entries), Ok(Header::Legacy));
    assert!(entries.is_empty());
    let confluent = [
        &[0, 0, 0, 0, 17],
        &write(
            FINNHUB_MESSAGE_SCHEMA,
            legacy_message(&mut StdRng::seed_from_u64(1)),
        )[..],
    ]
    .concat();
    let error = decode(&confluent, &mut entries).expect_err("not read");
    assert!(
        matches!(error, DecodeError::Malformed { .. }) && error.to_string().contains("Confluent"),
        "{error}"
    );
}
