//! The bytes of a segment: a header, then entries, one for each record.
//!
//! ```text
//!  header  magic 8 | length u32 | checksum u64 | segment u64, partitions u32,
//!                                                id length u32 (0: none), id, log
//!  entry   mark 4  | length u32 | checksum u64 | partition u32, time i64,
//!                                                session 16 and sequence u64 (zeros: none),
//!                                                key length u32, key, payload
//! ```
//!
//! Numbers are little-endian. The checksum is XXH3 of the body, with the place of the entry as its
//! seed: bytes of another segment or place never pass for an entry.
//!
//! A process that is killed leaves a prefix of its last write. So an entry that cannot be read is a
//! torn end if no whole entry follows, and damage otherwise.

use tapeflow_log::NewRecord;
use tapeflow_schemas::SessionId;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Owner;

const MAGIC: [u8; 8] = *b"TFSPOOL1";
const MARK: [u8; 4] = [0xF5, b't', b'f', 0xA7];
/// The parts before the body.
const HEADER_PREFIX: usize = 20;
const ENTRY_PREFIX: usize = 16;
/// A body without key and payload.
const FIXED_BODY: usize = 40;
/// Bound of an entry's body. Kafka's own bound of a record is a megabyte by default.
pub(super) const MAX_BODY: usize = 16 << 20;
/// Bound of a header's body: a topic has at most 249 characters.
const MAX_HEADER: usize = 4_096;

/// The header of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) segment: u64,
    pub(super) owner: Owner,
}

/// Why bytes are no entry or header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// They end before it does.
    Short,
    /// They are something else.
    Wrong,
}

/// What a segment holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scan {
    /// The whole entries from the offset on.
    pub(super) records: u64,
    /// Where they end.
    pub(super) end: usize,
    /// What follows them.
    pub(super) rest: Rest,
}

/// What follows the whole entries of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing.
    Nothing,
    /// The beginning of an entry, or bytes without a whole one.
    Torn,
    /// Bytes that are no entry, with whole entries after them.
    Damage,
}

pub(super) fn encode_header(header: &Header) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(header.segment.to_le_bytes());
    body.extend(header.owner.partitions.to_le_bytes());
    let id = header.owner.id.as_deref().unwrap_or_default();
    body.extend(length(id.len()).to_le_bytes());
    body.extend(id.as_bytes());
    body.extend(header.owner.log.as_bytes());
    let mut bytes = Vec::with_capacity(HEADER_PREFIX + body.len());
    bytes.extend(MAGIC);
    bytes.extend(length(body.len()).to_le_bytes());
    bytes.extend(xxh3_64_with_seed(&body, 0).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// The header at the beginning of a segment, and its size.
pub(super) fn decode_header(bytes: &[u8]) -> Result<(Header, usize), Flaw> {
    let mut rest = bytes;
    if take::<8>(&mut rest)? != MAGIC {
        return Err(Flaw::Wrong);
    }
    let (mut body, size) = body(bytes, HEADER_PREFIX - 12, 0, MAX_HEADER)?;
    let segment = u64::from_le_bytes(take(&mut body)?);
    let partitions = u32::from_le_bytes(take(&mut body)?);
    let id = u32::from_le_bytes(take(&mut body)?) as usize;
    let (id, log) = body.split_at_checked(id).ok_or(Flaw::Wrong)?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| Flaw::Wrong);
    let owner = Owner {
        log: text(log)?,
        id: Some(text(id)?).filter(|id| !id.is_empty()),
        partitions,
    };
    Ok((Header { segment, owner }, size))
}

/// The size of a record's entry.
pub(super) fn entry_size(record: &NewRecord) -> usize {
    ENTRY_PREFIX + FIXED_BODY + record.key.len() + record.payload.len()
}

/// Adds the entry of a record to `out`. It will stand at `offset` of the segment.
pub(super) fn encode_entry(out: &mut Vec<u8>, record: &NewRecord, segment: u64, offset: u64) {
    let begin = out.len();
    out.extend(MARK);
    out.extend(length(entry_size(record) - ENTRY_PREFIX).to_le_bytes());
    out.extend([0; 8]);
    let (session, sequence) = record.session.unwrap_or((SessionId([0; 16]), 0));
    out.extend(record.partition.to_le_bytes());
    out.extend(record.timestamp_ms.to_le_bytes());
    out.extend(session.0);
    out.extend(sequence.to_le_bytes());
    out.extend(length(record.key.len()).to_le_bytes());
    out.extend(record.key.as_bytes());
    out.extend(&record.payload);
    let sum = xxh3_64_with_seed(&out[begin + ENTRY_PREFIX..], seed(segment, offset));
    out[begin + ENTRY_PREFIX - 8..begin + ENTRY_PREFIX].copy_from_slice(&sum.to_le_bytes());
}

/// The entry at the beginning of `bytes`, which stands at `offset` of the segment, and its size.
pub(super) fn decode_entry(
    bytes: &[u8],
    segment: u64,
    offset: u64,
) -> Result<(NewRecord, usize), Flaw> {
    let mut rest = bytes;
    if take::<4>(&mut rest)? != MARK {
        return Err(Flaw::Wrong);
    }
    let (mut body, size) = body(bytes, ENTRY_PREFIX - 12, seed(segment, offset), MAX_BODY)?;
    let partition = u32::from_le_bytes(take(&mut body)?);
    let timestamp_ms = i64::from_le_bytes(take(&mut body)?);
    let session = SessionId(take(&mut body)?);
    let sequence = u64::from_le_bytes(take(&mut body)?);
    let key = u32::from_le_bytes(take(&mut body)?) as usize;
    let (key, payload) = body.split_at_checked(key).ok_or(Flaw::Wrong)?;
    // Sequences begin at 1, and a record without one has no session.
    if sequence == 0 && session.0 != [0; 16] {
        return Err(Flaw::Wrong);
    }
    let record = NewRecord {
        partition,
        key: String::from_utf8(key.to_vec()).map_err(|_| Flaw::Wrong)?,
        timestamp_ms,
        payload: payload.to_vec(),
        session: (sequence > 0).then_some((session, sequence)),
    };
    Ok((record, size))
}

/// Reads all entries of a segment from an offset on.
pub(super) fn scan(bytes: &[u8], segment: u64, from: usize) -> Scan {
    let (mut at, mut records) = (from, 0);
    while at < bytes.len() {
        match decode_entry(&bytes[at..], segment, at as u64) {
            Ok((_, size)) => {
                at += size;
                records += 1;
            }
            Err(_) => break,
        }
    }
    let rest = if at >= bytes.len() {
        Rest::Nothing
    } else if has_entry(bytes, segment, at + 1) {
        Rest::Damage
    } else {
        Rest::Torn
    };
    Scan {
        records,
        end: at,
        rest,
    }
}

/// Whether a whole entry begins anywhere from an offset on.
fn has_entry(bytes: &[u8], segment: u64, from: usize) -> bool {
    let after = bytes.get(from..).unwrap_or_default();
    after.windows(MARK.len()).enumerate().any(|(place, mark)| {
        let at = from + place;
        mark == MARK && decode_entry(&bytes[at..], segment, at as u64).is_ok()
    })
}

/// The checked body whose length and checksum stand at `at`, and the size up to its end.
fn body(bytes: &[u8], at: usize, seed: u64, most: usize) -> Result<(&[u8], usize), Flaw> {
    let mut rest = bytes.get(at..).ok_or(Flaw::Short)?;
    let length = u32::from_le_bytes(take(&mut rest)?) as usize;
    let sum = u64::from_le_bytes(take(&mut rest)?);
    if length > most {
        return Err(Flaw::Wrong);
    }
    let body = rest.get(..length).ok_or(Flaw::Short)?;
    if xxh3_64_with_seed(body, seed) != sum {
        return Err(Flaw::Wrong);
    }
    Ok((body, at + 12 + length))
}

fn seed(segment: u64, offset: u64) -> u64 {
    // An odd factor: neighbouring segments share no seeds below 2^48 bytes.
    (segment.wrapping_mul(0x9E37_79B9_7F4A_7C15)) ^ offset
}

fn take<const N: usize>(from: &mut &[u8]) -> Result<[u8; N], Flaw> {
    let (head, rest) = from.split_first_chunk::<N>().ok_or(Flaw::Short)?;
    *from = rest;
    Ok(*head)
}

/// A length, which its caller has bounded.
fn length(length: usize) -> u32 {
    u32::try_from(length).expect("entries are bounded by MAX_BODY")
}

/// What must hold of any bytes, as a segment, and as the body of an entry that is whole.
#[cfg(feature = "fuzz")]
pub fn check(bytes: &[u8]) {
    if let Ok((header, size)) = decode_header(bytes) {
        assert_eq!(encode_header(&header), bytes[..size]);
        let found = scan(bytes, header.segment, size);
        let (mut again, mut at) = (Vec::new(), size);
        for _ in 0..found.records {
            let (record, size) =
                decode_entry(&bytes[at..], header.segment, at as u64).expect("scanned");
            encode_entry(&mut again, &record, header.segment, at as u64);
            at += size;
        }
        assert_eq!((again.as_slice(), at), (&bytes[size..found.end], found.end));
    }
    let mut entry = MARK.to_vec();
    entry.extend(length(bytes.len()).to_le_bytes());
    entry.extend(xxh3_64_with_seed(bytes, seed(1, 0)).to_le_bytes());
    entry.extend(bytes);
    if let Ok((record, size)) = decode_entry(&entry, 1, 0) {
        let mut again = Vec::new();
        encode_entry(&mut again, &record, 1, 0);
        assert_eq!((again, size), (entry.clone(), entry.len()));
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    const SEGMENT: u64 = 7;

    fn random_records(random: &mut StdRng, count: usize) -> Vec<NewRecord> {
        (0..count)
            .map(|_| {
                let mut payload = vec![0; random.random_range(0..60)];
                random.fill(payload.as_mut_slice());
                let session = SessionId(random.random());
                NewRecord {
                    partition: random.random_range(0..9),
                    key: "AAPL:Ü"[..random.random_range(0..5)].to_owned(),
                    timestamp_ms: random.random(),
                    payload,
                    session: random
                        .random_bool(0.9)
                        .then_some((session, random.random_range(1..u64::MAX))),
                }
            })
            .collect()
    }

    /// A segment, and where each of its entries begins; the last place is the end.
    fn segment(records: &[NewRecord]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = encode_header(&header());
        let mut places = vec![bytes.len()];
        for record in records {
            let at = bytes.len() as u64;
            encode_entry(&mut bytes, record, SEGMENT, at);
            places.push(bytes.len());
        }
        (bytes, places)
    }

    fn header() -> Header {
        Header {
            segment: SEGMENT,
            owner: Owner {
                log: "topic trades of cluster x".into(),
                id: Some("Zm9v".into()),
                partitions: 9,
            },
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let mut random = StdRng::seed_from_u64(1);
        for count in 0..40 {
            let records = random_records(&mut random, count);
            let (bytes, places) = segment(&records);
            assert_eq!(decode_header(&bytes), Ok((header(), places[0])));
            for (record, range) in records.iter().zip(places.windows(2)) {
                assert_eq!(entry_size(record), range[1] - range[0]);
                let read = decode_entry(&bytes[range[0]..], SEGMENT, range[0] as u64);
                assert_eq!(read, Ok((record.clone(), range[1] - range[0])));
            }
            let scanned = scan(&bytes, SEGMENT, places[0]);
            assert_eq!(
                (scanned.records, scanned.end, scanned.rest),
                (count as u64, bytes.len(), Rest::Nothing)
            );
        }
    }

    #[test]
    fn a_segment_cut_at_any_byte_keeps_the_whole_entries_before_it() {
        let records = random_records(&mut StdRng::seed_from_u64(2), 12);
        let (bytes, places) = segment(&records);
        for cut in 0..bytes.len() {
            if cut < places[0] {
                assert_eq!(decode_header(&bytes[..cut]), Err(Flaw::Short), "{cut}");
                continue;
            }
            let whole = places.iter().filter(|place| **place <= cut).count() - 1;
            let want = Scan {
                records: whole as u64,
                end: places[whole],
                rest: if places[whole] == cut {
                    Rest::Nothing
                } else {
                    Rest::Torn
                },
            };
            assert_eq!(
                scan(&bytes[..cut], SEGMENT, places[0]),
                want,
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn any_changed_byte_is_damage_unless_it_is_in_the_last_entry() {
        let records = random_records(&mut StdRng::seed_from_u64(3), 6);
        let (bytes, places) = segment(&records);
        for at in places[0]..bytes.len() {
            for flip in [1, 0x80, 0xFF] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                let entry = places.iter().filter(|place| **place <= at).count() - 1;
                let scanned = scan(&changed, SEGMENT, places[0]);
                assert_eq!(scanned.end, places[entry], "byte {at}");
                let rest = if entry == records.len() - 1 {
                    Rest::Torn
                } else {
                    Rest::Damage
                };
                assert_eq!(scanned.rest, rest, "byte {at}");
            }
        }
        for at in 0..places[0] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(decode_header(&changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn an_entry_of_another_place_or_segment_is_none() {
        let records = random_records(&mut StdRng::seed_from_u64(4), 1);
        let (bytes, places) = segment(&records);
        let entry = &bytes[places[0]..];
        for (segment, offset) in [(SEGMENT, 0), (SEGMENT + 1, places[0] as u64)] {
            assert_eq!(decode_entry(entry, segment, offset), Err(Flaw::Wrong));
        }
    }

    #[test]
    fn no_bytes_cause_a_panic_or_a_large_allocation() {
        let mut random = StdRng::seed_from_u64(5);
        for _ in 0..20_000 {
            let mut bytes = vec![0; random.random_range(0..80)];
            random.fill(bytes.as_mut_slice());
            if random.random_bool(0.5) {
                for (byte, mark) in bytes.iter_mut().zip(MARK) {
                    *byte = mark;
                }
            }
            assert!(decode_entry(&bytes, SEGMENT, 0).is_err());
            assert!(decode_header(&bytes).is_err());
            assert_eq!(scan(&bytes, SEGMENT, 0).records, 0);
        }
    }
}
