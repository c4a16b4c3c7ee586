//! One path of a layer: what it is, who owns it, what it replaces.
//!
//! Paths are bytes, relative to the root of the layer, without a leading or trailing slash. They
//! are never opened from here, and never joined to a path of the machine.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What kind of thing an [`Entry`] is. Sockets are never in layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EntryKind {
    /// A regular file, with content.
    File,
    /// A directory.
    Directory {
        /// Hides all that lower layers have inside this directory.
        opaque: bool,
    },
    /// A symbolic link; `link` is its target as written.
    Symlink,
    /// Another name of a file of the same layer; `link` is that file's path.
    HardLink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// Removes the path, and all below it, of the lower layers.
    Whiteout,
}

/// One path of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Relative path; empty only for the root directory's own entry.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission, set-id and sticky bits (`0o7777`).
    pub mode: u32,
    /// Owner, as the image sees it.
    pub uid: u32,
    /// Group, as the image sees it.
    pub gid: u32,
    /// Time of last modification, whole seconds since the Unix epoch.
    pub mtime: i64,
    /// Bytes of content; 0 for all but files.
    pub size: u64,
    /// Target of a symbolic link, or path of the file in the same layer that a hard link names.
    pub link: Vec<u8>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes. A hard link repeats those of its file.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Where the content starts in the plain tar stream, for files that came from or went into one.
    pub offset: Option<u64>,
}

impl Entry {
    /// An entry of this kind at this path: owned by root, time 0, no content; directories 0755,
    /// links 0777, all else 0644.
    pub fn new(path: impl Into<Vec<u8>>, kind: EntryKind) -> Self {
        Self {
            path: path.into(),
            kind,
            mode: match kind {
                EntryKind::Directory { .. } => 0o755,
                EntryKind::Symlink => 0o777,
                EntryKind::Whiteout => 0,
                _ => 0o644,
            },
            uid: 0,
            gid: 0,
            mtime: 0,
            size: 0,
            link: Vec::new(),
            device: (0, 0),
            xattrs: BTreeMap::new(),
            offset: None,
        }
    }

    /// A directory that isn't opaque, with the defaults of [`Entry::new`].
    pub fn directory(path: impl Into<Vec<u8>>) -> Self {
        Self::new(path, EntryKind::Directory { opaque: false })
    }

    /// A whiteout of `path`.
    pub fn whiteout(path: impl Into<Vec<u8>>) -> Self {
        Self::new(path, EntryKind::Whiteout)
    }

    /// Whether this is a directory, opaque or not.
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, EntryKind::Directory { .. })
    }

    /// Whether this is a regular file; a hard link counts as one only through
    /// [`View::inode`](super::view::View::inode).
    pub fn is_file(&self) -> bool {
        self.kind == EntryKind::File
    }

    /// Whether this removes a path of the lower layers.
    pub fn is_whiteout(&self) -> bool {
        self.kind == EntryKind::Whiteout
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &[u8] {
        split_path(&self.path).1
    }
}

/// Orders paths by their components: a directory comes right before all that is inside it
/// (`a`, `a/b`, `a-b`), which plain byte order doesn't give.
pub fn compare_paths(a: &[u8], b: &[u8]) -> Ordering {
    let common = a.iter().zip(b).position(|(x, y)| x != y);
    match common {
        None => a.len().cmp(&b.len()),
        // No path holds a NUL byte, so a slash may stand for it: lower than every other byte.
        Some(i) => slash_first(a[i]).cmp(&slash_first(b[i])),
    }
}

fn slash_first(byte: u8) -> u8 {
    if byte == b'/' { 0 } else { byte }
}

/// Splits a path into its parent (empty at the top) and its last component.
pub fn split_path(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Joins a directory's path (empty for the root) and a name.
pub fn join_path(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    if !directory.is_empty() && !name.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// The directories above `path`, topmost first, neither the root nor `path` itself among them.
pub fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter()
        .enumerate()
        .filter(|&(_, &b)| b == b'/')
        .map(move |(slash, _)| &path[..slash])
}

/// Whether `path` lies inside `directory` (empty for the root), at any depth; a path isn't inside
/// itself.
pub fn is_inside(path: &[u8], directory: &[u8]) -> bool {
    if directory.is_empty() {
        return !path.is_empty();
    }
    path.len() > directory.len() && path[directory.len()] == b'/' && path.starts_with(directory)
}

/// Whether `path` has the form that entries require: relative, no empty, `.` or `..` component, no
/// NUL byte; or empty, for the root.
pub fn is_canonical(path: &[u8]) -> bool {
    path.is_empty()
        || (!path.contains(&0)
            && path
                .split(|&b| b == b'/')
                .all(|component| !matches!(component, b"" | b"." | b"..")))
}

/// How a path is shown in errors: lossy UTF-8, rooted, control characters escaped.
pub(crate) fn display_path(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len() + 1);
    text.push('/');
    for c in String::from_utf8_lossy(path).chars() {
        if c.is_control() {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_comes_right_before_its_content() {
        let mut paths: Vec<&[u8]> =
            vec![b"a-b", b"a/b", b"b", b"", b"a", b"a/b/c", b"a/b-c", b"a.b"];
        paths.sort_by(|a, b| compare_paths(a, b));
        let expected: Vec<&[u8]> =
            vec![b"", b"a", b"a/b", b"a/b/c", b"a/b-c", b"a-b", b"a.b", b"b"];
        assert_eq!(paths, expected);
    }

    #[test]
    fn paths_split_join_and_nest() {
        assert_eq!(split_path(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split_path(b"c"), (&b""[..], &b"c"[..]));
        assert_eq!(join_path(b"", b"c"), b"c");
        assert_eq!(join_path(b"a", b"c"), b"a/c");
        assert_eq!(ancestors(b"a/b/c").collect::<Vec<_>>(), [&b"a"[..], b"a/b"]);
        assert!(is_inside(b"a/b", b"a") && is_inside(b"a", b""));
        assert!(!is_inside(b"a", b"a") && !is_inside(b"ab", b"a") && !is_inside(b"", b""));
    }

    #[test]
    fn only_clean_relative_paths_are_canonical() {
        for path in ["", "a", "a/b", "a/..b", ".wh", "a b\n"] {
            assert!(is_canonical(path.as_bytes()), "{path:?}");
        }
        for path in ["/", "/a", "a/", "a//b", "./a", "a/.", "..", "a/../b", "a\0"] {
            assert!(!is_canonical(path.as_bytes()), "{path:?}");
        }
    }

    #[test]
    fn control_characters_are_not_shown_raw() {
        assert_eq!(display_path(b"a\x1b[2Jb"), "/a\\u{1b}[2Jb");
    }
}
