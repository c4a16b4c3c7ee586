//! A base image: rows for its layers, nothing fetched. Its bytes come when a step asks for them.

use super::{StepContext, StepError, StepResult, empty_snapshot};
use crate::digest::{BlobDigest, CacheKeyBuilder, ChainId, DiffId};
use crate::graph::BaseImage;
use crate::snapshot::{Materializer, RemoteBlob, Snapshot, origin};
use crate::store::{CompressedBlob, LayerId, NewLayer, StoreError};
use crate::time::Timestamp;

impl StepContext {
    pub(super) fn image(&self, image: &BaseImage) -> Result<StepResult, StepError> {
        let layers = layers_of(&self.materializer, image)?;
        self.store().mark_as_base(&layers)?;
        let key = match ChainId::of(&image.config.rootfs.diff_ids) {
            Some(chain_id) => CacheKeyBuilder::new("image layers")
                .field(chain_id.0.as_bytes())
                .finish(),
            None => empty_snapshot().key,
        };
        Ok(StepResult {
            snapshot: Snapshot { layers, key },
            cached: true,
            created: image.config.created.unwrap_or(Timestamp::from_seconds(0)),
        })
    }
}

/// Makes known where the layers of an image of the store can be had that the store knows by
/// name only: an image may be built on a base that nobody has read.
///
/// # Errors
/// When the store fails.
pub fn register_origins(materializer: &Materializer, layers: &[LayerId]) -> Result<(), StoreError> {
    let store = materializer.store();
    for layer in layers {
        let Some(diff_id) = store.layer(*layer)?.and_then(|layer| layer.diff_id) else {
            continue;
        };
        let mut origins = Vec::new();
        for blob in store.compressed_blobs(&diff_id)? {
            origins.extend(origin::find(store, &blob)?);
        }
        // Where manifests differ, nobody knows yet which to believe: the materializer finds out.
        if let [origin] = origins.as_slice() {
            materializer.register(*layer, origin.clone());
        }
    }
    Ok(())
}

/// The store's layers of a base image, lowest first; those that it doesn't know yet are made
/// known, with where their bytes can be had.
///
/// # Errors
/// When the store fails.
pub fn layers_of(
    materializer: &Materializer,
    image: &BaseImage,
) -> Result<Vec<LayerId>, StoreError> {
    let store = materializer.store();
    let mut layers = Vec::with_capacity(image.layers.len());
    let mut diff_ids: Vec<DiffId> = Vec::with_capacity(image.layers.len());
    for base in &image.layers {
        diff_ids.push(base.diff_id);
        let Some(chain_id) = ChainId::of(&diff_ids) else {
            continue;
        };
        let layer = match (base.stored, store.layer_by_chain(&chain_id)?) {
            (Some(layer), _) => {
                store.hold(&[layer])?;
                layer
            }
            (None, Some(layer)) => layer.id,
            (None, None) => {
                let plain = BlobDigest(base.diff_id.0);
                store.create_layer(&NewLayer {
                    diff_id: Some(base.diff_id),
                    chain_id: Some(chain_id),
                    plain_blob: store.has_blob(&plain)?.then_some(plain),
                    ..NewLayer::default()
                })?
            }
        };
        layers.push(layer);
        let Some(blob) = &base.blob else { continue };
        let compressed = CompressedBlob {
            digest: blob.digest,
            size: blob.size,
            media_type: blob.media_type.clone(),
            // The manifest says so. Whoever reads the blob will see.
            is_verified: false,
        };
        store.add_compressed_blob(&base.diff_id, &compressed)?;
        if let Some(repository) = &image.repository {
            origin::remember(store, &blob.digest, repository)?;
            materializer.register(
                layer,
                RemoteBlob {
                    repository: repository.clone(),
                    digest: blob.digest,
                    size: blob.size,
                    media_type: blob.media_type.clone(),
                },
            );
        }
    }
    Ok(layers)
}
