//! Images for several platforms under one name: an index of their manifests.
//!
//! The index's bytes depend on the manifests and the packaging only, so that a push, a save and a
//! layout name it by the same digest.

use super::packaging::Packaging;
use super::{Exportable, ExportedImage, Parts};
use crate::image::ImageError;
use crate::image::archive::CREATED_ANNOTATION;
use crate::image::manifest::{Descriptor, DescriptorPlatform, ImageIndex, media_type};
use crate::platform::Platform;
use crate::reference::Reference;

/// An index that is to be written, with its images.
pub struct ExportedIndex<'a> {
    /// The images, one for each platform. Their own names don't count.
    pub images: Vec<ExportedImage<'a>>,
    /// The names of the index.
    pub tags: Vec<Reference>,
    /// How it is packed.
    pub packaging: Packaging,
}

impl Exportable for ExportedIndex<'_> {
    fn parts(&self) -> Result<Parts<'_>, ImageError> {
        let (mut small, mut layers) = (Vec::new(), Vec::new());
        let mut manifests = Vec::with_capacity(self.images.len());
        let mut usual = None;
        let host = Platform::host();
        for image in &self.images {
            let parts = image.parts()?;
            let platform = parts.descriptor.platform.as_ref();
            let fits = platform
                .and_then(DescriptorPlatform::normalised)
                .is_some_and(|platform| host.accepts(&platform));
            // What a reader takes who knows no index.
            if fits || usual.is_none() {
                usual = Some(parts.saved);
            }
            manifests.push(parts.descriptor);
            small.extend(parts.small);
            layers.extend(parts.layers);
        }
        let (bytes, descriptor) = index(&self.packaging, manifests);
        small.push(bytes);
        let names = super::full_names(&self.tags);
        let mut saved = usual.unwrap_or_default();
        saved.repo_tags = names.iter().map(Reference::familiar).collect();
        Ok(Parts {
            descriptor,
            small,
            layers,
            names,
            saved,
        })
    }
}

/// The index of these manifests: its bytes, and a descriptor with the time of the newest image.
pub fn index(packaging: &Packaging, mut manifests: Vec<Descriptor>) -> (Vec<u8>, Descriptor) {
    let times = manifests.iter_mut();
    let newest = times.filter_map(|one| one.annotations.remove(CREATED_ANNOTATION));
    let newest = newest.max();
    let mut index = ImageIndex::new(manifests);
    index.media_type = packaging.media_types.name(media_type::OCI_INDEX).to_owned();
    index.annotations.clone_from(&packaging.index_annotations);
    let bytes = index.to_bytes();
    let mut descriptor = Descriptor::of(&index.media_type, &bytes);
    if let Some(newest) = newest {
        descriptor = descriptor.with_annotation(CREATED_ANNOTATION, &newest);
    }
    let own = packaging.index_descriptor_annotations.clone();
    descriptor.annotations.extend(own);
    (bytes, descriptor)
}
