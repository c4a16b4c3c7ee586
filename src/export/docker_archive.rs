//! The archive that `docker save` writes and `docker load` takes.
//!
//! Docker reads `manifest.json`; its newer versions, containerd and everybody else read the OCI
//! layout in the same archive. Both name the same blobs.

use std::collections::BTreeMap;
use std::io::Write;

use super::{ExportError, Exportable, oci};
use crate::image::archive::{DOCKER_MANIFEST_FILE, SavedImage};
use crate::image::manifest::Descriptor;
use crate::time::Timestamp;

/// Writes an archive with these images, blobs that several of them have once. Every member has
/// the time `mtime`, or the beginning of 1970. Gives the manifests' descriptors.
///
/// # Errors
/// When a layer can't be read or isn't what its descriptor says, or `out` can't be written.
pub fn write<W: Write>(
    images: &[impl Exportable],
    mtime: Option<Timestamp>,
    out: W,
) -> Result<Vec<Descriptor>, ExportError> {
    let saved = images.iter().map(|image| Ok(image.parts()?.saved));
    let saved: Vec<SavedImage> = saved.collect::<Result<_, ExportError>>()?;
    let list = SavedImage::list_to_bytes(&saved);
    let others = BTreeMap::from([(DOCKER_MANIFEST_FILE.to_owned(), list)]);
    oci::write_members(images, mtime, others, out)
}
