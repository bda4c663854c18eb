//! The checkpoint as a store keeps it: one line of JSON, so that an operator can read it.
//!
//! A field of all partitions is one array. The duplicate filters are base64 of a compact form
//! (`filters.rs`), because they are most of a checkpoint: 64 partitions and a year of daily
//! restarts of ingest stay below 64 kB, with all epochs that may be bound.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use tapeflow_schemas::{Epoch, Offset, Partition, WriteTimestamp};

use super::{
    Binding, CHECKPOINT_FORMAT, Checkpoint, Cut, LastRecord, LostRange, SourceIdentity, filters,
};

/// The longest checkpoint that is written. Cassandra refuses a mutation of half a commit log
/// segment, 16 MiB by default, and a refusal would come only after rounds of Paxos.
pub const MAX_CHECKPOINT_BYTES: usize = 4 << 20;

/// The largest offset and write timestamp that a checkpoint may have: more than any log or clock
/// reaches in a thousand years. Numbers beyond it are damage, and counting on from them could
/// overflow.
const MAX_NUMBER: i64 = 1 << 62;
/// The largest generation, version and epoch that a checkpoint may have.
const MAX_COUNT: u64 = 1 << 62;

/// Why a checkpoint cannot be written or read. No retry corrects it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    /// It is longer than [`MAX_CHECKPOINT_BYTES`].
    #[error(
        "the checkpoint has {bytes} bytes, more than {MAX_CHECKPOINT_BYTES}: the topic has too \
         many partitions, or too many sessions write to it"
    )]
    TooLong {
        /// Its bytes.
        bytes: usize,
    },
    /// A newer binary wrote it, in another shape.
    #[error(
        "the store's checkpoint has format {found}, this binary knows {CHECKPOINT_FORMAT}: use the \
         newer tapeflow that wrote it, or another store with --store"
    )]
    Newer {
        /// Its format.
        found: u32,
    },
    /// A build before the first release wrote it.
    #[error(
        "the store's checkpoint has format {found} of a build before the first release: rebuild \
         into a new store with --store"
    )]
    Older {
        /// Its format.
        found: u32,
    },
    /// It is no checkpoint.
    #[error("the checkpoint is damaged: {0}")]
    Damaged(String),
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    job: String,
    generation: u64,
    version: u64,
    owner: String,
    fingerprint: String,
    source: SourceIdentity,
    datacenter: Option<String>,
    recovery_timestamp: WriteTimestamp,
    last_write_timestamp: WriteTimestamp,
    committed: StoredBinding,
    bound: Vec<StoredBinding>,
}

/// A binding. The arrays have an element for each partition.
#[derive(Serialize, Deserialize)]
struct StoredBinding {
    epoch: Epoch,
    write_timestamp: WriteTimestamp,
    next: Vec<Offset>,
    watermark_ms: Vec<Option<i64>>,
    /// The last record below each cut, as [`last_records`] packs them.
    last: String,
    /// The partitions that have lost offsets.
    lost: BTreeMap<Partition, LostRange>,
    filters: String,
}

impl Checkpoint {
    /// The text that a store keeps. What could not be read again is not written, so that a store
    /// keeps the checkpoint that it has.
    ///
    /// # Errors
    /// [`StoredError::TooLong`]; [`StoredError::Damaged`] for numbers beyond any log or clock, which
    /// follow only from a checkpoint that somebody has forged.
    pub fn to_text(&self) -> Result<String, StoredError> {
        match impossible(self) {
            None => self.unchecked_text(),
            Some(what) => Err(StoredError::Damaged(what)),
        }
    }

    fn unchecked_text(&self) -> Result<String, StoredError> {
        let mut writer = filters::Writer::default();
        let committed = StoredBinding::new(&self.committed, &mut writer);
        let bound = self
            .bound
            .iter()
            .map(|binding| StoredBinding::new(binding, &mut writer))
            .collect();
        let stored = Stored {
            format: self.format,
            job: self.job.clone(),
            generation: self.generation,
            version: self.version,
            owner: self.owner.clone(),
            fingerprint: self.fingerprint.clone(),
            source: self.source.clone(),
            datacenter: self.datacenter.clone(),
            recovery_timestamp: self.recovery_timestamp,
            last_write_timestamp: self.last_write_timestamp,
            committed,
            bound,
        };
        let text = serde_json::to_string(&stored).map_err(|error| damaged(&error))?;
        if text.len() > MAX_CHECKPOINT_BYTES {
            return Err(StoredError::TooLong { bytes: text.len() });
        }
        Ok(text)
    }

    /// The checkpoint of such a text.
    ///
    /// # Errors
    /// [`StoredError`], except for [`StoredError::TooLong`].
    pub fn from_text(text: &str) -> Result<Self, StoredError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        // Another format may have another shape, so the format is read first. A newer one of this
        // shape is refused by `decide::take_over`.
        let Format { format } = serde_json::from_str(text).map_err(|error| damaged(&error))?;
        if format < CHECKPOINT_FORMAT {
            return Err(StoredError::Older { found: format });
        }
        let stored: Stored = serde_json::from_str(text).map_err(|error| {
            if format > CHECKPOINT_FORMAT {
                StoredError::Newer { found: format }
            } else {
                damaged(&error)
            }
        })?;
        let mut reader = filters::Reader::default();
        let committed = stored.committed.binding(&mut reader)?;
        let bound = stored
            .bound
            .into_iter()
            .map(|binding| binding.binding(&mut reader))
            .collect::<Result<_, _>>()?;
        let checkpoint = Self {
            format: stored.format,
            job: stored.job,
            generation: stored.generation,
            version: stored.version,
            owner: stored.owner,
            fingerprint: stored.fingerprint,
            source: stored.source,
            datacenter: stored.datacenter,
            recovery_timestamp: stored.recovery_timestamp,
            last_write_timestamp: stored.last_write_timestamp,
            committed,
            bound,
        };
        match impossible(&checkpoint) {
            None => Ok(checkpoint),
            Some(what) => Err(StoredError::Damaged(what)),
        }
    }
}

/// What no job writes, if there is any. The decisions count on from these numbers, and read every
/// binding's cut of a partition.
fn impossible(checkpoint: &Checkpoint) -> Option<String> {
    let Checkpoint {
        generation,
        version,
        recovery_timestamp,
        last_write_timestamp,
        committed,
        bound,
        ..
    } = checkpoint;
    if (*generation).max(*version).max(committed.epoch) > MAX_COUNT {
        return Some("a count that no job reaches".into());
    }
    if *last_write_timestamp > MAX_NUMBER || recovery_timestamp > last_write_timestamp {
        return Some("the last write timestamp".into());
    }
    let mut before = committed;
    for (number, binding) in (committed.epoch..).zip(std::iter::once(committed).chain(bound)) {
        if binding.epoch != number {
            return Some(format!("epoch {} in the place of {number}", binding.epoch));
        }
        if binding.write_timestamp > *last_write_timestamp {
            return Some(format!("the write timestamp of epoch {number}"));
        }
        if binding.cuts.len() != before.cuts.len() {
            return Some(format!("the number of partitions of epoch {number}"));
        }
        for (partition, (cut, before)) in binding.cuts.iter().zip(&before.cuts).enumerate() {
            let is_lost_possible = cut
                .lost
                .is_none_or(|lost| 0 <= lost.from && lost.from < lost.to && lost.to <= MAX_NUMBER);
            let is_next_possible = (before.next.max(0)..=MAX_NUMBER).contains(&cut.next);
            if !is_lost_possible || !is_next_possible {
                return Some(format!(
                    "the cut of partition {partition} in epoch {number}"
                ));
            }
        }
        before = binding;
    }
    None
}

impl StoredBinding {
    fn new(binding: &Binding, writer: &mut filters::Writer) -> Self {
        let cuts = &binding.cuts;
        Self {
            epoch: binding.epoch,
            write_timestamp: binding.write_timestamp,
            next: cuts.iter().map(|cut| cut.next).collect(),
            watermark_ms: cuts.iter().map(|cut| cut.watermark_ms).collect(),
            last: STANDARD.encode(last_records(cuts)),
            lost: (0..)
                .zip(cuts)
                .filter_map(|(partition, cut)| Some((partition, cut.lost?)))
                .collect(),
            filters: STANDARD.encode(writer.binding(cuts)),
        }
    }

    fn binding(self, reader: &mut filters::Reader) -> Result<Binding, StoredError> {
        let epoch = self.epoch;
        let of_epoch = |what: &str| StoredError::Damaged(format!("{what} of epoch {epoch}"));
        if self.watermark_ms.len() != self.next.len() {
            return Err(of_epoch("the number of watermarks"));
        }
        let last = STANDARD
            .decode(&self.last)
            .ok()
            .and_then(|bytes| unpacked_last_records(&bytes, &self.next))
            .ok_or_else(|| of_epoch("the last records"))?;
        let mut cuts: Vec<Cut> = (0..)
            .zip(self.next.into_iter().zip(self.watermark_ms).zip(last))
            .map(|(partition, ((next, watermark_ms), last))| Cut {
                next,
                watermark_ms,
                filter: Vec::new(),
                lost: self.lost.get(&partition).copied(),
                last,
            })
            .collect();
        let bytes = STANDARD
            .decode(&self.filters)
            .map_err(|_| of_epoch("the base64 of the filters"))?;
        reader
            .binding(&bytes, &mut cuts)
            .ok_or_else(|| of_epoch("the filters"))?;
        Ok(Binding {
            epoch,
            write_timestamp: self.write_timestamp,
            cuts,
        })
    }
}

/// For each cut: how far below it its last record is, then the record's hash. Zero and no hash: none.
fn last_records(cuts: &[Cut]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for cut in cuts {
        let below = cut.last.map_or(0, |last| cut.next.abs_diff(last.offset));
        filters::put(&mut bytes, below);
        bytes.extend(cut.last.iter().flat_map(|last| last.hash.to_le_bytes()));
    }
    bytes
}

/// The last records below cuts that end at `next`; `None` if the bytes are damaged.
fn unpacked_last_records(mut bytes: &[u8], next: &[Offset]) -> Option<Vec<Option<LastRecord>>> {
    let mut records = Vec::with_capacity(next.len());
    for next in next {
        let below = filters::take(&mut bytes)?;
        if below == 0 {
            records.push(None);
            continue;
        }
        let (hash, rest) = bytes.split_first_chunk::<8>()?;
        bytes = rest;
        records.push(Some(LastRecord {
            offset: next.checked_sub_unsigned(below)?,
            hash: u64::from_le_bytes(*hash),
        }));
    }
    bytes.is_empty().then_some(records)
}

fn damaged(error: &serde_json::Error) -> StoredError {
    StoredError::Damaged(error.to_string())
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::SessionId;

    use super::*;
    use crate::{
        checkpoint::{SessionPlace, SessionWindow},
        decide::{Opening, bind, take_over},
        dedup::{DuplicateFilter, SESSIONS_REMEMBERED},
    };

    fn fresh(partitions: usize) -> Checkpoint {
        let opening = Opening {
            job: "tapeflow".into(),
            fingerprint: "rules 2; sizes 1s,1m,5m,1h,1d; allowed lateness 5000 ms; views 10".into(),
            source: SourceIdentity {
                cluster: "MkU3OEVBNTcwNTJENDM2Qk".into(),
                topic: "trades".into(),
                topic_id: Some("7tXv4C9CTS2OZxTGXnQm4w".into()),
            },
            earliest: vec![0; partitions],
            owner: "0123456789abcdef0123456789abcdef".into(),
        };
        take_over(None, &opening, 1_790_000_000_000_000).expect("a fresh store")
    }

    /// 16 bytes that do not repeat.
    fn session(n: u64) -> SessionId {
        let half = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
        let mut id = [0; 16];
        id[..8].copy_from_slice(&half(n + 1));
        id[8..].copy_from_slice(&half(n + 1_000_003));
        SessionId(id)
    }

    /// Five bindings, as many as a job may have, after restarts of ingest with so many records each
    /// in each partition.
    fn after_restarts(partitions: usize, restarts: u64, records: u64) -> Checkpoint {
        let mut filter = DuplicateFilter::default();
        let mut offset = 0;
        for n in 0..restarts {
            for sequence in 1..=records {
                filter.observe(session(n), sequence, offset);
                offset += 1;
            }
        }
        let mut checkpoint = fresh(partitions);
        for epoch in 0..5 {
            for sequence in 1..=50 {
                filter.observe(session(restarts), epoch * 50 + sequence, offset);
                offset += 1;
            }
            let cut = Cut {
                next: offset,
                watermark_ms: Some(1_790_000_000_123),
                filter: filter.windows().to_vec(),
                lost: None,
                last: Some(LastRecord {
                    offset: offset - 1,
                    hash: u64::MAX - 7,
                }),
            };
            checkpoint = bind(&checkpoint, vec![cut; partitions], 1, 1_790_000_000_000_000);
        }
        checkpoint
    }

    #[test]
    fn a_year_of_daily_restarts_into_64_partitions_stays_below_64_kb() {
        // Few records a day: the sessions of 64 days are remembered in every partition. Many: their
        // numbers are long.
        for records in [1, 30, 20_000] {
            let checkpoint = after_restarts(64, 365, records);
            assert_eq!(checkpoint.bound.len(), 4, "c and four epochs ahead");
            assert_eq!(
                checkpoint.committed.cuts[0].filter.len(),
                SESSIONS_REMEMBERED
            );
            let text = checkpoint.to_text().expect("short enough");
            println!("{records} records a day: {} bytes", text.len());
            assert!(text.len() <= 64_000, "{} bytes", text.len());
            assert_eq!(Checkpoint::from_text(&text).as_ref(), Ok(&checkpoint));
        }
    }

    #[test]
    fn a_checkpoint_that_no_store_should_take_is_not_written() {
        let mut checkpoint = fresh(4_000);
        for (at, cut) in checkpoint.committed.cuts.iter_mut().enumerate() {
            let mut filter = DuplicateFilter::default();
            for n in 0..SESSIONS_REMEMBERED {
                let id = u64::try_from(at * SESSIONS_REMEMBERED + n).expect("small");
                filter.observe(session(id), id + 1, 0);
            }
            cut.filter = filter.windows().to_vec();
        }
        let error = checkpoint.to_text().expect_err("too long");
        assert!(matches!(error, StoredError::TooLong { .. }), "{error}");
    }

    #[test]
    fn an_operator_can_read_where_an_epoch_ends_and_what_is_lost() {
        let mut checkpoint = fresh(3);
        checkpoint.committed.cuts[1] = Cut {
            next: 7,
            watermark_ms: Some(8),
            filter: Vec::new(),
            lost: Some(LostRange { from: 2, to: 5 }),
            last: Some(LastRecord { offset: 6, hash: 9 }),
        };
        let text = checkpoint.to_text().expect("short");
        assert!(
            text.contains(
                r#""next":[0,7,0],"watermark_ms":[null,8,null],"last":"AAEJAAAAAAAAAAA=","lost":{"1":{"from":2,"to":5}}"#
            ),
            "{text}"
        );
        assert_eq!(Checkpoint::from_text(&text), Ok(checkpoint));
    }

    #[test]
    fn a_text_that_no_job_writes_is_damaged() {
        let cut = |next| Cut {
            next,
            ..Cut::default()
        };
        let sound = bind(&fresh(2), vec![cut(7), cut(8)], 0, 1);
        assert_eq!(
            Checkpoint::from_text(&sound.to_text().expect("short")).as_ref(),
            Ok(&sound)
        );
        let check = |what: &str, change: fn(&mut Checkpoint)| {
            let mut checkpoint = sound.clone();
            change(&mut checkpoint);
            let text = checkpoint.unchecked_text().expect("short");
            let error = Checkpoint::from_text(&text).expect_err(what);
            assert!(matches!(error, StoredError::Damaged(_)), "{what}: {error}");
        };
        check("the last generation", |c| c.generation = u64::MAX);
        check("the last version", |c| c.version = u64::MAX);
        check("the last write timestamp", |c| {
            c.last_write_timestamp = i64::MAX
        });
        check("the last epoch", |c| c.committed.epoch = u64::MAX);
        check("an epoch left out", |c| c.bound[0].epoch += 1);
        check("a partition left out", |c| drop(c.bound[0].cuts.pop()));
        check("a negative offset", |c| c.committed.cuts[0].next = -1);
        check("the last offset", |c| c.bound[0].cuts[0].next = i64::MAX);
        check("a cut that goes back", |c| c.committed.cuts[0].next = 9);
        check("a loss of nothing", |c| {
            c.bound[0].cuts[0].lost = Some(LostRange { from: 3, to: 3 });
        });
        check("more sessions than a filter remembers", |c| {
            let window = |n| SessionWindow {
                session: session(n),
                highest: 1,
                seen: 1,
                last: 6,
                place: SessionPlace::First,
            };
            let most = u64::try_from(SESSIONS_REMEMBERED).expect("few");
            c.bound[0].cuts[0].filter = (0..=most).map(window).collect();
        });
    }

    #[test]
    fn what_follows_the_largest_numbers_is_not_written() {
        let mut forged = fresh(1);
        forged.recovery_timestamp = MAX_NUMBER;
        forged.last_write_timestamp = MAX_NUMBER;
        let text = forged.to_text().expect("the largest that can be read");
        assert_eq!(Checkpoint::from_text(&text).as_ref(), Ok(&forged));
        let next = bind(&forged, vec![Cut::default()], 0, 1);
        let error = next.to_text().expect_err("it could not be read again");
        assert!(matches!(error, StoredError::Damaged(_)), "{error}");
    }

    #[test]
    fn another_format_and_a_damaged_text_give_different_errors() {
        let text = fresh(1).to_text().expect("short");
        let with = |from: &str, to: &str| Checkpoint::from_text(&text.replacen(from, to, 1));
        assert_eq!(
            Checkpoint::from_text(r#"{"format":4,"shape":"unknown"}"#),
            Err(StoredError::Newer { found: 4 })
        );
        assert_eq!(
            with(r#""format":3"#, r#""format":2"#),
            Err(StoredError::Older { found: 2 })
        );
        for (from, to) in [
            (r#""filters":"AAAA""#, r#""filters":"AAA""#),
            (r#""filters":"AAAA""#, r#""filters":"AAAB""#),
            (r#""filters":"AAAA""#, r#""filters":"""#),
            (r#""watermark_ms":[null]"#, r#""watermark_ms":[]"#),
            ("{", ""),
        ] {
            let error = with(from, to).expect_err(to);
            assert!(matches!(error, StoredError::Damaged(_)), "{to}: {error}");
        }
    }
}
