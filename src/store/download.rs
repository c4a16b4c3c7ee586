//! What was fetched from URLs: which content a server gave, and what it said with which to ask
//! whether that is still so. The content is a blob like others.

use super::error::StoreError;
use super::{Store, sql};
use crate::digest::{BlobDigest, CacheKey, CacheKeyBuilder};

/// What a URL gave when it was asked last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownloadRecord {
    /// The content.
    pub digest: BlobDigest,
    /// The `ETag` header, as it was sent.
    pub etag: Option<String>,
    /// The `Last-Modified` header, as it was sent.
    pub last_modified: Option<String>,
    /// When it came, in seconds since the Unix epoch.
    pub fetched: i64,
}

/// A URL may hold a password: only its hash is kept.
fn key_of(url: &str) -> CacheKey {
    CacheKeyBuilder::new("download")
        .field(url.as_bytes())
        .finish()
}

impl Store {
    /// What a URL gave last. Whether the content is still here is another question.
    ///
    /// # Errors
    /// When the database fails.
    pub fn download(&self, url: &str) -> Result<Option<DownloadRecord>, StoreError> {
        let key = key_of(url);
        self.inner.database.read(|c| sql::download(c, &key))
    }

    /// Remembers what a URL gave.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_download(&self, url: &str, record: &DownloadRecord) -> Result<(), StoreError> {
        let key = key_of(url);
        self.inner
            .database
            .write(|transaction| Ok(sql::put_download(transaction, &key, record)?))
    }
}
