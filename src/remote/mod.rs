//! What a build takes from elsewhere by its address: files over HTTP, git repositories.
//!
//! It comes into the store first and is read there. What it must never know: a Dockerfile, a
//! step, a terminal. Whoever serves it is hostile: nothing that a server says names a path, and
//! credentials go only to the origin they are for.
//!
//! ```text
//! http        one URL to content in the store, asked again only where it may have changed
//!   error     why not, without a word that may be a password
//! file        that content as a tree of one file
//! git         one commit of a repository to a layer in the store
//! ```

mod error;
mod file;
pub mod git;
mod http;

use std::sync::Arc;

pub use error::HttpError;
pub use file::DownloadedFile;
pub use git::GitError;
pub use http::{Download, HttpClient, HttpProgress, HttpRequest, shown_url};

/// Why something can't be had from elsewhere.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RemoteError {
    /// Over HTTP.
    #[error(transparent)]
    Http(#[from] Arc<HttpError>),
    /// From a git repository.
    #[error(transparent)]
    Git(Arc<GitError>),
    /// The build was stopped.
    #[error("canceled")]
    Canceled,
}

impl From<GitError> for RemoteError {
    fn from(error: GitError) -> Self {
        match error {
            GitError::Canceled => Self::Canceled,
            error => Self::Git(Arc::new(error)),
        }
    }
}
