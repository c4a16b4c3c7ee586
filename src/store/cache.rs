//! What builds remember of earlier ones: results of steps, of pure functions, of asking a registry.

use super::error::StoreError;
use super::{LayerId, Store, sql};
use crate::digest::{BlobDigest, CacheKey};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::time::Timestamp;

/// What a step gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheRecord {
    /// The layer it made, if it makes one.
    pub layer: Option<LayerId>,
    /// When it ran.
    pub created: Timestamp,
}

/// What a registry said of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteRecord {
    /// Digest of the manifest or index that the name stood for.
    pub manifest: BlobDigest,
    /// When it said so.
    pub checked_at: Timestamp,
}

impl Store {
    /// What the step with this key gave, if it is known. Whether the layer's content is still
    /// here is another question.
    ///
    /// # Errors
    /// When the database fails.
    pub fn cached(&self, key: &CacheKey) -> Result<Option<CacheRecord>, StoreError> {
        let found = self.inner.database.read(|c| sql::cached(c, key))?;
        let held = match found.as_ref().and_then(|record| record.layer) {
            Some(layer) => self.try_hold(&[layer])?,
            None => true,
        };
        Ok(found.filter(|_| held))
    }

    /// Remembers what a step gave.
    ///
    /// # Errors
    /// When the database fails, or has no such layer.
    pub fn record(&self, key: &CacheKey, record: &CacheRecord) -> Result<(), StoreError> {
        self.inner
            .database
            .write(|transaction| Ok(sql::put_cached(transaction, key, record)?))
    }

    /// Forgets what a step gave.
    ///
    /// # Errors
    /// When the database fails.
    pub fn forget(&self, key: &CacheKey) -> Result<(), StoreError> {
        self.inner
            .database
            .write(|transaction| Ok(sql::delete_cached(transaction, key)?))
    }

    /// Whether a step with this operation and parent was ever recorded, whatever it read. If not,
    /// the cache can't have its result.
    ///
    /// # Errors
    /// When the database fails.
    pub fn has_operation(&self, key: &CacheKey) -> Result<bool, StoreError> {
        self.inner.database.read(|c| sql::has_operation(c, key))
    }

    /// Remembers that a step with this operation and parent was recorded.
    ///
    /// # Errors
    /// When the database fails.
    pub fn record_operation(&self, key: &CacheKey) -> Result<(), StoreError> {
        self.inner
            .database
            .write(|transaction| Ok(sql::put_operation(transaction, key)?))
    }

    /// A remembered result of a pure function, such as a content digest.
    ///
    /// # Errors
    /// When the database fails.
    pub fn memo(&self, key: &CacheKey) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.database.read(|c| sql::memo(c, key))
    }

    /// Remembers a small result of a pure function.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_memo(&self, key: &CacheKey, value: &[u8]) -> Result<(), StoreError> {
        self.inner
            .database
            .write(|transaction| Ok(sql::put_memo(transaction, key, value)?))
    }

    /// The remembered digests of the files in a context's folder, which is named by its device
    /// and inode numbers.
    ///
    /// # Errors
    /// When the database fails.
    pub fn directory_digests(
        &self,
        device: u64,
        inode: u64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner
            .database
            .read(|c| sql::directory(c, device, inode))
    }

    /// Remembers the digests of the files in folders: device, inode, digests. One transaction
    /// for all.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_directory_digests(
        &self,
        directories: &[(u64, u64, Vec<u8>)],
    ) -> Result<(), StoreError> {
        self.inner.database.write(|transaction| {
            for (device, inode, digests) in directories {
                sql::put_directory(transaction, *device, *inode, digests)?;
            }
            Ok(())
        })
    }

    /// What a registry last said of a name.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remote(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<RemoteRecord>, StoreError> {
        self.inner
            .database
            .read(|c| sql::remote(c, reference, platform))
    }

    /// Remembers what a registry said of a name.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_remote(
        &self,
        reference: &Reference,
        platform: &Platform,
        record: &RemoteRecord,
    ) -> Result<(), StoreError> {
        self.inner
            .database
            .write(|transaction| Ok(sql::put_remote(transaction, reference, platform, record)?))
    }
}
