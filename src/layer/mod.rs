//! Layers: the difference between two file systems, as a tar stream, as a folder for an overlay
//! mount, and as an index of entries.
//!
//! - [`entry`], [`index`]: one path of a layer, and all of them, sorted
//! - [`view`]: what a stack of layers looks like from above; pure
//! - [`tar_writer`], [`tar_reader`]: the canonical tar stream, and reading anybody's
//! - [`apply`]: a tar stream into a folder; [`diff`]: a folder into an index and a tar stream
//! - [`folder`]: a whole stack of layers as one folder, for steps that work in place
//! - [`form`]: what makes two folders of the same layer different on disk
//! - [`compression`]: gzip and zstd, the same bytes on any number of cores
//!
//! Nothing here knows an image, a registry or the store. Nothing here resolves a path outside the
//! descriptor that it was given, and nothing that reaches a tar stream comes from the clock, from
//! a user's name or from the number of cores.

pub mod apply;
mod assembly;
pub mod compression;
pub mod diff;
pub mod entry;
mod error;
pub mod folder;
pub mod form;
pub mod index;
mod override_stat;
mod tar_header;
mod tar_member;
pub mod tar_reader;
pub mod tar_writer;
#[cfg(test)]
mod testing;
pub mod view;
mod xattr;

pub use assembly::AssemblyError;
pub use error::LayerError;
pub use tar_header::DEPTH_LIMIT;
