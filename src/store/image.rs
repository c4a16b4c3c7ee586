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
        self.tag_variants(reference, std::slice::from_ref(id))
    }

    /// Gives a name to one image for several platforms: to its variants, which are images here. Who
    /// doesn't ask for a platform means that of this machine, or else the first.
    ///
    /// # Errors
    /// When one isn't there, or the database fails.
    pub fn tag_variants(&self, reference: &Reference, ids: &[ImageId]) -> Result<(), StoreError> {
        let host = Platform::host();
        self.inner.database.write(|transaction| {
            let mut found = Vec::with_capacity(ids.len());
            for id in ids {
                let image = sql::image(transaction, id)?;
                found.push(image.ok_or(StoreError::MissingBlob(BlobDigest(id.0)))?);
            }
            let Some(usual) = best(&host, &found).or(found.first()) else {
                return Ok(());
            };
            let all = if ids.len() > 1 { ids } else { &[] };
            Ok(sql::tag(transaction, reference, &usual.id, all)?)
        })
    }

    /// The variants for several platforms that a name stands for, in their order; none where the
    /// name is one image's.
    ///
    /// # Errors
    /// When the database fails.
    pub fn variants(&self, reference: &Reference) -> Result<Vec<ImageId>, StoreError> {
        self.inner.database.read(|c| sql::variants(c, reference))
    }

    /// The image, or of several variants the best, that a name means on a platform. Where it has
    /// none for that, the platforms that it has; no such name is no platforms.
    ///
    /// # Errors
    /// When the database fails.
    pub fn resolve_for(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Result<ImageRecord, Vec<Platform>>, StoreError> {
        self.inner.database.read(|c| {
            let mut ids = sql::variants(c, reference)?;
            if ids.is_empty() {
                ids.extend(sql::tagged(c, reference)?);
            }
            let mut images = Vec::with_capacity(ids.len());
            for id in &ids {
                images.extend(sql::image(c, id)?);
            }
            Ok(match best(platform, &images) {
                Some(image) => Ok(image.clone()),
                None => Err(images.into_iter().map(|image| image.platform).collect()),
            })
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

/// The image that fits a platform best.
fn best<'a>(platform: &Platform, images: &'a [ImageRecord]) -> Option<&'a ImageRecord> {
    let fitting = images.iter().filter_map(|image| {
        let rank = platform.rank(&image.platform)?;
        Some((rank, image))
    });
    fitting
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, image)| image)
}
