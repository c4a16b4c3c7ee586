//! The canonical tar stream of a layer: the same entries give the same bytes, on any machine.
//!
//! Entries come sorted by [`compare_paths`]. Names, owners and times are written as ustar fields
//! where those hold them and as PAX records otherwise; no user or group names, whole seconds only.
//! Whiteouts and opaque directories are the marker files of the OCI image spec 1.1, `layer.md`
//! ("Whiteouts", "Opaque Whiteout"): empty, mode 0, owned by root, of time 0. The stream ends with
//! two zero blocks and no further padding.

use std::io::{self, Read, Write};

use super::entry::{
    Entry, EntryKind, compare_paths, display_path, is_canonical, is_inside, join_path, split_path,
};
use super::error::LayerError;
use super::index::{INLINE_LIMIT, Index};
use super::tar_header::{BLOCK, DEPTH_LIMIT, Header, PATH_LIMIT, PAX_LIMIT, padding};

/// What marker files start with.
pub(super) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The marker file inside an opaque directory.
pub(super) const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";

const BUFFER: usize = 256 * 1024;

/// Why an entry can't be written.
#[derive(Debug, thiserror::Error)]
pub enum TarWriteError {
    /// Not in the order of [`compare_paths`], or a path twice.
    #[error(
        "`{path}` comes after `{before}`, but the entries of a layer are sorted, each path once"
    )]
    NotSorted {
        /// The entry that comes too late.
        path: String,
        /// The entry before it.
        before: String,
    },
    /// Something inside what is no directory.
    #[error("`{path}` is inside `{ancestor}`, which is not a directory")]
    NotInDirectory {
        /// The entry.
        path: String,
        /// What should be a directory.
        ancestor: String,
    },
    /// A path that no layer can hold.
    #[error(
        "`{0}` can't be the path of a layer's entry: it must be relative and without `.` and `..`"
    )]
    InvalidPath(String),
    /// A path that readers of the layer could not create.
    #[error("`{0}` is longer than the 4095 bytes or 1024 components that a layer's path can have")]
    PathTooLong(String),
    /// A name that readers of the layer take for a deletion.
    #[error(
        "`{0}` can't be in a layer: names that start with `.wh.` mark deleted files; rename it"
    )]
    ReservedName(String),
    /// A symbolic link without a target, or a NUL byte in one.
    #[error("the link `{0}` has an empty or malformed target")]
    InvalidLink(String),
    /// A hard link to what isn't a file written before it.
    #[error("the hard link `{path}` names `{target}`, which no earlier entry of the layer is")]
    LinkTarget {
        /// The hard link.
        path: String,
        /// What it names.
        target: String,
    },
    /// An extended attribute whose name PAX records can't carry.
    #[error("`{path}` has an extended attribute with `=` or a NUL byte in its name; remove it")]
    XattrName {
        /// The entry.
        path: String,
    },
    /// More metadata than readers take.
    #[error(
        "the extended attributes of `{0}` are larger than 1 MiB, which readers of layers refuse"
    )]
    TooMuchMetadata(String),
    /// A device number that tar headers can't hold.
    #[error("the device number of `{0}` is too large for a tar header")]
    DeviceNumber(String),
    /// The file became shorter or longer while it was read.
    #[error("`{path}` changed while it was read: it should have {expected} bytes")]
    SizeChanged {
        /// The entry.
        path: String,
        /// Its size before.
        expected: u64,
    },
    /// Content given for something that has none.
    #[error("`{0}` has content, but is no regular file")]
    UnexpectedContent(String),
    /// The content can't be read.
    #[error("`{path}` can't be read")]
    Read {
        /// The entry.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The stream can't be written.
    #[error("the layer's tar stream can't be written")]
    Write(#[from] io::Error),
}

/// Writes a layer's tar stream, and its index on the way.
pub struct TarWriter<W> {
    out: W,
    buffer: Box<[u8]>,
    filled: usize,
    /// Bytes written, those in the buffer included.
    position: u64,
    header: Vec<u8>,
    index: Index,
}

impl<W: Write> TarWriter<W> {
    /// Starts a stream. `out` needs no buffer of its own.
    pub fn new(out: W) -> Self {
        Self {
            out,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            filled: 0,
            position: 0,
            header: Vec::with_capacity(4 * BLOCK),
            index: Index::default(),
        }
    }

    /// Writes one entry; `content` is that of a regular file and has exactly `entry.size` bytes.
    /// The entry's `offset` is set, its `size` too for all but files. A hard link gets the owner,
    /// mode, time and attributes of its file; a symbolic link's mode is always 0777.
    ///
    /// # Errors
    /// When the entry is out of order or can't be in a layer, when its content is shorter or
    /// longer than its size, or when reading or writing fails. The stream is then unusable.
    pub fn append(
        &mut self,
        entry: Entry,
        content: Option<&mut dyn Read>,
    ) -> Result<(), LayerError> {
        Ok(self.write_entry(entry, content)?)
    }

    /// Ends the stream. Gives back the sink, flushed, and the index of what was written.
    ///
    /// # Errors
    /// When writing fails.
    pub fn finish(mut self) -> Result<(W, Index), LayerError> {
        self.write_bytes(&[0; 2 * BLOCK])?;
        self.flush_buffer()?;
        self.out.flush().map_err(TarWriteError::Write)?;
        Ok((self.out, self.index))
    }

    fn write_entry(
        &mut self,
        mut entry: Entry,
        content: Option<&mut dyn Read>,
    ) -> Result<(), TarWriteError> {
        check_entry(&entry)?;
        self.check_place(&entry)?;
        if let (EntryKind::HardLink, Some(target)) = (entry.kind, self.index.get(&entry.link)) {
            // One inode: readers that set a link's attributes set its file's.
            entry = Entry {
                path: entry.path,
                kind: entry.kind,
                link: entry.link,
                ..target.clone()
            };
        }
        if entry.kind == EntryKind::Symlink {
            entry.mode = 0o777;
        }
        if !entry.is_file() {
            entry.size = 0;
            entry.offset = None;
            if content.is_some() {
                return Err(TarWriteError::UnexpectedContent(display_path(&entry.path)));
            }
        }
        self.write_header(&entry)?;
        if entry.is_file() {
            entry.offset = Some(self.position);
            self.write_content(&entry, content)?;
        }
        self.index.entries.push(entry);
        Ok(())
    }

    /// What depends on the entries before.
    fn check_place(&self, entry: &Entry) -> Result<(), TarWriteError> {
        let shown = || display_path(&entry.path);
        if let Some(before) = self.index.entries.last() {
            if compare_paths(&before.path, &entry.path).is_ge() {
                return Err(TarWriteError::NotSorted {
                    path: shown(),
                    before: display_path(&before.path),
                });
            }
            // Sorted, so what is inside a path comes right after it.
            if !before.is_directory() && is_inside(&entry.path, &before.path) {
                return Err(TarWriteError::NotInDirectory {
                    path: shown(),
                    ancestor: display_path(&before.path),
                });
            }
        }
        if entry.kind == EntryKind::HardLink && !self.can_link_to(&entry.link) {
            return Err(TarWriteError::LinkTarget {
                path: shown(),
                target: display_path(&entry.link),
            });
        }
        Ok(())
    }

    fn can_link_to(&self, target: &[u8]) -> bool {
        self.index.get(target).is_some_and(|entry| {
            !entry.is_directory()
                && !matches!(entry.kind, EntryKind::HardLink | EntryKind::Whiteout)
        })
    }

    fn write_header(&mut self, entry: &Entry) -> Result<(), TarWriteError> {
        let (parent, name) = split_path(&entry.path);
        match entry.kind {
            EntryKind::Whiteout => {
                self.write_marker(&join_path(parent, &[WHITEOUT_PREFIX, name].concat()))
            }
            EntryKind::Directory { opaque } => {
                let name = if entry.path.is_empty() {
                    b"./".to_vec()
                } else {
                    [&entry.path[..], b"/"].concat()
                };
                self.write_member(entry, &name, b'5')?;
                if opaque {
                    self.write_marker(&join_path(&entry.path, OPAQUE_MARKER))?;
                }
                Ok(())
            }
            EntryKind::File => self.write_member(entry, &entry.path, b'0'),
            EntryKind::HardLink => self.write_member(entry, &entry.path, b'1'),
            EntryKind::Symlink => self.write_member(entry, &entry.path, b'2'),
            EntryKind::CharDevice => self.write_member(entry, &entry.path, b'3'),
            EntryKind::BlockDevice => self.write_member(entry, &entry.path, b'4'),
            EntryKind::Fifo => self.write_member(entry, &entry.path, b'6'),
        }
    }

    fn write_member(&mut self, entry: &Entry, name: &[u8], kind: u8) -> Result<(), TarWriteError> {
        let is_link = matches!(entry.kind, EntryKind::HardLink | EntryKind::Symlink);
        let is_device = matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice);
        let header = Header {
            name,
            kind,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            size: entry.size,
            mtime: entry.mtime,
            link: if is_link { &entry.link } else { b"" },
            device: if is_device { entry.device } else { (0, 0) },
            xattrs: Some(&entry.xattrs),
        };
        if self.emit(&header)? > PAX_LIMIT {
            return Err(TarWriteError::TooMuchMetadata(display_path(&entry.path)));
        }
        Ok(())
    }

    fn write_marker(&mut self, name: &[u8]) -> Result<(), TarWriteError> {
        let header = Header {
            name,
            kind: b'0',
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            link: b"",
            device: (0, 0),
            xattrs: None,
        };
        self.emit(&header)?;
        Ok(())
    }

    /// Writes a header; gives back the number of bytes of PAX records.
    fn emit(&mut self, header: &Header<'_>) -> Result<u64, TarWriteError> {
        let mut bytes = std::mem::take(&mut self.header);
        bytes.clear();
        let records = header.encode(&mut bytes);
        self.write_bytes(&bytes)?;
        self.header = bytes;
        Ok(records)
    }

    fn write_content(
        &mut self,
        entry: &Entry,
        content: Option<&mut dyn Read>,
    ) -> Result<(), TarWriteError> {
        let mut nothing = io::empty();
        let content = content.unwrap_or(&mut nothing);
        let mut inline = (entry.size <= INLINE_LIMIT)
            .then(|| inline_slot(&mut self.index, &entry.path))
            .flatten()
            .map(|slot| slot.insert(Vec::new()));
        let changed = || TarWriteError::SizeChanged {
            path: display_path(&entry.path),
            expected: entry.size,
        };
        let mut remaining = entry.size;
        while remaining > 0 {
            if self.filled == self.buffer.len() {
                self.out.write_all(&self.buffer)?;
                self.filled = 0;
            }
            let free = &mut self.buffer[self.filled..];
            let want = free
                .len()
                .min(usize::try_from(remaining).unwrap_or(usize::MAX));
            let n = read_some(content, &mut free[..want], entry)?;
            if n == 0 {
                return Err(changed());
            }
            if let Some(inline) = &mut inline {
                inline.extend_from_slice(&free[..n]);
            }
            self.filled += n;
            remaining -= n as u64;
        }
        self.position += entry.size;
        if read_some(content, &mut [0], entry)? != 0 {
            return Err(changed());
        }
        self.write_bytes(&[0; BLOCK][..padding(entry.size)])
    }

    fn write_bytes(&mut self, mut bytes: &[u8]) -> Result<(), TarWriteError> {
        self.position += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.filled == self.buffer.len() {
                self.flush_buffer()?;
            }
            let n = bytes.len().min(self.buffer.len() - self.filled);
            self.buffer[self.filled..self.filled + n].copy_from_slice(&bytes[..n]);
            self.filled += n;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    fn flush_buffer(&mut self) -> Result<(), TarWriteError> {
        self.out.write_all(&self.buffer[..self.filled])?;
        self.filled = 0;
        Ok(())
    }
}

/// Whether a layer can hold this entry at all, wherever in the stream.
///
/// # Errors
/// When its path, link, device or attributes can't be written so that others read them.
pub(super) fn check_entry(entry: &Entry) -> Result<(), TarWriteError> {
    let shown = || display_path(&entry.path);
    if !is_canonical(&entry.path) || (entry.path.is_empty() && !entry.is_directory()) {
        return Err(TarWriteError::InvalidPath(shown()));
    }
    let depth = 1 + entry.path.iter().filter(|&&b| b == b'/').count();
    if entry.path.len() > PATH_LIMIT || depth > DEPTH_LIMIT {
        return Err(TarWriteError::PathTooLong(shown()));
    }
    let mut names = entry.path.split(|&b| b == b'/');
    if names.any(|name| name.starts_with(WHITEOUT_PREFIX)) {
        return Err(TarWriteError::ReservedName(shown()));
    }
    match entry.kind {
        EntryKind::Symlink if entry.link.is_empty() || entry.link.contains(&0) => {
            return Err(TarWriteError::InvalidLink(shown()));
        }
        EntryKind::CharDevice | EntryKind::BlockDevice
            if entry.device.0 >> 21 != 0 || entry.device.1 >> 21 != 0 =>
        {
            return Err(TarWriteError::DeviceNumber(shown()));
        }
        _ => {}
    }
    let is_bad_name = |name: &Vec<u8>| name.is_empty() || name.contains(&b'=') || name.contains(&0);
    if entry.xattrs.keys().any(is_bad_name) {
        return Err(TarWriteError::XattrName { path: shown() });
    }
    let xattr_bytes: usize = entry
        .xattrs
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if xattr_bytes as u64 > PAX_LIMIT {
        return Err(TarWriteError::TooMuchMetadata(shown()));
    }
    Ok(())
}

/// The field of the index that keeps the content of this path.
pub(super) fn inline_slot<'a>(
    index: &'a mut Index,
    path: &[u8],
) -> Option<&'a mut Option<Vec<u8>>> {
    match path {
        b"etc/passwd" => Some(&mut index.passwd),
        b"etc/group" => Some(&mut index.group),
        _ => None,
    }
}

fn read_some(
    content: &mut dyn Read,
    buffer: &mut [u8],
    entry: &Entry,
) -> Result<usize, TarWriteError> {
    loop {
        match content.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => {
                return result.map_err(|source| TarWriteError::Read {
                    path: display_path(&entry.path),
                    source,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
