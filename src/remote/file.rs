//! What was fetched, as the one file of a tree.

use std::io::{self, Read};
use std::sync::Arc;

use super::http::Download;
use crate::digest::{BlobDigest, CacheKey, CacheKeyBuilder};
use crate::layer::entry::{Entry, EntryKind};
use crate::snapshot::{Content, FileRef, FileTree, Node, TreeError};
use crate::store::Store;

/// Mode of what is fetched, as in BuildKit.
const MODE: u32 = 0o600;

/// A tree that holds nothing but one fetched file, which root owns and nobody else can read.
pub struct DownloadedFile {
    store: Store,
    digest: BlobDigest,
    entry: Entry,
}

impl DownloadedFile {
    /// The tree in which `download` is called `name`. Its time is that which the server gave, or
    /// else the Unix epoch.
    pub fn new(store: Store, download: &Download, name: &str) -> Self {
        let mut entry = Entry::new(name.as_bytes().to_vec(), EntryKind::File);
        entry.mode = MODE;
        entry.size = download.size;
        entry.mtime = download.modified.unwrap_or(0);
        Self {
            store,
            digest: download.digest,
            entry,
        }
    }

    /// The tree that content of this digest would be in: only what doesn't depend on who gives it
    /// and when. `None` where the content has never been read.
    pub fn foretold(store: Store, digest: BlobDigest, name: &str) -> Option<Self> {
        let download = Download {
            digest,
            size: 0,
            modified: None,
            was_known: true,
        };
        let tree = Self::new(store, &download, name);
        tree.known_digest().is_some().then_some(tree)
    }

    fn node(&self) -> Node {
        Node {
            entry: self.entry.clone(),
            identity: None,
            layer: 0,
            digest: self.known_digest(),
        }
    }

    fn known_digest(&self) -> Option<[u8; 32]> {
        let known = self.store.memo(&self.memo()).ok().flatten()?;
        known.try_into().ok()
    }

    /// Names what is remembered of the content's other digest.
    fn memo(&self) -> CacheKey {
        CacheKeyBuilder::new("content of a blob")
            .field(self.digest.0.as_bytes())
            .finish()
    }
}

impl FileTree for DownloadedFile {
    fn lookup(&self, path: &[u8], _: bool) -> Result<Option<Node>, TreeError> {
        if path.is_empty() {
            return Ok(Some(Node {
                entry: Entry::directory(Vec::new()),
                identity: None,
                layer: 0,
                digest: None,
            }));
        }
        Ok((path == self.entry.path).then(|| self.node()))
    }

    fn children(&self, path: &[u8]) -> Result<Vec<Node>, TreeError> {
        Ok(if path.is_empty() {
            vec![self.node()]
        } else {
            Vec::new()
        })
    }

    fn open(&self, file: &FileRef) -> Result<Box<dyn Read + Send>, TreeError> {
        let open = || {
            let blob = self.store.blob(&self.digest).map_err(io::Error::other)?;
            let blob = blob.ok_or(io::ErrorKind::NotFound)?;
            let mut entry = self.entry.clone();
            entry.offset = Some(0);
            Content::Plain(Arc::new(blob)).open(&entry)
        };
        open().map_err(TreeError::file(&file.path))
    }

    fn learn_digest(&self, _: &FileRef, digest: [u8; 32]) {
        if let Err(error) = self.store.put_memo(&self.memo(), &digest) {
            tracing::debug!(%error, "digest of a download not kept");
        }
    }
}
