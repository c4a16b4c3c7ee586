//! What a step changed: an overlay mount's upper directory as an index and a tar stream.
//!
//! The index holds the difference between what the step left and the view below it, however the
//! kernel came to it: files copied up and left as they were, parents only touched, whiteouts of
//! what was never there all vanish; an opaque directory becomes whiteouts of what is gone. So the
//! same result gives the same layer on every kernel and every rung of isolation.
//!
//! The tree is a step's work and hostile: names are opened one component at a time, no link is
//! followed. Overlay's own attributes never reach the index.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Stat};

use super::entry::{Entry, EntryKind, display_path, is_inside, join_path, split_path};
use super::error::LayerError;
use super::form::Form;
use super::index::{INLINE_LIMIT, Index};
use super::tar_writer::{TarWriter, check_entry, inline_slot};
use super::view::{Found, View};
use super::xattr::{OVERRIDE_STAT, Target, Xattrs, is_carried, is_overlay};
use crate::fs::FsError;
use crate::fs::descent::{Descent, Missing, open_file};
use crate::fs::root::file_type;
use crate::fs::walk::{Descend, Visited, walk};
use crate::time::Timestamp;
use owners::{HandedOn, Origin, Teller};
use same::has_same_metadata;

pub use owners::{NotedOwner, Owners};

mod owners;
mod same;

/// Why a tree can't become a layer.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// The tree can't be read.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The mount was made with options that scatter a file over several layers.
    #[error(
        "`{path}` has the overlay attribute `{attribute}`: the tree was mounted with redirect_dir \
         or metacopy on, and can't be read alone; mount it with both off"
    )]
    ForeignOverlay {
        /// The path in the tree.
        path: String,
        /// The attribute.
        attribute: String,
    },
    /// The content of a lower layer's file can't be read for comparison.
    #[error("can't read `{path}` of the layers below")]
    Lower {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Opens the content of a lower layer's file: the path in the view, and the file's own entry (for a
/// hard link that of the file it names).
pub type LowerContent<'a> = dyn Fn(&[u8], &Found<'_>) -> io::Result<Box<dyn Read>> + 'a;

/// The index of what the upper directory `tree` changes in the view `below`. The root directory is
/// in it only when its owner, mode or attributes differ. Where owners are kept in attributes, files
/// that lack theirs get them: a later step must find them.
///
/// # Errors
/// When the tree or a lower file can't be read, the tree comes from another kind of mount, or holds
/// what no layer can: a name that starts with `.wh.`, an attribute with `=` in its name.
pub fn index_tree(
    tree: BorrowedFd<'_>,
    form: &Form,
    below: &View,
    owners: &Owners,
    lower_content: &LowerContent<'_>,
) -> Result<Index, LayerError> {
    index(tree, form, below, owners, lower_content, Source::Upper)
}

/// What has become of a file since the folder that it is in last equalled the view below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileState {
    /// Nothing.
    Unchanged,
    /// It is the same file, and something may have changed.
    Known,
    /// It wasn't there.
    New,
}

/// The index of what `folder`, a whole file system, has other than the view `below`: the same that
/// the upper directory of an overlay mount gives after the same changes. What is unchanged since the
/// folder last equalled the view is neither read nor compared; each path is asked about, once.
///
/// # Errors
/// When the folder or a lower file can't be read, or the folder holds what no layer can.
pub fn index_folder(
    folder: BorrowedFd<'_>,
    form: &Form,
    below: &View,
    owners: &Owners,
    lower_content: &LowerContent<'_>,
    state: &mut dyn FnMut(&[u8], &Stat) -> FileState,
) -> Result<Index, LayerError> {
    let source = Source::Folder(state);
    index(folder, form, below, owners, lower_content, source)
}

fn index(
    tree: BorrowedFd<'_>,
    form: &Form,
    below: &View,
    owners: &Owners,
    lower_content: &LowerContent<'_>,
    source: Source<'_>,
) -> Result<Index, LayerError> {
    let tree = reopen(tree).map_err(DiffError::from)?;
    let tree = tree.as_fd();
    let mut scan = Scan {
        form,
        below,
        owners,
        lower_content,
        source,
        candidates: Vec::new(),
        directories: Vec::new(),
        inodes: BTreeMap::new(),
    };
    scan.visit_root(tree)?;
    walk::<DiffError>(tree, &mut |visited| scan.visit(&visited))?;
    scan.leave_directories(None);
    let mut index = scan.finish();
    // Now rather than when the layer is written: the step that made it is still known.
    for entry in &index.entries {
        check_entry(entry)?;
    }
    read_inline_files(tree, &mut index)?;
    Ok(index)
}

/// Writes the tar stream of `index`, with file contents from `tree`, whose form doesn't matter:
/// owners, modes and kinds come from the index. Times later than `clamp` become `clamp`. Gives the sink back, and the index of the stream, with offsets.
///
/// # Errors
/// When a file can't be read, is no longer as the index says, or writing fails.
pub fn write_tree_tar<W: Write>(
    tree: BorrowedFd<'_>,
    index: &Index,
    clamp: Option<Timestamp>,
    out: W,
) -> Result<(W, Index), LayerError> {
    let mut writer = TarWriter::new(out);
    let mut descent = Descent::new(tree);
    for entry in &index.entries {
        let mut entry = entry.clone();
        if let (Some(clamp), false) = (clamp, entry.is_whiteout()) {
            entry.mtime = entry.mtime.min(clamp.seconds());
        }
        if entry.is_file() {
            let mut file = open(&mut descent, &entry.path).map_err(DiffError::from)?;
            writer.append(entry, Some(&mut file))?;
        } else {
            writer.append(entry, None)?;
        }
    }
    writer.finish()
}

/// A path of the tree that may be in the layer.
struct Candidate {
    entry: Entry,
    /// Whether it differs from what is below.
    changed: bool,
    /// For what has several names: which inode it is.
    inode: Option<(u64, u64)>,
}

/// A directory that the walk is in.
struct OpenDirectory {
    path: Vec<u8>,
    /// Whether the view below has a directory here.
    exists_below: bool,
    /// Names in the tree that aren't whiteouts; kept for opaque directories, where every other name
    /// of the view below is gone.
    names: Option<BTreeSet<Vec<u8>>>,
    /// The group that what is made in it gets, if it hands its own on and the machine doesn't know
    /// that.
    group: Option<HandedOn>,
}

/// What is looked at.
enum Source<'a> {
    /// The upper directory of an overlay mount: changes only.
    Upper,
    /// Everything, as if every directory were opaque.
    Folder(&'a mut dyn FnMut(&[u8], &Stat) -> FileState),
}

struct Scan<'a, 'u> {
    form: &'a Form,
    below: &'a View,
    owners: &'a Owners,
    lower_content: &'a LowerContent<'a>,
    source: Source<'u>,
    candidates: Vec<Candidate>,
    directories: Vec<OpenDirectory>,
    /// Names of inodes that have several.
    inodes: BTreeMap<(u64, u64), Vec<usize>>,
}

impl Scan<'_, '_> {
    fn visit_root(&mut self, tree: BorrowedFd<'_>) -> Result<(), DiffError> {
        let failed = |error: io::Error| FsError::new("read the metadata of", b"", error);
        let stat = rustix::fs::fstat(tree).map_err(|error| failed(error.into()))?;
        let mut xattrs = Target::Open(tree).list(is_of_interest).map_err(failed)?;
        let opaque = self.take_overlay_xattrs(b"", &mut xattrs)?.opaque || self.is_folder();
        let kind = EntryKind::Directory { opaque: false };
        let over = xattrs.remove(OVERRIDE_STAT);
        let mut entry = entry_of(Vec::new(), &stat, kind, xattrs);
        if self.form.notes_owners() {
            let teller = Teller {
                file: Target::Open(tree),
                path: b"",
                inode: stat.st_ino,
                attribute: over,
                found: self.below.get(b""),
                origin: Origin::Root,
            };
            teller.give_owner(self.owners, self.form, &mut entry)?;
        }
        let group = owners::handed_on(self.form, &entry, stat.st_gid);
        let changed = self
            .below
            .get(b"")
            .is_none_or(|found| !has_same_metadata(&entry, found.entry));
        self.candidates.push(Candidate {
            entry,
            changed,
            inode: None,
        });
        self.directories.push(OpenDirectory {
            path: Vec::new(),
            exists_below: true,
            names: opaque.then(BTreeSet::new),
            group,
        });
        Ok(())
    }

    fn visit(&mut self, visited: &Visited<'_>) -> Result<Descend, DiffError> {
        self.leave_directories(Some(visited.path));
        let state = match &mut self.source {
            Source::Upper => FileState::New,
            Source::Folder(state) => state(visited.path, visited.stat),
        };
        let known = state == FileState::Unchanged;
        let is_folder = self.is_folder();
        let Some(parent) = self.directories.last_mut() else {
            return Ok(Descend::Skip);
        };
        if known && file_type(visited.stat) != FileType::Directory {
            if let (Some(names), Some(_)) = (&mut parent.names, kind_of(visited.stat)) {
                names.insert(visited.name.to_vec());
            }
            return Ok(Descend::Skip);
        }
        let found = parent
            .exists_below
            .then(|| self.below.get(visited.path))
            .flatten();
        let stat = visited.stat;
        let Some(kind) = kind_of(stat) else {
            // A whiteout of what was there; in an opaque directory every missing name is one.
            if found.is_some() && parent.names.is_none() && !is_folder {
                self.push_whiteout(visited.path.to_vec());
            }
            return Ok(Descend::Skip);
        };
        if let Some(names) = &mut parent.names {
            names.insert(visited.name.to_vec());
        }
        let group = parent.group;
        // Of a folder's directory that is as it was, no name is missing.
        let hides_below = match is_folder {
            true => !known,
            false => parent.names.is_some(),
        };
        let was_there = state != FileState::New;
        let (entry, is_opaque) = self.read_entry(visited, kind, found, group, was_there)?;
        if entry.is_directory() {
            let group = owners::handed_on(self.form, &entry, stat.st_gid);
            self.push_directory(entry, found, is_opaque || hides_below, group);
            return Ok(Descend::Enter);
        }
        let changed = match found {
            Some(found) => !self.is_same(&entry, found, visited)?,
            None => true,
        };
        self.push_file(entry, changed, stat);
        Ok(Descend::Skip)
    }

    /// The entry of what is in the tree, and whether it is marked as opaque. What lacks the note of
    /// its owner gets it.
    fn read_entry(
        &self,
        visited: &Visited<'_>,
        kind: EntryKind,
        found: Option<Found<'_>>,
        group: Option<HandedOn>,
        was_there: bool,
    ) -> Result<(Entry, bool), DiffError> {
        let mut xattrs = Target::In(visited.directory, visited.name)
            .list(is_of_interest)
            .map_err(|error| {
                FsError::new("read the extended attributes of", visited.path, error)
            })?;
        let marks = self.take_overlay_xattrs(visited.path, &mut xattrs)?;
        let over = xattrs.remove(OVERRIDE_STAT);
        let mut entry = entry_of(visited.path.to_vec(), visited.stat, kind, xattrs);
        if kind == EntryKind::Symlink {
            entry.link = rustix::fs::readlinkat(visited.directory, visited.name, Vec::new())
                .map_err(|error| FsError::new("read the link", visited.path, error))?
                .into_bytes();
        }
        if self.form.notes_owners() {
            let copied_up = marks.copied_up || was_there;
            let teller = Teller {
                file: Target::In(visited.directory, visited.name),
                path: visited.path,
                inode: visited.stat.st_ino,
                attribute: over,
                found,
                origin: Origin::Walk { copied_up, group },
            };
            teller.give_owner(self.owners, self.form, &mut entry)?;
        }
        Ok((entry, marks.opaque))
    }

    fn push_file(&mut self, entry: Entry, changed: bool, stat: &Stat) {
        let inode = (stat.st_nlink > 1).then_some((stat.st_dev, stat.st_ino));
        if let Some(inode) = inode {
            let names = self.inodes.entry(inode).or_default();
            names.push(self.candidates.len());
        }
        self.candidates.push(Candidate {
            entry,
            changed,
            inode,
        });
    }

    fn push_whiteout(&mut self, path: Vec<u8>) {
        self.candidates.push(Candidate {
            entry: Entry::whiteout(path),
            changed: true,
            inode: None,
        });
    }

    fn push_directory(
        &mut self,
        entry: Entry,
        found: Option<Found<'_>>,
        opaque: bool,
        group: Option<HandedOn>,
    ) {
        let below = found.filter(|found| found.entry.is_directory());
        self.directories.push(OpenDirectory {
            path: entry.path.clone(),
            exists_below: below.is_some(),
            names: (opaque && below.is_some()).then(BTreeSet::new),
            group,
        });
        // A directory's time changes whenever something in it comes and goes; alone it is no change.
        let changed = below.is_none_or(|found| !has_same_metadata(&entry, found.entry));
        self.candidates.push(Candidate {
            entry,
            changed,
            inode: None,
        });
    }

    /// Leaves the directories that `path` isn't inside; all of them for `None`.
    fn leave_directories(&mut self, path: Option<&[u8]>) {
        while let Some(last) = self.directories.last() {
            if path.is_some_and(|path| is_inside(path, &last.path)) {
                return;
            }
            let Some(left) = self.directories.pop() else {
                return;
            };
            let Some(names) = left.names else { continue };
            for (name, _) in self.below.children(&left.path) {
                if !names.contains(&name) {
                    self.push_whiteout(join_path(&left.path, &name));
                }
            }
        }
    }

    fn is_folder(&self) -> bool {
        matches!(self.source, Source::Folder(_))
    }

    /// Takes overlay's own attributes out; says what they mark. In a folder they are a step's own
    /// and mean nothing.
    fn take_overlay_xattrs(&self, path: &[u8], xattrs: &mut Xattrs) -> Result<Marks, DiffError> {
        let prefix = self.form.xattr_namespace.overlay_prefix().as_bytes();
        let mut marks = Marks::default();
        for (name, value) in xattrs.iter().filter(|_| !self.is_folder()) {
            match name.strip_prefix(prefix) {
                Some(b"opaque") => marks.opaque |= value == b"y",
                Some(b"origin") => marks.copied_up = true,
                Some(b"redirect" | b"metacopy") => {
                    return Err(DiffError::ForeignOverlay {
                        path: display_path(path),
                        attribute: String::from_utf8_lossy(name).into_owned(),
                    });
                }
                _ => {}
            }
        }
        xattrs.retain(|name, _| is_carried(name) || name == OVERRIDE_STAT);
        Ok(marks)
    }

    /// Keeps what changed, the directories above it, and all names of a file of which one changed.
    fn finish(mut self) -> Index {
        let mut first_names: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
        for names in self.inodes.values() {
            let changed = names.iter().any(|&i| self.candidates[i].changed);
            for &i in names {
                self.candidates[i].changed = changed;
            }
        }
        let mut candidates = self.candidates;
        candidates.sort_by(|a, b| super::entry::compare_paths(&a.entry.path, &b.entry.path));
        let mut entries: Vec<Entry> = Vec::new();
        // Backwards, so that a directory comes after all that is inside it. The one just kept is
        // inside every directory that has something kept inside.
        for candidate in candidates.iter().rev() {
            let entry = &candidate.entry;
            let is_parent = entry.is_directory()
                && !entry.path.is_empty()
                && entries
                    .last()
                    .is_some_and(|kept| is_inside(&kept.path, &entry.path));
            if candidate.changed || is_parent {
                entries.push(entry.clone());
            }
        }
        entries.reverse();
        let inode_of: BTreeMap<&[u8], (u64, u64)> = candidates
            .iter()
            .filter_map(|candidate| Some((candidate.entry.path.as_slice(), candidate.inode?)))
            .collect();
        for entry in &mut entries {
            let Some(inode) = inode_of.get(entry.path.as_slice()) else {
                continue;
            };
            if let Some(first) = first_names.get(inode) {
                entry.kind = EntryKind::HardLink;
                entry.link.clone_from(first);
                entry.size = 0;
            } else {
                first_names.insert(*inode, entry.path.clone());
            }
        }
        Index {
            entries,
            ..Index::default()
        }
    }
}

/// What overlay's attributes say of a file.
#[derive(Clone, Copy, Default)]
struct Marks {
    /// It hides the directory below it.
    opaque: bool,
    /// It was copied from below, as opposed to made.
    copied_up: bool,
}

fn entry_of(path: Vec<u8>, stat: &Stat, kind: EntryKind, xattrs: Xattrs) -> Entry {
    let mut entry = Entry::new(path, kind);
    entry.uid = stat.st_uid;
    entry.gid = stat.st_gid;
    entry.mtime = stat.st_mtime;
    entry.xattrs = xattrs;
    if kind != EntryKind::Symlink {
        entry.mode = stat.st_mode & 0o7777;
    }
    match kind {
        EntryKind::File => entry.size = u64::try_from(stat.st_size).unwrap_or(0),
        EntryKind::CharDevice | EntryKind::BlockDevice => {
            entry.device = (
                rustix::fs::major(stat.st_rdev),
                rustix::fs::minor(stat.st_rdev),
            );
        }
        _ => {}
    }
    entry
}

/// Opens a directory for reading that may be open as a path only.
fn reopen(directory: BorrowedFd<'_>) -> Result<OwnedFd, FsError> {
    Descent::new(directory)
        .reopen()
        .map_err(|error| FsError::new("open", b"", error))
}

/// What a file of the tree is in a layer; `None` for what stands for a deletion: a whiteout, and a
/// socket, which no layer holds.
fn kind_of(stat: &Stat) -> Option<EntryKind> {
    Some(match file_type(stat) {
        FileType::CharacterDevice if stat.st_rdev == 0 => return None,
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory { opaque: false },
        FileType::Symlink => EntryKind::Symlink,
        FileType::CharacterDevice => EntryKind::CharDevice,
        FileType::BlockDevice => EntryKind::BlockDevice,
        FileType::Fifo => EntryKind::Fifo,
        _ => return None,
    })
}

/// Whether an attribute says something about the entry, or about the tree that it is in.
fn is_of_interest(name: &[u8]) -> bool {
    is_carried(name) || name == OVERRIDE_STAT || is_overlay(name)
}

fn read_inline_files(tree: BorrowedFd<'_>, index: &mut Index) -> Result<(), DiffError> {
    for path in [&b"etc/passwd"[..], b"etc/group"] {
        let is_wanted = index
            .get(path)
            .is_some_and(|entry| entry.is_file() && entry.size <= INLINE_LIMIT);
        if is_wanted && let Some(slot) = inline_slot(index, path) {
            let file = open(&mut Descent::new(tree), path)?;
            let mut content = Vec::new();
            file.take(INLINE_LIMIT)
                .read_to_end(&mut content)
                .map_err(|error| FsError::new("read", path, error))?;
            *slot = Some(content);
        }
    }
    Ok(())
}

fn open(descent: &mut Descent<'_>, path: &[u8]) -> Result<File, FsError> {
    let (parent, name) = split_path(path);
    descent
        .go_to(parent, Missing::Fail)
        .and_then(|directory| open_file(directory, name))
        .map_err(|error| FsError::new("read", path, error))
}

#[cfg(test)]
mod tests;
