//! What can go wrong in the store, with what to do about it.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use super::LayerId;
use crate::digest::{BlobDigest, DiffId};

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The root belongs to another user.
    #[error(
        "the store `{path}` belongs to user {owner}, this is user {user}: set RBUILD_ROOT to a folder of your own, such as `{suggestion}`"
    )]
    ForeignOwner {
        /// The root.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who is asking.
        user: u32,
        /// A folder that would do.
        suggestion: PathBuf,
    },
    /// The root holds something else.
    #[error(
        "`{path}` is no rbuild store and not empty: set RBUILD_ROOT to an empty or new folder, such as `{suggestion}`"
    )]
    NotAStore {
        /// The root.
        path: PathBuf,
        /// A folder that would do.
        suggestion: PathBuf,
    },
    /// There is no place for a store.
    #[error(
        "no folder for the store: neither RBUILD_ROOT nor HOME is usable and `{path}` is not ours: set RBUILD_ROOT"
    )]
    NoPlace {
        /// The last place that was tried.
        path: PathBuf,
    },
    /// The database was written by a later version.
    #[error(
        "the store `{root}` was written by a newer rbuild (format {found}, this one knows {known}): use that one, or set RBUILD_ROOT to another folder"
    )]
    NewerFormat {
        /// The root.
        root: PathBuf,
        /// The format's version.
        found: i64,
        /// The latest version that is known.
        known: i64,
    },
    /// The disk or the quota is full.
    #[error(
        "no space left in the store `{root}` ({free} free): make room on that disk, remove the folder while no build runs, or set RBUILD_ROOT to a folder on a larger disk"
    )]
    Full {
        /// The root.
        root: PathBuf,
        /// How much is free, for people.
        free: String,
        /// What reported it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file operation failed.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The database failed.
    #[error("cannot use the database of the store `{root}`{hint}")]
    Database {
        /// The root.
        root: PathBuf,
        /// What to do, where something can be done.
        hint: &'static str,
        /// Why it failed.
        source: rusqlite::Error,
    },
    /// Bytes are not those that were announced.
    #[error(
        "expected a blob with digest {expected}, got one with {found}: it was damaged or exchanged on the way"
    )]
    WrongDigest {
        /// What was announced.
        expected: BlobDigest,
        /// What came.
        found: BlobDigest,
    },
    /// A blob that is needed is not in the store.
    #[error("blob {0} is not in the store")]
    MissingBlob(BlobDigest),
    /// No layer has this id.
    #[error("{0} is not in the store")]
    MissingLayer(LayerId),
    /// A layer made again came out different.
    #[error(
        "{layer} has diff ID {recorded}, but made again it has {found}: its content changed behind the store's back"
    )]
    DiffIdChanged {
        /// The layer.
        layer: LayerId,
        /// What is recorded.
        recorded: DiffId,
        /// What came now.
        found: DiffId,
    },
}

impl StoreError {
    /// An error of a file operation inside `root`, or of the disk being full.
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        if !is_full(&source) {
            return Self::Io {
                action,
                path: path.to_owned(),
                source,
            };
        }
        Self::full(path, source)
    }

    pub(super) fn full(
        path: &Path,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Full {
            root: path.to_owned(),
            free: free_space(path),
            source: source.into(),
        }
    }
}

/// Whether an error says that disk or quota are full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Names what was being done when a file operation failed.
pub(super) trait Action<T> {
    fn action(self, action: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T> Action<T> for io::Result<T> {
    fn action(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::io(action, path, source))
    }
}

/// How much is free on the file system that holds `path` or will hold it.
fn free_space(path: &Path) -> String {
    free_bytes(path).map_or_else(|| "an unknown amount".to_owned(), human_size)
}

/// What this user may still write on the disk of a path, in bytes, where the disk says so.
pub(super) fn free_bytes(path: &Path) -> Option<u64> {
    let mut folders = path.ancestors();
    let found = folders.find_map(|path| rustix::fs::statvfs(path).ok());
    found.map(|found| found.f_bavail.saturating_mul(found.f_frsize))
}

fn human_size(bytes: u64) -> String {
    let mut text = String::new();
    let mut size = bytes as f64;
    for unit in ["bytes", "kB", "MB", "GB"] {
        if size < 1000.0 {
            let _ = write!(text, "{size:.0} {unit}");
            return text;
        }
        size /= 1000.0;
    }
    format!("{size:.0} TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_said_with_what_to_do() {
        let source = io::Error::from(rustix::io::Errno::NOSPC);
        let error = StoreError::io("write", Path::new("/no/such/store"), source).to_string();
        assert!(
            error.contains("no space left in the store `/no/such/store`"),
            "{error}"
        );
        assert!(error.contains(" free): make room"), "{error}");
        assert!(error.contains("RBUILD_ROOT"), "{error}");
    }

    #[test]
    fn sizes_are_for_people() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1500, "2 kB"),
            (79_000_000_000, "79 GB"),
            (5_000_000_000_000, "5 TB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }
}
