//! The log of the simulation. It grows while it is read, gains partitions, returns records twice,
//! and sometimes fails under a reader.

use std::{collections::BTreeMap, ops::Range};

use rand::Rng;
use tapeflow_log::{Log, LogError, LogReader, LogRecord};
use tapeflow_protocol::SourceIdentity;
use tapeflow_schemas::{Offset, Partition};

use crate::world::Shared;

/// The error of a read that fails on purpose.
pub(crate) const BROKEN: &str = "the simulated log broke";

/// One generation's access to the log.
pub(crate) struct SimulatedLog {
    pub(crate) world: Shared,
    /// How often a read fails for good.
    pub(crate) breaks: f64,
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
        Ok(0..i64::try_from(self.world.world().log[partition as usize].len()).expect("few"))
    }

    fn reader(&self, from: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError> {
        let at = from
            .iter()
            .map(|(partition, offset)| (*partition, (*offset, false)))
            .collect();
        Ok(Box::new(Reader {
            world: self.world.clone(),
            breaks: self.breaks,
            at,
        }))
    }
}

struct Reader {
    world: Shared,
    breaks: f64,
    at: BTreeMap<Partition, (Offset, bool)>,
}

impl LogReader for Reader {
    fn poll(
        &mut self,
        limit: usize,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<usize, LogError> {
        let (records, breaks) = {
            let mut world = self.world.world();
            let breaks = world.chance(self.breaks);
            let mut records = Vec::new();
            for (partition, (offset, paused)) in &mut self.at {
                if *paused {
                    continue;
                }
                // A client that fetches again may return records that it has returned before.
                let back = if world.chance(0.02) {
                    world.random.random_range(0..4).min(*offset)
                } else {
                    0
                };
                let count = world.random.random_range(0..5).min(limit);
                let log = &world.log[*partition as usize];
                let first = usize::try_from(*offset - back).expect("offsets are small");
                let taken: Vec<_> = log.iter().skip(first).take(count).cloned().collect();
                for (place, (timestamp_ms, payload)) in (*offset - back..).zip(taken) {
                    records.push((*partition, place, timestamp_ms, payload));
                    *offset = (*offset).max(place + 1);
                }
            }
            (records, breaks)
        };
        for (partition, offset, timestamp_ms, payload) in &records {
            each(LogRecord {
                partition: *partition,
                offset: *offset,
                timestamp_ms: *timestamp_ms,
                payload: Some(payload),
            });
        }
        if breaks {
            Err(LogError::Broken(BROKEN.into()))
        } else {
            Ok(records.len())
        }
    }

    fn set_paused(&mut self, partition: Partition, paused: bool) -> Result<(), LogError> {
        self.at.get_mut(&partition).expect("one of the reader's").1 = paused;
        Ok(())
    }
}
