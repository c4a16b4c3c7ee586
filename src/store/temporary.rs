//! Work in progress: one folder under `tmp/` for each process, marked by a lock that its process
//! holds, removed when the process ends well or when somebody notices that it ended badly.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::{Action, StoreError};
use super::lent;
use super::lock::Lock;
use super::{Store, set_mode};
use crate::fs::remove::remove_folder;

const LOCK_SUFFIX: &str = ".lock";

/// The process's own folder.
pub(super) struct TemporaryFolder {
    path: PathBuf,
    next: AtomicU64,
    // Let go after the folder is removed.
    _lock: Lock,
}

impl TemporaryFolder {
    /// Makes a folder in `parent`. The lock comes first: a folder without one is stale.
    pub(super) fn create(parent: &Path) -> Result<Self, StoreError> {
        let name = random_name();
        let lock = Lock::acquire(&parent.join(format!("{name}{LOCK_SUFFIX}")))?;
        let path = parent.join(name);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .action("create", &path)?;
        Ok(Self {
            path,
            next: AtomicU64::new(0),
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A name in the folder that nobody else uses.
    pub(super) fn new_path(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.path.join(number.to_string())
    }

    /// Takes `path` out of its place at once and then removes it, as far as that goes. What
    /// can't be removed now is tried again when the store is next opened.
    pub(super) fn discard(&self, path: &Path) {
        let away = self.new_path();
        let gone = match std::fs::rename(path, &away) {
            Ok(()) => remove_folder(&away),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            // A folder of another user can't be moved to another parent.
            Err(_) => remove_folder(path),
        };
        if let Err(error) = gone {
            tracing::debug!(path = %path.display(), %error, "left behind");
        }
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if let Err(error) = remove_folder(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "left behind");
        }
    }
}

/// Removes what processes that are no more left in `parent`.
pub(super) fn remove_stale(parent: &Path) -> Result<(), StoreError> {
    let mut names = Vec::new();
    for entry in parent.read_dir().action("read", parent)? {
        let name = entry.action("read", parent)?.file_name();
        let name = name.to_string_lossy().into_owned();
        names.push(name.strip_suffix(LOCK_SUFFIX).unwrap_or(&name).to_owned());
    }
    names.sort();
    names.dedup();
    for name in names {
        let Some(_lock) = Lock::try_acquire(&parent.join(format!("{name}{LOCK_SUFFIX}")))? else {
            continue;
        };
        let path = parent.join(&name);
        lent::bring_home(&path);
        if let Err(error) = remove_folder(&path) {
            tracing::debug!(path = %path.display(), %error, "left behind");
        }
    }
    Ok(())
}

/// Thirty-two hex digits that nobody can foresee.
pub(super) fn random_name() -> String {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        match rustix::rand::getrandom(&mut bytes[filled..], flags) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            // A kernel without getrandom: the process id and an address tell processes apart,
            // and creating a file or folder fails where the name is taken.
            Err(_) => {
                let here = std::ptr::from_ref(&bytes).addr() as u64;
                bytes[..8].copy_from_slice(&here.to_le_bytes());
                bytes[8..12].copy_from_slice(&std::process::id().to_le_bytes());
                break;
            }
        }
    }
    format!("{:032x}", u128::from_le_bytes(bytes))
}

/// An empty folder for work in progress, removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    // Keeps the process's folder, and its lock, alive.
    _store: Store,
}

impl Scratch {
    pub(super) fn create(store: &Store) -> Result<Self, StoreError> {
        let path = store.inner.temporary.new_path();
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .action("create", &path)?;
        set_mode(&path, 0o700)?;
        Ok(Self {
            path,
            _store: store.clone(),
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_folder(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "left behind");
        }
    }
}
