//! Logs of build steps: one folder for each build that printed something, the newest kept.
//!
//! A log is for people to read after a failure; nothing else in the store hangs on one, so it has
//! no row, and whoever removes the folder breaks nothing.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::error::{Action, StoreError};
use super::lock::Lock;
use super::{Store, create_file, temporary};
use crate::time::Timestamp;

/// How many builds' logs are kept.
const BUILDS: usize = 20;
/// How many bytes of logs are kept, those of the newest build not counted.
const BYTES: u64 = 256 << 20;
const LOCK_SUFFIX: &str = ".lock";

/// The logs of one build. Its folder is made with its first log; when this is dropped, logs of
/// builds long ago are removed.
#[derive(Debug)]
pub struct BuildLogs {
    store: Store,
    open: Mutex<Option<OpenFolder>>,
}

#[derive(Debug)]
struct OpenFolder {
    path: PathBuf,
    // Nobody removes the folder of a build that goes on.
    _lock: Lock,
}

impl Store {
    /// A place for the logs of one build. Makes nothing yet.
    pub fn build_logs(&self) -> BuildLogs {
        BuildLogs {
            store: self.clone(),
            open: Mutex::new(None),
        }
    }

    fn logs_path(&self) -> PathBuf {
        self.inner.root.join("logs")
    }

    /// Removes the logs of every build that has ended. Gives their size in bytes.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub(super) fn remove_logs(&self) -> Result<u64, StoreError> {
        self.keep_logs(0, 0, None)
    }

    /// Removes the logs of builds that began before `time` and have ended. Gives their size.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub(super) fn remove_logs_before(&self, time: Timestamp) -> Result<u64, StoreError> {
        self.keep_logs(usize::MAX, u64::MAX, Some(time))
    }

    /// Removes logs but those of the newest `builds`, and of those, the newest aside, as many as
    /// are more than `most_bytes` together, and of those none from before `since`. Gives the bytes
    /// that were removed.
    fn keep_logs(
        &self,
        builds: usize,
        most_bytes: u64,
        since: Option<Timestamp>,
    ) -> Result<u64, StoreError> {
        let since = since.and_then(|time| jiff::Timestamp::from_second(time.seconds()).ok());
        let since = since.map_or_else(String::new, folder_time);
        let parent = self.logs_path();
        let mut names = Vec::new();
        for entry in parent.read_dir().action("read", &parent)? {
            let name = entry.action("read", &parent)?.file_name();
            let name = name.to_string_lossy().into_owned();
            if !name.ends_with(LOCK_SUFFIX) {
                names.push(name);
            }
        }
        // Names begin with the time of their build.
        names.sort_unstable_by(|a, b| b.cmp(a));
        let (mut kept, mut removed) = (0, 0);
        for (place, name) in names.iter().enumerate() {
            let path = parent.join(name);
            let size = size_of_folder(&path);
            kept += if place == 0 { 0 } else { size };
            if place < builds && kept <= most_bytes && *name >= since {
                continue;
            }
            // Who builds holds the lock.
            if let Some(_lock) = Lock::try_acquire(&lock_path(&path))? {
                self.inner.temporary.discard(&path);
                removed += size;
            }
        }
        Ok(removed)
    }
}

impl BuildLogs {
    /// A new, empty log that only its owner can read, and its absolute path.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn create(&self, name: &str) -> Result<(PathBuf, File), StoreError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = match &mut *open {
            Some(folder) => folder,
            none => none.insert(OpenFolder::create(&self.store.logs_path())?),
        };
        let path = folder.path.join(name);
        let file = create_file(&path).action("create", &path)?;
        Ok((path, file))
    }
}

impl Drop for BuildLogs {
    fn drop(&mut self) {
        let open = self.open.get_mut().unwrap_or_else(PoisonError::into_inner);
        if open.take().is_some()
            && let Err(error) = self.store.keep_logs(BUILDS, BYTES, None)
        {
            tracing::debug!(%error, "old logs are left");
        }
    }
}

impl OpenFolder {
    fn create(parent: &Path) -> Result<Self, StoreError> {
        let time = folder_time(jiff::Timestamp::now());
        let random = temporary::random_name();
        let path = parent.join(format!("{time}-{}", random.get(..8).unwrap_or(&random)));
        let lock = Lock::acquire(&lock_path(&path))?;
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .action("create", &path)?;
        Ok(Self { path, _lock: lock })
    }
}

/// A time as the names of logs' folders begin with it: they sort as the times do.
fn folder_time(time: jiff::Timestamp) -> String {
    time.strftime("%Y%m%dT%H%M%S%6fZ").to_string()
}

fn lock_path(folder: &Path) -> PathBuf {
    let mut path = folder.as_os_str().to_owned();
    path.push(LOCK_SUFFIX);
    path.into()
}

/// The bytes of a folder's files; nothing where it can't be read.
fn size_of_folder(path: &Path) -> u64 {
    let entries = path.read_dir().into_iter().flatten();
    entries
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .map(|metadata| metadata.size())
        .sum()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        (folder, store)
    }

    fn builds(store: &Store) -> Vec<PathBuf> {
        let entries = store.logs_path().read_dir().unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    fn build(store: &Store, size: usize) -> PathBuf {
        let logs = store.build_logs();
        let (path, mut file) = logs.create("1-run.log").unwrap();
        file.write_all(&vec![b'x'; size]).unwrap();
        path
    }

    #[test]
    fn a_build_without_output_leaves_nothing() {
        let (_folder, store) = store();
        drop(store.build_logs());
        assert!(builds(&store).is_empty());
    }

    #[test]
    fn the_newest_builds_are_kept() {
        let (_folder, store) = store();
        let first = build(&store, 1);
        let paths: Vec<PathBuf> = (0..BUILDS).map(|_| build(&store, 1)).collect();
        assert!(!first.exists());
        assert!(paths.iter().all(|path| path.exists()));
        // No lock is left either.
        assert_eq!(builds(&store).len(), BUILDS);
    }

    #[test]
    fn large_logs_go_sooner_but_never_the_newest() {
        let (_folder, store) = store();
        let old: Vec<PathBuf> = (0..3).map(|_| build(&store, 1000)).collect();
        let newest = build(&store, 5000);
        assert_eq!(store.keep_logs(BUILDS, 2000, None).unwrap(), 1000);
        assert_eq!(
            old.iter().map(|path| path.exists()).collect::<Vec<_>>(),
            [false, true, true]
        );
        assert!(newest.exists());
        assert_eq!(store.remove_logs().unwrap(), 7000);
        assert!(builds(&store).is_empty());
    }

    #[test]
    fn a_build_that_goes_on_keeps_its_logs() {
        let (_folder, store) = store();
        let running = store.build_logs();
        let (path, _file) = running.create("1-run.log").unwrap();
        for _ in 0..=BUILDS {
            build(&store, 1);
        }
        assert!(path.exists());
        drop(running);
        assert!(!path.exists());
    }
}
