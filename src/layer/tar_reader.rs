//! Reading anybody's tar stream: ustar, PAX, GNU and old V7 headers.
//!
//! Input is hostile. Names are made relative and clean, `..` is refused, every length is bounded,
//! and what an overlay mount or another builder keeps for itself in extended attributes is
//! dropped. Nothing is written from here; whoever creates files from these entries goes by
//! descriptor (see `apply`).
//!
//! [`read_entries`] reads a stream as the archive it is; [`read_index`] reads it as a layer, where
//! `.wh.` names delete and later entries replace earlier ones as they would on disk.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};

use super::assembly::{Assembly, AssemblyError};
use super::entry::{Entry, EntryKind, display_path, split_path};
use super::error::LayerError;
use super::index::{INLINE_LIMIT, Index};
use super::tar_header::{
    BLOCK, DEPTH_LIMIT, PATH_LIMIT, PAX_LIMIT, XATTR_RECORD, checksums, field, padding,
};
use super::tar_writer::{OPAQUE_MARKER, WHITEOUT_PREFIX};
use super::xattr;

/// The longest component, on every file system that matters.
const NAME_LIMIT: usize = 255;
/// The longest target of a symbolic link that the kernel creates.
const LINK_TARGET_LIMIT: usize = 4095;
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
}

/// What extended headers say about the member after them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<i128>,
    uid: Option<i128>,
    gid: Option<i128>,
    mtime: Option<i64>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    sparse: bool,
}

impl<R: Read> TarReader<R> {
    pub(super) fn new(tar: R) -> Self {
        Self {
            input: BufReader::with_capacity(BUFFER, tar),
            position: 0,
            remaining: 0,
            padding: 0,
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

fn has_valid_checksum(block: &[u8; BLOCK]) -> bool {
    let (unsigned, signed) = checksums(block);
    parse_number(&block[field::CHECKSUM])
        .is_some_and(|said| said == i128::from(unsigned) || said == i128::from(signed))
}

/// Makes an entry of a header and the extended headers before it; also gives the size of the
/// content that follows.
fn parse_member(
    block: &[u8; BLOCK],
    position: u64,
    extended: Extended,
    size: i128,
) -> Result<(Entry, u64), TarReadError> {
    let malformed = |reason| TarReadError::Malformed { position, reason };
    let name = extended.path.unwrap_or_else(|| header_name(block));
    let path = clean_name(&name)?;
    let shown = display_path(&path);
    let raw_kind = block[field::TYPE];
    if raw_kind == b'S' || extended.sparse {
        return Err(TarReadError::Sparse(shown));
    }
    let mut link = extended
        .link
        .unwrap_or_else(|| until_nul(&block[field::LINK]).to_vec());
    let kind = match raw_kind {
        // Before POSIX had types for them, directories were files whose name ends with a slash.
        b'0' | b'\0' | b'7' if name.ends_with(b"/") => EntryKind::Directory { opaque: false },
        b'0' | b'\0' | b'7' => EntryKind::File,
        b'1' => EntryKind::HardLink,
        b'2' => EntryKind::Symlink,
        b'3' => EntryKind::CharDevice,
        b'4' => EntryKind::BlockDevice,
        b'5' => EntryKind::Directory { opaque: false },
        b'6' => EntryKind::Fifo,
        other => {
            return Err(TarReadError::UnsupportedType {
                path: shown,
                kind: other.into(),
            });
        }
    };
    match kind {
        EntryKind::HardLink => link = clean_name(&link)?,
        EntryKind::Symlink => check_link_target(&link)?,
        _ => link.clear(),
    }
    if path.is_empty() && !matches!(kind, EntryKind::Directory { .. }) {
        return Err(invalid_name(&name, "the root is a directory"));
    }
    // Links, directories and devices have no content whatever their size says, as Go's reader has
    // it: old writers repeat the file's size in its hard links.
    let size = match kind {
        EntryKind::File => u64::try_from(extended.size.unwrap_or(size))
            .ok()
            .filter(|size| i64::try_from(*size).is_ok())
            .ok_or(malformed("the size is out of range"))?,
        _ => 0,
    };
    let number = |range: std::ops::Range<usize>, reason| {
        parse_number(&block[range]).ok_or(malformed(reason))
    };
    let owner = |id: i128| {
        u32::try_from(id).map_err(|_| TarReadError::InvalidOwner {
            path: shown.clone(),
            id,
        })
    };
    let mut entry = Entry::new(path, kind);
    let mode = (number(field::MODE, "the mode is not a number")? & 0o7777) as u32;
    // Nothing on Linux asks a link's mode, and writers differ: it is always 0777.
    if kind != EntryKind::Symlink {
        entry.mode = mode;
    }
    entry.uid = owner(match extended.uid {
        Some(id) => id,
        None => number(field::UID, "the owner is not a number")?,
    })?;
    entry.gid = owner(match extended.gid {
        Some(id) => id,
        None => number(field::GID, "the group is not a number")?,
    })?;
    entry.mtime = match extended.mtime {
        Some(mtime) => mtime,
        None => i64::try_from(number(field::MTIME, "the time is not a number")?)
            .map_err(|_| malformed("the time is out of range"))?,
    };
    if matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
        let part = |range| {
            number(range, "the device is not a number")
                .and_then(|n| u32::try_from(n).map_err(|_| malformed("the device is out of range")))
        };
        entry.device = (part(field::DEVICE_MAJOR)?, part(field::DEVICE_MINOR)?);
    }
    entry.size = size;
    entry.link = link;
    entry.xattrs = extended.xattrs;
    Ok((entry, size))
}

fn header_name(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&block[field::NAME]);
    // GNU and V7 headers have other things where POSIX has the prefix; star's is shorter.
    let prefix = if &block[field::MAGIC] != b"ustar\0" {
        &b""[..]
    } else if block.ends_with(b"tar\0") {
        &block[field::PREFIX.start..476]
    } else {
        &block[field::PREFIX]
    };
    match until_nul(prefix) {
        b"" => name.to_vec(),
        prefix => [prefix, b"/", name].concat(),
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

fn invalid_name(name: &[u8], reason: &'static str) -> TarReadError {
    let start = name.iter().position(|&b| b != b'/').unwrap_or(name.len());
    let end = name.len().min(start + NAME_LIMIT);
    TarReadError::InvalidName {
        name: display_path(&name[start..end]),
        reason,
    }
}

/// The name relative to the root, without empty and `.` components; empty for the root.
fn clean_name(name: &[u8]) -> Result<Vec<u8>, TarReadError> {
    let mut path = Vec::with_capacity(name.len());
    let mut depth = 0;
    if name.contains(&0) {
        return Err(invalid_name(name, "it holds a NUL byte"));
    }
    for component in name.split(|&b| b == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(invalid_name(name, "`..` is not allowed")),
            _ if component.len() > NAME_LIMIT => {
                return Err(invalid_name(name, "a component is longer than 255 bytes"));
            }
            _ => {}
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component);
        depth += 1;
    }
    if path.len() > PATH_LIMIT || depth > DEPTH_LIMIT {
        return Err(invalid_name(
            name,
            "it is longer than 4095 bytes or 1024 components",
        ));
    }
    Ok(path)
}

fn check_link_target(target: &[u8]) -> Result<(), TarReadError> {
    let reason = match target {
        b"" => "a symbolic link without a target",
        _ if target.contains(&0) => "a symbolic link's target with a NUL byte",
        _ if target.len() > LINK_TARGET_LIMIT => "a symbolic link's target of more than 4095 bytes",
        _ => return Ok(()),
    };
    Err(invalid_name(target, reason))
}

/// A numeric field: octal, padded with blanks and NUL bytes; or, with the top bit set, GNU's
/// big-endian binary. An empty field is 0.
fn parse_number(field: &[u8]) -> Option<i128> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        // Two's complement; the second bit is the sign.
        let mut value: i128 = if first & 0x40 != 0 { -1 } else { 0 };
        value = value << 6 | i128::from(first & 0x3f);
        for &byte in &field[1..] {
            value = value << 8 | i128::from(byte);
        }
        return Some(value);
    }
    let is_padding = |b: &u8| matches!(b, b' ' | 0);
    let start = field
        .iter()
        .position(|b| !is_padding(b))
        .unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(is_padding).unwrap_or(digits.len());
    let mut value = 0;
    for &digit in &digits[..end] {
        if !matches!(digit, b'0'..=b'7') {
            return None;
        }
        value = value << 3 | i128::from(digit - b'0');
    }
    Some(value)
}

/// Reads `length key=value\n` records. Values are bytes and may hold newlines.
fn parse_pax(mut records: &[u8], extended: &mut Extended) -> Option<()> {
    while !records.is_empty() {
        // Some writers pad the records with zeros.
        if records.iter().all(|&b| b == 0) {
            break;
        }
        let space = records.iter().take(20).position(|&b| b == b' ')?;
        let length = usize::try_from(parse_decimal(&records[..space])?).ok()?;
        let record = records.get(space + 1..length)?.strip_suffix(b"\n")?;
        records = &records[length..];
        let equals = record.iter().position(|&b| b == b'=')?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        set_pax(key, value, extended)?;
    }
    Some(())
}

fn set_pax(key: &[u8], value: &[u8], extended: &mut Extended) -> Option<()> {
    // An empty value takes back what an earlier record said.
    let has_value = !value.is_empty();
    match key {
        b"path" => extended.path = has_value.then(|| value.to_vec()),
        b"linkpath" => extended.link = has_value.then(|| value.to_vec()),
        b"size" => {
            extended.size = has_value
                .then(|| parse_decimal(value))
                .map_or(Some(None), |n| n.map(Some))?
        }
        b"uid" => {
            extended.uid = has_value
                .then(|| parse_decimal(value))
                .map_or(Some(None), |n| n.map(Some))?
        }
        b"gid" => {
            extended.gid = has_value
                .then(|| parse_decimal(value))
                .map_or(Some(None), |n| n.map(Some))?
        }
        b"mtime" => {
            extended.mtime = has_value
                .then(|| parse_time(value))
                .map_or(Some(None), |n| n.map(Some))?
        }
        _ if key.starts_with(b"GNU.sparse.") => extended.sparse = true,
        _ => {
            let name = key
                .strip_prefix(XATTR_RECORD)
                .filter(|name| !name.is_empty());
            if let Some(name) =
                name.filter(|name| !name.contains(&0) && xattr::is_allowed_from_outside(name))
            {
                extended.xattrs.insert(name.to_vec(), value.to_vec());
            }
        }
    }
    Some(())
}

fn parse_decimal(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    // Far beyond every valid number, far below what could overflow.
    if text.len() > 30 {
        return None;
    }
    text.parse().ok()
}

/// Seconds with an optional fraction, rounded down.
fn parse_time(text: &[u8]) -> Option<i64> {
    let dot = text.iter().position(|&b| b == b'.').unwrap_or(text.len());
    let (whole, fraction) = (&text[..dot], text.get(dot + 1..).unwrap_or(b""));
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = i64::try_from(parse_decimal(whole)?).ok()?;
    let rounds_down = whole.starts_with(b"-") && fraction.iter().any(|&b| b != b'0');
    seconds.checked_sub(rounds_down.into())
}

#[cfg(test)]
mod tests;
