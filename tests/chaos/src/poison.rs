//! Records that no job can count: each must become a dead letter, in its place and under its
//! reason, and hold up nothing.

use std::{collections::BTreeMap, sync::PoisonError};

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use tapeflow_protocol::store::MAX_DEAD_LETTER_BYTES;
use tapeflow_schemas::codec;

/// Bytes of which no reading makes a number: each says that another one follows.
const NONSENSE: [u8; 16] = [0xff; 16];
/// The checkpoint of our own records: two bytes of magic, and eight of fingerprint.
const MAGIC: [u8; 2] = [0xc3, 0x01];
const CHECKPOINT_BYTES: usize = MAGIC.len() + 8;
/// Bytes of a record by which it is known again.
const KNOWN_BY: usize = 64;

/// What a record of poison looks like, and the reason it must be refused for.
pub(crate) fn payload(random: &mut StdRng, good: &[u8]) -> (Vec<u8>, &'static str) {
    let noise = |random: &mut StdRng, count: usize| {
        (0..count)
            .map(|_| random.random::<u8>())
            .collect::<Vec<u8>>()
    };
    let kind = *[0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3]
        .choose(random)
        .unwrap_or(&0);
    match kind {
        0 => {
            let length = random.random_range(1..200);
            (
                [&NONSENSE[..], &noise(random, length)].concat(),
                "malformed",
            )
        }
        1 => (
            [
                &MAGIC[..],
                &noise(random, 8),
                good.get(CHECKPOINT_BYTES..).unwrap_or_default(),
            ]
            .concat(),
            "unknown_fingerprint",
        ),
        2 => (
            good[..random.random_range(good.len() / 2..good.len())].to_vec(),
            "malformed",
        ),
        // Larger than what is fetched at a time, and nothing that compression makes small.
        _ if random.random_bool(0.3) => {
            let length = random.random_range(300_000..700_000);
            (
                [
                    &MAGIC[..],
                    &codec::TRADE_BATCH_FINGERPRINT.to_le_bytes(),
                    &NONSENSE,
                    &noise(random, length),
                ]
                .concat(),
                "malformed",
            )
        }
        _ => (Vec::new(), "empty"),
    }
}

/// All the poison there is, by what it is known by, with its reason.
#[derive(Default)]
pub(crate) struct Cabinet(std::sync::Mutex<BTreeMap<(usize, Vec<u8>), &'static str>>);

impl Cabinet {
    pub(crate) fn add(&self, payload: &[u8], reason: &'static str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(known_by(payload), reason);
    }

    /// The reason it must be refused for, if this is poison.
    pub(crate) fn reason(&self, payload: &[u8]) -> Option<&'static str> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&known_by(payload))
            .copied()
    }
}

fn known_by(payload: &[u8]) -> (usize, Vec<u8>) {
    // A record cut short begins as the whole one does; its length tells them apart.
    (
        payload.len(),
        payload[..payload.len().min(KNOWN_BY)].to_vec(),
    )
}

/// A dead letter that must be there: its reason, and the bytes that are kept of its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    pub(crate) reason: String,
    pub(crate) payload: Vec<u8>,
}

impl DeadLetter {
    pub(crate) fn new(reason: &str, payload: &[u8]) -> Self {
        Self {
            reason: reason.into(),
            payload: payload[..payload.len().min(MAX_DEAD_LETTER_BYTES)].to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;
    use tapeflow_schemas::{
        SessionId,
        codec::{BatchHeader, DecodeError},
    };

    use super::*;
    use crate::ledger::{Id, Minute, trade};

    #[test]
    fn poison_is_refused_for_its_reason_and_known_again() {
        let (mut random, mut good, mut entries) =
            (StdRng::seed_from_u64(1), Vec::new(), Vec::new());
        let header = BatchHeader {
            symbol: "C00",
            source: "chaos",
            session: SessionId([1; 16]),
            sequence: 7,
            taken_ms: 1_704_207_600_000,
        };
        let trades: Vec<_> = (0..2)
            .filter_map(|slot| {
                trade(Id {
                    minute: Minute {
                        symbol: 0,
                        number: 0,
                    },
                    slot,
                })
            })
            .collect();
        codec::encode_batch(&mut good, &header, &trades);
        let cabinet = Cabinet::default();
        let mut reasons = BTreeSet::new();
        for _ in 0..200 {
            let (payload, reason) = payload(&mut random, &good);
            cabinet.add(&payload, reason);
            assert_eq!(cabinet.reason(&payload), Some(reason));
            let fault = codec::decode(&payload, &mut entries).expect_err("poison");
            let said = match fault {
                DecodeError::UnknownFingerprint(_) => "unknown_fingerprint",
                DecodeError::Malformed { .. } => "malformed",
                DecodeError::Empty => "empty",
            };
            assert_eq!(said, reason);
            reasons.insert(reason);
        }
        assert_eq!(reasons.len(), 3);
        assert_eq!(cabinet.reason(&good), None);
    }
}
