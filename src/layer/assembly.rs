//! What the members of a layer's tar stream, one after the other, amount to: the same decisions
//! for the index and for the tree on disk.
//!
//! Later members replace earlier ones as creating them in a folder would. A member below a
//! symbolic link of the same layer goes where the link leads, inside the layer. Links of lower
//! layers are not seen: there the layer has a directory of its own. Hard links share what their
//! target was when they were made; afterwards the first path of each such group, in sorted order,
//! is the file and the others are links to it, whatever the stream's order was.

use std::collections::{BTreeMap, BTreeSet};

use super::entry::{Entry, EntryKind, display_path, join_path, split_path};
use super::index::Index;

/// More links than this on one path are a loop.
const LINK_LIMIT: usize = 255;

/// Why members of a stream don't go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyError {
    /// A member inside what is no directory.
    #[error("the layer's `{path}` is inside `{ancestor}`, which is not a directory")]
    NotInDirectory {
        /// The member.
        path: String,
        /// What should be a directory.
        ancestor: String,
    },
    /// A hard link to what isn't there.
    #[error("the layer's hard link `{path}` names `{target}`, which is no file of the same layer")]
    LinkTarget {
        /// The hard link.
        path: String,
        /// What it names.
        target: String,
    },
    /// A member below links that form a loop.
    #[error("the layer's `{0}` is below symbolic links that form a loop")]
    LinkLoop(String),
}

/// Where a member goes, and what has to be done there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    /// Its path after following links of the layer.
    pub(super) path: Vec<u8>,
    /// What it finds there.
    pub(super) before: Before,
    /// For a hard link: the path, inside the layer, of what it names.
    pub(super) link: Option<Vec<u8>>,
    inode: u64,
}

/// What stands at a member's place before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// Nothing.
    Nothing,
    /// Something that has to go; a directory with all its content.
    Replaced,
    /// A directory, and the member is one, too.
    SameDirectory,
}

/// Members so far.
#[derive(Default)]
pub(super) struct Assembly {
    nodes: BTreeMap<Key, Node>,
    whiteouts: BTreeSet<Key>,
    opaque: BTreeSet<Key>,
    inodes: u64,
    /// Inodes that have had more than one name.
    linked: BTreeSet<u64>,
    passwd: Inline,
    group: Inline,
    /// The parent of the member before, as written, and where it led.
    last_parent: Option<(Vec<u8>, Vec<u8>)>,
}

/// A path with NUL bytes for slashes: plain byte order is then the order of
/// [`super::entry::compare_paths`].
type Key = Vec<u8>;

#[derive(Default)]
struct Inline {
    inode: u64,
    content: Option<Vec<u8>>,
}

struct Node {
    entry: Entry,
    inode: u64,
    /// A directory without a member of its own.
    implied: bool,
}

fn key(path: &[u8]) -> Key {
    path.iter()
        .map(|&b| if b == b'/' { 0 } else { b })
        .collect()
}

impl Assembly {
    /// Adds a member that is no whiteout.
    pub(super) fn place(&mut self, mut entry: Entry) -> Result<Placed, AssemblyError> {
        let (parent, name) = split_path(&entry.path);
        let path = join_path(&self.directory(parent, &entry.path)?, name);
        let link = match entry.kind {
            EntryKind::HardLink => Some(self.link_target(&entry, &path)?),
            _ => None,
        };
        let at = key(&path);
        let before = match self.nodes.get(&at) {
            None => Before::Nothing,
            Some(node) if node.entry.is_directory() && entry.is_directory() => {
                Before::SameDirectory
            }
            Some(_) => Before::Replaced,
        };
        if before == Before::Replaced {
            self.remove(&at);
        }
        self.inodes += 1;
        let mut inode = self.inodes;
        if let Some(target) = link
            .as_ref()
            .and_then(|target| self.nodes.get(&key(target)))
        {
            inode = target.inode;
            entry = target.entry.clone();
            self.linked.insert(inode);
        }
        entry.path.clone_from(&path);
        let node = Node {
            entry,
            inode,
            implied: false,
        };
        self.nodes.insert(at, node);
        Ok(Placed {
            path,
            before,
            link,
            inode,
        })
    }

    /// Adds a whiteout of `path`, whose directory may be below links of the layer.
    pub(super) fn whiteout(&mut self, path: &[u8]) -> Result<(), AssemblyError> {
        let (parent, name) = split_path(path);
        let path = join_path(&self.directory(parent, path)?, name);
        self.whiteouts.insert(key(&path));
        Ok(())
    }

    /// Marks a directory as opaque.
    pub(super) fn opaque(&mut self, directory: &[u8]) -> Result<(), AssemblyError> {
        let path = self.directory(directory, directory)?;
        self.opaque.insert(key(&path));
        Ok(())
    }

    /// Where the content of the member just placed is kept, if the index wants it.
    pub(super) fn inline_slot(&mut self, placed: &Placed) -> Option<&mut Option<Vec<u8>>> {
        let inline = match placed.path.as_slice() {
            b"etc/passwd" => &mut self.passwd,
            b"etc/group" => &mut self.group,
            _ => return None,
        };
        if placed.link.is_some() {
            return None;
        }
        inline.inode = placed.inode;
        inline.content = None;
        Some(&mut inline.content)
    }

    /// The index of all members. Directories without a member of their own have no entry, unless
    /// they are opaque.
    pub(super) fn finish(mut self) -> Index {
        // A whiteout never hides what its own layer has (OCI image spec, `layer.md`): it still
        // hides what lower layers have inside a directory of the same name.
        let whiteouts = std::mem::take(&mut self.whiteouts);
        let mut entries: Vec<Entry> = Vec::with_capacity(self.nodes.len() + whiteouts.len());
        for at in &whiteouts {
            match self.nodes.get(at) {
                Some(node) if node.entry.is_directory() => {
                    self.opaque.insert(at.clone());
                }
                Some(_) => {}
                None => entries.push(Entry::whiteout(path_of(at))),
            }
        }
        let user_database = |inline: Inline, path: &[u8]| {
            let node = self
                .nodes
                .get(&key(path))
                .filter(|node| node.entry.is_file());
            inline
                .content
                .filter(|_| node.is_some_and(|node| node.inode == inline.inode))
        };
        let passwd = user_database(self.passwd, b"etc/passwd");
        let group = user_database(self.group, b"etc/group");
        let mut first_names: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for (at, node) in self.nodes {
            let mut entry = node.entry;
            if self.opaque.contains(&at) && entry.is_directory() {
                entry.kind = EntryKind::Directory { opaque: true };
            } else if node.implied {
                continue;
            }
            if self.linked.contains(&node.inode) {
                if let Some(first) = first_names.get(&node.inode) {
                    entry.kind = EntryKind::HardLink;
                    entry.link.clone_from(first);
                    entry.size = 0;
                    entry.offset = None;
                } else {
                    first_names.insert(node.inode, entry.path.clone());
                }
            }
            entries.push(entry);
        }
        Index {
            passwd,
            group,
            ..Index::new(entries)
        }
    }

    /// Directories that only entries inside them imply, deepest last.
    pub(super) fn implied_directories(&self) -> Vec<Vec<u8>> {
        self.nodes
            .values()
            .filter(|node| node.implied)
            .map(|node| node.entry.path.clone())
            .collect()
    }

    /// What the hard link `entry`, to be made at `path`, names.
    fn link_target(&mut self, entry: &Entry, path: &[u8]) -> Result<Vec<u8>, AssemblyError> {
        let missing = || AssemblyError::LinkTarget {
            path: display_path(&entry.path),
            target: display_path(&entry.link),
        };
        let (parent, name) = split_path(&entry.link);
        let target = join_path(&self.resolve(parent, &entry.path)?, name);
        let exists = self
            .nodes
            .get(&key(&target))
            .is_some_and(|node| !node.entry.is_directory());
        // What stands at the link's own path goes before the link is made.
        if !exists || target == path || super::entry::is_inside(&target, path) {
            return Err(missing());
        }
        Ok(target)
    }

    /// Removes a node, with all inside it if it is a directory.
    fn remove(&mut self, at: &[u8]) {
        self.last_parent = None;
        self.nodes.remove(at);
        let inside = [at, &[0]].concat();
        while let Some((next, _)) = self.nodes.range(inside.clone()..).next()
            && next.starts_with(&inside)
        {
            let next = next.clone();
            self.nodes.remove(&next);
        }
        // Markers of the directory that goes go with it.
        self.opaque.remove(at);
        for markers in [&mut self.opaque, &mut self.whiteouts] {
            while let Some(marker) = first_inside(markers, &inside) {
                markers.remove(&marker);
            }
        }
    }

    /// Where the directory `path` leads, made as implied directories where nothing is.
    fn directory(&mut self, path: &[u8], member: &[u8]) -> Result<Vec<u8>, AssemblyError> {
        if let Some((written, led)) = &self.last_parent
            && written == path
        {
            return Ok(led.clone());
        }
        let resolved = self.resolve(path, member)?;
        for directory in super::entry::ancestors(&resolved).chain([resolved.as_slice()]) {
            if directory.is_empty() {
                continue;
            }
            let at = key(directory);
            if !self.nodes.contains_key(&at) {
                self.inodes += 1;
                let node = Node {
                    entry: Entry::directory(directory),
                    inode: self.inodes,
                    implied: true,
                };
                self.nodes.insert(at, node);
            }
        }
        self.last_parent = Some((path.to_vec(), resolved.clone()));
        Ok(resolved)
    }

    /// Where the directory `path` leads, following links of this layer inside its root.
    fn resolve(&self, path: &[u8], member: &[u8]) -> Result<Vec<u8>, AssemblyError> {
        let mut rest = components_reversed(path);
        let mut at: Vec<u8> = Vec::new();
        let mut links = 0;
        while let Some(component) = rest.pop() {
            if component == b".." {
                at.truncate(split_path(&at).0.len());
                continue;
            }
            let next = join_path(&at, &component);
            match self.nodes.get(&key(&next)).map(|node| &node.entry) {
                Some(entry) if entry.kind == EntryKind::Symlink => {
                    links += 1;
                    if links > LINK_LIMIT {
                        return Err(AssemblyError::LinkLoop(display_path(member)));
                    }
                    if entry.link.starts_with(b"/") {
                        at.clear();
                    }
                    rest.extend(components_reversed(&entry.link));
                }
                Some(entry) if !entry.is_directory() => {
                    return Err(AssemblyError::NotInDirectory {
                        path: display_path(member),
                        ancestor: display_path(&next),
                    });
                }
                _ => at = next,
            }
        }
        Ok(at)
    }
}

/// The first key that starts with `prefix`.
fn first_inside(keys: &BTreeSet<Key>, prefix: &[u8]) -> Option<Key> {
    let first = keys.range(prefix.to_vec()..).next();
    first.filter(|key| key.starts_with(prefix)).cloned()
}

fn path_of(at: &[u8]) -> Vec<u8> {
    at.iter().map(|&b| if b == 0 { b'/' } else { b }).collect()
}

fn components_reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/')
        .filter(|component| !matches!(*component, b"" | b"."))
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}
