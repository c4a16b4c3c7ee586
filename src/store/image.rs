//! Images and their names.

use super::error::StoreError;
use super::{LayerId, Store, sql};
use crate::digest::{BlobDigest, ImageId};
use crate::image::config::CONFIG_LIMIT;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::time::Timestamp;

/// An image: its config is the blob that its ID names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    /// Digest of its config.
    pub id: ImageId,
    /// Its layers, lowest first.
    pub layers: Vec<LayerId>,
    /// What it runs on.
    pub platform: Platform,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Sum of the sizes of its plain layers, in bytes.
    pub size: u64,
}

impl Store {
    /// Keeps an image. Its config and layers must be in the store.
    ///
    /// # Errors
    /// When one of them isn't, or the database fails.
    pub fn put_image(&self, image: &ImageRecord) -> Result<(), StoreError> {
        self.inner.database.write(|transaction| {
            let config = BlobDigest(image.id.0);
            if sql::blob_size(transaction, &config)?.is_none() {
                return Err(StoreError::MissingBlob(config))?;
            }
            for layer in &image.layers {
                if sql::layer(transaction, *layer)?.is_none() {
                    return Err(StoreError::MissingLayer(*layer))?;
                }
            }
            Ok(sql::put_image(transaction, image, self.inner.session)?)
        })
    }

    /// The image with this ID.
    ///
    /// # Errors
    /// When the database fails.
    pub fn image(&self, id: &ImageId) -> Result<Option<ImageRecord>, StoreError> {
        self.inner.database.read(|c| sql::image(c, id))
    }

    /// The bytes of an image's config, with their digest verified once more. `None` where they are
    /// not here any more.
    ///
    /// # Errors
    /// When the database or the disk fail.
    pub fn image_config(&self, id: &ImageId) -> Result<Option<Vec<u8>>, StoreError> {
        self.read_verified(&BlobDigest(id.0), CONFIG_LIMIT)
    }

    /// Removes an image and all its names; what it is made of stays for later builds. Gives
    /// whether it was there.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove_image(&self, id: &ImageId) -> Result<bool, StoreError> {
        self.inner
            .database
            .write(|transaction| Ok(sql::delete_image(transaction, id)?))
    }

    /// Gives an image a name, which another image may have had. Names are full ones: with a tag.
    ///
    /// # Errors
    /// When there is no such image, or the database fails.
    pub fn tag(&self, reference: &Reference, id: &ImageId) -> Result<(), StoreError> {
        self.inner.database.write(|transaction| {
            if sql::image(transaction, id)?.is_none() {
                return Err(StoreError::MissingBlob(BlobDigest(id.0)))?;
            }
            Ok(sql::tag(transaction, reference, id)?)
        })
    }

    /// Takes a name away. Gives whether it was there.
    ///
    /// # Errors
    /// When the database fails.
    pub fn untag(&self, reference: &Reference) -> Result<bool, StoreError> {
        self.inner
            .database
            .write(|transaction| Ok(sql::untag(transaction, reference)?))
    }

    /// The image that has this name.
    ///
    /// # Errors
    /// When the database fails.
    pub fn resolve(&self, reference: &Reference) -> Result<Option<ImageId>, StoreError> {
        self.inner.database.read(|c| sql::tagged(c, reference))
    }

    /// Remembers a name by digest, such as `example.org/app@sha256:…`, under which a registry has
    /// the image.
    ///
    /// # Errors
    /// When there is no such image, or the database fails.
    pub fn put_manifest(&self, id: &ImageId, reference: &Reference) -> Result<(), StoreError> {
        self.inner
            .database
            .write(|transaction| Ok(sql::put_manifest(transaction, id, reference)?))
    }

    /// The names by digest under which registries have, or had, the image.
    ///
    /// # Errors
    /// When the database fails.
    pub fn manifests(&self, id: &ImageId) -> Result<Vec<Reference>, StoreError> {
        self.inner.database.read(|c| sql::manifests(c, id))
    }

    /// The names of an image, sorted.
    ///
    /// # Errors
    /// When the database fails.
    pub fn names(&self, id: &ImageId) -> Result<Vec<Reference>, StoreError> {
        self.inner.database.read(|c| sql::tags(c, id))
    }

    /// All images with their names, newest first; an image without a name has an empty list.
    ///
    /// # Errors
    /// When the database fails.
    pub fn images(&self) -> Result<Vec<(Vec<Reference>, ImageRecord)>, StoreError> {
        self.inner.database.read(|c| {
            let mut images = Vec::new();
            for id in sql::image_ids(c)? {
                if let Some(image) = sql::image(c, &id)? {
                    images.push((sql::tags(c, &id)?, image));
                }
            }
            Ok(images)
        })
    }
}
