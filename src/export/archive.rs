//! Writes the tar archives that hold images: a few folders and files with short names, owned by
//! root, all of one time.

use std::io::{self, Read, Write};

use super::ExportError;

const BLOCK: usize = 512;

/// A tar archive that is being written.
pub(super) struct ArchiveWriter<W> {
    out: W,
    /// Time of every member, in seconds since the Unix epoch.
    mtime: u64,
}

impl<W: Write> ArchiveWriter<W> {
    pub(super) fn new(out: W, mtime: u64) -> Self {
        Self { out, mtime }
    }

    /// Adds a folder; `path` ends in a slash.
    pub(super) fn directory(&mut self, path: &str) -> Result<(), ExportError> {
        self.header(path, tar::EntryType::Directory, 0o755, 0)
    }

    /// Adds a file.
    pub(super) fn file(&mut self, path: &str, bytes: &[u8]) -> Result<(), ExportError> {
        self.stream(path, bytes.len() as u64, &mut { bytes })
    }

    /// Adds a file of exactly `size` bytes.
    pub(super) fn stream(
        &mut self,
        path: &str,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<(), ExportError> {
        self.header(path, tar::EntryType::Regular, 0o644, size)?;
        let copied =
            io::copy(&mut content.take(size), &mut self.out).map_err(ExportError::Write)?;
        if copied != size {
            let short = format!("`{path}` ended after {copied} of {size} bytes");
            let short = io::Error::new(io::ErrorKind::UnexpectedEof, short);
            return Err(ExportError::Write(short));
        }
        let padding = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
        self.write(&[0; BLOCK][..padding])
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Result<W, ExportError> {
        self.write(&[0; 2 * BLOCK])?;
        self.out.flush().map_err(ExportError::Write)?;
        Ok(self.out)
    }

    fn header(
        &mut self,
        path: &str,
        kind: tar::EntryType,
        mode: u32,
        size: u64,
    ) -> Result<(), ExportError> {
        let mut header = tar::Header::new_ustar();
        header.set_path(path).map_err(ExportError::Write)?;
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.mtime);
        // Beyond 8 GiB the number is written in binary, which every reader of today takes.
        header.set_size(size);
        header.set_cksum();
        self.write(header.as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.out.write_all(bytes).map_err(ExportError::Write)
    }
}
