//! From solved steps to an image: diff IDs of its layers, times of its history, its config.
//!
//! A layer that a RUN step left as a tree gets its diff ID here, by one pass over the tree whose
//! tar nobody keeps; layers of stages that aren't the target never do.

use std::collections::BTreeSet;
use std::io;

use super::{BuildError, BuildRequest};
use crate::digest::{CacheKeyBuilder, DiffId, Digest, HashingStream, ImageId};
use crate::export::layers::write_layer_tar;
use crate::graph::lowering::Lowered;
use crate::graph::{Operation, VertexIndex};
use crate::image::config::{History, ImageConfig};
use crate::snapshot::{Materializer, SnapshotError};
use crate::solver::Solved;
use crate::store::{CacheRecord, LayerId, NewLayer, Store, StoreError};
use crate::time::Timestamp;

/// An image that is whole: its config's bytes and its layers.
pub(super) struct Assembled {
    pub(super) id: ImageId,
    pub(super) config: ImageConfig,
    pub(super) config_bytes: Vec<u8>,
    /// Its layers, lowest first, each with the bytes of its plain tar.
    pub(super) layers: Vec<(LayerId, u64)>,
}

impl Assembled {
    /// Its layers and their sizes.
    pub(super) fn sizes(&self) -> impl Iterator<Item = (LayerId, u64)> {
        self.layers.iter().copied()
    }

    /// Bytes of its layers.
    pub(super) fn size(&self) -> u64 {
        self.sizes().map(|(_, size)| size).sum()
    }

    /// Its layers, lowest first.
    pub(super) fn layer_ids(&self) -> Vec<LayerId> {
        self.sizes().map(|(layer, _)| layer).collect()
    }
}

/// Puts the image of `lowered`'s target together.
pub(super) fn assemble(
    materializer: &Materializer,
    request: &BuildRequest,
    lowered: Lowered,
    solved: &Solved,
) -> Result<Assembled, BuildError> {
    let chain = lowered.graph.chain(lowered.target);
    let steps: Vec<&VertexIndex> = chain
        .iter()
        .filter(|index| !matches!(lowered.graph.vertex(**index).operation, Operation::Image(_)))
        .collect();
    let snapshot = lowered.target.and_then(|target| solved.get(&target));
    let mut layers = snapshot.map_or_else(Vec::new, |result| result.snapshot.layers.clone());
    let base = layers.len().saturating_sub(steps.len());
    if request.rewrite_timestamp
        && let Some(time) = request.source_date_epoch
    {
        for layer in &mut layers[base..] {
            *layer = rewritten(materializer, *layer, time)?;
        }
    }
    let mut diff_ids: Vec<DiffId> = Vec::with_capacity(layers.len());
    let mut sizes = Vec::with_capacity(layers.len());
    for layer in &layers {
        let (diff_id, bytes) = measure(materializer, *layer)?;
        diff_ids.push(diff_id);
        sizes.push((*layer, bytes));
    }
    let mut config = lowered.config;
    let made: Vec<Timestamp> = steps
        .iter()
        .filter_map(|index| Some(solved.get(index)?.created))
        .collect();
    date_history(&mut config, base, &made, request.source_date_epoch);
    config.rootfs.diff_ids = diff_ids;
    let config_bytes = config.to_bytes();
    let id = ImageId(Digest::of(&config_bytes));
    Ok(Assembled {
        id,
        config,
        config_bytes,
        layers: sizes,
    })
}

/// The diff ID of a layer and the size of its plain tar, computed where nobody has yet. A base
/// layer that was never unpacked counts as much as it takes on its way.
pub(crate) fn measure(
    materializer: &Materializer,
    layer: LayerId,
) -> Result<(DiffId, u64), BuildError> {
    let store = materializer.store();
    let known = store.layer(layer)?.ok_or(SnapshotError::Missing {
        layer: layer.to_string(),
    })?;
    if let Some(diff_id) = known.diff_id {
        let size = match known.size {
            Some(size) => size,
            None => {
                let blobs = store.compressed_blobs(&diff_id)?;
                blobs.first().map_or(0, |blob| blob.size)
            }
        };
        return Ok((diff_id, size));
    }
    let mut tar = HashingStream::new(io::sink());
    write_layer_tar(materializer, layer, None, &mut tar)?;
    let (_, digest, size) = tar.finish();
    store.set_diff_id(layer, DiffId(digest), size)?;
    Ok((DiffId(digest), size))
}

/// The bytes of all the images' layers compressed, each once, where each is known in some
/// compression.
pub(super) fn compressed_size(
    store: &Store,
    images: &[Assembled],
) -> Result<Option<u64>, StoreError> {
    let mut size = 0;
    let diff_ids = images
        .iter()
        .flat_map(|image| &image.config.rootfs.diff_ids);
    for diff_id in diff_ids.collect::<BTreeSet<_>>() {
        match store.compressed_blobs(diff_id)?.first() {
            Some(blob) => size += blob.size,
            None => return Ok(None),
        }
    }
    Ok(Some(size))
}

/// A copy of a layer in which no file is newer than `time`.
fn rewritten(
    materializer: &Materializer,
    layer: LayerId,
    time: Timestamp,
) -> Result<LayerId, BuildError> {
    let store = materializer.store();
    let key = CacheKeyBuilder::new("rewritten layer")
        .field(layer.to_string().as_bytes())
        .number(time.seconds() as u64)
        .finish();
    let _lock = store.lock(&key)?;
    if let Some(record) = store.cached(&key)?
        && let Some(layer) = record.layer
        && materializer.is_available(layer)?
    {
        return Ok(layer);
    }
    let mut writer = store.ingest()?;
    let index = write_layer_tar(materializer, layer, Some(time), &mut writer)?;
    let (digest, size) = writer.commit(None)?;
    let layer = store.create_layer(&NewLayer::of_tar(digest, size))?;
    store.put_index(layer, &index)?;
    let record = CacheRecord {
        layer: Some(layer),
        created: time,
    };
    store.record(&key, &record)?;
    Ok(layer)
}

/// Gives every history entry a time, as BuildKit does: steps with a layer the time when it was
/// made (so an unchanged rebuild gives the same image), others that of the next such step, or of
/// the last one before. `SOURCE_DATE_EPOCH` goes before all of that.
fn date_history(
    config: &mut ImageConfig,
    base_layers: usize,
    made: &[Timestamp],
    epoch: Option<Timestamp>,
) {
    let known = config
        .history
        .iter()
        .filter(|entry| !entry.empty_layer)
        .count();
    // Some base images tell less of their history than they have layers.
    for _ in known.saturating_sub(made.len())..base_layers {
        let entry = History {
            comment: "history of the base image is missing".to_owned(),
            ..History::default()
        };
        config.history.insert(0, entry);
    }
    let first_new = config
        .history
        .iter()
        .enumerate()
        .filter(|(_, entry)| !entry.empty_layer)
        .nth(base_layers)
        .map_or(config.history.len(), |(place, _)| place);
    let mut made = made.iter().copied();
    for entry in config.history[first_new..]
        .iter_mut()
        .filter(|entry| !entry.empty_layer)
    {
        entry.created = entry.created.or(epoch).or(made.next());
    }
    let mut created = None;
    let mut gap = false;
    for entry in &config.history {
        match entry.created {
            Some(time) => {
                created = Some(time);
                if gap {
                    break;
                }
            }
            None => gap = true,
        }
    }
    gap = false;
    for entry in &mut config.history {
        match entry.created {
            Some(time) if gap => created = Some(time),
            Some(_) => {}
            None => {
                gap = true;
                entry.created = created;
            }
        }
    }
    let last = config.history.last().and_then(|entry| entry.created);
    config.created = epoch.or(last).or(Some(Timestamp::from_seconds(0)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_that_tells_no_history_gets_one_for_each_layer() {
        let mut config = ImageConfig::default();
        config.push_history(None, "COPY a / # buildkit", false);
        config.push_history(None, "CMD [\"a\"]", true);
        let made = Timestamp::from_seconds(7);
        date_history(&mut config, 2, &[made], None);
        let told: Vec<_> = config
            .history
            .iter()
            .map(|entry| (entry.created_by.as_str(), entry.created))
            .collect();
        assert_eq!(
            told,
            [
                ("", Some(made)),
                ("", Some(made)),
                ("COPY a / # buildkit", Some(made)),
                ("CMD [\"a\"]", Some(made)),
            ]
        );
        assert_eq!(config.created, Some(made));
    }
}
