//! Where a built image goes.

use std::path::Path;
use std::sync::Arc;

use super::assemble::{Assembled, measure};
use super::run::BuildEnvironment;
use super::transfer;
use super::{BuildError, BuildRequest, Output, OutputTarget};
use crate::digest::Digest;
use crate::export::engine::{Engine, EngineError};
use crate::export::registry;
use crate::export::{ArchiveFormat, Destination, Packaging, StoredImage, files};
use crate::export::{folder, oci};
use crate::image::manifest::Descriptor;
use crate::reference::Reference;
use crate::sandbox::OutsideHelper;
use crate::snapshot::{Materializer, Snapshot, SnapshotTree};
use crate::solver::events::{Activity, Event, Reporter};
use crate::store::ImageRecord;
use crate::time::Timestamp;

/// What became of the outputs.
#[derive(Default)]
pub(super) struct Delivered {
    /// The manifest of the first output that has one.
    pub(super) manifest: Option<Descriptor>,
    /// The names that the image has now somewhere, each once.
    pub(super) names: Vec<Reference>,
    /// The engine that took the image.
    pub(super) loaded: Option<Engine>,
}

/// One build's image on its way out.
struct Delivery<'a> {
    request: &'a BuildRequest,
    environment: &'a BuildEnvironment,
    materializer: &'a Arc<Materializer>,
    image: &'a Assembled,
    reporter: &'a Arc<Reporter>,
}

/// Sends the image to every output.
pub(super) async fn deliver(
    request: &BuildRequest,
    environment: &BuildEnvironment,
    materializer: &Arc<Materializer>,
    image: &Assembled,
    reporter: &Arc<Reporter>,
) -> Result<Delivered, BuildError> {
    let delivery = Delivery {
        request,
        environment,
        materializer,
        image,
        reporter,
    };
    let mut delivered = Delivered::default();
    for output in &request.outputs {
        let names = delivery.names(output);
        let manifest = delivery.to(output, &names).await?;
        delivered.manifest = delivered.manifest.or(manifest);
        if let OutputTarget::Engine(engine) = output.target {
            delivered.loaded = Some(engine);
        }
        for name in names {
            if !delivered.names.contains(&name) {
                delivered.names.push(name);
            }
        }
    }
    let image = request.outputs.iter().find(|one| one.target.is_image());
    if let Some(output) = image.filter(|_| request.describe && delivered.manifest.is_none()) {
        delivered.manifest = Some(delivery.describe(output.packaging.clone()).await?);
    }
    Ok(delivered)
}

impl Delivery<'_> {
    /// The names that an output gives the image.
    fn names(&self, output: &Output) -> Vec<Reference> {
        if !output.target.is_image() {
            return Vec::new();
        }
        let mut names: Vec<Reference> = Vec::new();
        for name in self.request.tags.iter().chain(&output.names) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    /// Sends the image to one output; gives the manifest where one was made.
    async fn to(
        &self,
        output: &Output,
        names: &[Reference],
    ) -> Result<Option<Descriptor>, BuildError> {
        let time = self.request.source_date_epoch;
        match &output.target {
            OutputTarget::Store => {
                self.keep(names, &output.packaging)?;
                Ok(None)
            }
            OutputTarget::Registry { by_digest } => self.push(output, names, *by_digest).await,
            OutputTarget::Archive { format, dest } => {
                let (format, to) = (*format, dest.clone());
                let title = format!("exporting to {}: {}", format.title(), dest.display());
                let (materializer, image) = self.stored(&output.packaging)?;
                let names = names.to_vec();
                let written = self.blocking(&title, move |_| {
                    write_archive(&materializer, image, names, format, time, &to)
                });
                written.await.map(Some)
            }
            OutputTarget::Layout { dest } => {
                let title = format!("exporting to an OCI image layout: {}", dest.display());
                let (materializer, image) = self.stored(&output.packaging)?;
                let (names, dest) = (names.to_vec(), dest.clone());
                let written = self.blocking(&title, move |_| {
                    let image = image.export(&materializer, names)?;
                    Ok(oci::write_folder(&image, &dest)?)
                });
                written.await.map(Some)
            }
            OutputTarget::Engine(engine) => {
                let (engine, outside) = (*engine, self.environment.outside.clone());
                let (materializer, image) = self.stored(&output.packaging)?;
                let names = names.to_vec();
                let title = format!("loading into {}", engine.name());
                let loaded = self.blocking(&title, move |_| {
                    Ok(load(&materializer, image, names, engine, &outside)?)
                });
                loaded.await.map(Some)
            }
            OutputTarget::Tar { dest } => {
                let title = format!("exporting files to a tar archive: {}", dest.display());
                let (materializer, snapshot) = (Arc::clone(self.materializer), self.snapshot());
                let dest = dest.clone();
                let written = self.blocking(&title, move |_| {
                    let tree = SnapshotTree::new(materializer, &snapshot)?;
                    let mut destination = Destination::open(&dest)?;
                    files::write_tar(&tree, time, &mut destination)?;
                    Ok(destination.commit()?)
                });
                written.await.map(|()| None)
            }
            OutputTarget::Folder { dest } => self.folder(dest, time).await.map(|()| None),
        }
    }

    /// Keeps the image in the store under its names.
    fn keep(&self, names: &[Reference], packaging: &Packaging) -> Result<(), BuildError> {
        let (store, image) = (&self.environment.store, self.image);
        store.put_blob(&image.config_bytes)?;
        store.put_image(&ImageRecord {
            id: image.id,
            layers: image.layers.clone(),
            platform: image.config.platform(),
            created: image.config.created,
            size: image.size,
        })?;
        packaging.remember(store, &image.id)?;
        for name in names {
            store.tag(name, &image.id)?;
        }
        Ok(())
    }

    async fn push(
        &self,
        output: &Output,
        names: &[Reference],
        by_digest: bool,
    ) -> Result<Option<Descriptor>, BuildError> {
        if names.is_empty() {
            return Err(BuildError::Request(
                "a push needs a name: add -t NAME".to_owned(),
            ));
        }
        let (materializer, image) = self.stored(&output.packaging)?;
        let client = &self.environment.client;
        let mut manifest = None;
        for name in names {
            let name = match by_digest {
                true => name.clone().without_tag(),
                false => name.clone(),
            };
            let pushed = registry::push(&materializer, client, &image, &name, self.reporter).await;
            let pushed = pushed.map_err(|source| BuildError::Push {
                reference: name.to_string(),
                source,
            })?;
            if let Some(image) = self.environment.store.image(&self.image.id)? {
                let reference = transfer::by_digest(&name, pushed.manifest.digest);
                self.environment.store.put_manifest(&image.id, &reference)?;
            }
            manifest = Some(pushed.manifest);
        }
        Ok(manifest)
    }

    async fn folder(&self, dest: &Path, time: Option<Timestamp>) -> Result<(), BuildError> {
        let title = format!("copying files to {}", dest.display());
        let (materializer, snapshot) = (Arc::clone(self.materializer), self.snapshot());
        let to = dest.to_owned();
        let written = self.blocking(&title, move |activity| {
            let tree = SnapshotTree::new(materializer, &snapshot)?;
            let told = std::cell::Cell::new(0);
            let written = folder::write(&tree, time, &to, &|bytes: u64| {
                if bytes >= told.get() + PROGRESS_BYTES {
                    told.set(bytes);
                    activity.progress("copying files", bytes, None);
                }
            })?;
            activity.progress("copying files", written.bytes, Some(written.bytes));
            Ok(written)
        });
        let written = written.await?;
        if written.devices > 0 {
            let warning = format!(
                "left out of `{}`: {} device nodes, which no folder of files can hold",
                dest.display(),
                written.devices
            );
            self.reporter.sink().emit(Event::Warning(warning));
        }
        Ok(())
    }

    /// The image's manifest, which no output has made.
    async fn describe(&self, packaging: Packaging) -> Result<Descriptor, BuildError> {
        let (materializer, image) = self.stored(&packaging)?;
        let packed = self.blocking(
            "exporting manifest",
            move |_| Ok(image.pack(&materializer)?),
        );
        Ok(packed.await?.descriptor)
    }

    /// Does work that may block, as one piece of progress.
    async fn blocking<T: Send + 'static>(
        &self,
        title: &str,
        work: impl FnOnce(&Activity) -> Result<T, BuildError> + Send + 'static,
    ) -> Result<T, BuildError> {
        let activity = self.reporter.begin(title);
        let working = tokio::task::spawn_blocking(move || {
            let result = work(&activity);
            activity.end(result)
        });
        tokio::select! {
            result = working => result.map_err(|_| BuildError::Canceled)?,
            () = self.environment.cancel.canceled() => Err(BuildError::Canceled),
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::unrecorded(self.image.layers.clone())
    }

    fn stored(
        &self,
        packaging: &Packaging,
    ) -> Result<(Arc<Materializer>, StoredImage), BuildError> {
        let mut layers = Vec::with_capacity(self.image.layers.len());
        for layer in &self.image.layers {
            layers.push((*layer, measure(self.materializer, *layer)?.0));
        }
        let image = StoredImage {
            config: self.image.config_bytes.clone(),
            layers,
            packaging: packaging.clone(),
        };
        Ok((Arc::clone(self.materializer), image))
    }
}

/// So many bytes between two words of progress.
const PROGRESS_BYTES: u64 = 4 << 20;

fn write_archive(
    materializer: &Materializer,
    image: StoredImage,
    names: Vec<Reference>,
    format: ArchiveFormat,
    time: Option<Timestamp>,
    dest: &Path,
) -> Result<Descriptor, BuildError> {
    let image = image.export(materializer, names)?;
    let mut destination = Destination::open(dest)?;
    let manifests = format.write(std::slice::from_ref(&image), time, &mut destination)?;
    destination.commit()?;
    only(manifests)
}

/// Hands the image to an engine.
fn load(
    materializer: &Materializer,
    image: StoredImage,
    names: Vec<Reference>,
    engine: Engine,
    outside: &OutsideHelper,
) -> Result<Descriptor, EngineError> {
    engine.check_names(&names)?;
    let manifest = image.pack(materializer)?.descriptor;
    let ids = [
        Digest::of(&image.config).to_string(),
        manifest.digest.to_string(),
    ];
    if engine.has(outside, &names, &ids) {
        return Ok(manifest);
    }
    let image = image.export(materializer, names)?;
    engine.load(outside, |pipe| {
        let images = std::slice::from_ref(&image);
        ArchiveFormat::Docker.write(images, None, pipe).map(drop)
    })?;
    Ok(manifest)
}

/// The manifest of an archive of one image.
fn only(manifests: Vec<Descriptor>) -> Result<Descriptor, BuildError> {
    let first = manifests.into_iter().next();
    first.ok_or_else(|| BuildError::Request("there is no image to write".to_owned()))
}
