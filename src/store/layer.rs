//! Layers: one row is one layer at its place in a stack, with what is known of it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use super::error::{Action, StoreError};
use super::{Store, sql};
use crate::digest::{BlobDigest, CacheKey, CacheKeyBuilder, ChainId, DiffId};
use crate::layer::index::Index;

/// Names a layer of this store. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LayerId(pub(super) i64);

impl LayerId {
    /// The number, for keys that are used in this store only.
    pub fn number(self) -> u64 {
        self.0.cast_unsigned()
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {}", self.0)
    }
}

/// What is known of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its name in this store.
    pub id: LayerId,
    /// Digest of its plain tar; `None` until somebody needed that.
    pub diff_id: Option<DiffId>,
    /// Digest of the stack up to it, for layers of base images.
    pub chain_id: Option<ChainId>,
    /// Its plain tar among the blobs.
    pub plain_blob: Option<BlobDigest>,
    /// Size of its plain tar in bytes.
    pub size: Option<u64>,
}

/// A layer that is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewLayer {
    /// Digest of its plain tar.
    pub diff_id: Option<DiffId>,
    /// Digest of the stack up to it. Layers with the same chain ID are the same layer.
    pub chain_id: Option<ChainId>,
    /// Its plain tar among the blobs.
    pub plain_blob: Option<BlobDigest>,
    /// Size of its plain tar in bytes.
    pub size: Option<u64>,
}

impl NewLayer {
    /// One whose plain tar was just written to a blob of this digest and size.
    pub fn of_tar(digest: BlobDigest, size: u64) -> Self {
        Self {
            diff_id: Some(DiffId(digest.0)),
            chain_id: None,
            plain_blob: Some(digest),
            size: Some(size),
        }
    }
}

/// A compressed form of a layer. Its bytes may be in the store or in a registry only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompressedBlob {
    /// Digest of the compressed bytes.
    pub digest: BlobDigest,
    /// Their number.
    pub size: u64,
    /// Their format, such as `application/vnd.oci.image.layer.v1.tar+gzip`.
    pub media_type: String,
    /// Whether somebody has seen that it decompresses to the diff ID. Otherwise a manifest claims
    /// so, which anybody can write.
    pub is_verified: bool,
}

impl Store {
    /// What is known of a layer.
    ///
    /// # Errors
    /// When the database fails.
    pub fn layer(&self, id: LayerId) -> Result<Option<Layer>, StoreError> {
        self.inner.database.read(|c| sql::layer(c, id))
    }

    /// The layer at the top of a base image's stack.
    ///
    /// # Errors
    /// When the database fails.
    pub fn layer_by_chain(&self, chain_id: &ChainId) -> Result<Option<Layer>, StoreError> {
        let found = self
            .inner
            .database
            .read(|c| sql::layer_by_chain(c, chain_id))?;
        let Some(layer) = found else { return Ok(None) };
        Ok(self.try_hold(&[layer.id])?.then_some(layer))
    }

    /// Makes a layer. Where one with the same chain ID is there, that one is given, completed
    /// with what is new.
    ///
    /// # Errors
    /// When the database fails.
    pub fn create_layer(&self, new: &NewLayer) -> Result<LayerId, StoreError> {
        let session = self.inner.session;
        self.inner
            .database
            .write(|transaction| Ok(sql::create_layer(transaction, new, session)?))
    }

    /// Records a layer's diff ID and the size of its plain tar in bytes.
    ///
    /// # Errors
    /// When another diff ID is recorded already, or there is no such layer.
    pub fn set_diff_id(&self, id: LayerId, diff_id: DiffId, size: u64) -> Result<(), StoreError> {
        self.inner.database.write(|transaction| {
            let layer = sql::layer(transaction, id)?.ok_or(StoreError::MissingLayer(id))?;
            match layer.diff_id {
                Some(recorded) if recorded != diff_id => Err(StoreError::DiffIdChanged {
                    layer: id,
                    recorded,
                    found: diff_id,
                })?,
                _ => Ok(sql::set_diff_id(transaction, id, &diff_id, size)?),
            }
        })
    }

    /// Records which blob is a layer's plain tar.
    ///
    /// # Errors
    /// When there is no such layer.
    pub fn set_plain_blob(&self, id: LayerId, blob: BlobDigest) -> Result<(), StoreError> {
        self.inner.database.write(|transaction| {
            match sql::set_plain_blob(transaction, id, &blob)? {
                true => Ok(()),
                false => Err(StoreError::MissingLayer(id))?,
            }
        })
    }

    /// The compressed forms that are known of a layer: verified ones first, then sorted by format
    /// and digest.
    ///
    /// # Errors
    /// When the database fails.
    pub fn compressed_blobs(&self, diff_id: &DiffId) -> Result<Vec<CompressedBlob>, StoreError> {
        self.inner.database.read(|c| sql::compressed(c, diff_id))
    }

    /// Records a compressed form of a layer.
    ///
    /// # Errors
    /// When the database fails.
    pub fn add_compressed_blob(
        &self,
        diff_id: &DiffId,
        blob: &CompressedBlob,
    ) -> Result<(), StoreError> {
        self.inner
            .database
            .write(|transaction| Ok(sql::add_compressed(transaction, diff_id, blob)?))
    }

    /// Records that a blob was read and holds the layer (`is_true`), or that it doesn't and is no
    /// form of it.
    ///
    /// # Errors
    /// When the database fails.
    pub fn settle_claim(
        &self,
        diff_id: &DiffId,
        blob: &BlobDigest,
        is_true: bool,
    ) -> Result<(), StoreError> {
        self.inner
            .database
            .write(|transaction| Ok(sql::settle_claim(transaction, diff_id, blob, is_true)?))
    }

    /// The layer's entry index, or that of another layer with the same diff ID. Once read, it
    /// stays in memory.
    ///
    /// # Errors
    /// When the database or the disk fail. A damaged index is none.
    pub fn index(&self, id: LayerId) -> Result<Option<Arc<Index>>, StoreError> {
        if let Some(index) = self.indexes().get(&id) {
            return Ok(Some(Arc::clone(index)));
        }
        let Some(name) = self.inner.database.read(|c| sql::index_name(c, id))? else {
            return Ok(None);
        };
        // The name is checked against the content below.
        let path = self.index_path(&hex(&name));
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            result => result.action("read", &path)?,
        };
        let index = match Index::from_bytes(&bytes) {
            Ok(index) if index_key(&bytes).as_bytes() == &name => Arc::new(index),
            _ => {
                tracing::debug!(layer = %id, "index lost");
                self.inner
                    .database
                    .write(|transaction| Ok(sql::forget_index(transaction, &name)?))?;
                return Ok(None);
            }
        };
        self.indexes().insert(id, Arc::clone(&index));
        Ok(Some(index))
    }

    /// Keeps a layer's entry index.
    ///
    /// # Errors
    /// When it can't be written, or there is no such layer.
    pub fn put_index(&self, id: LayerId, index: &Index) -> Result<(), StoreError> {
        let bytes = index.to_bytes();
        let key = index_key(&bytes);
        let path = self.index_path(&key.hex());
        let beside = self.inner.temporary.new_path();
        std::fs::write(&beside, &bytes).action("write", &beside)?;
        // Inside the transaction: whoever removes indexes does so in one, too.
        self.inner.database.write(|transaction| {
            std::fs::rename(&beside, &path).action("create", &path)?;
            match sql::set_index(transaction, id, &key)? {
                true => Ok(()),
                false => Err(StoreError::MissingLayer(id))?,
            }
        })?;
        self.indexes().insert(id, Arc::new(index.clone()));
        Ok(())
    }

    pub(super) fn index_path(&self, name: &str) -> PathBuf {
        self.inner.root.join("indexes").join(name)
    }

    fn indexes(
        &self,
    ) -> std::sync::MutexGuard<'_, std::collections::BTreeMap<LayerId, Arc<Index>>> {
        self.inner
            .indexes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn index_key(bytes: &[u8]) -> CacheKey {
    CacheKeyBuilder::new("entry index").field(bytes).finish()
}

fn hex(bytes: &[u8; 32]) -> String {
    crate::digest::Digest::from_bytes(*bytes).hex()
}
