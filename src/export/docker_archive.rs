//! The archive that `docker save` writes and `docker load` takes.
//!
//! Docker reads `manifest.json`; its newer versions, containerd and everybody else read the OCI
//! layout in the same archive. Both name the same blobs.

use std::collections::BTreeMap;
use std::io::Write;

use super::{ExportError, ExportedImage, oci};
use crate::digest::{BlobDigest, Digest};
use crate::image::archive::{DOCKER_MANIFEST_FILE, SavedImage, blob_path};
use crate::image::manifest::Descriptor;
use crate::time::Timestamp;

/// Writes an archive with these images, blobs that several of them have once. Every member has
/// the time `mtime`, or the beginning of 1970. Gives the manifests' descriptors.
///
/// # Errors
/// When a layer can't be read or isn't what its descriptor says, or `out` can't be written.
pub fn write<W: Write>(
    images: &[ExportedImage<'_>],
    mtime: Option<Timestamp>,
    out: W,
) -> Result<Vec<Descriptor>, ExportError> {
    let saved: Vec<SavedImage> = images.iter().map(saved).collect();
    let list = SavedImage::list_to_bytes(&saved);
    let others = BTreeMap::from([(DOCKER_MANIFEST_FILE.to_owned(), list)]);
    oci::write_members(images, mtime, others, out)
}

fn saved(image: &ExportedImage<'_>) -> SavedImage {
    let layers = image.layers.iter();
    SavedImage {
        config: blob_path(&BlobDigest(Digest::of(&image.config))),
        repo_tags: image.names().map(|name| name.familiar()).collect(),
        layers: layers
            .map(|layer| blob_path(&layer.descriptor().digest))
            .collect(),
    }
}
