//! Build contexts: where COPY without `--from` reads, and where the Dockerfile usually is.
//!
//! A context is read as it is when a file is wanted; nothing is copied or sent anywhere first. It
//! is the user's own folder and yet hostile: links in it never lead out of it.

pub mod digests;
pub mod filter;
pub mod local;
pub mod stream;

use std::io;

use crate::snapshot::FileTree;

/// Why a context can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The folder can't be opened.
    #[error("unable to prepare context: path `{path}`: {source}")]
    Open {
        /// As the user wrote it.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file of it that rbuild itself reads (Dockerfile, .dockerignore).
    #[error("failed to read `{path}`: {source}")]
    Read {
        /// The file.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// `.dockerignore` has a line that can't be read.
    #[error("error parsing {path}: {message}")]
    Ignore {
        /// The ignore file.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// What should be an archive is none.
    #[error("{what} is no build context: {reason}")]
    NotAnArchive {
        /// Standard input, or a URL.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

/// The content of a regular file of at most `limit` bytes; `None` when it isn't there.
///
/// # Errors
/// When it is there and can't be read.
pub fn read_file(
    tree: &dyn FileTree,
    path: &[u8],
    limit: u64,
) -> Result<Option<Vec<u8>>, ContextError> {
    let failed = |source: io::Error| ContextError::Read {
        path: String::from_utf8_lossy(path).into_owned(),
        source,
    };
    let found = tree.lookup(path, true).map_err(io::Error::other);
    let found = found.map_err(failed)?;
    let Some(node) = found.filter(|node| node.entry.is_file()) else {
        return Ok(None);
    };
    if node.entry.size > limit {
        let message = format!("larger than {limit} bytes");
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, message)));
    }
    let mut content = Vec::new();
    let reader = tree
        .open(&node.file())
        .map_err(io::Error::other)
        .map_err(failed)?;
    io::Read::read_to_end(&mut io::Read::take(reader, limit), &mut content).map_err(failed)?;
    Ok(Some(content))
}
