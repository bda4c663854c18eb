//! The embedded log as the job reads it.

use std::ops::Range;

use tapeflow_protocol::{SourceIdentity, StoreError};
use tapeflow_schemas::{Offset, Partition};

use crate::{
    read::{Log, LogError, LogReader, LogRecord},
    sqlite::{SqliteLog, SqliteLogReader},
};

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
        Ok(SqliteLog::bounds(self, partition)?)
    }

    fn reader(&self, from: &[(Partition, Offset)]) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(SqliteLog::reader(self, from)?))
    }
}

impl LogReader for SqliteLogReader {
    fn poll(
        &mut self,
        limit: usize,
        each: &mut dyn FnMut(LogRecord<'_>),
    ) -> Result<usize, LogError> {
        match SqliteLogReader::poll(self, limit, each) {
            // The caller polls again soon; a busy file is readable then.
            Err(StoreError::Unavailable(_)) => Ok(0),
            polled => Ok(polled?),
        }
    }

    fn set_paused(&mut self, partition: Partition, paused: bool) -> Result<(), LogError> {
        SqliteLogReader::set_paused(self, partition, paused);
        Ok(())
    }
}
