//! Build contexts: where COPY without `--from` reads, and where the Dockerfile usually is.
//!
//! A context is read as it is when a file is wanted; nothing is copied or sent anywhere first. It
//! is the user's own folder and yet hostile: links in it never lead out of it.

pub mod digests;
pub mod filter;
pub mod local;
pub mod stream;

use std::io;

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
    /// Standard input is no archive.
    #[error("standard input is no build context: {0}")]
    NotAnArchive(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}
