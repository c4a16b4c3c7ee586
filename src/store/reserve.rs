//! A little room that is set aside, so that a full disk can still be pruned: the database can't
//! be opened, let alone changed, where not a page is free.

use std::path::Path;

use rustix::fs::FallocateFlags;

use super::error::StoreError;
use super::{Store, create_file};

const NAME: &str = "reserve";
/// What opening the database and removing the first rows takes, in bytes.
const SIZE: u64 = 384 << 10;

/// Sets the room aside where there is plenty. To have none is no reason to fail.
pub(super) fn keep(root: &Path) {
    let path = root.join(NAME);
    if path.exists() || free(root).is_none_or(|free| free < 16 * SIZE) {
        return;
    }
    let kept = create_file(&path).and_then(|file| {
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, SIZE).map_err(Into::into)
    });
    if let Err(error) = kept {
        let _ = std::fs::remove_file(&path);
        tracing::debug!(%error, "no room set aside");
    }
}

impl Store {
    /// Gives the room that was set aside back to a full disk, before a store at `root` is opened
    /// to be pruned.
    pub fn spend_reserve(root: &Path) {
        if free(root).is_some_and(|free| free < SIZE) {
            let _ = std::fs::remove_file(root.join(NAME));
        }
    }

    /// Gives that room back for good: nothing is to be left behind.
    pub(super) fn remove_reserve(&self) -> Result<(), StoreError> {
        let path = self.root().join(NAME);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", &path, error))
            }
            _ => Ok(()),
        }
    }
}

/// How much the file system has for this user, in bytes.
fn free(root: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(root).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}
