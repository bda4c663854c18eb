//! A state of the feed in the hand-written codec and in the reference implementation, apache-avro:
//! each decodes what the other encodes.

mod support;

use apache_avro::types::Value;
use rand::Rng;
use support::{read, record, seeded, single_object, write};
use tapeflow_schemas::{
    SessionId,
    codec::{
        FEED_STATE_FINGERPRINT, FEED_STATE_SCHEMA, FeedState, FeedStateHeader, Header, decode,
        encode_feed_state,
    },
};

#[test]
fn a_feed_state_is_written_as_the_reference_writes_it_and_read_by_both() {
    const STATES: [(FeedState, &str); 5] = [
        (FeedState::Begins, "BEGINS"),
        (FeedState::Away, "AWAY"),
        (FeedState::Back, "BACK"),
        (FeedState::Alive, "ALIVE"),
        (FeedState::Ends, "ENDS"),
    ];
    seeded(|rng| {
        let at = rng.random_range(0..STATES.len());
        let header = FeedStateHeader {
            session: SessionId(rng.random()),
            sequence: rng.random_range(1..1 << 40),
            taken_ms: rng.random_range(0..1 << 42),
            producer: "ingest é",
            state: STATES[at].0,
            cause: "disconnected",
            from_ms: rng.random(),
            to_ms: rng.random(),
            previous: rng.random::<bool>().then(|| SessionId(rng.random())),
            previous_sequence: rng.random_range(0..1 << 40),
        };
        let long = |number: u64| Value::Long(i64::try_from(number).expect("small"));
        let session = |session: SessionId| Value::Fixed(16, session.0.to_vec());
        let value = record([
            ("session", session(header.session)),
            ("sequence", long(header.sequence)),
            ("taken_ms", Value::TimestampMillis(header.taken_ms)),
            ("producer", Value::String(header.producer.into())),
            (
                "state",
                Value::Enum(u32::try_from(at).expect("small"), STATES[at].1.into()),
            ),
            ("cause", Value::String(header.cause.into())),
            ("from_ms", Value::TimestampMillis(header.from_ms)),
            ("to_ms", Value::TimestampMillis(header.to_ms)),
            (
                "previous",
                match header.previous {
                    None => Value::Union(0, Box::new(Value::Null)),
                    Some(previous) => Value::Union(1, Box::new(session(previous))),
                },
            ),
            ("previous_sequence", long(header.previous_sequence)),
        ]);
        let mut payload = Vec::new();
        encode_feed_state(&mut payload, &header);
        assert_eq!(
            payload,
            single_object(
                FEED_STATE_FINGERPRINT,
                &write(FEED_STATE_SCHEMA, value.clone())
            )
        );
        assert_eq!(read(FEED_STATE_SCHEMA, &payload[10..]), value);
        let mut entries = Vec::new();
        assert_eq!(
            decode(&payload, &mut entries),
            Ok(Header::FeedState(header))
        );
        assert!(entries.is_empty());
        for len in 0..payload.len() {
            assert!(
                decode(&payload[..len], &mut entries).is_err(),
                "cut to {len} bytes"
            );
        }
        let longer = [&payload[..], &[0]].concat();
        assert!(decode(&longer, &mut entries).is_err());
    });
}
