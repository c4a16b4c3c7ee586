//! What the store takes on the disk, and whose it is.

use rusqlite::Connection;

use super::error::{Action, StoreError};
use super::prune::layer_blobs;
use super::{LayerId, SOURCES, Store, sql};
use crate::digest::{BlobDigest, CacheKey, ImageId};
use crate::fs::usage::disk_usage;
use crate::time::Timestamp;

/// What the store takes on the disk. Sizes are in bytes that the file system has set aside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The layers, oldest first.
    pub layers: Vec<LayerUsage>,
    /// Blobs that belong to no layer and no image, such as manifests of base images.
    pub other_blobs: u64,
    /// Their number.
    pub other_blob_count: usize,
    /// The configs of images.
    pub configs: u64,
    /// The cache mounts of RUN steps.
    pub cache_mounts: Vec<CacheMountUsage>,
    /// The git repositories that builds have fetched from.
    pub repositories: Vec<CacheMountUsage>,
    /// Everything, the database and what running builds are making included.
    pub total: u64,
}

/// What a layer takes on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerUsage {
    /// The layer.
    pub id: LayerId,
    /// Its trees, and those of its blobs that no layer before it has too.
    pub bytes: u64,
    /// The images that have it.
    pub images: Vec<ImageId>,
    /// Whether it came with a base image and not from a step.
    pub is_base: bool,
    /// When a build, a push or the like last needed it.
    pub used: Timestamp,
}

/// What a cache mount or a repository takes on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheMountUsage {
    /// The hash of its id.
    pub id: CacheKey,
    /// Its size.
    pub bytes: u64,
    /// When a step last had it.
    pub used: Timestamp,
}

impl Store {
    /// Looks at everything in the store. A folder that can't be looked into counts as nothing.
    ///
    /// # Errors
    /// When the database or the disk fail.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let mut usage = Usage {
            total: self.disk_usage(self.root())?,
            ..Usage::default()
        };
        let rows = self.inner.database.read(layer_rows)?;
        let mut counted = std::collections::BTreeSet::new();
        for mut layer in rows {
            let forms = self.inner.database.read(|c| sql::tree_forms(c, layer.id))?;
            for form in forms {
                layer.bytes += self.disk_usage(&self.tree_path(layer.id, &form))?;
            }
            for digest in self.inner.database.read(|c| layer_blobs(c, layer.id))? {
                if counted.insert(digest) {
                    layer.bytes += self.disk_usage(&self.blob_path(&digest))?;
                }
            }
            layer.images = self.inner.database.read(|c| images_with(c, layer.id))?;
            usage.layers.push(layer);
        }
        for (digest, is_config) in self.inner.database.read(blobs)? {
            if counted.contains(&digest) {
                continue;
            }
            let bytes = self.disk_usage(&self.blob_path(&digest))?;
            if is_config {
                usage.configs += bytes;
            } else {
                usage.other_blobs += bytes;
                usage.other_blob_count += 1;
            }
        }
        for (form, id, used) in self.inner.database.read(mounts)? {
            let path = self.mount_path(&form, &id);
            let folders = match form == SOURCES {
                true => &mut usage.repositories,
                false => &mut usage.cache_mounts,
            };
            folders.push(CacheMountUsage {
                id,
                bytes: self.disk_usage(&path)?,
                used,
            });
        }
        Ok(usage)
    }

    pub(super) fn disk_usage(&self, path: &std::path::Path) -> Result<u64, StoreError> {
        disk_usage(path).action("look at", path)
    }
}

fn layer_rows(c: &Connection) -> rusqlite::Result<Vec<LayerUsage>> {
    let mut statement =
        c.prepare("SELECT id, used, chain_id IS NOT NULL FROM layers ORDER BY used, id")?;
    let rows = statement.query_map([], |row| {
        Ok(LayerUsage {
            id: LayerId(row.get(0)?),
            bytes: 0,
            images: Vec::new(),
            is_base: row.get(2)?,
            used: Timestamp::from_seconds(row.get(1)?),
        })
    })?;
    rows.collect()
}

fn images_with(c: &Connection, layer: LayerId) -> rusqlite::Result<Vec<ImageId>> {
    c.prepare_cached("SELECT DISTINCT image FROM image_layers WHERE layer = ?1")?
        .query_map([layer.0], |row| sql::required_digest(row, 0).map(ImageId))?
        .collect()
}

fn blobs(c: &Connection) -> rusqlite::Result<Vec<(BlobDigest, bool)>> {
    c.prepare("SELECT digest, digest IN (SELECT id FROM images) FROM blobs")?
        .query_map([], |row| {
            Ok((BlobDigest(sql::required_digest(row, 0)?), row.get(1)?))
        })?
        .collect()
}

fn mounts(c: &Connection) -> rusqlite::Result<Vec<(String, CacheKey, Timestamp)>> {
    c.prepare("SELECT form, id, used FROM mounts ORDER BY used, id")?
        .query_map([], |row| {
            let id = CacheKey::from_bytes(row.get(1)?);
            Ok((row.get(0)?, id, Timestamp::from_seconds(row.get(2)?)))
        })?
        .collect()
}
