//! The embedded log, as the dataflow reads it.

use std::ops::Range;

use tapeflow_protocol::{SourceIdentity, StoreError};
use tapeflow_schemas::{Offset, Partition};

use crate::{
    read::{Log, LogError, LogReader, LogRecord},
    sqlite::{SqliteLog, SqliteLogReader},
};

fn log_error(error: StoreError) -> LogError {
    match error {
        StoreError::Unavailable(reason) => LogError::Unavailable(reason),
        StoreError::Broken(reason) => LogError::Broken(reason),
    }
}

impl Log for SqliteLog {
    fn describe(&self) -> String {
        SqliteLog::describe(self)
    }

    fn identity(&self) -> Result<SourceIdentity, LogError> {
        Ok(SqliteLog::identity(self).clone())
    }

    fn partitions(&self) -> Result<u32, LogError> {
        Ok(SqliteLog::partitions(self))
    }

    fn bounds(&self, partition: Partition) -> Result<Range<Offset>, LogError> {
        SqliteLog::bounds(self, partition).map_err(log_error)
    }

    fn reader(&self, from: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(Reader(
            SqliteLog::reader(self, from).map_err(log_error)?,
        )))
    }
}

struct Reader(SqliteLogReader);

impl LogReader for Reader {
    fn poll(
        &mut self,
        limit: usize,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<usize, LogError> {
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
            other => other.map_err(log_error),
        }
    }

    fn set_paused(&mut self, partition: Partition, paused: bool) -> Result<(), LogError> {
        self.0.set_paused(partition, paused);
        Ok(())
    }
}
