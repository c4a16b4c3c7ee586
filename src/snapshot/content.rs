//! The bytes of one layer's files.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::fs::Root;
use crate::layer::entry::Entry;
use crate::layer::folder::copy_range;

/// Where a layer's files can be read.
#[derive(Debug)]
pub enum Content {
    /// From its tree.
    Tree(Root),
    /// From its plain tar, at the offsets that its index gives.
    Plain(Arc<File>),
}

impl Content {
    /// Copies the content of a regular file of the layer to a new file, shared where the file
    /// system can. `entry` is the layer's own, not a hard link.
    ///
    /// # Errors
    /// When the system refuses, or the index has no offset for it.
    pub fn copy_to(&self, entry: &Entry, to: &mut File) -> io::Result<()> {
        match self {
            Self::Tree(root) => {
                let from = root.open_file(&entry.path).map_err(|error| error.source)?;
                copy_range(&from, 0, entry.size, to)
            }
            Self::Plain(file) => copy_range(file, offset(entry)?, entry.size, to),
        }
    }

    /// Opens a regular file of the layer. `entry` is the layer's own, not a hard link.
    ///
    /// # Errors
    /// When the system refuses, or the index has no offset for it.
    pub fn open(&self, entry: &Entry) -> io::Result<Box<dyn Read + Send>> {
        match self {
            Self::Tree(root) => Ok(Box::new(
                root.open_file(&entry.path).map_err(|error| error.source)?,
            )),
            Self::Plain(file) => Ok(Box::new(Window {
                file: Arc::clone(file),
                offset: offset(entry)?,
                left: entry.size,
            })),
        }
    }
}

fn offset(entry: &Entry) -> io::Result<u64> {
    entry.offset.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "its place in the layer is not known",
        )
    })
}

/// A part of a file, read by position: several readers share one descriptor.
struct Window {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Read for Window {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let n = self.file.read_at(&mut buf[..most], self.offset)?;
        self.offset += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}
