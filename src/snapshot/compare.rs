//! What two file systems differ in, path by path.
//!
//! Files of one layer are equal without being read; content is read only where two files of
//! different layers have the same size.

use std::io::Read;

use super::{FileTree, Node, SnapshotTree, TreeError};
use crate::layer::entry::EntryKind;

/// Something that two files of the same name differ in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Aspect {
    /// One is a file, the other a directory, say.
    Kind,
    /// Permissions.
    Mode,
    /// User or group.
    Owner,
    /// The bytes of a file.
    Content,
    /// Where a symbolic link leads.
    Target,
    /// The numbers of a device.
    Device,
    /// Extended attributes.
    Xattrs,
    /// The time of modification, in whole seconds.
    Time,
}

/// One path at which two file systems differ.
#[derive(Clone, Debug)]
pub enum Difference {
    /// Only the second has it.
    Added(Node),
    /// Only the first has it.
    Removed(Node),
    /// Both have it, the first's and the second's, differing in these.
    Changed(Box<(Node, Node)>, Vec<Aspect>),
}

impl Difference {
    /// The path, without a leading slash.
    pub fn path(&self) -> &[u8] {
        match self {
            Self::Added(node) | Self::Removed(node) => &node.entry.path,
            Self::Changed(nodes, _) => &nodes.1.entry.path,
        }
    }
}

/// What `b` has that `a` has not, and the other way round, sorted by path; a folder stands before
/// what is in it. With `times`, times of modification count.
///
/// # Errors
/// When a layer or a file can't be read.
pub fn compare(
    a: &SnapshotTree,
    b: &SnapshotTree,
    times: bool,
) -> Result<Vec<Difference>, TreeError> {
    let mut comparison = Comparison {
        a,
        b,
        times,
        found: Vec::new(),
    };
    // No recursion on names that an image chose.
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        pending.append(&mut comparison.level(&path)?);
    }
    comparison.found.sort_by(|x, y| x.path().cmp(y.path()));
    Ok(comparison.found)
}

struct Comparison<'a> {
    a: &'a SnapshotTree,
    b: &'a SnapshotTree,
    times: bool,
    found: Vec<Difference>,
}

impl Comparison<'_> {
    /// Compares what a directory of both holds; gives the directories that both have.
    fn level(&mut self, path: &[u8]) -> Result<Vec<Vec<u8>>, TreeError> {
        let mut left = self.a.children(path)?.into_iter().peekable();
        let mut right = self.b.children(path)?.into_iter().peekable();
        let mut both = Vec::new();
        loop {
            let order = match (left.peek(), right.peek()) {
                (None, None) => return Ok(both),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(x), Some(y)) => x.entry.path.cmp(&y.entry.path),
            };
            if order.is_lt() {
                let removed = left.next();
                self.whole(self.a, removed, Difference::Removed)?;
            } else if order.is_gt() {
                let added = right.next();
                self.whole(self.b, added, Difference::Added)?;
            } else if let (Some(x), Some(y)) = (left.next(), right.next()) {
                both.extend(self.pair(x, y)?);
            }
        }
    }

    /// Two of the same name; gives the path where both are directories.
    fn pair(&mut self, x: Node, y: Node) -> Result<Option<Vec<u8>>, TreeError> {
        let aspects = self.aspects(&x, &y)?;
        let both = x.entry.is_directory() && y.entry.is_directory();
        let path = both.then(|| x.entry.path.clone());
        if path.is_none() {
            // What is inside a directory that the other has as something else.
            self.inside(self.a, &x, Difference::Removed)?;
            self.inside(self.b, &y, Difference::Added)?;
        }
        if !aspects.is_empty() {
            self.found
                .push(Difference::Changed(Box::new((x, y)), aspects));
        }
        Ok(path)
    }

    /// A node that only one has, with everything in it.
    fn whole(
        &mut self,
        tree: &SnapshotTree,
        node: Option<Node>,
        difference: fn(Node) -> Difference,
    ) -> Result<(), TreeError> {
        let Some(node) = node else { return Ok(()) };
        self.inside(tree, &node, difference)?;
        self.found.push(difference(node));
        Ok(())
    }

    fn inside(
        &mut self,
        tree: &SnapshotTree,
        node: &Node,
        difference: fn(Node) -> Difference,
    ) -> Result<(), TreeError> {
        let mut pending = vec![node.clone()];
        while let Some(node) = pending.pop() {
            if node.entry.is_directory() {
                for child in tree.children(&node.entry.path)? {
                    self.found.push(difference(child.clone()));
                    pending.push(child);
                }
            }
        }
        Ok(())
    }

    fn aspects(&self, x: &Node, y: &Node) -> Result<Vec<Aspect>, TreeError> {
        let (a, b) = (&x.entry, &y.entry);
        let mut aspects = Vec::new();
        let mut differs = |aspect, differs: bool| {
            if differs {
                aspects.push(aspect);
            }
        };
        // That a directory hides what lies below it is the layer's affair.
        let same_kind = std::mem::discriminant(&a.kind) == std::mem::discriminant(&b.kind);
        differs(Aspect::Kind, !same_kind);
        let is_link = a.kind == EntryKind::Symlink && same_kind;
        // The mode of a link means nothing.
        differs(Aspect::Mode, !is_link && a.mode != b.mode);
        differs(Aspect::Owner, (a.uid, a.gid) != (b.uid, b.gid));
        differs(Aspect::Target, is_link && a.link != b.link);
        differs(Aspect::Device, same_kind && a.device != b.device);
        differs(Aspect::Xattrs, a.xattrs != b.xattrs);
        differs(Aspect::Time, self.times && a.mtime != b.mtime);
        if same_kind && a.kind == EntryKind::File && !self.same_content(x, y)? {
            aspects.push(Aspect::Content);
        }
        aspects.sort_unstable();
        Ok(aspects)
    }

    fn same_content(&self, x: &Node, y: &Node) -> Result<bool, TreeError> {
        if x.entry.size != y.entry.size {
            return Ok(false);
        }
        // Both have the same path: from one layer, it is one file.
        if x.entry.size == 0 || self.a.layer(x) == self.b.layer(y) {
            return Ok(true);
        }
        let mut left = self.a.open(&x.file())?;
        let mut right = self.b.open(&y.file())?;
        equal(&mut left, &mut right).map_err(TreeError::file(&x.entry.path))
    }
}

fn equal(left: &mut dyn Read, right: &mut dyn Read) -> std::io::Result<bool> {
    let (mut x, mut y) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let n = fill(left, &mut x)?;
        let m = fill(right, &mut y)?;
        if x[..n] != y[..m] {
            return Ok(false);
        }
        if n == 0 {
            return Ok(true);
        }
    }
}

fn fill(from: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
