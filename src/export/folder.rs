//! An image's root file system as plain files in a folder of the user's (`type=local`).
//!
//! The image is hostile and the folder may hold anything. Files belong to whoever runs rbuild:
//! nothing is ever chowned, so set-user-ID and set-group-ID bits, which spoke of another owner,
//! are dropped, as are file capabilities. Everything is made by descriptor, one component at a
//! time, following no link, neither the image's nor one that stood in the folder: whatever is in
//! the way is replaced, directories are merged. A file appears under its name whole.
//!
//! Device nodes are never made; they are counted.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags,
};
use rustix::io::Errno;

use super::ExportError;
use super::files::{FirstNames, Step, walk};
use crate::fs::descent::{Descent, Missing};
use crate::fs::remove::remove_all;
use crate::fs::root::{file_type, stat_in};
use crate::fs::{FsError, Root};
use crate::layer::entry::{Entry, EntryKind, split_path};
use crate::snapshot::{FileTree, Node};
use crate::time::Timestamp;

const BUFFER: usize = 256 * 1024;
/// What the owner needs to put things into a directory.
const OWNER_ALL: u32 = 0o700;
/// Permissions and the sticky bit.
const KEPT_BITS: u32 = 0o1777;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes of content.
    pub bytes: u64,
    /// Device nodes that were left out.
    pub devices: u64,
}

/// Writes the tree into the folder `dest`, made where it isn't there. With `time`, everything
/// has that time. `progress` hears of the bytes written so far.
///
/// # Errors
/// When a file can't be read, or the folder can't be written.
pub fn write(
    tree: &dyn FileTree,
    time: Option<Timestamp>,
    dest: &Path,
    progress: &dyn Fn(u64),
) -> Result<Written, ExportError> {
    std::fs::create_dir_all(dest).map_err(ExportError::io("create", dest))?;
    let failed = |source| ExportError::Folder {
        folder: dest.to_owned(),
        source,
    };
    let root = Root::open(dest).map_err(failed)?;
    let mut folder = Folder {
        directories: Descent::new(root.as_fd()),
        targets: Descent::new(root.as_fd()),
        names: FirstNames::default(),
        time,
        temporary: 0,
        buffer: vec![0; BUFFER].into_boxed_slice(),
        written: Written::default(),
    };
    walk(tree, |step| {
        match step {
            Step::Left(node) => folder.leave(&node.entry).map_err(failed)?,
            Step::At(node) => match folder.place(tree, node) {
                Ok(()) => {}
                Err(Failed::Here(error)) => return Err(failed(error)),
                Err(Failed::There(error)) => return Err(error),
            },
        }
        progress(folder.written.bytes);
        Ok(())
    })?;
    Ok(folder.written)
}

/// Which side failed: the folder, or the image.
enum Failed {
    Here(FsError),
    There(ExportError),
}

impl From<FsError> for Failed {
    fn from(error: FsError) -> Self {
        Self::Here(error)
    }
}

struct Folder<'a> {
    directories: Descent<'a>,
    /// A second one for the first names of hard links, so that the first keeps its place.
    targets: Descent<'a>,
    names: FirstNames,
    time: Option<Timestamp>,
    /// Numbers the names that files have until they are whole.
    temporary: u64,
    buffer: Box<[u8]>,
    written: Written,
}

impl Folder<'_> {
    fn place(&mut self, tree: &dyn FileTree, node: &Node) -> Result<(), Failed> {
        let entry = &node.entry;
        match entry.kind {
            EntryKind::Directory { .. } => Ok(self.directory(entry)?),
            EntryKind::File => {
                if let Some(first) = self.names.before(node).map(<[u8]>::to_vec)
                    && self.hard_link(entry, &first)?
                {
                    return Ok(());
                }
                let mut content = tree
                    .open(&node.file())
                    .map_err(|error| Failed::There(error.into()))?;
                self.file(entry, &mut *content)
            }
            EntryKind::Symlink => Ok(self.create(entry, "make the link", |directory, name| {
                rustix::fs::symlinkat(&entry.link[..], directory, name)
            })?),
            EntryKind::Fifo => {
                let mode = Mode::from_raw_mode(entry.mode & 0o777);
                Ok(self.create(entry, "make the pipe", |directory, name| {
                    rustix::fs::mknodat(directory, name, FileType::Fifo, mode, 0)
                })?)
            }
            EntryKind::CharDevice | EntryKind::BlockDevice => {
                self.written.devices += 1;
                Ok(())
            }
            // A view has neither.
            EntryKind::HardLink | EntryKind::Whiteout => Ok(()),
        }
    }

    /// The directory that `path` is in.
    fn parent(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>, FsError> {
        let (parent, _) = split_path(path);
        self.directories
            .go_to(parent, Missing::Fail)
            .map_err(|error| FsError::new("open the directory of", path, error))
    }

    /// Makes a directory, or takes the one that is there; its mode and time come when it is full.
    fn directory(&mut self, entry: &Entry) -> Result<(), FsError> {
        let path = &entry.path;
        let failed = |error: io::Error| FsError::new("make the directory", path, error);
        let name = split_path(path).1;
        let parent = self.parent(path)?;
        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let stat = stat_in(parent, name).map_err(failed)?;
        if file_type(&stat) == FileType::Directory {
            if stat.st_mode & OWNER_ALL == OWNER_ALL {
                return Ok(());
            }
            // So that it can be filled, as it could when it was made.
            return set_mode(parent, name, Mode::RWXU).map_err(failed);
        }
        rustix::fs::unlinkat(parent, name, AtFlags::empty())
            .and_then(|()| rustix::fs::mkdirat(parent, name, Mode::RWXU))
            .map_err(|error| failed(error.into()))
    }

    /// Gives a full directory its mode and time.
    fn leave(&mut self, entry: &Entry) -> Result<(), FsError> {
        let path = &entry.path;
        let failed =
            |error: io::Error| FsError::new("set the mode and time of the directory", path, error);
        self.directories
            .go_to(path, Missing::Fail)
            .map_err(failed)?;
        let fd = self.directories.reopen().map_err(failed)?;
        set_attributes(&fd, entry);
        rustix::fs::futimens(&fd, &self.times(entry))
            .and_then(|()| rustix::fs::fchmod(&fd, Mode::from_raw_mode(entry.mode & KEPT_BITS)))
            .map_err(|error| failed(error.into()))
    }

    fn file(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), Failed> {
        let path = &entry.path;
        let failed = |error: io::Error| FsError::new("write", path, error);
        let times = self.times(entry);
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut unreadable = None;
        let made = self.create(entry, "write", |directory, name| {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
            let mut file = File::from(fd);
            let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
            match copy(content, entry.size, &mut file, &mut buffer).map_err(errno)? {
                Ok(()) => {}
                Err(error) => {
                    unreadable = Some(error);
                    return Err(Errno::IO);
                }
            }
            set_attributes(&file, entry);
            rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode & 0o777))?;
            rustix::fs::futimens(&file, &times)
        });
        self.buffer = buffer;
        if let Some(error) = unreadable {
            return Err(Failed::There(ExportError::File(failed(error))));
        }
        made?;
        self.written.bytes += entry.size;
        Ok(())
    }

    /// Gives a file its other name; `false` where the file system has no hard links, or no more
    /// for this file.
    fn hard_link(&mut self, entry: &Entry, first: &[u8]) -> Result<bool, FsError> {
        let (parent, first_name) = split_path(first);
        let from = self
            .targets
            .go_to(parent, Missing::Fail)
            .and_then(|directory| directory.try_clone_to_owned())
            .map_err(|error| FsError::new("open the directory of", first, error))?;
        let mut refused = false;
        let made = self.create(entry, "make the hard link", |directory, name| {
            let linked = rustix::fs::linkat(&from, first_name, directory, name, AtFlags::empty());
            refused = matches!(
                linked,
                Err(Errno::PERM | Errno::MLINK | Errno::NOTSUP | Errno::XDEV)
            );
            linked
        });
        match made {
            Err(_) if refused => Ok(false),
            made => made.map(|()| true),
        }
    }

    /// Has `make` make something under a name that nobody has, and gives it its own name, whatever
    /// had that before.
    fn create(
        &mut self,
        entry: &Entry,
        operation: &'static str,
        mut make: impl FnMut(BorrowedFd<'_>, &[u8]) -> Result<(), Errno>,
    ) -> Result<(), FsError> {
        let path = &entry.path;
        let failed = |error: io::Error| FsError::new(operation, path, error);
        let name = split_path(path).1;
        let (is_link, times) = (entry.kind == EntryKind::Symlink, self.times(entry));
        let mut number = self.temporary;
        let directory = self.parent(path)?;
        let beside = loop {
            number += 1;
            let beside = format!(".rbuild-{}-{number}", std::process::id()).into_bytes();
            match make(directory, &beside) {
                Ok(()) => break beside,
                // Left behind by another process of this number.
                Err(Errno::EXIST) => {}
                Err(error) => {
                    let _ = rustix::fs::unlinkat(directory, &beside[..], AtFlags::empty());
                    return Err(failed(error.into()));
                }
            }
        };
        if is_link {
            // Times of links are a nicety that some file systems lack.
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let _ = rustix::fs::utimensat(directory, &beside[..], &times, flags);
        }
        let mut replaced = false;
        let mut renamed = rustix::fs::renameat(directory, &beside[..], directory, name);
        if renamed == Err(Errno::ISDIR) {
            replaced = true;
            renamed = remove_all(directory, name)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
                .and_then(|()| rustix::fs::renameat(directory, &beside[..], directory, name));
        }
        // Two names of one file are not renamed over each other; after any rename but that one
        // nothing is there.
        let _ = rustix::fs::unlinkat(directory, &beside[..], AtFlags::empty());
        self.temporary = number;
        if replaced {
            self.targets.forget(path);
        }
        renamed.map_err(|error| failed(error.into()))
    }

    fn times(&self, entry: &Entry) -> Timestamps {
        let seconds = self.time.map_or(entry.mtime, Timestamp::seconds);
        Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: seconds,
                tv_nsec: 0,
            },
        }
    }
}

/// Copies exactly `size` bytes. The inner error is the reader's.
fn copy(
    from: &mut dyn Read,
    size: u64,
    to: &mut File,
    buffer: &mut [u8],
) -> io::Result<io::Result<()>> {
    let mut left = size;
    while left > 0 {
        let most = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        match from.read(&mut buffer[..most]) {
            Ok(0) => return Ok(Err(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                left -= count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(()))
}

/// Sets the attributes that mean something outside of an image, where the file system takes them.
fn set_attributes(file: impl AsFd, entry: &Entry) {
    let user = entry
        .xattrs
        .iter()
        .filter(|(name, _)| name.starts_with(b"user."));
    for (name, value) in user {
        let _ = rustix::fs::fsetxattr(file.as_fd(), &name[..], value, XattrFlags::empty());
    }
}

/// Sets the mode of a directory; no link is followed.
fn set_mode(parent: BorrowedFd<'_>, name: &[u8], mode: Mode) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened: Result<OwnedFd, Errno> =
        rustix::fs::openat(parent, name, OFlags::RDONLY | flags, Mode::empty());
    match opened {
        Ok(fd) => Ok(rustix::fs::fchmod(&fd, mode)?),
        // Without the right to read it, it can't be opened for fchmod; its descriptor in /proc
        // leads to it whatever becomes of its name.
        Err(Errno::ACCESS) => {
            let fd = rustix::fs::openat(parent, name, OFlags::PATH | flags, Mode::empty())?;
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
            Ok(rustix::fs::chmodat(CWD, path, mode, AtFlags::empty())?)
        }
        Err(error) => Err(error.into()),
    }
}
