//! The lock of the one process that writes a file: `PATH.lock`, beside it as long as it is written.
//!
//! The kernel releases the lock when the process ends, however it ends. After a kill the file stays
//! behind, unlocked. After a clean end it is removed while the lock is held. A process that had
//! opened it before then gets the lock of a file without a name, while the next one may make a new
//! file; therefore a lock counts only if the name still leads to the file that was locked.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use tapeflow_protocol::StoreError;

use super::broken;

/// Attempts while other processes remove the file. Each such process has ended, so more than a few
/// in a row do not occur.
const ATTEMPTS: u32 = 100;

/// A held lock. Dropping it removes the file and releases the lock.
#[derive(Debug)]
pub(super) struct WriteLock {
    file: File,
    path: PathBuf,
}

impl WriteLock {
    /// Takes the lock of the store at `path`.
    ///
    /// # Errors
    /// [`StoreError::Broken`] if another process holds it, or if the file cannot be made.
    pub(super) fn take(path: &Path) -> Result<Self, StoreError> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let name = PathBuf::from(name);
        let failed =
            |error: &dyn std::fmt::Display| broken(path, &format!("its lock file: {error}"));
        for _ in 0..ATTEMPTS {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&name)
                .map_err(|error| failed(&error))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(held(path, file)),
                Err(TryLockError::Error(error)) => return Err(failed(&error)),
            }
            if is_named(&file, &name).map_err(|error| failed(&error))? {
                let mut lock = Self { file, path: name };
                lock.sign().map_err(|error| failed(&error))?;
                return Ok(lock);
            }
        }
        Err(failed(&"other processes remove it again and again"))
    }

    /// Writes the number of this process, for the message of a second one.
    fn sign(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        writeln!(self.file, "{}", std::process::id())
    }
}

impl Drop for WriteLock {
    fn drop(&mut self) {
        // Before the lock is released. A file that stays is harmless.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether a name leads to an open file.
fn is_named(file: &File, name: &Path) -> io::Result<bool> {
    let of_file = file.metadata()?;
    match fs::metadata(name) {
        Ok(of_name) => Ok((of_name.dev(), of_name.ino()) == (of_file.dev(), of_file.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn held(path: &Path, mut file: File) -> StoreError {
    let mut holder = String::new();
    // For the message only: a holder that has not written its number yet stays unnamed.
    let _ = (&mut file).take(20).read_to_string(&mut holder);
    let holder = match holder.trim() {
        "" => "another process".into(),
        number => format!("process {number}"),
    };
    broken(
        path,
        &format!(
            "{holder} is writing it; several processes on one sqlite store are refused: stop that \
             one, or name another file with --store"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one_and_its_file_goes_with_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, name) = (folder.path().join("t.db"), folder.path().join("t.db.lock"));
        let first = WriteLock::take(&store).expect("taken");
        let error = WriteLock::take(&store).expect_err("held").to_string();
        let this = format!("process {} is writing it", std::process::id());
        assert!(error.contains(&this), "{error}");
        drop(first);
        assert!(!name.exists());
        // A file that a killed process left behind.
        fs::write(&name, "99999\n").expect("written");
        drop(WriteLock::take(&store).expect("taken"));
        assert!(!name.exists());
    }

    #[test]
    fn a_lock_on_a_file_without_a_name_does_not_count() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = folder.path().join("t.db.lock");
        let opened = File::create(&name).expect("made");
        assert!(is_named(&opened, &name).expect("compared"));
        // 1. This process has opened the file. 2. The one that held the lock removes it and ends.
        fs::remove_file(&name).expect("removed");
        assert!(!is_named(&opened, &name).expect("compared"));
        // 3. A third one makes and locks a new file.
        let other = File::create(&name).expect("made");
        assert!(!is_named(&opened, &name).expect("compared"));
        assert!(is_named(&other, &name).expect("compared"));
    }
}
