//! An image into a registry: the blobs that it doesn't have, then the manifest.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::ExportError;
use super::index::index;
use super::layers::OutgoingLayer;
use super::packaging::Packaging;
use super::stored::StoredImage;
use crate::digest::BlobDigest;
use crate::image::manifest::{Descriptor, media_type};
use crate::reference::Reference;
use crate::registry::{BlobSource, Client, Progress, RegistryError};
use crate::snapshot::Materializer;
use crate::solver::events::Reporter;
use crate::store::StoreError;

/// How many blobs are on their way at a time.
const AT_ONCE: usize = 4;

/// Why an image could not be pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The image can't be packed.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A blob that should be here is not.
    #[error("blob {0} is missing from the store")]
    MissingBlob(BlobDigest),
    /// The push was stopped.
    #[error("canceled")]
    Canceled,
}

/// What a push has left in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The manifest.
    pub manifest: Descriptor,
}

/// Pushes an image under one name; without a tag in it, by its digest alone.
///
/// # Errors
/// When a layer can't be read, or the registry refuses something.
pub async fn push(
    materializer: &Arc<Materializer>,
    client: &Client,
    image: &StoredImage,
    reference: &Reference,
    reporter: &Arc<Reporter>,
) -> Result<Pushed, PushError> {
    let activity = Arc::new(reporter.begin(&format!("pushing {reference}")));
    let result = async {
        let (prepared, image_again) = (Arc::clone(materializer), image.clone());
        let prepared = tokio::task::spawn_blocking(move || image_again.pack(&prepared)).await;
        let packed = prepared.map_err(|_| PushError::Canceled)??;
        let progress = |descriptor: &Descriptor| -> Progress {
            let (activity, item) = (Arc::clone(&activity), descriptor.digest.to_string());
            let total = Some(descriptor.size);
            Arc::new(move |current| activity.progress(&item, current, total))
        };
        let mut seen = BTreeSet::new();
        let distinct: Vec<OutgoingLayer> = packed
            .layers
            .into_iter()
            .filter(|layer| seen.insert(layer.descriptor.digest))
            .collect();
        stream::iter(distinct)
            .map(|layer| push_layer(materializer, client, reference, layer, &progress))
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        let config_type = image.packaging.media_types.name(media_type::OCI_CONFIG);
        let descriptor = Descriptor::of(config_type, &image.config);
        let config = BlobSource::bytes(image.config.clone());
        client
            .push_blob(reference, &descriptor, &config, None, None)
            .await?;
        let media_type = packed.descriptor.media_type.clone();
        client
            .push_manifest(reference, &media_type, packed.manifest)
            .await?;
        Ok(Pushed {
            manifest: packed.descriptor,
        })
    }
    .await;
    match Arc::into_inner(activity) {
        Some(activity) => activity.end(result),
        None => result,
    }
}

/// Pushes one image, or several and the index of them, under one name. The images of an index have
/// no names of their own.
///
/// # Errors
/// As [`push`].
pub async fn push_all(
    materializer: &Arc<Materializer>,
    client: &Client,
    images: &[StoredImage],
    packaging: &Packaging,
    reference: &Reference,
    reporter: &Arc<Reporter>,
) -> Result<Pushed, PushError> {
    if let [image] = images {
        return push(materializer, client, image, reference, reporter).await;
    }
    let mut manifests = Vec::with_capacity(images.len());
    let nameless = reference.clone().without_tag();
    for image in images {
        let pushed = push(materializer, client, image, &nameless, reporter).await?;
        manifests.push(pushed.manifest);
    }
    let (bytes, descriptor) = index(packaging, manifests);
    let activity = reporter.begin(&format!("pushing the index of {reference}"));
    let pushing = client.push_manifest(reference, &descriptor.media_type, bytes);
    activity.end(pushing.await)?;
    Ok(Pushed {
        manifest: descriptor,
    })
}

async fn push_layer(
    materializer: &Arc<Materializer>,
    client: &Client,
    reference: &Reference,
    layer: OutgoingLayer,
    progress: &dyn Fn(&Descriptor) -> Progress,
) -> Result<(), PushError> {
    let descriptor = &layer.descriptor;
    // Within one registry the blob only has to be linked; across two it has to pass here, and is
    // fetched when the registry turns out not to have it.
    let source = match layer.origins.is_empty() {
        true => {
            let file = materializer.store().blob(&descriptor.digest)?;
            BlobSource::file(file.ok_or(PushError::MissingBlob(descriptor.digest))?)
        }
        false => {
            let (materializer, origins) = (Arc::clone(materializer), layer.origins.clone());
            let digest = descriptor.digest;
            BlobSource::reader(move || {
                let fetched = materializer.fetch_any(&origins);
                fetched.map_err(io::Error::other)?;
                let file = materializer.store().blob(&digest);
                file.map_err(io::Error::other)?
                    .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
            })
        }
    };
    let mut places = layer.origins.iter().map(|origin| &origin.repository);
    let from = places.find(|place| place.domain() == reference.domain());
    let progress = progress(descriptor);
    client
        .push_blob(reference, descriptor, &source, from, Some(&progress))
        .await?;
    Ok(())
}
