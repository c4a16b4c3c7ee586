//! OCI image layouts (OCI image spec 1.1, `image-layout.md`): a folder, or a tar archive of one.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io::{self, Write};
use std::path::Path;

use super::archive::ArchiveWriter;
use super::destination::new_file;
use super::{ExportError, Exportable, LayerBlob, Parts, read_layer};
use crate::digest::{BlobDigest, Digest};
use crate::image::archive::{
    IMAGE_NAME_ANNOTATION, INDEX_FILE, ImageName, LAYOUT_FILE, REF_NAME_ANNOTATION, blob_path,
    check_layout, layout_bytes, named_descriptors,
};
use crate::image::manifest::{Descriptor, ImageIndex};
use crate::time::Timestamp;

/// Writes a tar archive of a layout with these images, blobs that several of them have once.
/// Every member has the time `mtime`, or the beginning of 1970. Gives the manifests' descriptors.
///
/// # Errors
/// When a layer can't be read or isn't what its descriptor says, or `out` can't be written.
pub fn write_archive<W: Write>(
    images: &[impl Exportable],
    mtime: Option<Timestamp>,
    out: W,
) -> Result<Vec<Descriptor>, ExportError> {
    write_members(images, mtime, BTreeMap::new(), out)
}

/// Writes the members of a layout together with `others`, all in the order of their names.
pub(super) fn write_members<W: Write>(
    images: &[impl Exportable],
    mtime: Option<Timestamp>,
    others: BTreeMap<String, Vec<u8>>,
    out: W,
) -> Result<Vec<Descriptor>, ExportError> {
    let mut members = BTreeMap::new();
    let mut index = Vec::new();
    let mut manifests = Vec::with_capacity(images.len());
    for image in images {
        let parts = image.parts()?;
        index.extend(entries(&parts));
        members.extend(blobs(parts.small, parts.layers));
        manifests.push(parts.descriptor);
    }
    let index = ImageIndex::new(index);
    let mtime = mtime.map_or(0, |time| time.seconds().max(0).cast_unsigned());
    let mut archive = ArchiveWriter::new(out, mtime);
    archive.directory("blobs/")?;
    archive.directory("blobs/sha256/")?;
    for (digest, blob) in members {
        let path = blob_path(&digest);
        match blob {
            Blob::Small(bytes) => archive.file(&path, &bytes)?,
            Blob::Layer(layer) => read_layer(layer, |content| {
                archive.stream(&path, layer.descriptor().size, content)
            })?,
        }
    }
    let mut files = others;
    files.insert(INDEX_FILE.to_owned(), index.to_bytes());
    files.insert(LAYOUT_FILE.to_owned(), layout_bytes());
    for (path, bytes) in &files {
        archive.file(path, bytes)?;
    }
    archive.finish()?;
    Ok(manifests)
}

/// Writes an image into a layout folder. The folder is made where it isn't there; where it is a
/// layout already, the image is added, and takes its names from images that had them.
///
/// # Errors
/// When a layer can't be read or isn't what its descriptor says, or the folder can't be written
/// or holds a layout of an unknown version.
pub fn write_folder(image: &impl Exportable, folder: &Path) -> Result<Descriptor, ExportError> {
    let parts = image.parts()?;
    let added = entries(&parts);
    let blobs_folder = folder.join("blobs/sha256");
    DirBuilder::new()
        .recursive(true)
        .create(&blobs_folder)
        .map_err(ExportError::io("create", &blobs_folder))?;
    let mut index = existing_index(folder)?;
    for (digest, blob) in blobs(parts.small, parts.layers) {
        let place = folder.join(blob_path(&digest));
        match blob {
            Blob::Small(bytes) => write_beside(&place, |out| {
                out.write_all(&bytes).map_err(ExportError::Write)
            })?,
            // A layer of the same name and size was written by somebody who renames too.
            Blob::Layer(layer) if has_size(&place, layer.descriptor().size) => {}
            Blob::Layer(layer) => write_beside(&place, |out| {
                read_layer(layer, |content| {
                    io::copy(content, out).map(drop).map_err(ExportError::Write)
                })
            })?,
        }
    }
    write_beside(&folder.join(LAYOUT_FILE), |out| {
        out.write_all(&layout_bytes()).map_err(ExportError::Write)
    })?;
    index
        .manifests
        .retain(|old| !added.iter().any(|new| is_replaced_by(old, new)));
    index.manifests.extend(added);
    // The index last: whoever reads it finds everything that it names.
    write_beside(&folder.join(INDEX_FILE), |out| {
        out.write_all(&index.to_bytes()).map_err(ExportError::Write)
    })?;
    Ok(parts.descriptor)
}

/// The image's entries in the index: one for each name.
fn entries(parts: &Parts<'_>) -> Vec<Descriptor> {
    let names: Vec<(String, String)> = parts
        .names
        .iter()
        .map(|name| (name.to_string(), name.tag().unwrap_or_default().to_owned()))
        .collect();
    let names: Vec<ImageName<'_>> = names
        .iter()
        .map(|(full, tag)| ImageName { full, tag })
        .collect();
    named_descriptors(&parts.descriptor, &names)
}

/// Whether an older entry says of the same name, or of the same image without one.
fn is_replaced_by(old: &Descriptor, new: &Descriptor) -> bool {
    let name = |of: &Descriptor| {
        let full = of.annotations.get(IMAGE_NAME_ANNOTATION);
        full.or_else(|| of.annotations.get(REF_NAME_ANNOTATION))
            .cloned()
    };
    match (name(old), name(new)) {
        (None, _) => old.digest == new.digest,
        (old, new) => old == new,
    }
}

enum Blob<'a> {
    Small(Vec<u8>),
    Layer(&'a LayerBlob<'a>),
}

/// All blobs in the order of their digests.
fn blobs<'a>(
    small: Vec<Vec<u8>>,
    layers: Vec<&'a LayerBlob<'a>>,
) -> BTreeMap<BlobDigest, Blob<'a>> {
    let layers = layers.into_iter();
    let mut blobs: BTreeMap<_, _> = layers
        .map(|layer| (layer.descriptor().digest, Blob::Layer(layer)))
        .collect();
    let small = small.into_iter();
    blobs.extend(small.map(|bytes| (BlobDigest(Digest::of(&bytes)), Blob::Small(bytes))));
    blobs
}

fn existing_index(folder: &Path) -> Result<ImageIndex, ExportError> {
    let path = folder.join(INDEX_FILE);
    let malformed = |source| ExportError::Layout {
        path: folder.to_owned(),
        source,
    };
    match std::fs::read(folder.join(LAYOUT_FILE)) {
        Ok(bytes) => check_layout(&bytes).map_err(malformed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(ExportError::io("read", &folder.join(LAYOUT_FILE))(error)),
    }
    match std::fs::read(&path) {
        Ok(bytes) => ImageIndex::from_bytes(&bytes).map_err(malformed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ImageIndex::new(Vec::new())),
        Err(error) => Err(ExportError::io("read", &path)(error)),
    }
}

fn has_size(path: &Path, size: u64) -> bool {
    path.symlink_metadata()
        .is_ok_and(|found| found.is_file() && found.len() == size)
}

/// Writes a file beside its place and renames it.
fn write_beside(
    place: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let folder = place.parent().unwrap_or(Path::new("."));
    let file = new_file(folder).map_err(ExportError::io("create a file in", folder))?;
    let mut out = io::BufWriter::new(file);
    write(&mut out)?;
    let file = out
        .into_inner()
        .map_err(|error| ExportError::Write(error.into_error()))?;
    let renamed = file.persist(place).map(drop).map_err(|error| error.error);
    renamed.map_err(ExportError::io("create", place))
}
