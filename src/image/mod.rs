//! Images as data: the config, the manifest, the index, and the small files around them in
//! archives and layout folders.
//!
//! Everything here is a function from bytes to values or back. No file, no network, no clock.
//! What is parsed keeps its raw bytes where a digest hangs on them, for a document that is
//! written again is another document; what is written comes out the same on every machine:
//! members in one fixed order, maps sorted.

pub mod archive;
pub mod config;
pub mod manifest;

mod json;

/// Why bytes are not the image document they should be.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Larger than any honest document of its kind.
    #[error("{what} is {size} bytes large, more than the {limit} that are read")]
    TooLarge {
        /// The kind of document, such as `image config`.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// The most that is read.
        limit: u64,
    },
    /// Not JSON, or not JSON of the expected shape.
    #[error("invalid {what}")]
    Malformed {
        /// The kind of document, such as `image config`.
        what: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// JSON of the right shape that says something that can't be used.
    #[error("{0}")]
    Unsupported(String),
    /// The bytes are not those that their digest names.
    #[error(
        "{what} has digest {found} where {expected} is expected: it was damaged or exchanged on the way"
    )]
    WrongDigest {
        /// The kind of document.
        what: &'static str,
        /// What was asked for.
        expected: crate::digest::Digest,
        /// What came.
        found: crate::digest::Digest,
    },
}
