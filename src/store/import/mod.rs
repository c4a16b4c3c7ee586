//! Images from files of this machine as base images: OCI layouts as folders and as archives, and
//! the archives of `docker save`.
//!
//! What is needed of the chosen image, and nothing else, is brought into the store as blobs.
//! Every blob that a digest names is verified on the way. Archives are not unpacked: a table of
//! their members is made, and the members are read in place.

mod docker;
mod layout;
mod source;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{Store, StoreError};
use crate::digest::{BlobDigest, DiffId, Digest};
use crate::image::ImageError;
use crate::image::archive::{DOCKER_MANIFEST_FILE, INDEX_FILE, LAYOUT_FILE, blob_path};
use crate::image::config::{CONFIG_LIMIT, ParsedConfig};
use crate::image::manifest::Descriptor;
use crate::platform::Platform;
use crate::reference::Reference;
use source::{Archive, Folder, Source};

/// Which image of those that a file holds.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// Its full name, tag or digest. Without one, the file must hold one image only, in as many
    /// platforms as it likes.
    pub name: Option<&'a str>,
    /// What it must run on.
    pub platform: &'a Platform,
}

/// An image whose config and layers are in the store now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedImage {
    /// Its config.
    pub config: ParsedConfig,
    /// Its layers, lowest first.
    pub layers: Vec<ImportedLayer>,
    /// Its manifest, where it has one.
    pub manifest: Option<Descriptor>,
}

/// A layer whose blob is in the store now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedLayer {
    /// Digest of its plain tar, as the config says. Whoever unpacks the blob verifies it.
    pub diff_id: DiffId,
    /// The blob that holds it.
    pub blob: Descriptor,
}

/// Why a file can't serve as an image.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It can't be read.
    #[error("cannot read the image `{path}`")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It isn't what it should be.
    #[error(
        "`{path}` is neither an OCI image layout nor an archive of `docker save`: it has no `oci-layout` and no `manifest.json`"
    )]
    NoImage {
        /// The file or folder.
        path: PathBuf,
    },
    /// One of its documents can't be used.
    #[error("cannot use the image `{path}`")]
    Image {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: ImageError,
    },
    /// Something that it must have isn't there, or is of no use.
    #[error("cannot use the image `{path}`: {reason}")]
    Unusable {
        /// The file or folder.
        path: PathBuf,
        /// What it lacks, and what to do.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An image with the names that its file gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedImage {
    /// The image.
    pub image: ImportedImage,
    /// Its names, as written, each once. A mere tag, which says nothing of a repository, is none.
    pub names: Vec<String>,
}

/// Where images come from.
#[derive(Debug)]
pub enum ImageFile {
    /// A layout folder or an archive.
    Path(PathBuf),
    /// An archive that is open already: standard input.
    Stdin(File),
}

impl Store {
    /// Brings all images of a layout folder or of an archive, compressed or not, into the store.
    /// Of an image for several platforms, that for `platform`, or for this machine where none is
    /// asked for. An image for one platform only is taken whatever that is, unless another is
    /// asked for.
    ///
    /// # Errors
    /// When the file can't be read, holds no image, none for the platform, or one that is damaged.
    pub fn import_all(
        &self,
        from: ImageFile,
        platform: Option<&Platform>,
    ) -> Result<Vec<NamedImage>, ImportError> {
        let (path, source) = match from {
            ImageFile::Path(path) => {
                let source = open(self, &path)?;
                (path, source)
            }
            ImageFile::Stdin(file) => {
                let path = PathBuf::from("standard input");
                let source: Box<dyn Source> = Box::new(Archive::read(self, file, &path)?);
                (path, source)
            }
        };
        let host = Platform::host();
        let import = Import {
            store: self,
            path: &path,
            source: source.as_ref(),
            selection: Selection {
                name: None,
                platform: platform.unwrap_or(&host),
            },
        };
        match import.kind()? {
            Kind::Layout => import.whole_layout(platform.is_some()),
            Kind::Docker => import.whole_archive(platform),
        }
    }

    /// Brings an image of a layout folder or of an archive, compressed or not, into the store.
    ///
    /// # Errors
    /// When `path` can't be read, holds no image, not the wanted one, or one that is damaged.
    pub fn import(
        &self,
        path: &Path,
        selection: Selection<'_>,
    ) -> Result<ImportedImage, ImportError> {
        let source = open(self, path)?;
        let import = Import {
            store: self,
            path,
            source: source.as_ref(),
            selection,
        };
        match import.kind()? {
            Kind::Layout => import.layout(),
            Kind::Docker => import.docker(),
        }
    }
}

fn open(store: &Store, path: &Path) -> Result<Box<dyn Source>, ImportError> {
    let read = |source| ImportError::Read {
        path: path.to_owned(),
        source,
    };
    Ok(match path.metadata().map_err(read)?.is_dir() {
        true => Box::new(Folder::open(path).map_err(read)?),
        false => Box::new(Archive::open(store, path)?),
    })
}

/// What a file is.
enum Kind {
    /// An OCI image layout, whatever else it may be.
    Layout,
    /// An archive with Docker's list of images only.
    Docker,
}

/// One import on its way.
struct Import<'a> {
    store: &'a Store,
    path: &'a Path,
    source: &'a dyn Source,
    selection: Selection<'a>,
}

impl Import<'_> {
    fn kind(&self) -> Result<Kind, ImportError> {
        if self.has(LAYOUT_FILE)? || self.has(INDEX_FILE)? {
            Ok(Kind::Layout)
        } else if self.has(DOCKER_MANIFEST_FILE)? {
            Ok(Kind::Docker)
        } else {
            Err(ImportError::NoImage {
                path: self.path.to_owned(),
            })
        }
    }

    fn read_error(&self, source: io::Error) -> ImportError {
        ImportError::Read {
            path: self.path.to_owned(),
            source,
        }
    }

    fn image_error(&self, source: ImageError) -> ImportError {
        ImportError::Image {
            path: self.path.to_owned(),
            source,
        }
    }

    fn unusable(&self, reason: impl Into<String>) -> ImportError {
        ImportError::Unusable {
            path: self.path.to_owned(),
            reason: reason.into(),
        }
    }

    fn has(&self, name: &str) -> Result<bool, ImportError> {
        let found = self.source.open(name).map_err(|e| self.read_error(e))?;
        Ok(found.is_some())
    }

    fn open(&self, name: &str) -> Result<Box<dyn Read + Send>, ImportError> {
        let found = self.source.open(name).map_err(|e| self.read_error(e))?;
        found.ok_or_else(|| self.unusable(format!("`{name}` is missing in it")))
    }

    /// Reads a whole file of at most `limit` bytes.
    fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, ImportError> {
        let mut bytes = Vec::new();
        let read = self.open(name)?.take(limit + 1).read_to_end(&mut bytes);
        if read.map_err(|e| self.read_error(e))? as u64 > limit {
            return Err(self.unusable(format!("`{name}` is larger than {limit} bytes")));
        }
        Ok(bytes)
    }

    /// Reads a config, which `name` holds, and keeps it in the store.
    fn config(&self, name: &str, digest: Option<BlobDigest>) -> Result<ParsedConfig, ImportError> {
        let bytes = self.read(name, CONFIG_LIMIT)?;
        let found = Digest::of(&bytes);
        if let Some(expected) = digest.filter(|expected| expected.0 != found) {
            return Err(self.image_error(ImageError::WrongDigest {
                what: "image config",
                expected: expected.0,
                found,
            }));
        }
        let config = ParsedConfig::from_bytes(bytes).map_err(|e| self.image_error(e))?;
        self.store.put_blob(config.bytes())?;
        Ok(config)
    }

    /// Brings a blob into the store, unless that has it.
    fn blob(&self, blob: &Descriptor) -> Result<(), ImportError> {
        if self.store.has_blob(&blob.digest)? {
            return Ok(());
        }
        // One byte more than announced is enough to know that it's another.
        let limit = blob.size.saturating_add(1);
        let mut content = self.open(&blob_path(&blob.digest))?.take(limit);
        let mut writer = self.store.ingest()?;
        io::copy(&mut content, &mut writer).map_err(|e| self.read_error(e))?;
        writer.commit(Some(blob.digest))?;
        Ok(())
    }

    /// Puts the layers and the config's diff IDs side by side.
    fn layers(
        &self,
        config: &ParsedConfig,
        blobs: Vec<Descriptor>,
    ) -> Result<Vec<ImportedLayer>, ImportError> {
        let diff_ids = &config.config.rootfs.diff_ids;
        if blobs.len() != diff_ids.len() {
            return Err(self.unusable(format!(
                "it has {} layers, but its config names {}",
                blobs.len(),
                diff_ids.len()
            )));
        }
        let pairs = diff_ids.iter().zip(blobs);
        Ok(pairs
            .map(|(&diff_id, blob)| ImportedLayer { diff_id, blob })
            .collect())
    }

    fn several(&self, names: &[String]) -> ImportError {
        self.unusable(format!(
            "it holds several images: name one of {}",
            names.join(", ")
        ))
    }

    fn none_of(&self, wanted: &str, names: &[String]) -> ImportError {
        self.unusable(match names.is_empty() {
            true => format!("it holds no image `{wanted}`, only images without names"),
            false => format!("it holds no image `{wanted}`, only {}", names.join(", ")),
        })
    }
}

/// Adds an image to a list; one that is there already gets the names.
fn gather(images: &mut Vec<NamedImage>, image: ImportedImage, names: Vec<String>) {
    let known = images
        .iter()
        .position(|known| known.image.config.id() == image.config.id());
    let at = known.unwrap_or_else(|| {
        images.push(NamedImage {
            image,
            names: Vec::new(),
        });
        images.len() - 1
    });
    for name in names {
        if !images[at].names.contains(&name) {
            images[at].names.push(name);
        }
    }
}

/// Whether two names are the same when written out in full.
fn is_same_name(a: &str, b: &str) -> bool {
    let full = |name: &str| name.parse().map(Reference::with_default_tag).ok();
    a == b || full(a).is_some_and(|a| Some(a) == full(b))
}
