//! Images on their way out of the store: OCI layouts as folders and archives, and the archives
//! that `docker load` takes.
//!
//! An [`ExportedImage`] is the image's config, its layers as blobs that can be opened, and its
//! names. Nothing here knows how a layer was made or compressed: its descriptor is given, and
//! every byte is checked against it on the way out. What is written depends on the image, its
//! names and the given time only: members sorted, owners zero, no clock.
//!
//! A file or folder is written beside its place and renamed: what stands there is whole.

pub mod docker_archive;
pub mod engine;
pub mod files;
pub mod folder;
pub mod index;
pub mod layers;
pub mod oci;
pub mod packaging;
pub mod registry;
pub mod stored;

mod archive;
mod destination;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

pub use destination::Destination;
pub use index::ExportedIndex;
pub use packaging::{MediaTypes, Packaging};
pub use stored::StoredImage;

use crate::digest::{BlobDigest, Digest, HashingStream};
use crate::fs::FsError;
use crate::image::ImageError;
use crate::image::archive::{SavedImage, blob_path};
use crate::image::manifest::Descriptor;
use crate::layer::LayerError;
use crate::reference::Reference;
use crate::snapshot::{SnapshotError, TreeError};
use crate::store::{Store, StoreError};
use crate::time::Timestamp;

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A file operation failed.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The output could not be written.
    #[error("cannot write the image")]
    Write(#[source] io::Error),
    /// Standard output is a terminal.
    #[error(
        "refusing to write an archive to a terminal: redirect standard output, or name a file with dest="
    )]
    Terminal,
    /// A layer's bytes could not be had.
    #[error("cannot read the layer with blob {digest}")]
    Layer {
        /// The layer's blob.
        digest: BlobDigest,
        /// Why it failed.
        source: io::Error,
    },
    /// A layer's bytes are not those that its descriptor names.
    #[error(
        "the layer with blob {expected} reads as {found_size} bytes with digest {found}: the store was changed from outside"
    )]
    WrongLayer {
        /// The blob's digest.
        expected: BlobDigest,
        /// The digest of what was read.
        found: Digest,
        /// Its size in bytes.
        found_size: u64,
    },
    /// The folder holds something that can't be added to.
    #[error("cannot add to the OCI layout `{path}`")]
    Layout {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: ImageError,
    },
    /// The image's config can't be read.
    #[error("cannot export the image")]
    Config(#[from] ImageError),
    /// The image's files can't be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A file of the image can't be read.
    #[error("cannot export the files of the image")]
    File(#[source] FsError),
    /// The image's files can't be written as a tar stream.
    #[error("cannot write the files of the image as a tar archive")]
    Tar(#[source] LayerError),
    /// The image's files can't be written to a folder.
    #[error("cannot write the files of the image to `{folder}`")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What failed.
        source: FsError,
    },
    /// A layer can't be read or made.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ExportError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// Kinds of archives of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An OCI image layout.
    Oci,
    /// What `docker save` writes: an OCI image layout with Docker's own list of images beside.
    Docker,
}

impl ArchiveFormat {
    /// What it is called.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Oci => "an OCI archive",
            Self::Docker => "a Docker archive",
        }
    }

    /// Writes an archive of images, every member with the time `mtime`, or the beginning of 1970.
    /// Gives the manifests' descriptors.
    ///
    /// # Errors
    /// When a layer can't be read or isn't what its descriptor says, or `out` can't be written.
    pub fn write<W: Write>(
        self,
        images: &[impl Exportable],
        mtime: Option<Timestamp>,
        out: W,
    ) -> Result<Vec<Descriptor>, ExportError> {
        match self {
            Self::Oci => oci::write_archive(images, mtime, out),
            Self::Docker => docker_archive::write(images, mtime, out),
        }
    }
}

/// Opens a blob for reading from its beginning.
type Opener<'a> = Box<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync + 'a>;

/// A layer's blob, as it leaves: compressed or plain.
pub struct LayerBlob<'a> {
    descriptor: Descriptor,
    open: Opener<'a>,
}

impl<'a> LayerBlob<'a> {
    /// A blob of this media type, digest and size, that `open` gives.
    pub fn new(
        descriptor: Descriptor,
        open: impl Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync + 'a,
    ) -> Self {
        Self {
            descriptor,
            open: Box::new(open),
        }
    }

    /// A blob that the store has, or will have when it is opened.
    pub fn from_store(store: &Store, descriptor: Descriptor) -> LayerBlob<'static> {
        let (store, digest) = (store.clone(), descriptor.digest);
        LayerBlob::new(descriptor, move || {
            match store.blob(&digest).map_err(io::Error::other)? {
                Some(file) => Ok(Box::new(file)),
                None => Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    "the blob is not in the store",
                )),
            }
        })
    }

    /// Its media type, digest and size.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }
}

/// An image that is to be written.
pub struct ExportedImage<'a> {
    /// The config's bytes: their digest is the image ID.
    pub config: Vec<u8>,
    /// The layers, lowest first.
    pub layers: Vec<LayerBlob<'a>>,
    /// The names.
    pub tags: Vec<Reference>,
    /// How it is packed.
    pub packaging: Packaging,
}

impl ExportedImage<'_> {
    /// The image's manifest: its bytes, and a descriptor that says the platform and the time of
    /// the config, without names.
    ///
    /// # Errors
    /// When the config can't be read.
    pub fn manifest(&self) -> Result<(Vec<u8>, Descriptor), ImageError> {
        let layers = self.layers.iter().map(|layer| layer.descriptor.clone());
        self.packaging.manifest(&self.config, layers.collect())
    }
}

/// Names, each with a tag and without a digest.
fn full_names(tags: &[Reference]) -> Vec<Reference> {
    let names = tags.iter().cloned();
    names
        .map(|reference| reference.without_digest().with_default_tag())
        .collect()
}

/// What can be written under names: an image, or several as one.
pub trait Exportable {
    /// What it is made of.
    ///
    /// # Errors
    /// When a config can't be read.
    fn parts(&self) -> Result<Parts<'_>, ImageError>;
}

/// What something that is to be written is made of.
pub struct Parts<'a> {
    /// Of its manifest, or its index.
    descriptor: Descriptor,
    /// Blobs that are documents.
    small: Vec<Vec<u8>>,
    /// Blobs that are layers.
    layers: Vec<&'a LayerBlob<'a>>,
    /// Its names, each with a tag.
    names: Vec<Reference>,
    /// What Docker's own list of images says of it.
    saved: SavedImage,
}

impl Exportable for ExportedImage<'_> {
    fn parts(&self) -> Result<Parts<'_>, ImageError> {
        let (manifest, descriptor) = self.manifest()?;
        let names = full_names(&self.tags);
        let layers = self.layers.iter();
        Ok(Parts {
            descriptor,
            small: vec![self.config.clone(), manifest],
            layers: self.layers.iter().collect(),
            saved: SavedImage {
                config: blob_path(&BlobDigest(Digest::of(&self.config))),
                repo_tags: names.iter().map(Reference::familiar).collect(),
                layers: layers
                    .map(|layer| blob_path(&layer.descriptor.digest))
                    .collect(),
            },
            names,
        })
    }
}

/// An image, or several as one.
pub enum Exported<'a> {
    /// One.
    Image(ExportedImage<'a>),
    /// Several.
    Index(ExportedIndex<'a>),
}

impl Exportable for Exported<'_> {
    fn parts(&self) -> Result<Parts<'_>, ImageError> {
        match self {
            Self::Image(image) => image.parts(),
            Self::Index(index) => index.parts(),
        }
    }
}

/// Reads a layer and checks on the way that it is what its descriptor says. `take` gets the bytes.
fn read_layer(
    layer: &LayerBlob<'_>,
    take: impl FnOnce(&mut dyn Read) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let descriptor = &layer.descriptor;
    let unreadable = |source| ExportError::Layer {
        digest: descriptor.digest,
        source,
    };
    // One byte more than announced is enough to know; the rest doesn't matter.
    let limit = descriptor.size.saturating_add(1);
    let mut content = LayerContent {
        stream: HashingStream::new((layer.open)().map_err(unreadable)?.take(limit)),
        ended: false,
        failure: None,
    };
    let result = take(&mut content);
    if let Some(failure) = content.failure {
        return Err(unreadable(failure));
    }
    // That a layer ended too soon is said better below than by whoever was writing it.
    if result.is_err() && !content.ended {
        return result;
    }
    io::copy(&mut content.stream, &mut io::sink()).map_err(unreadable)?;
    let (_, found, found_size) = content.stream.finish();
    if found != descriptor.digest.0 || found_size != descriptor.size {
        return Err(ExportError::WrongLayer {
            expected: descriptor.digest,
            found,
            found_size,
        });
    }
    result
}

/// A layer that is being read; it tells its own failures from those of whoever it is written to.
struct LayerContent<R> {
    stream: HashingStream<R>,
    ended: bool,
    failure: Option<io::Error>,
}

impl<R: Read> Read for LayerContent<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.stream.read(buffer) {
            Ok(count) => {
                self.ended |= count == 0 && !buffer.is_empty();
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failure = Some(error);
                Err(kind.into())
            }
        }
    }
}

#[cfg(test)]
mod tests;
