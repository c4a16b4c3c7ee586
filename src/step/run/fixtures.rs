//! What lies in a step's folder while the step runs and is no part of its file system: places for
//! mounts, and where nothing can be mounted, the things themselves. A secret is none of these: an
//! empty file lies in its place.
//!
//! A thing comes by rename, and what was in its place waits beside the folder; afterwards both go
//! back. Directories that this happens in keep the times that the image or the step gave them. The
//! folder is hostile once a step has run in it: what was put there is found again by the
//! descriptor of its directory, and is only taken for what it was if it still is that file.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::error::RunError;
use crate::fs::Root;
use crate::fs::descent::{Descent, Missing};
use crate::fs::remove::remove_all;
use crate::fs::times::{set_times, times};
use crate::layer::entry::{Entry, ancestors, display_path, split_path};
use crate::layer::folder::copy_range;
use crate::sandbox::MountSource;
use crate::snapshot::WorkFolder;
use crate::store::note_lent;

/// Things in a step's folder. They are taken away when this is dropped.
#[derive(Debug)]
pub(in crate::step) struct Fixtures {
    root: Root,
    /// Where files can wait: `aside`, with a number behind it.
    aside: PathBuf,
    placed: Vec<Placed>,
}

/// One thing in the folder.
#[derive(Debug)]
struct Placed {
    path: Vec<u8>,
    directory: OwnedFd,
    name: Vec<u8>,
    /// Which file it is.
    file: (u64, u64),
    /// What was in its place.
    saved: Option<PathBuf>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// An empty file or directory to mount on. What a step has put into such a directory stays.
    MountPoint,
    /// A folder or file that goes back to where it came from.
    Lent(PathBuf),
    /// A folder or file that goes.
    Made,
}

impl Fixtures {
    /// None yet.
    pub(super) fn new(folder: &WorkFolder) -> Result<Self, RunError> {
        let root = Root::open(folder.path()).map_err(|error| RunError::Io {
            what: "opening the step's folder",
            source: error.source,
        })?;
        Ok(Self {
            root,
            aside: folder.aside("aside"),
            placed: Vec::new(),
        })
    }

    /// Makes a place for a mount: an empty file or directory. Directories above it exist.
    pub(super) fn put_mount_point(
        &mut self,
        entry: &Entry,
        content: &[u8],
    ) -> Result<(), RunError> {
        let is_directory = entry.is_directory();
        let made = self.next_aside();
        let create = || -> Result<(), Errno> {
            if is_directory {
                rustix::fs::mkdir(&made, Mode::from_raw_mode(entry.mode))?;
            } else {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let file = rustix::fs::open(&made, flags, Mode::RUSR | Mode::WUSR)?;
                let written = std::fs::File::from(file).write_all(content);
                written.map_err(errno)?;
            }
            rustix::fs::chmod(&made, Mode::from_raw_mode(entry.mode))?;
            let time = Timespec {
                tv_sec: entry.mtime,
                tv_nsec: 0,
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            rustix::fs::utimensat(CWD, &made, &times, AtFlags::SYMLINK_NOFOLLOW)
        };
        create().map_err(|errno| failed("make the mount point", &entry.path, errno))?;
        self.put(&entry.path, &made, Kind::MountPoint)
    }

    /// Shows a folder, which belongs to the step from now on.
    pub(super) fn put_folder(&mut self, path: &[u8], source: &Path) -> Result<(), RunError> {
        self.put(path, source, Kind::Lent(source.to_owned()))
    }

    /// Shows what a mount would show. `passed` are the files that come with the mounts.
    pub(super) fn put_mount(
        &mut self,
        path: &[u8],
        source: &MountSource,
        passed: &[OwnedFd],
    ) -> Result<(), RunError> {
        let fail = |errno| failed("make", path, errno);
        match source {
            MountSource::Path {
                root, path: inside, ..
            } => {
                let mut source = root.as_path().to_owned();
                if !inside.is_empty() {
                    // A name that was made for this.
                    source.push(OsStr::from_bytes(inside));
                }
                self.put(path, &source, Kind::Lent(source.clone()))
            }
            MountSource::Tmpfs { mode, .. } => {
                let made = self.next_aside();
                rustix::fs::mkdir(&made, Mode::RWXU)
                    .and_then(|()| rustix::fs::chmod(&made, Mode::from_raw_mode(mode & 0o7777)))
                    .map_err(fail)?;
                self.put(path, &made, Kind::Made)
            }
            MountSource::File {
                is_secret: false,
                index,
                mode,
                uid,
                gid,
            } => {
                let content = passed.get(*index).ok_or(Errno::BADF).map_err(fail)?;
                let made = self.next_aside();
                copy_file(content, &made, *mode, (*uid, *gid)).map_err(fail)?;
                self.put(path, &made, Kind::Made)
            }
            MountSource::File { .. }
            | MountSource::Descriptor { .. }
            | MountSource::Layers { .. } => Err(RunError::NoMounts {
                target: display_path(path),
            }),
        }
    }

    /// Puts an empty file in a secret's place, and gives it. Nobody but root may open it: who isn't
    /// shown the secret instead is to find that out.
    pub(super) fn put_stand_in(&mut self, path: &[u8]) -> Result<OwnedFd, RunError> {
        let fail = |errno| failed("make", path, errno);
        let made = self.next_aside();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::open(&made, flags, Mode::empty()).map_err(fail)?;
        let found = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&made, found, Mode::empty()).map_err(fail)?;
        self.put(path, &made, Kind::Made)?;
        Ok(file)
    }

    fn next_aside(&self) -> PathBuf {
        let mut name = self.aside.clone().into_os_string();
        name.push(format!("-{}", self.placed.len()));
        PathBuf::from(name)
    }

    /// Moves what is at `source`, a path of the machine, to `path` in the folder.
    fn put(&mut self, path: &[u8], source: &Path, kind: Kind) -> Result<(), RunError> {
        let fail = |errno| failed("make room in the step's folder for", path, errno);
        let stat = rustix::fs::lstat(source).map_err(fail)?;
        let (parent, name) = split_path(path);
        let mut descent = Descent::new(self.root.as_fd());
        make_directories(&mut descent, parent).map_err(|error| fail(errno(error)))?;
        let directory = descent
            .go_to(parent, Missing::Fail)
            .map_err(|error| fail(errno(error)))?;
        let times = times(directory).map_err(fail)?;
        let saved = self.aside.with_extension(self.placed.len().to_string());
        let saved = match rustix::fs::renameat(directory, name, CWD, &saved) {
            Ok(()) => Some(saved),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(fail(errno)),
        };
        if let Kind::Lent(home) = &kind {
            let note = note_lent(&self.aside, self.placed.len(), home, path);
            note.map_err(|error| fail(errno(error)))?;
        }
        let moved = rustix::fs::renameat(CWD, source, directory, name);
        if let (Err(_), Some(saved)) = (&moved, &saved) {
            let _ = rustix::fs::renameat(CWD, saved, directory, name);
        }
        let kept = directory.try_clone_to_owned();
        let restored = set_times(directory, &times);
        moved.map_err(fail)?;
        self.placed.push(Placed {
            path: path.to_vec(),
            directory: kept.map_err(|error| fail(errno(error)))?,
            name: name.to_vec(),
            file: (stat.st_dev, stat.st_ino),
            saved,
            kind,
        });
        restored.map_err(fail)
    }

    /// Takes everything away and puts back what was there before.
    pub(super) fn take_away(mut self) -> Result<(), RunError> {
        self.take_all_away()
    }

    fn take_all_away(&mut self) -> Result<(), RunError> {
        let mut result = Ok(());
        while let Some(placed) = self.placed.pop() {
            let taken = placed
                .take_away()
                .map_err(|errno| failed("clear away", &placed.path, errno));
            // The first failure is told; the rest goes on as far as that goes.
            result = result.and(taken);
        }
        result
    }
}

impl Drop for Fixtures {
    fn drop(&mut self) {
        if let Err(error) = self.take_all_away() {
            tracing::debug!(%error, "left behind in a step's folder");
        }
    }
}

impl Placed {
    fn take_away(&self) -> Result<(), Errno> {
        let directory = self.directory.as_fd();
        let times = times(directory)?;
        let taken = self.remove().and_then(|()| match &self.saved {
            Some(saved) => self.put_back(saved),
            None => Ok(()),
        });
        // A directory that the step has removed has no time to keep.
        let _ = set_times(directory, &times);
        taken
    }

    fn remove(&self) -> Result<(), Errno> {
        let directory = self.directory.as_fd();
        let is_same = match rustix::fs::statat(directory, &*self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => (stat.st_dev, stat.st_ino) == self.file,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        match &self.kind {
            // Something else has taken its place: what it was is gone.
            Kind::Lent(_) | Kind::Made if !is_same => {
                remove_all(directory, &self.name).map_err(errno)
            }
            Kind::Lent(home) => match rustix::fs::renameat(directory, &*self.name, CWD, home) {
                // Its home is gone, too.
                Err(Errno::NOENT) => remove_all(directory, &self.name).map_err(errno),
                other => other,
            },
            Kind::Made => remove_all(directory, &self.name).map_err(errno),
            Kind::MountPoint if !is_same && self.saved.is_none() => Ok(()),
            Kind::MountPoint => {
                match rustix::fs::unlinkat(directory, &*self.name, AtFlags::empty()) {
                    Err(Errno::ISDIR) => {}
                    other => return other,
                }
                match rustix::fs::unlinkat(directory, &*self.name, AtFlags::REMOVEDIR) {
                    // A step's own files are in it.
                    Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
                    other => other,
                }
            }
        }
    }

    /// Puts back what was there before, in place of whatever is there now.
    fn put_back(&self, saved: &Path) -> Result<(), Errno> {
        let directory = self.directory.as_fd();
        remove_all(directory, &self.name).map_err(errno)?;
        match rustix::fs::renameat(CWD, saved, directory, &*self.name) {
            // The step has removed the directory with everything in it.
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }
}

/// Makes what is missing of a directory's path, below other things that were put there.
fn make_directories(descent: &mut Descent<'_>, path: &[u8]) -> io::Result<()> {
    let mut all: Vec<&[u8]> = ancestors(path).collect();
    all.push(path);
    for directory in all.into_iter().filter(|directory| !directory.is_empty()) {
        match descent.go_to(directory, Missing::Fail) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (parent, name) = split_path(directory);
                let parent = descent.go_to(parent, Missing::Fail)?;
                rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
            }
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Copies a file in memory to a new one on the disk.
fn copy_file(from: &OwnedFd, to: &Path, mode: u32, owner: (u32, u32)) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let made = rustix::fs::open(to, flags, Mode::RUSR | Mode::WUSR)?;
    let from = std::fs::File::from(from.try_clone().map_err(errno)?);
    let length = from.metadata().map_err(errno)?.len();
    let mut made = std::fs::File::from(made);
    copy_range(&from, 0, length, &mut made).map_err(errno)?;
    let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
    rustix::fs::fchown(&made, Some(uid), Some(gid))?;
    rustix::fs::fchmod(&made, Mode::from_raw_mode(mode & 0o7777))
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

fn failed(operation: &'static str, path: &[u8], errno: Errno) -> RunError {
    RunError::Fixture {
        operation,
        path: display_path(path),
        source: errno.into(),
    }
}
