//! An image's merged root file system, read from its layers: in order, and as one tar stream.
//!
//! Nothing is extracted: what is where comes from the layers' indexes, content from wherever the
//! layers are.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use super::ExportError;
use crate::layer::LayerError;
use crate::layer::entry::{Entry, EntryKind};
use crate::layer::tar_writer::{TarWriteError, TarWriter};
use crate::snapshot::{FileTree, Node};
use crate::time::Timestamp;

/// One moment of a walk.
pub(super) enum Step<'a> {
    /// A path, before anything inside it.
    At(&'a Node),
    /// A directory, after all that is inside it.
    Left(&'a Node),
}

/// Walks a tree, the root itself left out: a directory, then all inside it, names sorted by their
/// bytes.
pub(super) fn walk(
    tree: &dyn FileTree,
    mut visit: impl FnMut(Step<'_>) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let mut pending = vec![(None, tree.children(b"")?.into_iter())];
    while let Some((directory, inside)) = pending.last_mut() {
        let Some(node) = inside.next() else {
            if let Some(directory) = directory {
                visit(Step::Left(directory))?;
            }
            pending.pop();
            continue;
        };
        visit(Step::At(&node))?;
        if node.entry.is_directory() {
            let children = tree.children(&node.entry.path)?.into_iter();
            pending.push((Some(node), children));
        }
    }
    Ok(())
}

/// The first name of each file that has several.
#[derive(Default)]
pub(super) struct FirstNames(BTreeMap<Vec<u8>, Vec<u8>>);

impl FirstNames {
    /// The name under which this file was met before; else its name is now the first one.
    pub(super) fn before(&mut self, node: &Node) -> Option<&[u8]> {
        let identity = node.identity.as_ref().filter(|_| node.entry.is_file())?;
        if self.0.contains_key(identity) {
            return self.0.get(identity).map(Vec::as_slice);
        }
        self.0.insert(identity.clone(), node.entry.path.clone());
        None
    }
}

/// Writes trees as one tar stream, each into a folder of its own or, where its name is empty, to the
/// top: real owners, sorted, the same bytes for the same trees. With `time`, everything has that
/// time.
///
/// # Errors
/// When a file can't be read or `out` can't be written.
pub fn write_tar<W: Write>(
    trees: &[(&[u8], &dyn FileTree)],
    time: Option<Timestamp>,
    out: W,
) -> Result<(), ExportError> {
    let mut writer = TarWriter::new(out);
    for (folder, tree) in trees {
        if !folder.is_empty() {
            let mut entry = Entry::directory(*folder);
            entry.mtime = time.map_or(0, Timestamp::seconds);
            writer.append(entry, None).map_err(written)?;
        }
        write_tree(folder, *tree, time, &mut writer)?;
    }
    writer.finish().map(drop).map_err(written)
}

fn write_tree<W: Write>(
    folder: &[u8],
    tree: &dyn FileTree,
    time: Option<Timestamp>,
    writer: &mut TarWriter<W>,
) -> Result<(), ExportError> {
    let inside = |path: &[u8]| match folder {
        [] => path.to_vec(),
        folder => [folder, b"/", path].concat(),
    };
    let mut names = FirstNames::default();
    walk(tree, |step| {
        let Step::At(node) = step else {
            return Ok(());
        };
        let mut entry = node.entry.clone();
        entry.offset = None;
        entry.path = inside(&entry.path);
        if entry.is_directory() {
            // It says something of the layers below its own; here is nothing below.
            entry.kind = EntryKind::Directory { opaque: false };
        }
        if let Some(time) = time {
            entry.mtime = time.seconds();
        }
        let mut content = None;
        if let Some(first) = names.before(node) {
            entry.kind = EntryKind::HardLink;
            entry.link = inside(first);
        } else if entry.is_file() {
            content = Some(tree.open(&node.file())?);
        }
        let content = content.as_mut().map(|content| content as &mut dyn Read);
        writer.append(entry, content).map_err(written)
    })
}

fn written(error: LayerError) -> ExportError {
    match error {
        LayerError::Write(TarWriteError::Write(error)) => ExportError::Write(error),
        error => ExportError::Tar(error),
    }
}
