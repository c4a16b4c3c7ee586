//! ADD of a local archive: its members become items below the destination.
//!
//! The archive is decompressed once into a temporary file, so that members can be written in the
//! layer's order instead of the archive's. Members keep their owners, modes and times; parent
//! directories are followed through links inside the root, as an unpacking program would.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use super::destination::{Bytes, Destination, Item, OnTheWay, display};
use super::selection::Selector;
use super::{CopyError, DIRECTORY_MODE};
use crate::layer::entry::{Entry, EntryKind, join_path, split_path};
use crate::layer::index::Index;
use crate::layer::{compression, tar_reader};
use crate::snapshot::{Content, FileTree, Node};

/// Bytes that a tar header takes.
const HEADER: usize = 512;

/// Unpacks `node` into the destination if it is an archive. `Ok(false)` when it is none.
pub(super) fn unpack(
    selector: &Selector<'_>,
    tree: &Arc<dyn FileTree>,
    node: &Node,
    destination: &mut Destination,
    written: &[u8],
) -> Result<bool, CopyError> {
    if !is_archive(tree.open(&node.file())?) {
        return Ok(false);
    }
    let broken = |source: io::Error| CopyError::Archive {
        path: display(&node.entry.path),
        source: Box::new(source),
    };
    let mut plain = (selector.scratch)().map_err(broken)?;
    let mut tar = compression::decompress(tree.open(&node.file())?).map_err(broken)?;
    io::copy(&mut tar, &mut plain).map_err(broken)?;
    let index = tar_reader::read_index(File::try_clone(&plain).and_then(rewound).map_err(broken)?)
        .map_err(|source| CopyError::Archive {
            path: display(&node.entry.path),
            source: Box::new(source),
        })?;
    let archive = Arc::new(Content::Plain(Arc::new(plain)));
    let target = destination.resolve(written)?;
    // No --chmod here, and no --chown for what members only imply: as in BuildKit.
    let owner = selector.owner.unwrap_or_default();
    let made = OnTheWay {
        mode: DIRECTORY_MODE,
        uid: owner.uid,
        gid: owner.gid,
    };
    destination.make_directories_as(&target, made)?;
    if let Some(first) = index.entries.iter().find(|entry| leaves_out(entry)) {
        selector.warn_of_marks(&display(&node.entry.path), &display(&first.path));
    }
    for entry in &index.entries {
        member(selector, &archive, &index, entry, destination, &target)?;
    }
    Ok(true)
}

fn rewound(mut file: File) -> io::Result<io::BufReader<File>> {
    io::Seek::rewind(&mut file)?;
    Ok(io::BufReader::with_capacity(1 << 16, file))
}

fn member(
    selector: &Selector<'_>,
    archive: &Arc<Content>,
    index: &Index,
    entry: &Entry,
    destination: &mut Destination,
    target: &[u8],
) -> Result<(), CopyError> {
    if entry.path.is_empty() || entry.kind == EntryKind::Whiteout {
        return Ok(());
    }
    let (parent, name) = split_path(&entry.path);
    let parent = destination.resolve(&join_path(target, parent))?;
    let implied = OnTheWay {
        mode: DIRECTORY_MODE,
        uid: 0,
        gid: 0,
    };
    destination.make_directories_as(&parent, implied)?;
    let path = join_path(&parent, name);
    let inode = index.inode(entry).unwrap_or(entry);
    let both_directories = entry.is_directory() && destination.is_directory(&path);
    if !both_directories {
        destination.forget_below(&path);
    }
    let mut placed = inode.clone();
    placed.path = path;
    placed.offset = None;
    if placed.is_directory() {
        // What the archive adds hides nothing.
        placed.kind = EntryKind::Directory { opaque: false };
    }
    if let Some(owner) = selector.owner {
        placed.uid = owner.uid;
        placed.gid = owner.gid;
    }
    let bytes = if inode.is_file() {
        Bytes::Content(Arc::clone(archive), inode.clone())
    } else {
        Bytes::None
    };
    let mut identity = selector.source.get().to_le_bytes().to_vec();
    identity.extend_from_slice(b"archive");
    identity.extend_from_slice(&inode.path);
    destination.insert(Item {
        entry: placed,
        bytes,
        identity: inode.is_file().then_some(identity),
        on_the_way: false,
    });
    Ok(())
}

/// Whether a member is a mark of a layer, which is no file of an archive.
fn leaves_out(entry: &Entry) -> bool {
    matches!(
        entry.kind,
        EntryKind::Whiteout | EntryKind::Directory { opaque: true }
    )
}

/// Whether the file is a tar archive, plain or compressed: what comes out of decompression
/// starts with a header whose checksum is right.
fn is_archive(content: Box<dyn Read + Send>) -> bool {
    let Ok(mut plain) = compression::decompress(content) else {
        return false;
    };
    let mut header = [0; HEADER];
    if plain.read_exact(&mut header).is_err() {
        return false;
    }
    tar_reader::is_tar(&header)
}
