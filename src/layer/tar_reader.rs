//! Reading anybody's tar stream: ustar, PAX, GNU and old V7 headers.
//!
//! Input is hostile. Names are made relative and clean, `..` is refused, every length is bounded,
//! and what an overlay mount or another builder keeps for itself in extended attributes is
//! dropped. Nothing is written from here; whoever creates files from these entries goes by
//! descriptor (see `apply`).
//!
//! [`read_entries`] reads a stream as the archive it is; [`read_index`] reads it as a layer, where
//! `.wh.` names delete and later entries replace earlier ones as they would on disk.

use std::io::{self, BufRead, BufReader, Read};

use super::assembly::{Assembly, AssemblyError};
use super::entry::{Entry, display_path, split_path};
use super::error::LayerError;
use super::index::{INLINE_LIMIT, Index};
use super::tar_header::{BLOCK, PAX_LIMIT, field, padding};
use super::tar_member::{
    Extended, has_valid_checksum, parse_member, parse_number, parse_pax, until_nul,
};
use super::tar_writer::{OPAQUE_MARKER, WHITEOUT_PREFIX};

/// Metadata of all members together: some five million files with usual names. An index holds it
/// in memory, and a compressed stream of a few MB can expand to any number of attributes.
const METADATA_LIMIT: usize = 512 << 20;
/// What an entry takes beside its names and attributes.
const ENTRY_SIZE: usize = 100;
/// What aufs kept for itself in layers of old; not a deletion.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

const BUFFER: usize = 128 * 1024;

/// Why a tar stream can't be read.
#[derive(Debug, thiserror::Error)]
pub enum TarReadError {
    /// The stream itself fails, or ends in the middle of a member.
    #[error("the tar stream can't be read after {position} bytes")]
    Read {
        /// Bytes read so far.
        position: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not a tar header.
    #[error("malformed tar header at byte {position}: {reason}")]
    Malformed {
        /// Where the header starts.
        position: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// GNU sparse files.
    #[error(
        "`{0}` is a sparse file, which layers don't hold; write the archive without `--sparse`"
    )]
    Sparse(String),
    /// A member that is neither file, directory, link nor device.
    #[error("`{path}` has the tar type {kind:?}, which layers don't hold")]
    UnsupportedType {
        /// The member.
        path: String,
        /// Its type flag.
        kind: char,
    },
    /// A name that leads outside, or that no file can have.
    #[error("the tar stream holds the name `{name}`: {reason}")]
    InvalidName {
        /// The name as written.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An owner that doesn't fit into 32 bits.
    #[error("`{path}` is owned by `{id}`, which is no user or group id")]
    InvalidOwner {
        /// The member.
        path: String,
        /// The id.
        id: i128,
    },
    /// More files, names and attributes than memory should hold.
    #[error(
        "the tar stream holds more than {} MiB of names and extended attributes after {position} bytes",
        METADATA_LIMIT >> 20
    )]
    TooMuchMetadata {
        /// Bytes read so far.
        position: u64,
    },
    /// Entries that don't go together.
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
}

/// Reads a stream as a layer and gives its index, with the offset of each file's content.
/// The stream is read to its end. A name that comes twice counts as the last one, and hard links
/// keep what they named when they were made; a hard link to what isn't in this layer is refused,
/// because no overlay mount could hold it.
///
/// # Errors
/// When the stream can't be read, is malformed, or holds what no layer can.
pub fn read_index(tar: impl Read) -> Result<Index, LayerError> {
    Ok(read_layer(tar)?)
}

fn read_layer(tar: impl Read) -> Result<Index, TarReadError> {
    let mut reader = TarReader::new(tar);
    let mut assembly = Assembly::default();
    while let Some(entry) = reader.next_entry()? {
        match LayerMember::of(entry)? {
            LayerMember::Ignored => {}
            LayerMember::Whiteout(path) => {
                assembly.whiteout(&path)?;
            }
            LayerMember::Opaque(directory) => {
                assembly.opaque(&directory)?;
            }
            LayerMember::Entry(entry) => {
                let size = entry.size;
                let placed = assembly.place(entry)?;
                if let Some(slot) = assembly
                    .inline_slot(&placed)
                    .filter(|_| size <= INLINE_LIMIT)
                {
                    let mut content = Vec::new();
                    reader.read_content(&mut content)?;
                    *slot = Some(content);
                }
            }
        }
    }
    Ok(assembly.finish())
}

/// Calls `each` with every member of an archive, in its order, and the content of regular files.
/// Names are clean and relative, as are the targets of hard links; `.wh.` names mean nothing here.
/// What `each` leaves of the content is skipped. The stream is read to its end.
///
/// # Errors
/// When the stream can't be read or is malformed, and whatever `each` gives.
pub fn read_entries<E: From<TarReadError>>(
    tar: impl Read,
    each: &mut dyn FnMut(Entry, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = TarReader::new(tar);
    while let Some(entry) = reader.next_entry()? {
        each(entry, &mut reader.content())?;
    }
    Ok(())
}

/// Whether a file that starts with `block` (its first 512 bytes) is a tar stream.
pub fn is_tar(block: &[u8]) -> bool {
    block
        .first_chunk::<BLOCK>()
        .is_some_and(|block| block.iter().any(|&b| b != 0) && has_valid_checksum(block))
}

/// A member, as a layer takes it.
pub(super) enum LayerMember {
    Entry(Entry),
    Whiteout(Vec<u8>),
    Opaque(Vec<u8>),
    Ignored,
}

impl LayerMember {
    pub(super) fn of(entry: Entry) -> Result<Self, TarReadError> {
        let (parent, name) = split_path(&entry.path);
        let components = || entry.path.split(|&b| b == b'/');
        if components().any(|name| name.starts_with(AUFS_PREFIX) && name != OPAQUE_MARKER) {
            return Ok(Self::Ignored);
        }
        let invalid = |reason| TarReadError::InvalidName {
            name: display_path(&entry.path),
            reason,
        };
        if parent
            .split(|&b| b == b'/')
            .any(|name| name.starts_with(WHITEOUT_PREFIX))
        {
            return Err(invalid("a whiteout is no directory"));
        }
        if name == OPAQUE_MARKER {
            return Ok(Self::Opaque(parent.to_vec()));
        }
        match name.strip_prefix(WHITEOUT_PREFIX) {
            Some(b"" | b"." | b"..") => Err(invalid("a whiteout of nothing")),
            Some(hidden) => Ok(Self::Whiteout(super::entry::join_path(parent, hidden))),
            None => Ok(Self::Entry(entry)),
        }
    }
}

/// Pulls members out of a stream, one after the other.
pub(super) struct TarReader<R> {
    input: BufReader<R>,
    position: u64,
    /// Bytes of the current member's content not read yet.
    remaining: u64,
    /// Zero bytes after that content.
    padding: u64,
    /// Bytes of metadata that may still come.
    metadata_left: usize,
}

impl<R: Read> TarReader<R> {
    pub(super) fn new(tar: R) -> Self {
        Self {
            input: BufReader::with_capacity(BUFFER, tar),
            position: 0,
            remaining: 0,
            padding: 0,
            metadata_left: METADATA_LIMIT,
        }
    }

    /// The next member; `None` at the end, when the stream has been read to its last byte.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, TarReadError> {
        let mut extended = Extended::default();
        let mut extended_bytes = 0;
        loop {
            self.skip(self.remaining + self.padding)?;
            (self.remaining, self.padding) = (0, 0);
            let start = self.position;
            let Some(block) = self.read_header()? else {
                self.drain()?;
                return Ok(None);
            };
            let malformed = |reason| TarReadError::Malformed {
                position: start,
                reason,
            };
            let size =
                parse_number(&block[field::SIZE]).ok_or(malformed("the size is not a number"))?;
            let kind = block[field::TYPE];
            if matches!(kind, b'x' | b'L' | b'K' | b'g') {
                let size = u64::try_from(size)
                    .ok()
                    .filter(|&size| size <= PAX_LIMIT)
                    .ok_or(malformed("an extended header of more than 1 MiB"))?;
                extended_bytes += size;
                if extended_bytes > 4 * PAX_LIMIT {
                    return Err(malformed("too many extended headers"));
                }
                self.start_content(size);
                let mut bytes = Vec::new();
                self.read_content(&mut bytes)?;
                match kind {
                    b'x' => parse_pax(&bytes, &mut extended)
                        .ok_or(malformed("malformed PAX records"))?,
                    b'L' => extended.path = Some(until_nul(&bytes).to_vec()),
                    b'K' => extended.link = Some(until_nul(&bytes).to_vec()),
                    // Global records (git writes the commit there) say nothing about files.
                    _ => {}
                }
                continue;
            }
            let (entry, size) = parse_member(&block, start, extended, size)?;
            self.metadata_left = self
                .metadata_left
                .checked_sub(metadata_size(&entry))
                .ok_or(TarReadError::TooMuchMetadata { position: start })?;
            self.start_content(size);
            return Ok(Some(Entry {
                offset: entry.is_file().then_some(self.position),
                ..entry
            }));
        }
    }

    /// The content of the current member, as far as it hasn't been read.
    pub(super) fn content(&mut self) -> Content<'_, R> {
        Content(self)
    }

    /// Reads all of the current member's content; the caller has bounded its size.
    pub(super) fn read_content(&mut self, into: &mut Vec<u8>) -> Result<(), TarReadError> {
        into.reserve(usize::try_from(self.remaining).unwrap_or(0).min(BUFFER));
        let read = self.content().read_to_end(into);
        read.map(drop).map_err(|source| self.failed(source))
    }

    /// Writes all of the current member's content to `out`, without another copy in between.
    pub(super) fn copy_content(&mut self, out: &mut dyn io::Write) -> io::Result<()> {
        while self.remaining > 0 {
            let available = match self.input.fill_buf() {
                Ok([]) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let n = available
                .len()
                .min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
            out.write_all(&available[..n])?;
            self.input.consume(n);
            self.remaining -= n as u64;
            self.position += n as u64;
        }
        Ok(())
    }

    fn start_content(&mut self, size: u64) {
        self.remaining = size;
        self.padding = padding(size) as u64;
    }

    fn failed(&self, source: io::Error) -> TarReadError {
        TarReadError::Read {
            position: self.position,
            source,
        }
    }

    /// The next header block; `None` at the end-of-archive marker, or where the stream ends.
    fn read_header(&mut self) -> Result<Option<[u8; BLOCK]>, TarReadError> {
        let Some(block) = self.read_block()? else {
            return Ok(None);
        };
        if block.iter().any(|&b| b != 0) {
            if !has_valid_checksum(&block) {
                return Err(TarReadError::Malformed {
                    position: self.position - BLOCK as u64,
                    reason: "the checksum is wrong; this is no tar stream, or a damaged one",
                });
            }
            return Ok(Some(block));
        }
        match self.read_block()? {
            Some(second) if second.iter().any(|&b| b != 0) => Err(TarReadError::Malformed {
                position: self.position - BLOCK as u64,
                reason: "only one zero block where the stream should end",
            }),
            _ => Ok(None),
        }
    }

    fn read_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarReadError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => {
                    filled += n;
                    self.position += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(Some(block))
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), TarReadError> {
        while bytes > 0 {
            let available = match self.input.fill_buf() {
                Ok([]) => return Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(buffer) => buffer.len() as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.failed(error)),
            };
            let n = available.min(bytes);
            self.input.consume(n as usize);
            self.position += n;
            bytes -= n;
        }
        Ok(())
    }

    /// Reads to the end of the stream, so that whoever hashes it on the way sees all of it.
    fn drain(&mut self) -> Result<(), TarReadError> {
        let drained = io::copy(&mut self.input, &mut io::sink());
        self.position += drained.map_err(|source| self.failed(source))?;
        Ok(())
    }
}

/// The content of one member.
pub(super) struct Content<'a, R>(&'a mut TarReader<R>);

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let reader = &mut *self.0;
        let want = buffer
            .len()
            .min(usize::try_from(reader.remaining).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let n = reader.input.read(&mut buffer[..want])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        reader.remaining -= n as u64;
        reader.position += n as u64;
        Ok(n)
    }
}

/// About what an entry takes in memory.
fn metadata_size(entry: &Entry) -> usize {
    let attributes = entry.xattrs.iter();
    let attributes = attributes.map(|(name, value)| ENTRY_SIZE + name.len() + value.len());
    ENTRY_SIZE + entry.path.len() + entry.link.len() + attributes.sum::<usize>()
}

#[cfg(test)]
mod tests;
