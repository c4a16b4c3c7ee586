//! What a build sees of its context: without what `.dockerignore` leaves out, and owned by root.

use std::io::Read;
use std::sync::Arc;

use crate::ignore::Matcher;
use crate::snapshot::{FileRef, FileTree, Node, TreeError};

/// A tree as the build context.
pub struct ContextTree {
    tree: Arc<dyn FileTree>,
    ignore: Option<Matcher>,
}

impl ContextTree {
    /// `tree` without what `ignore` excludes.
    pub fn new(tree: Arc<dyn FileTree>, ignore: Option<Matcher>) -> Self {
        Self { tree, ignore }
    }

    /// Whether the build sees a node: it isn't left out, or it is a directory with something in
    /// it that isn't.
    fn is_visible(&self, node: &Node) -> Result<bool, TreeError> {
        let path = node.entry.path.as_slice();
        let Some(ignore) = &self.ignore else {
            return Ok(true);
        };
        if path.is_empty() || !ignore.excluded(path) {
            return Ok(true);
        }
        if !node.entry.is_directory() || !ignore.may_have_exceptions_below(path) {
            return Ok(false);
        }
        for child in self.tree.children(path)? {
            if self.is_visible(&child)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn seen(&self, mut node: Node) -> Result<Option<Node>, TreeError> {
        if !self.is_visible(&node)? {
            return Ok(None);
        }
        node.entry.uid = 0;
        node.entry.gid = 0;
        Ok(Some(node))
    }
}

impl FileTree for ContextTree {
    fn lookup(&self, path: &[u8], follow: bool) -> Result<Option<Node>, TreeError> {
        match self.tree.lookup(path, follow)? {
            Some(node) => self.seen(node),
            None => Ok(None),
        }
    }

    fn children(&self, path: &[u8]) -> Result<Vec<Node>, TreeError> {
        let children = self.tree.children(path)?.into_iter();
        children
            .filter_map(|node| self.seen(node).transpose())
            .collect()
    }

    fn open(&self, file: &FileRef) -> Result<Box<dyn Read + Send>, TreeError> {
        self.tree.open(file)
    }

    fn learn_digest(&self, file: &FileRef, digest: [u8; 32]) {
        self.tree.learn_digest(file, digest);
    }

    fn save_digests(&self) {
        self.tree.save_digests();
    }
}
