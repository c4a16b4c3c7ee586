//! Where a compressed layer can be had that the store only knows by its digest: images are built
//! on bases that nobody has read, and pushed later, perhaps by another process.

use super::RemoteBlob;
use crate::digest::{BlobDigest, CacheKey, CacheKeyBuilder};
use crate::reference::Reference;
use crate::store::{CompressedBlob, Store, StoreError};

fn key_of(digest: &BlobDigest) -> CacheKey {
    CacheKeyBuilder::new("origin of a blob")
        .field(digest.0.as_bytes())
        .finish()
}

/// Remembers the repository that a blob can be had from.
///
/// # Errors
/// When the store fails.
pub fn remember(
    store: &Store,
    digest: &BlobDigest,
    repository: &Reference,
) -> Result<(), StoreError> {
    let key = key_of(digest);
    let name = repository.to_string();
    if store
        .memo(&key)?
        .is_some_and(|known| known == name.as_bytes())
    {
        return Ok(());
    }
    store.put_memo(&key, name.as_bytes())
}

/// A blob with the repository it can be had from, if one is remembered.
///
/// # Errors
/// When the store fails.
pub fn find(store: &Store, blob: &CompressedBlob) -> Result<Option<RemoteBlob>, StoreError> {
    let known = store.memo(&key_of(&blob.digest))?;
    let name = known.and_then(|bytes| String::from_utf8(bytes).ok());
    Ok(name
        .and_then(|name| name.parse().ok())
        .map(|repository| RemoteBlob {
            repository,
            digest: blob.digest,
            size: blob.size,
            media_type: blob.media_type.clone(),
        }))
}
