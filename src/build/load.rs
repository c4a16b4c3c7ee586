//! `rbuild load`: images of an archive or of a layout folder into the store.
//!
//! An archive says which plain tar each of its layers is. That is checked before anything of it
//! gets a name: what the store knows of a layer serves every image that has it.

use std::io;
use std::sync::Arc;

use super::BuildError;
use super::resolve::imported;
use super::run::{BuildEnvironment, materializer};
use crate::digest::{DiffId, HashingStream, ImageId};
use crate::layer::index::Index;
use crate::layer::{compression, tar_reader};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::snapshot::{Materializer, SnapshotError};
use crate::solver::events::{EventSink, Reporter};
use crate::step::layers_of;
use crate::store::{CompressedBlob, ImageFile, ImageRecord, ImportedLayer, NamedImage, Store};

/// An image that is in the store now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedImage {
    /// Its ID.
    pub id: ImageId,
    /// The names that it has got.
    pub names: Vec<Reference>,
}

/// Loads all images of a file under their names. Of an image for several platforms, that for
/// `platform`, or for this machine.
///
/// # Errors
/// When the file can't be read, holds no image, or one that is damaged; no image of it has a
/// name then.
pub async fn load(
    from: ImageFile,
    platform: Option<Platform>,
    environment: &BuildEnvironment,
    events: Arc<dyn EventSink>,
) -> Result<Vec<LoadedImage>, BuildError> {
    let reporter = Arc::new(Reporter::new(events));
    let materializer = materializer(environment, &reporter);
    let activity = reporter.begin("loading images");
    let loading = tokio::task::spawn_blocking(move || {
        activity.end(load_all(&materializer, from, platform.as_ref()))
    });
    let loaded = loading.await.map_err(|_| BuildError::Canceled)??;
    environment.store.sync()?;
    Ok(loaded)
}

fn load_all(
    materializer: &Materializer,
    from: ImageFile,
    platform: Option<&Platform>,
) -> Result<Vec<LoadedImage>, BuildError> {
    let store = materializer.store();
    let images = store.import_all(from, platform)?;
    let mut loaded = Vec::with_capacity(images.len());
    for image in images {
        let names = names(&image)?;
        let id = keep(materializer, image)?;
        loaded.push(LoadedImage { id, names });
    }
    for image in &loaded {
        for name in &image.names {
            store.tag(name, &image.id)?;
        }
    }
    Ok(loaded)
}

fn names(image: &NamedImage) -> Result<Vec<Reference>, BuildError> {
    let names = image.names.iter().map(|name| {
        let reference = name
            .parse::<Reference>()
            .map_err(|error| BuildError::Request(format!("the archive names an image: {error}")))?;
        Ok(reference.without_digest().with_default_tag())
    });
    names.collect()
}

/// Checks an image's layers and keeps it.
fn keep(materializer: &Materializer, image: NamedImage) -> Result<ImageId, BuildError> {
    let store = materializer.store();
    let imported_layers = image.image.layers.clone();
    let mut read = Vec::with_capacity(imported_layers.len());
    for layer in &imported_layers {
        read.push(check(store, layer)?);
    }
    let base = imported("the archive".to_owned(), image.image);
    let layers = layers_of(materializer, &base)?;
    let mut size = 0;
    for ((layer, read), imported) in layers.iter().zip(read).zip(&imported_layers) {
        store.settle_claim(&imported.diff_id, &imported.blob.digest, true)?;
        if let Some((index, plain_size)) = read {
            store.set_diff_id(*layer, imported.diff_id, plain_size)?;
            if store.index(*layer)?.is_none() {
                store.put_index(*layer, &index)?;
            }
        }
        let known = store.layer(*layer)?.and_then(|layer| layer.size);
        size += known.unwrap_or(imported.blob.size);
    }
    store.put_image(&ImageRecord {
        id: base.id,
        layers,
        platform: base.platform.clone(),
        created: base.config.created,
        size,
    })?;
    Ok(base.id)
}

/// Makes sure that a layer's blob holds the plain tar of its diff ID. Gives the layer's index and
/// the size of the tar, unless the store has seen that blob for this layer before.
fn check(store: &Store, layer: &ImportedLayer) -> Result<Option<(Index, u64)>, SnapshotError> {
    let known = store.compressed_blobs(&layer.diff_id)?;
    let is_known = |blob: &CompressedBlob| blob.is_verified && blob.digest == layer.blob.digest;
    if known.iter().any(is_known) {
        return Ok(None);
    }
    let expected = layer.diff_id;
    let missing = || SnapshotError::Missing {
        layer: expected.to_string(),
    };
    let blob = store.blob(&layer.blob.digest)?.ok_or_else(missing)?;
    let failed = || SnapshotError::io(format!("layer {expected}"));
    let plain = compression::decompress(blob).map_err(failed())?;
    let mut plain = HashingStream::new(plain);
    let index = tar_reader::read_index(&mut plain).map_err(|source| SnapshotError::Layer {
        layer: expected.to_string(),
        source,
    })?;
    // Readers stop at the end marker; the digest covers what stands behind it too.
    io::copy(&mut plain, &mut io::sink()).map_err(failed())?;
    let (_, found, size) = plain.finish();
    let found = DiffId(found);
    if found != expected {
        return Err(SnapshotError::DiffIdMismatch { expected, found });
    }
    Ok(Some((index, size)))
}
