//! Making one file of a tree: its kind, owner, mode, attributes and time, or the stand-in for what
//! can't be had here.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

use super::{ExtractError, io_error};
use crate::fs::descent::{Descent, Missing};
use crate::fs::umask::umask;
use crate::layer::entry::{Entry, EntryKind, display_path};
use crate::layer::form::{Form, Ownership};
use crate::layer::override_stat;
use crate::layer::xattr::{OVERRIDE_STAT, Target, Xattrs};

/// Mode bits that only take effect after the owner is set.
const SET_ID: u32 = 0o6000;

/// How files are made here.
#[derive(Clone, Copy)]
pub(in crate::layer) struct Rules<'a> {
    pub(in crate::layer) form: &'a Form,
    /// Bits that the process takes away from the mode of every file it makes.
    umask: u32,
    /// The owner and group that new files have; `None` when the file system decides.
    own: Option<(u32, u32)>,
}

impl<'a> Rules<'a> {
    /// Those for a folder whose files may take their owners from the directories they are made in.
    pub(in crate::layer) fn for_any_folder(form: &'a Form) -> Self {
        Self {
            form,
            umask: current_umask(),
            own: None,
        }
    }

    /// Those for a layer's own tree, whose directory has this owner and group.
    pub(super) fn for_tree_of(form: &'a Form, owner: (u32, u32)) -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        Self {
            // A tree of another owner is one where new files may inherit theirs.
            own: (owner == (uid, gid)).then_some(owner),
            ..Self::for_any_folder(form)
        }
    }
}

/// Gives a directory its owner, attributes, mode and time.
pub(in crate::layer) fn finish_directory(
    descent: &mut Descent<'_>,
    entry: &Entry,
    rules: Rules<'_>,
) -> Result<(), ExtractError> {
    let failed =
        |error: io::Error| io_error("set the attributes of the directory", &entry.path, error);
    let owner = Owner::of(rules.form, entry)?;
    descent
        .go_to(&entry.path, Missing::Create)
        .map_err(failed)?;
    let reopened = descent.reopen().map_err(failed)?;
    let fd = reopened.as_fd();
    owner.set(entry, Target::Open(fd), rules.own, |uid, gid| {
        rustix::fs::fchown(fd, Some(uid), Some(gid))
    })?;
    set_xattrs(entry, Target::Open(fd))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode))
        .map_err(|error| failed(error.into()))?;
    rustix::fs::futimens(fd, &times(entry)).map_err(|error| failed(error.into()))
}

/// Where something is made.
pub(in crate::layer) struct Place<'a> {
    pub(in crate::layer) path: &'a [u8],
    pub(in crate::layer) directory: BorrowedFd<'a>,
    pub(in crate::layer) name: &'a [u8],
}

impl Place<'_> {
    pub(in crate::layer) fn create_file(
        &self,
        entry: &Entry,
        owner: &Owner,
        rules: Rules<'_>,
        write: &mut dyn FnMut(&mut File) -> io::Result<()>,
    ) -> Result<(), ExtractError> {
        let failed = |error: io::Error| io_error("extract", self.path, error);
        // Setting attributes needs the permission to write; the set-id bits come after the owner.
        let needs_writing = !entry.xattrs.is_empty() || matches!(owner, Owner::Overridden(_));
        let created_mode = if needs_writing {
            0o600
        } else {
            entry.mode & !SET_ID
        };
        let mut file = self
            .open_new(created_mode)
            .map_err(|error| failed(error.into()))?;
        write(&mut file).map_err(failed)?;
        let changed = owner.set(entry, Target::Open(file.as_fd()), rules.own, |uid, gid| {
            rustix::fs::fchown(&file, Some(uid), Some(gid))
        })?;
        set_xattrs(entry, Target::Open(file.as_fd()))?;
        // The umask never takes bits of the owner that anybody sane keeps, but it may.
        if changed || entry.mode != created_mode & !rules.umask {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))
                .map_err(|error| failed(error.into()))?;
        }
        rustix::fs::futimens(&file, &times(entry)).map_err(|error| failed(error.into()))
    }

    fn open_new(&self, mode: u32) -> Result<File, Errno> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.directory, self.name, flags, Mode::from_raw_mode(mode))
            .map(File::from)
    }

    /// Makes a link, device or pipe.
    pub(in crate::layer) fn create_special(
        &self,
        entry: &Entry,
        owner: &Owner,
        rules: Rules<'_>,
    ) -> Result<(), ExtractError> {
        let failed = |error: Errno| io_error("make", self.path, error);
        let made = match entry.kind {
            EntryKind::Symlink => rustix::fs::symlinkat(&entry.link[..], self.directory, self.name),
            kind => {
                let kind = match kind {
                    EntryKind::CharDevice => FileType::CharacterDevice,
                    EntryKind::BlockDevice => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = rustix::fs::makedev(entry.device.0, entry.device.1);
                let mode = Mode::from_raw_mode(entry.mode & !SET_ID);
                rustix::fs::mknodat(self.directory, self.name, kind, mode, device)
            }
        };
        match made {
            Ok(()) => {}
            // No devices in a user namespace. What can't be opened anyway stands in for one; the
            // index knows better.
            Err(Errno::PERM) if entry.kind != EntryKind::Symlink => {
                let mut stand_in = Entry {
                    xattrs: Xattrs::new(),
                    ..entry.clone()
                };
                return match rules.form.ownership {
                    Ownership::Real => {
                        stand_in.mode = 0;
                        self.create_file(&stand_in, owner, rules, &mut |_| Ok(()))
                    }
                    Ownership::OverrideStat => {
                        let owner = Owner::Overridden(override_stat::encode(entry));
                        self.create_file(&stand_in, &owner, rules, &mut |_| Ok(()))
                    }
                };
            }
            Err(error) => return Err(failed(error)),
        }
        let here = Target::In(self.directory, self.name);
        let changed = owner.set(entry, here, rules.own, |uid, gid| {
            rustix::fs::chownat(
                self.directory,
                self.name,
                Some(uid),
                Some(gid),
                AtFlags::SYMLINK_NOFOLLOW,
            )
        })?;
        set_xattrs(entry, here)?;
        if entry.kind != EntryKind::Symlink && (changed || entry.mode & (rules.umask | SET_ID) != 0)
        {
            // Just made and no link: there is nothing to follow.
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::chmodat(self.directory, self.name, mode, AtFlags::empty())
                .map_err(failed)?;
        }
        rustix::fs::utimensat(
            self.directory,
            self.name,
            &times(entry),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(failed)
    }
}

/// Who is to own a file, and how.
pub(in crate::layer) enum Owner {
    Real(u32, u32),
    /// Ours, with the truth in an attribute.
    Overridden(Vec<u8>),
}

impl Owner {
    pub(in crate::layer) fn of(form: &Form, entry: &Entry) -> Result<Self, ExtractError> {
        if form.is_mapped(entry.uid, entry.gid) {
            return Ok(Self::Real(entry.uid, entry.gid));
        }
        match form.ownership {
            Ownership::OverrideStat => Ok(Self::Overridden(override_stat::encode(entry))),
            Ownership::Real => Err(ExtractError::UnmappedOwner {
                path: display_path(&entry.path),
                uid: entry.uid,
                gid: entry.gid,
            }),
        }
    }

    /// Sets the owner, with `chown` if the file has another; says whether that was called.
    pub(super) fn set(
        &self,
        entry: &Entry,
        target: Target<'_>,
        own: Option<(u32, u32)>,
        chown: impl FnOnce(Uid, Gid) -> Result<(), Errno>,
    ) -> Result<bool, ExtractError> {
        match self {
            Self::Real(uid, gid) if own == Some((*uid, *gid)) => Ok(false),
            Self::Real(uid, gid) => chown(Uid::from_raw(*uid), Gid::from_raw(*gid))
                .map(|()| true)
                .map_err(|error| io_error("set the owner of", &entry.path, error)),
            Self::Overridden(value) => {
                let failed = |error| io_error("note the owner of", &entry.path, error);
                let set = target.set(OVERRIDE_STAT, value).map_err(failed)?;
                // Links and special files can't carry the attribute; the index knows their owner.
                if !set && (entry.is_file() || entry.is_directory()) {
                    return Err(ExtractError::NoAttributes {
                        path: display_path(&entry.path),
                    });
                }
                Ok(false)
            }
        }
    }
}

/// Sets the attributes that this file system, kind of file and process can have.
fn set_xattrs(entry: &Entry, target: Target<'_>) -> Result<(), ExtractError> {
    for (name, value) in &entry.xattrs {
        let set = target
            .set(name, value)
            .map_err(|error| io_error("set an extended attribute of", &entry.path, error))?;
        if !set {
            tracing::debug!(
                path = display_path(&entry.path),
                attribute = %String::from_utf8_lossy(name),
                "an extended attribute can't be set in the layer's tree"
            );
        }
    }
    Ok(())
}

fn times(entry: &Entry) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: entry.mtime,
            tv_nsec: 0,
        },
    }
}

/// The process's umask. Everything, where it can't be known: then each file's mode is set once more.
fn current_umask() -> u32 {
    umask("/proc/self/status").unwrap_or(0o777)
}
