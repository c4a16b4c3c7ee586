//! Images in the archives of `docker save`.

use std::io;

use super::source::detect;
use super::{Import, ImportError, ImportedImage, NamedImage, gather, is_same_name};
use crate::digest::{BlobDigest, DiffId};
use crate::image::ImageError;
use crate::image::archive::{DOCKER_MANIFEST_FILE, SavedImage};
use crate::image::config::ParsedConfig;
use crate::image::manifest::{Descriptor, MANIFEST_LIMIT, media_type};
use crate::layer::compression::{self, Encoding};
use crate::platform::Platform;
use crate::store::StoreError;

/// What some tools write in place of a name.
const NO_NAME: &str = "<none>:<none>";

impl Import<'_> {
    pub(super) fn docker(&self) -> Result<ImportedImage, ImportError> {
        let images = self.list()?;
        let image = self.saved(&images)?;
        let config = self.config(&image.config, None)?;
        let (wanted, found) = (self.selection.platform, config.config.platform());
        if !wanted.accepts(&found) {
            return Err(self.unusable(format!("it is for {found}, not for {wanted}")));
        }
        self.saved_image(image, config)
    }

    /// All images of the archive; with `platform`, those for it.
    pub(super) fn whole_archive(
        &self,
        platform: Option<&Platform>,
    ) -> Result<Vec<NamedImage>, ImportError> {
        let mut images = Vec::new();
        let mut others = Vec::new();
        for saved in self.list()? {
            let config = self.config(&saved.config, None)?;
            let found = config.config.platform();
            if platform.is_some_and(|wanted| !wanted.accepts(&found)) {
                others.push(found.to_string());
                continue;
            }
            let image = self.saved_image(&saved, config)?;
            let is_name = |name: &String| name != NO_NAME;
            gather(
                &mut images,
                image,
                saved.repo_tags.into_iter().filter(is_name).collect(),
            );
        }
        match (images.is_empty(), platform) {
            (false, _) => Ok(images),
            (true, Some(wanted)) if !others.is_empty() => Err(self.unusable(format!(
                "it holds no image for {wanted}, only for {}",
                others.join(", ")
            ))),
            _ => Err(self.unusable("it holds no image at all")),
        }
    }

    fn list(&self) -> Result<Vec<SavedImage>, ImportError> {
        let bytes = self.read(DOCKER_MANIFEST_FILE, MANIFEST_LIMIT)?;
        SavedImage::list_from_bytes(&bytes).map_err(|e| self.image_error(e))
    }

    /// Brings an image's layers.
    fn saved_image(
        &self,
        image: &SavedImage,
        config: ParsedConfig,
    ) -> Result<ImportedImage, ImportError> {
        let diff_ids = &config.config.rootfs.diff_ids;
        let blobs = image.layers.iter().zip(diff_ids);
        let blobs = blobs.map(|(path, diff_id)| self.saved_layer(path, *diff_id));
        let mut blobs: Vec<Descriptor> = blobs.collect::<Result<_, _>>()?;
        // Layers beyond those of the config are counted and refused.
        let more = image.layers.iter().skip(diff_ids.len());
        blobs.extend(more.map(|_| Descriptor::of(media_type::OCI_LAYER, b"")));
        let layers = self.layers(&config, blobs)?;
        Ok(ImportedImage {
            config,
            layers,
            manifest: None,
        })
    }

    fn saved<'a>(&self, images: &'a [SavedImage]) -> Result<&'a SavedImage, ImportError> {
        let names: Vec<String> = images
            .iter()
            .flat_map(|image| image.repo_tags.clone())
            .collect();
        let Some(wanted) = self.selection.name else {
            return match images {
                [image] => Ok(image),
                [] => Err(self.unusable("it holds no image at all")),
                _ => Err(self.several(&names)),
            };
        };
        let is_wanted = |image: &&SavedImage| {
            let tags = &image.repo_tags;
            tags.iter().any(|tag| {
                is_same_name(tag, wanted)
                    || tag.rsplit_once(':').is_some_and(|(_, tag)| tag == wanted)
            })
        };
        let found = images.iter().find(is_wanted);
        found.ok_or_else(|| self.none_of(wanted, &names))
    }

    /// Brings a layer into the store. Its name says nothing of its content, and Docker itself
    /// writes plain tars; others compress them.
    fn saved_layer(&self, path: &str, diff_id: DiffId) -> Result<Descriptor, ImportError> {
        let plain = BlobDigest(diff_id.0);
        if let Some(size) = self.store.blob_size(&plain)? {
            return Ok(Descriptor::new(media_type::OCI_LAYER, plain, size));
        }
        let failed = |error| self.read_error(error);
        let (encoding, mut content) = detect(self.open(path)?).map_err(failed)?;
        let (media_type, expected) = match encoding {
            Encoding::Gzip => (media_type::OCI_LAYER_GZIP, None),
            Encoding::Zstd => (media_type::OCI_LAYER_ZSTD, None),
            // Images have no name for the other ones: they are kept plain.
            Encoding::Plain => (media_type::OCI_LAYER, Some(plain)),
            _ => {
                content = compression::decompress(content).map_err(failed)?;
                (media_type::OCI_LAYER, Some(plain))
            }
        };
        let mut writer = self.store.ingest()?;
        io::copy(&mut content, &mut writer).map_err(failed)?;
        let (digest, size) = writer.commit(expected).map_err(|error| match error {
            StoreError::WrongDigest { expected, found } => {
                self.image_error(ImageError::WrongDigest {
                    what: "layer",
                    expected: expected.0,
                    found: found.0,
                })
            }
            error => error.into(),
        })?;
        Ok(Descriptor::new(media_type, digest, size))
    }
}
