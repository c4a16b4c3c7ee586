//! `rbuild pull` and `rbuild push`: images between registries and the store, without a build.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::BuildError;
use super::resolve::Resolver;
use super::run::{BuildEnvironment, materializer};
use crate::digest::{BlobDigest, ImageId};
use crate::export::StoredImage;
use crate::export::registry::{self, Pushed};
use crate::graph::BaseImage;
use crate::graph::plan::ImageKey;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::snapshot::{Materializer, RemoteBlob, Snapshot, SnapshotTree};
use crate::solver::events::{EventSink, NoEvents, Reporter};
use crate::step::layers_of;
use crate::store::{ImageRecord, LayerId};

/// Brings an image with all its layers into the store, under its name.
///
/// # Errors
/// When the registry doesn't have it, or the store can't take it.
pub async fn pull(
    reference: &Reference,
    platform: &Platform,
    environment: &BuildEnvironment,
    events: Arc<dyn EventSink>,
) -> Result<ImageId, BuildError> {
    let reporter = Arc::new(Reporter::new(Arc::clone(&events)));
    let resolver = Resolver {
        store: &environment.store,
        client: &environment.client,
        events: events.as_ref(),
        pull: true,
        contexts: &BTreeMap::new(),
    };
    let key = ImageKey {
        name: reference.to_string(),
        platform: platform.clone(),
    };
    let activity = reporter.begin(&format!("[internal] load metadata for {reference}"));
    let image = activity.end(resolver.resolve(&key).await);
    let image = image.map_err(|source| BuildError::Pull {
        reference: reference.familiar(),
        source: Box::new(source),
    })?;
    let materializer = materializer(environment, &reporter);
    let reference = reference.clone();
    let kept = tokio::task::spawn_blocking(move || keep(&materializer, &image, &reference));
    let id = kept.await.map_err(|_| BuildError::Canceled)??;
    environment.store.sync()?;
    Ok(id)
}

/// Fetches a resolved image's layers and gives it its name.
fn keep(
    materializer: &Materializer,
    image: &BaseImage,
    reference: &Reference,
) -> Result<ImageId, BuildError> {
    let store = materializer.store();
    let layers = layers_of(materializer, image)?;
    let mut wanted: Vec<RemoteBlob> = Vec::new();
    for (layer, base) in layers.iter().zip(&image.layers) {
        let (Some(blob), Some(repository)) = (&base.blob, &image.repository) else {
            continue;
        };
        let here = store.tree(*layer, materializer.form())?.is_some()
            || store.has_blob(&blob.digest)?
            || materializer.has_layer(base.diff_id)?;
        if !here {
            wanted.push(RemoteBlob {
                repository: repository.clone(),
                digest: blob.digest,
                size: blob.size,
                media_type: blob.media_type.clone(),
            });
        }
    }
    if !wanted.is_empty() {
        materializer.fetcher().fetch(&wanted)?;
    }
    let size = image.layers.iter().filter_map(|base| base.blob.as_ref());
    store.put_image(&ImageRecord {
        id: image.id,
        layers,
        platform: image.platform.clone(),
        created: image.config.created,
        size: size.map(|blob| blob.size).sum(),
    })?;
    store.tag(reference, &image.id)?;
    if let Ok(name) = image.name.parse::<Reference>()
        && let Some(manifest) = name.digest()
    {
        store.put_manifest(&image.id, &by_digest(reference, *manifest))?;
    }
    Ok(image.id)
}

/// The files of an image of the store, to be looked at and read. Must be called on a tokio
/// runtime.
///
/// # Errors
/// When a layer is not in the store.
pub fn image_tree(
    environment: &BuildEnvironment,
    layers: &[LayerId],
) -> Result<SnapshotTree, BuildError> {
    let reporter = Arc::new(Reporter::new(Arc::new(NoEvents)));
    let materializer = materializer(environment, &reporter);
    let snapshot = Snapshot::unrecorded(layers.to_vec());
    Ok(SnapshotTree::new(materializer, &snapshot)?)
}

/// The name by digest of what a registry has under `reference`.
pub(super) fn by_digest(reference: &Reference, manifest: BlobDigest) -> Reference {
    reference.clone().without_tag().with_digest(manifest)
}

/// Pushes the image of the store that has this name to the registry of the name; one for several
/// platforms with all of them, as an index.
///
/// # Errors
/// When no image has it, a layer can't be read, or the registry refuses something.
pub async fn push(
    reference: &Reference,
    environment: &BuildEnvironment,
    events: Arc<dyn EventSink>,
) -> Result<Pushed, BuildError> {
    let reporter = Arc::new(Reporter::new(events));
    let store = &environment.store;
    let missing = || BuildError::NoImage(reference.familiar());
    let mut ids = store.variants(reference)?;
    if ids.is_empty() {
        ids.push(store.resolve(reference)?.ok_or_else(missing)?);
    }
    let mut images = Vec::with_capacity(ids.len());
    for id in &ids {
        images.push(StoredImage::find(store, id)?.ok_or_else(missing)?);
    }
    let packaging = images.first().map(|image| image.packaging.clone());
    let materializer = materializer(environment, &reporter);
    let pushed = registry::push_all(
        &materializer,
        &environment.client,
        &images,
        &packaging.unwrap_or_default(),
        reference,
        &reporter,
    )
    .await;
    let pushed = pushed.map_err(|source| BuildError::Push {
        reference: reference.to_string(),
        source,
    })?;
    for id in &ids {
        store.put_manifest(id, &by_digest(reference, pushed.manifest.digest))?;
    }
    environment.store.sync()?;
    Ok(pushed)
}
