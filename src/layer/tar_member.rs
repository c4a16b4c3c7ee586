//! One member's headers as an entry: what the fields and the extended records before them say,
//! checked and bounded. Pure; the input is hostile.

use std::collections::BTreeMap;
use std::ops::Range;

use super::entry::{Entry, EntryKind, display_path};
use super::tar_header::{BLOCK, DEPTH_LIMIT, PATH_LIMIT, XATTR_RECORD, checksums, field};
use super::tar_reader::TarReadError;
use super::xattr;

/// The longest component, on every file system that matters.
const NAME_LIMIT: usize = 255;
/// The longest target of a symbolic link that the kernel creates.
const LINK_TARGET_LIMIT: usize = 4095;
/// What extended headers say about the member after them.
#[derive(Default)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<i128>,
    pub(super) uid: Option<i128>,
    pub(super) gid: Option<i128>,
    pub(super) mtime: Option<i64>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) sparse: bool,
}

pub(super) fn has_valid_checksum(block: &[u8; BLOCK]) -> bool {
    let (unsigned, signed) = checksums(block);
    parse_number(&block[field::CHECKSUM])
        .is_some_and(|said| said == i128::from(unsigned) || said == i128::from(signed))
}

/// Makes an entry of a header and the extended headers before it; also gives the size of the
/// content that follows.
pub(super) fn parse_member(
    block: &[u8; BLOCK],
    position: u64,
    extended: Extended,
    size: i128,
) -> Result<(Entry, u64), TarReadError> {
    let malformed = |reason| TarReadError::Malformed { position, reason };
    let number = |range: Range<usize>, reason| parse_number(&block[range]).ok_or(malformed(reason));
    let name = extended.path.unwrap_or_else(|| header_name(block));
    let path = clean_name(&name)?;
    if extended.sparse {
        return Err(TarReadError::Sparse(display_path(&path)));
    }
    let kind = kind_of(block[field::TYPE], &name, &path)?;
    let mut entry = Entry::new(path, kind);
    let link = extended
        .link
        .unwrap_or_else(|| until_nul(&block[field::LINK]).to_vec());
    entry.link = match kind {
        EntryKind::HardLink => clean_name(&link)?,
        EntryKind::Symlink => check_link_target(link)?,
        _ => Vec::new(),
    };
    let mode = (number(field::MODE, "the mode is not a number")? & 0o7777) as u32;
    // Nothing on Linux asks a link's mode, and writers differ: it is always 0777.
    if kind != EntryKind::Symlink {
        entry.mode = mode;
    }
    let or_field =
        |said: Option<i128>, range, reason| said.map_or_else(|| number(range, reason), Ok);
    let owner = |id: i128| {
        u32::try_from(id).map_err(|_| TarReadError::InvalidOwner {
            path: display_path(&entry.path),
            id,
        })
    };
    let uid = or_field(extended.uid, field::UID, "the owner is not a number")?;
    let gid = or_field(extended.gid, field::GID, "the group is not a number")?;
    let mtime = extended.mtime.map(i128::from);
    let mtime = or_field(mtime, field::MTIME, "the time is not a number")?;
    (entry.uid, entry.gid) = (owner(uid)?, owner(gid)?);
    entry.mtime = i64::try_from(mtime).map_err(|_| malformed("the time is out of range"))?;
    if matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
        let part = |range| {
            number(range, "the device is not a number")
                .and_then(|n| u32::try_from(n).map_err(|_| malformed("the device is out of range")))
        };
        entry.device = (part(field::DEVICE_MAJOR)?, part(field::DEVICE_MINOR)?);
    }
    // Links, directories and devices have no content whatever their size says, as Go's reader has
    // it: old writers repeat the file's size in its hard links.
    if kind == EntryKind::File {
        entry.size = u64::try_from(extended.size.unwrap_or(size))
            .ok()
            .filter(|size| i64::try_from(*size).is_ok())
            .ok_or(malformed("the size is out of range"))?;
    }
    entry.xattrs = extended.xattrs;
    let size = entry.size;
    Ok((entry, size))
}

/// What a type flag means for a member of this name.
fn kind_of(flag: u8, name: &[u8], path: &[u8]) -> Result<EntryKind, TarReadError> {
    let kind = match flag {
        // Before POSIX had types for them, directories were files whose name ends with a slash.
        b'0' | b'\0' | b'7' if name.ends_with(b"/") => EntryKind::Directory { opaque: false },
        b'0' | b'\0' | b'7' => EntryKind::File,
        b'1' => EntryKind::HardLink,
        b'2' => EntryKind::Symlink,
        b'3' => EntryKind::CharDevice,
        b'4' => EntryKind::BlockDevice,
        b'5' => EntryKind::Directory { opaque: false },
        b'6' => EntryKind::Fifo,
        b'S' => return Err(TarReadError::Sparse(display_path(path))),
        other => {
            return Err(TarReadError::UnsupportedType {
                path: display_path(path),
                kind: other.into(),
            });
        }
    };
    if path.is_empty() && !matches!(kind, EntryKind::Directory { .. }) {
        return Err(invalid_name(name, "the root is a directory"));
    }
    Ok(kind)
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

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
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

fn check_link_target(target: Vec<u8>) -> Result<Vec<u8>, TarReadError> {
    let reason = if target.is_empty() {
        "a symbolic link without a target"
    } else if target.contains(&0) {
        "a symbolic link's target with a NUL byte"
    } else if target.len() > LINK_TARGET_LIMIT {
        "a symbolic link's target of more than 4095 bytes"
    } else {
        return Ok(target);
    };
    Err(invalid_name(&target, reason))
}

/// A numeric field: octal, padded with blanks and NUL bytes; or, with the top bit set, GNU's
/// big-endian binary. An empty field is 0.
pub(super) fn parse_number(field: &[u8]) -> Option<i128> {
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
pub(super) fn parse_pax(mut records: &[u8], extended: &mut Extended) -> Option<()> {
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
pub(super) fn parse_time(text: &[u8]) -> Option<i64> {
    let dot = text.iter().position(|&b| b == b'.').unwrap_or(text.len());
    let (whole, fraction) = (&text[..dot], text.get(dot + 1..).unwrap_or(b""));
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = i64::try_from(parse_decimal(whole)?).ok()?;
    let rounds_down = whole.starts_with(b"-") && fraction.iter().any(|&b| b != b'0');
    seconds.checked_sub(rounds_down.into())
}
