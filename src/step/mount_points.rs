//! Places for mounts that the image doesn't have.
//!
//! They are made in a tree of their own, stacked between the image and the step's writes: so the
//! step finds `/proc`, `/etc/resolv.conf` or a mount's target, and none of it reaches the layer.
//! Directories that exist are repeated in that tree exactly as the view has them, as overlay
//! takes a merged directory's attributes from its topmost copy.

use std::collections::{BTreeMap, BTreeSet};

use crate::layer::LayerError;
use crate::layer::entry::{Entry, EntryKind, ancestors, join_path};
use crate::layer::index::Index;
use crate::layer::tar_writer::TarWriter;
use crate::layer::view::{View, ViewError};

/// What a mount point has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
}

/// The mount points of one step.
#[derive(Debug, Default)]
pub(super) struct MountPoints {
    entries: BTreeMap<Vec<u8>, Entry>,
    made: BTreeSet<Vec<u8>>,
    /// What files made here hold; the others are empty.
    contents: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl MountPoints {
    /// Sees to it that `target` exists, and gives the path it leads to.
    pub(super) fn add(
        &mut self,
        view: &View,
        target: &[u8],
        kind: Kind,
    ) -> Result<Vec<u8>, ViewError> {
        let resolved = view.resolve(target, true)?;
        let exists = resolved
            .found
            .is_some_and(|found| found.entry.is_directory() == (kind == Kind::Directory));
        let path = resolved.path;
        if exists || path.is_empty() || self.entries.contains_key(&path) {
            return Ok(path);
        }
        for above in ancestors(&path) {
            if self.entries.contains_key(above) {
                continue;
            }
            let entry = match view.get(above) {
                Some(found) if found.entry.is_directory() => {
                    let mut entry = found.entry.clone();
                    entry.path = above.to_vec();
                    entry.kind = EntryKind::Directory { opaque: false };
                    entry
                }
                _ => {
                    self.made.insert(above.to_vec());
                    Entry::directory(above)
                }
            };
            self.entries.insert(above.to_vec(), entry);
        }
        let entry = match kind {
            Kind::Directory => Entry::directory(path.clone()),
            Kind::File => Entry::new(path.clone(), EntryKind::File),
        };
        self.made.insert(path.clone());
        self.entries.insert(path.clone(), entry);
        Ok(path)
    }

    /// Adds a file with content of its own, which the step may change and remove like one of the
    /// image's; `directory` must exist.
    pub(super) fn add_file(
        &mut self,
        view: &View,
        directory: &[u8],
        name: &[u8],
        content: &[u8],
    ) -> Result<(), ViewError> {
        let path = self.add(view, &join_path(directory, name), Kind::File)?;
        if let Some(entry) = self.entries.get_mut(&path)
            && self.made.contains(&path)
        {
            entry.size = content.len() as u64;
            self.contents.insert(path, content.to_vec());
        }
        Ok(())
    }

    /// Whether no mount point had to be made.
    pub(super) fn is_empty(&self) -> bool {
        self.made.is_empty()
    }

    /// Those that had to be made, a directory before what is inside it, with what files hold.
    pub(super) fn made(&self) -> impl Iterator<Item = (&Entry, &[u8])> {
        self.made.iter().filter_map(|path| {
            let content = self.contents.get(path).map_or(&[][..], Vec::as_slice);
            Some((self.entries.get(path)?, content))
        })
    }

    /// The tree as a tar, to be extracted. `root` are the attributes of `/`.
    pub(super) fn tar(&self, root: Entry) -> Result<Vec<u8>, LayerError> {
        let mut writer = TarWriter::new(Vec::new());
        writer.append(root, None)?;
        for entry in Index::new(self.entries.values().cloned().collect()).entries {
            let mut bytes: &[u8] = self.contents.get(&entry.path).map_or(&[], Vec::as_slice);
            let content: Option<&mut dyn std::io::Read> = if entry.is_file() {
                Some(&mut bytes)
            } else {
                None
            };
            writer.append(entry, content)?;
        }
        Ok(writer.finish()?.0)
    }

    /// Leaves out of a step's changes the directories made here that the step put nothing into.
    pub(super) fn prune(&self, index: Index) -> Index {
        let mut kept: Vec<Entry> = Vec::with_capacity(index.entries.len());
        let mut needed: BTreeSet<Vec<u8>> = BTreeSet::new();
        for entry in index.entries.into_iter().rev() {
            if self.made.contains(&entry.path) && !needed.contains(&entry.path) {
                continue;
            }
            for above in ancestors(&entry.path) {
                needed.insert(above.to_vec());
            }
            kept.push(entry);
        }
        kept.reverse();
        Index {
            entries: kept,
            passwd: index.passwd,
            group: index.group,
        }
    }
}

/// The attributes of a view's root directory.
pub(super) fn root_entry(view: &View) -> Entry {
    let mut entry = view
        .get(b"")
        .map_or_else(|| Entry::directory(Vec::new()), |found| found.entry.clone());
    entry.path = join_path(b"", b"");
    entry.kind = EntryKind::Directory { opaque: false };
    entry
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn view(entries: Vec<Entry>) -> View {
        View::new(vec![Arc::new(Index::new(entries))])
    }

    #[test]
    fn what_exists_is_left_alone_and_parents_keep_their_attributes() {
        let mut run = Entry::directory("run");
        run.mode = 0o1777;
        run.mtime = 42;
        let mut link = Entry::new("var", EntryKind::Symlink);
        link.link = b"/run".to_vec();
        let view = view(vec![Entry::directory("proc"), run.clone(), link]);
        let mut points = MountPoints::default();
        points.add(&view, b"proc", Kind::Directory).unwrap();
        assert!(points.is_empty());
        let path = points
            .add(&view, b"/var/secrets/token", Kind::File)
            .unwrap();
        assert_eq!(path, b"run/secrets/token");
        let paths: Vec<&[u8]> = points.entries.keys().map(Vec::as_slice).collect();
        assert_eq!(paths, [&b"run"[..], b"run/secrets", b"run/secrets/token"]);
        assert_eq!(points.entries[&b"run"[..]].mode, 0o1777);
        assert_eq!(points.entries[&b"run"[..]].mtime, 42);
    }

    #[test]
    fn made_directories_that_stay_empty_are_no_change() {
        let mut points = MountPoints::default();
        points
            .add(&View::default(), b"cache/a", Kind::Directory)
            .unwrap();
        points
            .add(&View::default(), b"keep/b", Kind::Directory)
            .unwrap();
        let changes = Index::new(vec![
            Entry::directory("cache"),
            Entry::directory("cache/a"),
            Entry::directory("keep"),
            Entry::new("keep/file", EntryKind::File),
        ]);
        let paths: Vec<Vec<u8>> = points
            .prune(changes)
            .entries
            .into_iter()
            .map(|e| e.path)
            .collect();
        assert_eq!(paths, [b"keep".to_vec(), b"keep/file".to_vec()]);
    }
}
