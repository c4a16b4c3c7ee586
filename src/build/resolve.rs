//! What the names of base images mean: an image of the store, or one of a registry.
//!
//! An image of the store of the right platform is taken without asking anybody, unless the user
//! wants `--pull`. A name that a registry has answered before costs one HEAD; when the registry
//! can't be reached, its last answer serves, with a warning.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::NamedContext;
use crate::digest::{BlobDigest, CacheKey, CacheKeyBuilder, ImageId};
use crate::graph::plan::ImageKey;
use crate::graph::{BaseImage, BaseLayer, LayerBlob};
use crate::image::ImageError;
use crate::image::config::{CONFIG_LIMIT, ImageConfig};
use crate::image::manifest::{Descriptor, Document, MANIFEST_LIMIT, ParsedManifest};
use crate::platform::Platform;
use crate::reference::{Reference, is_same_image};
use crate::registry::{Client, RegistryError};
use crate::solver::events::{Event, EventSink};
use crate::store::{
    ImageRecord, ImportError, ImportedImage, RemoteRecord, Selection, Store, StoreError,
};
use crate::time::Timestamp;

/// Why a base image can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// A name that can't be one.
    #[error("failed to parse stage name `{name}`: {source}")]
    Name {
        /// As written.
        name: String,
        /// Why.
        #[source]
        source: crate::reference::InvalidReference,
    },
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The image's own documents are bad.
    #[error("image `{name}`: {source}")]
    Image {
        /// Its name.
        name: String,
        /// What is wrong.
        #[source]
        source: ImageError,
    },
    /// Config and manifest don't agree.
    #[error("image `{name}` has {layers} layers in its manifest and {diff_ids} in its config")]
    LayerCount {
        /// Its name.
        name: String,
        /// Layers of the manifest.
        layers: usize,
        /// Layers of the config.
        diff_ids: usize,
    },
    /// A layout folder or an archive.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The store has it for other platforms only, and so, if at all, the registry.
    #[error(
        "the image `{name}` is here for {}, and {wanted} is wanted; asked for that: {source}",
        list(.has)
    )]
    OtherPlatform {
        /// Its name.
        name: String,
        /// The platforms that the store has it for.
        has: Vec<Platform>,
        /// The platform that is wanted.
        wanted: Platform,
        /// What the registry said.
        #[source]
        source: RegistryError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The build was stopped.
    #[error("canceled")]
    Canceled,
}

fn list(platforms: &[Platform]) -> String {
    let names: Vec<String> = platforms.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// Resolves names against one store and one registry client.
pub(super) struct Resolver<'a> {
    pub(super) store: &'a Store,
    pub(super) client: &'a Client,
    pub(super) events: &'a dyn EventSink,
    pub(super) pull: bool,
    pub(super) contexts: &'a BTreeMap<String, NamedContext>,
}

impl Resolver<'_> {
    /// The image that `key` names.
    pub(super) async fn resolve(&self, key: &ImageKey) -> Result<BaseImage, ResolveError> {
        match self.named(&key.name) {
            // What is no image the plan has found before.
            None
            | Some(NamedContext::Folder(_) | NamedContext::Remote(_) | NamedContext::Scratch) => {}
            Some(NamedContext::File { path, name }) => {
                return self.file(path.clone(), name.clone(), &key.platform).await;
            }
            Some(NamedContext::Image(reference)) => {
                let reference = reference.clone().with_default_tag();
                return self.image(&reference, &key.platform).await;
            }
        }
        let reference = key
            .name
            .parse::<Reference>()
            .map_err(|source| ResolveError::Name {
                name: key.name.clone(),
                source,
            })?;
        self.image(&reference.with_default_tag(), &key.platform)
            .await
    }

    async fn image(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<BaseImage, ResolveError> {
        let mut has = Vec::new();
        if !self.pull {
            match self.store.resolve_for(reference, platform)? {
                Ok(record) => {
                    if let Some(image) = stored_image(self.store, reference, &record.id, &record)? {
                        return Ok(image);
                    }
                }
                Err(platforms) => has = platforms,
            }
        }
        let remote = self.remote(reference, platform).await;
        remote.map_err(|error| match error {
            ResolveError::Registry(source) if !has.is_empty() => ResolveError::OtherPlatform {
                name: reference.familiar(),
                has,
                wanted: platform.clone(),
                source,
            },
            error => error,
        })
    }

    /// The named context of this name, as it is written or as it is meant: `alpine` is also
    /// `docker.io/library/alpine:latest`.
    fn named(&self, name: &str) -> Option<&NamedContext> {
        self.contexts.get(name).or_else(|| {
            let mut contexts = self.contexts.iter();
            let found = contexts.find(|(other, _)| is_same_image(other, name));
            found.map(|(_, context)| context)
        })
    }

    /// An image of a layout folder or an archive, with all its blobs.
    async fn file(
        &self,
        path: PathBuf,
        name: Option<String>,
        platform: &Platform,
    ) -> Result<BaseImage, ResolveError> {
        let (store, platform) = (self.store.clone(), platform.clone());
        let shown = path.display().to_string();
        let imported = tokio::task::spawn_blocking(move || {
            let name = name.as_deref();
            let platform = &platform;
            store.import(&path, Selection { name, platform })
        });
        let imported = imported.await.map_err(|_| ResolveError::Canceled)??;
        Ok(self::imported(shown, imported))
    }

    async fn remote(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<BaseImage, ResolveError> {
        let top = match reference.digest() {
            Some(digest) => *digest,
            None => match self.client.resolve(reference).await {
                Ok(descriptor) => descriptor.digest,
                Err(error) => self.last_known(reference, platform, error)?,
            },
        };
        if let Some(image) = self.known(reference, platform, &top)? {
            self.remember(reference, platform, &top)?;
            return Ok(image);
        }
        let pinned = reference.clone().with_digest(top);
        let image = self.client.image(&pinned, platform).await?;
        self.store.put_blob(image.manifest.bytes())?;
        self.store.put_blob(image.config.bytes())?;
        let manifest = image.manifest.digest();
        let key = image_of(&top, platform);
        self.store.put_memo(&key, manifest.0.as_bytes())?;
        self.remember(reference, platform, &top)?;
        base_image(
            reference,
            top,
            image.config.id(),
            &image.layers,
            image.config.config.clone(),
        )
    }

    fn remember(
        &self,
        reference: &Reference,
        platform: &Platform,
        top: &BlobDigest,
    ) -> Result<(), ResolveError> {
        if reference.digest().is_some() {
            return Ok(());
        }
        let known = self.store.remote(reference, platform)?;
        if known.is_some_and(|known| known.manifest == *top) {
            return Ok(());
        }
        let record = RemoteRecord {
            manifest: *top,
            checked_at: Timestamp::now(),
        };
        Ok(self.store.put_remote(reference, platform, &record)?)
    }

    /// What the registry said last, where it can't be asked now.
    fn last_known(
        &self,
        reference: &Reference,
        platform: &Platform,
        error: RegistryError,
    ) -> Result<BlobDigest, ResolveError> {
        // Who asks for what is newest isn't helped by what was new once.
        if self.pull || !error.is_unreachable() {
            return Err(error.into());
        }
        let Some(known) = self.store.remote(reference, platform)? else {
            return Err(error.into());
        };
        self.events.emit(Event::Warning(format!(
            "{error}; using `{}` as it was on {}: {}",
            reference.familiar(),
            known.checked_at,
            known.manifest
        )));
        Ok(known.manifest)
    }

    /// An image whose manifest and config were kept from an earlier build.
    fn known(
        &self,
        reference: &Reference,
        platform: &Platform,
        top: &BlobDigest,
    ) -> Result<Option<BaseImage>, ResolveError> {
        let Some(bytes) = self.store.memo(&image_of(top, platform))? else {
            return Ok(None);
        };
        let Ok(bytes) = <[u8; 32]>::try_from(bytes) else {
            return Ok(None);
        };
        let digest = BlobDigest(crate::digest::Digest::from_bytes(bytes));
        let Some(manifest) = self.store.read_verified(&digest, MANIFEST_LIMIT)? else {
            return Ok(None);
        };
        let named = |source| ResolveError::Image {
            name: reference.familiar(),
            source,
        };
        let manifest = ParsedManifest::from_bytes(None, manifest).map_err(named)?;
        let Document::Manifest(manifest) = &manifest.document else {
            return Ok(None);
        };
        let Some(config) = self
            .store
            .read_verified(&manifest.config.digest, CONFIG_LIMIT)?
        else {
            return Ok(None);
        };
        let config = ImageConfig::from_bytes(&config).map_err(named)?;
        let id = ImageId(manifest.config.digest.0);
        base_image(reference, *top, id, &manifest.layers, config).map(Some)
    }
}

/// An image whose blobs were brought into the store, as a base image called `name`.
pub(super) fn imported(name: String, image: ImportedImage) -> BaseImage {
    let config = image.config.config.clone();
    let has_manifest = image.manifest.is_some();
    let layers = image.layers.into_iter().map(|layer| {
        // A plain tar among the blobs is found by its diff ID. Only a manifest that names it is
        // a reason to let the layer leave uncompressed.
        let is_plain = layer.blob.digest.0 == layer.diff_id.0;
        let blob = (has_manifest || !is_plain).then_some(LayerBlob {
            digest: layer.blob.digest,
            size: layer.blob.size,
            media_type: layer.blob.media_type,
        });
        BaseLayer {
            diff_id: layer.diff_id,
            blob,
            stored: None,
        }
    });
    BaseImage {
        id: image.config.id(),
        name,
        repository: None,
        layers: layers.collect(),
        platform: config.platform(),
        config,
    }
}

/// An image that the store has whole, as a base image.
pub(crate) fn stored_image(
    store: &Store,
    reference: &Reference,
    id: &ImageId,
    record: &ImageRecord,
) -> Result<Option<BaseImage>, ResolveError> {
    let Some(bytes) = store.image_config(id)? else {
        return Ok(None);
    };
    let config = ImageConfig::from_bytes(&bytes).map_err(|source| ResolveError::Image {
        name: reference.familiar(),
        source,
    })?;
    let layers = config.rootfs.diff_ids.iter().zip(&record.layers);
    Ok(Some(BaseImage {
        id: *id,
        name: reference.to_string(),
        repository: None,
        layers: layers
            .map(|(diff_id, layer)| BaseLayer {
                diff_id: *diff_id,
                blob: None,
                stored: Some(*layer),
            })
            .collect(),
        platform: config.platform(),
        config,
    }))
}

fn base_image(
    reference: &Reference,
    top: BlobDigest,
    id: ImageId,
    layers: &[Descriptor],
    config: ImageConfig,
) -> Result<BaseImage, ResolveError> {
    if layers.len() != config.rootfs.diff_ids.len() {
        return Err(ResolveError::LayerCount {
            name: reference.familiar(),
            layers: layers.len(),
            diff_ids: config.rootfs.diff_ids.len(),
        });
    }
    let layers = config.rootfs.diff_ids.iter().zip(layers);
    Ok(BaseImage {
        id,
        name: reference.clone().with_digest(top).to_string(),
        repository: Some(reference.clone()),
        layers: layers
            .map(|(diff_id, layer)| BaseLayer {
                diff_id: *diff_id,
                blob: Some(LayerBlob {
                    digest: layer.digest,
                    size: layer.size,
                    media_type: layer.media_type.clone(),
                }),
                stored: None,
            })
            .collect(),
        platform: config.platform(),
        config,
    })
}

fn image_of(top: &BlobDigest, platform: &Platform) -> CacheKey {
    CacheKeyBuilder::new("manifest of an index")
        .field(top.0.as_bytes())
        .field(platform.to_string().as_bytes())
        .finish()
}
