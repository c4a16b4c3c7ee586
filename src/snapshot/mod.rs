//! Snapshots: stacks of layers, and the ways to read them and to work on top of them.
//!
//! A snapshot is a list of layers in the store, lowest first. Its merged [`View`](crate::layer::view::View) answers what is
//! where without touching a file; its trees, made only when asked for, are what an overlay mount
//! stacks. Nothing here knows an instruction.
//!
//! A layer's content is read from whatever is at hand, in this order: its tree, its plain tar at
//! the offset that the index gives, and (after one decompression) its compressed blob.

mod claims;
pub mod compare;
mod content;
mod folder;
mod materialize;
pub mod origin;
mod other_form;
mod source;

pub use content::Content;
pub use folder::{StorageDriver, WorkFolder};
pub use materialize::{FetchBlobs, Materializer, RemoteBlob, Unpacking};
pub use source::{FileRef, FileTree, Node, SnapshotTree, TreeError, ViewTree};

use crate::digest::{CacheKey, CacheKeyBuilder, DiffId};
use crate::store::LayerId;

/// A stack of layers, lowest first, and the key that names how it came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The layers.
    pub layers: Vec<LayerId>,
    /// Key of everything that went into it; equal keys mean equal content.
    pub key: CacheKey,
}

impl Snapshot {
    /// A stack that is only read or run: no step's result is ever recorded under its key.
    pub fn unrecorded(layers: Vec<LayerId>) -> Self {
        let key = CacheKeyBuilder::new("unrecorded").finish();
        Self { layers, key }
    }
}

/// Why a snapshot can't be read or made.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// A layer's tar or tree is bad.
    #[error("layer {layer}: {source}")]
    Layer {
        /// The layer's diff ID, or what is known of it.
        layer: String,
        /// What is wrong.
        #[source]
        source: crate::layer::LayerError,
    },
    /// A layer's bytes are neither here nor to be had.
    #[error("the content of layer {layer} is not in the store")]
    Missing {
        /// The layer.
        layer: String,
    },
    /// A layer is here in a shape that can't be read in this isolation mode.
    #[error(
        "layer {diff_id} was made in another isolation mode, and this one can't read it ({source}); build or pull its image again, or use the other mode with --isolation"
    )]
    OtherForm {
        /// The layer.
        diff_id: DiffId,
        /// What could not be read.
        #[source]
        source: crate::layer::LayerError,
    },
    /// A step's folder can't be read or made.
    #[error("the folder that a step works in: {source}")]
    Folder {
        /// What is wrong.
        #[source]
        source: crate::layer::LayerError,
    },
    /// A blob could not be fetched.
    #[error(transparent)]
    Registry(#[from] crate::registry::RegistryError),
    /// The plain tar is not what the image config promises.
    #[error(
        "layer {expected}: its content has diff ID {found}; the image is damaged or was tampered with"
    )]
    DiffIdMismatch {
        /// What the config says.
        expected: DiffId,
        /// What the bytes say.
        found: DiffId,
    },
    /// A manifest lies about a blob.
    #[error(
        "blob {blob} does not hold the layer {expected} that the image says it does: the image is damaged or was tampered with"
    )]
    WrongBlob {
        /// What the config says.
        expected: DiffId,
        /// The blob.
        blob: crate::digest::BlobDigest,
    },
    /// A file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The build was stopped.
    #[error("canceled")]
    Canceled,
}

impl SnapshotError {
    /// Wraps a system error with what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
