//! File trees as COPY reads them, wherever their bytes are.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::{Arc, OnceLock};

use super::content::Content;
use super::{Materializer, Snapshot, SnapshotError};
use crate::layer::entry::{Entry, EntryKind, join_path};
use crate::layer::view::{Found, View};
use crate::store::LayerId;

/// One file, directory, link or special file of a tree.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its metadata; the path is the one in its tree. Never a hard link or a whiteout.
    pub entry: Entry,
    /// Equal for names of the same file; `None` for a file with just one name.
    pub identity: Option<Vec<u8>>,
    /// Which layer of a snapshot it comes from; zero elsewhere.
    pub layer: usize,
    /// The BLAKE3 digest of its content, where that is known without reading it.
    pub digest: Option<[u8; 32]>,
}

impl Node {
    /// What it takes to read it.
    pub fn file(&self) -> FileRef {
        FileRef {
            path: self.entry.path.clone(),
            layer: self.layer,
            digest: self.digest,
        }
    }
}

/// What it takes to read a regular file of a tree that was looked at before.
#[derive(Clone, Debug)]
pub struct FileRef {
    /// Its path in the tree.
    pub path: Vec<u8>,
    /// See [`Node::layer`].
    pub layer: usize,
    /// See [`Node::digest`].
    pub digest: Option<[u8; 32]>,
}

/// Why a tree can't be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A file of the tree.
    #[error("`/{path}`: {source}")]
    File {
        /// Its path in the tree.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Links that lead in a circle, or a path through something that is no directory.
    #[error("{0}")]
    Path(String),
    /// The snapshot behind the tree.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl TreeError {
    /// An error of one file.
    pub fn file(path: &[u8]) -> impl FnOnce(io::Error) -> Self {
        let path = String::from_utf8_lossy(path).into_owned();
        move |source| Self::File { path, source }
    }
}

/// A tree of files that can be looked at and read. Paths are relative to its root, without a
/// leading slash; `b""` is the root. No path ever leads out of the tree.
pub trait FileTree: Send + Sync {
    /// The node at `path`, links on the way followed inside the tree; a link at the end only
    /// with `follow`. The node's path is the one that was reached.
    ///
    /// # Errors
    /// When the tree can't be read. A path that doesn't exist is `None`.
    fn lookup(&self, path: &[u8], follow: bool) -> Result<Option<Node>, TreeError>;

    /// What a directory holds, sorted by name.
    ///
    /// # Errors
    /// When the tree can't be read.
    fn children(&self, path: &[u8]) -> Result<Vec<Node>, TreeError>;

    /// The content of a regular file.
    ///
    /// # Errors
    /// When it can't be opened.
    fn open(&self, file: &FileRef) -> Result<Box<dyn Read + Send>, TreeError>;

    /// Takes note of the BLAKE3 digest of a file's content, for later builds.
    fn learn_digest(&self, _: &FileRef, _: [u8; 32]) {}

    /// Keeps what [`FileTree::learn_digest`] was told. Failing to only costs a later build time.
    fn save_digests(&self) {}
}

/// The nodes of a view, without their content.
pub struct ViewTree {
    view: View,
    /// By layer: paths of files that have more names than one.
    linked: Vec<BTreeSet<Vec<u8>>>,
}

impl ViewTree {
    /// The tree of `view`.
    pub fn new(view: View) -> Self {
        let linked = view.layers().iter().map(|index| {
            let links = index
                .entries
                .iter()
                .filter(|entry| entry.kind == EntryKind::HardLink);
            links.map(|entry| entry.link.clone()).collect()
        });
        Self {
            linked: linked.collect(),
            view,
        }
    }

    fn node(&self, path: Vec<u8>, found: Found<'_>) -> Node {
        let inode = self.view.inode(found).unwrap_or(found).entry;
        let identity = self.linked[found.layer].contains(&inode.path).then(|| {
            let mut identity = (found.layer as u64).to_le_bytes().to_vec();
            identity.extend_from_slice(&inode.path);
            identity
        });
        let mut entry = inode.clone();
        entry.path = path;
        Node {
            entry,
            identity,
            layer: found.layer,
            digest: None,
        }
    }

    /// See [`FileTree::lookup`].
    ///
    /// # Errors
    /// When links lead in a circle or a path goes through something that is no directory.
    pub fn lookup(&self, path: &[u8], follow: bool) -> Result<Option<Node>, TreeError> {
        let resolved = self
            .view
            .resolve(path, follow)
            .map_err(|error| TreeError::Path(error.to_string()))?;
        if resolved.path.is_empty() && resolved.found.is_none() {
            return Ok(Some(Node {
                entry: Entry::directory(Vec::new()),
                identity: None,
                layer: 0,
                digest: None,
            }));
        }
        Ok(resolved
            .found
            .map(|found| self.node(resolved.path.clone(), found)))
    }

    /// See [`FileTree::children`].
    pub fn children(&self, path: &[u8]) -> Vec<Node> {
        let children = self.view.children(path).into_iter();
        children
            .map(|(name, found)| self.node(join_path(path, &name), found))
            .collect()
    }

    /// The entry of the file's layer that holds its content: a hard link's is elsewhere.
    ///
    /// # Errors
    /// When the layer has no such file.
    pub fn inode(&self, file: &FileRef) -> io::Result<&Entry> {
        let index = self.view.layers().get(file.layer);
        let inode = index.and_then(|index| {
            let named = index.get(&file.path)?;
            Some(index.inode(named).unwrap_or(named))
        });
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// The merged tree of a snapshot.
pub struct SnapshotTree {
    tree: ViewTree,
    snapshot: Snapshot,
    materializer: Arc<Materializer>,
    contents: Vec<OnceLock<Arc<Content>>>,
}

impl SnapshotTree {
    /// The tree of `snapshot`. Layers whose index is not known are read once, now; content is
    /// fetched when a file is opened.
    ///
    /// # Errors
    /// When a layer can't be had.
    pub fn new(
        materializer: Arc<Materializer>,
        snapshot: &Snapshot,
    ) -> Result<Self, SnapshotError> {
        Ok(Self {
            tree: ViewTree::new(materializer.view(snapshot)?),
            contents: snapshot.layers.iter().map(|_| OnceLock::new()).collect(),
            snapshot: snapshot.clone(),
            materializer,
        })
    }

    /// The merged view of its layers.
    pub fn view(&self) -> &View {
        &self.tree.view
    }

    /// The store's layer that a node comes from.
    pub fn layer(&self, node: &Node) -> Option<LayerId> {
        self.snapshot.layers.get(node.layer).copied()
    }

    fn content(&self, layer: usize) -> Result<Arc<Content>, SnapshotError> {
        if let Some(content) = self.contents[layer].get() {
            return Ok(Arc::clone(content));
        }
        let content = Arc::new(self.materializer.content(self.snapshot.layers[layer])?);
        Ok(Arc::clone(self.contents[layer].get_or_init(|| content)))
    }
}

impl FileTree for SnapshotTree {
    fn lookup(&self, path: &[u8], follow: bool) -> Result<Option<Node>, TreeError> {
        self.tree.lookup(path, follow)
    }

    fn children(&self, path: &[u8]) -> Result<Vec<Node>, TreeError> {
        Ok(self.tree.children(path))
    }

    fn open(&self, file: &FileRef) -> Result<Box<dyn Read + Send>, TreeError> {
        let content = self.content(file.layer)?;
        let opened = self.tree.inode(file).and_then(|inode| content.open(inode));
        opened.map_err(TreeError::file(&file.path))
    }
}
