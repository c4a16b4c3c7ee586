//! A base image: rows for its layers, nothing fetched. Its bytes come when a step asks for them.

use super::{StepContext, StepError, StepResult, empty_snapshot};
use crate::digest::{CacheKeyBuilder, ChainId, DiffId};
use crate::graph::BaseImage;
use crate::snapshot::{RemoteBlob, Snapshot, origin};
use crate::store::{CompressedBlob, LayerId, NewLayer};
use crate::time::Timestamp;

impl StepContext {
    pub(super) fn image(&self, image: &BaseImage) -> Result<StepResult, StepError> {
        let mut layers = Vec::with_capacity(image.layers.len());
        let mut diff_ids: Vec<DiffId> = Vec::with_capacity(image.layers.len());
        for base in &image.layers {
            diff_ids.push(base.diff_id);
            let Some(chain_id) = ChainId::of(&diff_ids) else {
                continue;
            };
            let layer = match (base.stored, self.store().layer_by_chain(&chain_id)?) {
                (Some(layer), _) => layer,
                (None, Some(layer)) => layer.id,
                (None, None) => self.new_base_layer(base.diff_id, chain_id)?,
            };
            if let Some(blob) = &base.blob {
                self.store().add_compressed_blob(
                    &base.diff_id,
                    &CompressedBlob {
                        digest: blob.digest,
                        size: blob.size,
                        media_type: blob.media_type.clone(),
                    },
                )?;
                if let Some(repository) = &image.repository {
                    origin::remember(self.store(), &blob.digest, repository)?;
                    self.materializer.register(
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
            layers.push(layer);
        }
        let key = match ChainId::of(&diff_ids) {
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

    fn new_base_layer(&self, diff_id: DiffId, chain_id: ChainId) -> Result<LayerId, StepError> {
        Ok(self.store().create_layer(&NewLayer {
            diff_id: Some(diff_id),
            chain_id: Some(chain_id),
            ..NewLayer::default()
        })?)
    }
}
