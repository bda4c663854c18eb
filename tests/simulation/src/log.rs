//! The log of the simulation as a generation reads it. It grows while it is read, gains partitions,
//! returns records twice, has offsets without a record, loses its beginning, and sometimes fails
//! under a reader.

use std::{collections::BTreeMap, ops::Range};

use rand::Rng;
use tapeflow_log::{Log, LogError, LogReader, LogRecord};
use tapeflow_protocol::SourceIdentity;
use tapeflow_schemas::{Offset, Partition};

use crate::{
    partition_log::Appended,
    world::{Shared, World},
};

/// The error of a read that fails on purpose.
pub(crate) const BROKEN: &str = "the simulated log broke";

/// The error of a reader that was not given a record and cannot prove that there is none.
pub(crate) const UNPROVEN: &str = "the simulated log has a hole";

/// How often a log fails under a reader.
#[derive(Clone, Copy)]
pub(crate) struct Breaks {
    /// A read fails for good.
    pub(crate) reads: f64,
    /// A record is passed over as if there were none.
    pub(crate) skips: f64,
}

/// One generation's access to the log.
pub(crate) struct SimulatedLog {
    pub(crate) world: Shared,
    pub(crate) breaks: Breaks,
}

impl Log for SimulatedLog {
    fn describe(&self) -> String {
        "simulated".into()
    }

    fn identity(&self) -> Result<SourceIdentity, LogError> {
        Ok(SourceIdentity {
            cluster: "simulated".into(),
            topic: "trades".into(),
            topic_id: None,
        })
    }

    fn partitions(&self) -> Result<u32, LogError> {
        Ok(u32::try_from(self.world.world().log.len()).expect("few"))
    }

    fn bounds(&self, partition: Partition) -> Result<Range<Offset>, LogError> {
        Ok(self.world.world().log[partition as usize].bounds())
    }

    fn reader(&self, from: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError> {
        let place = |next| Place {
            next,
            is_paused: false,
        };
        Ok(Box::new(Reader {
            world: self.world.clone(),
            breaks: self.breaks,
            places: from
                .iter()
                .map(|(partition, next)| (*partition, place(*next)))
                .collect(),
            is_proven: true,
            has_skipped: false,
        }))
    }
}

struct Reader {
    world: Shared,
    breaks: Breaks,
    places: BTreeMap<Partition, Place>,
    /// Whether there is a proof for all passed offsets that they have no record.
    is_proven: bool,
    /// Whether one of them has a record.
    has_skipped: bool,
}

struct Place {
    next: Offset,
    is_paused: bool,
}

impl Place {
    /// Moves on over some records, which are returned, and over offsets without one.
    fn read(&mut self, partition: Partition, limit: usize, skips: bool, world: &mut World) -> Read {
        let bounds = world.log[partition as usize].bounds();
        if self.next < bounds.start {
            return Read {
                removed: true,
                ..Read::default()
            };
        }
        // A client that fetches again may return records that it has returned before.
        let back = if world.chance(0.02) {
            world
                .random
                .random_range(0..4)
                .min(self.next - bounds.start)
        } else {
            0
        };
        let count = world.random.random_range(0..5).min(limit);
        let (mut read, log) = (Read::default(), &world.log[partition as usize]);
        for offset in self.next - back..bounds.end {
            if read.records.len() == count {
                break;
            }
            match log.record(offset) {
                Some(_) if skips && offset >= self.next && !read.skipped => read.skipped = true,
                Some(record) => read.records.push((offset, record.clone())),
                None => read.holes += u64::from(offset >= self.next),
            }
            self.next = self.next.max(offset + 1);
        }
        read
    }
}

/// What one partition gives in a poll.
#[derive(Default)]
struct Read {
    records: Vec<(Offset, Appended)>,
    /// Offsets passed that have no record.
    holes: u64,
    /// Whether one was passed that has a record.
    skipped: bool,
    /// Whether the place is in front of the first offset that the log has.
    removed: bool,
}

impl LogReader for Reader {
    fn poll(
        &mut self,
        limit: usize,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<usize, LogError> {
        let (mut count, mut ended) = (0, None);
        let mut reads = Vec::new();
        {
            let mut world = self.world.world();
            if world.chance(self.breaks.reads) {
                ended = Some(BROKEN.to_owned());
            }
            for (partition, place) in &mut self.places {
                if place.is_paused {
                    continue;
                }
                // One record is asked for by its offset.
                let skips = limit > 1 && world.chance(self.breaks.skips);
                let read = place.read(*partition, limit, skips, &mut world);
                if read.removed {
                    ended = Some(format!("partition {partition}: offset out of range"));
                }
                self.is_proven &= read.holes == 0 && !read.skipped;
                self.has_skipped |= read.skipped;
                world.checker.checked.holes += read.holes;
                reads.push((*partition, read.records));
            }
        }
        for (partition, records) in &reads {
            for (offset, record) in records {
                count += 1;
                each(LogRecord {
                    partition: *partition,
                    offset: *offset,
                    timestamp_ms: record.timestamp_ms,
                    payload: Some(&record.payload),
                });
            }
        }
        ended.map_or(Ok(count), |reason| Err(LogError::Broken(reason)))
    }

    fn set_paused(&mut self, partition: Partition, paused: bool) -> Result<(), LogError> {
        let place = self.places.get_mut(&partition);
        place.expect("one of the reader's").is_paused = paused;
        Ok(())
    }

    fn positions(&mut self, each: &mut dyn FnMut(Partition, Offset)) {
        for (partition, place) in &self.places {
            each(*partition, place.next);
        }
    }

    fn is_proven(&mut self) -> Result<bool, LogError> {
        // A proof takes a request to the log.
        let is_answered = self.world.world().chance(0.5);
        if is_answered && self.has_skipped {
            return Err(LogError::Broken(UNPROVEN.into()));
        }
        self.is_proven |= is_answered;
        Ok(self.is_proven)
    }
}
