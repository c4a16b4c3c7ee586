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

/// So many repositories of one blob are remembered, the newest first.
const MOST: usize = 8;

/// Remembers a repository that a blob can be had from. Anybody's manifest may name anybody's
/// blob, so what others said before stays beside it.
///
/// # Errors
/// When the store fails.
pub fn remember(
    store: &Store,
    digest: &BlobDigest,
    repository: &Reference,
) -> Result<(), StoreError> {
    let name = repository.to_string();
    let mut names = names(store, digest)?;
    if names.contains(&name) {
        return Ok(());
    }
    names.insert(0, name);
    names.truncate(MOST);
    store.put_memo(&key_of(digest), names.join("\n").as_bytes())
}

fn names(store: &Store, digest: &BlobDigest) -> Result<Vec<String>, StoreError> {
    let known = store.memo(&key_of(digest))?.unwrap_or_default();
    let known = String::from_utf8_lossy(&known);
    Ok(known.lines().map(str::to_owned).collect())
}

/// A blob with each repository that it can be had from, as far as they are remembered.
///
/// # Errors
/// When the store fails.
pub fn find(store: &Store, blob: &CompressedBlob) -> Result<Vec<RemoteBlob>, StoreError> {
    let names = names(store, &blob.digest)?.into_iter();
    Ok(names
        .filter_map(|name| name.parse().ok())
        .map(|repository| RemoteBlob {
            repository,
            digest: blob.digest,
            size: blob.size,
            media_type: blob.media_type.clone(),
        })
        .collect())
}
