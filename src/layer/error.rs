//! What can go wrong with a layer, whatever was being done with it.

use super::apply::ExtractError;
use super::diff::DiffError;
use super::tar_reader::TarReadError;
use super::tar_writer::TarWriteError;

/// Why a layer can't be written, read, extracted or made of a tree. The message is that of the
/// error inside.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Its tar stream can't be written.
    #[error(transparent)]
    Write(#[from] TarWriteError),
    /// Its tar stream can't be read.
    #[error(transparent)]
    Read(#[from] TarReadError),
    /// It can't be extracted.
    #[error(transparent)]
    Extract(#[from] ExtractError),
    /// A tree can't become a layer.
    #[error(transparent)]
    Diff(#[from] DiffError),
}
