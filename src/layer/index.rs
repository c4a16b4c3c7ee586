//! The entry index of a layer: every path with its metadata, sorted, small enough to keep for each
//! layer ever seen.
//!
//! It is written whenever a layer's tar is produced or read or its tree is committed, and answers
//! questions about the layer without either. The bytes of an index belong to one store; they are
//! never exchanged.

use std::io::Read;

use serde::{Deserialize, Serialize};

use super::entry::{Entry, EntryKind, compare_paths, display_path, is_canonical, is_inside};

/// Files whose content an index carries are cut off here: anything larger is no user database.
pub const INLINE_LIMIT: u64 = 1 << 20;

/// No index is larger than this when unpacked: some ten million entries.
const BYTES_LIMIT: u64 = 1 << 30;

/// Starts every encoded index; the last byte is the version of the encoding.
const MAGIC: &[u8; 4] = b"RBI\x01";

/// All paths of one layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Sorted by [`compare_paths`], no path twice.
    pub entries: Vec<Entry>,
    /// Content of `etc/passwd`, when this layer has it as a regular file of at most
    /// [`INLINE_LIMIT`] bytes.
    pub passwd: Option<Vec<u8>>,
    /// Content of `etc/group`, likewise.
    pub group: Option<Vec<u8>>,
}

/// Why bytes aren't an index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Written by another version, or no index at all.
    #[error("the entry index has an unknown format; remove it and it is made again")]
    UnknownFormat,
    /// Damaged.
    #[error("the entry index can't be unpacked; remove it and it is made again")]
    Unpack(#[source] std::io::Error),
    /// Damaged.
    #[error("the entry index is malformed; remove it and it is made again")]
    Malformed(#[source] postcard::Error),
    /// Not sorted, or with a path that is not canonical.
    #[error("the entry index holds `{0}` out of order; remove it and it is made again")]
    Order(String),
}

impl Index {
    /// An index of `entries` in any order; of two with the same path the later one stays.
    pub fn new(mut entries: Vec<Entry>) -> Self {
        entries.sort_by(|a, b| compare_paths(&a.path, &b.path));
        entries.reverse();
        entries.dedup_by(|a, b| a.path == b.path);
        entries.reverse();
        Self {
            entries,
            passwd: None,
            group: None,
        }
    }

    /// The entry at exactly this path, whiteouts included.
    pub fn get(&self, path: &[u8]) -> Option<&Entry> {
        self.position(path).ok().map(|i| &self.entries[i])
    }

    /// Where the entry at `path` is, or where it would be.
    pub(super) fn position(&self, path: &[u8]) -> Result<usize, usize> {
        self.entries
            .binary_search_by(|entry| compare_paths(&entry.path, path))
    }

    /// The entries inside `directory`, at any depth, without its own.
    pub fn inside(&self, directory: &[u8]) -> &[Entry] {
        let start = match self.position(directory) {
            Ok(i) => i + 1,
            Err(i) => i,
        };
        let rest = &self.entries[start..];
        let end = rest.partition_point(|entry| is_inside(&entry.path, directory));
        &rest[..end]
    }

    /// The entry that holds the content and metadata of `entry`: itself, or for a hard link the
    /// file that it names.
    pub fn inode<'a>(&'a self, entry: &'a Entry) -> Option<&'a Entry> {
        if entry.kind != EntryKind::HardLink {
            return Some(entry);
        }
        self.get(&entry.link)
            .filter(|target| target.kind != EntryKind::HardLink && !target.is_whiteout())
    }

    /// The index as bytes, the same for the same index.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Neither step can fail: the sink is memory, and every field has a fixed encoding.
        let plain = postcard::to_stdvec(self).unwrap_or_default();
        let packed = zstd::bulk::compress(&plain, 3).unwrap_or_default();
        let mut bytes = Vec::with_capacity(MAGIC.len() + packed.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&packed);
        bytes
    }

    /// Reads what [`Index::to_bytes`] wrote.
    ///
    /// # Errors
    /// When the bytes are damaged or come from another version. The index can then be made again
    /// from the layer's tar.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IndexError> {
        let packed = bytes.strip_prefix(MAGIC).ok_or(IndexError::UnknownFormat)?;
        let mut plain = Vec::new();
        zstd::stream::read::Decoder::with_buffer(packed)
            .map_err(IndexError::Unpack)?
            .take(BYTES_LIMIT)
            .read_to_end(&mut plain)
            .map_err(IndexError::Unpack)?;
        let index: Self = postcard::from_bytes(&plain).map_err(IndexError::Malformed)?;
        index.check_order()?;
        Ok(index)
    }

    fn check_order(&self) -> Result<(), IndexError> {
        let bad_path = self.entries.iter().find(|entry| !is_canonical(&entry.path));
        let unsorted = self
            .entries
            .windows(2)
            .find(|pair| compare_paths(&pair[0].path, &pair[1].path).is_ge())
            .map(|pair| &pair[1]);
        match bad_path.or(unsorted) {
            Some(entry) => Err(IndexError::Order(display_path(&entry.path))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Index {
        let mut index = Index::new(vec![
            Entry::new("usr/bin/tool", EntryKind::File),
            Entry::directory("usr"),
            Entry::directory("usr/bin"),
            Entry::new("usr-local", EntryKind::Symlink),
            Entry::whiteout("tmp/x"),
        ]);
        index.passwd = Some(b"root:x:0:0::/:/bin/sh\n".to_vec());
        index
    }

    #[test]
    fn an_index_round_trips_through_bytes() {
        let index = sample();
        assert_eq!(Index::from_bytes(&index.to_bytes()).unwrap(), index);
        assert_eq!(
            Index::from_bytes(&Index::default().to_bytes()).unwrap(),
            Index::default()
        );
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let bytes = sample().to_bytes();
        assert!(matches!(
            Index::from_bytes(b""),
            Err(IndexError::UnknownFormat)
        ));
        assert!(matches!(
            Index::from_bytes(b"RBI\x7f"),
            Err(IndexError::UnknownFormat)
        ));
        assert!(Index::from_bytes(&bytes[..bytes.len() - 4]).is_err());
        let mut unsorted = sample();
        unsorted.entries.reverse();
        assert!(matches!(
            Index::from_bytes(&unsorted.to_bytes()),
            Err(IndexError::Order(_))
        ));
    }

    #[test]
    fn entries_are_found_and_listed_by_path() {
        let index = sample();
        assert!(index.get(b"usr/bin").is_some());
        assert!(index.get(b"usr/b").is_none());
        let inside = |path: &[u8]| -> Vec<String> {
            index
                .inside(path)
                .iter()
                .map(|e| String::from_utf8_lossy(&e.path).into_owned())
                .collect()
        };
        assert_eq!(inside(b"usr"), ["usr/bin", "usr/bin/tool"]);
        assert_eq!(inside(b"tmp"), ["tmp/x"]);
        assert_eq!(inside(b"").len(), 5);
        assert!(inside(b"usr/bin/tool").is_empty());
    }

    #[test]
    fn the_later_of_two_entries_with_one_path_stays() {
        let mut second = Entry::new("a", EntryKind::File);
        second.size = 2;
        let index = Index::new(vec![Entry::new("a", EntryKind::File), second.clone()]);
        assert_eq!(index.entries, [second]);
    }
}
