//! The 512-byte blocks in front of each member of a tar stream, as POSIX.1-2001 (pax) lays them
//! out: fields are written only where they hold the value exactly, else a PAX record does.
//!
//! Names go into the header as the bytes they are, UTF-8 or not; so do the values of PAX records.
//! That is what Go's `archive/tar`, GNU tar, libarchive and Python's `tarfile` read back unchanged.

use std::collections::BTreeMap;

/// Everything in a tar stream comes in blocks of this size.
pub(super) const BLOCK: usize = 512;

/// No reader that matters takes more than this in PAX records of one member (Go's `archive/tar`
/// stops at 1 MiB), so neither is more written nor read.
pub(super) const PAX_LIMIT: u64 = 1 << 20;

/// The longest path in a layer: what the kernel, and with it every other reader, takes in one call.
pub(super) const PATH_LIMIT: usize = 4095;
/// The deepest path in a layer.
pub const DEPTH_LIMIT: usize = 1024;

/// The prefix of PAX records that carry extended attributes.
pub(super) const XATTR_RECORD: &[u8] = b"SCHILY.xattr.";

/// Where the fields of a ustar header are.
pub(super) mod field {
    use std::ops::Range;

    pub(in super::super) const NAME: Range<usize> = 0..100;
    pub(in super::super) const MODE: Range<usize> = 100..108;
    pub(in super::super) const UID: Range<usize> = 108..116;
    pub(in super::super) const GID: Range<usize> = 116..124;
    pub(in super::super) const SIZE: Range<usize> = 124..136;
    pub(in super::super) const MTIME: Range<usize> = 136..148;
    pub(in super::super) const CHECKSUM: Range<usize> = 148..156;
    pub(in super::super) const TYPE: usize = 156;
    pub(in super::super) const LINK: Range<usize> = 157..257;
    pub(in super::super) const MAGIC: Range<usize> = 257..263;
    pub(in super::super) const VERSION: Range<usize> = 263..265;
    pub(in super::super) const DEVICE_MAJOR: Range<usize> = 329..337;
    pub(in super::super) const DEVICE_MINOR: Range<usize> = 337..345;
    pub(in super::super) const PREFIX: Range<usize> = 345..500;
}

/// One member's metadata, about to be written.
pub(super) struct Header<'a> {
    pub(super) name: &'a [u8],
    pub(super) kind: u8,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) mtime: i64,
    pub(super) link: &'a [u8],
    pub(super) device: (u32, u32),
    pub(super) xattrs: Option<&'a BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Header<'_> {
    /// Appends the member's header, with a PAX header in front if one is needed, to `out`.
    /// Gives back the number of bytes of PAX records.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> u64 {
        let mut block = [0_u8; BLOCK];
        let mut records = Vec::new();
        for (name, value) in self.xattrs.into_iter().flatten() {
            let mut key = XATTR_RECORD.to_vec();
            key.extend_from_slice(name);
            pax_record(&mut records, &key, value);
        }
        // Keys in byte order from here on, too: gid, linkpath, mtime, path, size, uid.
        number(
            &mut block[field::GID],
            &mut records,
            b"gid",
            self.gid.into(),
        );
        if self.link.len() <= field::LINK.len() {
            put(&mut block[field::LINK], self.link);
        } else {
            put(&mut block[field::LINK], truncated(self.link));
            pax_record(&mut records, b"linkpath", self.link);
        }
        number(
            &mut block[field::MTIME],
            &mut records,
            b"mtime",
            self.mtime.into(),
        );
        if let Some((prefix, name)) = split_name(self.name) {
            put(&mut block[field::NAME], name);
            put(&mut block[field::PREFIX], prefix);
        } else {
            put(&mut block[field::NAME], truncated(self.name));
            pax_record(&mut records, b"path", self.name);
        }
        number(
            &mut block[field::SIZE],
            &mut records,
            b"size",
            self.size.into(),
        );
        number(
            &mut block[field::UID],
            &mut records,
            b"uid",
            self.uid.into(),
        );
        octal(&mut block[field::MODE], (self.mode & 0o7777).into());
        octal(&mut block[field::DEVICE_MAJOR], self.device.0.into());
        octal(&mut block[field::DEVICE_MINOR], self.device.1.into());
        block[field::TYPE] = self.kind;
        seal(&mut block);

        if !records.is_empty() {
            encode_pax(&records, out);
        }
        out.extend_from_slice(&block);
        records.len() as u64
    }
}

/// Appends a PAX header block, the records, and their padding.
fn encode_pax(records: &[u8], out: &mut Vec<u8>) {
    let mut block = [0_u8; BLOCK];
    put(&mut block[field::NAME], b"PaxHeaders");
    octal(&mut block[field::MODE], 0o644);
    octal(&mut block[field::UID], 0);
    octal(&mut block[field::GID], 0);
    octal(&mut block[field::SIZE], records.len() as u64);
    octal(&mut block[field::MTIME], 0);
    octal(&mut block[field::DEVICE_MAJOR], 0);
    octal(&mut block[field::DEVICE_MINOR], 0);
    block[field::TYPE] = b'x';
    seal(&mut block);
    out.extend_from_slice(&block);
    out.extend_from_slice(records);
    out.resize(out.len() + padding(records.len() as u64), 0);
}

/// How many zero bytes follow `size` bytes of content.
pub(super) fn padding(size: u64) -> usize {
    (size.wrapping_neg() % BLOCK as u64) as usize
}

/// Sets magic, version and checksum.
fn seal(block: &mut [u8; BLOCK]) {
    put(&mut block[field::MAGIC], b"ustar\0");
    put(&mut block[field::VERSION], b"00");
    let (sum, _) = checksums(block);
    octal(
        &mut block[field::CHECKSUM.start..field::CHECKSUM.end - 1],
        sum.into(),
    );
    block[field::CHECKSUM.end - 1] = b' ';
}

/// The sum of all bytes, the checksum field taken as blanks: of unsigned bytes, as POSIX has it,
/// and of signed ones, as some old writers have it.
pub(super) fn checksums(block: &[u8; BLOCK]) -> (u32, i32) {
    let mut unsigned = 0;
    let mut signed = 0;
    for (i, &byte) in block.iter().enumerate() {
        let byte = if field::CHECKSUM.contains(&i) {
            b' '
        } else {
            byte
        };
        unsigned += u32::from(byte);
        signed += i32::from(byte.cast_signed());
    }
    (unsigned, signed)
}

fn put(field: &mut [u8], bytes: &[u8]) {
    field[..bytes.len()].copy_from_slice(bytes);
}

/// Writes `value` in octal with leading zeros and a NUL at the end; gives false, leaving the field
/// zero, when it doesn't fit.
fn octal(field: &mut [u8], value: u64) -> bool {
    let digits = field.len() - 1;
    let fits = value >> (3 * digits) == 0;
    let mut rest = if fits { value } else { 0 };
    for byte in field[..digits].iter_mut().rev() {
        *byte = b'0' + (rest & 7) as u8;
        rest >>= 3;
    }
    fits
}

fn number(field: &mut [u8], records: &mut Vec<u8>, key: &[u8], value: i128) {
    let fits = u64::try_from(value).is_ok_and(|value| octal(field, value));
    if !fits {
        octal(field, 0);
        pax_record(records, key, value.to_string().as_bytes());
    }
}

/// `length key=value\n`, where the length counts its own digits.
fn pax_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = 1 + key.len() + 1 + value.len() + 1;
    let mut length = rest + 1;
    while decimal_digits(length) + rest != length {
        length = decimal_digits(length) + rest;
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn decimal_digits(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

/// Splits a name into ustar's prefix and name fields, if it fits there.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= field::NAME.len() {
        return Some((b"", name));
    }
    let first = name.len() - field::NAME.len() - 1;
    let slash = first + name[first..].iter().position(|&b| b == b'/')?;
    let fits = (1..=field::PREFIX.len()).contains(&slash) && slash + 1 < name.len();
    fits.then(|| (&name[..slash], &name[slash + 1..]))
}

/// What stands in a name field when a PAX record holds the name: readers that know no PAX make
/// something of it, and it doesn't end like a directory.
fn truncated(name: &[u8]) -> &[u8] {
    let mut end = name.len().min(field::NAME.len());
    while end > 1 && name[end - 1] == b'/' {
        end -= 1;
    }
    &name[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_lengths_count_themselves() {
        for (value_length, expected) in [(0, 5), (1, 6), (4, 9), (5, 11), (93, 99), (94, 101)] {
            let mut records = Vec::new();
            pax_record(&mut records, b"k", &vec![b'v'; value_length]);
            let text = String::from_utf8(records).unwrap();
            assert_eq!(text.len(), expected, "{value_length}");
            assert!(
                text.starts_with(&format!("{expected} k=v")) || value_length == 0,
                "{text}"
            );
        }
    }

    #[test]
    fn numbers_that_do_not_fit_go_to_records() {
        let mut block = [0; 8];
        let mut records = Vec::new();
        number(&mut block, &mut records, b"uid", 0o7_777_777);
        assert_eq!((&block, records.as_slice()), (b"7777777\0", &b""[..]));
        number(&mut block, &mut records, b"uid", 0o10_000_000);
        assert_eq!(
            (&block, records.as_slice()),
            (b"0000000\0", &b"15 uid=2097152\n"[..])
        );
        records.clear();
        number(&mut block, &mut records, b"mtime", -5);
        assert_eq!(records, b"12 mtime=-5\n");
    }

    #[test]
    fn long_names_split_at_a_slash_or_not_at_all() {
        let long = |prefix: usize, name: usize| {
            [vec![b'p'; prefix], vec![b'/'], vec![b'n'; name]].concat()
        };
        for (prefix, name, fits) in [
            (10, 89, true),
            (155, 100, true),
            (156, 100, false),
            (20, 101, false),
            (50, 60, true),
        ] {
            assert_eq!(
                split_name(&long(prefix, name)).is_some(),
                fits,
                "{prefix}/{name}"
            );
        }
        let name = long(50, 60);
        let (prefix, rest) = split_name(&name).unwrap();
        assert_eq!([prefix, b"/", rest].concat(), name);
        assert_eq!(split_name(&[b'x'; 101]), None);
        assert_eq!(
            truncated(&[vec![b'x'; 99], b"/yy".to_vec()].concat()),
            [b'x'; 99]
        );
    }
}
