//! The directory of a spool: its lock, its segments, and the place up to which the log has
//! acknowledged them.
//!
//! ```text
//!  DIR/lock                     held by the one process that uses the spool
//!  DIR/acknowledged             the segment and offset up to which the log has everything
//!  DIR/00000000000000000007.segment
//! ```
//!
//! Opening only reads, apart from the lock. So a spool that is refused is left as it was.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::xxh3_64;

use super::{
    Owner, SpoolError,
    format::{self, Flaw, Header, Rest},
};

const LOCK: &str = "lock";
const ACKNOWLEDGED: &str = "acknowledged";
const SEGMENT: &str = "segment";
/// A segment whose header is being written.
const UNFINISHED: &str = "new";
/// What the root of a file system may have.
const LOST_AND_FOUND: &str = "lost+found";
const ACKNOWLEDGED_BYTES: usize = 24;

/// A place in the spool: the entries before it come before those after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

/// A segment that an earlier run left behind.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) number: u64,
    pub(super) owner: Owner,
    /// Where its whole entries end.
    pub(super) end: u64,
    /// Where the first entry that is not acknowledged begins.
    pub(super) from: u64,
    /// The entries from there on.
    pub(super) records: u64,
    /// The bytes behind the last whole entry: a torn end.
    pub(super) torn: u64,
}

/// A locked directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Releases the lock when it is dropped.
    _lock: File,
    acknowledged: Option<File>,
}

/// What a directory holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Segments with entries that are not acknowledged, in order.
    pub(super) left: Vec<Left>,
    /// Segments of which everything is acknowledged, and unfinished ones.
    pub(super) removable: Vec<PathBuf>,
    /// The number of the next segment.
    pub(super) next: u64,
}

impl Directory {
    /// Locks a directory, which is made if there is none.
    pub(super) fn lock(path: &Path) -> Result<Self, SpoolError> {
        let failed = |error| SpoolError::io(path, error);
        match fs::metadata(path) {
            Ok(found) if !found.is_dir() => return Err(SpoolError::NoDirectory(path.to_owned())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
                made.map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        if let Some(kind) = network(path).map_err(failed)? {
            return Err(SpoolError::Network {
                path: path.to_owned(),
                kind,
            });
        }
        check_names(path)?;
        let name = path.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut lock = options
            .mode(0o600)
            .open(&name)
            .map_err(|error| SpoolError::io(&name, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(SpoolError::Held {
                    path: path.to_owned(),
                    holder: holder(&mut lock),
                });
            }
            Err(TryLockError::Error(error)) => {
                return Err(SpoolError::Lock {
                    path: path.to_owned(),
                    error,
                });
            }
        }
        // For the message of a second process only.
        let _ = lock
            .set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
            acknowledged: None,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads and checks everything that an earlier run left behind.
    pub(super) fn read(&self) -> Result<Contents, SpoolError> {
        let acknowledged = self.read_acknowledged()?.unwrap_or_default();
        let mut numbers = Vec::new();
        let mut contents = Contents::default();
        for entry in fs::read_dir(&self.path).map_err(|error| SpoolError::io(&self.path, error))? {
            let entry = entry.map_err(|error| SpoolError::io(&self.path, error))?;
            match kind_of(&entry.file_name().to_string_lossy()) {
                Some(Kind::Segment(number)) => numbers.push(number),
                Some(Kind::Unfinished) => contents.removable.push(entry.path()),
                Some(Kind::Other) | None => {}
            }
        }
        numbers.sort_unstable();
        contents.next = numbers
            .last()
            .map_or(0, |last| last + 1)
            .max(acknowledged.segment + 1);
        let kept = numbers.partition_point(|number| *number < acknowledged.segment);
        contents
            .removable
            .extend(numbers[..kept].iter().map(|n| self.segment_path(*n)));
        let numbers = &numbers[kept..];
        for (at, number) in numbers.iter().enumerate() {
            let before = if at == 0 { None } else { Some(numbers[at - 1]) };
            if before.is_some_and(|before| before + 1 != *number) {
                return Err(SpoolError::Missing(self.segment_path(number - 1)));
            }
            let from = (*number == acknowledged.segment).then_some(acknowledged.offset);
            let left = self.read_segment(*number, from, at + 1 == numbers.len())?;
            // What is acknowledged is removed from the front only, so that no segment is missing
            // between two others.
            if left.records == 0 && left.torn == 0 && contents.left.is_empty() {
                contents.removable.push(self.segment_path(*number));
            } else {
                contents.left.push(left);
            }
        }
        Ok(contents)
    }

    fn read_segment(
        &self,
        number: u64,
        from: Option<u64>,
        is_last: bool,
    ) -> Result<Left, SpoolError> {
        let path = self.segment_path(number);
        let bytes = read_file(&path)?;
        let damaged = |offset: usize| SpoolError::Damaged {
            path: path.clone(),
            offset: offset as u64,
        };
        let (Header { segment, owner }, header) = match format::decode_header(&bytes) {
            Ok(read) => read,
            Err(Flaw::Short | Flaw::Wrong) => return Err(damaged(0)),
        };
        if segment != number {
            return Err(damaged(0));
        }
        let from = from.map_or(header, |from| usize::try_from(from).unwrap_or(usize::MAX));
        // Beyond the end: the log has more than what the disk kept of this segment.
        let from = from.max(header).min(bytes.len());
        let scan = format::scan(&bytes, number, from);
        match scan.rest {
            Rest::Nothing => {}
            Rest::Torn if is_last => {}
            Rest::Torn | Rest::Damage => return Err(damaged(scan.end)),
        }
        Ok(Left {
            number,
            owner,
            end: scan.end as u64,
            from: from as u64,
            records: scan.records,
            torn: (bytes.len() - scan.end) as u64,
        })
    }

    fn read_acknowledged(&self) -> Result<Option<Position>, SpoolError> {
        let path = self.path.join(ACKNOWLEDGED);
        let bytes = match read_file(&path) {
            Ok(bytes) => bytes,
            Err(SpoolError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let read = decode_position(&bytes);
        if read.is_none() {
            tracing::warn!(
                file = %path.display(),
                "spool does not say what the log has acknowledged; all of it is sent again, and the \
                 job drops what it has"
            );
        }
        Ok(read)
    }

    /// Notes that the log has everything before a position. Kept by the system when the process is
    /// killed; a position that is too old costs repeats alone.
    pub(super) fn note_acknowledged(&mut self, position: Position) -> io::Result<()> {
        let file = match &mut self.acknowledged {
            Some(file) => file,
            none => none.insert(
                OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .mode(0o600)
                    .open(self.path.join(ACKNOWLEDGED))?,
            ),
        };
        file.write_all_at(&encode_position(position), 0)
    }

    /// Cuts the torn end of a segment.
    pub(super) fn cut(&self, left: &Left) -> Result<(), SpoolError> {
        let path = self.segment_path(left.number);
        let cut = || {
            let file = OpenOptions::new().write(true).open(&path)?;
            file.set_len(left.end)?;
            file.sync_all()
        };
        cut().map_err(|error| SpoolError::io(&path, error))
    }

    /// Makes a segment with its header. It has its name only when the header is on the disk.
    pub(super) fn create(&self, header: &Header) -> io::Result<(File, u64)> {
        let path = self.segment_path(header.segment);
        let unfinished = path.with_extension(UNFINISHED);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&unfinished)?;
        let bytes = format::encode_header(header);
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        self.sync()?;
        Ok((file, bytes.len() as u64))
    }

    pub(super) fn open_segment(&self, number: u64) -> io::Result<File> {
        File::open(self.segment_path(number))
    }

    pub(super) fn remove_segment(&self, number: u64) -> io::Result<()> {
        fs::remove_file(self.segment_path(number))
    }

    /// Removes the note of what is acknowledged: no segment is left.
    pub(super) fn remove_acknowledged(&mut self) -> io::Result<()> {
        self.acknowledged = None;
        match fs::remove_file(self.path.join(ACKNOWLEDGED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync(),
        }
    }

    /// Makes the names in the directory durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    pub(super) fn segment_path(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:020}.{SEGMENT}"))
    }

    /// The free bytes of its file system, for this user.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        let found = rustix::fs::statvfs(&self.path)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

/// What a file of the directory is.
enum Kind {
    Segment(u64),
    Unfinished,
    Other,
}

fn kind_of(name: &str) -> Option<Kind> {
    if [LOCK, ACKNOWLEDGED, LOST_AND_FOUND].contains(&name) {
        return Some(Kind::Other);
    }
    let (number, extension) = name.split_once('.')?;
    let is_number = number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse().ok().filter(|_| is_number)?;
    match extension {
        SEGMENT => Some(Kind::Segment(number)),
        UNFINISHED => Some(Kind::Unfinished),
        _ => None,
    }
}

/// Refuses a directory with files of others: a wrong path must not fill with segments.
fn check_names(path: &Path) -> Result<(), SpoolError> {
    for entry in fs::read_dir(path).map_err(|error| SpoolError::io(path, error))? {
        let entry = entry.map_err(|error| SpoolError::io(path, error))?;
        let kind = kind_of(&entry.file_name().to_string_lossy());
        // A link may lead to another device.
        let of = entry
            .file_type()
            .map_err(|error| SpoolError::io(&entry.path(), error))?;
        let is_file = of.is_file() || (of.is_dir() && entry.file_name() == LOST_AND_FOUND);
        if kind.is_none() || !is_file {
            return Err(SpoolError::Foreign {
                path: path.to_owned(),
                name: entry.file_name().to_string_lossy().into_owned(),
            });
        }
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<Vec<u8>, SpoolError> {
    fs::read(path).map_err(|error| SpoolError::io(path, error))
}

fn holder(lock: &mut File) -> String {
    let mut holder = String::new();
    let _ = lock.take(20).read_to_string(&mut holder);
    match holder.trim() {
        "" => "another process".into(),
        number => format!("process {number}"),
    }
}

fn encode_position(position: Position) -> [u8; ACKNOWLEDGED_BYTES] {
    let mut bytes = [0; ACKNOWLEDGED_BYTES];
    bytes[..8].copy_from_slice(&position.segment.to_le_bytes());
    bytes[8..16].copy_from_slice(&position.offset.to_le_bytes());
    let sum = xxh3_64(&bytes[..16]);
    bytes[16..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn decode_position(bytes: &[u8]) -> Option<Position> {
    let bytes: &[u8; ACKNOWLEDGED_BYTES] = bytes.try_into().ok()?;
    let number = |at: usize| {
        bytes[at..]
            .first_chunk::<8>()
            .map(|bytes| u64::from_le_bytes(*bytes))
    };
    (number(16)? == xxh3_64(&bytes[..16])).then_some(Position {
        segment: number(0)?,
        offset: number(8)?,
    })
}

/// The name of a network file system, on which a lock may not hold and a write may be lost with the
/// network.
#[cfg(target_os = "linux")]
fn network(path: &Path) -> io::Result<Option<&'static str>> {
    // The kernel's magic numbers (linux/magic.h, fs/smb/client, fs/ceph).
    let known = [
        (0x6969, "NFS"),
        (0x517B, "SMB"),
        (0xFF53_4D42, "CIFS"),
        (0xFE53_4D42, "SMB2"),
        (0x00C3_6400, "Ceph"),
        (0x5346_414F, "AFS"),
    ];
    let found = rustix::fs::statfs(path)?.f_type;
    // The type has another width on each architecture; all numbers have 32 bits.
    let found = (found as u64) & 0xFFFF_FFFF;
    Ok(known
        .iter()
        .find(|(magic, _)| *magic == found)
        .map(|(_, name)| *name))
}

#[cfg(not(target_os = "linux"))]
fn network(_: &Path) -> io::Result<Option<&'static str>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noted_position_is_read_and_a_torn_one_is_none() {
        let position = Position {
            segment: 3,
            offset: 1_234_567,
        };
        let bytes = encode_position(position);
        assert_eq!(decode_position(&bytes), Some(position));
        for at in 0..bytes.len() {
            assert_eq!(decode_position(&bytes[..at]), None);
            let mut changed = bytes;
            changed[at] ^= 1;
            assert_eq!(decode_position(&changed), None);
        }
    }
}
