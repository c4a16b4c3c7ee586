//! Which blob holds a layer, and who says so.
//!
//! A manifest says which blobs hold the layers of its config, and anybody can write a manifest.
//! For the image itself that does no harm: whoever reads a blob hashes what comes out and compares
//! it with the layer's diff ID, and an image that lies fails. But layers are shared: an image may
//! name the diff IDs of another image and blobs of its own. So what a manifest says of a layer is
//! kept as a claim, and for any other image a claim counts only once somebody has read the blob.
//! A claim that proves wrong is forgotten.
//!
//! Nothing here makes a tree or an index; [`Materializer`] does.

use std::fs::File;
use std::io;

use super::{Materializer, RemoteBlob, SnapshotError, origin};
use crate::digest::{BlobDigest, DiffId, HashingStream};
use crate::layer::compression;
use crate::store::LayerId;

impl Materializer {
    /// The layer's tar, compressed or not, fetched where it isn't here, and the blob's digest.
    ///
    /// A blob that only a manifest of some other image calls this layer's is read first, whole:
    /// nobody's claim may stand in the way of this image.
    pub(super) fn blob(
        &self,
        layer: LayerId,
        diff_id: DiffId,
    ) -> Result<(File, BlobDigest), SnapshotError> {
        if let Some(found) = self.trusted_blob(diff_id)? {
            return Ok(found);
        }
        if let Some(remote) = self.remote(layer) {
            if !self.store().has_blob(&remote.digest)? {
                self.fetcher().fetch(std::slice::from_ref(&remote))?;
            }
            if let Some(file) = self.store().blob(&remote.digest)? {
                return Ok((file, remote.digest));
            }
        }
        if let Some(found) = self.tar_of_other_form(layer, diff_id)? {
            return Ok(found);
        }
        self.settle_claims(diff_id)?;
        self.trusted_blob(diff_id)?
            .ok_or_else(|| Self::missing(diff_id))
    }

    /// A blob of the store that is known to hold the layer, in any compression.
    fn trusted_blob(&self, diff_id: DiffId) -> Result<Option<(File, BlobDigest)>, SnapshotError> {
        let plain = BlobDigest(diff_id.0);
        if let Some(file) = self.store().blob(&plain)? {
            return Ok(Some((file, plain)));
        }
        for blob in self.store().compressed_blobs(&diff_id)? {
            if blob.is_verified
                && let Some(file) = self.store().blob(&blob.digest)?
            {
                return Ok(Some((file, blob.digest)));
            }
        }
        Ok(None)
    }

    /// Whether the store has a blob that is known to hold the layer.
    ///
    /// # Errors
    /// When the store fails.
    pub fn has_layer(&self, diff_id: DiffId) -> Result<bool, SnapshotError> {
        Ok(self.trusted_blob(diff_id)?.is_some())
    }

    /// Whether the store has a blob that is said to hold the layer, truly or not.
    pub(super) fn may_have_layer(&self, diff_id: DiffId) -> Result<bool, SnapshotError> {
        if self.store().has_blob(&BlobDigest(diff_id.0))? {
            return Ok(true);
        }
        for blob in self.store().compressed_blobs(&diff_id)? {
            if self.store().has_blob(&blob.digest)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads the blobs that are said to hold a layer, those that are here first, until one does.
    fn settle_claims(&self, diff_id: DiffId) -> Result<(), SnapshotError> {
        let mut claimed = Vec::new();
        for blob in self.store().compressed_blobs(&diff_id)? {
            claimed.push((!self.store().has_blob(&blob.digest)?, blob));
        }
        claimed.sort_by_key(|(is_away, _)| *is_away);
        let mut unreachable = None;
        for (is_away, blob) in claimed {
            if is_away {
                match self.fetch_any(&origin::find(self.store(), &blob)?) {
                    Ok(()) => {}
                    Err(SnapshotError::Canceled) => return Err(SnapshotError::Canceled),
                    // The next one may be true, and had.
                    Err(error) => unreachable = Some(error),
                }
            }
            let Some(file) = self.store().blob(&blob.digest)? else {
                continue;
            };
            let is_true = holds(file, diff_id);
            self.store().settle_claim(&diff_id, &blob.digest, is_true)?;
            if is_true {
                return Ok(());
            }
        }
        unreachable.map_or(Ok(()), Err)
    }

    /// Fetches a blob from the first of these places that gives it.
    ///
    /// # Errors
    /// When none does: that of the first.
    pub fn fetch_any(&self, origins: &[RemoteBlob]) -> Result<(), SnapshotError> {
        let mut first = None;
        for origin in origins {
            match self.fetcher().fetch(std::slice::from_ref(origin)) {
                Ok(()) => return Ok(()),
                Err(SnapshotError::Canceled) => return Err(SnapshotError::Canceled),
                Err(error) => first = first.or(Some(error)),
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Sees to it that some blob of a layer is known to hold it, if any is said to: what leaves
    /// this machine under a layer's name is that layer.
    ///
    /// # Errors
    /// When a blob can't be fetched.
    pub fn settle(&self, layer: LayerId, diff_id: DiffId) -> Result<(), SnapshotError> {
        let known = self.store().compressed_blobs(&diff_id)?;
        if known.iter().any(|blob| blob.is_verified) {
            return Ok(());
        }
        let _lock = self.lock(layer)?;
        self.settle_claims(diff_id)
    }

    /// A blob does not hold the layer that its manifest says it does.
    pub(super) fn denied(
        &self,
        diff_id: DiffId,
        blob: &BlobDigest,
    ) -> Result<SnapshotError, SnapshotError> {
        self.store().settle_claim(&diff_id, blob, false)?;
        Ok(SnapshotError::WrongBlob {
            expected: diff_id,
            blob: *blob,
        })
    }
}

/// Whether a blob decompresses to the plain tar with this digest.
fn holds(blob: File, diff_id: DiffId) -> bool {
    let Ok(plain) = compression::decompress(blob) else {
        return false;
    };
    let mut plain = HashingStream::new(plain);
    io::copy(&mut plain, &mut io::sink()).is_ok() && plain.finish().1 == diff_id.0
}
