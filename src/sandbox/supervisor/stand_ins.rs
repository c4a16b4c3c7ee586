//! Files in memory where nothing can be mounted: an empty file of the step's folder stands in for
//! each, and whoever opens or looks at that one is given the one in memory.
//!
//! Which file a path leads to is found out as the asking process would, and told by its inode, which
//! is held open, so that its number doesn't become another's. The one in memory is opened anew by this
//! thread as the asking user, so that the kernel decides by its mode and owner; nobody gets a
//! descriptor to write by. Who changes a path in memory while it is looked at gets the empty file.

use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Access, Mode, OFlags};
use rustix::io::Errno;

use super::owners::WANTED;
use super::stat::Shown;
use super::target::Target;
use crate::sandbox::spec::{SandboxSpec, SetupFailure, Stage};
use crate::sandbox::syscall::notification;

/// The files of a step that stand in for others.
#[derive(Debug, Default)]
pub(in crate::sandbox) struct StandIns(Vec<StandIn>);

#[derive(Debug)]
struct StandIn {
    /// Device and number of the empty file.
    inode: (u64, u64),
    /// Holds it.
    _place: OwnedFd,
    content: Content,
}

/// A file in memory.
pub(super) struct Content(OwnedFd);

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Content")
    }
}

impl StandIns {
    /// `passed` are the files that came with the spec.
    pub(in crate::sandbox) fn of(
        spec: &SandboxSpec,
        passed: &[OwnedFd],
    ) -> Result<Self, SetupFailure> {
        if !spec.stand_ins.is_empty() {
            super::check()?;
        }
        let failed =
            |errno| SetupFailure::new(Stage::Process, "can't show the step its secrets", errno);
        let file = |index: usize| {
            let file = passed.get(index).ok_or(Errno::BADF)?;
            let copy = file.try_clone();
            copy.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        };
        let hold = |wanted: &crate::sandbox::StandIn| {
            let place = file(wanted.place)?;
            let stat = rustix::fs::fstat(&place)?;
            Ok(StandIn {
                inode: (stat.st_dev, stat.st_ino),
                _place: place,
                content: Content(file(wanted.content)?),
            })
        };
        let held = spec.stand_ins.iter().map(hold);
        held.collect::<Result<_, _>>().map(Self).map_err(failed)
    }

    pub(in crate::sandbox) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What an open file stands in for.
    pub(super) fn at(&self, file: &OwnedFd) -> Result<Option<&Content>, Errno> {
        let stat = rustix::fs::fstat(file)?;
        let found = self
            .0
            .iter()
            .find(|stand_in| stand_in.inode == (stat.st_dev, stat.st_ino));
        Ok(found.map(|stand_in| &stand_in.content))
    }

    /// What the file stands in for that an asking process means.
    ///
    /// # Errors
    /// When that can't be found out, although the kernel may be able to open the file.
    pub(super) fn meant(&self, target: &Target<'_>) -> Result<Option<&Content>, Errno> {
        match target.look_up() {
            Ok(file) => self.at(&file),
            // The kernel would say the same.
            Err(
                Errno::ACCESS
                | Errno::BADF
                | Errno::INVAL
                | Errno::LOOP
                | Errno::NAMETOOLONG
                | Errno::NOENT
                | Errno::NOTDIR,
            ) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl Content {
    /// Opens it as open(2) would with these flags, where it is mounted read-only.
    pub(super) fn open(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        let writing = OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC;
        if flags.contains(OFlags::CREATE | OFlags::EXCL) {
            return Err(Errno::EXIST);
        }
        if flags.contains(OFlags::DIRECTORY) {
            return Err(Errno::NOTDIR);
        }
        if flags.intersects(writing) && !flags.contains(OFlags::PATH) {
            return Err(Errno::ROFS);
        }
        // It is found by a link, which is no file that could be made.
        let flags = (flags - OFlags::CREATE - OFlags::NOFOLLOW) | OFlags::CLOEXEC;
        rustix::fs::open(self.name()?, flags, Mode::empty())
    }

    /// access(2), where it is mounted read-only and no programs are run.
    pub(super) fn access(&self, wanted: u64) -> Result<(), Errno> {
        let wanted = Access::from_bits_retain(wanted as u32);
        if wanted.contains(Access::WRITE_OK) {
            return Err(Errno::ROFS);
        }
        if wanted.contains(Access::EXEC_OK) {
            return Err(Errno::ACCESS);
        }
        // Nobody is asked whether it is there.
        match wanted.contains(Access::READ_OK) {
            true => self.open(OFlags::RDONLY).map(drop),
            false => Ok(()),
        }
    }

    /// What it is.
    pub(super) fn look(&self) -> Result<Shown, Errno> {
        let shown = notification::statx(&self.name()?, 0, WANTED).map(Shown::new)?;
        Ok(shown.with_one_name())
    }

    /// A path that leads this thread to it, whoever that is by now.
    fn name(&self) -> Result<CString, Errno> {
        CString::new(format!("/proc/thread-self/fd/{}", self.0.as_raw_fd()))
            .map_err(|_| Errno::INVAL)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustix::fs::MemfdFlags;

    use super::*;

    fn content(mode: u32) -> Content {
        let memory = rustix::fs::memfd_create("content", MemfdFlags::CLOEXEC).unwrap();
        std::fs::File::from(memory.try_clone().unwrap())
            .write_all(b"content")
            .unwrap();
        rustix::fs::fchmod(&memory, Mode::from_raw_mode(mode)).unwrap();
        Content(memory)
    }

    #[test]
    fn it_opens_as_a_file_of_a_read_only_mount_does() {
        let content = content(0o444);
        for (flags, expected) in [
            (OFlags::RDONLY, None),
            (OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, None),
            (OFlags::RDONLY | OFlags::CREATE, None),
            (OFlags::PATH | OFlags::NOFOLLOW, None),
            (OFlags::WRONLY, Some(Errno::ROFS)),
            (OFlags::RDWR, Some(Errno::ROFS)),
            (OFlags::RDONLY | OFlags::TRUNC, Some(Errno::ROFS)),
            (
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL,
                Some(Errno::EXIST),
            ),
            (OFlags::RDONLY | OFlags::DIRECTORY, Some(Errno::NOTDIR)),
        ] {
            assert_eq!(content.open(flags).err(), expected, "{flags:?}");
        }
    }

    #[test]
    fn every_opening_begins_at_the_start() {
        let content = content(0o400);
        for _ in 0..2 {
            let opened = std::fs::File::from(content.open(OFlags::RDONLY).unwrap());
            assert_eq!(std::io::read_to_string(opened).unwrap(), "content");
        }
    }

    #[test]
    fn it_is_accessible_as_a_file_of_a_read_only_mount_is() {
        let content = content(0o755);
        for (wanted, expected) in [
            (libc::F_OK, Ok(())),
            (libc::R_OK, Ok(())),
            (libc::R_OK | libc::W_OK, Err(Errno::ROFS)),
            (libc::X_OK, Err(Errno::ACCESS)),
        ] {
            assert_eq!(content.access(wanted as u64), expected, "{wanted}");
        }
        assert_eq!(content.look().unwrap().mode(), libc::S_IFREG | 0o755);
    }

    #[test]
    fn a_stand_in_is_known_by_its_inode() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let path = folder.path().join(name);
            OwnedFd::from(
                std::fs::File::options()
                    .create(true)
                    .append(true)
                    .open(path)
                    .unwrap(),
            )
        };
        let place = open("place");
        let stat = rustix::fs::fstat(&place).unwrap();
        let stand_ins = StandIns(vec![StandIn {
            inode: (stat.st_dev, stat.st_ino),
            _place: place,
            content: content(0o400),
        }]);
        std::fs::rename(folder.path().join("place"), folder.path().join("moved")).unwrap();
        assert!(stand_ins.at(&open("moved")).unwrap().is_some());
        assert!(stand_ins.at(&open("place")).unwrap().is_none());
    }
}
