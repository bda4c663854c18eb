//! A log in memory.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex},
};

use tapeflow_log::{Log, LogError, LogReader, LogRecord};
use tapeflow_protocol::SourceIdentity;
use tapeflow_schemas::{Offset, Partition};

/// One partition: the timestamp and the bytes of each record.
type Records = Vec<(i64, Vec<u8>)>;

/// The records of each partition, and the first offset of each that retention has kept. Clones
/// share the log.
#[derive(Clone)]
pub struct MemoryLog(pub Arc<Mutex<Vec<Records>>>, pub Arc<Mutex<Vec<Offset>>>);

impl MemoryLog {
    pub fn new(partitions: u32) -> Self {
        Self(
            Arc::new(Mutex::new(vec![Vec::new(); partitions as usize])),
            Arc::new(Mutex::new(vec![0; partitions as usize])),
        )
    }

    /// Removes the records below an offset, as retention does. The vector still holds them, so that
    /// tests can recompute bars.
    pub fn remove_below(&self, partition: Partition, start: Offset) {
        self.1.lock().expect("starts")[partition as usize] = start;
    }

    fn start(&self, partition: Partition) -> Offset {
        self.1.lock().expect("starts")[partition as usize]
    }

    pub fn append(&self, partition: Partition, timestamp_ms: i64, payload: Vec<u8>) {
        self.0.lock().expect("log")[partition as usize].push((timestamp_ms, payload));
    }
}

impl Log for MemoryLog {
    fn describe(&self) -> String {
        "memory".into()
    }

    fn identity(&self) -> Result<SourceIdentity, LogError> {
        Ok(SourceIdentity {
            cluster: "memory".into(),
            topic: "test".into(),
            topic_id: None,
        })
    }

    fn partitions(&self) -> Result<u32, LogError> {
        Ok(u32::try_from(self.0.lock().expect("log").len()).expect("few"))
    }

    fn bounds(&self, partition: Partition) -> Result<Range<Offset>, LogError> {
        Ok(self.start(partition)
            ..i64::try_from(self.0.lock().expect("log")[partition as usize].len()).expect("few"))
    }

    fn reader(&self, from: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(MemoryReader {
            log: self.clone(),
            at: from.iter().map(|(p, o)| (*p, (*o, false))).collect(),
        }))
    }
}

struct MemoryReader {
    log: MemoryLog,
    at: BTreeMap<Partition, (Offset, bool)>,
}

impl LogReader for MemoryReader {
    fn poll(
        &mut self,
        limit: usize,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<usize, LogError> {
        // A few records at a time, so that epochs end at many offsets.
        let limit = limit.min(7);
        let log = self.log.0.lock().expect("log");
        let mut count = 0;
        for (partition, (offset, paused)) in &mut self.at {
            if *offset < self.log.start(*partition) {
                return Err(LogError::Broken("an offset is out of range".into()));
            }
            while !*paused && count < limit {
                let Some((timestamp_ms, payload)) =
                    log[*partition as usize].get(usize::try_from(*offset).expect("offset"))
                else {
                    break;
                };
                each(LogRecord {
                    partition: *partition,
                    offset: *offset,
                    timestamp_ms: *timestamp_ms,
                    payload: Some(payload),
                });
                *offset += 1;
                count += 1;
            }
        }
        Ok(count)
    }

    fn set_paused(&mut self, partition: Partition, paused: bool) -> Result<(), LogError> {
        self.at.get_mut(&partition).expect("ours").1 = paused;
        Ok(())
    }
}
