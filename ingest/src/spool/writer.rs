//! A spool as ingest opens it and appends to it.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tapeflow_log::{AppendError, LastSession, LogWriter, NewRecord};
use tapeflow_schemas::SessionId;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::{
    Fsync, Owner, SpoolConfig, SpoolError,
    directory::{Contents, Directory, Position},
    format::{self, Header},
    forward::{Forwarder, SharedLog, lock},
    state::{Segment, SpoolState, View},
};

/// The bound is at least this many segments, so that acknowledged ones make room early.
const SEGMENTS: u64 = 16;
const SMALLEST_SEGMENT: u64 = 4 << 10;
const LARGEST_SEGMENT: u64 = 16 << 20;
/// The time between two attempts while the disk is full.
const RETRY: Duration = Duration::from_secs(1);
/// A full spool takes records again when this part of its size is free.
const ROOM: u64 = 8;
/// Bytes that are written in one call.
const WRITE_BYTES: usize = 1 << 20;

const NO_ROOM: &str = "the log takes nothing, and the spool has its full size";
const NO_DISK: &str = "the disk of the spool is full";

/// A spool that was checked, and that nothing was sent from.
#[derive(Debug)]
pub struct Spool {
    directory: Directory,
    contents: Contents,
    config: SpoolConfig,
    state: SpoolState,
}

/// What a spool holds when its run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// Records that the log has not acknowledged.
    pub records: u64,
    /// The bytes of the files.
    pub bytes: u64,
}

impl Spool {
    /// Locks a directory, and checks all that an earlier run left in it.
    ///
    /// # Errors
    /// [`SpoolError`]; the spool was left as it was.
    pub fn open(config: SpoolConfig) -> Result<Self, SpoolError> {
        let directory = Directory::lock(&config.directory)?;
        let contents = directory.read()?;
        let used: u64 = contents.left.iter().map(|left| left.end).sum();
        let needed = config.size_bytes.saturating_sub(used);
        let free = directory
            .free_bytes()
            .map_err(|error| SpoolError::io(directory.path(), error))?;
        if free < needed {
            return Err(SpoolError::DiskFull {
                path: directory.path().to_owned(),
                free_bytes: free,
                needed_bytes: needed,
            });
        }
        let state = SpoolState::new(config.size_bytes);
        Ok(Self {
            directory,
            contents,
            config,
            state,
        })
    }

    /// Its state, for those who show it.
    #[must_use]
    pub fn state(&self) -> SpoolState {
        self.state.clone()
    }

    /// Begins to send what is left, and takes new records. `log` is what `owner` names.
    ///
    /// # Errors
    /// [`SpoolError`] if what is left is meant for another log, or the disk fails.
    pub fn start(self, owner: Owner, log: Box<dyn LogWriter>) -> Result<SpoolWriter, SpoolError> {
        let Self {
            mut directory,
            contents,
            config,
            state,
        } = self;
        let records = contents.left.iter().map(|left| left.records).sum();
        check_owner(directory.path(), &contents, records, &owner)?;
        let mut cut_bytes = 0;
        for left in contents.left.iter().filter(|left| left.torn > 0) {
            directory.cut(left)?;
            cut_bytes += left.torn;
            warn!(
                file = %directory.segment_path(left.number).display(),
                bytes = left.torn,
                "spool ends within a record, which was being written when ingest was killed; cut"
            );
        }
        for path in &contents.removable {
            std::fs::remove_file(path).map_err(|error| SpoolError::io(path, error))?;
        }
        let header = Header {
            segment: contents.next,
            owner: owner.clone(),
        };
        let failed = |directory: &Directory, error| SpoolError::io(directory.path(), error);
        let (file, begin) = directory
            .create(&header)
            .map_err(|error| failed(&directory, error))?;
        let file = Arc::new(file);
        let written = Position {
            segment: contents.next,
            offset: begin,
        };
        let acknowledged = contents.left.first().map_or(written, |left| Position {
            segment: left.number,
            offset: left.from,
        });
        directory
            .note_acknowledged(acknowledged)
            .map_err(|error| failed(&directory, error))?;
        let left = contents.left.iter().map(|left| Segment {
            number: left.number,
            begin: left.from,
            end: left.end,
        });
        let segments = left.chain([Segment {
            number: contents.next,
            begin,
            end: begin,
        }]);
        state.0.send_modify(|view| {
            view.segments = segments.collect();
            view.file = Some(Arc::clone(&file));
            view.written = written;
            view.written_records = records;
            view.acknowledged = view.normal(acknowledged);
            view.cut_bytes = cut_bytes;
        });
        if records > 0 {
            info!(
                records,
                directory = %directory.path().display(),
                "spool holds records of an earlier run; they are sent first"
            );
        }
        let partitions = log.partitions();
        let log: SharedLog = Arc::new(tokio::sync::Mutex::new(log));
        let directory = Arc::new(Mutex::new(directory));
        let forwarder = Forwarder::new(
            state.clone(),
            Arc::clone(&directory),
            Arc::clone(&log),
            written,
        );
        let mut tasks = vec![tokio::spawn(forwarder.run())];
        if let Fsync::Every(interval) = config.fsync {
            tasks.push(tokio::spawn(sync_regularly(state.clone(), interval)));
        }
        Ok(SpoolWriter {
            limit_bytes: config.size_bytes,
            segment_bytes: (config.size_bytes / SEGMENTS).clamp(SMALLEST_SEGMENT, LARGEST_SEGMENT),
            fsync: config.fsync,
            owner,
            directory,
            state,
            log,
            partitions,
            file,
            at: written,
            buffer: Vec::new(),
            tasks,
        })
    }
}

fn check_owner(
    path: &Path,
    contents: &Contents,
    records: u64,
    owner: &Owner,
) -> Result<(), SpoolError> {
    for left in &contents.left {
        let found = &left.owner;
        if !found.is_log_of(owner) {
            return Err(SpoolError::OtherLog {
                path: path.to_owned(),
                records,
                found: found.to_string(),
                wanted: owner.to_string(),
            });
        }
        // A log that gained partitions has a place for each record.
        if found.partitions > owner.partitions {
            return Err(SpoolError::FewerPartitions {
                path: path.to_owned(),
                records,
                found: found.partitions,
                wanted: owner.partitions,
            });
        }
    }
    Ok(())
}

/// The log behind a spool. What it has appended survives the process.
pub struct SpoolWriter {
    limit_bytes: u64,
    segment_bytes: u64,
    fsync: Fsync,
    owner: Owner,
    directory: Arc<Mutex<Directory>>,
    state: SpoolState,
    log: SharedLog,
    partitions: u32,
    /// The last segment, and where its whole entries end.
    file: Arc<File>,
    at: Position,
    buffer: Vec<u8>,
    tasks: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for SpoolWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpoolWriter")
            .field("owner", &self.owner)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl Drop for SpoolWriter {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl SpoolWriter {
    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        lock(&self.directory).path().to_owned()
    }

    /// Waits until the log has everything, at most for `limit`, and ends. A spool of which the log
    /// has everything is empty then; otherwise the next run sends what remains.
    ///
    /// # Errors
    /// [`AppendError`] if the log failed for good.
    pub async fn finish(mut self, limit: Duration) -> Result<Remaining, AppendError> {
        let ended = tokio::time::timeout(limit, self.until(View::is_acknowledged)).await;
        for task in std::mem::take(&mut self.tasks) {
            task.abort();
            let _ = task.await;
        }
        let (records, bytes) = {
            let view = self.state.0.borrow();
            (view.waiting(), view.bytes())
        };
        if records == 0 {
            self.clear()
                .map_err(|error| self.failed("be emptied", &error))?;
            return Ok(Remaining {
                records: 0,
                bytes: 0,
            });
        }
        if self.fsync != Fsync::Never {
            self.sync().await?;
        }
        match ended {
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) | Err(_) => Ok(Remaining { records, bytes }),
        }
    }

    fn clear(&self) -> io::Result<()> {
        let mut directory = lock(&self.directory);
        let numbers: Vec<u64> = {
            let view = self.state.0.borrow();
            view.segments.iter().map(|segment| segment.number).collect()
        };
        for number in numbers {
            directory.remove_segment(number)?;
        }
        directory.remove_acknowledged()
    }

    /// Waits for a state, or for the error that ends the run.
    async fn until(&self, is: impl Fn(&View) -> bool) -> Result<(), AppendError> {
        let mut changes = self.state.0.subscribe();
        let waited = changes.wait_for(|view| view.error.is_some() || is(view));
        let found = waited
            .await
            .map(|view| view.error.clone())
            .map_err(|_| AppendError("the spool was closed".into()))?;
        found.map_or(Ok(()), |error| Err(AppendError(error)))
    }

    fn check(&self) -> Result<(), AppendError> {
        match &self.state.0.borrow().error {
            Some(error) => Err(AppendError(error.clone())),
            None => Ok(()),
        }
    }

    fn failed(&self, what: &str, error: &dyn std::fmt::Display) -> AppendError {
        let path = self.directory();
        AppendError(format!(
            "the spool {} cannot {what}: {error}; what it holds stays there",
            path.display()
        ))
    }

    /// Encodes the first of the records, as many as have room now. Returns how many.
    fn encode(&mut self, records: &[NewRecord]) -> u64 {
        self.buffer.clear();
        let view = self.state.0.borrow();
        let mut count = 0;
        for record in records {
            let offset = self.at.offset + self.buffer.len() as u64;
            let room = room_of(self.buffer.len() + format::entry_size(record));
            let is_ended = offset >= self.segment_bytes || self.buffer.len() >= WRITE_BYTES;
            let is_fitting = view.fits(room) || (count == 0 && view.has_room(room));
            if is_ended || !is_fitting {
                break;
            }
            format::encode_entry(&mut self.buffer, record, self.at.segment, offset);
            count += 1;
        }
        count
    }

    /// Writes the encoded entries, and lets the forwarder have them.
    async fn write(&mut self, records: u64) -> Result<(), AppendError> {
        // At its place: what an attempt has left is overwritten by the next one.
        while let Err(error) = self.file.write_all_at(&self.buffer, self.at.offset) {
            self.wait_for_disk(error, "write").await?;
        }
        if self.fsync == Fsync::Always {
            self.sync().await?;
        }
        self.at.offset += self.buffer.len() as u64;
        self.state.0.send_modify(|view| {
            view.full = None;
            view.written = self.at;
            view.written_records += records;
            if let Some(last) = view.segments.back_mut() {
                last.end = self.at.offset;
            }
        });
        Ok(())
    }

    /// Ends the last segment and begins another one.
    async fn next_segment(&mut self) -> Result<(), AppendError> {
        if self.fsync != Fsync::Never {
            self.sync().await?;
        }
        let header = Header {
            segment: self.at.segment + 1,
            owner: self.owner.clone(),
        };
        let (file, begin) = loop {
            let made = lock(&self.directory).create(&header);
            match made {
                Ok(made) => break made,
                Err(error) => self.wait_for_disk(error, "begin a segment").await?,
            }
        };
        self.file = Arc::new(file);
        self.at = Position {
            segment: header.segment,
            offset: begin,
        };
        self.state.0.send_modify(|view| {
            view.file = Some(Arc::clone(&self.file));
            view.written = self.at;
            view.segments.push_back(Segment {
                number: header.segment,
                begin,
                end: begin,
            });
        });
        Ok(())
    }

    /// Waits a moment while the disk is full; any other error ends the run.
    async fn wait_for_disk(&self, error: io::Error, what: &str) -> Result<(), AppendError> {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                self.set_full(NO_DISK);
                tokio::time::sleep(RETRY).await;
                self.check()
            }
            io::ErrorKind::Interrupted => Ok(()),
            _ => Err(self.failed(what, &error)),
        }
    }

    /// Waits until the log has taken enough for one more record.
    async fn wait_for_room(&self, record: &NewRecord) -> Result<(), AppendError> {
        self.set_full(NO_ROOM);
        // A log that is a little slower than the feed would fill the spool again at once.
        let room = room_of(format::entry_size(record)) + self.limit_bytes / ROOM;
        self.until(|view| view.has_room(room)).await?;
        info!("spool has room again; the feed is read on");
        Ok(())
    }

    fn set_full(&self, why: &'static str) {
        let first = self.state.0.borrow().full.is_none();
        if first {
            warn!(
                directory = %self.directory().display(),
                why,
                "spool is full: the feed is not read until there is room, and may end the connection"
            );
            self.state
                .0
                .send_modify(|view| view.full = Some((Instant::now(), why)));
        }
    }

    async fn sync(&self) -> Result<(), AppendError> {
        sync(Arc::clone(&self.file))
            .await
            .map_err(|error| self.failed("be made durable", &error))
    }
}

#[async_trait]
impl LogWriter for SpoolWriter {
    fn partitions(&self) -> u32 {
        self.partitions
    }

    /// As of everything that the spool has taken.
    async fn last_sequences(&mut self, session: SessionId) -> Result<Vec<u64>, AppendError> {
        self.until(View::is_acknowledged).await?;
        self.log.lock().await.last_sequences(session).await
    }

    /// As of everything that the spool has taken.
    async fn last_session(&mut self, producer: &str) -> Result<Option<LastSession>, AppendError> {
        self.until(View::is_acknowledged).await?;
        self.log.lock().await.last_session(producer).await
    }

    async fn append(&mut self, records: Vec<NewRecord>) -> Result<(), AppendError> {
        let mut rest = records.as_slice();
        while let Some(first) = rest.first() {
            self.check()?;
            if self.at.offset >= self.segment_bytes {
                self.next_segment().await?;
            }
            if format::entry_size(first) > format::MAX_BODY {
                return Err(self.failed("take a record", &"it is too large"));
            }
            let count = self.encode(rest);
            if count == 0 {
                self.wait_for_room(first).await?;
                continue;
            }
            self.write(count).await?;
            rest = &rest[usize::try_from(count).unwrap_or(rest.len())..];
        }
        Ok(())
    }

    /// Waits for the spool alone: what it has taken is not lost, and the log gets it when it can.
    async fn flush(&mut self) -> Result<(), AppendError> {
        self.check()
    }
}

/// The room that entries need: with the header of a segment that may begin after them.
fn room_of(entries: usize) -> u64 {
    entries as u64 + SMALLEST_SEGMENT / 4
}

async fn sync(file: Arc<File>) -> io::Result<()> {
    tokio::task::spawn_blocking(move || file.sync_data())
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Makes what was written durable, again and again. Ended segments are so already.
async fn sync_regularly(state: SpoolState, interval: Duration) {
    let mut synced = Position::default();
    let mut changes = state.0.subscribe();
    loop {
        if changes
            .wait_for(|view| view.written > synced)
            .await
            .is_err()
        {
            return;
        }
        tokio::time::sleep(interval).await;
        let (file, written) = {
            let view = state.0.borrow();
            (view.file.clone(), view.written)
        };
        let Some(file) = file else { return };
        match sync(file).await {
            Ok(()) => synced = written,
            Err(error) => {
                state.0.send_modify(|view| {
                    view.error.get_or_insert(format!(
                        "the spool cannot be made durable: {error}; what it holds stays there"
                    ));
                });
                return;
            }
        }
    }
}
