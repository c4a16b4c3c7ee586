//! Blobs: bytes named by their SHA-256.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use super::error::{Action, StoreError, is_full};
use super::{Store, create_file, size_of, sql};
use crate::digest::{BlobDigest, Digest, HashingStream};

impl Store {
    /// The blob's bytes, opened for reading; `None` when they aren't here. They were verified
    /// when they came and are not read again now: see [`Store::read_verified`].
    ///
    /// # Errors
    /// When the database or the disk fail.
    pub fn blob(&self, digest: &BlobDigest) -> Result<Option<File>, StoreError> {
        let Some(size) = self.inner.database.read(|c| sql::blob_size(c, digest))? else {
            return Ok(None);
        };
        let path = self.blob_path(digest);
        match File::open(&path) {
            // Held, or removed since: then it is as good as absent.
            Ok(file) if size_of(&file).action("examine", &path)? == size => {
                Ok(self.hold_blob(digest)?.then_some(file))
            }
            Ok(_) => self.forget_blob(digest),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.forget_blob(digest),
            Err(error) => Err(error).action("open", &path),
        }
    }

    /// Whether the blob's bytes are here.
    ///
    /// # Errors
    /// As [`Store::blob`].
    pub fn has_blob(&self, digest: &BlobDigest) -> Result<bool, StoreError> {
        Ok(self.blob(digest)?.is_some())
    }

    /// The size of a blob in bytes; `None` when it isn't here.
    ///
    /// # Errors
    /// As [`Store::blob`].
    pub fn blob_size(&self, digest: &BlobDigest) -> Result<Option<u64>, StoreError> {
        let Some(file) = self.blob(digest)? else {
            return Ok(None);
        };
        let size = size_of(&file).action("examine", &self.blob_path(digest))?;
        Ok(Some(size))
    }

    /// The bytes of a small blob, such as a config or a manifest, with their digest verified
    /// once more. A blob that is damaged or larger than `limit` bytes is as good as absent.
    ///
    /// # Errors
    /// As [`Store::blob`].
    pub fn read_verified(
        &self,
        digest: &BlobDigest,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(file) = self.blob(digest)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let path = self.blob_path(digest);
        let read = file.take(limit.saturating_add(1)).read_to_end(&mut bytes);
        if read.action("read", &path)? as u64 > limit {
            return Ok(None);
        }
        if Digest::of(&bytes) != digest.0 {
            return self.forget_blob(digest);
        }
        Ok(Some(bytes))
    }

    /// Starts a new blob.
    ///
    /// # Errors
    /// When its file can't be made.
    pub fn ingest(&self) -> Result<BlobWriter, StoreError> {
        let path = self.inner.temporary.new_path();
        let file = create_file(&path).action("create", &path)?;
        Ok(BlobWriter {
            store: self.clone(),
            path,
            stream: Some(HashingStream::new(file)),
        })
    }

    /// Puts `bytes` in as a blob.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<BlobDigest, StoreError> {
        let digest = BlobDigest(Digest::of(bytes));
        if self.has_blob(&digest)? {
            return Ok(digest);
        }
        let mut writer = self.ingest()?;
        writer.write_all(bytes).action("write", self.root())?;
        writer.commit(Some(digest)).map(|(digest, _)| digest)
    }

    pub(super) fn blob_path(&self, digest: &BlobDigest) -> PathBuf {
        self.inner.root.join("blobs/sha256").join(digest.hex())
    }

    /// Removes the row of a blob whose bytes are gone or damaged. The next ingest replaces them.
    fn forget_blob<T>(&self, digest: &BlobDigest) -> Result<Option<T>, StoreError> {
        tracing::debug!(%digest, "blob lost");
        self.inner
            .database
            .write(|transaction| Ok(sql::delete_blob(transaction, digest)?))?;
        Ok(None)
    }
}

/// Takes the bytes of a new blob and hashes them. Nothing of it is kept unless
/// [`BlobWriter::commit`] succeeds.
pub struct BlobWriter {
    store: Store,
    path: PathBuf,
    /// `None` once committed.
    stream: Option<HashingStream<File>>,
}

impl BlobWriter {
    /// How many bytes have been written.
    pub fn bytes(&self) -> u64 {
        self.stream.as_ref().map_or(0, HashingStream::bytes)
    }

    /// Puts the blob in its place; gives its digest and its size in bytes. Where the store has it
    /// already, nothing changes.
    ///
    /// # Errors
    /// When the digest is not the expected one, or the disk or the database fail.
    pub fn commit(mut self, expected: Option<BlobDigest>) -> Result<(BlobDigest, u64), StoreError> {
        let Some(stream) = self.stream.take() else {
            let gone = io::Error::from(io::ErrorKind::NotFound);
            return Err(gone).action("commit", &self.path);
        };
        let (_file, digest, size) = stream.finish();
        let digest = BlobDigest(digest);
        let result = self.place(digest, size, expected);
        // Still there unless it was moved to its place.
        let _ = std::fs::remove_file(&self.path);
        result.map(|()| (digest, size))
    }

    fn place(
        &self,
        digest: BlobDigest,
        size: u64,
        expected: Option<BlobDigest>,
    ) -> Result<(), StoreError> {
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(StoreError::WrongDigest {
                expected,
                found: digest,
            });
        }
        if self.store.has_blob(&digest)? {
            return Ok(());
        }
        let place = self.store.blob_path(&digest);
        let inner = &self.store.inner;
        // Inside the transaction: whoever removes blobs does so in one, too.
        inner.database.write(|transaction| {
            std::fs::rename(&self.path, &place).action("create", &place)?;
            let session = inner.session;
            Ok(sql::put_blob(
                transaction,
                &digest,
                size,
                &inner.boot,
                session,
            )?)
        })
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotFound)?;
        stream.write(bytes).map_err(|error| match is_full(&error) {
            // The kind stays; the message names the store and says what to do.
            true => io::Error::new(error.kind(), StoreError::full(self.store.root(), error)),
            false => error,
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if self.stream.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl std::fmt::Debug for BlobWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobWriter")
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}
