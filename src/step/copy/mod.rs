//! COPY and ADD: files of another tree become one layer, written straight as a tar.
//!
//! What is copied is decided on metadata alone (`selection`, `destination`); content is read
//! once, either to compute the step's cache key or, when no record can exist, while the layer is
//! written. Keys cover what a user would call the same files: path, kind, mode, owner, link
//! target, content; never times, inode numbers or the machine's paths.

mod ahead;
mod archive;
mod destination;
mod missing;
mod parents;
mod selection;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use self::destination::{Bytes, Destination, Item, OnTheWay};
use self::selection::Selector;
use super::owner::Accounts;
use super::{StepContext, StepError, StepResult, empty_snapshot};
use crate::digest::{CacheKey, CacheKeyBuilder};
use crate::graph::{Copy, CopySource};
use crate::ignore::Matcher;
use crate::layer::LayerError;
use crate::layer::entry::{Entry, EntryKind, split_path};
use crate::layer::index::Index;
use crate::layer::tar_writer::TarWriter;
use crate::layer::view::View;
use crate::snapshot::{FileTree, Snapshot, TreeError};
use crate::solver::cancel::Cancel;
use crate::solver::events::Event;
use crate::store::Lock;

/// Mode of directories that are made on the way to a destination.
const DIRECTORY_MODE: u32 = 0o755;

/// Why files can't be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A source that isn't there.
    #[error("`{}`: not found", .0.path)]
    NotFound(Box<Missing>),
    /// A file where a directory would have to be.
    #[error("cannot copy to non-directory: {0}")]
    NotADirectory(String),
    /// A directory where a file would have to be.
    #[error("cannot replace to directory {0} with file")]
    IsADirectory(String),
    /// Links that lead in a circle.
    #[error("`{0}`: too many levels of symbolic links")]
    LinkLoop(String),
    /// A wildcard that can't be read.
    #[error("`{0}`: syntax error in pattern")]
    BadPattern(String),
    /// An `--exclude` pattern that can't be read.
    #[error("invalid --exclude pattern: {0}")]
    BadExclude(String),
    /// An archive that can't be unpacked.
    #[error("failed to unpack `{path}`: {source}")]
    Archive {
        /// The archive.
        path: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file that can't be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A layer that can't be written.
    #[error("`{path}`: {source}")]
    Write {
        /// The file being written.
        path: String,
        /// What went wrong.
        #[source]
        source: LayerError,
    },
    /// The build was stopped.
    #[error("canceled")]
    Canceled,
}

/// A path that isn't there, and what is in its stead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Missing {
    /// The path, absolute.
    pub path: String,
    /// Which of the sources it is.
    pub source: usize,
    /// A path that is there, and whose name is near.
    pub nearest: Option<String>,
    /// What a link of this name says: it leads nowhere, as far as the tree goes.
    pub link: Option<String>,
    /// The last directory on the way that is there.
    pub directory: String,
    /// The first names in it.
    pub names: Vec<String>,
    /// Whether there are more.
    pub has_more: bool,
}

/// Who owns what a step makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Gives a fresh temporary file.
pub(super) type Scratch<'a> = &'a dyn Fn() -> io::Result<std::fs::File>;

/// The entries of a layer to be, and where their bytes are.
pub(super) struct Selection {
    items: Vec<Item>,
    /// What the user should know.
    warnings: Vec<String>,
}

/// What COPY and ADD read.
#[derive(Clone, Copy)]
pub(super) struct Origins<'a> {
    /// What paths are paths of; nothing for `scratch`.
    pub(super) tree: Option<&'a Arc<dyn FileTree>>,
    /// What the sources that come from elsewhere have become, in their order.
    pub(super) fetched: &'a [Arc<dyn FileTree>],
}

/// Decides what `copy` puts where. `origins` is what it copies from, `view` what it copies onto,
/// `owner` what `--chown` says.
pub(super) fn select(
    copy: &Copy,
    origins: Origins<'_>,
    view: View,
    owner: Option<Owner>,
    cancel: &Cancel,
    scratch: Scratch<'_>,
) -> Result<Selection, CopyError> {
    let made_by = owner.unwrap_or_default();
    let on_the_way = OnTheWay {
        mode: copy.chmod.as_ref().map_or(DIRECTORY_MODE, |chmod| {
            chmod.of_new_directory(DIRECTORY_MODE)
        }),
        uid: made_by.uid,
        gid: made_by.gid,
    };
    let exclude = if copy.exclude.is_empty() {
        None
    } else {
        Some(
            Matcher::new(&copy.exclude)
                .map_err(|error| CopyError::BadExclude(error.to_string()))?,
        )
    };
    let mut destination = Destination::new(view, on_the_way);
    let warnings = RefCell::default();
    let selector = Selector {
        copy,
        tree: origins.tree,
        unpack: copy.unpack,
        owner,
        exclude: exclude.as_ref(),
        cancel,
        scratch,
        source: &Cell::new(0),
        written: &Cell::new(0),
        warnings: &warnings,
    };
    selector.select(&mut destination, origins.fetched)?;
    Ok(Selection {
        items: destination.finish(copy.directory_time),
        warnings: warnings.into_inner(),
    })
}

/// The digest of one file's content.
pub(super) type ContentDigest = [u8; 32];

impl Selection {
    /// Digests of the content of all files, in order; reads those that aren't known yet.
    pub(super) fn read_digests(&self, cancel: &Cancel) -> Result<Vec<ContentDigest>, CopyError> {
        let mut digests = Vec::new();
        for item in &self.items {
            if item.entry.kind != EntryKind::File {
                continue;
            }
            cancel.check().map_err(|_| CopyError::Canceled)?;
            if let Bytes::Tree(_, file) = &item.bytes
                && let Some(digest) = file.digest
            {
                digests.push(digest);
                continue;
            }
            let mut hasher = blake3::Hasher::new();
            let mut content = item.bytes.open()?;
            hasher
                .update_reader(&mut content)
                .map_err(TreeError::file(&item.entry.path))?;
            let digest = *hasher.finalize().as_bytes();
            self.learn(item, digest);
            digests.push(digest);
        }
        Ok(digests)
    }

    fn learn(&self, item: &Item, digest: ContentDigest) {
        if let Bytes::Tree(tree, file) = &item.bytes {
            tree.learn_digest(file, digest);
        }
    }

    /// The key of what is copied. `digests` are those of the files, in order.
    pub(super) fn key(&self, digests: &[ContentDigest]) -> CacheKey {
        let mut key = CacheKeyBuilder::new("copied files");
        let mut digests = digests.iter();
        let mut links: BTreeMap<&[u8], u64> = BTreeMap::new();
        for (number, item) in self.items.iter().enumerate() {
            describe(&mut key, &item.entry);
            if item.entry.kind == EntryKind::File
                && let Some(digest) = digests.next()
            {
                key.field(digest);
            }
            let first = item.identity.as_deref().map_or(u64::MAX, |identity| {
                *links.entry(identity).or_insert(number as u64)
            });
            key.number(if first == number as u64 {
                u64::MAX
            } else {
                first
            });
        }
        key.finish()
    }

    /// Writes the layer's tar. Gives its index and the digests of the files' content.
    pub(super) fn write<W: Write>(
        &self,
        out: W,
        cancel: &Cancel,
    ) -> Result<(W, Index, Vec<ContentDigest>), CopyError> {
        let mut writer = TarWriter::new(out);
        let mut digests = Vec::new();
        let mut links: BTreeMap<Vec<u8>, (Vec<u8>, ContentDigest)> = BTreeMap::new();
        for item in &self.items {
            cancel.check().map_err(|_| CopyError::Canceled)?;
            let path = item.entry.path.clone();
            let failed = |source: LayerError| CopyError::Write {
                path: destination::display(&path),
                source,
            };
            if item.entry.kind != EntryKind::File {
                writer.append(item.entry.clone(), None).map_err(failed)?;
                continue;
            }
            if let Some(identity) = &item.identity
                && let Some((first, digest)) = links.get(identity)
            {
                let mut entry = item.entry.clone();
                entry.kind = EntryKind::HardLink;
                entry.size = 0;
                entry.link.clone_from(first);
                writer.append(entry, None).map_err(failed)?;
                digests.push(*digest);
                continue;
            }
            let mut content = Digesting {
                inner: item.bytes.open()?,
                hasher: blake3::Hasher::new(),
            };
            writer
                .append(item.entry.clone(), Some(&mut content))
                .map_err(failed)?;
            let digest = *content.hasher.finalize().as_bytes();
            self.learn(item, digest);
            digests.push(digest);
            if let Some(identity) = &item.identity {
                links.insert(identity.clone(), (item.entry.path.clone(), digest));
            }
        }
        let (out, index) = writer.finish().map_err(|source| CopyError::Write {
            path: "/".to_owned(),
            source,
        })?;
        Ok((out, index, digests))
    }
}

/// Everything of an entry that counts as content: all but its time and its place in a tar.
fn describe(key: &mut CacheKeyBuilder, entry: &Entry) {
    let kind = match entry.kind {
        EntryKind::File => 0,
        EntryKind::Directory { .. } => 1,
        EntryKind::Symlink => 2,
        EntryKind::HardLink => 3,
        EntryKind::CharDevice => 4,
        EntryKind::BlockDevice => 5,
        EntryKind::Fifo => 6,
        EntryKind::Whiteout => 7,
    };
    key.field(&entry.path)
        .number(kind)
        .number(u64::from(entry.mode))
        .number(u64::from(entry.uid))
        .number(u64::from(entry.gid))
        .field(&entry.link)
        .number(u64::from(entry.device.0))
        .number(u64::from(entry.device.1))
        .number(entry.xattrs.len() as u64);
    for (name, value) in &entry.xattrs {
        key.field(name).field(value);
    }
}

struct Digesting {
    inner: Box<dyn Read + Send>,
    hasher: blake3::Hasher,
}

impl Read for Digesting {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }
}

/// One directory with what is missing above it, for WORKDIR. Made directories take `time`, else
/// that of the nearest directory that was there, so that the layer doesn't depend on the clock.
pub(super) fn select_directory(
    path: &str,
    view: View,
    owner: Owner,
    time: Option<i64>,
) -> Result<Selection, CopyError> {
    let on_the_way = OnTheWay {
        mode: DIRECTORY_MODE,
        uid: owner.uid,
        gid: owner.gid,
    };
    let mut destination = Destination::new(view, on_the_way);
    let target = destination.resolve(path.as_bytes())?;
    let time = time.or_else(|| {
        let mut at = target.as_slice();
        while !at.is_empty() {
            at = split_path(at).0;
            if let Some(entry) = destination.get(at) {
                return Some(entry.mtime);
            }
        }
        None
    });
    destination.make_directories(&target)?;
    Ok(Selection {
        items: destination.finish(time),
        warnings: Vec::new(),
    })
}

impl StepContext {
    /// Carries out COPY or ADD. `tree` is what it copies from, nothing for `scratch`. With `--link`
    /// the layer is made as if there was nothing below, and is put on top of whatever there is.
    /// `fresh`: the cache is not asked. `begin` is called once everything that is read is there.
    pub(super) fn copy(
        &self,
        copy: &Copy,
        parent: &Snapshot,
        tree: Option<&Arc<dyn FileTree>>,
        fresh: bool,
        begin: &dyn Fn(),
    ) -> Result<StepResult, StepError> {
        let below = match copy.link {
            true => &empty_snapshot(),
            false => parent,
        };
        let foretold = match fresh {
            true => None,
            false => self.foretold(copy, below, tree)?,
        };
        let mut result = match foretold {
            Some(result) => result,
            None => {
                let fetched = &self.fetch(copy)?;
                let onto = self.onto(copy, below, Origins { tree, fetched }, begin)?;
                self.copy_onto(&onto, fresh)?
            }
        };
        if copy.link {
            let mut key = CacheKeyBuilder::new("linked layer");
            let key = key.key(&parent.key).key(&result.snapshot.key).finish();
            let layers = parent.layers.iter().chain(&result.snapshot.layers);
            result.snapshot = Snapshot {
                layers: layers.copied().collect(),
                key,
            };
        }
        Ok(result)
    }

    /// The trees of the sources that come from elsewhere, in their order.
    fn fetch(&self, copy: &Copy) -> Result<Vec<Arc<dyn FileTree>>, StepError> {
        let sources = copy.sources.iter().filter_map(CopySource::remote);
        sources
            .map(|source| Ok(self.remotes.fetch(source)?))
            .collect()
    }

    /// What the cache has, where checksums say what all that comes from elsewhere must be: nobody
    /// is asked for it then.
    fn foretold(
        &self,
        copy: &Copy,
        parent: &Snapshot,
        tree: Option<&Arc<dyn FileTree>>,
    ) -> Result<Option<StepResult>, StepError> {
        let mut sources = copy
            .sources
            .iter()
            .filter_map(CopySource::remote)
            .peekable();
        if sources.peek().is_none() {
            return Ok(None);
        }
        let foretold: Option<Vec<_>> = sources
            .map(|source| self.remotes.foretell(source))
            .collect();
        let Some(fetched) = &foretold else {
            return Ok(None);
        };
        let onto = self.onto(copy, parent, Origins { tree, fetched }, &|| {})?;
        self.look_up(&onto)
    }

    /// Decides what goes where, and keeps others from doing the same.
    fn onto<'a>(
        &self,
        copy: &Copy,
        parent: &'a Snapshot,
        origins: Origins<'_>,
        begin: &dyn Fn(),
    ) -> Result<Onto<'a>, StepError> {
        let operation = operation_key(copy, parent);
        let lock = self.lock(&operation)?;
        let view = self.view(parent)?;
        begin();
        let owner = match &copy.chown {
            None => None,
            Some(spec) => Some(Accounts::new(view.passwd(), view.group()).owner(spec)?),
        };
        let scratch = || self.temporary_file();
        let selection = select(copy, origins, view, owner, &self.cancel, &scratch)?;
        for warning in &selection.warnings {
            self.events.emit(Event::Warning(warning.clone()));
        }
        Ok(Onto {
            selection,
            parent,
            operation,
            _lock: lock,
        })
    }

    /// What the cache has. Where no record of this operation on this parent exists, none can
    /// match.
    fn look_up(&self, onto: &Onto<'_>) -> Result<Option<StepResult>, StepError> {
        if !self.store().has_operation(&onto.operation)? {
            return Ok(None);
        }
        let digests = onto.selection.read_digests(&self.cancel)?;
        self.cached(&onto.key(&digests), onto.parent)
    }

    fn copy_onto(&self, onto: &Onto<'_>, fresh: bool) -> Result<StepResult, StepError> {
        if !fresh && let Some(result) = self.look_up(onto)? {
            return Ok(result);
        }
        // Content is hashed in the same pass as it is written.
        let (layer, digests) = self.write_layer(&onto.selection)?;
        let result = self.finished(onto.key(&digests), onto.parent, layer)?;
        self.store().record_operation(&onto.operation)?;
        Ok(result)
    }
}

/// A copy that is about to be made.
struct Onto<'a> {
    parent: &'a Snapshot,
    selection: Selection,
    operation: CacheKey,
    _lock: Lock,
}

impl Onto<'_> {
    /// The result's key. `digests` are those of the files, in order.
    fn key(&self, digests: &[ContentDigest]) -> CacheKey {
        let content = self.selection.key(digests);
        let mut key = CacheKeyBuilder::new("copy");
        key.key(&self.parent.key).key(&content).finish()
    }
}

/// The key of an operation on a parent, whatever the files hold.
fn operation_key(copy: &Copy, parent: &Snapshot) -> CacheKey {
    let mut key = CacheKeyBuilder::new("copy operation");
    key.key(&parent.key).field(copy.destination.as_bytes());
    key.field(copy.chown.as_deref().unwrap_or_default().as_bytes());
    key.field(format!("{:?}", copy.chmod).as_bytes());
    key.number(u64::from(copy.unpack))
        .number(copy.sources.len() as u64);
    for source in &copy.sources {
        match source {
            CopySource::Path(path) => key.number(0).field(path.as_bytes()),
            CopySource::Literal(path) => key.number(2).field(path.as_bytes()),
            CopySource::Parents { root, pattern } => key
                .number(3)
                .field(root.as_bytes())
                .field(pattern.as_bytes()),
            CopySource::Inline(file) => key.number(1).field(file.name.as_bytes()),
            CopySource::Remote(remote) => key
                .number(4 + u64::from(remote.is_unpacked()))
                .field(remote.path().as_bytes()),
        };
    }
    for pattern in &copy.exclude {
        key.field(pattern.as_bytes());
    }
    key.number(copy.directory_time.map_or(u64::MAX, |time| time as u64));
    key.finish()
}
