//! Locks between processes, by name. The holder removes the file when it lets go, so that locks
//! leave nothing behind; whoever gets a lock makes sure that it isn't one of a removed file.

use std::path::{Path, PathBuf};

use super::error::StoreError;
use crate::fs;

/// A lock that is held until this is dropped, or its process ends.
#[derive(Debug)]
#[must_use = "a lock is let go as soon as it is dropped"]
pub struct Lock {
    path: PathBuf,
    // Let go after the file is removed.
    _held: fs::Lock,
}

impl Lock {
    /// Waits until nobody else holds the lock at `path`, and takes it.
    pub(super) fn acquire(path: &Path) -> Result<Self, StoreError> {
        let held = fs::Lock::exclusive(path).map_err(|error| failed(path, error))?;
        Ok(Self::new(path, held))
    }

    /// Takes the lock at `path` unless somebody holds it.
    pub(super) fn try_acquire(path: &Path) -> Result<Option<Self>, StoreError> {
        let held = fs::Lock::try_exclusive(path).map_err(|error| failed(path, error))?;
        Ok(held.map(|held| Self::new(path, held)))
    }

    fn new(path: &Path, held: fs::Lock) -> Self {
        Self {
            path: path.to_owned(),
            _held: held,
        }
    }
}

fn failed(path: &Path, error: fs::FsError) -> StoreError {
    StoreError::io("lock", path, error.source)
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A file that stays is an empty file that the next holder uses again.
        let _ = std::fs::remove_file(&self.path);
    }
}
