//! Digests of a context folder's files, kept between builds so that an unchanged file isn't read
//! again.
//!
//! A file is taken as unchanged when device, inode, size, modification and change time are those
//! that the digest was computed with. That is sound only where inode numbers are stable, so the
//! file system's type decides whether anything is kept at all; and a file that changed within
//! two seconds of being read is not kept, as its next change might leave no trace in its times.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};

use crate::layer::entry::split_path;
use crate::store::Store;
use crate::time::Timestamp;

/// Seconds within which a change might not show in a file's times.
const RACY: i64 = 2;

/// File systems (statfs `f_type`) whose inode numbers stay what they are: ext2/3/4, xfs, btrfs,
/// tmpfs, f2fs, zfs, bcachefs.
const STABLE: [u64; 7] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0xca45_1a4e,
];

/// What says that a file is still the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, u64),
    changed: (i64, u64),
}

impl FileIdentity {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size.try_into().unwrap_or(0),
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// Names the file whatever its names are.
    pub(super) fn file(&self) -> Vec<u8> {
        [self.device.to_le_bytes(), self.inode.to_le_bytes()].concat()
    }
}

/// What is kept of one file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    identity: FileIdentity,
    digest: [u8; 32],
    /// It has no extended attribute that travels: a change of one would change `changed`.
    is_plain: bool,
}

/// The record of one directory: what is kept of its files, by name.
type Record = BTreeMap<Vec<u8>, Kept>;

/// Extended attributes by name.
pub(super) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Default)]
struct Directory {
    /// Device and inode, the record's name in the store.
    id: (u64, u64),
    kept: Record,
    /// Files as they are now, and whether they have no extended attributes.
    seen: BTreeMap<Vec<u8>, (FileIdentity, bool)>,
    changed: bool,
}

/// The digests of one context.
pub(super) struct ContextDigests {
    store: Store,
    directories: Mutex<HashMap<Vec<u8>, Directory>>,
    now: i64,
}

impl ContextDigests {
    /// `None` where the folder's file system can't be trusted with it.
    pub(super) fn new(root: BorrowedFd<'_>, store: &Store) -> Option<Self> {
        let kind = rustix::fs::fstatfs(root).ok()?.f_type as u64;
        STABLE.contains(&kind).then(|| Self {
            store: store.clone(),
            directories: Mutex::new(HashMap::new()),
            now: Timestamp::now().seconds(),
        })
    }

    fn directories(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Directory>> {
        self.directories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a file's identity as it is now; `directory` is the folder it is in. Gives its
    /// extended attributes, which are looked up only where it isn't known to have none.
    pub(super) fn seen(
        &self,
        directory: &OwnedFd,
        path: &[u8],
        identity: &FileIdentity,
        xattrs: impl FnOnce() -> Xattrs,
    ) -> io::Result<Xattrs> {
        let (parent, name) = split_path(path);
        let mut directories = self.directories();
        if !directories.contains_key(parent) {
            let stat = rustix::fs::fstat(directory)?;
            let id = (stat.st_dev, stat.st_ino);
            let kept = self.store.directory_digests(id.0, id.1).ok().flatten();
            let kept = kept.and_then(|bytes| postcard::from_bytes(&bytes).ok());
            directories.insert(
                parent.to_vec(),
                Directory {
                    id,
                    kept: kept.unwrap_or_default(),
                    ..Directory::default()
                },
            );
        }
        let Some(directory) = directories.get_mut(parent) else {
            return Ok(xattrs());
        };
        let kept = directory.kept.get(name);
        let is_plain = kept.is_some_and(|kept| kept.is_plain && kept.identity == *identity);
        let xattrs = if is_plain { Xattrs::new() } else { xattrs() };
        let seen = (identity.clone(), xattrs.is_empty());
        directory.seen.insert(name.to_vec(), seen);
        Ok(xattrs)
    }

    /// The digest of a file that was seen, if it is what it was when the digest was computed.
    pub(super) fn known(&self, path: &[u8]) -> Option<[u8; 32]> {
        let (parent, name) = split_path(path);
        let directories = self.directories();
        let directory = directories.get(parent)?;
        let kept = directory.kept.get(name)?;
        (directory.seen.get(name)?.0 == kept.identity).then_some(kept.digest)
    }

    /// Keeps a digest that was computed after the file was seen.
    pub(super) fn learn(&self, path: &[u8], digest: [u8; 32]) {
        let (parent, name) = split_path(path);
        let mut directories = self.directories();
        let Some(directory) = directories.get_mut(parent) else {
            return;
        };
        let Some((identity, is_plain)) = directory.seen.get(name) else {
            return;
        };
        if identity.changed.0.max(identity.modified.0) > self.now - RACY {
            return;
        }
        let kept = Kept {
            identity: identity.clone(),
            digest,
            is_plain: *is_plain,
        };
        directory.kept.insert(name.to_vec(), kept);
        directory.changed = true;
    }

    /// Writes changed records to the store. A store that can't take them is no reason to fail.
    pub(super) fn save(&self) {
        let mut records = Vec::new();
        for directory in self
            .directories()
            .values_mut()
            .filter(|directory| directory.changed)
        {
            directory.changed = false;
            if let Ok(bytes) = postcard::to_stdvec(&directory.kept) {
                records.push((directory.id.0, directory.id.1, bytes));
            }
        }
        if records.is_empty() {
            return;
        }
        if let Err(error) = self.store.put_directory_digests(&records) {
            tracing::debug!(%error, "file digests not kept");
        }
    }
}
