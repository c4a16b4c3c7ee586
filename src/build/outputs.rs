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
use crate::export::{
    ArchiveFormat, Destination, ExportError, Exported, ExportedIndex, Packaging, StoredImage,
};
use crate::export::{files, folder, index, oci};
use crate::image::manifest::Descriptor;
use crate::reference::Reference;
use crate::sandbox::OutsideHelper;
use crate::snapshot::{FileTree, Materializer, Snapshot, SnapshotTree};
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

/// One build's image on its way out: one, or several for as many platforms.
struct Delivery<'a> {
    request: &'a BuildRequest,
    environment: &'a BuildEnvironment,
    materializer: &'a Arc<Materializer>,
    images: &'a [Assembled],
    reporter: &'a Arc<Reporter>,
}

/// Sends the image to every output.
pub(super) async fn deliver(
    request: &BuildRequest,
    environment: &BuildEnvironment,
    materializer: &Arc<Materializer>,
    images: &[Assembled],
    reporter: &Arc<Reporter>,
) -> Result<Delivered, BuildError> {
    let delivery = Delivery {
        request,
        environment,
        materializer,
        images,
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
                if format == ArchiveFormat::Docker {
                    self.only_one()?;
                }
                let title = format!("exporting to {}: {}", format.title(), dest.display());
                let leaving = self.leaving(&output.packaging, names)?;
                let written = self.blocking(&title, move |_| {
                    write_archive(leaving.export()?, format, time, &to)
                });
                written.await.map(Some)
            }
            OutputTarget::Layout { dest } => {
                let title = format!("exporting to an OCI image layout: {}", dest.display());
                let (leaving, dest) = (self.leaving(&output.packaging, names)?, dest.clone());
                let written = self.blocking(&title, move |_| {
                    Ok(oci::write_folder(&leaving.export()?, &dest)?)
                });
                written.await.map(Some)
            }
            OutputTarget::Engine(engine) => {
                let image = self.only_one()?;
                let (engine, outside) = (*engine, self.environment.outside.clone());
                let image = self.stored(image, &output.packaging)?;
                let (materializer, names) = (Arc::clone(self.materializer), names.to_vec());
                let title = format!("loading into {}", engine.name());
                let loaded = self.blocking(&title, move |_| {
                    Ok(load(&materializer, image, names, engine, &outside)?)
                });
                loaded.await.map(Some)
            }
            OutputTarget::Tar { dest } => {
                let title = format!("exporting files to a tar archive: {}", dest.display());
                let materializer = Arc::clone(self.materializer);
                let (trees, dest) = (self.trees(output), dest.clone());
                let written = self.blocking(&title, move |_| {
                    let mut opened = Vec::with_capacity(trees.len());
                    for (folder, snapshot) in &trees {
                        let tree = SnapshotTree::new(Arc::clone(&materializer), snapshot)?;
                        opened.push((folder.as_bytes(), tree));
                    }
                    let mut destination = Destination::open(&dest)?;
                    let trees: Vec<(&[u8], &dyn FileTree)> = opened
                        .iter()
                        .map(|(folder, tree)| (*folder, tree as &dyn FileTree))
                        .collect();
                    files::write_tar(&trees, time, &mut destination)?;
                    Ok(destination.commit()?)
                });
                written.await.map(|()| None)
            }
            OutputTarget::Folder { dest } => {
                for (folder, snapshot) in self.trees(output) {
                    // Joined to nothing, a path would end in a slash.
                    let dest = match folder.is_empty() {
                        true => dest.clone(),
                        false => dest.join(folder),
                    };
                    self.folder(snapshot, &dest, time).await?;
                }
                Ok(None)
            }
        }
    }

    /// The image, for those who take one only.
    fn only_one(&self) -> Result<&Assembled, BuildError> {
        match self.images {
            [one] => Ok(one),
            _ => Err(BuildError::Request(SEVERAL_FOR_DOCKER.to_owned())),
        }
    }

    /// The files of each image, and the folder that they go to: none, or one for each platform.
    fn trees(&self, output: &Output) -> Vec<(String, Snapshot)> {
        let split = output.platform_split.unwrap_or(self.images.len() > 1);
        let images = self.images.iter();
        images
            .map(|image| {
                let folder = match split {
                    true => image.config.platform().to_string().replace('/', "_"),
                    false => String::new(),
                };
                (folder, Snapshot::unrecorded(image.layer_ids()))
            })
            .collect()
    }

    fn leaving(&self, packaging: &Packaging, names: &[Reference]) -> Result<Leaving, BuildError> {
        let images = self.images.iter();
        Ok(Leaving {
            materializer: Arc::clone(self.materializer),
            images: images
                .map(|image| self.stored(image, packaging))
                .collect::<Result<_, _>>()?,
            names: names.to_vec(),
            packaging: packaging.clone(),
        })
    }

    /// Keeps the images in the store under their names.
    fn keep(&self, names: &[Reference], packaging: &Packaging) -> Result<(), BuildError> {
        let store = &self.environment.store;
        let mut ids = Vec::with_capacity(self.images.len());
        for image in self.images {
            let platform = image.config.platform();
            store.put_blob(&image.config_bytes)?;
            store.put_image(&ImageRecord {
                id: image.id,
                layers: image.layer_ids(),
                platform: platform.clone(),
                created: image.config.created,
                size: image.size(),
            })?;
            let packaging = packaging.for_platform(&platform);
            packaging.remember(store, &image.id)?;
            ids.push(image.id);
        }
        for name in names {
            store.tag_variants(name, &ids)?;
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
        let leaving = self.leaving(&output.packaging, names)?;
        let (materializer, client) = (&leaving.materializer, &self.environment.client);
        let mut manifest = None;
        for name in names {
            let name = match by_digest {
                true => name.clone().without_tag(),
                false => name.clone(),
            };
            let pushed = registry::push_all(
                materializer,
                client,
                &leaving.images,
                &leaving.packaging,
                &name,
                self.reporter,
            );
            let pushed = pushed.await;
            let pushed = pushed.map_err(|source| BuildError::Push {
                reference: name.to_string(),
                source,
            })?;
            let store = &self.environment.store;
            for image in self.images {
                if store.image(&image.id)?.is_some() {
                    let reference = transfer::by_digest(&name, pushed.manifest.digest);
                    store.put_manifest(&image.id, &reference)?;
                }
            }
            manifest = Some(pushed.manifest);
        }
        Ok(manifest)
    }

    async fn folder(
        &self,
        snapshot: Snapshot,
        dest: &Path,
        time: Option<Timestamp>,
    ) -> Result<(), BuildError> {
        let title = format!("copying files to {}", dest.display());
        let materializer = Arc::clone(self.materializer);
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

    /// The manifest, or index, which no output has made.
    async fn describe(&self, packaging: Packaging) -> Result<Descriptor, BuildError> {
        let leaving = self.leaving(&packaging, &[])?;
        let packed = self.blocking("exporting manifest", move |_| Ok(leaving.describe()?));
        packed.await
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

    fn stored(&self, image: &Assembled, packaging: &Packaging) -> Result<StoredImage, BuildError> {
        let mut layers = Vec::with_capacity(image.layers.len());
        for layer in image.layer_ids() {
            layers.push((layer, measure(self.materializer, layer)?.0));
        }
        Ok(StoredImage {
            config: image.config_bytes.clone(),
            layers,
            packaging: packaging.for_platform(&image.config.platform()),
        })
    }
}

/// What BuildKit says of several platforms for Docker.
const SEVERAL_FOR_DOCKER: &str =
    "docker exporter does not currently support exporting manifest lists";

/// Images ready to be packed.
pub(super) struct Leaving {
    pub(super) materializer: Arc<Materializer>,
    pub(super) images: Vec<StoredImage>,
    pub(super) names: Vec<Reference>,
    pub(super) packaging: Packaging,
}

impl Leaving {
    /// The image under its names, or the index of several.
    pub(super) fn export(mut self) -> Result<Exported<'static>, ExportError> {
        if self.images.len() == 1
            && let Some(image) = self.images.pop()
        {
            return Ok(Exported::Image(
                image.export(&self.materializer, self.names)?,
            ));
        }
        let images = self.images.into_iter();
        let images = images.map(|image| image.export(&self.materializer, Vec::new()));
        Ok(Exported::Index(ExportedIndex {
            images: images.collect::<Result<_, _>>()?,
            tags: self.names,
            packaging: self.packaging,
        }))
    }

    /// The descriptor of its manifest, or index.
    fn describe(&self) -> Result<Descriptor, ExportError> {
        let images = self.images.iter();
        let manifests = images.map(|image| Ok(image.pack(&self.materializer)?.descriptor));
        let mut manifests: Vec<Descriptor> = manifests.collect::<Result<_, ExportError>>()?;
        match manifests.len() {
            1 => Ok(manifests.remove(0)),
            _ => Ok(index::index(&self.packaging, manifests).1),
        }
    }
}

/// So many bytes between two words of progress.
const PROGRESS_BYTES: u64 = 4 << 20;

fn write_archive(
    image: Exported<'_>,
    format: ArchiveFormat,
    time: Option<Timestamp>,
    dest: &Path,
) -> Result<Descriptor, BuildError> {
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
