//! The forwarder: reads the spool in order, appends to the log, and removes what is acknowledged.
//!
//! The log's own queue is bounded and makes it wait. It holds the records of one read in memory,
//! however many wait in the spool.

use std::{
    convert::Infallible,
    fs::File,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tapeflow_log::{AppendError, LogWriter, NewRecord};
use tracing::{info, warn};

use super::{
    directory::{Directory, Position},
    format::{self, Flaw},
    state::SpoolState,
};

/// Records and bytes that are read at a time.
const READ_RECORDS: usize = 4_096;
const READ_BYTES: u64 = 256 << 10;
/// A busy log is flushed at least this often, so that segments are removed.
const FLUSH: Duration = Duration::from_millis(50);

pub(super) type SharedLog = Arc<tokio::sync::Mutex<Box<dyn LogWriter>>>;

pub(super) struct Forwarder {
    state: SpoolState,
    directory: Arc<Mutex<Directory>>,
    log: SharedLog,
    /// What was sent, and how many records it was.
    sent: Position,
    sent_records: u64,
    /// Those of them that an earlier run left behind and that are not acknowledged.
    replayed: u64,
    /// The end of what an earlier run left behind.
    replay_end: Position,
    file: Option<(u64, File)>,
}

impl Forwarder {
    pub(super) fn new(
        state: SpoolState,
        directory: Arc<Mutex<Directory>>,
        log: SharedLog,
        replay_end: Position,
    ) -> Self {
        let sent = state.0.borrow().acknowledged;
        Self {
            state,
            directory,
            log,
            sent,
            sent_records: 0,
            replayed: 0,
            replay_end,
            file: None,
        }
    }

    /// Forwards until the log fails for good, and says so in the state.
    pub(super) async fn run(mut self) {
        let Err(AppendError(reason)) = self.forward().await;
        self.state.0.send_modify(|view| {
            view.forwarding = None;
            view.error.get_or_insert(reason);
        });
    }

    async fn forward(&mut self) -> Result<Infallible, AppendError> {
        let mut written = self.state.0.subscribe();
        let mut flushed = Instant::now();
        loop {
            let sent = self.sent;
            let waited = written.wait_for(|view| view.written > sent).await;
            drop(waited.map_err(|_| AppendError("the spool was closed".into()))?);
            let (records, next) = self.read()?;
            let count = records.len() as u64;
            let log = Arc::clone(&self.log);
            let mut log = log.lock().await;
            self.set_forwarding(true);
            if !records.is_empty() {
                log.append(records).await?;
            }
            if self.sent < self.replay_end {
                self.replayed += count;
            }
            self.sent = next;
            self.sent_records += count;
            let is_all = self.state.0.borrow().written == next;
            if is_all || flushed.elapsed() >= FLUSH {
                log.flush().await?;
                flushed = Instant::now();
                self.acknowledge();
            }
            self.set_forwarding(false);
        }
    }

    fn set_forwarding(&self, is: bool) {
        self.state
            .0
            .send_modify(|view| view.forwarding = is.then(Instant::now));
    }

    /// The next records, and the position after them.
    fn read(&mut self) -> Result<(Vec<NewRecord>, Position), AppendError> {
        let begin = self.state.0.borrow().normal(self.sent);
        let segment = self.state.0.borrow().segment(begin.segment);
        let Some(segment) = segment else {
            return Err(AppendError(format!(
                "the spool has no segment {}",
                begin.segment
            )));
        };
        let left = segment.end.saturating_sub(begin.offset);
        let (mut wanted, mut at) = (left.min(READ_BYTES), begin.offset);
        let mut records = Vec::new();
        while at < segment.end && records.len() < READ_RECORDS {
            let bytes = self.bytes(begin.segment, at, wanted)?;
            let mut rest = bytes.as_slice();
            let whole = loop {
                if records.len() == READ_RECORDS {
                    break Ok(());
                }
                match format::decode_entry(rest, begin.segment, at) {
                    Ok((record, size)) => {
                        records.push(record);
                        rest = &rest[size..];
                        at += size as u64;
                    }
                    Err(flaw) => break Err(flaw),
                }
            };
            match whole {
                Ok(()) => break,
                Err(Flaw::Short) if !records.is_empty() => break,
                // One entry is larger than a read.
                Err(Flaw::Short) if wanted < left => wanted = left,
                Err(Flaw::Short | Flaw::Wrong) => {
                    let path = self.lock().segment_path(begin.segment);
                    return Err(AppendError(format!(
                        "the spool's {} is damaged at byte {at}",
                        path.display()
                    )));
                }
            }
        }
        let next = Position {
            segment: begin.segment,
            offset: at,
        };
        let next = self.state.0.borrow().normal(next);
        Ok((records, next))
    }

    fn bytes(&mut self, segment: u64, at: u64, count: u64) -> Result<Vec<u8>, AppendError> {
        let directory = Arc::clone(&self.directory);
        let failed = |error: std::io::Error| {
            let path = lock(&directory).segment_path(segment);
            AppendError(format!(
                "cannot read the spool's {}: {error}",
                path.display()
            ))
        };
        if self.file.as_ref().is_none_or(|(open, _)| *open != segment) {
            let file = self.lock().open_segment(segment).map_err(failed)?;
            self.file = Some((segment, file));
        }
        let (_, file) = self.file.as_ref().expect("just opened");
        let mut bytes = vec![0; usize::try_from(count).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, at).map_err(failed)?;
        Ok(bytes)
    }

    /// Notes that the log has everything that was sent, then removes the segments before it.
    fn acknowledge(&mut self) {
        let to = self.state.0.borrow().normal(self.sent);
        self.sent = to;
        {
            let mut directory = self.lock();
            if let Err(error) = directory.note_acknowledged(to) {
                warn!(%error, "spool cannot note what the log has acknowledged; after a kill it is \
                               sent again");
            }
            let numbers: Vec<u64> = {
                let view = self.state.0.borrow();
                let segments = view.segments.iter().map(|segment| segment.number);
                segments.take_while(|number| *number < to.segment).collect()
            };
            for number in &numbers {
                if let Err(error) = directory.remove_segment(*number) {
                    warn!(%error, segment = number, "spool cannot remove an acknowledged segment");
                }
            }
            if !numbers.is_empty()
                && let Err(error) = directory.sync()
            {
                warn!(%error, "spool directory cannot be synchronized");
            }
        }
        let replayed = std::mem::take(&mut self.replayed);
        let was_replaying = self.state.0.borrow().acknowledged < self.replay_end;
        self.state.0.send_modify(|view| {
            view.acknowledged = to;
            view.acknowledged_records = self.sent_records;
            view.replayed += replayed;
            view.segments.retain(|segment| segment.number >= to.segment);
        });
        if was_replaying && to >= self.replay_end {
            let records = self.state.0.borrow().replayed;
            info!(records, "records of an earlier run are in the log");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Directory> {
        lock(&self.directory)
    }
}

/// A directory is files: a panic elsewhere leaves it as valid as a kill does.
pub(super) fn lock(directory: &Mutex<Directory>) -> std::sync::MutexGuard<'_, Directory> {
    directory.lock().unwrap_or_else(PoisonError::into_inner)
}
