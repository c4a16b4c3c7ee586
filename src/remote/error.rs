//! Why a URL gives no file. Queries and passwords of URLs are never shown: a signed URL is a key.

use crate::digest::BlobDigest;
use crate::registry::ErrorKind;
use crate::store::StoreError;

/// Why a URL gives no file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// It is no URL.
    #[error("`{shown}` is no URL that can be fetched: {reason}")]
    Url {
        /// As far as it can be shown.
        shown: String,
        /// What is wrong.
        reason: String,
    },
    /// The server, or the way to it.
    #[error("failed to fetch `{url}`: {}", explained(.kind))]
    Fetch {
        /// From where.
        url: String,
        /// Why; it is told with the error.
        kind: Box<ErrorKind>,
    },
    /// It is not what was asked for.
    #[error("digest mismatch for {url}: {found} (expected: {expected})")]
    Mismatch {
        /// From where.
        url: String,
        /// What the Dockerfile says.
        expected: BlobDigest,
        /// What came.
        found: BlobDigest,
    },
    /// A credential that can't stand in a header.
    #[error("the secret `{0}` can't be sent in a header: it is not one line of text")]
    Authorization(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Connections are the same as to registries, what to do about them is not.
fn explained(kind: &ErrorKind) -> String {
    match kind {
        ErrorKind::Refused => "connection refused; check the address and any proxy settings".into(),
        ErrorKind::InsecureRedirect(to) => {
            format!("it redirects to `{to}`, which does not use HTTPS")
        }
        ErrorKind::Tls { reason, .. } => format!(
            "TLS failed: {reason}; a CA of your own belongs in the system's store or in a file \
             that SSL_CERT_FILE names"
        ),
        kind => kind.to_string(),
    }
}
