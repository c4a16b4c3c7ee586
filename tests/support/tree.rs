//! A root file system as a value: from an image's layers or from a folder, listed one line per
//! file so that a test can write down what it expects.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Content up to this size is kept and can be asked for; of larger files just the digest.
const KEPT: u64 = 64 * 1024;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeKind {
    Directory,
    File,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// One file of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: NodeKind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: i64,
    pub(crate) link: Vec<u8>,
    pub(crate) device: (u32, u32),
    pub(crate) size: u64,
    pub(crate) digest: String,
    pub(crate) content: Option<Vec<u8>>,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    /// Files with the same number are hard links of each other.
    pub(crate) inode: u64,
}

/// A root file system; paths have no leading slash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    pub(crate) nodes: BTreeMap<Vec<u8>, Node>,
}

/// How many names each inode has.
type Links = BTreeMap<u64, usize>;

/// Reads to the end; gives size, digest and, where it is short, the content.
pub(crate) fn read_content(mut from: impl Read) -> (u64, String, Option<Vec<u8>>) {
    let mut hash = Sha256::new();
    let mut size = 0;
    let mut kept = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
        size += count as u64;
        if size <= KEPT {
            kept.extend_from_slice(&buffer[..count]);
        }
    }
    let digest = hex(&hash.finalize());
    (size, digest, (size <= KEPT).then_some(kept))
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

impl Tree {
    /// The tree below a folder of this machine, the folder itself left out.
    pub(crate) fn of_folder(folder: &Path) -> Tree {
        let mut tree = Tree::default();
        tree.read_folder(folder, b"");
        tree
    }

    fn read_folder(&mut self, folder: &Path, prefix: &[u8]) {
        let entries = std::fs::read_dir(folder)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display()));
        for entry in entries {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            let mut path = prefix.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(entry.file_name().as_bytes());
            let kind = metadata.file_type();
            let kind = if kind.is_dir() {
                NodeKind::Directory
            } else if kind.is_file() {
                NodeKind::File
            } else if kind.is_symlink() {
                NodeKind::Symlink
            } else if kind.is_char_device() {
                NodeKind::CharDevice
            } else if kind.is_block_device() {
                NodeKind::BlockDevice
            } else {
                NodeKind::Fifo
            };
            let (size, digest, content) = match kind {
                NodeKind::File => read_content(std::fs::File::open(entry.path()).unwrap()),
                _ => (0, String::new(), None),
            };
            let link = match kind {
                NodeKind::Symlink => std::fs::read_link(entry.path())
                    .unwrap()
                    .into_os_string()
                    .into_vec(),
                _ => Vec::new(),
            };
            let device = match kind {
                NodeKind::CharDevice | NodeKind::BlockDevice => (
                    rustix::fs::major(metadata.rdev()),
                    rustix::fs::minor(metadata.rdev()),
                ),
                _ => (0, 0),
            };
            let node = Node {
                kind,
                mode: metadata.mode() & 0o7777,
                uid: metadata.uid(),
                gid: metadata.gid(),
                mtime: metadata.mtime(),
                link,
                device,
                size,
                digest,
                content,
                xattrs: xattrs(&entry.path()),
                inode: metadata.ino(),
            };
            self.nodes.insert(path.clone(), node);
            if kind == NodeKind::Directory {
                self.read_folder(&entry.path(), &path);
            }
        }
    }

    /// A file that must be there.
    #[track_caller]
    pub(crate) fn get(&self, path: impl AsRef<[u8]>) -> &Node {
        let path = path.as_ref();
        self.nodes.get(path).unwrap_or_else(|| {
            panic!(
                "no `{}` in the image; it has:\n{}",
                path.escape_ascii(),
                self.names()
            )
        })
    }

    /// Whether there is such a file.
    pub(crate) fn has(&self, path: impl AsRef<[u8]>) -> bool {
        self.nodes.contains_key(path.as_ref())
    }

    /// The text of a small file.
    #[track_caller]
    pub(crate) fn text(&self, path: &str) -> String {
        let node = self.get(path);
        let content = node
            .content
            .clone()
            .unwrap_or_else(|| panic!("`{path}` is no small regular file"));
        String::from_utf8(content).unwrap_or_else(|_| panic!("`{path}` is not UTF-8"))
    }

    /// The lines of these paths; `a/b/**` also takes everything below `a/b`. A path that isn't
    /// there gives the line `- PATH`.
    pub(crate) fn lines(&self, paths: &[&str]) -> String {
        let links = self.links();
        let mut out = String::new();
        for path in paths {
            if let Some(folder) = path.strip_suffix("/**") {
                let below = format!("{folder}/").into_bytes();
                self.line(folder.as_bytes(), &links, &mut out);
                for name in self.nodes.keys().filter(|name| name.starts_with(&below)) {
                    self.line(name, &links, &mut out);
                }
            } else {
                self.line(path.as_bytes(), &links, &mut out);
            }
        }
        out
    }

    /// The lines of all files.
    pub(crate) fn all(&self) -> String {
        let links = self.links();
        let mut out = String::new();
        for path in self.nodes.keys() {
            self.line(path, &links, &mut out);
        }
        out
    }

    fn links(&self) -> Links {
        let mut links = Links::new();
        for node in self.nodes.values() {
            if node.kind == NodeKind::File {
                *links.entry(node.inode).or_default() += 1;
            }
        }
        links
    }

    fn names(&self) -> String {
        let shown: Vec<String> = self
            .nodes
            .keys()
            .take(60)
            .map(|path| format!("  {}", path.escape_ascii()))
            .collect();
        let more = self.nodes.len().saturating_sub(shown.len());
        let rest = if more > 0 {
            format!("\n  … and {more} more")
        } else {
            String::new()
        };
        shown.join("\n") + &rest
    }

    fn line(&self, path: &[u8], links: &Links, out: &mut String) {
        let name = path.escape_ascii();
        let Some(node) = self.nodes.get(path) else {
            writeln!(out, "- {name}").unwrap();
            return;
        };
        let owner = format!("{}:{}", node.uid, node.gid);
        let mode = node.mode;
        match node.kind {
            NodeKind::Directory => write!(out, "d {mode:04o} {owner} {name}"),
            NodeKind::File => write!(out, "f {mode:04o} {owner} {name} {}", node.shown()),
            NodeKind::Symlink => {
                write!(out, "l {owner} {name} -> {}", node.link.escape_ascii())
            }
            NodeKind::CharDevice => {
                write!(
                    out,
                    "c {mode:04o} {owner} {name} {},{}",
                    node.device.0, node.device.1
                )
            }
            NodeKind::BlockDevice => {
                write!(
                    out,
                    "b {mode:04o} {owner} {name} {},{}",
                    node.device.0, node.device.1
                )
            }
            NodeKind::Fifo => write!(out, "p {mode:04o} {owner} {name}"),
        }
        .unwrap();
        if node.kind == NodeKind::File {
            let links = links.get(&node.inode).copied().unwrap_or_default();
            if links > 1 {
                write!(out, " ({links} links)").unwrap();
            }
        }
        for (name, value) in &node.xattrs {
            write!(out, " {name}=0x{}", hex(value)).unwrap();
        }
        out.push('\n');
    }
}

impl Node {
    /// The content, quoted, where it is short and text; else size and digest.
    pub(crate) fn shown(&self) -> String {
        shown_content(self.size, &self.digest, self.content.as_deref())
    }
}

/// Content as listings show it.
pub(crate) fn shown_content(size: u64, digest: &str, content: Option<&[u8]>) -> String {
    match content.map(std::str::from_utf8) {
        Some(Ok(text)) if text.len() <= 120 => format!("{text:?}"),
        _ => format!("{size} bytes sha256:{}", &digest[..12]),
    }
}

/// Extended attributes that belong into an image; the ones that a tool or the kernel keeps for
/// itself are left out.
fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 4096];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names[..]) else {
        return BTreeMap::new();
    };
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .filter(|name| {
            !name.starts_with("trusted.")
                && !name.starts_with("user.overlay.")
                && !name.starts_with("user.containers.")
                && name != "security.selinux"
                && !name.starts_with("system.")
        })
        .filter_map(|name| {
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(path, &name, &mut value[..]).ok()?;
            value.truncate(length);
            Some((name, value))
        })
        .collect()
}

/// Takes off the first newline and the indentation that all lines share.
pub(crate) fn dedent(text: &str) -> String {
    let text = text.strip_prefix('\n').unwrap_or(text);
    let indentation = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| line.len() - line.trim_start_matches(' ').len())
        .min()
        .unwrap_or(0);
    let mut lines: Vec<&str> = text
        .lines()
        .map(|line| line.get(indentation..).unwrap_or(""))
        .collect();
    if text.ends_with(' ') && lines.last().is_some_and(|line| line.trim().is_empty()) {
        lines.pop();
    }
    let mut dedented = lines.join("\n");
    if !dedented.is_empty() {
        dedented.push('\n');
    }
    dedented
}

/// Compares texts line by line; the expected one may be indented. The message shows both, with
/// what differs marked.
#[track_caller]
pub(crate) fn assert_lines(actual: &str, expected: &str) {
    let expected = dedent(expected);
    if actual == expected {
        return;
    }
    let old: Vec<&str> = expected.lines().collect();
    let new: Vec<&str> = actual.lines().collect();
    panic!("- expected, + found:\n{}", difference(&old, &new));
}

/// A line difference by longest common subsequence.
pub(crate) fn difference(old: &[&str], new: &[&str]) -> String {
    let mut lengths = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            lengths[i][j] = if old[i] == new[j] {
                lengths[i + 1][j + 1] + 1
            } else {
                lengths[i + 1][j].max(lengths[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut out = String::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            writeln!(out, "  {}", old[i]).unwrap();
            i += 1;
            j += 1;
        } else if j == new.len() || (i < old.len() && lengths[i + 1][j] >= lengths[i][j + 1]) {
            writeln!(out, "- {}", old[i]).unwrap();
            i += 1;
        } else {
            writeln!(out, "+ {}", new[j]).unwrap();
            j += 1;
        }
    }
    out
}
