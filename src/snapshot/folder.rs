//! A snapshot as one folder, worked on in place: for where overlay can't be, or can't write.
//!
//! What a step changes is found by comparing metadata with what it was when the folder last
//! equalled its snapshot; the bytes of unchanged files are never read again. After a step the
//! folder equals the step's result, so the next step of the stage begins there without a copy.
//! Folders that nobody works in are kept for that, a few, until the process ends.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::Stat;

use super::content::Content;
use super::{Materializer, Snapshot, SnapshotError};
use crate::fs::FsError;
use crate::fs::walk::{Descend, walk};
use crate::layer::diff::{FileState, Owners};
use crate::layer::index::Index;
use crate::layer::view::{Found, View};
use crate::layer::{LayerError, diff, folder};
use crate::store::{LayerId, Scratch};

/// What the root file system of a step is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StorageDriver {
    /// An overlay mount of the layers' trees.
    #[default]
    Overlay,
    /// One folder with a copy of everything, see [`WorkFolder`].
    Copy,
}

/// So many folders wait for another step at most.
const KEPT: usize = 4;

/// A file that changed within so many nanoseconds of the newest one may have changed once more
/// without another time: it is compared by its content.
const TICK: i128 = 20_000_000;

/// A snapshot as a folder that belongs to one step at a time. Removed when it is dropped.
#[derive(Debug)]
pub struct WorkFolder {
    scratch: Scratch,
    root: PathBuf,
    layers: Vec<LayerId>,
    record: Record,
}

/// Folders that nobody works in, the last used one last.
#[derive(Debug, Default)]
pub(super) struct IdleFolders(Mutex<Vec<WorkFolder>>);

impl IdleFolders {
    /// The one that shows the most of `layers`, from the lowest, and nothing else.
    fn take(&self, layers: &[LayerId]) -> Option<WorkFolder> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let best = idle
            .iter()
            .enumerate()
            .filter(|(_, folder)| layers.starts_with(&folder.layers))
            .max_by_key(|(_, folder)| folder.layers.len())?;
        let place = best.0;
        Some(idle.remove(place))
    }

    fn put(&self, folder: WorkFolder) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(folder);
        let left = idle.len() > KEPT;
        let oldest = left.then(|| idle.remove(0));
        drop(idle);
        // Removing it takes a while, and nobody has to wait for that.
        drop(oldest);
    }
}

impl Materializer {
    /// A snapshot as a folder to work in: one that a step has left, brought up to date, or a new
    /// one.
    ///
    /// # Errors
    /// When a layer can't be had or the folder can't be written.
    pub fn work_folder(
        &self,
        snapshot: &Snapshot,
        view: &View,
    ) -> Result<WorkFolder, SnapshotError> {
        self.store().hold(&snapshot.layers)?;
        let mut work = match self.idle_folders().take(&snapshot.layers) {
            Some(work) => work,
            None => {
                let scratch = self.store().scratch()?;
                let root = scratch.path().join("root");
                std::fs::create_dir(&root).map_err(SnapshotError::io("making a folder"))?;
                WorkFolder {
                    scratch,
                    root,
                    layers: Vec::new(),
                    record: Record::default(),
                }
            }
        };
        self.fetch_missing(&snapshot.layers, |layer| {
            Ok(self.store().tree(layer, self.form())?.is_none())
        })?;
        let present = work.layers.len();
        if present == snapshot.layers.len() && present > 0 {
            return Ok(work);
        }
        let directory = work.open()?;
        let mut contents = self.contents(&snapshot.layers);
        folder::fill(
            directory.as_fd(),
            self.form(),
            view,
            present,
            &mut |found, file| contents.get(found)?.copy_to(found.entry, file),
        )
        .map_err(work_failed)?;
        work.layers.clone_from(&snapshot.layers);
        work.record = Record::of(&directory)?;
        Ok(work)
    }

    /// Keeps a folder for a later step.
    pub fn leave_folder(&self, folder: WorkFolder) {
        self.idle_folders().put(folder);
    }

    /// Fills the empty folder at `to` with what a snapshot has in the directory, or as the file,
    /// `path`: a file becomes `file`.
    ///
    /// # Errors
    /// When a layer can't be had or the folder can't be written.
    pub fn copy_out(
        &self,
        snapshot: &Snapshot,
        view: &View,
        path: &[u8],
        to: &Path,
    ) -> Result<(), SnapshotError> {
        let what = "copying files of a layer";
        let found = view.get(path).filter(|found| !found.entry.is_directory());
        let mut contents = self.contents(&snapshot.layers);
        let mut copy =
            |found: &Found<'_>, file: &mut File| contents.get(found)?.copy_to(found.entry, file);
        let directory = File::open(to).map_err(SnapshotError::io(what))?;
        let form = self.form();
        match found {
            Some(_) => folder::copy_one(directory.as_fd(), form, view, path, b"file", &mut copy),
            None => folder::fill_below(directory.as_fd(), form, view, path, &mut copy),
        }
        .map_err(work_failed)
    }

    fn contents(&self, layers: &[LayerId]) -> Contents<'_> {
        Contents {
            materializer: self,
            layers: layers.to_vec(),
            opened: HashMap::new(),
        }
    }
}

impl WorkFolder {
    /// The folder: the root of the step's file system.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// A new path beside it, on the same file system, for what has to make room for a while.
    pub fn aside(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn open(&self) -> Result<File, SnapshotError> {
        File::open(&self.root).map_err(SnapshotError::io("opening a step's folder"))
    }

    /// What a step changed: the index of its layer. `owners` are those that its supervisor noted.
    ///
    /// # Errors
    /// When the folder or a lower file can't be read, or it holds what no layer can.
    pub fn changes(
        &self,
        materializer: &Materializer,
        view: &View,
        owners: &Owners,
    ) -> Result<Index, LayerError> {
        let directory = File::open(&self.root).map_err(|error| FsError::new("open", b"", error));
        let directory = directory.map_err(diff::DiffError::from)?;
        let lower = |found: &Found<'_>| -> io::Result<Box<dyn Read>> {
            let layer = self
                .layers
                .get(found.layer)
                .ok_or(io::ErrorKind::NotFound)?;
            let content = materializer.content(*layer).map_err(io::Error::other)?;
            let reader: Box<dyn Read> = content.open(found.entry)?;
            Ok(reader)
        };
        diff::index_folder(
            directory.as_fd(),
            materializer.form(),
            view,
            owners,
            &|_, found| lower(found),
            &mut |path, stat| self.record.state(path, stat),
        )
    }

    /// Writes the tar stream of such changes; gives the sink back, and the index with offsets.
    ///
    /// # Errors
    /// When a file can't be read, or writing fails.
    pub fn write_tar<W: io::Write>(&self, index: &Index, out: W) -> Result<(W, Index), LayerError> {
        let directory = File::open(&self.root).map_err(|error| FsError::new("open", b"", error));
        let directory = directory.map_err(diff::DiffError::from)?;
        diff::write_tree_tar(directory.as_fd(), index, None, out)
    }

    /// Notes that the changes are now those of `layer`, on top of what was there before.
    ///
    /// # Errors
    /// When the folder can't be read or written.
    pub fn advance(
        &mut self,
        materializer: &Materializer,
        index: &Index,
        layer: LayerId,
    ) -> Result<(), SnapshotError> {
        let directory = self.open()?;
        folder::separate_links(directory.as_fd(), materializer.form(), index)
            .map_err(work_failed)?;
        self.record = Record::of(&directory)?;
        self.layers.push(layer);
        Ok(())
    }
}

/// The contents of a snapshot's layers, opened once each.
struct Contents<'a> {
    materializer: &'a Materializer,
    layers: Vec<LayerId>,
    opened: HashMap<usize, Arc<Content>>,
}

impl Contents<'_> {
    fn get(&mut self, found: &Found<'_>) -> io::Result<Arc<Content>> {
        if let Some(content) = self.opened.get(&found.layer) {
            return Ok(Arc::clone(content));
        }
        let layer = self
            .layers
            .get(found.layer)
            .ok_or(io::ErrorKind::NotFound)?;
        let content = self
            .materializer
            .content(*layer)
            .map_err(io::Error::other)?;
        let content = Arc::new(content);
        self.opened.insert(found.layer, Arc::clone(&content));
        Ok(content)
    }
}

fn work_failed(source: LayerError) -> SnapshotError {
    SnapshotError::Folder { source }
}

/// The metadata of every path of a folder at one moment.
#[derive(Debug, Default)]
struct Record {
    stamps: HashMap<Vec<u8>, Stamp>,
    /// The newest change, in nanoseconds.
    newest: i128,
}

/// What the kernel says of a file. Whatever is done to it, the time of its last change tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    size: i64,
    modified: (i64, i64),
    changed: i128,
}

impl Stamp {
    fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            mode: stat.st_mode,
            owner: (stat.st_uid, stat.st_gid),
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec as i64),
            changed: i128::from(stat.st_ctime) * 1_000_000_000 + stat.st_ctime_nsec as i128,
        }
    }
}

impl Record {
    fn of(directory: &File) -> Result<Self, SnapshotError> {
        let mut record = Self::default();
        walk::<FsError>(directory.as_fd(), &mut |visited| {
            let stamp = Stamp::of(visited.stat);
            record.newest = record.newest.max(stamp.changed);
            record.stamps.insert(visited.path.to_vec(), stamp);
            Ok(Descend::Enter)
        })
        .map_err(|error| work_failed(diff::DiffError::from(error).into()))?;
        Ok(record)
    }

    fn state(&self, path: &[u8], stat: &Stat) -> FileState {
        let now = Stamp::of(stat);
        match self.stamps.get(path) {
            Some(then) if *then == now && now.changed < self.newest - TICK => FileState::Unchanged,
            Some(then) if (then.device, then.inode) == (now.device, now.inode) => FileState::Known,
            _ => FileState::New,
        }
    }
}
