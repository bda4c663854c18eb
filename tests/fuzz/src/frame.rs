//! A frame of Finnhub, through admission and into records.

use std::collections::BTreeSet;

use serde_json::Value;
use tapeflow_ingest::{
    Counts, Frame,
    admission::{Admitted, LISTED, Reason, admit},
    finnhub::{Message, message},
    sequencing::{Origin, Sequencer},
};
use tapeflow_schemas::{SessionId, Symbol, Trade, codec, partition_for};

/// Blanks that make a frame long enough to be parsed entry by entry.
const BLANKS: usize = 64 << 10;
const PARTITIONS: u32 = 3;
const TAKEN_MS: i64 = 1_680_286_540_000;

/// The bytes of a frame.
pub(crate) fn check(bytes: &[u8]) {
    let frame = Frame {
        line: 7,
        bytes: bytes.to_vec(),
        taken_ms: None,
    };
    let mut counts = Counts::default();
    let admitted = admit(&frame, &mut counts);
    check_counts(&admitted, &counts);
    check_entries(bytes, &counts);
    check_long_form(bytes, &admitted, &counts);
    check_live(bytes, &admitted, &counts);
    check_records(&admitted);
}

/// The content of what was admitted, without the texts for people.
type Content<'a> = (Vec<(&'a str, &'a [Trade])>, Vec<Reason>, Option<&'a str>);

fn content<'a>(admitted: &'a Admitted<'_>) -> Content<'a> {
    let groups = admitted.groups.iter();
    let invalid = admitted.invalid_frames.iter();
    (
        groups
            .map(|group| (&*group.symbol, &*group.trades))
            .collect(),
        invalid.map(|invalid| invalid.reason).collect(),
        admitted.provider_error.as_deref(),
    )
}

fn total(counts: &Counts) -> u64 {
    counts.trades + counts.price_updates + counts.invalid_frames()
}

fn check_counts(admitted: &Admitted<'_>, counts: &Counts) {
    let trades: usize = admitted.groups.iter().map(|group| group.trades.len()).sum();
    assert_eq!(u64::try_from(trades), Ok(counts.trades));
    let symbols: BTreeSet<&str> = admitted.groups.iter().map(|group| &*group.symbol).collect();
    assert_eq!(
        symbols.len(),
        admitted.groups.len(),
        "a group for each symbol"
    );
    for group in &admitted.groups {
        assert!(!group.trades.is_empty());
        assert_eq!(Symbol::check(&group.symbol), Ok(()));
    }
    let invalid = counts.invalid_frames();
    let listed = u64::try_from(admitted.invalid_frames.len()).expect("few");
    let most = u64::try_from(LISTED).expect("few");
    assert_eq!(
        listed,
        invalid.min(most + 1),
        "one more stands for the rest"
    );
    for invalid in &admitted.invalid_frames {
        assert!(invalid.frame.len() <= 1_024 && invalid.detail.len() < 4_096);
        assert!(
            !invalid.detail.contains(char::is_control),
            "{}",
            invalid.detail
        );
    }
}

/// Every entry of a trade frame is counted once, by the count of another parser.
fn check_entries(bytes: &[u8], counts: &Counts) {
    if let Ok(Message::Trades(entries)) = message::parse(bytes) {
        let mut seen = 0;
        entries.for_each(|_| seen += 1).expect("it was parsed");
        assert_eq!(seen, total(counts));
        // The other parser takes no surrogate alone and no deep nesting.
        if let Ok(Value::Object(object)) = serde_json::from_slice(bytes) {
            let entries = object["data"].as_array().expect("an array of trades");
            assert_eq!(u64::try_from(entries.len()), Ok(total(counts)));
        }
    }
}

/// A long frame is parsed entry by entry, and must mean what a short one means.
fn check_long_form(bytes: &[u8], short: &Admitted<'_>, counts: &Counts) {
    let frame = Frame {
        line: 7,
        bytes: [bytes, &vec![b' '; BLANKS]].concat(),
        taken_ms: None,
    };
    let mut long_counts = Counts::default();
    let long = admit(&frame, &mut long_counts);
    assert_eq!(content(&long), content(short));
    assert_eq!(
        (total(&long_counts), &long_counts.invalid, long_counts.pings),
        (total(counts), &counts.invalid, counts.pings)
    );
    assert_eq!(
        (long_counts.rounded, &long_counts.unknown_conditions),
        (counts.rounded, &counts.unknown_conditions)
    );
}

/// The same frame, live: of its trades, those in the future are refused.
fn check_live(bytes: &[u8], recorded: &Admitted<'_>, counts: &Counts) {
    let frame = Frame {
        line: 7,
        bytes: bytes.to_vec(),
        taken_ms: Some(TAKEN_MS),
    };
    let mut live_counts = Counts::default();
    let live = admit(&frame, &mut live_counts);
    let is_future = |trade: &&Trade| trade.event_time.is_future(TAKEN_MS);
    let trades = recorded.groups.iter().flat_map(|group| &group.trades);
    let future = u64::try_from(trades.filter(is_future).count()).expect("a count");
    assert_eq!(live_counts.trades + future, counts.trades);
    // A trade may be refused for its notional, too; the future is the reason that comes first.
    let refused = live_counts.invalid.get(&Reason::Future).copied();
    assert!(refused.unwrap_or(0) >= future);
    assert_eq!(
        live_counts.invalid_frames(),
        counts.invalid_frames() + future
    );
    assert_eq!(live_counts.price_updates, counts.price_updates);
    check_counts(&live, &live_counts);
}

/// The records of a frame hold its trades, in order, and its invalid frames.
fn check_records(admitted: &Admitted<'_>) {
    let session = SessionId([3; 16]);
    let mut sequencer = Sequencer::new(session, "fuzz", PARTITIONS);
    let origin = Origin {
        line: 7,
        taken_ms: TAKEN_MS,
    };
    let (mut records, mut entries) = (Vec::new(), Vec::new());
    sequencer.take(admitted, origin, &mut Counts::default(), &mut records);
    let mut groups: Vec<(String, Vec<Trade>)> = Vec::new();
    let mut invalid = admitted.invalid_frames.iter();
    for record in &records {
        match codec::decode(&record.payload, &mut entries).expect("our own record") {
            codec::Header::Batch { taken_ms, .. } => {
                assert_eq!(taken_ms, TAKEN_MS);
                assert_eq!(record.partition, partition_for(&record.key, PARTITIONS));
                let trades = entries.iter().map(|entry| {
                    assert_eq!(codec::symbol_of(&record.payload, entry), record.key);
                    entry.trade.expect("an admitted trade")
                });
                match groups.last_mut() {
                    Some((symbol, group)) if *symbol == record.key => group.extend(trades),
                    _ => groups.push((record.key.clone(), trades.collect())),
                }
            }
            codec::Header::InvalidFrame {
                reason,
                detail,
                frame,
                ..
            } => {
                let sent = invalid.next().expect("no more than were admitted");
                assert_eq!(
                    (reason, detail, frame),
                    (sent.reason.word(), &*sent.detail, sent.frame)
                );
            }
            codec::Header::FeedState(_) => panic!("a frame says nothing of the feed"),
            codec::Header::Legacy => panic!("ingest writes no legacy record"),
        }
    }
    assert!(invalid.next().is_none(), "every invalid frame has a record");
    let (admitted_groups, ..) = content(admitted);
    let groups: Vec<_> = groups
        .iter()
        .map(|(symbol, trades)| (&**symbol, &**trades))
        .collect();
    assert_eq!(groups, admitted_groups);
}
