//! Locks between processes: `flock` on a file whose name is the lock's.
//!
//! The holder unlinks the file when it lets go, so that locks leave nothing behind. Whoever has
//! just locked a file therefore checks that its name still leads to it, and starts again if not.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::error::{Action, StoreError};

/// A lock that is held until this is dropped, or its process ends.
#[derive(Debug)]
#[must_use = "a lock is let go as soon as it is dropped"]
pub struct Lock {
    path: PathBuf,
    // Closing the file lets the lock go; dropped after the file is unlinked.
    _file: File,
}

impl Lock {
    /// Waits until nobody else holds the lock at `path`, and takes it.
    pub(super) fn acquire(path: &Path) -> Result<Self, StoreError> {
        loop {
            if let Some(lock) =
                Self::attempt(path, FlockOperation::LockExclusive).action("lock", path)?
            {
                return Ok(lock);
            }
        }
    }

    /// Takes the lock at `path` unless somebody holds it.
    pub(super) fn try_acquire(path: &Path) -> Result<Option<Self>, StoreError> {
        loop {
            match Self::attempt(path, FlockOperation::NonBlockingLockExclusive) {
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                result => return result.action("lock", path),
            }
        }
    }

    /// `None` when the file was unlinked between opening and locking it.
    fn attempt(path: &Path, operation: FlockOperation) -> io::Result<Option<Self>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)?;
        loop {
            match flock(&file, operation) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(()) => break,
            }
        }
        let locked = file.metadata()?;
        match path.symlink_metadata() {
            Ok(named) if (named.dev(), named.ino()) == (locked.dev(), locked.ino()) => {
                Ok(Some(Self {
                    path: path.to_owned(),
                    _file: file,
                }))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A file that stays is an empty file that the next holder uses again.
        let _ = std::fs::remove_file(&self.path);
    }
}
