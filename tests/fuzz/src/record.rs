//! A record of the log: the job's decoder and the oracle's must accept the same bytes, and make the
//! same bars, counts and dead letters of them.

use tapeflow_dataflow::{RepairValues, fuzz::Partition};
use tapeflow_log::LogRecord;
use tapeflow_oracle::{Oracle, OracleBar, OracleSums};
use tapeflow_protocol::store::{
    LISTED_DEAD_LETTERS, MAX_DEAD_LETTER_BYTES, MAX_DETAIL_BYTES, MAX_REASON_BYTES,
};
use tapeflow_schemas::{
    BarKey, BarRow, BarState, Horizons, Policy, Price, Symbol, Totals, WindowSize,
    codec::{
        self, BatchHeader, Entry, Header, InvalidFrameHeader, encode_batch, encode_feed_state,
        encode_invalid_frame,
    },
};

/// The time of the log for every record. Some trades of the seeds lie before it, some after it.
const TIMESTAMP_MS: i64 = 1_700_000_000_000;

/// The bytes of a record, or of two that are separated by a byte that says where the first one ends.
pub(crate) fn check(bytes: &[u8]) {
    let mut entries = Vec::new();
    if let Ok(header) = codec::decode(bytes, &mut entries) {
        check_encoding(bytes, header, &entries);
    } else {
        assert!(entries.is_empty(), "nothing of a refused record may count");
    }
    check_job_and_oracle(&[bytes]);
    // The second record meets the duplicate filter and the watermark that the first one leaves.
    if let Some((end, records)) = bytes.split_first()
        && let Some((one, other)) = records.split_at_checked(usize::from(*end))
    {
        check_job_and_oracle(&[one, other, one]);
    }
}

/// What was decoded is encoded, and decoded again as the same.
fn check_encoding(bytes: &[u8], header: Header<'_>, entries: &[Entry]) {
    let mut again = Vec::new();
    let mut read = Vec::new();
    match header {
        Header::Batch {
            session,
            sequence,
            taken_ms,
        } => {
            let trades: Vec<_> = entries.iter().map_while(|entry| entry.trade.ok()).collect();
            let symbol = entries.first().map(|entry| codec::symbol_of(bytes, entry));
            for entry in entries {
                assert_eq!(Some(codec::symbol_of(bytes, entry)), symbol);
            }
            let header = BatchHeader {
                symbol: symbol.unwrap_or("NONE"),
                source: "fuzz",
                session,
                sequence,
                taken_ms,
            };
            encode_batch(&mut again, &header, &trades);
            let decoded = codec::decode(&again, &mut read);
            assert_eq!(
                decoded,
                Ok(Header::Batch {
                    session,
                    sequence,
                    taken_ms
                })
            );
            let back: Vec<_> = read.iter().map(|entry| entry.trade).collect();
            assert_eq!(back, trades.into_iter().map(Ok).collect::<Vec<_>>());
        }
        Header::InvalidFrame {
            session,
            sequence,
            taken_ms,
            reason,
            detail,
            frame,
        } => {
            assert!(entries.is_empty());
            let parts = InvalidFrameHeader {
                session,
                sequence,
                taken_ms,
                line: 0,
                reason,
                detail,
                frame,
            };
            encode_invalid_frame(&mut again, &parts);
            assert_eq!(codec::decode(&again, &mut read), Ok(header));
        }
        Header::FeedState(parts) => {
            assert!(entries.is_empty());
            encode_feed_state(&mut again, &parts);
            assert_eq!(codec::decode(&again, &mut read), Ok(header));
        }
        Header::Legacy => {}
    }
}

/// Reads the records as the job does and as the oracle does, and compares all that comes of it.
fn check_job_and_oracle(records: &[&[u8]]) {
    let sizes: Vec<WindowSize> = ["1m", "1d"]
        .iter()
        .map(|size| size.parse().expect("a size"))
        .collect();
    let mut oracle = Oracle::new(sizes.clone(), 1);
    let mut job = Partition::new(&sizes);
    for (offset, payload) in (0..).zip(records) {
        oracle.record(0, 0, offset, TIMESTAMP_MS, Some(payload));
        job.take(record(offset, payload));
    }
    let (counts, want) = (job.counts(), oracle.counts());
    assert_eq!(
        (counts.records, counts.accepted, counts.dead_letters),
        (want.records, want.accepted, want.dead_letters_total())
    );
    assert_eq!(
        (counts.duplicates, counts.price_updates, counts.gaps),
        (want.duplicates, want.price_updates, want.gaps)
    );
    let letters = job.dead_letters();
    let places = letters
        .iter()
        .map(|letter| (letter.offset, letter.index, &*letter.reason));
    let expected = oracle
        .dead_letters()
        .iter()
        .map(|letter| (letter.offset, letter.index, &*letter.reason));
    assert!(places.eq(expected), "{letters:?}");
    assert!(letters.len() <= records.len() * (LISTED_DEAD_LETTERS + 1));
    for letter in &letters {
        assert!(letter.payload.len() <= MAX_DEAD_LETTER_BYTES);
        assert!(letter.detail.len() <= MAX_DETAIL_BYTES);
        assert!(letter.reason.len() <= MAX_REASON_BYTES);
    }
    check_bars(&sizes, records, &oracle, counts.accepted);
}

fn record(offset: i64, payload: &[u8]) -> LogRecord<'_> {
    LogRecord {
        partition: 0,
        offset,
        timestamp_ms: TIMESTAMP_MS,
        payload: Some(payload),
    }
}

fn check_bars(sizes: &[WindowSize], records: &[&[u8]], oracle: &Oracle, accepted: u64) {
    let bars: Vec<(BarKey, OracleBar)> = oracle
        .bars()
        .map(|(key, bar)| {
            let key = BarKey {
                symbol: Symbol::new(key.symbol).expect("an accepted symbol"),
                size: key.size,
                start: key.start,
            };
            (key, bar)
        })
        .collect();
    let mut job = RepairValues::new(
        sizes,
        &Horizons::NONE,
        &[0],
        bars.iter().map(|(key, _)| key.row()),
    );
    for (offset, payload) in (0..).zip(records) {
        job.record(record(offset, payload));
    }
    let mut trades = 0;
    for (key, want) in bars {
        let totals = totals_of(&mut job, &key).unwrap_or_else(|| panic!("no bar {key}"));
        assert_eq!(values(&totals), want, "{key}");
        assert!(totals.is_possible(), "{key}");
        trades += totals.of_policy(Policy::All).trades;
    }
    // So the job has no bar that the oracle has not.
    let windows = u64::try_from(sizes.len()).expect("few");
    assert_eq!(trades, windows * accepted);
}

/// A bar, from its row.
fn totals_of(job: &mut RepairValues, key: &BarKey) -> Option<Totals> {
    let row = job.row(&key.row())?;
    let state = BarState {
        epoch: 0,
        totals: row.totals,
    };
    let packed = row.packed;
    let bar = BarRow { state, packed }.bar(key);
    bar.expect("well encoded").map(|bar| bar.totals)
}

/// A bar of the job as the oracle writes one.
fn values(totals: &Totals) -> OracleBar {
    let sums = |policy| {
        let sums = totals.of_policy(policy);
        OracleSums {
            volume_e8: sums.volume_e8,
            notional_e16: sums.notional_e16,
            trades: sums.trades,
        }
    };
    OracleBar {
        all: sums(Policy::All),
        sip: sums(Policy::Sip),
        strict: sums(Policy::Strict),
        priced: totals.priced,
        open: totals.open().map(Price::e8),
        high: totals.high.map(Price::e8),
        low: totals.low.map(Price::e8),
        close: totals.close().map(Price::e8),
        first_trade_ms: totals.first_trade_ms,
        last_trade_ms: totals.last_trade_ms,
    }
}
