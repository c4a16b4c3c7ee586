//! Whether a file that a step's tree has is just the one below: kernels copy files up that nobody
//! changed.

use std::io::{self, Read};

use super::{DiffError, Scan};
use crate::fs::FsError;
use crate::fs::descent::open_file;
use crate::fs::walk::Visited;
use crate::layer::entry::{Entry, EntryKind, display_path};
use crate::layer::view::Found;
use crate::layer::xattr::{Xattrs, is_carried};

/// How much of two files is compared at once.
const COMPARED: usize = 64 * 1024;

impl Scan<'_, '_> {
    /// Whether a file, link or device is just what the view below has.
    pub(super) fn is_same(
        &self,
        entry: &Entry,
        found: Found<'_>,
        visited: &Visited<'_>,
    ) -> Result<bool, DiffError> {
        let Some(found) = self.below.inode(found) else {
            return Ok(false);
        };
        let lower = found.entry;
        let is_device = matches!(lower.kind, EntryKind::CharDevice | EntryKind::BlockDevice);
        if is_device && entry.is_file() && entry.size == 0 && entry.mode == 0 {
            // The stand-in for a device that this form's trees can't hold.
            return Ok(
                lower.mtime == entry.mtime && (lower.uid, lower.gid) == (entry.uid, entry.gid)
            );
        }
        let is_alike = lower.kind == entry.kind
            && lower.mtime == entry.mtime
            && lower.size == entry.size
            && (entry.kind != EntryKind::Symlink || lower.link == entry.link)
            && (!is_device || lower.device == entry.device)
            && has_same_metadata(entry, lower);
        if !is_alike || !entry.is_file() || entry.size == 0 {
            return Ok(is_alike);
        }
        let failed = |error| FsError::new("read", visited.path, error);
        let mut upper = open_file(visited.directory, visited.name).map_err(failed)?;
        let lower_failed = |source| DiffError::Lower {
            path: display_path(visited.path),
            source,
        };
        let mut lower = (self.lower_content)(visited.path, &found).map_err(lower_failed)?;
        let mut buffers = (vec![0; COMPARED], vec![0; COMPARED]);
        loop {
            let upper_length = read_full(&mut upper, &mut buffers.0).map_err(failed)?;
            let lower_length = read_full(&mut lower, &mut buffers.1).map_err(lower_failed)?;
            if buffers.0[..upper_length] != buffers.1[..lower_length] {
                return Ok(false);
            }
            if upper_length < COMPARED {
                return Ok(true);
            }
        }
    }
}

/// Whether owner, mode and attributes are the same, as far as a tree shows them.
pub(super) fn has_same_metadata(upper: &Entry, lower: &Entry) -> bool {
    let carried = |xattrs: &Xattrs| -> Vec<(Vec<u8>, Vec<u8>)> {
        let carried = xattrs.iter().filter(|(name, _)| is_carried(name));
        carried
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    (upper.uid, upper.gid) == (lower.uid, lower.gid)
        && (upper.mode == lower.mode || upper.kind == EntryKind::Symlink)
        && (upper.xattrs.is_empty() && lower.xattrs.is_empty()
            || carried(&upper.xattrs) == carried(&lower.xattrs))
}

fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
