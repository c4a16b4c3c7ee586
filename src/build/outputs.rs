//! Where a built image goes.

use std::path::Path;
use std::sync::Arc;

use super::assemble::{Assembled, measure};
use super::run::BuildEnvironment;
use super::{BuildError, BuildRequest, Output};
use crate::digest::BlobDigest;
use crate::export::layers::outgoing;
use crate::export::registry::{self, StoredImage};
use crate::export::{Destination, ExportError, ExportedImage, LayerBlob, oci};
use crate::reference::Reference;
use crate::snapshot::Materializer;
use crate::solver::events::Reporter;
use crate::store::ImageRecord;

/// Sends the image to every output. Gives the manifest's digest where one was written.
pub(super) async fn deliver(
    request: &BuildRequest,
    environment: &BuildEnvironment,
    materializer: &Arc<Materializer>,
    image: &Assembled,
    reporter: &Arc<Reporter>,
) -> Result<Option<BlobDigest>, BuildError> {
    let keeps = |output: &Output| matches!(output, Output::Store | Output::Registry);
    if request.outputs.iter().any(keeps) {
        keep(environment, image, &request.tags)?;
    }
    let mut manifest = None;
    for output in &request.outputs {
        match output {
            Output::Store => {}
            Output::Registry => {
                if request.tags.is_empty() {
                    return Err(BuildError::Request(
                        "a push needs a name: add -t NAME".to_owned(),
                    ));
                }
                let stored = stored(materializer, image)?;
                for reference in &request.tags {
                    let pushed = registry::push(
                        materializer,
                        &environment.client,
                        &stored,
                        reference,
                        reporter,
                    );
                    let pushed = pushed.await.map_err(|source| BuildError::Push {
                        reference: reference.to_string(),
                        source,
                    })?;
                    let name = reference.clone().without_tag();
                    let name = name.with_digest(pushed.manifest);
                    environment.store.put_manifest(&image.id, &name)?;
                    manifest = Some(pushed.manifest);
                }
            }
            Output::Oci { dest, tar } => {
                let activity = reporter.begin(&format!(
                    "exporting to an OCI image layout: {}",
                    dest.display()
                ));
                let (shared, image, tags) = (
                    Arc::clone(materializer),
                    stored(materializer, image)?,
                    request.tags.clone(),
                );
                let (dest, tar, time) = (dest.clone(), *tar, request.source_date_epoch);
                let written = tokio::task::spawn_blocking(move || {
                    write_layout(&shared, image, tags, &dest, tar, time)
                })
                .await
                .map_err(|_| BuildError::Canceled)?;
                manifest = Some(activity.end(written)?);
            }
        }
    }
    Ok(manifest)
}

/// Keeps the image in the store under its names.
fn keep(
    environment: &BuildEnvironment,
    image: &Assembled,
    tags: &[Reference],
) -> Result<(), BuildError> {
    let store = &environment.store;
    store.put_blob(&image.config_bytes)?;
    store.put_image(&ImageRecord {
        id: image.id,
        layers: image.layers.clone(),
        platform: image.config.platform(),
        created: image.config.created,
        size: image.size,
    })?;
    for tag in tags {
        store.tag(tag, &image.id)?;
    }
    Ok(())
}

fn stored(materializer: &Materializer, image: &Assembled) -> Result<StoredImage, BuildError> {
    let mut layers = Vec::with_capacity(image.layers.len());
    for layer in &image.layers {
        layers.push((*layer, measure(materializer, *layer)?.0));
    }
    Ok(StoredImage {
        config: image.config_bytes.clone(),
        layers,
        annotations: std::collections::BTreeMap::new(),
    })
}

fn write_layout(
    materializer: &Materializer,
    image: StoredImage,
    tags: Vec<Reference>,
    dest: &Path,
    tar: bool,
    time: Option<crate::time::Timestamp>,
) -> Result<BlobDigest, BuildError> {
    let mut layers = Vec::with_capacity(image.layers.len());
    for (layer, diff_id) in &image.layers {
        let layer = outgoing(materializer, *layer, *diff_id)?;
        if let Some(origin) = &layer.origin {
            materializer.fetcher().fetch(std::slice::from_ref(origin))?;
        }
        layers.push(LayerBlob::from_store(
            materializer.store(),
            layer.descriptor,
        ));
    }
    let image = ExportedImage {
        config: image.config,
        layers,
        tags,
        annotations: image.annotations,
    };
    let exported = if tar {
        let mut destination = Destination::open(dest)?;
        let exported = oci::write_archive(&image, time, &mut destination)?;
        destination.commit()?;
        exported
    } else {
        oci::write_folder(&image, dest)?
    };
    Ok::<_, ExportError>(exported.manifest.digest).map_err(BuildError::from)
}
