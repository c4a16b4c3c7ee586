//! Images in OCI layouts.

use super::{Import, ImportError, ImportedImage, is_same_name};
use crate::image::archive::{
    IMAGE_NAME_ANNOTATION, INDEX_FILE, LAYOUT_FILE, REF_NAME_ANNOTATION, blob_path, check_layout,
};
use crate::image::config::ParsedConfig;
use crate::image::manifest::{
    Descriptor, Document, ImageIndex, MANIFEST_LIMIT, Manifest, ParsedManifest,
};

/// Indexes that name indexes are followed so far.
const DEPTH_LIMIT: usize = 4;

impl Import<'_> {
    pub(super) fn layout(&self) -> Result<ImportedImage, ImportError> {
        if self.has(LAYOUT_FILE)? {
            let bytes = self.read(LAYOUT_FILE, MANIFEST_LIMIT)?;
            check_layout(&bytes).map_err(|e| self.image_error(e))?;
        }
        let bytes = self.read(INDEX_FILE, MANIFEST_LIMIT)?;
        let index = ImageIndex::from_bytes(&bytes).map_err(|e| self.image_error(e))?;
        let index = self.named(index)?;
        match self.find(&index, DEPTH_LIMIT)? {
            Some(found) => self.bring(found),
            None => {
                // The index's own message lists what there is.
                let platform = self.selection.platform;
                let none = index.select(platform).err();
                Err(match none {
                    Some(error) => self.image_error(error),
                    None => self.unusable(format!("it holds no image for {platform}")),
                })
            }
        }
    }

    /// The entries of the wanted name.
    fn named(&self, mut index: ImageIndex) -> Result<ImageIndex, ImportError> {
        let mut names: Vec<String> = index.manifests.iter().filter_map(shown_name).collect();
        names.sort();
        names.dedup();
        match self.selection.name {
            Some(wanted) => {
                index.manifests.retain(|entry| is_named(entry, wanted));
                if index.manifests.is_empty() {
                    return Err(self.none_of(wanted, &names));
                }
            }
            None => {
                // Several names of one image are one image.
                let mut named = index
                    .manifests
                    .iter()
                    .filter(|entry| shown_name(entry).is_some());
                let first = named.next().map(|entry| entry.digest);
                let is_one = named.all(|entry| Some(entry.digest) == first);
                if !is_one && names.len() > 1 {
                    return Err(self.several(&names));
                }
            }
        }
        Ok(index)
    }

    /// The best manifest for the wanted platform, with its config.
    fn find(&self, index: &ImageIndex, depth: usize) -> Result<Option<Found>, ImportError> {
        for descriptor in index.candidates(self.selection.platform) {
            let name = blob_path(&descriptor.digest);
            let bytes = self.read(&name, MANIFEST_LIMIT)?;
            let media_type = Some(descriptor.media_type.as_str()).filter(|name| !name.is_empty());
            let parsed = ParsedManifest::verified(media_type, bytes, descriptor.digest)
                .map_err(|e| self.image_error(e))?;
            let descriptor = parsed.descriptor();
            match parsed.document {
                Document::Index(inner) if depth > 0 => {
                    if let Some(found) = self.find(&inner, depth - 1)? {
                        return Ok(Some(found));
                    }
                }
                Document::Index(_) => {}
                Document::Manifest(manifest) if manifest.is_image() => {
                    let blob = &manifest.config;
                    let config = self.config(&blob_path(&blob.digest), Some(blob.digest))?;
                    // What the index says of the platform, where it says anything, is often less
                    // than the config: the config decides.
                    if self.selection.platform.accepts(&config.config.platform()) {
                        return Ok(Some(Found {
                            descriptor,
                            manifest,
                            config,
                        }));
                    }
                }
                Document::Manifest(_) => {}
            }
        }
        Ok(None)
    }

    fn bring(&self, found: Found) -> Result<ImportedImage, ImportError> {
        for layer in &found.manifest.layers {
            self.blob(layer)?;
        }
        let layers = self.layers(&found.config, found.manifest.layers)?;
        Ok(ImportedImage {
            config: found.config,
            layers,
            manifest: Some(found.descriptor),
        })
    }
}

struct Found {
    descriptor: Descriptor,
    manifest: Box<Manifest>,
    config: ParsedConfig,
}

/// How an entry of an index is called.
fn shown_name(entry: &Descriptor) -> Option<String> {
    let full = entry.annotations.get(IMAGE_NAME_ANNOTATION);
    full.or_else(|| entry.annotations.get(REF_NAME_ANNOTATION))
        .cloned()
}

fn is_named(entry: &Descriptor, wanted: &str) -> bool {
    let annotation = |name: &str| entry.annotations.get(name);
    entry.digest.to_string() == wanted
        || annotation(REF_NAME_ANNOTATION).is_some_and(|tag| tag == wanted)
        || [IMAGE_NAME_ANNOTATION, REF_NAME_ANNOTATION]
            .into_iter()
            .filter_map(annotation)
            .any(|name| is_same_name(name, wanted))
}
