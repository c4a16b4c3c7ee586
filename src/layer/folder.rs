//! A whole stack of layers as one folder: what an overlay mount would show, made of real files.
//!
//! Every name is a file of its own, even where a layer has hard links: a step that changes one name
//! of a lower layer's file leaves the others alone on an overlay, and so it does here. Names are
//! opened one component at a time and no link is followed, for a folder that a step has worked in
//! is hostile.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use super::apply::{ExtractError, Owner, Place, Rules, finish_directory, io_error};
use super::entry::{Entry, EntryKind, ancestors, compare_paths, join_path, split_path};
use super::error::LayerError;
use super::form::Form;
use super::index::Index;
use super::view::{Found, View};
use super::xattr::{Target, is_carried};
use crate::fs::descent::{Descent, Missing, open_file};
use crate::fs::remove::remove_all;
use crate::fs::times::{set_times, times};
use crate::fs::walk::list;

/// Writes the content of a file of the view, given by its own entry and layer, to a new one.
pub type CopyContent<'a> = dyn FnMut(&Found<'_>, &mut File) -> io::Result<()> + 'a;

/// Makes `folder`, which shows the lowest `present` layers of `view`, show all of them. With none
/// present it is empty.
///
/// # Errors
/// When it can't be written, a file of a layer can't be read, or an owner isn't in the form's map.
pub fn fill(
    folder: BorrowedFd<'_>,
    form: &Form,
    view: &View,
    present: usize,
    content: &mut CopyContent<'_>,
) -> Result<(), LayerError> {
    let mut filling = Filling::new(folder, form, view, content);
    for (number, layer) in view.layers().iter().enumerate().skip(present) {
        filling.add_layer(number, layer, present > 0)?;
    }
    filling.directories.insert(Vec::new());
    Ok(filling.finish(|path| path.to_vec())?)
}

/// Makes the empty `folder` show what `view` has below the directory `path`, with the attributes of
/// that directory.
///
/// # Errors
/// As for [`fill`].
pub fn fill_below(
    folder: BorrowedFd<'_>,
    form: &Form,
    view: &View,
    path: &[u8],
    content: &mut CopyContent<'_>,
) -> Result<(), LayerError> {
    let mut filling = Filling::new(folder, form, view, content);
    let start = if path.is_empty() { 0 } else { path.len() + 1 };
    for (found_path, found) in view.walk(path) {
        let inside = found_path.get(start..).unwrap_or_default();
        filling.create(inside, found)?;
    }
    Ok(filling.finish(|inside| join_path(path, inside))?)
}

/// Makes what `view` has at `path`, which is no directory, as `name` in `folder`.
///
/// # Errors
/// As for [`fill`].
pub fn copy_one(
    folder: BorrowedFd<'_>,
    form: &Form,
    view: &View,
    path: &[u8],
    name: &[u8],
    content: &mut CopyContent<'_>,
) -> Result<(), LayerError> {
    if let Some(found) = view.get(path) {
        Filling::new(folder, form, view, content).create(name, found)?;
    }
    Ok(())
}

/// Makes the regular files of `index` that share an inode with another name files of their own,
/// as [`fill`] would have made them. Says whether there were any.
///
/// # Errors
/// When one can't be read or written.
pub fn separate_links(
    folder: BorrowedFd<'_>,
    form: &Form,
    index: &Index,
) -> Result<bool, LayerError> {
    let view = View::default();
    let mut sources = Descent::new(folder);
    let mut found = false;
    for link in &index.entries {
        let inode = match index.inode(link) {
            Some(inode) if link.kind == EntryKind::HardLink && inode.is_file() => inode,
            _ => continue,
        };
        found = true;
        let failed = |error: io::Error| io_error("copy", &link.path, error);
        let (parent, name) = split_path(&inode.path);
        let source = sources
            .go_to(parent, Missing::Fail)
            .and_then(|directory| open_file(directory, name))
            .map_err(failed)?;
        let times = sources
            .go_to(split_path(&link.path).0, Missing::Fail)
            .and_then(|directory| Ok(times(directory)?))
            .map_err(failed)?;
        let mut copy = |_: &Found<'_>, file: &mut File| copy_range(&source, 0, inode.size, file);
        let mut filling = Filling::new(folder, form, &view, &mut copy);
        filling.remove(&link.path)?;
        let entry = Entry {
            path: link.path.clone(),
            ..inode.clone()
        };
        let found = Found {
            layer: 0,
            entry: &entry,
        };
        filling.create_entry(&link.path, found)?;
        filling
            .descent
            .fd()
            .and_then(|directory| Ok(set_times(directory, &times)?))
            .map_err(failed)?;
    }
    Ok(found)
}

/// Copies `length` bytes of a file, from `offset` on, to the start of an empty one: shared with it
/// where the file system can do that.
///
/// # Errors
/// When the file is shorter, or reading or writing fails.
pub fn copy_range(from: &File, offset: u64, length: u64, to: &mut File) -> io::Result<()> {
    if offset == 0 && length > 0 && from.metadata()?.len() == length {
        // Refused by most file systems, and across two of them.
        if rustix::fs::ioctl_ficlone(&*to, from).is_ok() {
            return Ok(());
        }
    }
    let mut at = offset;
    let end = offset + length;
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut at), &*to, None, most) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            // Not between these two, or hidden by a filter: by hand.
            Err(_) => break,
        }
    }
    let mut buffer = vec![0; 64 * 1024];
    while at < end {
        let most = usize::try_from(end - at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let read = from.read_at(&mut buffer[..most], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all(&buffer[..read])?;
        at += read as u64;
    }
    Ok(())
}

/// A folder that is being filled.
struct Filling<'a, 'c> {
    form: &'a Form,
    rules: Rules<'a>,
    descent: Descent<'a>,
    view: &'a View,
    content: &'a mut CopyContent<'c>,
    /// Directories that are to get their attributes at the end.
    directories: BTreeSet<Vec<u8>>,
}

impl<'a, 'c> Filling<'a, 'c> {
    fn new(
        folder: BorrowedFd<'a>,
        form: &'a Form,
        view: &'a View,
        content: &'a mut CopyContent<'c>,
    ) -> Self {
        Self {
            form,
            rules: Rules::for_any_folder(form),
            descent: Descent::new(folder),
            view,
            content,
            directories: BTreeSet::new(),
        }
    }

    /// Adds what shows of one layer of the view. With `replacing`, something may be in its place.
    fn add_layer(
        &mut self,
        number: usize,
        layer: &Index,
        replacing: bool,
    ) -> Result<(), ExtractError> {
        for entry in &layer.entries {
            let path = &entry.path;
            let shown = self.view.get(path);
            if replacing {
                self.make_room(entry)?;
            }
            if let Some(found) = shown.filter(|found| found.layer == number)
                && !entry.is_whiteout()
            {
                self.create(path, found)?;
            }
        }
        Ok(())
    }

    /// Removes what an entry of a layer replaces or hides.
    fn make_room(&mut self, entry: &Entry) -> Result<(), ExtractError> {
        let path = &entry.path;
        self.note_parents(path);
        if !self.is_directory(split_path(path).0)? {
            // A directory that the layer only implies takes the place of what is none.
            for above in ancestors(path) {
                if !self.is_directory(above)? {
                    self.remove(above)?;
                    break;
                }
            }
        }
        if !entry.is_directory() || !self.is_directory(path)? {
            return self.remove(path);
        }
        if entry.kind == (EntryKind::Directory { opaque: true }) {
            let failed = |error: io::Error| io_error("empty", path, error);
            self.descent.go_to(path, Missing::Fail).map_err(failed)?;
            let open = self.descent.reopen().map_err(failed)?;
            for child in list(open.as_fd()).map_err(failed)? {
                remove_all(open.as_fd(), &child.name).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn is_directory(&mut self, path: &[u8]) -> Result<bool, ExtractError> {
        match self.descent.go_to(path, Missing::Fail) {
            Ok(_) => Ok(true),
            Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
                _ => Err(io_error("look at", path, error)),
            },
        }
    }

    fn remove(&mut self, path: &[u8]) -> Result<(), ExtractError> {
        let (parent, name) = split_path(path);
        self.descent.forget(path);
        if name.is_empty() || !self.is_directory(parent)? {
            return Ok(());
        }
        self.descent
            .go_to(parent, Missing::Fail)
            .and_then(|directory| remove_all(directory, name))
            .map_err(|error| io_error("replace", path, error))
    }

    /// Makes what was found, at `path` of the folder.
    fn create(&mut self, path: &[u8], found: Found<'_>) -> Result<(), ExtractError> {
        if found.entry.is_directory() {
            self.descent
                .go_to(path, Missing::Create)
                .map_err(|error| io_error("make the directory", path, error))?;
            self.note_parents(path);
            self.directories.insert(path.to_vec());
            return Ok(());
        }
        match self.view.inode(found) {
            Some(inode) => self.create_entry(path, inode),
            None => Err(io_error("make", path, Errno::NOENT)),
        }
    }

    fn create_entry(&mut self, path: &[u8], found: Found<'_>) -> Result<(), ExtractError> {
        self.note_parents(path);
        let (parent, name) = split_path(path);
        let directory = self
            .descent
            .go_to(parent, Missing::Create)
            .map_err(|error| io_error("make the directory of", path, error))?;
        let owner = Owner::of(self.form, found.entry)?;
        let place = Place {
            path,
            directory,
            name,
        };
        if found.entry.is_file() {
            let content = &mut self.content;
            place.create_file(found.entry, &owner, self.rules, &mut |file| {
                content(&found, file)
            })
        } else {
            place.create_special(found.entry, &owner, self.rules)
        }
    }

    /// The directories above `path` change with it, at least in their times.
    fn note_parents(&mut self, path: &[u8]) {
        let mut path = path;
        while !path.is_empty() {
            path = split_path(path).0;
            if !self.directories.contains(path) {
                self.directories.insert(path.to_vec());
            } else {
                break;
            }
        }
    }

    /// Removes attributes that a directory has from a lower layer, and a higher one lacks.
    fn remove_other_xattrs(&mut self, entry: &Entry) -> Result<(), ExtractError> {
        let failed = |error: io::Error| io_error("clean the attributes of", &entry.path, error);
        self.descent
            .go_to(&entry.path, Missing::Create)
            .map_err(failed)?;
        let directory = self.descent.reopen().map_err(failed)?;
        let present = Target::Open(directory.as_fd()).list(is_carried);
        for name in present.map_err(failed)?.keys() {
            if !entry.xattrs.contains_key(name) {
                rustix::fs::fremovexattr(&directory, name.as_slice())
                    .map_err(|errno| failed(errno.into()))?;
            }
        }
        Ok(())
    }

    /// Gives directories what the view says of them, deepest first. `place` leads from a path of the
    /// folder to that of the view.
    fn finish(mut self, place: impl Fn(&[u8]) -> Vec<u8>) -> Result<(), ExtractError> {
        let mut directories: Vec<Vec<u8>> =
            std::mem::take(&mut self.directories).into_iter().collect();
        directories.sort_by(|a, b| compare_paths(b, a));
        for path in directories {
            let found = self.view.get(&place(&path));
            let Some(found) = found.filter(|found| found.entry.is_directory()) else {
                continue;
            };
            let mut entry = found.entry.clone();
            entry.path = path;
            self.remove_other_xattrs(&entry)?;
            finish_directory(&mut self.descent, &entry, self.rules)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
