//! The store: blobs, layers, trees, cache records and image names, kept between builds.
//!
//! # On disk
//!
//! ```text
//! ROOT/                      0700, owned by the user who builds
//! ├── open.lock              held while a process opens the store (schema, sweeping)
//! ├── reserve                nothing: room with which a full disk can still be pruned
//! ├── rbuild.db              SQLite, WAL: every row below; several processes at once
//! ├── blobs/sha256/<hex>     bytes named by their SHA-256: plain or compressed layers, configs
//! ├── indexes/<hex>          entry indexes of layers, named by their own BLAKE3
//! ├── trees/<form>/<layer>   folders that an overlay mount takes as lower directories
//! ├── mounts/<form>/<hex>    cache mounts, named by the hash of their id
//! ├── mounts/sources/<hex>   git repositories that builds have fetched from
//! ├── logs/<time>-<random>/  what the steps of one build have printed; the newest builds' only
//! ├── locks/<hex>            one file for each lock that somebody holds or waits for
//! └── tmp/<random>/          work in progress of one process, which holds tmp/<random>.lock
//! ```
//!
//! # What always holds
//!
//! **The row comes after the bytes.** Everything is written in `tmp/`, moved to its place by
//! rename, and only then named by a row. A process killed at any point leaves files without rows,
//! which nobody reads and the next writer of the same name replaces. A row whose file is gone or
//! of another size is taken as absent and removed.
//!
//! **A power cut is not a kill.** Renamed files may come back empty although their row came back
//! whole. So the row of a blob or tree records the boot it was written in and whether a `syncfs`
//! has ended since ([`Store::sync`], once at the end of a build; no `fsync` for each file, which
//! costs more than the build's own writing). Whoever opens the store removes what is unsynced
//! and of an earlier boot, with the cache records and images that hung on it alone. Indexes need
//! none of that: their name is the hash of their content, checked at each read.
//!
//! **Same name, same content.** Two processes that ingest one digest write the same bytes; the
//! later rename replaces equals by equals. Two that commit a tree of one layer in one form keep
//! the first. Base layers are unique by chain ID, so two pulls of one image meet in the same rows.
//! Layer ids are never used twice.
//!
//! **A temporary folder belongs to the process that holds its lock.** Locks are `flock`s: the
//! kernel drops them however their holder ends. Opening the store removes the folders whose lock
//! nobody holds. A lock file is unlinked by its holder, so whoever gets a lock checks that the
//! name still leads to the file it locked.
//!
//! **Nobody's work is removed under him.** Each process has a session, a number that only grows,
//! for as long as it holds its temporary folder. It marks what it uses with that number, before it
//! relies on it ([`Store::hold`]). What bears the number of the oldest living session or a greater
//! one is never removed. Files leave their places in the transaction that removes their rows, as
//! they came.
//!
//! **Only its owner uses a store.** A root that belongs to another user id is refused; so are one
//! that others may write to and a folder full of something else.
//!
//! # What is deliberately absent
//!
//! No environment variable and no home folder is read here ([`RootEnvironment`] is given), no
//! network is spoken, no Dockerfile known. Nothing here follows a path that an image chose: tree
//! contents are made and read by `layer/` and `fs/`.

mod blob;
mod cache;
mod database;
mod download;
mod error;
mod image;
mod import;
mod kept;
mod layer;
mod lent;
mod lock;
mod log;
mod prune;
mod reserve;
mod root;
mod session;
mod sql;
mod temporary;
mod tree;
mod usage;

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub use blob::BlobWriter;
pub use cache::{CacheRecord, RemoteRecord};
pub use download::DownloadRecord;
pub use error::StoreError;
pub use image::ImageRecord;
pub use import::{ImageFile, ImportError, ImportedImage, ImportedLayer, NamedImage, Selection};
pub use kept::KeptRecord;
pub use layer::{CompressedBlob, Layer, LayerId, NewLayer};
pub use lent::note_lent;
pub use lock::Lock;
pub use log::BuildLogs;
pub use prune::{Left, Prune, PruneImages, Pruned};
pub use root::{RootChoice, RootEnvironment, default_root};
pub use temporary::Scratch;
pub use tree::PendingTree;
pub use usage::{CacheMountUsage, LayerUsage, Usage};

use crate::digest::CacheKey;
use crate::layer::form::Form;
use crate::layer::index::Index;
use database::Database;
use error::Action;
use session::{Held, Session};
use temporary::TemporaryFolder;

/// Where folders of sources stand beside those of cache mounts, which have the names of forms.
const SOURCES: &str = "sources";

/// One store, opened. Clones share everything; every method may be called from any thread and
/// may block on the disk or on another process.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    /// The root's descriptor, for `syncfs`.
    directory: File,
    database: Database,
    temporary: TemporaryFolder,
    /// Names the running boot; see the module's second invariant.
    boot: String,
    /// What this process uses is marked with it.
    session: Session,
    held: Mutex<Held>,
    indexes: Mutex<BTreeMap<LayerId, Arc<Index>>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("root", &self.inner.root)
            .finish()
    }
}

impl Store {
    /// Opens the store at `root`, which is made where it isn't there, and removes what killed
    /// processes and power cuts left behind.
    ///
    /// # Errors
    /// When the folder belongs to somebody else, is not a store, was written by a newer rbuild,
    /// or can't be read or written.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let root = std::path::absolute(root).action("find", root)?;
        create_directory(&root, true)?;
        // The user's own link to another disk is fine; the descriptor and all paths go beyond it.
        let root = root.canonicalize().action("open", &root)?;
        let directory = File::open(&root).action("open", &root)?;
        root::check_ownership(&root, &directory)?;
        let opening = Lock::acquire(&root.join("open.lock"))?;
        for name in [
            "blobs",
            "blobs/sha256",
            "indexes",
            "trees",
            "mounts",
            "locks",
            "logs",
            "tmp",
        ] {
            create_directory(&root.join(name), false)?;
        }
        let boot = boot_id();
        let database = Database::open(&root, root::is_shared(&directory))?;
        let temporary = TemporaryFolder::create(&root.join("tmp"))?;
        // What dead processes left goes with their sessions.
        let session = session::begin(&database, &root.join("tmp"), &temporary)?;
        let store = Self {
            inner: Arc::new(Inner {
                root,
                directory,
                database,
                temporary,
                boot,
                session,
                held: Mutex::default(),
                indexes: Mutex::new(BTreeMap::new()),
            }),
        };
        store.discard_unsynced()?;
        reserve::keep(store.root());
        drop(opening);
        Ok(store)
    }

    /// The store's folder, absolute.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Takes the lock of `key`, waiting for whoever holds it: another thread or another process.
    ///
    /// # Errors
    /// When the lock file can't be made.
    pub fn lock(&self, key: &CacheKey) -> Result<Lock, StoreError> {
        Lock::acquire(&self.lock_path(key))
    }

    /// Takes the lock of `key` if nobody holds it.
    ///
    /// # Errors
    /// When the lock file can't be made.
    pub fn try_lock(&self, key: &CacheKey) -> Result<Option<Lock>, StoreError> {
        Lock::try_acquire(&self.lock_path(key))
    }

    fn lock_path(&self, key: &CacheKey) -> PathBuf {
        self.inner.root.join("locks").join(key.hex())
    }

    /// A new, empty folder on the store's file system, removed when it is dropped or, if this
    /// process dies first, when the store is next opened.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        Scratch::create(self)
    }

    /// The folder of the cache mount whose id has this hash, made where it isn't there: empty,
    /// mode 0755. It outlives builds; each form has its own.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn cache_mount(&self, id: &CacheKey, form: &Form) -> Result<PathBuf, StoreError> {
        self.kept_folder(&form.id(), id)
    }

    /// The folder of a source of builds that is fetched piece by piece, such as a git repository:
    /// made where it isn't there, and kept like a cache mount. Its caller holds the lock of `id`.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn source_folder(&self, id: &CacheKey) -> Result<PathBuf, StoreError> {
        self.kept_folder(SOURCES, id)
    }

    /// Removes everything in such a folder.
    ///
    /// # Errors
    /// When it can't be made anew.
    pub fn empty_source_folder(&self, id: &CacheKey) -> Result<PathBuf, StoreError> {
        self.inner
            .temporary
            .discard(&self.inner.root.join("mounts").join(SOURCES).join(id.hex()));
        self.kept_folder(SOURCES, id)
    }

    fn kept_folder(&self, form: &str, id: &CacheKey) -> Result<PathBuf, StoreError> {
        let parent = self.inner.root.join("mounts").join(form);
        create_directory(&parent, false)?;
        let path = parent.join(id.hex());
        self.hold_mount(form, id)?;
        match DirBuilder::new().mode(0o755).create(&path) {
            Ok(()) => set_mode(&path, 0o755)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).action("create", &path),
        }
        Ok(path)
    }

    /// Makes everything written so far survive a power cut: one `syncfs`. Call it at the end of
    /// a build, before its result gets a name.
    ///
    /// # Errors
    /// When the kernel reports that something could not be written.
    pub fn sync(&self) -> Result<(), StoreError> {
        // A build that made nothing new doesn't wait for what others have written to the disk.
        if !self.inner.database.read(|c| sql::has_unsynced(c, ""))? {
            return Ok(());
        }
        // What another process renames while syncfs runs may not be on the disk when it ends:
        // only rows that stood before count.
        let written = self.inner.database.read(sql::newest_rows)?;
        rustix::fs::syncfs(&self.inner.directory)
            .map_err(io::Error::from)
            .action("sync", &self.inner.root)?;
        self.inner
            .database
            .write(|transaction| Ok(sql::mark_synced(transaction, written)?))
    }

    fn discard_unsynced(&self) -> Result<(), StoreError> {
        let boot = &self.inner.boot;
        if !self.inner.database.read(|c| sql::has_unsynced(c, boot))? {
            return Ok(());
        }
        let trees = self
            .inner
            .database
            .write(|transaction| Ok(sql::discard_unsynced(transaction, boot)?))?;
        for (layer, form) in trees {
            self.inner.temporary.discard(&self.tree_path(layer, &form));
        }
        Ok(())
    }
}

/// Makes a folder of the store's own unless it is there already.
fn create_directory(path: &Path, with_parents: bool) -> Result<(), StoreError> {
    if with_parents && let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).action("create", parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.action("create", path),
    }
}

/// Sets a mode that the process's umask has no say in.
fn set_mode(path: &Path, mode: u32) -> Result<(), StoreError> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .action("set the mode of", path)
}

/// A new file that only the owner can read.
fn create_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// The running boot. Where the kernel doesn't tell, a name that equals no other: what this
/// process writes is then trusted by others only once it is synced.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| temporary::random_name(), |text| text.trim().to_owned())
}

/// The file's size in bytes if `path` is a regular file, `None` if there is none.
fn size_of(file: &File) -> io::Result<u64> {
    file.metadata().map(|metadata| metadata.size())
}

#[cfg(test)]
mod tests;
