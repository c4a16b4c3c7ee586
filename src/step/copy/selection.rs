//! From COPY's sources to items at their destinations, by BuildKit's rules:
//!
//! - a directory's content is copied, not the directory itself; a file goes into the destination
//!   where that is a directory or ends with `/`, else becomes it;
//! - a link named as a source is followed, links below it are copied;
//! - directories that exist at the destination are merged into, files are replaced, and a file
//!   never replaces a directory nor a directory a file.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::ahead::{Ahead, Listed};
use super::destination::{Bytes, Destination, Item, display};
use super::{CopyError, Owner, archive};
use crate::graph::{Copy, CopySource};
use crate::ignore::{Matcher, glob_match, has_wildcards};
use crate::layer::entry::{Entry, EntryKind, join_path, split_path};
use crate::snapshot::{FileTree, Node};
use crate::solver::cancel::Cancel;

/// What is the same for all sources of one instruction.
pub(super) struct Selector<'a> {
    pub(super) copy: &'a Copy,
    /// What paths are paths of.
    pub(super) tree: Option<&'a Arc<dyn FileTree>>,
    /// Whether archives are unpacked.
    pub(super) unpack: bool,
    pub(super) owner: Option<Owner>,
    pub(super) exclude: Option<&'a Matcher>,
    pub(super) cancel: &'a Cancel,
    pub(super) scratch: &'a dyn Fn() -> std::io::Result<std::fs::File>,
    /// Counts the sources.
    pub(super) source: &'a Cell<u64>,
    /// Which of the instruction's sources is at hand.
    pub(super) written: &'a Cell<usize>,
    /// What the user should know.
    pub(super) warnings: &'a RefCell<Vec<String>>,
}

impl Selector<'_> {
    /// Puts every source into `destination`. `fetched` are the trees of those that come from
    /// elsewhere, in their order.
    pub(super) fn select(
        &self,
        destination: &mut Destination,
        fetched: &[Arc<dyn FileTree>],
    ) -> Result<(), CopyError> {
        let mut fetched = fetched.iter();
        let written = self.copy.destination.trim_start_matches('/');
        let written = written.trim_end_matches('/').as_bytes();
        for (number, source) in self.copy.sources.iter().enumerate() {
            self.written.set(number);
            match source {
                CopySource::Inline(file) => {
                    self.enter(destination, written)?;
                    let mut entry = Entry::new(file.name.as_bytes().to_vec(), EntryKind::File);
                    entry.mode = 0o644;
                    entry.size = file.content.len() as u64;
                    entry.mtime = self.copy.directory_time.unwrap_or(0);
                    let bytes = Bytes::Inline(Arc::from(file.content.as_bytes()));
                    let target = self.file_target(destination, written, file.name.as_bytes())?;
                    self.put(destination, entry, bytes, None, target)?;
                }
                CopySource::Path(path) => {
                    let found = self.expand_wildcards(relative(path))?;
                    self.paths(destination, found, written)?;
                }
                CopySource::Literal(path) => {
                    self.paths(destination, vec![relative(path).to_vec()], written)?;
                }
                CopySource::Remote(remote) => {
                    let selector = Selector {
                        tree: fetched.next(),
                        unpack: remote.is_unpacked(),
                        ..*self
                    };
                    let path = remote.path().as_bytes().to_vec();
                    selector.paths(destination, vec![path], written)?;
                }
                CopySource::Parents { root, pattern } => {
                    self.with_parents(destination, relative(root), pattern, written)?;
                }
            }
        }
        Ok(())
    }

    /// Says that marks of removed files are left out of an archive.
    pub(super) fn warn_of_marks(&self, archive: &str, first: &str) {
        self.warnings.borrow_mut().push(format!(
            "names that begin with `.wh.` mean removed files in a layer: those of `{archive}` are \
             left out, the first for `{first}`"
        ));
    }

    /// Makes the destination where the user said that it is a directory.
    fn enter(&self, destination: &mut Destination, written: &[u8]) -> Result<(), CopyError> {
        if self.copy.destination.ends_with('/') {
            let target = destination.resolve(written)?;
            destination.make_directories(&target)?;
        }
        Ok(())
    }

    fn paths(
        &self,
        destination: &mut Destination,
        paths: Vec<Vec<u8>>,
        written: &[u8],
    ) -> Result<(), CopyError> {
        for found in paths {
            if self.tree.is_none() && found.is_empty() {
                // All that is in nothing.
                destination.make_directories(&destination.resolve(written)?)?;
                continue;
            }
            let missing = || self.not_found(&found);
            let tree = self.tree.ok_or_else(missing)?;
            let node = tree.lookup(&found, true)?.ok_or_else(missing)?;
            // Names of one file stay links of each other within one source only.
            self.source.set(self.source.get() + 1);
            if self.unpack
                && node.entry.kind == EntryKind::File
                && archive::unpack(self, tree, &node, destination, written)?
            {
                continue;
            }
            self.enter(destination, written)?;
            if node.entry.is_directory() {
                let target = destination.resolve(written)?;
                destination.make_directories(&target)?;
                let root = node.entry.path.as_slice();
                let exclude = self.exclude.filter(|one| !one.has_exceptions());
                let wanted = |node: &Node| {
                    !exclude.is_some_and(|one| one.excluded(below(&node.entry.path, root)))
                };
                Ahead::during(tree, &wanted, self.cancel, |list| {
                    let mut waiting = Vec::new();
                    self.children(destination, list, root, b"", &target, &mut waiting)
                })?;
            } else {
                let name = split_path(&found).1;
                if self.exclude.is_some_and(|one| one.excluded(name)) {
                    continue;
                }
                let target = self.file_target(destination, written, name)?;
                self.node(destination, node, target)?;
            }
        }
        Ok(())
    }

    /// Where a single file goes: into the destination where that is a directory.
    fn file_target(
        &self,
        destination: &mut Destination,
        written: &[u8],
        name: &[u8],
    ) -> Result<Vec<u8>, CopyError> {
        let mut target = destination.resolve(written)?;
        if destination.is_directory(&target) {
            target = join_path(&target, name);
        }
        destination.make_directories(split_path(&target).0)?;
        Ok(target)
    }

    /// Copies what is in a directory. `waiting` are directories above it that are left out and
    /// come all the same, as they are, once something below them does.
    fn children(
        &self,
        destination: &mut Destination,
        list: &mut dyn FnMut(&[u8]) -> Listed,
        directory: &[u8],
        relative: &[u8],
        target: &[u8],
        waiting: &mut Vec<(Node, Vec<u8>)>,
    ) -> Result<(), CopyError> {
        self.cancel.check().map_err(|_| CopyError::Canceled)?;
        for child in list(directory)? {
            let name = child.entry.name();
            let is_directory = child.entry.is_directory();
            let target = join_path(target, name);
            let relative = match self.exclude {
                None => Vec::new(),
                Some(_) => join_path(relative, name),
            };
            let exclude = self.exclude;
            let is_excluded = exclude.is_some_and(|exclude| exclude.excluded(&relative));
            if is_excluded && !(is_directory && exclude.is_some_and(Matcher::has_exceptions)) {
                continue;
            }
            let path = is_directory.then(|| child.entry.path.clone());
            let depth = waiting.len();
            if is_excluded {
                waiting.push((child, target.clone()));
            } else {
                for (above, target) in waiting.drain(..) {
                    self.node(destination, above, target)?;
                }
                self.node(destination, child, target.clone())?;
            }
            if let Some(path) = path {
                self.children(destination, list, &path, &relative, &target, waiting)?;
            }
            waiting.truncate(depth);
        }
        Ok(())
    }

    /// Puts one node of the tree at `target`.
    pub(super) fn node(
        &self,
        destination: &mut Destination,
        node: Node,
        target: Vec<u8>,
    ) -> Result<(), CopyError> {
        let Some(tree) = self.tree else { return Ok(()) };
        let source = self.source.get().to_le_bytes();
        let identity = node.identity.as_ref();
        let identity = identity.map(|file| [&source[..], file].concat());
        let bytes = if node.entry.is_file() {
            Bytes::Tree(Arc::clone(tree), node.file())
        } else {
            Bytes::None
        };
        self.put(destination, node.entry, bytes, identity, target)
    }

    fn put(
        &self,
        destination: &mut Destination,
        mut entry: Entry,
        bytes: Bytes,
        identity: Option<Vec<u8>>,
        target: Vec<u8>,
    ) -> Result<(), CopyError> {
        let is_directory = entry.is_directory();
        match destination.get(&target).map(|entry| &entry.kind) {
            Some(EntryKind::Directory { .. }) if !is_directory => {
                return Err(CopyError::IsADirectory(display(&target)));
            }
            Some(EntryKind::Directory { .. }) | None => {}
            Some(_) if is_directory => return Err(CopyError::NotADirectory(display(&target))),
            Some(_) => {}
        }
        destination.make_directories(split_path(&target).0)?;
        entry.path = target;
        entry.offset = None;
        if is_directory {
            entry.kind = EntryKind::Directory { opaque: false };
        }
        if let Some(owner) = self.owner {
            entry.uid = owner.uid;
            entry.gid = owner.gid;
        }
        if let Some(chmod) = &self.copy.chmod
            && entry.kind != EntryKind::Symlink
        {
            entry.mode = chmod.apply(entry.mode, is_directory);
        }
        destination.insert(Item {
            entry,
            bytes,
            identity,
            on_the_way: false,
        });
        Ok(())
    }

    /// The paths that a source names: itself, or what its wildcards match, sorted.
    pub(super) fn expand_wildcards(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, CopyError> {
        let parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
        let Some(first) = parts.iter().position(|part| has_wildcards(part)) else {
            return Ok(vec![path.to_vec()]);
        };
        let Some(tree) = self.tree else {
            return Ok(Vec::new());
        };
        let base = parts[..first].join(&b'/');
        let Some(base) = tree.lookup(&base, true)? else {
            return Ok(Vec::new());
        };
        let mut found = vec![base.entry.path];
        for (depth, pattern) in parts[first..].iter().enumerate() {
            let is_last = first + depth + 1 == parts.len();
            let mut next = Vec::new();
            for directory in found {
                for child in tree.children(&directory)? {
                    let matches = glob_match(pattern, child.entry.name())
                        .map_err(|_| CopyError::BadPattern(display(path)))?;
                    if matches && (is_last || child.entry.is_directory()) {
                        next.push(child.entry.path);
                    }
                }
            }
            found = next;
        }
        Ok(found)
    }
}

/// What is left of `path` below `root`.
pub(super) fn below<'a>(path: &'a [u8], root: &[u8]) -> &'a [u8] {
    let rest = path.strip_prefix(root).unwrap_or(path);
    rest.strip_prefix(b"/").unwrap_or(rest)
}

/// A path below the root, as trees take it.
fn relative(path: &str) -> &[u8] {
    path.trim_start_matches('/').as_bytes()
}
