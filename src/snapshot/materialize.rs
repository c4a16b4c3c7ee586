//! Makes one shape of a layer from another: index, content, tree.
//!
//! Layers are held before anything of them is used, so that nobody prunes them meanwhile.
//! Every plain tar that passes here is hashed and compared with the layer's diff ID before what
//! was made from it is kept. Each shape is made once: whoever wants one that another thread or
//! process is making waits for it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::content::Content;
use super::folder::{IdleFolders, StorageDriver};
use super::{Snapshot, SnapshotError};
use crate::digest::{BlobDigest, CacheKeyBuilder, DiffId, Digest, HashingStream};
use crate::fs::Root;
use crate::layer::compression;
use crate::layer::form::Form;
use crate::layer::index::Index;
use crate::layer::view::View;
use crate::layer::{LayerError, apply, tar_reader};
use crate::reference::Reference;
use crate::store::{LayerId, Store, StoreError};

/// A compressed layer that a registry has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteBlob {
    /// The repository.
    pub repository: Reference,
    /// The blob.
    pub digest: BlobDigest,
    /// Its size in bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
}

/// Brings blobs from registries into the store.
pub trait FetchBlobs: Send + Sync {
    /// Brings all of `blobs`, several at once, and returns when all are in the store.
    ///
    /// # Errors
    /// When one can't be had.
    fn fetch(&self, blobs: &[RemoteBlob]) -> Result<(), SnapshotError>;

    /// Layers of an image are about to be unpacked.
    fn unpack(&self, image: &Reference) -> Arc<dyn Unpacking>;
}

/// Watches layers of an image that are being unpacked, and may stop it.
pub trait Unpacking: Send + Sync {
    /// So many bytes of a layer's blob, of so many, have been read. Gives whether to go on.
    fn progress(&self, layer: &RemoteBlob, current: u64, total: u64) -> bool;

    /// Everything is unpacked, or something can't be.
    fn end(&self, result: Result<(), &SnapshotError>);
}

/// A layer's blob while it is read under somebody's eyes.
struct Watched {
    blob: File,
    total: u64,
    current: u64,
    told: u64,
    layer: RemoteBlob,
    watcher: Arc<dyn Unpacking>,
}

/// So many bytes are read between two looks.
const WATCHED_PIECE: u64 = 1 << 20;

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.blob.read(buffer)?;
        self.current += count as u64;
        let is_end = count == 0 && self.told != self.current;
        if is_end || self.current - self.told >= WATCHED_PIECE {
            self.told = self.current;
            if !self.watcher.progress(&self.layer, self.current, self.total) {
                return Err(io::Error::other(SnapshotError::Canceled));
            }
        }
        Ok(count)
    }
}

/// Makes the shapes of layers that steps ask for.
pub struct Materializer {
    store: Store,
    form: Form,
    driver: StorageDriver,
    fetcher: Box<dyn FetchBlobs>,
    remotes: Mutex<HashMap<LayerId, RemoteBlob>>,
    idle_folders: IdleFolders,
}

impl Materializer {
    /// Works on `store`, makes trees of `form`, and gets what is missing from `fetcher`.
    pub fn new(store: Store, form: Form, fetcher: Box<dyn FetchBlobs>) -> Self {
        Self {
            store,
            form,
            driver: StorageDriver::default(),
            fetcher,
            remotes: Mutex::new(HashMap::new()),
            idle_folders: IdleFolders::default(),
        }
    }

    /// The same for steps whose file systems are made of something else than overlay.
    #[must_use]
    pub fn with_driver(self, driver: StorageDriver) -> Self {
        Self { driver, ..self }
    }

    /// What the file systems of steps are made of.
    pub fn driver(&self) -> StorageDriver {
        self.driver
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What brings blobs from registries.
    pub fn fetcher(&self) -> &dyn FetchBlobs {
        self.fetcher.as_ref()
    }

    /// The form of the trees made here.
    pub fn form(&self) -> &Form {
        &self.form
    }

    pub(super) fn idle_folders(&self) -> &IdleFolders {
        &self.idle_folders
    }

    /// Remembers where a layer's blob can be had.
    pub fn register(&self, layer: LayerId, blob: RemoteBlob) {
        self.remotes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(layer, blob);
    }

    /// The blob that the manifest of the image at hand names as this layer.
    pub fn named_blob(&self, layer: LayerId) -> Option<BlobDigest> {
        self.remote(layer).map(|blob| blob.digest)
    }

    pub(super) fn remote(&self, layer: LayerId) -> Option<RemoteBlob> {
        let remotes = self.remotes.lock().unwrap_or_else(PoisonError::into_inner);
        remotes.get(&layer).cloned()
    }

    /// Whether the layer's content is here or can be fetched.
    ///
    /// # Errors
    /// When the store fails.
    pub fn is_available(&self, layer: LayerId) -> Result<bool, SnapshotError> {
        if self.store.tree(layer, &self.form)?.is_some() || self.remote(layer).is_some() {
            return Ok(true);
        }
        match self.diff_id(layer)? {
            Some(diff_id) => self.may_have_layer(diff_id),
            None => Ok(false),
        }
    }

    /// The merged view of a snapshot.
    ///
    /// # Errors
    /// When a layer without an index can't be read.
    pub fn view(&self, snapshot: &Snapshot) -> Result<View, SnapshotError> {
        self.store.hold(&snapshot.layers)?;
        self.fetch_missing(&snapshot.layers, |layer| {
            Ok(self.store.index(layer)?.is_none())
        })?;
        let indexes: Result<Vec<Arc<Index>>, SnapshotError> = snapshot
            .layers
            .iter()
            .map(|layer| self.index(*layer))
            .collect();
        Ok(View::new(indexes?))
    }

    /// A layer's index.
    ///
    /// # Errors
    /// When it has to be made and the layer can't be read.
    pub fn index(&self, layer: LayerId) -> Result<Arc<Index>, SnapshotError> {
        self.store.hold(&[layer])?;
        if let Some(index) = self.store.index(layer)? {
            return Ok(index);
        }
        let _lock = self.lock(layer)?;
        if let Some(index) = self.store.index(layer)? {
            return Ok(index);
        }
        let diff_id = self.required_diff_id(layer)?;
        let (index, ()) = self.read_verified(layer, diff_id, None, |tar| {
            Ok((tar_reader::read_index(tar)?, ()))
        })?;
        self.store.put_index(layer, &index)?;
        Ok(Arc::new(index))
    }

    /// Where the content of a layer's files can be read.
    ///
    /// # Errors
    /// When the layer can't be had.
    pub fn content(&self, layer: LayerId) -> Result<Content, SnapshotError> {
        self.store.hold(&[layer])?;
        if let Some(tree) = self.store.tree(layer, &self.form)? {
            let root = Root::open(&tree)
                .map_err(|error| SnapshotError::io(tree.display().to_string())(error.source))?;
            return Ok(Content::Tree(root));
        }
        let _lock = self.lock(layer)?;
        let diff_id = self.required_diff_id(layer)?;
        Ok(Content::Plain(Arc::new(self.plain(layer, diff_id)?)))
    }

    /// The plain tar of a layer, as a file.
    ///
    /// # Errors
    /// When the layer can't be had as one.
    pub fn plain_tar(&self, layer: LayerId) -> Result<File, SnapshotError> {
        self.store.hold(&[layer])?;
        let _lock = self.lock(layer)?;
        let diff_id = self.required_diff_id(layer)?;
        self.plain(layer, diff_id)
    }

    /// The plain tar of a layer as a file, decompressed into the store where it isn't there.
    fn plain(&self, layer: LayerId, diff_id: DiffId) -> Result<File, SnapshotError> {
        let digest = BlobDigest(diff_id.0);
        if let Some(file) = self.store.blob(&digest)? {
            return Ok(file);
        }
        let (blob, source) = self.blob(layer, diff_id)?;
        let mut tar =
            compression::decompress(blob).map_err(SnapshotError::io(format!("layer {diff_id}")))?;
        let mut writer = self.store.ingest()?;
        io::copy(&mut tar, &mut writer)
            .map_err(SnapshotError::io(format!("unpacking layer {diff_id}")))?;
        let size = match writer.commit(Some(digest)) {
            Ok((_, size)) => size,
            Err(StoreError::WrongDigest { .. }) => return Err(self.denied(diff_id, &source)?),
            Err(error) => return Err(error.into()),
        };
        self.store.settle_claim(&diff_id, &source, true)?;
        self.store.set_diff_id(layer, diff_id, size)?;
        self.store
            .blob(&digest)?
            .ok_or_else(|| Self::missing(diff_id))
    }

    /// The trees of a snapshot's layers, lowest first, made where they are missing.
    ///
    /// # Errors
    /// When a layer can't be had or unpacked.
    pub fn trees(&self, snapshot: &Snapshot) -> Result<Vec<PathBuf>, SnapshotError> {
        self.store.hold(&snapshot.layers)?;
        self.fetch_missing(&snapshot.layers, |layer| {
            Ok(self.store.tree(layer, &self.form)?.is_none())
        })?;
        let watcher = self.watcher(&snapshot.layers)?;
        let trees = self.unpack(&snapshot.layers, watcher.as_ref());
        if let Some(watcher) = watcher {
            watcher.end(trees.as_ref().map(drop));
        }
        trees
    }

    /// Who watches the unpacking of those layers that came from a registry and have no tree yet.
    fn watcher(&self, layers: &[LayerId]) -> Result<Option<Arc<dyn Unpacking>>, SnapshotError> {
        for layer in layers {
            if let Some(remote) = self.remote(*layer)
                && self.store.tree(*layer, &self.form)?.is_none()
            {
                return Ok(Some(self.fetcher.unpack(&remote.repository)));
            }
        }
        Ok(None)
    }

    fn unpack(
        &self,
        layers: &[LayerId],
        watcher: Option<&Arc<dyn Unpacking>>,
    ) -> Result<Vec<PathBuf>, SnapshotError> {
        let mut below = View::default();
        let mut trees = Vec::with_capacity(layers.len());
        for layer in layers {
            trees.push(self.tree(*layer, &below, watcher)?);
            below.push(self.index(*layer)?);
        }
        Ok(trees)
    }

    fn tree(
        &self,
        layer: LayerId,
        below: &View,
        watcher: Option<&Arc<dyn Unpacking>>,
    ) -> Result<PathBuf, SnapshotError> {
        if let Some(tree) = self.store.tree(layer, &self.form)? {
            return Ok(tree);
        }
        let _lock = self.lock(layer)?;
        if let Some(tree) = self.store.tree(layer, &self.form)? {
            return Ok(tree);
        }
        let diff_id = self.required_diff_id(layer)?;
        let pending = self.store.new_tree(&self.form)?;
        let root = File::open(pending.path()).map_err(SnapshotError::io("opening a new tree"))?;
        let (index, ()) = self.read_verified(layer, diff_id, watcher, |tar| {
            Ok((apply::extract(tar, root.as_fd(), &self.form, below)?, ()))
        })?;
        if self.store.index(layer)?.is_none() {
            self.store.put_index(layer, &index)?;
        }
        Ok(pending.commit(layer)?)
    }

    /// Reads a layer's plain tar through `read`, to its end, and checks its diff ID.
    fn read_verified<T>(
        &self,
        layer: LayerId,
        diff_id: DiffId,
        watcher: Option<&Arc<dyn Unpacking>>,
        read: impl FnOnce(&mut dyn Read) -> Result<(Index, T), LayerError>,
    ) -> Result<(Index, T), SnapshotError> {
        let (blob, source) = self.blob(layer, diff_id)?;
        let tar = self
            .watched(layer, blob, watcher)
            .and_then(compression::decompress)
            .map_err(SnapshotError::io(format!("layer {diff_id}")))?;
        let mut tar = HashingStream::new(tar);
        let result = read(&mut tar).map_err(|source| SnapshotError::Layer {
            layer: diff_id.to_string(),
            source,
        })?;
        // Readers stop at the end marker; the digest covers what stands behind it too.
        io::copy(&mut tar, &mut io::sink())
            .map_err(SnapshotError::io(format!("layer {diff_id}")))?;
        let (_, digest, size) = tar.finish();
        let found = DiffId(digest);
        if found != diff_id {
            return Err(self.denied(diff_id, &source)?);
        }
        self.store.settle_claim(&diff_id, &source, true)?;
        self.store.set_diff_id(layer, diff_id, size)?;
        Ok(result)
    }

    fn watched(
        &self,
        layer: LayerId,
        blob: File,
        watcher: Option<&Arc<dyn Unpacking>>,
    ) -> io::Result<Box<dyn Read + Send>> {
        Ok(match (watcher, self.remote(layer)) {
            (Some(watcher), Some(layer)) => Box::new(Watched {
                total: blob.metadata()?.len(),
                blob,
                current: 0,
                told: 0,
                layer,
                watcher: Arc::clone(watcher),
            }),
            _ => Box::new(blob),
        })
    }

    /// Fetches, several at once, the blobs of those layers that `needed` names.
    pub(super) fn fetch_missing(
        &self,
        layers: &[LayerId],
        needed: impl Fn(LayerId) -> Result<bool, SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let mut blobs: Vec<RemoteBlob> = Vec::new();
        for layer in layers {
            let Some(remote) = self.remote(*layer) else {
                continue;
            };
            if !needed(*layer)? || blobs.contains(&remote) {
                continue;
            }
            let diff_id = self.required_diff_id(*layer)?;
            if !self.has_layer(diff_id)? && !self.store.has_blob(&remote.digest)? {
                blobs.push(remote);
            }
        }
        if blobs.is_empty() {
            return Ok(());
        }
        self.fetcher.fetch(&blobs)
    }

    pub(super) fn lock(&self, layer: LayerId) -> Result<crate::store::Lock, SnapshotError> {
        let key = CacheKeyBuilder::new("layer shape")
            .field(layer.to_string().as_bytes())
            .finish();
        Ok(self.store.lock(&key)?)
    }

    fn diff_id(&self, layer: LayerId) -> Result<Option<DiffId>, SnapshotError> {
        Ok(self.store.layer(layer)?.and_then(|layer| layer.diff_id))
    }

    fn required_diff_id(&self, layer: LayerId) -> Result<DiffId, SnapshotError> {
        self.diff_id(layer)?.ok_or_else(|| SnapshotError::Missing {
            layer: layer.to_string(),
        })
    }

    pub(super) fn missing(diff_id: DiffId) -> SnapshotError {
        SnapshotError::Missing {
            layer: Digest::to_string(&diff_id.0),
        }
    }
}
