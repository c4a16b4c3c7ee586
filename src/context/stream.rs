//! A tar stream as a build context: `rbuild - < context.tar.gz`, `rbuild https://…/context.tar`.
//!
//! The stream is decompressed once into a temporary file and read there at the places that its
//! index gives; nothing is unpacked into a folder.

use std::io::{self, BufReader, Read, Seek};
use std::sync::Arc;

use super::ContextError;
use crate::layer::view::View;
use crate::layer::{compression, tar_reader};
use crate::snapshot::{Content, FileRef, FileTree, Node, TreeError, ViewTree};
use crate::store::Store;

/// The files of a tar stream.
pub struct StreamTree {
    tree: ViewTree,
    content: Content,
}

impl StreamTree {
    /// Reads a stream to its end: plain, or compressed with gzip, bzip2, xz or zstd. `what` it
    /// is, errors tell.
    ///
    /// # Errors
    /// When it is no tar stream, or can't be kept.
    pub fn read(
        stream: impl Read + Send + 'static,
        what: &str,
        store: &Store,
    ) -> Result<Self, ContextError> {
        let broken = |error: io::Error| ContextError::NotAnArchive {
            what: what.to_owned(),
            reason: error.to_string(),
        };
        let scratch = store.scratch()?;
        let mut plain = tempfile::tempfile_in(scratch.path()).map_err(broken)?;
        let mut tar = compression::decompress(stream).map_err(broken)?;
        io::copy(&mut tar, &mut plain).map_err(broken)?;
        plain.rewind().map_err(broken)?;
        let reader = BufReader::with_capacity(1 << 16, &plain);
        let index = tar_reader::read_index(reader);
        let index = index.map_err(|error| broken(io::Error::other(error)))?;
        Ok(Self {
            tree: ViewTree::new(View::new(vec![Arc::new(index)])),
            content: Content::Plain(Arc::new(plain)),
        })
    }
}

/// A tar header's length.
const BLOCK: usize = 512;
const COMPRESSED: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];

/// So many bytes of a stream's beginning tell what it is.
pub const HEAD: usize = BLOCK;

/// Whether a stream that begins with `head` is meant as an archive: compressed, or a tar header.
/// An empty archive is blocks of zeros.
pub fn is_archive(head: &[u8]) -> bool {
    let is_empty = || head.len() >= BLOCK && head[..BLOCK].iter().all(|&byte| byte == 0);
    COMPRESSED.iter().any(|magic| head.starts_with(magic)) || tar_reader::is_tar(head) || is_empty()
}

impl FileTree for StreamTree {
    fn lookup(&self, path: &[u8], follow: bool) -> Result<Option<Node>, TreeError> {
        self.tree.lookup(path, follow)
    }

    fn children(&self, path: &[u8]) -> Result<Vec<Node>, TreeError> {
        Ok(self.tree.children(path))
    }

    fn open(&self, file: &FileRef) -> Result<Box<dyn Read + Send>, TreeError> {
        let opened = self.tree.inode(file).and_then(|it| self.content.open(it));
        opened.map_err(TreeError::file(&file.path))
    }
}
