//! Extracting a layer's tar stream into a folder that an overlay mount can use as a lower
//! directory.
//!
//! The stream is hostile, the folder is ours. Every file is made by descriptor, one component at a
//! time, following no link; `assembly` has already decided where a member goes and what it
//! replaces, so that the tree and the index always agree. The index is the whole truth: where the
//! file system or the user namespace can't hold something (a device, a foreign attribute), the tree
//! holds a stand-in.
//!
//! Creating inodes is what costs, so files are made with as few system calls as they need, and
//! directories get their owner, mode and time once, at the end, deepest first.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::assembly::{Assembly, Before, Placed};
use super::entry::{
    Entry, EntryKind, ancestors, compare_paths, display_path, join_path, split_path,
};
use super::error::LayerError;
use super::form::Form;
use super::index::{INLINE_LIMIT, Index};
use super::tar_reader::{LayerMember, TarReadError, TarReader};
use super::view::View;
use super::xattr::Target;
use crate::fs::descent::{Descent, Missing};
use crate::fs::override_stat::NO_ATTRIBUTES;
use crate::fs::remove::remove_all;

mod place;

pub(super) use place::{Owner, Place, Rules, finish_directory};

/// Why a layer can't be extracted.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The stream can't be read, or holds what no layer can.
    #[error(transparent)]
    Tar(#[from] TarReadError),
    /// Owned by an id that the user namespace has no place for.
    #[error(
        "`{path}` is owned by {uid}:{gid}, which the user namespace doesn't map: give the user a \
         range of ids (`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`)"
    )]
    UnmappedOwner {
        /// The entry.
        path: String,
        /// Its owner in the image.
        uid: u32,
        /// Its group in the image.
        gid: u32,
    },
    /// The file system can't note an owner that this user can't give.
    #[error("can't note the owner of `{path}` in the layer's tree: {NO_ATTRIBUTES}")]
    NoAttributes {
        /// The entry.
        path: String,
    },
    /// The file system says no.
    #[error("can't {operation} `{path}` in the layer's tree")]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The entry.
        path: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Extracts the layer `tar` into the empty directory `tree`, for mounts of the form `form`. `below` are the layers under it: directories that the
/// layer uses without having them take their attributes from there, and what isn't there gets no
/// whiteout. Reads the stream to its end
/// and gives its index, as [`super::tar_reader::read_index`] does.
///
/// # Errors
/// When the stream can't be read, holds what no layer can, or an owner that the form doesn't map;
/// or when the tree can't be written. The tree is then unusable.
pub fn extract(
    tar: impl Read,
    tree: BorrowedFd<'_>,
    form: &Form,
    below: &View,
) -> Result<Index, LayerError> {
    Ok(extract_layer(tar, tree, form, below)?)
}

fn extract_layer(
    tar: impl Read,
    tree: BorrowedFd<'_>,
    form: &Form,
    below: &View,
) -> Result<Index, ExtractError> {
    let reopened = Descent::new(tree)
        .reopen()
        .map_err(|error| io_error("open", b"", error))?;
    let mut extraction = Extraction::new(reopened.as_fd(), form)?;
    let mut reader = TarReader::new(tar);
    let mut assembly = Assembly::default();
    while let Some(entry) = reader.next_entry()? {
        match LayerMember::of(entry)? {
            LayerMember::Ignored => {}
            LayerMember::Whiteout(path) => assembly.whiteout(&path).map_err(TarReadError::from)?,
            LayerMember::Opaque(path) => assembly.opaque(&path).map_err(TarReadError::from)?,
            LayerMember::Entry(entry) => {
                let placed = assembly.place(entry.clone()).map_err(TarReadError::from)?;
                let slot = assembly
                    .inline_slot(&placed)
                    .filter(|_| entry.size <= INLINE_LIMIT);
                if let (Some(slot), EntryKind::File) = (slot, entry.kind) {
                    let mut content = Vec::new();
                    reader.read_content(&mut content)?;
                    extraction.create(&placed, &entry, &mut |file| file.write_all(&content))?;
                    *slot = Some(content);
                } else {
                    extraction.create(&placed, &entry, &mut |file| reader.copy_content(file))?;
                }
            }
        }
    }
    let implied = assembly.implied_directories();
    let index = assembly.finish();
    extraction.finish(&index, implied, below)?;
    Ok(index)
}

/// Gives a folder of the store's own an owner of the image, in the way of `form`.
///
/// # Errors
/// When the form doesn't map the owner, or the system refuses.
pub fn set_folder_owner(folder: &Path, form: &Form, owner: (u32, u32)) -> Result<(), LayerError> {
    let failed = |error: io::Error| io_error("set the owner of", b"", error);
    let file = File::open(folder).map_err(failed)?;
    let mut entry = Entry::directory("");
    (entry.uid, entry.gid) = owner;
    Owner::of(form, &entry)?.set(&entry, Target::Open(file.as_fd()), None, |uid, gid| {
        rustix::fs::fchown(&file, Some(uid), Some(gid))
    })?;
    Ok(())
}

struct Extraction<'a> {
    rules: Rules<'a>,
    descent: Descent<'a>,
    /// A second one for the targets of hard links, so that the first keeps its place.
    targets: Descent<'a>,
    /// The inode that whiteouts share, once there is one.
    whiteout: Option<OwnedFd>,
}

impl<'a> Extraction<'a> {
    fn new(tree: BorrowedFd<'a>, form: &'a Form) -> Result<Self, ExtractError> {
        let failed = |error: Errno| io_error("prepare", b"", error);
        // Whatever folder the tree was made in must not shape what is made in the tree.
        for name in ["system.posix_acl_default", "system.posix_acl_access"] {
            let _ = rustix::fs::fremovexattr(tree, name);
        }
        rustix::fs::fchmod(tree, Mode::RWXU).map_err(failed)?;
        let stat = rustix::fs::fstat(tree).map_err(failed)?;
        Ok(Self {
            rules: Rules::for_tree_of(form, (stat.st_uid, stat.st_gid)),
            descent: Descent::new(tree),
            targets: Descent::new(tree),
            whiteout: None,
        })
    }

    fn create(
        &mut self,
        placed: &Placed,
        entry: &Entry,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), ExtractError> {
        let path = &placed.path;
        let (parent, name) = split_path(path);
        if placed.before == Before::Replaced {
            self.descent.forget(path);
            self.targets.forget(path);
        }
        if name.is_empty() {
            return Ok(());
        }
        let directory = self
            .descent
            .go_to(parent, Missing::Create)
            .map_err(|error| io_error("make the directory of", path, error))?;
        if placed.before == Before::Replaced {
            remove_all(directory, name).map_err(|error| io_error("replace", path, error))?;
        }
        let at = Place {
            path,
            directory,
            name,
        };
        match entry.kind {
            EntryKind::Directory { .. } => match rustix::fs::mkdirat(directory, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => Ok(()),
                Err(error) => Err(io_error("make the directory", path, error)),
            },
            EntryKind::HardLink => {
                let target = placed.link.as_deref().unwrap_or_default();
                let (parent, target_name) = split_path(target);
                self.targets
                    .go_to(parent, Missing::Fail)
                    .and_then(|from| {
                        Ok(rustix::fs::linkat(
                            from,
                            target_name,
                            directory,
                            name,
                            AtFlags::empty(),
                        )?)
                    })
                    .map_err(|error| io_error("make the hard link", path, error))
            }
            EntryKind::File => {
                let owner = Owner::of(self.rules.form, entry)?;
                at.create_file(entry, &owner, self.rules, &mut |file| write(file))
            }
            _ => {
                let owner = Owner::of(self.rules.form, entry)?;
                at.create_special(entry, &owner, self.rules)
            }
        }
    }

    /// Makes whiteouts, and gives directories their attributes.
    fn finish(
        mut self,
        index: &Index,
        implied: Vec<Vec<u8>>,
        below: &View,
    ) -> Result<(), ExtractError> {
        for entry in &index.entries {
            match entry.kind {
                EntryKind::Whiteout if hides_something(&entry.path, index, below) => {
                    self.make_whiteout(&entry.path)?;
                }
                EntryKind::Directory { opaque: true } => {
                    self.make_opaque(&entry.path, index, below)?
                }
                _ => {}
            }
        }
        let mut directories: Vec<Entry> = implied
            .into_iter()
            .filter(|path| index.get(path).is_none())
            .chain(index.get(b"").is_none().then(Vec::new))
            .map(|path| attributes_from(below, path))
            .collect();
        let own = index.entries.iter().filter(|entry| entry.is_directory());
        directories.extend(own.cloned());
        directories.sort_by(|a, b| compare_paths(&b.path, &a.path));
        for entry in &directories {
            self.finish_directory(entry)?;
        }
        Ok(())
    }

    /// Makes a whiteout: a character device 0/0, which an unprivileged user may make since Linux
    /// 5.8. All whiteouts of a tree are one inode as far as the file system allows.
    fn make_whiteout(&mut self, path: &[u8]) -> Result<(), ExtractError> {
        let failed = |error: io::Error| io_error("make the whiteout of", path, error);
        let (parent, name) = split_path(path);
        let directory = self
            .descent
            .go_to(parent, Missing::Create)
            .map_err(failed)?;
        if let Some(whiteout) = &self.whiteout {
            // The only way to link a descriptor without further privileges.
            let from = format!("/proc/self/fd/{}", whiteout.as_raw_fd());
            let flags = AtFlags::SYMLINK_FOLLOW;
            if rustix::fs::linkat(rustix::fs::CWD, from, directory, name, flags).is_ok() {
                return Ok(());
            }
            // Too many names for one inode, or no links here at all: another inode, then.
        }
        rustix::fs::mknodat(directory, name, FileType::CharacterDevice, Mode::empty(), 0)
            .map_err(|error| failed(error.into()))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.whiteout = rustix::fs::openat(directory, name, flags, Mode::empty()).ok();
        Ok(())
    }

    /// Marks a directory as opaque; on a file system without attributes (tmpfs before Linux 6.6),
    /// removes one by one what the layers below have in it.
    fn make_opaque(
        &mut self,
        path: &[u8],
        index: &Index,
        below: &View,
    ) -> Result<(), ExtractError> {
        let failed = |error: io::Error| io_error("mark as opaque", path, error);
        self.descent.go_to(path, Missing::Create).map_err(failed)?;
        let fd = self.descent.reopen().map_err(failed)?;
        let name = self.rules.form.xattr_namespace.opaque();
        match rustix::fs::fsetxattr(&fd, name, b"y", XattrFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::NOTSUP) => below
                .children(path)
                .into_iter()
                .map(|(name, _)| join_path(path, &name))
                .filter(|child| index.get(child).is_none() && index.inside(child).is_empty())
                .try_for_each(|child| self.make_whiteout(&child)),
            Err(error) => Err(failed(error.into())),
        }
    }

    fn finish_directory(&mut self, entry: &Entry) -> Result<(), ExtractError> {
        finish_directory(&mut self.descent, entry, self.rules)
    }
}

/// Whether a whiteout has anything to hide. One that hasn't stands in a directory that the mount
/// doesn't merge with a lower one, and there the kernel lists it like a file.
fn hides_something(path: &[u8], index: &Index, below: &View) -> bool {
    let is_opaque = |directory: &[u8]| {
        let entry = index.get(directory);
        entry.is_some_and(|entry| entry.kind == (EntryKind::Directory { opaque: true }))
    };
    below.get(path).is_some() && !is_opaque(b"") && !ancestors(path).any(is_opaque)
}

/// An entry for a directory that the layer doesn't have: as the layers below have it.
fn attributes_from(below: &View, path: Vec<u8>) -> Entry {
    let found = below.get(&path).filter(|found| found.entry.is_directory());
    let mut entry = found.map_or_else(|| Entry::directory(""), |found| found.entry.clone());
    entry.kind = EntryKind::Directory { opaque: false };
    entry.path = path;
    entry
}

pub(super) fn io_error(
    operation: &'static str,
    path: &[u8],
    source: impl Into<io::Error>,
) -> ExtractError {
    ExtractError::Io {
        operation,
        path: display_path(path),
        source: source.into(),
    }
}

#[cfg(test)]
mod tests;
