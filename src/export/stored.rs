//! An image of the store as it leaves: its manifest made, its layers named, opened on demand.

use super::layers::{OutgoingLayer, outgoing};
use super::packaging::Packaging;
use super::{ExportError, ExportedImage, LayerBlob};
use crate::digest::{DiffId, ImageId};
use crate::image::config::ImageConfig;
use crate::image::manifest::Descriptor;
use crate::reference::Reference;
use crate::snapshot::Materializer;
use crate::store::{LayerId, Store};

/// An image that is to leave.
#[derive(Clone, Debug)]
pub struct StoredImage {
    /// The bytes of its config.
    pub config: Vec<u8>,
    /// Its layers, lowest first.
    pub layers: Vec<(LayerId, DiffId)>,
    /// How it is packed.
    pub packaging: Packaging,
}

/// A packed image: its manifest, and its layers ready to leave.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The manifest's descriptor, with platform and time.
    pub descriptor: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<OutgoingLayer>,
}

impl StoredImage {
    /// An image of the store, packed as it was built; `None` where the store has none of this ID.
    ///
    /// # Errors
    /// When the store fails or the image's config is damaged.
    pub fn find(store: &Store, id: &ImageId) -> Result<Option<Self>, ExportError> {
        let Some(record) = store.image(id)? else {
            return Ok(None);
        };
        let Some(config) = store.image_config(id)? else {
            return Ok(None);
        };
        store.hold(&record.layers)?;
        let diff_ids = ImageConfig::from_bytes(&config)?.rootfs.diff_ids;
        Ok(Some(Self {
            config,
            layers: record.layers.into_iter().zip(diff_ids).collect(),
            packaging: Packaging::recall(store, id)?,
        }))
    }

    /// Packs the image. Layers that have no blob of the wanted form get one now.
    ///
    /// # Errors
    /// When a layer or the config can't be read.
    pub fn pack(&self, materializer: &Materializer) -> Result<Packed, ExportError> {
        let mut layers = Vec::with_capacity(self.layers.len());
        for (layer, diff_id) in &self.layers {
            layers.push(outgoing(materializer, *layer, *diff_id, &self.packaging)?);
        }
        let descriptors = layers.iter().map(|layer| layer.descriptor.clone());
        let (manifest, descriptor) = self
            .packaging
            .manifest(&self.config, descriptors.collect())?;
        Ok(Packed {
            manifest,
            descriptor,
            layers,
        })
    }

    /// Packs the image to be written under these names. Layers that only a registry has are
    /// fetched.
    ///
    /// # Errors
    /// When a layer or the config can't be read or fetched.
    pub fn export(
        self,
        materializer: &Materializer,
        tags: Vec<Reference>,
    ) -> Result<ExportedImage<'static>, ExportError> {
        let packed = self.pack(materializer)?;
        let layers = packed.layers.iter();
        let remote: Vec<_> = layers
            .filter_map(|layer| layer.origins.first().cloned())
            .collect();
        if !remote.is_empty() && materializer.fetcher().fetch(&remote).is_err() {
            for layer in &packed.layers {
                materializer.fetch_any(&layer.origins)?;
            }
        }
        let store = materializer.store();
        let layers = packed.layers.into_iter();
        Ok(ExportedImage {
            config: self.config,
            layers: layers
                .map(|layer| LayerBlob::from_store(store, layer.descriptor))
                .collect(),
            tags,
            packaging: self.packaging,
        })
    }
}
