//! How an image is packed when it leaves: whose media types, which compression, which notes.
//!
//! The same config and layers give another manifest for each way of packing, never another image
//! ID. The store remembers the last way that an image was built with, so that a later push or
//! save writes the manifest that the build wrote. Pure but for that note in the store.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::{CacheKey, CacheKeyBuilder, ImageId};
use crate::image::ImageError;
use crate::image::archive::CREATED_ANNOTATION;
use crate::image::config::ImageConfig;
use crate::image::manifest::{Descriptor, Manifest, media_type};
use crate::layer::compression::Compression;
use crate::platform::Platform;
use crate::store::{Store, StoreError};

/// Whose names the formats have in a manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaTypes {
    /// Those of the OCI image spec.
    #[default]
    Oci,
    /// Docker's own, for readers from before 2017 (`oci-mediatypes=false`).
    Docker,
}

impl MediaTypes {
    /// The name of a format in this family; a format that the family has no name for keeps its own.
    pub fn name(self, format: &str) -> &str {
        match self {
            Self::Oci => media_type::to_oci(format),
            Self::Docker => media_type::to_docker(format),
        }
    }
}

/// How an image is packed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Packaging {
    /// Whose media types the manifest uses.
    pub media_types: MediaTypes,
    /// How layers are compressed that this store made.
    pub compression: Compression,
    /// The compressor's level; its usual one where `None`.
    pub level: Option<u32>,
    /// Whether layers of base images are compressed so too. Else they leave as they came.
    pub force_compression: bool,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Annotations of the manifest's descriptor: in a layout's index and in what is told of a
    /// build.
    pub descriptor_annotations: BTreeMap<String, String>,
    /// Annotations of the index, where there are images for several platforms.
    pub index_annotations: BTreeMap<String, String>,
    /// Annotations of the index's descriptor.
    pub index_descriptor_annotations: BTreeMap<String, String>,
    /// Annotations of the manifest for one platform, by its name, and of that manifest's descriptor.
    pub only: BTreeMap<String, Notes>,
}

/// Annotations of a manifest and of its descriptor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Notes {
    /// Of the manifest.
    pub manifest: BTreeMap<String, String>,
    /// Of its descriptor.
    pub descriptor: BTreeMap<String, String>,
}

impl Packaging {
    /// The manifest of an image: its bytes, and a descriptor that says the platform and the time
    /// of the config, without names.
    ///
    /// # Errors
    /// When the config can't be read.
    pub fn manifest(
        &self,
        config: &[u8],
        layers: Vec<Descriptor>,
    ) -> Result<(Vec<u8>, Descriptor), ImageError> {
        let parsed = ImageConfig::from_bytes(config)?;
        let name = |format| self.media_types.name(format);
        let mut manifest = Manifest::new(
            Descriptor::of(name(media_type::OCI_CONFIG), config),
            layers,
            self.annotations.clone(),
        );
        manifest.media_type = name(media_type::OCI_MANIFEST).to_owned();
        let bytes = manifest.to_bytes();
        let mut descriptor = Descriptor::of(&manifest.media_type, &bytes);
        if !parsed.architecture.is_empty() {
            descriptor = descriptor.with_platform(&parsed.platform());
        }
        if let Some(created) = parsed.created {
            descriptor = descriptor.with_annotation(CREATED_ANNOTATION, &created.to_string());
        }
        let own = self.descriptor_annotations.clone();
        descriptor.annotations.extend(own);
        Ok((bytes, descriptor))
    }

    /// How the image for one platform is packed: with what is said of that one only.
    pub fn for_platform(&self, platform: &Platform) -> Self {
        let mut own = self.clone();
        if let Some(notes) = std::mem::take(&mut own.only).remove(&platform.to_string()) {
            own.annotations.extend(notes.manifest);
            own.descriptor_annotations.extend(notes.descriptor);
        }
        own
    }

    /// Remembers that the image is packed so.
    ///
    /// # Errors
    /// When the store fails.
    pub fn remember(&self, store: &Store, image: &ImageId) -> Result<(), StoreError> {
        if Self::recall(store, image)? == *self {
            return Ok(());
        }
        // Maps of strings and plain values: this can't fail.
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        store.put_memo(&key_of(image), &bytes)
    }

    /// How the image was packed last; the usual way where nobody said.
    ///
    /// # Errors
    /// When the store fails.
    pub fn recall(store: &Store, image: &ImageId) -> Result<Self, StoreError> {
        let known = store.memo(&key_of(image))?;
        Ok(known
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default())
    }
}

fn key_of(image: &ImageId) -> CacheKey {
    CacheKeyBuilder::new("packaging of an image")
        .field(image.0.as_bytes())
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn a_manifest_says_everything_in_one_familys_words() {
        let config = ImageConfig::empty(&Platform::new("linux", "arm64", None)).to_bytes();
        for (media_types, manifest, config_type) in [
            (
                MediaTypes::Oci,
                media_type::OCI_MANIFEST,
                media_type::OCI_CONFIG,
            ),
            (
                MediaTypes::Docker,
                media_type::DOCKER_MANIFEST,
                media_type::DOCKER_CONFIG,
            ),
        ] {
            let packaging = Packaging {
                media_types,
                descriptor_annotations: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
                ..Packaging::default()
            };
            let (bytes, descriptor) = packaging.manifest(&config, Vec::new()).unwrap();
            assert_eq!(descriptor, {
                let expected = Descriptor::of(manifest, &bytes)
                    .with_platform(&Platform::new("linux", "arm64", None));
                expected.with_annotation("k", "v")
            });
            let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(value["mediaType"], manifest);
            assert_eq!(value["config"]["mediaType"], config_type);
        }
    }

    #[test]
    fn the_store_remembers_how_an_image_was_packed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let id = ImageId(Digest::of(b"config"));
        assert_eq!(
            Packaging::recall(&store, &id).unwrap(),
            Packaging::default()
        );
        let packaging = Packaging {
            compression: Compression::Zstd,
            level: Some(9),
            annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            ..Packaging::default()
        };
        packaging.remember(&store, &id).unwrap();
        assert_eq!(Packaging::recall(&store, &id).unwrap(), packaging);
        Packaging::default().remember(&store, &id).unwrap();
        assert_eq!(
            Packaging::recall(&store, &id).unwrap(),
            Packaging::default()
        );
    }
}
