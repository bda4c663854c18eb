//! The embedded log, as the dataflow reads it.

use std::ops::Range;

use tapeflow_protocol::{SourceIdentity, StoreError};
use tapeflow_schemas::{Offset, Partition};

use crate::{
    read::{Log, LogFault, LogReader, LogRecord},
    sqlite::{SqliteLog, SqliteLogReader},
};

fn fault(fault: StoreError) -> LogFault {
    match fault {
        StoreError::Unavailable(reason) => LogFault::Unavailable(reason),
        StoreError::Broken(reason) => LogFault::Broken(reason),
    }
}

impl Log for SqliteLog {
    fn describe(&self) -> String {
        SqliteLog::describe(self)
    }

    fn identity(&self) -> Result<SourceIdentity, LogFault> {
        Ok(SqliteLog::identity(self).clone())
    }

    fn partitions(&self) -> Result<u32, LogFault> {
        Ok(SqliteLog::partitions(self))
    }

    fn bounds(&self, partition: Partition) -> Result<Range<Offset>, LogFault> {
        SqliteLog::bounds(self, partition).map_err(fault)
    }

    fn reader(&self, from: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogFault> {
        Ok(Box::new(Reader(
            SqliteLog::reader(self, from).map_err(fault)?,
        )))
    }
}

struct Reader(SqliteLogReader);

impl LogReader for Reader {
    fn poll(
        &mut self,
        limit: usize,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<usize, LogFault> {
        let polled = self.0.poll(limit, &mut |record| {
            each(LogRecord {
                partition: record.partition,
                offset: record.offset,
                timestamp_ms: record.timestamp_ms,
                payload: Some(record.payload),
            });
        });
        match polled {
            // A busy file is tried again at the next turn.
            Err(StoreError::Unavailable(_)) => Ok(0),
            other => other.map_err(fault),
        }
    }

    fn set_paused(&mut self, partition: Partition, paused: bool) -> Result<(), LogFault> {
        self.0.set_paused(partition, paused);
        Ok(())
    }
}
