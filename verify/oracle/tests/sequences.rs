//! The oracle's duplicate filter against the job's: repeats, gaps, leaps, and sessions that come
//! back.

use rand::{Rng, SeedableRng, rngs::StdRng};
use tapeflow_oracle::Oracle;
use tapeflow_protocol::dedup::{DuplicateFilter, SEQUENCE_LEAP, SESSION_OFFSETS, Verdict};
use tapeflow_schemas::{
    SessionId,
    codec::{BatchHeader, encode_batch},
};

/// Feeds random records of so many sessions to both, and compares what becomes of each.
fn check(seed: u64, sessions: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut oracle = Oracle::new(vec!["1m".parse().expect("a size")], 1);
    let mut filter = DuplicateFilter::default();
    let (mut offset, mut payload) = (0, Vec::new());
    let mut next = vec![1u64; sessions];
    for at in 0..1_000 {
        offset += if random.random_bool(0.002) {
            SESSION_OFFSETS - random.random_range(0..5)
        } else {
            1
        };
        let of = random.random_range(0..sessions);
        let near = next[of];
        let sequence = match random.random_range(0..40) {
            0 => random.random_range(1..i64::MAX.unsigned_abs()),
            1 => near + SEQUENCE_LEAP + random.random_range(0..3) - 1,
            2 => near + random.random_range(0..100),
            3..6 => near.saturating_sub(random.random_range(0..100)).max(1),
            _ => near,
        };
        // A leap is followed by its successor, or by what would have come without it.
        if sequence >= near && (sequence - near < 1_000 || random.random_bool(0.5)) {
            next[of] = (sequence + 1).min(i64::MAX.unsigned_abs() - 200);
        }
        let session = SessionId([u8::try_from(of).expect("small"); 16]);
        payload.clear();
        let header = BatchHeader {
            symbol: "AAPL",
            source: "test",
            session,
            sequence,
            taken_ms: 1,
        };
        encode_batch(&mut payload, &header, &[]);
        let before = oracle.counts();
        oracle.record(0, 0, offset, 1, Some(&payload));
        let now = oracle.counts();
        let found = (
            now.gaps - before.gaps,
            now.duplicates - before.duplicates,
            now.dead_letters_total() - before.dead_letters_total(),
        );
        let want = match filter.observe(session, sequence, offset) {
            Verdict::Fresh { gap } => (gap, 0, 0),
            Verdict::Duplicate => (0, 1, 0),
            Verdict::Leap { .. } => (0, 0, 1),
        };
        assert_eq!(found, want, "seed {seed}, record {at}");
    }
}

#[test]
fn the_oracle_decides_about_every_sequence_as_the_job_does() {
    for seed in 0..30 {
        check(seed, 3);
        check(seed, 80);
    }
}
