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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// Extended attributes by name.
pub(super) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What is known of one directory's files.
#[derive(Default)]
struct Directory {
    /// Device and inode, the record's name in the store.
    id: (u64, u64),
    /// The record as it was read: what is kept of the files, by name, sorted.
    record: Vec<u8>,
    /// What was computed since, by name.
    learned: BTreeMap<Vec<u8>, Kept>,
    /// Files without a digest as they are now, and whether they have no extended attributes.
    unknown: BTreeMap<Vec<u8>, (FileIdentity, bool)>,
}

impl Directory {
    /// What was kept when the record was read.
    fn recorded(record: &[u8]) -> Vec<(&[u8], Kept)> {
        postcard::from_bytes(record).unwrap_or_default()
    }
}

/// The digests of one context.
pub(super) struct ContextDigests {
    store: Store,
    /// By path. Each has a lock of its own, so that directories can be listed beside each other.
    directories: Mutex<HashMap<Vec<u8>, Arc<Mutex<Directory>>>>,
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

    /// Calls `look` with what is known of the files in `directory`, whose path is `path`.
    pub(super) fn with<T>(
        &self,
        directory: &OwnedFd,
        path: &[u8],
        look: impl FnOnce(&mut Known<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let known = locked(&self.directories).get(path).cloned();
        let known = match known {
            Some(known) => known,
            None => {
                let read = Arc::new(Mutex::new(self.read(directory)?));
                let mut directories = locked(&self.directories);
                Arc::clone(directories.entry(path.to_vec()).or_insert(read))
            }
        };
        let mut known = locked(&known);
        let Directory {
            record,
            learned,
            unknown,
            ..
        } = &mut *known;
        look(&mut Known {
            recorded: Directory::recorded(record),
            learned,
            unknown,
        })
    }

    fn read(&self, directory: &OwnedFd) -> io::Result<Directory> {
        let stat = rustix::fs::fstat(directory)?;
        let id = (stat.st_dev, stat.st_ino);
        let record = self.store.directory_digests(id.0, id.1).ok().flatten();
        Ok(Directory {
            id,
            record: record.unwrap_or_default(),
            ..Directory::default()
        })
    }

    /// Takes note that a file was opened. Where it is another than was seen, as a folder above it
    /// has been exchanged, nothing is learned of it.
    pub(super) fn opened(&self, path: &[u8], identity: &FileIdentity) {
        let (parent, name) = split_path(path);
        let Some(directory) = locked(&self.directories).get(parent).cloned() else {
            return;
        };
        let mut directory = locked(&directory);
        if directory
            .unknown
            .get(name)
            .is_some_and(|(seen, _)| seen != identity)
        {
            directory.unknown.remove(name);
        }
    }

    /// Keeps a digest that was computed after the file was seen.
    pub(super) fn learn(&self, path: &[u8], digest: [u8; 32]) {
        let (parent, name) = split_path(path);
        let Some(directory) = locked(&self.directories).get(parent).cloned() else {
            return;
        };
        let mut directory = locked(&directory);
        let Some((identity, is_plain)) = directory.unknown.get(name).cloned() else {
            return;
        };
        if identity.changed.0.max(identity.modified.0) > self.now - RACY {
            return;
        }
        let kept = Kept {
            identity,
            digest,
            is_plain,
        };
        directory.learned.insert(name.to_vec(), kept);
    }

    /// Writes changed records to the store. A store that can't take them is no reason to fail.
    pub(super) fn save(&self) {
        let mut records = Vec::new();
        for directory in locked(&self.directories).values() {
            let mut directory = locked(directory);
            if directory.learned.is_empty() {
                continue;
            }
            let learned = std::mem::take(&mut directory.learned);
            let mut kept: BTreeMap<&[u8], Kept> =
                Directory::recorded(&directory.record).into_iter().collect();
            kept.extend(learned.iter().map(|(name, kept)| (&name[..], kept.clone())));
            let Ok(record) = postcard::to_stdvec(&kept) else {
                continue;
            };
            records.push((directory.id.0, directory.id.1, record.clone()));
            directory.record = record;
        }
        if records.is_empty() {
            return;
        }
        if let Err(error) = self.store.put_directory_digests(&records) {
            tracing::debug!(%error, "file digests not kept");
        }
    }
}

/// What is known of the files of one directory, while they are looked at.
pub(super) struct Known<'a> {
    recorded: Vec<(&'a [u8], Kept)>,
    learned: &'a BTreeMap<Vec<u8>, Kept>,
    unknown: &'a mut BTreeMap<Vec<u8>, (FileIdentity, bool)>,
}

impl Known<'_> {
    /// Takes note of a file as it is now. Gives its digest, if it is what it was when that was
    /// computed, and its extended attributes, which are looked up only where it isn't known to
    /// have none.
    pub(super) fn see(
        &mut self,
        name: &[u8],
        identity: &FileIdentity,
        xattrs: impl FnOnce() -> Xattrs,
    ) -> (Option<[u8; 32]>, Xattrs) {
        let recorded = || {
            let place = self
                .recorded
                .binary_search_by(|(other, _)| (*other).cmp(name));
            place.ok().map(|place| &self.recorded[place].1)
        };
        let kept = self.learned.get(name).or_else(recorded);
        let kept = kept.filter(|kept| kept.identity == *identity);
        let xattrs = match kept {
            Some(kept) if kept.is_plain => Xattrs::new(),
            _ => xattrs(),
        };
        if kept.is_none() {
            let seen = (identity.clone(), xattrs.is_empty());
            self.unknown.insert(name.to_vec(), seen);
        }
        (kept.map(|kept| kept.digest), xattrs)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
