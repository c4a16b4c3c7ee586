//! A tar stream as a build context: `rbuild - < context.tar.gz`.
//!
//! The stream is decompressed once into a temporary file and read there at the places that its
//! index gives; nothing is unpacked into a folder.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::sync::Arc;

use super::ContextError;
use crate::layer::index::Index;
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
    /// Reads a stream to its end: plain, or compressed with gzip, bzip2, xz or zstd.
    ///
    /// # Errors
    /// When it is no tar stream, or can't be kept.
    pub fn read(stream: impl Read + Send + 'static, store: &Store) -> Result<Self, ContextError> {
        let broken = |error: io::Error| ContextError::NotAnArchive(error.to_string());
        let scratch = store.scratch()?;
        let mut plain = tempfile::tempfile_in(scratch.path()).map_err(broken)?;
        let mut tar = compression::decompress(stream).map_err(broken)?;
        io::copy(&mut tar, &mut plain).map_err(broken)?;
        plain.rewind().map_err(broken)?;
        let index = read_index(&plain)?;
        Ok(Self {
            tree: ViewTree::new(View::new(vec![Arc::new(index)])),
            content: Content::Plain(Arc::new(plain)),
        })
    }

    /// The content of a regular file of at most `limit` bytes; `None` when it isn't there.
    ///
    /// # Errors
    /// When it is there and can't be read.
    pub fn read_file(&self, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>, ContextError> {
        let failed = |source: io::Error| ContextError::Read {
            path: String::from_utf8_lossy(path).into_owned(),
            source,
        };
        let found = self
            .lookup(path, true)
            .map_err(io::Error::other)
            .map_err(failed)?;
        let Some(node) = found.filter(|node| node.entry.is_file()) else {
            return Ok(None);
        };
        if node.entry.size > limit {
            let message = format!("larger than {limit} bytes");
            return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, message)));
        }
        let mut content = Vec::new();
        let mut reader = self
            .open(&node.file())
            .map_err(io::Error::other)
            .map_err(failed)?;
        reader.read_to_end(&mut content).map_err(failed)?;
        Ok(Some(content))
    }
}

fn read_index(plain: &File) -> Result<Index, ContextError> {
    let reader = BufReader::with_capacity(1 << 16, plain);
    tar_reader::read_index(reader).map_err(|error| ContextError::NotAnArchive(error.to_string()))
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
