//! Locks between processes: flock(2) on a file, released by the kernel however the process ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::FsError;

/// A lock, held until it is dropped. Two locks on one file exclude each other even within a
/// process.
#[derive(Debug)]
pub struct Lock {
    /// Its description carries the lock.
    _file: File,
}

impl Lock {
    /// Locks the file at `path`, made if it is missing, alone; waits until others let go.
    ///
    /// # Errors
    /// When the file can't be opened or locked.
    pub fn exclusive(path: &Path) -> Result<Self, FsError> {
        acquire(path, |file| file.lock().map(|()| true))
            .and_then(|lock| lock.ok_or_else(|| never(path)))
    }

    /// Locks the file at `path` together with others that share it; waits for one who doesn't.
    ///
    /// # Errors
    /// When the file can't be opened or locked.
    pub fn shared(path: &Path) -> Result<Self, FsError> {
        acquire(path, |file| file.lock_shared().map(|()| true))
            .and_then(|lock| lock.ok_or_else(|| never(path)))
    }

    /// Locks the file at `path` alone if nobody else does; `None` when somebody does.
    ///
    /// # Errors
    /// When the file can't be opened or locked.
    pub fn try_exclusive(path: &Path) -> Result<Option<Self>, FsError> {
        acquire(path, |file| match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        })
    }
}

fn acquire(path: &Path, lock: impl Fn(&File) -> io::Result<bool>) -> Result<Option<Lock>, FsError> {
    let attempt = || -> io::Result<Option<Lock>> {
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(path)?;
            match lock(&file) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            // Whoever held it may have removed the file: then this one locks nothing.
            let held = file.metadata()?;
            match std::fs::symlink_metadata(path) {
                Ok(now) if (now.dev(), now.ino()) == (held.dev(), held.ino()) => {
                    return Ok(Some(Lock { _file: file }));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    };
    attempt().map_err(|source| FsError {
        operation: "lock",
        path: path.display().to_string(),
        source,
    })
}

fn never(path: &Path) -> FsError {
    FsError {
        operation: "lock",
        path: path.display().to_string(),
        source: io::ErrorKind::WouldBlock.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_and_then_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::exclusive(&path).unwrap();
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
        drop(first);
        let second = Lock::try_exclusive(&path).unwrap().unwrap();
        drop(second);
        let _shared = (Lock::shared(&path).unwrap(), Lock::shared(&path).unwrap());
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
    }

    #[test]
    fn a_lock_on_a_removed_file_is_no_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let _old = Lock::exclusive(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _new = Lock::try_exclusive(&path).unwrap().unwrap();
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
    }
}
