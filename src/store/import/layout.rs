//! Images in OCI layouts.

use super::{Import, ImportError, ImportedImage, NamedImage, gather, is_same_name};
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
        let index = self.named(self.index()?)?;
        match self.find(&index, DEPTH_LIMIT)? {
            Some(found) => self.bring(found),
            None => Err(self.not_for_platform(&index)),
        }
    }

    /// All images of the layout. Entries of one name are one image for several platforms; every
    /// entry without a name is an image of its own.
    pub(super) fn whole_layout(&self, is_strict: bool) -> Result<Vec<NamedImage>, ImportError> {
        let index = self.index()?;
        let mut groups: Vec<(Option<String>, ImageIndex)> = Vec::new();
        for entry in index.manifests.iter().filter(|d| !d.is_attestation()) {
            let name = full_name(entry);
            let same = groups
                .iter_mut()
                .find(|(other, _)| name.is_some() && *other == name);
            match same {
                Some((_, group)) => group.manifests.push(entry.clone()),
                None => groups.push((name, ImageIndex::new(vec![entry.clone()]))),
            }
        }
        let mut images = Vec::new();
        for (name, group) in groups {
            let found = match self.find(&group, DEPTH_LIMIT)? {
                None if !is_strict => self.only(&group)?,
                found => found,
            };
            if let Some(found) = found {
                gather(&mut images, self.bring(found)?, name.into_iter().collect());
            }
        }
        if images.is_empty() {
            return Err(match index.manifests.is_empty() {
                true => self.unusable("it holds no image at all"),
                false => self.not_for_platform(&index),
            });
        }
        Ok(images)
    }

    /// The image of an index that has only one, whatever it is for.
    fn only(&self, index: &ImageIndex) -> Result<Option<Found>, ImportError> {
        let mut all = Vec::new();
        self.every(index, DEPTH_LIMIT, &mut all)?;
        if all.len() > 1 {
            let platforms: Vec<String> = all
                .iter()
                .map(|found| found.config.config.platform().to_string())
                .collect();
            return Err(self.unusable(format!(
                "it holds no image for {}, but for {}: choose one with `--platform`",
                self.selection.platform,
                platforms.join(", ")
            )));
        }
        Ok(all.pop())
    }

    fn every(
        &self,
        index: &ImageIndex,
        depth: usize,
        all: &mut Vec<Found>,
    ) -> Result<(), ImportError> {
        for descriptor in index.manifests.iter().filter(|d| !d.is_attestation()) {
            // A layout need not have what its indexes name for other platforms.
            if !self.has(&blob_path(&descriptor.digest))? {
                continue;
            }
            match self.document(descriptor)? {
                (_, Document::Index(inner)) if depth > 0 => self.every(&inner, depth - 1, all)?,
                (_, Document::Index(_)) => {}
                (descriptor, Document::Manifest(manifest)) => {
                    all.extend(self.image(descriptor, manifest)?);
                }
            }
        }
        Ok(())
    }

    fn index(&self) -> Result<ImageIndex, ImportError> {
        if self.has(LAYOUT_FILE)? {
            let bytes = self.read(LAYOUT_FILE, MANIFEST_LIMIT)?;
            check_layout(&bytes).map_err(|e| self.image_error(e))?;
        }
        let bytes = self.read(INDEX_FILE, MANIFEST_LIMIT)?;
        ImageIndex::from_bytes(&bytes).map_err(|e| self.image_error(e))
    }

    fn not_for_platform(&self, index: &ImageIndex) -> ImportError {
        // The index's own message lists what there is.
        let platform = self.selection.platform;
        match index.select(platform).err() {
            Some(error) => self.image_error(error),
            None => self.unusable(format!("it holds no image for {platform}")),
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
            match self.document(descriptor)? {
                (_, Document::Index(inner)) if depth > 0 => {
                    if let Some(found) = self.find(&inner, depth - 1)? {
                        return Ok(Some(found));
                    }
                }
                (_, Document::Index(_)) => {}
                (descriptor, Document::Manifest(manifest)) => {
                    // What the index says of the platform, where it says anything, is often less
                    // than the config: the config decides.
                    let platform = self.selection.platform;
                    if let Some(found) = self.image(descriptor, manifest)?
                        && platform.accepts(&found.config.config.platform())
                    {
                        return Ok(Some(found));
                    }
                }
            }
        }
        Ok(None)
    }

    /// A manifest or index of the layout, with a descriptor of just what it is.
    fn document(&self, descriptor: &Descriptor) -> Result<(Descriptor, Document), ImportError> {
        let bytes = self.read(&blob_path(&descriptor.digest), MANIFEST_LIMIT)?;
        let media_type = Some(descriptor.media_type.as_str()).filter(|name| !name.is_empty());
        let parsed = ParsedManifest::verified(media_type, bytes, descriptor.digest)
            .map_err(|e| self.image_error(e))?;
        Ok((parsed.descriptor(), parsed.document))
    }

    /// The image that a manifest is of, unless it's something else.
    fn image(
        &self,
        descriptor: Descriptor,
        manifest: Box<Manifest>,
    ) -> Result<Option<Found>, ImportError> {
        if !manifest.is_image() {
            return Ok(None);
        }
        let blob = &manifest.config;
        let config = self.config(&blob_path(&blob.digest), Some(blob.digest))?;
        Ok(Some(Found {
            descriptor,
            manifest,
            config,
        }))
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

/// The full name of an entry. What OCI calls a reference name is often a tag only.
fn full_name(entry: &Descriptor) -> Option<String> {
    let full = entry.annotations.get(IMAGE_NAME_ANNOTATION);
    let reference = || {
        let name = entry.annotations.get(REF_NAME_ANNOTATION)?;
        name.contains(['/', ':']).then_some(name)
    };
    full.or_else(reference).cloned()
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
